"""The check of transcribers' marks: sounds, codes and comments that would be learned as words, and words broken off."""

from __future__ import annotations

from collections import Counter

from finetune.check.findings import Finding, Labels, plural, some
from lalia.text.marks import Kind, cut_off_words, find_marks, signs, without_marks

TOO_MANY = 0.02
"""Share of the labels with words that nobody says from which they must be taken out first."""


def check_marks(labels: Labels) -> list[Finding]:
    """Findings on what conventions of transcription leave in the labels."""
    of: dict[Kind, Counter[str]] = {}
    places: dict[Kind, list[int]] = {}
    for place, text in enumerate(labels.texts):
        for mark, written in find_marks(text):
            of.setdefault(mark.kind, Counter())[written] += 1
            if place not in places.setdefault(mark.kind, [])[-1:]:
                places[mark.kind].append(place)
    return [*_unsaid(labels, of, places), *_others(labels, of, places), *_cut_off(labels), *_signs(labels)]


def only_marks(text: str) -> bool:
    """Whether nothing that is said is left once the marks are out."""
    return any(map(str.isalnum, text)) and not any(map(str.isalnum, without_marks(text)))


def _unsaid(labels: Labels, of: dict[Kind, Counter[str]], places: dict[Kind, list[int]]) -> list[Finding]:
    written = of.get("event", Counter()) + of.get("code", Counter())
    if not written:
        return []
    here = sorted({*places.get("event", []), *places.get("code", [])})
    alone = sum(only_marks(labels.texts[place]) for place in here)
    what = f"{plural(len(here), 'label')} with transcribers' marks, which would be learned as words: {_named(written)}"
    fix = "--fix takes them out" + (
        f", and the whole label of {plural(alone, 'clip')} without a word beside them" if alone else ""
    )
    weight = "stop" if len(here) > TOO_MANY * len(labels.texts) else "look"
    return [Finding("transcribers' marks", weight, what, fix, labels.examples(here), True)]  # type: ignore[arg-type]


def _others(labels: Labels, of: dict[Kind, Counter[str]], places: dict[Kind, list[int]]) -> list[Finding]:
    told: tuple[tuple[Kind, str, str, str, str, bool], ...] = (
        ("unclear", "says", "say", "of speech that nobody understood it", "--fix takes the marks out; what is said there then "
         "has no label: listen, and leave the clip out where it is much", True),
        ("word", "marks", "mark", "a hesitation", "--fix keeps the word, which is said, and takes its sign off", True),
        ("unsure", "holds", "hold", "brackets or codes of a transcriber that may be said or not", "they stay as they are: write "
         "what is said, and nothing else", False),
    )  # fmt: skip
    return [
        Finding("transcribers' marks", "look", f"{plural(len(places[kind]), 'label', one, many)} {what}: {_named(of[kind])}", fix,
                labels.examples(places[kind]), mended)
        for kind, one, many, what, fix, mended in told if of.get(kind)
    ]  # fmt: skip


def _cut_off(labels: Labels) -> list[Finding]:
    words = {place: found for place, text in enumerate(labels.texts) if (found := list(cut_off_words(text)))}
    if not words:
        return []
    counted = Counter(word for found in words.values() for word in found)
    what = f"{plural(len(words), 'label', 'has', 'have')} words that break off: {_named(counted)}"
    fix = "right where the clip breaks off there too; else write the whole word, or nothing"
    return [Finding("cut-off words", "look", what, fix, labels.examples(list(words)))]


def _signs(labels: Labels) -> list[Finding]:
    lost = {
        place: found for place, text in enumerate(labels.texts)
        if (found := [sign for sign in signs(text) if sign not in labels.normal[place]])
    }  # fmt: skip
    if not lost:
        return []
    counted = Counter(sign for found in lost.values() for sign in found)
    first = next(iter(lost))
    what = (
        f"{plural(len(lost), 'label', 'has', 'have')} signs that are said in words and dropped here: {_named(counted)}; "
        f"{labels.texts[first][:50]!r} is learned as {labels.normal[first][:50]!r}"
    )
    fix = "write them as they are said: 5 percent, not 5 %"
    return [Finding("digits", "look", what, fix, labels.examples(list(lost)))]


def _named(counted: Counter[str]) -> str:
    return some([f"{written} ({often:,})" for written, often in counted.most_common()], 8)
