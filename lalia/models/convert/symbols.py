"""What the outputs of a checkpoint's CTC head are called: dictionaries in the forms their authors keep them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lalia.exits import UserError
from lalia.models.convert.pickles import plain

_FAIRSEQ_FIRST = ["<s>", "<pad>", "</s>", "<unk>"]


def beside(checkpoint: Path) -> Path | None:
    """The dictionary that lies beside ``checkpoint``; None where there is none."""
    names = (checkpoint.with_suffix(".tokens.txt").name, "dict.ltr.txt", "tokens.txt", "vocab.json")
    return next((checkpoint.parent / name for name in names if (checkpoint.parent / name).is_file()), None)


def from_dictionary(loaded: dict[str, Any]) -> list[str] | None:
    """The symbols of the dictionary that fairseq put into the checkpoint itself; None where it did not."""
    task = plain(loaded.get("task_state"))
    found = task.get("target_dictionary") if isinstance(task, dict) else None
    symbols = found.get("symbols") if isinstance(found, dict) else None
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else None


def read_symbols(path: Path) -> list[str]:
    """The symbols in the file at ``path`` in the order of the head's outputs.

    ``vocab.json`` (symbol to number), a sentencepiece model (``.model``), ``tokens.txt`` ("symbol number" a line), or
    fairseq's ``dict.ltr.txt`` ("symbol count" a line, which four symbols of its own come before).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the symbols of the CTC head")
    if path.suffix == ".model":
        return _pieces(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            ids = json.loads(text)
            return [symbol for symbol, _ in sorted(ids.items(), key=lambda item: int(item[1]))]
        rows = [line.rstrip("\r").rpartition(" ") for line in text.split("\n") if line.strip()]
        numbers = [int(number) for _, _, number in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a list of symbols ({error})") from error
    symbols = [symbol for symbol, _, _ in rows]
    return symbols if numbers == list(range(len(rows))) else _FAIRSEQ_FIRST + symbols


def _pieces(path: Path) -> list[str]:
    from fairseq2.data.tokenizers.sentencepiece import SentencePieceModel

    try:
        model = SentencePieceModel(path)
    except Exception as error:  # fairseq2's native part raises several types
        raise UserError(f"{path}: cannot be read as a sentencepiece model ({error})") from error
    pieces = [str(model.index_to_token(i)) for i in range(model.vocabulary_size)]
    for piece in pieces:
        if "▁" in piece and piece != "▁":
            raise UserError(f"{path}: {piece!r} joins a space to letters; expected one symbol for the space alone")
    return pieces
