"""Alignment where the times are known: clips joined to an hour, with whole and damaged texts, beside other aligners.

    python -m benchmarks.align.known_times MANIFEST STUDENT --out WORK [--noise 0.01] [--others] [--fit]

MANIFEST has the columns audio and text (and split; --split takes one). Times of words inside a clip are those of forced alignment
of that clip with its own text. Damages: a tenth of the clips without their text, a tenth of sentences that nobody says, five
chapters in another order. ``--others`` adds torchaudio's forced_align in windows, and ctc-segmentation if it is installed.
``--fit`` fits the weights of the score to these damages and to replaced, inserted and left out words.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lalia.align.cutting import evidence, territory
from lalia.align.pieces import Piece, Status, decide
from lalia.align.placement import place
from lalia.align.recordings import Emissions, Pair, Text, align_recording
from lalia.align.written import TextOptions
from lalia.audio.reading import read_audio
from lalia.decoding.forced_alignment import align
from lalia.runtime.student import Student
from lalia.scoring.rates import ErrorCounts, character_errors
from lalia.units import SAMPLE_RATE, Seconds, to_seconds

CLOSE_S: Seconds = 0.2


@dataclass(frozen=True)
class Said:
    """A word as it is said: how it is written, its clip, and its times in the joined recording."""

    text: str
    clip: int
    start_s: Seconds
    end_s: Seconds


@dataclass(frozen=True)
class Joined:
    """Clips joined to one recording: the audio file, the words of each clip, and where speech begins and ends in each."""

    audio: Path
    clips: list[list[Said]]
    speech_s: list[tuple[Seconds, Seconds]]


# --- The recording and what is known of it ---------------------------------------------------------------


def join(
    manifest: Path, split: str, minutes: float, noise: float, student: Student, out: Path
) -> tuple[Joined, Emissions, float]:
    """Join clips of a manifest, run the student over the result; also its CER on the clips."""
    import soundfile

    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row["text"] and (not split or row["split"] == split)]
    rng = np.random.default_rng(0)
    waves, kept = [], []
    total_s = 0.0
    for row in rows:
        wave_S = read_audio(manifest.parent / row["audio"])
        if total_s > 60 * minutes:
            break
        waves.append(wave_S)
        kept.append(row["text"])
        total_s += to_seconds(len(wave_S))
    out.mkdir(parents=True, exist_ok=True)
    audio = out / "joined.flac"
    whole_S = np.concatenate(waves)
    if noise:
        whole_S = np.clip(whole_S + noise * rng.standard_normal(len(whole_S)), -1, 1).astype(np.float32)
    soundfile.write(audio, whole_S, SAMPLE_RATE)
    emissions = Emissions(out / "emissions", student.frame_s)
    emissions.folder.mkdir(exist_ok=True)
    begun = time.perf_counter()
    for number, wave_S, before, own in emissions.waves(audio):
        emissions.store(number, student.log_probs(wave_S), wave_S, before, own)
    print(f"{total_s / 60:.1f} minutes, {len(waves)} clips; the recogniser takes {time.perf_counter() - begun:.1f} s")
    clips, speech, errors, at = [], [], ErrorCounts(), 0
    for number, (wave_S, text) in enumerate(zip(waves, kept, strict=True)):
        start, end = round(to_seconds(at) / student.frame_s), round(to_seconds(at + len(wave_S)) / student.frame_s)
        words, heard = _words_of_clip(text, number, start, emissions.read(start, end), student)
        clips.append(words)
        speech.append(_speech(wave_S, to_seconds(at)))
        errors += character_errors(student.normaliser(text), heard)
        at += len(wave_S)
    return Joined(audio, clips, speech), emissions, errors.rate


def _words_of_clip(
    text: str, clip: int, start: int, log_probs_TV: np.ndarray, student: Student
) -> tuple[list[Said], str]:
    from lalia.decoding.greedy import greedy, transcript

    heard = transcript(greedy(log_probs_TV), student.tokens)
    written = [word for word in text.split() if student.normaliser(word)]
    ids: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(written):
        own = student.tokens.encode(student.normaliser(word), skip_unknown=True)
        if number and own:
            ids.append(student.tokens.boundary or 0)
            owners.append(-1)
        ids += own
        owners += [number] * len(own)
    try:
        path_T = align(log_probs_TV, ids)
    except ValueError:
        return [], heard
    found = []
    for number, word in enumerate(written):
        frames = np.flatnonzero(np.isin(path_T, np.flatnonzero(np.array(owners) == number)))
        if len(frames):
            times = (start + frames[0]) * student.frame_s, (start + frames[-1] + 1) * student.frame_s
            found.append(Said(word, clip, *times))
    return found, heard


def _speech(wave_S: np.ndarray, start_s: Seconds) -> tuple[Seconds, Seconds]:
    """Where the speech of a clip begins and ends: by its level, halfway between its pauses and its vowels."""
    step = SAMPLE_RATE // 100
    power_T = np.square(wave_S[: len(wave_S) // step * step].reshape(-1, step), dtype=np.float64).mean(1)
    levels_T = np.convolve(10 * np.log10(power_T + 1e-10), np.ones(5) / 5, mode="same")
    low, high = np.percentile(levels_T, [5, 80])
    # A click in a pause is no speech.
    loud_T = np.flatnonzero(np.convolve(levels_T > (low + high) / 2, np.ones(21), mode="same") >= 11)
    return start_s + loud_T[0] / 100, start_s + (loud_T[-1] + 1) / 100


# --- Texts, whole and damaged ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Damaged:
    """A text: its lines, each a list of words with what is said there (None: nobody says it)."""

    name: str
    lines: list[list[tuple[str, Said | None]]]


def damaged(joined: Joined, kinds: Sequence[str], seed: int = 0) -> Damaged:
    """The text with ``kinds`` of damage: missing, unsaid, swapped, words."""
    rng = np.random.default_rng(seed)
    order = list(range(len(joined.clips)))
    if "swapped" in kinds:
        fifths = [part.tolist() for part in np.array_split(order, 5)]
        order = [clip for fifth in (0, 3, 2, 1, 4) for clip in fifths[fifth]]
    every = [word.text for clip in joined.clips for word in clip]
    lines: list[list[tuple[str, Said | None]]] = []
    for clip in order:
        if not ("missing" in kinds and rng.random() < 0.1):
            lines.append([(word.text, word) for word in joined.clips[clip]])
        if "unsaid" in kinds and rng.random() < 0.1:
            length = max(1, len(joined.clips[rng.integers(len(order))]))
            lines.append([(str(rng.choice(every)), None) for _ in range(length)])
    if "words" in kinds:
        lines = [_with_wrong_words(line, every, rng) for line in lines]
    return Damaged(", ".join(kinds) or "whole", [line for line in lines if line])


def _with_wrong_words(
    line: list[tuple[str, Said | None]], every: list[str], rng: np.random.Generator
) -> list[tuple[str, Said | None]]:
    made: list[tuple[str, Said | None]] = []
    for word in line:
        draw = rng.random()
        if draw < 0.02:
            made.append((str(rng.choice(every)), None))  # another word is written
        elif draw < 0.04:
            made += [word, (str(rng.choice(every)), None)]  # one more is written
        elif draw >= 0.06:  # else it is not written
            made.append(word)
    return made


# --- Measures --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Shares, 0 to 1, and counts."""

    recovered: float
    """words that are said and written, and are in accepted pieces in their place"""
    ends: float
    """accepted pieces whose first or last word is not the first or last one that is said in them"""
    close: float
    """ends of clips, among the words of accepted pieces, that are in the pause between two clips or within 200 ms of it"""
    accepted_s: Seconds
    doubtful_s: Seconds
    refused_s: Seconds
    scores: list[tuple[float, float]]
    """score and share of wrong words of each piece with a text"""


