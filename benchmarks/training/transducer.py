"""Transducer benchmark: CTC against a transducer with CTC beside it, from the same encoder, labels, steps and rates.

  python -m benchmarks.training.transducer --corpus data/dutch --language nld --minutes 10 30 0 --lm runs/dutch/lm

For each amount of labels (0: all) it fits a CTC recogniser and a transducer for each of ``--widths``, and decodes the test clips
greedily and, with ``--lm``, by beam search with that language model, tuned on dev for each head. The table has CER and WER with
their 95 % intervals, the processor time of decoding an hour of speech without the acoustic model, and the processor time of a
training step relative to CTC's. Every fit is a `lalia finetune fit`, so the same command continues; for the six languages of
``benchmarks.training.learning`` run it once for each corpus.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.learning_corpora import call
from finetune.config import FinetuneSettings
from finetune.presets import find_encoder
from finetune.task import FinetuneTask
from lalia.cards import write_text
from lalia.data.corpus import Corpus
from lalia.data.labels import label_encoder
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.decoder import Decoder, make_decoder
from lalia.errors import run
from lalia.lm.folder import LanguageModel
from lalia.model_folder import labelled_rows
from lalia.models.recogniser import Recogniser
from lalia.runtime.student import Student
from lalia.scoring.compare import cells, compare, head
from lalia.scoring.tuning import tune

STEP_S, REPEATS = 30.0, 5


@dataclass(frozen=True)
class Fit:
    """One recogniser to train; ``width`` None is CTC alone."""

    minutes: float
    width: int | None

    @property
    def name(self) -> str:
        return "ctc" if self.width is None else f"transducer-{self.width}"

    def folder(self, out: Path, language: str) -> Path:
        return out / language / f"{self.minutes:g}-minutes" / self.name

    def flags(self) -> list[str]:
        return [] if self.width is None else ["--head", "transducer", "--transducer.width", str(self.width)]


def main() -> int:
    args = parse()
    fits = [Fit(minutes, width) for minutes in args.minutes for width in (None, *args.widths)]
    for fit in fits:
        train(fit, args.corpus, args.language, args.encoder, args.out, args.flags)
        if args.only_fit and fit.name == args.only_fit:
            return 0
    lines = [["labels", "trained", "decoded", *head()[1:], "step"]]
    for minutes in args.minutes:
        here = [fit for fit in fits if fit.minutes == minutes]
        steps = [step_s(fit.folder(args.out, args.language), args.corpus, args.language) for fit in here]
        for fit, took_s in zip(here, steps, strict=True):
            for name, rows in decoded(fit.folder(args.out, args.language), args.corpus, args.language, args.lm).items():
                for row in rows:
                    labels = f"{minutes:g} min" if minutes else "all"
                    lines.append([labels, fit.name, f"{name}, {row[0]}", *row[1:], f"{took_s / steps[0]:.2f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
    write_text(args.out / args.language / "table.md", table + "\n")
    print(table)
    return 0


def train(fit: Fit, corpus: Path, language: str, encoder: str, out: Path, flags: Sequence[str]) -> None:
    """Fit a recogniser, unless it is finished."""
    call([
        "lalia", "finetune", "fit", "--encoder", encoder, "--data.corpus", str(corpus), "--data.language", language,
        "--labels.minutes", f"{fit.minutes:g}", *fit.flags(), *flags, "--out", str(fit.folder(out, language)),
    ])  # fmt: skip


def step_s(folder: Path, corpus: Path, language: str) -> float:
    """The least processor time of a forward and backward pass on the first 30 s of the training clips."""
    recogniser = Recogniser.load(folder / "recogniser").train()
    settings = FinetuneSettings(head="transducer" if recogniser.transducer else "ctc")
    task, mixture = FinetuneTask(settings, recogniser, {}), Mixture.load([str(corpus)])
    rows = mixture.select("train", [language], labelled=True)
    batch = next(iter(make_eval_loader(mixture, rows, STEP_S, label_encoder(recogniser.tokens, recogniser.normaliser))))
    times_s = []
    for _ in range(REPEATS):
        begun = time.process_time()
        hidden_BTD, frames_B = recogniser.encoder(batch.wave_BS, batch.lengths_B)
        task.losses(hidden_BTD, frames_B, batch)[2].backward()
        times_s.append(time.process_time() - begun)
    return min(times_s)


def decoded(folder: Path, corpus: Path, language: str, lm: Path | None) -> dict[str, list[list[str]]]:
    """The table's rows of each head of the student in ``folder``: greedy, and with the language model."""
    student, clips = Student.load(folder, 1), Corpus.load(corpus)
    heads = {"CTC": student}
    if Recogniser.load(folder / "recogniser").transducer is not None:
        heads["transducer"] = student.with_transducer()
    dev, test = (labelled_rows(clips, corpus, split, [language], None) for split in ("dev", "test"))
    found = {}
    for name, model in heads.items():
        decoders: dict[str, Decoder | None] = {"greedy": None}
        if lm is not None:
            language_model = LanguageModel.load(lm)
            best = tune(model, language_model, clips, dev).best
            decoders["with LM"] = make_decoder(model, language_model, weight=best.weight, bonus=best.bonus)
        found[name] = cells(compare(model, clips, test, decoders))
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.transducer", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--corpus", type=Path, required=True, help="a corpus with splits")
    parser.add_argument("--language", required=True, help="ISO 639-3")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[10, 30, 0], help="minutes of labels (10 30 0; 0: all)"
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[0, 64], help="widths of the joiner (0 64)")
    parser.add_argument("--encoder", type=find_encoder, default="nano-multilingual", help="(nano-multilingual)")
    parser.add_argument("--lm", type=Path, help="a language model of the language")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/transducer"), help="folder of the runs (runs/transducer)"
    )
    parser.add_argument(
        "--only-fit", default="", metavar="NAME", help="end after the fit of this name (ctc, transducer-0)"
    )
    parser.add_argument("flags", nargs="*", help="after --: more flags of lalia finetune fit")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.training.transducer"))
