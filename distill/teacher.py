"""The teachers of a distillation: their outputs for a batch, as targets in the student's alphabet and frames.

A teacher is a recogniser in torch (plain, or the adapter of one language folded in) or a student folder, run by ONNX Runtime.
Its alphabet must have every letter of the student's; probabilities of tokens that the student lacks are left out and the others
normalised. Frames are matched by ``frame_matching.py`` wherever they differ. An ensemble is the mean of its teachers'
probabilities in matched frames; hidden frames are the first teacher's.

B clips, S samples, N teacher frames, T student frames, V tokens, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.frame_matching import align_frames, choose_frames, emissions, place, pool_hidden
from lalia.cards import read_card
from lalia.data.batch import Batch
from lalia.errors import UserError
from lalia.inputs import identify
from lalia.model_folder import MODEL
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters, languages_of
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import FILE_NAME as TOKENS
from lalia.text.tokens import Tokens
from lalia.units import Samples, to_samples


@dataclass
class Heard:
    """A teacher's outputs for a batch, in its own alphabet and frames."""

    logits_BNV: Tensor
    frames_B: Tensor
    """on the CPU"""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """output of each block by its number, (B, N, D)"""
    hidden_stride: int = 1
    """teacher frames per hidden frame: more than 1 if they were pooled for a store"""
    samples_B: Tensor | None = None
    """samples of the waves that gave these outputs, if they are not the batch's (changed speed); on the CPU"""


@dataclass
class Targets:
    """What the student learns from, in its own alphabet and frames."""

    logits_BTV: Tensor
    hidden: dict[int, Tensor]
    """frames (B, T, D) by the number of the teacher's block"""
    matched_B: Tensor | None = None
    """False for clips whose letters need more frames than the student has; None = all are matched. On the CPU"""


class Teacher(Protocol):
    """What distillation needs of a teacher."""

    folder: str
    card: dict[str, Any]
    adapter: str
    """the language whose adapter teaches; "" for a teacher without adapters"""
    tokens: Tokens
    normaliser: Normaliser
    hop: Samples
    layers: int
    """its blocks; 0 = their outputs are not known"""
    blocks: list[int] | None
    """those whose output is known; None = all"""
    width: int
    """dimensions of their frames"""
    parameters: int | None
    """None of a student folder"""

    def hear(self, batch: Batch) -> Heard: ...

    def to(self, device: torch.device | str) -> None: ...

    @property
    def size(self) -> str: ...


class TorchTeacher:
    """A recogniser as a teacher; it never trains."""

    blocks: list[int] | None = None

    def __init__(
        self, recogniser: Recogniser, card: dict[str, Any] | None = None, folder: str = "", adapter: str = ""
    ) -> None:
        self.recogniser = recogniser.eval().requires_grad_(False)
        self.card, self.folder, self.adapter = card or {}, folder, adapter
        self.tokens, self.normaliser = recogniser.tokens, recogniser.normaliser
        shape = recogniser.encoder.shape
        self.hop, self.layers, self.width = shape.hop, shape.layers, shape.width
        self.parameters: int | None = count_parameters(recogniser)

    @torch.no_grad()
    def hear(self, batch: Batch) -> Heard:
        encoder = self.recogniser.encoder
        features_BNF, _, frames_B = encoder.features(batch.wave_BS, batch.lengths_B)
        hidden: list[Tensor] = []
        last_BND = encoder.contextualise(features_BNF, frames_B, collect=hidden)
        return Heard(self.recogniser.head(self.recogniser.head_dropout(last_BND)), frames_B, dict(enumerate(hidden)))

    def to(self, device: torch.device | str) -> None:
        self.recogniser.to(device)

    @property
    def size(self) -> str:
        return f"{count_parameters(self.recogniser) / 1e6:.2f} M parameters"


class OnnxTeacher:
    """A student folder as a teacher: log-probabilities alone, clip by clip on the CPU."""

    adapter = ""
    layers = width = 0
    parameters: int | None = None
    blocks: list[int] | None = None

    def __init__(self, student: Student, card: dict[str, Any], folder: str) -> None:
        self.student, self.card, self.folder = student, card, folder
        self.tokens, self.normaliser = student.tokens, student.normaliser
        self.hop = to_samples(student.frame_s)

    def hear(self, batch: Batch) -> Heard:
        waves = batch.wave_BS.cpu().numpy()
        found = [
            torch.from_numpy(np.ascontiguousarray(self.student.log_probs(wave[:length])))
            for wave, length in zip(waves, batch.lengths_B.tolist(), strict=True)
        ]
        padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        return Heard(padded.to(batch.wave_BS.device), torch.tensor([len(x) for x in found]))

    def to(self, device: torch.device | str) -> None:
        """ONNX Runtime stays on the CPU."""

    @property
    def size(self) -> str:
        return f"a model of {(Path(self.folder) / MODEL).stat().st_size / 1e6:.1f} MB"