def measure(
    joined: Joined, text: Damaged, pieces: Sequence[tuple[Piece, list[int]]], placed: dict[int, tuple[Seconds, Seconds]]
) -> Result:
    """``pieces`` with the numbers of their words in the text; ``placed``: the times of the placed words."""
    written = [word for line in text.lines for word in line]
    said = sorted((word for clip in joined.clips for word in clip), key=lambda word: word.start_s)
    middles = np.array([(word.start_s + word.end_s) / 2 for word in said])
    rank = {id(word): number for number, word in enumerate(said)}
    recovered: set[int] = set()
    wrong_ends = accepted = 0
    close: list[bool] = []
    seconds = dict.fromkeys(("accepted", "doubtful", "refused"), 0.0)
    scores = []
    firsts = {id(clip[0]): clip[0].clip for clip in joined.clips if clip}
    lasts = {id(clip[-1]): clip[-1].clip for clip in joined.clips if clip}
    for piece, numbers in pieces:
        seconds[piece.status] += piece.duration_s
        if not numbers:
            continue
        inside = set(range(*np.searchsorted(middles, [piece.start, piece.end]).tolist()))
        own = [rank[id(word)] if (word := written[n][1]) is not None else -1 for n in numbers]
        right = inside & set(own)
        wrong = max(len(numbers) - len(right), 0) + len(inside - set(own))
        scores.append((piece.score, min(1.0, wrong / len(numbers))))
        if piece.status != "accepted":
            continue
        accepted += 1
        recovered |= right
        wrong_ends += not inside or own[0] != min(inside) or own[-1] != max(inside)
        for n in numbers:
            word = written[n][1]
            if word is None or n not in placed:
                continue
            edges = [(-np.inf, 0.0), *joined.speech_s, (np.inf, np.inf)]
            (_, before_s), (start_s, end_s), (after_s, _) = edges[word.clip : word.clip + 3]
            if id(word) in firsts:
                at_s = piece.start if n == numbers[0] else placed[n][0]
                close.append(before_s - CLOSE_S <= at_s <= start_s + CLOSE_S)
            if id(word) in lasts:
                at_s = piece.end if n == numbers[-1] else placed[n][1]
                close.append(end_s - CLOSE_S <= at_s <= after_s + CLOSE_S)
    both = sum(word is not None for _, word in written)
    return Result(
        len(recovered) / both, wrong_ends / max(accepted, 1), float(np.mean(close)) if close else 0.0,
        seconds["accepted"], seconds["doubtful"], seconds["refused"], scores,
    )  # fmt: skip


