"""Streaming recognition: audio in as it arrives, stable and tentative words out.

The graph (``lalia/models/export/onnx_export.py``) has optional inputs ``state.NAME`` and outputs ``next.NAME``, which are passed
back with the next chunk. Every call processes one chunk, whatever the size of the blocks: int8 products take their scale from
all frames of a call, so only equal chunks give bit-equal results for files and streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.audio.reading import Resampler, check_wave
from lalia.decoding.greedy import StreamingGreedy, Word, text_of_words
from lalia.errors import UserError
from lalia.runtime.transcript import Transcript
from lalia.runtime.windows import silence
from lalia.units import SAMPLE_RATE, Frames, Samples, Seconds, to_samples

if TYPE_CHECKING:
    import onnxruntime

    from lalia.audio.vad import NonSpeech
    from lalia.decoding.decoder import Decoder


# --- Chunks and their state ------------------------------------------------------------------------------

STATE, NEXT = "state.", "next."
SILENCE_PEAK = 5e-4
"""Audio with a lower peak (-66 dB) counts as silence: models normalise their input and would find letters in the noise."""


@dataclass(frozen=True)
class Chunks:
    """The chunk size of a streaming student, from ``streaming`` in its card."""

    frame: Samples
    """from one frame to the next"""
    chunk: Frames
    """processed in one call"""
    receptive_field: Samples
    """samples that one frame depends on; that of a chunk's first frame begins with the chunk"""

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Chunks | None:
        """The chunks of the student with ``card``; None if it needs whole clips."""
        facts = card.get("streaming")
        if facts is None:
            return None
        try:
            chunk, receptive_field = int(facts["chunk_frames"]), int(facts["receptive_field"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"student: streaming in its card is {facts!r}; export it again") from error
        if chunk < 1 or receptive_field < 1:
            raise UserError(f"student: streaming in its card is {facts!r}; expected numbers from 1 on; export it again")
        return cls(to_samples(float(card["frame_s"])), chunk, receptive_field)

    def samples(self, frames: Frames) -> Samples:
        """The samples that ``frames`` frames depend on."""
        return (frames - 1) * self.frame + self.receptive_field


class StreamingState:
    """The state of one stream in ``session``; streams in several threads can share a session."""

    def __init__(
        self, session: onnxruntime.InferenceSession, chunks: Chunks, columns: int, heads: Sequence[str] = ("log_probs",)
    ) -> None:
        """``heads`` are the outputs that make a frame of ``columns`` numbers."""
        self._session = session
        self._chunks = chunks
        self._columns = columns
        self._heads = list(heads)
        states = [output.name for output in session.get_outputs() if output.name.startswith(NEXT)]
        self._outputs = [*heads, *states]
        self._kept: dict[str, np.ndarray] = {}
        self._waiting_S = np.zeros(0, np.float32)

    def feed(self, block_S: np.ndarray) -> np.ndarray:
        """Frames (T, columns) float32 of the chunks that ``block_S`` (float32, 16 kHz, any size) completes."""
        self._waiting_S = np.concatenate([self._waiting_S, block_S.astype(np.float32, copy=False)])
        due, step = self._chunks.samples(self._chunks.chunk), self._chunks.chunk * self._chunks.frame
        outputs, at = [], 0
        while len(self._waiting_S) - at >= due:
            outputs.append(self._run_chunk(self._waiting_S[at : at + due]))
            at += step
        self._waiting_S = self._waiting_S[at:]
        return np.concatenate(outputs) if outputs else np.zeros((0, self._columns), np.float32)

    def finish(self) -> np.ndarray:
        """Frames (T, columns) after the last whole chunk; the stream ends."""
        frames = (len(self._waiting_S) - self._chunks.receptive_field) // self._chunks.frame + 1
        if frames < 1:
            return np.zeros((0, self._columns), np.float32)
        piece_S, self._waiting_S = self._waiting_S[: self._chunks.samples(frames)], self._waiting_S[:0]
        return self._run_chunk(piece_S)

    def _run_chunk(self, piece_S: np.ndarray) -> np.ndarray:
        found = self._session.run(self._outputs, {"wave": piece_S[None], **self._kept})
        outputs = dict(zip(self._outputs, found, strict=True))
        self._kept = {
            STATE + name.removeprefix(NEXT): state for name, state in outputs.items() if name.startswith(NEXT)
        }
        frames_TX = np.concatenate([outputs[head][0] for head in self._heads], 1)
        # Silence gives blanks, but the state still advances.
        return silence(*frames_TX.shape) if float(np.abs(piece_S).max()) < SILENCE_PEAK else frames_TX


# --- A stream --------------------------------------------------------------------------------------------

RATES = (4_000, 768_000)


@dataclass(frozen=True)
class StreamUpdate:
    """The result of a block: words that are final, and the current guess of what follows."""

    stable: list[Word] = field(default_factory=list)
    """those that became final with this block, in order"""
    tentative: list[Word] = field(default_factory=list)
    """all that are not final yet; the next block may change them"""
    heard_s: Seconds = 0.0
    """seconds of audio fed so far"""


class Stream:
    """One audio stream: ``feed`` samples in blocks of any size, then ``finish``; ``words`` are the stable ones so far.

    Greedy words are stable as soon as a word boundary or a pause ends them. A ``decoder`` (``lalia.decoding.decoder``) searches
    whole utterances: its words are stable when a pause of a second ends the utterance, and until then the tentative words are
    greedy. The sizes of the blocks do not change the final text.
    """

    def __init__(
        self, state: StreamingState, greedy: StreamingGreedy, decoder: Decoder | None = None, rate: int = SAMPLE_RATE,
        muted: NonSpeech | None = None,
    ) -> None:  # fmt: skip
        """Made by ``Student.stream``. ``UserError`` if ``rate`` is out of range."""
        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"stream: {rate} samples per second; expected {RATES[0]} to {RATES[1]}")
        self.words: list[Word] = []
        self._state = state
        self._greedy = greedy
        self._decoder = decoder
        self._muted = muted
        self._resampler = Resampler(rate)
        self.rate = rate
        self._fed = 0
        self._over = False
        self._tentative: list[Word] = []
        self._shown: list[Word] = []  # with a decoder: greedy words of the unfinished utterance
        if decoder is not None:
            decoder.begin()

    def feed(self, samples: np.ndarray) -> StreamUpdate:
        """Process ``samples``: floats from -1 to 1, mono, of shape (samples,); ``AudioError`` if they are anything else."""
        if self._over:
            raise UserError("stream: is finished; start a new one")
        check_wave(samples, "stream")
        self._fed += len(samples)
        wave_S = self._resampler(samples.astype(np.float32, copy=False))
        return self._update(self._state.feed(self._speech(wave_S)))

    def _speech(self, wave_S: np.ndarray, last: bool = False) -> np.ndarray:
        """``wave_S`` without what is not speech, half a second late; all of it where nothing is muted."""
        if self._muted is None:
            return wave_S
        return np.concatenate([np.zeros(0, np.float32), *(piece_S for _, piece_S in self._muted.feed(wave_S, last))])

    def finish(self) -> StreamUpdate:
        """The last words; all are stable now."""
        if self._over:
            return StreamUpdate(heard_s=self.heard_s)
        self._over = True
        rest_S = self._resampler(np.zeros(0, np.float32), last=True)
        return self._update(np.concatenate([self._state.feed(self._speech(rest_S, last=True)), self._state.finish()]))

    @property
    def heard_s(self) -> Seconds:
        """Seconds of audio fed so far."""
        return self._fed / self.rate

    def transcript(self) -> Transcript:
        """The stable words as a transcript."""
        return Transcript(text_of_words(self.words), list(self.words), round(self.heard_s, 3))

    def _update(self, frames_TX: np.ndarray) -> StreamUpdate:
        if not len(frames_TX) and not self._over:  # no chunk is complete
            return StreamUpdate([], self._tentative, self.heard_s)
        stable = self._greedy.feed(frames_TX)
        if self._over:
            stable += self._greedy.finish()
        tentative = self._greedy.tentative()
        if self._decoder is not None:
            self._shown += stable
            self._decoder.feed(frames_TX)
            found = self._decoder.finish() if self._over else self._decoder.finished
            stable = found.words[len(self.words) :]
            finished_s = found.words[-1].end_s if found.words else 0.0
            in_utterance = self._decoder.in_utterance and not self._over
            self._shown = [word for word in self._shown if word.start_s >= finished_s] if in_utterance else []
            tentative = self._shown + tentative
        self.words += stable
        self._tentative = tentative
        return StreamUpdate(stable, tentative, self.heard_s)


def as_dict(update: StreamUpdate, last: bool) -> dict[str, object]:
    """``update`` as JSON, for the terminal and the server: words with text, start_s, end_s and confidence.

    ``joined`` is true of a word without a space before it.
    """

    def words(found: list[Word]) -> list[dict[str, object]]:
        # A stream has one channel, so its words do not name it.
        return [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": round(w.confidence, 4)}
            | ({"joined": True} if w.joined else {})
            for w in found
        ]

    return {
        "stable": words(update.stable),
        "tentative": words(update.tentative),
        "heard_s": round(update.heard_s, 3),
        "last": last,
    }
