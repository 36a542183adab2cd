"""Automatic fixes (``lalia finetune check --fix``): which labels, splits and clips change, and the corpus with the changes."""

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
    empty_labels,
    is_closed,
    leaking,
    rate_outliers,
    same_recordings,
    without_speech,
)
from finetune.check.findings import DEV, TEST, TRAIN, Checked, Labels
from finetune.check.text import main_script, repair_shapes
from finetune.check.transcribers import only_marks, speaker_codes, without_speaker_code
from lalia.align.pieces import read_corrections
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.listing import Dropped, SourceClip
from lalia.data.prepare.pipeline import rewrite
from lalia.data.prepare.splits import LEAST_HELD_OUT, MOST_PERCENT, assign_splits
from lalia.errors import UserError
from lalia.text.marks import find_marks, strip_marks
from lalia.text.unicode import is_unreadable, repair_encoding, repair_look_alikes

CHANGED = "changed.tsv"
"""Table of all changed labels and splits: clip, why, before, after."""
WORTH_LOSING = 0.2
"""Largest share of training clips that may lose their labels because of a leak; above it, new splits are made."""


@dataclass
class Fixes:
    """Planned changes: new values by row and column, rows to drop, and the reasons."""

    changes: dict[int, dict[str, str]] = field(default_factory=dict)
    dropped: dict[int, Dropped] = field(default_factory=dict)
    log: list[tuple[str, str, str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def text(self, labels: Labels, place: int, new: str, why: str) -> None:
        """Replace a label; ``""`` removes it. The first reason for a removal is kept."""
        row = int(labels.rows[place])
        old = self.changes.get(row, {}).get("text", labels.texts[place])
        if row in self.dropped or old == new or not old:
            return
        self.changes.setdefault(row, {})["text"] = new
        self._record(labels.corpus.id(row), why, old, new)

    def split(self, corpus: Corpus, row: int, new: str, why: str) -> None:
        """Move a clip to another split."""
        old = SPLITS[corpus.splits[row]]
        if row not in self.dropped and old != new:
            self.changes.setdefault(row, {})["split"] = new
            self._record(corpus.id(row), why, old, new)

    def drop(self, corpus: Corpus, row: int, why: str, detail: str = "") -> None:
        """Drop a clip."""
        if row not in self.dropped:
            self.dropped[row] = Dropped(corpus.id(row), why, detail)
            self.reasons[f"clip dropped: {why}"] += 1

    def _record(self, id: str, why: str, old: str, new: str) -> None:
        self.log.append((id, why, old, new))
        self.reasons[f"label removed: {why}" if not new else why] += 1


def plan_fixes(checked: list[Checked], wrong_labels: dict[str, list[int]], corrections: Path | None = None) -> Fixes:
    """The changes for all fixable findings; ``wrong_labels`` are places of clips with a likely wrong label, by language.

    A listener's ``corrections`` (a table) come first, and a clip that has one counts as right.
    """
    fixes = Fixes()
    decided = _corrections(fixes, checked, corrections) if corrections else {}
    wrong_labels = {
        language: [place for place in places if place not in decided[language]] if decided else places
        for language, places in wrong_labels.items()
    }
    for found in checked:
        labels = found.labels
        _duplicates(fixes, labels)
        _texts(fixes, labels)
        for why, places in (
            ("empty label", empty_labels(labels)),
            ("more letters than frames", beyond_frames(labels, found.vocabulary) if found.vocabulary else []),
            ("no speech", without_speech(labels)),
            ("far too fast or slow", rate_outliers(labels)),
            ("likely wrong label", wrong_labels.get(labels.language, [])),
        ):
            for place in places:
                fixes.text(labels, place, "", why)
        _splits(fixes, labels)
    return fixes


def _corrections(fixes: Fixes, checked: list[Checked], path: Path) -> dict[str, set[int]]:
    """Make the corrections of the table ``path``; the places of the clips that have one, by language."""
    decisions = {one.piece: one for one in read_corrections(path)}
    places: dict[str, set[int]] = {}
    unknown = set(decisions)
    for found in checked:
        labels = found.labels
        ids = [labels.corpus.id(int(row)) for row in labels.rows]
        places[labels.language] = {place for place, id in enumerate(ids) if id in decisions}
        unknown -= set(ids)
        for place in sorted(places[labels.language]):
            one = decisions[ids[place]]
            if one.decision == "correct":
                fixes.text(labels, place, one.text, "corrected by a listener")
            elif one.decision == "refuse":
                fixes.text(labels, place, "", "refused by a listener")
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(decisions)} corrections name no labelled clip of this corpus, such as "
            f"{min(unknown)!r}; are they of another corpus?"
        )
    return places


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
    table.writerows([" ".join(value.split()) for value in change] for change in fixes.log)
    return text.getvalue()


