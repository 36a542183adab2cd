"""The check of the language: are the labels in the one they are said to be in.

The check of the letters: which characters the labels hold, and those that should not be there or mean the same.

The check of transcribers' marks: sounds, codes and comments that would be learned as words, and words broken off.

The check of casing and punctuation: what labels write that the normaliser takes away, and what it leaves uneven.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict

import numpy as np

from finetune.check.findings import DEV, TEST, TRAIN, Finding, Labels, plural, some
from lalia.errors import UserError
from lalia.text.languages import profiles
from lalia.text.marks import Kind, cut_off_words, find_marks, signs, without_marks
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import RARE, Vocabulary, choose_vocabulary
from lalia.text.unicode import alike_in, is_unreadable, mend, mend_encoding, mixed_words, script_title, scripts_of

# --- The check of the letters ----------------------------------------------------------------------------

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


# --- The check of transcribers' marks --------------------------------------------------------------------

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


# --- The check of casing and punctuation -----------------------------------------------------------------

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


# --- The check of the language ---------------------------------------------------------------------------

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
