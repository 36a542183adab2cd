"""Encode waves: FLAC for corpora, MP3 for pages, WAV block by block, and GSM 06.10 round trips as telephone augmentation."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from lalia.errors import UserError
from lalia.units import SAMPLE_RATE

TELEPHONE_RATE = 8_000
_GSM_FRAME_SAMPLES = 160


def flac_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (S,), -1 to 1, 16 kHz, as the bytes of a 16-bit FLAC file; exact to 1/65536."""
    out = io.BytesIO()
    soundfile.write(out, _pcm16(wave), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _pcm16(wave: np.ndarray) -> np.ndarray:
    # Rounded here: libsndfile truncates towards zero, which costs half a bit and adds a bias.
    return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)


class WavWriter:
    """A 16-bit WAV file, mono, 16 kHz, written block by block: ``with WavWriter(path) as file: file.write(wave)``.

    The file appears under its name when the block ends without an error, with the folders above it. Raises ``UserError`` if it
    cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> WavWriter:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=f".{self._path.name}.", delete=False)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror}); choose another folder") from error
        handle.close()
        self._part = Path(handle.name)
        self._file = soundfile.SoundFile(self._part, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV")
        return self

    def write(self, wave: np.ndarray) -> None:
        """Append ``wave`` (S,), -1 to 1; louder samples are clipped."""
        self._file.write(_pcm16(wave))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._part.chmod(0o644)
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)


def mp3_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (S,), -1 to 1, 16 kHz, as the bytes of an MP3 file of about 5 kB per second, which every browser plays."""
    out = io.BytesIO()
    soundfile.write(
        out, wave, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7, bitrate_mode="VARIABLE"
    )
    return out.getvalue()


def gsm_round_trip(wave_S: np.ndarray) -> np.ndarray:
    """``wave_S`` (S,) float32 at 8 kHz, -1 to 1, coded and decoded by GSM 06.10 full rate (13 kbit/s): same length, no delay."""
    out = io.BytesIO()
    odd = -len(wave_S) % (2 * _GSM_FRAME_SAMPLES)  # WAV holds GSM frames in pairs.
    soundfile.write(out, np.pad(wave_S, (0, odd)), TELEPHONE_RATE, format="WAV", subtype="GSM610")
    decoded_S, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32")
    return np.pad(decoded_S, (0, max(0, len(wave_S) - len(decoded_S))))[: len(wave_S)]
