"""``lalia evaluate``: the error rates of a student on a corpus, where the errors are, and an HTML page with clips to play."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cli.options import Decoding, add_decoding, add_language, load_decoding, needs, open_corpus
from lalia.cli.parser import Parser, positive
from lalia.errors import UserError
from lalia.model_folder import LabelledCorpus, check_labels, labelled_rows, languages_taken
from lalia.units import plural

if TYPE_CHECKING:
    import numpy as np

    from lalia.report.page import Section
    from lalia.runtime.transcript import Transcript
    from lalia.scoring.evaluation import Evaluation

ABOUT = """\
Error rates of a student on the labelled clips of a corpus, with 95 % intervals (bootstrap over clips), and its speed.
The student's normaliser is applied to labels and transcripts first: of several languages, that of each clip's.

  lalia evaluate my-student corpora/demo                          the test split, clips of the student's language
  lalia evaluate my-student corpora/demo --split dev --language ita
  lalia evaluate my-student corpora/demo --html report.html       where the errors are, with the worst clips to play
  lalia evaluate my-student corpora/demo --limit 200 --json scores.json
  lalia evaluate my-student corpora/demo --lm my-lm

Reading a corpus needs the training extra: pip install 'lalia[train]'.
"""
MOST_SKIPPED = 20
"""Skipped clips that are listed by name; the others are counted."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder, or the run it is in")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus folder")
    add_language(parser)
    parser.add_argument(
        "--details", action="store_true", help="print where the errors are: lengths, noise, speakers, words"
    )
    add_clips_and_results(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    add_decoding(parser)


def add_clips_and_results(parser: Parser) -> None:
    """The options for which clips are scored and where the results are written."""
    parser.add_argument("--split", default="test", help="train, dev or test (default: test)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N clips, spread evenly over the corpus")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the scores and every clip's texts to this file"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with charts and clips to play")


def main(args: argparse.Namespace) -> int:
    """``lalia evaluate``."""
    evaluate(
        args.model, args.corpus, Decoding.of(args), split=args.split, languages=args.language,
        limit=args.limit, threads=args.threads, details=args.details, json=args.json, html=args.html,
    )  # fmt: skip
    return 0


def evaluate(
    model: Path,
    path: Path,
    decoding: Decoding,
    *,
    corpus: LabelledCorpus | None = None,
    split: str = "test",
    languages: Sequence[str] | None = None,
    limit: int | None = None,
    threads: int | None = None,
    details: bool = False,
    json: Path | None = None,
    html: Path | None = None,
    title: str = "",
    more: Sequence[Section] = (),
) -> None:
    """Evaluate the student in ``model`` on the corpus in ``path``; print a table, write ``json`` and ``html``.

    ``corpus`` replaces that in ``path``, which then only names it. ``languages`` None means the student's own. ``title``
    and ``more`` sections are for the page.
    """
    from lalia.runtime.student import Student
    from lalia.scoring import evaluation

    student = decoding.student(Student.load(model, threads))
    decoded = student.with_decoding(load_decoding(decoding, student))
    if corpus is None:
        corpus = open_corpus(path)
    taken = languages_taken(languages, student.languages, corpus.language_names, model, path)
    rows = labelled_rows(corpus, path, split, taken, limit)
    check_labels(corpus, path, rows, student)
    places = {corpus.id(row): row for row in rows}
    transcribers: dict[str, Callable[[np.ndarray, str], Transcript]] = {}
    greedy: dict[str, Callable[[np.ndarray, str], Transcript]] = {}
    for language in {corpus.language(row) for row in rows}:
        own = student.in_language(language, strict=False)
        greedy[language] = own.transcribe
        if own.normaliser is student.normaliser:
            transcribers[language] = decoded.transcribe
        else:
            inputs = load_decoding(decoding, own, warn=lambda _: None)  # the student's warnings are enough
            transcribers[language] = own.with_decoding(inputs).transcribe

    def transcribe(wave: np.ndarray, name: str) -> Transcript:
        return transcribers[corpus.language(places[name])](wave, name)

    def transcribe_greedily(wave: np.ndarray, name: str) -> Transcript:
        return greedy[corpus.language(places[name])](wave, name)

    searched = set(decoding.as_dict()) - {"decoder"}  # a head alone is decoded greedily
    beside = transcribe_greedily if html and searched else None  # the page shows both
    found = evaluation.evaluate(transcribe, student.normaliser, corpus, rows, _progress(rows), beside)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for reason in found.skipped[:MOST_SKIPPED]:
        print(f"lalia: skipped: {reason}", file=sys.stderr)
    if len(found.skipped) > MOST_SKIPPED:
        print(f"lalia: skipped: {len(found.skipped) - MOST_SKIPPED} more", file=sys.stderr)
    if not found.clips:
        raise UserError(f"{path}: none of {plural(len(rows), 'clip')} could be scored; the reasons are above")
    print(evaluation.table(found))
    about: dict[str, evaluation.ClipInfo] = {}
    if details or html:
        snrs_db = corpus.numbers("snr_db")
        about = {corpus.id(row): evaluation.ClipInfo(corpus.speaker(row), float(snrs_db[row])) for row in rows}
    if details:
        print("\n" + evaluation.details(found, about))
    if json:
        facts = {
            "student": student.card["id"], "corpus": corpus.card["id"], **decoding.as_dict(),
            "split": split, "language": taken, "limit": limit, "threads": threads,
        }  # fmt: skip
        _write_json(json, {**facts, **found.as_dict()})
    if html:
        with needs("a page"):
            from lalia.report.evaluation_page import write_evaluation
        settings = {"split": split} | ({"language": ", ".join(taken)} if taken else {}) | decoding.as_dict()
        with decoded.lend_decoder() as decoder:
            calibrated = decoder is not None and decoder.weights is not None
        title = title or f"{model.resolve().name} on {path.resolve().name}"
        try:
            write_evaluation(
                html,
                title,
                settings,
                found,
                about,
                calibrated,
                lambda id: corpus.wave(places[id]),
                student.card,
                more=more,
            )
        except OSError as error:
            raise UserError(f"{html}: cannot be written ({error.strerror or error})") from error
        print(f"page: {html}")


def _progress(rows: Sequence[int]) -> Callable[[Evaluation], None] | None:
    if not sys.stderr.isatty():
        return None

    def progress(found: Evaluation) -> None:
        print(f"\r{len(found.clips)} of {len(rows)} clips ", end="", file=sys.stderr, flush=True)

    return progress


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    from lalia.cards import write_json

    try:
        write_json(path, facts)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
