"""Settings of the training stages: dataclasses filled from defaults, a YAML file and flags. Only here is jsonargparse imported.

``load(Schema, argv, ...)`` reads them; ``dump`` writes them so that ``load`` reads the same back.
"""

from __future__ import annotations

import contextlib
import io
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from lalia.cards import write_text
from lalia.errors import STATUSES, UserError, closest, one_of, unrecognized, wrong_value
from lalia.files import CHECKOUT, shipped_file

# The text under a field is its help.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

S = TypeVar("S")


class _Help(DefaultHelpFormatter):
    """Jsonargparse's help with the line breaks of the description kept."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def load(schema: type[S], argv: Sequence[str], program: str, about: str) -> S:
    """The settings of ``program``: defaults, under ``--config FILE``, under flags.

    A list setting is filled by repeating its flag. A relative FILE that is not in the current folder may be one of the checkout,
    such as configs/pretrain/nano.yaml. An unknown setting, a wrong value or an unreadable file is a ``UserError`` of one line.
    ``--help`` prints ``about``, ``--help all`` every setting with its documentation; both end the program.
    """
    for number, word in enumerate(argv):
        if word in ("-h", "--help"):
            if list(argv[number + 1 : number + 2]) == ["all"]:
                _parser(schema, program, about).print_help()
            else:
                print(f"{about}\nevery setting: {program} --help all\n\n{STATUSES}")
            raise SystemExit(0)
    words, kinds = _words(schema, argv), _kinds(schema)
    _check_names(words, kinds, program)
    parser = _parser(schema, program, about)
    try:
        # jsonargparse prints its own usage block to stderr before it raises; one line is enough.
        with contextlib.redirect_stderr(io.StringIO()):
            namespace = parser.parse_args(words)
        values = parser.instantiate(namespace)
    except (ArgumentError, TypeError, ValueError) as error:
        raise _plain(error, words, kinds, program) from error
    return schema(**{field.name: values[field.name] for field in fields(schema)})  # type: ignore[arg-type]


# --- Errors: in the form of lalia.errors ----------------------------------------------------------------


def _kinds(schema: type, prefix: str = "") -> dict[str, Any]:
    """The type of every setting, by its dotted name; a group of settings is there as well, with its dataclass."""
    hints, found = typing.get_type_hints(schema), {}
    for field in fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        found[name] = hint
        if is_dataclass(hint):
            found |= _kinds(typing.cast(type, hint), f"{name}.")
    return found


def _check_names(words: Sequence[str], kinds: Mapping[str, Any], program: str) -> None:
    """Raise a ``UserError`` for the first flag or key of a file that is no setting, and for a file that cannot be read."""
    flags = [f"--{name}" for name in kinds] + ["--config", "--print_config"]
    for word in words:
        flag = word.partition("=")[0].removesuffix("+")
        if flag.startswith("--") and flag not in flags:
            raise unrecognized([flag], flags, program, "--help all")
    for file in _config_files(words):
        _check_keys(_read(file), "", file, kinds, program)


def _config_files(words: Sequence[str]) -> list[str]:
    after = [later for word, later in pairwise(words) if word == "--config"]
    return after + [word.partition("=")[2] for word in words if word.startswith("--config=")]


def _read(file: str) -> Any:
    """The content of the YAML file ``file``; a ``UserError`` where it has none."""
    path = Path(file)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        folder = next((place for place in (path.parent, CHECKOUT / path.parent) if place.is_dir()), None)
        names = [other.name for other in folder.glob("*.yaml")] if folder else []
        raise UserError(
            f"--config {file}: no such file{closest(path.name, names)}; expected a YAML file of settings"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"--config {file}: cannot be read ({reason}); expected a YAML file of settings") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', '')})" if mark else ""
        raise UserError(f"--config {file}: is no YAML{where}; expected a YAML file of settings") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {file}: holds no settings; expected lines such as seed: 1")
    return values


def _check_keys(values: dict[str, Any], prefix: str, file: str, kinds: Mapping[str, Any], program: str) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in kinds:
            raise UserError(f"{file}: no setting {name}{closest(name, kinds)}; see: {program} --help all")
        if is_dataclass(kinds[name]):
            if not isinstance(value, dict):
                inside = ", ".join(field.name for field in fields(typing.cast(type, kinds[name])))
                raise UserError(f"{file}: {name} {value}: expected settings in it: {inside}")
            _check_keys(value, f"{name}.", file, kinds, program)


def _plain(error: Exception, words: Sequence[str], kinds: Mapping[str, Any], program: str) -> UserError:
    """The ``UserError`` for what jsonargparse said: which setting, its value, what was expected."""
    message = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    wrong = re.fullmatch(r'Parser key "([\w.]+)": .*Got value: (.*)', message)
    if wrong and wrong[1] in kinds:
        name, value = wrong.groups()
        flags = [word.partition("=")[0].removesuffix("+") for word in words]
        files = ", ".join(_config_files(words))
        where = f"--{name}" if f"--{name}" in flags or not files else f"{files}: {name}"
        return UserError(wrong_value(where, value, _expected(kinds[name], value), program, "--help all"))
    message = re.sub(r"^argument ([^/:]*)(/[^:]*)?", r"\1", message)  # names a list's flag once
    return UserError(f"{message}; see: {program} --help all")


def _expected(kind: Any, value: str) -> str:
    """``expected …`` for the type of a setting."""
    if typing.get_origin(kind) is typing.Literal:
        return one_of(list(map(str, typing.get_args(kind))), value)
    return _EXPECTED.get(kind, f"expected {kind}")


_EXPECTED: dict[Any, str] = {
    int: "expected a whole number",
    float: "expected a number",
    bool: "expected true or false",
    str: "expected text",
    float | None: "expected a number or null",
    list[str]: "expected a list of texts, such as [a, b]",
    list[int]: "expected a list of whole numbers, such as [1, 2]",
    list[list[int]]: "expected lists of whole numbers, such as [[1, 2], [3]]",
    tuple[float, float]: "expected two numbers, such as [0.9, 1.1]",
}


# --- Reading and writing ---------------------------------------------------------------------------------


def stated(schema: type, argv: Sequence[str]) -> set[str]:
    """The dotted names of the settings that ``argv`` and the YAML files in it give; the others have their defaults.

    ``load`` has accepted ``argv`` before.
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
    """The settings with the dotted ``names`` from the file that ``dump`` wrote to ``path``; names that it lacks are left out."""
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
