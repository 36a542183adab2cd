"""Tokens of a CTC head, text to token ids and back, and the choice of a vocabulary from labels.

The units are letters, graphemes, parts of Hangul syllables, or SentencePiece pieces.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.text.unicode import graphemes, is_hangul_syllable, is_jamo, to_jamo

# --- Tokens ----------------------------------------------------------------------------------------------

FILE_NAME = "tokens.txt"
BLANK = "<blank>"
BOUNDARY = "|"
"""The symbol between words; a space in text."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTE_AREA = 0xE000


def byte_symbol(value: int) -> str:
    """The symbol of one byte of UTF-8, as SentencePiece writes it: ``<0xE4>``."""
    return f"<0x{value:02X}>"


def symbol_byte(symbol: str) -> int | None:
    """The byte that ``symbol`` is, None for any other symbol."""
    found = _BYTE.fullmatch(symbol)
    return int(found[1], 16) if found else None


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


def token_texts(tokens: Tokens) -> list[str]:
    """The letters that each token adds to a text, word boundaries as spaces; ``""`` for the blank.

    Pieces that carry their space in front of them (``▁the``) are spelled with it. A byte (``<0xE4>``) is a letter of its own,
    from the private use area.
    """
    return ["", *(_token_text(symbol) for symbol in tokens.symbols[1:])]


def _token_text(symbol: str) -> str:
    byte = _BYTE.fullmatch(symbol)
    if byte:
        return chr(_BYTE_AREA + int(byte[1], 16))
    return " " if symbol == BOUNDARY else symbol.replace("▁", " ")


def spell(text: str, tokens: Tokens) -> str:
    """A normalised text in the letters of ``token_texts``: itself, but for syllables that the tokens take apart.

    A ``UserError`` names the characters that there is no token for.
    """
    spelled = token_texts(tokens)
    return "".join(spelled[token] for token in tokens.encode(text)).strip()


# --- Vocabulary ------------------------------------------------------------------------------------------

Unit = Literal["auto", "letters", "graphemes", "jamo", "pieces"]

