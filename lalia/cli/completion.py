"""``lalia completion``: the script that completes verbs, options and files in a shell, made by shtab from the parsers."""

from __future__ import annotations

import argparse
from importlib import import_module

import shtab

from lalia.cli.parser import Parser

ABOUT = """\
Print a script that completes lalia's verbs and options in a shell.

  lalia completion bash > ~/.local/share/bash-completion/completions/lalia
  lalia completion zsh > ~/.zfunc/_lalia                     with fpath+=~/.zfunc before compinit
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), metavar="SHELL", help="bash, zsh or tcsh")


def main(args: argparse.Namespace) -> int:
    """``lalia completion``."""
    print(shtab.complete(whole_parser(), args.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """A parser with the arguments of every verb; of a stage only its name, since its settings are read by its own parser."""
    from lalia.cli.main import STAGES, VERBS

    parser = argparse.ArgumentParser(prog="lalia")
    subparsers = parser.add_subparsers()
    for verb, (line, module) in VERBS.items():
        below = Parser(prog=f"lalia {verb}")
        import_module(module).add_arguments(below)
        made = subparsers.add_parser(verb, help=line, parents=[below], add_help=False, conflict_handler="resolve")
        for action in made._actions:
            if getattr(action.type, "__name__", "") == "Path" or action.metavar == "AUDIO":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    for stage, line in STAGES.items():
        subparsers.add_parser(stage, help=line)
    return parser
