"""Augment training audio: speed, reverberation, noise, telephone codecs and gain; off by default.

All random choices come from the generator that the loader makes for (seed, micro-batch, clip), so a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio import functional

from lalia.audio.encoding import TELEPHONE_RATE, gsm_round_trip
from lalia.audio.reading import SUFFIXES, read_audio
from lalia.errors import AudioError, UserError
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples

_TELEPHONE_HZ = (300.0, 3_400.0)  # what the analogue network passed, and codecs since
_MU_LAW_LEVELS = 256
_FILES_IN_MEMORY = 32


@dataclass(frozen=True)
class AugmentSettings:
    """How often each change is made to a clip, as a share from 0 to 1, and how strong it is."""

    speed: float = 0.0
    """Share of clips played faster or slower (pitch and length change)."""
    speed_factors: tuple[float, float] = (0.9, 1.1)
    """Slowest and fastest, drawn in steps of 0.05."""
    reverb: float = 0.0
    """Share of clips played in a room."""
    reverb_s: tuple[Seconds, Seconds] = (0.1, 0.8)
    """Shortest and longest reverberation (RT60) of simulated rooms."""
    reverb_folder: str = ""
    """Measured impulse responses to use instead of simulated rooms."""
    noise: float = 0.0
    """Share of clips with noise added."""
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    """Loudest and softest noise: speech over noise in dB."""
    noise_folder: str = ""
    """Recordings of noise to use instead of noise between white (1/f^0) and brown (1/f^2)."""
    gain: float = 0.0
    """Share of clips made louder or softer."""
    gain_db: tuple[float, float] = (-20.0, 10.0)
    """Softest and loudest."""
    telephone: float = 0.0
    """Share of clips sent through a telephone line: 300 to 3,400 Hz, 8 kHz, 8-bit mu-law or GSM."""
    telephone_gsm: float = 0.5
    """Share of these that are mobile calls (GSM 06.10 full rate), the others being landlines (mu-law)."""

    def __post_init__(self) -> None:
        for name in ("speed", "reverb", "noise", "gain", "telephone", "telephone_gsm"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name} is {getattr(self, name):g}; expected a share of clips, 0 to 1")
        for name, least in (("speed_factors", 0.5), ("reverb_s", 0.02), ("noise_snr_db", -30.0), ("gain_db", -60.0)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise UserError(f"augment.{name} is {low:g} to {high:g}; expected two rising numbers from {least:g} on")

    @property
    def any(self) -> bool:
        """Whether any clip is changed at all."""
        return any((self.speed, self.reverb, self.noise, self.gain, self.telephone))


class Augment:
    """``Augment(settings)(wave, rng)``: the wave (S,) float32 as somebody else might have recorded it."""

    def __init__(self, settings: AugmentSettings) -> None:
        """Raises UserError where a folder of the settings holds no audio."""
        self.settings = settings
        self._rooms = _audio_files(settings.reverb_folder, "reverb_folder")
        self._noises = _audio_files(settings.noise_folder, "noise_folder")

    def __call__(self, wave: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        settings = self.settings
        steps: tuple[tuple[float, Callable[[Tensor, np.random.Generator], Tensor]], ...] = (
            (settings.speed, self._speed),
            (settings.reverb, self._reverb),
            (settings.noise, self._noise),
            (settings.telephone, self._telephone),
            (settings.gain, self._gain),
        )
        # A generator for each step: whether one is switched on does not change what another draws.
        chosen = [
            (step, child) for (share, step), child in zip(steps, rng.spawn(5), strict=True) if child.random() < share
        ]
        if not chosen:
            return wave
        wave_S = torch.from_numpy(np.array(wave, np.float32))
        for step, child in chosen:
            wave_S = step(wave_S, child)
        loudest = float(wave_S.abs().max())
        return (wave_S / loudest if loudest > 1 else wave_S).numpy()

    def _speed(self, wave_S: Tensor, rng: np.random.Generator) -> Tensor:
        slowest, fastest = self.settings.speed_factors
        return change_speed(wave_S, round(rng.uniform(slowest, fastest) * 20) / 20)

    def _reverb(self, wave_S: Tensor, rng: np.random.Generator) -> Tensor:
        if self._rooms:
            response = _read(self._rooms[int(rng.integers(len(self._rooms)))])
        else:
            response = simulated_room(rng.uniform(*self.settings.reverb_s), rng)
        return reverberate(wave_S, torch.from_numpy(response))

    def _gain(self, wave_S: Tensor, rng: np.random.Generator) -> Tensor:
        return wave_S * float(10 ** (rng.uniform(*self.settings.gain_db) / 20))

    def _noise(self, wave_S: Tensor, rng: np.random.Generator) -> Tensor:
        if self._noises:
            noise = _piece(_read(self._noises[int(rng.integers(len(self._noises)))]), len(wave_S), rng)
        else:
            noise = coloured_noise(len(wave_S), rng.uniform(0, 2), rng)
        return add_noise(wave_S, torch.from_numpy(noise), rng.uniform(*self.settings.noise_snr_db))

    def _telephone(self, wave_S: Tensor, rng: np.random.Generator) -> Tensor:
        return telephone(wave_S, "gsm" if rng.random() < self.settings.telephone_gsm else "mu-law")


def change_speed(wave_S: Tensor, factor: float) -> Tensor:
    """``wave_S`` played ``factor`` times as fast: 1 / factor as many samples, and other pitch."""
    return functional.speed(wave_S, SAMPLE_RATE, factor)[0] if factor != 1 else wave_S


def reverberate(wave_S: Tensor, response_S: Tensor) -> Tensor:
    """``wave_S`` heard in the room of ``response_S``, as long and as loud as before and not delayed."""
    response_S = response_S[int(response_S.abs().argmax()) :]
    together = len(wave_S) + len(response_S) - 1
    longer_S = torch.nn.functional.pad(wave_S, (0, _fast_length(together) - together))
    wet_S = functional.fftconvolve(longer_S, response_S)[: len(wave_S)]
    power, dry_power = wet_S.square().mean(), wave_S.square().mean()
    return wet_S * torch.sqrt(dry_power / power) if power > 0 else wave_S


def add_noise(wave_S: Tensor, noise_S: Tensor, snr_db: float) -> Tensor:
    """``wave_S`` with ``noise_S``, as long, ``snr_db`` below it; silence stays silence."""
    if not noise_S.any():
        return wave_S
    return functional.add_noise(wave_S, noise_S, torch.tensor(snr_db))


def telephone(wave_S: Tensor, codec: Literal["mu-law", "gsm"] = "mu-law") -> Tensor:
    """``wave_S`` after a telephone line: 300 to 3,400 Hz, 8,000 samples per second in 8-bit mu-law (G.711) or GSM 06.10."""
    narrow_S = functional.resample(wave_S, SAMPLE_RATE, TELEPHONE_RATE)
    low_hz, high_hz = _TELEPHONE_HZ
    for _ in range(2):  # twice second order: 24 dB per octave
        narrow_S = functional.highpass_biquad(narrow_S, TELEPHONE_RATE, low_hz)
        narrow_S = functional.lowpass_biquad(narrow_S, TELEPHONE_RATE, high_hz)
    if codec == "gsm":
        narrow_S = torch.from_numpy(gsm_round_trip(narrow_S.clamp(-1, 1).numpy()))
    else:
        codes_S = functional.mu_law_encoding(narrow_S.clamp(-1, 1), _MU_LAW_LEVELS)
        narrow_S = functional.mu_law_decoding(codes_S, _MU_LAW_LEVELS)
    return functional.resample(narrow_S, TELEPHONE_RATE, SAMPLE_RATE)[: len(wave_S)]


def simulated_room(rt60_s: Seconds, rng: np.random.Generator) -> NDArray[np.float32]:
    """An impulse response: the direct sound, then noise that decays by 60 dB in ``rt60_s``, together 0 to 15 dB softer."""
    tail = rng.standard_normal(to_samples(rt60_s)) * 10 ** (-3 * np.arange(to_samples(rt60_s)) / to_samples(rt60_s))
    tail[0] = 0
    tail *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt(np.square(tail).sum())
    # The direct sound must stay the loudest sample: that is where `reverberate` lets the response begin.
    tail[0] = max(1.0, float(np.abs(tail).max()))
    return tail.astype(np.float32)


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(samples,) of noise whose power falls with frequency as 1 / f ** exponent: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.fft.rfftfreq(samples), 50 / SAMPLE_RATE) ** (-exponent / 2)
    return np.fft.irfft(spectrum, samples).astype(np.float32)


def _fast_length(samples: Samples) -> Samples:
    """The next length whose Fourier transform is quick, a small product of 2, 3 and 5; others take several times as long."""
    halvings = max(0, samples.bit_length() - 4)
    return min(m << halvings for m in (8, 9, 10, 12, 15, 16) if m << halvings >= samples)


def _piece(noise: NDArray[np.float32], samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``samples`` of ``noise`` from a random place on, repeated where it is shorter."""
    start = int(rng.integers(max(1, len(noise) - samples + 1)))
    return np.resize(noise[start:], samples)


@lru_cache(maxsize=_FILES_IN_MEMORY)
def _read(path: Path) -> NDArray[np.float32]:
    return read_audio(path)


def _audio_files(folder: str, name: str) -> Sequence[Path]:
    """The audio files in ``folder``, in the order of their names; none where no folder is given."""
    if not folder:
        return ()
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"augment.{name} {folder}: holds no audio; give a folder of recordings, or leave it out")
    for path in files[:3]:
        try:
            _read(path)
        except AudioError as error:
            raise UserError(f"augment.{name} {error}") from error
    return files
