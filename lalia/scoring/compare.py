"""Compare decoding configurations, or versions of a model, on the same clips: error rates, time, and what is significant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lalia.decoding.decoder import AcousticModel, Decoder, joiner_of, text_of
from lalia.decoding.greedy import greedy, transcript
from lalia.decoding.transducer_search import transducer_greedy
from lalia.errors import UserError
from lalia.model_folder import LabelledClips
from lalia.scoring.rates import ErrorCounts, Interval, Score, bootstrap_interval, score, word_errors
from lalia.scoring.tuning import HeldOutClip, compute_log_probs
from lalia.units import Seconds

HOUR: Seconds = 3600.0


@dataclass(frozen=True)
class DecodingResult:
    """One decoding configuration: its error rates, and its processor time for all clips."""

    name: str
    score: Score
    words: tuple[ErrorCounts, ...]
    """word errors of each clip"""
    took_s: Seconds


@dataclass(frozen=True)
class Comparison:
    """Several decoding configurations on the same clips, the simplest first."""

    results: tuple[DecodingResult, ...]
    audio_s: Seconds
    model_s: Seconds
    """processor time of the acoustic model, shared by all configurations"""

    def per_hour(self, took_s: Seconds) -> Seconds:
        """Processor seconds per hour of speech."""
        return HOUR * took_s / max(self.audio_s, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Figures for a JSON file; rates as shares."""
        decoders = [
            {
                "name": result.name, "cer": result.score.cer.rate, "cer_interval": list(result.score.cer_interval),
                "wer": result.score.wer.rate, "wer_interval": list(result.score.wer_interval),
                "seconds_per_hour": round(self.per_hour(result.took_s), 3),
            }
            for result in self.results
        ]  # fmt: skip
        model = round(self.per_hour(self.model_s), 3)
        found = {
            "clips": len(self.results[0].words),
            "audio_s": round(self.audio_s, 2),
            "model_seconds_per_hour": model,
        }
        return {**found, "ways": decoders, "verdict": verdict(self)}


def compare(
    model: AcousticModel,
    clips: LabelledClips,
    rows: Iterable[int],
    decoders: Mapping[str, Decoder | None],
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Decode ``rows`` of ``clips`` with each of ``decoders`` (None: greedy), the simplest first; the model runs once.

    Each decodes all clips twice and the second run is timed, with warm caches as after some minutes of speech. ``UserError`` if
    no clip can be used.
    """
    begun = time.process_time()
    held = compute_log_probs(model, clips, rows)
    model_s = time.process_time() - begun
    audio_s = sum(len(clip.frames_TX) for clip in held) * model.frame_s
    results = []
    for name, decoder in decoders.items():
        if progress:
            progress(name)
        results.append(_decode_all(name, model, held, decoder))
    return Comparison(tuple(results), audio_s, model_s)


def compare_versions(
    before: AcousticModel, after: AcousticModel, clips: LabelledClips, rows: Sequence[int]
) -> tuple[str, bool]:
    """A sentence about the WER of two versions of a model (greedy), and whether ``after`` is significantly worse.

    ``UserError`` if no clip can be used, or if the versions write different labels.
    """
    results = []
    for name, model in (("old", before), ("new", after)):
        results.append(_decode_all(name, model, compute_log_probs(model, clips, rows), None))
    old, new = results
    if len(old.words) != len(new.words):
        raise UserError(f"the old version can be scored on {len(old.words)} clips, the new one on {len(new.words)}")
    _, (_, high) = wer_reduction(old, new)
    rates = f"WER {100 * old.score.wer.rate:.1f} % before, {100 * new.score.wer.rate:.1f} % now"
    worse = high < 0
    return f"{rates}, {len(new.words)} clips: {'significantly worse' if worse else 'not significantly worse'}", worse


def _decode_all(
    name: str, model: AcousticModel, held: Sequence[HeldOutClip], decoder: Decoder | None
) -> DecodingResult:
    def decoded(frames_TX: np.ndarray) -> str:
        if decoder is None:
            joiner = joiner_of(model)
            spans = transducer_greedy(joiner, model.frame_s, frames_TX) if joiner is not None else greedy(frames_TX)
            return transcript(spans, model.tokens)
        return text_of(decoder.decode(frames_TX), model.tokens)

    for _ in range(2):
        begun = time.process_time()
        texts = [decoded(clip.frames_TX) for clip in held]
        took_s = time.process_time() - begun
    references = [clip.reference for clip in held]
    hypotheses = [clip.normaliser(text) for clip, text in zip(held, texts, strict=True)]
    writings = [clip.normaliser.writing for clip in held]
    words = tuple(map(word_errors, references, hypotheses, writings))
    return DecodingResult(name, score(references, hypotheses, writings), words, took_s)


def wer_reduction(before: DecodingResult, after: DecodingResult) -> tuple[float, Interval]:
    """The absolute reduction of WER from ``before`` to ``after``, and its paired bootstrap interval over clips."""
    fewer = [
        ErrorCounts(one.errors - other.errors, 0, 0, one.reference)
        for one, other in zip(before.words, after.words, strict=True)
    ]
    return before.score.wer.rate - after.score.wer.rate, bootstrap_interval(fewer)


def head() -> list[str]:
    """The headings of the columns of ``cells``."""
    return ["", "CER %", "(95 %)", "WER %", "(95 %)", "s per hour of speech"]


def cells(found: Comparison) -> list[list[str]]:
    """A row of text for each result."""
    rows = []
    for result in found.results:
        row = [result.name]
        rates = ((result.score.cer, result.score.cer_interval), (result.score.wer, result.score.wer_interval))
        for counts, (low, high) in rates:
            row += [f"{100 * counts.rate:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
        rows.append([*row, f"{found.per_hour(result.took_s):.1f}"])
    return rows


def table(found: Comparison) -> str:
    """A table for the terminal: error rates and time of each result, and the ``verdict``."""
    lines = [head(), *cells(found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in places)
        for places in ([*enumerate(zip(line, widths, strict=True))] for line in lines)
    ]
    clips = f"{len(found.results[0].words)} clips; the acoustic model takes {found.per_hour(found.model_s):.1f} s"
    return "\n".join([*shown, clips, *verdict(found)])


def verdict(found: Comparison) -> list[str]:
    """A sentence for each result: its gain over the previous one, its cost, and whether the gain is significant."""
    sentences = []
    for before, after in pairwise(found.results):
        gain, (low, high) = wer_reduction(before, after)
        more_s = found.per_hour(after.took_s) - found.per_hour(before.took_s)
        worth = "significant" if low > 0 else "significantly worse" if high < 0 else "not significant on these clips"
        sentences.append(
            f"{after.name}: WER {100 * gain:.1f} points lower than {before.name} (95 % {100 * low:.1f} to "
            f"{100 * high:.1f}) for {more_s:.1f} s more per hour of speech: {worth}"
        )
    return sentences
