"""Evaluation of a fine-tuning run (``lalia finetune eval RUN``): error rates, an error analysis and a report page.

It also finds what a run has made (``FinetunedModel``): recogniser, exported student, corpora and languages.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config import FinetuneSettings
from lalia.cards import NAME, read_card
from lalia.cli.evaluate import add_clips_and_results, evaluate
from lalia.cli.options import Decoding, add_decoding
from lalia.cli.parser import Parser, positive, print_next
from lalia.data.corpus import Corpus
from lalia.data.mixture import Mixture, resolve_languages
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.model_folder import NORMALISER, RUN, STUDENT, languages_in, languages_taken
from lalia.report import numbers, page
from lalia.report.run_curves import curves
from lalia.report.run_page import RunFolder
from lalia.signals import Phase, stops
from lalia.text.language_codes import match_languages
from lalia.text.normaliser import Normaliser

# --- The model and corpora of a run --------------------------------------------------------------------

RECOGNISER, LM, LSTM, EVALUATION, DECODING = "recogniser", "lm", "lstm", "evaluation", "decoding.json"


class EvaluationClips:
    """Labelled clips of one or several corpora in the trained languages, with the interface of a ``Corpus``."""

    def __init__(self, corpora: Sequence[Corpus], languages: Sequence[str] = ()) -> None:
        self._mixture = Mixture(corpora)
        languages = match_languages(languages, self._mixture.language_names)
        self._mixture.require(languages, "--language")
        self._languages = list(languages)
        self.card: dict[str, Any] = {**corpora[0].card, "id": " ".join(corpus.card["id"] for corpus in corpora)}

    def select(
        self, split: str | None = None, language: str | None = None, with_text: bool | None = None
    ) -> np.ndarray:
        """Row numbers (K,) of the clips that meet all given conditions."""
        wanted = [language] if language else self._languages
        rows = []
        for start, corpus in zip(self._mixture.starts, self._mixture.corpora, strict=False):
            here = corpus.select(split=split, with_text=with_text)
            if wanted:
                codes = [corpus.language_names.index(name) for name in wanted if name in corpus.language_names]
                here = here[np.isin(corpus.languages[here], codes)]
            rows.append(start + here)
        return np.concatenate(rows)

    @property
    def language_names(self) -> list[str]:
        return self._languages or self._mixture.language_names

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, (N,)."""
        return np.concatenate([corpus.numbers(name) for corpus in self._mixture.corpora])

    def wave(self, row: int) -> np.ndarray:
        """As ``Mixture.wave``."""
        return self._mixture.wave(row)

    def text(self, row: int) -> str:
        return self._mixture.text(row)

    def id(self, row: int) -> str:
        return self._mixture.id(row)

    def language(self, row: int) -> str:
        return self._mixture.language(row)

    def speaker(self, row: int) -> str:
        return self._mixture.speaker(row)


