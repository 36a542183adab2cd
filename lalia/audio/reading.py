"""Read audio files of any format as float32 mono 16 kHz waves, whole or block by block.

This is the only place that decides how a file is read: format by its first bytes (`formats`), real length by its structure
(`riff`, `mpeg`, `flac_frames`, `ogg`), decoder (libsndfile, else FFmpeg by PyAV), downmix (`channels`), resampling (soxr).
A file that cannot be read raises ``AudioError`` with its name, the reason and a remedy in one line.

Legend: S samples, C channels.
"""

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
import soxr

from lalia.audio import ffmpeg, flac_frames, formats, mpeg, ogg, riff
from lalia.audio.channels import Mixer
from lalia.audio.file_structure import AudioFormat, FileStructure, Stream, open_stream, read_or_map, whole_file
from lalia.errors import AudioError
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
"""Suffixes of the files that are read from a folder."""

_BLOCK_SAMPLES = 1 << 18
_RATE_RANGE = (4_000, 768_000)
_MAX_CHANNELS = 64
_MAX_PEAK = 100.0
# Differences between two durations that are not reported.
_HEADER_TOLERANCE_S: Seconds = 0.05
_ENCODER_TOLERANCE_S: Seconds = 0.1  # Some encoders count the padding that they add, some do not.
_PACKET_TOLERANCE_S: Seconds = 0.3  # Containers count whole packets.
_DECODER_TOLERANCE_S: Seconds = 0.2


@dataclass(frozen=True)
class AudioInfo:
    """Facts from a file's headers: duration in seconds, sample rate in Hz, channels, and format (``FLAC``)."""

    duration_s: Seconds
    rate: int
    channels: int
    format: str


@dataclass(frozen=True)
class Note:
    """A warning about a file that is still used.

    ``kind`` is one of the constants below, so that notes can be counted; ``text`` is one line without the file's name.
    """

    kind: str
    text: str


NoteHandler = Callable[[Note], None]
"""Called with each note while a file is read."""

CHANNELS_CANCEL, TWO_VOICES = "channels cancel", "two voices"
"""Kinds of notes about channels."""

LENGTH, CUT_SHORT, DAMAGED = "length", "cut short", "damaged"
JOINED, TRACKS, TRAILING_BYTES = "joined", "tracks", "bytes behind"
"""Kinds of notes about a header that disagrees with the file."""


def ignore_note(note: Note) -> None:
    """Discard a note: for callers that report none."""


