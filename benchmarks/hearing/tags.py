"""Commands in a stream by a tagger, and another toolkit's embedding under the same linear classifier.

  python -m benchmarks.hearing.tags stream runs/commands data/unseen-speakers data/other-speech --threshold 0.8 0.9 0.95
  python -m benchmarks.hearing.tags clips data/unseen-speakers data/other-speech --tagger runs/commands --student students/it \
      --pocketsphinx 1e-5 1e-10 1e-20
  python -m benchmarks.hearing.tags openwakeword openwakeword-0.4.0-py3-none-any.whl data/commands --label command --apart speaker

``stream`` joins the clips of speakers that the tagger never saw, with a second of silence between, and counts commands that are
found, taken for another and missed; on other speech every detection is a false alarm. ``clips`` lets several systems name at most
one command for each clip: a tagger, a recogniser that may write these words alone (``--only``), and the keyword search of
PocketSphinx with its English model, at several thresholds. ``openwakeword`` reads the embedding in the
wheel (melspectrogram.onnx and embedding_model.onnx; the package is not imported) and scores it as ``lalia finetune tag`` scores
an encoder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lalia.data.corpus import Corpus
from lalia.data.mixture import Mixture
from lalia.decoding.decoder import make_decoder
from lalia.onnx_session import open_session
from lalia.runtime.student import Student, TranscribeOptions
from lalia.tags.spotter import Detection, Spotter
from lalia.tags.tagger import Tagger
from lalia.training.linear_probe import ask, clip_moments, figures, solve
from lalia.units import SAMPLE_RATE, to_seconds

GAP_S = 1.0
LATE_S = 0.6
"""A detection up to so long after a clip's end belongs to the clip."""
BLOCK = 640


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    stream = verbs.add_parser("stream")
    stream.add_argument("tagger", type=Path)
    stream.add_argument("commands", type=Path, help="corpus with the tagger's labels, of unseen speakers")
    stream.add_argument("other", type=Path, nargs="*", help="corpora of other speech")
    stream.add_argument("--label", default="command")
    stream.add_argument("--threshold", type=float, nargs="+", default=[0.9])
    stream.set_defaults(call=measure_stream)
    clips = verbs.add_parser("clips")
    clips.add_argument("commands", type=Path, help="corpus with a column of commands, of unseen speakers")
    clips.add_argument("other", type=Path, nargs="*", help="corpora of other speech")
    clips.add_argument("--label", default="command")
    clips.add_argument("--tagger", type=Path)
    clips.add_argument("--threshold", type=float, nargs="+", default=[0.9])
    clips.add_argument("--student", type=Path)
    clips.add_argument("--pocketsphinx", nargs="*", default=[], metavar="THRESHOLD")
    clips.add_argument("--minutes", type=float, default=60.0, help="of other speech, from each corpus")
    clips.set_defaults(call=measure_clips)
    peer = verbs.add_parser("openwakeword")
    peer.add_argument("wheel", type=Path)
    peer.add_argument("corpus", nargs="+")
    peer.add_argument("--label", required=True)
    peer.add_argument("--apart", choices=("source", "speaker"), required=True)
    peer.set_defaults(call=measure_embedding)
    args = parser.parse_args(argv)
    args.call(args)


# --- Commands in a stream --------------------------------------------------------------------------------


def measure_stream(args: argparse.Namespace) -> None:
    tagger = Tagger.load(args.tagger, 1)
    corpus = Corpus.load(args.commands)
    labels = corpus.labels(args.label)
    print("threshold  found  other command  missed  false alarms/h  hours  RTF")
    for threshold in args.threshold:
        counts = Counter[str]()
        for row in range(len(corpus)):
            gap_S = np.zeros(int(GAP_S * SAMPLE_RATE), np.float32)
            wave_S = np.concatenate([gap_S, corpus.wave(row), gap_S])
            found = detect(Spotter(tagger, threshold), wave_S)
            names = {
                one.label for one in found if one.at_s <= GAP_S + to_seconds(len(wave_S) - 2 * len(gap_S)) + LATE_S
            }
            counts["found"] += labels[row] in names
            counts["other"] += bool(names - {labels[row]})
            counts["missed"] += not names
        alarms, audio_s, begun = 0, 0.0, time.thread_time()
        for folder in args.other:
            others = Corpus.load(folder)
            spotter = Spotter(tagger, threshold)
            for row in range(len(others)):
                alarms += len(detect(spotter, others.wave(row)))
            audio_s += to_seconds(spotter.samples)
        used_s = time.thread_time() - begun
        clips = len(corpus)
        rates = "  ".join(f"{counts[name] / clips:.3f}" for name in ("found", "other", "missed"))
        hours = audio_s / 3600
        print(
            f"{threshold:g}  {rates}  {alarms / max(hours, 1e-9):.1f}  {hours:.2f}  {used_s / max(audio_s, 1e-9):.4f}"
        )


def detect(spotter: Spotter, wave_S: np.ndarray) -> list[Detection]:
    return [one for start in range(0, len(wave_S), BLOCK) for one in spotter.feed(wave_S[start : start + BLOCK])]


