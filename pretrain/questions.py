"""What a corpus can ask of frozen features: language, speaker and letters, of the same clips for every layer of every encoder.

T frames, D dimensions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lalia.data.corpus import SPLITS
from lalia.data.labels import encoder_of
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.exits import UserError
from lalia.text.language_names import meant
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.training.seeds import mix
from pretrain.linear import classify, read_letters

BASELINE = "log-mel"
SHORTEST_S = 0.3
FEWEST = 8
"""clips that a speaker needs to be asked for"""


@dataclass
class ProbeRow:
    """What one layer gave; None where the corpus cannot ask that."""

    encoder: str
    layer: str
    language: float | None = None
    """held-out accuracy"""
    speaker: float | None = None
    """held-out accuracy"""
    cer: float | None = None
    """held-out character error rate"""


@dataclass
class Probe:
    """The table of a probe, and what it was made from."""

    rows: list[ProbeRow] = field(default_factory=list)
    languages: int = 0
    speakers: int = 0
    chance_language: float = 0.0
    chance_speaker: float = 0.0
    letters_of: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Groups:
    """Clips whose class is asked for: rows and classes to learn from, and held-out ones."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray

    @property
    def classes(self) -> int:
        return len(set(self.train_classes.tolist()))

    @property
    def chance(self) -> float:
        """Accuracy of always naming the commonest class of the held-out clips."""
        return float(np.bincount(self.test_classes).max() / len(self.test_classes)) if len(self.test_classes) else 0.0

    @property
    def possible(self) -> bool:
        return self.classes > 1 and len(self.test) > 0


