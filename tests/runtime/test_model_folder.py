"""A run's folder does where a recogniser or an encoder is asked for, and says what it lacks where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from lalia.cards import write_card
from lalia.errors import UserError
from lalia.model_folder import find_made


def made(folder: Path, kind: str) -> Path:
    """A run that made something of ``kind``, or nothing yet."""
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    if kind:
        (folder / kind).mkdir()
        write_card(folder / kind, kind, [])
    return folder


@pytest.mark.parametrize("kind", ["recogniser", "encoder"])
def test_a_run_stands_for_what_it_made(tmp_path: Path, kind: str) -> None:
    run = made(tmp_path / "run", kind)
    assert find_made(str(run), kind, "--x") == find_made(str(run / kind), kind, "--x") == str(run / kind)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            "",
            "is a run that is not finished, expected a recogniser; continue it with the command that started it",
        ),
        (
            "encoder",
            "is a run that made an encoder, expected a recogniser; fine-tune it first: lalia finetune fit --encoder .*",
        ),
    ],
)
def test_a_run_that_made_nothing_of_the_kind_says_so(tmp_path: Path, kind: str, told: str) -> None:
    run = made(tmp_path / "run", kind)
    with pytest.raises(UserError, match=f"^--teacher {run}: {told}$"):
        find_made(str(run), "recogniser", "--teacher")


def test_a_folder_that_is_not_there_is_said_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no such folder; expected a recogniser made by lalia, or the run that made a recogniser"
    ):
        find_made(str(tmp_path / "run"), "recogniser", "--teacher")