# --- Loading -------------------------------------------------------------------------------------------


def load_teacher(folder: str, languages: Sequence[str]) -> Teacher:
    """The teacher in ``folder``; of one with adapters, that of the only one of ``languages`` that it has."""
    path = Path(folder)
    if identify(path).kind == "student":
        return OnnxTeacher(Student.load(path), read_card(path, "student"), folder)
    adapter = adapter_for(path, languages)
    return TorchTeacher(Recogniser.load(path, adapter), read_card(path, "recogniser"), folder, adapter)


def adapter_for(folder: Path, languages: Sequence[str]) -> str:
    """The name of the adapter in ``folder`` for ``languages``; "" if the recogniser has none or one alone."""
    known = languages_of(folder)
    if len(known) < 2:
        return ""
    found = sorted({name for code in languages for name in known if name == code or name.startswith(f"{code}-")})
    if len(found) == 1:
        return found[0]
    if not found:
        few = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
        asked = f", not for {', '.join(languages)}" if languages else ""
        raise UserError(
            f"--teacher {folder}: has adapters for {few}{asked}; give one of them with --data.language CODE"
        )
    raise UserError(
        f"--teacher {folder}: has adapters for {', '.join(found)}; a student has one teacher's alphabet: give one of them with "
        "--data.language, or fold one first (lalia finetune fold --language CODE)"
    )


# --- Alphabets -----------------------------------------------------------------------------------------


def choose_tokens(alphabet: str, teacher: Teacher, texts: Iterable[str]) -> Tokens:
    """The student's tokens for ``student.alphabet``: the teacher's, those that occur in ``texts`` (normalised labels), or those
    in a file."""
    known = teacher.tokens
    if not alphabet:
        return known
    if alphabet != "labels":
        path = Path(alphabet) / TOKENS if Path(alphabet).is_dir() else Path(alphabet)
        chosen = Tokens.load(path)
        check_alphabet(chosen, teacher, f"--student.alphabet {alphabet}")
        return chosen
    used = {token for text in texts for token in known.encode(text, skip_unknown=True)}
    if not used - {known.boundary}:
        raise UserError(
            "--student.alphabet labels: no training clip has a label with a letter of the teacher's; leave it out, or give a "
            f"{TOKENS}"
        )
    used |= {0} | ({known.boundary} if known.boundary is not None else set())
    return Tokens([symbol for number, symbol in enumerate(known.symbols) if number in used])


def check_alphabet(tokens: Tokens, teacher: Teacher, source: str) -> None:
    """Raise ``UserError`` if ``teacher`` lacks a letter of ``tokens``; marks such as <unk> may be missing."""
    missing = [s for s in tokens.symbols if s not in teacher.tokens.symbols and not re.fullmatch(r"<[^>]+>", s)]
    if missing:
        raise UserError(
            f"{source}: the teacher {teacher.folder} has no {' '.join(missing[:8])}"
            f"{f' and {len(missing) - 8} more' if len(missing) > 8 else ''}; every teacher needs every letter of the student: "
            "give --student.alphabet with letters that all teachers have, or leave out this teacher"
        )


# --- Targets -------------------------------------------------------------------------------------------

ABSENT = -30.0
"""The logit of a token that a teacher of an ensemble lacks, below its largest."""


