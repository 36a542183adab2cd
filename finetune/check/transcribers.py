"""Data checks for what transcribers leave in labels: speaker codes, marks of events, comments, cut-off words, unspelled signs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from finetune.check.findings import Finding, Labels, some
from lalia.text.marks import MarkKind, find_marks, spoken_symbols, strip_marks, truncated_words
from lalia.text.spoken_signs import spell_signs
from lalia.units import plural

# --- Speaker codes -----------------------------------------------------------------------------------------

CODED = 0.02
"""Codes that begin this share of the labels, and three of them, are a finding."""
CERTAIN = 0.5
"""If a code begins this share of the labels, or names the clip's speaker, nobody says it."""
_CODE = re.compile(r"\s*((?:[^\W\d_]{1,12}[ _-]?\d{1,3}|[^\W_]{1,4}|<?[^\W_]{1,12}>?))\s*[:：]\s+(?=\S)")


def speaker_codes(labels: Labels) -> dict[str, list[int]]:
    """The codes of speakers that begin labels (``A:``, ``S1:``, ``Speaker 2:``) and their places, the most frequent first."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(labels.texts):
        if found := _CODE.match(text):
            places[found[1]].append(place)
    least = max(3, CODED * len(labels.texts))
    if sum(map(len, places.values())) < least:
        return {}
    often = {code: here for code, here in places.items() if len(here) >= 3}
    return dict(sorted(often.items(), key=lambda pair: -len(pair[1])))


def without_speaker_code(labels: Labels, codes: dict[str, list[int]]) -> dict[int, str]:
    """The texts, by place, without the codes that are certainly not spoken."""
    coded = sum(map(len, codes.values()))
    certain = coded >= CERTAIN * len(labels.texts)
    found = {}
    for code, here in codes.items():
        for place in here:
            if certain or labels.speakers[place].casefold() == code.casefold():
                match = _CODE.match(labels.texts[place])
                found[place] = labels.texts[place][match.end() :] if match else labels.texts[place]
    return found


def _codes(labels: Labels) -> list[Finding]:
    codes = speaker_codes(labels)
    if not codes:
        return []
    places = sorted(place for here in codes.values() for place in here)
    removed = len(without_speaker_code(labels, codes))
    named = _named(Counter({code: len(here) for code, here in codes.items()}))
    what = f"{plural(len(places), 'label', 'begins', 'begin')} with a speaker's code: {named}"
    fix = f"--fix removes it from {removed}" if removed else "remove it, unless it is spoken"
    return [Finding("speaker codes", "look", what, fix, labels.examples(places), bool(removed))]


# --- Transcribers' marks -------------------------------------------------------------------------------

TOO_MANY = 0.02
"""A larger share of labels with marks that would be learned as words must be fixed before training."""


def check_marks(labels: Labels) -> list[Finding]:
    """Findings on transcribers' marks: events, codes, comments and cut-off words."""
    of: dict[MarkKind, Counter[str]] = {}
    places: dict[MarkKind, list[int]] = {}
    for place, text in enumerate(labels.texts):
        for mark, written in find_marks(text):
            of.setdefault(mark.kind, Counter())[written] += 1
            if place not in places.setdefault(mark.kind, [])[-1:]:
                places[mark.kind].append(place)
    return [
        *_codes(labels), *_unspoken(labels, of, places), *_other_marks(labels, of, places), *_cut_off(labels),
        *_signs(labels),
    ]  # fmt: skip


def only_marks(text: str) -> bool:
    """Whether the text has no spoken word besides marks."""
    return any(map(str.isalnum, text)) and not any(map(str.isalnum, strip_marks(text)))


