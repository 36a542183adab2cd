"""``Tagger``: load an exported classifier (ONNX) and name the label of audio files, as a whole and as a time line, without torch.

The model gives each frame a logit per label. A file, or a piece of it, is scored by the softmax of its frames' mean logits.
Silence of a second and more is left out, since it says nothing and may fill most of a recording.

S samples, T frames, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.audio.reading import NoteHandler, Source, ignore_note, read_blocks
from lalia.cards import cores, read_card
from lalia.errors import AudioError, UserError
from lalia.model_folder import MODEL, TAGGER, TAGGER_FILES, check_files, find_exported
from lalia.onnx_session import open_session
from lalia.units import Frames, Samples, Seconds, to_samples, to_seconds

if TYPE_CHECKING:
    import onnxruntime

WINDOW_S: tuple[Seconds, Seconds] = (5.0, 30.0)
"""Shortest and longest window of a file. It is twice as long as the training clips: many encoders normalise by the window."""
SHORTEST: Samples = to_samples(0.1)
"""Shorter waves are padded with silence: a model's first filters need a minimum length."""
SILENT_DBFS = -55.0
"""Frames below this level are silent, and so are those ``BELOW_DB`` below the loudest ones of their window."""
BELOW_DB = 40.0
LONGEST_SILENCE_S: Seconds = 1.0
"""Longer silence is left out, except for half of this at each end."""


@dataclass(frozen=True)
class TagSpan:
    """A part of a file and its labels, the likeliest first; no labels: silence."""

    start_s: Seconds
    end_s: Seconds
    labels: list[tuple[str, float]]
    """(label, probability) of all labels"""

    @property
    def label(self) -> str:
        """The likeliest label, "" for silence."""
        return self.labels[0][0] if self.labels else ""

    @property
    def probability(self) -> float:
        return self.labels[0][1] if self.labels else 0.0


@dataclass(frozen=True)
class Tags:
    """What a tagger says of a file."""

    whole: TagSpan
    spans: list[TagSpan] = field(default_factory=list)
    """the time line, if one was requested; neighbours of one label are joined"""
    sound_s: Seconds = 0.0
    """seconds without the silence that was left out"""