def ours(
    text: Damaged, joined: Joined, emissions: Emissions, student: Student, accept: float
) -> tuple[list[tuple[Piece, list[int]]], dict[int, tuple[Seconds, Seconds]]]:
    """``lalia align`` on a text: pieces with the numbers of their words, and the times of the placed words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text("\n".join(" ".join(word for word, _ in line) for line in text.lines) + "\n", encoding="utf-8")
        read = Text(path, TextOptions(), student)
        aligned = align_recording(Pair("joined", joined.audio, path), read, emissions, student)
        for line in [*aligned.notes, aligned.refused]:
            if line:
                print("   ", line)
    written = [word for line in text.lines for word, _ in line]
    placement = place(
        emissions.heard(student.tokens.boundary),
        read.ids,
        len(emissions.levels()),
        emissions.read,
        student.tokens.boundary,
    )
    numbers_K = [read.spoken[k] for k in placement.words_K]
    if [word.text for word in read.words] != written:
        raise SystemExit("the words of the text are not those that were written")
    times = {
        n: tuple((frames * student.frame_s).tolist()) for n, frames in zip(numbers_K, placement.frames_K2, strict=True)
    }
    middles = np.array([placement.frames_K2.mean(1) * student.frame_s]).reshape(-1)
    pieces = []
    for piece in aligned.pieces:
        rows = range(*np.searchsorted(middles, [piece.start, piece.end]).tolist()) if piece.text else range(0)
        pieces.append((decide(piece, accept), [numbers_K[row] for row in rows]))
    return pieces, times


# --- Other aligners --------------------------------------------------------------------------------------

Times = dict[int, tuple[Seconds, Seconds]]
WINDOW_S: Seconds = 60.0


def torchaudio_windows(text: Damaged, emissions: Emissions, student: Student) -> Times:
    """torchaudio's forced_align in windows of a minute, each with the words that should be in it and a star token at its end; the
    next window begins after the last word of the first 80 %."""
    import torch
    from torchaudio.functional import forced_align

    written, ids = _spelled(text, student)
    frames = len(emissions.levels())
    rate = sum(map(len, ids)) / frames  # letters a frame
    width = round(WINDOW_S / student.frame_s)
    times: Times = {}
    at = word = 0
    while at < frames and word < len(ids):
        log_probs_TV = emissions.read(at, min(at + width, frames))
        last, letters = word, 0
        while last < len(ids) and letters < 1.2 * rate * len(log_probs_TV):
            letters += len(ids[last])
            last += 1
        star = log_probs_TV.shape[1]
        with_star_TV = np.concatenate([log_probs_TV, np.full((len(log_probs_TV), 1), -1.0, np.float32)], 1)
        targets, owners = [], []
        for n in range(word, last):
            targets += ids[n]
            owners += [n] * len(ids[n])
        if last < len(ids) or at + width < frames:
            targets, owners = [*targets, star], [*owners, -1]
        while targets and len(targets) + sum(a == b for a, b in pairwise(targets)) > len(with_star_TV):
            targets, owners = [*targets[:-2], star], [*owners[:-2], -1]
        path_T = forced_align(torch.from_numpy(with_star_TV)[None], torch.tensor([targets]), blank=0)[0][0].numpy()
        begins_T = (path_T != 0) & (path_T != np.append(0, path_T[:-1]))
        owner_T = np.where(path_T != 0, np.array(owners)[begins_T.cumsum() - 1], -2)
        limit = len(log_probs_TV) * (0.8 if at + width < frames else 1.0)
        done = word
        for n in range(word, last):
            own = np.flatnonzero(owner_T == n)
            if not len(own) or own[-1] > limit:
                break
            times[written[n]] = (at + own[0]) * student.frame_s, (at + own[-1] + 1) * student.frame_s
            done, end = n + 1, int(own[-1]) + 1
        if done == word:
            at += width // 2
            continue
        word, at = done, at + end
    return times


def ctc_segmentation_times(text: Damaged, emissions: Emissions, student: Student) -> tuple[Times, dict[int, float]]:
    """ctc-segmentation (Kürzinger et al. 2020) on the whole recording: times of the first and last word of each line, by its
    utterances, and each line's score."""
    import ctc_segmentation as cs

    frames = len(emissions.levels())
    config = cs.CtcSegmentationParameters(char_list=list(student.tokens.symbols), index_duration=student.frame_s)
    config.space, config.blank = "|", 0
    rows = [" ".join(student.normaliser(word) for word, _ in line).split() for line in text.lines]
    tokens = [
        np.array(
            [i for w in row for i in (*student.tokens.encode(w, skip_unknown=True), student.tokens.boundary or 0)][:-1]
        )
        for row in rows
    ]
    ground_truth, begins = cs.prepare_token_list(config, tokens)
    log_probs_TV = emissions.read(0, frames)
    timings, char_probs, _ = cs.ctc_segmentation(config, log_probs_TV, ground_truth)
    segments = cs.determine_utterance_segments(config, begins, char_probs, timings, [" ".join(row) for row in rows])
    times: Times = {}
    scores: dict[int, float] = {}
    n = 0
    for number, (line, (start_s, end_s, score)) in enumerate(zip(text.lines, segments, strict=True)):
        scores[number] = float(score)
        times[n] = (float(start_s), float(start_s) + 0.1)
        times[n + len(line) - 1] = (times[n][0] if len(line) == 1 else float(end_s) - 0.1, float(end_s))
        n += len(line)
    return times, scores


