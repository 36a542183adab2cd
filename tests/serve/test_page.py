"""The page in a real browser without a window: a file and a fake microphone are transcribed, and no policy is broken."""

from __future__ import annotations

import json
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalia.text.normaliser import settings_for
from tests.browser import BROWSER, opened
from tests.models.test_chunks import noise
from tests.runtime.test_stream import make_student
from tests.serve.test_application import Running, served, wait_for
from tests.tiny_student import seal

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
READY = "document.getElementById('speak') !== null"


def write_wav(path: Path, wave_S: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.rint(wave_S * 32_767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    student = make_student(folder / "student")
    replace(settings_for("deu"), languages={"tur": settings_for("tur")}).to_json(student / "normaliser.json")
    seal(student, language=["deu", "tur"], streaming=json.loads((student / "card.json").read_text())["streaming"])
    with served(folder, "--language", "deu", student=student, LALIA_TOKEN="s3cret") as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


def test_a_file_and_then_the_microphone(server: Running, tmp_path: Path) -> None:
    clip = write_wav(tmp_path / "clip.wav", np.tile(noise(32_000)[0].numpy(), 2))
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={clip}",
    )
    with opened(server.url("/"), tmp_path, *flags, ready=READY) as page:
        page.value("document.getElementById('token').value = 's3cret'")
        page.wait("document.querySelectorAll('#language option').length")
        assert page.value("document.getElementById('language').innerText").split() == ["any", "German", "Turkish"]
        page.value("document.getElementById('language').value = 'tur'")
        found = page.call("Runtime.evaluate", expression="document.getElementById('file')")
        page.call("DOM.setFileInputFiles", files=[str(clip)], objectId=found["result"]["objectId"])
        page.wait("document.querySelectorAll('#words button').length")
        assert "words in 00:04 of audio" in page.value("document.getElementById('status').textContent")

        page.wait("!document.getElementById('speak').hidden")
        page.value("document.getElementById('speak').click()")
        page.wait("document.getElementById('live').textContent.trim()")
        assert page.value("document.getElementById('speak').textContent") == "Stop"
        time.sleep(1.5)
        page.value("document.getElementById('speak').click()")
        page.wait("!document.getElementById('result').hidden")
        assert page.value("document.querySelectorAll('#words button').length") > 0
        assert page.value("document.getElementById('player').src").startswith("blob:")
        page.wait("document.getElementById('player').duration > 1")
        assert page.value("document.getElementById('speak').textContent") == "Speak"
        assert not page.said
    wait_for(lambda: server.inside() == 0)


def test_without_the_token_it_asks_for_it(server: Running, tmp_path: Path) -> None:
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with opened(server.url("/"), tmp_path, *flags, ready=READY) as page:
        page.wait("!document.getElementById('speak').hidden")
        page.value("document.getElementById('speak').click()")
        page.wait("!document.getElementById('token-row').hidden")
        assert page.value("document.getElementById('status').className") == "bad"
        page.wait("document.getElementById('speak').textContent === 'Speak'")


def test_without_a_microphone_it_says_so(server: Running, tmp_path: Path) -> None:
    with opened(server.url("/"), tmp_path, ready=READY) as page:
        page.wait("!document.getElementById('speak').hidden")
        page.value("document.getElementById('speak').click()")
        page.wait("document.getElementById('status').textContent.startsWith('Cannot use the microphone')")
