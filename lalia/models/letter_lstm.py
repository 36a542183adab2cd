"""The LSTM over letters as it is trained, and its export as the ONNX graph that ``lalia.decoding.lstm`` runs.

B texts, T letters, V symbols. For one step: K prefixes, P prefixes one letter shorter, L layers, H width.
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from lalia.decoding.lstm import INPUTS, OUTPUTS

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

    def graph(self) -> bytes:
        """One step of the network as ONNX, as ``lalia.decoding.lstm`` runs it: K prefixes grow by one letter each."""
        rows_K = torch.zeros(2, dtype=torch.long)
        states_LPH = torch.zeros(self.lstm.num_layers, 2, self.lstm.hidden_size)
        axes = {name: {1: "P"} for name in INPUTS[2:]} | {name: {1: "K"} for name in OUTPUTS[1:]}
        axes |= {name: {0: "K"} for name in (*INPUTS[:2], OUTPUTS[0])}
        buffer = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about batches of other sizes and an exporter of another kind
            torch.onnx.export(
                _Step(self).train(self.training),  # the exporter gives this mode back to it, and so to self
                (rows_K, rows_K, states_LPH, states_LPH),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes files; its annotation knows paths only
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        return buffer.getvalue()


class _Step(nn.Module):
    def __init__(self, model: LetterLstm) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, symbols_K: Tensor, parents_K: Tensor, hidden_LPH: Tensor, cells_LPH: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        states = hidden_LPH[:, parents_K], cells_LPH[:, parents_K]
        top_K1H, (hidden_LKH, cells_LKH) = self.model.lstm(self.model.embedding(symbols_K)[:, None], states)
        return self.model.output(top_K1H[:, 0]).log_softmax(-1), hidden_LKH, cells_LKH
