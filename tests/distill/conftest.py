"""Runs ``lalia distill`` in the test process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill.__main__ import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture()
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """``command(verb, *flags)`` -> (exit status, standard output, standard error)."""

    def call(verb: str, *flags: str) -> tuple[int, str, str]:
        status = main([verb, *flags])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture()
def train(command: Command) -> Command:
    """``train(verb, folder, out, *flags)``: a short run with ``folder/corpus`` and ``folder/teacher`` into ``folder/out``."""

    def call(verb: str, folder: Path, out: str, *flags: str) -> tuple[int, str, str]:
        return command(
            verb, "--data.corpus", str(folder / "corpus"), "--data.language", "ita", "--teacher", str(folder / "teacher"),
            "--data.workers", "0", "--batch.hours", "0.004", "--batch.micro_s", "15", "--log.every", "2",
            "--out", str(folder / out), *flags,
        )  # fmt: skip

    return call
