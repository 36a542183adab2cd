"""Speech, music, noise and silence detection of `lalia prepare`, on recordings of known kind.

    OMP_NUM_THREADS=1 python -m benchmarks.data.music CORPUS [--noise FOLDER] [--music FOLDER] [--minutes 10]

CORPUS is clean speech. Music is the audio files of its FOLDER and synthetic chords; noise is the files of its FOLDER and coloured
noise. Each row is a kind, each cell the share of its time that preparation assigns to a class: utterances are kept, the rest is
dropped and counted in the card. The noise files most often classified as music are named below the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.data.corpora_sources import music
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import SUFFIXES, read_audio
from lalia.data.augment import coloured_noise, telephone
from lalia.data.corpus import Corpus
from lalia.data.prepare.listing import SourceClip
from lalia.data.prepare.rows import Reader, RecordingTotals
from lalia.data.prepare.segments import Segmentation
from lalia.units import SAMPLE_RATE

PIECE_S = 30
CLASSES = {
    "kept_s": "utterances",
    "left_out_speech_s": "speech",
    "music_s": "music",
    "noise_s": "noise",
    "silence_s": "silence",
}
Named = tuple[str, np.ndarray]


def pieces(folder: Path | None, most_s: float) -> Iterator[Named]:
    """Pieces of half a minute from every file of a folder, up to ``most_s`` in total."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder else []
    for path in files:
        wave_S = read_audio(path)[: int(most_s / len(files) * SAMPLE_RATE)]
        for at in range(0, len(wave_S), PIECE_S * SAMPLE_RATE):
            yield path.stem, wave_S[at : at + PIECE_S * SAMPLE_RATE]


def speech(corpus: Corpus, most_s: float) -> Iterator[Named]:
    """Clips with pauses of a second, in pieces of half a minute."""
    waiting: list[np.ndarray] = []
    for row in np.random.default_rng(0).permutation(len(corpus))[: int(most_s / 3)].tolist():
        waiting += [corpus.wave(row), np.zeros(SAMPLE_RATE, np.float32)]
        if sum(map(len, waiting)) > PIECE_S * SAMPLE_RATE:
            yield "prompts", np.concatenate(waiting)
            waiting = []


def made_music(most_s: float) -> Iterator[Named]:
    draw = np.random.default_rng(0)
    for _ in range(int(most_s / PIECE_S)):
        yield "chords", music(PIECE_S, draw)


def made_noise(most_s: float) -> Iterator[Named]:
    draw = np.random.default_rng(1)
    for _ in range(int(most_s / PIECE_S)):
        noise_S = coloured_noise(PIECE_S * SAMPLE_RATE, float(draw.uniform(0, 2)), draw)
        yield "coloured noise", (0.05 * noise_S / noise_S.std()).astype(np.float32)


def mixed(music_pieces: list[Named], noise_pieces: list[Named], snr_db: float) -> Iterator[Named]:
    """Music with noise that is ``snr_db`` softer."""
    for (name, wave_S), (_, other_S) in zip(music_pieces, noise_pieces * 99, strict=False):
        noise_S = np.resize(other_S, len(wave_S))
        gain = np.sqrt(np.mean(wave_S**2) / 10 ** (snr_db / 10) / (np.mean(noise_S**2) + 1e-12))
        both_S = wave_S + gain * noise_S
        yield name, (both_S / max(1.0, float(np.abs(both_S).max()))).astype(np.float32)


def by_telephone(found: list[Named]) -> Iterator[Named]:
    for name, wave_S in found:
        yield name, telephone(torch.from_numpy(wave_S), "gsm").numpy()


def classify(found: list[Named], scratch: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The share of each class in ``found``, and the minutes classified as music in every file."""
    total, minutes = RecordingTotals(), defaultdict[str, float](float)
    for name, wave_S in found:
        reader = Reader(Segmentation(always=True), scratch)
        for _ in reader.read(SourceClip(name, f"{name}.flac", "und", data=flac_bytes(wave_S))):
            pass
        total.add(reader.totals)
        minutes[name] += reader.totals.music_s / 60
    seconds = {kind: getattr(total, field) for field, kind in CLASSES.items()}
    return {kind: value / max(1e-9, sum(seconds.values())) for kind, value in seconds.items()}, minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--music", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of each kind")
    args = parser.parse_args()
    most_s = args.minutes * 60
    recorded, noise = list(pieces(args.music, most_s)), list(pieces(args.noise, most_s))
    chords, hiss = list(made_music(most_s / 2)), list(made_noise(most_s / 2))
    kinds = {
        "speech": list(speech(Corpus.load(args.corpus), most_s)),
        "music, recorded": recorded,
        "music, synthetic chords": chords,
        "music with noise, SNR 10 dB": list(mixed([*recorded, *chords], noise or hiss, 10)),
        "music by telephone (GSM)": list(by_telephone([*recorded, *chords])),
        "noise, recorded": noise,
        "noise, coloured": hiss,
    }
    print("| kind | minutes | " + " | ".join(CLASSES.values()) + " |\n|---|---:|" + "---:|" * len(CLASSES))
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, found in kinds.items():
            if not found:
                continue
            shares, minutes = classify(found, Path(scratch))
            worst = minutes if kind == "noise, recorded" else worst
            length = sum(len(wave_S) for _, wave_S in found) / SAMPLE_RATE / 60
            print(
                f"| {kind} | {length:.1f} | " + " | ".join(f"{share:.1%}" for share in shares.values()) + " |",
                flush=True,
            )
    order = sorted(worst, key=lambda name: -worst[name])[:8]
    loudest = [f"{name} {worst[name]:.1f}" for name in order if worst[name] > 0.05]
    print(f"\nMinutes of noise classified as music, by file: {', '.join(loudest) or 'none'}")


if __name__ == "__main__":
    main()
