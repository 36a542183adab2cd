"""The argument parser of every program, and the verbs of a training stage.

Its errors have the same form as those of ``lalia.config`` on settings; ``lalia.errors`` writes both.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from lalia.errors import UserError, closest, one_of, run, unrecognized, wrong_value


class Parser(argparse.ArgumentParser):
    """Argparse with descriptions that keep their lines, flags that are never abbreviated, and errors of one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **settings)
        self._verbs: Any = None

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._verbs = super().add_subparsers(**kwargs)
        return self._verbs

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; the verb that got an unknown flag is the one that reports it."""
        args = sys.argv[1:] if args is None else args
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            verbs = self._verbs.choices if self._verbs else {}
            parser = next((verbs[word] for word in args if word in verbs), self)
            raise unrecognized(
                unknown, [flag for action in parser._actions for flag in action.option_strings], parser.prog
            )
        return found

    def error(self, message: str) -> NoReturn:
        if self._verbs and (wrong := re.search(r"invalid choice: '(.*?)' \(choose from", message)):
            raise UserError(_wrong_verb(self.prog, wrong[1], self._verbs.choices))
        raise UserError(f"{message.removeprefix('argument ')}; see: {self.prog} --help")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """The value of a word; a ``UserError`` names the argument, the word and what was expected."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = getattr(action, "type", None)
            expected = _EXPECTED.get(kind, error.message) if isinstance(kind, type) else error.message
            raise UserError(wrong_value(_name(action), arg_string, expected, self.prog)) from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices or action.nargs == argparse.PARSER:
            super()._check_value(action, value)
            return
        raise UserError(
            wrong_value(_name(action), str(value), one_of(list(map(str, action.choices)), str(value)), self.prog)
        )


_EXPECTED: dict[type, str] = {int: "expected a whole number", float: "expected a number"}


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def positive(text: str) -> int:
    """A whole number from 1, for ``type=``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("expected a whole number from 1")
    return int(text)


def run_stage(
    stage: str,
    verbs: Mapping[str, Callable[[list[str]], int]],
    about: Mapping[str, str],
    argv: Sequence[str] | None = None,
) -> int:
    """``lalia STAGE VERB …``: calls the verb that is the first word of ``argv`` with the others; the exit status.

    Without a word, or with ``--help``, it prints ``about`` (under "": the stage itself) each verb; another word is an error.
    """
    program, words = f"lalia {stage}", list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"{about['']}\nverbs:")
        width = max(map(len, verbs))
        for verb in verbs:
            print(f"  {program} {verb:{width}}   {about[verb].splitlines()[0]}")
        print(f"\n{program} VERB --help: examples and the settings used most; --help all: every setting")
        return 0 if words else 2

    def begin() -> int:
        if words[0] not in verbs:
            raise UserError(_wrong_verb(program, words[0], verbs))
        return verbs[words[0]](words[1:])

    return run(begin, "lalia")


def print_next(*steps: tuple[str, str]) -> None:
    """Print the commands to type next, each with what it is for."""
    width = max(len(command) for command, _ in steps)
    for number, (command, why) in enumerate(steps):
        print(f"{'      ' if number else 'next: '}{command:{width}}   {why}".rstrip())


def _wrong_verb(program: str, word: str, verbs: Collection[str]) -> str:
    return f"no verb {word!r}{closest(word, verbs)}; expected {', '.join(verbs)}; see: {program} --help"
