"""The check of the language: are the labels in the one they are said to be in."""

from __future__ import annotations

from collections import Counter

from finetune.check.findings import TRAIN, Finding, Labels, plural, some
from lalia.text.languages import profiles
from lalia.text.normaliser import Normaliser

FEWEST_WORDS = 100
LIKELY = 0.06
"""Share of the words that the commonest words of a language make up, at least, where text is in it (0.1 to 0.3 is usual)."""
TIMES = 3.0
WORDS_OF_A_LABEL = 4


def check_language(labels: Labels) -> list[Finding]:
    """A finding where another language's commonest words are far more frequent than the declared one's."""
    counts = Counter(word for text in labels.normal for word in text.split())
    total = sum(counts.values())
    own = labels.profile
    if not own.known:
        what = f"nothing is known here about writing {labels.language}: no script, numbers or casing of its own are assumed"
        return [Finding("language", "fine", what)]
    if total < FEWEST_WORDS or not own.common:
        return []
    normal = Normaliser()

    def share(words: tuple[str, ...]) -> float:
        return sum(counts[word] for word in {normal(word) for word in words}) / total

    mine = share(own.common)
    others = {p.code: p for p in profiles().values() if p.common and p.code != own.code}
    best = max(others.values(), key=lambda p: share(p.common))
    theirs = share(best.common)
    if theirs < LIKELY or theirs < TIMES * mine:
        return _odd_labels(labels)
    words = some([word for word in best.common if counts[word]], 4)
    what = (
        f"the labels look like {best.title}, not {own.title}: {words} and the like are {theirs:.0%} of the words, "
        f"those of {own.title} {mine:.1%}"
    )
    fix = f"prepare the corpus with --language {best.code}, or give the right labels"
    return [Finding("language", "stop", what, fix, labels.examples(labels.where(TRAIN)))]


def _odd_labels(labels: Labels) -> list[Finding]:
    """Single labels in which another language's commonest words stand and none of the declared one's."""
    own = set(labels.profile.common)
    english = set(profiles()["eng"].common) - own
    if labels.language == "eng":
        return []
    places = []
    for p, text in enumerate(labels.normal):
        words = text.split()
        if (
            len(words) >= WORDS_OF_A_LABEL
            and not own & set(words)
            and sum(w in english for w in words) > len(words) / 4
        ):
            places.append(p)
    if not places:
        return []
    what = f"{plural(len(places), 'label', 'looks', 'look')} like English: {labels.texts[places[0]][:60]!r}"
    fix = "listen: is it said so? else take them out, or move them to a corpus of their own language"
    return [Finding("language", "look", what, fix, labels.examples(places))]
