"""The check of lengths: labels that say nothing, too much for their clip, or far more or less per second than the others."""

from __future__ import annotations

from collections import Counter

import numpy as np

from finetune.check.findings import TRAIN, Finding, Labels, plural
from lalia.data.corpus import SPLITS
from lalia.decoding.alignment import frames_needed
from lalia.text.vocabulary import Vocabulary

TOO_LONG = 0.02
"""Share of labels longer than their frames that must be mended first."""
FAR = 5.0
"""Outlier: so many times the usual deviation (1.4826 times the median's) from the median ..."""
AT_LEAST = 2.5
"""... and at least so many times faster or slower than it."""
FEWEST = 20
"""Below so many clips there is no usual rate."""
REPEATED = 0.05
LONGEST_S = 30.0


def check_lengths(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    """Findings on lengths and rates."""
    return [*_empty(labels), *_beyond_frames(labels, vocabulary), *_rates(labels), *_repeated(labels), *_long(labels)]


def silent_labels(labels: Labels) -> list[int]:
    """Places of labels that hold nothing to say once they are normalised."""
    return [p for p, text in enumerate(labels.normal) if not text]


def _empty(labels: Labels) -> list[Finding]:
    places = silent_labels(labels)
    if not places:
        return []
    what = f"{plural(len(places), 'label', 'says', 'say')} nothing, as {labels.texts[places[0]]!r}"
    if len(places) == len(labels.normal):
        return [Finding("empty labels", "stop", f"all {what}", "give labels with letters", labels.examples(places))]
    fix = "--fix takes them off; the audio stays, unlabelled"
    return [Finding("empty labels", "look", what, fix, labels.examples(places), True)]


def beyond_frames(labels: Labels, vocabulary: Vocabulary) -> list[int]:
    """Places of labels that their clips have too few frames for."""
    needed = np.array([frames_needed(vocabulary.tokens.encode(text, skip_unknown=True)) for text in labels.normal])
    return np.flatnonzero(needed > np.floor(labels.durations_s / labels.frame_s)).tolist()


def _beyond_frames(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    places = beyond_frames(labels, vocabulary) if vocabulary else []
    if not places:
        return []
    share = len(places) / len(labels.normal)
    what = (
        f"{plural(len(places), 'label')} ({share:.1%}) with more letters than frames of "
        f"{1000 * labels.frame_s:g} ms in the clip: nothing can be learned from them"
    )
    fix = "are these the labels of other clips? --fix takes them off"
    weight = "stop" if share > TOO_LONG else "look"
    return [Finding("label > frames", weight, what, fix, labels.examples(places), True)]  # type: ignore[arg-type]


def letters_per_s(labels: Labels) -> np.ndarray:
    """Letters per second of speech, (N,); a label without letters counts as half of one."""
    letters = np.array([sum(not c.isspace() for c in text) for text in labels.normal])
    speech_s = np.maximum(labels.durations_s * labels.speech_ratio, 0.2)
    return np.maximum(letters, 0.5) / (speech_s + 0.1)


def rate_outliers(labels: Labels) -> list[int]:
    """Places of labels said far faster or slower than the corpus is, the farthest first."""
    if len(labels.rows) < FEWEST:
        return []
    spoken = np.array([bool(text) for text in labels.normal]) & (labels.speech_ratio > 0.05)
    if not spoken.any():
        return []
    logs = np.log(letters_per_s(labels))
    middle = np.median(logs[spoken])
    deviation = 1.4826 * np.median(np.abs(logs[spoken] - middle))
    off = np.abs(logs - middle)
    # One word in a second of speech may be half breath: short labels vary the most.
    letters = np.array([len(text) for text in labels.normal])
    slack = np.where(letters < 8, np.log(2.0), 0.0)
    places = np.flatnonzero(spoken & (off - slack > max(FAR * deviation, np.log(AT_LEAST))))
    return places[np.argsort(-off[places], kind="stable")].tolist()


def _rates(labels: Labels) -> list[Finding]:
    places = rate_outliers(labels)
    if not places:
        return []
    rates = letters_per_s(labels)
    usual = float(np.median(rates))
    words = [len(labels.normal[p].split()) / labels.durations_s[p] for p in places]
    notes = [f"{rates[p]:.1f} letters, {w:.1f} words a second" for p, w in zip(places, words, strict=True)]
    worst = f"{rates[places[0]]:.1f} letters a second of speech, where {usual:.1f} are usual"
    what = (
        f"{plural(len(places), 'label', 'is', 'are')} said far faster or slower than the others, the worst at {worst}"
    )
    fix = "most likely another clip's label or a cut clip; --fix takes them off"
    return [Finding("rate", "look", what, fix, labels.examples(places, notes), True)]


def _repeated(labels: Labels) -> list[Finding]:
    counts = Counter(text for text in labels.normal if len(text.split()) > 2)
    if not counts:
        return []
    text, times = counts.most_common(1)[0]
    if times < max(5, REPEATED * len(labels.normal)):
        return []
    places = [p for p, other in enumerate(labels.normal) if other == text]
    what = f"one label stands at {plural(times, 'clip')} ({times / len(labels.normal):.0%}): {text[:60]!r}"
    return [Finding("repeated label", "look", what, "was a default filled in? listen to some", labels.examples(places))]


def _long(labels: Labels) -> list[Finding]:
    places = [int(p) for p in np.flatnonzero(labels.durations_s > LONGEST_S) if labels.splits[p] == TRAIN]
    if not places:
        return []
    minutes = float(labels.durations_s[places].sum()) / 60
    what = f"{plural(len(places), f'{SPLITS[TRAIN]} clip')} ({minutes:.1f} min) longer than {LONGEST_S:g} s"
    fix = (
        f"fit leaves out what is longer than --data.max_s; set it to {np.ceil(labels.durations_s.max()):g} to have all"
    )
    return [Finding("long clips", "look", what, fix, labels.examples(places))]
