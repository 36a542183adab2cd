"""The training and validation step of fine-tuning with CTC, or with CTC and a transducer, as a LightningModule.

Validation reports CER and WER of greedy decoding (with the transducer, if there is one) and, with ``select.by: wer_lm``, WER of
beam search with a language model.
A loss that is not finite stops the run and names the clips.

B clips, S samples, T frames, F features, D width, V tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import FinetuneSettings, SelectSettings
from lalia.data.batch import Batch
from lalia.data.seeds import reseed
from lalia.decoding.automata import Automaton, LetterModel, lm_automaton
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.lm.folder import BONUS, ORDERS, WEIGHT, LanguageModel, symbols_of
from lalia.lm.ngrams import SPECIALS, UNKNOWN, estimate
from lalia.models.baselines import Baseline
from lalia.models.frontend import valid_frames
from lalia.models.recogniser import CtcSum, Recogniser, ctc
from lalia.models.transducer import transducer_loss
from lalia.scoring.rates import NEAR_RANDOM, ErrorCounts, character_errors, mismatched_errors, word_errors
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.training import LightningModule
from lalia.training.distributed import all_reduce_errors, all_reduce_min, all_reduce_sum, stop_all, to_host
from lalia.training.trainer import adamw, parameter_groups

WITH_LM = "valid/wer_lm"
METRICS = {"cer": "valid/cer", "wer": "valid/wer", "wer_lm": WITH_LM}

# --- The task ------------------------------------------------------------------------------------------


class FinetuneTask(LightningModule):
    """CTC fine-tuning of ``recogniser``; runs under anybody's Trainer.

    ``references`` maps a row to its normalised text, ``name`` to the clip's id, ``language`` to its language (ISO 639-3);
    ``lm_decoder`` also decodes held-out clips with a language model.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        recogniser: Recogniser,
        references: dict[int, str],
        name: Callable[[int], str] = str,
        lm_decoder: LmDecoder | None = None,
        language: Callable[[int], str] = lambda row: "",
    ) -> None:
        super().__init__()
        self.settings = settings
        self.recogniser = recogniser
        self.references = references
        self.name = name
        self.language = language
        self.lm_decoder = lm_decoder
        self.output_counts: Tensor | None = None
        """tokens of the greedy output, reference tokens and loss of the last micro-batch, for the blank alarm"""
        self.frozen_until = 0
        """the blank alarm keeps the encoder frozen until this step"""
        self._scored: list[Scored] = []
        """the micro-batches since the last optimizer step"""
        self._last_rows: list[int] = []
        """the clips of that step"""
        if settings.hardware.checkpointing:
            recogniser.encoder.checkpoint_blocks()
        if settings.hardware.compile:
            recogniser.encoder.compile_blocks()
        self._errors = (ErrorCounts(), ErrorCounts(), ErrorCounts())
        self._ctc_errors = ErrorCounts()
        """of greedy CTC beside a transducer"""
        self._losses: list[Tensor] = []
        self._pairs: list[tuple[str, str]] = []
        """reference and hypothesis of each held-out clip of this validation"""
        self._near_random = False
        """whether the warning has been printed"""

    @property
    def frozen(self) -> bool:
        """Whether only the head learns at this step."""
        step = self.global_step
        return self.settings.mode == "head" or step < self.frozen_steps or step < self.frozen_until

    @property
    def frozen_steps(self) -> float:
        """The first step in which the encoder learns, by the settings; random weights are never frozen."""
        return 0.0 if self.settings.fresh else self.settings.freeze.encoder_share * self.settings.schedule.steps

    def grace_end(self, begun: float) -> int:
        """The step until which the output of a head that learns since step ``begun`` may be blank."""
        steps = self.settings.schedule.steps
        return round(begun + self.settings.alarm.grace * (steps - begun))

    def hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(hidden_BTD, frames_B) under the batch's masks, after the head's dropout."""
        encoder, masks = self.recogniser.encoder, batch.masks
        if masks is None:
            raise ValueError("this batch has no masks; make the loader with finish=settings.regular.sampler(…)")
        with torch.set_grad_enabled(not self.frozen):
            features_BTF, _, frames_B = encoder.features(batch.wave_BS, batch.lengths_B)
            hidden_BTD = encoder.contextualise(features_BTF, frames_B, masks.frames_BT, masks.channels_BD)
        return self.recogniser.head_dropout(hidden_BTD), frames_B

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch of a loader that ends with ``settings.regular.sampler``."""
        reseed(self.settings.seed, "dropout", batch.number)
        assert batch.labels_BU is not None and batch.label_lengths_B is not None
        hidden_BTD, frames_B = self.hidden(batch)
        logits_BTV, found, total = self.losses(hidden_BTD, frames_B, batch)
        loss = total / found.count.clamp(min=1)
        self._scored.append(Scored(batch.rows_B.tolist(), logits_BTV, total))
        best_BT = logits_BTV.detach().argmax(-1)
        blank = (best_BT == 0).float().mean()
        self.output_counts = torch.stack(
            [count_tokens(best_BT, frames_B).double(), found.count.double(), found.loss.detach().double()]
        )
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/blank": blank,
                **(
                    {"train/ctc": (found.loss / found.count.clamp(min=1)).detach()}
                    if self.recogniser.transducer
                    else {}
                ),
                "train/impossible": found.impossible_B.sum().float(),
                # Tensors on the CPU: Lightning would copy each plain number to the device, and wait.
                "train/lr": torch.tensor(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]
                "train/bad_clips": torch.tensor(float(len(batch.bad))),
            }
        )
        return loss

    def losses(self, hidden_BTD: Tensor, frames_B: Tensor, batch: Batch) -> tuple[Tensor, CtcSum, Tensor]:
        """(logits_BTV, the sums of CTC, the sum that is learned from: CTC's, or its share and the transducer's)."""
        assert batch.labels_BU is not None and batch.label_lengths_B is not None
        logits_BTV = self.recogniser.head(hidden_BTD)
        found = ctc(logits_BTV, frames_B, batch.labels_BU, batch.label_lengths_B)
        transducer = self.recogniser.transducer
        if transducer is None:
            return logits_BTV, found, found.loss
        scores = transducer.scores(
            transducer.project(hidden_BTD), transducer.prediction(batch.labels_BU), batch.labels_BU
        )
        losses_B = transducer_loss(*scores, frames_B, batch.label_lengths_B)
        share = self.settings.transducer.ctc
        total = share * found.loss + (1 - share) * losses_B.masked_fill(found.impossible_B, 0.0).sum()
        return logits_BTV, found, total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        scored, self._scored = self._scored, []
        check_finite(
            scored, self._last_rows, self.recogniser, self.name, self.global_step, self.settings.hardware.precision
        )
        self._last_rows = [row for each in scored for row in each.rows]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        recogniser, transducer = self.recogniser, self.recogniser.transducer
        hidden_BTD, frames_B = recogniser.encoder(batch.wave_BS, batch.lengths_B)
        logits_BTV, found, total = self.losses(hidden_BTD, frames_B, batch)
        self._losses.append(torch.stack([total.double(), found.count.double()]))
        frames_BTX = (
            logits_BTV.float().log_softmax(-1) if transducer is None else recogniser.join_frames(logits_BTV, hidden_BTD)
        )
        decode = recogniser.greedy()
        clips = zip(batch.rows_B.tolist(), frames_BTX.cpu().numpy(), frames_B.tolist(), strict=True)
        for row, frames_TX, frames in clips:
            text = transcript(decode(frames_TX[:frames]), recogniser.tokens)
            reference = self.references[row]
            self._pairs.append((reference, text))
            if transducer is not None:
                by_ctc = transcript(greedy(frames_TX[:frames, : len(recogniser.tokens)]), recogniser.tokens)
                self._ctc_errors += character_errors(reference, by_ctc)
            characters, words, lm_words = self._errors
            language = self.language(row)
            writing = recogniser.normaliser.for_language(language).writing
            if self.lm_decoder is not None and row in self.lm_decoder.rows:
                lm_words += word_errors(reference, self.lm_decoder.transcribe(frames_TX[:frames], language), writing)
            self._errors = (
                characters + character_errors(reference, text),
                words + word_errors(reference, text, writing),
                lm_words,
            )

    def on_validation_epoch_end(self) -> None:
        characters, words, lm_words = (all_reduce_errors(errors, self.device) for errors in self._errors)
        loss, count = all_reduce_sum(torch.stack(self._losses).sum(0))
        by_ctc = all_reduce_errors(self._ctc_errors, self.device)
        self._errors, self._ctc_errors = (ErrorCounts(), ErrorCounts(), ErrorCounts()), ErrorCounts()
        self._losses.clear()
        pairs, self._pairs = self._pairs, []
        mismatched = all_reduce_errors(mismatched_errors([r for r, _ in pairs], [h for _, h in pairs]), self.device)
        clips = int(all_reduce_sum(torch.tensor(len(pairs), device=self.device)))
        if clips >= FEWEST_CLIPS and not self._near_random and self.trainer.is_global_zero:
            step, steps = self.global_step, self.settings.schedule.steps
            warning = near_random(characters, mismatched, step, steps, self.settings.data.corpus)
            self._near_random = bool(warning)
            if warning:
                print(warning, file=sys.stderr)
        self.log_dict(
            {
                "valid/cer": characters.rate,
                "valid/cer_mismatched": mismatched.rate,
                "valid/wer": words.rate,
                "valid/loss": (loss / count.clamp(min=1)).float(),
                **({"valid/cer_ctc": by_ctc.rate} if self.recogniser.transducer else {}),
                **({WITH_LM: lm_words.rate} if self.lm_decoder is not None else {}),
            }
        )

    def configure_optimizers(self) -> Any:
        """The head at ``optim.lr``; the encoder at a share of it, lower from block to block towards the frontend. If the encoder
        is frozen at first, its warm-up starts when it begins to learn."""
        optim, freeze, encoder = self.settings.optim, self.settings.freeze, self.recogniser.encoder
        groups = parameter_groups(self.recogniser.head, optim.lr)
        if self.recogniser.transducer is not None:
            groups += parameter_groups(self.recogniser.transducer, optim.lr)
        head = len(groups)
        lr = optim.lr * freeze.encoder_lr
        for block in [] if isinstance(encoder, Baseline) else reversed(encoder.blocks.layers):
            groups += parameter_groups(block, lr)
            lr *= freeze.layer_decay
        grouped = {id(p) for group in groups for p in group["params"]}
        rest = torch.nn.ParameterList([p for p in encoder.parameters() if id(p) not in grouped])
        groups += parameter_groups(rest, lr)
        for group in groups[head:]:
            group["begins"] = self.begins
        return adamw(groups, self.settings)

    def begins(self) -> float:
        """The step at which the encoder begins to learn, after the latest restart."""
        return max(self.frozen_steps, self.frozen_until)


