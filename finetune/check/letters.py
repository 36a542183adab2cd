"""The check of the letters: which characters the labels hold, and those that should not be there or mean the same."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict

import numpy as np

from finetune.check.findings import DEV, TEST, TRAIN, Finding, Labels, plural, some
from lalia.exits import UserError
from lalia.text.encodings import is_unreadable, mend_encoding
from lalia.text.lookalikes import alike_in, mend, mixed_words, scripts_of
from lalia.text.scripts import script_title
from lalia.text.vocabulary import RARE, Vocabulary, choose_vocabulary

WRONG_ENCODING = 0.01
"""Share of the labels in the wrong encoding that must be mended first."""
FOREIGN = 0.5
"""Share of the letters in another script than the language's that means the wrong labels."""
MARKED = 0.04
"""Marks per letter from which an orthography counts as marked (tones, vowel signs)."""
UNMARKED = 0.03
_KNOWN_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}


def count_letters(labels: Labels) -> list[tuple[str, int, int, str]]:
    """Every character of the normalised labels: how often, in how many clips, and a word that has it; commonest first."""
    often: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    words: dict[str, str] = {}
    for text in labels.normal:
        often.update(text)
        for character in set(text) - {" "}:
            clips[character] += 1
            if character not in words:
                words[character] = next(word for word in text.split() if character in word)
    del often[" "]
    return [(c, n, clips[c], words[c]) for c, n in often.most_common()]


def choose(labels: Labels) -> Vocabulary | None:
    """The vocabulary that fit would choose of the training labels; None where they hold no letters."""
    try:
        return choose_vocabulary(labels.normal[p] for p in labels.where(TRAIN))
    except UserError:
        return None


def main_script(labels: Labels) -> str:
    """The script of most letters."""
    found: Counter[str] = Counter()
    for text in labels.texts:
        found.update(scripts_of(text))
    return found.most_common(1)[0][0] if found else ""


def check_letters(labels: Labels) -> list[Finding]:
    """Findings on the characters of the labels."""
    return [
        *_encodings(labels), *_scripts(labels), *_mixed(labels), *_unseen(labels), *_digits(labels), *_alike(labels),
        *_marks(labels), *_rare(labels), *_never_trained(labels),
    ]  # fmt: skip


def _encodings(labels: Labels) -> list[Finding]:
    found = []
    wrong = [p for p, text in enumerate(labels.texts) if mend_encoding(text) != text]
    if wrong:
        share = len(wrong) / len(labels.texts)
        first = labels.texts[wrong[0]]
        what = f"{plural(len(wrong), 'label')} in the wrong encoding: {_short(first)!r} is {_short(mend_encoding(first))!r}"
        fix = "--fix reads them again as UTF-8; better still, open the source as UTF-8"
        weight = "stop" if share > WRONG_ENCODING else "look"
        found.append(Finding("encoding", weight, what, fix, labels.examples(wrong), True))  # type: ignore[arg-type]
    lost = [p for p, text in enumerate(labels.texts) if is_unreadable(mend_encoding(text))]
    if lost:
        what = f"{plural(len(lost), 'label', 'holds', 'hold')} bytes that are no text (U+FFFD or the like): letters are lost"
        fix = "make them again from the source; --fix takes these labels off"
        weight = "stop" if len(lost) > WRONG_ENCODING * len(labels.texts) else "look"
        found.append(Finding("encoding", weight, what, fix, labels.examples(lost), True))  # type: ignore[arg-type]
    return found


