"""Tokens: the symbols a CTC head speaks, and text to ids and back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from lalia.cards import write_text
from lalia.exits import UserError
from lalia.text.graphemes import is_jamo, to_jamo

FILE_NAME = "tokens.txt"
BLANK = "<blank>"
BOUNDARY = "|"
"""The symbol between words; a space in text."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTES = 0xE000


def byte_symbol(value: int) -> str:
    """The symbol of one byte of UTF-8, as SentencePiece writes it: ``<0xE4>``."""
    return f"<0x{value:02X}>"


class Tokens:
    """The symbols of an output layer in its order; 0 is the blank.

    A symbol may be longer than one character (a grapheme, a piece of a word); ``encode`` takes the longest that fits. Where
    there are symbols of bytes, characters without a symbol are spelled in UTF-8; where there are parts of Hangul syllables,
    syllables are spelled by those. ``decode`` puts both together again, so a list of symbols is all that it takes.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        if not self.symbols or self.symbols[0] != BLANK:
            found = repr(self.symbols[0]) if self.symbols else "nothing"
            raise UserError(f"tokens: the first symbol is {found}; expected {BLANK}")
        self._ids: dict[str, int] = {}
        for i, symbol in enumerate(self.symbols):
            if not symbol or any(c.isspace() for c in symbol):
                raise UserError(f"tokens: symbol {i} is {symbol!r}; white space is written {BOUNDARY}")
            if symbol in self._ids:
                raise UserError(
                    f"tokens: {symbol!r} stands at {self._ids[symbol]} and at {i}; expected each symbol once"
                )
            self._ids[symbol] = i
        bytes_ = {i: int(byte[1], 16) for i, s in enumerate(self.symbols) if (byte := _BYTE.fullmatch(s))}
        self._bytes = bytes_
        self._ids_of_bytes = {value: i for i, value in bytes_.items()}
        self._jamo = any(len(s) == 1 and is_jamo(s) for s in self.symbols)
        self._longest = max((len(s) for i, s in enumerate(self.symbols) if i and i not in bytes_), default=1)

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Tokens:
        """Blank, word boundary, then every character of the (normalised) ``texts`` by code point."""
        characters = {c for text in texts for c in text}
        characters -= {c for c in characters if c.isspace()} | {BOUNDARY}
        if not characters:
            raise UserError("tokens: the texts hold no characters; expected labels to take the alphabet from")
        return cls([BLANK, BOUNDARY, *sorted(characters)])

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    @property
    def boundary(self) -> int | None:
        """The id of the word boundary; None where the language is written without spaces."""
        return self._ids.get(BOUNDARY)

    def encode(self, text: str, skip_unknown: bool = False) -> list[int]:
        """The ids of ``text``; a ``UserError`` names the characters there is no symbol for, unless they are to be skipped."""
        ids, unknown = self._encode(text)
        if unknown and not skip_unknown:
            names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown)
            raise UserError(f"no token for {names} in {_short(text)!r}; normalise the text or add the characters")
        return ids

    def unknown(self, text: str) -> list[str]:
        """The characters of ``text`` that there is no symbol for, each once."""
        return self._encode(text)[1]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, in NFC; blanks are left out, boundaries become spaces, bytes that make no letter vanish."""
        out: list[str] = []
        pending = bytearray()
        for i in ids:
            if i in self._bytes:
                pending.append(self._bytes[i])
            elif i:
                out += [pending.decode("utf-8", "ignore"), " " if self.symbols[i] == BOUNDARY else self.symbols[i]]
                pending.clear()
        out.append(pending.decode("utf-8", "ignore"))
        return unicodedata.normalize("NFC", "".join(out))

    def _encode(self, text: str) -> tuple[list[int], list[str]]:
        ids: list[int] = []
        unknown: dict[str, None] = {}
        at = 0
        spelled = to_jamo(text) if self._jamo else text
        written = spelled.replace(BOUNDARY, "\0").replace(" ", BOUNDARY)
        while at < len(written):
            for width in range(min(self._longest, len(written) - at), 0, -1):
                found = self._ids.get(written[at : at + width], 0)
                if found:
                    ids.append(found)
                    at += width
                    break
            else:
                in_bytes = [self._ids_of_bytes.get(value) for value in spelled[at].encode("utf-8", "replace")]
                if self._bytes and None not in in_bytes and spelled[at] not in " |":
                    ids += [i for i in in_bytes if i is not None]
                else:
                    unknown[spelled[at]] = None
                at += 1
        return ids, list(unknown)

    def describe(self, shown: int = 100) -> str:
        """How many there are, and the first of them, in one line."""
        listed = " ".join(f"◌{s}" if unicodedata.category(s[0])[0] == "M" else s for s in self.symbols[1 : 1 + shown])
        return f"{len(self)}: {listed}" + (f" and {len(self) - 1 - shown:,} more" if len(self) > 1 + shown else "")

    def save(self, path: Path | str) -> None:
        """Write one ``symbol id`` per line."""
        write_text(Path(path), "".join(f"{symbol} {i}\n" for i, symbol in enumerate(self.symbols)))

    @classmethod
    def load(cls, path: Path | str) -> Tokens:
        """The tokens stored at ``path``; a ``UserError`` names the line that is wrong."""
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; expected the model's tokens, one 'symbol id' per line") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); copy or make the folder again") from error
        symbols: list[str] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            symbol, _, written = line.rstrip("\r").rpartition(" ")
            if written != str(len(symbols)) or not symbol:
                raise UserError(f"{path}: line {number} is {_short(line)!r}; expected 'SYMBOL {len(symbols)}'")
            symbols.append(symbol)
        try:
            return cls(symbols)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


def spellings(tokens: Tokens) -> list[str]:
    """The letters that each token adds to a text, word boundaries as spaces; ``""`` for the blank.

    Pieces that carry their space in front of them (``▁the``) are spelled with it. A byte (``<0xE4>``) is a letter of its own,
    from the private use area.
    """
    return ["", *(_spelling(symbol) for symbol in tokens.symbols[1:])]


def _spelling(symbol: str) -> str:
    byte = _BYTE.fullmatch(symbol)
    if byte:
        return chr(_BYTES + int(byte[1], 16))
    return " " if symbol == BOUNDARY else symbol.replace("▁", " ")


def spell(text: str, tokens: Tokens) -> str:
    """A normalised text in the letters of ``spellings``: itself, but for syllables that the tokens take apart.

    A ``UserError`` names the characters that there is no token for.
    """
    spelled = spellings(tokens)
    return "".join(spelled[token] for token in tokens.encode(text)).strip()