def _spelled(text: Damaged, student: Student) -> tuple[list[int], list[list[int]]]:
    """The numbers of the words that have tokens, and these, without boundaries."""
    every = [word for line in text.lines for word, _ in line]
    ids = [
        [i for i in student.tokens.encode(student.normaliser(w), skip_unknown=True) if i != student.tokens.boundary]
        for w in every
    ]
    return [n for n, own in enumerate(ids) if own], [own for own in ids if own]


def lines_as_pieces(text: Damaged, times: Times, accepted: Callable[[int], bool]) -> list[tuple[Piece, list[int]]]:
    """The lines of a text as pieces, from their first word to their last one."""
    pieces, n = [], 0
    for number, line in enumerate(text.lines):
        words = [k for k in range(n, n + len(line))]
        n += len(line)
        if words[0] not in times or words[-1] not in times:
            continue
        status: Status = "accepted" if accepted(number) else "refused"
        piece = Piece(
            str(number), status, "", 0.0, 0.0, 0.0, times[words[0]][0], times[words[-1]][1], "x", "", "", "", "", "", ""
        )
        pieces.append((piece, words))
    return pieces


# --- Fit the score ---------------------------------------------------------------------------------------


def examples(joined: Joined, text: Damaged, emissions: Emissions, student: Student) -> tuple[np.ndarray, np.ndarray]:
    """Features (K, F) of the placed words of a damaged text, and whether each is wrong: nobody says it, or a word next to it is
    said and not written."""
    written, ids = _spelled(text, student)
    every = [word for line in text.lines for word in line]
    frames, boundary = len(emissions.levels()), student.tokens.boundary
    heard = emissions.heard(boundary)
    placement = place(heard, ids, frames, emissions.read, boundary)
    edges = territory(placement, frames)
    said = [heard.tokens[slice(*np.searchsorted(heard.starts, edge))] for edge in edges]
    features_KF = evidence(placement, [ids[k] for k in placement.words_K], said, frames)
    words = [every[written[k]][1] for k in placement.words_K]
    wrong_K = np.zeros(len(words), bool)
    starts_K, ends_K = placement.frames_K2.T * student.frame_s
    for k, word in enumerate(words):
        wrong_K[k] = word is None or ends_K[k] < word.start_s - CLOSE_S or starts_K[k] > word.end_s + CLOSE_S
    # A word that is said and not written counts for the nearest one, if it is no break.
    there = {id(word) for word in words}
    middles_K = (starts_K + ends_K) / 2
    for word in (word for clip in joined.clips for word in clip if id(word) not in there):
        middle = (word.start_s + word.end_s) / 2
        k = int(np.searchsorted(middles_K, middle))
        if 0 < k < len(words) and not placement.breaks_K[k]:
            wrong_K[k if middles_K[k] - middle < middle - middles_K[k - 1] else k - 1] = True
    return features_KF[~placement.bridged_K], wrong_K[~placement.bridged_K]


