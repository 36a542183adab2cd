"""Data checks on the text of the labels: characters and encoding, case and punctuation, language."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from typing import Literal

import numpy as np

from finetune.check.findings import DEV, TEST, TRAIN, Finding, Labels, some
from lalia.errors import UserError
from lalia.text.languages import profiles
from lalia.text.normaliser import Normaliser
from lalia.text.number_words import dates_and_times
from lalia.text.tokens import BOUNDARY, RARE_COUNT, Vocabulary, choose_vocabulary, symbol_byte
from lalia.text.unicode import (
    graphemes,
    is_unreadable,
    look_alike_groups,
    mixed_words,
    repair_encoding,
    repair_look_alikes,
    script_title,
    scripts_of,
)
from lalia.units import plural

# --- Characters and encoding ---------------------------------------------------------------------------

WRONG_ENCODING = 0.01
"""A larger share of labels in the wrong encoding must be fixed before training."""
FOREIGN = 0.5
"""Above this share of letters in another script than the language's, the labels are wrong."""
MARKED = 0.04
"""Minimum number of marks (tones, vowel signs) per letter in an orthography with marks."""
UNMARKED = 0.03
_KNOWN_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}


def count_letters(labels: Labels) -> list[tuple[str, int, int, str]]:
    """Characters of the normalised labels, most frequent first: character, occurrences, clips, an example word."""
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
    """The vocabulary that fit would choose from the training labels; None if they have no letters."""
    try:
        return choose_vocabulary(labels.normal[p] for p in labels.where(TRAIN))
    except UserError:
        return None


def main_script(labels: Labels) -> str:
    """The most frequent script."""
    found: Counter[str] = Counter()
    for text in labels.texts:
        found.update(scripts_of(text))
    return found.most_common(1)[0][0] if found else ""


SIGNS = 0.02
"""A sign inside words of this share of the labels may be a letter."""
_APOSTROPHES = "'’ʼ‘`´ꞌ"
_OPENING_QUOTES = (" '", " ‘", "“", '"', "„", "«")
_SIGN_IN_WORD = re.compile(rf"(?<=[^\W\d_])([^\w\s/&@])(?=[^\W\d_])|(?<=[^\W\d_])([{_APOSTROPHES}])(?=[\s.,;:!?]|$)")


