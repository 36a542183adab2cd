"""``lalia lm``: a language model for a student, of n-grams or an LSTM, from text files and the labels of corpora."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lalia.cli.options import add_language, needs, open_corpus, text_path
from lalia.cli.parser import Parser, print_next
from lalia.errors import UserError
from lalia.model_folder import LabelledCorpus
from lalia.text.tokens import BOUNDARY
from lalia.units import clock, plural

if TYPE_CHECKING:
    from lalia.lm.build import TrainingText
    from lalia.lm.folder import Unit

ABOUT = """\
Make a language model from text, for beam search (lalia transcribe --lm).

  lalia lm talks.txt news.txt --like my-student --out my-lm       plain text, one sentence per line
  lalia lm corpora/demo --like my-student --out my-lm             the training labels of a corpus, in the student's language
  lalia lm words.arpa --unit word --like my-student --out my-lm   n-grams from another toolkit
  lalia lm talks.txt --like my-student --out my-lm --kenlm my.bin --heldout other.txt     also for other decoders
  lalia lm talks.txt --like my-student --out my-lstm --lstm       an LSTM, to rescore what beam search with n-grams found

N-grams of letters (--unit letter, 6-grams by default) generalise to new words and are best for little text; n-grams of words
(--unit word, 3-grams by default) are best for millions of words. Smoothing is modified Kneser-Ney. The text is normalised like
the student's labels; words with letters that the student lacks count as unknown. Sentences of dev and test clips of the given
corpora are removed, also inside running text if they have four words or more. Next: lalia tune.

--lstm trains a small LSTM of letters instead (minutes to an hour on one core; pip install 'lalia[train]'). It is too slow for
beam search and rescores its results: --rescore, with n-grams as --lm. Run the same command again to continue its training.
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="+",
        type=text_path,
        help="text files (.gz too), an ARPA file, corpora, - for a pipe",
    )
    parser.add_argument(
        "--like", metavar="STUDENT", type=Path, required=True, help="the student whose normaliser and letters to use"
    )
    parser.add_argument("--out", metavar="LM", type=Path, required=True, help="the folder to write")
    add_ngrams(parser)
    parser.add_argument(
        "--lstm", action="store_true", help="train an LSTM of letters, for --rescore, instead of n-grams"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="the most training steps of the LSTM (default: 6000)")
    add_language(parser)
    parser.add_argument("--heldout", metavar="TEXT", type=Path, help="print the perplexity of this text")


def add_ngrams(parser: Parser) -> None:
    """The options of ``NgramOptions``."""
    parser.add_argument(
        "--unit", choices=("letter", "word"), default="letter", help="n-grams of letters or of words (default: letter)"
    )
    parser.add_argument(
        "--order", type=int, metavar="N", help="length of the longest n-grams (default: 6 letters, 3 words)"
    )
    parser.add_argument("--arpa", metavar="FILE", type=Path, help="also write the n-grams as an ARPA file")
    parser.add_argument(
        "--kenlm",
        metavar="FILE",
        type=Path,
        help="also write them as a KenLM binary file (KenLM reads up to 6-grams by default)",
    )


@dataclass(frozen=True)
class NgramOptions:
    """The n-grams to estimate, and the formats to write them in."""

    unit: Unit = "letter"
    """letter or word"""
    order: int | None = None
    """length of the longest; None = 6 letters or 3 words"""
    arpa: Path | None = None
    """also write them as an ARPA file"""
    kenlm: Path | None = None
    """also write them as a KenLM binary file"""

    @classmethod
    def of(cls, args: argparse.Namespace) -> NgramOptions:
        """From the parsed arguments that ``add_ngrams`` declared."""
        return cls(args.unit, args.order, args.arpa, args.kenlm)


def main(args: argparse.Namespace) -> int:
    """``lalia lm``."""
    ngrams = NgramOptions.of(args)
    if args.lstm and (ngrams.order or ngrams.arpa or ngrams.kenlm or ngrams.unit == "word"):
        raise UserError("--lstm is of letters and has no n-grams; leave out --unit word, --order, --arpa and --kenlm")
    if args.steps is not None and (not args.lstm or args.steps < 1):
        raise UserError(f"--steps {args.steps}: expected 1 or more, with --lstm")
    corpora = {path: open_corpus(path) for path in args.text if path.is_dir()}
    if args.lstm:
        make_lstm(args.text, corpora, args.like, args.out, args.language, args.heldout, steps=args.steps)
    else:
        make_ngrams(args.text, corpora, args.like, args.out, ngrams, args.language, args.heldout)
    options = f"--lm NGRAMS --rescore {args.out}" if args.lstm else f"--lm {args.out}"
    print_next((f"lalia tune {args.like} CORPUS {options}", "tune its weight on dev clips"))
    return 0


