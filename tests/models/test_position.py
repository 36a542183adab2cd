"""The position convolution by blocks against torch's, with fairseq2's weight norm around both."""

from __future__ import annotations

from typing import Any

import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoder
from fairseq2.nn import BatchLayout
from torch import Tensor, nn

from lalia.models import cpu_kernels
from lalia.models.cpu_kernels import position_encoder


def passes(encoder: nn.Module, x_BTD: Tensor, lengths: list[int] | None, half: bool = False) -> dict[str, Tensor]:
    """Outputs and the gradients of everything."""
    x_BTD = x_BTD.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y_BTD = encoder(x_BTD, BatchLayout.of(x_BTD, lengths))
    gradient_BTD = torch.randn(y_BTD.shape, generator=torch.Generator().manual_seed(2))
    y_BTD.backward(gradient_BTD.to(y_BTD.dtype))
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    assert x_BTD.grad is not None
    return {"y": y_BTD.detach().float(), "x": x_BTD.grad, **gradients}


def pair(width: int, kernel: int, groups: int) -> tuple[nn.Module, nn.Module]:
    """fairseq2's encoder and ours with the same weights."""
    torch.manual_seed(1)
    theirs, ours = Wav2Vec2PositionEncoder(width, kernel, groups), position_encoder(width, kernel, groups)
    ours.load_state_dict(theirs.state_dict())
    return theirs.train(), ours.train()


@pytest.mark.parametrize("kernel", [64, 65, 128])
@pytest.mark.parametrize("frames", [3, 70, 201])
def test_equals_fairseq2(kernel: int, frames: int) -> None:
    theirs, ours = pair(12, kernel, 4)
    x_BTD = torch.randn(3, frames, 12)
    for lengths in (None, [frames, frames - 2, 1]):
        expected, found = passes(theirs, x_BTD, lengths), passes(ours, x_BTD, lengths)
        assert expected.keys() == found.keys() and {"conv.weight_g", "conv.weight_v", "conv.bias"} < found.keys()
        for name, value in expected.items():
            bound = 1e-5 if name == "y" else 1e-4
            assert float((found[name] - value).abs().max()) <= bound * float(value.abs().max()), name
        theirs.zero_grad()
        ours.zero_grad()


def test_is_as_near_in_bfloat16_as_torchs_convolution() -> None:
    theirs, ours = pair(64, 128, 4)
    x_BTD = torch.randn(2, 150, 64)
    exact = passes(theirs, x_BTD, None)
    theirs.zero_grad()
    expected, found = passes(theirs, x_BTD, None, half=True), passes(ours, x_BTD, None, half=True)
    for name, value in exact.items():
        off, far = (float((other[name] - value).norm()) for other in (found, expected))
        assert off <= 1.3 * far, name


def test_what_is_computed_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    convolved = cpu_kernels._convolved

    def counted(*given: Any) -> Tensor:
        blocks.append(1)
        return convolved(*given)

    monkeypatch.setattr(cpu_kernels, "_convolved", counted)
    for width, kernel, training, expected in [
        (32, 128, True, True),
        (32, 128, False, False),
        (32, 16, True, False),
        (96, 128, True, False),
    ]:
        encoder = pair(width, kernel, 2)[1].train(training)
        blocks.clear()
        encoder(torch.randn(1, 20, width), BatchLayout.of(torch.randn(1, 20, width)))
        assert bool(blocks) == expected
