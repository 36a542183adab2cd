"""One tiny run of each kind (fp32, one rank, CPU), and what of it must never change by a refactor.

    python -m tests.golden.golden_runs tests/golden/golden.json    store what they are now; the commit says why

The values are bit-exact on one kind of processor with one version of torch; ``machine`` says which.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 20
_RUN = (
    "--schedule.steps", str(STEPS), "--log.every", "1", "--log.valid_every", "10", "--log.checkpoint_every", "20",
    "--hardware.precision", "fp32", "--hardware.threads", "1", "--data.workers", "0",
)  # fmt: skip
_LOGMEL = (
    "--config", "configs/pretrain/nano.yaml", "--model.width", "32", "--model.layers", "2", "--model.heads", "2",
    "--model.feedforward", "64", "--quantizer.entries", "16", "--quantizer.code_width", "16", "--quantizer.final_width", "16",
    "--objective.distractors", "8", "--data.max_s", "5", "--batch.micro_s", "12", "--batch.hours", "0.0034",
    "--model.dropout", "0.1", "--schedule.minutes", "0",
)  # fmt: skip
_STUDENT = (
    "--optim.lr",
    "3e-3",
    "--batch.hours",
    "0.0034",
    "--batch.micro_s",
    "12",
    "--data.max_s",
    "8",
    "--augment.speed",
    "1.0",
    "--optim.clip",
    "5",
)


def machine() -> dict[str, str]:
    """What decides the last bits: the processor and the version of torch."""
    import torch

    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = (names or [platform.processor()])[0]
    return {"processor": processor, "kernels": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def make_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Make every run below ``folder``: run name -> its first losses and the hash of its weights, or the hash of its bytes."""
    from tests.tiny_corpus import make_corpus
    from tests.tiny_run import NANO

    corpus = str(make_corpus(folder / "corpus", 36))
    italian = ("--data.corpus", corpus, "--data.language", "ita")
    found = {
        "pretrain-logmel-clusters": _pretrain(folder, "logmel", *_LOGMEL, *_RUN, "--data.corpus", corpus),
        "pretrain-wave-gumbel": _pretrain(folder, "wave", *NANO, *_RUN, "--data.corpus", corpus),
    }
    encoder = ("--encoder", str(folder / "logmel" / "encoder"), "--preset", "none")
    found["finetune"] = _finetune(folder, "finetune", *encoder, *italian, *_RUN, *_STUDENT)
    found["adapter"] = _finetune(folder, "adapter", "--mode", "adapter", *encoder, *italian, *_RUN, *_STUDENT)
    teacher = ("--teacher", str(folder / "finetune" / "recogniser"), *italian, *_RUN, *_STUDENT)
    found["distill"] = _distill(folder, "distill", *teacher, "--student.layers", "1")
    found["prune"] = _prune(folder, "prune", *teacher, "--prune.target", "0.6", "--prune.lr", "1.0")
    found["student"] = _student(folder, Path(corpus))
    return found


def _call(settings: type[Any], argv: tuple[str, ...], out: Path, run: Callable[[Any, Path], Any]) -> Path:
    from lalia import config

    loaded: Any = config.load(settings, [*argv, "--out", str(out)], "golden", "")
    run(loaded, out)
    return out


def _pretrain(folder: Path, name: str, *argv: str) -> dict[str, Any]:
    from pretrain.config import PretrainSettings
    from pretrain.fit import pretrain

    return _facts(_call(PretrainSettings, argv, folder / name, pretrain), "encoder")


def _finetune(folder: Path, name: str, *argv: str) -> dict[str, Any]:
    from finetune.config import FinetuneSettings
    from finetune.fit import finetune

    return _facts(_call(FinetuneSettings, argv, folder / name, finetune), "recogniser")


def _distill(folder: Path, name: str, *argv: str) -> dict[str, Any]:
    from distill.config import DistillSettings
    from distill.fit import distill

    return _facts(_call(DistillSettings, argv, folder / name, distill), "recogniser")


def _prune(folder: Path, name: str, *argv: str) -> dict[str, Any]:
    from distill.config import PruneSettings
    from distill.prune import prune

    return _facts(_call(PruneSettings, argv, folder / name, prune), "recogniser")


def _student(folder: Path, corpus: Path) -> dict[str, Any]:
    """The bytes of an exported student, and what it says of ten clips."""
    from lalia import Student
    from lalia.data.corpus import Corpus
    from lalia.models.export.onnx_export import export_student

    export_student(folder / "finetune" / "recogniser", folder / "student")
    student, clips = Student.load(folder / "student", threads=1), Corpus.load(corpus)
    texts = [student.transcribe(clips.wave(row)).text for row in clips.select(None, "ita")[:10]]
    return {"model": _hash((folder / "student" / "model.onnx").read_bytes()), "texts": texts}


def _facts(run: Path, kind: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if not any("train/loss" in line for line in lines):  # pruning: the gates' run, then the healing of what they left
        raise ValueError(
            f"{run}: its metrics.jsonl has no train/loss; it has {sorted({name for line in lines for name in line})}"
        )
    losses = [line["train/loss"] for line in lines if "train/loss" in line][:STEPS]
    weights: dict[str, Any] = {}
    for path in sorted((run / kind).glob("**/*.safetensors")):
        weights |= {f"{path.name}:{name}": value for name, value in load_file(path).items()}
    data = b"".join(name.encode() + weights[name].tobytes() for name in sorted(weights))
    return {"losses": losses, "weights": _hash(data)}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        values = {"machine": machine(), "runs": make_runs(Path(made))}
    Path(sys.argv[1]).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
