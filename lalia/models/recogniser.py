"""The recogniser (acoustic model): an encoder with a CTC head, its tokens and normaliser; the CTC loss; forced alignment.

A hybrid one has a transducer (``lalia.models.transducer``) beside the CTC head.
B clips, S samples, T frames, V tokens, U tokens of the longest label.
Source: Graves et al. 2006, "Connectionist Temporal Classification".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import forced_align

from lalia.decoding.forced_alignment import require_frames
from lalia.decoding.greedy import TokenSpan, greedy
from lalia.decoding.transducer_search import Joiner, transducer_greedy
from lalia.models.encoder import Encoder
from lalia.models.frontend import on_device
from lalia.models.transducer import Transducer, TransducerShape
from lalia.runtime.student import OVERLAP_S, WINDOW_S
from lalia.runtime.windows import Window, WindowOutput, cut_windows, stitch
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.units import Seconds, to_samples


class Recogniser(nn.Module):
    """wave_BS, lengths_B -> logits_BTV, frame lengths_B; lengths are on the CPU. Token 0 is CTC's blank.

    Waves are float32, mono, 16 kHz, not normalised.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokens: Tokens,
        normaliser: Normaliser,
        head_dropout: float = 0.0,
        transducer: TransducerShape | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokens = tokens
        self.normaliser = normaliser
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(encoder.shape.width, len(tokens))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.transducer = Transducer(encoder.shape.width, len(tokens), transducer) if transducer else None

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        hidden_BTD, frames_B = self.encoder(wave_BS, lengths_B)
        return self.head(self.head_dropout(hidden_BTD)), frames_B

    @torch.inference_mode()
    def log_probs(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities_BTV in float32, frame lengths_B), in eval mode whatever mode the model is in."""
        training = self.training
        self.eval()
        try:
            logits_BTV, frames_B = self(wave_BS, lengths_B)
            return logits_BTV.float().log_softmax(-1), frames_B
        finally:
            self.train(training)

    @torch.inference_mode()
    def frames(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(``log_probs`` and what the transducer's joiner adds, (B, T, V + J) in float32; frame lengths_B), in eval mode."""
        assert self.transducer is not None
        training = self.training
        self.eval()
        try:
            hidden_BTD, frames_B = self.encoder(wave_BS, lengths_B)
            return self.join_frames(self.head(hidden_BTD), hidden_BTD), frames_B
        finally:
            self.train(training)

    def join_frames(self, logits_BTV: Tensor, hidden_BTD: Tensor) -> Tensor:
        """For ``lalia.decoding.transducer_search``: log-probabilities, then what the joiner adds, (B, T, V + J) in float32."""
        assert self.transducer is not None
        return torch.cat([logits_BTV.float().log_softmax(-1), self.transducer.project(hidden_BTD).float()], -1)

    def greedy(self) -> Callable[[np.ndarray], list[TokenSpan]]:
        """Greedy decoding of a clip with the present weights: of ``log_probs`` (T, V), or of ``frames`` with a transducer."""
        if self.transducer is None:
            return greedy
        return partial(transducer_greedy, Joiner(self.transducer.tables()), self.frame_s)

    @property
    def frame_s(self) -> float:
        """Seconds from one frame of the output to the next."""
        return self.encoder.shape.frame_s

    @classmethod
    def load(cls, folder: Path | str, language: str = "") -> Recogniser:
        """The recogniser in ``folder``, on the CPU, in eval mode; of one with adapters, that of ``language`` (ISO 639-3)."""
        from lalia.models.store import load_recogniser

        return load_recogniser(Path(folder), language)

    def save(self, folder: Path | str, parents: list[dict[str, Any]], **facts: Any) -> None:
        """Write config, weights, tokens, normaliser and card to ``folder``."""
        from lalia.models.store import save_recogniser

        save_recogniser(self, Path(folder), parents, **facts)


