"""A whole training step without one host synchronisation, proved on torch's meta device.

The meta device stands for a GPU. Its tensors have no values: whatever reads one (``.item()``, ``int(tensor)``, ``.tolist()``,
``nonzero``, a boolean index) raises, and so do operations on tensors of two devices. What a GPU would not raise for but wait
for, a copy that blocks, raises here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.nn import batch_layout
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import distill.fit
import distill.prune
import finetune.task
import pretrain.loss
import pretrain.task
from distill.config import DistillSettings, PruneSettings, StudentSettings
from distill.prune import PruneTask
from distill.student import make_student
from distill.task import DistillTask
from distill.teacher import TorchTeacher
from finetune.config import FinetuneSettings
from finetune.task import FinetuneTask
from lalia import config
from lalia.data.batch import Batch
from lalia.data.seeds import generator
from lalia.models import blocks, cpu_kernels, frontend, quantizer
from lalia.models.shape import EncoderShape
from lalia.training import interventions
from lalia.training.run_log import BadClips, ProgressBar, ThroughputLog, TimedLoader
from pretrain.bands import GuardSettings
from pretrain.code_usage import CodeRecord, _nearest
from pretrain.config import PretrainSettings
from pretrain.guard import Guard
from pretrain.task import BatchStats, PretrainTask, contrast_sampler
from tests.tiny_teacher import make_recogniser

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
        # A number on the CPU may meet tensors on the device: the kernel takes its value. Only copying it there blocks.
        on_host = [leaf for leaf in given if leaf.device.type == "cpu" and (leaf.ndim or operation in _COPIES)]
        on_device = [leaf for leaf in (*given, *made) if leaf.device.type == "meta"]
        ahead = kwargs.get("non_blocking") or (operation is _COPY and args[2:] == (True,))
        if on_host and on_device and not ahead and operation not in _HOST_LENGTHS:
            raise Waits(f"{operation} of {[(tuple(t.shape), str(t.device)) for t in given]} blocks")
        return result


_COPY = torch.ops.aten.copy_.default
_COPIES = {_COPY, torch.ops.aten._to_copy.default}
_HOST_LENGTHS = {torch.ops.aten._ctc_loss.Tensor, torch.ops.aten._ctc_loss_backward.Tensor}


class NoNumbers(TorchFunctionMode):
    """Raises where numbers of the host become a tensor on the device, which torch copies with a wait."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            raise Waits(f"{function.__name__}(…, device=…) blocks")
        return function(*args, **kwargs)


_META_KERNELS = torch.library.Library("aten", "IMPL", "Meta")
_META_KERNELS.impl("_weight_norm_interface_backward", lambda _, v, g, *more: (torch.empty_like(v), torch.empty_like(g)))


