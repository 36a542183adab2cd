"""The quality checks at export: which limits fail, and which cause is named."""

from __future__ import annotations

import pytest

from distill.config import GateSettings
from distill.export import Figures, GroupSensitivity, Miss, check_budget, check_transducer, explain_misses

GATE = GateSettings(slack=0.0)
GOOD = Figures(0.102, 0.100, 300.0, 1_000_000, 0.095, 100.0, 5_000_000)


def changed(**values) -> Figures:
    return Figures(**{**GOOD.__dict__, **values})


def test_a_good_student_passes():
    assert check_budget(GOOD, GATE) == []
    assert check_budget(GOOD, GateSettings(speedup=2.0, size_ratio=0.25)) == []


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
    assert [miss.budget for miss in check_budget(figures, gate)] == budgets


def test_a_transducer_has_the_limit_of_ctc():
    (miss,) = check_transducer(0.2, 0.1, GATE)
    assert miss.budget == "float_ratio" and "transducer is 20.00 % in int8 and 10.00 % in float" in miss.text
    assert check_transducer(0.1, 0.1, GATE) == []


def test_the_group_that_costs_most_is_named():
    harms = [
        GroupSensitivity("blocks.0.attention", 0.101, 0.1, 0.02),
        GroupSensitivity("blocks.1.feed-forward", 0.3, 0.1, 0.9),
        GroupSensitivity("head", 0.1, 0.1, 2.0),
    ]
    figures = changed(cer_int8=0.31, cer_teacher=None)
    said = explain_misses(check_budget(figures, GATE), figures, harms, {}, GATE)
    assert len(said) == 1
    assert "quantizing blocks.1.feed-forward costs most" in said[0]
    assert "10.00 % to 30.00 %" in said[0]


def test_where_no_group_costs_errors_alone_the_largest_change_is_named():
    harms = [GroupSensitivity("blocks.0.attention", 0.1, 0.1, 0.02), GroupSensitivity("head", 0.1, 0.1, 0.5)]
    figures = changed(cer_int8=0.11, cer_teacher=None)
    (said,) = explain_misses(check_budget(figures, GATE), figures, harms, {}, GATE)
    assert "head" in said and "0.500 nats" in said


def test_int8_is_not_the_cause_of_a_poor_student():
    figures = changed(cer_int8=0.2, cer_float=0.199)
    (said,) = explain_misses(check_budget(figures, GATE), figures, [], {}, GATE)
    assert "int8 is not the cause" in said


def test_a_slow_student_is_told_what_takes_its_time():
    missed = [Miss("speed", 10.0, 20.0, "slow")]
    (said,) = explain_misses(missed, GOOD, [], {"Conv": 0.7, "MatMul": 0.2}, GATE)
    assert said.startswith("Conv takes most of the time (70%)")