def check_letters(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    """Findings on the characters of the labels, in the units of the ``vocabulary`` that they would be trained with."""
    return [
        *_encodings(labels), *_scripts(labels), *_mixed(labels), *_unicode(labels), *_identifiers(labels), *_digits(labels),
        *_signs_in_words(labels), *_dates(labels), *_alike(labels), *_marks(labels), *_rare(labels, vocabulary),
        *_never_trained(labels, vocabulary), *_legacy(labels), *_spelled_out(labels),
    ]  # fmt: skip


def _encodings(labels: Labels) -> list[Finding]:
    found = []
    wrong = [p for p, text in enumerate(labels.texts) if repair_encoding(text) != text]
    if wrong:
        share = len(wrong) / len(labels.texts)
        first = labels.texts[wrong[0]]
        what = f"{plural(len(wrong), 'label')} in the wrong encoding: {_short(first)!r} is {_short(repair_encoding(first))!r}"
        fix = "--fix decodes them as UTF-8; it is better to read the source as UTF-8"
        weight = "stop" if share > WRONG_ENCODING else "look"
        garbled = {c for p in wrong for c in set(labels.texts[p]) - set(repair_encoding(labels.texts[p]))}
        found.append(Finding("encoding", weight, what, fix, labels.examples(wrong), True, garbled))  # type: ignore[arg-type]
    lost = [p for p, text in enumerate(labels.texts) if is_unreadable(repair_encoding(text))]
    if lost:
        what = f"{plural(len(lost), 'label', 'has', 'have')} undecodable characters (such as U+FFFD): letters are lost"
        fix = "read them again from the source; --fix removes these labels"
        weight = "stop" if len(lost) > WRONG_ENCODING * len(labels.texts) else "look"
        found.append(Finding("encoding", weight, what, fix, labels.examples(lost), True, "\ufffd"))  # type: ignore[arg-type]
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
        fix = f"give the right labels or the right language (now {labels.language})"
        return [Finding("script", "stop", what, fix, labels.examples(places[first]))]
    what = f"letters of another script: {named}"
    fix = "--fix replaces look-alikes; write foreign names as the language does"
    letters = {c for p in places[first] for c in labels.texts[p] if not scripts_of(c).keys().isdisjoint(foreign)}
    return [Finding("script", "look", what, fix, labels.examples(places[first]), characters=letters)]


def _mixed(labels: Labels) -> list[Finding]:
    words = {p: mixed_words(text) for p, text in enumerate(labels.texts)}
    places = [p for p, mixed in words.items() if mixed]
    if not places:
        return []
    script = main_script(labels)
    shown = some([_spelled(word) for p in places[:3] for word in words[p][:1]], 3)
    fixable = sum(not mixed_words(repair_look_alikes(labels.texts[p], script)) for p in places)
    what = f"{plural(len(places), 'label', 'has', 'have')} words of mixed scripts: {shown}"
    fix = (
        f"--fix writes the look-alikes of {fixable} of them in the word's own script"
        if fixable
        else "write them in one script"
    )
    odd = {c for p in places for word in words[p] for c in _odd_letters(word)}
    return [Finding("look-alikes", "look", what, fix, labels.examples(places), bool(fixable), odd)]


def _unicode(labels: Labels) -> list[Finding]:
    found = []
    composed = [p for p, text in enumerate(labels.texts) if not unicodedata.is_normalized("NFC", text)]
    if composed:
        what = f"{plural(len(composed), 'label', 'is', 'are')} not in NFC: the same letter has two codes"
        found.append(
            Finding("unicode", "look", what, "the normaliser composes them; --fix does so in the corpus", fixable=True)
        )
    invisible: Counter[str] = Counter()
    places = []
    writing = labels.normaliser.writing
    letters = set().union(*writing.letters, *writing.same)  # joiners that the language spells with
    for p, text in enumerate(labels.texts):
        here = [c for c in text if unicodedata.category(c) == "Cf" or c in "\u00ad\u034f\u115f\u3164"]
        here = [c for c in here if c not in letters]
        invisible.update(here)
        if here:
            places.append(p)
    if places:
        named = some(
            [f"{unicodedata.name(c, 'no name').lower()} U+{ord(c):04X}" for c, _ in invisible.most_common()], 3
        )
        what = f"{plural(len(places), 'label', 'has', 'have')} invisible characters: {named}"
        fix = "the normaliser drops them; --fix does so in the corpus"
        found.append(Finding("unicode", "look", what, fix, labels.examples(places), True, set(invisible)))
    return found


def _identifiers(labels: Labels) -> list[Finding]:
    """Labels that are numbers or names of clips (7, 0031, utt_0031, ab12.wav): another column than the transcripts."""
    places = [p for p, text in enumerate(labels.texts) if len(text.split()) == 1 and any(map(str.isdecimal, text))]
    if len(places) <= len(labels.texts) / 2:
        return []
    different = len({labels.texts[p] for p in places}) > 0.9 * len(places)
    what = (
        f"{len(places)} of {len(labels.texts)} labels are one number or name with digits each, "
        f"as {some([repr(labels.texts[p]) for p in places], 3)}"
        + (", and hardly any occurs twice" if different else "")
    )
    fix = "are these transcripts, or another column of the table? prepare the corpus again with the column of the texts"
    return [Finding("numbers", "stop" if different else "look", what, fix, labels.examples(places))]


def _digits(labels: Labels) -> list[Finding]:
    written = [p for p, text in enumerate(labels.texts) if any(map(str.isdecimal, text))]
    if not written:
        return []
    left = [p for p in written if any(map(str.isdecimal, labels.normal[p]))]
    first = (left or written)[0]
    if left:
        what = f"{plural(len(left), 'label', 'keeps', 'keep')} digits, which are spoken as words: {_short(labels.texts[first])!r}"
        fix = (
            f"write them as words; no library knows the numbers of {labels.profile.title}: --numbers FILE writes a table to "
            "fill in once, and --labels.numbers FILE trains with it"
        )
        if labels.profile.spells and labels.normaliser.settings.digits == "spell":
            fix = (
                "write them as words; no library has words for these: --numbers FILE writes a table "
                "to fill in once, and --labels.numbers FILE trains with it"
            )
        elif labels.profile.spells:
            fix = 'spell them ("digits": "spell" in normaliser.json), or write them as words'
        digits = set(filter(str.isdecimal, "".join(labels.normal[p] for p in left)))
        return [Finding("digits", "look", what, fix, labels.examples(left), characters=digits)]
    by = "num2words" if labels.profile.numbers else "CLDR's rules" if labels.profile.spells else "your table"
    what = f"{plural(len(written), 'label', 'has', 'have')} digits, spelled out by {by}: {_digits_of(labels, first)}"
    fix = "listen to a few: 1984 may be spoken as a year, a number or four digits"
    digits = set(filter(str.isdecimal, "".join(labels.texts[p] for p in written)))
    return [Finding("digits", "look", what, fix, labels.examples(written), characters=digits)]


def _signs_in_words(labels: Labels) -> list[Finding]:
    """Signs inside and at the end of words that may be letters of the language, and that the normaliser drops."""
    examples: dict[str, list[str]] = {}
    places: dict[str, list[int]] = {}
    for p, text in enumerate(labels.texts):
        for found in _SIGN_IN_WORD.finditer(text):
            sign = found[1] or found[2]
            if found[2] and any(quote in text for quote in _OPENING_QUOTES):
                continue
            if unicodedata.category(sign)[0] in "PS" and unicodedata.category(sign) != "Pd":
                word = text[: found.end()].split()[-1] + (text[found.end() :].split(" ")[0])
                if sign not in _APOSTROPHES and sign in labels.normaliser(word):
                    continue
                if sign in _APOSTROPHES and len(labels.normaliser(word).split()) == 1 and found[1]:
                    continue
                if found[2] and labels.normaliser(word) != labels.normaliser(word.rstrip(_APOSTROPHES)):
                    continue
                examples.setdefault(sign, []).append(word)
                places.setdefault(sign, []).append(p)
    often = {
        sign: words for sign, words in examples.items() if len(set(places[sign])) >= max(3, SIGNS * len(labels.texts))
    }
    if not often:
        return []
    shown = ", ".join(f"{sign} ({len(words):,} times, as in {words[0]})" for sign, words in often.items())
    what = f"signs in words that the normaliser drops: {shown}"
    fix = "if one is a letter of the language, name it in `keep` of a normaliser.json; else nothing is lost"
    with_one = sorted({p for sign in often for p in places[sign]})
    return [Finding("signs in words", "look", what, fix, labels.examples(with_one), characters=set(often))]


def _dates(labels: Labels) -> list[Finding]:
    found = {p: dates for p, text in enumerate(labels.texts) if (dates := dates_and_times(text))}
    if not found:
        return []
    shown = some([date for dates in found.values() for date in dates], 4)
    what = f"{plural(len(found), 'label', 'has', 'have')} dates or clock times in digits: {shown}"
    fix = "write them as they are said: their digits are read as single numbers"
    return [Finding("dates", "look", what, fix, labels.examples(list(found)))]


def _alike(labels: Labels) -> list[Finding]:
    counts: Counter[str] = Counter()
    for text in labels.normal:
        counts.update(text)
    found = []
    for group in look_alike_groups(counts):
        named = ", ".join(f"{c} U+{ord(c):04X} ({counts[c]:,} times)" for c in group)
        places = [p for p, text in enumerate(labels.normal) if group[-1] in text]
        what = f"look-alike letters: {named}"
        fix = "if they are one letter, use one code: set `replace` in normaliser.json, or fix the labels"
        found.append(Finding("look-alikes", "look", what, fix, labels.examples(places), characters=group[-1]))
    return found


def _marks(labels: Labels) -> list[Finding]:
    """Labels without the marks (tones, vowel signs) that the others have."""
    letters = np.array([sum(map(str.isalpha, text)) for text in labels.normal])
    marks = np.array(
        [sum(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", t)) for t in labels.normal]
    )
    if not letters.sum() or marks.sum() / letters.sum() < MARKED:
        return []
    usual = marks.sum() / letters.sum()
    expected = usual * letters
    bare = np.flatnonzero(
        (marks == 0) & (expected >= 5)
    )  # Five expected marks are missing by chance once in 150 labels.
    if len(bare) < max(2, UNMARKED * len(letters)):
        return []
    what = (
        f"{plural(len(bare), 'label', 'has', 'have')} no marks (accents, tones, vowel signs) but the average is one on "
        f"{usual:.0%} of the letters"
    )
    return [
        Finding(
            "marks",
            "look",
            what,
            "write them everywhere, or drop them everywhere: `drop` in normaliser.json",
            labels.examples(bare),
        )
    ]


_UNITS = {"letters": "character", "graphemes": "letter", "jamo": "part of a syllable", "pieces": "letter"}
_UNITS_PLURAL = {"jamo": "parts of syllables"}


def _rare(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    """Rare symbols in the unit that the model would learn: Hangul syllables count as their parts, rare Han as bytes."""
    if vocabulary is None:
        return []
    used = [s for s in vocabulary.tokens.symbols[1:] if s != BOUNDARY and symbol_byte(s) is None]
    rare = [s for s in vocabulary.rare if s in set(used) and (vocabulary.unit != "pieces" or len(s) == 1)]
    if not rare:
        return []
    train = labels.where(TRAIN)
    form: Literal["NFC", "NFD"] = "NFD" if vocabulary.unit == "jamo" else "NFC"
    places = [p for p in train if any(s in unicodedata.normalize(form, labels.normal[p]) for s in rare)]
    named = some([_visible(s) for s in rare], 12)
    unit = _UNITS[vocabulary.unit]
    count = (
        plural(len(rare), unit) if len(rare) == 1 else f"{len(rare)} {_UNITS_PLURAL.get(vocabulary.unit, unit + 's')}"
    )
    what = f"{count} of {len(used):,} with fewer than {RARE_COUNT} occurrences in train: {named}"
    fix = "too rare to be learned; are they intended?"
    return [Finding("rare characters", "look", what, fix, labels.examples(places), characters=rare)]


def _never_trained(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    if vocabulary is None:
        return []
    held = [int(p) for code in (DEV, TEST) for p in labels.where(code)]
    lacking = {p: found for p in held if (found := vocabulary.tokens.unknown(labels.normal[p]))}
    if not lacking:
        return []
    letters = sorted(set().union(*lacking.values()))
    what = (
        f"{plural(len(letters), 'character')} of dev and test that train lacks: "
        f"{some([_visible(c) for c in letters], 12)}"
    )
    fix = "they cannot be recognised; move such clips to train"
    return [Finding("unseen characters", "look", what, fix, labels.examples(list(lacking)), characters=letters)]


def _digits_of(labels: Labels, place: int) -> str:
    at = next(i for i, word in enumerate(labels.texts[place].split()) if any(map(str.isdecimal, word)))
    word = labels.texts[place].split()[at]
    return f"{word!r} as {labels.normaliser(word)!r}"


def _visible(character: str) -> str:
    """A character in a form that is visible on its own."""
    return f"◌{character}" if unicodedata.category(character)[0] == "M" else character


def _spelled(word: str) -> str:
    """A word of mixed scripts, with the scripts of its odd letters."""
    named = [f"{c} is {script_title(next(iter(scripts_of(c))))}" for c in dict.fromkeys(_odd_letters(word))]
    return f"{word} ({', '.join(named)})"


def _odd_letters(word: str) -> list[str]:
    """The letters of ``word`` that are not in its most frequent script."""
    usual = scripts_of(word).most_common(1)[0][0]
    return [c for c in word if scripts_of(c) and usual not in scripts_of(c)]


def _short(text: str) -> str:
    return text if len(text) <= 50 else text[:49] + "…"


# --- Encodings of shapes and words in single letters -------------------------------------------------------

SPELLED_OUT = 0.8
"""A label with this share of one-letter words, three or more, is spelled with spaces."""
FEW = 0.02
"""A larger share of labels in a legacy encoding or spelled with spaces must be fixed before training."""
_ZAWGYI = re.compile("(?:^|\\s)\u1031|\u1039(?![\u1000-\u1021\u1025\u1027])")
_ZAWGYI_CODES = re.compile("[\u1060-\u1097]")
"""In Unicode the vowel sign e (U+1031) follows its consonant, and a virama (U+1039) precedes one; Zawgyi puts the first before
it and uses the second as asat, and has variants of marks where Unicode has letters of Karen, Mon and Shan (Unicode FAQ:
Myanmar)."""
_SHAPES = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb1d-\ufdff\ufe70-\ufefc\uff61-\uffdc]")
"""Presentation forms: ligatures, Hebrew and Arabic shapes, half-width kana and Hangul."""
_SYMBOLS_KEPT = frozenset(
    "\ufdf0\ufdf1\ufdf2\ufdf3\ufdf4\ufdf5\ufdf6\ufdf7\ufdf8\ufdf9\ufdfa\ufdfb\ufdfc\ufdfd\ufd3e\ufd3f"
)
"""Words and brackets of their own, not shapes of letters."""


def is_zawgyi(text: str, language: str) -> bool:
    """Whether Burmese ``text`` is in the Zawgyi encoding."""
    return bool(_ZAWGYI.search(text) or (language == "mya" and _ZAWGYI_CODES.search(text)))


def is_visual(text: str) -> bool:
    """Whether Arabic presentation forms stand in the order in which they are seen: most words begin with a final form."""
    firsts = [
        unicodedata.name(word[0], "") for word in text.split() if len(word) > 1 and "\ufb50" <= word[0] <= "\ufefc"
    ]
    return sum("FINAL FORM" in name for name in firsts) > len(firsts) / 2


def repair_shapes(text: str) -> str:
    """``text`` with letters instead of presentation forms; not if it is in visual order, where more than that is wrong."""
    if is_visual(text):
        return text
    return _SHAPES.sub(lambda c: c[0] if c[0] in _SYMBOLS_KEPT else unicodedata.normalize("NFKC", c[0]), text)


def _legacy(labels: Labels) -> list[Finding]:
    zawgyi = [p for p, text in enumerate(labels.texts) if is_zawgyi(text, labels.language)]
    visual = [p for p, text in enumerate(labels.texts) if is_visual(text)]
    shapes = [p for p, text in enumerate(labels.texts) if repair_shapes(text) != text]
    found = []
    for places, what, fix, fixable in (
        (zawgyi, "in Zawgyi, which is another encoding than Unicode", "convert them: uconv -x Zawgyi-my (ICU)", False),
        (visual, "in visual order: Arabic letters as shapes, each word from its end", "take the text from a source in logical "
         "order; text copied from a PDF is often of this kind", False),
        (shapes, "with presentation forms, the shapes of letters instead of letters", "--fix writes the letters", True),
    ):  # fmt: skip
        if places:
            weight = "stop" if len(places) > FEW * len(labels.texts) and not fixable else "look"
            told = f"{plural(len(places), 'label')} {what}: {_short(labels.texts[places[0]])!r}"
            odd = {c for p in places for c in _SHAPES.findall(labels.texts[p])}
            found.append(Finding("encoding", weight, told, fix, labels.examples(places), fixable, odd))  # type: ignore[arg-type]
    return found


def _spelled_out(labels: Labels) -> list[Finding]:
    """Labels with a space after every letter: as every word is one letter, word errors mean nothing."""
    if not labels.normaliser.writing.spaced:
        return []
    places = [p for p, text in enumerate(labels.normal) if _is_spelled_out(text)]
    if not places:
        return []
    what = f"{plural(len(places), 'label')} spelled with spaces, one letter a word: {_short(labels.texts[places[0]])!r}"
    fix = "write words; where the words end is lost, so take the text from its source"
    weight = "stop" if len(places) > FEW * len(labels.texts) else "look"
    return [Finding("spelled letters", weight, what, fix, labels.examples(places))]  # type: ignore[arg-type]


def _is_spelled_out(text: str) -> bool:
    words = text.split()
    single = sum(len(graphemes(word)) == 1 for word in words)
    return len(words) >= 3 and single >= SPELLED_OUT * len(words)


# --- Case and punctuation ------------------------------------------------------------------------------

SHOWN = 8
FEW_CAPITALS = 0.5
"""Labels in capitals are a finding if they are fewer than this share."""


def describe_writing(labels: Labels) -> str:
    """Capitals and punctuation of the labels and how they are normalised; "" if they have neither."""
    settings = labels.normaliser.settings
    described = []
    if capital := sum(text != text.lower() for text in labels.texts):
        all_caps = len(all_capitals(labels))
        aside = f" ({all_caps:,} in capitals only)" if all_caps else ""
        treatment = {"lower": "made lower case", "upper": "all made upper case", "keep": "kept"}[settings.case]
        described.append(f"capitals in {plural(capital, 'label')}{aside}, {treatment}")
    marks = Counter(c for text in labels.texts for c in text if unicodedata.category(c)[0] in "PS")
    for treatment, kept in (("dropped", False), ("kept", True)):
        some = [(c, n) for c, n in marks.most_common() if _kept(c, labels.normaliser) == kept]
        if some:
            rest = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
            described.append(" ".join(f"{c} {n:,}" for c, n in some[:SHOWN]) + f"{rest}, {treatment}")
    return "; ".join(described)


def check_writing(labels: Labels) -> list[Finding]:
    """Labels in capitals among others that are not, if the normaliser keeps case."""
    capitals = all_capitals(labels)
    if labels.normaliser.settings.case != "keep" or not 0 < len(capitals) < FEW_CAPITALS * len(labels.texts):
        return []
    what = f"{plural(len(capitals), 'label', 'is', 'are')} all in capitals, unlike the others"
    fix = "lower their case: --labels.case lower, or case in normaliser.json"
    return [Finding("casing", "look", what, fix, labels.examples(capitals))]


def all_capitals(labels: Labels) -> list[int]:
    """Places of labels with two words or more, all in capitals."""
    return [
        p
        for p, text in enumerate(labels.texts)
        if " " in text.strip() and text == text.upper() and text != text.lower()
    ]


def _kept(character: str, normaliser: Normaliser) -> bool:
    """Whether the normaliser keeps ``character`` inside a word."""
    return character in normaliser(f"a{character}a")


# --- Language ------------------------------------------------------------------------------------------

FEWEST_WORDS = 100
LIKELY = 0.06
"""Text in a language has at least this share of the language's commonest words (0.1 to 0.3 is usual)."""
TIMES = 3.0
WORDS_OF_A_LABEL = 4


def check_language(labels: Labels) -> list[Finding]:
    """A finding if another language's commonest words are far more frequent than those of the declared one."""
    counts = Counter(word for text in labels.normal for word in text.split())
    total = sum(counts.values())
    own = labels.profile
    if not own.known:
        what = f"lalia has no data on {labels.language}: no script, number words or casing rules are assumed"
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
        f"the labels look like {best.title}, not {own.title}: {words} and similar words are {theirs:.0%} of the words, "
        f"those of {own.title} {mine:.1%}"
    )
    fix = f"prepare the corpus with --language {best.code}, or give the right labels"
    return [Finding("language", "stop", what, fix, labels.examples(labels.where(TRAIN)))]


def _odd_labels(labels: Labels) -> list[Finding]:
    """Labels that contain common English words and none of the declared language's."""
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
    fix = "listen: if the speech is English too, move them to an English corpus; else fix them"
    return [Finding("language", "look", what, fix, labels.examples(places))]
