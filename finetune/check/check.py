"""Runs all data checks on a corpus (``lalia finetune check CORPUS``) and reports what to fix before training.

Exit status: 0 ready to train, 1 something must be fixed first, 2 nothing to check.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune import presets
from finetune.check.clips import check_lengths, check_sound, check_splits, count_splits
from finetune.check.findings import Checked, Finding, read_labels
from finetune.check.text import check_language, check_letters, check_writing, choose, count_letters
from finetune.check.transcribers import check_marks, unspelled_signs
from lalia.cards import read_card, write_json
from lalia.cli.parser import Parser
from lalia.data.corpus import Corpus
from lalia.data.mixture import resolve_languages
from lalia.errors import UserError
from lalia.text.languages import profile
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.number_words import read_numbers, write_numbers
from lalia.text.writing_system import LABELS_SEEN, script_of_texts
from lalia.units import plural

ABOUT = """\
Check in seconds whether a corpus is ready for training, with reasons and fixes.

  lalia finetune check data/mine                                        all its languages
  lalia finetune check data/mine --language isl --html check.html       one language, and a page with the suspicious clips to play
  lalia finetune check data/mine --fix --out data/fixed                 a fixed corpus, and a list of the changes
  lalia finetune check data/mine --recogniser runs/rough/recogniser --listen wrong.html
                                                                        also find clips that do not match their labels, and a
                                                                        page to listen to them and correct them
  lalia finetune check data/mine --corrections corrections.tsv --fix --out data/fixed     the decisions made on that page