def read_audio(
    source: Source,
    name: str | None = None,
    *,
    channel: int | None = None,
    tell: NoteHandler = ignore_note,
    strict: bool = False,
) -> np.ndarray:
    """The whole file as a wave: float32, shape (S,), mono, 16 kHz, -1 to 1.

    ``source`` is a path or a file's bytes; ``name`` is the file name of bytes, used in errors and to recognise raw G.722.
    ``channel`` counts from 0; None mixes all channels (``lalia.audio.channels``).
    ``tell`` is called with each note; ``strict`` raises for truncated files instead.
    Raises ``AudioError`` where the file is missing, empty, truncated beyond use, not audio, or holds NaN.
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
    tell: NoteHandler = ignore_note,
    strict: bool = False,
) -> Iterator[np.ndarray]:
    """Consecutive blocks (S,) of the wave that ``read_audio`` returns, in memory that does not grow with the file.

    ``start_s`` and ``end_s`` (None: the end) are whole seconds, because these are whole samples at every rate.
    """
    label = _label(source, name)
    with _open(source, name) as (file, kind):
        structure = _structure(file, kind)
        check = _LengthCheck(label, kind, tell, strict)
        check.before_decoding(structure)
        converter: _Converter | None = None
        first_s = max(0, start_s - 1)  # The mix of the second before affects the first 10 ms.
        begun_s, read = float(first_s), 0  # start and samples of the section with this rate and these channels
        decoding = ffmpeg.DecodingReport()
        for rate, block_SC in _file_blocks(source, file, structure.streams, label, first_s, decoding):
            channels = block_SC.shape[1]
            if converter is None or (rate, channels) != converter.format:
                _check_format(rate, channels, label)
                _check_channel(channel, channels, label)
                if converter is not None:
                    yield from converter.finish(tell)
                    begun_s, read = begun_s + read / converter.format[0], 0
                converter = _Converter(rate, channels, channel, max(0, round((start_s - begun_s) * rate)))
            if end_s is not None:
                block_SC = block_SC[: max(0, round((end_s - begun_s) * rate) - read)]
                if not len(block_SC):
                    break
            _check_samples(block_SC, begun_s + read / rate, label)
            read += len(block_SC)
            yield from converter.feed(block_SC)
        else:
            read_s = begun_s + (read / converter.format[0] if converter else 0.0)
            check.after_decoding(read_s, decoding)
        if converter is not None:
            yield from converter.finish(tell)


def wave_blocks(wave: np.ndarray, rate: int = SAMPLE_RATE, name: str = "wave") -> Iterator[np.ndarray]:
    """``wave``, floats (S,) at ``rate`` Hz, as consecutive blocks at 16 kHz; errors call it ``name``.

    Raises ``AudioError`` for several channels, integers, samples that are not finite, and rates and levels as in files.
    """
    wave = check_wave(wave, name)
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or rate != int(rate):
        raise AudioError(f"{name}: a sample rate of {rate!r}; expected whole samples per second, such as 16000")
    _check_format(int(rate), 1, name)
    if rate == SAMPLE_RATE:
        if wave.size:
            yield wave
        return
    resampler = Resampler(int(rate))
    for start in range(0, len(wave), _BLOCK_SAMPLES):
        last = start + _BLOCK_SAMPLES >= len(wave)
        block_S = resampler(wave[start : start + _BLOCK_SAMPLES].astype(np.float32, copy=False), last)
        if block_S.size:
            yield block_S


def check_wave(wave: np.ndarray, name: str) -> np.ndarray:
    """``wave`` if it is one channel of finite floats, else ``AudioError`` with what to do."""
    if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
        hint = ""
        if wave.ndim == 2 and min(wave.shape) <= _MAX_CHANNELS:
            axis = int(wave.shape[1] < wave.shape[0])
            hint = f"; mix its {wave.shape[axis]} channels with .mean({axis}), or give the file"
        if np.issubdtype(wave.dtype, np.integer):
            hint += f"; divide integers by {-int(np.iinfo(wave.dtype).min) or 'half their range'}"
        found = f"{wave.dtype} of shape {wave.shape}"
        raise AudioError(f"{name}: is {found}; expected floats from -1 to 1 of shape (samples,), mono{hint}")
    peak = max(float(wave.max()), -float(wave.min())) if wave.size else 0.0
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has samples that are not finite (NaN or infinity)")
    if peak > _MAX_PEAK:
        raise AudioError(f"{name}: samples reach {peak:.0f}; expected floats from -1 to 1 (divide by 32768)")
    return wave


class _Converter:
    """Mixes and resamples blocks (S, C) of one rate, without the first ``skipped`` samples of the mix."""

    def __init__(self, rate: int, channels: int, channel: int | None, skipped: int) -> None:
        self.format = (rate, channels)
        self._resampler, self._mixer = Resampler(rate), Mixer(rate, channel)
        self._skipped = skipped

    def feed(self, block_SC: np.ndarray) -> Iterator[np.ndarray]:
        mixed_S = self._mixer(block_SC)
        wave = self._resampler(mixed_S[self._skipped :])
        self._skipped = max(0, self._skipped - len(mixed_S))
        if wave.size:
            yield wave

    def finish(self, tell: NoteHandler) -> Iterator[np.ndarray]:
        wave = self._resampler(self._mixer.finish()[self._skipped :], last=True)
        if wave.size:
            yield wave
        if self._mixer.cancelled:
            tell(Note(CHANNELS_CANCEL, self._mixer.cancelled))
        if self._mixer.two_voices:
            tell(Note(TWO_VOICES, "its two channels hold different voices, which are mixed"))


class _LengthCheck:
    """Compares the duration in a header with the file. The file decides, and one note gives both figures.

    A file longer than its header says is read whole (note ``length``). A shorter one is read to its end (note ``cut short``),
    or raises ``AudioError`` with ``strict``. Damaged packets are skipped (note ``damaged``).
    """

    def __init__(self, label: str, kind: AudioFormat, tell: NoteHandler, strict: bool) -> None:
        self._label, self._kind, self._note, self._strict = label, kind, tell, strict
        self._actual_s: Seconds | None = None
        self._reported = False

    def before_decoding(self, structure: FileStructure) -> None:
        """Compare the header with the structure of the file."""
        declared_s, self._actual_s = structure.declared_s, structure.actual_s
        if declared_s is not None and self._actual_s is not None:
            self._compare_durations(declared_s, self._actual_s, _HEADER_TOLERANCE_S)
        if structure.truncation and not self._reported:
            self._truncated(structure.truncation)
        if len(structure.streams) > 1 and not self._reported:
            self._note(Note(JOINED, f"holds {len(structure.streams)} recordings one after the other: read all of them"))
        if structure.trailing_bytes:
            self._note(
                Note(
                    TRAILING_BYTES,
                    f"{structure.trailing_bytes} bytes after its sound are in no known format: not read",
                )
            )

    def after_decoding(self, read_s: Seconds, decoding: ffmpeg.DecodingReport) -> None:
        """Compare the expected duration with what was decoded, after decoding to the end."""
        if decoding.tracks:
            self._note(Note(TRACKS, decoding.tracks))
        if decoding.bad_packets:
            total = decoding.packets + decoding.bad_packets
            self._note(Note(DAMAGED, f"is damaged: {decoding.bad_packets} of {total} packets cannot be decoded"))
        if self._reported:
            return
        if decoding.declared_s is not None:
            self._compare_durations(
                decoding.declared_s, read_s, _PACKET_TOLERANCE_S if decoding.packets else _ENCODER_TOLERANCE_S
            )
        elif self._actual_s is not None and read_s < self._actual_s - _DECODER_TOLERANCE_S:
            self._truncated(f"it holds {self._actual_s:.1f} s, of which {read_s:.1f} s can be decoded")

    def _compare_durations(self, declared_s: Seconds, actual_s: Seconds, least_s: Seconds) -> None:
        if abs(declared_s - actual_s) <= least_s:
            return
        digits = 1 if abs(declared_s - actual_s) > 0.1 else 2
        figures = f"the header says {declared_s:,.{digits}f} s, the file holds {actual_s:,.{digits}f} s"
        if actual_s > declared_s:
            self._reported = True
            self._note(Note(LENGTH, f"{figures}: read {actual_s:,.{digits}f} s"))
        else:
            self._truncated(figures, f": read {actual_s:,.{digits}f} s")

    def _truncated(self, why: str, read: str = ": read as far as it goes") -> None:
        self._reported = True
        if self._strict:
            raise AudioError(
                f"{self._label}: is cut short: {self._kind.name}: {why}; copy it again, or leave out --strict"
            )
        self._note(Note(CUT_SHORT, f"is cut short: {why}{read}"))


def probe_audio(source: Source, name: str | None = None) -> AudioInfo:
    """Duration, rate, channels and format by the headers; decodes only where no header gives a plausible duration."""
    label = _label(source, name)
    with _open(source, name) as (file, kind):
        if kind.name == formats.RAW_G722:
            return AudioInfo(file.seek(0, os.SEEK_END) / formats.G722_BYTES_PER_SECOND, SAMPLE_RATE, 1, kind.name)
        structure = _structure(file, kind)
        length_s, form = structure.actual_s, None
        lengths = []
        for stream in structure.streams if length_s is None else structure.streams[:1]:
            rate, channels, stream_s = _stream_info(source, file, stream, label)
            form = form or (rate, channels)
            lengths.append(stream_s)
        assert form is not None
        _check_format(*form, label)
        if length_s is None and None not in lengths:
            length_s = sum(stream_s for stream_s in lengths if stream_s is not None)
        return AudioInfo(_plausible_duration(length_s, source, name), *form, kind.name)


def probe_rate_channels(source: Source, name: str | None = None) -> tuple[int, int]:
    """Sample rate in Hz and channels; cheaper than ``probe_audio``, which also finds the duration."""
    label = _label(source, name)
    with _open(source, name) as (file, kind):
        try:
            rate, channels, _ = _stream_info(source, file, Stream(kind), label)
        except AudioError:  # Its header may need repair first.
            rate, channels, _ = _stream_info(source, file, _structure(file, kind).streams[0], label)
        _check_format(rate, channels, label)
        return rate, channels


def _stream_info(source: Source, file: BinaryIO, stream: Stream, label: str) -> tuple[int, int, Seconds | None]:
    """Sample rate in Hz, channels, and the duration of a stream (None where its header gives none)."""
    if stream.format.libsndfile:
        try:
            with _soundfile(source, file, stream) as opened:
                return opened.samplerate, opened.channels, opened.frames / opened.samplerate
        except soundfile.LibsndfileError:
            pass
    try:
        return ffmpeg.stream_info(open_stream(file, stream), stream.format.container)
    except ffmpeg.DecoderMissing as error:
        raise _decoder_missing(label, stream.format) from error
    except ffmpeg.DecodingFailed as error:
        raise AudioError(f"{label}: cannot be read as {stream.format.name}: {error}") from error


def _plausible_duration(duration_s: Seconds | None, source: Source, name: str | None) -> Seconds:
    """The declared duration; decoded and counted where there is none, or more seconds than the file has bytes."""
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if duration_s is not None and 0 <= duration_s <= size:
        return duration_s
    return to_seconds(sum(len(block) for block in read_blocks(source, name)))


def _structure(file: BinaryIO, kind: AudioFormat) -> FileStructure:
    """The streams of a file and their real duration, without decoding samples."""
    size = file.seek(0, os.SEEK_END)
    if kind.name in ("WAV", "RF64", "W64"):
        return riff.wav_structure(file, kind, size)
    if kind.name == "AIFF":
        return riff.aiff_structure(file, kind, size)
    if kind.name == "AU":
        return riff.au_structure(file, kind, size)
    if kind.name == "CAF":
        return riff.caf_structure(file, kind, size)
    if kind.name == "NIST SPHERE":
        return riff.sphere_structure(file, kind, size)
    if kind.name == "MP3":
        return mpeg.mpeg_structure(read_or_map(file, size), 0, size)
    if kind.name == "FLAC":
        return flac_frames.flac_structure(read_or_map(file, size), size, kind)
    if kind.name == "Ogg":
        return ogg.ogg_structure(read_or_map(file, size), size, kind)
    return whole_file(kind)


def _file_blocks(
    source: Source,
    file: BinaryIO,
    streams: tuple[Stream, ...],
    label: str,
    start_s: int,
    decoding: ffmpeg.DecodingReport,
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of all streams from ``start_s`` on, as (rate in Hz, samples (S, C))."""
    if len(streams) == 1:
        yield from _stream_blocks(source, file, streams[0], label, start_s, decoding)
        return
    left_s = float(start_s)
    for stream in streams:
        for rate, block_SC in _stream_blocks(source, file, stream, label, 0, decoding):
            skipped = min(len(block_SC), round(left_s * rate))
            left_s -= skipped / rate
            if skipped < len(block_SC):
                yield rate, block_SC[skipped:]
    decoding.declared_s = None  # This is the last stream's alone.


