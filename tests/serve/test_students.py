"""Many students behind one server: chosen by name or language, loaded and unloaded, replaced by a new version while in use."""

from __future__ import annotations

import base64
import gc
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import serve
from lalia.cli.options import Decoding
from lalia.decoding.decoder import DecodingInputs
from lalia.errors import UserError
from lalia.runtime.student import Student
from lalia.serve.access import Access
from lalia.serve.limits import Limits, RequestError
from lalia.serve.students import Students, load_plain
from tests.scoring.test_compare import Tunes
from tests.serve.test_application import served, wait_for
from tests.serve.test_realtime import pcm_24khz
from tests.tags.test_language_routing import tagger, tune
from tests.tiny_student import SYMBOLS, make_student, sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
OTHER = tuple(symbol.upper() if symbol.isalpha() else symbol for symbol in SYMBOLS)
"""A student of these writes the same tunes in capitals."""


def three(folder: Path) -> Path:
    make_student(folder / "icelandic", language=["isl"])
    make_student(folder / "swahili", OTHER, language=["swh"])
    make_student(folder / "german", language=["deu"])
    return folder


def client_of(service: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=service.application(), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def service_of(students: Students, folder: Path, **settings: Any) -> Any:
    from lalia.serve.application import Service

    return Service(students, Limits(jobs=1), folder, **settings)


def test_names_and_languages_choose(tmp_path: Path) -> None:
    students = Students([three(tmp_path / "students")])
    assert [listed.name for listed in students.listed] == ["german", "icelandic", "swahili"] and not students.loaded
    chosen = [("", ""), ("swahili", ""), ("swahili", "isl"), ("", "sw"), ("auto", "Icelandic"), ("auto", "")]
    assert [students.choose(*asked).name for asked in chosen] == [
        "german", "swahili", "swahili", "swahili", "icelandic", "german",
    ]  # fmt: skip
    for asked, code in ((("whisper-1", ""), "model_not_found"), (("", "fra"), "no_language")):
        with pytest.raises(RequestError, match="there are: ") as refused:
            students.choose(*asked)
        assert refused.value.code == code
    assert Students([tmp_path / "students" / "swahili"]).choose("whisper-1", "fra").name == "swahili"
    with pytest.raises(UserError, match="rename one of the folders"):
        Students([tmp_path / "students", make_student(tmp_path / "german")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        Students([tmp_path / "empty"])


def test_the_least_recently_used_is_unloaded_but_not_while_it_is_held(tmp_path: Path) -> None:
    loads: list[str] = []

    def load(name: str, folder: Path) -> tuple[Student, DecodingInputs]:
        loads.append(name)
        return load_plain(name, folder)

    students = Students([three(tmp_path / "students")], load, keep=2)
    held = students.get("german").in_language("")
    students.get("icelandic"), students.get("german"), students.get("swahili")
    gc.collect()
    assert students.loaded == ["german", "swahili"] and loads == ["german", "icelandic", "swahili"]
    students.get("icelandic")
    assert students.get("german") is held and loads.count("german") == 1  # it was dropped, but a request holds it
    del held
    students.get("swahili"), students.get("icelandic")
    gc.collect()
    assert students.loaded == ["icelandic", "swahili"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_http(tmp_path: Path) -> None:
    students = Students([three(tmp_path / "students")], tagger=tagger())
    async with client_of(service_of(students, tmp_path)) as client:
        file = {"file": ("a.flac", flac_bytes(sing("bad")))}

        async def ask(file: dict[str, Any] = file, **form: str) -> httpx.Response:
            return await client.post("/v1/audio/transcriptions", files=file, data=form)

        assert (await ask(model="swahili")).json()["text"] == "BAD"
        assert (await ask(language="sw")).json()["text"] == "BAD"
        assert (await ask()).json()["text"] == "bad"
        full = (await ask(model="auto", language="is", response_format="verbose_json")).json()
        assert full["text"] == "bad" and full["language"] == "isl"
        refused = await ask(model="whisper-1")
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        listed = (await client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["german", "icelandic", "swahili"]
        assert (
            listed[2]["languages"] == {"swh": "Swahili"}
            and (await client.get("/v1/models/swahili")).json() == listed[2]
        )
        both = {"file": ("a.flac", flac_bytes(np.concatenate([tune("ab ", 30.0), tune("eee ", 30.0)])))}
        found = (await ask(both, language="auto", response_format="verbose_json", prompt="ab")).json()
        assert found["language"] == "swh,isl" and "AB" in found["text"] and "eee" in found["text"]
        assert found["segments"][0]["tokens"] == [] and "languages: swh" in found["warnings"][-1]
        refused = await ask(language="auto", channels="each")
        assert refused.status_code == 400 and "mixes channels" in refused.text
        assert (await client.put("/v1/models/swahili")).status_code == 403  # without a token
    async with client_of(service_of(Students([tmp_path / "students"]), tmp_path)) as client:
        refused = await client.post("/transcribe?language=auto", content=b"x")
        assert refused.status_code == 400 and "--tagger" in refused.text


def swap(folder: Path, make: Callable[[Path], Path]) -> None:
    """A new version in the place of ``folder``."""
    shutil.rmtree(folder)
    make(folder)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_new_version_after_it_passed_the_gate(tmp_path: Path) -> None:
    worse: list[str] = []

    def gate(before: Student, after: Student) -> str:
        if worse:
            raise UserError("WER 10 % before, 90 % now")
        return "as good"

    folder = three(tmp_path / "students") / "swahili"
    students = Students([tmp_path / "students"], gate=gate)
    async with client_of(service_of(students, tmp_path, access=Access("secret"))) as client:
        client.headers["Authorization"] = "Bearer secret"

        async def text() -> str:
            return (await client.post("/transcribe?format=txt&model=swahili", content=flac_bytes(sing("bad")))).text

        assert await text() == "BAD\n"
        before = students.get("swahili")
        swap(folder, lambda path: make_student(path, language=["swh"]))
        assert await text() == "BAD\n"  # until it is told
        worse.append("much")
        refused = await client.put("/v1/models/swahili")
        assert refused.status_code == 409 and "90 % now" in refused.json()["error"]["message"]
        assert await text() == "BAD\n"
        worse.clear()
        replaced = await client.put("/v1/models/swahili")
        assert replaced.status_code == 200 and replaced.json()["gate"] == "as good"
        assert await text() == "bad\n" and before.student.transcribe(sing("bad")).text == "BAD"
        assert replaced.json()["version"] != before.student.card["id"]
        (folder / "tokens.txt").unlink()
        broken = await client.put("/v1/models/swahili")
        assert broken.status_code == 409 and "tokens.txt" in broken.text and await text() == "bad\n"
        assert (await client.put("/v1/models/finnish")).json()["error"]["code"] == "model_not_found"
        make_student(tmp_path / "students" / "finnish", language=["fin"])
        assert (await client.put("/v1/models/finnish")).status_code == 200
        assert students.choose("", "fin").name == "finnish"
        client.headers["Authorization"] = "Bearer wrong"
        assert (await client.put("/v1/models/finnish")).status_code == 401


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_folder_that_vanishes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    students = Students([three(tmp_path / "students")])
    async with client_of(service_of(students, tmp_path)) as client:
        ask = "/transcribe?format=txt&model="
        assert (await client.post(ask + "german", content=flac_bytes(sing("bad")))).text == "bad\n"
        shutil.rmtree(tmp_path / "students")
        assert (await client.post(ask + "german", content=flac_bytes(sing("bad")))).text == "bad\n"
        gone = await client.post(ask + "swahili", content=flac_bytes(sing("bad")))
        assert gone.status_code == 503 and gone.json()["error"]["code"] == "model_unavailable"
        assert str(tmp_path) not in gone.text and "swahili cannot be loaded" in caplog.text
        assert any("stays at its old version" in line for line in students.reload())
        assert (await client.post(ask + "german", content=flac_bytes(sing("bad")))).text == "bad\n"


def test_students_that_come_and_go(tmp_path: Path) -> None:
    students = Students([three(tmp_path / "students")])
    students.get("german"), students.get("swahili")
    shutil.rmtree(tmp_path / "students" / "german")
    make_student(tmp_path / "students" / "finnish", language=["fin"])
    lines = list(students.reload())
    assert [listed.name for listed in students.listed] == ["finnish", "icelandic", "swahili"]
    assert [line.split()[0] for line in lines] == ["german", "finnish", "swahili"] and students.loaded == ["swahili"]


def test_a_signal_replaces_what_is_served(tmp_path: Path) -> None:
    """With streams and Realtime sessions by name and language, in one server."""
    websockets = pytest.importorskip("websockets.sync.client")
    exceptions = pytest.importorskip("websockets.exceptions")
    folder = three(tmp_path / "students")
    with served(tmp_path, student=folder) as server:
        post = lambda: server.post("/transcribe?format=txt&model=swahili", content=flac_bytes(sing("bad"))).text  # noqa: E731
        assert post() == "BAD\n"
        for query, status in (
            ("?model=finnish", 404),
            ("?language=fra", 400),
            ("?language=auto", 400),
            ("?model=swahili", 400),
        ):
            with pytest.raises(exceptions.InvalidStatus) as refused:
                websockets.connect(f"ws://127.0.0.1:{server.port}/stream{query}", open_timeout=60)
            assert refused.value.response.status_code == status, query
        realtime = f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription"
        with websockets.connect(realtime, open_timeout=60) as socket:

            def ask(message: dict[str, Any], last: str) -> dict[str, Any]:
                socket.send(json.dumps(message))
                while (answer := json.loads(socket.recv(timeout=60)))["type"] not in (last, "error"):
                    pass
                return dict(answer)

            def update(**transcription: str) -> dict[str, Any]:
                audio = {"input": {"transcription": transcription, "turn_detection": None}}
                return ask({"type": "session.update", "session": {"audio": audio}}, "session.updated")

            assert update(model="finnish")["error"]["code"] == "model_not_found"
            assert update(language="auto")["error"]["code"] == "no_tagger"
            assert update(model="swahili")["session"]["audio"]["input"]["transcription"]["model"] == "swahili"
            audio = base64.b64encode(pcm_24khz(sing("bad"))).decode()
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            done = ask({"type": "input_audio_buffer.commit"}, "conversation.item.input_audio_transcription.completed")
            assert done["transcript"] == "BAD"
        swap(folder / "swahili", lambda path: make_student(path, language=["swh"]))
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: post() == "bad\n")


def test_the_gate_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Corpus(Tunes):
        language_names: tuple[str, ...] = ("ita",)

        def select(self, **_: object) -> np.ndarray:
            return np.arange(3)

    monkeypatch.setattr(serve, "open_corpus", lambda path: Corpus())
    gate = serve._gate(tmp_path / "corpus")
    good = Student.load(make_student(tmp_path / "good"))
    deaf = Student.load(make_student(tmp_path / "deaf", symbols=("<blank>", "|", "b", "a", "d", "e", "c")))
    assert gate(deaf, good).endswith("not significantly worse")
    with pytest.raises(UserError, match=r"corpus: WER 20\.0 % before, 100\.0 % now, 3 clips: significantly worse"):
        gate(good, deaf)


def test_decoding_files_of_each_student(tmp_path: Path) -> None:
    for made in ("lms/swahili", "lm"):
        (tmp_path / made).mkdir(parents=True)
    (tmp_path / "lm" / "card.json").touch()
    (tmp_path / "hot").mkdir()
    (tmp_path / "hot" / "swahili.txt").touch()
    files = Decoding(lm=tmp_path / "lms", rescore=tmp_path / "lm", hot=tmp_path / "hot")
    own = files.of_student("swahili")
    assert own == Decoding(tmp_path / "lms" / "swahili", tmp_path / "lm", tmp_path / "hot" / "swahili.txt")
    assert files.of_student("german") == Decoding(rescore=tmp_path / "lm")