class Teachers:
    """One teacher or an ensemble, for a student with ``tokens``."""

    def __init__(self, teachers: Sequence[Teacher], tokens: Tokens) -> None:
        self.teachers = list(teachers)
        for teacher in teachers:
            check_alphabet(tokens, teacher, "the student's alphabet")
        self._columns = [
            None
            if teacher.tokens == tokens
            else torch.tensor(
                [teacher.tokens.symbols.index(s) if s in teacher.tokens.symbols else -1 for s in tokens.symbols]
            )
            for teacher in teachers
        ]

    @property
    def first(self) -> Teacher:
        return self.teachers[0]

    def to(self, device: torch.device | str) -> None:
        for teacher in self.teachers:
            teacher.to(device)

    def targets(self, batch: Batch, frames_B: Tensor, hop: Samples, T: int) -> Targets:
        """The targets of a student with ``frames_B`` frames of ``hop`` samples for the clips of ``batch``, padded to ``T``.

        If the frames differ from the teacher's, the teacher's scores are read back from the device.
        """
        heard = [teacher.hear(batch) for teacher in self.teachers]
        logits = [self._selected(one.logits_BNV, columns) for one, columns in zip(heard, self._columns, strict=True)]
        first = heard[0]
        if len(heard) == 1 and self.first.hop == hop and torch.equal(first.frames_B, frames_B):
            if first.hidden_stride == 1:
                return Targets(logits[0], first.hidden)
            hidden = self._pooled(first, self._ratio(0, first, batch, hop), frames_B)
            return Targets(logits[0], hidden)
        ratios = [self._ratio(number, one, batch, hop) for number, one in enumerate(heard)]
        matched, matched_B = match(logits, [one.frames_B for one in heard], ratios, frames_B, T)
        return Targets(matched, self._pooled(first, ratios[0], frames_B), matched_B)

    def _ratio(self, number: int, heard: Heard, batch: Batch, hop: Samples) -> Tensor:
        """The length of a student frame in teacher frames, (B,)."""
        ratio_B = torch.full((len(batch.lengths_B),), hop / self.teachers[number].hop, dtype=torch.float64)
        if heard.samples_B is not None:
            ratio_B = ratio_B * heard.samples_B / batch.lengths_B
        return ratio_B

    @staticmethod
    def _pooled(heard: Heard, ratio_B: Tensor, frames_B: Tensor) -> dict[int, Tensor]:
        stride = heard.hidden_stride
        lengths_B = -(-heard.frames_B // stride)
        return {
            layer: pool_hidden(hidden_BND, lengths_B, frames_B, ratio_B / stride)
            for layer, hidden_BND in heard.hidden.items()
        }

    @staticmethod
    def _selected(logits_BNV: Tensor, columns: Tensor | None) -> Tensor:
        if columns is None:
            return logits_BNV
        columns = columns.to(logits_BNV.device)
        chosen = logits_BNV[..., columns.clamp(min=0)]
        lowest = logits_BNV.amax(-1, keepdim=True) + ABSENT
        return torch.where(columns >= 0, chosen, lowest)


def match(
    logits: Sequence[Tensor], lengths: Sequence[Tensor], ratios: Sequence[Tensor], frames_B: Tensor, T: int
) -> tuple[Tensor, Tensor]:
    """(logits_BTV, matched_B): the teachers' ``logits``, each (B, N, V) with ``lengths`` (B,), in the student's frames.

    ``ratios`` (B,) are the lengths of a student frame in each teacher's frames. One teacher's logits stay as they are; of
    several, the log of their mean probability is returned.
    """
    B = len(frames_B)
    chosen = [np.zeros((B, T), np.int64) for _ in logits]
    matched_B = torch.ones(B, dtype=torch.bool)
    tops = [one.float().log_softmax(-1).max(-1) for one in logits]
    host = [(top.values.cpu().numpy(), top.indices.cpu().numpy()) for top in tops]
    for b, frames in enumerate(frames_B.tolist()):
        found = [
            emissions(indices[b, : int(n[b])], values[b, : int(n[b])])
            for (values, indices), n in zip(host, lengths, strict=True)
        ]
        places_U = place(found[0].frames_U, frames, float(ratios[0][b]))
        if places_U is None:
            matched_B[b] = False
            continue
        for number, other in enumerate(found):
            count, ratio = int(lengths[number][b]), float(ratios[number][b])
            chosen[number][b, :frames] = (
                align_frames(found[0], places_U, other, frames, count, ratio)
                if number
                else choose_frames(other.frames_U, places_U, frames, count, ratio)
            )
    taken = []
    for one_BNV, chosen_BT in zip(logits, chosen, strict=True):
        index_BT = torch.from_numpy(chosen_BT).to(one_BNV.device)
        taken.append(one_BNV.gather(1, index_BT[:, :, None].expand(-1, -1, one_BNV.shape[2])))
    if len(taken) == 1:
        return taken[0], matched_B
    mean = torch.stack([one.float().log_softmax(-1) for one in taken]).logsumexp(0) - float(np.log(len(taken)))
    return mean, matched_B
