"""Structured pruning: learns gates on heads, feed-forward units and convolution channels, and cuts what they close.

``RUN/gates`` learns the gates under a target size and saves the pruned recogniser; ``RUN`` then distils it from the same teacher
to recover accuracy.

Gates are hard-concrete (Louizos et al. 2018, "Learning sparse neural networks through L0 regularization"): a unit's output is
multiplied by a random number that is exactly 0 or 1 with some probability, so the expected number of open gates has a gradient.
A unit whose gate is 0 can be removed without any change of the output.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.config import DistillSettings, PruneSettings
from distill.fit import RunInputs, distill, train
from distill.student import Kept, cut, everything, feedforwards, make_student, shape_of
from distill.task import DistillTask, Outputs
from distill.teacher import Teacher
from lalia.cards import read_card
from lalia.data.batch import Batch
from lalia.data.seeds import generator
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.frontend import ConvolutionStem, StemLayer
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.signals import Phase, stops
from lalia.training.distributed import is_rank_zero
from lalia.training.trainer import adamw, finished, parameter_groups, write_finished
from lalia.training.validation import transcribe_rows

# --- The run -------------------------------------------------------------------------------------------

UNITS = ("heads", "feedforward", "channels")


class PruneTask(DistillTask):
    """Distillation of a teacher into a student with gates, under a target for their expected cost.

    The constraint is enforced by multipliers that grow while it is violated (an augmented Lagrangian, Wang et al. 2020,
    "Structured pruning of large language models", equation 8).
    """

    settings: PruneSettings

    def __init__(
        self, settings: PruneSettings, teachers: Sequence[Teacher], student: Recogniser, references: dict[int, str]
    ) -> None:
        super().__init__(settings, teachers, student, references)
        units: Any = settings.prune.units
        self.gates = Gates(student, units, settings.prune.open_chance)
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)  # gradient ascent for the multipliers

    @property
    def target(self) -> float:
        """The target share at this step."""
        prune = self.settings.prune
        done = min(1.0, self.global_step / max(1.0, prune.warmup * self.settings.schedule.steps))
        return 1.0 - (1.0 - prune.target) * done

    def student_outputs(self, batch: Batch) -> Outputs:
        device = batch.wave_BS.device
        self.gates.draw(generator(self.settings.seed, "gates", batch.number, device=device))
        return super().student_outputs(batch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        found = super().losses(batch)
        found["share"] = self.gates.share(self.settings.prune.cost)
        excess = found["share"] - self.target
        found["penalty"] = self.multipliers[0] * excess + self.multipliers[1] * excess.square()
        return found

    def weighted(self, found: dict[str, Tensor]) -> Tensor:
        return super().weighted(found) + found["penalty"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.gates.make_deterministic()
        super().validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        lr = self.settings.prune.lr
        groups = parameter_groups(nn.ModuleList([self.student, self.projections]), self.settings.optim.lr)
        groups.append({"params": [*self.gates.parameters(), self.multipliers], "lr": lr, "weight_decay": 0.0})
        return adamw(groups, self.settings)

    @torch.no_grad()
    def cut(self) -> Recogniser:
        """The student without the closed units, no larger than the target."""
        whole = self.student.eval()
        self.gates.make_deterministic()
        self.gates.close_to(self.settings.prune.target, self.settings.prune.cost)
        kept = self.gates.kept(whole.encoder)
        self.gates.fold(whole.encoder)
        small = Recogniser(Encoder(shape_of(whole.encoder.shape, kept)), whole.tokens, whole.normaliser)
        small.encoder.load_state_dict(cut(whole.encoder, kept, small.encoder.shape))
        small.head.load_state_dict(whole.head.state_dict())
        return small.eval()


def prune(settings: PruneSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Learn the gates, cut, and distil; or continue the run in ``folder``.

    ``stated`` names the settings that the user gave (``config.stated``): finished gates must have been learned with them.
    """
    section = settings.prune
    unknown = [unit for unit in section.units if unit not in UNITS]
    if unknown or not section.units:
        raise UserError(f"prune.units {unknown or '[]'}: expected some of {', '.join(UNITS)}")
    if not 0 < section.target < 1 or not 0 < section.share < 1:
        raise UserError(f"prune.target {section.target:g} and prune.share {section.share:g} must lie between 0 and 1")
    gates = folder / "gates"
    # The gates use a part of the schedule and a folder within --out, so those settings differ.
    if not finished(gates, settings, [name for name in stated if not name.startswith(("schedule.", "student."))]):
        train_gates(replace(settings, schedule=_part(settings, section.share), out=str(gates)), gates)
        stops.enter(Phase.LOADING)
    values = {field.name: getattr(settings, field.name) for field in fields(DistillSettings)}
    values["student"] = replace(settings.student, start=str(gates / "recogniser"))
    values["schedule"] = _part(settings, 1 - section.share)
    distill(DistillSettings(**values), folder)


