"""Settings: typed dataclasses, filled from defaults, then YAML, then flags. The one door to jsonargparse.

``load(Schema, argv, ...)`` is all a stage calls; ``dump`` writes settings so that ``load`` reads the same back.
"""

from __future__ import annotations

import contextlib
import io
import typing
from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from lalia.cards import write_text
from lalia.errors import STATUSES, UserError
from lalia.files import shipped_file

# The text under a field is its help.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

S = TypeVar("S")


class _Help(DefaultHelpFormatter):
    """Jsonargparse's help, with the lines of a description as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def load(schema: type[S], argv: Sequence[str], program: str, about: str) -> S:
    """The settings that ``argv`` asks for: defaults, under ``--config FILE``, under flags.

    A list setting is filled by repeating its flag. A relative FILE that is not in the current folder may be one of the checkout,
    such as configs/pretrain/nano.yaml. An unknown key, a wrong type or an unreadable file is a ``UserError`` of one
    line; ``--help`` prints every setting with its documentation and ends the program.
    """
    parser = _parser(schema, program, about)
    try:
        # jsonargparse prints its own usage block to stderr before it raises; one line is enough for a typo.
        with contextlib.redirect_stderr(io.StringIO()):
            namespace = parser.parse_args(_words(schema, argv))
        values = parser.instantiate(namespace)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{_one_line(error)} (`{program} --help` lists every setting)") from error
    return schema(**{field.name: values[field.name] for field in fields(schema)})  # type: ignore[arg-type]


def stated(schema: type, argv: Sequence[str]) -> set[str]:
    """The settings that ``argv`` itself and the YAML it names say, as dotted names: what is not a default.

    ``argv`` is one that ``load`` has taken already.
    """
    namespace = _parser(schema, "", "").parse_args(_words(schema, argv), defaults=False)
    return {key for key, value in namespace.items() if key != "config" and value is not None}


def _parser(schema: type, program: str, about: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=program, usage=f"{program} [--config FILE] [--SETTING VALUE …]", description=about, epilog=STATUSES,
        exit_on_error=False, allow_abbrev=False, formatter_class=_Help,
    )  # fmt: skip
    parser.add_argument("--config", action="config", help="YAML file of settings; flags after it win")
    parser.add_class_arguments(schema, None)
    return parser


def dump(settings: Any, path: Path) -> None:
    """Write ``settings`` to ``path`` as YAML, every value resolved."""
    write_text(path, yaml.safe_dump(to_dict(settings), sort_keys=False, allow_unicode=True))


def to_dict(settings: Any) -> Any:
    """``settings`` as plain dicts, lists, strings and numbers."""
    if is_dataclass(settings):
        return {f.name: to_dict(getattr(settings, f.name)) for f in fields(settings)}
    if isinstance(settings, (list, tuple)):
        return [to_dict(item) for item in settings]
    return str(settings) if isinstance(settings, Path) else settings


def select(path: Path, names: Collection[str]) -> dict[str, Any]:
    """What the file of ``dump`` at ``path`` says of the settings with the dotted ``names``; what it does not know is left out."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for name in names:
        *groups, key = name.split(".")
        here, there = values, found
        for group in groups:
            here = here.get(group, {})
            there = there.setdefault(group, {})
        if key in here:
            there[key] = here[key]
    return found


def _words(schema: type, argv: Sequence[str]) -> list[str]:
    """``argv`` as jsonargparse takes it: every ``--config`` found, ``--data.corpus A --data.corpus B`` with its ``--flag+``."""
    lists = set(_list_flags(schema, "--"))
    seen: set[str] = set()
    result: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if result and result[-1] == "--config":
            word = shipped_file(word)
        elif flag == "--config" and equals:
            word = f"{flag}={shipped_file(value)}"
        if flag in lists:
            if flag not in seen:
                result.append(f"{flag}=[]")  # what a YAML file said is replaced, not added to
            seen.add(flag)
            word = f"{flag}+{equals}{value}"
        result.append(word)
    return result


def _list_flags(schema: type, prefix: str) -> list[str]:
    hints = typing.get_type_hints(schema)
    flags: list[str] = []
    for field in fields(schema):
        hint = hints[field.name]
        if is_dataclass(hint):
            flags += _list_flags(typing.cast(type, hint), f"{prefix}{field.name}.")
        elif hint == list[str]:
            flags.append(prefix + field.name)
    return flags


def _one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
