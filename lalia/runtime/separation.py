"""``VoiceSeparator``: split a recording of two voices on one channel into two waves with an exported separator, without torch.

Recordings of any length are processed in overlapping windows, in memory that does not grow. The order of the two outputs of a
window is free, so each window is put into the order that correlates best with the window before, where they overlap.

S samples, T frames, F frequencies, N samples that two windows share; the axis of 2 is that of the voices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.cards import read_card
from lalia.errors import UserError
from lalia.model_folder import MODEL, SEPARATOR, SEPARATOR_FILES, check_files, find_exported
from lalia.onnx_session import open_session
from lalia.runtime.windows import cut_windows
from lalia.units import Seconds, to_samples

if TYPE_CHECKING:
    import onnxruntime

WINDOW_S: Seconds = 16.0
OVERLAP_S: Seconds = 4.0


class VoiceSeparator:
    """``for voices_2S in VoiceSeparator.load(folder).separate(read_blocks("talk.wav")): …``"""

    def __init__(self, session: onnxruntime.InferenceSession, window: int, hop: int, card: dict[str, Any]) -> None:
        self.session, self.card = session, card
        self._window, self._hop = window, hop
        # Periodic, and its square adds up to a constant over windows half as long apart.
        self._taper = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)

    @classmethod
    def load(cls, folder: Path | str, threads: int = 1) -> VoiceSeparator:
        """The separator in ``folder``, or in the run ``folder``; ``UserError`` if it is damaged or of another kind."""
        folder = find_exported(Path(folder), "separator")
        card = read_card(folder, "separator")
        check_files(folder, card, SEPARATOR_FILES)
        try:
            facts = json.loads((folder / SEPARATOR).read_text(encoding="utf-8"))
            session = open_session(folder / MODEL, threads)
            return cls(session, int(facts["window"]), int(facts["hop"]), card)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: cannot be read as a separator ({error}); export it again") from error

    def separate(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Consecutive parts (2, S) of the two voices of the wave that is given as consecutive ``blocks``."""
        held_2S = np.zeros((2, 0), np.float32)
        for window in cut_windows(blocks, to_samples(WINDOW_S), to_samples(OVERLAP_S)):
            voices_2S = self.separate_window(window.wave)
            N = window.shared
            if N:
                left_2N, right_2N = held_2S[:, -N:], voices_2S[:, :N]
                if swapped(left_2N, right_2N):
                    voices_2S, right_2N = voices_2S[::-1].copy(), right_2N[::-1]
                fade_N = np.linspace(0, 1, N, dtype=np.float32)
                voices_2S[:, :N] = left_2N * (1 - fade_N) + right_2N * fade_N
                yield held_2S[:, :-N]
            held_2S = voices_2S
        yield held_2S

    def separate_window(self, wave_S: np.ndarray) -> np.ndarray:
        """The two voices (2, S) of one wave."""
        spectrum_FT = self._spectrum(wave_S)
        [masks_12FT] = self.session.run(["masks"], {"magnitude": np.abs(spectrum_FT)[None].astype(np.float32)})
        return np.stack([self._wave(mask_FT * spectrum_FT, len(wave_S)) for mask_FT in masks_12FT[0]])

    def _spectrum(self, wave_S: np.ndarray) -> np.ndarray:
        """The complex spectrogram (F, T): frame t is centred on sample t × hop, and the wave is zero outside."""
        padded = np.pad(wave_S.astype(np.float32), self._window // 2)
        frames_TW = np.lib.stride_tricks.sliding_window_view(padded, self._window)[:: self._hop]
        spectrum_TF: np.ndarray = np.fft.rfft(frames_TW * self._taper, axis=1)
        return spectrum_TF.T

    def _wave(self, spectrum_FT: np.ndarray, samples: int) -> np.ndarray:
        """The inverse of ``_spectrum``: least squares over the overlapping frames."""
        frames_TW = np.fft.irfft(spectrum_FT.T, self._window, axis=1).astype(np.float32) * self._taper
        length = self._window + self._hop * (len(frames_TW) - 1)
        total, weight = np.zeros(length, np.float32), np.zeros(length, np.float32)
        for number, frame_W in enumerate(frames_TW):
            place = slice(number * self._hop, number * self._hop + self._window)
            total[place] += frame_W
            weight[place] += self._taper**2
        begin = self._window // 2
        wave_S = (total / np.maximum(weight, 1e-6))[begin : begin + samples]
        return np.pad(wave_S, (0, samples - len(wave_S)))


def swapped(left_2N: np.ndarray, right_2N: np.ndarray) -> bool:
    """Whether the voices of two windows agree better, where they overlap, with those of the right window exchanged.

    The assignment with the larger sum of inner products is the one with the smaller squared difference.
    """
    products_22 = left_2N.astype(np.float64) @ right_2N.astype(np.float64).T
    return bool(products_22[0, 1] + products_22[1, 0] > products_22[0, 0] + products_22[1, 1])