def train_gates(settings: PruneSettings, folder: Path) -> None:
    """Learn the gates and save the pruned recogniser in ``folder/recogniser``."""
    inputs = RunInputs.load(settings)
    teacher = inputs.recogniser
    if not settings.student.start and not settings.student.blocks and not settings.student.layers:
        settings.student = replace(settings.student, layers=teacher.encoder.shape.layers)
    torch.manual_seed(settings.seed)
    student = make_student(teacher, settings.student, settings.regular, inputs.tokens)
    whole = count_parameters(student)
    if settings.store.folder:
        inputs.store_outputs(settings)
    task = PruneTask(settings, inputs.teachers, student, inputs.references)
    train(settings, folder, task, inputs, "prune", best=False)
    if not is_rank_zero(settings.hardware):
        return
    small = task.cut()
    shape = small.encoder.shape
    scored = transcribe_rows(small, inputs.mixture, inputs.test).score()
    facts = inputs.facts | {
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
        [*start, *inputs.cards, *inputs.mixture.cards],
        language=inputs.languages,
        pruning=facts,
    )
    write_finished(folder, facts)
    print(
        f"pruned to {count_parameters(small) / 1e6:.2f} M of {whole / 1e6:.2f} M parameters; heads {facts['heads']}, "
        f"feed-forward {facts['feedforward']}; test CER {scored.cer.rate:.3f} before distillation"
    )


def _part(settings: PruneSettings, share: float) -> Any:
    """The schedule, shortened to ``share`` of it."""
    schedule = settings.schedule
    return replace(schedule, steps=round(schedule.steps * share), minutes=schedule.minutes * share)


# --- Gates -----------------------------------------------------------------------------------------------

Cost = Literal["parameters", "multiply_adds"]
Unit = Literal["heads", "feedforward", "channels"]

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Louizos et al. 2018, section 4.1: temperature of the sigmoid, and the interval it is stretched to before clamping."""


class Gate(nn.Module):
    """Gates of ``count`` units."""

    def __init__(self, count: int, open_chance: float) -> None:
        super().__init__()
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        self.log_alpha = nn.Parameter(torch.full((count,), math.log(open_chance / (1 - open_chance)) + shift))
        self.now: Tensor = torch.ones(count)

    def draw(self, random: torch.Generator) -> None:
        """Set ``now`` to a sample (equation 10); ``random`` is on the gates' device."""
        device = self.log_alpha.device
        uniform = torch.rand(len(self.log_alpha), generator=random, device=device).clamp(1e-6, 1 - 1e-6)
        noise = torch.log(uniform) - torch.log1p(-uniform)
        self.now = self._stretched(torch.sigmoid((noise + self.log_alpha.float()) / TEMPERATURE))

    def make_deterministic(self) -> None:
        """Set ``now`` to the deterministic gates that are used after training (equation 13)."""
        self.now = self._stretched(torch.sigmoid(self.log_alpha.float()))

    def open_chance(self) -> Tensor:
        """The probability of each gate not to be 0 (equation 12)."""
        return torch.sigmoid(self.log_alpha.float() - TEMPERATURE * math.log(-LOW / HIGH))

    @staticmethod
    def _stretched(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)


@dataclass
class Term:
    """A part of the model's cost: ``each`` for every open unit of ``gates``, or for every pair of them with two gates."""

    each: dict[Cost, float]
    gates: tuple[str, ...]


