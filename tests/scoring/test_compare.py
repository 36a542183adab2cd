"""Ways of decoding side by side: figures that are those of each result alone, and a verdict that chance does not make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lalia.decoding.decoder import make_decoder
from lalia.runtime.student import Student
from lalia.scoring.compare import (
    Comparison,
    DecodingResult,
    compare,
    compare_versions,
    table,
    verdict,
    wer_reduction,
)
from lalia.scoring.rates import ErrorCounts, score, word_errors
from tests.tiny_student import make_student, sing

SAID = ["bad cab", "dad", "ace bed"]


class Tunes:
    """Clips in which every sentence is sung, but the first is labelled with a word that nobody sings."""

    def text(self, row: int) -> str:
        return ["bad dab", *SAID[1:]][row]

    def id(self, row: int) -> str:
        return str(row)

    def language(self, row: int) -> str:
        return "ita"

    def wave(self, row: int) -> np.ndarray:
        return sing(SAID[row])


def result(name: str, references: list[str], heard: list[str], took_s: float) -> DecodingResult:
    words = tuple(word_errors(*pair) for pair in zip(references, heard, strict=True))
    return DecodingResult(name, score(references, heard), words, took_s)


def test_each_way_has_its_own_figures(tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "student"), 1)
    decoders = {"greedy": None, "closed list": make_decoder(student, only=["bad dab", "dad", "ace bed"])}
    found = compare(student, Tunes(), range(3), decoders)
    first, second = found.results
    assert first.score.wer == ErrorCounts(1, 0, 0, 5) and [c.errors for c in first.words] == [1, 0, 0]
    assert second.score.clips == 3
    assert found.audio_s == pytest.approx(sum(len(sing(text)) for text in SAID) / 16_000, rel=0.02)
    told = found.as_dict()
    assert told["ways"][0]["wer"] == pytest.approx(0.2) and told["ways"][0]["seconds_per_hour"] >= 0
    assert "3 clips" in table(found) and "closed list" in table(found)


def test_what_a_way_spares_is_paired_by_clip() -> None:
    references = ["a b c d"] * 40
    worse, better = ["a b c x"] * 40, ["a b c d"] * 38 + ["a b c x"] * 2
    gain, (low, high) = wer_reduction(result("1", references, worse, 1.0), result("2", references, better, 2.0))
    assert gain == pytest.approx(0.25 * 38 / 40) and 0 < low < gain < high


def test_the_verdict_tells_chance_from_gain() -> None:
    references = ["a b c d"] * 40
    plain = result("plain", references, ["a b c x"] * 40, 1.0)
    better = result("better", references, ["a b c d"] * 38 + ["a b c x"] * 2, 3.0)
    same = result("same", references, ["a b c d"] * 37 + ["a b c x"] * 3, 9.0)
    first, second = verdict(Comparison((plain, better, same), 3600.0, 1.0))
    assert first.endswith("for 2.0 s more per hour of speech: significant")
    assert second.endswith("for 6.0 s more per hour of speech: not significant on these clips")


def test_a_version_that_is_significantly_worse(tmp_path: Path) -> None:
    clips, good = Tunes(), Student.load(make_student(tmp_path / "good"))
    deaf = Student.load(make_student(tmp_path / "deaf", symbols=("<blank>", "|", "b", "a", "d", "e", "c")))
    report, worse = compare_versions(good, good, clips, [0, 1, 2])
    assert not worse and report == "WER 20.0 % before, 20.0 % now, 3 clips: not significantly worse"
    assert compare_versions(good, deaf, clips, [0, 1, 2])[1] and not compare_versions(deaf, good, clips, [0, 1, 2])[1]
