"""Speech over a WebSocket: the words of a stream, the limits of a server, and the page that speaks."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import resample
from lalia.runtime.student import Student
from tests.models.test_chunks import noise
from tests.serve.test_application import Running, served, wait_for

client = pytest.importorskip("websockets.sync.client", reason="the extra [serve] is not installed")
exceptions = pytest.importorskip("websockets.exceptions")


@pytest.fixture(scope="module")
def student(streaming_student: Path) -> Path:
    return streaming_student


@pytest.fixture(scope="module")
def server(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--jobs", 2, "--patience", 2, "--idle", 3, "--streams", 4, "--max-minutes", 1)
    with served(tmp_path_factory.mktemp("server"), *flags, student=student) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


def speak(server: Running, query: str = "", **settings: Any):
    return client.connect(f"ws://127.0.0.1:{server.port}/stream{query}", open_timeout=60, **settings)


def pcm(wave_S: np.ndarray) -> bytes:
    return np.rint(wave_S * 32_768).clip(-32_768, 32_767).astype("<i2").tobytes()


def to_end(socket) -> list[dict[str, Any]]:
    """All answers until the server closes."""
    return [json.loads(message) for message in socket]


def heard(answers: list[dict[str, Any]]) -> str:
    return " ".join(word["text"] for answer in answers for word in answer.get("stable", []))


def expected(student: Path, data: bytes) -> str:
    return Student.load(student, threads=1).transcribe(np.frombuffer(data, "<i2").astype(np.float32) / 32_768).text


def test_words_come_while_it_is_spoken(server: Running, student: Path) -> None:
    data = pcm(noise(32_000)[0].numpy())
    with speak(server) as socket:
        for start in range(0, len(data), 2_560):
            socket.send(data[start : start + 2_560])
        socket.send('{"finish": true}')
        answers = to_end(socket)
    assert heard(answers) == expected(student, data) != ""
    assert [answer["last"] for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert len(answers) > 3 and answers[0]["heard_s"] < 1 and answers[-1]["heard_s"] == 2.0
    assert set(answers[0]["tentative"][0]) == {"text", "start_s", "end_s", "confidence"}
    assert socket.close_code == 1000


def test_another_rate_and_one_large_message(server: Running, student: Path) -> None:
    wave_S = resample(noise(48_000)[0].numpy(), 8_000)
    with speak(server, "?rate=8000") as socket:
        socket.send(pcm(wave_S))
        socket.send('{"finish": true}')
        answers = to_end(socket)
    assert answers[-1]["heard_s"] == round(len(wave_S) / 8_000, 3) and heard(answers)


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("?rate=1", {}, 400, "bad_rate"),
        ("?rate=many", {}, 400, "bad_rate"),
        ("", {"Origin": "https://elsewhere.example"}, 403, "other_origin"),
    ],
)
def test_who_is_not_let_in(server: Running, query: str, headers: dict[str, str], status: int, code: str) -> None:
    with pytest.raises(exceptions.InvalidStatus) as refused:
        speak(server, query, additional_headers=headers)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["hello"], "bad_message"),
        (["[]"], "bad_message"),
        (['{"begin": true}'], "bad_message"),
        (["ping", '{"begin": true}'], "bad_message"),
        ([], "too_slow"),
        ([pcm(np.zeros(480_000, np.float32))] * 3, "too_long"),
    ],
)
def test_who_is_shown_out(server: Running, messages: list[str | bytes], code: str) -> None:
    with speak(server) as socket:
        for message in messages:
            socket.send(message)
        answers: list[dict[str, Any]] = []
        while not answers or "error" not in answers[-1]:
            answers.append(json.loads(socket.recv(timeout=60)))
    assert answers[-1]["error"]["code"] == code
    wait_for(lambda: server.inside() == 0)


def test_a_message_that_is_too_large_and_a_client_that_vanishes(server: Running) -> None:
    with speak(server) as socket, pytest.raises(exceptions.ConnectionClosed):
        socket.send(bytes(3 << 20))
        while True:
            socket.recv(timeout=60)
    assert socket.protocol.close_code in (1006, 1009)
    socket = speak(server)
    socket.send(pcm(noise(16_000)[0].numpy()))
    socket.socket.close()
    wait_for(lambda: server.inside() == 0)
    assert server.files() == []


def test_pieces_are_cut_anywhere_and_pauses_are_long(server: Running, student: Path) -> None:
    """Odd numbers of bytes wait for the rest; keep-alives of the usual kinds hold a stream beyond its idle time."""
    data = pcm(noise(24_000)[0].numpy())
    with speak(server) as socket:
        socket.send(data[:12_001])
        for alive in ("ping", '{"type": "KeepAlive"}', '{"keepalive": true}', "", b"", "{}"):
            time.sleep(0.8)
            socket.send(alive)
        for start in range(12_001, len(data), 3_333):
            socket.send(data[start : start + 3_333])
        socket.send('{"finish": true}')
        assert heard(to_end(socket)) == expected(student, data)


def test_a_broken_connection_is_taken_up_again(server: Running, student: Path) -> None:
    data = pcm(noise(32_000)[0].numpy())
    answers: list[dict[str, Any]] = []
    socket = speak(server, "?session=new")
    began = json.loads(socket.recv(timeout=60))
    assert began["heard_s"] == 0
    socket.send(data[:20_001])
    socket.send(data[20_001:24_000])
    while not answers or answers[-1]["heard_s"] < 0.75:
        answers.append(json.loads(socket.recv(timeout=60)))
    socket.socket.close()
    wait_for(lambda: server.inside() == 0)
    with speak(server, f"?session={began['session']}") as socket:
        again = json.loads(socket.recv(timeout=60))
        assert again == {"session": began["session"], "heard_s": 0.75}
        socket.send(data[24_000:])
        socket.send('{"finish": true}')
        answers += to_end(socket)
    assert heard(answers) == expected(student, data)
    for name in (began["session"], "other"):  # it ended; it never was
        with pytest.raises(exceptions.InvalidStatus) as refused:
            speak(server, f"?session={name}")
        assert refused.value.response.status_code == 404


def test_streams_count_among_those_inside(server: Running) -> None:
    sockets = [speak(server) for _ in range(4)]
    try:
        assert re.search(r"^lalia_streams 4$", server.get("/metrics").text, re.M)
        with pytest.raises(exceptions.InvalidStatus) as refused:
            speak(server)
        assert refused.value.response.status_code == 429 and refused.value.response.headers["retry-after"]
        # Files have places of their own.
        assert server.post("/transcribe", content=flac_bytes(np.zeros(16_000, np.float32))).status_code == 200
    finally:
        for socket in sockets:
            socket.close()
    wait_for(lambda: server.inside() == 0)
    assert re.search(r'lalia_requests_total\{route="/stream",status="429"\} \d', server.get("/metrics").text)


def test_many_speak_while_files_are_heard(server: Running, student: Path) -> None:
    data = pcm(noise(32_000)[0].numpy())
    told = expected(student, data)
    found: list[str] = []

    def talk() -> None:
        with speak(server) as socket:
            for start in range(0, len(data), 8_000):
                socket.send(data[start : start + 8_000])
            socket.send('{"finish": true}')
            found.append(heard(to_end(socket)))

    threads = [threading.Thread(target=talk) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert server.post("/transcribe", content=flac_bytes(np.tile(noise(32_000)[0].numpy(), 5))).status_code == 200
    for thread in threads:
        thread.join(60)
    assert found == [told] * 3


def test_the_token_in_the_header_or_in_the_first_message(student: Path, tmp_path: Path) -> None:
    with served(tmp_path, student=student, LALIA_TOKEN="s3cret") as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        with speak(running, additional_headers={"Authorization": "Bearer s3cret"}) as socket:
            socket.send('{"finish": true}')
            assert to_end(socket)[-1]["last"]
        with speak(running) as socket:
            socket.send('{"token": "s3cret"}')
            socket.send('{"finish": true}')
            assert to_end(socket)[-1]["last"]
        with pytest.raises(exceptions.InvalidStatus) as refused:
            speak(running, additional_headers={"Authorization": "Bearer wrong"})
        assert refused.value.response.status_code == 401
        for first in ('{"token": "wrong"}', b"\0\0"):
            with speak(running) as socket:
                socket.send(first)
                assert json.loads(socket.recv(timeout=60))["error"]["code"] == "no_token"


def test_who_has_not_shown_the_token_takes_no_place(student: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--streams", 1, student=student, LALIA_TOKEN="s3cret") as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        waiting = [speak(running) for _ in range(5)]
        with speak(running, additional_headers={"Authorization": "Bearer s3cret"}) as socket:
            waiting[0].send('{"token": "s3cret"}')
            error = json.loads(waiting[0].recv(timeout=60))["error"]
            assert error["code"] == "busy"
            socket.send('{"finish": true}')
            assert to_end(socket)[-1]["last"]
        for other in waiting:
            other.close()


def test_told_to_stop_it_closes_streams(student: Path, tmp_path: Path) -> None:
    with served(tmp_path, student=student) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        with speak(running) as socket:
            socket.send(pcm(noise(16_000)[0].numpy()))
            socket.recv(timeout=60)
            running.process.terminate()
            began = time.monotonic()
            while True:
                try:
                    socket.recv(timeout=60)
                except exceptions.ConnectionClosed:
                    break
        assert running.process.wait(60) == 0 and time.monotonic() - began < 20


def test_a_student_of_whole_clips_says_so(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        assert running.get("/health").json()["streaming"] is None
        with pytest.raises(exceptions.InvalidStatus) as refused:
            speak(running)
        error = json.loads(refused.value.response.body)["error"]
        assert error["code"] == "no_stream" and "streaming-nano.yaml" in error["message"]
