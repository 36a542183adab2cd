"""``lalia finetune eval RUN``: how well what a run made does, where it errs, and how it got there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from finetune.trained import EVALUATION, LM, WAYS, Trained, add_arguments
from lalia.arguments import Parser, positive
from lalia.cards import NAME
from lalia.exits import UserError
from lalia.report import page
from lalia.report.curves import curves
from lalia.report.evaluation import write_evaluation
from lalia.report.run_report import RunFolder
from lalia.runtime import judging
from lalia.runtime.arguments import add_decoding

ABOUT = """\
Say how well the recogniser of a run does on clips that its training never heard, where it errs, and write a page of it.

  lalia finetune eval runs/swahili                        the test split, with the language model of `lm` where there is one
  lalia finetune eval runs/swahili --greedy               letters as they are heard, with nothing known of the language
  lalia finetune eval runs/swahili --split dev --hot names.txt
  lalia finetune eval runs/swahili --corpus data/other    clips from elsewhere

On the terminal: letters and words wrong (CER, WER) with the intervals that 95 % of bootstrap resamples lie in, by length of
clip, signal-to-noise ratio and speaker, what is taken for what, the worst clips. The page, RUN/evaluation/report.html, has the
same as charts, the worst and the median clips to hear, the run's learning curve and what the language model brings;
scores.json beside it every clip's texts.

What is judged is RUN/student, the recogniser as `lalia transcribe RUN talk.mp3` runs it; it is made where it is missing.
"""
_LEARNING = ("Errors on held-out clips", "Loss", "Blanks")


def main(argv: list[str]) -> int:
    """Judge, show and write; the exit status."""
    parser = Parser(prog="lalia finetune eval", description=ABOUT)
    add_arguments(parser)
    judging.add_questions(parser)
    add_decoding(parser)
    parser.add_argument("--greedy", action="store_true", help="without the run's language model")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    args = parser.parse_args(argv)
    trained = Trained.find(args)
    if args.greedy and (args.lm or args.rescore or args.hot or args.only):
        raise UserError("--greedy knows nothing of the language; leave it out, or --lm, --rescore, --hot and --only")
    if not args.greedy and args.lm is None and (trained.home / LM / NAME).is_file():
        args.lm = trained.home / LM
        print(f"with the language model {args.lm}; --greedy leaves it out")
    clips = trained.clips()
    args.model, args.corpus = trained.student(), trained.corpora[0]
    args.language = []  # the clips are of the languages asked for already
    args.title = f"{trained.name} on {', '.join(path.resolve().name for path in trained.corpora)}"
    args.details = True
    folder = trained.home / EVALUATION
    args.html, args.json = args.html or folder / "report.html", args.json or folder / "scores.json"
    more = [*_language(trained.home / WAYS), *(_learning(trained.run) if trained.run else [])]
    return judging.evaluate(args, lambda _: clips, partial(write_evaluation, more=more))


def _learning(run: Path) -> list[page.Section]:
    """How the errors fell while the run trained."""
    found = RunFolder.load(run)
    charts = [chart for chart in curves(found.metrics, found.config) if chart.title in _LEARNING]
    intro = "How it learned: each dot is a look at held-out clips. All curves are in the run's own report.html."
    return [page.Section("Learning curve", [page.figures(charts)], intro)] if charts else []


def _language(path: Path) -> list[page.Section]:
    """What `lm` found when it set the ways of decoding side by side."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [way["name"], *_rates(way, "cer"), *_rates(way, "wer"), f"{way['seconds_per_hour']:.1f}"]
        for way in found["ways"]
    ]
    head = ["decoding", "CER", "95 %", "WER", "95 %", "s per hour of speech"]
    intro = (
        f"On {found['clips']} clips of the {found['split']} split, by lalia finetune lm. {'. '.join(found['verdict'])}."
    )
    return [page.Section("What is known of the language", [page.table(head, rows)], intro)]


def _rates(way: dict[str, object], name: str) -> list[str]:
    low, high = way[f"{name}_interval"]  # type: ignore[misc]
    return [f"{100 * way[name]:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}"]  # type: ignore[has-type, operator]
