"""The verbs ``lm`` and ``tune`` of the program ``lalia``: a language model from text, and how much it counts."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cli.options import add_language, text_path
from lalia.errors import UserError
from lalia.model_folder import OpenCorpus, check_labels, labelled_rows, languages_taken
from lalia.text.tokens import BOUNDARY
from lalia.units import clock

if TYPE_CHECKING:
    from lalia.lm.build import Material

TrainLstm = Callable[..., bool]
"""(sentences, folder, normaliser, parents, facts, steps=…): makes the folder of an LSTM, and says whether it had to."""

ENOUGH_CLIPS = 40
"""Of 193 held-out Italian prompts, those that tuning chose by n of them at random had so many words in 100 more wrong on the
others than the best setting had (mean of 400 draws): n 5: 3.0, 10: 1.7, 20: 1.1, 40: 0.9, 80: 1.1. With 10 clips one draw in
eleven was worse than no tuning at all, with 20 one in 33, with 40 none (docs/decoding.md)."""

LM = """\
Make a language model of text: it tells a student which words its language has, and which follow which.

  lalia lm talks.txt news.txt --like my-student --out my-lm       plain text, a sentence a line
  lalia lm corpora/demo --like my-student --out my-lm             the training labels of a corpus, in the student's language
  lalia lm words.arpa --unit word --like my-student --out my-lm   n-grams that another toolkit counted
  lalia lm talks.txt --like my-student --out my-lm --kenlm my.bin --heldout other.txt     for other decoders as well
  lalia lm talks.txt --like my-student --out my-lstm --lstm       an LSTM, to weigh what a search under n-grams found

N-grams of letters (--unit letter, up to 6 of them unless --order says otherwise) know words they have never seen and are best
for little text; n-grams of words (--unit word, up to 3) are best for millions of words. Smoothing is modified Kneser-Ney. The
text passes the student's own normaliser; words it has no letters for count as unknown. What dev or test clips of a corpus beside
the text say is left out of it, also inside running text where it has four words or more. Then: lalia tune.

--lstm trains a small LSTM of letters instead (minutes to an hour on one core; pip install 'lalia[train]'): it is too slow to lead
a search and is given as --rescore beside n-grams as --lm. The same command again continues an interrupted training.
"""
TUNE = """\
Find how much a language model counts for a student, on clips that neither learned from, and calibrate its confidence.

  lalia tune my-student corpora/demo --lm my-lm                       clips of the student's language
  lalia tune my-student corpora/demo --lm my-lm --rescore my-lstm   then: how much an LSTM counts beside them

