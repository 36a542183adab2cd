"""Tensors out of files that torch pickled, without running anything of what else is in them.

fairseq keeps its configuration in the checkpoint, as objects of argparse, omegaconf or its own. Those become inert stand-ins
that keep their fields and can do nothing; torch's restricted unpickler refuses whatever is not data.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lalia.exits import UserError

_STAND_INS_AT_MOST = 200


class Inert:
    """In the place of an object of a class that is not loaded: its fields and items, and no behaviour."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.__dict__["args"] = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # (fields, slots) or fields
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.__dict__.update(part or {})
        else:
            self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value


def read_torch(path: Path) -> Any:
    """What is in the file at ``path``: .safetensors, or a torch file with ``Inert`` in the place of foreign objects."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # safetensors raises its own error type
            raise UserError(f"{path}: cannot be read ({error}); copy it again") from error
    stand_ins: dict[str, type] = {}
    while True:
        allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            # torch leaves the module of built-in names out when it complains of them.
            name = "" if named is None else named[1] if "." in named[1] else f"builtins.{named[1]}"
            if not name or name in stand_ins or len(stand_ins) >= _STAND_INS_AT_MOST:
                found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
                reason = (found[1] if found else str(error).splitlines()[0])[:160]
                raise UserError(f"{path}: cannot be read as weights ({reason}); is it a checkpoint?") from error
            stand_ins[name] = type("Inert", (Inert,), {})
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise UserError(f"{path}: cannot be read as a torch file ({reason}); copy it again") from error


def plain(value: Any) -> Any:
    """``value`` as dicts, lists and scalars: argparse namespaces and omegaconf nodes are unwrapped."""
    if isinstance(value, Inert):
        fields = value.__dict__
        for inner in ("_content", "_val"):
            if inner in fields:
                return plain(fields[inner])
        return {key: plain(item) for key, item in fields.items() if key != "args"}
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if isinstance(key, (str, int, Inert))}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
