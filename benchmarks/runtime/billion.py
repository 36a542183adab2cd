"""Conversion, export and decoding of a model of a billion parameters: time and peak memory of each step.

    python -m benchmarks.runtime.billion WORK [--layers 48] [--width 1280] [--head ctc classifier]

Makes a checkpoint with random weights in the shape of MMS-1b (adapters, nested vocabulary, float16 shards) in WORK, converts it,
exports it in float32 and int8, and runs both on 10 s of noise on one thread. Each step is a process, and its peak is its maximum
resident set, weights that it maps from files included. Needs 15 GB of disk; WORK is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SECONDS = 10
LABELS = 126
LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def make_checkpoint(folder: Path, head: str, width: int, layers: int) -> None:
    """A folder as transformers saves MMS's models: shards of float16, and for ``ctc`` the adapter of one language."""
    import torch
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

    vocabulary = {s: n for n, s in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    config = Wav2Vec2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=16, intermediate_size=4 * width,
        feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, adapter_attn_dim=16, classifier_proj_size=1024,
        vocab_size=len(vocabulary), pad_token_id=0, num_labels=LABELS,
    )  # fmt: skip
    with torch.device("meta"):
        model = (Wav2Vec2ForCTC if head == "ctc" else Wav2Vec2ForSequenceClassification)(config)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    random = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    adapter: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}

    def write() -> None:
        file = f"model-{len(set(names.values())):05d}.safetensors"
        names.update(dict.fromkeys(shard, file))
        save_file(shard, folder / file)
        shard.clear()

    for name, meta in model.state_dict().items():
        flat = meta.ndim == 1 and name.endswith("weight")  # a norm's gains
        shard[name] = (0.02 * torch.randn(meta.shape, generator=random) + float(flat)).half()
        if "adapter_layer" in name or name.startswith("lm_head"):
            adapter[name] = shard[name].clone()
        if sum(tensor.nbytes for tensor in shard.values()) > 300e6:
            write()
    write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    if head == "ctc":
        (folder / "vocab.json").write_text(json.dumps({"swh": vocabulary}))
        save_file(adapter, folder / "adapter.swh.safetensors")


def decode(folder: Path) -> None:
    """Run the model in ``folder`` on one thread, timed by its processor clock, which other programs do not disturb."""
    from lalia.onnx_session import open_session

    started = time.thread_time()
    session = open_session(folder / "model.onnx", threads=1)
    loaded = time.thread_time()
    wave = (0.1 * np.random.default_rng(0).standard_normal((1, 16_000 * SECONDS))).astype(np.float32)
    out = session.run(None, {"wave": wave})[0]
    seconds = time.thread_time() - loaded
    np.save(folder.with_suffix(".npy"), out)
    print(f"loaded in {loaded - started:.1f} s, {SECONDS} s of audio in {seconds:.1f} s (RTF {seconds / SECONDS:.2f})")


def compare(model: Path, found: Path) -> None:
    """The largest difference between torch's outputs and those in the file ``found``."""
    import torch

    from lalia.models.classifier import Classifier
    from lalia.models.recogniser import Recogniser

    wave = torch.from_numpy((0.1 * np.random.default_rng(0).standard_normal((1, 16_000 * SECONDS))).astype(np.float32))
    length = torch.tensor([wave.shape[1]])
    with torch.inference_mode():
        if (model / "tokens.txt").is_file():
            expected = Recogniser.load(model).log_probs(wave, length)[0]
        else:
            expected = Classifier.load(model).frame_logits(wave, length)[0]
    difference = np.abs(np.load(found) - expected.numpy())
    print(f"outputs differ from torch's by at most {difference.max():.1e}, {difference.mean():.1e} in the mean")


def measure(name: str, *argv: str, made: Path | None = None) -> None:
    """Run a step in a process of its own and print its row, with the size of what it ``made`` or what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: failed")
    minutes = (time.perf_counter() - started) / 60
    processor = (usage.ru_utime + usage.ru_stime) / 60
    found = "; ".join(printed)
    if made is not None:
        found = f"{sum(path.stat().st_size for path in made.iterdir()) / 1e9:.2f} GB on disk"
    print(f"| {name} | {minutes:.1f} | {processor:.1f} | {usage.ru_maxrss / 1e6:.1f} | {found} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder to make, or (after --step) what the step needs")
    parser.add_argument("--head", nargs="+", choices=("ctc", "classifier"), default=["ctc"])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    me = ("-m", "benchmarks.runtime.billion")
    work: Path = args.work
    if args.step:
        decode(work) if args.step == "decode" else compare(work, work.with_name("float32.npy"))
        return
    print("| step | minutes | processor minutes | peak GB | |\n|---|---:|---:|---:|---|")
    for head in args.head:
        source, ours = work / head / "mms-1b-random", work / head / "lalia"
        make_checkpoint(source, head, args.width, args.layers)
        measure(f"{head}: convert hf:", "-m", "lalia", "convert", f"hf:{source}", str(ours), made=ours)
        shutil.rmtree(source)
        for kind, name in (("int8", "int8"), ("onnx", "float32")):
            made = work / head / name
            measure(f"{head}: convert {kind}:", "-m", "lalia", "convert", str(ours), f"{kind}:{made}", made=made)
            measure(f"{head}: run {name}", *me, str(made), "--step", "decode")
        measure(f"{head}: torch", *me, str(ours), "--step", "compare")
        shutil.rmtree(work / head)


if __name__ == "__main__":
    main()
