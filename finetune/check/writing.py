"""The check of casing and punctuation: what labels write that the normaliser takes away, and what it leaves uneven."""

from __future__ import annotations

import unicodedata
from collections import Counter

from finetune.check.findings import Finding, Labels, plural
from lalia.text.normaliser import Normaliser

SHOWN = 8
LOUD = 0.5
"""Labels all in capitals are odd where they are fewer than this share."""


def describe_writing(labels: Labels) -> str:
    """Which capitals and which punctuation the labels have, and what becomes of them; "" where they have neither."""
    settings = labels.normaliser.settings
    told = []
    if capital := sum(text != text.lower() for text in labels.texts):
        loud = len(shouted(labels))
        aside = f" ({loud:,} in nothing else)" if loud else ""
        fate = {"lower": "lowered", "upper": "raised with the rest", "keep": "kept"}[settings.case]
        told.append(f"capitals in {plural(capital, 'label')}{aside}, {fate}")
    marks = Counter(c for text in labels.texts for c in text if unicodedata.category(c)[0] in "PS")
    for fate, kept in (("dropped", False), ("kept", True)):
        some = [(c, n) for c, n in marks.most_common() if _stays(c, labels.normaliser) == kept]
        if some:
            rest = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
            told.append(" ".join(f"{c} {n:,}" for c, n in some[:SHOWN]) + f"{rest}, {fate}")
    return "; ".join(told)


def check_writing(labels: Labels) -> list[Finding]:
    """Labels in capitals among others that are not, where the normaliser would let the same letter be learned in two shapes."""
    loud = shouted(labels)
    if labels.normaliser.settings.case != "keep" or not 0 < len(loud) < LOUD * len(labels.texts):
        return []
    what = f"{plural(len(loud), 'label', 'is', 'are')} in capitals throughout, the others are not"
    fix = "let the normaliser lower them: --labels.case lower, or case in normaliser.json"
    return [Finding("casing", "look", what, fix, labels.examples(loud))]


def shouted(labels: Labels) -> list[int]:
    """Places of labels with two words or more, all in capitals."""
    return [
        p
        for p, text in enumerate(labels.texts)
        if " " in text.strip() and text == text.upper() and text != text.lower()
    ]


def _stays(character: str, normaliser: Normaliser) -> bool:
    """Whether a mark is still there within a word."""
    return character in normaliser(f"a{character}a")
