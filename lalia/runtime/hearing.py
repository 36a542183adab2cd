"""Hearing chunk by chunk: a streaming student's graph, and what it keeps from one chunk to the next.

The graph (``lalia/models/graph.py``) has inputs ``state.NAME`` that need not be given and outputs ``next.NAME`` that are
handed to it again with the next chunk. Every call hears one chunk, whatever blocks come in, in a file as from a microphone:
int8 products take their scale from all that they see at once, so only calls of the same frames give the same numbers to the
last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.exits import UserError
from lalia.runtime.windows import silence
from lalia.units import Frames, Samples, to_samples

if TYPE_CHECKING:
    import onnxruntime

STATE, NEXT = "state.", "next."
SILENCE_PEAK = 5e-4
"""Below this (-66 dB) what is heard is silent. Models level their input, and would read letters into the noise."""


@dataclass(frozen=True)
class Chunks:
    """How a streaming student hears: what ``streaming`` says in its card."""

    frame: Samples
    """from one frame to the next"""
    chunk: Frames
    """heard at once"""
    receptive_field: Samples
    """what one frame needs: the first one of a chunk begins where the chunk does"""

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Chunks | None:
        """What ``card`` says of streaming; None for a student that hears clips whole."""
        said = card.get("streaming")
        if said is None:
            return None
        try:
            chunk, receptive_field = int(said["chunk_frames"]), int(said["receptive_field"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"student: its card says streaming {said!r}; export it again") from error
        if chunk < 1 or receptive_field < 1:
            raise UserError(f"student: its card says streaming {said!r}; expected numbers from 1 on; export it again")
        return cls(to_samples(float(card["frame_s"])), chunk, receptive_field)

    def samples(self, frames: Frames) -> Samples:
        """What ``frames`` frames need to be heard."""
        return (frames - 1) * self.frame + self.receptive_field


class Hearing:
    """One stream on its way through ``session``; several may share it, each from a thread of its own."""

    def __init__(self, session: onnxruntime.InferenceSession, chunks: Chunks, tokens: int) -> None:
        self._session = session
        self._chunks = chunks
        self._tokens = tokens
        self._outputs = [output.name for output in session.get_outputs()]
        self._kept: dict[str, np.ndarray] = {}
        self._waiting_S = np.zeros(0, np.float32)

    def feed(self, block_S: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) float32 of the chunks that ``block_S`` (float32, 16 kHz, any size) completes."""
        self._waiting_S = np.concatenate([self._waiting_S, block_S.astype(np.float32, copy=False)])
        due, step = self._chunks.samples(self._chunks.chunk), self._chunks.chunk * self._chunks.frame
        said, at = [], 0
        while len(self._waiting_S) - at >= due:
            said.append(self._hear(self._waiting_S[at : at + due]))
            at += step
        self._waiting_S = self._waiting_S[at:]
        return np.concatenate(said) if said else np.zeros((0, self._tokens), np.float32)

    def finish(self) -> np.ndarray:
        """Log-probabilities (T, V) of the frames behind the last whole chunk; the stream is over."""
        frames = (len(self._waiting_S) - self._chunks.receptive_field) // self._chunks.frame + 1
        if frames < 1:
            return np.zeros((0, self._tokens), np.float32)
        piece_S, self._waiting_S = self._waiting_S[: self._chunks.samples(frames)], self._waiting_S[:0]
        return self._hear(piece_S)

    def _hear(self, piece_S: np.ndarray) -> np.ndarray:
        said = dict(zip(self._outputs, self._session.run(None, {"wave": piece_S[None], **self._kept}), strict=True))
        self._kept = {STATE + name.removeprefix(NEXT): value for name, value in said.items() if name.startswith(NEXT)}
        log_probs_TV = said["log_probs"][0]
        # What is silent is silent, and what comes behind it still knows that it was.
        return silence(*log_probs_TV.shape) if float(np.abs(piece_S).max()) < SILENCE_PEAK else log_probs_TV