def clean(text: str, script: str = "") -> str:
    """A label with encoding errors and look-alikes fixed, in NFC, without invisible characters."""
    text = unicodedata.normalize("NFC", repair_shapes(repair_encoding(text)))
    # Joiners stay, because Persian and Indic scripts need them; the normaliser handles them.
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c in "\u200c\u200d\t\n")
    return " ".join(repair_look_alikes(text, script).split())


def _texts(fixes: Fixes, labels: Labels) -> None:
    script = main_script(labels)
    for place, text in without_speaker_code(labels, speaker_codes(labels)).items():
        fixes.text(labels, place, text, "speaker code")
    for place, given in enumerate(labels.texts):
        text = fixes.changes.get(int(labels.rows[place]), {}).get("text", given)
        if is_unreadable(repair_encoding(text)):
            fixes.text(labels, place, "", "unreadable bytes")
            continue
        decoded = repair_encoding(text)
        if decoded != text:
            fixes.text(labels, place, clean(text, script), "encoding")
        elif clean(text, script) != text:
            alike = repair_look_alikes(text, script) != text
            fixes.text(labels, place, clean(text, script), "look-alikes" if alike else "unicode")
        written = fixes.changes.get(int(labels.rows[place]), {}).get("text", text)
        if find_marks(written):
            alone = only_marks(written)
            why = "only transcribers' marks" if alone else "transcribers' marks"
            fixes.text(labels, place, "" if alone else strip_marks(written), why)


def _duplicates(fixes: Fixes, labels: Labels) -> None:
    """Keep one of each duplicate recording: that of test, else of dev, else the first."""
    order = {TEST: 0, DEV: 1, TRAIN: 2}
    for group in same_recordings(labels.corpus, labels.rows):
        ranked = sorted(group, key=lambda row: (order[int(labels.corpus.splits[row])], row))
        for row in ranked[1:]:
            fixes.drop(labels.corpus, row, "duplicate", f"same samples as {labels.corpus.id(ranked[0])}")


def _splits(fixes: Fixes, labels: Labels) -> None:
    """Make new splits if one is missing or the leak is large; else remove the labels of leaking training clips."""
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
            fixes.text(labels, place, "", "same sentence in dev or test")
    if few and codes[TRAIN] and not missing:
        return
    if few and len(missing) == 1 and codes[TRAIN]:  # Keep the existing held-out split.
        leaking_too = set(leaks)
        kept = [p for p in kept if labels.splits[p] == TRAIN and p not in leaking_too]
        shares = {code: None if code in missing else 0.0 for code in (DEV, TEST)}
    else:  # Keep the sizes of the splits that were large enough.
        shares = {
            code: min(100 * codes[code] / len(kept), MOST_PERCENT) if codes[code] >= LEAST_HELD_OUT else None
            for code in (DEV, TEST)
        }
    clips = [
        SourceClip(
            labels.corpus.id(int(labels.rows[p])), "", labels.language, text=labels.texts[p], speaker=labels.speakers[p],
            duration_s=float(labels.durations_s[p]),
        )
        for p in kept
    ]  # fmt: skip
    assigned, _ = assign_splits(clips, shares[DEV], shares[TEST])
    for place, clip in zip(kept, assigned, strict=True):
        fixes.split(labels.corpus, int(labels.rows[place]), clip.split, "new splits")
