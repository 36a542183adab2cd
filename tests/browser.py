"""Drives a real browser without a window (Chromium, over the DevTools protocol), for tests of pages."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

client = pytest.importorskip("websockets.sync.client", reason="the extra [serve] is not installed")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


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

    def press(self, *keys: str) -> None:
        """Press keys, such as ``a`` or ``Enter``, where the focus is."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def wait(self, expression: str, patience_s: float = 60.0) -> Any:
        end = time.monotonic() + patience_s
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.said)
            time.sleep(0.1)
        return found


@contextmanager
def opened(address: str, folder: Path, *flags: str, ready: str = "true") -> Iterator[Page]:
    """A tab of a browser of its own at ``address``, where the expression ``ready`` holds."""
    assert BROWSER
    process = subprocess.Popen(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
         "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", *flags, "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = folder / "profile" / "DevToolsActivePort"
        end = time.monotonic() + 120
        while not (port.is_file() and len(port.read_text().splitlines()) == 2):
            assert time.monotonic() < end, "the browser does not start"
            time.sleep(0.05)
        number, path = port.read_text().splitlines()
        with client.connect(f"ws://127.0.0.1:{number}{path}", max_size=None, open_timeout=60) as browser:
            browser.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": address}}))
            while (found := json.loads(browser.recv(timeout=60))).get("id") != 0:
                pass
            target = found["result"]["targetId"]
            tab = f"ws://127.0.0.1:{number}/devtools/page/{target}"
            with client.connect(tab, max_size=None, open_timeout=60) as socket:
                page = Page(socket)
                page.wait(f"document.readyState === 'complete' && location.href !== 'about:blank' && {ready}")
                yield page
    finally:
        process.kill()
        process.wait()
