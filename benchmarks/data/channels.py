"""Channel handling of `lalia prepare` on stereo recordings of known content: calls, one voice on two channels, mis-wired cables.

    OMP_NUM_THREADS=1 python -m benchmarks.data.channels CORPUS [--recordings 40] [--seconds 60]

CORPUS has clips of several speakers. Each row of the table is a kind of recording, made from one or two of its speakers. Columns:
recordings with a note about two voices, and about cancelling channels; the level of the mix relative to the louder channel; and
for calls with ``--channels each``: the share of a side's utterances within its own turns, and the share of the turns' time that
they cover.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from lalia.audio.channels import EACH
from lalia.audio.reading import CHANNELS_CANCEL, TWO_VOICES, Note, read_audio
from lalia.data.corpus import Corpus
from lalia.data.prepare.listing import SourceClip
from lalia.data.prepare.rows import CorpusRow, Reader
from lalia.data.prepare.segments import Segmentation
from lalia.units import SAMPLE_RATE

Draw = np.random.Generator


@dataclass
class Voices:
    """Two speakers: the joined clips of each, (S,) of the same length, and who speaks when in a call."""

    one_S: np.ndarray
    other_S: np.ndarray
    turn_S: np.ndarray
    draw: Draw

    def noise(self, level_db: float) -> np.ndarray:
        return 10 ** (level_db / 20) * self.draw.standard_normal(len(self.one_S))

    def call(self, cross_db: float) -> np.ndarray:
        """A call: the speakers alternate, and each side has cross-talk of the other and line noise: (2, S)."""
        own = np.stack(
            [np.where(self.turn_S == side, wave_S, 0) for side, wave_S in ((0, self.one_S), (1, self.other_S))]
        )
        lines = np.stack([self.noise(-60), self.noise(-60)])
        return own + 10 ** (cross_db / 20) * own[::-1] + lines

    def room(self, metres: float) -> np.ndarray:
        """Both speakers in a room, by two microphones at this distance, each with another echo: (2, S)."""
        wave_S = np.where(self.turn_S == 0, self.one_S, self.other_S)
        arrived = []
        for delay in (10, 10 + round(metres / 340 * SAMPLE_RATE)):
            echo = 0.1 * self.draw.standard_normal(4000) * np.exp(-np.arange(4000) / 800)
            echo[:delay], echo[delay] = 0, 1
            size = len(wave_S) + len(echo)
            arrived.append(np.fft.irfft(np.fft.rfft(wave_S, size) * np.fft.rfft(echo, size), size)[: len(wave_S)])
        return np.stack(arrived)


def stereo(kind: Callable[[Voices], tuple[np.ndarray, np.ndarray]]) -> Callable[[Voices], np.ndarray]:
    return lambda voices: np.stack(kind(voices))


KINDS: dict[str, Callable[[Voices], np.ndarray]] = {
    "call": lambda v: v.call(-200),
    "call, cross-talk -20 dB": lambda v: v.call(-20),
    "call, cross-talk -14 dB": lambda v: v.call(-14),
    "call, cross-talk -8 dB": lambda v: v.call(-8),
    "two speakers at once": stereo(lambda v: (v.one_S, v.other_S)),
    "one voice on both": stereo(lambda v: (v.one_S + v.noise(-70), v.one_S + v.noise(-70))),
    "5 ms later on one": stereo(lambda v: (v.one_S, np.roll(v.one_S, SAMPLE_RATE // 200))),
    "20 dB softer on one": stereo(lambda v: (v.one_S + v.noise(-70), 0.1 * v.one_S + v.noise(-70))),
    "two microphones, 3 m apart": lambda v: v.room(3.0),
    "one channel dead": stereo(lambda v: (v.one_S, 0 * v.one_S)),
    "one channel noise, -50 dB": stereo(lambda v: (v.one_S, v.noise(-50))),
    "R = -L": stereo(lambda v: (v.one_S, -v.one_S)),
    "R = -0.7 L, noise -60 dB": stereo(lambda v: (v.one_S + v.noise(-60), -0.7 * v.one_S + v.noise(-60))),
    "R = -0.3 L": stereo(lambda v: (v.one_S, -0.3 * v.one_S)),
    "offsets 0.3 and -0.3": stereo(lambda v: (v.one_S + 0.3, v.one_S - 0.3)),
}


@dataclass
class Found:
    """Results for one kind of recordings."""

    two_voices: int = 0
    cancelled: int = 0
    levels_db: list[float] = field(default_factory=list)
    own_s: float = 0.0
    cut_s: float = 0.0
    turns_s: float = 0.0

    def cells(self, recordings: int) -> list[str]:
        level = f"{np.median(self.levels_db):+.1f} dB" if self.levels_db else ""
        sides = [f"{self.own_s / self.cut_s:.1%}", f"{self.own_s / self.turns_s:.1%}"] if self.cut_s else ["", ""]
        return [f"{self.two_voices} of {recordings}", f"{self.cancelled} of {recordings}", level, *sides]


def voices(corpus: Corpus, seconds: float, draw: Draw) -> Voices:
    """Two speakers drawn from the corpus, taking turns of 2 to 6 s."""
    speakers = np.array(corpus.column("speaker"))
    names = sorted(set(speakers.tolist()) - {""})
    samples = round(seconds * SAMPLE_RATE)
    waves = []
    for name in draw.choice(names, 2, replace=False):
        rows = draw.permutation(np.flatnonzero(speakers == name))
        wave_S = np.concatenate([corpus.wave(int(row)) for row in rows])
        waves.append(np.resize(wave_S, samples).astype(np.float64))
    lengths = draw.uniform(2, 6, round(seconds)) * SAMPLE_RATE
    return Voices(waves[0], waves[1], np.searchsorted(np.cumsum(lengths), np.arange(samples), side="right") % 2, draw)


def sides(data: bytes, turn_S: np.ndarray, scratch: Path, found: Found) -> None:
    """Prepare a call with ``--channels each`` and compare its utterances with its turns."""
    reader = Reader(Segmentation(1.0, 10.0, always=True), scratch, choice=EACH)
    for made in reader.read(SourceClip("call", "call.wav", "und", data=data)):
        if isinstance(made, CorpusRow):
            side = int(made.row["speaker"][-1]) - 1
            start = round(float(made.row["id"].partition("#")[2].split("-")[0]) * SAMPLE_RATE)
            found.own_s += float((turn_S[start : start + len(made.wave_S)] == side).sum()) / SAMPLE_RATE
            found.cut_s += len(made.wave_S) / SAMPLE_RATE
    found.turns_s += len(turn_S) / SAMPLE_RATE


def measure(corpus: Corpus, kind: str, recordings: int, seconds: float, scratch: Path) -> Found:
    found = Found()
    for number in range(recordings):
        drawn = voices(corpus, seconds, np.random.default_rng(number))
        audio_CS = np.clip(KINDS[kind](drawn), -1, 1).astype(np.float32)
        out = io.BytesIO()
        soundfile.write(out, audio_CS.T, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        notes: list[Note] = []
        mixed_S = read_audio(out.getvalue(), tell=notes.append)
        found.two_voices += any(note.kind == TWO_VOICES for note in notes)
        found.cancelled += any(note.kind == CHANNELS_CANCEL for note in notes)
        found.levels_db.append(10 * np.log10(max(mixed_S.var(), 1e-12) / audio_CS.var(axis=1).max()))
        if kind.startswith("call"):
            sides(out.getvalue(), drawn.turn_S, scratch, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--recordings", type=int, default=40, help="recordings of each kind")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    corpus = Corpus.load(args.corpus)
    print("| recording | two voices | cancelling | level of the mix | utterances within own turns | turns covered |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            found = measure(corpus, kind, args.recordings, args.seconds, Path(scratch))
            print("| " + " | ".join([kind, *found.cells(args.recordings)]) + " |", flush=True)


if __name__ == "__main__":
    main()
