"""Inference modules for ONNX export: a recogniser, classifier or baseline in operators that ONNX runtimes run fast.

A batch has clips of equal length without padding. Every product with a weight is a matrix product (B, T, I) by (I, O), so that it
can be quantized: queries, keys and values in one, 1 x 1 convolutions too. The Fourier transform is two products, with the frame
folded at its middle, which halves them.

A streaming recogniser takes a piece of the wave and cached states, and returns new states. Attention caches the keys and values
of the last ``left_chunks`` chunks, convolutions half a kernel of their input, so the cost of a chunk does not grow. A piece of
T frames starts at a chunk and has (T - 1) x hop + receptive field samples, so pieces overlap; all but the last hold whole chunks.
A whole clip is a stream of one piece: the same graph gives the same numbers up to rounding.

B clips, S samples, N 10 ms frames (or chunks), T frames, P cached frames, D width, H heads, d dimensions of a head, C channels,
K taps, F frequencies or features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from fairseq2.models.conformer import ConformerConvolution
from fairseq2.models.transformer import StandardMultiheadAttention
from fairseq2.models.transformer.attention_bias import AttentionBiasCache
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoder
from fairseq2.nn import RotaryEncoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm

from lalia.errors import UserError
from lalia.models.baselines import SUBSAMPLING, Baseline, DeepSpeechEncoder, Wav2LetterEncoder, make_encoder
from lalia.models.classifier import Classifier, frame_features
from lalia.models.frontend import FFT, PRIOR_FRAMES, WAVE_EPSILON, ConvolutionStem, StackedFrames, StemLayer
from lalia.models.recogniser import Recogniser
from lalia.models.shape import FRAME_HOP, FRAME_WINDOW, EncoderShape

# --- Recogniser ------------------------------------------------------------------------------------------

_HALF = FRAME_WINDOW // 2


class Deployed(nn.Module):
    """wave_BS -> log-probabilities_BTV; equals ``Recogniser.log_probs`` of unpadded clips up to rounding.

    With a transducer also what its joiner adds, (B, T, J). ``StreamingDeployed`` is for streaming recognisers,
    ``DeployedBaseline`` for baselines; ``deploy`` chooses.
    """

    attention: type[SelfAttention]
    convolution: type[BlockConvolution]

    def __init__(self, model: Recogniser | Classifier) -> None:
        super().__init__()
        encoder = model.encoder
        if isinstance(encoder, Baseline):
            raise TypeError("a baseline needs DeployedBaseline; call deploy")
        if encoder.shape.streaming and type(self) is Deployed:
            raise TypeError("a streaming recogniser needs StreamingDeployed; call deploy")
        copy = deployable_copy(model)
        encoder = copy.encoder
        frontend = cast(ConvolutionStem | StackedFrames, encoder.frontend)
        self.frontend = Stem(frontend) if isinstance(frontend, ConvolutionStem) else FoldedFrames(frontend)
        self.feature_norm = encoder.feature_norm
        self.projection = Product.of(encoder.projection)
        self.position = encoder.position
        if isinstance(self.position, Wav2Vec2PositionEncoder):
            remove_weight_norm(self.position.conv)
        self.input_norm = encoder.input_norm
        self.blocks = encoder.blocks
        self.blocks.layer_drop_p = 0.0
        self.head = Product.of(copy.head)
        self.joint = _joint(copy)
        self._replace(self.blocks)

    def forward(self, wave_BS: Tensor) -> Any:
        return self.outputs(wave_BS, Unpadded())

    def outputs(self, wave_BS: Tensor, layout: Any) -> tuple[Tensor, ...]:
        """log-probabilities_BTV, and what a transducer's joiner adds; ``layout`` is passed to every part of every block."""
        return _heads(self, self.hidden_states(wave_BS, layout)[-1])

    def hidden_states(self, wave_BS: Tensor, layout: Any) -> list[Tensor]:
        """As ``Encoder.hidden_states``."""
        x_BTD = self.projection(self.feature_norm(self.frontend(wave_BS)))
        if self.position is not None:
            x_BTD = self.position(x_BTD, layout)
        if self.input_norm is not None:
            x_BTD = self.input_norm(x_BTD)
        bias_cache = AttentionBiasCache()
        states = [x_BTD]
        for block in self.blocks.layers:
            states.append(block(states[-1], layout, bias_cache))
        if self.blocks.layer_norm is not None:
            states[-1] = self.blocks.layer_norm(states[-1])
        return states

    def _replace(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, StandardMultiheadAttention):
                setattr(module, name, self.attention(child))
            elif isinstance(child, ConformerConvolution):
                setattr(module, name, self.convolution(child))
            elif hasattr(child, "weight") and isinstance(child.weight, Tensor) and hasattr(child, "input_dim"):
                setattr(module, name, Product.of(child))
            else:
                self._replace(child)


