"""Texts as words: what is a heading, a verse number, a footnote or a speaker, and what becomes of it."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lalia.align.written import TextOptions, Word, join_text, read_words
from lalia.errors import UserError

SAID = TextOptions("said", "said", "said", "said")
KEPT = TextOptions("kept", "kept", "kept", "kept")
DROPPED = TextOptions("dropped", "dropped", "dropped", "dropped")


def words_of(path: Path, text: str, options: TextOptions = DROPPED) -> list[Word]:
    path.write_text(text, encoding="utf-8")
    return read_words(path, options)


def spoken(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def test_lines_are_sentences_and_sentences_end_at_their_marks(tmp_path: Path) -> None:
    words = words_of(tmp_path / "a.txt", "Good morning. He said: “no!”\nand went\n")
    assert [word.text for word in words if word.ends] == ["morning.", "“no!”", "went"]


PLAIN = """\
Chapter 1

ANNA: Where is it?
BEN: Over there[1], I think.
ANNA: No.

1 In the beginning it was dark.
2 Then there was light.
3 It was good.

[1] Behind the house.
"""


def test_marks_of_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    dropped = words_of(path, PLAIN)
    body = "Where is it? Over there , I think. No. In the beginning it was dark. Then there was light. It was good."
    assert spoken(dropped).replace(" ,", ",") == body.replace(" ,", ",")
    assert {word.chapter for word in dropped} == {"Chapter 1"}
    assert spoken(words_of(path, PLAIN, replace(DROPPED, headings="said"))).startswith("Chapter 1 Where")
    assert "3 It" in spoken(words_of(path, PLAIN, replace(DROPPED, verses="said")))
    assert spoken(words_of(path, PLAIN, replace(DROPPED, notes="said"))).endswith("[1] Behind the house.")
    assert spoken(words_of(path, PLAIN, replace(DROPPED, speakers="said"))).startswith("ANNA: Where")


def test_a_speaker_is_kept_beside_the_words(tmp_path: Path) -> None:
    words = words_of(tmp_path / "a.txt", PLAIN, replace(DROPPED, speakers="kept"))
    assert [word.speaker for word in words[:4]] == ["ANNA"] * 3 + ["BEN"]
    assert {word.speaker for word in words_of(tmp_path / "a.txt", PLAIN)} == {""}


def test_kept_marks_stay_in_the_text_and_are_not_spoken(tmp_path: Path) -> None:
    words = words_of(tmp_path / "a.txt", "1 In.\n2 Then.\n3 It.\n", replace(DROPPED, verses="kept"))
    assert spoken(words) == "In. Then. It."
    assert join_text(words, spaced=True) == "1 In. 2 Then. 3 It."


def test_numbers_that_do_not_count_up_are_words(tmp_path: Path) -> None:
    text = "12 men came.\n3 women left.\n40 children stayed.\n"
    assert spoken(words_of(tmp_path / "a.txt", text)) == " ".join(text.split())


def test_usfm(tmp_path: Path) -> None:
    text = (
        "\\id GEN\n\\c 1\n\\s The beginning\n\\p\n"
        "\\v 1 In the beginning\\f + \\ft Or: at first\\f* it was dark.\n\\v 2 Then light.\n"
    )
    assert spoken(words_of(tmp_path / "a.usfm", text)) == "In the beginning it was dark. Then light."
    assert "Or: at first" in spoken(words_of(tmp_path / "a.usfm", text, SAID))
    assert {word.chapter for word in words_of(tmp_path / "a.usfm", text)} == {"The beginning"}


def test_subtitles_have_times_and_no_sounds(tmp_path: Path) -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:02,000\n[door] - Come in.\n- <i>Thanks.</i>\n\n"
        "2\n00:01:00,500 --> 00:01:02,000\n♪ la la ♪\n\n"
    )
    words = words_of(tmp_path / "a.srt", text)
    assert [(word.text, word.at_s) for word in words] == [("Come", 1.0), ("in.", 1.0), ("Thanks.", 1.0)]


HTML = """<!DOCTYPE html><html><head><title>x</title><style>p {}</style></head><body><nav>menu</nav>
<h2>One</h2><p>Some <b>bold</b> text<sup>12</sup> here.<a class="footnote-ref" href="#n">a</a></p>
<aside epub:type="footnote">A note.</aside><script>no()</script><p>End</p></body></html>"""


def test_html(tmp_path: Path) -> None:
    words = words_of(tmp_path / "a.html", HTML)
    assert spoken(words) == "Some bold text here. End"
    assert words[0].chapter == "One"
    assert spoken(words_of(tmp_path / "a.html", HTML, SAID)) == "One Some bold text 12 here.a A note. End".replace(
        "here.a", "here. a"
    )


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("META-INF/container.xml", '<c><rootfiles><rootfile full-path="o/b.opf"/></rootfiles></c>')
        book.writestr(
            "o/b.opf",
            '<package xmlns="p"><manifest><item id="a" href="2.xhtml"/><item id="b" href="1.xhtml"/></manifest>'
            '<spine><itemref idref="b"/><itemref idref="a"/></spine></package>',
        )
        book.writestr("o/1.xhtml", "<html><body><p>First page.</p></body></html>")
        book.writestr("o/2.xhtml", "<html><body><p>Second page.</p></body></html>")
    assert spoken(read_words(path, DROPPED)) == "First page. Second page."


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"part{number}.txt").write_text(f"Text {number}.\n")
    words = read_words(tmp_path, DROPPED)
    assert spoken(words) == "Text 1. Text 9. Text 10."
    assert [word.chapter for word in words[::2]] == ["part1", "part9", "part10"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "has no words"),
        ("a.epub", b"no zip", "cannot be read as EPUB"),
        ("a.srt", b"nothing", "cannot be read as subtitles|has no words"),
    ],
)
def test_texts_without_words_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_words(tmp_path / name, DROPPED)
