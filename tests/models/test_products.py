"""Training's matrix products on a CPU, and the stem made of them, are the same functions as torch's layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.cpu_products import product, replace_products
from lalia.models.frontend import ConvolutionStem
from lalia.models.shape import EncoderShape


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("strided", [False, True])
def test_a_product_has_the_rounding_error_of_float32(strided: bool) -> None:
    a, b = torch.randn(70, 300), torch.randn(300, 90)
    if strided:
        a, b = a.T.contiguous().T, torch.randn(90, 300).T
    expected = a.double() @ b.double()
    assert apart(product(a, b), expected) < 2e-6
    assert apart(product(a, b, torch.ones(90)), expected + 1) < 2e-6
    rows = a.as_strided((20, 40), (a.shape[1], 1)) if not strided else a[:20, :40]
    assert apart(product(rows, b[:40]), rows.double() @ b[:40].double()) < 2e-6


@pytest.mark.parametrize("bias", [False, True])
def test_a_replaced_layer_gives_the_same_output_and_gradients(bias: bool) -> None:
    layer, x = nn.Linear(48, 80, bias=bias), torch.randn(3, 17, 48)
    replace_products(layer)
    found: list[list[Tensor]] = []
    for forward in (layer, lambda x: F.linear(x, layer.weight, layer.bias)):
        seen = x.clone().requires_grad_()
        out = forward(seen)
        layer.zero_grad()
        (out * torch.arange(80)).sum().backward()
        assert seen.grad is not None
        found.append([out.detach(), seen.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        assert apart(ours, theirs) < 2e-6


SHAPES = [
    [[8, 10, 5], [12, 3, 2], [6, 2, 2], [10, 3, 2]],
    [[8, 10, 5], [12, 7, 2], [6, 2, 3], [4, 4, 2]],
    [[8, 10, 5]],
]


@pytest.mark.parametrize("stem", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_stem_by_products_is_the_stem_by_layers(
    stem: list[list[int]], bias: bool, padded: bool, bf16: bool
) -> None:
    module = ConvolutionStem(EncoderShape(stem=stem, stem_bias=bias)).train()
    nn.init.normal_(module.layers[0].group_norm.weight)  # type: ignore[union-attr,arg-type]
    lengths_B = torch.tensor([3000, 1900 if padded else 3000, 3000])
    wave_BS = torch.randn(3, 3000) * (torch.arange(3000) < lengths_B[:, None])
    found: list[list[Tensor]] = []
    for module.by_products in (True, False):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out_BTF, frames_B = module(wave_BS, lengths_B)
        valid_BT1 = (torch.arange(out_BTF.shape[1]) < frames_B[:, None])[:, :, None]
        (out_BTF * torch.linspace(-1, 1, out_BTF.shape[1])[:, None] * valid_BT1).sum().backward()
        gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        found.append([frames_B, out_BTF.detach() * valid_BT1, *gradients])
    assert len(found[0]) == 2 + len(list(module.parameters()))
    for ours, theirs in zip(*found, strict=True):
        # The bias before the group norm has no gradient but rounding.
        assert float((ours - theirs).double().norm()) < (0.03 if bf16 else 1e-5) * max(
            10.0, float(theirs.double().norm())
        )
