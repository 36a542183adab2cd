"""Baselines without pretraining: torchaudio's Wav2Letter and DeepSpeech behind the encoder's interface.

Their last layer is the recogniser's head, everything before it is the encoder. Masks apply to their input. Unlike in torchaudio's
own forward, a clip in a padded batch gives the same frames as the clip alone.

B clips, S samples, N 10 ms frames, T frames, F features of a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchaudio.models import DeepSpeech, Wav2Letter

from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.frontend import StackedFrames, valid_frames
from lalia.models.shape import EncoderShape

WAV2LETTER_WIDTH = 2000
SUBSAMPLING = 2
"""10 ms frames to one of the model: 20 ms, by the stride of Wav2Letter's first convolution or side by side for DeepSpeech."""


@dataclass
class BaselineShape(EncoderShape):
    """A baseline: ``input`` (logmel or mfcc), ``bins``, ``width`` and ``dropout`` count, the other fields do not."""

    kind: Literal["wav2letter", "deepspeech"] = "wav2letter"
    """which of torchaudio's models"""

    @classmethod
    def of(cls, kind: Literal["wav2letter", "deepspeech"], features: str, width: int, dropout: float) -> BaselineShape:
        """The baseline ``kind`` on ``features`` (spectrogram: 80 log-mel bins; mfcc: 40 cepstra); ``width`` 0 = as published."""
        if kind == "wav2letter" and width not in (0, WAV2LETTER_WIDTH):
            raise UserError(f"model.width {width}: wav2letter is {WAV2LETTER_WIDTH} wide; leave it out")
        if width < 0:
            raise UserError(f"model.width {width}: expected a number of units, or 0 for 2048")
        mfcc = features == "mfcc"
        return cls(
            input="mfcc" if mfcc else "logmel", bins=40 if mfcc else 80, stack=SUBSAMPLING, kind=kind, layers=0, heads=1,
            width=WAV2LETTER_WIDTH if kind == "wav2letter" else width or 2048, position="rotary", position_groups=1,
            dropout=dropout, attention_dropout=0.0, layerdrop=0.0,
        )  # fmt: skip


class Baseline(Encoder):
    """wave_BS, lengths_B -> hidden_BTD, frame lengths_B, with frames of 20 ms."""

    shape: BaselineShape

    def __init__(self, shape: BaselineShape) -> None:
        nn.Module.__init__(self)  # nothing of an encoder's blocks
        self.shape = shape
        self.frontend = StackedFrames(shape)
        self.feature_norm = nn.Identity()  # type: ignore[assignment]  # the frontend's is all they have

    def contextualise(
        self, features_BTF: Tensor, frames_B: Tensor, mask_BT: Tensor | None = None,
        channel_mask_BD: Tensor | None = None, collect: list[Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """As ``Encoder.contextualise``, with masked frames and channels zero at the input; there are no blocks to collect."""
        if mask_BT is not None:
            features_BTF = features_BTF.masked_fill(mask_BT[:, :, None], 0.0)
        if channel_mask_BD is not None:
            # The mask drawn for the width, stretched over the bins: the share that is hidden stays the same.
            bins, D = self.shape.bins, channel_mask_BD.shape[1]
            place_M = torch.arange(bins, device=channel_mask_BD.device) * D // bins
            mask_BF = channel_mask_BD[:, place_M].repeat(1, features_BTF.shape[2] // bins)
            features_BTF = features_BTF.masked_fill(mask_BF[:, None, :], 0.0)
        return self.hidden(features_BTF, frames_B)

    def hidden(self, features_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """hidden_BTD before the head."""
        raise NotImplementedError

    @property
    def blocks(self) -> Any:  # type: ignore[override]
        raise UserError(
            f"{self.shape.kind} has no blocks: it is a baseline to compare with, and can be neither distilled, pruned, adapted "
            "nor checkpointed"
        )


class Wav2LetterEncoder(Baseline):
    """Wav2Letter (Collobert et al. 2016): eleven convolutions with ReLU. torchaudio ends in one more ReLU, on the scores of the
    letters, which keeps a letter that is below zero from ever learning; it is left out."""

    def __init__(self, shape: BaselineShape) -> None:
        super().__init__(shape)
        model = Wav2Letter(num_classes=1, input_type="mfcc", num_features=shape.bins)
        self.layers = nn.ModuleList(list(cast(nn.Sequential, model.acoustic_model))[:-2])
        self.dropout = nn.Dropout(shape.dropout)

    def hidden(self, features_BTF: Tensor, frames_B: Tensor) -> Tensor:
        B, T, F = features_BTF.shape
        x_BCN = features_BTF.reshape(B, T * SUBSAMPLING, F // SUBSAMPLING).transpose(1, 2)
        valid_B1T = valid_frames(frames_B, T, features_BTF.device)[:, None]
        # A clip alone meets zeros behind its end, its convolutions' own padding; in a batch the same.
        x_BCN = x_BCN * valid_B1T.repeat_interleave(SUBSAMPLING, 2)
        for layer in self.layers:
            # A kernel of 32 makes one frame more than there are.
            x_BCN = layer(x_BCN)[:, :, :T] if isinstance(layer, nn.Conv1d) else layer(x_BCN) * valid_B1T
        return self.dropout(x_BCN.transpose(1, 2))


class DeepSpeechEncoder(Baseline):
    """Deep Speech (Hannun et al. 2014): clipped ReLU layers around one recurrent layer in both directions."""

    def __init__(self, shape: BaselineShape) -> None:
        super().__init__(shape)
        self.model = DeepSpeech(shape.features, shape.width, n_class=1, dropout=shape.dropout)
        self.model.out = nn.Identity()

    def hidden(self, features_BTF: Tensor, frames_B: Tensor) -> Tensor:
        model, T = self.model, features_BTF.shape[1]
        x_BTD = model.fc3(model.fc2(model.fc1(features_BTF)))
        with torch.autocast(
            x_BTD.device.type, enabled=False
        ):  # torch's recurrent kernels know no mixed precision on a CPU
            packed = nn.utils.rnn.pack_padded_sequence(x_BTD.float(), frames_B, batch_first=True, enforce_sorted=False)
            both_BTH, _ = nn.utils.rnn.pad_packed_sequence(model.bi_rnn(packed)[0], batch_first=True, total_length=T)
        forward_BTD, backward_BTD = both_BTH.chunk(2, -1)
        return model.fc4(forward_BTD + backward_BTD)


def shape_from(values: dict[str, Any]) -> EncoderShape:
    """The shape stored in a ``config.json``: an encoder's or a baseline's."""
    if "kind" not in values:
        return EncoderShape.from_dict(values)
    unknown = set(values) - {field.name for field in fields(BaselineShape)}
    if unknown or values["kind"] not in ("wav2letter", "deepspeech"):
        raise UserError(f"baseline config {values['kind']!r} with {sorted(unknown)}; was it made by a newer lalia?")
    return BaselineShape(**values)


def make_encoder(shape: EncoderShape) -> Encoder:
    """An encoder, or a baseline's part in its place, with random weights."""
    if not isinstance(shape, BaselineShape):
        return Encoder(shape)
    return Wav2LetterEncoder(shape) if shape.kind == "wav2letter" else DeepSpeechEncoder(shape)