class Tagger:
    """A classifier of audio that needs no torch. ``Tagger.load(folder).tag("talk.mp3").whole.label``

    The folder holds ``model.onnx`` (input ``wave`` (B, S) float32, 16 kHz; output ``logits`` (B, T, C)), ``tagger.json``
    (``task``, ``labels``, …) and ``card.json``.
    """

    def __init__(self, session: onnxruntime.InferenceSession, facts: dict[str, Any], card: dict[str, Any]) -> None:
        self.session, self.card = session, card
        self.task: str = str(facts["task"])
        self.labels: list[str] = list(facts["labels"])
        self.rejected: set[str] = set(facts.get("rejected", []))
        self.clip_s: Seconds = float(facts.get("clip_s") or 0.0)
        """median duration of the training clips; 0: unknown"""
        self.frame_s: Seconds = float(card["frame_s"])
        window_s = min(WINDOW_S[1], max(WINDOW_S[0], 2 * self.clip_s)) if self.clip_s else WINDOW_S[1]
        frame = to_samples(self.frame_s)
        self._window: Samples = to_samples(window_s) // frame * frame  # all windows on one grid of frames

    @classmethod
    def load(cls, folder: Path | str, threads: int | None = None) -> Tagger:
        """The tagger in ``folder``, or in the run ``folder``, on ``threads`` threads (default: all cores).

        ``UserError`` if a file is missing, damaged or of another tagger.
        """
        folder = find_exported(Path(folder), "tagger")
        card = read_card(folder, "tagger")
        check_files(folder, card, TAGGER_FILES)
        try:
            facts = json.loads((folder / TAGGER).read_text(encoding="utf-8"))
            session = open_session(folder / MODEL, threads or cores())
            tagger = cls(session, facts, card)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: cannot be read as a tagger ({error}); export it again") from error
        outputs = {value.name: value.shape for value in session.get_outputs()}
        if outputs.get("logits", [None])[-1] != len(tagger.labels):
            raise UserError(
                f"{folder / MODEL}: has the outputs {outputs}, {TAGGER} lists {len(tagger.labels)} labels; they belong to "
                "different taggers, export it again"
            )
        return tagger

    def require_task(self, task: str, flag: str) -> None:
        """Raise ``UserError``, beginning with ``flag``, if this is a tagger of another task."""
        if self.task != task:
            raise UserError(
                f"{flag}: is a tagger of {self.task} ({', '.join(self.labels[:3])}, …), expected one of {task}"
            )

    def logits(self, wave_S: np.ndarray) -> np.ndarray:
        """Logits (T, C) float32 of each frame of a wave (float32, 16 kHz)."""
        if len(wave_S) < SHORTEST:
            wave_S = np.pad(wave_S, (0, SHORTEST - len(wave_S)))
        [logits_1TC] = self.session.run(["logits"], {"wave": wave_S[None].astype(np.float32, copy=False)})
        return np.asarray(logits_1TC[0])

    def tag(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        every_s: Seconds = 0.0,
        on_note: NoteHandler = ignore_note,
    ) -> Tags:
        """The labels of an audio file (its path or bytes) or of a wave (float32, mono, 16 kHz), of any length.

        ``every_s``: also a time line in pieces of that many seconds. Memory does not grow with the length of a file, except for
        one row of logits per piece. ``AudioError`` if the file cannot be read.
        """
        blocks = [source] if isinstance(source, np.ndarray) else read_blocks(source, name, tell=on_note)
        total_C, frames = np.zeros(len(self.labels)), 0
        pieces: dict[int, tuple[np.ndarray, int]] = {}
        samples, at = 0, 0
        for wave_S in _windows(blocks, self._window):
            samples += len(wave_S)
            loud_T = self.loud(wave_S)
            if loud_T.any():
                logits_TC = self.logits(wave_S)
                loud_T = np.pad(loud_T, (0, max(0, len(logits_TC) - len(loud_T))))[: len(logits_TC)]
                kept_T = self._near(loud_T)
                total_C += logits_TC[kept_T].sum(0)
                frames += int(kept_T.sum())
                if every_s:
                    places_T = ((at + np.arange(len(logits_TC))) * self.frame_s / every_s).astype(int)
                    for place in np.unique(places_T[loud_T]).tolist():
                        chosen_T = kept_T & (places_T == place)
                        before_C, count = pieces.get(place, (np.zeros(len(self.labels)), 0))
                        pieces[place] = before_C + logits_TC[chosen_T].sum(0), count + int(chosen_T.sum())
            at += round(to_seconds(len(wave_S)) / self.frame_s)
        duration_s = to_seconds(samples)
        if not samples:
            raise AudioError(f"{name or 'wave'}: holds no audio")
        whole = TagSpan(0.0, round(duration_s, 3), self.ranked(total_C / frames) if frames else [])
        spans = list(self._time_line(pieces, every_s, duration_s)) if every_s else []
        return Tags(whole, spans, round(min(duration_s, frames * self.frame_s), 3))

    def ranked(self, logits_C: np.ndarray) -> list[tuple[str, float]]:
        """(label, probability) for mean logits (C,), the likeliest first."""
        odds_C = np.exp(logits_C - logits_C.max())
        probs_C = odds_C / odds_C.sum()
        return [(self.labels[c], float(probs_C[c])) for c in np.argsort(-probs_C, kind="stable")]

    def loud(self, wave_S: np.ndarray) -> np.ndarray:
        """Whether each frame (T,) is louder than silence."""
        frame: Samples = to_samples(self.frame_s)
        frames: Frames = -(-len(wave_S) // frame)
        padded_S = np.pad(wave_S, (0, frames * frame - len(wave_S)))
        level_T = 10 * np.log10(np.square(padded_S.reshape(frames, frame)).mean(1) + 1e-12)
        return level_T > max(SILENT_DBFS, float(np.quantile(level_T, 0.95)) - BELOW_DB)

    def _near(self, loud_T: np.ndarray) -> np.ndarray:
        """``loud_T`` and the frames around it, so that only long silence is False."""
        reach: Frames = max(1, round(LONGEST_SILENCE_S / 2 / self.frame_s))
        return np.convolve(loud_T, np.ones(2 * reach + 1), "full")[reach : reach + len(loud_T)] > 0.5

    def _time_line(
        self, pieces: dict[int, tuple[np.ndarray, int]], every_s: Seconds, duration_s: Seconds
    ) -> Iterator[TagSpan]:
        """Pieces of ``every_s`` with their labels; neighbours of one label become one span of their mean logits."""
        count = max(1, int(np.ceil(duration_s / every_s - 1e-9)))
        start, total_C, frames, label = 0, np.zeros(len(self.labels)), 0, None
        for place in range(count + 1):
            sum_C, more = pieces.get(place, (np.zeros(len(self.labels)), 0))
            here = (self.labels[int(sum_C.argmax())] if more else "") if place < count else None
            if label is not None and here != label:
                end_s = min(duration_s, place * every_s)
                yield TagSpan(
                    round(start * every_s, 3), round(end_s, 3), self.ranked(total_C / frames) if frames else []
                )
                start, total_C, frames = place, np.zeros(len(self.labels)), 0
            total_C, frames, label = total_C + sum_C, frames + more, here


def _windows(blocks: Iterable[np.ndarray], length: Samples) -> Iterator[np.ndarray]:
    """The wave in windows of ``length``; the last one may be up to a half longer or shorter."""
    held_S = np.zeros(0, np.float32)
    for block_S in blocks:
        held_S = np.concatenate([held_S, block_S])
        while len(held_S) >= 3 * length // 2:
            yield held_S[:length]
            held_S = held_S[length:]
    if len(held_S):
        yield held_S