The setting with the fewest errors is stored in the language model's card and used from then on with this student; the one
before stays there as `previous`.
"""


def add_lm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="+",
        type=text_path,
        help="text files (.gz too), an ARPA file, corpora, - for a pipe",
    )
    parser.add_argument(
        "--like", metavar="STUDENT", type=Path, required=True, help="whose normaliser and letters to use"
    )
    parser.add_argument("--out", metavar="LM", type=Path, required=True, help="the folder to write")
    add_ngrams(parser)
    parser.add_argument("--lstm", action="store_true", help="an LSTM of letters, for --rescore, and no n-grams")
    parser.add_argument("--steps", type=int, metavar="N", help="of the LSTM's training, at most (default: 6000)")
    add_language(parser)
    parser.add_argument("--heldout", metavar="TEXT", type=Path, help="say the perplexity of this text")


def add_ngrams(parser: argparse.ArgumentParser) -> None:
    """The options that say what is counted."""
    parser.add_argument(
        "--unit", choices=("letter", "word"), default="letter", help="n-grams of what (default: letter)"
    )
    parser.add_argument("--order", type=int, metavar="N", help="the longest n-gram (default: 6 letters, 3 words)")
    parser.add_argument("--arpa", metavar="FILE", type=Path, help="write the n-grams as an ARPA file as well")
    parser.add_argument(
        "--kenlm",
        metavar="FILE",
        type=Path,
        help="write them as a binary file of KenLM as well (by itself it reads 6-grams at most)",
    )


def add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus with labelled clips")
    parser.add_argument("--lm", metavar="LM", type=Path, required=True, help="the language model to tune")
    parser.add_argument("--rescore", metavar="LM", type=Path, help="tune this LSTM beside --lm, which is tuned already")
    parser.add_argument(
        "--split", choices=("dev", "train"), default="dev", help="which clips (default: dev; never test)"
    )
    add_language(parser)
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="at most N clips (default: 300)")


def lm(args: argparse.Namespace, open_corpus: OpenCorpus, train: TrainLstm) -> int:
    """``lalia lm``."""
    make_lm(args, open_corpus, train)
    given = f"--lm NGRAMS --rescore {args.out}" if args.lstm else f"--lm {args.out}"
    print(f"{args.out}: next, lalia tune {args.like} CORPUS {given}")
    return 0


def make_lm(args: argparse.Namespace, open_corpus: OpenCorpus, train: TrainLstm) -> None:
    """Make the language model that ``add_lm`` was told of, and say what it is."""
    from lalia.lm.build import Material
    from lalia.lm.folder import ORDERS, require_free

    if args.lstm and (args.order or args.arpa or args.kenlm or args.unit == "word"):
        raise UserError("--lstm is of letters and holds no n-grams; leave out --unit word, --order, --arpa and --kenlm")
    if args.steps is not None and (not args.lstm or args.steps < 1):
        raise UserError(f"--steps {args.steps}: expected 1 or more, beside --lstm")
    order = args.order or ORDERS[args.unit]
    if not 1 <= order <= 12:
        raise UserError(f"--order {order}: expected 1 to 12")
    ready = arpa_files(args.text)
    if ready and args.lstm:
        raise UserError(f"{ready[0]}: an ARPA file holds counts; an LSTM learns from text")
    if ready and len(args.text) > 1:
        raise UserError(f"{ready[0]}: an ARPA file is a whole model; give it alone, or texts to count together")
    require_free(args.out)
    material = Material.read(args, open_corpus, () if ready else args.text)
    if material.sentences:
        count = sum(len(sentence) for sentence in material.sentences)
        odd = material.facts["unknown_words"]
        told = f", {odd:,} words that the student has no letters for" if odd else ""
        if material.held_back:
            told += f"; {material.held_back:,} left out, which dev or test clips say"
        print(f"text      {len(material.sentences):,} sentences, {count:,} {args.unit}s{told}", flush=True)
    if args.lstm:
        _lstm(args, material, train)
    else:
        _ngrams(args, material, order, ready)


def arpa_files(paths: Sequence[Path]) -> list[Path]:
    """Those of ``paths`` that are ARPA files: n-grams counted already, and no text."""
    from lalia.inputs import is_arpa

    return [path for path in paths if is_arpa(path)]


def _require_unit(path: Path, symbols: Sequence[str], unit: str) -> None:
    """Raise a ``UserError`` where the n-grams of an ARPA file are of words and are taken for letters, or the other way."""
    from lalia.lm.ngrams import SPECIALS

    symbols = symbols[len(SPECIALS) :]
    long = [symbol for symbol in symbols if len(symbol) > 1]
    if unit == "letter" and 2 * len(long) > len(symbols):
        example = max(long, key=len)[:40]
        raise UserError(f"{path}: holds n-grams of words, such as {example!r}, and not of letters; say --unit word")
    if unit == "word" and not long and BOUNDARY in symbols:
        raise UserError(f"{path}: holds n-grams of letters, and not of words; leave out --unit word")


def _ngrams(args: argparse.Namespace, material: Material, order: int, ready: Sequence[Path]) -> None:
    from lalia.lm.arpa import read_arpa, write_arpa, write_kenlm
    from lalia.lm.folder import make

    start = time.perf_counter()
    counted = read_arpa(ready[0]) if ready else None
    if counted:
        _require_unit(ready[0], counted.symbols, args.unit)
    source = counted or material.sentences
    model = make(args.out, source, args.unit, order, material.normaliser, material.parents, **material.facts)
    model.check(material.tokens, material.normaliser)
    counts = ", ".join(f"{count:,}" for count in model.card["ngrams"])
    print(f"n-grams   {counts} of 1 to {model.ngrams.order} {args.unit}s")
    print(f"size      {_megabytes(args.out):.1f} MB, made in {time.perf_counter() - start:.1f} s")
    if args.heldout:
        print(f"held out  perplexity {model.perplexity(material.heldout(args)):.2f} per {args.unit}")
    if args.arpa:
        write_arpa(model.ngrams, args.arpa)
    if args.kenlm:
        write_kenlm(model.ngrams, args.kenlm)


def _lstm(args: argparse.Namespace, material: Material, train: TrainLstm) -> None:
    from lalia.lm.lstm import LstmModel

    facts = {**material.facts, "letters": _letters(material.sentences)}
    trained = train(material.sentences, args.out, material.normaliser, material.parents, facts, steps=args.steps)
    model = LstmModel.load(args.out)
    model.check(material.tokens, material.normaliser)
    found = model.card
    took = f"trained for {clock(found['seconds'])}" if trained else "was trained on this text before"
    print(f"lstm      {found['parameters']:,} weights, {_megabytes(args.out):.1f} MB, {took}")
    print(f"held out  perplexity {found['perplexity']:.2f} per letter, of sentences kept from its training")
    if args.heldout:
        print(f"held out  perplexity {model.perplexity(material.heldout(args)):.2f} per letter of {args.heldout}")


def tune(args: argparse.Namespace, open_corpus: OpenCorpus) -> int:
    """``lalia tune``."""
    from lalia.decoding.decoder import pair_name
    from lalia.lm.folder import LanguageModel
    from lalia.lm.lstm import LstmModel
    from lalia.runtime.student import Student
    from lalia.scoring.tuning import Trial, tune_lstm
    from lalia.scoring.tuning import tune as tune_ngrams

    student = Student.load(args.model)
    model = LanguageModel.load(args.lm)
    model.check(student.tokens, student.normaliser)
    student_id = str(student.card["id"])
    lstm = LstmModel.load(args.rescore) if args.rescore else None
    if lstm is not None:
        lstm.check(student.tokens, student.normaliser)
        if student_id not in model.card.get("tuned", {}):
            raise UserError(
                f"{args.lm}: is not tuned for {args.model}; first: lalia tune {args.model} CORPUS --lm {args.lm}"
            )
    corpus = open_corpus(args.corpus)
    languages = languages_taken(args.language, student.languages, corpus.language_names, args.model, args.corpus)
    rows = labelled_rows(corpus, args.corpus, args.split, languages, args.limit)
    check_labels(corpus, args.corpus, rows, student)
    print(
        f"{'weight':>7}{'bonus':>7}{'CER %':>7}{'WER %':>7}   * best so far: fewest letters and words wrong", flush=True
    )
    costs: list[float] = []

    def show(trial: Trial) -> None:
        mark = " *" if trial.cost < min(costs, default=math.inf) else ""
        costs.append(trial.cost)
        rates = f"{100 * trial.cer.rate:7.1f}{100 * trial.wer.rate:7.1f}"
        print(f"{trial.weight:7.2f}{trial.bonus:7.2f}{rates}{mark}", flush=True)

    facts = {
        "corpus": corpus.card["id"], "split": args.split, "languages": languages, "date": date.today().isoformat(),
    }  # fmt: skip
    known = model.card.get("tuned", {}).get(student_id)
    if lstm is None:
        found = tune_ngrams(student, model, corpus, rows, show)
        model.store_tuned(student_id, found.as_dict(**facts))
    else:
        found = tune_lstm(student, model, lstm, corpus, rows, show)
        under = model.tuned(student_id)
        facts |= {"lm_weight": under["weight"], "lm_bonus": under["bonus"]}
        known = lstm.card.get("tuned", {}).get(pair_name(student, model))
        lstm.store_tuned(pair_name(student, model), found.as_dict(**facts))
    settled = f"weight {found.best.weight:g}, bonus {found.best.bonus:g} for {args.model} from now on"
    print(f"{args.rescore or args.lm}: {settled} (the last row with *)")
    if known:
        print(f"before: {_tuned(known)}; the card keeps it as `previous`")
    if found.clips < len(rows):
        print(f"{len(rows) - found.clips} of {len(rows)} clips were left out: unreadable, or a label without letters")
    if found.clips < ENOUGH_CLIPS:
        print(
            f"lalia: {found.clips} clips are few to tune on: from {ENOUGH_CLIPS} on it hardly depends on which they are",
            file=sys.stderr,
        )
    if not found.best.weight:
        print("the LSTM lowers no errors here beside these n-grams; without --rescore the answers are the same, sooner")
    print(
        "after calibration on these clips: words of each confidence, and the share of them right (the nearer to it, the truer)"
    )
    print(f"{'confidence':>10}{'words':>7}{'right':>7}")
    for bin in found.after:
        print(f"{bin.confidence:10.2f}{bin.words:7}{bin.right:7.2f}")
    return 0


def _tuned(known: Mapping[str, Any]) -> str:
    """What a tuning found, in a line."""
    where = [f"on {known['clips']} clips of {known['split']}"] if "clips" in known and "split" in known else []
    spoken = known.get("languages") or known.get("language")
    where += [f"in {spoken if isinstance(spoken, str) else ', '.join(spoken)}"] if spoken else []
    where += [known["date"]] if "date" in known else []
    return f"weight {known['weight']:g}, bonus {known['bonus']:g} ({', '.join(where)})"


def _letters(sentences: Sequence[Sequence[str]]) -> dict[str, float]:
    """How much of the text each letter is: what an alphabet is compared by."""
    from lalia.lm.folder import shares
    from lalia.lm.ngrams import SPECIALS

    counts = Counter(symbol for sentence in sentences for symbol in sentence if symbol not in SPECIALS)
    return shares({letter.replace(BOUNDARY, " "): count for letter, count in counts.items()})


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6
