"""Subtitles: valid SubRip and WebVTT that a person can read along."""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise

import pytest

from lalia.decoding.greedy import Word
from lalia.errors import UserError
from lalia.runtime.transcript import FORMATS, Transcript, make_cues, render
from lalia.text.writing_system import writing_system


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


def test_a_word_longer_than_a_line_is_broken_between_letters() -> None:
    cues = make_cues([Word("x" * 80, 0, 4, 1), Word("y", 4, 4.1, 1)])
    assert [cue.lines for cue in cues] == [("x" * 42, "x" * 38 + " y")]
    marked = make_cues([Word("é" * 50, 0, 2, 1)])
    assert marked[0].lines == ("é" * 42, "é" * 8)


def test_ideographs_have_no_spaces_and_count_double() -> None:
    cues = make_cues([Word("字", i * 0.05, i * 0.05 + 0.04, 1.0, joined=True) for i in range(60)])
    assert cues[0].lines == ("字" * 21, "字" * 21)


SENTENCES = {  # each says roughly "the weather is good today, we go to the market": as words, syllables or clusters
    "tha": ["วันนี้อากาศดีมากเราจะไปตลาดกัน"],
    "bod": ["དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག་ང་ཚོ་ཁྲོམ་ལ་འགྲོ་གི་ཡིན"],
    "cmn": ["今天天气很好我们去市场"],
    "jpn": ["今日はとても天気がいいのでちょっと市場に行ってきます"],
    "kor": ["오늘은", "날씨가", "아주", "좋아서", "우리는", "시장에", "갑니다"],
    "khm": ["ថ្ងៃនេះអាកាសធាតុល្អយើងទៅផ្សារ"],
    "mya": ["ဒီနေ့ရာသီဥတုကောင်းတယ်ဈေးကိုသွားမယ်"],
    "hin": ["आज", "मौसम", "बहुत", "अच्छा", "है", "हम", "बाज़ार", "जाएँगे"],
    "arb": ["الطَّقْسُ", "جَمِيلٌ", "الْيَوْمَ", "سَنَذْهَبُ", "إِلَى", "السُّوقِ"],
    "amh": ["ዛሬ", "የአየር", "ሁኔታው", "ጥሩ", "ነው", "ወደ", "ገበያ", "እንሄዳለን"],
    "deu": ["heute", "ist", "das", "Wetter", "schön", "wir", "gehen", "auf", "den", "Markt"],
}


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("step_s", [0.0, 0.01, 0.12, 0.5])
def test_the_rules_hold_in_every_script(language: str, step_s: float) -> None:
    writing = writing_system(language)
    written = [piece for word in SENTENCES[language] for piece in writing.cut(word)] * 8
    spaces = [not writing.space_between(before[-1], after[0]) for before, after in pairwise(["a", *written])]
    words = [Word(text, i * step_s, (i + 0.9) * step_s, 1.0, joined=spaces[i]) for i, text in enumerate(written)]
    cues = make_cues(words)
    assert "".join("".join(c.lines) for c in cues).replace(" ", "") == "".join(written)
    for cue, following in pairwise(cues):
        assert cue.end_s == following.start_s or following.start_s - cue.end_s >= 0.25
    for cue in cues:
        assert 0.25 <= round(cue.end_s - cue.start_s, 3) <= 6
        assert len(cue.lines) <= 2 and all(width(line) <= 42 for line in cue.lines)
        assert not any(unicodedata.category(line[0]).startswith("M") for line in cue.lines)
    assert width("".join(cues[-1].lines)) / (cues[-1].end_s - cues[-1].start_s) <= 17.01


def width(text: str) -> int:
    """Columns of a line, counted in another way than the code's: by wcwidth's rules."""
    zero = ("Mn", "Me", "Cf")
    return sum((unicodedata.category(c) not in zero) * (1 + (unicodedata.east_asian_width(c) in "WF")) for c in text)


def test_lines_break_at_marks_and_pauses() -> None:
    said = [
        "Guten",
        "Tag.",
        "Wir",
        "haben",
        "heute",
        "lange",
        "gewartet,",
        "aber",
        "niemand",
        "kam",
        "aus",
        "der",
        "Stadt",
        "zu",
        "uns",
        "zurück",
    ]
    cues = make_cues([Word(text, i * 0.3, i * 0.3 + 0.3, 1.0) for i, text in enumerate(said)])
    assert cues[0].lines == ("Guten Tag. Wir haben heute lange gewartet,",)
    assert cues[1].lines == ("aber niemand kam aus", "der Stadt zu uns zurück")
    words = [
        Word("字", i * 0.1 + 0.5 * (i >= 30), i * 0.1 + 0.5 * (i >= 30) + 0.1, 1.0, joined=True) for i in range(50)
    ]
    assert [sum(map(len, cue.lines)) for cue in make_cues(words)] == [30, 20]


def test_no_line_begins_with_a_small_kana_or_a_closing_mark() -> None:
    for text in ("あ" * 14 + "きょ" + "あ" * 14, "あ" * 15 + "。" + "あ" * 14):
        words = [Word(letter, i * 0.1, i * 0.1 + 0.1, 1.0, joined=True) for i, letter in enumerate(text)]
        (cue,) = make_cues(words)
        assert "".join(cue.lines) == text and cue.lines[1][0] in "あき"


def test_a_word_that_lasts_too_long_is_shown_for_six_seconds() -> None:
    cues = make_cues([Word("eh", 0, 30, 1), Word("bene", 30.1, 30.1, 1)])
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(0, 6), (30.1, 31.1)]
    cues = make_cues([Word("eh", 0, 6.1, 1), Word("bene", 6.2, 6.4, 1)])
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(0, 6), (6, 7)]


def test_a_cue_stays_until_it_is_read() -> None:
    fast = [Word("quarantadue", 0.1 * i, 0.1 * i + 0.1, 1) for i in range(4)]
    assert make_cues(fast)[0].end_s == pytest.approx(47 / 17, abs=0.1)
    cues = make_cues([*fast, Word("poi", 1.5, 1.7, 1)])
    assert cues[0].end_s == 1.5


def test_the_number_of_a_channel_counts_in_its_line() -> None:
    words = [Word("parola", 0.4 * i, 0.4 * i + 0.3, 1, channel=1) for i in range(30)]
    rendered = render(Transcript("", words), "srt").split("\n")
    assert max(map(len, rendered)) <= 42


def test_clock_rounds_up_into_the_next_second() -> None:
    assert re.search(r"--> 00:01:00,000", render(Transcript("", [Word("a", 59, 59.9996, 1)]), "srt"))


def test_formats() -> None:
    assert FORMATS == ("txt", "json", "srt", "vtt")
    with pytest.raises(UserError, match="'doc' is unknown"):
        render(Transcript(""), "doc")
