"""What the page asks of the server: words while a file is transcribed, corrected words as files, its policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.serve.limits import Limits, RequestError
from lalia.serve.web_page import load_page, read_transcript
from tests.tiny_student import make_student, sing

testclient = pytest.importorskip("starlette.testclient", reason="the extra [serve] is not installed")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from lalia.serve.application import Service
    from lalia.serve.students import Students

    folder = tmp_path_factory.mktemp("service")
    students = Students([make_student(folder / "tones", language=["ita"], window_s=2.0)])
    service = Service(students, Limits(jobs=1), folder)
    with testclient.TestClient(service.application()) as made:
        yield made


def test_words_arrive_while_the_file_is_transcribed(client: Any) -> None:
    sent = client.post("/transcribe?stream=true&name=talk.flac", content=flac_bytes(sing("bad cab ace dab bed cab")))
    assert sent.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in sent.text.split("\n\n") if line]
    shown = [word["text"] for event in events if event["type"] == "words" for word in event["words"]]
    times = [event["heard_s"] for event in events if event["type"] == "progress"]
    last = events[-1]
    assert last["type"] == "done" and last["audio"] == "talk.flac" and last["text"] == "bad cab ace dab bed cab"
    assert shown and shown == [word["text"] for word in last["words"]][: len(shown)]
    assert times == sorted(times) and len(times) > 1 and times[-1] == last["duration_s"]
    assert {"start_s", "end_s", "confidence"} <= last["words"][0].keys()


def test_bad_audio_is_the_last_event(client: Any) -> None:
    sent = client.post("/transcribe?stream=true", content=b"<html>")
    event = json.loads(sent.text.removeprefix("data: "))
    assert event["type"] == "error" and event["error"]["code"] == "bad_audio"


def test_speech_that_the_student_does_not_fit_has_a_warning(client: Any) -> None:
    tune = sing("bad cab ace dab bed cab " * 4)
    warnings = {}
    for loudness in (1.0, 0.74):
        found = client.post("/transcribe", content=flac_bytes(loudness * tune)).json()
        assert len(found["words"]) == 24
        warnings[loudness] = found.get("warnings", [])
    assert warnings[1.0] == [] and len(warnings[0.74]) == 1
    assert "low confidence throughout" in warnings[0.74][0] and "ita (Italian)" in warnings[0.74][0]


def test_corrected_words_become_a_file(client: Any) -> None:
    words = [
        {"text": "good", "start_s": 0.0, "end_s": 0.4, "confidence": 1.0, "speaker": "Ada <1>\n"},
        {"text": "day", "start_s": 0.5, "end_s": 0.9, "speaker": "Ada <1>"},
        {"text": "so", "start_s": 1.0, "end_s": 1.2, "joined": True, "speaker": "Ada <1>"},
        {"text": "yes", "start_s": 1.4, "end_s": 1.9, "speaker": "Bo"},
    ]
    sent = {"audio": "talk.mp3", "duration_s": 2.0, "words": words}
    text = {format: client.post(f"/render?format={format}", json=sent) for format in ("txt", "srt", "vtt", "json")}
    assert text["txt"].text == "Ada <1>: good dayso\nBo: yes\n"
    assert text["srt"].text.startswith("1\n00:00:00,000 --> 00:00:01,400\nAda <1>: good dayso\n\n2\n")
    assert "<v Ada &lt;1&gt;>good dayso\n" in text["vtt"].text
    assert text["json"].json()["audio"] == "talk.mp3" and text["json"].json()["words"][0]["speaker"] == "Ada <1>"
    assert client.post("/render?format=doc", json=sent).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        '{"words": 3}',
        '{"words": [1]}',
        '{"words": [{"text": 1, "start_s": 0, "end_s": 1}]}',
        '{"words": [{"text": "a", "start_s": NaN, "end_s": 1}]}',
        '{"words": [{"text": "a", "start_s": 0, "end_s": Infinity}]}',
        '{"words": [{"text": "a", "start_s": 0, "end_s": 1, "channel": "x"}]}',
        '{"words": [{"text": "a", "start_s": -1, "end_s": 1}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_transcript_is_refused(body: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_transcript(body.encode())
    assert (refused.value.status, refused.value.code) == (400, "bad_words")


def test_the_policy_allows_the_page_and_nothing_else() -> None:
    page = load_page()
    for kind in ("script", "style"):
        [inside] = re.findall(rf"<{kind}>(.*?)</{kind}>", page.html, re.S)
        assert len(inside) > 1000
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in page.policy
    assert "unsafe" not in page.policy and page.policy.startswith("default-src 'none'")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(|@import|\son\w+=| style=""", page.html)
    assert re.findall(r"https?://[^\s\"'`<>]+", page.html) == ["http://www.w3.org/2000/svg"]


def test_health_says_what_the_page_can_offer(client: Any) -> None:
    found = client.get("/health").json()
    assert found["diarizer"] is False and found["streaming"] is None and found["model"] == "tones"
