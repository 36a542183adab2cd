"""Unicode tools: scripts, graphemes and Hangul parts, look-alike letters, and text decoded with the wrong encoding.

Look-alikes are letters of another script inside a word, or two code points for one letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

# --- Scripts ---------------------------------------------------------------------------------------------

_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
_SHARED = {
    "COMBINING", "MODIFIER", "DOUBLE", "VULGAR", "SUPERSCRIPT", "SUBSCRIPT", "MATHEMATICAL", "DIGIT", "MASCULINE",
    "FEMININE", "MICRO", "KATAKANA-HIRAGANA",
}  # fmt: skip
_TITLES = {"CJK": "Han", "ETHIOPIC": "Ge'ez", "NKO": "N'Ko"}


@lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """The script of a letter or mark as Unicode names it: LATIN, CYRILLIC, ARABIC, DEVANAGARI, CJK, HANGUL, ETHIOPIC, ...

    ``""`` for what all scripts share: digits, punctuation, combining accents, modifier letters.
    """
    if unicodedata.category(character)[0] not in "LM":
        return ""
    name = unicodedata.name(character, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    first = name.split(" ")[0]
    return "" if first in _SHARED else "CJK" if first == "IDEOGRAPHIC" else first


def script_title(script: str) -> str:
    """A script's name as people write it: ``CJK`` is Han, ``ETHIOPIC`` Ge'ez."""
    return _TITLES.get(script, script.capitalize())


# --- Units of writing other than code points -------------------------------------------------------------

_SYLLABLES = (0xAC00, 0xD7A3)
_JAMO = (0x1100, 0x11FF)
_FIRST, _VOWEL, _LAST = 0x1100, 0x1161, 0x11A7
_VOWELS, _LASTS = 21, 28


def graphemes(text: str) -> list[str]:
    """``text`` cut into Unicode's grapheme clusters (UAX 29): ``ọ̀`` is one. Needs the package ``regex``.

    A mark always stays with its letter; UAX 29 itself cuts before 31 vowel signs and tones of Burmese, Tai Tham and Ahom.
    """
    import regex

    return regex.findall(r"\X\p{M}*", text)


def is_hangul_syllable(character: str) -> bool:
    """Whether ``character`` is a Hangul syllable of the composed block (가 to 힣)."""
    return _SYLLABLES[0] <= ord(character) <= _SYLLABLES[1]


def is_jamo(character: str) -> bool:
    """Whether ``character`` is a conjoining part of a Hangul syllable."""
    return _JAMO[0] <= ord(character) <= _JAMO[1]


def to_jamo(text: str) -> str:
    """Hangul syllables as two or three conjoining parts each; NFC puts them together again. Other letters stay."""
    return "".join(_conjoining_parts(c) if is_hangul_syllable(c) else c for c in text)


def _conjoining_parts(syllable: str) -> str:
    number = ord(syllable) - _SYLLABLES[0]
    last = number % _LASTS
    parts = chr(_FIRST + number // (_VOWELS * _LASTS)) + chr(_VOWEL + number // _LASTS % _VOWELS)
    return parts + (chr(_LAST + last) if last else "")


# --- Letters that look alike and are not -----------------------------------------------------------------

# Each line is one shape: letters of several scripts, or several codes that keyboards give for one letter.
_SHAPES = """
aаα bЬ cсϲ dԁ eеҽ ɛεԑ əǝә gɡ hһհ iіι jјϳ kκк lӏ mм nո oоοօ pрρ qԛ sѕ tт uυս vνѵ wԝѡ xхχ yуγү zᴢ ŋη ɔᴐͻ ɣγ ʋυ ɗժ
AАΑ BВΒ CСϹ EЕΕ FϜ GԌ HНΗ IІΙӀ JЈͿ KКΚ MМΜ NΝ OОΟ PРΡ SЅ TТΤ XХΧ YУΥҮ ZΖ QԚ WԜ ƐΕЄ ƏƎӘ
ßβ µμ öӧ äӓ ëё ïї çҫ èѐ
şș ţț ŞȘ ŢȚ ĐÐƉ ŁⱠ
يی كک هہ ةۃ ٱا
"""
LOOK_ALIKES = tuple(_SHAPES.split())
_APOSTROPHES = "'’‘ʼʻʽ`´ˈꞌ"
_COMPATIBLE_SCRIPTS = ({"CJK", "HIRAGANA", "KATAKANA"}, {"CJK", "HANGUL"}, {"CJK", "BOPOMOFO"})
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]*[^\W\d_]*)*")


def _table() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for group in LOOK_ALIKES:
        for letter in group:
            table.setdefault(letter, set()).update(set(group) - {letter})
    return table


_LOOK_ALIKES_OF = _table()


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script ``text`` has; what all scripts share is not counted."""
    found: Counter[str] = Counter(map(script_of, text))
    del found[""]
    return found


