"""How well two voices are separated: SI-SDR on voices that training never saw, and CER of students on the separated voices.

    python -m benchmarks.hearing.separation RUN --voices CORPUS [--student STUDENT CORPUS]... [--pairs 200]

Mixtures are of two clips of CORPUS by different speakers, cut to the shorter one, at a level difference of at most 5 dB. Each
test clip of a student's corpus is mixed with such voices at the same level. The ideal ratio mask knows the voices; it is the
ceiling of a network that makes masks. Outputs are assigned to voices by the voices, so an exchange of voices within a clip
counts as an error, and the choice between two files does not. A row shows the same with the better order in each second.

S samples; the axis of 2 is that of the voices.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lalia.data.corpus import Corpus
from lalia.models.separator import Separator, SeparatorShape, best_assignment, ideal_ratio_masks, si_sdr
from lalia.runtime.separation import VoiceSeparator, swapped
from lalia.runtime.student import Student
from lalia.scoring.rates import score
from lalia.units import SAMPLE_RATE, to_samples

LEVEL_DB = 5.0
SHORTEST_S, LONGEST_S = 3.0, 8.0
KINDS = ("clean", "mixed", "separated", "ideal mask")


@dataclass
class Pairs:
    """SI-SDR in dB of mixtures, separated voices and voices under the ideal ratio mask."""

    mixed: list[float] = field(default_factory=list)
    separated: list[float] = field(default_factory=list)
    reordered: list[float] = field(default_factory=list)
    """separated, with the better order of the outputs in each second"""
    ideal: list[float] = field(default_factory=list)
    seconds: float = 0.0
    audio_s: float = 0.0


def unit_level(wave: np.ndarray) -> np.ndarray:
    return wave / max(float(np.sqrt(np.square(wave).mean())), 1e-5)


def separate(model: VoiceSeparator, wave: np.ndarray) -> np.ndarray:
    return np.concatenate([*model.separate([wave])], 1)


def ideal(voices_2S: np.ndarray, model: Separator) -> np.ndarray:
    """The two voices out of their sum by the ideal ratio mask."""
    voices_12S = torch.from_numpy(voices_2S)[None]
    spectrum = model.spectrum(voices_12S.sum(1))
    return model.masked(spectrum, ideal_ratio_masks(model, voices_12S), voices_2S.shape[1])[0].numpy()


def assigned(estimates_2S: np.ndarray, voices_2S: np.ndarray) -> tuple[np.ndarray, float]:
    """The outputs in the order of the voices, and their mean SI-SDR in dB."""
    found, swap = best_assignment(torch.from_numpy(estimates_2S.copy())[None], torch.from_numpy(voices_2S)[None])
    return (estimates_2S[::-1] if bool(swap) else estimates_2S), float(found)


def reordered(estimates_2S: np.ndarray, voices_2S: np.ndarray) -> np.ndarray:
    """The outputs in the better order in each second: what is lost when voices change places within a clip."""
    pieces = []
    for start in range(0, voices_2S.shape[1], SAMPLE_RATE):
        outputs, voices = (x[:, start : start + SAMPLE_RATE] for x in (estimates_2S, voices_2S))
        pieces.append(outputs[::-1] if swapped(voices, outputs) else outputs)
    return np.concatenate(pieces, 1)


def voice_pairs(corpus: Corpus, count: int, seed: int) -> list[np.ndarray]:
    """``count`` pairs (2, S) of voices of different speakers, of SHORTEST_S to LONGEST_S."""
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(corpus.durations_s >= SHORTEST_S)
    found: list[np.ndarray] = []
    while len(found) < count:
        a, b = (int(row) for row in random.choice(rows, 2, replace=False))
        if corpus.speaker(a) == corpus.speaker(b) and corpus.speaker(a):
            continue
        waves = [corpus.wave(row) for row in (a, b)]
        length = min(len(waves[0]), len(waves[1]), to_samples(LONGEST_S))
        starts = [int(random.integers(len(wave) - length + 1)) for wave in waves]
        gain = 10 ** (random.uniform(-LEVEL_DB, LEVEL_DB) / 40)
        first, second = (unit_level(w[s : s + length]) for w, s in zip(waves, starts, strict=True))
        found.append(0.05 * np.stack([first * gain, second / gain]).astype(np.float32))
    return found


def score_pairs(model: VoiceSeparator, oracle: Separator, pairs: list[np.ndarray]) -> Pairs:
    scored = Pairs()
    for voices_2S in pairs:
        mixture = voices_2S.sum(0)
        begun = time.process_time()
        estimates_2S = separate(model, mixture)
        scored.seconds += time.process_time() - begun
        scored.audio_s += len(mixture) / SAMPLE_RATE
        scored.separated.append(assigned(estimates_2S, voices_2S)[1])
        scored.reordered.append(assigned(reordered(estimates_2S, voices_2S), voices_2S)[1])
        scored.ideal.append(assigned(ideal(voices_2S, oracle), voices_2S)[1])
        mixed = si_sdr(torch.from_numpy(mixture).expand(2, -1), torch.from_numpy(voices_2S))
        scored.mixed.append(float(mixed.mean()))
    return scored


def student_rates(
    model: VoiceSeparator, oracle: Separator, student: Student, corpus: Corpus, voices: Corpus, clips: int, seed: int
) -> dict[str, float]:
    """CER of ``student`` on the test clips of its corpus: alone, mixed, separated, and under the ideal mask."""
    random = np.random.default_rng(seed)
    rows = np.concatenate(
        [corpus.select(split="test", language=code, with_text=True) for code in _codes(student, corpus)]
    )
    rows = rows[corpus.durations_s[rows] >= 1.5]
    rows = rows[np.arange(min(clips, len(rows))) * len(rows) // min(clips, len(rows))]
    others = np.flatnonzero(voices.durations_s >= SHORTEST_S)
    texts: dict[str, list[str]] = {kind: [] for kind in KINDS}
    references = []
    for row in rows.tolist():
        clean = unit_level(corpus.wave(row))
        talk = [np.zeros(0, np.float32)]
        other = int(random.choice(others))
        while sum(map(len, talk)) < len(clean):  # one voice that goes on talking
            talk.append(voices.wave(other))
        second = unit_level(np.concatenate(talk)[: len(clean)])
        voices_2S = 0.05 * np.stack([clean, second]).astype(np.float32)
        mixture = voices_2S.sum(0)
        waves = {
            "clean": voices_2S[0], "mixed": mixture, "separated": assigned(separate(model, mixture), voices_2S)[0][0],
            "ideal mask": assigned(ideal(voices_2S, oracle), voices_2S)[0][0],
        }  # fmt: skip
        references.append(student.normaliser(corpus.text(row)))
        for kind, wave in waves.items():
            texts[kind].append(student.transcribe(np.ascontiguousarray(wave)).text)
    return {kind: score(references, found).cer.rate for kind, found in texts.items()} | {"clips": float(len(rows))}


def _codes(student: Student, corpus: Corpus) -> list[str | None]:
    return [code for code in student.languages if code in corpus.language_names] or [None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("separator", type=Path)
    parser.add_argument("--voices", type=Path, required=True, help="a corpus whose speakers training never saw")
    parser.add_argument("--student", nargs=2, action="append", default=[], metavar=("STUDENT", "CORPUS"))
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--clips", type=int, default=60, help="test clips for each student")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = VoiceSeparator.load(args.separator)
    oracle, voices = Separator(SeparatorShape()), Corpus.load(args.voices)
    found = score_pairs(model, oracle, voice_pairs(voices, args.pairs, args.seed))
    gains = np.subtract(found.separated, found.mixed)
    print(
        f"{args.pairs} mixtures of {args.voices.name}, {model.card['parameters'] / 1e6:.2f} M weights, "
        f"{model.card['bytes'] / 1e6:.1f} MB, RTF {found.seconds / found.audio_s:.4f}\n"
    )
    print("| | SI-SDR dB | SI-SDRi dB |\n|---|---:|---:|")
    for name, values in (
        ("mixture", found.mixed),
        ("separated", found.separated),
        ("separated, better order in each second", found.reordered),
        ("ideal ratio mask", found.ideal),
    ):
        print(f"| {name} | {np.mean(values):.1f} | {np.mean(np.subtract(values, found.mixed)):.1f} |")
    print(f"\nquartiles of SI-SDRi {', '.join(f'{q:.1f}' for q in np.quantile(gains, (0.25, 0.5, 0.75)))} dB\n")
    if args.student:
        print(
            "| student | clips | CER clean | mixed | separated | ideal mask | separated / mixed |\n"
            "|---|---:|---:|---:|---:|---:|---:|"
        )
    for folder, corpus in args.student:
        rates = student_rates(
            model, oracle, Student.load(folder, 1), Corpus.load(corpus), voices, args.clips, args.seed
        )
        cells = " | ".join(f"{rates[kind]:.3f}" for kind in KINDS)
        print(f"| {Path(folder).name} | {rates['clips']:.0f} | {cells} | {rates['separated'] / rates['mixed']:.2f} |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