MANY_LETTERS = 300
"""More letters than this are too many to see each one often: Ge'ez has about 280, Han thousands."""
RARE_COUNT = 5
"""A letter seen less often than this is hardly learned; among pieces it is spelled in bytes."""
MAX_GRAPHEMES = 120
GRAPHEME_COVERAGE = 0.98
PIECES = 512
MAX_UNCOVERED = 0.02
"""Share of the letters that a head need not know."""
_LETTER_COVERAGE = 0.98


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with the unit they are in, why it was chosen, and how often each symbol stands in the labels."""

    unit: str
    reason: str
    tokens: Tokens
    counts: dict[str, int]

    @property
    def rare(self) -> list[str]:
        """Symbols that the labels hold less than five times, the commonest first."""
        rare = [symbol for symbol in self.tokens.symbols[1:] if 0 < self.counts.get(symbol, 0) < RARE_COUNT]
        return sorted(rare, key=lambda symbol: -self.counts[symbol])

    def describe(self, shown: int = 80) -> str:
        """One line: unit, size, reason, and the symbols by how often they are used."""
        order = sorted(self.tokens.symbols[1:], key=lambda symbol: -self.counts.get(symbol, 0))
        return f"{self.unit}, {self.reason}; {Tokens([BLANK, *order]).describe(shown)}"


def choose_vocabulary(texts: Iterable[str], unit: Unit = "auto", pieces: int = PIECES) -> Vocabulary:
    """The vocabulary of (normalised) ``texts`` in ``unit``; ``pieces`` is its size where it is made of pieces.

    ``auto`` takes letters, except that letters with marks of their own (tones) become graphemes where these are few, Hangul
    is spelled by the parts of its syllables, and letters that are too many become pieces: the commonest letters and letter
    groups, the others spelled in bytes. ``UserError`` where the texts hold nothing, or for pieces, SentencePiece is missing.
    """
    words: Counter[str] = Counter(word for text in texts for word in text.replace(BOUNDARY, " ").split())
    letters = _count(words, list)
    if not letters:
        raise UserError("vocabulary: the labels hold no letters; give labels to take the alphabet from")
    if unit == "auto":
        unit, reason = _choose(words, letters)
    else:
        reason = "as asked"
    spaced = sum(words.values())
    if unit == "pieces":
        symbols = _pieces(words, letters, pieces)
        tokens = Tokens([BLANK, BOUNDARY, *symbols])
        counts = _count(words, lambda word: [tokens.symbols[i] for i in tokens.encode(word, skip_unknown=True)])
    else:
        cuts: dict[str, Callable[[str], Iterable[str]]] = {"letters": list, "graphemes": graphemes, "jamo": to_jamo}
        counts = _count(words, cuts[unit])
        tokens = Tokens([BLANK, BOUNDARY, *sorted(counts)])
    return Vocabulary(unit, reason, tokens, {**counts, BOUNDARY: spaced})


def missing_characters(tokens: Tokens, texts: Iterable[str]) -> dict[str, int]:
    """How often each character of ``texts`` has no symbol among ``tokens``; the commonest first."""
    counts = Counter(c for text in texts for c in unicodedata.normalize("NFC", text) if c != " ")
    # A mark may be known together with its letter alone.
    marks = {c for symbol in tokens.symbols[1:] for c in symbol if unicodedata.category(c)[0] == "M"}
    return {c: n for c, n in counts.most_common() if c not in marks and tokens.unknown(c)}


def require_coverage(tokens: Tokens, texts: Iterable[str], model: str) -> None:
    """A ``UserError`` where more than a few letters of ``texts`` are ones that the head of ``model`` does not speak."""
    texts = list(texts)
    lacking = missing_characters(tokens, texts)
    total = sum(len(text) - text.count(" ") for text in texts)
    if sum(lacking.values()) > MAX_UNCOVERED * total:
        shown = ", ".join(f"{c!r} (U+{ord(c):04X}, {n:,} times)" for c, n in list(lacking.items())[:8])
        raise UserError(
            f"{model}: its head has no token for {len(lacking)} characters of the labels, {shown}; is it of another language "
            "or alphabet? choose a recogniser of this one, or train a head of your own from the encoder"
        )


def _choose(words: Counter[str], letters: Counter[str]) -> tuple[Unit, str]:
    total = sum(letters.values())
    hangul = sum(n for c, n in letters.items() if is_hangul_syllable(c) or is_jamo(c))
    if hangul > total / 2:
        syllables = sum(is_hangul_syllable(c) for c in letters)
        return "jamo", f"{syllables} Hangul syllables are spelled by their parts"
    # Accents above and below (classes 200 and up); vowel signs of Indic scripts are letters of their own.
    marks = sum(n for c, n in letters.items() if unicodedata.combining(c) >= 200)
    clusters = _count(words, graphemes)
    often = sum(n for n in clusters.values() if n >= RARE_COUNT) / sum(clusters.values())
    if marks > total / 200 and len(clusters) <= MAX_GRAPHEMES and often >= GRAPHEME_COVERAGE:
        return "graphemes", f"marks stay with their letters, as in {_marked(clusters)}"
    if len(letters) > MANY_LETTERS:
        return "pieces", f"{len(letters):,} different letters are too many to see each one often"
    return "letters", "few enough to see each one often"


def _marked(clusters: Counter[str]) -> str:
    return " ".join(cluster for cluster, _ in clusters.most_common() if len(cluster) > 1).split(" ")[0]


def _count(words: Counter[str], cut: Callable[[str], Iterable[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for word, count in words.items():
        for symbol in cut(word):
            found[symbol] += count
    return found


def _pieces(words: Counter[str], letters: Counter[str], size: int) -> list[str]:
    """The commonest letters, letter groups that SentencePiece finds, and the bytes of the rarer letters, ``size`` in all."""
    kept = _commonest(letters, max(16, size - 2 - 64) * 3 // 4)
    in_bytes = sorted({value for letter in letters if letter not in kept for value in letter.encode()})
    if (
        in_bytes
    ):  # The letters of a script share their first bytes: so letters that no label has can be spelled as well.
        han = range(0xE3, 0xEA) if any(0xE3 <= value <= 0xE9 for value in in_bytes) else ()
        in_bytes = sorted({*in_bytes, *range(0x80, 0xC0), *han})
    room = size - 2 - len(in_bytes) - len(kept)
    groups = _letter_groups(words, kept, room) if room > 0 else []
    return [*sorted(kept), *groups, *map(byte_symbol, in_bytes)]


def _commonest(letters: Counter[str], most: int) -> set[str]:
    """At most ``most`` letters, seen often enough, that make up nearly all of the text."""
    total, seen, kept = sum(letters.values()), 0, set()
    for letter, count in letters.most_common(most):
        if seen > _LETTER_COVERAGE * total and count < RARE_COUNT:
            break
        seen += count
        kept.add(letter)
    return kept


def _letter_groups(words: Counter[str], kept: set[str], room: int) -> list[str]:
    """The ``room`` likeliest groups of two and more of the letters ``kept``."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            "a vocabulary of pieces is made by sentencepiece, which is missing; pip install 'lalia[train]', "
            "or choose --labels.unit letters"
        ) from error
    lines = [f"{run}\t{count}" for word, count in sorted(words.items()) for run in _runs(word, kept)]
    if not lines:
        return []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), input_format="tsv", model_writer=model, model_type="unigram",
            vocab_size=room + len(kept) + 1, hard_vocab_limit=False, character_coverage=1.0, add_dummy_prefix=False,
            normalization_rule_name="identity", max_sentencepiece_length=6, num_threads=1, minloglevel=2,
            unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, split_by_unicode_script=False, split_by_number=False,
        )  # fmt: skip
    except (RuntimeError, OSError):
        return []  # Too little text to group anything: letters and bytes say it all.
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    found = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    return [piece for piece in found if len(piece) > 1 and set(piece) <= kept][:room]


def _runs(word: str, kept: set[str]) -> list[str]:
    """The parts of ``word`` that are made of the letters ``kept``."""
    return "".join(c if c in kept else " " for c in word).split()