def mixed_words(text: str) -> list[str]:
    """The words of ``text`` whose letters are of scripts that no language writes together."""
    return [word for word in _WORD.findall(text) if _mixed(scripts_of(word))]


def repair_look_alikes(text: str, usual: str = "") -> str:
    """``text`` with look-alikes in mixed words replaced by the letter of the word's own script, where there is one.

    A word's own script is the one of most of its letters; of two that share it evenly, ``usual`` (else the text's own).
    """
    if not usual and (scripts := scripts_of(text)):
        usual = scripts.most_common(1)[0][0]
    return _WORD.sub(lambda found: _repaired_word(found[0], usual), text)


def look_alike_groups(counts: Counter[str], scripts: Iterable[str] = ()) -> list[list[str]]:
    """Groups of characters of ``counts`` that look alike, each by how often they are used; ``scripts`` limits to those.

    Letters that one of the usual scripts has in its own right (Greek beside Latin) are a group only within that script.
    """
    wanted = set(scripts)
    found = []
    for group in (_APOSTROPHES, *LOOK_ALIKES):
        there = [c for c in group if counts[c] and (not wanted or script_of(c) in wanted | {""})]
        if len(there) > 1 and len({script_of(c) for c in there} - {""}) <= 1:
            found.append(sorted(there, key=lambda c: -counts[c]))
    return found


def _mixed(scripts: Counter[str]) -> bool:
    return len(scripts) > 1 and not any(set(scripts) <= together for together in _COMPATIBLE_SCRIPTS)


def _repaired_word(word: str, usual: str) -> str:
    scripts = scripts_of(word)
    if not _mixed(scripts):
        return word
    most = max(scripts.values())
    own = usual if scripts.get(usual) == most else scripts.most_common(1)[0][0]
    return "".join(_in_script(c, own) for c in word)


def _in_script(letter: str, script: str) -> str:
    if script_of(letter) in ("", script):
        return letter
    return next((c for c in sorted(_LOOK_ALIKES_OF.get(letter, ())) if script_of(c) == script), letter)


# --- Text that was read in the wrong encoding ------------------------------------------------------------

REPLACEMENT = "\ufffd"
"""What stands where a byte could not be read; the letter is lost."""

_CODE_PAGES = ("cp1252", "cp1250", "cp1251")


def repair_encoding(text: str) -> str:
    """``text`` as it was before UTF-8 was read as an 8-bit code page (``cittÃ `` is città); unchanged where it was not.

    Text that was read rightly hardly ever makes UTF-8 when it is written in a code page: each of its letters would have to be
    followed by certain others.
    """
    for _ in range(2):  # Twice over is not rare.
        if text.isascii():
            return text
        mended = next((read for page in _CODE_PAGES if (read := _reread(text, page)) is not None), None)
        if mended is None or len(mended) >= len(text):
            return text
        text = mended
    return text


def is_unreadable(text: str) -> bool:
    """Whether ``text`` has characters in it that no encoding error can be mended from: lost bytes, control characters."""
    return any(
        c == REPLACEMENT or (unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r") for c in text
    )


def _reread(text: str, page: str) -> str | None:
    """The bytes of ``text`` in ``page``, read as UTF-8."""
    raw = bytearray()
    for character in text:
        try:
            raw += character.encode(page)
        except UnicodeEncodeError:
            if ord(character) > 0xFF:
                return None
            raw.append(ord(character))  # Five bytes of Windows-1252 stand for nothing and are kept as they are.
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
