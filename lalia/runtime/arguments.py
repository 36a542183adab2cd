"""The verbs ``lm`` and ``tune`` of the program ``lalia``, and the options of decoding that other verbs share."""

from __future__ import annotations

import argparse
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.exits import UserError

if TYPE_CHECKING:
    from lalia.decoding.decoder import Decoder
    from lalia.runtime.student import Student

OpenCorpus = Callable[[Path], Any]

LM = """\
Make a language model of text: it tells a student which words its language has, and which follow which.

  lalia lm talks.txt news.txt --like my-student --out my-lm       plain text, a sentence a line
  lalia lm corpora/demo --language ita --like my-student --out my-lm    the training labels of a corpus
  lalia lm words.arpa --unit word --like my-student --out my-lm   n-grams that another toolkit counted
  lalia lm talks.txt --like my-student --out my-lm --arpa my.arpa --heldout other.txt

N-grams of letters (--unit letter, up to 6 of them unless --order says otherwise) know words they have never seen and are best
for little text; n-grams of words (--unit word, up to 3) are best for millions of words. Smoothing is modified Kneser-Ney. The
text passes the student's own normaliser; words it has no letters for count as unknown. Then: lalia tune.
"""
TUNE = """\
Find how much a language model counts for a student, on clips that neither learned from, and calibrate its confidence.

  lalia tune my-student corpora/demo --lm my-lm --language ita

The setting with the fewest errors is stored in the language model's card and used from then on with this student.
"""


def add_lm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text", metavar="TEXT", nargs="+", type=Path, help="text files (.gz too), an ARPA file, or corpora"
    )
    parser.add_argument(
        "--like", metavar="STUDENT", type=Path, required=True, help="whose normaliser and letters to use"
    )
    parser.add_argument("--out", metavar="LM", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--unit", choices=("letter", "word"), default="letter", help="n-grams of what (default: letter)"
    )
    parser.add_argument("--order", type=int, metavar="N", help="the longest n-gram (default: 6 letters, 3 words)")
    parser.add_argument("--language", metavar="CODE", help="of a corpus only this one (ISO 639-3, such as ita)")
    parser.add_argument("--arpa", metavar="FILE", type=Path, help="write the n-grams as an ARPA file as well")
    parser.add_argument("--heldout", metavar="TEXT", type=Path, help="say the perplexity of this text")