def _scripts(labels: Labels) -> list[Finding]:
    total: Counter[str] = Counter()
    places: dict[str, list[int]] = defaultdict(list)
    for p, text in enumerate(labels.texts):
        found = scripts_of(text)
        total.update(found)
        for script in found:
            places[script].append(p)
    if not total:
        return []
    own = set(labels.profile.scripts) or {total.most_common(1)[0][0]}
    own |= {_KNOWN_TOGETHER[script] for script in own & set(_KNOWN_TOGETHER)}
    foreign = {script: n for script, n in total.most_common() if script not in own}
    if not foreign:
        return []
    share = sum(foreign.values()) / sum(total.values())
    named = some(
        [
            f"{script_title(script)} ({n:,} letters in {plural(len(places[script]), 'clip')})"
            for script, n in foreign.items()
        ]
    )
    first = next(iter(foreign))
    if share > FOREIGN and labels.profile.scripts:
        expected = " or ".join(script_title(s) for s in labels.profile.scripts)
        what = f"the labels are in {named}; {labels.profile.title} is written in {expected}"
        fix = f"give the right labels, or the right language: --language says {labels.language}"
        return [Finding("script", "stop", what, fix, labels.examples(places[first]))]
    what = f"letters of another script: {named}"
    fix = "look-alikes are mended by --fix; write foreign names as the language does"
    return [Finding("script", "look", what, fix, labels.examples(places[first]))]


def _mixed(labels: Labels) -> list[Finding]:
    words = {p: mixed_words(text) for p, text in enumerate(labels.texts)}
    places = [p for p, mixed in words.items() if mixed]
    if not places:
        return []
    script = main_script(labels)
    shown = some([_spelled(word) for p in places[:3] for word in words[p][:1]], 3)
    mended = sum(not mixed_words(mend(labels.texts[p], script)) for p in places)
    what = f"{plural(len(places), 'label', 'has', 'have')} words of mixed scripts: {shown}"
    fix = (
        f"--fix writes the look-alikes of {mended} of them in the word's own script"
        if mended
        else "write them in one script"
    )
    return [Finding("look-alikes", "look", what, fix, labels.examples(places), bool(mended))]


def _unseen(labels: Labels) -> list[Finding]:
    found = []
    composed = [p for p, text in enumerate(labels.texts) if not unicodedata.is_normalized("NFC", text)]
    if composed:
        what = f"{plural(len(composed), 'label', 'is', 'are')} not in NFC: the same letter in two codes"
        found.append(
            Finding("unicode", "look", what, "the normaliser composes them; --fix does in the corpus", mended=True)
        )
    invisible: Counter[str] = Counter()
    places = []
    for p, text in enumerate(labels.texts):
        here = [c for c in text if unicodedata.category(c) == "Cf" or c in "\u00ad\u034f\u115f\u3164"]
        invisible.update(here)
        if here:
            places.append(p)
    if places:
        named = some(
            [f"{unicodedata.name(c, 'no name').lower()} U+{ord(c):04X}" for c, _ in invisible.most_common()], 3
        )
        what = f"{plural(len(places), 'label', 'has', 'have')} invisible characters: {named}"
        fix = "the normaliser drops them; --fix does in the corpus"
        found.append(Finding("unicode", "look", what, fix, labels.examples(places), True))
    return found


def _digits(labels: Labels) -> list[Finding]:
    written = [p for p, text in enumerate(labels.texts) if any(map(str.isdecimal, text))]
    if not written:
        return []
    left = [p for p in written if any(map(str.isdecimal, labels.normal[p]))]
    first = (left or written)[0]
    if left:
        what = f"{plural(len(left), 'label', 'keeps', 'keep')} digits, which are said in words: {_short(labels.texts[first])!r}"
        fix = f"write them out: num2words does not know the numbers of {labels.profile.title}"
        if labels.profile.numbers:
            fix = 'have them spelled out ("digits": "spell" in normaliser.json), or write them out'
        return [Finding("digits", "look", what, fix, labels.examples(left))]
    what = (
        f"{plural(len(written), 'label', 'has', 'have')} digits, spelled out by num2words: {_digits_of(labels, first)}"
    )
    fix = "listen to a few: 1984 may be said as a year, a number or four digits"
    return [Finding("digits", "look", what, fix, labels.examples(written))]