class WindowedRecogniser:
    """A recogniser as a student is used: a wave of any length in, log-probabilities out, in overlapping windows."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self.tokens, self.normaliser = recogniser.tokens, recogniser.normaliser
        self.frame_s: Seconds = recogniser.frame_s
        self._frame = to_samples(self.frame_s)

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) float32 of a wave (S,), 16 kHz."""
        window, overlap = (to_samples(seconds) // self._frame * self._frame for seconds in (WINDOW_S, OVERLAP_S))
        parts = list(stitch(map(self._run, cut_windows([wave], window, overlap))))
        return np.concatenate(parts) if parts else np.zeros((0, len(self.tokens)), np.float32)

    def _run(self, window: Window) -> WindowOutput:
        wave_BS = torch.from_numpy(np.ascontiguousarray(window.wave))[None]
        log_probs_BTV, frames_B = self._recogniser.log_probs(wave_BS, torch.tensor([wave_BS.shape[1]]))
        frames = -(-len(window.wave) // self._frame)
        return WindowOutput(log_probs_BTV[0, : int(frames_B[0])].numpy(), frames, window.shared // self._frame)


# --- CTC loss --------------------------------------------------------------------------------------------


@dataclass
class CtcSum:
    """Sums over a batch."""

    loss: Tensor
    """negative log-likelihood of the labels in nats"""
    count: Tensor
    """tokens it was summed over"""
    impossible_B: Tensor
    """clips with too few frames for their label; not in the sums"""


def ctc(logits_BTV: Tensor, frames_B: Tensor, labels_BU: Tensor, label_lengths_B: Tensor) -> CtcSum:
    """Negative log-likelihood of ``labels``; token 0 is the blank. ``frames_B`` and ``label_lengths_B`` are on the CPU.

    A label needs a frame per token and one more between two equal tokens. Clips with fewer have no path: they are marked in
    ``impossible_B`` instead of making the sum infinite.
    """
    lengths_B = on_device(label_lengths_B, logits_BTV.device)
    impossible_B = frames_needed(labels_BU, lengths_B) > on_device(frames_B, logits_BTV.device)
    log_probs_TBV = logits_BTV.float().log_softmax(-1).transpose(0, 1)  # float32: sums over thousands of paths
    losses_B = F.ctc_loss(log_probs_TBV, labels_BU, frames_B, label_lengths_B, reduction="none", zero_infinity=True)
    possible_B = ~impossible_B
    return CtcSum((losses_B * possible_B).sum(), (lengths_B * possible_B).sum(), impossible_B)


def frames_needed(labels_BU: Tensor, label_lengths_B: Tensor) -> Tensor:
    """The fewest frames for each label, (B,): its tokens, and a blank between equal neighbours. All on one device."""
    inside = torch.arange(1, max(1, labels_BU.shape[1]), device=labels_BU.device) < label_lengths_B[:, None]
    equal_B = ((labels_BU[:, 1:] == labels_BU[:, :-1]) & inside).sum(1)
    return label_lengths_B + equal_B


# --- Forced alignment ------------------------------------------------------------------------------------

# Its maintainers meant to take it out of 2.9, and did not: the version that the project is held to has it.
warnings.filterwarnings("ignore", message=".*forced_align has been deprecated")


def align(log_probs_TV: np.ndarray, ids: list[int]) -> np.ndarray:
    """As ``lalia.decoding.forced_alignment.align``: the index in ``ids`` of the token in each frame, (T,) int64, or -1 for blank.

    ``log_probs_TV`` is float32. Raises ``ValueError`` if there are fewer frames than the text needs.
    """
    T = len(log_probs_TV)
    require_frames(ids, T)
    if not ids:
        return np.full(T, -1)
    log_probs_1TV = torch.from_numpy(np.ascontiguousarray(log_probs_TV, np.float32))[None]
    path_T = forced_align(log_probs_1TV, torch.tensor([ids]), blank=0)[0][0].numpy()
    # A token starts after a blank or another token; two equal ones always have a blank between.
    begins_T = (path_T != 0) & (path_T != np.append(0, path_T[:-1]))
    return np.where(path_T != 0, begins_T.cumsum() - 1, -1)
