"""Speech over a WebSocket: the words of a stream, the limits of a server, and the page that speaks."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.runtime.hostile import Attacks, fire, wrong
from lalia.audio.encoding import flac_bytes
from lalia.audio.opus_stream import OpusSource
from lalia.audio.reading import resample
from lalia.audio.vad import Endpointer
from lalia.decoding.greedy import Word
from lalia.runtime.streaming import StreamUpdate
from lalia.runtime.student import Student
from lalia.serve.websocket import PcmSource, Speech
from tests.audio.test_opus_stream import recorded
from tests.journeys.material import committed
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
    assert set(answers[0]["tentative"][0]) == {"text", "start_s", "end_s", "confidence", "stability"}
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
        ("?rate=²", {}, 400, "bad_rate"),
        ("?format=mp4", {}, 400, "bad_format"),
        ("?format=webm&rate=48000", {}, 400, "bad_rate"),
        ("?vad=perhaps", {}, 400, "bad_field"),
        ("?silence_ms=5", {}, 400, "bad_field"),
        ("?colour=red", {}, 400, "unknown_field"),
        ("?token=s3cret", {}, 401, "no_token"),
        ("?hot_words=" + "a," * 1001, {}, 400, "too_many_words"),
        ("?hot_words=" + "a," * 4500, {}, 431, "headers_too_large"),
        ("", {f"X-{number}": "y" for number in range(110)}, 431, "headers_too_large"),
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
        assert again == {"session": began["session"], "heard_s": 0.75, "bytes": 24_000}
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


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_a_browser_s_recorder_whose_connection_breaks(server: Running, student: Path, container: str) -> None:
    data = recorded(container, noise(32_000)[0].numpy())
    source, same = OpusSource(container), Student.load(student, threads=1).stream(rate=48_000)
    source.feed(data)
    same.feed(source.read(1 << 30))
    same.finish()
    socket = speak(server, f"?format={container}&session=new")
    began = json.loads(socket.recv(timeout=60))
    socket.send(data[:9_001])
    answers = [json.loads(socket.recv(timeout=60))]
    socket.socket.close()
    wait_for(lambda: server.inside() == 0)
    with speak(server, f"?session={began['session']}") as socket:
        again = json.loads(socket.recv(timeout=60))
        assert again["bytes"] == 9_001 and 0 < again["heard_s"] < 2
        socket.send(data[9_001:])
        socket.send('{"finish": true}')
        answers += to_end(socket)
    assert heard(answers) == " ".join(word.text for word in same.words) != ""
    with speak(server, f"?format={container}") as socket:
        socket.send(b"RIFF" * 100)
        refused = json.loads(socket.recv(timeout=60))
    assert refused["error"]["code"] == "bad_audio" and container in refused["error"]["message"]


def test_ends_of_speech_and_stability(student: Path) -> None:
    """Where speech begins and ends is told ``silence_ms`` after it; a word that stays unchanged becomes stable."""
    clip = next(clip for clip in committed() if clip.language == "swh").wave()
    wave_S = np.concatenate([np.zeros(8_000, np.float32), clip, np.zeros(24_000, np.float32)])
    speech = Speech(PcmSource(16_000), Student.load(student, threads=1).stream(), Endpointer(silence_s=0.4))
    speech.source.feed(pcm(wave_S))
    answers = []
    while speech.source.waiting:
        answers += speech.step()
    answers += speech.finish()
    begun = [answer for answer in answers if answer.get("event") == "speech_start"]
    ended = [answer for answer in answers if answer.get("event") == "speech_end"]
    assert len(begun) == len(ended) >= 1 and 0.4 < begun[0]["at_s"] < 1.5
    assert abs(ended[-1]["at_s"] - 0.5 - len(clip) / 16_000) < 1.5
    assert all(0.4 <= answer["delay_s"] < 0.44 for answer in ended)


def test_a_tentative_word_gains_stability() -> None:
    word = Word("ab", 0.0, 0.1, 0.9)
    speech = Speech(PcmSource(16_000), None, None)  # type: ignore[arg-type]
    told = [speech._update(StreamUpdate([], [word], heard_s), last=False) for heard_s in (0.1, 0.25, 0.4, 0.5, 0.6)]
    assert [message["tentative"][0]["stability"] for [message] in told[:3]] == [0.0, 0.5, 1.0] and told[3:] == [[], []]
    [message] = speech._update(StreamUpdate([], [replace(word, text="abc")], 0.7), last=False)
    assert message["tentative"][0]["stability"] == 0.0


def test_hostile_streams(server: Running, student: Path) -> None:
    """Each is answered in its protocol's form, or its connection is closed; none is a fault."""
    attacks = Attacks(noise(8_000)[0].numpy(), "/nowhere", long_s=100.0)
    kinds = [attacks.bad_handshake, attacks.bad_frames, attacks.bad_stream, attacks.bad_realtime]
    for number in range(32):
        made = kinds[number % 4](random.Random(number))
        answer = fire(("127.0.0.1", server.port), made)
        assert not wrong(made, answer), (number, made, answer.status, answer.body[-300:])
    wait_for(lambda: server.inside() == 0)
    assert "lalia_faults_total 0" in server.get("/metrics").text
