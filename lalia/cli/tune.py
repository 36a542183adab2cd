"""``lalia tune``: tune the weight and bonus of a language model for a student, and calibrate confidence."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from lalia.cli.options import add_head, add_language, open_corpus
from lalia.cli.parser import Parser, positive
from lalia.errors import UserError
from lalia.model_folder import LabelledCorpus, check_labels, labelled_rows, languages_taken
from lalia.units import plural

ABOUT = """\
Tune the weight and bonus of a language model for a student on held-out clips, and calibrate its confidence.

  lalia tune my-student corpora/demo --lm my-lm                       clips in the student's language
  lalia tune my-student corpora/demo --lm my-lm --rescore my-lstm   then: the weight of an LSTM that rescores

The setting with the lowest error rates is stored in the language model's card and used with this student from then on; the
previous one stays there as `previous`.
"""
ENOUGH_CLIPS = 40
"""Tuning on n random ones of 193 held-out Italian prompts gave, on the others, a WER this many points above the best setting's
(mean of 400 draws): n 5: 3.0, 10: 1.7, 20: 1.1, 40: 0.9, 80: 1.1. With 10 clips one draw in eleven was worse than no tuning, with
20 one in 33, with 40 none (docs/decoding.md)."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus with labelled clips")
    parser.add_argument("--lm", metavar="LM", type=Path, required=True, help="the language model to tune")
    parser.add_argument("--rescore", metavar="LM", type=Path, help="tune this LSTM with --lm, which is already tuned")
    parser.add_argument(
        "--split", choices=("dev", "train"), default="dev", help="which clips (default: dev; never test)"
    )
    add_head(parser)
    add_language(parser)
    parser.add_argument("--limit", type=positive, default=300, metavar="N", help="at most N clips (default: 300)")


def main(args: argparse.Namespace) -> int:
    """``lalia tune``."""
    by_transducer = args.decoder == "transducer"
    tune(
        args.model, args.corpus, args.lm, args.rescore, args.split, args.language, args.limit, transducer=by_transducer
    )
    return 0


def tune(
    model: Path,
    path: Path,
    lm: Path,
    rescore: Path | None = None,
    split: str = "dev",
    languages: Sequence[str] | None = None,
    limit: int | None = 300,
    corpus: LabelledCorpus | None = None,
    transducer: bool = False,
) -> None:
    """Tune ``lm``, or the LSTM ``rescore`` beside it, for the student in ``model`` on the corpus in ``path``.

    ``languages`` None means the student's own. ``corpus`` replaces that in ``path``, which then only names it.
    """
    from lalia.decoding.decoder import pair_names
    from lalia.lm.folder import LanguageModel, model_names
    from lalia.lm.lstm import LstmModel
    from lalia.runtime.student import Student
    from lalia.scoring.tuning import Trial, tune_lstm
    from lalia.scoring.tuning import tune as tune_ngrams

    student = Student.load(model)
    student = student.with_transducer() if transducer else student
    ngrams = LanguageModel.load(lm)
    ngrams.check(student.tokens, student.normaliser)
    names = model_names(student.card)
    lstm = LstmModel.load(rescore) if rescore else None
    if lstm is not None:
        lstm.check(student.tokens, student.normaliser)
        if ngrams.find_tuned(names) is None:
            raise UserError(f"{lm}: is not tuned for {model}; run first: lalia tune {model} CORPUS --lm {lm}")
    if corpus is None:
        corpus = open_corpus(path)
    taken = languages_taken(languages, student.languages, corpus.language_names, model, path)
    rows = labelled_rows(corpus, path, split, taken, limit)
    check_labels(corpus, path, rows, student)
    print(f"{'weight':>7}{'bonus':>7}{'CER %':>7}{'WER %':>7}   * best so far: lowest CER + WER", flush=True)
    costs: list[float] = []

    def show(trial: Trial) -> None:
        mark = " *" if trial.cost < min(costs, default=math.inf) else ""
        costs.append(trial.cost)
        rates = f"{100 * trial.cer.rate:7.1f}{100 * trial.wer.rate:7.1f}"
        print(f"{trial.weight:7.2f}{trial.bonus:7.2f}{rates}{mark}", flush=True)

    facts = {
        "corpus": corpus.card["id"], "split": split, "languages": taken, "date": date.today().isoformat(),
    }  # fmt: skip
    known = ngrams.card.get("tuned", {}).get(names[0])
    if lstm is None:
        found = tune_ngrams(student, ngrams, corpus, rows, show)
        ngrams.store_tuned(names, found.as_dict(**facts))
    else:
        found = tune_lstm(student, ngrams, lstm, corpus, rows, show)
        under = ngrams.tuned(names)
        facts |= {"lm_weight": under["weight"], "lm_bonus": under["bonus"]}
        names = pair_names(student, ngrams)
        known = lstm.card.get("tuned", {}).get(names[0])
        lstm.store_tuned(names, found.as_dict(**facts))
    chosen = f"weight {found.best.weight:g}, bonus {found.best.bonus:g} are stored for {model}"
    print(f"{rescore or lm}: {chosen} (the last row with *)")
    if known:
        print(f"previously: {_tuned(known)}; kept in the card as `previous`")
    if found.clips < len(rows):
        print(
            f"{len(rows) - found.clips} of {plural(len(rows), 'clip')} skipped: unreadable, or a label without letters"
        )
    if found.clips < ENOUGH_CLIPS:
        print(
            f"lalia: {plural(found.clips, 'clip', 'is', 'are')} too few for reliable tuning; {ENOUGH_CLIPS} are enough",
            file=sys.stderr,
        )
    if not found.best.weight:
        print("the LSTM does not improve on these n-grams here; without --rescore the result is the same, and faster")
    print(
        "after calibration on these clips: number of words by confidence, and the share that is right (ideally equal to it)"
    )
    print(f"{'confidence':>10}{'words':>7}{'right':>7}")
    for bin in found.after:
        print(f"{bin.confidence:10.2f}{bin.words:7}{bin.right:7.2f}")


def _tuned(known: Mapping[str, Any]) -> str:
    """A tuning result from a card in one line."""
    where = (
        [f"on {plural(known['clips'], 'clip')} of {known['split']}"] if "clips" in known and "split" in known else []
    )
    spoken = known.get("languages") or known.get("language")
    where += [f"in {spoken if isinstance(spoken, str) else ', '.join(spoken)}"] if spoken else []
    where += [known["date"]] if "date" in known else []
    return f"weight {known['weight']:g}, bonus {known['bonus']:g} ({', '.join(where)})"