@dataclass(frozen=True)
class FinetunedModel:
    """A recogniser or student, its corpora and languages, and the folder for what is made from it."""

    source: Path
    home: Path
    corpora: list[Path]
    languages: list[str]
    run: Path | None
    """the folder of the run that made it, if any"""

    @classmethod
    def find(
        cls, folder: Path, corpora: Sequence[Path] = (), asked: Sequence[str] = (), out: Path | None = None
    ) -> FinetunedModel:
        """From ``folder``, a run, recogniser or student; a ``UserError`` where it is none of them, or the run is not finished.

        ``corpora``, the languages ``asked`` and ``out`` replace those of the run.
        """
        if not folder.exists():
            raise UserError(f"{folder}: no such run; lalia finetune fit … --out {folder} makes it")
        run = folder if (folder / RUN).is_file() else None
        if run is None and folder.name == RECOGNISER and (folder.parent / RUN).is_file():
            run = folder.parent
        source = run / RECOGNISER if run else folder
        if run and not (source / NAME).is_file():
            raise wrong_kind(run, RECOGNISER)
        if identify(source).kind not in (RECOGNISER, STUDENT):
            raise wrong_kind(folder, RECOGNISER)
        data = yaml.safe_load((run / RUN).read_text(encoding="utf-8"))["data"] if run else {}
        corpora = list(corpora) or [Path(path) for path in data.get("corpus", [])]
        if not corpora:
            raise UserError(f"{folder}: is in no run that names a corpus; give --corpus CORPUS")
        home = out or run
        if home is None:
            raise UserError(f"{folder}: is in no run; give --out FOLDER for the results (student, lm, evaluation)")
        if asked or run:
            languages = resolve_languages(list(asked) or data.get("language", []), corpora, "--language")
        else:
            places = ", ".join(map(str, corpora))
            languages = languages_taken(
                None, languages_in(source), Mixture.load(corpora).language_names, source, places
            )
        return cls(source, home, corpora, languages, run)

    @property
    def name(self) -> str:
        """Its name in titles."""
        return (self.run or self.source).resolve().name

    def student(self) -> Path:
        """The folder of the student; exported first if it is missing or was made from another recogniser."""
        card = read_card(self.source)
        if card["kind"] == STUDENT:
            return self.source
        rules = self.source / NORMALISER
        whole = rules.is_file() and len(Normaliser.from_json(rules).languages) > 1  # one head for all of them
        language = self.languages[0] if len(self.languages) == 1 and not whole else ""
        out = self.home / STUDENT
        if (out / NAME).is_file():
            made = read_card(out, STUDENT)
            spoken = made.get("language", "")
            if [parent["id"] for parent in made["parents"]] == [card["id"]] and language in ("", spoken):
                return out
        from lalia.models.export.onnx_export import export_student  # late: tracing takes seconds to import

        export_student(self.source, out, language)
        print(f"{out}: the recogniser as an ONNX student in float32, which runs without torch", file=sys.stderr)
        return out

    def clips(self) -> EvaluationClips:
        """All of its corpora."""
        return EvaluationClips([Corpus.load(path) for path in self.corpora], self.languages)

    def clips_by_corpus(self) -> dict[Path, EvaluationClips]:
        """The clips in its languages of each corpus that has some."""
        found: dict[Path, EvaluationClips] = {}
        for path in self.corpora:
            corpus = Corpus.load(path)
            wanted = match_languages(self.languages, corpus.language_names)
            taken = [name for name in wanted if name in corpus.language_names]
            if taken or not self.languages:
                found[path] = EvaluationClips([corpus], taken)
        return found


def export_finished(settings: FinetuneSettings) -> None:
    """Export the student of the run of ``settings`` once it is finished, and print the next commands."""
    from lalia.training.distributed import is_rank_zero
    from lalia.training.trainer import finished

    run = Path(settings.out)
    if not finished(run) or not is_rank_zero(settings.hardware):
        return
    data = settings.data
    stops.enter(Phase.RESULTS)
    FinetunedModel(run / RECOGNISER, run, [Path(path) for path in data.corpus], data.language, run).student()
    stops.enter(Phase.FINISHED)
    print_next(
        (f"lalia transcribe {run} talk.mp3", "transcribe a file"),
        (f"lalia finetune lm {run}", "build and tune a language model from its labels and any text"),
        (f"lalia finetune eval {run}", "evaluate it: a page with error analysis and audio"),
    )