def _stream_blocks(
    source: Source, file: BinaryIO, stream: Stream, label: str, start_s: int, decoding: ffmpeg.DecodingReport
) -> Iterator[tuple[int, np.ndarray]]:
    failed = "no decoder"
    kind = stream.format
    if kind.libsndfile:
        try:
            opened = _soundfile(source, file, stream)
        except soundfile.LibsndfileError as error:
            failed = _libsndfile_reason(error)
        else:
            with opened:
                yield from _soundfile_blocks(opened, kind, label, start_s, decoding)
            return
    try:
        passed = (
            0  # Not all of FFmpeg's containers are indexed: decode from the beginning and drop what precedes the start.
        )
        for rate, block_SC in ffmpeg.stream_blocks(open_stream(file, stream), kind.container, decoding):
            yield rate, block_SC[max(0, start_s * rate - passed) :]
            passed += len(block_SC)
    except ffmpeg.DecoderMissing as error:
        if kind.libsndfile:  # Most likely broken: these formats need no PyAV.
            raise AudioError(f"{label}: cannot be read as {kind.name}: {failed}; is it damaged?") from error
        raise _decoder_missing(label, kind) from error
    except ffmpeg.DecodingFailed as error:
        raise AudioError(f"{label}: cannot be read as {kind.name}: {error}; is it damaged or cut short?") from error


