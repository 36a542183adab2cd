"""The page in a real browser without a window: a file and a fake microphone are transcribed, and no policy is broken."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.test_chunks import noise
from tests.runtime.test_stream import make_student
from tests.serve.test_application import Running, served, wait_for

client = pytest.importorskip("websockets.sync.client", reason="the extra [serve] is not installed")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


class Page:
    """A tab, driven over the DevTools protocol; ``said`` are the console's and the policy's complaints."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            found = json.loads(self._socket.recv(timeout=60))
            if found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.said.append(found["params"]["entry"]["text"])
            if found.get("method") == "Runtime.exceptionThrown":
                self.said.append(json.dumps(found["params"]["exceptionDetails"]))
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return found["result"]

    def value(self, expression: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, patience_s: float = 60.0) -> Any:
        end = time.monotonic() + patience_s
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.said)
            time.sleep(0.1)
        return found


@contextmanager
def opened(address: str, folder: Path, *flags: str) -> Iterator[Page]:
    """A tab of a browser of its own at ``address``."""
    assert BROWSER
    process = subprocess.Popen(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
         "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", *flags, "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = folder / "profile" / "DevToolsActivePort"
        wait_for(lambda: port.is_file() and len(port.read_text().splitlines()) == 2, 120)
        number, path = port.read_text().splitlines()
        with client.connect(f"ws://127.0.0.1:{number}{path}", max_size=None, open_timeout=60) as browser:
            browser.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": address}}))
            while (found := json.loads(browser.recv(timeout=60))).get("id") != 0:
                pass
            target = found["result"]["targetId"]
            tab = f"ws://127.0.0.1:{number}/devtools/page/{target}"
            with client.connect(tab, max_size=None, open_timeout=60) as socket:
                page = Page(socket)
                page.wait("document.readyState === 'complete' && document.getElementById('speak') !== null")
                yield page
    finally:
        process.kill()
        process.wait()


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
    with served(folder, student=make_student(folder / "student"), LALIA_TOKEN="s3cret") as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


def test_a_file_and_then_the_microphone(server: Running, tmp_path: Path) -> None:
    clip = write_wav(tmp_path / "clip.wav", np.tile(noise(32_000)[0].numpy(), 2))
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={clip}",
    )
    with opened(server.url("/"), tmp_path, *flags) as page:
        page.value("document.getElementById('token').value = 's3cret'")
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
    with opened(server.url("/"), tmp_path, *flags) as page:
        page.wait("!document.getElementById('speak').hidden")
        page.value("document.getElementById('speak').click()")
        page.wait("!document.getElementById('token-row').hidden")
        assert page.value("document.getElementById('status').className") == "bad"
        page.wait("document.getElementById('speak').textContent === 'Speak'")


def test_without_a_microphone_it_says_so(server: Running, tmp_path: Path) -> None:
    with opened(server.url("/"), tmp_path) as page:
        page.wait("!document.getElementById('speak').hidden")
        page.value("document.getElementById('speak').click()")
        page.wait("document.getElementById('status').textContent.startsWith('Cannot use the microphone')")
