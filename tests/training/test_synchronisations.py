"""A whole training step without one host synchronisation, proved on torch's meta device.

The meta device stands for a GPU. Its tensors have no values: whatever reads one (``.item()``, ``int(tensor)``, ``.tolist()``,
``nonzero``, a boolean index) raises, and so do operations on tensors of two devices. What a GPU would not raise for but wait
for, a copy that blocks, raises here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.nn import batch_layout
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pretrain.task
from lalia import config
from lalia.data.batch import Batch
from lalia.data.seeds import generator
from pretrain.bands import GuardSettings
from pretrain.config import PretrainSettings
from pretrain.guard import Guard
from pretrain.task import PretrainTask, contrast_sampler

META = torch.device("meta")
LENGTHS = [80_000, 48_000, 31_001, 16_000]


class Waits(Exception):
    """The host would wait for the GPU."""


class NoWaiting(TorchDispatchMode):
    """Raises where a tensor on the CPU meets one on the device, and at copies between them that block."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        on_host = [leaf for leaf in given if leaf.device.type == "cpu" and leaf.ndim]
        on_device = [leaf for leaf in (*given, *made) if leaf.device.type == "meta"]
        if on_host and on_device and not (kwargs.get("non_blocking") or (operation is _COPY and args[2:] == (True,))):
            raise Waits(f"{operation} of {[(tuple(t.shape), str(t.device)) for t in given]} blocks")
        return result


_COPY = torch.ops.aten.copy_.default


class NoNumbers(TorchFunctionMode):
    """Raises where numbers of the host become a tensor on the device, which torch copies with a wait."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            raise Waits(f"{function.__name__}(…, device=…) blocks")
        return function(*args, **kwargs)


_META_KERNELS = torch.library.Library("aten", "IMPL", "Meta")
_META_KERNELS.impl("_weight_norm_interface_backward", lambda _, v, g, *more: (torch.empty_like(v), torch.empty_like(g)))


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> Iterator[None]:
    """Inside, what waits raises. ``generator`` in ``modules`` gives a CPU's generator, since the meta device has none."""
    for module in modules:
        monkeypatch.setattr(module, "generator", lambda *parts, device=None: generator(*parts))
    # As fairseq2 copies to a GPU, but from memory that is not pinned.
    monkeypatch.setattr(
        batch_layout,
        "to_tensor",
        lambda data, dtype, device: torch.tensor(data, dtype=dtype).to(device, non_blocking=True),
    )
    with NoNumbers(), NoWaiting():
        yield


def batch_of(lengths: list[int]) -> Batch:
    lengths_B = torch.tensor(lengths)
    wave_BS = torch.randn(len(lengths), max(lengths))
    nothing_B = torch.zeros_like(lengths_B)
    return Batch(3, wave_BS, lengths_B, nothing_B, nothing_B, None, None, ())


KINDS = {
    "base": ("base",),
    "base, visible frames, checkpointing": ("base", "--objective.visible_weight", "0.5", "--hardware.checkpointing", "true"),
    "base on log-mel frames, kmeans": ("base", "--model.input", "logmel", "--quantizer.kind", "kmeans",
                                       "--quantizer.codebooks", "1"),
    "nano on the wave, kmeans": ("nano-wave",),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretraining_step_never_waits(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    name, *argv = KINDS[kind]
    argv = ["--config", f"configs/pretrain/{name}.yaml", "--data.corpus", "none", *argv]
    settings = config.load(PretrainSettings, argv, "test", "")
    task = PretrainTask(settings).train().to(META)
    optimizer = task.configure_optimizers()["optimizer"]
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    monkeypatch.setattr(task, "optimizers", lambda: optimizer)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=2, world_size=1, strategy=None, optimizers=[optimizer])
    guard = Guard(GuardSettings(), tmp_path)
    batch = contrast_sampler(settings)(batch_of(LENGTHS))
    with no_waiting(monkeypatch, pretrain.task):
        for _ in range(2):
            loss = task.training_step(batch.to(META), 0)
            guard.on_before_backward(trainer, task, loss)
            loss.backward()
        packed = guard._pack(trainer, task)
        task.configure_gradient_clipping(optimizer, 1.0, "norm")
        optimizer.step()
    assert packed.device == META and packed.ndim == 1
    assert all(isinstance(value, Tensor) for value in logged.values())
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_what_would_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x, host = torch.empty(4, device=META), torch.ones(4)
    for wait in (
        lambda: x.sum().item(), lambda: int(x[0]), lambda: x.tolist(), lambda: bool(x.any()), lambda: x.nonzero(),
        lambda: x[x > 0], lambda: x + host, lambda: x[torch.tensor([1, 2])], lambda: host.to(META), lambda: x.cpu(),
        lambda: torch.tensor([1.0, 2.0], device=META), lambda: x.copy_(host),
    ):  # fmt: skip
        with pytest.raises((Waits, RuntimeError)), no_waiting(monkeypatch):
            wait()
    with no_waiting(monkeypatch):
        assert host.to(META, non_blocking=True).device == META
        x.copy_(host, non_blocking=True)