FEWEST_CLIPS = 20
"""Held-out clips, below which the CER of mismatched pairs says little."""
LEARNED_BY = 0.4
"""Share of the steps after which the CER must be better than that of mismatched pairs."""


def near_random(cer: ErrorCounts, mismatched: ErrorCounts, step: int, steps: int, corpora: Sequence[str]) -> str:
    """A warning if ``cer`` at ``step`` of ``steps`` is not clearly lower than that of hypotheses against other clips' labels."""
    if step < LEARNED_BY * steps or not mismatched.reference or cer.rate < NEAR_RANDOM * mismatched.rate:
        return ""
    return (
        f"warning: step {step}: CER {cer.rate:.2f} on the held-out clips is about that against other clips' labels "
        f"({mismatched.rate:.2f}), so nothing of the speech has been learned. Do the labels belong to their clips and language? "
        f"A table that is shifted by a row looks so: listen to some clips, and run `lalia finetune check {' '.join(corpora)}` "
        "(with --recogniser it finds the shift). Too few labels or steps look the same"
    )


def count_tokens(best_BT: Tensor, frames_B: Tensor) -> Tensor:
    """Number of tokens in the greedy output ``best_BT`` of all clips together, within ``frames_B``."""
    inside_BT = valid_frames(frames_B, best_BT.shape[1], best_BT.device)
    before_BT = torch.nn.functional.pad(best_BT, (1, 0))[:, :-1]
    return ((best_BT != 0) & (best_BT != before_BT) & inside_BT).sum()