exit status: 0 ready to train, 1 something to fix first, 2 nothing to check
"""
FRAME_S = 0.02
WEIGHTS = ("stop", "look", "fine")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus made by lalia prepare")
    parser.add_argument("--language", metavar="CODE", help="only this one: isl, is, is-IS or Icelandic")
    parser.add_argument(
        "--encoder", type=presets.find_encoder, metavar="FOLDER", help="the encoder to train, for its frame length"
    )
    parser.add_argument("--frame_s", type=float, metavar="S", help="seconds per frame of the encoder (default: 0.02)")
    parser.add_argument(
        "--normaliser", type=Path, metavar="FILE", help="a normaliser.json instead of the language's default"
    )
    parser.add_argument(
        "--numbers", type=Path, metavar="FILE",
        help="a table of the language's numbers; written with those of the labels, to fill in, where there is none yet",
    )  # fmt: skip
    parser.add_argument(
        "--recogniser", type=Path, metavar="FOLDER", help="a recogniser or student to transcribe the clips with"
    )
    parser.add_argument(
        "--listen",
        type=Path,
        metavar="FILE",
        help="with --recogniser: a page to listen to these clips and correct them",
    )
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE",
        help="with --fix: the table that such a page saved (piece, decision, text)",
    )
    parser.add_argument("--fix", action="store_true", help="write a fixed corpus to --out")
    parser.add_argument("--out", type=Path, metavar="CORPUS2", help="where --fix writes to")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write an HTML page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings as JSON")


def main(argv: list[str]) -> int:
    """Check, print, and with --fix write the fixed corpus; returns the exit status."""
    parser = Parser(prog="lalia finetune check", description=ABOUT)
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.fix != bool(args.out):
        raise UserError("--fix and --out must be given together: --fix --out CORPUS2 writes the fixed corpus there")
    if args.listen and not args.recogniser:
        raise UserError(f"--listen {args.listen}: needs --recogniser FOLDER, which finds the clips to listen to")
    if args.corrections and not args.fix:
        raise UserError(f"--corrections {args.corrections}: needs --fix --out CORPUS2, which makes them")
    begun = time.perf_counter()
    corpus = Corpus.load(args.corpus)
    languages = _languages(corpus, args.corpus, args.language)
    frame_s = _frame_s(args.encoder, args.frame_s)
    numbers = read_numbers(args.numbers) if args.numbers and args.numbers.exists() else None
    checked, wrong_labels = [], {}
    for language in languages:
        found = check(corpus, language, frame_s, args.normaliser, numbers)
        if args.recogniser:
            from finetune.check.clips import check_pairs

            findings, found.wrong_labels, places = check_pairs(found.labels, args.recogniser)
            found.findings += findings
            wrong_labels[language] = places
        checked.append(found)
    from finetune.check.report import show, show_next

    show(corpus, checked, time.perf_counter() - begun)
    if args.numbers and numbers is None:
        labels = checked[0].labels
        signs = Counter(sign for place in range(len(labels.texts)) for sign in unspelled_signs(labels, place))
        count = write_numbers(args.numbers, labels.texts, labels.language, [sign for sign, _ in signs.most_common()])
        print(f"{args.numbers}: {count} numbers and signs to fill in; then train with --labels.numbers {args.numbers}")
    if args.html:
        from finetune.check.report import write_page

        _write(args.html, lambda: write_page(corpus, checked, args.html))
    if args.listen:
        from finetune.check.report import write_suspects

        write_suspects(
            corpus, checked, args.listen, f"lalia finetune check {args.corpus} --fix --out {args.corpus}-fixed"
        )
    if args.json:
        _write(args.json, lambda: write_json(args.json, as_dict(corpus, checked)))
    if args.fix:
        from finetune.check.fixes import apply_fixes, plan_fixes
        from finetune.check.report import show_fixes

        fixes = plan_fixes(checked, wrong_labels, args.corrections)
        card = apply_fixes(corpus, fixes, args.out)
        show_fixes(args.out, fixes, card)
    show_next(args.corpus, checked, args.out, args.encoder)
    return 1 if any(found.stops for found in checked) else 0


def check(
    corpus: Corpus,
    language: str,
    frame_s: float = FRAME_S,
    normaliser: Path | None = None,
    numbers: dict[str, str] | None = None,
) -> Checked:
    """All findings on the labels of ``language`` in ``corpus``; needs no model and no audio."""
    table = {"numbers": numbers, "digits": "spell"} if numbers else {}
    script = script_of_texts(
        corpus.text(int(row)) for row in corpus.select(language=language, with_text=True)[:LABELS_SEEN]
    )
    made = Normaliser.from_json(normaliser) if normaliser else Normaliser(settings_for(language, script, **table))
    labels = read_labels(corpus, profile(language), made, frame_s)
    vocabulary = choose(labels)
    findings: list[Finding] = [
        *check_splits(labels), *check_language(labels), *check_letters(labels, vocabulary), *check_marks(labels),
        *check_lengths(labels, vocabulary),
        *check_sound(labels), *check_writing(labels),
    ]  # fmt: skip
    findings.sort(key=lambda finding: WEIGHTS.index(finding.weight))
    return Checked(labels, count_splits(labels), count_letters(labels), vocabulary, findings)


def blocking_findings(
    corpora: Sequence[str], languages: Sequence[str], frame_s: float, normaliser: Path | None
) -> list[str]:
    """What must be fixed before a run on ``corpora`` in ``languages`` (empty: all), one line each.

    A missing split is not reported, because the run may find it in another corpus.
    """
    lines = []
    for path in corpora:
        corpus = Corpus.load(path)
        for language in corpus.language_names:
            wanted = language in (languages or corpus.language_names)
            if wanted and len(corpus.select(language=language, with_text=True)):
                stops = [
                    finding
                    for finding in check(corpus, language, frame_s, normaliser).stops
                    if finding.topic != "splits"
                ]
                lines += [f"{path}, {language}: {finding.topic}: {finding.what} → {finding.fix}" for finding in stops]
    return lines


def as_dict(corpus: Corpus, checked: list[Checked]) -> dict[str, Any]:
    """The findings as plain values; clips by their ids."""

    def one(finding: Finding) -> dict[str, Any]:
        clips = [corpus.id(example.row) for example in finding.examples]
        return {
            "topic": finding.topic,
            "weight": finding.weight,
            "what": finding.what,
            "fix": finding.fix,
            "clips": clips,
        }

    return {
        "corpus": corpus.card["id"],
        "languages": {
            found.labels.language: {
                "ready": not found.stops,
                "splits": {split.name: vars(split) for split in found.splits},
                "vocabulary": found.vocabulary.describe() if found.vocabulary else None,
                "letters": {letter: often for letter, often, _, _ in found.letters},
                "findings": [one(finding) for finding in found.findings],
                "suspects": [{"clip": corpus.id(e.row), "note": e.note} for e in found.wrong_labels],
            }
            for found in checked
        },
    }


def _languages(corpus: Corpus, path: Path, requested: str | None) -> list[str]:
    labelled = [name for name in corpus.language_names if len(corpus.select(language=name, with_text=True))]
    if requested:
        language = resolve_languages([requested], [path], "--language")[0]
        count = len(corpus.select(language=language))  # raises a UserError that lists the languages of the corpus
        if language not in labelled:
            others = f"; languages with labels: {', '.join(labelled)}" if labelled else ""
            raise UserError(
                f"{path}: none of {plural(count, 'clip')} in {language} has a label{others}; does the text column have another "
                "name? lalia prepare TABLE --columns text=NAME"
            )
        return [language]
    if not labelled:
        raise UserError(
            f"{path}: none of {plural(len(corpus), 'clip')} has a label; does the text column have another name? "
            "lalia prepare TABLE --columns text=NAME. Without labels use lalia pretrain fit"
        )
    return labelled


def _frame_s(encoder: str | None, requested: float | None) -> float:
    if encoder:
        return float(read_card(encoder).get("frame_s", FRAME_S))
    if requested is not None and not 0.001 <= requested <= 1:
        raise UserError(f"--frame_s {requested:g}: expected seconds per frame, such as 0.02")
    return requested or FRAME_S


def _write(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    print(f"written: {path}")