# --- One command for each clip ---------------------------------------------------------------------------

Name = Callable[[np.ndarray], str]
"""A wave (S,) to the command in it, "" for none."""


def by_tagger(folder: Path, threshold: float) -> Name:
    tagger = Tagger.load(folder, 1)
    return lambda wave_S: next((one.label for one in detect(Spotter(tagger, threshold), wave_S)), "")


def by_student(folder: Path, names: Sequence[str]) -> Name:
    student = Student.load(folder, 1)
    phrases = {student.normaliser(name): name for name in names}
    options = TranscribeOptions(decoder=make_decoder(student, only=list(phrases)))
    return lambda wave_S: phrases.get(student.transcribe(wave_S, options=options).text, "")


def by_pocketsphinx(names: Sequence[str], threshold: str) -> Name:
    from pocketsphinx import Decoder

    with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
        file.write("".join(f"{name} /{threshold}/\n" for name in names))
        file.flush()
        decoder = Decoder(kws=file.name, loglevel="FATAL")

    def name(wave_S: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave_S * 32767).astype(np.int16).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = sorted(decoder.seg() or [], key=lambda segment: -segment.prob)
        return str(found[0].word).strip() if found else ""

    return name


def measure_clips(args: argparse.Namespace) -> None:
    corpus = Corpus.load(args.commands)
    labels = corpus.labels(args.label)
    names = sorted(set(labels))
    systems: dict[str, Name] = {}
    if args.tagger:
        systems |= {f"tagger, {threshold:g}": by_tagger(args.tagger, threshold) for threshold in args.threshold}
    if args.student:
        systems["recogniser, --only"] = by_student(args.student, names)
    systems |= {f"PocketSphinx, {threshold}": by_pocketsphinx(names, threshold) for threshold in args.pocketsphinx}
    gap_S = np.zeros(int(GAP_S * SAMPLE_RATE), np.float32)
    print(
        "| system | found | taken for another | missed | false alarms per hour | RTF |\n|---|---:|---:|---:|---:|---:|"
    )
    for system, name in systems.items():
        begun, audio_s = time.thread_time(), 0.0
        counts = Counter[str]()
        for row, label in enumerate(labels):
            wave_S = np.concatenate([gap_S, corpus.wave(row), gap_S])
            audio_s += to_seconds(len(wave_S))
            found = name(wave_S)
            counts["found" if found == label else "other" if found else "missed"] += 1
        alarms, other_s = 0, 0.0
        for folder in args.other:
            others = Corpus.load(folder)
            for row in np.flatnonzero(np.cumsum(others.durations_s) <= 60 * args.minutes).tolist():
                wave_S = others.wave(row)
                other_s += to_seconds(len(wave_S))
                alarms += bool(name(wave_S))
        rtf = (time.thread_time() - begun) / (audio_s + other_s)
        rates = " | ".join(f"{counts[kind] / len(labels):.3f}" for kind in ("found", "other", "missed"))
        print(f"| {system} | {rates} | {alarms / max(other_s / 3600, 1e-9):.1f} | {rtf:.4f} |", flush=True)


# --- openWakeWord's embedding ----------------------------------------------------------------------------

PAD_S = 0.5
WINDOW, STEP = 76, 8
"""Mel frames of 10 ms of one embedding, and from one to the next."""


class Embedding:
    """wave_BS, lengths_B -> the embeddings (T, 96) of each clip, padded by half a second at both ends."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            folder = "openwakeword/resources/models"
            self.mel = open_session(archive.read(f"{folder}/melspectrogram.onnx"))
            self.model = open_session(archive.read(f"{folder}/embedding_model.onnx"))

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        found = []
        for wave_S, length in zip(wave_BS.numpy(), lengths_B.tolist(), strict=True):
            padded_S = np.pad(wave_S[:length] * 32767, int(PAD_S * SAMPLE_RATE)).astype(np.float32)
            mel_NM = self.mel.run(None, {self.mel.get_inputs()[0].name: padded_S[None]})[0].squeeze() / 10 + 2
            windows = np.stack([mel_NM[i : i + WINDOW] for i in range(0, len(mel_NM) - WINDOW + 1, STEP)])[..., None]
            embedded = self.model.run(None, {self.model.get_inputs()[0].name: windows.astype(np.float32)})[0]
            found.append(torch.from_numpy(embedded.reshape(len(windows), -1)))
        return [found]


def measure_embedding(args: argparse.Namespace) -> None:
    mixture = Mixture.load(args.corpus)
    question = ask(mixture, args.label, args.apart)
    begun = time.thread_time()
    moments = clip_moments(mixture, question.rows, Embedding(args.wheel))
    used_s = time.thread_time() - begun
    found = solve(question, moments)
    print(question.confounded or figures(question, found.held_out_NC.argmax(1)).line(question))
    print(f"RTF of the embedding {used_s / float(mixture.durations_s[question.rows].sum()):.4f}")


if __name__ == "__main__":
    main()
