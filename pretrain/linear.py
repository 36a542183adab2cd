"""Linear probes: what can be read from frozen features by nothing more than one matrix.

N clips, T frames, D dimensions of a feature, C classes, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lalia.decoding.greedy import best_path, transcript
from lalia.models.ctc import ctc
from lalia.scoring.rates import score
from lalia.text.tokens import Tokens
from lalia.training.seeds import generator

RIDGES = 10.0 ** np.arange(-3, 5)
"""Ridge penalties, times the number of clips over 100, that leave-one-out chooses from."""


@dataclass(frozen=True)
class Hits:
    """Held-out clips that a probe got right."""

    right: int
    clips: int

    @property
    def accuracy(self) -> float:
        return self.right / self.clips


def classify(train_ND: np.ndarray, classes_N: np.ndarray, test_ND: np.ndarray, truth_N: np.ndarray) -> Hits:
    """A ridge regression to one column per class, solved at once; its penalty is the one whose leave-one-out predictions of the
    training clips are right most often, so that the held-out clips decide nothing."""
    mean_D, std_D = train_ND.mean(0), train_ND.std(0) + 1e-6
    x_ND, test_ND = (train_ND - mean_D) / std_D, (test_ND - mean_D) / std_D
    targets_NC = np.eye(int(classes_N.max()) + 1)[classes_N]
    centre_C = targets_NC.mean(0)
    u_NK, s_K, vt_KD = np.linalg.svd(x_ND.astype(np.float64), full_matrices=False)
    along_KC = u_NK.T @ (targets_NC - centre_C)
    best: tuple[float, float] | None = None
    for ridge in RIDGES * len(x_ND) / 100:
        shrink_K = s_K**2 / (s_K**2 + ridge)
        fitted_NC = centre_C + u_NK @ (shrink_K[:, None] * along_KC)
        leverage_N1 = (u_NK**2 @ shrink_K)[:, None] + 1 / len(x_ND)
        left_out_NC = targets_NC - (targets_NC - fitted_NC) / np.maximum(1 - leverage_N1, 1e-6)
        right = float((left_out_NC.argmax(1) == classes_N).mean())
        if best is None or right > best[0]:
            best = (right, float(ridge))
    assert best is not None
    weights_DC = vt_KD.T @ ((s_K / (s_K**2 + best[1]))[:, None] * along_KC)
    predicted_N = (centre_C + test_ND @ weights_DC).argmax(1)
    return Hits(int((predicted_N == truth_N).sum()), len(truth_N))


def read_letters(
    train: Sequence[Tensor], texts: Sequence[str], test: Sequence[Tensor], truths: Sequence[str],
    tokens: Tokens, encode: Callable[[str], list[int]], steps: int, seed: int, clips: int = 16,
) -> float:  # fmt: skip
    """The character error rate on ``test`` of one matrix trained by CTC on ``train`` for ``steps`` steps of ``clips`` clips; the
    features are lists of (T, D)."""
    frames_ND = torch.cat(list(train)).float()
    mean_D, std_D = frames_ND.mean(0), frames_ND.std(0) + 1e-5
    labels = [torch.tensor(encode(text)) for text in texts]
    head = nn.Linear(frames_ND.shape[1], len(tokens))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=max(2, steps), pct_start=0.1)
    random = generator(seed, "probe")
    for _ in range(steps):
        chosen = torch.randint(len(train), (clips,), generator=random).tolist()
        x_BTD = nn.utils.rnn.pad_sequence([(train[i].float() - mean_D) / std_D for i in chosen], batch_first=True)
        frames_B = torch.tensor([len(train[i]) for i in chosen])
        labels_BU = nn.utils.rnn.pad_sequence([labels[i] for i in chosen], batch_first=True)
        lengths_B = torch.tensor([len(labels[i]) for i in chosen])
        summed = ctc(head(x_BTD), frames_B, labels_BU, lengths_B)
        optimizer.zero_grad()
        (summed.loss / summed.count.clamp(min=1)).backward()
        optimizer.step()
        scheduler.step()
    with torch.inference_mode():
        heard = [
            transcript(best_path(head((x_TD.float() - mean_D) / std_D).log_softmax(-1).numpy()), tokens)
            for x_TD in test
        ]
    return score(truths, heard).cer.rate
