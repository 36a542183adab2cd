"""Lists of phrases that people write: hot words with boosts, and closed vocabularies with alternatives."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from lalia.exits import UserError
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens

BOOST = 6.0
MOST_PHRASES = 100_000
_PARTS = re.compile(r"[()\[\]|]|[^()\[\]|]+")


def read_hot_words(path: Path, normaliser: Normaliser, tokens: Tokens) -> dict[str, float]:
    """Phrases and boosts from a file: a phrase a line, after a tab its boost in natural logarithms (6 unless given).

    ``UserError`` names the line that is wrong.
    """
    found: dict[str, float] = {}
    for number, line in _lines(path):
        phrase, tab, boost = line.partition("\t")
        try:
            value = float(boost) if tab else BOOST
            if not math.isfinite(value) or abs(value) > 100:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}: line {number}: the boost is {boost!r}; expected a number from -100 to 100"
            ) from None
        found[_writable(path, number, phrase, normaliser, tokens)] = value
    _refuse_none(path, found)
    return found


def read_closed(path: Path, normaliser: Normaliser, tokens: Tokens) -> list[str]:
    """The phrases of a file: one a line, ``(a|b)`` for either, ``[a]`` for a or nothing, nested as one likes.

    Normalised and sorted. ``UserError`` names the line that is wrong.
    """
    found: set[str] = set()
    for number, line in _lines(path):
        for phrase in expand(line, f"{path}: line {number}"):
            found.add(_writable(path, number, phrase, normaliser, tokens))
            if len(found) > MOST_PHRASES:
                raise UserError(
                    f"{path}: line {number}: more than {MOST_PHRASES:,} phrases; expected a smaller grammar"
                )
    _refuse_none(path, found)
    return sorted(found)


def expand(line: str, where: str = "grammar") -> list[str]:
    """Every phrase that a line with ``(a|b)`` and ``[a]`` stands for."""
    parts = _PARTS.findall(line)
    found, rest = _alternatives(parts, 0, "", where)
    if rest < len(parts):
        raise UserError(f"{where}: {parts[rest]!r} closes nothing")
    return [" ".join(phrase.split()) for phrase in found]


def _alternatives(parts: list[str], at: int, closing: str, where: str) -> tuple[list[str], int]:
    """What the parts from ``at`` to ``closing`` stand for, and the place behind them."""
    options: list[str] = []
    current = [""]
    while at < len(parts) and parts[at] not in (")", "]"):
        part, at = parts[at], at + 1
        if part == "|":
            options, current = options + current, [""]
            continue
        inner = [part]
        if part in ("(", "["):
            inner, at = _alternatives(parts, at, ")" if part == "(" else "]", where)
            if part == "[":
                inner = [*inner, ""]
        if len(current) * len(inner) > MOST_PHRASES:
            raise UserError(f"{where}: stands for more than {MOST_PHRASES:,} phrases; expected a smaller grammar")
        current = [head + tail for head in current for tail in inner]
    if closing:
        if at == len(parts) or parts[at] != closing:
            raise UserError(f"{where}: {closing!r} is missing")
        at += 1
    return options + current, at


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a list of phrases, one a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); expected a list of phrases") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _writable(path: Path, number: int, phrase: str, normaliser: Normaliser, tokens: Tokens) -> str:
    written = normaliser(phrase)
    if not written:
        raise UserError(f"{path}: line {number}: {phrase.strip()!r} holds no letters")
    try:
        tokens.encode(written)
    except UserError as error:
        raise UserError(f"{path}: line {number}: {error}") from None
    return written


def _refuse_none(path: Path, found: Collection[str]) -> None:
    if not found:
        raise UserError(f"{path}: holds no phrases; expected one a line")
