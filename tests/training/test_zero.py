"""ZeRO: its arithmetic against torch's, and the private parts of DeepSpeed that lalia uses."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lalia.training.zero import PRIVATE, VERSION, round_once


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


@pytest.mark.parametrize("place", PRIVATE)
def test_deepspeed_still_has_the_private_parts_in_use(place: str) -> None:
    """Attributes that are set while an object is made are looked for in the source of its class."""
    found = version("deepspeed")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    changed = f"deepspeed {found} has no {place}, which lalia/training/zero.py uses for: {PRIVATE[place]}"
    module_name, _, name = place.partition(":")
    module = importlib.import_module(f"deepspeed.{module_name}")
    owner, _, attribute = name.partition(".")
    assert hasattr(module, owner), changed
    if attribute:
        made = getattr(module, owner)
        present = hasattr(made, attribute) or re.search(rf"\b{attribute}\b", inspect.getsource(made))
        assert present, changed


def test_deepspeed_is_the_version_that_was_read() -> None:
    found = version("deepspeed")
    assert found.startswith(f"{VERSION}."), (
        f"deepspeed {found}: lalia/training/zero.py was written for {VERSION}; compare its private parts (PRIVATE) with the new "
        "source, then raise VERSION"
    )


def test_the_public_setter_cannot_restore_uneven_shards() -> None:
    """Why lalia writes shards itself. Fails once DeepSpeed pads the value: then its own functions can take over."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    second_of_two = SimpleNamespace(
        _get_fp32_opt_state_partition=lambda *args, **kwargs: (torch.zeros(3), 0),
        _get_param_partition_rank=lambda parameter: 1,
        _swappable_optimizer_subgroup=lambda group: False,
    )
    five = SimpleNamespace(requires_grad=True, ds_numel=5)
    with pytest.raises(RuntimeError, match="exceeds dimension size"):
        DeepSpeedZeroOptimizer_Stage3.set_full_hp_param(second_of_two, torch.arange(5.0), five)
