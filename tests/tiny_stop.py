"""A stage in miniature as a program of its own that signals its whole process group, as SLURM does, at a chosen moment.

    python -m tests.tiny_stop pretrain|finetune|distill FOLDER TERM:MOMENT [FLAGS]

FOLDER is what ``make_folder`` makes. MOMENT is ``setup`` (Lightning has put up its handlers), ``step`` (behind the second of this
start), ``twice`` (the same, two of them), ``validation``, ``saving`` (a checkpoint half written) or ``never``. The time of the
signal is kept in FOLDER/signalled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lalia.errors import run

SMALL = [
    "--data.max_s=6", "--data.workers=2", "--batch.micro_s=12", "--batch.hours=0.0034", "--schedule.steps=12",
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


def main() -> int:
    stage, folder, when = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    name, _, moment = when.partition(":")

    from lalia.training import Callback, checkpoint_files
    from lalia.training import trainer as runs

    def stop() -> None:
        (folder / "signalled").write_text(str(time.time()))
        # Sent by another process, as it is in life: from the run itself, SIGTERM ends its workers.
        subprocess.run(["sh", "-c", f"kill -{name} -{os.getpgrp()}"], check=False)

    class Trouble(Callback):
        seen = 0

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if moment == "setup":
                stop()

        def on_train_batch_end(self, *args: Any) -> None:
            self.seen += 1
            if moment in ("step", "twice") and self.seen == 2:
                stop()
            if moment == "twice" and self.seen == 2:
                stop()

        def on_validation_batch_start(self, *args: Any) -> None:
            if moment == "validation" and args[3] == 0:
                stop()

    if moment == "saving":
        plain_save = checkpoint_files.torch.save

        def save(content: Any, file: Any) -> None:
            file.write(b"")
            stop()
            plain_save(content, file)

        checkpoint_files.torch.save = save  # type: ignore[assignment]

    plain = runs.fit
    corpus = [f"--data.corpus={folder / 'corpus'}", *SMALL, *sys.argv[4:]]

    def fit(task: Any, run: Any, train: Any, valid: Any, extra: Any) -> None:
        plain(task, run, train, valid, [*extra, Trouble()])

    if stage == "pretrain":
        from pretrain import __main__ as program
        from pretrain import fit as module

        flags = PRETRAIN
    elif stage == "finetune":
        from finetune import __main__ as program  # type: ignore[no-redef]
        from finetune import fit as module  # type: ignore[no-redef]

        flags = [f"--encoder={folder / 'encoder'}", "--preset=none"]
    else:
        from distill import __main__ as program  # type: ignore[no-redef]
        from distill import fit as module  # type: ignore[no-redef]

        flags = [f"--teacher={folder / 'teacher'}"]
    module.fit = fit
    return run(lambda: program.fit([*flags, *corpus]), "tiny_stop")


if __name__ == "__main__":
    sys.exit(main())
