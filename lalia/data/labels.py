"""Choose the labelled clips of a training run and turn their texts into tokens."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.units import Seconds

LONGEST_TEST_S: Seconds = 60.0
"""Test clips up to this length are transcribed whole."""


def choose_minutes(mixture: Mixture, rows: np.ndarray, minutes: float) -> np.ndarray:
    """As many of ``rows`` as ``minutes`` hold, in the order of a hash of their ids: the same clips on every machine, and a
    smaller budget always inside a larger one. 0 minutes = all rows."""
    if minutes <= 0:
        return rows
    order = sorted(rows.tolist(), key=lambda row: hashlib.sha256(mixture.id(row).encode()).digest())
    durations = mixture.durations_s[order].cumsum()
    if durations[-1] < 60 * minutes * 0.999:
        raise UserError(
            f"labels.minutes {minutes:g}: the corpus has {durations[-1] / 60:.1f} minutes of labelled training audio; "
            "ask for fewer, or 0 for all"
        )
    count = max(1, int(np.searchsorted(durations, 60 * minutes, side="right")))
    return np.array(sorted(order[:count]), np.int64)


def clips_digest(mixture: Mixture, rows: np.ndarray) -> str:
    """``sha256:…`` of the ids of ``rows``: whether two runs learned from the same clips."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(mixture.id(int(row)) for row in rows)).encode()).hexdigest()


def label_encoder(tokens: Tokens, normaliser: Normaliser) -> Callable[[str, str], list[int]]:
    """(text, language) -> token ids; characters the training labels never had are left out (they can never be right)."""

    def encode(text: str, language: str) -> list[int]:
        return tokens.encode(normaliser.for_language(language)(text), skip_unknown=True)

    return encode


def normalised_label(mixture: Mixture, row: int, normaliser: Normaliser) -> str:
    """The label of ``row``, normalised by the rules of the clip's language."""
    return normaliser.for_language(mixture.language(row))(mixture.text(row))


def describe_excluded(
    mixture: Mixture, split: str, languages: Sequence[str], min_s: Seconds, max_s: Seconds, labelled: bool | None = True
) -> str:
    """In brackets how many clips of ``split`` are not used, and why; "" where all are."""
    rows = mixture.select(split, languages, labelled=labelled)
    durations_s = mixture.durations_s[rows]
    counts = {
        f"longer than data.max_s {max_s:g} s": int((durations_s > max_s).sum()),
        f"shorter than data.min_s {min_s:g} s": int((durations_s < min_s).sum()),
    }
    told = " and ".join(f"{count} {why}" for why, count in counts.items() if count)
    return f" (of {len(rows)}{' labelled ones' if labelled else ''} {told} left out)" if told else ""


def held_out_rows(
    mixture: Mixture, languages: Sequence[str], min_s: Seconds, max_s: Seconds, leader: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The labelled rows of the dev split that validation uses, and those of the test split that are scored when a run ends.

    The ``leader`` prints a note about those that are left out.
    """
    if leader:
        note_excluded_dev_clips(mixture, languages, min_s, max_s)
    dev = mixture.select("dev", languages, labelled=True, min_s=min_s, max_s=max_s)
    return dev, scored_test_rows(mixture, languages, min_s, max_s, leader)


def note_excluded_dev_clips(mixture: Mixture, languages: Sequence[str], min_s: Seconds, max_s: Seconds) -> None:
    """Print on stderr which labelled dev clips are not validated on: a label is all of its clip's, so none is cropped."""
    if told := describe_excluded(mixture, "dev", languages, min_s, max_s):
        print(f"note: validation uses the dev clips that training could use{told}", file=sys.stderr)


def scored_test_rows(
    mixture: Mixture, languages: Sequence[str], min_s: Seconds, max_s: Seconds, leader: bool
) -> np.ndarray:
    """The rows of the test split that are transcribed whole when a run ends; longer ones are named, since a training of hours
    must not end in a clip that no memory holds. ``lalia finetune eval`` reads those as well, window by window."""
    limit = max(max_s, LONGEST_TEST_S)
    rows = mixture.select("test", languages, labelled=True, min_s=min_s)
    long = rows[mixture.durations_s[rows] > limit]
    if len(long) and leader:
        print(
            f"note: {len(long)} of {len(rows)} test clips last more than {limit:g} s ({mixture.id(int(long[0]))}); "
            "lalia finetune eval reads those too, in parts",
            file=sys.stderr,
        )
    return mixture.select("test", languages, labelled=True, min_s=min_s, max_s=limit)


class LabelSubset:
    """A mixture whose texts are shown for ``rows`` alone; every other clip reads as unlabelled."""

    def __init__(self, mixture: Mixture, rows: np.ndarray) -> None:
        self._mixture = mixture
        self._rows = frozenset(rows.tolist())

    def text(self, row: int) -> str:
        return self._mixture.text(row) if row in self._rows else ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a worker process unpickles this, the mixture is not there yet
            raise AttributeError(name)
        return getattr(self._mixture, name)
