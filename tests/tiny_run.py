"""A pretraining run of a few thousand parameters as a program of its own, so that tests can kill it and give it ranks.

    python -m tests.tiny_run fit --out RUN --data.corpus CORPUS --schedule.steps 6 ...

The stage's own settings and code; with ``LALIA_TEST_KILL_AT=k`` the process kills itself as step k ends, and with
``LALIA_TEST_SIGNAL=TERM:k`` or ``INT:k`` sends itself that signal there.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lalia.exits import run

NANO = [
    "--data.max_s=3", "--data.workers=0", "--data.min_s=0.5", "--model.width=32", "--model.layers=2", "--model.heads=2",
    "--model.feedforward=64", "--model.position_groups=4", "--model.position_kernel=16",
    "--model.stem=[[16,10,5],[16,8,4],[16,4,4],[16,4,4]]",
    "--quantizer.codebooks=2", "--quantizer.entries=16", "--quantizer.code_width=16", "--quantizer.final_width=16",
    "--objective.distractors=10", "--batch.micro_s=6", "--batch.hours=0.0066667", "--optim.lr=1e-3", "--schedule.warmup=0.1",
    "--hardware.threads=1", "--log.every=1", "--log.valid_every=2", "--log.checkpoint_every=1", "--model.dropout=0.1",
]  # fmt: skip
"""Raw wave, weight-normed position convolution, post-norm transformer; four micro-batches of 6 s to a step."""


def main() -> int:
    from lalia.training import Callback
    from pretrain import fit as stage
    from pretrain.__main__ import fit

    kill_at = int(os.environ.get("LALIA_TEST_KILL_AT", "0"))
    name, _, at = os.environ.get("LALIA_TEST_SIGNAL", ":0").partition(":")

    class Trouble(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if kill_at and trainer.global_step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if int(at) and trainer.global_step == int(at) and trainer.is_global_zero:
                os.kill(os.getpid(), signal.Signals[f"SIG{name}"])

    plain = stage.fit
    stage.fit = lambda task, run, train, valid, extra: plain(task, run, train, valid, [*extra, Trouble()])
    return run(lambda: fit([*NANO, *sys.argv[2:]]), "tiny_run")


if __name__ == "__main__":
    sys.exit(main())
