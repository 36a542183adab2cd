"""The front of students: its table marks what keeps its goal, its picture names every student."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.runtime.student import Point, draw, table

TEACHER = Point("teacher", "teacher", 0, 12_000_000, 0.20, (0.18, 0.22), 100.0)
WHOLE = Point("2 blocks", "float", 1_500_000, 6_000_000, 0.21, (0.19, 0.23), 300.0)
SMALL = replace(WHOLE, kind="int8", bytes=1_900_000, cer=0.212, speed=480.0)


def test_goals_that_are_kept_are_bold():
    rows = table([TEACHER, WHOLE, SMALL]).splitlines()
    whole, small = rows[3], rows[4]
    assert "| 0.50 |" in whole and "| **1.05** |" in whole and "| 3.00 |" in whole
    assert "| **0.16** |" in small and "| **4.80** |" in small
    assert "bytes **0.32**, speed **1.60**, CER **1.01**" in small
    assert "speed 1.03" in table([TEACHER, WHOLE, replace(SMALL, speed=310.0)])


def test_the_picture_names_every_student(tmp_path):
    lost = [replace(WHOLE, name="lost", cer=0.9), replace(SMALL, name="lost", cer=0.95)]
    draw([TEACHER, WHOLE, SMALL, *lost], tmp_path / "front.svg")
    drawn = (tmp_path / "front.svg").read_text()
    for name in ("teacher, 12.0 MB", "2 blocks, 1.9 MB", "lost, 1.9 MB (95 %)"):
        assert name in drawn
