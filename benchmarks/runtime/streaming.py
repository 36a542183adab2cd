"""Latency and error rates of a streaming student.

    python -m benchmarks.runtime.streaming STUDENT CORPUS --offline STUDENT --language ita

Errors: each held-out clip alone, by the streaming student and by an offline one. Latency: all clips as one stream with a second
of faint noise between them, fed in blocks of 40 ms as from a microphone. A word ends on the last frame of its last letter, by
forced alignment of the label with the offline student; its text appears when the block that made it stable has been processed.
Values are medians unless noted. The clock is audio time plus thread time, so that other load has no effect.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lalia.cards import processor
from lalia.data.corpus import Corpus
from lalia.decoding.forced_alignment import align
from lalia.decoding.greedy import TokenSpan, Word, words
from lalia.model_folder import MODEL
from lalia.runtime.microphone import BLOCK_S
from lalia.runtime.student import Student
from lalia.scoring.rates import ErrorCounts, character_errors, word_errors
from lalia.text.edit_distance import alignment
from lalia.units import Seconds, to_samples, to_seconds

GAP_S: Seconds = 1.0
GOAL_S: Seconds = 0.4
GAP_LEVEL = 10 ** (-60 / 20)


@dataclass(frozen=True)
class Clip:
    """A held-out clip and its normalised label."""

    wave: np.ndarray
    text: str


@dataclass
class Streamed:
    """A transcribed stream: its words, when each was first shown and when it became stable, and the processing time."""

    words: list[Word]
    shown_s: list[Seconds]
    stable_s: list[Seconds]
    work_s: Seconds
    audio_s: Seconds


def read_clips(corpus: Path, split: str, language: str, student: Student, count: int) -> list[Clip]:
    opened = Corpus.load(corpus)
    rows = opened.select(split=split, language=language, with_text=True)[: count or None]
    return [Clip(opened.wave(int(row)), student.normaliser(opened.text(int(row)))) for row in rows]


def transcribe_stream(student: Student, wave_S: np.ndarray, pause_s: Seconds) -> Streamed:
    """Transcribe ``wave_S`` block by block."""
    stream = student.stream(pause_s=pause_s)
    shown: dict[tuple[str, Seconds], Seconds] = {}
    found = Streamed([], [], [], 0.0, to_seconds(len(wave_S)))
    size = to_samples(BLOCK_S)
    for start in range(0, len(wave_S) + size, size):
        begun = time.thread_time()
        update = stream.feed(wave_S[start : start + size]) if start < len(wave_S) else stream.finish()
        took_s = time.thread_time() - begun
        found.work_s += took_s
        now_s = update.heard_s + took_s
        for word in [*update.stable, *update.tentative]:
            shown.setdefault((word.text, word.start_s), now_s)
        for word in update.stable:
            found.words.append(word)
            found.shown_s.append(shown[word.text, word.start_s])
            found.stable_s.append(now_s)
    return found


def word_ends(clip: Clip, offline: Student) -> list[Seconds]:
    """The end of each word of the label, in seconds from the start of the clip."""
    ids = offline.tokens.encode(clip.text)
    path_T = align(offline.log_probs(clip.wave), ids)
    spans = []
    for place, token in enumerate(ids):
        frames = np.flatnonzero(path_T == place)
        spans.append(TokenSpan(token, int(frames[0]), int(frames[-1]) + 1, 1.0))
    return [word.end_s for word in words(spans, offline.tokens, offline.frame_s)]


@dataclass
class Latency:
    """Latencies of one stream, and the processing time."""

    shown_s: list[Seconds]
    """from the true end of each correct word to the display of its last letter"""
    stable_s: list[Seconds]
    """from the true end of each correct word to its stable text"""
    any_s: list[Seconds]
    """from the last decoded letter of each word, correct or not, to its stable text"""
    rtf: float


def latency(clips: Sequence[Clip], student: Student, offline: Student, pause_s: Seconds) -> Latency:
    """Latency of words. A wrong word has no true end; it is measured from its last decoded letter."""
    random = np.random.default_rng(0)
    gap = to_samples(GAP_S)
    pieces: list[np.ndarray] = []
    begins_s: list[Seconds] = []
    at = 0
    for clip in clips:
        noise_S = (GAP_LEVEL * random.standard_normal(gap)).astype(np.float32)
        begins_s.append(to_seconds(at + gap))
        pieces += [noise_S, clip.wave]
        at += gap + len(clip.wave)
    pieces.append((GAP_LEVEL * random.standard_normal(gap)).astype(np.float32))
    spoken = transcribe_stream(student, np.concatenate(pieces), pause_s)
    any_s = [stable_s - word.end_s for word, stable_s in zip(spoken.words, spoken.stable_s, strict=True)]
    found = Latency([], [], any_s, spoken.work_s / spoken.audio_s)
    for clip, begin_s in zip(clips, begins_s, strict=True):
        end_s = begin_s + to_seconds(len(clip.wave)) + GAP_S / 2
        mine = [n for n, word in enumerate(spoken.words) if begin_s - GAP_S / 2 <= word.start_s < end_s]
        hypothesis, true = iter(mine), iter(word_ends(clip, offline))
        for edit in alignment(clip.text, " ".join(spoken.words[n].text for n in mine)):
            number = next(hypothesis) if edit.kind != "deletion" else -1
            ended_s = next(true) if edit.kind != "insertion" else 0.0
            if edit.kind == "equal":
                found.shown_s.append(spoken.shown_s[number] - begin_s - ended_s)
                found.stable_s.append(spoken.stable_s[number] - begin_s - ended_s)
    return found


def errors(clips: Sequence[Clip], student: Student, pause_s: Seconds | None) -> tuple[ErrorCounts, ErrorCounts]:
    """Character and word errors of each clip alone; streamed if ``pause_s`` is given."""
    characters, counted = ErrorCounts(), ErrorCounts()
    for clip in clips:
        if pause_s is None:
            text = student.transcribe(clip.wave).text
        else:
            stream = student.stream(pause_s=pause_s)
            stream.feed(clip.wave)
            stream.finish()
            text = stream.transcript().text
        text = student.normaliser(text)
        characters, counted = characters + character_errors(clip.text, text), counted + word_errors(clip.text, text)
    return characters, counted


def at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))] if values else float("nan")


def within(values: Sequence[Seconds]) -> str:
    """The share of ``values`` within the goal, in words."""
    return f"{sum(value <= GOAL_S for value in values) / max(1, len(values)):.0%} of {len(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime.streaming", description=__doc__)
    parser.add_argument("student", type=Path, help="a streaming student")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--offline", type=Path, required=True, help="an offline student")
    parser.add_argument("--language", default="ita")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=0, help="maximum number of clips (default: all)")
    parser.add_argument(
        "--pause", type=float, nargs="+", default=[0.3, 0.4, 0.5], help="pauses that end a word, seconds"
    )
    args = parser.parse_args()
    student, offline = Student.load(args.student, threads=1), Student.load(args.offline, threads=1)
    clips = read_clips(args.corpus, args.split, args.language, student, args.clips)
    audio_s = sum(to_seconds(len(clip.wave)) for clip in clips)
    print(f"{len(clips)} clips of {args.split}, {audio_s / 60:.1f} minutes; {processor()}, one thread")
    how = student.card["streaming"]
    print(
        f"chunks of {how['chunk_s']:g} s, {how['left_s']:g} s to the left; {(args.student / MODEL).stat().st_size / 1e6:.2f} MB\n"
    )
    print(
        "| | CER | WER | CER to offline | RTF | letters shown | stable | stable, 90 % | within 0.4 s | any word, within 0.4 s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    begun = time.thread_time()
    characters, counted = errors(clips, offline, None)
    rtf = (time.thread_time() - begun) / audio_s
    print(f"| offline | {characters.rate:.3f} | {counted.rate:.3f} | | {rtf:.4f} | | | | | |", flush=True)
    for pause_s in args.pause:
        streamed, streamed_words = errors(clips, student, pause_s)
        late = latency(clips, student, offline, pause_s)
        print(
            f"| streaming, pause {pause_s:g} s | {streamed.rate:.3f} | {streamed_words.rate:.3f} | "
            f"{streamed.rate / max(characters.rate, 1e-9):.2f} | {late.rtf:.4f} | {at(late.shown_s, 0.5):.2f} s | "
            f"{at(late.stable_s, 0.5):.2f} s | {at(late.stable_s, 0.9):.2f} s | "
            f"{within(late.stable_s)} | {within(late.any_s)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
