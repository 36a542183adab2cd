"""The training stages as verbs of the program ``lalia``: where the checkout that holds them is, and how one is run.

They are packages beside ``lalia`` in the repository, not parts of it: an editable install has them, a wheel does not.

A command line: the parser of every program of the house, what a slip may have meant, and the numbers that flags take.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from lalia.errors import UserError, run
from lalia.files import CHECKOUT

# --- A command line --------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Descriptions keep their lines, flags are spelled out, and a wrong one is one line that says where help is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **settings)
        self._verbs: Any = None

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._verbs = super().add_subparsers(**kwargs)
        return self._verbs

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; a flag that no one knows is told by the verb that it was given to."""
        args = sys.argv[1:] if args is None else args
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            verbs = self._verbs.choices if self._verbs else {}
            parser = next((verbs[word] for word in args if word in verbs), self)
            flags = [flag for action in parser._actions for flag in action.option_strings]
            named = next((word for word in unknown if word.startswith("-")), "")
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{closest(named.partition('=')[0], flags)}")
        return found

    def error(self, message: str) -> NoReturn:
        if self._verbs and (wrong := re.search(r"invalid choice: '(.*?)' \(choose from", message)):
            raise UserError(_wrong_verb(self.prog, wrong[1], self._verbs.choices))
        raise UserError(f"{message}; see: {self.prog} --help")


def run_stage(
    stage: str,
    verbs: Mapping[str, Callable[[list[str]], int]],
    about: Mapping[str, str],
    argv: Sequence[str] | None = None,
) -> int:
    """``lalia STAGE VERB …``: the exit status of what ``verbs`` has for the first word of ``argv``, which gets the others.

    Without a word, or with ``--help``, it prints what every verb is ``about``; a word that is no verb is one line.
    """
    program, words = f"lalia {stage}", list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, about))
        for verb, told in about.items():
            print(f"{program} {verb:{width}}   {told.splitlines()[0]}")
        print(f"\n{program} VERB --help: examples, the flags used most, and every setting")
        return 0 if words else 2

    def begin() -> int:
        if words[0] not in verbs:
            raise UserError(_wrong_verb(program, words[0], verbs))
        return verbs[words[0]](words[1:])

    return run(begin, "lalia")


def _wrong_verb(program: str, word: str, verbs: Collection[str]) -> str:
    return f"no verb {word!r}{closest(word, verbs)}; expected {', '.join(verbs)}; see: {program} --help"


def closest(word: str, among: Collection[str]) -> str:
    """`` (did you mean X?)`` for the one of ``among`` that ``word`` is a slip of; "" where it is like none."""
    near = get_close_matches(word, among, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def positive(text: str) -> int:
    """A whole number from 1, for ``type=``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


# --- The training stages as verbs of the program ``lalia -------------------------------------------------

STAGES = {
    "pretrain": "an encoder from raw audio: plan, fit, probe",
    "finetune": "a recogniser from labelled audio: check, fit, lm, eval, fold",
    "distill": "a small student of a recogniser: fit, prune, export",
}


def enter(stage: str, argv: Sequence[str]) -> int:
    """What ``python -m STAGE VERB …`` does in the checkout, from any folder; the exit status.

    A ``UserError`` where this install has no stages, or a package is missing that they need.
    """
    if not (CHECKOUT / stage / "__main__.py").is_file():
        raise UserError(
            f"{stage}: this install of lalia runs students and does not train; clone the repository, and in it run: "
            "pip install -e '.[train]'"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))  # first: a folder of that name where the user stands is not the stage
    try:
        return int(import_module(f"{stage}.__main__").main(argv))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{stage} needs the package {error.name}, which is missing; run: pip install -e '{CHECKOUT}[train]'"
        ) from error
