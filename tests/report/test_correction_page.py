"""The page to listen and correct: marked words, several pages, and the keyboard in a real browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from lalia.align.pieces import Correction, Piece, Status, read_corrections
from lalia.errors import AudioError
from lalia.report import correction_page
from lalia.report.correction_page import DoubtfulClip, mark_words, read_part, write_doubtful, write_pages
from lalia.report.page import Page
from lalia.text.normaliser import Normaliser, settings_for
from tests.browser import BROWSER, opened
from tests.report.test_pages import check_page, tone

ITALIAN = Normaliser(settings_for("ita"))
COMMAND = "lalia align runs/it book --out data/book --corrections corrections.tsv"


def clip(number: int, text: str = "Uno, due!", heard: str = "uno tre", seconds: float = 0.5) -> DoubtfulClip:
    return DoubtfulClip(
        f"book#{number}", text, heard, "half of its words are expected to be wrong", lambda: tone(seconds)
    )


def test_words_are_compared_as_the_normaliser_writes_them_and_shown_as_they_are() -> None:
    text, heard = mark_words("Sì – ha 15 <cani>, Anna!", "si ha quindici anna anna qui", ITALIAN)
    assert text == '<mark class="other">Sì</mark> – ha 15 <mark class="other">&lt;cani&gt;,</mark> Anna!'
    assert heard == (
        '<mark class="other">si</mark> ha quindici <mark class="other">anna</mark> anna <mark class="extra">qui</mark>'
    )


def test_characters_are_compared_where_nothing_separates_words() -> None:
    text, heard = mark_words("私は学生です", "私学生です", Normaliser(settings_for("jpn")))
    assert text == '私<mark class="gone">は</mark>学生です' and heard == "私学生です"


def test_an_empty_side_is_named() -> None:
    text, heard = mark_words("uno", "", ITALIAN)
    assert text == '<mark class="gone">uno</mark>' and "nothing" in heard


def test_many_clips_fill_several_pages_and_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction_page, "PAGE_BYTES", 25_000)
    monkeypatch.setattr(correction_page, "MOST_PAGES", 2)

    def damaged() -> np.ndarray:
        raise AudioError("book.mp3: is damaged")

    clips = [DoubtfulClip("book#0", "uno", "", "why", damaged), *(clip(n) for n in range(1, 20))]
    first, second = write_pages(tmp_path / "doubtful.html", "book", clips, ITALIAN, COMMAND)
    assert (first.name, second.name) == ("doubtful.html", "doubtful-2.html")
    html, last = first.read_text(), second.read_text()
    for text in (html, last):
        check_page(text)
        assert len(text) < 30_000 + len(Page("", "", assets=correction_page.ASSETS).html())
    assert "book.mp3: is damaged" in html and "book, page 1" in html and "book, page 2" in last and COMMAND in html
    shown = html.count("<article") + last.count("<article")
    assert f"{20 - shown} more doubtful clips" in last and "more doubtful" not in html

    assert write_pages(first, "book", clips[:1], ITALIAN, COMMAND) == [first]
    assert not second.exists()
    assert write_pages(first, "book", [], ITALIAN, COMMAND) == []
    assert not first.exists()


def test_a_part_of_a_recording(tmp_path: Path) -> None:
    import soundfile

    wave = np.linspace(-0.5, 0.5, 5 * 16_000, dtype=np.float32)
    soundfile.write(tmp_path / "book.flac", wave, 16_000)
    assert np.allclose(read_part(tmp_path / "book.flac", 1.25, 3.5), wave[20_000:56_000], atol=1e-4)
    with pytest.raises(AudioError, match="ends before"):
        read_part(tmp_path / "book.flac", 20.0, 22.0)

    def piece(name: str, status: Status, reason: str, score: float) -> Piece:
        place = (1.0, 3.5, "uno due", "uno", "book", "Chapter 1", "", "", str(tmp_path / "book.flac"))
        return Piece(name, status, reason, score, 0.4, 0.0, *place)

    pieces = [
        piece("a", "doubtful", "ends", 0.05), piece("b", "accepted", "", 0.0), piece("c", "doubtful", "score", 0.45),
        piece("d", "refused", "score", 0.9),
    ]  # fmt: skip
    (path,) = write_doubtful(tmp_path, pieces, "ita", "book", COMMAND)
    html = path.read_text()
    assert path.name == "doubtful.html" and html.count("<article") == 2 and html.index('"c"') < html.index('"a"')
    assert "45" in html and "0:01 to 0:04 of book, Chapter 1" in html


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_listener_decides_by_keyboard_and_downloads_the_table(tmp_path: Path) -> None:
    clips = [clip(0, seconds=3.0), clip(1, "<b>due</b> tre"), clip(2), clip(3, "", "quattro"), clip(4)]
    (path,) = write_pages(tmp_path / "doubtful.html", "book", clips, ITALIAN, COMMAND)
    with opened(path.as_uri(), tmp_path) as page:
        current = "document.querySelector('.current').dataset.piece"
        status = "document.getElementById('progress').textContent"
        assert page.value(status) == "0 of 5 decided"
        page.press(" ")
        page.wait("document.querySelector('.current .player').classList.contains('playing')")
        page.press(" ")
        page.wait("!document.querySelector('.playing')")
        page.press("a")
        assert page.value(current) == "book#1"
        page.wait("document.querySelector('.current .player').classList.contains('playing')")
        page.press("c", "Escape")
        assert page.value(status) == "1 of 5 decided: 1 accepted"
        page.press("c")
        page.value("document.activeElement.value = 'due\\ttre  e quattro'")
        page.press("Enter")
        assert (
            page.value("document.querySelectorAll('.doubt')[1].querySelector('.text').textContent")
            == "due tre e quattro"
        )
        page.press("r")
        page.press("a")  # nothing: it has no text to accept
        assert page.value(current) == "book#3"
        page.press("j", "r", "u", "k")
        assert page.value(current) == "book#3"
        page.call("Page.reload")  # the decisions stay
        page.wait(f"document.readyState === 'complete' && {status} !== '0 of 5 decided'")
        assert page.value(status) == "3 of 5 decided: 1 accepted, 1 corrected, 1 refused"
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.value("document.getElementById('download').click()")
        table, end = tmp_path / "corrections.tsv", time.monotonic() + 30
        while not table.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert read_corrections(table) == [
            Correction("book#0", "accept", "Uno, due!"),
            Correction("book#1", "correct", "due tre e quattro"),
            Correction("book#2", "refuse", "Uno, due!"),
        ]
        # No other script runs, and nothing is fetched.
        page.value(
            f"document.body.insertAdjacentHTML('beforeend', {json.dumps('<img src=x onerror=document.title=1>')})"
        )
        assert not [line for line in page.said if "Security Policy" not in line]
        assert page.value("document.title") == "book · corrections"
