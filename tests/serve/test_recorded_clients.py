"""Requests that other programs sent, as they sent them: their headers, forms, chunks and events, with another clip.

``recorded_clients.json`` was recorded between each client, unpatched, and a running server: HTTP requests, with ``{audio}`` for
the WAV, and Realtime messages, with one for all that append audio.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from tests.serve.test_application import Running, served, wait_for
from tests.tiny_student import sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
client = pytest.importorskip("websockets.sync.client", reason="the extra [serve] is not installed")
RECORDED = json.loads((Path(__file__).parent / "recorded_clients.json").read_text(encoding="utf-8"))
TOKEN = "secret"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}


def names(kind: str) -> list[Any]:
    found = [request for request in RECORDED if kind in request]
    return [pytest.param(each, id=f"{each['client']}, {number}") for number, each in enumerate(found)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("server"), LALIA_TOKEN=TOKEN) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


@pytest.mark.parametrize("request_", names("body"))
def test_transcriptions(server: Running, request_: dict[str, Any]) -> None:
    out = io.BytesIO()
    soundfile.write(out, sing("bad cab"), 16_000, format="WAV")
    before, after = request_["body"].encode().split(b"{audio}")
    body = before + out.getvalue() + after
    chunked = ["transfer-encoding", "chunked"] in request_["headers"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(request_["method"], request_["path"], skip_accept_encoding=True)
    for name, value in [*request_["headers"], *AUTHORIZATION.items()]:
        connection.putheader(name, value)
    if not chunked:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    pieces = [body[start : start + 5_000] for start in range(0, len(body), 5_000)]
    connection.send(
        b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" if chunked else body
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    fields = dict(re.findall(r'name="([a-z_]+)(?:\[\])?"\r\n(?:Content-[^\r]*\r\n)*\r\n([^\r]*)\r\n', request_["body"]))
    if fields.get("stream") == "true":
        events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
        assert [event["type"] for event in events][-1] == "transcript.text.done" and events[-1]["text"] == "bad cab"
    elif fields.get("response_format", "json") in ("srt", "text"):
        assert "bad cab" in text
    else:
        found = json.loads(text)
        assert found["text"] == "bad cab"
        assert ("segments" in found) == (fields.get("response_format") == "verbose_json")


@pytest.mark.parametrize("request_", names("messages"))
def test_realtime(server: Running, request_: dict[str, Any]) -> None:
    wave_S = soxr.resample(sing("bad cab"), 16_000, 24_000)
    data = np.rint(wave_S * 32_767).astype("<i2").tobytes()
    heard, update = list[dict[str, Any]](), request_["messages"][0]["session"]["audio"]["input"]
    commits = {"type": "input_audio_buffer.commit"} in request_["messages"] and update.get("turn_detection", 1) is None
    last = "conversation.item.input_audio_transcription.completed" if commits else "session.updated"
    headers = dict(request_["headers"]) | AUTHORIZATION
    with client.connect(
        f"ws://127.0.0.1:{server.port}{request_['path']}", additional_headers=headers, user_agent_header=None
    ) as socket:
        for message in request_["messages"]:
            if "audio" not in message:
                socket.send(json.dumps(message))
                continue
            for start in range(0, len(data), 4_800):
                audio = base64.b64encode(data[start : start + 4_800]).decode()
                socket.send(json.dumps({**message, "audio": audio}))
        while not heard or heard[-1]["type"] != last:
            heard.append(json.loads(socket.recv(timeout=60)))
            assert heard[-1]["type"] != "error", heard[-1]
    [updated] = [event for event in heard if event["type"] == "session.updated"]
    for name, value in update["transcription"].items():
        assert name == "model" or updated["session"]["audio"]["input"]["transcription"][name] == value
    if commits:
        assert heard[-1]["transcript"] == "bad cab"
