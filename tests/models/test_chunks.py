"""Streaming encoders: what lies behind a chunk never changes its frames, and weights are those of an offline encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.config import RegularSettings, StudentSettings
from distill.student import make_student
from lalia.errors import UserError
from lalia.models.blocks import ChunkBias, ChunkedConvolution
from tests.tiny_teacher import make_recogniser

CHUNK, LEFT = 3, 2
STEM = [[16, 10, 5], [16, 8, 4], [24, 4, 4], [24, 4, 4], [32, 2, 2]]
SHAPES: dict[str, dict[str, Any]] = {
    "convolutional": {"layers": 2},
    "wide kernel": {"layers": 2, "block_kernel": 11},
    "conformer mfcc": {"block": "conformer", "input": "mfcc", "bins": 13, "stack": 2, "layers": 2},
    "transformer": {"block": "transformer", "norm": "pre", "layers": 2},
    "wave": {"input": "wave", "stem": STEM, "stem_norm": "layer", "stem_bias": True, "layers": 2},
}


def streaming(name: str):
    return make_recogniser(**SHAPES[name], chunk=CHUNK, left_chunks=LEFT)


def noise(samples: int, rows: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("name", SHAPES)
def test_a_chunk_is_final_as_soon_as_it_is_heard(name: str) -> None:
    encoder = streaming(name).encoder
    shape = encoder.shape
    wave_BS = noise(20_000)
    whole_BTD, _ = encoder(wave_BS, torch.tensor([20_000]))
    for frames in range(CHUNK, shape.frames(20_000), CHUNK):
        samples = (frames - 1) * shape.hop + shape.receptive_field
        early_BTD, _ = encoder(wave_BS[:, :samples], torch.tensor([samples]))
        assert early_BTD.shape[1] == frames
        torch.testing.assert_close(early_BTD, whole_BTD[:, :frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_padding_changes_nothing(name: str) -> None:
    encoder = streaming(name).encoder
    wave_BS = noise(16_000, 2)
    wave_BS[1, 9_000:] = 0.7
    together_BTD, frames_B = encoder(wave_BS, torch.tensor([16_000, 9_000]))
    alone_BTD, _ = encoder(wave_BS[1:, :9_000], torch.tensor([9_000]))
    torch.testing.assert_close(together_BTD[1, : frames_B[1]], alone_BTD[0], rtol=0, atol=1e-5)


def test_how_far_a_frame_hears() -> None:
    """One block, attention alone: its own chunk and two before, by hand."""
    seen = ChunkBias(3, 2).create_bias_tensor(12, 12, torch.device("cpu"), torch.float32) == 0
    for q in range(12):
        assert seen[q].nonzero().flatten().tolist() == [k for k in range(12) if q // 3 - 2 <= k // 3 <= q // 3]


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("kernel", [1, 3, 9])
def test_the_convolution_against_a_loop(frames: int, kernel: int) -> None:
    torch.manual_seed(0)
    convolution = ChunkedConvolution(2, kernel, CHUNK)
    x_BCT = torch.randn(2, 2, frames)
    expected = torch.zeros(2, 2, frames)
    for t in range(frames):
        for tap in range(kernel):
            there = t + tap - kernel // 2
            if 0 <= there < min(frames, (t // CHUNK + 1) * CHUNK):
                expected[:, :, t] += convolution.weight[:, 0, tap] * x_BCT[:, :, there]
    torch.testing.assert_close(convolution(x_BCT), expected)


def test_one_chunk_as_long_as_the_clip_is_the_offline_model() -> None:
    offline = make_recogniser(input="wave", stem=STEM, stem_norm="layer", layers=2)
    asked = StudentSettings(layers=2, chunk=1000, left_chunks=1)
    student = make_student(offline, asked, RegularSettings()).eval()
    wave_BS, lengths_B = noise(16_000), torch.tensor([16_000])
    torch.testing.assert_close(student.log_probs(wave_BS, lengths_B)[0], offline.log_probs(wave_BS, lengths_B)[0])
    streamed = make_student(offline, StudentSettings(layers=2, chunk=4, left_chunks=2), RegularSettings())
    assert (streamed.encoder.shape.chunk, streamed.encoder.shape.left_chunks) == (4, 2)
    assert streamed.state_dict().keys() == offline.state_dict().keys()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"chunk": 4}, "expected both from 1"),
        ({"left_chunks": 4}, "expected both from 1"),
        ({"chunk": 4, "left_chunks": 2, "position": "convolution", "position_kernel": 4}, "position convolution"),
        ({"chunk": 4, "left_chunks": 2, "input": "wave", "stem": STEM}, "stem_norm group"),
        (
            {"chunk": 4, "left_chunks": 2, "input": "wave", "stem": STEM, "stem_norm": "layer", "normalise_wave": True},
            "normalise_wave",
        ),
    ],
)
def test_what_needs_the_whole_clip_cannot_stream(shape: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_recogniser(**shape)
