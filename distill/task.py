"""The training and validation step of distillation, as a LightningModule.

The teacher gets clean clips; the student gets them joined, augmented and masked, and learns the teacher's outputs and hidden
frames, matched to its own frames if they differ (``teacher.py``).

B clips, S samples, T frames, D width, V tokens, L compared layers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import DistillSettings
from distill.loss import hidden_distance, labelled_ctc, pause_ctc, posterior_divergence, pseudo_labels
from distill.quantize import fake_int8
from distill.student import choose_blocks, kept_channels, make_projections
from distill.teacher import Targets, Teacher, Teachers, TorchTeacher
from lalia.data.augment import Augment
from lalia.data.batch import Batch, Masks, StudentSampler
from lalia.data.seeds import reseed
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.frontend import on_device, valid_frames
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import ErrorCounts, character_errors, word_errors
from lalia.training import LightningModule
from lalia.training.distributed import all_reduce_errors, all_reduce_sum, is_rank_zero
from lalia.training.trainer import adamw, parameter_groups

FEW_UNMATCHED = 0.1
"""Share of held-out clips without matched frames from which a note is printed."""


@dataclass
class Outputs:
    """A recogniser's outputs for a batch."""

    logits_BTV: Tensor
    hidden_LBTD: list[Tensor]
    """the output of each block"""
    frames_B: Tensor
    pauses_PTV: Tensor | None = None
    """logits of each pause between joined clips; None if the clips are not joined"""
    frames_P: Tensor | None = None


