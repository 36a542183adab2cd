"""Two ranks against one: every strategy, precision and LayerDrop on the same plan; stopped half-way, resumed on two and on one.

    python -m benchmarks.matrix [--strategies ddp,zero1,zero2,zero3] [--precisions fp32,bf16] [--layerdrops 0,0.1]

Prints a table row for each combination: the largest difference of held-out loss and of any weight from the run of one process,
for the run resumed on two ranks and for the one resumed on one; the seconds that the three parts took. Exit status 1 where a
float32 loss is more than 1e-4 away.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lalia.training.checkpoints import newest_checkpoint
from tests.tiny_corpus import make_corpus

ROOT = Path(__file__).parents[1]
STEPS, HALF = 4, 2
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="ddp,zero1,zero2,zero3")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--layerdrops", default="0,0.1")
    wanted = parser.parse_args()
    failed = False
    print("| strategy | precision | layerdrop | loss, 2→2 | weights, 2→2 | loss, 2→1 | weights, 2→1 | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        corpus = make_corpus(folder / "corpus", sentences=18)
        for precision in wanted.precisions.split(","):
            for layerdrop in wanted.layerdrops.split(","):
                flags = [f"--hardware.precision={precision}", f"--model.layerdrop={layerdrop}"]
                one = folder / f"one-{precision}-{layerdrop}"
                train(corpus, one, flags)
                for strategy in wanted.strategies.split(","):
                    begun = time.monotonic()
                    two = folder / f"{strategy}-{precision}-{layerdrop}"
                    ranks = [*flags, f"--hardware.strategy={strategy}", "--hardware.devices=2"]
                    train(corpus, two, ranks, LALIA_TEST_SIGNAL=f"TERM:{HALF}")
                    alone = two.with_name(two.name + "-alone")
                    shutil.copytree(two, alone)
                    train(corpus, two, ranks)
                    train(corpus, alone, flags)
                    figures = [*apart(one, two), *apart(one, alone)]
                    failed |= precision == "fp32" and max(figures[0], figures[2]) > TOLERANCE
                    seconds = time.monotonic() - begun
                    cells = " | ".join(f"{figure:.1e}" for figure in figures)
                    print(f"| {strategy} | {precision} | {layerdrop} | {cells} | {seconds:.0f} |", flush=True)
    return int(failed)


def train(corpus: Path, out: Path, flags: list[str], **environment: str) -> None:
    """A nano run to its end, or to where ``environment`` stops it."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.tiny_run", "fit", f"--out={out}", f"--data.corpus={corpus}"]
    done = subprocess.run(
        [*command, f"--schedule.steps={STEPS}", *flags], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{out.name}: exit status {done.returncode}\n{done.stderr[-4000:]}")


def apart(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of the held-out losses of two runs, and of their final weights."""
    weights = []
    for run in (one, other):
        found = newest_checkpoint(run)
        assert found is not None and found[1]["global_step"] == STEPS
        weights.append(found[1]["state_dict"])
    losses = [[line["valid/info_nce"] for line in lines(run) if "valid/info_nce" in line] for run in (one, other)]
    return (
        max(abs(a - b) for a, b in zip(*losses, strict=True)),
        max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items()),
    )


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