def add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus with labelled clips")
    parser.add_argument("--lm", metavar="LM", type=Path, required=True, help="the language model to tune")
    parser.add_argument(
        "--split", choices=("dev", "train"), default="dev", help="which clips (default: dev; never test)"
    )
    parser.add_argument("--language", metavar="CODE", help="only this one (ISO 639-3, such as ita)")
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="at most N clips (default: 300)")


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The options that say what is known of the language."""
    parser.add_argument("--lm", type=Path, metavar="LM", help="a language model made by lalia lm")
    parser.add_argument(
        "--hot", type=Path, metavar="FILE", help="words to listen for: one a line, tab, boost (default: 6)"
    )
    parser.add_argument(
        "--only", type=Path, metavar="FILE", help="only these phrases, one a line: turn (on|off) [the] light"
    )


def decoders(args: argparse.Namespace, student: Student) -> Callable[[], Decoder | None]:
    """What gives every thread the decoder that the options ask for; None where they ask for none."""
    if not (args.lm or args.hot or args.only):
        return lambda: None
    from lalia.decoding.language_model import LanguageModel
    from lalia.decoding.phrases import read_closed, read_hot_words
    from lalia.runtime.decoders import make_decoder

    lm = LanguageModel.load(args.lm) if args.lm else None
    hot = read_hot_words(args.hot, student.normaliser, student.tokens) if args.hot else None
    only = read_closed(args.only, student.normaliser, student.tokens) if args.only else None
    made = threading.local()

    def decoder() -> Decoder:
        if not hasattr(made, "decoder"):
            made.decoder = make_decoder(student, lm, hot_words=hot, only=only)
        found: Decoder = made.decoder
        return found

    decoder()  # what is wrong is told before the first clip
    return decoder


def lm(args: argparse.Namespace, open_corpus: OpenCorpus) -> int:
    """``lalia lm``."""
    from lalia.cards import read_card
    from lalia.decoding.arpa import read_arpa, write_arpa
    from lalia.decoding.language_model import ORDERS, make, symbols_of
    from lalia.text.normaliser import FILE_NAME, Normaliser
    from lalia.text.tokens import FILE_NAME as TOKENS
    from lalia.text.tokens import Tokens

    start = time.perf_counter()
    like = read_card(args.like)
    normaliser, tokens = Normaliser.from_json(args.like / FILE_NAME), Tokens.load(args.like / TOKENS)
    order = args.order or ORDERS[args.unit]
    if not 1 <= order <= 12:
        raise UserError(f"--order {order}: expected 1 to 12")
    parents: list[dict[str, Any]] = []
    sentences: list[list[str]] = []
    strange = 0
    ready = [path for path in args.text if path.name.endswith((".arpa", ".arpa.gz"))]
    if ready and len(args.text) > 1:
        raise UserError(f"{ready[0]}: an ARPA file is a whole model; give it alone, or texts to count together")
    for path in () if ready else args.text:
        for text in _texts(path, args.language, open_corpus, parents):
            if written := normaliser(text):
                symbols, unknown = symbols_of(written, args.unit, tokens)
                strange += unknown
                sentences.append(symbols)
    facts = {"language": like.get("language"), "sentences": len(sentences), "unknown_words": strange}
    model = make(args.out, read_arpa(ready[0]) if ready else sentences, args.unit, order, normaliser, parents, **facts)
    model.check(tokens, normaliser)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    if sentences:
        count = sum(len(sentence) for sentence in sentences)
        odd = f", {strange:,} words that the student has no letters for" if strange else ""
        print(f"text      {len(sentences):,} sentences, {count:,} {args.unit}s{odd}")
    print(
        f"n-grams   {', '.join(f'{count:,}' for count in model.card['ngrams'])} of 1 to {model.ngrams.order} {args.unit}s"
    )
    print(f"size      {size / 1e6:.1f} MB, made in {time.perf_counter() - start:.1f} s")
    if args.heldout:
        held = [symbols_of(t, args.unit, tokens)[0] for text in _lines(args.heldout) if (t := normaliser(text))]
        print(f"held out  perplexity {model.perplexity(held):.2f} per {args.unit}")
    if args.arpa:
        write_arpa(model.ngrams, args.arpa)
    print(f"{args.out}: next, lalia tune {args.like} CORPUS --lm {args.out}")
    return 0


def tune(args: argparse.Namespace, open_corpus: OpenCorpus) -> int:
    """``lalia tune``."""
    from lalia.decoding.language_model import LanguageModel
    from lalia.runtime.student import Student
    from lalia.runtime.tuning import Trial
    from lalia.runtime.tuning import tune as search

    student = Student.load(args.model)
    model = LanguageModel.load(args.lm)
    model.check(student.tokens, student.normaliser)
    corpus = open_corpus(args.corpus)
    rows = labelled_rows(corpus, args.corpus, args.split, args.language, args.limit)
    print(f"{'weight':>7}{'bonus':>7}{'CER %':>7}{'WER %':>7}", flush=True)

    def show(trial: Trial) -> None:
        rates = f"{100 * trial.cer.rate:7.1f}{100 * trial.wer.rate:7.1f}"
        print(f"{trial.weight:7.2f}{trial.bonus:7.2f}{rates}", flush=True)

    found = search(student, model, corpus, rows, show)
    student_id = str(student.card["id"])
    facts = {"corpus": corpus.card["id"], "split": args.split, "language": args.language, "clips": len(rows)}
    model.store_tuned(student_id, found.as_dict(**facts))
    print(f"{args.lm}: weight {found.best.weight:g}, bonus {found.best.bonus:g} for {args.model} from now on")
    print(f"{'confidence':>10}{'words':>7}{'right':>7}   after calibration, on the same clips")
    for bin in found.after:
        print(f"{bin.confidence:10.2f}{bin.words:7}{bin.right:7.2f}")
    return 0


def labelled_rows(corpus: Any, path: Path, split: str, language: str | None, limit: int | None) -> list[int]:
    """The labelled clips of a split, at most ``limit`` of them, spread evenly; a ``UserError`` where there are none."""
    rows = [int(row) for row in corpus.select(split=split, language=language, with_text=True)]
    if not rows:
        where = f"split {split}" + (f", language {language}" if language else "")
        raise UserError(f"{path}: has no labelled clips in {where}; see: lalia inspect {path}")
    if limit and limit < len(rows):
        return [rows[i * len(rows) // limit] for i in range(limit)]
    return rows


def _texts(path: Path, language: str | None, open_corpus: OpenCorpus, parents: list[dict[str, Any]]) -> Iterator[str]:
    """The sentences of a text file, or the training labels of a corpus, whose card becomes a parent."""
    if not path.is_dir():
        yield from _lines(path)
        return
    corpus = open_corpus(path)
    parents.append(corpus.card)
    for row in labelled_rows(corpus, path, "train", language, None):
        yield corpus.text(row)


def _lines(path: Path) -> Iterator[str]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file
        ):
            yield from file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected text, a sentence a line") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); convert it, or leave it out") from error
