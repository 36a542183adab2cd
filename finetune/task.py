"""The fine-tuning task: a recogniser and one training step of CTC.

B clips, S samples, T frames, F features, D width, V tokens.

What the best checkpoint is known by: letters or words wrong by best path, or words wrong as heard with a language model.

T frames, V tokens.

Blame: which clips made a loss that is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import FinetuneSettings, SelectSettings
from finetune.loss import ctc
from lalia.data.batch import span_mask
from lalia.data.loader import Batch
from lalia.decoding.automata import LetterModel, Machine, machine_of
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import best_path, transcript
from lalia.errors import GuardStopped, UserError
from lalia.lm.folder import BONUS, ORDERS, WEIGHT, LanguageModel, symbols_of
from lalia.lm.ngrams import SPECIALS, UNKNOWN, estimate
from lalia.models.baselines import Baseline
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import ErrorCounts, character_errors, word_errors
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.training import LightningModule
from lalia.training.distributed import over_ranks, total
from lalia.training.seeds import generator, reseed
from lalia.training.trainer import adamw, parameter_groups

# --- What the best checkpoint is known by ----------------------------------------------------------------

WITH_LM = "valid/wer_lm"
METRICS = {"cer": "valid/cer", "wer": "valid/wer", "wer_lm": WITH_LM}


class Listener:
    """Hears held-out clips with a language model; ``rows`` are those that it is asked for at each look."""

    def __init__(self, recogniser: Recogniser, machine: Machine, rows: Sequence[int], told: str) -> None:
        self.rows = frozenset(rows)
        self.told = told
        """which language model it is, in words"""
        self._tokens, self._normaliser = recogniser.tokens, recogniser.normaliser
        self._decoder = Decoder(recogniser.tokens, recogniser.frame_s, [machine])

    def text(self, log_probs_TV: np.ndarray) -> str:
        """What is said, normalised as labels are."""
        return self._normaliser(text_of(self._decoder.decode(log_probs_TV), self._tokens))


def make_listener(
    settings: SelectSettings, recogniser: Recogniser, labels: Iterable[str], held_out: Sequence[int]
) -> Listener | None:
    """What hears ``held_out`` clips (``settings.clips`` of them, spread evenly); None where ``settings`` ask for none.

    Without a language model of its own it takes n-grams of the letters of ``labels``, which the run learns from. A
    ``UserError`` where the model is of another alphabet, or no label has a word to count.
    """
    if settings.by != "wer_lm":
        return None
    if settings.lm:
        machine, told = _given(Path(settings.lm), recogniser.tokens, recogniser.normaliser)
    else:
        machine, told = _counted(labels, recogniser.tokens, recogniser.normaliser)
    count = min(settings.clips or len(held_out), len(held_out))
    rows = [int(held_out[i * len(held_out) // count]) for i in range(count)]
    return Listener(recogniser, machine, rows, told)


def _given(folder: Path, tokens: Tokens, normaliser: Normaliser) -> tuple[Machine, str]:
    """The language model in ``folder``, with the weight and bonus that tuning found last, whatever student it was for."""
    try:
        model = LanguageModel.load(folder)
        model.check(tokens, normaliser)
    except UserError as error:
        raise UserError(f"--select.lm {error}") from error
    last = next(reversed(model.card.get("tuned", {})), "")
    found = model.tuned(last)
    told = f"{model.ngrams.order}-grams of {model.unit}s in {folder}"
    return machine_of(model, found["weight"], found["bonus"]), told


def _counted(labels: Iterable[str], tokens: Tokens, normaliser: Normaliser) -> tuple[Machine, str]:
    """N-grams of letters of ``labels``, as ``lalia finetune lm`` counts them."""
    texts = (normaliser(label) for label in labels)
    sentences = [symbols_of(text, "letter", tokens)[0] for text in texts if text]
    if not any(symbol != SPECIALS[UNKNOWN] for sentence in sentences for symbol in sentence):
        raise UserError(
            "--select.by wer_lm: no label has a word to count a language model from; give one made by `lalia lm` with --select.lm"
        )
    ngrams = estimate(sentences, ORDERS["letter"])
    return LetterModel(ngrams, WEIGHT, BONUS), f"{ngrams.order}-grams of letters of {len(sentences)} training labels"


# --- Blame -----------------------------------------------------------------------------------------------

NAMED = 5


def check_finite(
    logits_BTV: Tensor, loss: Tensor, rows: Sequence[int], before: Sequence[int], model: nn.Module,
    name: Callable[[int], str], step: int, precision: str,
) -> None:  # fmt: skip
    """A ``GuardStopped`` that names the clips of ``rows`` whose scores are no numbers, where there are any or ``loss`` is none.

    Where all clips are, the weights are ruined and no clip of this batch is to blame: those of the step ``before`` are named.
    """
    if bool(torch.isfinite(loss + logits_BTV.float().sum())):
        return
    fp16 = precision == "fp16"
    advice = (
        "take --hardware.precision bf16 or fp32: float16 ends at 65,504"
        if fp16
        else "lower --optim.lr, or clip harder (--optim.clip)"
    )
    bad = [row for row, scores_TV in zip(rows, logits_BTV, strict=True) if not bool(torch.isfinite(scores_TV).all())]
    ruined = not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if ruined or len(bad) == len(rows) > 1:
        raise GuardStopped(
            f"step {step}: every score is no number, so the weights are ruined; they were changed last by the clips "
            f"{_listed(before, name)}. {advice[0].upper()}{advice[1:]}, and listen to these clips"
        )
    raise GuardStopped(
        f"step {step}: the loss is {float(loss.detach()):g}, from {_listed(bad or rows, name)}. Listen to these clips and mend "
        f"or leave them out; if nothing is wrong with them, {advice}"
    )


def _listed(rows: Sequence[int], name: Callable[[int], str]) -> str:
    if not rows:
        return "not known"
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(name(row) for row in rows[:NAMED]) + more


# --- The fine-tuning task --------------------------------------------------------------------------------


class FinetuneTask(LightningModule):
    """CTC fine-tuning of ``recogniser``; runs under anybody's Trainer.

    ``references`` maps a row to its normalised text, ``name`` to what a person calls the clip; ``listener`` hears held-out clips
    with a language model as well.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        recogniser: Recogniser,
        references: dict[int, str],
        name: Callable[[int], str] = str,
        listener: Listener | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.recogniser = recogniser
        self.references = references
        self.name = name
        self.listener = listener
        self.pulse: Tensor | None = None
        """letters said, letters to say and loss of the last micro-batch, for the alarm"""
        self.frozen_until = 0
        """the alarm lets the head learn alone until this step"""
        self._clips: tuple[int, list[int], list[int]] = (-1, [], [])
        """a step, its clips so far and those of the step before"""
        if settings.hardware.checkpointing:
            recogniser.encoder.checkpoint_blocks()
        if settings.hardware.compile:
            recogniser.encoder.compile_blocks()
        self._errors = (ErrorCounts(), ErrorCounts(), ErrorCounts())
        self._losses: list[Tensor] = []

    @property
    def frozen(self) -> bool:
        """Whether only the head learns at this step."""
        step = self.global_step
        return self.settings.mode == "head" or step < self.frozen_steps or step < self.frozen_until

    @property
    def frozen_steps(self) -> float:
        """The first step in which the encoder learns, as the settings say; random weights are never kept from it."""
        return 0.0 if self.settings.fresh else self.settings.freeze.encoder_share * self.settings.schedule.steps

    def speaks_by(self, begun: float) -> int:
        """The step until which a head may be silent that learns since ``begun``; a look before it says nothing of the end."""
        steps = self.settings.schedule.steps
        return round(begun + self.settings.alarm.grace * (steps - begun))

    def logits(self, batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """(logits_BTV, frames_B) under this step's masks."""
        regular, encoder = self.settings.regular, self.recogniser.encoder
        with torch.set_grad_enabled(not self.frozen):
            features_BTF, _, frames_B = encoder.features(batch.wave_BS, batch.lengths_B)
            B, T, _ = features_BTF.shape
            mask_BT = span_mask(frames_B, T, regular.time_coverage, regular.time_span, 0, random)
            D = encoder.shape.width
            widths_B = torch.full((B,), D)
            channels_BD = span_mask(widths_B, D, regular.channel_coverage, regular.channel_span, 0, random)
            hidden_BTD = encoder.contextualise(
                features_BTF, frames_B, mask_BT.to(features_BTF.device), channels_BD.to(features_BTF.device)
            )
        return self.recogniser.head(self.recogniser.head_dropout(hidden_BTD)), frames_B

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seed = self.settings.seed
        reseed(seed, "dropout", batch.number)
        assert batch.labels_BU is not None and batch.label_lengths_B is not None
        logits_BTV, frames_B = self.logits(batch, generator(seed, "masks", batch.number))
        found = ctc(logits_BTV, frames_B, batch.labels_BU, batch.label_lengths_B)
        loss = found.loss / found.count.clamp(min=1)
        step, rows, before = self._clips
        if step != self.global_step:
            rows, before = [], rows
        check_finite(
            logits_BTV, found.loss, batch.rows_B.tolist(), before, self.recogniser, self.name, self.global_step,
            self.settings.hardware.precision,
        )  # fmt: skip
        self._clips = (self.global_step, rows + batch.rows_B.tolist(), before)
        heard_BT = logits_BTV.detach().argmax(-1)
        blank = (heard_BT == 0).float().mean()
        self.pulse = torch.stack(
            [letters(heard_BT, frames_B).double(), found.count.double(), found.loss.detach().double()]
        )
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/blank": blank,
                "train/lr": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
                "train/impossible": float(found.impossible_B.sum()),
                "train/bad_clips": float(len(batch.bad)),
            }
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.labels_BU is not None and batch.label_lengths_B is not None
        logits_BTV, frames_B = self.recogniser(batch.wave_BS, batch.lengths_B)
        found = ctc(logits_BTV, frames_B, batch.labels_BU, batch.label_lengths_B)
        self._losses.append(torch.stack([found.loss.double(), found.count.double()]))
        log_probs_BTV = logits_BTV.float().log_softmax(-1).cpu().numpy()
        for row, log_probs_TV, frames in zip(batch.rows_B.tolist(), log_probs_BTV, frames_B.tolist(), strict=True):
            text = transcript(best_path(log_probs_TV[:frames]), self.recogniser.tokens)
            reference = self.references[row]
            characters, words, heard = self._errors
            if self.listener is not None and row in self.listener.rows:
                heard += word_errors(reference, self.listener.text(log_probs_TV[:frames]))
            self._errors = (
                characters + character_errors(reference, text), words + word_errors(reference, text), heard
            )  # fmt: skip

    def on_validation_epoch_end(self) -> None:
        characters, words, heard = (over_ranks(errors, self.device) for errors in self._errors)
        loss, count = total(torch.stack(self._losses).sum(0))
        self._errors = (ErrorCounts(), ErrorCounts(), ErrorCounts())
        self._losses.clear()
        self.log_dict(
            {
                "valid/cer": characters.rate,
                "valid/wer": words.rate,
                "valid/loss": (loss / count.clamp(min=1)).float(),
                **({WITH_LM: heard.rate} if self.listener is not None else {}),
            }
        )

    def configure_optimizers(self) -> Any:
        """The head at ``optim.lr``; the encoder at a share of it, falling from the top block to the frontend. Where it begins to
        learn later than the head, its rate rises from there."""
        optim, freeze, encoder = self.settings.optim, self.settings.freeze, self.recogniser.encoder
        groups = parameter_groups(self.recogniser.head, optim.lr)
        head = len(groups)
        lr = optim.lr * freeze.encoder_lr
        for block in [] if isinstance(encoder, Baseline) else reversed(encoder.blocks.layers):
            groups += parameter_groups(block, lr)
            lr *= freeze.layer_decay
        grouped = {id(p) for group in groups for p in group["params"]}
        rest = torch.nn.ParameterList([p for p in encoder.parameters() if id(p) not in grouped])
        groups += parameter_groups(rest, lr)
        for group in groups[head:]:
            group["begins"] = self.begins
        return adamw(groups, optim, self.settings.schedule)

    def begins(self) -> float:
        """The step at which the encoder begins to learn, for the last time so far."""
        return max(self.frozen_steps, self.frozen_until)


def letters(heard_BT: Tensor, frames_B: Tensor) -> Tensor:
    """How many tokens the best path ``heard_BT`` says within each clip's frames, all clips together."""
    inside_BT = torch.arange(heard_BT.shape[1], device=heard_BT.device) < frames_B.to(heard_BT.device)[:, None]
    before_BT = torch.nn.functional.pad(heard_BT, (1, 0))[:, :-1]
    return ((heard_BT != 0) & (heard_BT != before_BT) & inside_BT).sum()
