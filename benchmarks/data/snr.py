"""The error of the estimated SNR: clean clips mixed with noise at known ratios, and the clips of whole corpora.

    OMP_NUM_THREADS=1 python -m benchmarks.data.snr CORPUS… [--clips 20]

Of each corpus, ``--clips`` clips are taken whose pauses are at least 38 dB below their speech. The true ratio compares the
power of the speech (frames within 25 dB of the loud ones) with that of the noise. The first table has the median error and the
mean absolute error in dB, the second the share of clips below 0 dB, as preparation measured them and as they are estimated now.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lalia.audio.vad import VoiceActivity
from lalia.data.corpus import Corpus
from lalia.data.prepare.quality import snr_db
from lalia.units import SAMPLE_RATE

RATIOS_DB = (0, 5, 10, 20, 30)
PAUSES_DB, SPEECH_DB = 38.0, 25.0
LONGEST_S = 8.0
FRAME = 256
MEASURED = 500
"""Clips of each corpus that are estimated again."""


def coloured(slope: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Noise whose amplitude falls with frequency to the power of ``slope``: 0 white, 0.5 pink, 1 brown."""

    def make(draw: np.random.Generator, samples: int) -> np.ndarray:
        spectrum = np.fft.rfft(draw.standard_normal(samples))
        return np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 30.0) ** slope, samples)

    return make


def hum(draw: np.random.Generator, samples: int) -> np.ndarray:
    """Mains hum of 50 Hz with six harmonics."""
    time = np.arange(samples) / SAMPLE_RATE
    tones = (np.sin(2 * np.pi * 50 * k * time + draw.uniform(0, 6)) / k for k in range(1, 8))
    return sum(tones, 0.05 * draw.standard_normal(samples))


def swelling(draw: np.random.Generator, samples: int) -> np.ndarray:
    """Pink noise that comes and goes, one to four times a second."""
    time = np.arange(samples) / SAMPLE_RATE
    return coloured(0.5)(draw, samples) * (1 + 0.9 * np.sin(2 * np.pi * draw.uniform(1, 4) * time + draw.uniform(0, 6)))


NOISES = {
    "white": coloured(0.0), "pink": coloured(0.5), "brown": coloured(1.0), "hum": hum, "pink, swelling": swelling,
}  # fmt: skip


def powers(wave: np.ndarray) -> np.ndarray:
    return np.mean(np.square(wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME), dtype=np.float64), axis=1)


def clean_clips(corpus: Corpus, count: int, draw: np.random.Generator) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for row in draw.permutation(len(corpus)).tolist():
        if len(found) == count:
            break
        if 0.5 <= corpus.durations_s[row] <= LONGEST_S:
            levels_db = 10 * np.log10(powers(wave := corpus.wave(row)) + 1e-12)
            if np.quantile(levels_db, 0.95) - np.quantile(levels_db, 0.08) >= PAUSES_DB:
                found.append(wave)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS")
    parser.add_argument("--clips", type=int, default=20, help="clean clips of each corpus (20)")
    args = parser.parse_args()
    draw, voice = np.random.default_rng(0), VoiceActivity()
    corpora = {path.name: Corpus.load(path) for path in args.corpora}
    clean = [wave for corpus in corpora.values() for wave in clean_clips(corpus, args.clips, draw)]
    alone = np.array([snr_db(wave, voice(wave)) for wave in clean])
    print(f"{len(clean)} clean clips: estimated at {alone.min():.0f} dB or more, median {np.median(alone):.0f}\n")
    print("| noise | " + " | ".join(f"{ratio} dB" for ratio in RATIOS_DB) + " |")
    print("|---|" + "---:|" * len(RATIOS_DB))
    for name, make in NOISES.items():
        cells = []
        for ratio in RATIOS_DB:
            errors = []
            for wave in clean:
                levels = powers(wave)
                speech = levels[levels > np.quantile(levels, 0.95) * 10 ** (-SPEECH_DB / 10)].mean()
                noise = make(draw, len(wave))
                noise *= np.sqrt(speech / 10 ** (ratio / 10) / np.mean(noise**2))
                mixed = (wave + noise).astype(np.float32)
                errors.append(snr_db(mixed, voice(mixed)) - ratio)
            cells.append(f"{np.median(errors):+.1f} · {np.abs(errors).mean():.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| corpus | clips | below 0 dB, as prepared | now |\n|---|---:|---:|---:|")
    for name, corpus in corpora.items():
        rows = draw.permutation(len(corpus))[:MEASURED].tolist()
        before = corpus.numbers("snr_db")[rows]
        now = np.array([snr_db(wave, voice(wave)) for wave in map(corpus.wave, rows)])
        print(f"| {name} | {len(rows):,} | {np.mean(before < 0):.1%} | {np.mean(now < 0):.1%} |", flush=True)


if __name__ == "__main__":
    main()
