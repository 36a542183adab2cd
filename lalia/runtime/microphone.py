"""Blocks of audio in real time, from a microphone (sounddevice) or from a file that replaces it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lalia.audio.reading import read_blocks
from lalia.errors import UserError
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

BLOCK_S: Seconds = 0.04
BEHIND_S: Seconds = 30.0
"""The longest audio that is buffered if the model is slower than real time; more is dropped and counted."""
_POLL_S: Seconds = 0.1

Block = tuple[np.ndarray, Seconds]
"""Samples (S,) float32, and the time (``time.monotonic``) at which the stream began."""


class Microphone:
    """A microphone: ``with Microphone(device) as microphone: for samples, began in microphone.blocks(stopped)``

    It records at 16 kHz if the device supports that, else at the device's default ``rate``.
    """

    def __init__(self, device: str | None = None, channel: int | None = None) -> None:
        """``device`` is a number or a part of a name from ``devices``; None is the system's default. ``channel`` is that of the
        device, from 0; None: the only one that is opened.

        ``UserError`` if there is no such microphone or channel, or sounddevice or PortAudio is missing.
        """
        self._channel = channel or 0
        self._module = sounddevice()
        self._queue: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        self._queued: Samples = 0
        self._taken: Samples = 0
        self._began: Seconds | None = None
        self.lost: Samples = 0
        """samples that were dropped because the buffer was full"""
        wanted: int | str | None = int(device) if device and device.isdecimal() else device
        try:
            found = self._module.query_devices(wanted, "input")
            self.name = str(found["name"])
            if self._channel >= found["max_input_channels"]:
                has = found["max_input_channels"]
                raise UserError(f"microphone {self.name!r}: has no channel {self._channel + 1}; it has {has}")
            self.rate = self._rate(wanted, round(float(found["default_samplerate"])))
            self._stream: Any = self._module.InputStream(
                samplerate=self.rate, device=wanted, channels=self._channel + 1, dtype="float32", callback=self._take,
                blocksize=round(BLOCK_S * self.rate), latency="low",
            )  # fmt: skip
        except (self._module.PortAudioError, ValueError) as error:
            what = f"microphone {device!r}" if device else "microphone"
            raise UserError(
                f"{what}: cannot be used ({_line(error)}); lalia listen --devices lists the microphones, --from FILE takes a file"
            ) from error

    def _rate(self, device: int | str | None, own: int) -> int:
        try:
            self._module.check_input_settings(device=device, channels=1, dtype="float32", samplerate=SAMPLE_RATE)
        except self._module.PortAudioError:
            return own
        return SAMPLE_RATE

    def _take(self, block_SC: np.ndarray, frames: int, when: Any, status: Any) -> None:
        """Called by PortAudio's thread, which must not block."""
        if self._began is None:
            self._began = time.monotonic() - frames / self.rate
        if self._queued - self._taken > BEHIND_S * self.rate:
            self.lost += frames
            return
        self._queued += frames
        self._queue.put(block_SC[:, self._channel].copy())

    def blocks(self, stopped: Callable[[], bool]) -> Iterator[Block]:
        """Blocks of audio until ``stopped`` returns True. ``UserError`` if the microphone is unplugged."""
        while not stopped():
            try:
                samples = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if not self._stream.active:
                    raise UserError(f"microphone {self.name!r}: was disconnected; plug it in and start again") from None
                continue
            self._taken += len(samples)
            assert self._began is not None
            yield samples, self._began

    def __enter__(self) -> Microphone:
        try:
            self._stream.start()
        except self._module.PortAudioError as error:
            raise UserError(f"microphone {self.name!r}: cannot be started ({_line(error)}); is it in use?") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def file_blocks(path: Path, fast: bool, stopped: Callable[[], bool], channel: int | None = None) -> Iterator[Block]:
    """The blocks of a file at the speed of a microphone, or as fast as possible with ``fast``.

    ``channel`` counts from 0; None: their mix. ``AudioError`` if the file cannot be read.
    """
    began = time.monotonic()
    given: Samples = 0
    size = to_samples(BLOCK_S)
    for read_S in read_blocks(path, channel=channel):
        for start in range(0, len(read_S), size):
            block_S = read_S[start : start + size]
            given += len(block_S)
            if not fast:
                time.sleep(max(0.0, began + to_seconds(given) - time.monotonic()))
            if stopped():
                return
            yield block_S, began


def devices() -> list[str]:
    """The available microphones, one line each: number, name, channels and rate."""
    module = sounddevice()
    try:
        found = list(module.query_devices())
        default = module.default.device[0]
    except module.PortAudioError as error:
        raise UserError(f"microphones: PortAudio cannot list them ({_line(error)})") from error
    return [
        f"{number:3} {'*' if number == default else ' '} {device['name']}, "
        f"{device['max_input_channels']} channels, {device['default_samplerate']:.0f} Hz"
        for number, device in enumerate(found)
        if device["max_input_channels"] > 0
    ]


def sounddevice() -> Any:
    """The package sounddevice; ``UserError`` if it or the library PortAudio is missing."""
    try:
        import sounddevice as module
    except ImportError as error:
        raise UserError(
            "a microphone needs the package sounddevice, which is missing; run: pip install 'lalia[listen]' (or give a file: "
            "--from FILE)"
        ) from error
    except OSError as error:
        raise UserError(
            f"a microphone needs PortAudio, which is missing ({_line(error)}); install libportaudio2 (Debian, Ubuntu), or give "
            "a file: --from FILE"
        ) from error
    return module


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
