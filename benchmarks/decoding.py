"""What a language model buys, and what it costs: best path, beam search and language models on one student's test clips.

    python -m benchmarks.decoding STUDENT CORPUS --language ita [--text FREE.txt] [--out TABLE.md]

Language models are made of the corpus's training labels, and of free text with them where it is given, less every sentence
of a held-out clip; they are tuned on the dev split. Times are of one thread by its own clock, and as ratios to the time that
the student's acoustic model takes for the same clips in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lalia.cards import write_text
from lalia.data.corpus import Corpus
from lalia.decoding.beam import BeamSettings
from lalia.decoding.confidence import confidence, expected_error, reliability
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import best_path, transcript
from lalia.decoding.language_model import ORDERS, LanguageModel, Unit, make, symbols_of
from lalia.runtime.decoders import make_decoder
from lalia.runtime.student import Student
from lalia.runtime.tuning import judged, tune
from lalia.scoring.rates import score

Held = list[tuple[str, np.ndarray]]


class Bench:
    """A student, the clips it is tried on, and the rows of the table so far."""

    def __init__(self, student: Student, corpus: Corpus, language: str) -> None:
        self.student, self.corpus, self.language = student, corpus, language
        self.rows: list[str] = []
        self.dev = self.numbers("dev")
        clips = [(self.text(row), corpus.wave(row)) for row in self.numbers("test")]
        start = time.process_time()
        self.test: Held = [(text, student.log_probs(wave)) for text, wave in clips if text]
        self.model_s = time.process_time() - start
        self.audio_s = sum(len(wave) for text, wave in clips if text) / 16_000

    def numbers(self, split: str) -> list[int]:
        return [int(row) for row in self.corpus.select(split=split, language=self.language, with_text=True)]

    def text(self, row: int) -> str:
        return self.student.normaliser(self.corpus.text(row))

    def row(self, name: str, hear: Callable[[np.ndarray], str]) -> None:
        """Decode every test clip twice (the first time fills what is remembered) and keep the second's time."""
        for _ in range(2):
            start = time.process_time()
            heard = [self.student.normaliser(hear(log_probs_TV)) for _, log_probs_TV in self.test]
            took_s = time.process_time() - start
        found = score([text for text, _ in self.test], heard)
        low, high = found.wer_interval
        self.rows.append(
            f"| {name} | {100 * found.cer.rate:.1f} | {100 * found.wer.rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            f" | {took_s / self.model_s:.2f} | {3600 * took_s / self.audio_s:.1f} |"
        )
        print(self.rows[-1], flush=True)

    def beam(self, name: str, decoder: Decoder) -> None:
        self.row(name, lambda log_probs_TV: text_of(decoder.decode(log_probs_TV), self.student.tokens))


def texts(bench: Bench, free: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """The labels of training clips, and those with the free text; sentences of held-out clips are in neither."""
    held = {bench.text(row) for split in ("dev", "test") for row in bench.numbers(split)}
    labels = [text for row in bench.numbers("train") if (text := bench.text(row)) and text not in held]
    yield "labels", labels
    if free:
        lines = (bench.student.normaliser(line) for path in free for line in path.open(encoding="utf-8"))
        yield "labels and free text", labels + [line for line in lines if line and line not in held]


def language_model(bench: Bench, unit: Unit, sentences: list[str], out: Path) -> LanguageModel:
    """Made and tuned on dev, as ``lalia lm`` and ``lalia tune`` do."""
    symbols = [symbols_of(text, unit, bench.student.tokens)[0] for text in sentences]
    model = make(out, symbols, unit, ORDERS[unit], bench.student.normaliser, [])
    model.store_tuned(bench.student.card["id"], tune(bench.student, model, bench.corpus, bench.dev).as_dict())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--text", type=Path, action="append", default=[], help="free text, a sentence a line")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    args = parser.parse_args()
    student = Student.load(args.student, 1)
    bench = Bench(student, Corpus.load(args.corpus), args.language)
    print(f"{len(bench.test)} clips, {bench.audio_s:.0f} s; acoustic model {bench.model_s:.2f} s", flush=True)
    bench.row("best path", lambda log_probs_TV: transcript(best_path(log_probs_TV), student.tokens))
    bench.beam("beam alone", make_decoder(student))
    with tempfile.TemporaryDirectory() as folder:
        for source, sentences in texts(bench, args.text):
            for unit in ("letter", "word"):
                path = Path(folder) / f"{source}-{unit}"
                model = language_model(bench, unit, sentences, path)
                tuned = model.tuned(student.card["id"])
                name = (
                    f"{ORDERS[unit]}-grams of {unit}s, {source} (weight {tuned['weight']:g}, bonus {tuned['bonus']:g})"
                )
                bench.beam(name, make_decoder(student, model))
                if unit == "letter":
                    for beam in (4, 64):
                        settings = BeamSettings(beam=beam)
                        bench.beam(f"the same, beam {beam}", make_decoder(student, model, settings=settings))
                evidence, right = judged(make_decoder(student, model), bench.test)
                errors = [
                    expected_error(reliability([confidence(e, weights) for e in evidence], right))
                    for weights in (None, tuned["confidence"])
                ]
                print(f"calibration error on test: {errors[0]:.3f} before, {errors[1]:.3f} after", flush=True)
    if args.out:
        head = "| decoding | CER % | WER % (95 %) | time, of the model's | seconds per hour of speech |\n|---|---|---|---|---|"
        write_text(args.out, "\n".join([head, *bench.rows, ""]))


if __name__ == "__main__":
    main()
