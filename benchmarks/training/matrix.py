"""Two ranks compared with one: every strategy, precision, LayerDrop and activation checkpointing on the same batch plan.

    OMP_NUM_THREADS=1 python -m benchmarks.training.matrix [--strategies ddp,zero1,zero2,zero3] [--precisions fp32,bf16]
        [--layerdrops 0,0.1] [--checkpointing false,true]

Each run of two ranks is stopped half-way and resumed on two ranks and on one; the reference is one uninterrupted process without
activation checkpointing. A row for each combination: the largest difference of held-out loss and of any weight, for both resumed
runs, and the seconds of the three parts. Exit status 1 if a float32 loss differs by more than 1e-4.

Ranks are forked from this process, which has imported everything once, and find each other as with torchrun.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from lalia.errors import Interrupted
from lalia.training.checkpoints import newest_checkpoint
from lalia.training.run_log import read_metrics
from tests import tiny_run
from tests.tiny_corpus import make_corpus

STEPS, HALF = 4, 2
TOLERANCE = 1e-4
PATIENCE_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="ddp,zero1,zero2,zero3")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--layerdrops", default="0,0.1")
    parser.add_argument("--checkpointing", default="false,true")
    wanted = parser.parse_args()
    import_everything()
    failed = False
    print(
        "| strategy | precision | layerdrop | checkpointing | loss, 2→2 | weights, 2→2 | loss, 2→1 | weights, 2→1 | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        corpus = make_corpus(folder / "corpus", sentences=18)
        for precision in wanted.precisions.split(","):
            for layerdrop in wanted.layerdrops.split(","):
                flags = [f"--hardware.precision={precision}", f"--model.layerdrop={layerdrop}"]
                one = folder / f"one-{precision}-{layerdrop}"
                train(corpus, one, flags)
                for strategy in wanted.strategies.split(","):
                    for again in wanted.checkpointing.split(","):
                        begun = time.monotonic()
                        two = folder / f"{strategy}-{precision}-{layerdrop}-{again}"
                        figures = compared(corpus, one, two, strategy, [*flags, f"--hardware.checkpointing={again}"])
                        failed |= precision == "fp32" and not max(figures[0], figures[2]) <= TOLERANCE
                        cells = " | ".join(f"{figure:.1e}" for figure in figures)
                        seconds = time.monotonic() - begun
                        print(
                            f"| {strategy} | {precision} | {layerdrop} | {again} | {cells} | {seconds:.0f} |",
                            flush=True,
                        )
    return int(failed)


def compared(corpus: Path, one: Path, two: Path, strategy: str, flags: list[str]) -> tuple[float, float, float, float]:
    """Differences (loss, weights) from the run ``one`` if ``two`` continues on two ranks, and if it continues on one."""
    ranks = [*flags, f"--hardware.strategy={strategy}", "--hardware.devices=2"]
    train(corpus, two, ranks, ranks=2, stop=HALF)
    alone = two.with_name(two.name + "-alone")
    shutil.copytree(two, alone)
    train(corpus, two, ranks, ranks=2)
    train(corpus, alone, flags)
    return *apart(one, two), *apart(one, alone)


def train(corpus: Path, out: Path, flags: list[str], ranks: int = 1, stop: int = 0, steps: int = STEPS) -> None:
    """A nano run of ``steps``, or stopped by SIGTERM after step ``stop``, on ``ranks`` forked ranks."""
    command = ["tiny_run", "fit", f"--out={out}", f"--data.corpus={corpus}", f"--schedule.steps={steps}", *flags]
    environment = {"LALIA_TEST_SIGNAL": f"TERM:{stop}"}
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "matrix"}
        environment |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    log = out.with_name(out.name + ".log")
    fork = multiprocessing.get_context("fork")
    started = []
    for rank in range(ranks):
        mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        started.append(fork.Process(target=_rank, args=(command, environment | mine, log)))
        started[-1].start()
    deadline = time.monotonic() + PATIENCE_S
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    statuses = [process.exitcode for process in started]
    for process in started:
        process.kill()
    expected = [Interrupted.status if stop and not rank else 0 for rank in range(ranks)]
    if statuses != expected:
        raise SystemExit(f"{out.name}: ranks ended with {statuses}\n{log.read_text(encoding='utf-8')[-6000:]}")


def _rank(command: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    sys.argv = command
    sys.exit(tiny_run.main())


def import_everything() -> None:
    """Import everything that ranks need, before they are forked."""
    import torch

    import pretrain.fit  # noqa: F401
    from lalia.training.distributed import check_hardware
    from lalia.training.settings import HardwareSettings

    check_hardware(HardwareSettings(strategy="zero2"))
    torch.set_num_threads(1)  # threads do not survive a fork


def apart(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of the held-out losses of two runs, and of their final weights."""
    weights = []
    for run in (one, other):
        found = newest_checkpoint(run)
        assert found is not None and found[1]["global_step"] == STEPS
        weights.append(found[1]["state_dict"])
    losses = [
        [line["valid/info_nce"] for line in read_metrics(run) if "valid/info_nce" in line] for run in (one, other)
    ]
    return (
        max(abs(a - b) for a, b in zip(*losses, strict=True)),
        max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items()),
    )


if __name__ == "__main__":
    sys.exit(main())