def make_ngrams(
    texts: Sequence[Path],
    corpora: Mapping[Path, LabelledCorpus],
    like: Path,
    out: Path,
    ngrams: NgramOptions,
    languages: Sequence[str] | None = None,
    heldout: Path | None = None,
) -> None:
    """Estimate n-grams from ``texts`` (files, corpora, or one ARPA file) for the student ``like``; write ``out``.

    ``corpora`` are the folders among ``texts``, opened; ``languages`` are theirs, None means the student's own. Prints
    the size, and the perplexity of ``heldout``.
    """
    from lalia.lm.arpa import read_arpa, write_arpa, write_kenlm
    from lalia.lm.folder import ORDERS, make, require_free

    unit, order = ngrams.unit, ngrams.order or ORDERS[ngrams.unit]
    if not 1 <= order <= 12:
        raise UserError(f"--order {order}: expected 1 to 12")
    arpa = arpa_files(texts)
    if arpa and len(texts) > 1:
        raise UserError(f"{arpa[0]}: an ARPA file is a complete model; give it alone, or give only texts")
    require_free(out)
    material = _read(() if arpa else texts, corpora, like, unit, languages)
    start = time.perf_counter()
    counted = read_arpa(arpa[0], material.normaliser) if arpa else None
    if counted:
        _require_unit(arpa[0], counted.symbols, unit)
    source = counted or material.sentences
    model = make(out, source, unit, order, material.normaliser, material.parents, **material.facts)
    model.check(material.tokens, material.normaliser)
    counts = ", ".join(f"{count:,}" for count in model.card["ngrams"])
    print(f"n-grams   {counts} of 1 to {model.ngrams.order} {unit}s")
    print(f"size      {_megabytes(out):.1f} MB, made in {time.perf_counter() - start:.1f} s")
    if heldout:
        print(f"held out  perplexity {model.perplexity(material.heldout(heldout, unit)):.2f} per {unit}")
    if ngrams.arpa:
        write_arpa(model.ngrams, ngrams.arpa)
    if ngrams.kenlm:
        write_kenlm(model.ngrams, ngrams.kenlm)


def make_lstm(
    texts: Sequence[Path],
    corpora: Mapping[Path, LabelledCorpus],
    like: Path,
    out: Path,
    languages: Sequence[str] | None = None,
    heldout: Path | None = None,
    steps: int | None = None,
) -> None:
    """Train an LSTM of letters on ``texts``, read as in ``make_ngrams``, for at most ``steps``; write ``out``."""
    with needs("training an LSTM"):
        from lalia.training.letter_lstm import LstmSettings, train_model
    from lalia.lm.folder import require_free
    from lalia.lm.lstm import LstmModel

    if arpa := arpa_files(texts):
        raise UserError(f"{arpa[0]}: an ARPA file has n-grams; an LSTM needs text")
    require_free(out)
    material = _read(texts, corpora, like, "letter", languages)
    facts = {**material.facts, "letters": _letters(material.sentences)}
    settings = LstmSettings() if steps is None else LstmSettings(steps=steps)
    trained = train_model(material.sentences, out, material.normaliser, material.parents, facts, settings)
    model = LstmModel.load(out)
    model.check(material.tokens, material.normaliser)
    found = model.card
    took = f"trained for {clock(found['seconds'])}" if trained else "was already trained on this text"
    print(f"lstm      {found['parameters']:,} weights, {_megabytes(out):.1f} MB, {took}")
    print(f"held out  perplexity {found['perplexity']:.2f} per letter, of sentences held out of its training")
    if heldout:
        perplexity = model.perplexity(material.heldout(heldout, "letter"))
        print(f"held out  perplexity {perplexity:.2f} per letter of {heldout}")


def _read(
    texts: Sequence[Path],
    corpora: Mapping[Path, LabelledCorpus],
    like: Path,
    unit: Unit,
    languages: Sequence[str] | None,
) -> TrainingText:
    """Read ``texts`` and print the number of their sentences."""
    from lalia.lm.build import TrainingText

    material = TrainingText.read(texts, corpora, like, unit, languages)
    if material.sentences:
        count = sum(len(sentence) for sentence in material.sentences)
        unknown = material.facts["unknown_words"]
        remarks = f", {plural(unknown, 'word')} that the student has no letters for" if unknown else ""
        if material.removed:
            remarks += f"; {plural(material.removed, 'sentence')} of dev or test clips removed"
        print(f"text      {plural(len(material.sentences), 'sentence')}, {plural(count, unit)}{remarks}", flush=True)
    return material


def arpa_files(paths: Sequence[Path]) -> list[Path]:
    """Those of ``paths`` that are ARPA files."""
    from lalia.inputs import is_arpa

    return [path for path in paths if is_arpa(path)]


def _require_unit(path: Path, symbols: Sequence[str], unit: str) -> None:
    """Raise ``UserError`` if the n-grams of an ARPA file are of words and not of letters as ``unit`` says, or the reverse."""
    from lalia.lm.ngrams import SPECIALS

    symbols = symbols[len(SPECIALS) :]
    long = [symbol for symbol in symbols if len(symbol) > 1]
    if unit == "letter" and 2 * len(long) > len(symbols):
        example = max(long, key=len)[:40]
        raise UserError(f"{path}: has n-grams of words, such as {example!r}, and not of letters; give --unit word")
    if unit == "word" and not long and BOUNDARY in symbols:
        raise UserError(f"{path}: has n-grams of letters, and not of words; leave out --unit word")


def _letters(sentences: Sequence[Sequence[str]]) -> dict[str, float]:
    """The share of each letter in the text, to compare alphabets."""
    from lalia.lm.folder import shares
    from lalia.lm.ngrams import SPECIALS

    counts = Counter(symbol for sentence in sentences for symbol in sentence if symbol not in SPECIALS)
    return shares({letter.replace(BOUNDARY, " "): count for letter, count in counts.items()})


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6
