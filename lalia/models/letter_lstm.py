"""The LSTM that learns which letter follows: the torch side of ``lalia.decoding.lstm``, which runs what is learned here.

B texts, T letters, V symbols.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

IGNORED = -100
"""The target where a batch is padded."""


class LetterLstm(nn.Module):
    """Letters before -> scores of the next one. Dropout stands before, between and behind the layers (Zaremba et al. 2014)."""

    def __init__(self, symbols: int, width: int, layers: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, symbols)

    def forward(self, letters_BT: Tensor) -> Tensor:
        """Scores (B, T, V) of the letter behind each place."""
        hidden_BTH, _ = self.lstm(self.dropout(self.embedding(letters_BT)))
        scores_BTV: Tensor = self.output(self.dropout(hidden_BTH))
        return scores_BTV

    def loss(self, letters_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of the targets' negative log probabilities, how many there are); ``IGNORED`` ones are left out."""
        scores = self(letters_BT).flatten(0, 1).float()
        targets = targets_BT.flatten()
        summed = nn.functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
        return summed, (targets != IGNORED).sum()

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights as ``lalia.decoding.lstm.Lstm`` takes them."""
        found = {"embedding": self.embedding.weight, "output": self.output.weight, "output_bias": self.output.bias}
        for layer in range(self.lstm.num_layers):
            found[f"input-{layer + 1}"] = getattr(self.lstm, f"weight_ih_l{layer}")
            found[f"recurrent-{layer + 1}"] = getattr(self.lstm, f"weight_hh_l{layer}")
            # torch keeps two biases that are only ever added.
            found[f"bias-{layer + 1}"] = getattr(self.lstm, f"bias_ih_l{layer}") + getattr(
                self.lstm, f"bias_hh_l{layer}"
            )
        return {name: tensor.detach().float().numpy().copy() for name, tensor in found.items()}
