"""The page in a real browser without a window: files, a fake microphone, corrections, saving, token; no policy is broken."""

from __future__ import annotations

import io
import json
import wave
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalia.text.normaliser import settings_for
from tests.browser import BROWSER, Page, opened
from tests.runtime.test_stream import make_student
from tests.serve.test_application import Running, served, wait_for
from tests.tiny_student import make_student as make_tones
from tests.tiny_student import seal, sing

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
WORDS = "[...document.querySelectorAll('#text .word')].map(word => word.textContent).join(' ')"


def write_wav(path: Path, *channels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.rint(np.stack(channels, axis=1) * 32_767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An offline student that writes tunes as known words."""
    folder = tmp_path_factory.mktemp("tones")
    with served(folder, student=make_tones(folder / "tones", language=["ita"], window_s=2.0)) as running:
        yield running


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A streaming student of two languages, behind a token."""
    folder = tmp_path_factory.mktemp("streams")
    student = make_student(folder / "student")
    replace(settings_for("deu"), languages={"tur": settings_for("tur")}).to_json(student / "normaliser.json")
    seal(student, language=["deu", "tur"], streaming=json.loads((student / "card.json").read_text())["streaming"])
    with served(folder, "--language", "deu", student=student, LALIA_TOKEN="s3cret") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser whose microphone hears a tune again and again."""
    folder = tmp_path_factory.mktemp("browser")
    heard = write_wav(folder / "heard.wav", sing("bad cab ace dab"))
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
    )
    with opened("data:text/html,", folder, *flags) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "saved"))
        yield page


@pytest.fixture
def visit(browser: Page):
    """Opens a server's page in the browser; nothing may break its policy or raise."""

    def go(server: Running, width: int = 1280) -> Page:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        browser.call("Page.navigate", url=server.url("/"))
        browser.wait("document.readyState === 'complete' && typeof health === 'object' && health.model")
        browser.value("localStorage.clear()")
        browser.said.clear()
        return browser

    yield go
    assert not browser.said
    browser.value("talk = null; items.forEach(item => { item.unsaved = false; })")  # so that it may be left


def choose(page: Page, *paths: Path, id: str = "file") -> None:
    found = page.call("Runtime.evaluate", expression=f"document.getElementById('{id}')")
    page.call("DOM.setFileInputFiles", files=list(map(str, paths)), objectId=found["result"]["objectId"])


def text(page: Page, id: str) -> str:
    return page.value(f"document.getElementById('{id}').textContent")


def click(page: Page, id: str) -> None:
    page.value(f"document.getElementById('{id}').click()")


def test_a_file_is_transcribed_corrected_by_keyboard_and_saved(tones: Running, visit, tmp_path: Path) -> None:
    page = visit(tones)
    assert page.value("document.getElementById('model-row').hidden && document.getElementById('language-row').hidden")
    choose(page, write_wav(tmp_path / "talk.wav", sing("bad cab ace dab")))
    page.wait("items[0]?.state === 'done'")
    assert page.value(WORDS) == "bad cab ace dab" and text(page, "title") == "talk.wav"
    assert text(page, "about").startswith("4 words · 0:0") and "real time" in text(page, "about")
    assert "4 words" in text(page, "status")

    page.value("document.querySelector('.word').focus()")
    page.press("ArrowRight")
    assert page.value("document.activeElement.textContent") == "cab"
    assert "% sure" in text(page, "inspected")
    page.press("Enter", *"go on", "Tab", "Escape")
    assert page.value(WORDS) == "bad go on ace dab" and page.value("document.activeElement.textContent") == "ace"
    assert page.value("document.querySelectorAll('.word.corrected').length") == 2
    assert text(page, "status") == "“cab” is now “go on”"
    assert page.value("spans.every((one, i) => one.index === i && one.textContent === shown.words[i].text)")
    page.value("edit(4); document.activeElement.value = ''")
    page.press("Enter")  # an empty correction removes the word
    assert page.value("document.querySelector('#text article p').textContent") == "bad go on ace"
    click(page, "undo")
    first, second = page.value("shown.words.slice(1, 3)")
    assert first["end_s"] == second["start_s"] and first["was"] == "cab"

    page.value("""navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }""")
    click(page, "copy")
    page.wait("window.copied === 'bad go on ace dab'")
    page.value("download = (name, blob) => { window.saved = { name, blob }; }")
    for format, inside in (("srt", "-->"), ("vtt", "WEBVTT"), ("txt", "bad go on ace dab\n"), ("json", '"duration_s"')):
        page.value(f"window.saved = null; document.querySelector('[data-save={format}]').click()")
        page.wait("window.saved")
        found = page.value("window.saved.blob.text()")
        assert page.value("window.saved.name") == f"talk.{format}" and inside in found and "bad go on ace dab" in found
    click(page, "undo")
    assert page.value(WORDS) == "bad cab ace dab" and page.value("document.getElementById('undo').hidden")
    page.value("window.first = items[0].words; confirm = () => true; document.getElementById('retry').click()")
    page.wait("items[0].state === 'done' && items[0].words !== window.first && !items[0].unsaved")
    assert page.value(WORDS) == "bad cab ace dab"

    page.value("document.getElementById('audio').playbackRate = 0.2; document.querySelectorAll('.word')[2].click()")
    page.wait("!document.getElementById('audio').paused && document.querySelectorAll('.word')[2].matches('.now')")
    assert abs(page.value("document.getElementById('audio').currentTime") - page.value("shown.words[2].start_s")) < 2
    page.value("document.getElementById('audio').pause()")


def test_a_folder_is_a_queue_and_errors_say_what_to_do(tones: Running, visit, tmp_path: Path) -> None:
    page = visit(tones, width=390)
    folder = tmp_path / "talks"
    write_wav(folder / "a.wav", sing("ace"))
    write_wav(folder / "sub" / "a.wav", sing("bad"), sing("cab"))
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.wav").write_text("<html>hello</html>")
    page.value("document.getElementById('who').value = 'channels'")
    choose(page, folder, id="folder")
    page.wait("items.length === 3 && items.every(item => ['done', 'failed'].includes(item.state))")
    assert "1 file without sound skipped, such as notes.txt" in text(page, "error-text")
    found = page.value("items.map(item => [item.name, item.state, item.about, item.words.map(word => word.text)])")
    assert [item[:2] for item in found] == [
        ["talks/a.wav", "done"],
        ["talks/broken.wav", "failed"],
        ["talks/sub/a.wav", "done"],
    ]
    assert (
        found[1][2]
        == "This is not a supported audio file. Choose another file, or convert it to WAV, FLAC or MP3 first."
    )
    assert found[0][3] == ["ace"] and sorted(found[2][3]) == ["bad", "cab"]
    page.value("document.querySelector('#queue li.failed .name').click()")
    assert not page.value("document.getElementById('retry').hidden")
    click(page, "retry")
    page.wait("items[1].state === 'failed'")
    page.value("document.querySelectorAll('#queue .name')[2].click()")
    assert page.value("[...document.querySelectorAll('.speaker')].map(one => one.textContent)") == [
        "Channel 1",
        "Channel 2",
    ]
    page.value("document.querySelector('.speaker').click()")
    page.press(*"Ada", "Enter")
    assert page.value("document.querySelector('.speaker').textContent") == "Ada"
    page.value("download = async (name, blob) => { window.zip = [...new Uint8Array(await blob.arrayBuffer())]; }")
    page.value("document.querySelector('[data-all=txt]').click()")
    page.wait("window.zip")
    with zipfile.ZipFile(io.BytesIO(bytes(page.value("window.zip")))) as saved:
        assert saved.testzip() is None and saved.namelist() == ["talks/a.txt", "talks/sub/a.txt"]
        assert saved.read("talks/sub/a.txt").decode() == "Ada: bad\n2: cab\n"
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    page.value("document.querySelector('#queue .remove').click()")
    assert page.value("items.length") == 2


def test_a_student_that_cannot_stream_transcribes_what_was_recorded(tones: Running, visit) -> None:
    page = visit(tones)
    page.value("document.getElementById('hot').value = 'cab, dab'")
    click(page, "speak")
    page.wait("document.getElementById('timer').textContent >= '0:03'")
    assert int(page.value("document.getElementById('levels').getAttribute('aria-valuenow')")) > 0
    click(page, "stop")
    page.wait("items[0]?.state === 'done'")
    assert len(page.value(WORDS)) > 2  # a busy machine drops samples, so not these words
    page.wait("document.getElementById('audio').duration > 2 && items[0].peaks")
    assert page.value("document.getElementById('recording').hidden")


def test_the_token_and_live_words(streams: Running, visit) -> None:
    page = visit(streams)
    page.wait("!document.getElementById('token-form').hidden")
    for token, done in (("wrong", "label.textContent.includes('Try again')"), ("s3cret", "hidden")):
        page.value("document.getElementById('token').focus()")
        page.press(*token, "Enter")
        page.wait(f"(form => {{ const label = form.querySelector('label'), hidden = form.hidden; return {done}; }})"
                  "(document.getElementById('token-form'))")  # fmt: skip
    page.wait("models.length")
    assert page.value("document.getElementById('language').innerText").splitlines() == [
        "any language",
        "German",
        "Turkish",
    ]
    page.value("document.getElementById('language').value = 'tur'")
    page.value("""{ const Real = WebSocket; window.sockets = [];
                    WebSocket = class extends Real { constructor(address) { super(address); sockets.push(this); } } }""")
    click(page, "speak")
    page.wait("document.querySelectorAll('#text .word').length")
    page.value("sockets[0].close()")  # the connection breaks, and the stream goes on in another one
    shown = page.value("spans.length")
    page.wait(f"sockets.length > 1 && spans.length > {shown}")
    page.wait("document.getElementById('timer').textContent > '0:00'")
    assert "so far" in text(page, "about") and page.value("document.getElementById('recording').hidden") is False
    click(page, "stop")
    page.wait("items[0].state === 'done'")
    assert page.value("items[0].words.every((word, i, all) => !i || word.start_s >= all[i - 1].start_s)")
    assert page.value("items[0].url").startswith("blob:") and page.value("document.querySelector('.tentative')") is None
    page.wait("document.getElementById('audio').duration > 0.5")
    wait_for(lambda: streams.inside() == 0)
    page.said[:] = [line for line in page.said if "401" not in line]  # the browser itself reports them


def test_without_a_microphone_or_a_server_it_says_what_to_do(tones: Running, visit, tmp_path: Path) -> None:
    page = visit(tones)
    page.value("navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotFoundError'))")
    click(page, "speak")
    page.wait("!document.getElementById('error').hidden")
    assert text(page, "error-text") == "No microphone was found. Connect one, then press Speak again."
    page.call("Network.enable")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **offline)
    choose(page, write_wav(tmp_path / "a.wav", sing("ace")))
    page.wait("items[0]?.state === 'failed'")
    assert text(page, "about") == "The server does not answer. Check that it still runs, then press Again."
    page.call("Network.emulateNetworkConditions", offline=False, **offline)
    click(page, "retry")
    page.wait("items[0].state === 'done'")
    assert page.value(WORDS) == "ace"
    page.said.clear()  # the browser itself reports them


def test_models_and_languages_to_choose_from(tones: Running, visit) -> None:
    page = visit(tones)
    page.wait("models.length")
    page.value("""
        models = [{id: "ita-small", languages: {ita: "Italian"}, streaming: null},
                  {id: "swahili", languages: {swa: "Swahili"}, streaming: {}},
                  {id: "both", languages: {deu: "German", tur: "Turkish"}, streaming: {}}];
        health.tagger = true; health.diarizer = true; offer()""")
    assert page.value("document.getElementById('model').innerText").splitlines() == [
        "by the language spoken",
        "ita-small · Italian",
        "swahili",
        "both",
    ]
    found = {}
    for model in ("auto", "swahili", "both"):
        page.value(f"document.getElementById('model').value = '{model}'; document.getElementById('model').onchange()")
        found[model] = page.value("[choices(), Boolean(abilities().streaming)]")
    assert found["auto"] == [{"model": "auto", "language": "auto"}, False]
    assert found["swahili"] == [{"model": "swahili"}, True] and found["both"] == [
        {"model": "both", "language": ""},
        True,
    ]
    page.value("document.getElementById('language').value = 'tur'; document.getElementById('who').value = 'diarize'")
    assert page.value("choices()") == {"model": "both", "language": "tur", "diarize": "true"}
    assert page.value("choices('stream')") == {"model": "both", "language": "tur"}


def test_every_control_has_a_name(tones: Running, visit) -> None:
    """As a screen reader finds them: no button or field without a name, one heading of the first rank."""
    page = visit(tones)
    page.value("document.getElementById('options').open = true")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "slider", "checkbox", "meter", "link"}
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert len(found) >= 7 and not [role for role, name in found if not name.strip()], found
    for theme in ("light", "dark", ""):
        click(page, "theme")
        assert page.value("document.documentElement.dataset.theme ?? ''") == theme
