"""Vocabulary: which units a recogniser spells in (letters, graphemes, parts of Hangul, pieces), chosen from its labels."""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lalia.exits import UserError
from lalia.text.graphemes import graphemes, is_hangul_syllable, is_jamo, to_jamo
from lalia.text.tokens import BLANK, BOUNDARY, Tokens, byte_symbol

Unit = Literal["auto", "letters", "graphemes", "jamo", "pieces"]

MANY = 300
"""More letters than this are too many to see each one often: Ge'ez has about 280, Han thousands."""
RARE = 5
"""A letter seen less often than this is hardly learned; among pieces it is spelled in bytes."""
FEW_GRAPHEMES = 120
GRAPHEMES_SEEN = 0.98
PIECES = 512
FOREIGN_TO_HEAD = 0.02
"""Share of the letters that a head need not know."""
_LETTERS_KEPT = 0.98


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
        rare = [symbol for symbol in self.tokens.symbols[1:] if 0 < self.counts.get(symbol, 0) < RARE]
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


def missing_letters(tokens: Tokens, texts: Iterable[str]) -> dict[str, int]:
    """How often each character of ``texts`` has no symbol among ``tokens``; the commonest first."""
    counts = Counter(c for text in texts for c in unicodedata.normalize("NFC", text) if c != " ")
    # A mark may be known together with its letter alone.
    marks = {c for symbol in tokens.symbols[1:] for c in symbol if unicodedata.category(c)[0] == "M"}
    return {c: n for c, n in counts.most_common() if c not in marks and tokens.unknown(c)}


def require_head(tokens: Tokens, texts: Iterable[str], model: str) -> None:
    """A ``UserError`` where more than a few letters of ``texts`` are ones that the head of ``model`` does not speak."""
    texts = list(texts)
    lacking = missing_letters(tokens, texts)
    total = sum(len(text) - text.count(" ") for text in texts)
    if sum(lacking.values()) > FOREIGN_TO_HEAD * total:
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
    often = sum(n for n in clusters.values() if n >= RARE) / sum(clusters.values())
    if marks > total / 200 and len(clusters) <= FEW_GRAPHEMES and often >= GRAPHEMES_SEEN:
        return "graphemes", f"marks stay with their letters, as in {_marked(clusters)}"
    if len(letters) > MANY:
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
    groups = _groups(words, kept, room) if room > 0 else []
    return [*sorted(kept), *groups, *map(byte_symbol, in_bytes)]


def _commonest(letters: Counter[str], most: int) -> set[str]:
    """At most ``most`` letters, seen often enough, that make up nearly all of the text."""
    total, seen, kept = sum(letters.values()), 0, set()
    for letter, count in letters.most_common(most):
        if seen > _LETTERS_KEPT * total and count < RARE:
            break
        seen += count
        kept.add(letter)
    return kept


def _groups(words: Counter[str], kept: set[str], room: int) -> list[str]:
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
