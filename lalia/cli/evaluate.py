"""The verb ``evaluate`` of the program ``lalia``: how well a student does, where it errs, and a page to see and hear it on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cli.options import DECODING, add_language
from lalia.cli.parser import positive
from lalia.errors import UserError
from lalia.model_folder import OpenCorpus, check_labels, labelled_rows, languages_taken

if TYPE_CHECKING:
    from lalia.scoring.evaluation import Evaluation

ABOUT = """\
Error rates of a student on the labelled clips of a corpus, with 95 % intervals (bootstrap over clips), and its speed.
Labels and transcripts pass the student's own normaliser first.

  lalia evaluate my-student corpora/demo                          the test split, clips of the student's language
  lalia evaluate my-student corpora/demo --split dev --language ita
  lalia evaluate my-student corpora/demo --html report.html       where it errs, with the worst clips to hear
  lalia evaluate my-student corpora/demo --limit 200 --json scores.json
  lalia evaluate my-student corpora/demo --lm my-lm

Corpora are read by a package of the training extra: pip install 'lalia[train]'.
"""
MOST_SKIPPED = 20
WritePage = Callable[..., object]
"""``lalia.report.evaluation_page.write_evaluation``, which is heavy."""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder, or the run it is in")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus folder")
    add_language(parser)
    parser.add_argument(
        "--details", action="store_true", help="say where the errors are: lengths, noise, speakers, words"
    )
    add_questions(parser)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Which clips are judged, and where what is found is written."""
    parser.add_argument("--split", default="test", help="train, dev or test (default: test)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N clips, spread evenly over the corpus")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and every clip's texts here as well")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with charts and clips to hear")


def evaluate(args: argparse.Namespace, open_corpus: OpenCorpus, write_page: WritePage) -> int:
    """``lalia evaluate``; ``args.title`` is what the page is called, "" = after the student and the corpus."""
    from lalia.cli.options import decoders
    from lalia.runtime.student import Student
    from lalia.scoring.evaluation import About, details, table
    from lalia.scoring.evaluation import evaluate as hear

    student = Student.load(args.model, args.threads)
    decoder = decoders(args, student)()
    corpus = open_corpus(args.corpus)
    args.language = languages_taken(args.language, student.languages, corpus.language_names, args.model, args.corpus)
    rows = labelled_rows(corpus, args.corpus, args.split, args.language, args.limit)
    check_labels(corpus, args.corpus, rows, student)
    found = hear(student, corpus, rows, _progress(rows), decoder)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for reason in found.skipped[:MOST_SKIPPED]:
        print(f"lalia: skipped: {reason}", file=sys.stderr)
    if len(found.skipped) > MOST_SKIPPED:
        print(f"lalia: skipped: {len(found.skipped) - MOST_SKIPPED} more", file=sys.stderr)
    if not found.heard:
        raise UserError(f"{args.corpus}: none of {len(rows)} clips could be scored; the lines above say why")
    print(table(found))
    asked = {name: str(path) for name in DECODING if (path := getattr(args, name))}
    about: dict[str, About] = {}
    if args.details or args.html:
        snrs_db = corpus.numbers("snr_db")
        about = {corpus.id(row): About(corpus.speaker(row), float(snrs_db[row])) for row in rows}
    if args.details:
        print("\n" + details(found, about))
    if args.json:
        _write_json(args, found, {"student": student.card["id"], "corpus": corpus.card["id"]} | asked)
    if args.html:
        places = {corpus.id(row): row for row in rows}
        told = {"split": args.split} | ({"language": ", ".join(args.language)} if args.language else {}) | asked
        calibrated = decoder is not None and decoder.weights is not None
        title = args.title or f"{args.model.resolve().name} on {args.corpus.resolve().name}"
        try:
            write_page(
                args.html, title, told, found, about, calibrated, lambda id: corpus.wave(places[id]), student.card
            )
        except OSError as error:
            raise UserError(f"{args.html}: cannot be written ({error.strerror or error})") from error
        print(f"page: {args.html}")
    return 0


def _progress(rows: Sequence[int]) -> Callable[[Evaluation], None] | None:
    if not sys.stderr.isatty():
        return None

    def progress(found: Evaluation) -> None:
        print(f"\r{len(found.heard)} of {len(rows)} clips ", end="", file=sys.stderr, flush=True)

    return progress


def _write_json(args: argparse.Namespace, found: Evaluation, facts: dict[str, Any]) -> None:
    from lalia.cards import write_json

    asked = {"split": args.split, "language": args.language, "limit": args.limit, "threads": args.threads}
    try:
        write_json(args.json, {**facts, **asked, **found.as_dict()})
    except OSError as error:
        raise UserError(f"{args.json}: cannot be written ({error.strerror})") from error