def add_run(parser: Parser) -> None:
    """The arguments that ``FinetunedModel.find`` takes."""
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="the --out of a fit; or a recogniser or student, with --corpus and --out"
    )
    parser.add_argument(
        "--corpus", metavar="CORPUS", type=Path, action="append", help="another corpus than the run's; may be repeated"
    )
    parser.add_argument(
        "--language",
        metavar="CODE",
        action="append",
        help="another language than the run's: isl, is, is-IS or Icelandic",
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (default: into the run)")


# --- The command ---------------------------------------------------------------------------------------

ABOUT = """\
Evaluate the recogniser of a run on held-out clips: error rates, where the errors are, and a page with clips to hear.

  lalia finetune eval runs/swahili                        the test split, with the language model of `lm` where there is one
  lalia finetune eval runs/swahili --greedy               greedy decoding, without the language model
  lalia finetune eval runs/swahili --split dev --hot names.txt
  lalia finetune eval runs/swahili --corpus data/other    clips from elsewhere

On the terminal: CER and WER with 95 % bootstrap intervals, by length of clip, signal-to-noise ratio and speaker, the commonest
confusions, the worst clips. The page, RUN/evaluation/report.html, has the same as charts, the worst and the median clips to hear,
the run's learning curve and the effect of the language model; scores.json beside it has every clip's texts.

It evaluates RUN/student, the recogniser as `lalia transcribe RUN talk.mp3` runs it, and exports it first where it is missing.
"""
_LEARNING = ("Errors on held-out clips", "Loss", "Blanks")


def main(argv: list[str]) -> int:
    """Evaluate, print and write the page; returns the exit status."""
    parser = Parser(prog="lalia finetune eval", description=ABOUT)
    add_run(parser)
    add_clips_and_results(parser)
    add_decoding(parser)
    parser.add_argument("--greedy", action="store_true", help="without the run's language model")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    args = parser.parse_args(argv)
    model = FinetunedModel.find(args.run, args.corpus or (), args.language or (), args.out)
    decoding = Decoding.of(args)
    if args.greedy and decoding != Decoding():
        raise UserError(
            "--greedy uses no language model and no phrases; leave it out, or --lm, --rescore, --hot and --only"
        )
    if not args.greedy and decoding.lm is None and (model.home / LM / NAME).is_file():
        decoding = replace(decoding, lm=model.home / LM)
        print(f"with the language model {decoding.lm}; --greedy leaves it out")
    clips, folder = model.clips(), model.home / EVALUATION
    evaluate(
        model.student(), model.corpora[0], decoding, corpus=clips, languages=[],  # those of clips
        split=args.split, limit=args.limit, threads=args.threads, details=True,
        json=args.json or folder / "scores.json", html=args.html or folder / "report.html",
        title=f"{model.name} on {', '.join(path.resolve().name for path in model.corpora)}",
        more=[*_decoding(model.home / DECODING), *(_learning(model.run) if model.run else [])],
    )  # fmt: skip
    return 0


def _learning(run: Path) -> list[page.Section]:
    """Learning curves of the run."""
    found = RunFolder.load(run)
    charts = [chart for chart in curves(found.metrics, found.config) if chart.title in _LEARNING]
    intro = "Each dot is a validation on held-out clips. All curves are in the run's report.html."
    return [page.Section("Learning curve", [page.figures(charts)], intro)] if charts else []


def _decoding(path: Path) -> list[page.Section]:
    """The comparison of decoders made by ``lalia finetune lm``."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [
            decoder["name"],
            *_rates(decoder, "cer"),
            *_rates(decoder, "wer"),
            numbers.times(3600 / max(found["model_seconds_per_hour"] + decoder["seconds_per_hour"], 1e-9)),
        ]
        for decoder in found["ways"]
    ]
    head = ["decoding", "CER", "95 % CI", "WER", "95 % CI", "× real time"]
    intro = (
        f"On {found['clips']} clips of the {found['split']} split, by lalia finetune lm. {'. '.join(found['verdict'])}."
    )
    return [page.Section("Decoding with a language model", [page.table(head, rows)], intro)]


def _rates(scores: dict[str, object], name: str) -> list[str]:
    low, high = scores[f"{name}_interval"]  # type: ignore[misc]
    return [f"{100 * scores[name]:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}"]  # type: ignore[has-type, operator]
