"""The check of the splits: is there enough of each, and does any clip stand on both sides of the test."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict

import numpy as np

from finetune.check.findings import DEV, EXAMPLES, TEST, TRAIN, Example, Finding, Labels, Split, plural, some
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.splits import ENOUGH_SPEAKERS, FEWEST, LEAST_HELD_OUT, MOST_PERCENT, held_out_percent

LEAST_TRAIN_S = 120.0
LEAKING = 0.05
"""Share of the test's clips whose sentence is trained on that makes its figures worthless."""
CLOSED = 0.2
"""Fewer different sentences than this share of the clips: commands, not sentences."""


def count_splits(labels: Labels) -> list[Split]:
    """What the labelled clips of each split add up to."""
    found = []
    for code, name in enumerate(SPLITS):
        places = labels.where(code)
        normal = [labels.normal[p] for p in places]
        speakers = {labels.speakers[p] for p in places} - {""}
        hours = float(labels.durations_s[places].sum()) / 3600
        words = sum(len(text.split()) for text in normal)
        found.append(Split(name, len(places), hours, len(speakers), len(set(normal)), words))
    return found


def check_splits(labels: Labels) -> list[Finding]:
    """Findings on amounts and on leakage between the splits."""
    return [*_amounts(labels), *_unlabelled(labels), *_sentences(labels), *_speakers(labels), *_recordings(labels)]


def _amounts(labels: Labels) -> list[Finding]:
    counts = [len(labels.where(code)) for code in range(3)]
    missing = [SPLITS[code] for code in range(3) if not counts[code]]
    if missing:
        what = f"no labelled clips in {' and '.join(missing)}; fit needs train, dev (to choose the best step) and test"
        few = sum(counts)
        if few < FEWEST:
            fix = f"label more: of {plural(few, 'clip')} nothing can be held out; {FEWEST} are the least"
            return [Finding("splits", "stop", what, fix)]
        percent = held_out_percent(few)
        fix = f"--fix makes new splits, by speaker and sentence, as lalia prepare does: {percent:.3g} % for dev and for test each"
        return [Finding("splits", "stop", what, fix, mended=True)]
    found = []
    seconds = float(labels.durations_s[labels.where(TRAIN)].sum())
    if seconds < LEAST_TRAIN_S:
        what = f"{seconds:.0f} s of labels to train on; ten minutes are about the least that gives readable text"
        found.append(Finding("amount", "look", what, "label more clips; every minute counts here"))
    for code in (DEV, TEST):
        if counts[code] < LEAST_HELD_OUT:
            what = f"{SPLITS[code]} has {plural(counts[code], 'clip')}; its error rate will jump from run to run"
            percent = math.ceil(held_out_percent(sum(counts)))
            clips = min(LEAST_HELD_OUT, int(percent / 100 * sum(counts)))
            fix = f"hold out {clips} clips or more: lalia prepare … --{SPLITS[code]} {percent} (percent)"
            if percent >= MOST_PERCENT:
                fix += f"; it takes no more than {MOST_PERCENT:g} % unasked, since what is held out is not trained on"
            found.append(Finding("amount", "look", what, fix))
    return found


def _unlabelled(labels: Labels) -> list[Finding]:
    """Clips of the language that nobody labelled: a slip where they are few, meant where they are most."""
    rows = labels.corpus.select(language=labels.language, with_text=False)
    clips = len(rows) + len(labels.rows)
    if not len(rows) or not len(labels.rows):
        return []
    have, them = ("has", "it") if len(rows) == 1 else ("have", "them")
    what = f"{len(rows):,} of {clips:,} clips {have} no label; fit does not learn from {them}"
    if len(rows) > clips / 2:
        return [Finding("unlabelled", "fine", f"{what}, pretraining does")]
    fix = "if that is an oversight, write what is said into the table and prepare it again"
    return [Finding("unlabelled", "look", what, fix, [Example(int(row), "no label") for row in rows[:EXAMPLES]])]


def leaking(labels: Labels) -> list[int]:
    """Places of training clips whose sentence is said in dev or test."""
    held = {labels.normal[p] for code in (DEV, TEST) for p in labels.where(code)} - {""}
    return [int(p) for p in labels.where(TRAIN) if labels.normal[p] in held]


def is_closed(labels: Labels) -> bool:
    """Whether the labels are a few phrases said again and again, as commands are."""
    return len(set(labels.normal)) <= CLOSED * len(labels.normal)


