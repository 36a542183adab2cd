"""Decoders compared on one student's test clips: greedy, beam search and language models; error rates and time.

    python -m benchmarks.decoding.language_models STUDENT CORPUS --language ita [--text FREE.txt] [--work FOLDER] [--out TABLE.md]

Language models are built from the training labels, and from these with the free text, without sentences of held-out clips; they
are tuned on the dev split. The LSTM is trained on all of it and rescores n-grams of letters. Hot words are the words of the test
clips that are in no text, as if the user knew the names. The closed list has all sentences of dev and test. Times are thread
time on one thread, and ratios to the time of the acoustic model for the same clips in the same run. Models are kept in --work;
an interrupted run reuses them.

    python -m benchmarks.decoding.language_models STUDENT --arpa WORDS.arpa [--work FOLDER] [--out TABLE.md]

measures a large model of words: processor time and peak memory of `lalia lm`, which converts the ARPA file, and of loading the
folder into a decoder, beside KenLM's parsing of the same file. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
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


# --- A large model ---------------------------------------------------------------------------------------

_LOAD = """
import sys, time
from lalia.decoding.decoder import make_decoder
from lalia.runtime.student import Student
student = Student.load(sys.argv[1], 1)
start = time.process_time()
make_decoder(student, sys.argv[2])
print(time.process_time() - start)
"""
_KENLM = """
import sys, time
import kenlm
start = time.process_time()
kenlm.Model(sys.argv[1])
print(time.process_time() - start)
"""
_CONVERT = """
import sys, time
from lalia.cli.main import main
start = time.process_time()
assert main(["lm", sys.argv[2], "--unit", "word", "--like", sys.argv[1], "--out", sys.argv[3]]) == 0
print(time.process_time() - start)
"""


def measure(script: str, *arguments: object) -> tuple[float, float]:
    """(the seconds that ``script`` prints last, its peak memory in GB), run in a process of its own."""
    child = subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{script.strip().splitlines()[-2]}: failed")
    return float(printed.split()[-1]), used.ru_maxrss / 1e6


def large_model(student: Path, arpa: Path, work: Path) -> list[str]:
    """The rows of the table: what is done, seconds, millions of n-grams a second, peak memory."""
    found = {"`lalia lm`: ARPA to a folder": measure(_CONVERT, student, arpa, work / "large")}
    found["loading the folder, ready to decode"] = measure(_LOAD, student, work / "large")
    if importlib.util.find_spec("kenlm"):
        found["KenLM (C++) parses the ARPA file, for comparison"] = measure(_KENLM, arpa)
    model = LanguageModel.load(work / "large")
    count = sum(model.card["ngrams"])
    bytes_read, bytes_made = arpa.stat().st_size, sum(file.stat().st_size for file in model.folder.iterdir())
    print(f"{count:,} n-grams: {bytes_read / 1e9:.2f} GB as ARPA, {bytes_made / 1e9:.2f} GB as a folder", flush=True)
    return [
        f"| {name} | {seconds:.2f} | {count / seconds / 1e6:.2f} | {memory:.2f} |"
        for name, (seconds, memory) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--language")
    parser.add_argument("--arpa", type=Path, help="measure a large model of words instead")
    parser.add_argument("--text", type=Path, action="append", default=[], help="free text, one sentence per line")
    parser.add_argument("--work", type=Path, help="folder of the models; existing ones are reused")
    parser.add_argument("--width", type=int, default=LstmSettings.width, help="width of the LSTM's layer")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.arpa is None and not (args.corpus and args.language):
        parser.error("expected a corpus and its --language, or --arpa FILE")
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        if args.arpa:
            head = "| what | processor time, s | M n-grams/s | peak memory, GB |\n|---|---|---|---|"
            rows = large_model(args.student, args.arpa, work)
            print("\n".join(rows))
        else:
            head = "| decoding | CER % | WER % (95 %) | time / acoustic model | seconds / hour of speech |\n|---|---|---|---|---|"
            bench = Bench(Student.load(args.student, 1), Corpus.load(args.corpus), args.language)
            print(f"{len(bench.test)} clips, {bench.audio_s:.0f} s; acoustic model {bench.model_s:.2f} s", flush=True)
            compare(bench, args.text, work, LstmSettings(width=args.width))
            rows = bench.rows
    if args.out:
        write_text(args.out, "\n".join([head, *rows, ""]))


if __name__ == "__main__":
    main()
