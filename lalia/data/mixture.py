"""Read several corpora as one: consecutive row numbers, languages merged by name, held-out audio for validation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.data.corpus import SPLITS, Corpus, Recordings
from lalia.data.prepare.splits import choose_recordings, gap_of
from lalia.errors import UserError
from lalia.text.language_codes import (
    describe_language,
    iso_639_3,
    language_name,
    language_not_in_corpus,
    match_languages,
)
from lalia.units import Seconds


def resolve_languages(asked: Sequence[str], folders: Sequence[str | Path], flag: str, tell: bool = True) -> list[str]:
    """``asked`` (codes, locales or English names) by the codes that the corpora in ``folders`` have.

    Where one is there as the macrolanguage it is a part of (``swh`` as ``swa``), or as its only part, that is taken; a line on
    stderr says so if ``tell``. What is not there at all stays, to be refused by ``select``.
    """
    there = {name for folder in folders for name in Corpus.load(folder).language_names} if asked else set()
    taken = match_languages(asked, there)
    for name, code in zip(asked, taken, strict=True):
        if name != code and tell:
            same = code not in there or code == iso_639_3(name)
            kin = f"{flag} {name}: the corpus is in {code} ({language_name(code)}), which is taken"
            print(describe_language(name, code) if same else kin, file=sys.stderr)
    return list(dict.fromkeys(taken))


NO_SPLIT = -1
"""The code of clips that a mixture uses for nothing."""
_VALIDATION = 0.05
"""The share of the audio that is validated on where no split says what."""


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
            raise language_not_in_corpus(f"{flag} {unknown[0]}", unknown[0], self.language_names)

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

    def hold_out_recordings(self, languages: Sequence[str] = (), min_s: Seconds = 0.0) -> str:
        """Where ``languages`` (none given = all) have no dev clip of ``min_s`` or more, move some of their training clips there:
        whole recordings by a hash of their names, or the last clips of the longest one, behind a gap that is in no split.

        The same corpora give the same clips, in every process. Returns in a sentence what was done, "" where nothing was;
        a ``UserError`` where there is one clip alone.
        """
        self.require(languages, "--data.language")
        wanted = np.ones(len(self), bool)
        if languages:
            wanted &= np.isin(self.languages, [self.language_names.index(name) for name in languages])
        train, dev = (wanted & (self.splits == SPLITS.index(split)) for split in ("train", "dev"))
        if (dev & (self.durations_s >= min_s)).any() or not train.any():
            return ""
        held: list[int] = []
        gap: list[int] = []
        for which, corpus in enumerate(self.corpora):
            here = slice(self.starts[which], self.starts[which + 1])
            if not train[here].any():
                continue
            found = corpus.recordings()
            for language in np.unique(self.languages[here][train[here]]):
                rows = np.flatnonzero(train[here] & (self.languages[here] == language))
                for taken, more in zip((held, gap), _last_resort(found, rows, corpus.durations_s), strict=True):
                    taken += (more + self.starts[which]).tolist()
        where = ", ".join(str(corpus.folder) for corpus in self.corpora)
        if not held:
            raise UserError(
                f"{where}: holds one clip alone to train on, and validation needs another; prepare more audio, or cut this "
                "recording into utterances (`lalia prepare`, without --cut never)"
            )
        self.splits[held] = SPLITS.index("dev")
        self.splits[gap] = NO_SPLIT
        minutes, total = (float(self.durations_s[rows].sum()) / 60 for rows in (held, train))
        return (
            f"{where}: no dev split; {len(held):,} clips, {minutes:.1f} of {total:.1f} minutes, are held out for validation, by "
            f"recording and always the same ones" + (f"; {len(gap):,} in gaps before them are left out" if gap else "")
        )

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


def _last_resort(found: Recordings, rows: np.ndarray, durations_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of training ``rows`` of one corpus and language, those to validate on and those to leave out beside them."""
    nothing = np.zeros(0, np.int64)
    codes = found.codes[rows]
    seconds_R = np.bincount(codes, durations_s[rows].astype(np.float64))
    present = np.unique(codes)
    named = {found.names[code]: float(seconds_R[code]) for code in present.tolist()}
    choice = choose_recordings(named, {"dev": _VALIDATION})
    if choice.whole:
        return rows[[found.names[code] in choice.whole for code in codes.tolist()]], nothing
    longest = max(present.tolist(), key=lambda code: (seconds_R[code], found.names[code]))
    inside = rows[(codes == longest) & ~np.isnan(found.starts_s[rows])]
    if len(inside) > 1:
        inside = inside[np.argsort(found.starts_s[inside], kind="stable")]
        behind_s = np.cumsum(durations_s[inside][::-1].astype(np.float64))
        enough = int(np.searchsorted(behind_s, _VALIDATION * sum(named.values()))) + 1
        held = inside[-min(enough, len(inside) - 1) :]
        gap_s = gap_of(float(found.ends_s[inside[-1]]))
        before = inside[: -len(held)]
        gap = before[found.ends_s[before] > found.starts_s[held[0]] - gap_s]
        return held, gap if len(gap) < len(rows) - len(held) else nothing
    if len(present) > 1:
        shortest = min(present.tolist(), key=lambda code: (seconds_R[code], found.names[code]))
        return rows[codes == shortest], nothing
    return nothing, nothing
