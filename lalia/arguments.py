"""A command line: the parser of every program of the house, and the numbers that its flags take."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from lalia.exits import UserError


class Parser(argparse.ArgumentParser):
    """Descriptions keep their lines, flags are spelled out, and a wrong one is one line that says where help is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")


def positive(text: str) -> int:
    """A whole number from 1, for ``type=``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
