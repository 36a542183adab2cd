"""Read any audio file as float32 mono 16 kHz, or say in one line why not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from lalia.audio import containers, signatures
from lalia.audio.channels import Mixer
from lalia.audio.resampling import Resampler
from lalia.exits import UserError
from lalia.units import SAMPLE_RATE, Seconds, to_seconds

Source = str | Path | bytes

SUFFIXES = frozenset(
    f".{suffix}"
    for names in (
        "wav flac ogg oga opus mp3 aif aiff au caf w64 sph voc",
        "g722 m4a mp4 mov webm mka mkv aac wma amr 3gp",
    )
    for suffix in names.split()
)
"""Names that audio files usually have: what is picked up in a folder."""

_BLOCK_SAMPLES = 1 << 18
_RATES = (4_000, 768_000)
_MOST_CHANNELS = 64
_LOUDEST = 100.0


class AudioError(UserError):
    """A clip that cannot be used. The message is one line: which clip, what is wrong with it, what was expected."""


@dataclass(frozen=True)
class AudioInfo:
    """What a clip's headers say: seconds, samples per second, channels, and the kind of file."""

    duration_s: Seconds
    rate: int
    channels: int
    format: str


@dataclass(frozen=True)
class Note:
    """Something about a file that a person should be told once; the file is used all the same.

    ``kind`` is one of a few words, so that notes can be counted; ``text`` is one line without the file's name.
    """

    kind: str
    text: str


Tell = Callable[[Note], None]
"""Receives the notes of a file while it is read."""


CANCELLED, TWO_VOICES = "channels cancel", "two voices"
"""Kinds of notes that are about channels."""


def ignore(note: Note) -> None:
    """For callers that have nobody to tell."""


def read_audio(
    source: Source,
    name: str | None = None,
    *,
    channel: int | None = None,
    tell: Tell = ignore,
    strict: bool = False,
) -> np.ndarray:
    """The whole clip as a wave: float32, shape (samples,), mono, 16 kHz, -1 to 1.

    ``source`` is a path or a file's bytes; ``name`` tells bytes' file name (errors name it; raw G.722 is known by it).
    ``channel`` counts from 0; None mixes them (``lalia.audio.channels``).
    ``tell`` receives notes; ``strict`` refuses what is cut short.
    Raises ``AudioError`` when it is missing, empty, no audio, or holds NaN.
    """
    blocks = list(read_blocks(source, name, channel=channel, tell=tell, strict=strict))
    wave = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not wave.size:
        raise AudioError(f"{_label(source, name)}: holds no sound (0 samples); remove it or record it again")
    return wave


def read_blocks(
    source: Source,
    name: str | None = None,
    start_s: int = 0,
    end_s: int | None = None,
    *,
    channel: int | None = None,
    tell: Tell = ignore,
    strict: bool = False,
) -> Iterator[np.ndarray]:
    """The clip as consecutive blocks of the wave that ``read_audio`` returns, in memory that does not grow with it.

    ``start_s`` and ``end_s`` (None: to its end) are whole seconds, which are whole samples at every rate.
    """
    label = _label(source, name)
    with _opened(source, name) as (file, kind):
        resampler: Resampler | None = None
        mixer: Mixer | None = None
        first_s = max(0, start_s - 1)  # How the second before was mixed decides how the first one begins.
        read = passed = 0
        for rate, block_SC in _raw_blocks(source, file, kind, label, first_s):
            if resampler is None or mixer is None:
                _check_form(rate, block_SC.shape[1], label)
                _check_channel(channel, block_SC.shape[1], label)
                resampler, mixer, passed = Resampler(rate), Mixer(rate, channel), (start_s - first_s) * rate
            if end_s is not None:
                block_SC = block_SC[: (end_s - first_s) * rate - read]
                if not len(block_SC):
                    break
            _check_samples(block_SC, first_s + read / rate, label)
            read += len(block_SC)
            mixed_S = mixer(block_SC)
            wave = resampler(mixed_S[passed:])
            passed = max(0, passed - len(mixed_S))
            if wave.size:
                yield wave
        if resampler is not None and mixer is not None:
            wave = resampler(mixer.finish()[passed:], last=True)
            if wave.size:
                yield wave
            if mixer.cancelled:
                tell(Note(CANCELLED, mixer.cancelled))
            if mixer.two_voices:
                tell(Note(TWO_VOICES, "its two channels hold different voices, which are mixed"))


