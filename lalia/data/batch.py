"""Build complete training batches: pad clips, join short clips, draw masks, masked positions and distractors.

Everything random is a pure function of (lengths, seed, number of the micro-batch) and is drawn by the loader, ahead of the
training step. Waves, labels and masks then move to the device at once. Lengths, rows and languages stay on the CPU: the host
computes shapes from them, and reading them from a GPU would stop it.

B clips, S samples, U tokens of a text, J joined clips, T frames, N places (frames of a clip, or channels), M masked frames of the
clip that has most, K distractors, L sampled frames, P pauses, D width. Of separation: M mixtures, 2 voices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lalia.data.seeds import generator, mix
from lalia.units import Frames, Samples, Seconds, to_samples

# --- Batches ---------------------------------------------------------------------------------------------


HOST = frozenset({"lengths_B", "label_lengths_B", "rows_B", "languages_B", "lengths_J", "frames_B", "frames_P"})
"""Fields that stay on the CPU."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded with zeros at the end of each clip."""

    number: int  # of the plan's micro-batch
    wave_BS: Tensor  # float32, 16 kHz
    lengths_B: Tensor  # int64, samples
    rows_B: Tensor  # int64, row numbers of the corpus
    languages_B: Tensor  # int64, the corpus's language codes
    labels_BU: Tensor | None  # int64, 0 after the end of each text; None without labels
    label_lengths_B: Tensor | None  # int64
    bad: tuple[str, ...]  # one line for each clip that could not be read and was left out
    contrast: Contrast | None = None  # pretraining: what is masked and what it is compared with
    masks: Masks | None = None  # fine-tuning
    student: StudentInput | None = None  # distillation: the student's copy of these clips
    voices_B2S: Tensor | None = None  # separation: the two clips whose sum is wave_BS

    @property
    def labels(self) -> list[Tensor]:
        """Each clip's labels without padding: B tensors (U,)."""
        if self.labels_BU is None or self.label_lengths_B is None:
            raise ValueError("this batch has no labels; make the loader with labels=")
        return [label_U[:length] for label_U, length in zip(self.labels_BU, self.label_lengths_B.tolist(), strict=True)]

    @property
    def samples(self) -> int:
        """Samples of audio, padding not counted."""
        return int(self.lengths_B.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all but ``HOST`` on ``device``; the host does not wait for pinned memory to be copied."""
        ahead = torch.device(device).type != "cpu"  # what comes back from a device must have arrived before it is read
        return _changed(self, lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (DataLoader calls this)."""
        return _changed(self, lambda tensor: tensor.pin_memory())


D = TypeVar("D")


def _changed(data: D, change: Callable[[Tensor], Tensor]) -> D:
    """A dataclass and those in it with ``change`` applied to every tensor that belongs on the device."""
    values: dict[str, Any] = {}
    for field in fields(data):  # type: ignore[arg-type]
        value = getattr(data, field.name)
        if isinstance(value, Tensor):
            value = value if field.name in HOST else change(value)
        elif is_dataclass(value):
            value = _changed(value, change)
        values[field.name] = value
    return type(data)(**values)


def pad(
    number: int,
    rows: list[int],
    waves: list[NDArray[np.float32]],
    languages: NDArray[np.integer],
    labels: list[list[int]] | None,
    bad: list[str],
) -> Batch:
    """The Batch of ``waves`` (each (S,) float32) and their ``labels``; ``languages`` are the whole corpus's codes."""
    lengths_B = torch.tensor([len(wave) for wave in waves])
    wave_BS = torch.zeros(len(waves), int(lengths_B.max()))
    filled = wave_BS.numpy()
    for place, wave in enumerate(waves):
        filled[place, : len(wave)] = wave
    rows_B = torch.tensor(rows)
    languages_B = torch.from_numpy(np.asarray(languages[np.asarray(rows)], np.int64))
    labels_BU = label_lengths_B = None
    if labels is not None:
        label_lengths_B = torch.tensor([len(label) for label in labels])
        labels_BU = torch.zeros(len(labels), int(label_lengths_B.max()), dtype=torch.int64)
        for place, label in enumerate(labels):
            labels_BU[place, : len(label)] = torch.tensor(label, dtype=torch.int64)
    return Batch(number, wave_BS, lengths_B, rows_B, languages_B, labels_BU, label_lengths_B, tuple(bad))


# --- Short clips joined end to end -----------------------------------------------------------------------

SHORTEST_PAUSE: Frames = 3
LONGEST_PAUSE_S: Seconds = 2.0
SILENT = 0.3
"""Share of pauses that are digital silence; the others are soft white noise."""
SOFTEST, LOUDEST = 1e-5, 3e-3
"""Root mean square of that noise, between -100 and -50 dB."""


@dataclass(frozen=True)
class JoinedFrames:
    """Frames of joined clips: their numbers in the output (J, T, …) of an encoder whose first two dimensions are one; 0 after an
    end."""

    clips_BT: Tensor  # int64
    frames_B: Tensor  # int64, frames of each clip
    pauses_PT: Tensor  # int64, the pauses between a clip and the next one in its wave
    frames_P: Tensor  # int64, frames of each pause


@dataclass(frozen=True)
class JoinedBatch:
    """Clips of ``batch`` behind one another, and where each of them is."""

    batch: Batch
    wave_B: list[int]
    """number of the joined wave"""
    start_B: list[Samples]
    """its first sample there"""

    def places(self, frames_B: Tensor, hop: Samples, width: Frames) -> JoinedFrames:
        """Where frames of the clips, ``frames_B`` each, and of the pauses lie in the output of an encoder with ``width`` frames;
        ``start_B`` must lie on multiples of ``hop``."""
        clips: list[Tensor] = []
        pauses: list[Tensor] = []
        ends: dict[int, Frames] = {}  # wave -> the frame after the clip seen last in it
        for wave, start, frames in zip(self.wave_B, self.start_B, frames_B.tolist(), strict=True):
            first = start // hop
            if wave in ends:
                pauses.append(wave * width + torch.arange(ends[wave], first))
            clips.append(wave * width + torch.arange(first, first + frames))
            ends[wave] = first + frames
        frames_P = torch.tensor([len(pause) for pause in pauses], dtype=torch.int64)
        pauses_PT = pad_sequence(pauses, batch_first=True) if pauses else torch.zeros(0, 0, dtype=torch.int64)
        return JoinedFrames(pad_sequence(clips, batch_first=True), frames_B, pauses_PT, frames_P)


def join_clips(batch: Batch, longest_s: Seconds) -> Batch:
    """``batch`` with its clips joined, language by language and in their order, to waves of at most ``longest_s``.

    For training without labels only. ``rows_B`` names the first clip of each wave. Prompts, commands and other isolated words
    are too short to hide spans of and to draw distractors from; joined they are as good as running speech
    (fairseq and NVIDIA's recipe crop long recordings instead and never meet them).
    """
    if batch.labels_BU is not None:
        raise ValueError("labelled clips cannot be joined: their labels would have to be joined as well")
    return _joined(batch, longest_s, [0] * len(batch.lengths_B), 1, None).batch


def crop_clips(batch: Batch, random: torch.Generator) -> Batch:
    """``batch`` with each clip cropped to the shortest, at a place drawn uniformly, as fairseq's ``RawAudioDataset`` does.

    For training without labels only. A batch without padding needs no attention mask, so a GPU may use flash attention.
    """
    if batch.labels_BU is not None:
        raise ValueError("labelled clips cannot be cropped: their labels would have to be cropped as well")
    shortest = int(batch.lengths_B.min())
    starts_B = (torch.rand(len(batch.lengths_B), generator=random) * (batch.lengths_B - shortest + 1)).long()
    waves = [wave_S[start : start + shortest] for wave_S, start in zip(batch.wave_BS, starts_B.tolist(), strict=True)]
    return replace(batch, wave_BS=torch.stack(waves), lengths_B=torch.full_like(batch.lengths_B, shortest))


@dataclass(frozen=True)
class MixSampler:
    """Mixes the clips of each batch in pairs: the last stage of separation's loader. It can be pickled.

    The clips are cropped to the shortest and brought to one level. They stand in a circle, corpus by corpus, and each is mixed
    with both of its neighbours: of its own corpus where that is possible, because voices of two corpora can be told apart by
    their microphones. Pairs of one speaker are left out, so a batch may be empty.
    """

    seed: int
    split: str
    """names the draws; training and validation draw independently"""
    level_db: float
    """largest difference between the levels of the two voices"""
    corpora: NDArray[np.int64]
    """number of each row's corpus"""
    speakers: NDArray[np.int64]
    """number of each row's speaker; a clip of an unknown speaker has one of its own"""

    def __call__(self, batch: Batch) -> Batch:
        random = generator(self.seed, f"{self.split} mixtures", batch.number)
        batch = crop_clips(batch, random)
        level_B1 = batch.wave_BS.square().mean(1, keepdim=True).add(1e-10).sqrt()
        wave_BS = batch.wave_BS / level_B1
        rows_B = batch.rows_B.numpy()
        corpora_B, speakers_B = self.corpora[rows_B], self.speakers[rows_B]
        order_B = torch.randperm(len(rows_B), generator=random).numpy()
        order_B = order_B[np.argsort(corpora_B[order_B], kind="stable")]
        first, second = [], []
        for a, b in zip(order_B.tolist(), np.roll(order_B, 1).tolist(), strict=True):
            if speakers_B[a] != speakers_B[b]:
                first.append(a)
                second.append(b)
        gain_M1 = 10 ** ((2 * torch.rand(len(first), 1, generator=random) - 1) * self.level_db / 40)
        voices_M2S = torch.stack([wave_BS[first] * gain_M1, wave_BS[second] / gain_M1], 1)
        return replace(
            batch, wave_BS=voices_M2S.sum(1), lengths_B=batch.lengths_B[first], rows_B=batch.rows_B[first],
            languages_B=batch.languages_B[first], voices_B2S=voices_M2S,
        )  # fmt: skip


def join_with_pauses(batch: Batch, longest_s: Seconds, hop: Samples, random: torch.Generator) -> JoinedBatch:
    """The same with pauses between the clips, each clip at a whole frame of ``hop`` samples: the frames of a clip cover the
    same samples as if it were alone.

    How long the waves are at most is drawn for each batch, ``longest_s`` times the square of a uniform number, so that a model
    goes on hearing short clips alone. Pauses are ``LONGEST_PAUSE_S`` times such a square, and ``SHORTEST_PAUSE`` frames at
    least. Labels stay those of single clips and are left out of the batch.
    """
    count = len(batch.lengths_B)
    drawn = torch.rand(1 + count, generator=random).square().tolist()
    longest = to_samples(LONGEST_PAUSE_S)
    pauses = [max(SHORTEST_PAUSE * hop, round(share * longest)) for share in drawn[1:]]
    silent_B = torch.rand(count, generator=random) < SILENT
    level_B = math.log(SOFTEST) + torch.rand(count, generator=random) * math.log(LOUDEST / SOFTEST)
    level_B = level_B.exp().masked_fill(silent_B, 0.0)
    return _joined(batch, longest_s * drawn[0], pauses, hop, (level_B.tolist(), random))


def _joined(
    batch: Batch, longest_s: Seconds, pauses: list[Samples], hop: Samples, noise: tuple[list[float], torch.Generator] | None
) -> JoinedBatch:  # fmt: skip
    """``batch`` joined, behind each clip its pause up to the next multiple of ``hop``, of ``noise`` at the clip's level."""
    longest = to_samples(longest_s)
    waves: list[list[Tensor]] = []
    firsts: list[int] = []
    open_wave: dict[int, int] = {}  # language -> number of the wave that still has room
    lengths: list[Samples] = []
    wave_B: list[int] = []
    start_B: list[Samples] = []
    languages = batch.languages_B.tolist()
    for b, length in enumerate(batch.lengths_B.tolist()):
        at = open_wave.get(languages[b])
        start = 0 if at is None else -(-(lengths[at] + pauses[b]) // hop) * hop
        if at is None or start + length > longest:
            at = open_wave[languages[b]] = len(waves)
            start = 0
            waves.append([])
            lengths.append(0)
            firsts.append(b)
        if start > lengths[at]:
            silence_S = torch.zeros(start - lengths[at])
            if noise is not None and noise[0][b]:
                silence_S = noise[0][b] * torch.randn(len(silence_S), generator=noise[1])
            waves[at].append(silence_S.to(batch.wave_BS))
        waves[at].append(batch.wave_BS[b, :length])
        lengths[at] = start + length
        wave_B.append(at)
        start_B.append(start)
    made = replace(
        batch,
        wave_BS=pad_sequence([torch.cat(parts) for parts in waves], batch_first=True),
        lengths_B=torch.tensor(lengths, dtype=torch.int64, device=batch.wave_BS.device),
        rows_B=batch.rows_B[firsts],
        languages_B=batch.languages_B[firsts],
        labels_BU=None,
        label_lengths_B=None,
    )
    return JoinedBatch(made, wave_B, start_B)


# --- Masked spans of frames or channels ------------------------------------------------------------------


@dataclass
class MaskSettings:
    """Mask spans: how much of the audio is masked (wav2vec 2.0: p x M = 0.65, M = 10 frames of 20 ms)."""

    coverage: float = 0.65
    """sum of all span lengths as a share of the clip; spans overlap, so fewer frames are masked: 0.65 masks about 0.49"""
    span: int = 10
    """frames of one span"""
    min_spans: int = 2
    """spans of a clip at least; a clip too short for them gets as many as fit, at least one"""


def frames_of(batch: Batch, frames: Callable[[Samples], Frames]) -> Tensor:
    """Frames of each clip of ``batch``: (B,) int64; ``frames`` gives those of a clip of so many samples."""
    return torch.tensor([frames(length) for length in batch.lengths_B.tolist()])


def span_mask(
    lengths_B: Tensor, width: int, coverage: float, span: int, min_spans: int, generator: torch.Generator
) -> Tensor:
    """True where a place is masked: (B, width). Places after a clip's length are never masked.

    ``coverage`` is the sum of all span lengths as a share of the clip; spans overlap, so fewer places are hidden (0.65 hides
    about 0.49). The number of spans is coverage x length / span, rounded up or down at random so that its mean is exact, and
    ``min_spans`` at least; their starts are drawn without replacement (Baevski et al. 2020, section 3.1; fairseq's
    ``compute_mask_indices``). A clip too short for that gets shorter and fewer spans; one place of every clip stays visible.
    """
    B = len(lengths_B)
    mask_BN = torch.zeros(B, width, dtype=torch.bool)
    roundings = torch.rand(B, generator=generator).tolist()
    for b, length in enumerate(lengths_B.tolist()):
        if length < 2:
            continue
        here = min(span, length // 2)
        spans = max(int(coverage * length / here + roundings[b]), min_spans)
        starts = torch.randperm(length - here + 1, generator=generator)[: min(spans, length // here)]
        mask_BN[b, (starts[:, None] + torch.arange(here)).flatten()] = True
        if bool(mask_BN[b, :length].all()):
            mask_BN[b, int(torch.randint(length, (), generator=generator))] = False
    return mask_BN


@dataclass(frozen=True)
class Masks:
    """SpecAugment's masks (Park et al. 2019): True where frames, or channels of the encoder's width, are masked."""

    frames_BT: Tensor
    channels_BD: Tensor


@dataclass(frozen=True)
class MaskSampler:
    """Draws ``Masks`` for each batch: the last stage of fine-tuning's loader. It can be pickled."""

    seed: int
    frames: Callable[[Samples], Frames]
    """number of frames in a clip of so many samples"""
    width: int
    """channels of the encoder"""
    time: MaskSettings
    channels: MaskSettings

    def __call__(self, batch: Batch) -> Batch:
        return replace(batch, masks=self.draw(batch, generator(self.seed, "masks", batch.number)))

    def draw(self, batch: Batch, random: torch.Generator) -> Masks:
        frames_B = frames_of(batch, self.frames)
        widths_B = torch.full((len(frames_B),), self.width)
        places = ((self.time, frames_B, self.frames(batch.wave_BS.shape[1])), (self.channels, widths_B, self.width))
        return Masks(*(span_mask(n_B, most, m.coverage, m.span, m.min_spans, random) for m, n_B, most in places))


# --- The student's copy of a batch -----------------------------------------------------------------------


@dataclass(frozen=True)
class StudentInput:
    """The clips of a batch as a student gets them: joined, augmented and masked."""

    wave_JS: Tensor
    lengths_J: Tensor
    masks: Masks
    places: JoinedFrames | None  # None if the clips are not joined


@dataclass(frozen=True)
class StudentSampler:
    """Adds a ``StudentInput`` to each batch: the last stage of distillation's loader. It can be pickled."""

    masks: MaskSampler
    hop: Samples
    join_s: Seconds
    """longest wave of joined clips; 0 = off"""
    augment: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]] | None = None

    def __call__(self, batch: Batch) -> Batch:
        seed, frames = self.masks.seed, self.masks.frames
        random = generator(seed, "masks", batch.number)
        waves, places = batch, None
        if self.join_s > 0:
            joined = join_with_pauses(batch, self.join_s, self.hop, random)
            waves = joined.batch
            places = joined.places(frames_of(batch, frames), self.hop, frames(waves.wave_BS.shape[1]))
        masks = self.masks.draw(waves, random)
        wave_JS = waves.wave_BS if self.augment is None else self._augmented(waves, self.augment)
        return replace(batch, student=StudentInput(wave_JS, waves.lengths_B, masks, places))

    def _augmented(self, waves: Batch, augment: Callable[..., NDArray[np.float32]]) -> Tensor:
        changed_JS = torch.zeros_like(waves.wave_BS)
        for place, length in enumerate(waves.lengths_B.tolist()):
            random = np.random.default_rng((mix(self.masks.seed, "disturbance", waves.number), place))
            changed_JS[place, :length] = torch.from_numpy(augment(waves.wave_BS[place, :length].numpy(), random))
        return changed_JS


# --- What pretraining predicts, and what it is compared with ---------------------------------------------

LIVE = 256
"""The largest number of frames in ``Contrast.live_L``."""


@dataclass(frozen=True)
class Candidates:
    """Frames whose targets are predicted, and those that each must win against."""

    positions_BM: Tensor  # int64, frames of each clip in order, padded to the clip that has most
    valid_BM: Tensor  # bool, False for padding
    distractors_BMK: Tensor  # int64, places among the same clip's positions


@dataclass(frozen=True)
class Contrast:
    """Everything that contrastive pretraining draws for a micro-batch but noise and dropout."""

    mask_BT: Tensor  # bool, True for masked frames
    hidden: Candidates  # the masked frames
    visible: Candidates | None  # the other frames, if they are predicted too
    live_L: Tensor  # int64, some masked frames of the whole batch: places in (B x T,)


@dataclass(frozen=True)
class ContrastSampler:
    """Draws a ``Contrast`` for each batch, after joining its clips: the last stage of pretraining's loader.

    It can be pickled, and gives the same for the same batch in any thread or process.
    """

    seed: int
    split: str
    """names the draws; training and validation draw independently"""
    frames: Callable[[Samples], Frames]
    """number of frames in a clip of so many samples"""
    mask: MaskSettings
    distractors: int
    visible: bool = False
    """whether frames that are not masked are predicted too"""
    distinct: bool = False
    """whether a frame's distractors are all different, as in validation"""
    join_s: Seconds = 0.0
    """clips are joined to waves of at most this length; 0 = off"""
    crop: bool = False
    """whether the waves are cropped to the shortest of the batch, so that none is padded"""

    def __call__(self, batch: Batch) -> Batch:
        if self.join_s > 0:
            batch = join_clips(batch, self.join_s)
        if self.crop:
            batch = crop_clips(batch, generator(self.seed, "crop", batch.number))
        random, mask = generator(self.seed, self.split, batch.number), self.mask
        frames_B = frames_of(batch, self.frames)
        T = self.frames(batch.wave_BS.shape[1])
        mask_BT = span_mask(frames_B, T, mask.coverage, mask.span, mask.min_spans, random)
        hidden = self.candidates(mask_BT, random)
        inside_BT = torch.arange(T) < frames_B[:, None]
        visible = self.candidates(inside_BT & ~mask_BT, random) if self.visible else None
        masked = mask_BT.flatten().nonzero()[:, 0]
        live_L = masked[:: max(1, len(masked) // LIVE)][:LIVE].clone()  # not a view: it is pinned and sent
        return replace(batch, contrast=Contrast(mask_BT, hidden, visible, live_L))

    def candidates(self, chosen_BT: Tensor, random: torch.Generator) -> Candidates:
        """The frames of ``chosen_BT`` and their distractors."""
        positions_BM, valid_BM = masked_positions(chosen_BT)
        return Candidates(positions_BM, valid_BM, sample_distractors(valid_BM, self.distractors, random, self.distinct))


def masked_positions(mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(positions_BM, valid_BM): the masked frames of each clip in order, padded to the clip that has most."""
    counts_B = mask_BT.sum(1)
    M = int(counts_B.max())
    order_BT = torch.argsort((~mask_BT).to(torch.int8), dim=1, stable=True)
    return order_BT[:, :M].contiguous(), torch.arange(M) < counts_B[:, None]


def sample_distractors(valid_BM: Tensor, K: int, random: torch.Generator, distinct: bool = False) -> Tensor:
    """For each masked frame the numbers, within the masked frames of its own clip, of K others: (B, M, K).

    Drawn uniformly from all but the frame itself, with replacement as in wav2vec 2.0, or ``distinct``, so that chance is
    exactly 1 / (K + 1) (clips with fewer than K others repeat some). A clip with one masked frame has no others; its rows point
    at the frame itself, which the loss ignores as equal to the target.
    """
    B, M = valid_BM.shape
    others_B11 = (valid_BM.sum(1) - 1).clamp(min=0)[:, None, None]
    if distinct:
        keys_BMM = torch.rand(B, M, M, generator=random)
        keys_BMM.masked_fill_(torch.arange(M) >= others_B11, 2.0)
        order_BMM = keys_BMM.argsort(-1)
        draws_BMK = order_BMM.gather(-1, (torch.arange(K) % others_B11.clamp(min=1)).expand(B, M, K))
    else:
        draws_BMK = (torch.rand(B, M, K, generator=random) * others_B11).long()
    draws_BMK = draws_BMK + (draws_BMK >= torch.arange(M)[None, :, None]).long()
    return torch.minimum(draws_BMK, others_B11)
