"""A pretraining run of a few thousand parameters as a program of its own, so that tests can kill it and give it ranks.

    python -m tests.tiny_run fit --out RUN --data.corpus CORPUS --schedule.steps 6 ...

The stage's own settings and code; with ``LALIA_TEST_KILL_AT=k`` the process kills itself as step k ends, and with
``LALIA_TEST_SIGNAL=TERM:k`` or ``INT:k`` sends itself that signal there. ``LALIA_TEST_POISON=n`` fills micro-batch n, which is
one rank's alone, with NaN; ``LALIA_TEST_SPOIL=k`` makes weights infinite before step k; ``LALIA_TEST_RANKS=FOLDER`` has every
rank write what its guard did and what its weights add up to; ``LALIA_TEST_ACTIONS=k:action,...`` makes the guard take that action
after step k. Whatever objects the ranks send each other must not hold tensors.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from lalia.errors import run

NANO = [
    "--data.max_s=3", "--data.workers=0", "--data.min_s=0.5", "--model.width=32", "--model.layers=2", "--model.heads=2",
    "--model.feedforward=64", "--model.position_groups=4", "--model.position_kernel=16",
    "--model.stem=[[16,10,5],[16,8,4],[16,4,4],[16,4,4]]",
    "--quantizer.codebooks=2", "--quantizer.entries=16", "--quantizer.code_width=16", "--quantizer.final_width=16",
    "--objective.distractors=10", "--batch.micro_s=6", "--batch.hours=0.0066667", "--optim.lr=1e-3", "--schedule.warmup=0.1",
    "--hardware.threads=1", "--log.every=1", "--log.valid_every=2", "--log.checkpoint_every=1", "--model.dropout=0.1",
    "--model.dropout_input=0", "--quantizer.dropout_features=0", "--objective.gumbel_share=0.7", "--optim.clip=5",
]  # fmt: skip
"""Raw wave, weight-normed position convolution, post-norm transformer; four micro-batches of 6 s to a step."""


def no_tensors_in_objects() -> None:
    """Make sending an object that holds a tensor an error: on GPUs it arrives on the sender's device."""
    import torch
    from torch.distributed import distributed_c10d

    plain = distributed_c10d._object_to_tensor

    def checked(thing: Any, *args: Any, **kwargs: Any) -> Any:
        storages: list[Any] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, held: Any) -> None:
                if isinstance(held, torch.Tensor):
                    storages.append(held)

        Pickler(io.BytesIO()).dump(thing)
        if storages:
            raise TypeError("a tensor travels inside a pickled object")
        return plain(thing, *args, **kwargs)

    distributed_c10d._object_to_tensor = checked  # type: ignore[assignment]


def main() -> int:
    import torch

    no_tensors_in_objects()
    from lalia.training import Callback, interventions
    from pretrain import fit as stage
    from pretrain.__main__ import fit
    from pretrain.bands import Breach, Vitals, Watch
    from pretrain.guard import Guard

    forced = dict(pair.split(":") for pair in os.environ.get("LALIA_TEST_ACTIONS", "").split(",") if pair)
    if forced:
        plain_run = Watch.run

        def act(self: Watch, vitals: Vitals, step: int) -> Breach | None:
            action: Any = forced.get(str(step))
            return Breach(self.bands[0], 1.0, 0.5, action) if action else plain_run(self, vitals, step)

        Watch.run = act  # type: ignore[method-assign]
    kill_at = int(os.environ.get("LALIA_TEST_KILL_AT", "0"))
    name, _, at = os.environ.get("LALIA_TEST_SIGNAL", ":0").partition(":")
    poison, spoil = int(os.environ.get("LALIA_TEST_POISON", "-1")), int(os.environ.get("LALIA_TEST_SPOIL", "-1"))

    class Trouble(Callback):
        spoiled = False

        def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, batch_idx: int) -> None:
            if batch.number == poison:
                batch.wave_BS.fill_(float("nan"))
            if trainer.global_step == spoil and not self.spoiled:
                self.spoiled = True
                with interventions.editing(trainer, [task.encoder.projection.weight]), torch.no_grad():
                    task.encoder.projection.weight.fill_(float("inf"))

        def on_train_end(self, trainer: Any, task: Any) -> None:
            if folder := os.environ.get("LALIA_TEST_RANKS"):
                guard = next(callback for callback in trainer.callbacks if isinstance(callback, Guard))
                facts: dict[str, Any] = {
                    "skipped": guard.skipped,
                    "rate": guard.rate_factor,
                    "rollbacks": guard.rollbacks,
                }
                facts["sums"] = [float(p.detach().double().sum()) for p in task.parameters()]
                (Path(folder) / f"rank{trainer.global_rank}.json").write_text(json.dumps(facts))

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
