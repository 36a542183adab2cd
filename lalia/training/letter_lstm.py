"""The letter LSTM language model in PyTorch: network, training, and export to the ONNX graph that ``lalia.lm.lstm`` runs.

Training takes one machine and continues after an interruption, to the same weights.

B texts, T letters, V symbols; for one step of the graph K new prefixes, P parent prefixes, L layers, H width.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from lalia.cards import read_card
from lalia.data.seeds import mix, reseed
from lalia.errors import GuardStopped, UserError
from lalia.lm.folder import KIND
from lalia.lm.lstm import INPUTS, MODEL, OUTPUTS, Lstm, make
from lalia.lm.ngrams import BEGIN, END, SPECIALS
from lalia.text.normaliser import Normaliser

# --- Network and ONNX export -----------------------------------------------------------------------------

IGNORED = -100
"""The target where a batch is padded."""


class LetterLstm(nn.Module):
    """Predicts the next letter from those before. Dropout before, between and after the layers (Zaremba et al. 2014)."""

    def __init__(self, symbols: int, width: int, layers: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, symbols)

    def forward(self, letters_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of the letter after each position."""
        hidden_BTH, _ = self.lstm(self.dropout(self.embedding(letters_BT)))
        scores_BTV: Tensor = self.output(self.dropout(hidden_BTH))
        return scores_BTV

    def loss(self, letters_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(summed negative log-likelihood in nats, number of targets), without ``IGNORED`` targets."""
        scores = self(letters_BT).flatten(0, 1).float()
        targets = targets_BT.flatten()
        summed = nn.functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
        return summed, (targets != IGNORED).sum()

    def graph(self) -> bytes:
        """One step of the network as ONNX, as ``lalia.lm.lstm`` runs it: K prefixes grow by one letter each."""
        rows_K = torch.zeros(2, dtype=torch.long)
        states_LPH = torch.zeros(self.lstm.num_layers, 2, self.lstm.hidden_size)
        axes = {name: {1: "P"} for name in INPUTS[2:]} | {name: {1: "K"} for name in OUTPUTS[1:]}
        axes |= {name: {0: "K"} for name in (*INPUTS[:2], OUTPUTS[0])}
        buffer = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about batches of other sizes and an exporter of another kind
            torch.onnx.export(
                _Step(self).train(self.training),  # the exporter gives this mode back to it, and so to self
                (rows_K, rows_K, states_LPH, states_LPH),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes files; its annotation knows paths only
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        return buffer.getvalue()


class _Step(nn.Module):
    def __init__(self, model: LetterLstm) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, symbols_K: Tensor, parents_K: Tensor, hidden_LPH: Tensor, cells_LPH: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        states = hidden_LPH[:, parents_K], cells_LPH[:, parents_K]
        top_K1H, (hidden_LKH, cells_LKH) = self.model.lstm(self.model.embedding(symbols_K)[:, None], states)
        return self.model.output(top_K1H[:, 0]).log_softmax(-1), hidden_LKH, cells_LKH


# --- Training --------------------------------------------------------------------------------------------

HELD_OUT, HELD_OUT_MOST = 20, 2_000
"""One sentence in HELD_OUT is held out, chosen by its hash; at most HELD_OUT_MOST."""
LONGEST = 300
"""Longer sentences (in letters) are split for training."""
VALIDATION_STEPS = 500
"""Largest number of steps between two validations."""
STATE = "state.pt"
_SORTED = 16


@dataclass(frozen=True)
class LstmSettings:
    """Size of the LSTM and length of its training; the defaults have 0.34 million weights for 30 letters."""

    width: int = 256
    layers: int = 1
    embedding: int = 64
    dropout: float = 0.3
    rate: float = 3e-3
    batch: int = 32
    passes: int = 20
    """over the text, at most"""
    steps: int = 6_000
    """at most"""
    patience: int = 4
    """validations in a row without a better perplexity, after which training ends"""
    seed: int = 1


@dataclass(frozen=True)
class Trained:
    """The network with the best held-out perplexity, and its training."""

    lstm: Lstm
    parameters: int
    perplexity: float
    """per letter of the held-out sentences, ends counted"""
    steps: int
    """at which it was best"""
    seconds: float


class _Sentences:
    """Sentences as arrays of symbol numbers with begin and end, split into train and held-out."""

    def __init__(self, sentences: Sequence[Sequence[str]], seed: int) -> None:
        self.symbols = [*SPECIALS, *sorted({symbol for sentence in sentences for symbol in sentence} - set(SPECIALS))]
        ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.train: list[np.ndarray] = []
        self.held: list[np.ndarray] = []
        # By a hash of the sentence, so that repeated sentences are on one side.
        hashes = [mix(seed, "held out", *sentence) for sentence in sentences]
        least = min(hashes, default=0)
        for hashed, sentence in zip(hashes, sentences, strict=True):
            numbers = np.array([BEGIN, *(ids[symbol] for symbol in sentence), END], np.int32)
            side = self.train
            if hashed == least or (hashed % HELD_OUT == 0 and len(self.held) < HELD_OUT_MOST):
                side = self.held
            side += [numbers[start : start + LONGEST + 1] for start in range(0, len(numbers) - 1, LONGEST)]

    def batches(self, number: int, settings: LstmSettings) -> list[list[np.ndarray]]:
        """The batches of a pass: a function of the seed and the pass's number. Texts of a batch have similar lengths."""
        generator = np.random.default_rng(mix(settings.seed, "pass", number))
        order = generator.permutation(len(self.train)).tolist()
        batches = []
        for start in range(0, len(order), _SORTED * settings.batch):
            near = sorted(order[start : start + _SORTED * settings.batch], key=lambda i: len(self.train[i]))
            batches += [near[i : i + settings.batch] for i in range(0, len(near), settings.batch)]
        return [[self.train[i] for i in batches[b]] for b in generator.permutation(len(batches))]


def fingerprint(sentences: Sequence[Sequence[str]], settings: LstmSettings) -> str:
    """Hash of everything that decides the result: equal fingerprints, equal training."""
    digest = hashlib.sha256(json.dumps({"file": MODEL, **asdict(settings)}).encode())
    for sentence in sentences:
        digest.update("\x1f".join(sentence).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def train(sentences: Sequence[Sequence[str]], out: Path, settings: LstmSettings | None = None) -> Trained:
    """Train on ``sentences`` (letters and boundaries), showing progress on stderr.

    Progress is saved beside ``out`` in ``.NAME.training``; the same call continues it, to the same weights.
    Raises ``UserError`` if there is too little text.
    """
    settings = settings or LstmSettings()
    texts = _Sentences(sentences, settings.seed)
    if len(texts.train) < 2:
        raise UserError(f"{len(sentences)} sentences are too few to train an LSTM and hold some out; give more text")
    reseed(settings.seed, "weights")
    model = LetterLstm(len(texts.symbols), settings.width, settings.layers, settings.embedding, settings.dropout)
    training = _Training(model, texts, settings, _work(out) / STATE, fingerprint(sentences, settings))
    training.run()
    model.load_state_dict(training.best)
    lstm = Lstm(texts.symbols, model.graph())
    weights = sum(values.numel() for values in model.parameters())
    return Trained(lstm, weights, math.exp(training.best_loss), training.best_step, training.seconds)


def train_model(
    sentences: Sequence[Sequence[str]],
    out: Path,
    normaliser: Normaliser,
    parents: list[dict[str, Any]],
    facts: dict[str, Any],
    settings: LstmSettings | None = None,
) -> bool:
    """Make ``out`` the folder of an LSTM trained on ``sentences``. False if it was there already."""
    settings = settings or LstmSettings()
    made_of = fingerprint(sentences, settings)
    if out.exists() and read_card(out, KIND).get("made_of") == made_of:
        return False
    found = train(sentences, out, settings)
    training_facts = {
        "parameters": found.parameters,
        "perplexity": round(found.perplexity, 4),
        "steps": found.steps,
        "seconds": round(found.seconds, 1),
    }
    make(out, found.lstm, normaliser, parents, made_of=made_of, **training_facts, **facts)
    shutil.rmtree(_work(out), ignore_errors=True)
    return True


class _Training:
    """The training loop and its state."""

    def __init__(self, model: LetterLstm, texts: _Sentences, settings: LstmSettings, path: Path, made_of: str) -> None:
        self.model, self.texts, self.settings, self.path, self.made_of = model, texts, settings, path, made_of
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=0.01)
        self.per_pass = len(texts.batches(0, settings))
        self.steps = min(settings.steps, settings.passes * self.per_pass)
        self.step, self.in_vain, self.seconds = 0, 0, 0.0
        self.best: dict[str, Any] = {}
        self.best_loss, self.best_step = math.inf, 0

    def run(self) -> None:
        console = Console(file=sys.stderr)
        bar = Progress(
            TextColumn("lstm"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TextColumn("left"), TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._resume(console)
        begun = time.monotonic() - self.seconds
        with bar:
            shown = bar.add_task("lstm", total=self.steps, completed=self.step, numbers=self._numbers())
            for batch in self._batches():
                self._train_step(batch)
                bar.update(shown, completed=self.step)
                if self.step % min(self.per_pass, VALIDATION_STEPS) and self.step < self.steps:
                    continue
                self._validate()
                self.seconds = time.monotonic() - begun
                self._save()
                bar.update(shown, numbers=self._numbers())
                if not console.is_terminal:
                    print(f"lstm {self.step}/{self.steps} {self._numbers()}", file=sys.stderr, flush=True)
                if self.in_vain >= self.settings.patience:
                    break

    def _batches(self) -> Iterator[list[np.ndarray]]:
        """The batches from this step on to the last."""
        while self.step < self.steps and self.in_vain < self.settings.patience:
            number, place = divmod(self.step, self.per_pass)
            yield from self.texts.batches(number, self.settings)[place : place + self.steps - self.step]

    def _train_step(self, batch: Sequence[np.ndarray]) -> None:
        self.model.train()
        reseed(self.settings.seed, "step", self.step)
        warm = min(1.0, (self.step + 1) / 50)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        summed, count = self.model.loss(*_padded(batch))
        self.optimiser.zero_grad()
        (summed / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1

    @torch.no_grad()
    def _validate(self) -> None:
        """Evaluate on the held-out sentences; keep the weights if they are the best so far."""
        self.model.eval()
        held = sorted(self.texts.held, key=len)
        size = 4 * self.settings.batch
        sums = [self.model.loss(*_padded(held[i : i + size])) for i in range(0, len(held), size)]
        loss = sum(float(summed) for summed, _ in sums) / sum(int(count) for _, count in sums)
        if not math.isfinite(loss):
            raise GuardStopped(f"the LSTM's loss on held-out text is {loss} at step {self.step}; check the text")
        self.in_vain += 1
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.in_vain = loss, self.step, 0
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        names = ("made_of", "step", "in_vain", "seconds", "best", "best_loss", "best_step")
        state = {name: getattr(self, name) for name in names}
        with temporary.open("wb") as file:
            torch.save({**state, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def _resume(self, console: Console) -> None:
        """Continue from the saved state if it belongs to this training."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return
        if state.pop("made_of") != self.made_of:
            console.print("lstm: starts anew: the saved state is from other text or settings", highlight=False)
            return
        self.model.load_state_dict(state.pop("model"))
        self.optimiser.load_state_dict(state.pop("optimiser"))
        for name, value in state.items():
            setattr(self, name, value)
        console.print(f"lstm: continues at step {self.step}", highlight=False)

    def _numbers(self) -> str:
        return f"held-out perplexity {math.exp(self.best_loss):.2f}" if self.best else ""


def _padded(batch: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(letters, targets), (B, T) each: the letters so far, and the next letter at each position."""
    longest = max(map(len, batch)) - 1
    letters_BT = torch.full((len(batch), longest), END)
    targets_BT = torch.full((len(batch), longest), IGNORED)
    for b, text in enumerate(batch):
        numbers = torch.from_numpy(text).long()
        letters_BT[b, : len(text) - 1] = numbers[:-1]
        targets_BT[b, : len(text) - 1] = numbers[1:]
    return letters_BT, targets_BT


def _work(out: Path) -> Path:
    return out.parent / f".{out.name}.training"