def fit(features_NF: np.ndarray, wrong_N: np.ndarray, steps: int = 100) -> list[float]:
    """Weights of a logistic regression, the constant first (Newton's method, a small ridge)."""
    x_NF = np.column_stack([np.ones(len(features_NF)), features_NF])
    weights_F = np.zeros(x_NF.shape[1])
    for _ in range(steps):
        p_N = 1 / (1 + np.exp(-np.clip(x_NF @ weights_F, -30, 30)))
        gradient_F = x_NF.T @ (p_N - wrong_N) + 1e-2 * weights_F
        hessian_FF = (x_NF * (p_N * (1 - p_N))[:, None]).T @ x_NF + 1e-2 * np.eye(x_NF.shape[1])
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        weights_F -= step_F
        if np.abs(step_F).max() < 1e-9:
            break
    return [round(float(w), 3) for w in weights_F]


# --- The tables ------------------------------------------------------------------------------------------

DAMAGES: tuple[tuple[str, ...], ...] = ((), ("missing",), ("unsaid",), ("swapped",), ("missing", "unsaid", "swapped"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the joined recording and its emissions")
    parser.add_argument("--split", default="", help="only clips of this split")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--noise", type=float, default=0.0, help="white noise of this deviation, for a rougher recogniser"
    )
    parser.add_argument("--accept", type=float, default=0.1)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    student = Student.load(args.student, 1)
    joined, emissions, cer = join(args.manifest, args.split, args.minutes, args.noise, student, args.out)
    print(f"CER of the recogniser {cer:.3f}")
    if args.fit:
        found = [
            examples(joined, damaged(joined, (*kinds, "words"), seed), emissions, student)
            for seed, kinds in enumerate(DAMAGES)
        ]
        features_NF, wrong_N = (np.concatenate(part) for part in zip(*found, strict=True))
        np.savez(args.out / "examples.npz", features=features_NF, wrong=wrong_N)
        print(f"{len(wrong_N):,} words, {wrong_N.mean():.1%} wrong; weights {fit(features_NF, wrong_N)}")
    columns = " ".join(
        f"{name:>9}" for name in ("recovered", "bad ends", "<= 200 ms", "accepted", "doubtful", "refused", "time")
    )
    print(f"{'text':24} {'aligner':18} {columns}")
    for kinds in DAMAGES:
        text = damaged(joined, kinds)
        begun = time.perf_counter()
        _print(
            text.name, "lalia align", measure(joined, text, *ours(text, joined, emissions, student, args.accept)), begun
        )
        if args.others:
            begun = time.perf_counter()
            times = torchaudio_windows(text, emissions, student)
            _print(
                text.name,
                "torchaudio windows",
                measure(joined, text, lines_as_pieces(text, times, lambda n: True), times),
                begun,
            )
            try:
                begun = time.perf_counter()
                times, scores = ctc_segmentation_times(text, emissions, student)
            except ImportError:
                continue
            for name, lowest in (("ctc-segmentation", -np.inf), ("  score over -1", -1.0)):
                pieces = lines_as_pieces(text, times, lambda n, s=scores, low=lowest: s[n] > low)  # type: ignore[misc]
                _print(text.name, name, measure(joined, text, pieces, times), begun)
    return 0


def _print(text: str, aligner: str, found: Result, begun: float) -> None:
    hours = "".join(f" {seconds / 60:8.1f}m" for seconds in (found.accepted_s, found.doubtful_s, found.refused_s))
    print(
        f"{text:24} {aligner:18} {found.recovered:9.1%} {found.ends:9.1%} {found.close:9.1%}{hours} "
        f"{time.perf_counter() - begun:8.1f}s",
        flush=True,
    )
    if aligner == "lalia align":
        bins = [
            (low, [w for s, w in found.scores if low <= s < high])
            for low, high in pairwise((0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.01))
        ]
        print(
            "    score: share of wrong words: "
            + ", ".join(f"{low:g}+: {np.mean(b):.3f} ({len(b)})" for low, b in bins if b)
        )


if __name__ == "__main__":
    raise SystemExit(main())