class _Sequential(soundfile.SoundFile):
    """Reads without seeking. soundfile seeks after each block of a seekable file, and an MP3 decoder that seeks loses its
    bit reservoir, which would break one frame of each block."""

    def seekable(self) -> bool:
        return False


def _soundfile(source: Source, file: BinaryIO, stream: Stream) -> soundfile.SoundFile:
    if stream.pieces:
        return _Sequential(open_stream(file, stream))
    file.seek(0)
    if isinstance(source, bytes):
        return _Sequential(file)
    if str(source).lower().endswith(".raw"):
        # libsndfile trusts the suffix .raw more than the header, so it gets no name.
        return _Sequential(io.BytesIO(file.read()))
    # As bytes, because soundfile rejects names that are not UTF-8; on Windows all names are Unicode.
    return _Sequential(os.fspath(source) if os.name == "nt" else os.fsencode(source))


def _soundfile_blocks(
    opened: soundfile.SoundFile, kind: AudioFormat, label: str, start_s: int, decoding: ffmpeg.DecodingReport
) -> Iterator[tuple[int, np.ndarray]]:
    _check_format(opened.samplerate, opened.channels, label)
    read, block_frames = min(start_s * opened.samplerate, opened.frames), _BLOCK_SAMPLES // opened.channels
    skip = read > 0
    while True:
        try:
            if skip:
                opened.seek(read)
                skip = False
            if kind.name == "FLAC":  # Bytes after the last frame would be an error.
                block_frames = min(block_frames, opened.frames - read)
            block_SC = opened.read(block_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = _libsndfile_reason(error)
            at = read / opened.samplerate
            raise AudioError(f"{label}: {kind.name} is damaged or cut short at {at:.1f} s ({reason})") from error
        if not len(block_SC):
            break
        read += len(block_SC)
        yield opened.samplerate, block_SC
    decoding.declared_s = opened.frames / opened.samplerate


@contextmanager
def _open(source: Source, name: str | None) -> Iterator[tuple[BinaryIO, AudioFormat]]:
    label = _label(source, name)
    try:
        # Closed by the `with` below.
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
            head = file.read(formats.HEAD_BYTES)
        except OSError as error:
            raise AudioError(
                f"{label}: cannot be read ({error.strerror}); expected a file that can be read twice"
            ) from error
        if not size:
            raise AudioError(f"{label}: is empty (0 bytes); copy it again")
        suffix = Path(name or (source if not isinstance(source, bytes) else "")).suffix.lower()
        kind = formats.detect_format(head, suffix, size)
        if kind is None:
            raise AudioError(
                f"{label}: is not a supported audio file (starts with {head[:8].hex(' ')}); "
                "expected WAV, FLAC, Ogg, Opus, MP3, M4A, WebM or G.722 (raw samples need a header)"
            )
        if kind.name == formats.FRAGMENT:
            raise AudioError(
                f"{label}: is a later piece of a recording (browsers record in pieces), and only the first piece has the"
                " header; join the pieces in their order into one file"
            )
        if kind.name == "NIST SPHERE" and b"shorten" in head[:1024]:
            raise AudioError(
                f"{label}: is NIST SPHERE compressed with shorten, which is not supported; convert it: sph2pipe -f wav"
                " IN.sph OUT.wav"
            )
        yield file, kind


def _check_channel(channel: int | None, channels: int, label: str) -> None:
    if channel is not None and channel >= channels:
        found = f"it has {channels}" if channels > 1 else "it is mono"
        raise AudioError(f"{label}: has no channel {channel + 1}; {found}")


def _check_format(rate: int, channels: int, label: str) -> None:
    if not _RATE_RANGE[0] <= rate <= _RATE_RANGE[1]:
        raise AudioError(f"{label}: has {rate} samples per second; expected {_RATE_RANGE[0]} to {_RATE_RANGE[1]}")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioError(f"{label}: has {channels} channels; expected 1 to {_MAX_CHANNELS}")


def _check_samples(block_SC: np.ndarray, at_s: Seconds, label: str) -> None:
    if not block_SC.size:
        return
    peak = max(float(block_SC.max()), -float(block_SC.min()))
    if not np.isfinite(peak):
        raise AudioError(
            f"{label}: holds samples that are not finite (NaN or infinity) after {at_s:.1f} s; export it again"
        )
    if peak > _MAX_PEAK:
        raise AudioError(
            f"{label}: samples reach {peak:.0f}; expected floats from -1 to 1 (divide by 32768 and save again)"
        )


def _label(source: Source, name: str | None) -> str:
    if name is not None:
        return name
    return f"{len(source)} bytes of audio" if isinstance(source, bytes) else os.fspath(source)


def _decoder_missing(label: str, kind: AudioFormat) -> AudioError:
    return AudioError(f"{label}: {kind.name} is decoded by PyAV, which is not installed; run: pip install av")


def _libsndfile_reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".") or f"libsndfile error {error.code}"


# --- Resampling ------------------------------------------------------------------------------------------


class Resampler:
    """Resamples a mono wave from ``rate`` Hz to 16 kHz, block (S,) by block; the result does not depend on block sizes."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream: soxr.ResampleStream | None = None

    def __call__(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
        if self._rate != SAMPLE_RATE:
            if self._stream is None:  # late: idle streams of a server would hold 50 kB each
                self._stream = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
            block_S = self._stream.resample_chunk(np.ascontiguousarray(block_S), last=last)
        # A steep filter overshoots (Gibbs) at clipped peaks.
        return np.clip(block_S, -1.0, 1.0)


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """``wave`` (S,) at ``rate`` Hz, resampled to 16 kHz, float32."""
    return Resampler(rate)(wave.astype(np.float32, copy=False), last=True)