def probe_audio(source: Source, name: str | None = None) -> AudioInfo:
    """What the clip's headers say, without decoding it where they say how long it is."""
    label = _label(source, name)
    with _opened(source, name) as (file, kind):
        if kind.name == signatures.RAW_G722:
            return AudioInfo(file.seek(0, os.SEEK_END) / signatures.G722_BYTES_PER_SECOND, SAMPLE_RATE, 1, kind.name)
        if kind.libsndfile:
            try:
                with _soundfile(source, file) as opened:
                    frames, rate, channels = opened.frames, opened.samplerate, opened.channels
            except soundfile.LibsndfileError:
                pass
            else:
                _check_form(rate, channels, label)
                return AudioInfo(_believed(frames / rate, source, name), rate, channels, kind.name)
        try:
            rate, channels, duration_s = containers.stream_facts(file, kind.container)
        except containers.DecoderMissing as error:
            raise _decoder_missing(label, kind) from error
        except containers.DecodingFailed as error:
            raise AudioError(f"{label}: cannot be read as {kind.name}: {error}") from error
        _check_form(rate, channels, label)
        return AudioInfo(_believed(duration_s, source, name), rate, channels, kind.name)


def _believed(duration_s: Seconds | None, source: Source, name: str | None) -> Seconds:
    """A duration that headers declare; counted where they declare none, or more seconds than the file has bytes."""
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if duration_s is not None and 0 <= duration_s <= size:
        return duration_s
    return to_seconds(sum(len(block) for block in read_blocks(source, name)))


def _raw_blocks(
    source: Source, file: BinaryIO, kind: signatures.Kind, label: str, start_s: int
) -> Iterator[tuple[int, np.ndarray]]:
    failed = "no decoder"
    if kind.libsndfile:
        try:
            opened = _soundfile(source, file)
        except soundfile.LibsndfileError as error:
            failed = _libsndfile_reason(error)
        else:
            with opened:
                yield from _soundfile_blocks(opened, kind, label, start_s)
            return
    try:
        passed = 0  # FFmpeg's containers are not all indexed: what is before the start is decoded and let go.
        for rate, block_SC in containers.stream_blocks(file, kind.container):
            yield rate, block_SC[max(0, start_s * rate - passed) :]
            passed += len(block_SC)
    except containers.DecoderMissing as error:
        if kind.libsndfile:  # Most likely broken: these kinds need no PyAV.
            raise AudioError(f"{label}: cannot be read as {kind.name}: {failed}; is it damaged?") from error
        raise _decoder_missing(label, kind) from error
    except containers.DecodingFailed as error:
        raise AudioError(f"{label}: cannot be read as {kind.name}: {error}; is it damaged or cut short?") from error


class _Sequential(soundfile.SoundFile):
    """Read from front to back. soundfile seeks behind each block that it reads from what can be sought in, and an MP3
    decoder that seeks has lost the bits of earlier frames: one frame in each block would be broken."""

    def seekable(self) -> bool:
        return False


def _soundfile(source: Source, file: BinaryIO) -> soundfile.SoundFile:
    file.seek(0)
    if isinstance(source, bytes):
        return _Sequential(file)
    if str(source).lower().endswith(".raw"):
        # libsndfile believes the suffix .raw more than the header, so it gets no name.
        return _Sequential(io.BytesIO(file.read()))
    # As bytes, since soundfile refuses a name that is not UTF-8; Windows has only names that are Unicode.
    return _Sequential(os.fspath(source) if os.name == "nt" else os.fsencode(source))