class Questions:
    """What a corpus can be asked, and the clips to ask it of; every layer gets the same."""

    def __init__(self, mixture: Mixture, ask: argparse.Namespace) -> None:
        self.mixture, self.steps, self.seed = mixture, ask.steps, ask.seed
        self.notes: list[str] = []
        self._random = np.random.default_rng(mix(ask.seed, "probe clips"))
        longest_s = float(ask.max_s)
        untested = not (mixture.splits == SPLITS.index("test")).any()
        if untested and (note := mixture.hold_out_recordings(min_s=SHORTEST_S)):
            self.notes.append(note)
        train = self._random.permutation(mixture.select("train", min_s=SHORTEST_S, max_s=longest_s))
        held = self._random.permutation(self._held_out(longest_s))
        self.languages = Groups(*self._some(train, ask.clips), *self._some(held, max(1, ask.clips // 2)))
        self.speakers = self._speakers(train, ask.clips)
        if not self.languages.possible:
            self.notes.append("language: the corpus has one language; not asked")
        if not self.speakers.possible:
            self.notes.append(f"speaker: fewer than two speakers have {FEWEST} clips; not asked")
        elif self._speakers_are_languages():
            self.notes.append(
                "speaker: every speaker has a language alone, so that speaker and language are one question"
            )
        self.letters_of = self._language_of_letters(ask.language, train)
        self.letters_train = self._letters(train, ask.minutes)
        self.letters_test = self._letters(held, ask.minutes / 3)
        if not len(self.letters_train) or not len(self.letters_test):
            self.letters_of = ""
            self.notes.append("letters: no labelled clips to learn from and to hold out; not asked")
        normaliser = Normaliser()
        self._texts = {int(r): normaliser(mixture.text(int(r))) for r in (*self.letters_train, *self.letters_test)}
        self.tokens = Tokens.from_texts([self._texts[int(r)] for r in self.letters_train] or ["a"])
        self._encode = encoder_of(self.tokens, normaliser)

    def ask(
        self, encoder: str, layers: list[str], features: Callable[[Tensor, Tensor], list[list[Tensor]]]
    ) -> list[ProbeRow]:
        """A row for each of ``layers``; ``features`` gives, for a batch, each layer's list of (T, D), one per clip."""
        means, frames = self._read(features, len(layers))
        rows = []
        for i, name in enumerate(layers):
            row = ProbeRow(encoder, name)
            for question, groups in (("language", self.languages), ("speaker", self.speakers)):
                if groups.possible:
                    x, y = (np.stack([means[i][int(r)] for r in part]) for part in (groups.train, groups.test))
                    setattr(row, question, classify(x, groups.train_classes, y, groups.test_classes).accuracy)
            if self.letters_of:
                row.cer = read_letters(
                    [frames[i][int(r)] for r in self.letters_train], [self._texts[int(r)] for r in self.letters_train],
                    [frames[i][int(r)] for r in self.letters_test], [self._texts[int(r)] for r in self.letters_test],
                    self.tokens, self._encode, self.steps, self.seed,
                )  # fmt: skip
            rows.append(row)
            print(f"probed {encoder or BASELINE} {name}", file=sys.stderr, flush=True)
        return rows

    @torch.inference_mode()
    def _read(
        self, features: Callable[[Tensor, Tensor], list[list[Tensor]]], layers: int
    ) -> tuple[list[dict[int, np.ndarray]], list[dict[int, Tensor]]]:
        """For each layer, the mean over time of every clip (D,), and the frames (T, D) of those whose letters are asked."""
        parts = (self.languages.train, self.languages.test, self.speakers.train, self.speakers.test)
        letters = {int(r) for part in (self.letters_train, self.letters_test) for r in part}
        rows = sorted({int(r) for part in parts for r in part} | letters)
        means: list[dict[int, np.ndarray]] = [{} for _ in range(layers)]
        frames: list[dict[int, Tensor]] = [{} for _ in range(layers)]
        for batch in make_eval_loader(self.mixture, rows, 60.0):
            for i, clips in enumerate(features(batch.wave_BS, batch.lengths_B)):
                for row, clip_TD in zip(batch.rows_B.tolist(), clips, strict=True):
                    means[i][row] = clip_TD.float().mean(0).numpy()
                    if row in letters:
                        frames[i][row] = clip_TD.half()  # half the memory, and more digits than a probe can use
        return means, frames

    def _held_out(self, longest_s: float) -> np.ndarray:
        try:
            return self.mixture.select("test", min_s=SHORTEST_S, max_s=longest_s)
        except UserError:
            return self.mixture.select("dev", min_s=SHORTEST_S, max_s=longest_s)

    def _some(self, rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """At most ``most`` of ``rows`` of each language, and their languages."""
        kept = [
            r
            for code in np.unique(self.mixture.languages[rows])
            for r in rows[self.mixture.languages[rows] == code][:most]
        ]
        return np.array(kept, np.int64), self.mixture.languages[kept].astype(np.int64)

    def _speakers(self, rows: np.ndarray, most: int) -> Groups:
        """Speakers of the training clips: three of four of each one's clips to learn from, the fourth held out."""
        by: dict[str, list[int]] = {}
        for row in rows.tolist():
            by.setdefault(self.mixture.speaker(row), []).append(row)
        known = sorted(name for name, clips in by.items() if name and len(clips) >= FEWEST)[:200]
        train = [(r, i) for i, name in enumerate(known) for n, r in enumerate(by[name][:most]) if n % 4 != 3]
        test = [(r, i) for i, name in enumerate(known) for n, r in enumerate(by[name][:most]) if n % 4 == 3]
        columns = [
            np.array(column, np.int64)
            for part in (train, test)
            for column in (zip(*part, strict=True) if part else ([], []))
        ]
        return Groups(*columns)

    def _speakers_are_languages(self) -> bool:
        pairs = {
            (int(self.mixture.languages[r]), int(c))
            for r, c in zip(self.speakers.train, self.speakers.train_classes, strict=True)
        }
        return len(pairs) == len({language for language, _ in pairs}) == self.speakers.classes

    def _language_of_letters(self, wanted: str, train: np.ndarray) -> str:
        labelled = train[self.mixture.labelled[train]]
        if wanted:
            (code,) = meant([wanted], self.mixture.language_names)
            self.mixture.require([code], "--language")
            return code
        if not len(labelled):
            return ""
        seconds = np.bincount(self.mixture.languages[labelled], self.mixture.durations_s[labelled])
        return self.mixture.language_names[int(seconds.argmax())]

    def _letters(self, rows: np.ndarray, minutes: float) -> np.ndarray:
        if not self.letters_of:
            return np.zeros(0, np.int64)
        of = self.mixture.language_names.index(self.letters_of)
        chosen = rows[self.mixture.labelled[rows] & (self.mixture.languages[rows] == of)]
        return chosen[np.cumsum(self.mixture.durations_s[chosen]) <= 60 * minutes]