def deployable_copy(model: Recogniser | Classifier) -> Recogniser | Classifier:
    """A copy in eval mode whose modules can be replaced; it shares the weights of a ``model`` on the CPU, and writes to none."""
    encoder = make_encoder(model.encoder.shape)
    copy: Recogniser | Classifier
    if isinstance(model, Classifier):
        copy = Classifier(encoder, model.facts)
    else:
        transducer = model.transducer.shape if model.transducer else None
        copy = Recogniser(encoder, model.tokens, model.normaliser, transducer=transducer)
    copy.load_state_dict({key: weight.cpu() for key, weight in model.state_dict().items()}, assign=True)
    return copy.eval().requires_grad_(False)


def _joint(model: Recogniser | Classifier) -> Product | None:
    """The product that gives what the joiner of a transducer adds."""
    transducer = model.transducer if isinstance(model, Recogniser) else None
    return Product.of(transducer.project) if transducer else None


def _heads(deployed: Deployed | DeployedBaseline, hidden_BTD: Tensor) -> tuple[Tensor, ...]:
    joint = (deployed.joint(hidden_BTD),) if deployed.joint is not None else ()
    return deployed.head(hidden_BTD).log_softmax(-1), *joint


class DeployedClassifier(Deployed):
    """wave_BS -> logits_BTC of each frame; equals ``Classifier.frame_logits`` of unpadded clips up to rounding."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self.facts = classifier.facts
        top = self.facts.top(len(self.blocks.layers))
        if top < len(self.blocks.layers):  # blocks above the last layer that is used
            del self.blocks.layers[top:]
            self.blocks.layer_norm = None
            if isinstance(self.facts.layer, list):
                self.facts = replace(self.facts, layer=self.facts.layer[: top + 1])

    def forward(self, wave_BS: Tensor) -> Tensor:
        return self.head(frame_features(self.hidden_states(wave_BS, Unpadded()), self.facts))


class Unpadded:
    """Stands in for fairseq2's batch layout without padding and with free length; caches rotary positions for all blocks."""

    packed = False
    padded = False

    def __init__(self) -> None:
        self._angles: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}

    def angles(self, frames: int, half: int, theta: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, half) of rotary positions (Su et al. 2021, section 3.4)."""
        if (half, theta) not in self._angles:
            speed = torch.tensor([theta ** (-i / half) for i in range(half)])
            angle = torch.arange(frames, dtype=torch.float32)[:, None] * speed
            self._angles[half, theta] = angle.cos(), angle.sin()
        return self._angles[half, theta]


class Product(nn.Module):
    """(…, I) -> (…, O): a linear layer with its weight stored the way it is multiplied."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight_IO = nn.Parameter(weight_OI.T.contiguous(), requires_grad=False)
        self.bias_O = None if bias_O is None else nn.Parameter(bias_O.clone(), requires_grad=False)

    @classmethod
    def of(cls, linear: Any) -> Product:
        """The product that ``linear`` (or a convolution with one tap) computes."""
        return cls(linear.weight.flatten(1), linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(x, self.weight_IO)
        return x if self.bias_O is None else x + self.bias_O


class SelfAttention(nn.Module):
    """fairseq2's attention over one sequence, with queries, keys and values from one product."""

    def __init__(self, attention: StandardMultiheadAttention) -> None:
        super().__init__()
        q, k, v = (cast(nn.Linear, p) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        H, d = attention.num_heads, attention.head_dim
        if attention.num_key_value_heads != H:
            raise UserError("attention with shared keys and values cannot be exported; use as many as queries")
        self.heads: int = H
        self.head_width: int = d
        order = torch.arange(H * d)
        self.rotary: float | None = None
        if isinstance(attention.pos_encoder, RotaryEncoder):
            # fairseq2 turns neighbours (0, 1), (2, 3), …; with the even ones first and the odd ones behind, each pair is a
            # pair of halves. Scores do not change when queries and keys are reordered alike.
            order = order.view(H, d // 2, 2).transpose(1, 2).flatten()
            self.rotary = attention.pos_encoder.theta
        elif attention.pos_encoder is not None:
            raise UserError(f"positions by {type(attention.pos_encoder).__name__} cannot be exported")
        weight = torch.cat([q.weight[order] * d**-0.5, k.weight[order], v.weight])
        bias = torch.cat([q.bias[order] * d**-0.5, k.bias[order], v.bias]) if q.bias is not None else None
        self.qkv = Product(weight, bias)
        self.output = Product.of(attention.output_proj)

    def forward(self, seqs: Tensor, seqs_layout: Unpadded, **_: Any) -> Tensor:
        H, d = self.heads, self.head_width
        B, T, _D = seqs.shape
        qkv_BHTd = self.qkv(seqs).reshape(B, T, 3 * H, d).transpose(1, 2)
        qk_BHTd, v_BHTd = qkv_BHTd.split([2 * H, H], 1)
        if self.rotary is not None:
            qk_BHTd = rotate(qk_BHTd, *seqs_layout.angles(T, d // 2, self.rotary))
        q_BHTd, k_BHTd = qk_BHTd.split([H, H], 1)
        weights_BHTT = torch.matmul(q_BHTd, k_BHTd.transpose(2, 3)).softmax(-1)
        return self.output(torch.matmul(weights_BHTT, v_BHTd).transpose(1, 2).reshape(B, T, H * d))


def rotate(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys rotated by rotary positions, cosines and sines (T, d / 2)."""
    first, second = x_BHTd.split([cos.shape[1], cos.shape[1]], 3)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], 3)


class BlockConvolution(nn.Module):
    """The convolution inside a Conformer-like block, on (B, T, D) throughout: two products around a depthwise filter."""

    def __init__(self, convolution: ConformerConvolution) -> None:
        super().__init__()
        if convolution.layer_norm is None or convolution.causal_depthwise_conv:
            raise UserError("only block convolutions with layer norm and both-sided filters can be exported")
        self.spread = Product.of(convolution.pointwise_conv1)
        self.depthwise = convolution.depthwise_conv
        self.layer_norm = convolution.layer_norm
        self.activation = convolution.depthwise_activation
        self.gather = Product.of(convolution.pointwise_conv2)

    def forward(self, seqs: Tensor, seqs_layout: Unpadded) -> Tensor:
        value_BTD, gate_BTD = self.spread(seqs).chunk(2, -1)
        x_BTD = self.filtered(value_BTD * gate_BTD.sigmoid(), seqs_layout)
        return self.gather(self.activation(self.layer_norm(x_BTD)))

    def filtered(self, x_BTD: Tensor, seqs_layout: Unpadded) -> Tensor:
        """``x_BTD`` through the depthwise filter."""
        weight, side = self.depthwise.weight, self.depthwise.kernel_size[0] // 2
        return F.conv1d(x_BTD.transpose(1, 2), weight, padding=side, groups=self.depthwise.groups).transpose(1, 2)


class FoldedFrames(nn.Module):
    """``StackedFrames`` without padding.

    The power of a frequency does not change when time is counted from the frame's middle. There the cosines are even and the
    sines odd, and so is the window even: half of the taps do, on sums and differences of samples left and right of the middle.
    """

    def __init__(self, frames: StackedFrames) -> None:
        super().__init__()
        self.stack = frames.stack
        self.streaming = frames.streaming
        self.mel_FM = nn.Parameter(frames.mel_FM, requires_grad=False)
        self.dct_MF = nn.Parameter(frames.dct_MF, requires_grad=False) if frames.mfcc else None
        self.prior_2M = nn.Parameter(frames.prior_2M, requires_grad=False)
        # Sample 0 has weight 0 in the periodic Hann window, so the middle is sample 200 and taps 1 to 199 have partners.
        self.window_K = nn.Parameter(frames.window[_HALF:], requires_grad=False)
        turn_KF = torch.arange(_HALF)[:, None] * torch.arange(FFT // 2 + 1) % FFT  # whole numbers: exact at any length
        angle_KF = turn_KF * (2 * math.pi / FFT)
        self.cos_KF = nn.Parameter(angle_KF.cos(), requires_grad=False)
        self.sin_KF = nn.Parameter(angle_KF.sin(), requires_grad=False)

    def forward(self, wave_BS: Tensor) -> Tensor:
        frames_BNK = _cut(wave_BS)
        right_BNK = frames_BNK[:, :, _HALF:] * self.window_K
        left_BNK = frames_BNK[:, :, 1:_HALF].flip(2) * self.window_K[1:]
        even_BNF = torch.cat([right_BNK[:, :, :1], right_BNK[:, :, 1:] + left_BNK], 2) @ self.cos_KF
        odd_BNF = torch.cat([right_BNK[:, :, :1], right_BNK[:, :, 1:] - left_BNK], 2) @ self.sin_KF  # sin 0 drops tap 0
        features_BNM = torch.log((even_BNF * even_BNF + odd_BNF * odd_BNF) @ self.mel_FM + 1e-6)
        if self.dct_MF is not None:
            features_BNM = features_BNM @ self.dct_MF
        N = features_BNM.shape[1]
        if self.streaming:
            mean_M, squares_M = self.prior_2M
            features_BNM = (features_BNM - mean_M) * torch.rsqrt((squares_M - mean_M * mean_M).clamp(min=0) + 1e-3)
        else:
            features_BNM = self._normalised(features_BNM)
        T = N // self.stack
        return features_BNM[:, : T * self.stack].reshape(wave_BS.shape[0], T, -1)

    def _normalised(self, features_BNM: Tensor) -> Tensor:
        """Per clip and bin, mixed with the statistics of the training audio."""
        N = features_BNM.shape[1]
        mean_B1M = (features_BNM.sum(1, keepdim=True) + PRIOR_FRAMES * self.prior_2M[0]) / (N + PRIOR_FRAMES)
        squares_B1M = (features_BNM * features_BNM).sum(1, keepdim=True)
        squares_B1M = (squares_B1M + PRIOR_FRAMES * self.prior_2M[1]) / (N + PRIOR_FRAMES)
        variance_B1M = (squares_B1M - mean_B1M * mean_B1M).clamp(min=0)
        return (features_BNM - mean_B1M) * torch.rsqrt(variance_B1M + 1e-3)


def _cut(wave_BS: Tensor) -> Tensor:
    """Frames of 400 samples every 160: (B, N, 400), from rows of one hop side by side (2.5 of them are a frame)."""
    N = (wave_BS.shape[1] - FRAME_WINDOW) // FRAME_HOP + 1
    whole, rest = divmod(FRAME_WINDOW, FRAME_HOP)
    rows_BJH = F.pad(wave_BS, (0, FRAME_HOP))[:, : (N + whole) * FRAME_HOP].unflatten(1, (-1, FRAME_HOP))
    return torch.cat([*(rows_BJH[:, i : i + N] for i in range(whole)), rows_BJH[:, whole : whole + N, :rest]], 2)


class Stem(nn.Module):
    """``ConvolutionStem`` without padding."""

    def __init__(self, stem: ConvolutionStem) -> None:
        super().__init__()
        self.normalise_wave = stem.normalise_wave
        self.layers = stem.layers

    def forward(self, wave_BS: Tensor) -> Tensor:
        if self.normalise_wave:
            wave_BS = wave_BS - wave_BS.mean(1, keepdim=True)
            wave_BS = wave_BS * torch.rsqrt((wave_BS * wave_BS).mean(1, keepdim=True) + WAVE_EPSILON)
        x_BCT = wave_BS[:, None]
        for layer in self.layers:
            assert isinstance(layer, StemLayer)
            x_BCT = layer.conv(x_BCT)
            if layer.group_norm is not None:
                norm = layer.group_norm
                x_BCT = x_BCT - x_BCT.mean(2, keepdim=True)
                x_BCT = x_BCT * torch.rsqrt((x_BCT * x_BCT).mean(2, keepdim=True) + norm.eps)
                x_BCT = x_BCT * norm.weight[:, None] + norm.bias[:, None]
            if layer.layer_norm is not None:
                x_BCT = layer.layer_norm(x_BCT.transpose(1, 2)).transpose(1, 2)
            x_BCT = F.gelu(x_BCT)
        return x_BCT.transpose(1, 2)


Deployed.attention, Deployed.convolution = SelfAttention, BlockConvolution


# --- Baselines -------------------------------------------------------------------------------------------


class DeployedBaseline(nn.Module):
    """wave_BS -> log-probabilities_BTV; equals ``Recogniser.log_probs`` of unpadded clips up to rounding."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        copy = deployable_copy(recogniser)
        encoder = cast(Wav2LetterEncoder | DeepSpeechEncoder, copy.encoder)
        self.frontend = FoldedFrames(cast(StackedFrames, encoder.frontend))
        self.layers = Convolutions(encoder) if isinstance(encoder, Wav2LetterEncoder) else Recurrent(encoder)
        self.head = Product.of(copy.head)
        self.joint = _joint(copy)

    def forward(self, wave_BS: Tensor) -> tuple[Tensor, ...]:
        return _heads(self, self.layers(self.frontend(wave_BS)))


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


# --- Streaming recogniser --------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A tensor cached from piece to piece."""

    name: str
    shape: tuple[int, ...]
    """of one clip before the first piece: (1, …), zeros"""


class StreamingDeployed(Deployed):
    """wave_BS, cached states -> the outputs of ``Deployed``, new states; ``states`` lists them in order."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__(recogniser)
        shape = recogniser.encoder.shape
        assert shape.streaming
        self.chunk, self.left_chunks = shape.chunk, shape.left_chunks
        self.states: list[State] = []
        for number, block in enumerate(self.blocks.layers):
            for part in block.modules():
                if isinstance(part, ChunkedAttention):
                    # Empty before the first piece: files hold no zeros, and whole clips attend to no keys of silence.
                    self.states.append(State(f"{number}.keys_values", (1, 0, 2 * part.heads, part.head_width)))
                elif isinstance(part, ChunkedBlockConvolution):
                    C, _, K = part.depthwise.weight.shape
                    self.states.append(State(f"{number}.convolution", (1, K // 2, C)))

    def begin(self) -> list[Tensor]:
        """The ``states`` before the first piece."""
        return [torch.zeros(state.shape) for state in self.states]

    def forward(self, wave_BS: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        layout = StreamingCache(self.chunk, self.left_chunks, states)
        return *self.outputs(wave_BS, layout), *layout.next_states


class StreamingCache(Unpadded):
    """Cached states of the previous pieces and new ones for the next, in the order in which the parts run."""

    def __init__(self, chunk: int, left_chunks: int, states: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.chunk = chunk
        self._left_chunks = left_chunks
        self._given = iter(states)
        self.next_states: list[Tensor] = []
        self._bias: Tensor | None = None

    def join(self, x_BTXx: Tensor, keep: int) -> Tensor:
        """``x`` appended to its cached state; the last ``keep`` frames of both become the next state."""
        past = next(self._given)
        # A state that was not given is that of one clip.
        joined = torch.cat([past.expand(x_BTXx.shape[0], *past.shape[1:]), x_BTXx], 1)
        self.next_states.append(joined[:, -keep:] if keep else joined[:, :0])
        return joined

    def bias(self, past: Any, frames: Any) -> Tensor:
        """Zero where a frame may see a key, minus infinity elsewhere: (T, P + T). Cached frames are whole chunks."""
        if self._bias is None:
            keys = torch.arange(past + frames) // self.chunk
            ahead = keys - (torch.arange(frames)[:, None] + past) // self.chunk
            self._bias = torch.zeros(1).masked_fill((ahead > 0) | (ahead < -self._left_chunks), -torch.inf)
        return self._bias

    @property
    def keys(self) -> int:
        """Largest number of cached frames of keys and values."""
        return self.chunk * self._left_chunks


class ChunkedAttention(SelfAttention):
    """Self-attention over a piece and the cached keys and values, which are stored before rotary positions are applied."""

    def forward(self, seqs: Tensor, seqs_layout: StreamingCache, **_: Any) -> Tensor:  # type: ignore[override]
        H, d = self.heads, self.head_width
        B, T, _D = seqs.shape
        q_BTHd, kv_BTHd = self.qkv(seqs).reshape(B, T, 3 * H, d).split([H, 2 * H], 2)
        k_BHPd, v_BHPd = seqs_layout.join(kv_BTHd, seqs_layout.keys).transpose(1, 2).split([H, H], 1)
        q_BHTd = q_BTHd.transpose(1, 2)
        past = k_BHPd.shape[2] - T
        if self.rotary is not None:
            # Only distances matter: positions count from the first cached frame, so they stay small.
            cos, sin = seqs_layout.angles(past + T, d // 2, self.rotary)
            q_BHTd, k_BHPd = rotate(q_BHTd, cos[past:], sin[past:]), rotate(k_BHPd, cos, sin)
        scores = torch.matmul(q_BHTd, k_BHPd.transpose(2, 3)) + seqs_layout.bias(past, T)
        return self.output(torch.matmul(scores.softmax(-1), v_BHPd).transpose(1, 2).reshape(B, T, H * d))


class ChunkedBlockConvolution(BlockConvolution):
    """The convolution inside a block, where everything after a frame's own chunk counts as zero."""

    def filtered(self, x_BTD: Tensor, seqs_layout: StreamingCache) -> Tensor:  # type: ignore[override]
        weight, C = self.depthwise.weight, self.depthwise.groups
        side, chunk = self.depthwise.kernel_size[0] // 2, seqs_layout.chunk
        B, T = x_BTD.shape[:2]
        joined_BPC = F.pad(seqs_layout.join(x_BTD, side), (0, 0, 0, chunk - 1))
        starts = torch.arange(0, T, chunk)[:, None]
        windows_BNKC = joined_BPC[:, starts + torch.arange(side + chunk)]
        windows_MCK = F.pad(windows_BNKC.flatten(0, 1).transpose(1, 2), (0, side))
        out_MKC = F.conv1d(windows_MCK, weight, groups=C).transpose(1, 2)
        return out_MKC.reshape(B, -1, C)[:, :T]


StreamingDeployed.attention, StreamingDeployed.convolution = ChunkedAttention, ChunkedBlockConvolution


def streaming_facts(shape: EncoderShape) -> dict[str, float | int] | None:
    """Streaming facts for a student's card; None for an offline recogniser."""
    if not shape.streaming:
        return None
    return {
        "chunk_s": round(shape.chunk * shape.frame_s, 6),
        "left_s": round(shape.chunk * shape.left_chunks * shape.frame_s, 6),
        "lookahead_s": round((shape.chunk - 1) * shape.frame_s, 6),
        "chunk_frames": shape.chunk,
        "receptive_field": shape.receptive_field,
    }


def deploy(model: Recogniser | Classifier) -> Deployed | DeployedBaseline:
    """The inference module of ``model``: classifier, baseline, streaming or offline recogniser."""
    if isinstance(model, Classifier):
        if model.encoder.shape.streaming:
            raise UserError("a classifier on a streaming encoder cannot be exported; train it on an offline one")
        return DeployedClassifier(model)
    if isinstance(model.encoder, Baseline):
        return DeployedBaseline(model)
    return StreamingDeployed(model) if model.encoder.shape.streaming else Deployed(model)
