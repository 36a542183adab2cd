"""``lalia prepare``: its arguments, and the call that they become."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lalia.exits import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``lalia prepare`` takes."""
    parser.add_argument("source", help="demo")
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="the folder to make")
    parser.add_argument("--audio", type=Path, metavar="FOLDER", help="for demo: archives brought by hand")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")


def main(args: argparse.Namespace) -> int:
    """Prepare the corpus that ``args`` describe; 0 when it is there."""
    try:
        import pyarrow  # noqa: F401
        from rich.console import Console
    except ImportError as error:
        raise UserError(f"lalia prepare needs {error.name}; pip install 'lalia[train]'") from error
    from lalia.data.prepare.demo import list_demo
    from lalia.data.prepare.run import prepare

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    recipe = {"source": args.source}
    workers = args.workers or len(os.sched_getaffinity(0))
    prepare(lambda work: list_demo(work, args.audio, console.print), recipe, args.out, workers, console)
    return 0
