"""``lalia models``: the models that are here, and those that one command makes or fetches."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lalia.cards import NAME
from lalia.cli.parser import Parser
from lalia.errors import UserError
from lalia.files import CHECKOUT
from lalia.units import plural

ABOUT = """\
List the models below a folder, and what can be fetched.

  lalia models               below the current folder
  lalia models students/     below that one
  lalia models --json        for programs
"""
KINDS = ("student", "recogniser", "encoder", "language model", "tagger", "classifier", "diarizer", "separator")
_DEEPEST = 5
_FETCH = (
    (
        "lalia convert hub:facebook/mms-1b-all mms-swahili --language swh",
        "a recogniser of one of MMS's languages, CC BY-NC 4.0",
    ),
    ("lalia convert hub:facebook/wav2vec2-xls-r-300m xls-r", "an encoder of 128 languages to fine-tune, Apache 2.0"),
    ("lalia prepare demo --out data/demo", "labelled speech in five languages, to try everything with"),
)
"""(command, what it is)"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: the current one"
    )
    parser.add_argument("--json", action="store_true", help="one JSON array")


def main(args: argparse.Namespace) -> int:
    """``lalia models``."""
    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: no such folder")
    found = list(models_below(args.folder))
    shipped = list(models_below(CHECKOUT / "finetune" / "encoders"))
    if args.json:
        print(json.dumps(found + shipped, ensure_ascii=False))
        return 0
    _print(found, f"{plural(len(found), 'model')} below {args.folder.resolve()}")
    if shipped:  # they are in a checkout, not in the wheel
        _print(shipped, "come with lalia (their name is enough)")
    print("can be fetched" + ("" if find_spec("torch") else " (after pip install 'lalia[train]')"))
    for command, what in _FETCH:
        print(f"  {command:<67} {what}")
    return 0


def models_below(folder: Path) -> Iterator[dict[str, Any]]:
    """Path, kind, languages, bytes and id of every model below ``folder``, which holds cards; links are not followed."""
    top = len(folder.parts)
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        here = Path(place)
        if len(here.parts) - top >= _DEEPEST:
            names.clear()
        if NAME not in files:
            continue
        try:
            card = json.loads((here / NAME).read_text(encoding="utf-8"))
            kind = card["kind"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if kind not in KINDS:
            continue
        names.clear()
        languages = card.get("language") or card.get("languages") or []
        yield {
            "path": str(here),
            "kind": kind,
            "languages": [languages] if isinstance(languages, str) else list(languages),
            "bytes": sum((here / file).stat().st_size for file in files),
            "id": card.get("id", ""),
        }


def _print(models: list[dict[str, Any]], title: str) -> None:
    print(title)
    for model in models:
        languages = ", ".join(model["languages"][:6]) + (", …" if len(model["languages"]) > 6 else "")
        size = model["bytes"] / 1e6
        print(f"  {model['path']:<40} {model['kind']:<15} {size:7.1f} MB  {languages}")
