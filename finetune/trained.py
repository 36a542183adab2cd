"""What a run left behind: its recogniser, the student made of it, and the clips to judge it on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config import FinetuneSettings
from lalia.cards import NAME, read_card
from lalia.data.corpus import Corpus
from lalia.data.mixture import Mixture, languages_meant
from lalia.exits import UserError
from lalia.kinds import look, refusal
from lalia.runtime.integrity import RUN, STUDENT
from lalia.runtime.spoken import languages_in, languages_taken
from lalia.text.language_names import meant

RECOGNISER, LM, LSTM, EVALUATION, WAYS = "recogniser", "lm", "lstm", "evaluation", "decoding.json"


class Clips:
    """Labelled clips of one corpus or several, of the languages that were trained, as the runtime's verbs ask for them."""

    def __init__(self, corpora: Sequence[Corpus], languages: Sequence[str] = ()) -> None:
        self._mixture = Mixture(corpora)
        languages = meant(languages, self._mixture.language_names)
        self._mixture.require(languages, "--language")
        self._languages = list(languages)
        self.card: dict[str, Any] = {**corpora[0].card, "id": " ".join(corpus.card["id"] for corpus in corpora)}

    def select(
        self, split: str | None = None, language: str | None = None, with_text: bool | None = None
    ) -> np.ndarray:
        """Row numbers (K,) that meet every condition given."""
        asked = [language] if language else self._languages
        rows = []
        for start, corpus in zip(self._mixture.starts, self._mixture.corpora, strict=False):
            here = corpus.select(split=split, with_text=with_text)
            if asked:
                codes = [corpus.language_names.index(name) for name in asked if name in corpus.language_names]
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
class Trained:
    """A recogniser (or a student), the corpora and languages it belongs to, and the folder for what is made of it."""

    source: Path
    home: Path
    corpora: list[Path]
    languages: list[str]
    run: Path | None
    """the folder of the run that made it, where there is one"""

    @classmethod
    def find(cls, args: argparse.Namespace) -> Trained:
        """What ``add_arguments`` was told; a ``UserError`` where it is no finished run, recogniser or student."""
        folder: Path = args.run
        if not folder.exists():
            raise UserError(f"{folder}: no such run; lalia finetune fit … --out {folder} makes it")
        run = folder if (folder / RUN).is_file() else None
        if run is None and folder.name == RECOGNISER and (folder.parent / RUN).is_file():
            run = folder.parent
        source = run / RECOGNISER if run else folder
        if run and not (source / NAME).is_file():
            raise refusal(run, RECOGNISER)
        if look(source).kind not in (RECOGNISER, STUDENT):
            raise refusal(folder, RECOGNISER)
        data = yaml.safe_load((run / RUN).read_text(encoding="utf-8"))["data"] if run else {}
        corpora = args.corpus or [Path(path) for path in data.get("corpus", [])]
        if not corpora:
            raise UserError(f"{folder}: belongs to no run that names a corpus; say --corpus CORPUS")
        home = args.out or run
        if home is None:
            raise UserError(
                f"{folder}: belongs to no run; say --out FOLDER, where what is made of it (student, lm, evaluation) shall be"
            )
        if args.language or run:
            languages = languages_meant(args.language or data.get("language", []), corpora, "--language")
        else:
            places = ", ".join(map(str, corpora))
            languages = languages_taken(
                None, languages_in(source), Mixture.load(corpora).language_names, source, places
            )
        return cls(source, home, corpora, languages, run)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return (self.run or self.source).resolve().name

    def student(self) -> Path:
        """The folder of the student, made where it is missing or of another recogniser than the one that is there now."""
        card = read_card(self.source)
        if card["kind"] == STUDENT:
            return self.source
        language = self.languages[0] if len(self.languages) == 1 else ""
        out = self.home / STUDENT
        if (out / NAME).is_file():
            made = read_card(out, STUDENT)
            spoken = made.get("language", "")
            if [parent["id"] for parent in made["parents"]] == [card["id"]] and language in ("", spoken):
                return out
        from lalia.models.student_folder import export_student  # late: tracing takes seconds to import

        export_student(self.source, out, language)
        print(f"{out}: the recogniser as it runs without torch, in float32", file=sys.stderr)
        return out

    def clips(self) -> Clips:
        """All of its corpora."""
        return Clips([Corpus.load(path) for path in self.corpora], self.languages)

    def open(self, path: Path) -> Clips:
        """One corpus."""
        corpus = Corpus.load(path)
        asked = meant(self.languages, corpus.language_names)
        return Clips([corpus], [name for name in asked if name in corpus.language_names])

    def speaking(self) -> list[Path]:
        """The corpora that have one of its languages."""
        names = {path: Corpus.load(path).language_names for path in self.corpora}
        return [
            path for path in names if not self.languages or set(meant(self.languages, names[path])) & set(names[path])
        ]


def hand_over(settings: FinetuneSettings) -> None:
    """Make the student of the run that ``settings`` describe, once it is finished, and say what can be done with it."""
    from lalia.training.ranks import leads
    from lalia.training.runs import finished

    run = Path(settings.out)
    if not finished(run) or not leads(settings.hardware):
        return
    data = settings.data
    Trained(run / RECOGNISER, run, [Path(path) for path in data.corpus], data.language, run).student()
    print(
        f"next: lalia transcribe {run} talk.mp3      hear it\n"
        f"      lalia finetune lm {run}       give it a language model, of its labels and of any text\n"
        f"      lalia finetune eval {run}     see where it errs, on a page with clips to hear"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what says whose work is judged, and on what."""
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
