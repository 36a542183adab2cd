"""Voice activity detection: speech probabilities per 32 ms frame from the Silero VAD model, run by onnxruntime.

The model file is silero_vad_16k_sequence.onnx of the package silero-vad 6.2.3 (MIT, ``silero_vad.LICENSE``). It is kept here
because installing that package brings torch. ``benchmarks/data/vad.py`` compares it with others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lalia.onnx_session import open_session, shared_session
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

FRAME_SAMPLES = 512
FRAME_S: Seconds = FRAME_SAMPLES / SAMPLE_RATE
_CONTEXT_SAMPLES = 64
_MODEL = Path(__file__).with_name("silero_vad.onnx")
_FRAMES_PER_CALL = 512
_SPEECH_THRESHOLD = 0.5
_MARGIN_S: Seconds = 0.5
"""Kept before and after speech: detectors react late, and words begin and end softly."""


class VoiceActivity:
    """A detector for any number of waves, one after the other; it uses one thread.

    ``shared``: with one model for all such detectors of the process, in any threads; not for processes that fork later.
    """

    def __init__(self, shared: bool = False) -> None:
        self._session = shared_session(_MODEL) if shared else open_session(_MODEL)
        self.reset()

    def reset(self) -> None:
        """Reset the state: the next block begins another wave."""
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._waiting_S = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def feed(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
        """Speech probabilities (T,) float32 of the frames that ``block_S`` completes, continuing the wave.

        With ``last`` the wave is padded to a whole frame, so that N samples give ceil(N / 512) frames in total.
        """
        wave_S = np.concatenate([self._waiting_S, block_S])
        if last and (odd := (len(wave_S) - _CONTEXT_SAMPLES) % FRAME_SAMPLES):
            wave_S = np.pad(wave_S, (0, FRAME_SAMPLES - odd))
        frames = (len(wave_S) - _CONTEXT_SAMPLES) // FRAME_SAMPLES
        self._waiting_S = wave_S[frames * FRAME_SAMPLES :]
        if not frames:
            return np.zeros(0, np.float32)
        window = _CONTEXT_SAMPLES + FRAME_SAMPLES
        frames_TS = np.lib.stride_tricks.sliding_window_view(wave_S, window)[::FRAME_SAMPLES]
        found = []
        for start in range(0, frames, _FRAMES_PER_CALL):
            some_TS = np.ascontiguousarray(frames_TS[start : min(frames, start + _FRAMES_PER_CALL)], np.float32)
            speech_T, self._h, self._c = self._session.run(None, {"input": some_TS, "h": self._h, "c": self._c})
            found.append(speech_T.reshape(-1))
        return np.concatenate(found)

    def __call__(self, wave_S: np.ndarray) -> np.ndarray:
        """Speech probabilities (ceil(S / 512),) float32 of a whole wave, float32 (S,) at 16 kHz."""
        self.reset()
        return self.feed(wave_S, last=True)


class Endpointer:
    """Finds where speech begins and ends while a wave arrives, by a detector that shares its model.

    Speech begins with a frame whose probability reaches ``threshold``, and ends when frames below ``threshold`` minus
    ``HYSTERESIS`` have lasted for ``silence_s``. So an end is known ``silence_s`` and at most a frame after it.
    """

    HYSTERESIS = 0.15

    def __init__(self, threshold: float = _SPEECH_THRESHOLD, silence_s: Seconds = 0.5) -> None:
        self.threshold, self.silence_s = threshold, silence_s
        self.speaking = False
        self.at: Samples = 0
        """the end of the last frame"""
        self._detector = VoiceActivity(shared=True)
        self._waiting_S = np.zeros(0, np.float32)
        self._quiet: Samples = 0

    def feed(self, wave_S: np.ndarray) -> Iterator[tuple[np.ndarray, bool | None]]:
        """The frames (``FRAME_SAMPLES``,) that ``wave_S`` (float32, 16 kHz) completes, each with True if speech begins
        in it, False if speech has ended, None if nothing changes."""
        self._waiting_S = np.concatenate([self._waiting_S, wave_S])
        for speech in self._detector.feed(wave_S):
            frame_S, self._waiting_S = self._waiting_S[:FRAME_SAMPLES], self._waiting_S[FRAME_SAMPLES:]
            self.at += FRAME_SAMPLES
            yield frame_S, self._change(float(speech))

    def _change(self, speech: float) -> bool | None:
        if not self.speaking:
            if speech < self.threshold:
                return None
            self.speaking, self._quiet = True, 0
            return True
        self._quiet = self._quiet + FRAME_SAMPLES if speech < self.threshold - self.HYSTERESIS else 0
        if to_seconds(self._quiet) < self.silence_s:
            return None
        self.speaking = False
        return False

    @property
    def ended(self) -> Samples:
        """Where the speech that ended last had its end."""
        return self.at - self._quiet


class NonSpeech:
    """Sets samples without speech to zero, in a wave that comes in blocks.

    A piece counts as speech where speech is within half a second, so what ``feed`` returns is that much behind. All pieces but
    the last begin and end on multiples of ``grid`` samples. Memory holds two blocks.
    """

    def __init__(self, grid: Samples) -> None:
        self._unit = math.lcm(FRAME_SAMPLES, grid)
        self._margin = -(-to_samples(_MARGIN_S) // self._unit)
        self._detector = VoiceActivity()
        self._waiting_S = np.zeros(0, np.float32)
        self._raw_U = np.zeros(0, bool)  # decided units: up to `margin` already returned, then those not yet returned
        self._speech_T = np.zeros(0, np.float32)
        self._returned = 0

    def feed(self, block_S: np.ndarray, last: bool = False) -> list[tuple[bool, np.ndarray]]:
        """The pieces (speech, samples) that are decided; with ``last`` the wave ends."""
        self._waiting_S = np.concatenate([self._waiting_S, block_S])
        found_T = self._detector.feed(block_S.astype(np.float32, copy=False), last)
        speech_T = np.concatenate([self._speech_T, found_T])
        per_unit = self._unit // FRAME_SAMPLES
        if last and len(speech_T) % per_unit:
            speech_T = np.pad(speech_T, (0, per_unit - len(speech_T) % per_unit))
        units = len(speech_T) // per_unit
        peaks_U = speech_T[: units * per_unit].reshape(units, per_unit).max(1, initial=0)
        self._raw_U = np.concatenate([self._raw_U, peaks_U > _SPEECH_THRESHOLD])
        self._speech_T = speech_T[units * per_unit :]
        margin, returned = self._margin, self._returned
        ready = len(self._raw_U) - returned - (0 if last else margin)
        if ready <= 0:
            return []
        padded_U = np.pad(self._raw_U, margin)
        near_U = np.lib.stride_tricks.sliding_window_view(padded_U, 2 * margin + 1).max(1)[returned : returned + ready]
        ends = np.append(np.flatnonzero(np.diff(near_U)) + 1, ready)
        pieces, start = [], 0
        for end in ends.tolist():
            piece_S = self._waiting_S[start * self._unit : end * self._unit]
            if len(piece_S):
                speech = bool(near_U[start])
                pieces.append((speech, piece_S if speech else np.zeros_like(piece_S)))
            start = end
        self._waiting_S = self._waiting_S[ready * self._unit :]
        self._returned = min(margin, returned + ready)
        self._raw_U = self._raw_U[returned + ready - self._returned :]
        return pieces


def mute_non_speech(blocks: Iterable[np.ndarray], grid: Samples) -> Iterator[tuple[bool, np.ndarray]]:
    """A wave, given as consecutive ``blocks`` (S,), as the pieces (speech, samples) of ``NonSpeech``."""
    muted = NonSpeech(grid)
    for block_S, last in _flag_last(blocks):
        yield from muted.feed(block_S, last)


def _flag_last(blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    held: np.ndarray | None = None
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True
