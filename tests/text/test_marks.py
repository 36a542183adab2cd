"""Transcribers' marks: found, taken out where nobody says them, and not seen where a text has none."""

from __future__ import annotations

import pytest

from lalia.text.marks import MARKS, find_marks, spoken_symbols, strip_marks, truncated_words

WRITTEN = {
    "[laughter] good morning": ("good morning", ["event"]),
    "so %um well then": ("so um well then", ["word"]),
    "<noise> thank you": ("thank you", ["event"]),
    "((unclear)) maybe": ("maybe", ["unclear"]),
    "((lacht)) ja (1.5) gut °hh": ("ja gut", ["event", "event", "code"]),
    "<<lachend> das ist so>": ("das ist so", ["code"]),
    "*EXP: how are you": ("how are you", ["code"]),
    "%com: he laughs": ("", ["code"]),
    "xxx and then (xxx xxx)": ("and then", ["unclear", "unclear"]),
    "&=laughs well &-uh [= a note] no": ("well uh no", ["event", "code", "word"]),
    "<I want> [//] I need": ("I want [//] I need", ["code"]),
    "{breath} [background noise] [noise/] a [/noise]": ("a", ["event"] * 4),
    "[laughter-yes] ok": ("yes ok", ["event"]),
    '<i>Hello</i> <font color="red">you</font>': ("Hello you", ["code"] * 4),
    "<foreign lang='Spanish'>hola</foreign> there": ("hola there", ["code", "code"]),
    "[смех] да": ("да", ["event"]),
    "(applause) thank you": ("thank you", ["event"]),
    "[ja] genau ((guess word)) {x} <y>": ("[ja] genau ((guess word)) {x} <y>", ["unsure"] * 4),
    "JOHN: hello": ("JOHN: hello", ["unsure"]),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_marks_are_found_and_taken_out(text: str) -> None:
    left, kinds = WRITTEN[text]
    assert strip_marks(text) == left
    assert [mark.kind for mark, _ in find_marks(text)] == kinds
    assert strip_marks(left) == left


@pytest.mark.parametrize(
    "text",
    ["it rained 5 % more", "im Jahr (1984) war", "(2) the second", "a < b and c > d", "open the (door)", "xxxl", "3 + 4 = 7",
     "R&D", "he said: yes", "naïve café – well-known", "ǃxóõ", "l'ora", "a/b", "www", "*", "%", "[12]", "don't"],
)  # fmt: skip
def test_ordinary_text_has_none(text: str) -> None:
    assert find_marks(text) == []
    assert strip_marks(text) == text


def test_every_mark_names_its_convention() -> None:
    assert all(mark.source for mark in MARKS)
    named = " ".join(mark.source for mark in MARKS)
    assert all(name in named for name in ("CHAT", "LDC", "GAT", "ELAN", "Switchboard", "WebVTT"))


def test_words_that_break_off_and_signs_that_are_said() -> None:
    assert list(truncated_words("good mor- morning, th[at]- that")) == ["mor-", "th[at]-"]
    assert list(truncated_words("Vor- und Nachname, well-known, 5-6")) == []
    assert spoken_symbols("it rained 5 % more for 3 €") == ["%", "€"]
    assert spoken_symbols("%um well") == []
