"""The gate: what it lets pass, what it refuses, and whom it blames."""

from __future__ import annotations

import pytest

from distill.config import GateSettings
from distill.export import Figures, Harm, Miss, blame, misses

GATE = GateSettings(slack=0.0)
GOOD = Figures(0.102, 0.100, 300.0, 1_000_000, 0.095, 100.0, 5_000_000)


def changed(**values) -> Figures:
    return Figures(**{**GOOD.__dict__, **values})


def test_a_good_student_passes():
    assert misses(GOOD, GATE) == []
    assert misses(GOOD, GateSettings(speedup=2.0, size_ratio=0.25)) == []


@pytest.mark.parametrize(
    ("figures", "gate", "budgets"),
    [
        (changed(cer_int8=0.106), GATE, ["float_ratio"]),
        (changed(cer_int8=0.12, cer_float=0.12), GATE, ["teacher_ratio"]),
        (changed(cer_int8=0.2), GATE, ["float_ratio", "teacher_ratio"]),
        (changed(speed=19.0), GATE, ["speed"]),
        (changed(speed=150.0), GateSettings(speedup=2.0), ["speedup"]),
        (changed(bytes=1_300_000), GateSettings(size_ratio=0.25), ["size_ratio"]),
        (changed(cer_int8=0.106), GateSettings(slack=0.002), []),
        (changed(cer_int8=0.104, cer_float=0.104, cer_teacher=None), GATE, []),
        (changed(cer_int8=0.001, cer_float=0.0, cer_teacher=0.0), GATE, ["float_ratio", "teacher_ratio"]),
    ],
)
def test_each_budget(figures, gate, budgets):
    assert [miss.budget for miss in misses(figures, gate)] == budgets


def test_the_group_that_costs_most_is_blamed():
    harms = [
        Harm("blocks.0.attention", 0.101, 0.1, 0.02),
        Harm("blocks.1.feed-forward", 0.3, 0.1, 0.9),
        Harm("head", 0.1, 0.1, 2.0),
    ]
    figures = changed(cer_int8=0.31, cer_teacher=None)
    said = blame(misses(figures, GATE), figures, harms, {}, GATE)
    assert len(said) == 1
    assert "blocks.1.feed-forward is to blame" in said[0]
    assert "10.00 % to 30.00 %" in said[0]


def test_where_no_group_costs_errors_alone_the_largest_change_is_named():
    harms = [Harm("blocks.0.attention", 0.1, 0.1, 0.02), Harm("head", 0.1, 0.1, 0.5)]
    figures = changed(cer_int8=0.11, cer_teacher=None)
    (said,) = blame(misses(figures, GATE), figures, harms, {}, GATE)
    assert "head" in said and "0.500 nats" in said


def test_quantization_is_not_blamed_for_a_poor_student():
    figures = changed(cer_int8=0.2, cer_float=0.199)
    (said,) = blame(misses(figures, GATE), figures, [], {}, GATE)
    assert "quantization is not to blame" in said


def test_a_slow_student_is_told_what_takes_its_time():
    missed = [Miss("speed", 10.0, 20.0, "slow")]
    (said,) = blame(missed, GOOD, [], {"Conv": 0.7, "MatMul": 0.2}, GATE)
    assert said.startswith("Conv takes most of the time (70%)")
