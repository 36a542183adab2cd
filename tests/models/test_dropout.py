"""Byte dropout drops what it says and keeps the mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lalia.models.cpu_kernels import ByteDropout, dropout, replace_dropouts


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_right(p):
    torch.manual_seed(0)
    found = dropout(torch.ones(1001, 401), p)
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.005)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)
    assert found[found != 0].unique().numel() == 1


def test_it_repeats_with_the_seed_and_is_off_in_eval_mode():
    layer, x = ByteDropout(0.3), torch.randn(64, 64)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))
    assert torch.equal(layer.eval()(x), x)


def test_gradients_pass_where_numbers_passed():
    x = torch.ones(100, 100, requires_grad=True)
    found = dropout(x, 0.4)
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, found.detach() != 0)


def test_a_byte_of_each_number_is_kept():
    x = torch.ones(100, 100, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        dropout(x, 0.4)
    assert [tensor.dtype for tensor in kept] == [torch.uint8]


def test_every_torch_dropout_is_replaced():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)))
    replace_dropouts(net)
    assert [m.p for m in net.modules() if isinstance(m, ByteDropout)] == [0.2, 0.3]
    assert not [m for m in net.modules() if isinstance(m, nn.Dropout)]
