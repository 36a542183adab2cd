"""The options of decoding that several verbs of the program ``lalia`` share."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lalia.decoding.decoder import Decoder
    from lalia.runtime.student import Student

DECODING = ("lm", "rescore", "hot", "only")
"""What ``add_decoding`` declares."""


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
