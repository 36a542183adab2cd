"""Numbers in text: finds them by the language's own grouping and decimals, and writes them out as words.

The words are those of a table that the user filled, of num2words, or of CLDR's rules (unicode-rbnf), in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.text.languages import LanguageProfile, profile
from lalia.text.text_files import read_unicode
from lalia.text.writing_system import WritingSystem, attaches_numbers, writing_system

_MAX_DIGITS = 12  # Digits of a number that is read as one; a telephone number is read digit by digit.
_SPACES = " \u00a0\u2009\u202f"
_DATES = re.compile(
    r"(?<![\d.:])(?:\d{1,2}([./-])\d{1,2}\1\d{2,4}|\d{4}([./-])\d{1,2}\2\d{1,2}|\d{1,2}/\d{1,2}|\d{1,2}\.\d{1,2}\.(?=\s)|"
    r"\d{1,2}[:h](?![6-9])\d\d(?::(?![6-9])\d\d)?|\d{4}年\d{1,2}月\d{1,2}日)(?![\d:])"
)
_NOT_TOLD = "numbers are to be spelled out, which needs {}; pip install 'lalia[train]', or write them out in the labels"


def spell_numbers(
    text: str, language: str, writing: WritingSystem | None = None, table: Mapping[str, str] | None = None
) -> str:
    """``text`` with its numbers written out as ``language`` (ISO 639-3) says them; as it is where nobody knows how.

    Decimal digits of every script are read. A number with a leading zero or more than 12 digits is spelled digit by digit.
    ``table`` has words by number (``read_numbers``). ``UserError`` where num2words or unicode-rbnf is needed and not installed.
    """
    if not any(map(str.isdecimal, text)):
        return text
    known, table = profile(language), table or {}
    if not known.spells and not table:
        return text
    writing = writing or writing_system(language)
    letters = any(c.isdecimal() for c in writing.letters)

    def spelled(found: re.Match[str]) -> str:
        before, behind = text[: found.start()][-1:], text[found.end() :][:1]
        if letters and (before.isalpha() or behind.isalpha() or "'" in (before, behind)):
            return found[0]  # a letter of the word: Sḵwx̱wú7mesh
        words = _words_of(found, behind, known, table, writing.script)
        if words is None:
            return found[0]
        return f"{' ' if _needs_space(before, words[0]) else ''}{words}{' ' if _needs_space(behind, words[-1]) else ''}"

    return number_pattern(writing.decimal, writing.group, known.ordinals).sub(spelled, text)


def numbers_in(texts: Iterable[str], language: str) -> dict[str, int]:
    """How often each number stands in ``texts``, in the spelling that ``read_numbers`` expects; the commonest first."""
    writing = writing_system(language)
    pattern, counts = number_pattern(writing.decimal, writing.group), dict[str, int]()
    for text in texts:
        for found in pattern.finditer(text):
            for number in numbers_of(found):
                counts[number] = counts.get(number, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def dates_and_times(text: str) -> list[str]:
    """Dates and clock times in digits of any script: 24.12.2024, 24.12., 2024-12-24, 24/12, 2024年12月24日, 10:30, 14h05."""
    return [found[0] for found in _DATES.finditer(text)]


def write_numbers(path: Path, texts: Iterable[str], language: str, signs: Iterable[str] = ()) -> int:
    """Write a table for ``read_numbers`` with the numbers of ``texts`` and ``signs``, to be filled in; returns their number."""
    counts = numbers_in(texts, language)
    numbers = [*map(str, range(10)), *(number for number in counts if len(number) > 1), *signs]
    head = (
        "# How each number is said, behind a tab. Others are read digit by digit. Signs too; {} is the place of the number: "
        "%<tab>{} percent\n"
    )
    write_text(path, head + "".join(f"{number}\t\n" for number in numbers))
    return len(numbers)


def read_numbers(path: Path) -> dict[str, str]:
    """Words by number or sign from a file of lines ``NUMBER<tab>WORDS``: ``1984``, ``3.5`` for a decimal, ``%``, ``°C``.

    ``UserError`` names a line without words, and one that is neither number nor sign.
    """
    found: dict[str, str] = {}
    for line_number, line in enumerate(read_unicode(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        number, _, words = (part.strip() for part in line.partition("\t"))
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?|°[CF]|[^\w\s#]", number):
            raise UserError(
                f"{path}: line {line_number}: {number!r} is no number or sign; expected NUMBER<tab>WORDS, as 1984, 3.5 or %"
            )
        if not words or any(map(str.isdecimal, words)):
            raise UserError(f"{path}: line {line_number}: {number} has no words; write behind a tab how it is said")
        found[number] = words
    if not found:
        raise UserError(f"{path}: holds no numbers; expected lines of NUMBER<tab>WORDS")
    return found


@cache
def number_pattern(decimal: str, group: str, ordinals: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Finds numbers by the language's decimal mark and the mark between thousands: groups ``whole``, ``fraction``, ``ordinal``.

    Where thousands are not separated by spaces, a plain one separates them in 10 000 and 100 000, but 100 200 is two numbers.
    """
    plain = (
        rf"(?<!\d)(?<!\d[{_SPACES}])(?:\d{{1,2}}(?: \d{{3}})+|\d{{3}}(?: 000)+)(?! ?\d)" if group.strip() else "(?!)"
    )
    spaces = _SPACES[1:] if group.strip() else _SPACES
    mark = re.escape(group if group.strip() else "." if decimal == "," else ",")
    endings = "|".join(map(re.escape, sorted(ordinals, key=len, reverse=True)))
    ordinal = rf"(?P<ordinal>(?:{endings})(?!\w))?" if ordinals else "(?P<ordinal>(?!))?"
    wholes = [
        rf"\d{{1,3}}(?:(?P<mark>{mark}|٬|['’](?=\d{{3}}))\d{{3}})(?:(?P=mark)\d{{3}})*(?!\d)",  # 1.984 or 1'984
        rf"(?<!\d)(?<!\d[{_SPACES}])\d{{1,3}}(?:(?P<space>[{spaces}])\d{{3}})(?:(?P=space)\d{{3}})*(?!(?P=space)?\d)",  # 10 000
        plain,
        r"\d{1,2}(?:,\d{2})+,\d{3}(?!\d)" if mark == "," else "(?!)",  # 1,00,000
        r"\d+",
    ]
    return re.compile(rf"(?P<whole>{'|'.join(wholes)})(?:(?:{re.escape(decimal)}|٫)(?P<fraction>\d+))?{ordinal}")


