"""An LSTM language model over letters, scored by ONNX Runtime, many texts at a time.

N texts, K prefixes of texts, P prefixes one letter shorter, L layers, V symbols, H width of the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.lm.folder import LSTM, ModelFolder, open_folder, write_folder
from lalia.lm.ngrams import BEGIN, END, SPECIALS, SYMBOLS_FILE, UNKNOWN
from lalia.onnx_session import open_session
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY

MODEL = "model.onnx"
INPUTS = ("symbols", "parents", "hidden", "cells")
"""Inputs of one step: the last symbol of each prefix (K,), the row of the prefix without it (K,), the states (L, P, H)."""
OUTPUTS = ("log_probs", "next_hidden", "next_cells")
"""Natural log probabilities of the next symbol (K, V), the new states (L, K, H). float32; ``INPUTS`` are int64 and float32."""
_TEXTS = 256
"""Texts scored together; this bounds the memory."""


class Lstm:
    """The network (Hochreiter and Schmidhuber 1997, with forget gates) and its symbols, the first of which are ``SPECIALS``.

    ``model`` is the ONNX graph of one step, with ``INPUTS`` and ``OUTPUTS``. ``ValueError`` if it is something else, or has
    another number of symbols.
    """

    def __init__(self, symbols: Sequence[str], model: bytes) -> None:
        self.symbols = list(symbols)
        self.model = model
        self._session = open_session(model)  # one thread: the matrices are too small to share
        inputs = {found.name: found.shape for found in self._session.get_inputs()}
        outputs = {found.name: found.shape for found in self._session.get_outputs()}
        if (tuple(inputs), tuple(outputs)) != (INPUTS, OUTPUTS):
            raise ValueError(f"its graph maps {', '.join(inputs)} to {', '.join(outputs)}")
        if outputs["log_probs"][-1] != len(self.symbols) or tuple(self.symbols[:3]) != SPECIALS:
            raise ValueError(f"its graph and its {len(self.symbols)} symbols belong to different language models")
        self.layers, _, self._width = inputs["hidden"]
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def ids(self, text: str | Sequence[str]) -> list[int]:
        """The numbers of a text's letters (spaces between words), or of symbols; unknown ones are ``<unk>``."""
        return [self._ids.get(BOUNDARY if symbol == " " else symbol, UNKNOWN) for symbol in text]

    def log_probs(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Natural log probabilities (N,) float64 of whole texts, ends included.

        All texts advance together, letter by letter, and each shared prefix is computed once: the texts of a beam share most.
        """
        parts = [self._score(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def perplexity(self, texts: Sequence[Sequence[int]]) -> float:
        """Perplexity per symbol, ends of texts included."""
        symbols = sum(len(text) + 1 for text in texts)
        return math.exp(-float(self.log_probs(texts).sum()) / symbols) if symbols else math.nan

    def _score(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        total_N = np.zeros(len(texts))
        left_N = np.array([len(text) for text in texts])
        padded = np.full((len(texts), int(left_N.max()) + 1), END)
        for n, text in enumerate(texts):
            padded[n, : len(text)] = text
        at_N = np.zeros(len(texts), np.int64)  # the row of each text's prefix
        state = np.zeros((self.layers, 1, self._width), np.float32)
        log_probs_KV, hidden, cells = self._step(np.array([BEGIN]), np.array([0]), state, state)
        live = np.arange(len(texts))
        for place in range(padded.shape[1]):
            next_N = padded[live, place]
            total_N[live] += log_probs_KV[at_N[live], next_N]
            going = left_N[live] > place
            live, next_N = live[going], next_N[going]
            if not len(live):
                break
            # Texts that also share the longer prefix share its row.
            longer, at_N[live] = np.unique(at_N[live] * len(self.symbols) + next_N, return_inverse=True)
            parents, symbols = np.divmod(longer, len(self.symbols))
            log_probs_KV, hidden, cells = self._step(symbols, parents, hidden, cells)
        return total_N

    def _step(self, *values: np.ndarray) -> Sequence[np.ndarray]:
        found: Sequence[np.ndarray] = self._session.run(OUTPUTS, dict(zip(INPUTS, values, strict=True)))
        return found

    def save(self, folder: Path) -> None:
        """Write ``symbols.txt`` and ``model.onnx`` into ``folder``."""
        write_text(folder / SYMBOLS_FILE, "".join(f"{symbol}\n" for symbol in self.symbols))
        (folder / MODEL).write_bytes(self.model)

    @classmethod
    def load(cls, folder: Path) -> Lstm:
        """The network in ``folder``; ``UserError`` names what is missing or damaged."""
        again = "copy the folder again, or make it: lalia lm TEXT --like STUDENT --out LM --lstm"
        try:
            symbols = (folder / SYMBOLS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
            return cls(symbols, (folder / MODEL).read_bytes())
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename}: is missing; the folder is incomplete or of an earlier version; {again}"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be read ({error}); {again}") from error


class LstmModel(ModelFolder):
    """An LSTM with the normaliser of its text and its card. ``LstmModel.load(folder)``"""

    def __init__(self, folder: Path, lstm: Lstm, normaliser: Normaliser, card: dict[str, Any]) -> None:
        super().__init__(folder, normaliser, card)
        self.lstm = lstm

    @classmethod
    def load(cls, folder: Path | str) -> LstmModel:
        """The model in ``folder``; ``UserError`` if it is missing, damaged or something else."""
        folder = Path(folder)
        normaliser, card = open_folder(folder, LSTM)
        return cls(folder, Lstm.load(folder), normaliser, card)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Perplexity per letter of ``sentences`` (from ``symbols_of``), ends included."""
        return self.lstm.perplexity([self.lstm.ids(sentence) for sentence in sentences])


def make(out: Path, lstm: Lstm, normaliser: Normaliser, parents: list[dict[str, Any]], **facts: Any) -> LstmModel:
    """Write ``lstm`` as the folder ``out``, atomically."""
    described = {"form": LSTM, "unit": "letter", "layers": lstm.layers, **facts}
    write_folder(out, lstm.save, normaliser, parents, described)
    return LstmModel.load(out)
