"""Decoders compared on one student's test clips: greedy, beam search and language models; error rates and time.

    python -m benchmarks.decoding.language_models STUDENT CORPUS --language ita [--text FREE.txt] [--work FOLDER] [--out TABLE.md]

Language models are built from the training labels, and from these with the free text, without sentences of held-out clips; they
are tuned on the dev split. The LSTM is trained on all of it and rescores n-grams of letters. Hot words are the words of the test
clips that are in no text, as if the user knew the names. The closed list has all sentences of dev and test. Times are thread
time on one thread, and ratios to the time of the acoustic model for the same clips in the same run. Models are kept in --work;
an interrupted run reuses them.
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
from lalia.decoding.decoder import Decoder, make_decoder, pair_names, text_of
from lalia.decoding.greedy import greedy, transcript
from lalia.lm.folder import ORDERS, LanguageModel, Unit, make, model_names, symbols_of
from lalia.lm.lstm import LstmModel
from lalia.runtime.student import Student
from lalia.scoring.rates import score
from lalia.scoring.tuning import Tuning, tune, tune_lstm, word_evidence
from lalia.training.letter_lstm import LstmSettings, train_model

Held = list[tuple[str, np.ndarray]]
BEAMS = (4, 64)
HOT = 6.0
"""The boost of a hot word, the default of ``--hot``."""


class Bench:
    """A student, its test clips, and the rows of the table so far."""

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

    def row(self, name: str, decode: Callable[[np.ndarray], str]) -> None:
        """Decode every test clip twice (the first time fills caches) and record the second time."""
        for _ in range(2):
            start = time.process_time()
            hypotheses = [self.student.normaliser(decode(log_probs_TV)) for _, log_probs_TV in self.test]
            took_s = time.process_time() - start
        found = score([text for text, _ in self.test], hypotheses, self.student.normaliser.writing)
        low, high = found.wer_interval
        self.rows.append(
            f"| {name} | {100 * found.cer.rate:.1f} | {100 * found.wer.rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            f" | {took_s / self.model_s:.2f} | {3600 * took_s / self.audio_s:.1f} |"
        )
        print(self.rows[-1], flush=True)

    def beam(self, name: str, decoder: Decoder) -> None:
        self.row(name, lambda log_probs_TV: text_of(decoder.decode(log_probs_TV), self.student.tokens))

    def calibration(self, decoder: Decoder) -> None:
        """Print the calibration error of confidences on the test clips, before and after calibration."""
        evidence, right = word_evidence(decoder, self.test)
        errors = [
            expected_error(reliability([confidence(e, weights) for e in evidence], right))
            for weights in (None, decoder.weights)
        ]
        print(f"calibration error on test: {errors[0]:.3f} before, {errors[1]:.3f} after", flush=True)


def texts(bench: Bench, free: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """The labels of training clips, and these with the free text; both without sentences of held-out clips."""
    held = {bench.text(row) for split in ("dev", "test") for row in bench.numbers(split)}
    labels = [text for row in bench.numbers("train") if (text := bench.text(row)) and text not in held]
    yield "labels", labels
    if free:
        lines = (bench.student.normaliser(line) for path in free for line in path.open(encoding="utf-8"))
        yield "labels and free text", labels + [line for line in lines if line and line not in held]


def ngrams(bench: Bench, unit: Unit, sentences: list[str], out: Path) -> LanguageModel:
    """An n-gram model, built and tuned on dev as by ``lalia lm`` and ``lalia tune``; reused if ``out`` exists."""
    if not out.exists():
        made = make(out, symbols(bench, sentences, unit), unit, ORDERS[unit], bench.student.normaliser, [])
        made.store_tuned(model_names(bench.student.card), tune(bench.student, made, bench.corpus, bench.dev).as_dict())
    model = LanguageModel.load(out)
    print_perplexity(model, symbols(bench, held_out(bench, "dev"), unit))
    return model


def lstm(bench: Bench, under: LanguageModel, sentences: list[str], out: Path, settings: LstmSettings) -> LstmModel:
    """An LSTM, tuned on dev with the candidates of the n-grams ``under``, as by ``lalia lm --lstm`` and ``lalia tune``."""
    train_model(symbols(bench, sentences, "letter"), out, bench.student.normaliser, [], {"letters": {}}, settings)
    model = LstmModel.load(out)
    print_perplexity(model, symbols(bench, held_out(bench, "dev"), "letter"))
    print(f"{out.name}: {model.card['parameters']:,} weights, trained for {model.card['seconds']:.0f} s", flush=True)
    names = pair_names(bench.student, under)
    if model.find_tuned(names) is None:
        found: Tuning = tune_lstm(bench.student, under, model, bench.corpus, bench.dev)
        first = under.tuned(model_names(bench.student.card))
        model.store_tuned(names, found.as_dict(lm_weight=first["weight"], lm_bonus=first["bonus"]))
    return model


def symbols(bench: Bench, sentences: list[str], unit: Unit) -> list[list[str]]:
    return [symbols_of(text, unit, bench.student.tokens)[0] for text in sentences]


def held_out(bench: Bench, *splits: str) -> list[str]:
    return sorted({text for split in splits for row in bench.numbers(split) if (text := bench.text(row))})


def print_perplexity(model: LanguageModel | LstmModel, sentences: list[list[str]]) -> None:
    print(f"{model.folder.name}: perplexity {model.perplexity(sentences):.2f} on the sentences of dev", flush=True)


def compare(bench: Bench, free: list[Path], work: Path, settings: LstmSettings) -> None:
    """Add all rows of the table."""
    student = bench.student
    bench.row("greedy", lambda log_probs_TV: transcript(greedy(log_probs_TV), student.tokens))
    bench.beam("beam search", make_decoder(student))
    for source, sentences in texts(bench, free):
        of_letters: LanguageModel | None = None
        for unit in ("letter", "word"):
            model = ngrams(bench, unit, sentences, work / f"{source}, {unit}s")
            tuned = model.tuned(model_names(student.card))
            weights_used = f"(weight {tuned['weight']:g}, bonus {tuned['bonus']:g})"
            bench.beam(f"{ORDERS[unit]}-grams of {unit}s, {source} {weights_used}", make_decoder(student, model))
            if unit == "letter":
                of_letters = model
                for beam in BEAMS:
                    bench.beam(f"the same, beam {beam}", make_decoder(student, model, settings=BeamSettings(beam=beam)))
            bench.calibration(make_decoder(student, model))
    assert of_letters is not None
    rescorer = lstm(bench, of_letters, sentences, work / "lstm", settings)
    found = rescorer.find_tuned(pair_names(student, of_letters))
    assert found is not None
    tuned = found
    weights_used = f"(weight {tuned['weight']:g}, bonus {tuned['bonus']:g})"
    bench.beam(
        f"{ORDERS['letter']}-grams of letters and the LSTM, {source} {weights_used}",
        make_decoder(student, of_letters, rescore=rescorer),
    )
    wide = make_decoder(student, of_letters, rescore=rescorer, settings=BeamSettings(beam=BEAMS[-1]))
    bench.beam(f"the same, beam {BEAMS[-1]}", wide)
    read = {word for sentence in sentences for word in sentence.split()}
    new = sorted({word for text in held_out(bench, "test") for word in text.split()} - read)
    hot = make_decoder(student, of_letters, hot_words=dict.fromkeys(new, HOT))
    bench.beam(f"{ORDERS['letter']}-grams of letters, {source}, {len(new)} hot words", hot)
    phrases = held_out(bench, "dev", "test")
    bench.beam(f"closed list of {len(phrases)} sentences", make_decoder(student, only=phrases))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--text", type=Path, action="append", default=[], help="free text, one sentence per line")
    parser.add_argument("--work", type=Path, help="folder of the models; existing ones are reused")
    parser.add_argument("--width", type=int, default=LstmSettings.width, help="width of the LSTM's layer")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    bench = Bench(Student.load(args.student, 1), Corpus.load(args.corpus), args.language)
    print(f"{len(bench.test)} clips, {bench.audio_s:.0f} s; acoustic model {bench.model_s:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        compare(bench, args.text, args.work or Path(folder), LstmSettings(width=args.width))
    if args.out:
        head = "| decoding | CER % | WER % (95 %) | time / acoustic model | seconds per hour of speech |\n|---|---|---|---|---|"
        write_text(args.out, "\n".join([head, *bench.rows, ""]))


if __name__ == "__main__":
    main()