def numbers_of(found: re.Match[str]) -> list[str]:
    """The numbers of a match in ASCII: one, but the parts of a group that begins with zero."""
    parts = re.findall(r"\d+", found["whole"])
    ascii_parts = ["".join(str(int(c)) for c in part) for part in parts]
    if len(parts) > 1 and ascii_parts[0][0] == "0":
        return ascii_parts
    fraction = "".join(str(int(c)) for c in found["fraction"] or "")
    return ["".join(ascii_parts) + (f".{fraction}" if fraction else "")]


def _words_of(
    found: re.Match[str], behind: str, known: LanguageProfile, table: Mapping[str, str], script: str
) -> str | None:
    """The words of a match; None where nobody knows them."""
    said = []
    for number in numbers_of(found):
        digits, _, fraction = number.partition(".")
        if number in table:
            said.append(table[number])
            continue
        if fraction and known.decimals and (words := _by_num2words(number, known.numbers, "cardinal")):
            said.append(words)
            continue
        one_by_one = bool(behind) and behind in known.digit_by_digit and len(digits) == 4
        whole = _whole(digits, known, table, script, found["ordinal"] is not None, one_by_one)
        after = [_whole(c, known, table, script, False, False) for c in fraction]
        if whole is None and not any(after):
            return None
        # What has no word stays in digits, so that normalising twice does the same as once.
        point = [known.point] if fraction and known.point else []
        said.append(" ".join([whole or digits, *point, *(word or c for word, c in zip(after, fraction, strict=True))]))
    return " ".join(said)


def _whole(
    digits: str, known: LanguageProfile, table: Mapping[str, str], script: str, ordinal: bool, one_by_one: bool
) -> str | None:
    if digits in table:
        return table[digits]
    if table and all(digit in table for digit in digits):
        return " ".join(table[digit] for digit in digits)
    if len(digits) <= _MAX_DIGITS and (digits[0] != "0" or len(digits) == 1) and not one_by_one:
        for kind in ("ordinal", "cardinal") if ordinal else ("cardinal",):
            words = _spelled(digits, known, script, kind)
            if words is not None:
                return words
        if known.cldr_numbers:
            return None  # CLDR's rules have no word for it
    each = [_spelled(digit, known, script, "cardinal") for digit in digits]
    joined = "" if one_by_one else " "
    return None if None in each else joined.join(word for word in each if word)


def _spelled(digits: str, known: LanguageProfile, script: str, kind: str) -> str | None:
    """The words of a number by num2words or CLDR's rules; None where they fail."""
    if known.numbers:
        whole = int(digits)
        power = next((p for p in (10**9, 10**6, 10**3) if known.by_thousands and whole > p and whole % p), 0)
        if power:
            parts = [_spelled(str(part), known, script, kind) for part in (whole - whole % power, whole % power)]
            return None if None in parts else " ".join(filter(None, parts))
        words = _by_num2words(digits, known.numbers, kind) or ""
    else:
        words = _by_cldr(digits, known.cldr_numbers, script, kind) or ""
    for wrong, right in known.number_repairs.items():
        words = words.replace(wrong, right)
    return " ".join(words.split()) or None


@lru_cache(maxsize=65536)
def _by_cldr(digits: str, numbers: str, script: str, kind: str) -> str | None:
    language, _, most = numbers.partition("<")
    if not language or kind != "cardinal" or (most and int(digits) >= int(most)):
        return None
    try:
        from unicode_rbnf import RbnfEngine
    except ImportError as error:
        raise UserError(_NOT_TOLD.format("unicode-rbnf")) from error
    own = f"{language}_{script}"  # sr_Latn, zh_Hant
    language = own if own in RbnfEngine.get_supported_languages() else language
    words = str(RbnfEngine.for_language(language).format_number(digits).text)
    return words.replace("\u200b", "").strip() or None


@lru_cache(maxsize=65536)
def _by_num2words(digits: str, numbers: str, kind: str) -> str | None:
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError(_NOT_TOLD.format("num2words")) from error
    with suppress(Exception):  # Each language of num2words fails in its own way; single digits it can always say.
        words = str(num2words(Decimal(digits) if "." in digits else int(digits), lang=numbers, to=kind))
        if words.strip() and not any(map(str.isdecimal, words)):
            return " ".join(words.split())
    return None


def _needs_space(neighbour: str, letter: str) -> bool:
    """Whether a space must part a number's words from the letter beside it."""
    return neighbour.isalnum() and not attaches_numbers(neighbour) and not attaches_numbers(letter)
