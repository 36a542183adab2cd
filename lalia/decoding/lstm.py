"""A language model that is an LSTM over letters, run with numpy: it weighs whole texts, many at a time.

N texts, K beginnings of texts, V symbols, H width of the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.cards import write_text
from lalia.decoding.model_folder import LSTM, ModelFolder, open_folder, write_folder
from lalia.decoding.ngrams import BEGIN, END, SPECIALS, SYMBOLS_FILE, UNKNOWN
from lalia.exits import UserError
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY

Arrays = Mapping[str, np.ndarray]
"""float32: ``embedding`` (V, E), ``output`` (V, H), ``output_bias`` (V,), and of layer l from 1 on ``input-l`` (4 H, E or H),
``recurrent-l`` (4 H, H), ``bias-l`` (4 H,), gates in torch's order: input, forget, cell, output."""

_TEXTS = 256
"""This many texts are weighed at a time, which bounds the memory."""


class Lstm:
    """The network (Hochreiter and Schmidhuber 1997, with forget gates) and its symbols, the first of which are ``SPECIALS``."""

    def __init__(self, symbols: Sequence[str], arrays: Arrays) -> None:
        self.symbols = list(symbols)
        self.arrays = dict(arrays)
        self.layers = sum(name.startswith("recurrent-") for name in arrays)
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        # What a symbol brings to the first layer's gates is the same whenever it comes.
        self._first_VG = arrays["embedding"] @ arrays["input-1"].T + arrays["bias-1"]
        self._inputs = [np.ascontiguousarray(arrays[f"input-{n}"].T) for n in range(2, self.layers + 1)]
        self._recurrent = [np.ascontiguousarray(arrays[f"recurrent-{n}"].T) for n in range(1, self.layers + 1)]
        self._output = np.ascontiguousarray(arrays["output"].T)
        self._width = len(self._output)

    def ids(self, text: str | Sequence[str]) -> list[int]:
        """A text's letters (spaces between words), or its symbols, as numbers; those unknown as ``<unk>``."""
        return [self._ids.get(BOUNDARY if symbol == " " else symbol, UNKNOWN) for symbol in text]

    def log_probs(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Natural log probabilities (N,) float64 of whole texts, their ends counted.

        Letter by letter for all of them together; what texts begin with alike is computed once, and the texts of one beam
        begin alike.
        """
        parts = [self._weigh(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def perplexity(self, texts: Sequence[Sequence[int]]) -> float:
        """Per symbol, ends of texts counted."""
        symbols = sum(len(text) + 1 for text in texts)
        return math.exp(-float(self.log_probs(texts).sum()) / symbols) if symbols else math.nan

    def _weigh(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        total_N = np.zeros(len(texts))
        left_N = np.array([len(text) for text in texts])
        padded = np.full((len(texts), int(left_N.max()) + 1), END)
        for n, text in enumerate(texts):
            padded[n, : len(text)] = text
        at_N = np.zeros(len(texts), np.int64)  # which of the K beginnings is each text's
        nothing = [np.zeros((1, self._width), np.float32)] * self.layers
        hidden, cells = self._step(np.array([BEGIN]), nothing, nothing)
        live = np.arange(len(texts))
        for place in range(padded.shape[1]):
            log_probs_KV = _log_softmax(hidden[-1] @ self._output + self.arrays["output_bias"])
            next_N = padded[live, place]
            total_N[live] += log_probs_KV[at_N[live], next_N]
            going = left_N[live] > place
            live, next_N = live[going], next_N[going]
            if not len(live):
                break
            # A beginning and a symbol are a longer beginning, once however many texts share it.
            longer, at_N[live] = np.unique(at_N[live] * len(self.symbols) + next_N, return_inverse=True)
            came_from, symbols = np.divmod(longer, len(self.symbols))
            hidden, cells = self._step(symbols, [h[came_from] for h in hidden], [c[came_from] for c in cells])
        return total_N

    def _step(
        self, symbols_K: np.ndarray, hidden: Sequence[np.ndarray], cells: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The states (K, H) of every layer behind one symbol more."""
        H = self._width
        after_hidden: list[np.ndarray] = []
        after_cells: list[np.ndarray] = []
        gates_KG = self._first_VG[symbols_K]
        for layer in range(self.layers):
            if layer:
                gates_KG = after_hidden[-1] @ self._inputs[layer - 1] + self.arrays[f"bias-{layer + 1}"]
            gates_KG = gates_KG + hidden[layer] @ self._recurrent[layer]
            cell_KH = _sigmoid(gates_KG[:, H : 2 * H]) * cells[layer]
            cell_KH += _sigmoid(gates_KG[:, :H]) * np.tanh(gates_KG[:, 2 * H : 3 * H])
            after_cells.append(cell_KH)
            after_hidden.append(_sigmoid(gates_KG[:, 3 * H :]) * np.tanh(cell_KH))
        return after_hidden, after_cells

    def save(self, folder: Path) -> None:
        """Write ``symbols.txt`` and ``lstm.NAME.npy`` into ``folder``."""
        write_text(folder / SYMBOLS_FILE, "".join(f"{symbol}\n" for symbol in self.symbols))
        for name, values in self.arrays.items():
            np.save(folder / _file(name), np.ascontiguousarray(values, np.float32))

    @classmethod
    def load(cls, folder: Path, layers: int) -> Lstm:
        """The network of so many ``layers`` in ``folder``; a ``UserError`` names what is broken."""
        parts = (f"{part}-{n}" for n in range(1, layers + 1) for part in ("input", "recurrent", "bias"))
        try:
            symbols = (folder / SYMBOLS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
            arrays = {name: _read(folder / _file(name)) for name in ("embedding", *parts, "output", "output_bias")}
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: is missing; copy the whole language model's folder again") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be read ({error}); copy or make the language model again") from error
        if tuple(symbols[:3]) != SPECIALS or not _fit(arrays, layers, len(symbols)):
            raise UserError(f"{folder}: its files are of different language models; make it again")
        return cls(symbols, arrays)


class LstmModel(ModelFolder):
    """An LSTM, the normaliser its text went through, and the card. ``LstmModel.load(folder)``"""

    def __init__(self, folder: Path, lstm: Lstm, normaliser: Normaliser, card: dict[str, Any]) -> None:
        super().__init__(folder, normaliser, card)
        self.lstm = lstm

    @classmethod
    def load(cls, folder: Path | str) -> LstmModel:
        """The model in ``folder``; a ``UserError`` where it is missing, damaged or something else."""
        folder = Path(folder)
        normaliser, card = open_folder(folder, LSTM)
        return cls(folder, Lstm.load(folder, int(card["layers"])), normaliser, card)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per letter of ``sentences`` as ``symbols_of`` makes them, their ends counted."""
        return self.lstm.perplexity([self.lstm.ids(sentence) for sentence in sentences])


def make(out: Path, lstm: Lstm, normaliser: Normaliser, parents: list[dict[str, Any]], **facts: Any) -> LstmModel:
    """Write ``lstm`` as the folder ``out``, which appears at once when it is whole."""
    weights = sum(values.size for values in lstm.arrays.values())
    described = {"form": LSTM, "unit": "letter", "layers": lstm.layers, "parameters": weights, **facts}
    write_folder(out, lstm.save, normaliser, parents, described)
    return LstmModel.load(out)


def _fit(arrays: Arrays, layers: int, symbols: int) -> bool:
    """Whether the shapes belong together."""
    width = arrays["output"].shape[-1]
    wanted: dict[str, tuple[int, ...]] = {"output": (symbols, width), "output_bias": (symbols,)}
    wanted["embedding"] = (symbols, arrays["input-1"].shape[-1])
    for n in range(1, layers + 1):
        wanted[f"input-{n}"] = (4 * width, wanted["embedding"][1] if n == 1 else width)
        wanted |= {f"recurrent-{n}": (4 * width, width), f"bias-{n}": (4 * width,)}
    return all(arrays[name].shape == shape for name, shape in wanted.items())


def _read(path: Path) -> np.ndarray:
    found: np.ndarray = np.load(path, allow_pickle=False)
    if found.dtype != np.float32:
        raise ValueError(f"{path.name} holds {found.dtype}")
    return found


def _file(name: str) -> str:
    return f"lstm.{name}.npy"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # By the tangent, which does not overflow.
    return 0.5 * np.tanh(0.5 * x) + np.float32(0.5)


def _log_softmax(x_KV: np.ndarray) -> np.ndarray:
    x_KV = x_KV - x_KV.max(axis=1, keepdims=True)
    return x_KV - np.log(np.exp(x_KV).sum(axis=1, keepdims=True))
