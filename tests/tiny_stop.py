"""A stage in miniature as a program that sends a signal to itself or to its process group, as SLURM does, at a chosen moment.

    python -m tests.tiny_stop pretrain|finetune|distill FOLDER SIGNAL:MOMENT[:process] [FLAGS]

FOLDER is what ``make_folder`` makes. The process group gets the signal, or rank 0 alone with ``:process``. MOMENT is one of
``loading`` (the corpus), ``setup`` (Lightning has installed its handlers), ``compile`` (half a second into the first step),
``step`` (after the second of this start), ``twice`` (as ``step``, two signals), ``micro`` (within the second step, whose
micro-batches take a second each), ``validation`` (before its first batch), ``saving`` (a checkpoint is half written), ``results``
(before the page), ``finished`` (after finished.json) and ``never``. The time of the signal is kept in FOLDER/signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from lalia.errors import run

SMALL = [
    "--data.max_s=6", "--data.workers=2", "--batch.micro_s=6", "--batch.hours=0.0068", "--schedule.steps=12",
    "--log.every=1", "--log.valid_every=3", "--log.checkpoint_every=2", "--hardware.threads=1",
]  # fmt: skip
PRETRAIN = [
    "--data.min_s=0.5", "--model.input=logmel", "--model.width=32", "--model.layers=2", "--model.heads=2",
    "--model.feedforward=64", "--model.position_groups=4", "--model.position_kernel=16", "--quantizer.codebooks=2",
    "--quantizer.entries=16", "--quantizer.code_width=16", "--quantizer.final_width=16", "--objective.distractors=10",
]  # fmt: skip


def make_folder(folder: Path) -> Path:
    """A corpus, an untrained encoder and an untrained teacher."""
    from tests.tiny_corpus import make_corpus
    from tests.tiny_teacher import make_recogniser

    make_corpus(folder / "corpus", 24, ("ita",))
    recogniser = make_recogniser(width=32, layers=2)
    recogniser.encoder.save(folder / "encoder", [])
    recogniser.save(folder / "teacher", [])
    return folder


def arguments(stage: str, folder: Path) -> list[str]:
    """The flags of a run of ``stage``."""
    own = {
        "pretrain": PRETRAIN,
        "finetune": [f"--encoder={folder / 'encoder'}", "--preset=none"],
        "distill": [f"--teacher={folder / 'teacher'}"],
    }
    return [*own[stage], f"--data.corpus={folder / 'corpus'}", *SMALL]


def survivors(session: int, patience_s: float = 5.0) -> list[int]:
    """Processes of ``session`` that are still there after ``patience_s``."""
    until = time.monotonic() + patience_s
    while (
        alive := [int(path.name) for path in Path("/proc").iterdir() if _belongs(path, session)]
    ) and time.monotonic() < until:
        time.sleep(0.1)
    return alive


def _belongs(folder: Path, session: int) -> bool:
    """Whether a process is of ``session`` and has not ended (a zombie only waits for its parent)."""
    try:
        state, _, _, found = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return False
    return int(found) == session and state != "Z"


def main() -> int:
    stage, folder, when = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    name, moment, *target = when.split(":")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests under nohup
    leads = os.environ.get("LOCAL_RANK", "0") == "0"

    def stop(now: str) -> None:
        if now != moment or not leads:
            return
        (folder / "signalled").write_text(str(time.time()))
        # Sent by another process, as it is in life: from the run itself, SIGTERM ends its workers.
        receiver = os.getpid() if target else -os.getpgrp()
        subprocess.run(["sh", "-c", f"kill -{name} {receiver}"], check=False)
        if moment in ("loading", "results", "finished"):
            time.sleep(2)

    def plan_trouble() -> None:
        """Put the moments into the stage; late, since these imports take seconds."""
        from lalia.data.mixture import Mixture
        from lalia.training import Callback, checkpoint_files
        from lalia.training import trainer as runs

        class Trouble(Callback):
            seen = 0

            def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
                stop("setup")

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                threading.Timer(0.5, stop, ["compile"]).start()

            def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
                if moment == "micro" and self.seen >= trainer.accumulate_grad_batches:
                    time.sleep(1)
                    if self.seen == trainer.accumulate_grad_batches:
                        stop("micro")

            def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
                self.seen += 1
                if self.seen == 2 * trainer.accumulate_grad_batches:
                    stop("step")
                    stop("twice")
                    stop("twice")

            def on_validation_batch_start(self, *args: Any) -> None:
                if args[3] == 0:
                    stop("validation")

        plain_save, plain_load = checkpoint_files.torch.save, Mixture.load
        module: Any = sys.modules[f"{stage}.fit"]
        plain_fit, plain_page, plain_end = runs.fit, module.write_run_report, runs.write_finished

        def save(content: Any, file: Any) -> None:
            if hasattr(file, "write"):  # a checkpoint
                stop("saving")
            plain_save(content, file)

        def load(*args: Any) -> Any:
            stop("loading")
            return plain_load(*args)

        def page(*args: Any) -> Any:
            stop("results")
            return plain_page(*args)

        def end(*args: Any) -> None:
            plain_end(*args)
            stop("finished")

        checkpoint_files.torch.save = save  # type: ignore[assignment]
        Mixture.load = load  # type: ignore[method-assign, assignment]

        def fit(task: Any, run: Any, train: Any, valid: Any, extra: Any) -> None:
            plain_fit(task, run, train, valid, [*extra, Trouble()])

        module.write_run_report = page
        for place in (runs, module):
            for name, patch in (("fit", fit), ("write_finished", end)):
                if hasattr(place, name):
                    setattr(place, name, patch)

    def begin() -> int:
        if moment != "never":
            import_module(f"{stage}.fit")
            plan_trouble()
        return int(import_module(f"{stage}.__main__").fit([*arguments(stage, folder), *sys.argv[4:]]))

    return run(begin, "tiny_stop")


if __name__ == "__main__":
    sys.exit(main())
