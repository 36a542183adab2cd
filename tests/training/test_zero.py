"""ZeRO's arithmetic against torch's."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional as F

from lalia.training.zero import round_once


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("rows", [(5,), (2, 5)])
def test_stage_3_rounds_as_torch_does(half: bool, rows: tuple[int, ...]) -> None:
    """DeepSpeed's own linear function rounds twice in bfloat16: final weights were 1.5e-3 from those of one process."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    round_once()
    random = torch.Generator().manual_seed(1)
    given = [torch.randn(*shape, generator=random) for shape in ((*rows, 64), (32, 64), (32,))]
    gradient = torch.randn(*rows, 32, generator=random)
    outputs = []
    for linear in (F.linear, zero3_linear_wrap):
        tensors = [value.clone().requires_grad_() for value in given]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = linear(*tensors)
        y.backward(gradient.to(y.dtype))
        outputs.append([y, *(tensor.grad for tensor in tensors)])
    for expected, found in zip(*outputs, strict=True):
        assert expected.dtype == found.dtype
        if half:
            assert torch.equal(expected, found)
        torch.testing.assert_close(expected, found)
