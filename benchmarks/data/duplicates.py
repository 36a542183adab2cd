"""Near-duplicate detection: recall on re-encoded copies of clips, and false pairs.

    OMP_NUM_THREADS=1 python benchmarks/data/duplicates.py CORPUS

Copies of up to 80 clips of each length are searched among all clips of CORPUS. Recognised: the share of copies paired with their
own clip. Wrong: pairs of a copy with a clip of another text, over all changes and lengths.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from lalia.audio.reading import read_audio
from lalia.data.corpus import Corpus
from lalia.data.prepare.fingerprints import find_copies, fingerprint
from lalia.data.prepare.listing import sentence_key

RATE = 16_000
LENGTHS_S = ((0.5, 1), (1, 2), (2, 5), (5, 20))
CLIPS = 80


def encoded(wave: np.ndarray, form: str, kind: str) -> np.ndarray:
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format=form, subtype=kind, compression_level=0.9)
    return read_audio(out.getvalue(), f"x.{form.lower()}")


def noisy(wave: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(len(wave)).standard_normal(len(wave))
    return (wave + noise * np.sqrt(np.mean(wave**2) / 10 ** (snr_db / 10))).astype(np.float32)


def telephone(wave: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    hz = np.fft.rfftfreq(len(wave), 1 / RATE)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MP3, lowest quality": lambda wave: encoded(wave, "MP3", "MPEG_LAYER_III"),
    "Opus, lowest quality": lambda wave: encoded(wave, "OGG", "OPUS"),
    "Vorbis, lowest quality": lambda wave: encoded(wave, "OGG", "VORBIS"),
    "volume × 0.2": lambda wave: wave * 0.2,
    "300 to 3400 Hz": telephone,
    "100 ms cut off": lambda wave: wave[1600:-800],
    "white noise, 20 dB": lambda wave: noisy(wave, 20),
    "white noise, 10 dB": lambda wave: noisy(wave, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    corpus = Corpus.load(parser.parse_args().corpus)
    waves = [corpus.wave(row) for row in range(len(corpus))]
    known = [fingerprint(wave, row) for row, wave in enumerate(waves)]
    texts = [sentence_key(corpus.text(row)) for row in range(len(corpus))]
    order = np.random.default_rng(1).permutation(len(corpus))
    wrong = 0
    print("| copy | " + " | ".join(f"{low:g} to {high:g} s" for low, high in LENGTHS_S) + " |")
    print("|---|" + "---:|" * len(LENGTHS_S))
    for name, change in CHANGES.items():
        cells = []
        for low, high in LENGTHS_S:
            rows = [int(row) for row in order if low < corpus.durations_s[row] <= high][:CLIPS]
            changed = [change(waves[row]) for row in rows]
            found = [*known, *(fingerprint(wave, len(waves) + number) for number, wave in enumerate(changed))]
            durations = np.concatenate([corpus.durations_s, [len(wave) / RATE for wave in changed]])
            pairs = [
                (a, rows[b - len(waves)])
                for a, b in find_copies(np.concatenate(found), durations)
                if a < len(waves) <= b
            ]
            cells.append(f"{len({b for a, b in pairs if a == b}) / len(rows):.0%}")
            wrong += sum(a != b and texts[a] != texts[b] for a, b in pairs)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{wrong} wrong pairs of {len(CHANGES) * len(LENGTHS_S) * CLIPS * len(waves):,} possible ones")


if __name__ == "__main__":
    main()
