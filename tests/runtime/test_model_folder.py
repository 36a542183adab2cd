"""A run's folder does where a recogniser or an encoder is asked for, and says what it lacks where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from lalia.cards import write_card
from lalia.errors import UserError
from lalia.model_folder import check_labels, find_made
from lalia.runtime.student import Student
from lalia.text.normaliser import NormaliserSettings
from tests.tiny_student import make_student, seal


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


class Sentences:
    """Thai labels, each one run of letters."""

    def text(self, row: int) -> str:
        return ("กขคก", "คขกฮ")[row]

    def language(self, row: int) -> str:
        return "tha"


def test_a_letter_that_a_student_lacks_counts_alone_where_no_spaces_part_words(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "student", ("<blank>", "|", *"กขค"))
    NormaliserSettings(language="tha").to_json(folder / "normaliser.json")
    seal(folder)
    student = Student.load(folder)
    check_labels(Sentences(), tmp_path, [0, 1, 1], student)  # type: ignore[arg-type]
    other = Student.load(make_student(tmp_path / "other"))
    with pytest.raises(UserError, match=r"no letters for .* of its 12 words"):
        check_labels(Sentences(), tmp_path, [0, 1, 1], other)  # type: ignore[arg-type]
