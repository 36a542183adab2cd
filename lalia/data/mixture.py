"""Several corpora read as one: rows are numbered through, languages are merged by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.data.corpus import SPLITS, Corpus
from lalia.exits import UserError
from lalia.text.codes import hint, meant, name_of


def languages_meant(asked: Sequence[str], folders: Sequence[str | Path], flag: str, tell: bool = True) -> list[str]:
    """``asked`` by the codes that the corpora in ``folders`` have.

    Where one is there as the macrolanguage it is a part of (``swh`` as ``swa``), or as its only part, that is taken; a line on
    stderr says so if ``tell``. What is not there at all stays, to be refused by ``select``.
    """
    there = {name for folder in folders for name in Corpus.load(folder).language_names} if asked else set()
    taken = meant(asked, there)
    for name, code in zip(asked, taken, strict=True):
        if name != code and tell:
            print(f"{flag} {name}: the corpus is in {code} ({name_of(code)}), which is taken", file=sys.stderr)
    return taken


class Mixture:
    """Corpora end to end, with the reading members of one corpus.

    ``durations_s`` (N,) float32, ``languages`` (N,) int16 codes into ``language_names``, ``groups`` (N,) int32: one number per
    (corpus, language), which is what the batch plan balances.
    """

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self.corpora = list(corpora)
        self.starts = np.cumsum([0, *(len(corpus) for corpus in corpora)])
        self.language_names = sorted({name for corpus in corpora for name in corpus.language_names})
        self.durations_s = np.concatenate([corpus.durations_s for corpus in corpora])
        self.splits = np.concatenate([corpus.splits for corpus in corpora])
        self.labelled = np.concatenate([corpus.labelled for corpus in corpora])
        self.languages = np.concatenate([self._merged(corpus) for corpus in corpora])
        which = np.repeat(np.arange(len(corpora), dtype=np.int32), np.diff(self.starts))
        self.groups = which * len(self.language_names) + self.languages

    @classmethod
    def load(cls, folders: Sequence[str | Path]) -> Mixture:
        """Open every corpus of ``folders``."""
        if not folders:
            raise UserError("--data.corpus is missing: give the folder of a corpus made by `lalia prepare`")
        return cls([Corpus.load(folder) for folder in folders])

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The corpora's cards, to be the parents of what is trained on them."""
        return [corpus.card for corpus in self.corpora]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def require(self, languages: Sequence[str], flag: str) -> None:
        """Raise a ``UserError``, beginning with ``flag``, that names the first of ``languages`` that no corpus has."""
        if unknown := [name for name in languages if name not in self.language_names]:
            raise UserError(
                f"{flag} {unknown[0]}: not in the corpus, which has {', '.join(self.language_names)}"
                f"{hint(unknown[0], self.language_names)}"
            )

    def select(
        self, split: str, languages: Sequence[str] = (), *, labelled: bool | None = None,
        min_s: float = 0.0, max_s: float = float("inf"),
    ) -> np.ndarray:  # fmt: skip
        """Row numbers of ``split`` in ``languages`` (none given = all) that last ``min_s`` to ``max_s``; a ``UserError``
        where a language is unknown or nothing is left."""
        self.require(languages, "--data.language")
        keep = (self.splits == SPLITS.index(split)) & (self.durations_s >= min_s) & (self.durations_s <= max_s)
        if languages:
            keep &= np.isin(self.languages, [self.language_names.index(name) for name in languages])
        if labelled is not None:
            keep &= self.labelled == labelled
        rows = np.flatnonzero(keep)
        if not len(rows):
            where = ", ".join(str(corpus.folder) for corpus in self.corpora)
            kind = {None: "", True: "labelled ", False: "unlabelled "}[labelled]
            raise UserError(
                f"{where}: no {kind}{split} clips of {min_s} to {max_s:g} s in {', '.join(languages) or 'any language'}; "
                "see what is there with `lalia inspect`"
            )
        return rows

    def wave(self, row: int) -> np.ndarray:
        """The wave of ``row``; ``AudioError`` names a clip that cannot be read."""
        corpus, local = self._at(row)
        return corpus.wave(local)

    def text(self, row: int) -> str:
        corpus, local = self._at(row)
        return corpus.text(local)

    def id(self, row: int) -> str:
        corpus, local = self._at(row)
        return corpus.id(local)

    def language(self, row: int) -> str:
        return self.language_names[self.languages[row]]

    def speaker(self, row: int) -> str:
        corpus, local = self._at(row)
        return corpus.speaker(local)

    def _at(self, row: int) -> tuple[Corpus, int]:
        which = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.corpora[which], int(row - self.starts[which])

    def _merged(self, corpus: Corpus) -> np.ndarray:
        merged = np.array([self.language_names.index(name) for name in corpus.language_names], np.int16)
        return merged[corpus.languages]
