"""Asterisk's prompt transcripts: from the lists that come with the recordings to labels fit for training."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable

DIGITS = {
    "eng": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "spa": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
    "fra": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "ita": ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"],
    "rus": ["ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"],
}

NOT_SPEECH = re.compile(r"silence/.*|beep(err)?|(a|de)scending-2tone|confbridge-(join|leave)|tt-monkeys", re.IGNORECASE)
"""Recordings of tones, monkeys and nothing."""

_GLOSS = re.compile(r"\[[^\w\]]*\]")  # "at [@]", "spazio []"
_STAGE_DIRECTION = re.compile(r"[\[\](){}<>]")  # "[sound of monkeys]", "(note: does not say "2")"


def read_prompts(data: bytes) -> dict[str, str]:
    """``core-sounds-XX.txt`` (gzipped or not) as {clip: what is said}; ``;`` lines are comments.

    A clip that is listed twice with different words has no trustworthy label and becomes ``""``.
    """
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    prompts: dict[str, str] = {}
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        entry = _decode(line).strip()
        if not entry or entry.startswith(";"):
            continue
        clip, colon, words = entry.partition(":")
        if not colon:
            continue
        clip = clip.strip()
        words = " ".join(words.split()).removeprefix(f"{clip}: ")  # One entry begins with its own name again.
        prompts[clip] = words if prompts.get(clip, words) == words else ""
    return prompts


def clean_prompt(words: str, language: str) -> str:
    """The label for what a prompt's writer noted, ``""`` where the note is not what is heard.

    Glosses of symbols go (``at [@]``), single digits are spelled (prompts name keys of a telephone), and a note is given
    up where it holds a stage direction, a longer number or an accent that an old encoding turned into a question mark.
    """
    words = _GLOSS.sub(" ", words).strip()
    if _STAGE_DIRECTION.search(words) or _has_broken_accent(words):
        return ""
    words = re.sub(r"(?<![\w.,:+-])\d(?![\w:+-]|[.,]\d)", lambda digit: DIGITS[language][int(digit[0])], words)
    if re.search(r"\d", words) or not re.search(r"[^\W\d_]", words):
        return ""
    return " ".join(words.split())


def match_prompts(clips: Iterable[str], prompts: dict[str, str]) -> dict[str, str]:
    """The noted words of every clip, ``""`` where there are none; case may differ where that is unambiguous."""
    folded: dict[str, list[str]] = {}
    for name, words in prompts.items():
        folded.setdefault(name.casefold(), []).append(words)
    matched = {}
    for clip in clips:
        others = folded.get(clip.casefold(), [])
        matched[clip] = prompts[clip] if clip in prompts else others[0] if len(others) == 1 else ""
    return matched


def _has_broken_accent(words: str) -> bool:
    for mark in re.finditer(r"\?", words):
        after = words[mark.end() :].lstrip()
        # A question ends the note, or a capital follows it. Anything else stood for a letter.
        if mark.start() == 0 or (after and not (after[0].isupper() and words[mark.end()].isspace())):
            return True
    return False


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")
