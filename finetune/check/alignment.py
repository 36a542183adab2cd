"""The check of pairs: does a rough recogniser hear in a clip what its label says (forced alignment against its best path)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.check.findings import Example, Finding, Labels, plural
from lalia.cards import read_card
from lalia.decoding.alignment import align
from lalia.decoding.greedy import best_path, transcript
from lalia.exits import AudioError, UserError
from lalia.scoring.rates import character_errors
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.text.vocabulary import require_head

FAR = 4.0
"""A suspect: so many usual deviations worse than the median pair ..."""
MISHEARD = 0.6
"""... of which the recogniser hears so few letters: errors per letter, at least; ..."""
UNLIKELY = 10.0
"""... and so many nats in all: a word of two letters that is misheard is no proof."""


@dataclass(frozen=True)
class Judge:
    """A recogniser or student as far as it is needed here."""

    name: str
    tokens: Tokens
    normaliser: Normaliser
    log_probs: Callable[[np.ndarray], np.ndarray]
    align: Callable[[np.ndarray, list[int]], np.ndarray]
    """(log-probabilities (T, V), token numbers) -> which of them each frame says: ``lalia.decoding.alignment.align``"""


def load_judge(folder: Path) -> Judge:
    """The recogniser or student in ``folder``."""
    kind = read_card(folder)["kind"]
    if kind == "student":
        from lalia.runtime.student import Student

        student = Student.load(folder)
        return Judge(str(folder), student.tokens, student.normaliser, student.log_probs, align)
    if kind != "recogniser":
        raise UserError(f"--recogniser {folder}: is of kind {kind}; expected a recogniser or a student")
    import torch

    from lalia.models.alignment import align as align_sooner
    from lalia.models.recogniser import Recogniser

    recogniser = Recogniser.load(folder)

    def log_probs(wave_S: np.ndarray) -> np.ndarray:
        found_BTV, frames_B = recogniser.log_probs(torch.from_numpy(wave_S)[None], torch.tensor([len(wave_S)]))
        return found_BTV[0, : int(frames_B[0])].numpy()

    return Judge(str(folder), recogniser.tokens, recogniser.normaliser, log_probs, align_sooner)


@dataclass(frozen=True)
class Judged:
    """A pair: its place, by how much the label is less likely than what is heard (nats a letter, and in all), errors a letter,
    and what is heard."""

    place: int
    gap: float
    nats: float
    errors: float
    heard: str


def judge(labels: Labels, judge: Judge) -> Iterator[Judged]:
    """Every pair that can be judged; a label that does not fit its frames has an infinite gap.

    The gap is the log-probability of the best path less that of the best path that spells the label, per letter of it.
    """
    require_head(judge.tokens, (judge.normaliser(text) for text in labels.texts), judge.name)
    for place, row in enumerate(labels.rows):
        text = judge.normaliser(labels.texts[place])
        ids = judge.tokens.encode(text, skip_unknown=True)
        if not ids:
            continue
        try:
            log_probs_TV = judge.log_probs(labels.corpus.wave(int(row)))
        except AudioError:
            continue
        heard = transcript(best_path(log_probs_TV), judge.tokens)
        errors = character_errors(text, heard).rate
        try:
            path_T = judge.align(log_probs_TV, ids)
        except ValueError:
            yield Judged(place, float("inf"), float("inf"), errors, heard)
            continue
        spoken_T = np.where(path_T >= 0, np.asarray(ids)[path_T], 0)
        spelled = float(log_probs_TV[np.arange(len(path_T)), spoken_T].sum())
        nats = float(log_probs_TV.max(1).sum()) - spelled
        yield Judged(place, nats / len(ids), nats, errors, heard)


def suspects(judged: list[Judged]) -> list[Judged]:
    """The pairs that fall out of the ordinary, the worst first."""
    if not judged:
        return []
    gaps = np.array([j.gap for j in judged])
    finite = gaps[np.isfinite(gaps)]
    if not len(finite):
        return []
    middle = float(np.median(finite))
    deviation = 1.4826 * float(np.median(np.abs(finite - middle)))
    beyond = middle + FAR * max(deviation, 1e-3)
    found = [j for j in judged if j.gap > beyond and j.errors >= MISHEARD and j.nats >= UNLIKELY]
    return sorted(found, key=lambda j: -j.gap)


def check_pairs(labels: Labels, folder: Path) -> tuple[list[Finding], list[Example], list[int]]:
    """The finding, all suspects with what is heard in them, and their places."""
    found = suspects(list(judge(labels, load_judge(folder))))
    examples = [Example(int(labels.rows[j.place]), f"heard: {j.heard or 'nothing'}") for j in found]
    if not found:
        return [Finding("pairs", "fine", f"{folder} hears in every clip something like its label")], [], []
    what = f"in {plural(len(found), 'clip')} {folder} hears something else than the label says"
    fix = "listen to them on the page; --fix takes these labels off"
    return [Finding("pairs", "look", what, fix, examples[:5], True)], examples, [j.place for j in found]
