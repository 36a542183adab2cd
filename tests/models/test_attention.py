"""Written-out attention against torch's own, and with dropout against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lalia.models.cpu_kernels import attend
from lalia.models.cpu_kernels import dropout as drop

B, H, T, d = 2, 3, 11, 8


QKV = tuple[Tensor, Tensor, Tensor]


def draw() -> QKV:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, T, d, generator=random, requires_grad=True) for _ in range(3))
    return q, k, v


def results(attended: Tensor, qkv: QKV) -> list[Tensor]:
    """What was attended, and the gradients of q, k and v under a loss that is not even."""
    weight = torch.linspace(-1, 2, attended.numel()).view(attended.shape)
    return [attended.detach(), *torch.autograd.grad((attended.float() * weight).sum(), qkv)]


@pytest.mark.parametrize("padded", [False, True])
def test_equal_to_the_fused_kernel(padded: bool) -> None:
    bias = torch.zeros(B, 1, 1, T)
    bias[1, :, :, 7:] = -torch.inf
    given = bias if padded else None
    qkv = draw()
    expected = results(F.scaled_dot_product_attention(*qkv, attn_mask=given), qkv)
    for found, other in zip(results(attend(*qkv, given, 0.0), qkv), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


def test_dropout_leaves_out_weights() -> None:
    qkv = draw()
    q, k, v = qkv
    torch.manual_seed(1)
    expected = results(drop((q @ k.transpose(2, 3) * d**-0.5).softmax(-1), 0.3) @ v, qkv)
    torch.manual_seed(1)
    for found, other in zip(results(attend(*qkv, None, 0.3), qkv), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


def test_under_autocast_products_and_gradients_are_bfloat16s() -> None:
    qkv = draw()
    expected = results(F.scaled_dot_product_attention(*qkv), qkv)
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend(*qkv, None, 0.0)
    assert attended.dtype == torch.bfloat16
    for found, other in zip(results(attended, qkv), expected, strict=True):
        torch.testing.assert_close(found.float(), other, rtol=0.05, atol=0.05)


def test_what_is_kept_between_the_passes() -> None:
    qkv = draw()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attended = attend(*qkv, None, 0.3)
    square = B * H * T * T
    frames = B * H * T * d * 4
    assert attended.shape == (B, H, T, d)
    assert sum(kept.values()) <= square * (4 + 1) + 8 + 4 * frames