def _ctc(scores_TBV: Tensor, labels_BU: Tensor, frames_B: Tensor, lengths_B: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    # CUDA's kernel reads the lengths on the host. It copies them and its offsets to the device by itself, which blocks.
    assert frames_B.device.type == lengths_B.device.type == "cpu"
    return scores_TBV.new_empty(len(frames_B)), scores_TBV.new_empty(len(frames_B), 1, 1)


_META_KERNELS.impl("_ctc_loss.Tensor", _ctc)
_META_KERNELS.impl("_ctc_loss_backward.Tensor", lambda _, scores_TBV, *more: torch.empty_like(scores_TBV))


class Bfloat16(TorchFunctionMode):
    """Autocast to bfloat16, which torch does not have for the meta device: casts what goes into products."""

    products = (F.linear, F.conv1d, F.scaled_dot_product_attention, torch.bmm, torch.matmul, Tensor.__matmul__)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.enabled, self.cast = True, 0
        for module in (blocks, cpu_kernels):
            monkeypatch.setattr(module, "autocast_type", lambda device: torch.bfloat16 if self.enabled else None)
        for module in (frontend, cpu_kernels, quantizer, pretrain.loss):
            monkeypatch.setattr(module, "full_precision", self.disabled)

    @contextmanager
    def disabled(self, device: torch.device) -> Iterator[None]:
        before, self.enabled = self.enabled, False
        yield
        self.enabled = before

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.enabled and function in self.products:
            self.cast += 1
            args, kwargs = tree_map_only(Tensor, lambda x: x.bfloat16() if x.is_floating_point() else x, (args, kwargs))
        return function(*args, **(kwargs or {}))


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


# Without checkpointing in bf16: torch calls a backward pass outside of modes like Bfloat16, and so what is recomputed there.
@pytest.mark.parametrize(
    ("kind", "precision"), [(k, p) for k in KINDS for p in ("fp32", "bf16") if p == "fp32" or "checkpointing" not in k]
)
def test_a_pretraining_step_never_waits(
    kind: str, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    name, *argv = KINDS[kind]
    argv = ["--config", f"configs/pretrain/{name}.yaml", "--data.corpus", "none", *argv]
    settings = config.load(PretrainSettings, argv, "test", "")
    task = PretrainTask(settings).train().to(META)
    optimizer = task.configure_optimizers()["optimizer"]
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    monkeypatch.setattr(task, "optimizers", lambda: optimizer)
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=2, world_size=1, strategy=None, optimizers=[optimizer], global_step=1, log_every_n_steps=50,
        is_global_zero=True,
    )  # fmt: skip
    guard = Guard(GuardSettings(), tmp_path)
    progress = ProgressBar(settings.schedule, 1.0, ("train/loss",), "pretrain")
    progress.on_train_start(trainer, task)
    callbacks: list[Any] = [progress, ThroughputLog(TimedLoader([]), ["ita"]), CodeRecord(tmp_path), BadClips(tmp_path)]
    batch = contrast_sampler(settings)(batch_of(LENGTHS))
    autocast: Any = Bfloat16(monkeypatch) if precision == "bf16" else nullcontext()
    with no_waiting(monkeypatch, pretrain.task):
        for _ in range(2):
            with autocast:
                loss = task.training_step(batch.to(META), 0)
            guard.on_before_backward(trainer, task, loss)
            loss.backward()
            for callback in callbacks:
                callback.on_train_batch_end(trainer, task, None, batch, 0)
        packed = guard._pack(trainer, task)
        task.configure_gradient_clipping(optimizer, 1.0, "norm")
        optimizer.step()
    assert precision == "fp32" or autocast.cast > 20
    assert packed.device == META and packed.ndim == 1
    assert all(isinstance(value, Tensor) for value in logged.values())
    assert all(parameter.grad is not None for parameter in task.parameters())


def labelled(batch: Batch, texts: list[list[int]]) -> Batch:
    label_lengths_B = torch.tensor([len(text) for text in texts])
    labels_BU = pad_sequence([torch.tensor(text, dtype=torch.int64) for text in texts], batch_first=True)
    return replace(batch, labels_BU=labels_BU, label_lengths_B=label_lengths_B)


TEXTS = [[2, 3, 3, 4], [5, 2], [1], [2, 4]]
SHAPES: dict[str, Any] = {"base": EncoderShape().to_dict(), "log-mel": {}}


def step(task: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch, modules: list[Any]) -> dict[str, Any]:
    """Two micro-batches and an optimizer step of ``task`` on the meta device without waiting; what was logged."""
    optimizer = task.to(META).train().configure_optimizers()["optimizer"]
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    monkeypatch.setattr(task, "optimizers", lambda: optimizer)
    with no_waiting(monkeypatch, *modules):
        for _ in range(2):
            task.training_step(batch.to(META), 0).backward()
        task.on_before_optimizer_step(optimizer)
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    assert all(isinstance(value, Tensor) for value in logged.values())
    return logged


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fine_tuning_step_reads_once(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FinetuneSettings(encoder="none")
    settings.freeze.encoder_share = 0.0
    recogniser = make_recogniser(**SHAPES[shape])
    task = FinetuneTask(settings, recogniser, {})
    read: list[Tensor] = []

    def to_host(values: Tensor) -> Tensor:
        read.append(values)
        return torch.ones(values.shape)

    monkeypatch.setattr(finetune.task, "to_host", to_host)
    sampler = settings.regular.sampler(0, recogniser.encoder.shape)
    step(task, sampler(labelled(batch_of(LENGTHS), TEXTS)), monkeypatch, [])
    assert [tuple(values.shape) for values in read] == [
        (2 * (len(LENGTHS) + 1) + 1,)
    ]  # a clip and a loss each; all ranks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("known", ["labels", "pseudo-labels by beam search"])
def test_a_distillation_step_never_waits(shape: str, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_recogniser(**SHAPES[shape])
    settings = DistillSettings(teacher=["none"], student=StudentSettings(layers=2), join_s=1000.0)
    settings.augment = replace(settings.augment, noise=0.5)
    task = DistillTask(settings, [TorchTeacher(teacher)], make_student(teacher, settings.student, settings.regular), {})
    texts = TEXTS if known == "labels" else [TEXTS[0], [], [], []]
    task.pseudo = None if known == "labels" else {0: [3, 2]}
    batch = task.sampler(labelled(batch_of(LENGTHS), texts))
    assert batch.student is not None and batch.student.places is not None
    assert len(batch.student.places.frames_P) > 0
    teacher.to(META)
    step(task, batch, monkeypatch, [])


def test_a_pruning_step_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_recogniser()
    settings = PruneSettings(teacher=["none"])
    task = PruneTask(settings, [TorchTeacher(teacher)], make_student(teacher, settings.student, settings.regular), {})
    teacher.to(META)
    step(task, task.sampler(labelled(batch_of(LENGTHS), TEXTS)), monkeypatch, [distill.prune])


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_codes_of_held_out_clips_are_found_on_the_device(quantizer: str, tmp_path: Any) -> None:
    argv = ["--config", "configs/pretrain/nano-wave.yaml", "--data.corpus", "none", "--quantizer.kind", quantizer]
    settings = config.load(PretrainSettings, argv, "test", "")
    task = PretrainTask(settings).eval().to(META)
    chosen_BT, score_BT = _nearest(task, contrast_sampler(settings, validation=True)(batch_of(LENGTHS)).to(META), 0)
    assert chosen_BT.device == score_BT.device == META and chosen_BT.shape == score_BT.shape


def test_the_timed_pass_of_distillation_has_its_teacher_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_recogniser()
    settings = DistillSettings(teacher=["none"])
    task = DistillTask(
        settings, [TorchTeacher(teacher)], make_student(teacher, settings.student, settings.regular), {}
    ).to(META)
    batch = task.sampler(labelled(batch_of(LENGTHS), TEXTS))
    monkeypatch.setattr(distill.fit, "make_loader", lambda *given, **settings: [batch])
    distill.fit._micro_step(task, SimpleNamespace(clips=None, plan=None, encode=None))  # type: ignore[arg-type]
    assert all(parameter.grad is not None for parameter in task.student.head.parameters())


def test_the_gradient_norm_comes_from_the_cpu_where_deepspeed_offloads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    guard, number = Guard(GuardSettings(), tmp_path), torch.empty((), device=META)
    stats = BatchStats._make([*[number] * 5, torch.empty(2, 8, device=META), torch.empty(4, 3, device=META)])
    guard._stats = [(number, stats)]
    monkeypatch.setattr(interventions, "gradient_norm", lambda trainer: torch.tensor(1.5))
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1, world_size=1, strategy=None)
    assert guard._pack(trainer, SimpleNamespace()).device == META  # type: ignore[arg-type]


def test_what_would_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x, host = torch.empty(4, device=META), torch.ones(4)
    for wait in (
        lambda: x.sum().item(), lambda: int(x[0]), lambda: x.tolist(), lambda: bool(x.any()), lambda: x.nonzero(),
        lambda: x[x > 0], lambda: x + host, lambda: x[torch.tensor([1, 2])], lambda: host.to(META), lambda: x.cpu(),
        lambda: torch.tensor([1.0, 2.0], device=META), lambda: x.copy_(host), lambda: torch.tensor(1.0).to(META),
    ):  # fmt: skip
        with pytest.raises((Waits, RuntimeError)), no_waiting(monkeypatch):
            wait()
    with no_waiting(monkeypatch):
        assert host.to(META, non_blocking=True).device == META
        x.copy_(host, non_blocking=True)