def _unspoken(labels: Labels, of: dict[MarkKind, Counter[str]], places: dict[MarkKind, list[int]]) -> list[Finding]:
    written = of.get("event", Counter()) + of.get("code", Counter())
    if not written:
        return []
    here = sorted({*places.get("event", []), *places.get("code", [])})
    alone = sum(only_marks(labels.texts[place]) for place in here)
    what = f"{plural(len(here), 'label')} with transcribers' marks, which would be learned as words: {_named(written)}"
    fix = "--fix removes them" + (
        f", and the whole label of {plural(alone, 'clip')} with no other words" if alone else ""
    )
    weight = "stop" if len(here) > TOO_MANY * len(labels.texts) else "look"
    return [Finding("transcribers' marks", weight, what, fix, labels.examples(here), True)]  # type: ignore[arg-type]


def _other_marks(labels: Labels, of: dict[MarkKind, Counter[str]], places: dict[MarkKind, list[int]]) -> list[Finding]:
    kinds: tuple[tuple[MarkKind, str, str, str, str, bool], ...] = (
        ("unclear", "marks", "mark", "unintelligible speech", "--fix removes the marks; the speech there then has no "
         "label: listen, and drop the clip if there is much of it", True),
        ("word", "marks", "mark", "a hesitation", "--fix keeps the word, which is spoken, and removes its sign", True),
        ("unsure", "has", "have", "brackets or codes that may or may not be spoken", "--fix does not change them: write only "
         "what is spoken", False),
    )  # fmt: skip
    return [
        Finding("transcribers' marks", "look", f"{plural(len(places[kind]), 'label', one, many)} {what}: {_named(of[kind])}", fix,
                labels.examples(places[kind]), fixable)
        for kind, one, many, what, fix, fixable in kinds if of.get(kind)
    ]  # fmt: skip


def _cut_off(labels: Labels) -> list[Finding]:
    words = {place: found for place, text in enumerate(labels.texts) if (found := list(truncated_words(text)))}
    if not words:
        return []
    counted = Counter(word for found in words.values() for word in found)
    what = f"{plural(len(words), 'label', 'has', 'have')} cut-off words: {_named(counted)}"
    fix = "correct if the speech is cut off there too; else write the whole word, or nothing"
    return [Finding("cut-off words", "look", what, fix, labels.examples(list(words)))]


def _signs(labels: Labels) -> list[Finding]:
    found = []
    signs = {place: signs for place, text in enumerate(labels.texts) if (signs := spoken_symbols(text))}
    lost = {place: left for place in signs if (left := unspelled_signs(labels, place))}
    if spelled := [place for place in signs if place not in lost and not set(signs[place]) & set(labels.normal[place])]:
        first = spelled[0]
        what = (
            f"{plural(len(spelled), 'label', 'has', 'have')} signs, spelled out by CLDR's words or your table: "
            f"{labels.texts[first][:50]!r} as {labels.normal[first][:70]!r}"
        )
        fix = "listen to a few: $5.50 may be spoken as five dollars fifty or five fifty"
        found.append(Finding("digits", "look", what, fix, labels.examples(spelled)))
    if not lost:
        return found
    counted = Counter(sign for left in lost.values() for sign in left)
    first = next(iter(lost))
    what = (
        f"{plural(len(lost), 'label', 'has', 'have')} signs that are spoken as words but dropped here: {_named(counted)}; "
        f"{labels.texts[first][:50]!r} is learned as {labels.normal[first][:50]!r}"
    )
    fix = (
        "write them as they are spoken: 5 percent, not 5 %; or give their words once: --numbers FILE writes a table to fill in, "
        "and --labels.numbers FILE trains with it"
    )
    return [*found, Finding("digits", "look", what, fix, labels.examples(list(lost)))]


def unspelled_signs(labels: Labels, place: int) -> list[str]:
    """The signs of a label that are spoken as words, and that the normaliser drops."""
    settings, text = labels.normaliser.settings, strip_marks(labels.texts[place])
    if settings.digits == settings.signs == "spell":
        text = spell_signs(text, settings.language, labels.normaliser.writing, settings.numbers, settings.keep)
    return [sign for sign in spoken_symbols(text) if sign not in labels.normal[place]]


def _named(counted: Counter[str]) -> str:
    return some([f"{written} ({often:,})" for written, often in counted.most_common()], 8)