class DistillTask(LightningModule):
    """Distillation of ``teachers`` into ``student``; runs under anybody's Trainer.

    ``references`` maps a held-out row to its normalised text. Clips with an empty label count as unlabelled.
    """

    def __init__(
        self, settings: DistillSettings, teachers: Sequence[Teacher], student: Recogniser, references: dict[int, str]
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student = student
        # No submodules: teachers are in no checkpoint and no optimizer, and never in training mode.
        self.teachers = Teachers(teachers, student.tokens)
        self.references = references
        self.pseudo: dict[int, list[int]] | None = None
        """pseudo-labels by beam search, tokens by row; None = greedy decoding while training"""
        if settings.qat:
            fake_int8(student)
        if settings.hardware.checkpointing:
            student.encoder.checkpoint_blocks()
        if settings.hardware.compile:
            student.encoder.compile_blocks()
        self.compared = compared_blocks(settings, student.encoder.shape.layers, self.teachers.first)
        self.selects, self.projections = _projections(self.teachers.first, student, len(self.compared))
        self.writing = student.normaliser.output_writing
        self.boundary = None if self.writing.splits(student.tokens.symbols[1:]) else student.tokens.boundary
        self.sampler = student_sampler(settings, student)
        """the last stage of the loader"""
        self._errors = (ErrorCounts(), ErrorCounts())
        self._divergences: list[Tensor] = []
        self._unmatched = [0, 0]
        """held-out clips that the teacher's frames could not be matched for, and all of them"""
        self._told = False

    def on_fit_start(self) -> None:
        self.teachers.to(self.device)

    @torch.no_grad()
    def targets(self, batch: Batch, student: Outputs) -> Targets:
        """The teachers' outputs for the clean clips, in the frames of the ``student``'s outputs."""
        hop = self.student.encoder.shape.hop
        return self.teachers.targets(batch, student.frames_B, hop, student.logits_BTV.shape[1])

    def student_outputs(self, batch: Batch) -> Outputs:
        """The student's outputs for the augmented and masked clips.

        The clips are joined to longer waves with pauses, as in long recordings, and each clip's frames are taken from the
        outputs: what precedes or follows a clip must not matter.
        """
        given = batch.student
        if given is None:
            raise ValueError("this batch has no student's waves; make the loader with finish=task.sampler")
        found = _outputs(self.student, given.wave_JS, given.lengths_J, given.masks)
        if given.places is None:
            return found
        clips_BT, frames_B = given.places.clips_BT, given.places.frames_B
        return Outputs(
            _taken(found.logits_BTV, clips_BT, frames_B), [_taken(x, clips_BT, frames_B) for x in found.hidden_LBTD], frames_B,
            _taken(found.logits_BTV, given.places.pauses_PT, given.places.frames_P), given.places.frames_P,
        )  # fmt: skip

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each loss of the batch as a mean, and the shares of labelled and pseudo-labelled clips."""
        settings = self.settings.loss
        student = self.student_outputs(batch)
        teacher = self.targets(batch, student)
        T = student.logits_BTV.shape[1]
        valid_BT = valid_frames(student.frames_B, T, student.logits_BTV.device)
        matched_BT = _matched(valid_BT, teacher)
        posteriors = posterior_divergence(
            student.logits_BTV, teacher.logits_BTV, matched_BT, settings.temperature, settings.blank_weight
        )
        found = {"posteriors": posteriors.loss / posteriors.count.clamp(min=1)}
        hidden = posteriors.loss.new_zeros(())
        for projection, (own, compared) in zip(self.projections, self.compared, strict=True):
            target_BTD = teacher.hidden[compared]
            if not self.selects:  # the channels of a large teacher differ in size by orders of magnitude
                target_BTD = F.layer_norm(target_BTD.float(), target_BTD.shape[-1:])
            apart = hidden_distance(projection(student.hidden_LBTD[own]), target_BTD, valid_BT)
            hidden = hidden + (apart.l1 + settings.cosine * apart.cosine) / apart.count.clamp(min=1)
        found["hidden"] = hidden / max(1, len(self.compared))

        assert batch.labels_BU is not None and batch.label_lengths_B is not None
        labelled_B = batch.label_lengths_B > 0
        known = labelled_ctc(student.logits_BTV, student.frames_B, batch.labels_BU, batch.label_lengths_B)
        found["labels"] = known.loss / known.count.clamp(min=1)
        pseudo_BU, lengths_B = self.pseudo_labels_of(batch, teacher, student.frames_B)
        lengths_B = lengths_B.masked_fill(labelled_B, 0)
        pseudo = labelled_ctc(student.logits_BTV, student.frames_B, pseudo_BU, lengths_B)
        found["pseudo"] = pseudo.loss / pseudo.count.clamp(min=1)
        found["pauses"] = torch.zeros(())
        if student.pauses_PTV is not None and student.frames_P is not None:
            pauses = pause_ctc(student.pauses_PTV, student.frames_P, self.boundary)
            found["pauses"] = pauses.loss / pauses.count.clamp(min=1)
        found["labelled"] = labelled_B.float().mean()
        found["pseudo_labelled"] = (lengths_B > 0).float().mean()
        if teacher.matched_B is not None:
            found["unmatched"] = (~teacher.matched_B).float().mean()
        return found

    def pseudo_labels_of(self, batch: Batch, teacher: Targets, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-labels: labels_BU, and their lengths_B on the CPU, 0 where the teacher is not confident enough.

        Greedy ones are read from the teacher's scores, for which the host waits; not if every clip has a label. Frames matched
        to the student's have the same greedy transcript.
        """
        assert batch.label_lengths_B is not None
        device = batch.wave_BS.device
        if self.pseudo is not None:
            labels = [torch.tensor(self.pseudo.get(row, []), dtype=torch.int64) for row in batch.rows_B.tolist()]
            labels_BU = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
            return on_device(labels_BU, device), torch.tensor([len(label) for label in labels])
        if bool((batch.label_lengths_B > 0).all()):
            return torch.zeros(len(batch.rows_B), 0, dtype=torch.int64, device=device), torch.zeros_like(batch.rows_B)
        found = pseudo_labels(teacher.logits_BTV, frames_B, self.settings.loss.confidence)
        lengths_B = found.lengths_B
        if teacher.matched_B is not None:
            lengths_B = lengths_B.masked_fill(~teacher.matched_B, 0)
        return on_device(found.labels_BU, device), lengths_B

    def weighted(self, found: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses."""
        weights = self.settings.loss
        return (
            weights.posteriors * found["posteriors"] + weights.hidden * found["hidden"]
            + weights.labels * found["labels"] + weights.pseudo * found["pseudo"] + weights.pauses * found["pauses"]
        )  # fmt: skip

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reseed(self.settings.seed, "dropout", batch.number)
        found = self.losses(batch)
        loss = self.weighted(found)
        self.log_dict(
            {
                "train/loss": loss.detach(),
                **{f"train/{name}": value.detach() for name, value in found.items()},
                # Tensors on the CPU: Lightning would copy each plain number to the device, and wait.
                "train/lr": torch.tensor(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]
                "train/bad_clips": torch.tensor(float(len(batch.bad))),
            }
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = _outputs(self.student, batch.wave_BS, batch.lengths_B)
        valid_BT = valid_frames(outputs.frames_B, outputs.logits_BTV.shape[1], outputs.logits_BTV.device)
        teacher = self.targets(batch, outputs)
        if teacher.matched_B is not None:
            self._unmatched[0] += int((~teacher.matched_B).sum())
            self._unmatched[1] += len(teacher.matched_B)
        apart = posterior_divergence(outputs.logits_BTV, teacher.logits_BTV, _matched(valid_BT, teacher), 1.0, 1.0)
        self._divergences.append(torch.stack([apart.loss.double(), apart.count.double()]))
        log_probs_BTV = outputs.logits_BTV.float().log_softmax(-1).cpu().numpy()
        for row, log_probs_TV, frames in zip(
            batch.rows_B.tolist(), log_probs_BTV, outputs.frames_B.tolist(), strict=True
        ):
            found = transcript(greedy(log_probs_TV[:frames]), self.student.tokens)
            reference = self.references[row]
            characters, words = self._errors
            self._errors = (
                characters + character_errors(reference, found),
                words + word_errors(reference, found, self.writing),
            )

    def on_validation_epoch_end(self) -> None:
        characters, words = (all_reduce_errors(errors, self.device) for errors in self._errors)
        apart, frames = all_reduce_sum(torch.stack(self._divergences).sum(0))
        self._errors = (ErrorCounts(), ErrorCounts())
        self._divergences.clear()
        missed, clips = self._unmatched
        self._unmatched = [0, 0]
        if missed > FEW_UNMATCHED * clips and not self._told and is_rank_zero(self.settings.hardware):
            self._told = True
            frame_ms = 1000 * self.student.frame_s
            print(
                f"note: in {missed} of {clips} held-out clips the teacher emits more letters than the student has frames of "
                f"{frame_ms:g} ms, and their posteriors teach nothing; give shorter frames with --student.stack",
                file=sys.stderr,
            )
        self.log_dict(
            {
                "valid/cer": characters.rate,
                "valid/wer": words.rate,
                "valid/divergence": (apart / frames.clamp(min=1)).float(),
            }
        )

    def configure_optimizers(self) -> Any:
        learners = nn.ModuleList([self.student, self.projections])
        return adamw(parameter_groups(learners, self.settings.optim.lr), self.settings)


def compared_blocks(settings: DistillSettings, layers: int, teacher: Teacher) -> list[tuple[int, int]]:
    """(student block, teacher block) of each pair whose outputs are compared; a student of ``layers`` blocks."""
    if not teacher.layers:
        return []
    student = settings.student
    if teacher.blocks is not None:
        by_depth = {max(0, round((block + 1) * layers / teacher.layers) - 1): block for block in teacher.blocks}
        return sorted(by_depth.items())
    if layers <= teacher.layers:
        blocks = choose_blocks(student if student.blocks else replace(student, layers=layers), teacher.layers)
    else:  # a deeper student: by depth
        blocks = [max(0, round((layer + 1) * teacher.layers / layers) - 1) for layer in range(layers)]
    wrong = [layer for layer in settings.loss.hidden_layers if not 0 <= layer < len(blocks)]
    if wrong:
        raise UserError(
            f"loss.hidden_layers {wrong[0]}: the student has {len(blocks)} blocks; expected 0 to {len(blocks) - 1}"
        )
    return [(layer, blocks[layer]) for layer in settings.loss.hidden_layers or range(len(blocks))]


def _projections(teacher: Teacher, student: Recogniser, count: int) -> tuple[bool, nn.ModuleList]:
    """(whether they begin as the selection of the channels that the student kept, a map for each compared pair)."""
    shape = student.encoder.shape
    if isinstance(teacher, TorchTeacher):
        old = teacher.recogniser.encoder.shape
        alike = (old.input, old.hop, old.features) == (shape.input, shape.hop, shape.features)
        if alike and shape.width <= old.width:
            channels = kept_channels(teacher.recogniser.encoder, shape.width)
            return True, make_projections(old, channels, count)
    return False, nn.ModuleList([nn.Linear(shape.width, teacher.width) for _ in range(count)])


def _matched(valid_BT: Tensor, teacher: Targets) -> Tensor:
    if teacher.matched_B is None:
        return valid_BT
    return valid_BT & on_device(teacher.matched_B, valid_BT.device)[:, None]


def student_sampler(settings: DistillSettings, student: Recogniser) -> StudentSampler:
    """The loader's stage that makes the copies of clips for ``student``: joined, augmented (but for speed) and masked."""
    shape, augment = student.encoder.shape, replace(settings.augment, speed=0.0)
    masks = settings.regular.sampler(settings.seed, shape)
    return StudentSampler(masks, shape.hop, settings.join_s, Augment(augment) if augment.any else None)


def _outputs(recogniser: Recogniser, wave_BS: Tensor, lengths_B: Tensor, masks: Masks | None = None) -> Outputs:
    encoder = recogniser.encoder
    features_BTF, _, frames_B = encoder.features(wave_BS, lengths_B)
    hidden: list[Tensor] = []
    mask_BT, channels_BD = (masks.frames_BT, masks.channels_BD) if masks else (None, None)
    last_BTD = encoder.contextualise(features_BTF, frames_B, mask_BT, channels_BD, collect=hidden)
    return Outputs(recogniser.head(recogniser.head_dropout(last_BTD)), hidden, frames_B)


def _taken(x_JTD: Tensor, places_BT: Tensor, frames_B: Tensor) -> Tensor:
    """The frames of ``x_JTD`` at ``places_BT`` (see ``JoinedFrames``), zero after the end of each clip."""
    inside_BT = valid_frames(frames_B, places_BT.shape[1], x_JTD.device)
    return x_JTD.flatten(0, 1)[places_BT].masked_fill(~inside_BT[:, :, None], 0.0)