# --- Validation with a language model ------------------------------------------------------------------


class LmDecoder:
    """Decodes held-out clips with a language model; ``rows`` are those that each validation decodes with it."""

    def __init__(self, recogniser: Recogniser, automaton: Automaton, rows: Sequence[int], description: str) -> None:
        self.rows = frozenset(rows)
        self.description = description
        """names the language model in messages"""
        self._tokens, self._normaliser = recogniser.tokens, recogniser.normaliser
        writing = recogniser.normaliser.output_writing
        self._decoder = Decoder(recogniser.tokens, recogniser.frame_s, [automaton], writing=writing)

    def transcribe(self, log_probs_TV: np.ndarray, language: str = "") -> str:
        """The text of beam search, normalised as the labels of ``language`` are."""
        text = text_of(self._decoder.decode(log_probs_TV), self._tokens)
        return self._normaliser.for_language(language)(text)


def make_lm_decoder(
    settings: SelectSettings, recogniser: Recogniser, labels: Iterable[str], held_out: Sequence[int]
) -> LmDecoder | None:
    """The decoder for ``settings.clips`` of the ``held_out`` clips, spread evenly; None unless ``settings.by`` is "wer_lm".

    Without ``settings.lm`` its language model is n-grams of the letters of ``labels``, normalised texts. A ``UserError`` if the
    model has another alphabet, or if no label has a word to count.
    """
    if settings.by != "wer_lm":
        return None
    if settings.lm:
        automaton, description = _load_lm(Path(settings.lm), recogniser.tokens, recogniser.normaliser)
    else:
        automaton, description = _count_labels(labels, recogniser.tokens)
    count = min(settings.clips or len(held_out), len(held_out))
    rows = [int(held_out[i * len(held_out) // count]) for i in range(count)]
    return LmDecoder(recogniser, automaton, rows, description)


def _load_lm(folder: Path, tokens: Tokens, normaliser: Normaliser) -> tuple[Automaton, str]:
    """The language model in ``folder`` with the weight and bonus of the last tuning, for whichever student that was."""
    try:
        model = LanguageModel.load(folder)
        model.check(tokens, normaliser)
    except UserError as error:
        raise UserError(f"--select.lm {error}") from error
    last = next(reversed(model.card.get("tuned", {})), "")
    found = model.tuned([last])
    description = f"{model.ngrams.order}-grams of {model.unit}s in {folder}"
    return lm_automaton(model, found["weight"], found["bonus"]), description


def _count_labels(labels: Iterable[str], tokens: Tokens) -> tuple[Automaton, str]:
    """N-grams of letters of ``labels``, as ``lalia finetune lm`` counts them."""
    sentences = [symbols_of(text, "letter", tokens)[0] for text in labels if text]
    if not any(symbol != SPECIALS[UNKNOWN] for sentence in sentences for symbol in sentence):
        raise UserError(
            "--select.by wer_lm: the labels have no words to build a language model from; "
            "give one made by `lalia lm` with --select.lm"
        )
    ngrams = estimate(sentences, ORDERS["letter"])
    return LetterModel(ngrams, WEIGHT, BONUS), f"{ngrams.order}-grams of letters of {len(sentences)} training labels"


# --- Losses that are not finite ------------------------------------------------------------------------

CLIPS_NAMED = 5


class Scored:
    """The rows of a micro-batch, and whether their scores and the loss are finite: B + 1 numbers that are not read yet."""

    def __init__(self, rows: list[int], logits_BTV: Tensor, loss: Tensor) -> None:
        self.rows, self.loss = rows, loss.detach()
        sums_B = logits_BTV.detach().sum((1, 2), dtype=torch.float32)
        self.finite = torch.cat([sums_B, self.loss.float()[None]]).isfinite()


def check_finite(
    scored: Sequence[Scored], before: Sequence[int], model: nn.Module, name: Callable[[int], str], step: int,
    precision: str,
) -> None:  # fmt: skip
    """Raise ``GuardStopped`` if a loss or a score is not finite on any rank; it names the clips with such scores.

    If all clips have such scores, the weights are not finite and the error names the clips of the step ``before``. This is the
    one read from the device in an optimizer step.
    """
    here = torch.cat([each.finite for each in scored])
    everywhere = all_reduce_min(here.all().float()[None])
    *finite, fine = map(bool, to_host(torch.cat([here.float(), everywhere])).tolist())
    if not fine:
        stop_all("" if all(finite) else _not_finite(scored, finite, before, model, name, step, precision))


def _not_finite(
    scored: Sequence[Scored], finite: list[bool], before: Sequence[int], model: nn.Module, name: Callable[[int], str],
    step: int, precision: str,
) -> str:  # fmt: skip
    fp16 = precision == "fp16"
    advice = (
        "use --hardware.precision bf16 or fp32: the largest float16 is 65,504"
        if fp16
        else "lower --optim.lr, or clip gradients (--optim.clip 1)"
    )
    rows: list[int] = []
    bad: list[int] = []
    suspects: list[int] = []
    loss = 0.0
    for each in scored:
        own, finite = finite[: len(each.rows) + 1], finite[len(each.rows) + 1 :]
        rows += each.rows
        bad += [row for row, fine in zip(each.rows, own, strict=False) if not fine]
        if not all(own):
            suspects, loss = suspects + each.rows, float(each.loss)
    ruined = not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if ruined or len(bad) == len(rows) > 1:
        return (
            f"step {step}: all scores are not finite (NaN or infinity), so the weights are too; the clips of the last update "
            f"are {_listed(before, name)}. {advice[0].upper()}{advice[1:]}, and listen to these clips"
        )
    return (
        f"step {step}: the loss is {loss:g}, from {_listed(bad or suspects, name)}. Listen to these clips, and fix "
        f"or remove them; if nothing is wrong with them, {advice}"
    )


def _listed(rows: Sequence[int], name: Callable[[int], str]) -> str:
    if not rows:
        return "not known"
    more = f" and {len(rows) - CLIPS_NAMED} more" if len(rows) > CLIPS_NAMED else ""
    return ", ".join(name(row) for row in rows[:CLIPS_NAMED]) + more
