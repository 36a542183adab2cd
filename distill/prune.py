"""A pruning run: gates are learned under a target size, what they close is cut out, and what is left is healed by distillation.

``RUN/gates`` is the run that learns the gates; its recogniser is the cut one. ``RUN`` is the distillation that heals it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import DistillSettings, PruneSettings
from distill.cutting import cut, shape_of
from distill.fit import distill
from distill.gates import Gates
from distill.material import Material, learn
from distill.student import make_student
from distill.task import DistillTask, Said
from lalia.cards import read_card, write_json
from lalia.data.batch import Batch
from lalia.exits import UserError
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.models.transcription import transcribe_rows
from lalia.training.ranks import leads
from lalia.training.runs import FINISHED, adamw, finished, parameter_groups

UNITS = ("heads", "feedforward", "channels")


class PruneTask(DistillTask):
    """Distillation of a teacher into a student with gates, whose expected cost is drawn to a target.

    The constraint is held by multipliers that climb while it is broken (an augmented Lagrangian, Wang et al. 2020, "Structured
    pruning of large language models", equation 8).
    """

    settings: PruneSettings

    def __init__(
        self, settings: PruneSettings, teacher: Recogniser, student: Recogniser, references: dict[int, str]
    ) -> None:
        super().__init__(settings, teacher, student, references)
        units: Any = settings.prune.units
        self.gates = Gates(student, units, settings.prune.open_chance)
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)  # they climb where everything else descends

    @property
    def target(self) -> float:
        """What shall be left at this step."""
        prune = self.settings.prune
        done = min(1.0, self.global_step / max(1.0, prune.warmup * self.settings.schedule.steps))
        return 1.0 - (1.0 - prune.target) * done

    def heard(self, batch: Batch, random: torch.Generator) -> Said:
        self.gates.draw(random)
        return super().heard(batch, random)

    def losses(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        found = super().losses(batch, random)
        found["share"] = self.gates.share(self.settings.prune.cost)
        excess = found["share"] - self.target
        found["penalty"] = self.multipliers[0] * excess + self.multipliers[1] * excess.square()
        return found

    def weighted(self, found: dict[str, Tensor]) -> Tensor:
        return super().weighted(found) + found["penalty"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.gates.settle()
        super().validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optim, lr = self.settings.optim, self.settings.prune.lr
        groups = parameter_groups(nn.ModuleList([self.student, self.projections]), optim.lr)
        groups.append({"params": [*self.gates.parameters(), self.multipliers], "lr": lr, "weight_decay": 0.0})
        return adamw(groups, optim, self.settings.schedule)

    @torch.no_grad()
    def cut(self) -> Recogniser:
        """The student without what the settled gates close, no larger than the target."""
        whole = self.student.eval()
        self.gates.settle()
        self.gates.shut(self.settings.prune.target, self.settings.prune.cost)
        kept = self.gates.kept(whole.encoder)
        self.gates.fold(whole.encoder)
        small = Recogniser(Encoder(shape_of(whole.encoder.shape, kept)), whole.tokens, whole.normaliser)
        small.encoder.load_state_dict(cut(whole.encoder, kept, small.encoder.shape))
        small.head.load_state_dict(whole.head.state_dict())
        return small.eval()


def prune(settings: PruneSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Learn gates, cut, heal; or go on from where the run in ``folder`` stopped.

    ``stated`` are the settings that the user gave (``config.stated``): finished gates must have been learned with them.
    """
    section = settings.prune
    unknown = [unit for unit in section.units if unit not in UNITS]
    if unknown or not section.units:
        raise UserError(f"prune.units {unknown or '[]'}: expected some of {', '.join(UNITS)}")
    if not 0 < section.target < 1 or not 0 < section.share < 1:
        raise UserError(f"prune.target {section.target:g} and prune.share {section.share:g} must lie between 0 and 1")
    gates = folder / "gates"
    # What the gates have of the schedule is a part of it, and of --out a folder within.
    if not finished(gates, settings, [name for name in stated if not name.startswith(("schedule.", "student."))]):
        learn_gates(replace(settings, schedule=_part(settings, section.share), out=str(gates)), gates)
    values = {field.name: getattr(settings, field.name) for field in fields(DistillSettings)}
    values["student"] = replace(settings.student, start=str(gates / "recogniser"))
    values["schedule"] = _part(settings, 1 - section.share)
    distill(DistillSettings(**values), folder)


def learn_gates(settings: PruneSettings, folder: Path) -> None:
    """The run that learns gates; ends with the cut recogniser in ``folder/recogniser``."""
    material = Material.gather(settings)
    if not settings.student.start and not settings.student.blocks and not settings.student.layers:
        settings.student = replace(settings.student, layers=material.teacher.encoder.shape.layers)
    torch.manual_seed(settings.seed)
    student = make_student(material.teacher, settings.student, settings.regular)
    whole = count_parameters(student)
    task = PruneTask(settings, material.teacher, student, material.references)
    learn(settings, folder, task, material, "prune", best=False)
    if not leads(settings.hardware):
        return
    small = task.cut()
    shape = small.encoder.shape
    scored = transcribe_rows(small, material.mixture, material.test).score()
    facts = material.facts | {
        "target": settings.prune.target, "cost": settings.prune.cost, "share": count_parameters(small) / whole,
        "heads": [shape.heads_of(block) for block in range(shape.layers)],
        "feedforward": [shape.feedforward_of(block) for block in range(shape.layers)],
        "channels": [shape.channels_of(block) for block in range(shape.layers)],
        "stem": [row[0] for row in shape.stem] if shape.input == "wave" else [],
        "steps": settings.schedule.steps, "test_cer": scored.cer.rate, "test_wer": scored.wer.rate,
    }  # fmt: skip
    start = [read_card(Path(settings.student.start))] if settings.student.start else []
    small.save(
        folder / "recogniser",
        [*start, material.card, *material.mixture.cards],
        language=material.languages,
        pruning=facts,
    )
    write_json(folder / FINISHED, facts)
    print(
        f"pruned to {count_parameters(small) / 1e6:.2f} M of {whole / 1e6:.2f} M parameters; heads {facts['heads']}, "
        f"feed-forward {facts['feedforward']}; test CER {scored.cer.rate:.3f} before healing"
    )


def _part(settings: PruneSettings, share: float) -> Any:
    """``share`` of the schedule."""
    schedule = settings.schedule
    return replace(schedule, steps=round(schedule.steps * share), minutes=schedule.minutes * share)
