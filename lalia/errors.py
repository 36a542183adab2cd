"""Errors and exit statuses: the exceptions that end a command, and the function that turns them into one line and a status.

0 done · 1 a quality check failed, or some of many files did · 2 the user can fix it (one line says how) · 3 stopped by the
training guard · 130 interrupted (Ctrl-C; a training run also by SIGTERM, SIGUSR1 and SIGHUP, and it saves first). A stopped run
never exits with 0, so a pipeline cannot take it for a finished one.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches

from lalia.files import readable

STATUSES = (
    "exit status: 0 done, 1 a quality check or some files failed, 2 you can fix it (one line says how), "
    "3 stopped by the training guard, 130 interrupted (a training run is saved, and the same command continues it)"
)


class UserError(Exception):
    """Something the user can fix. The message is one line: where, what was found, what was expected, what to do."""

    status = 2


class AudioError(UserError):
    """A clip that cannot be used. The message is one line: which clip, what is wrong with it, what was expected."""


class GateRefused(Exception):
    """A gate looked at the result and said no; the message says what missed its budget."""

    status = 1


class GuardStopped(Exception):
    """The training guard ended a run that nothing could mend; the message says why and what to change."""

    status = 3


class Interrupted(Exception):
    """A training run was asked to stop; the message says by what, what is saved, and where the same command continues."""

    status = 130


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a disk or a quota that is full."""


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that ``error`` is or comes from; torch and safetensors report their own error for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        if (named := re.search(r"\(os error (\d+)\)", str(error))) and int(named[1]) in FULL:
            return OSError(int(named[1]), os.strerror(int(named[1])))
        error = error.__cause__ or error.__context__
    return None


def run(main: Callable[[], int | None], program: str) -> int:
    """Call ``main`` and return the exit status; expected endings print one line instead of a traceback.

    Set ``LALIA_TRACEBACK=1`` to see the traceback as well.
    """
    speak_utf8()
    warnings.formatwarning = lambda message, *where, **line: f"{program}: {message}\n"  # without the source line
    try:
        return main() or 0
    except (UserError, GateRefused, GuardStopped, Interrupted) as error:
        if os.environ.get("LALIA_TRACEBACK"):
            raise
        print(f"{program}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return Interrupted.status
    except BrokenPipeError:  # `lalia ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        refused = full_disk(error)
        if refused is None or os.environ.get("LALIA_TRACEBACK"):
            raise
        where = f"{readable(str(refused.filename))}: " if refused.filename else ""
        print(
            f"{program}: {where}cannot be written ({refused.strerror}); make room, then give the same command again",
            file=sys.stderr,
        )
        return UserError.status


def speak_utf8() -> None:
    """Make stdout and stderr UTF-8 if they are pipes or files, whatever the locale; a terminal keeps its encoding.

    Characters that an encoding lacks, such as file names that are not UTF-8, are escaped instead of raising an error.
    """
    codecs.register_error("readable", _written_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="readable")


def _written_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    told = readable(error.object[error.start : error.end])
    if not error.encoding.lower().startswith("utf"):
        told = told.encode("ascii", "backslashreplace").decode()
    return told, error.end


# --- Errors of command lines and settings ----------------------------------------------------------------


def wrong_value(name: str, value: str, expected: str, program: str, help: str = "--help") -> str:
    """The error for a ``value`` that the argument or setting ``name`` does not take."""
    return f"{name} {value or repr(value)}: {expected}; see: {program} {help}"


def unrecognized(words: Sequence[str], flags: Collection[str], program: str, help: str = "--help") -> UserError:
    """The error for ``words`` of a command line that ``program``, which takes ``flags``, does not know."""
    flag = next((word for word in words if word.startswith("-")), "").partition("=")[0]
    return UserError(f"unrecognized arguments: {' '.join(words)}{closest(flag, flags)}; see: {program} {help}")


def one_of(choices: Sequence[str], value: str = "") -> str:
    """``expected a, b or c``, with the one that ``value`` is like."""
    *most, last = choices
    return f"expected {', '.join(most)}{' or ' * bool(most)}{last}{closest(value, choices)}"


def closest(word: str, among: Collection[str]) -> str:
    """`` (did you mean X?)`` for the one of ``among`` that ``word`` is like; "" where it is like none.

    ``--corpus`` is like ``--data.corpus``, and no word is like ``--help``.
    """
    bare = {known.lstrip("-"): known for known in among if known not in ("-h", "--help")}
    meant = word.lstrip("-")
    near = [name for name in bare if meant and name.rpartition(".")[2] == meant] or get_close_matches(meant, bare, 1)
    return f" (did you mean {bare[near[0]]}?)" if near else ""