def _soundfile_blocks(
    opened: soundfile.SoundFile, kind: signatures.Kind, label: str, start_s: int
) -> Iterator[tuple[int, np.ndarray]]:
    _check_form(opened.samplerate, opened.channels, label)
    read, block_frames = min(start_s * opened.samplerate, opened.frames), _BLOCK_SAMPLES // opened.channels
    skip = read > 0
    while True:
        try:
            if skip:
                opened.seek(read)
                skip = False
            block_SC = opened.read(block_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = _libsndfile_reason(error)
            at = read / opened.samplerate
            raise AudioError(f"{label}: {kind.name} is damaged or cut short at {at:.1f} s ({reason})") from error
        if not len(block_SC):
            break
        read += len(block_SC)
        yield opened.samplerate, block_SC
    # MP3 encoders count their padding in or out: a few frames are no loss. Lossless kinds have no such excuse.
    if read < opened.frames - (0 if kind.name in ("WAV", "FLAC") else 4 * 1152):
        was, found = opened.frames / opened.samplerate, read / opened.samplerate
        raise AudioError(f"{label}: is cut short: {kind.name} of {was:.1f} s ends after {found:.1f} s; copy it again")


@contextmanager
def _opened(source: Source, name: str | None) -> Iterator[tuple[BinaryIO, signatures.Kind]]:
    label = _label(source, name)
    try:
        # Closed by the `with` below, once it is known that it could be opened.
        file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise AudioError(f"{label}: no such file") from error
    except IsADirectoryError as error:
        raise AudioError(f"{label}: is a folder; expected an audio file") from error
    except OSError as error:
        raise AudioError(f"{label}: cannot be opened ({error.strerror})") from error
    with file:
        try:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(signatures.HEAD_BYTES)
        except OSError as error:
            raise AudioError(
                f"{label}: cannot be read ({error.strerror}); expected a file that can be read twice"
            ) from error
        if not size:
            raise AudioError(f"{label}: is empty (0 bytes); copy it again")
        suffix = Path(name or (source if not isinstance(source, bytes) else "")).suffix.lower()
        kind = signatures.recognise(head, suffix, size)
        if kind is None:
            raise AudioError(
                f"{label}: is no audio file we know (starts with {head[:8].hex(' ')}); "
                "expected WAV, FLAC, Ogg, Opus, MP3, M4A, WebM or G.722 (raw samples: give them a header first)"
            )
        if missing := signatures.missing_bytes(file, kind, size):
            how = f"at least {missing} bytes are missing" if missing > 1 else "its last page is missing"
            raise AudioError(f"{label}: is cut short: {kind.name}, and {how}; copy it again")
        yield file, kind


def _check_channel(channel: int | None, channels: int, label: str) -> None:
    if channel is not None and channel >= channels:
        there = f"it has {channels}" if channels > 1 else "it is mono"
        raise AudioError(f"{label}: has no channel {channel + 1}; {there}")


def _check_form(rate: int, channels: int, label: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f"{label}: has {rate} samples per second; expected {_RATES[0]} to {_RATES[1]}")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise AudioError(f"{label}: has {channels} channels; expected 1 to {_MOST_CHANNELS}")


def _check_samples(block_SC: np.ndarray, at_s: Seconds, label: str) -> None:
    if not block_SC.size:
        return
    peak = max(float(block_SC.max()), -float(block_SC.min()))
    if not np.isfinite(peak):
        raise AudioError(
            f"{label}: holds samples that are no numbers (NaN or infinite) after {at_s:.1f} s; export it again"
        )
    if peak > _LOUDEST:
        raise AudioError(
            f"{label}: samples reach {peak:.0f}; expected floats from -1 to 1 (divide by 32768 and save again)"
        )


def _label(source: Source, name: str | None) -> str:
    if name is not None:
        return name
    return f"{len(source)} bytes of audio" if isinstance(source, bytes) else os.fspath(source)


def _decoder_missing(label: str, kind: signatures.Kind) -> AudioError:
    return AudioError(f"{label}: {kind.name} is decoded by PyAV, which is not installed; run: pip install av")


def _libsndfile_reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".") or f"libsndfile error {error.code}"
