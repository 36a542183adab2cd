"""The server: a file in and a transcript out, limits kept, fair turns, an orderly end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from lalia.audio.encoding import flac_bytes
from lalia.text.normaliser import settings_for
from tests.tiny_student import make_student, seal, sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")


@dataclass
class Running:
    """A server in a process of its own, its address, and its working and temporary folders, which hold nothing else."""

    process: subprocess.Popen
    port: int
    folder: Path

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def post(self, path: str, **kwargs: object) -> httpx.Response:
        return httpx.post(self.url(path), timeout=60, **kwargs)  # type: ignore[arg-type]

    def get(self, path: str, **kwargs: object) -> httpx.Response:
        return httpx.get(self.url(path), timeout=60, **kwargs)  # type: ignore[arg-type]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def inside(self) -> int:
        return self.get("/health").json()["inside"]


@contextmanager
def served(folder: Path, *flags: object, student: Path | None = None, **environment: str) -> Iterator[Running]:
    """`lalia serve` of ``student`` (the tiny one unless given) with ``flags``, until the block ends."""
    student = student or make_student(folder / "tones", language=["ita"])
    (folder / "work" / "tmp").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lalia.cli.main", "serve", str(student), "--port", "0", *map(str, flags)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder / "work",
        env={**os.environ, "TMPDIR": str(folder / "work" / "tmp"), **environment},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield Running(process, int(found[1]), folder / "work")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--jobs", 2, "--max-mb", 2, "--max-minutes", 30, "--patience", 1, "--requests", 8)
    with served(tmp_path_factory.mktemp("server"), *flags) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


def wait_for(condition, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_file_in_and_text_out(server: Running) -> None:
    flac = flac_bytes(sing("bad cab"))
    assert server.post("/transcribe?format=txt", content=flac).text == "bad cab\n"
    found = server.post("/transcribe?name=talk.flac", content=flac)
    assert found.headers["content-type"] == "application/json"
    assert found.json()["audio"] == "talk.flac" and found.json()["text"] == "bad cab"
    assert [w["text"] for w in found.json()["words"]] == ["bad", "cab"]
    srt = server.post("/transcribe?format=srt", files={"file": ("a.flac", flac)})
    assert srt.text.startswith("1\n00:00:00,") and "bad cab" in srt.text
    assert server.post("/transcribe?format=vtt", content=flac).text.startswith("WEBVTT\n")
    assert server.files() == []


def test_what_is_odd_about_a_file_is_told_as_a_warning(server: Running) -> None:
    out = io.BytesIO()
    soundfile.write(out, sing("bad cab"), 16_000, format="WAV")
    lying = out.getvalue()[:40] + (1600).to_bytes(4, "little") + out.getvalue()[44:]
    assert out.getvalue()[36:40] == b"data"
    found = server.post("/transcribe?name=talk.wav", content=lying).json()
    assert found["text"] == "bad cab" and len(found["warnings"]) == 1
    assert found["warnings"][0].startswith("the header says 0.1 s, the file holds ")
    found = server.post("/v1/audio/transcriptions", files={"file": ("a.wav", lying)}).json()
    assert found["text"] == "bad cab" and len(found["warnings"]) == 1


def test_as_openai_clients_ask(server: Running) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.stack([sing("ace dab")] * 2, 1), 16_000, format="WAV")

    def ask(**fields: str) -> httpx.Response:
        return server.post("/v1/audio/transcriptions", files={"file": ("a.wav", out.getvalue())}, data=fields)

    assert ask(model="whisper-1").json()["text"] == "ace dab"
    assert ask(model="x", response_format="text").text == "ace dab\n"
    full = ask(response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert full["task"] == "transcribe" and full["language"] == "ita" and full["duration"] > 1
    assert [w["word"] for w in full["words"]] == ["ace", "dab"]
    assert full["segments"][0]["text"] == "ace dab" and full["segments"][0]["end"] > full["segments"][0]["start"]
    assert "-->" in ask(response_format="srt").text and ask(response_format="vtt").text.startswith("WEBVTT")
    bad = ask(response_format="xml")
    assert bad.status_code == 400 and "verbose_json" in bad.json()["error"]["message"]
    assert server.get("/v1/models").json()["data"][0]["id"] == "tones"


def test_every_field_that_typed_clients_read(server: Running) -> None:
    file = {"file": ("talk.flac", flac_bytes(sing("bad cab")))}

    def ask(**form: object) -> httpx.Response:
        return server.post("/v1/audio/transcriptions", files=file, data=form)

    found = ask(response_format="verbose_json", model="whisper-1", temperature="0").json()
    [segment] = found["segments"]
    assert set(segment) == {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
    }  # fmt: skip
    assert segment["text"] == found["text"] == "bad cab" and len(segment["tokens"]) == 7
    assert -1 < segment["avg_logprob"] <= 0 and found["usage"] == {"type": "duration", "seconds": 2}
    assert found["words"] and found["language"] == "ita"
    only = ask(response_format="verbose_json", **{"timestamp_granularities[]": ["segment"]}).json()
    assert "words" not in only and only["segments"]
    both = ask(response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]}).json()
    assert both["words"] and both["segments"]
    assert ask().json() == {"text": "bad cab", "usage": {"type": "duration", "seconds": 2}}
    for form, says in (
        ({"colour": "red"}, "'colour' is unknown"),
        ({"stream": "maybe"}, "expected true or false"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "letter"}, "expected word or segment"),
        ({"prompt": "a," * 2000}, "2000 phrases to boost"),
    ):
        refused = ask(**form)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"], refused.text
    refused = server.post("/v1/audio/translations", files=file)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "no_translation"
    [model] = server.get("/v1/models").json()["data"]
    assert server.get(f"/v1/models/{model['id']}").json() == model and model["created"] > 1e9
    assert server.get("/v1/models/gpt-4o").json()["error"]["code"] == "model_not_found"


def test_text_as_server_sent_events(server: Running) -> None:
    """A long file is answered word by word while it is transcribed; an error is an event, too."""
    wave = sing(" ".join(["bad cab"] * 60))
    form = {"stream": "true"}
    answer = server.post("/v1/audio/transcriptions", files={"file": ("a.flac", flac_bytes(wave))}, data=form)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    *deltas, last = events
    assert {delta["type"] for delta in deltas} == {"transcript.text.delta"} and len(deltas) > 3
    assert last["type"] == "transcript.text.done" and last["text"] == " ".join(["bad cab"] * 60)
    assert "".join(delta["delta"] for delta in deltas) == last["text"]
    short = server.post("/v1/audio/transcriptions", files={"file": ("a.flac", flac_bytes(sing("ace")))}, data=form)
    assert [json.loads(line[6:])["type"] for line in short.text.splitlines() if line][-1] == "transcript.text.done"
    wrong = server.post("/v1/audio/transcriptions", files={"file": ("a.flac", b"<html>")}, data=form)
    [event] = [json.loads(line[6:]) for line in wrong.text.splitlines() if line]
    assert event["type"] == "error" and event["error"]["code"] == "bad_audio"
    wait_for(lambda: server.inside() == 0)
    assert server.files() == []


def test_hot_words_of_a_request(server: Running) -> None:
    """A prompt boosts words; those that the student cannot write are named, and the rest goes on."""
    post = partial(server.post, "/transcribe?format=json", content=flac_bytes(sing("bad cab")))
    found = post(params={"format": "json", "hot_words": "cab, żółć"}).json()
    assert found["text"] == "bad cab" and "'żółć'" in found["warnings"][0]


def test_a_bug_is_logged_once_with_its_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from starlette.testclient import TestClient

    from lalia.serve.access import Access
    from lalia.serve.application import Service
    from lalia.serve.limits import Limits
    from lalia.serve.students import Students

    students = Students([make_student(tmp_path / "tones", language=["ita"])])
    service = Service(students, Limits(jobs=1), tmp_path, Access(origins=("https://a.example",), log=True))
    client = TestClient(service.application(), raise_server_exceptions=False)
    held = students.get("tones")
    held.student.tokens = None  # type: ignore[assignment]
    with caplog.at_level("INFO", "lalia.serve"):
        found = client.post(
            "/transcribe?name=secret", content=flac_bytes(sing("bad")), headers={"X-Request-ID": "abc-1"}
        )
    assert found.status_code == 500 and found.headers["x-request-id"] == "abc-1"
    assert "abc-1" in found.json()["error"]["message"] and "Traceback" not in found.text
    faults = [record for record in caplog.records if record.exc_info]
    assert len(faults) == 1 and "abc-1" in faults[0].getMessage()
    assert any(
        "POST /transcribe" in record.getMessage() and " 500 " in record.getMessage() for record in caplog.records
    )
    assert not any("secret" in record.getMessage() for record in caplog.records)
    assert "lalia_faults_total 1" in client.get("/metrics").text
    bad_id = client.get("/health", headers={"X-Request-ID": "a\tb" * 40, "Origin": "https://a.example"})
    assert (
        len(bad_id.headers["x-request-id"]) == 32
        and bad_id.headers["access-control-allow-origin"] == "https://a.example"
    )
    assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "https://b.example"}).headers


def test_behind_a_proxy(tmp_path: Path) -> None:
    """Clients are told apart by the address that the proxy adds, only where the server was told of a proxy."""
    from starlette.requests import HTTPConnection

    from lalia.serve.access import Access
    from lalia.serve.application import Service
    from lalia.serve.limits import Limits
    from lalia.serve.students import Students

    students = Students([make_student(tmp_path / "tones", language=["ita"])])
    headers = [
        (b"x-forwarded-for", b"10.0.0.1, 192.0.2.7"),
        (b"x-forwarded-host", b"speech.example"),
        (b"host", b"inner"),
    ]
    asked = HTTPConnection({"type": "http", "headers": headers, "client": ("127.0.0.1", 5), "path": "/"})
    for access, client, own in ((Access(proxy=True), "192.0.2.7", "speech.example"), (Access(), "127.0.0.1", "inner")):
        service = Service(students, Limits(jobs=1), tmp_path, access)
        assert service.access.client_of(asked) == client
        assert service.access.is_own_page(asked, f"https://{own}") and not service.access.is_own_page(
            asked, "https://other.example"
        )
        service.scheduler.close()


def test_a_request_names_the_language_it_is_written_in(tmp_path: Path) -> None:
    from lalia.serve.limits import RequestError
    from lalia.serve.students import Students

    student = make_student(tmp_path / "two", language=["deu", "tur"])
    replace(settings_for("deu"), languages={"tur": settings_for("tur")}).to_json(student / "normaliser.json")
    seal(student, language=["deu", "tur"])
    two = Students([student]).get("two")
    assert two.student.normaliser("ISPARTA") == "isparta"
    assert two.in_language("tr").student.normaliser("ISPARTA") == "ısparta"
    with pytest.raises(RequestError, match="'ita': the student writes deu, tur"):
        two.in_language("ita")
    with served(tmp_path, "--language", "deu", student=student) as client:
        file = {"file": ("a.flac", flac_bytes(sing("ace")))}
        for language, written in (("tur", "tur"), ("", "deu")):
            form = {"response_format": "verbose_json", "language": language}
            found = client.post("/v1/audio/transcriptions", files=file, data=form).json()
            assert found["language"] == written and found["text"] == "ace"
        refused = client.post("/v1/audio/transcriptions", files=file, data={"language": "ita"})
        assert refused.status_code == 400 and "take one of these" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (dict(content=b"x", params={"colour": "red"}), 400, "'colour' is unknown"),
        (dict(content=b""), 415, "is empty"),
        (dict(content=b"<html>hello</html>"), 415, "is not a supported audio file"),
        (dict(content=b"x" * 3_000_000), 413, "larger than 2 MB"),
        (dict(content=iter([b"x" * 1_000_000] * 4)), 413, "larger than 2 MB"),
        (dict(files={"other": ("a.wav", b"x")}), 400, "'file'"),
        (dict(content=b"x", headers={"content-type": "multipart/form-data"}), 400, "boundary"),
        (dict(files=[("file", ("a", b"x")), ("file", ("b", b"y"))]), 400, "Too many files"),
    ],
)
def test_what_is_refused_says_why(server: Running, request_: dict, status: int, says: str) -> None:
    try:
        found = server.post("/transcribe", **request_)
    except httpx.TransportError:
        assert status == 413  # closed while we were still sending
        return
    assert found.status_code == status
    error = found.json()["error"]
    assert says in error["message"] and "\n" not in error["message"] and error["code"]
    assert "Traceback" not in found.text and "/tmp" not in error["message"]


def test_other_routes_and_methods(server: Running) -> None:
    assert server.get("/nothing").status_code == 404
    assert server.get("/transcribe").status_code == 405
    assert server.post("/transcribe?format=doc", content=b"x").status_code == 400
    assert "/transcribe" in server.get("/../etc/passwd").json()["error"]["message"]


def test_days_of_silence_in_a_few_kilobytes(server: Running) -> None:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 16_000, 1, format="FLAC") as file:
        for _ in range(40):
            file.write(np.zeros(16_000 * 60, np.int16))
    assert len(out.getvalue()) < 200_000
    found = server.post("/transcribe", content=out.getvalue())
    assert found.status_code == 413 and "more than 30:00 of audio" in found.json()["error"]["message"]


def test_the_page_is_one_file_under_a_strict_policy(server: Running) -> None:
    page = server.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(src|href)=\"?https?:", page.text) and "innerHTML" not in page.text
    assert page.headers["x-content-type-options"] == "nosniff"


def test_metrics(server: Running) -> None:
    def value(name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.M)[1])  # type: ignore[index]

    server.post("/transcribe", content=flac_bytes(sing("bad")))
    before = value("lalia_transcription_seconds_count"), value("lalia_audio_seconds_total")
    server.post("/transcribe", content=flac_bytes(sing("bad")))
    assert value("lalia_transcription_seconds_count") == before[0] + 1
    assert value("lalia_audio_seconds_total") == pytest.approx(before[1] + len(sing("bad")) / 16_000, abs=0.01)
    assert value('lalia_transcription_seconds_bucket{le="+Inf"}') == before[0] + 1
    assert value("lalia_requests_limit") == 8 and value("lalia_requests_inside") == 0
    text = server.get("/metrics").text
    form = re.compile(r"# (HELP|TYPE) \w+ |\w+(\{.*\})? [-+0-9.e]+$")
    assert [line for line in text.splitlines() if not form.match(line)] == []


def test_too_many_are_told_to_come_again(server: Running) -> None:
    """Eight clients that begin a request and go on slowly; the ninth gets 429, and one that waits gets its turn."""
    flac = flac_bytes(sing("bad cab"))
    head = f"POST /transcribe HTTP/1.1\r\nHost: a\r\nContent-Length: {len(flac)}\r\n\r\n".encode()
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        for connection in held:
            connection.sendall(head + flac[:100])
        wait_for(lambda: server.inside() == 8, 5)
        found = server.post("/transcribe", content=flac)
        assert found.status_code == 429 and found.headers["retry-after"] == "1"
        assert server.get("/health").status_code == 200
        # They are too slow as well: their places are free again soon.
        wait_for(lambda: server.inside() == 0)
        assert held[0].recv(20).startswith(b"HTTP/1.1 408")
        assert server.post("/transcribe?format=txt", content=flac).text == "bad cab\n"
    finally:
        for connection in held:
            connection.close()


def test_silent_connections_are_closed(server: Running) -> None:
    silent = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    dripping = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    dripping.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
    for connection in (silent, dripping):
        with connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_a_client_that_leaves_ends_its_job(server: Running) -> None:
    long = flac_bytes(np.tile(sing("bad cab ace "), 90))
    assert len(long) < 2_000_000
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST /transcribe HTTP/1.1\r\nHost: a\r\nContent-Length: {len(long)}\r\n\r\n".encode() + long
        )
        time.sleep(0.1)
    wait_for(lambda: server.inside() == 0)
    assert server.files() == []


def test_many_at_once_get_their_own_text(server: Running) -> None:
    texts = ["bad", "cab ace", "dab", "ebb deed", "add", "bed a", "face"[1:], "cede"]

    def ask(number: int) -> bool:
        text = texts[number % len(texts)]
        found = server.post("/transcribe?format=txt", content=flac_bytes(sing(text)))
        return found.status_code == 200 and found.text == text + "\n"

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(60)))


def test_the_token(tmp_path: Path) -> None:
    with served(tmp_path, LALIA_TOKEN="s3cret") as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        flac = flac_bytes(sing("bad"))
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            found = running.post("/transcribe", content=flac, headers=headers)
            assert found.status_code == 401 and found.headers["www-authenticate"] == "Bearer"
            assert running.get("/metrics", headers=headers).status_code == 401
        given = {"authorization": "Bearer s3cret"}
        assert running.post("/transcribe", content=flac, headers=given).json()["text"] == "bad"
        assert running.get("/").status_code == 200


def test_told_to_stop_it_finishes_what_it_has_begun(tmp_path: Path) -> None:
    with served(tmp_path, "--jobs", 1) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        long = flac_bytes(np.tile(sing("bad cab ace "), 300))
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(running.post("/transcribe", content=long)))
        asking.start()
        wait_for(lambda: running.inside() == 1 or bool(answers))
        running.process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert answers[0].status_code == 200 and answers[0].json()["text"].startswith("bad cab ace")
        assert running.process.wait(60) == 0
        assert running.process.stderr is not None and running.process.stderr.read() == ""
        with pytest.raises(httpx.TransportError):
            running.get("/health")
        assert running.files() == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["absent"], "no such folder"),
        (["{student}", "--port", "99999"], "expected a port from 0 to 65535"),
        (["{student}", "--host", "no.such.host.invalid"], "cannot listen on this address"),
        (["{student}", "--port", "{taken}"], "cannot listen on this address"),
        (["{student}", "--token-file", "absent"], "cannot be read as the token"),
        (["{student}", "--jobs", "0"], "expected a whole number from 1"),
    ],
)
def test_user_errors_are_one_line(tmp_path: Path, capsys, argv: list[str], says: str) -> None:
    from lalia.cli import main

    student = make_student(tmp_path / "tones")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        filled = [a.format(student=student, taken=taken.getsockname()[1]) for a in argv]
        assert main.main(["serve", *filled]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_json_is_for_machines(server: Running) -> None:
    assert json.loads(server.post("/transcribe", content=flac_bytes(np.zeros(16_000, np.float32))).text)["text"] == ""


def test_the_channels_of_an_upload(server: Running) -> None:
    silence = np.zeros(16_000, np.float32)
    left = np.concatenate([sing("bad cab"), silence, np.zeros_like(sing("dad")), silence])
    right = np.concatenate([np.zeros_like(sing("bad cab")), silence, sing("dad"), silence])
    out = io.BytesIO()
    soundfile.write(out, np.stack([left, right], axis=1), 16_000, format="WAV")
    file = {"file": ("call.wav", out.getvalue())}
    found = server.post("/transcribe?channels=each", content=out.getvalue()).json()
    assert [(w["text"], w["channel"]) for w in found["words"]] == [("bad", 1), ("cab", 1), ("dad", 2)]
    assert [(t["channel"], t["text"]) for t in found["turns"]] == [(1, "bad cab"), (2, "dad")]
    assert server.post("/transcribe?format=txt", files=file, data={"channels": "2"}).text == "dad\n"
    openai = {"response_format": "verbose_json", "channels": "each"}
    found = server.post("/v1/audio/transcriptions", files=file, data=openai).json()
    assert [(w["word"], w["channel"]) for w in found["words"]] == [("bad", 1), ("cab", 1), ("dad", 2)]
    assert [(s["channel"], s["text"]) for s in found["segments"]] == [(1, "bad cab"), (2, "dad")]
    assert "channel" not in server.post("/transcribe", content=flac_bytes(sing("ace"))).json()["words"][0]
    for path, data in (("/transcribe?channels=both", {}), ("/v1/audio/transcriptions", {"channels": "both"})):
        refused = server.post(path, files=file, data=data)
        assert refused.status_code == 400 and refused.json()["error"] == {
            "message": "channels 'both': expected mix, each, or a channel number from 1",
            "type": "invalid_request_error", "param": None, "code": "bad_channels",
        }  # fmt: skip
    refused = server.post("/transcribe?channels=3", content=out.getvalue())
    assert refused.status_code == 415 and refused.json()["error"]["message"].endswith("has no channel 3; it has 2")
