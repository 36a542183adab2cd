"""Subtitles: valid SubRip and WebVTT that a person can read along."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from lalia.decoding.greedy import Word
from lalia.errors import UserError
from lalia.runtime.transcript import FORMATS, Transcript, make_cues, render


def talk(count: int, step_s: float = 0.4, text: str = "parola") -> list[Word]:
    return [Word(f"{text}{i}", i * step_s, i * step_s + step_s * 0.8, 0.91) for i in range(count)]


def test_text_and_json() -> None:
    transcript = Transcript("ciao mondo", [Word("ciao", 0.1, 0.5, 0.98765), Word("mondo", 0.6, 1.0, 0.5)], 1.25)
    assert render(transcript, "txt") == "ciao mondo\n"
    found = json.loads(render(transcript, "json", "a.wav"))
    assert found["audio"] == "a.wav" and found["text"] == "ciao mondo" and found["duration_s"] == 1.25
    assert found["words"][0] == {"text": "ciao", "start_s": 0.1, "end_s": 0.5, "confidence": 0.988}
    assert render(transcript, "json").count("\n") == 1


def test_srt_and_vtt() -> None:
    words = [Word("a<b&c", 3661.0, 3661.9, 1.0), Word("end", 3662.0, 3662.25, 1.0)]
    assert render(Transcript("", words), "srt") == "1\n01:01:01,000 --> 01:01:02,250\na<b&c end\n\n"
    assert render(Transcript("", words), "vtt") == ("WEBVTT\n\n01:01:01.000 --> 01:01:02.250\na&lt;b&amp;c end\n\n")


def test_no_words_is_still_a_file() -> None:
    assert [render(Transcript(""), f) for f in ("txt", "srt", "vtt")] == ["\n", "", "WEBVTT\n\n"]


def test_cues_are_short_and_in_order() -> None:
    cues = make_cues(talk(200))
    assert " ".join(" ".join(c.lines) for c in cues) == " ".join(w.text for w in talk(200))
    for cue, following in pairwise(cues):
        assert cue.end_s <= following.start_s
    for cue in cues:
        assert len(cue.lines) <= 2 and all(len(line) <= 42 for line in cue.lines)
        assert 0 < cue.end_s - cue.start_s <= 6.5


def test_pauses_break() -> None:
    cues = make_cues([Word("one", 0, 0.2, 1), Word("two", 0.3, 0.5, 1), Word("three", 3.0, 3.1, 1)])
    assert [c.lines for c in cues] == [("one two",), ("three",)]
    assert cues[0].end_s == 1.0 and cues[1].end_s == 4.0


def test_a_word_longer_than_a_line_stays_whole() -> None:
    assert make_cues([Word("x" * 80, 0, 9, 1), Word("y", 9, 9.1, 1)])[0].lines == ("x" * 80,)


def test_ideographs_have_no_spaces_and_count_double() -> None:
    cues = make_cues([Word("字", i * 0.05, i * 0.05 + 0.04, 1.0) for i in range(60)])
    assert cues[0].lines == ("字" * 21, "字" * 21)


def test_clock_rounds_up_into_the_next_second() -> None:
    assert re.search(r"--> 00:01:00,000", render(Transcript("", [Word("a", 50, 59.9996, 1)]), "srt"))


def test_formats() -> None:
    assert FORMATS == ("txt", "json", "srt", "vtt")
    with pytest.raises(UserError, match="'doc' is unknown"):
        render(Transcript(""), "doc")