def _alike(labels: Labels) -> list[Finding]:
    counts: Counter[str] = Counter()
    for text in labels.normal:
        counts.update(text)
    found = []
    for group in alike_in(counts):
        named = ", ".join(f"{c} U+{ord(c):04X} ({counts[c]:,} times)" for c in group)
        places = [p for p, text in enumerate(labels.normal) if group[-1] in text]
        what = f"one letter in {len(group)} codes? {named}"
        fix = "if they are one letter, write one of them: set `replace` in normaliser.json, or mend the labels"
        found.append(Finding("look-alikes", "look", what, fix, labels.examples(places)))
    return found


def _marks(labels: Labels) -> list[Finding]:
    """Labels without the marks (tones, vowel signs) that the others write."""
    letters = np.array([sum(map(str.isalpha, text)) for text in labels.normal])
    marks = np.array(
        [sum(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", t)) for t in labels.normal]
    )
    if not letters.sum() or marks.sum() / letters.sum() < MARKED:
        return []
    usual = marks.sum() / letters.sum()
    expected = usual * letters
    bare = np.flatnonzero((marks == 0) & (expected >= 5))  # Chance alone leaves five expected marks out once in 150.
    if len(bare) < max(2, UNMARKED * len(letters)):
        return []
    what = (
        f"{plural(len(bare), 'label', 'has', 'have')} no marks (accents, tones, vowel signs) where the others have one on "
        f"{usual:.0%} of their letters"
    )
    return [
        Finding(
            "marks",
            "look",
            what,
            "write them throughout, or drop them throughout: `drop` in normaliser.json",
            labels.examples(bare),
        )
    ]


def _rare(labels: Labels) -> list[Finding]:
    counts: Counter[str] = Counter()
    for p in labels.where(TRAIN):
        counts.update(labels.normal[p])
    del counts[" "]
    rare = {c for c, n in counts.items() if n < RARE}
    if not rare:
        return []
    places = [p for p in labels.where(TRAIN) if rare & set(labels.normal[p])]
    named = some([_seen(c) for c in sorted(rare, key=lambda c: -counts[c])], 12)
    what = f"{plural(len(rare), 'character')} of {len(counts):,} seen less than {RARE} times in training: {named}"
    return [
        Finding(
            "rare characters",
            "look",
            what,
            "they will not be learned; are they meant to be there?",
            labels.examples(places),
        )
    ]


def _never_trained(labels: Labels) -> list[Finding]:
    trained = set().union(*(labels.normal[p] for p in labels.where(TRAIN)))
    held = [int(p) for code in (DEV, TEST) for p in labels.where(code)]
    places = [p for p in held if set(labels.normal[p]) - trained]
    if not places or not trained:
        return []
    letters = sorted(set().union(*(labels.normal[p] for p in places)) - trained)
    what = (
        f"{plural(len(letters), 'character')} of dev and test, never trained on: "
        f"{some([_seen(c) for c in letters], 12)}"
    )
    return [
        Finding(
            "unseen characters",
            "look",
            what,
            "they can never come out right; move such clips to train",
            labels.examples(places),
        )
    ]


def _digits_of(labels: Labels, place: int) -> str:
    at = next(i for i, word in enumerate(labels.texts[place].split()) if any(map(str.isdecimal, word)))
    word = labels.texts[place].split()[at]
    return f"{word!r} as {labels.normaliser(word)!r}"


def _seen(character: str) -> str:
    """A character as it can be seen alone."""
    return f"◌{character}" if unicodedata.category(character)[0] == "M" else character


def _spelled(word: str) -> str:
    """A mixed word with the code of its odd letters."""
    usual = scripts_of(word).most_common(1)[0][0]
    odd = [c for c in word if scripts_of(c) and usual not in scripts_of(c)]
    return f"{word} ({', '.join(f'{c} is {script_title(next(iter(scripts_of(c))))}' for c in dict.fromkeys(odd))})"


def _short(text: str) -> str:
    return text if len(text) <= 50 else text[:49] + "…"
