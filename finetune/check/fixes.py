"""Fixes: what ``check --fix`` changes in a corpus, and the corpus it writes."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.check.clips import (
    beyond_frames,
    is_closed,
    leaking,
    rate_outliers,
    same_recordings,
    silent_labels,
    without_speech,
)
from finetune.check.findings import DEV, TEST, TRAIN, Checked, Labels
from finetune.check.text import main_script, only_marks
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.listing import Clip, Dropped
from lalia.data.prepare.pipeline import rewrite
from lalia.data.prepare.splits import LEAST_HELD_OUT, MOST_PERCENT, assign_splits
from lalia.text.marks import find_marks, without_marks
from lalia.text.unicode import is_unreadable, mend, mend_encoding

CHANGED = "changed.tsv"
"""Every label and split that was changed: clip, why, before, after."""
WORTH_LOSING = 0.2
"""Share of the training clips that may lose their labels to a leak; beyond it the splits are made anew."""


@dataclass
class Fixes:
    """What is to be changed: new values by row and column, rows to leave out, and why."""

    changes: dict[int, dict[str, str]] = field(default_factory=dict)
    dropped: dict[int, Dropped] = field(default_factory=dict)
    told: list[tuple[str, str, str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def text(self, labels: Labels, place: int, new: str, why: str) -> None:
        """Write another label; ``""`` takes it off. The first reason to take one off is the one that counts."""
        row = int(labels.rows[place])
        old = self.changes.get(row, {}).get("text", labels.texts[place])
        if row in self.dropped or old == new or not old:
            return
        self.changes.setdefault(row, {})["text"] = new
        self._tell(labels.corpus.id(row), why, old, new)

    def split(self, corpus: Corpus, row: int, new: str, why: str) -> None:
        """Move a clip to another split."""
        old = SPLITS[corpus.splits[row]]
        if row not in self.dropped and old != new:
            self.changes.setdefault(row, {})["split"] = new
            self._tell(corpus.id(row), why, old, new)

    def drop(self, corpus: Corpus, row: int, why: str, detail: str = "") -> None:
        """Leave a clip out altogether."""
        if row not in self.dropped:
            self.dropped[row] = Dropped(corpus.id(row), why, detail)
            self.reasons[f"clip left out: {why}"] += 1

    def _tell(self, id: str, why: str, old: str, new: str) -> None:
        self.told.append((id, why, old, new))
        self.reasons[f"label taken off: {why}" if not new else why] += 1


def plan_fixes(checked: list[Checked], suspects: dict[str, list[int]]) -> Fixes:
    """All that the findings ask for; ``suspects`` are places by language whose label is not what is heard."""
    fixes = Fixes()
    for found in checked:
        labels = found.labels
        _doubles(fixes, labels)
        _texts(fixes, labels)
        for why, places in (
            ("says nothing", silent_labels(labels)),
            ("longer than its frames", beyond_frames(labels, found.vocabulary) if found.vocabulary else []),
            ("no speech", without_speech(labels)),
            ("far too fast or slow", rate_outliers(labels)),
            ("something else is heard", suspects.get(labels.language, [])),
        ):
            for place in places:
                fixes.text(labels, place, "", why)
        _splits(fixes, labels)
    return fixes


def apply_fixes(corpus: Corpus, fixes: Fixes, out: Path) -> dict[str, Any]:
    """Write the corpus with ``fixes`` to ``out`` and return its card; ``changed.tsv`` lists what was changed."""
    rows = np.array([row for row in range(len(corpus)) if row not in fixes.dropped], np.int64)
    changes = {row: values for row, values in fixes.changes.items() if row not in fixes.dropped}
    facts = {"fixed": dict(fixes.reasons.most_common())}
    return rewrite(corpus, out, rows, changes, list(fixes.dropped.values()), {CHANGED: table_of(fixes)}, **facts)


def table_of(fixes: Fixes) -> str:
    """``changed.tsv``."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(["clip", "why", "before", "after"])
    table.writerows([" ".join(value.split()) for value in told] for told in fixes.told)
    return text.getvalue()


def clean(text: str, script: str = "") -> str:
    """A label as it should have been written: rightly decoded, in NFC, nothing invisible, look-alikes mended."""
    text = unicodedata.normalize("NFC", mend_encoding(text))
    # Joiners stay where they part letters (Persian, Indic); the normaliser knows what to do with them.
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c in "\u200c\u200d\t\n")
    return " ".join(mend(text, script).split())


def _texts(fixes: Fixes, labels: Labels) -> None:
    script = main_script(labels)
    for place, text in enumerate(labels.texts):
        if is_unreadable(mend_encoding(text)):
            fixes.text(labels, place, "", "unreadable bytes")
            continue
        mended = mend_encoding(text)
        if mended != text:
            fixes.text(labels, place, clean(text, script), "encoding")
        elif clean(text, script) != text:
            alike = mend(text, script) != text
            fixes.text(labels, place, clean(text, script), "look-alikes" if alike else "unicode")
        written = fixes.changes.get(int(labels.rows[place]), {}).get("text", text)
        if find_marks(written):
            alone = only_marks(written)
            why = "nothing but transcribers' marks" if alone else "transcribers' marks"
            fixes.text(labels, place, "" if alone else without_marks(written), why)


def _doubles(fixes: Fixes, labels: Labels) -> None:
    """Of recordings that are there twice the test's stays, else dev's, else the first."""
    order = {TEST: 0, DEV: 1, TRAIN: 2}
    for group in same_recordings(labels.corpus, labels.rows):
        ranked = sorted(group, key=lambda row: (order[int(labels.corpus.splits[row])], row))
        for row in ranked[1:]:
            fixes.drop(labels.corpus, row, "duplicate", f"same samples as {labels.corpus.id(ranked[0])}")


def _splits(fixes: Fixes, labels: Labels) -> None:
    """New splits where one is missing or the leak is large; else the labels of the leaking training clips go."""
    kept = [
        p for p, row in enumerate(labels.rows)
        if int(row) not in fixes.dropped and fixes.changes.get(int(row), {}).get("text", labels.texts[p])
    ]  # fmt: skip
    if not kept:
        return
    codes = Counter(int(labels.splits[p]) for p in kept)
    leaks = [] if is_closed(labels) else leaking(labels)
    missing = [code for code in (DEV, TEST) if not codes[code]]
    few = len(leaks) <= WORTH_LOSING * codes[TRAIN]
    if few:
        for place in leaks:
            fixes.text(labels, place, "", "said in dev or test")
    if few and codes[TRAIN] and not missing:
        return
    if few and len(missing) == 1 and codes[TRAIN]:  # The held-out split that is there stays as its makers had it.
        leaking_too = set(leaks)
        kept = [p for p in kept if labels.splits[p] == TRAIN and p not in leaking_too]
        shares = {code: None if code in missing else 0.0 for code in (DEV, TEST)}
    else:  # As large as they were, if they were large enough.
        shares = {
            code: min(100 * codes[code] / len(kept), MOST_PERCENT) if codes[code] >= LEAST_HELD_OUT else None
            for code in (DEV, TEST)
        }
    clips = [
        Clip(
            labels.corpus.id(int(labels.rows[p])), "", labels.language, text=labels.texts[p], speaker=labels.speakers[p],
            duration_s=float(labels.durations_s[p]),
        )
        for p in kept
    ]  # fmt: skip
    assigned, _ = assign_splits(clips, shares[DEV], shares[TEST])
    for place, clip in zip(kept, assigned, strict=True):
        fixes.split(labels.corpus, int(labels.rows[place]), clip.split, "new splits")
