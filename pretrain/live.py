"""Bytes of tensors that are alive while a piece of code runs: what a step holds at its worst moment, passing values included.

Matrix products and convolutions are not computed: they give zeros of the right shape. Those of some seconds of audio through
BASE would take most of a minute on one core, and no number of bytes depends on their results.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_ATEN = torch.ops.aten
PRODUCTS = (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.convolution, _ATEN.convolution_backward)


class LiveBytes(TorchDispatchMode):
    """Counts every storage that torch's operations make, until nothing holds it any more.

    ``with LiveBytes(known) as live: ...`` leaves in ``live.peaks`` the largest number of bytes that were alive at once, one
    figure for each stretch of time between calls of ``mark``. Storages of ``known`` (weights, gradients, what was there before)
    are not counted, nor what an operation takes for itself and gives back before it ends. ``fused_attention``: (T, T) weights
    are left out, as on a GPU, whose kernel makes none.
    """

    def __init__(self, known: Iterable[Tensor], fused_attention: bool = False) -> None:
        super().__init__()
        self.peaks = [0]
        self._fused_attention = fused_attention
        self._now = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def mark(self) -> None:
        """From here on a new figure."""
        self.peaks.append(self._now)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = operation.overloadpacket in PRODUCTS
        result = _zeros(operation, args, kwargs) if product else operation(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        square = tensor.ndim == 4 and tensor.shape[-1] == tensor.shape[-2] > 1
        if address in self._seen or (self._fused_attention and square):
            return
        self._seen.add(address)
        self._now += size
        self.peaks[-1] = max(self.peaks[-1], self._now)
        # The storage's Python object lives as long as the storage itself.
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._now -= size


def _zeros(operation: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What ``operation`` would give, but zeros."""
    device = next(leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    shapes = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    made = operation(*shapes[0], **shapes[1])
    return tree_map_only(
        Tensor,
        lambda meta: torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device=device).zero_(),
        made,
    )
