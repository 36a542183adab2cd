"""The options of decoding that several verbs of the program ``lalia`` share."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.exits import UserError

if TYPE_CHECKING:
    from lalia.decoding.decoder import Decoder
    from lalia.runtime.student import Student
    from lalia.text.tokens import Tokens

OpenCorpus = Callable[[Path], Any]
DECODING = ("lm", "rescore", "hot", "only")
"""What ``add_decoding`` declares."""
FOREIGN = 0.5
"""The share of the words of a text that a student may have no letters for."""


def add_language(parser: argparse.ArgumentParser) -> None:
    """Which clips of a corpus are meant, for ``lalia.runtime.spoken``."""
    parser.add_argument(
        "--language",
        metavar="CODE",
        action="append",
        help="clips of this one (ita, it, it-IT or Italian; may be repeated; default: the student's own)",
    )


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The options that say what is known of the language."""
    parser.add_argument("--lm", type=Path, metavar="LM", help="a language model made by lalia lm")
    parser.add_argument("--rescore", type=Path, metavar="LM", help="an LSTM (lalia lm --lstm) to weigh what --lm found")
    parser.add_argument(
        "--hot", type=Path, metavar="FILE", help="words to listen for: one a line, tab, boost (default: 6)"
    )
    parser.add_argument(
        "--only", type=Path, metavar="FILE", help="only these phrases, one a line: turn (on|off) [the] light"
    )


def decoders(args: argparse.Namespace, student: Student) -> Callable[[], Decoder | None]:
    """What gives every thread the decoder that the options ask for; None where they ask for none."""
    if not (args.lm or args.rescore or args.hot or args.only):
        return lambda: None
    from lalia.decoding.language_model import LanguageModel
    from lalia.decoding.lstm import LstmModel
    from lalia.decoding.phrases import read_closed, read_hot_words
    from lalia.runtime.decoders import make_decoder

    lm = LanguageModel.load(args.lm) if args.lm else None
    rescore = LstmModel.load(args.rescore) if args.rescore else None
    hot = read_hot_words(args.hot, student.normaliser, student.tokens) if args.hot else None
    only = read_closed(args.only, student.normaliser, student.tokens) if args.only else None
    made = threading.local()

    def decoder() -> Decoder:
        if not hasattr(made, "decoder"):
            made.decoder = make_decoder(student, lm, rescore=rescore, hot_words=hot, only=only)
        found: Decoder = made.decoder
        return found

    decoder()  # what is wrong is told before the first clip
    return decoder


def labelled_rows(corpus: Any, path: Path, split: str, languages: Sequence[str], limit: int | None) -> list[int]:
    """The labelled clips of a split in ``languages`` (none: all), at most ``limit`` of them, spread evenly; a ``UserError`` where
    there are none."""
    every: list[str | None] = [*languages] or [None]
    rows = sorted(int(row) for code in every for row in corpus.select(split=split, language=code, with_text=True))
    if not rows:
        where = f"split {split}" + (f", language {' and '.join(languages)}" if languages else "")
        raise UserError(f"{path}: has no labelled clips in {where}; see: lalia inspect {path}")
    if limit and limit < len(rows):
        return [rows[i * len(rows) // limit] for i in range(limit)]
    return rows


def check_labels(corpus: Any, path: Path, rows: Sequence[int], student: Student) -> None:
    """Raise a ``UserError`` where most labels hold nothing, or are of an alphabet that the student does not write."""
    texts = [text for row in rows if (text := student.normaliser(corpus.text(row)))]
    if not texts:
        raise UserError(
            f"{path}: none of {len(rows)} labels holds a letter once it is normalised; prepare it with its transcripts"
        )
    words = [word for text in texts for word in text.split()]
    strange = [word for word in words if not _written(word, student.tokens)]
    require_alphabet(str(path), len(strange), len(words), " ".join(strange[:5]))


def require_alphabet(source: str, strange: int, words: int, example: str) -> None:
    """Raise a ``UserError`` where the student has no letters for more than half of the ``words`` of ``source``."""
    if strange > FOREIGN * words:
        raise UserError(
            f"{source}: the student has no letters for {strange:,} of its {words:,} words, such as {example[:60]!r};"
            " is it of another language, or in a wrong encoding?"
        )


def _written(word: str, tokens: Tokens) -> bool:
    try:
        tokens.encode(word)
    except UserError:
        return False
    return True
