"""A baseline as it runs after training: Wav2Letter and DeepSpeech in the operators of an ONNX graph, features inside.

As in ``lalia/models/deployed.py``: one batch of clips of equal length, nothing padded.

B clips, S samples, N 10 ms frames, T frames, F features of a frame, C channels, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lalia.models.baselines import SUBSAMPLING, DeepSpeechEncoder, Wav2LetterEncoder
from lalia.models.deployed import FoldedFrames, Product, copied
from lalia.models.frontend import StackedFrames
from lalia.models.recogniser import Recogniser


class DeployedBaseline(nn.Module):
    """wave_BS -> log-probabilities_BTV; equals ``Recogniser.log_probs`` of unpadded clips up to rounding."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        copy = copied(recogniser)
        encoder = cast(Wav2LetterEncoder | DeepSpeechEncoder, copy.encoder)
        self.frontend = FoldedFrames(cast(StackedFrames, encoder.frontend))
        self.layers = Convolutions(encoder) if isinstance(encoder, Wav2LetterEncoder) else Recurrent(encoder)
        self.head = Product.of(copy.head)

    def forward(self, wave_BS: Tensor) -> Tensor:
        return self.head(self.layers(self.frontend(wave_BS))).log_softmax(-1)


class Convolutions(nn.Module):
    """features_BTF -> hidden_BTD: the layers of ``Wav2LetterEncoder``, each cut to the clip's length."""

    def __init__(self, encoder: Wav2LetterEncoder) -> None:
        super().__init__()
        self.layers = encoder.layers

    def forward(self, features_BTF: Tensor) -> Tensor:
        B, T, F = features_BTF.shape
        x_BCN = features_BTF.reshape(B, T * SUBSAMPLING, F // SUBSAMPLING).transpose(1, 2)
        for layer in self.layers:
            x_BCN = layer(x_BCN)[:, :, :T] if isinstance(layer, nn.Conv1d) else layer(x_BCN)
        return x_BCN.transpose(1, 2)


class Recurrent(nn.Module):
    """features_BTF -> hidden_BTD: the layers of ``DeepSpeechEncoder`` over one length."""

    def __init__(self, encoder: DeepSpeechEncoder) -> None:
        super().__init__()
        model = encoder.model
        self.fc1, self.fc2, self.fc3, self.fc4 = (
            Clipped(layer.fc, layer.relu_max_clip) for layer in (model.fc1, model.fc2, model.fc3, model.fc4)
        )
        self.bi_rnn = model.bi_rnn

    def forward(self, features_BTF: Tensor) -> Tensor:
        x_BTD = self.fc3(self.fc2(self.fc1(features_BTF)))
        # Given in the graph: the exporter would else fix the batch in what both directions start from.
        start_2BD = x_BTD.new_zeros(2, x_BTD.shape[0], x_BTD.shape[2])
        both_TBD, _ = self.bi_rnn(x_BTD.transpose(0, 1), start_2BD)
        forward_TBD, backward_TBD = both_TBD.chunk(2, -1)
        return self.fc4((forward_TBD + backward_TBD).transpose(0, 1))


class Clipped(nn.Module):
    """(…, I) -> (…, O): a linear layer whose output ends at 0 and at ``most``."""

    def __init__(self, linear: nn.Linear, most: float) -> None:
        super().__init__()
        self.product, self.most = Product.of(linear), float(most)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.product(x), 0.0, self.most)