class Gates(nn.Module):
    """Gates on the units of ``recogniser``, applied by hooks; ``remove`` removes the hooks."""

    def __init__(self, recogniser: Recogniser, units: list[Unit], open_chance: float = 0.95) -> None:
        super().__init__()
        self.gates = nn.ModuleDict()
        self.terms: list[Term] = []
        self._handles: list[Any] = []
        self._replaced: list[tuple[nn.Module, str, Any]] = []
        encoder, self._open = recogniser.encoder, open_chance
        shape = encoder.shape
        for block, layer in enumerate(encoder.blocks.layers):
            if "heads" in units:
                self._gate_heads(f"{block}-heads", layer.self_attn, shape.width)
            if "feedforward" in units:
                for name in feedforwards(encoder, block):
                    self._gate_units(f"{block}-{name}", getattr(layer, name), shape.width)
            if "channels" in units and shape.block != "transformer":
                self._gate_filters(f"{block}-filters", layer.conv, shape.width, shape.block_kernel)
        if "channels" in units and isinstance(encoder.frontend, ConvolutionStem):
            self._gate_stem(encoder)
        whole = sum(p.numel() for p in recogniser.parameters())
        gated = {cost: float(self._sum(cost, lambda gate: torch.ones(len(gate.log_alpha)))) for cost in _COSTS}
        # The part without gates. Its products run once a frame, like those of the blocks.
        self.fixed: dict[Cost, float] = {cost: whole - gated["parameters"] for cost in _COSTS}
        self.total: dict[Cost, float] = {cost: self.fixed[cost] + gated[cost] for cost in _COSTS}

    def draw(self, random: torch.Generator) -> None:
        """New samples for a training step."""
        for gate in self._all():
            gate.draw(random)

    def make_deterministic(self) -> None:
        """Use the deterministic gates."""
        for gate in self._all():
            gate.make_deterministic()

    def share(self, cost: Cost) -> Tensor:
        """The expected cost as a share of the whole model's, with a gradient."""
        return (self.fixed[cost] + self._sum(cost, Gate.open_chance)) / self.total[cost]

    @torch.no_grad()
    def close_to(self, target: float, cost: Cost) -> None:
        """Close the least likely deterministic gates until at most ``target`` of the cost is left.

        After a short run many gates are undecided: the expected cost is met, but more gates are open than expected.
        """

        def still_open(gate: Gate, threshold: float) -> Tensor:
            # The most likely unit of each layer always stays.
            return ((gate.now > 0) & (gate.log_alpha > threshold)) | (gate.log_alpha == gate.log_alpha.max())

        def left(threshold: float) -> float:
            found = self._sum(cost, lambda gate: still_open(gate, threshold))
            return float(self.fixed[cost] + found) / self.total[cost]

        chances = torch.cat([gate.log_alpha[gate.now > 0] for gate in self._all()]).sort().values.tolist()
        few, many = -1, len(chances) - 1  # how many to close: `few` leaves too much, `many` does not
        if left(-math.inf) <= target:
            return
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if left(chances[middle]) > target else (few, middle)
        for gate in self._all():
            gate.now = gate.now * still_open(gate, chances[many])

    @torch.no_grad()
    def kept(self, encoder: Encoder) -> Kept:
        """The units with open gates, in each layer at least the most likely one."""
        kept = everything(encoder)
        for name, module in self.gates.items():
            gate: Any = module
            block, _, what = name.partition("-")
            places = torch.nonzero(gate.now > 0).flatten().cpu()
            if not len(places):
                places = gate.log_alpha.argmax().view(1).cpu()
            if block == "stem":
                kept.stem[int(what)] = places
            elif what == "heads":
                kept.heads[int(block)] = places
            elif what == "filters":
                kept.filters[int(block)] = places
            else:
                kept.units[int(block)][what] = places
        for number, names in enumerate(kept.units):  # the two feed-forward layers of a conformer block have one size
            most = max(map(len, names.values()))
            for what in [what for what, places in names.items() if len(places) < most]:
                other: Any = self.gates[f"{number}-{what}"]
                names[what] = other.log_alpha.argsort(descending=True)[:most].sort().values.cpu()
        return kept

    @torch.no_grad()
    def fold(self, encoder: Encoder) -> None:
        """Multiply the gates into the weights after them, and remove the hooks."""
        self.remove()
        for name, module in self.gates.items():
            gate: Any = module
            block, _, what = name.partition("-")
            if block == "stem":
                frontend: Any = encoder.frontend
                frontend.layers[int(what) + 1].conv.weight.mul_(gate.now[:, None])
                continue
            layer: Any = encoder.blocks.layers[int(block)]
            if what == "heads":
                weight = layer.self_attn.output_proj.weight
                weight.mul_(gate.now.repeat_interleave(weight.shape[1] // len(gate.now)))
            elif what == "filters":
                layer.conv.pointwise_conv2.weight.mul_(gate.now[:, None])
            else:
                getattr(layer, what).output_proj.weight.mul_(gate.now)

    def remove(self) -> None:
        """Remove the hooks; the model computes as if all gates were open."""
        for handle in self._handles:
            handle.remove()
        for parent, name, module in self._replaced:
            setattr(parent, name, module)
        self._handles, self._replaced = [], []

    def _all(self) -> list[Gate]:
        return list(self.gates.values())  # type: ignore[arg-type]

    def _sum(self, cost: Cost, size: Any) -> Tensor:
        sizes = {name: size(gate).sum() for name, gate in self.gates.items()}
        found = torch.zeros(())
        for term in self.terms:
            product = torch.tensor(term.each[cost])  # a number on the CPU meets the device's without a copy
            for name in term.gates:
                product = product * sizes[name]
            found = found + product
        return found

    def _add(self, name: str, count: int) -> Gate:
        gate = Gate(count, self._open)
        self.gates[name] = gate
        return gate

    def _gate_heads(self, name: str, attention: Any, width: int) -> None:
        d = attention.head_dim
        gate = self._add(name, attention.num_heads)
        bias = 0 if attention.q_proj.bias is None else 3 * d
        self.terms.append(Term({"parameters": 4.0 * width * d + bias, "multiply_adds": 4.0 * width * d}, (name,)))
        self._handles.append(
            attention.output_proj.register_forward_pre_hook(
                lambda _m, inputs: (inputs[0] * gate.now.repeat_interleave(d).to(inputs[0].dtype),)
            )
        )

    def _gate_units(self, name: str, feedforward: Any, width: int) -> None:
        gate = self._add(name, len(feedforward.inner_proj.weight))
        self.terms.append(Term({"parameters": 2.0 * width + 1, "multiply_adds": 2.0 * width}, (name,)))
        self._handles.append(
            feedforward.output_proj.register_forward_pre_hook(
                lambda _m, inputs: (inputs[0] * gate.now.to(inputs[0].dtype),)
            )
        )

    def _gate_filters(self, name: str, convolution: Any, width: int, kernel: int) -> None:
        gate = self._add(name, convolution.depthwise_conv.weight.shape[0])
        weights = 3.0 * width + kernel
        self.terms.append(Term({"parameters": weights + 2, "multiply_adds": weights}, (name,)))
        self._replaced.append((convolution, "layer_norm", convolution.layer_norm))
        convolution.layer_norm = OpenNorm(convolution.layer_norm, gate)
        self._handles.append(
            convolution.pointwise_conv2.register_forward_pre_hook(
                lambda _m, inputs: (inputs[0] * gate.now.to(inputs[0].dtype)[:, None],)
            )
        )

    def _gate_stem(self, encoder: Encoder) -> None:
        """Gates on all layers except the last, whose channels are the features."""
        frontend: Any = encoder.frontend
        self._replaced.append((frontend, "by_products", frontend.by_products))
        frontend.by_products = False  # gates are hooks of layers, which then have to be called
        layers = list(frontend.layers)
        hop = encoder.shape.hop
        before: tuple[str, ...] = ()
        stride = 1
        for number, layer in enumerate(layers):
            out, into, kernel = layer.conv.weight.shape
            stride *= layer.conv.stride[0]
            # Per pair of input and output channel; a layer runs more than once per frame.
            pair, runs = float(kernel), hop / stride
            own = float(layer.conv.bias is not None) + 2.0 * (
                layer.group_norm is not None or layer.layer_norm is not None
            )
            if number == len(layers) - 1:
                self.terms.append(Term({"parameters": pair * out, "multiply_adds": pair * out * runs}, before))
                continue
            name = f"stem-{number}"
            self._gate_layer(layer, self._add(name, out))
            each: dict[Cost, float] = {"parameters": pair, "multiply_adds": pair * runs}
            if not before:
                each = {cost: value * into for cost, value in each.items()}
            self.terms.append(Term(each, (*before, name)))
            self.terms.append(Term({"parameters": own, "multiply_adds": 0.0}, (name,)))
            before = (name,)

    def _gate_layer(self, layer: StemLayer, gate: Gate) -> None:
        if layer.layer_norm is not None:
            self._replaced.append((layer, "layer_norm", layer.layer_norm))
            layer.layer_norm = OpenNorm(layer.layer_norm, gate)  # type: ignore[assignment]
        self._handles.append(
            layer.register_forward_hook(
                lambda _m, _inputs, output: (output[0] * gate.now.to(output[0].dtype)[:, None], output[1])
            )
        )


class OpenNorm(nn.Module):
    """Layer norm over the channels with open gates only, as after pruning."""

    def __init__(self, norm: Any, gate: Gate) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.bias: nn.Parameter = norm.bias
        self.eps: float = norm.eps
        self._gate = (gate,)  # not a child: the gate belongs to Gates

    def forward(self, x_BTC: Tensor) -> Tensor:
        open_C = (self._gate[0].now > 0).to(x_BTC.dtype)
        count = open_C.sum().clamp(min=1)
        mean = (x_BTC * open_C).sum(-1, keepdim=True) / count
        centred = x_BTC - mean
        variance = (centred.square() * open_C).sum(-1, keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


_COSTS: tuple[Cost, ...] = ("parameters", "multiply_adds")