def _sentences(labels: Labels) -> list[Finding]:
    trained = {labels.normal[p] for p in labels.where(TRAIN)} - {""}
    test = labels.where(TEST)
    places = [int(p) for p in test if labels.normal[p] in trained]
    if not places or not trained:
        return []
    share = len(places) / len(test)
    what = f"{plural(len(places), 'test clip')} ({share:.0%}) with a sentence that is trained on"
    if is_closed(labels):
        phrases = plural(len(set(labels.normal)), "phrase")
        what = f"the labels are {phrases} again and again ({share:.0%} of the test's are trained on)"
        fix = "fine for commands: the test tells about new voices, not new words"
        return [Finding("sentence leak", "look", what, fix, labels.examples(places))]
    fix = "--fix takes the labels off the training clips that say them, or makes new splits where that is too many"
    weight = "stop" if share > LEAKING else "look"
    return [Finding("sentence leak", weight, what, fix, labels.examples(places), mended=True)]  # type: ignore[arg-type]


def _speakers(labels: Labels) -> list[Finding]:
    of = [{labels.speakers[p] for p in labels.where(code)} - {""} for code in range(3)]
    both = of[TRAIN] & (of[TEST] | of[DEV])
    everyone = of[TRAIN] | of[DEV] | of[TEST]
    if not everyone:
        what = "no clip says who speaks: whether voices are in train and test alike cannot be told"
        return [Finding("speakers", "look", what, "give a speaker column to lalia prepare, if there are several")]
    if not both:
        return []
    named = some(sorted(both), 4)
    if len(everyone) < ENOUGH_SPEAKERS:
        what = f"{plural(len(everyone), 'voice')}, in train and test alike: the test tells of new sentences, not of new voices"
        return [Finding("speakers", "look", what, "record others before you rely on it for others")]
    what = f"{len(both)} of {len(everyone)} speakers are in train and in dev or test ({named})"
    return [
        Finding("speaker leak", "look", what, "split by speaker: lalia prepare does where the splits are left to it")
    ]


def _recordings(labels: Labels) -> list[Finding]:
    """The same samples twice, and parts of one recording on both sides."""
    found = []
    twins = same_recordings(labels.corpus, labels.rows)
    splits = labels.corpus.splits
    across = [group for group in twins if len({int(splits[row]) for row in group}) > 1]
    place = {int(row): p for p, row in enumerate(labels.rows)}
    if across:
        what = f"{plural(len(across), 'recording', 'is', 'are')} in two splits under different names"
        places = [place[row] for group in across for row in group]
        found.append(
            Finding(
                "recording leak",
                "stop",
                what,
                "--fix keeps the test's and drops the others",
                labels.examples(places),
                True,
            )
        )
    inside = [group for group in twins if len({int(splits[row]) for row in group}) == 1]
    if inside:
        differing = [g for g in inside if len({labels.normal[place[r]] for r in g}) > 1]
        what = f"{plural(len(inside), 'recording', 'is', 'are')} there twice" + (
            f", {len(differing)} of them with different labels" if differing else ""
        )
        places = [place[row] for group in differing or inside for row in group]
        found.append(Finding("twice", "look", what, "--fix keeps one of each", labels.examples(places), True))
    parts: dict[str, set[int]] = defaultdict(set)
    for p, row in enumerate(labels.rows):
        id = labels.corpus.id(int(row))
        if "#" in id:
            parts[id.partition("#")[0]].add(int(labels.splits[p]))
    shared = sorted(name for name, codes in parts.items() if TRAIN in codes and len(codes) > 1)
    if shared:
        what = (
            f"{plural(len(shared), 'recording', 'has', 'have')} parts in train and in dev or test ({some(shared, 2)})"
        )
        found.append(Finding("recording leak", "look", what, "split whole recordings: name one speaker per recording"))
    return found


def same_recordings(corpus: Corpus, rows: np.ndarray) -> list[list[int]]:
    """Groups of rows that hold the same bytes of audio. Only clips that last equally long are read."""
    _, inverse, counts = np.unique(corpus.durations_s[rows], return_inverse=True, return_counts=True)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows[counts[inverse] > 1]:
        groups[hashlib.blake2b(corpus.audio_bytes(int(row)), digest_size=16).digest()].append(int(row))
    return [group for group in groups.values() if len(group) > 1]
