"""Near-duplicate detection: recall on re-encoded copies of clips, and false pairs; time and memory among many fingerprints.

    OMP_NUM_THREADS=1 python -m benchmarks.data.duplicates CORPUS
    OMP_NUM_THREADS=1 python -m benchmarks.data.duplicates --synthetic 1e6 --synthetic 1e7

Copies of up to 80 clips of each length are searched among all clips of CORPUS. Recognised: the share of copies paired with their
own clip. Wrong: pairs of a copy with a clip of another text, over all changes and lengths.

Synthetic: fingerprints of made-up clips, a tenth of them copies, in files as `lalia prepare` writes them. Each number is searched
in a new process; its peak memory is counted above that of the idle process.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from lalia.audio.reading import read_audio
from lalia.data.corpus import Corpus
from lalia.data.prepare.fingerprints import FINGERPRINT, HOP_S, find_copies, fingerprint
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


# --- Time and memory among many fingerprints -------------------------------------------------------------

SHARD_CLIPS = 500


def synthetic(counts: list[int], scratch: Path) -> None:
    """A table: fingerprints, clips, seconds, peak memory of the search, pairs found."""
    print("| fingerprints | clips | seconds | peak memory | copies found |\n|---:|---:|---:|---:|---:|")
    for count in counts:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            clips = write_prints(Path(folder), count)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, mb, found = pool.apply(search, (Path(folder),))
        print(f"| {count:,} | {clips:,} | {seconds:.1f} | {mb:,.0f} MB | {found:,} |", flush=True)


def write_prints(folder: Path, count: int) -> int:
    """Write ``count`` fingerprints of clips of about five seconds, one in ten a copy of the one before; the number of clips."""
    random, written = np.random.default_rng(1), 0
    durations: list[float] = []
    last = np.zeros(0, FINGERPRINT)
    while written < count:
        shard = []
        for row in range(SHARD_CLIPS):
            if row and random.random() < 0.1:
                prints_K = last[random.random(len(last)) < 0.5]
                durations.append(durations[-1])
            else:
                durations.append(float(np.clip(random.lognormal(1.6, 0.4), 0.5, 30)))
                # Half of the words come from few sounds, as those of one voice and room do.
                drawn = np.concatenate([random.zipf(1.3, 64) % 2**20, random.integers(0, 2**32, 64)]).astype(np.uint64)
                words = np.unique((drawn * np.uint64(2_654_435_761) % np.uint64(2**32)).astype(np.uint32))
                prints_K = np.zeros(len(words), FINGERPRINT)
                prints_K["word"], prints_K["frame"] = words, random.integers(0, int(durations[-1] / HOP_S), len(words))
            prints_K["row"] = row
            last = prints_K
            shard.append(prints_K)
        written += sum(map(len, shard))
        np.save(folder / f"{len(durations) // SHARD_CLIPS:06d}.npy", np.concatenate(shard))
    np.save(folder / "durations.npy", np.array(durations, np.float32))
    return len(durations)


def search(folder: Path) -> tuple[float, float, int]:
    """(seconds, peak memory above that of an idle process in MB, pairs)."""
    durations_s = np.load(folder / "durations.npy")
    idle, start = peak_mb(), time.perf_counter()
    found = len(find_copies(prints_of(folder), durations_s, folder))
    return time.perf_counter() - start, peak_mb() - idle, found


def prints_of(folder: Path) -> Iterator[np.ndarray]:
    """The fingerprints of one file after the other, rows numbered over all."""
    for number, path in enumerate(sorted(folder.glob("0*.npy"))):
        prints_K = np.load(path)
        prints_K["row"] += number * SHARD_CLIPS
        yield prints_K


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument(
        "--synthetic", type=float, action="append", default=[], metavar="N", help="fingerprints to search"
    )
    parser.add_argument("--scratch", type=Path, default=Path(), help="folder for the synthetic files")
    given = parser.parse_args()
    if given.synthetic:
        synthetic([int(count) for count in given.synthetic], given.scratch)
        return
    if given.corpus is None:
        parser.error("give a corpus, or --synthetic")
    recall(Corpus.load(given.corpus))


def recall(corpus: Corpus) -> None:
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
            pairs = [(a, rows[b - len(waves)]) for a, b in find_copies(found, durations) if a < len(waves) <= b]
            cells.append(f"{len({b for a, b in pairs if a == b}) / len(rows):.0%}")
            wrong += sum(a != b and texts[a] != texts[b] for a, b in pairs)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{wrong} wrong pairs of {len(CHANGES) * len(LENGTHS_S) * CLIPS * len(waves):,} possible ones")


if __name__ == "__main__":
    main()
