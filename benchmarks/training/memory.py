"""Predicted and measured memory of one pretraining step, at five sizes.

    OMP_NUM_THREADS=1 python -m benchmarks.training.memory [--size nano base] [--precision fp32 bf16] [--checkpointing]

Each size is a separate process. ``peak`` is the rise of its resident memory over the state before the model is made, during two
accumulated forward and backward passes and an AdamW step. Memory that libraries allocate once for code and kernels is excluded: a
step of a tiny model comes first, and ``libraries`` is its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import WAV2VEC2_STEM, EncoderShape
from lalia.training.settings import BatchSettings, DataSettings, HardwareSettings
from pretrain.config import ObjectiveSettings, PretrainSettings

# By default glibc keeps freed blocks; here they are returned, so that resident memory is memory in use.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def stem(width: int) -> list[list[int]]:
    """wav2vec 2.0's stem with ``width`` channels."""
    return [[width, kernel, stride] for _, kernel, stride in WAV2VEC2_STEM]


NANO = EncoderShape(input="logmel", width=192, layers=5, heads=4, feedforward=768, block="convolutional", block_kernel=9,
                    position="rotary", dropout=0.0, attention_dropout=0.0, layerdrop=0.0)  # fmt: skip
SIZES: dict[str, tuple[EncoderShape, float, float]] = {
    # name: (shape, seconds of a clip, clips)
    "nano": (NANO, 5.0, 16),
    "logmel 256 x 8": (
        replace(NANO, width=256, layers=8, feedforward=1024, dropout=0.1, attention_dropout=0.1),
        15.0,
        4,
    ),
    "wave 192 x 4": (EncoderShape(stem=stem(128), width=192, layers=4, heads=4, feedforward=768), 5.0, 4),
    "wave 384 x 8": (EncoderShape(stem=stem(256), width=384, layers=8, heads=6, feedforward=1536), 8.0, 2),
    "base": (EncoderShape(), 5.0, 2),
}


def settings_of(name: str, precision: str, checkpointing: bool) -> PretrainSettings:
    shape, clip_s, clips = SIZES[name]
    return PretrainSettings(
        data=DataSettings(max_s=clip_s),
        model=replace(shape, layerdrop=0.0),
        quantizer=ContrastiveShape()
        if name == "base"
        else ContrastiveShape(entries=160, code_width=128, final_width=128),
        objective=ObjectiveSettings(distractors=50),
        batch=BatchSettings(micro_s=clip_s * clips),
        hardware=HardwareSettings(precision=precision, checkpointing=checkpointing),  # type: ignore[arg-type]
    )


def measure(name: str, precision: str, checkpointing: bool) -> dict[str, float]:
    """Predict, then make the whole model and take a step; returns bytes."""
    import torch

    from pretrain.memory import forward, noise, predict, trace
    from pretrain.task import PretrainTask

    settings = settings_of(name, precision, checkpointing)
    micro_s, clips = settings.batch.micro_s, int(SIZES[name][2])
    before = resident("VmRSS")
    small = replace(settings.model, width=48, layers=1, heads=4, feedforward=48, stem=stem(16))
    warm = PretrainTask(replace(settings, model=small)).train()
    optimizer = torch.optim.AdamW(warm.parameters())
    forward(warm, noise(warm.settings, 1, 1.0)).backward()
    optimizer.step()
    del warm, optimizer
    libraries = resident("VmRSS") - before
    footprint = trace(settings)
    predicted = predict(footprint, micro_s, 0, 1, checkpointing=checkpointing)
    before = resident("VmRSS")
    task = PretrainTask(settings).train()
    optimizer = torch.optim.AdamW(task.parameters())
    batch = noise(task.settings, clips, micro_s / clips)
    forward(task, batch).backward()
    optimizer.step()  # allocates the moments
    optimizer.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for _ in range(2):  # accumulated: the gradients of the first exist while the second keeps its activations
        forward(task, batch).backward()
    optimizer.step()
    peak = resident("VmHWM") - before
    return {
        "weights": footprint.parameters, "passes": predicted.activations, "predicted": predicted.total, "peak": peak,
        "libraries": libraries,
    }  # fmt: skip


def resident(name: str) -> float:
    """Bytes of ``name`` in /proc/self/status: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--checkpointing", action="store_true", help="with activation checkpointing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    ask = parser.parse_args()
    if ask.child:
        name, precision = ask.child
        print(json.dumps(measure(name, precision, ask.checkpointing)))
        return
    heads = (
        "size",
        "weights",
        "precision",
        "passes, predicted",
        "all, predicted",
        "peak, measured",
        "off by",
        "libraries",
    )
    print("| " + " | ".join(heads) + " |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    command = [sys.executable, "-m", "benchmarks.training.memory", *(["--checkpointing"] if ask.checkpointing else [])]
    for name in ask.size:
        for precision in ask.precision:
            done = subprocess.run(
                [*command, "--child", name, precision],
                env={**os.environ, **GIVE_BACK}, check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {found['weights'] / 1e6:.1f} M | {precision} | {found['passes'] / 1e6:.0f} MB | "
                f"{found['predicted'] / 1e6:.0f} MB | {found['peak'] / 1e6:.0f} MB | "
                f"{found['predicted'] / found['peak'] - 1:+.1%} | {found['libraries'] / 1e6:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
