"""Sentences of held-out clips that stand in a text: they are found wherever they are, and nothing else is taken out."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from lalia.lm import build
from lalia.lm.build import LeakageFilter
from lalia.text.writing_system import WritingSystem

SAID = "the ferry leaves at noon"


def left(sentences: list[str], lines: list[str], writing: WritingSystem | None = None) -> tuple[list[str], int]:
    apart = LeakageFilter(sentences, writing)
    return list(apart.filter(lines)), apart.removed


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([SAID], []),
        (["rec000 wav the ferry leaves at noon anna"], ["rec000 wav", "anna"]),
        (["he said the ferry", "leaves at", "noon and went home"], ["he said", "and went home"]),
        (["one the ferry leaves at noon two the ferry leaves at noon"], ["one", "two"]),
        (["the ferry leaves at", "noon", SAID, "late"], ["late"]),
        (
            ["the ferry leaves at nine", "at noon the ferry leaves"],
            ["the ferry leaves at nine", "at noon the ferry leaves"],
        ),
        (["the ferry leaves at"], ["the ferry leaves at"]),
    ],
)
def test_within_a_line_and_across_line_ends(lines: list[str], expected: list[str]) -> None:
    joined = " ".join(lines)
    assert left([SAID], lines) == (expected, joined.count(SAID))


def test_short_ones_go_as_whole_lines_only() -> None:
    """Everybody says them: a text keeps its sentences whole."""
    lines = ["yes i do not know him", "i do", "not know", "i do not know", "yes", "oh yes"]
    assert left(["yes", "i do not", "i do not know"], lines)[0] == ["yes", "him", "oh yes"]
    assert left(["yes", "i do not"], lines) == ([*lines[:4], "oh yes"], 1)


def test_those_that_overlap_go_both_and_what_lies_within_counts_once() -> None:
    assert left(["a b c d e", "d e f g h"], ["x a b c d e f g h y"]) == (["x", "y"], 2)
    assert left(["a b c d e f", "b c d e"], ["x a b c d e f y"]) == (["x", "y"], 1)


def test_scripts_without_spaces() -> None:
    said = "我们明天早上去北京"
    lines = ["他说 我们明天早", "上去北京 好吗", "我们去", "abc我们明天早上去北京def"]
    assert left([said, "我们去"], lines) == (["他说", "好吗", "abc", "def"], 3)
    assert left(["我们去"], ["昨天我们去了"]) == (["昨天我们去了"], 0)
    assert left(["ขอบคุณมากครับคุณสมชาย"], ["เขาพูดว่าขอบคุณมากครับคุณสมชายแล้วไป"]) == (["เขาพูดว่า", "แล้วไป"], 1)
    run_on = WritingSystem().without_spaces()
    assert left(["theferryleavesatnoon", "noon"], ["hesaidtheferryleavesatnoon", "beforenoon"], run_on) == (
        ["hesaid", "beforenoon"],
        1,
    )


def slow(sentences: set[str], lines: list[str]) -> list[str]:
    """Every place of every sentence is looked at."""
    words = " ".join(lines).split()
    taken = [False] * len(words)
    for sentence in (s.split() for s in sentences):
        for at in range(len(words)):
            if len(sentence) >= build.SHORTEST and words[at : at + len(sentence)] == sentence:
                taken[at : at + len(sentence)] = [True] * len(sentence)
    found, at = [], 0
    for line in lines:
        own = line.split()
        marks = taken[at : at + len(own)]
        if any(marks):
            kept = " ".join("" if mark else word for word, mark in zip(own, marks, strict=True))
            found += [piece.strip() for piece in kept.split("  ") if piece.strip()]
        elif line not in sentences:
            found.append(line)
        at += len(own)
    return found


def test_as_the_slow_way_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_BLOCK", 16)  # texts of some words are searched in many parts
    chance = random.Random(0)
    for _ in range(500):
        letters = "abcdefghijkl"[: chance.choice((2, 4, 12))]
        sentences = {" ".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(chance.randint(1, 6))}
        words: list[str] = []
        for _ in range(chance.randint(0, 30)):
            words += chance.choice(sorted(sentences)).split() if chance.random() < 0.3 else chance.choices(letters, k=4)
        lines = []
        while words:
            many = chance.choice((1, 3, 8, 30))
            lines.append(" ".join(words[:many]))
            words = words[many:]
        assert list(LeakageFilter(sentences).filter(lines)) == slow(sentences, lines)


def endless(lines: int) -> Iterator[str]:
    chance = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    for _ in range(lines):
        yield " ".join(chance.choices(words, k=10))


def test_neither_memory_nor_time_grow_with_what_there_is() -> None:
    few, many = (LeakageFilter(endless(size)) for size in (10, 5000))
    peaks, times = [], []
    for lines in (2_000, 20_000):
        tracemalloc.start()
        assert sum(1 for _ in few.filter(endless(lines))) == lines - 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 10e6
    text = list(endless(25_000))[5000:]
    for apart in (few, many):
        start = time.process_time()
        assert len(list(apart.filter(text))) == len(text)
        times.append(time.process_time() - start)
    assert times[1] < 5 * times[0]
