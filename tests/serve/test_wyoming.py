"""Home Assistant's protocol, spoken by its own client package to a server in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from lalia.cli import main
from lalia.runtime.student import Student
from lalia.serve.access import Access
from lalia.serve.limits import Limits
from lalia.serve.students import Students
from tests.models.test_chunks import noise
from tests.tiny_student import make_student, sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
wyoming = pytest.importorskip("wyoming", reason="the client package of Home Assistant is not installed")
from wyoming.asr import Transcribe, Transcript  # noqa: E402
from wyoming.audio import AudioChunk, AudioStart, AudioStop  # noqa: E402
from wyoming.client import AsyncTcpClient  # noqa: E402
from wyoming.error import Error  # noqa: E402
from wyoming.event import Event  # noqa: E402
from wyoming.info import Describe, Info  # noqa: E402
from wyoming.ping import Ping, Pong  # noqa: E402


@asynccontextmanager
async def wyoming_server(
    folders: list[Path], tmp_path: Path, voice: bool = False, **limits: Any
) -> AsyncIterator[tuple[Any, int]]:
    """The service of these students, and the port of its Wyoming server."""
    from lalia.serve.application import Service
    from lalia.serve.wyoming import attach

    service = Service(Students(folders), Limits(jobs=1, **limits), tmp_path, Access(log=True), voice)
    bound = socket.create_server(("127.0.0.1", 0))
    application = service.application()
    attach(application, service, bound)
    async with application.router.lifespan_context(application):
        yield service, bound.getsockname()[1]


def talk(
    folders: list[Path], tmp_path: Path, scenario: Callable[[Any, AsyncTcpClient], Awaitable[None]], **limits: Any
) -> None:
    """Run ``scenario`` with the service and a connected client; afterwards no place is taken."""

    async def run() -> None:
        async with wyoming_server(folders, tmp_path, **limits) as (service, port):
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await asyncio.wait_for(scenario(service, client), 60)
            for _ in range(100):
                if not service.active:
                    break
                await asyncio.sleep(0.01)
            assert not service.active and not service.streams

    asyncio.run(run())


async def send(client: AsyncTcpClient, data: bytes, rate: int = 16_000, width: int = 2, channels: int = 1) -> None:
    """Audio in pieces that are not whole samples, then its end."""
    await client.write_event(AudioStart(rate, width, channels).event())
    for start in range(0, len(data), 2_047):
        await client.write_event(AudioChunk(rate, width, channels, data[start : start + 2_047]).event())
    await client.write_event(AudioStop().event())


async def read(client: AsyncTcpClient, last: str = "transcript") -> list[Event]:
    events: list[Event] = []
    while not events or events[-1].type != last:
        event = await client.read_event()
        assert event is not None, events
        events.append(event)
    return events


def pcm(wave_S: np.ndarray, width: int = 2, channels: int = 1) -> bytes:
    levels = np.repeat(np.rint(wave_S.astype(np.float64) * ((1 << 8 * width - 1) - 1)).astype(np.int64), channels)
    if width == 1:
        return (levels + 128).astype(np.uint8).tobytes()
    return levels.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("students") / "tones", language=["ita"])


def test_with_voice_a_command_of_tones_has_no_words(tones: Path, tmp_path: Path) -> None:
    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        await send(client, pcm(sing("bad cab")))
        [answer] = await read(client)
        assert Transcript.from_event(answer).text == ""

    talk([tones], tmp_path, scenario, voice=True)


def test_a_describe_and_commands_of_any_format(tones: Path, tmp_path: Path, caplog) -> None:
    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        await client.write_event(Describe().event())
        [found] = await read(client, "info")
        [program] = Info.from_event(found).asr
        assert program.name == "lalia" and program.installed and not program.supports_transcript_streaming
        assert [(model.name, model.languages) for model in program.models] == [("tones", ["it"])]
        for rate, width, channels in ((16_000, 2, 1), (48_000, 2, 2), (8_000, 4, 1), (16_000, 3, 1), (22_050, 1, 2)):
            wave_S = soxr.resample(sing("bad cab"), 16_000, rate)
            await client.write_event(Transcribe(language="it-IT").event())
            await send(client, pcm(wave_S, width, channels), rate, width, channels)
            [answer] = await read(client)
            assert Transcript.from_event(answer).text == "bad cab", (rate, width, channels)
            assert answer.data["language"] == "it"
        await client.write_event(Ping("here?").event())
        await client.write_event(Event("run-pipeline", {"start_stage": "asr"}))
        await client.write_event(Ping("still?").event())
        assert [Pong.from_event(event).text for event in await read(client, "pong")] == ["here?"]
        assert 'lalia_requests_total{route="wyoming",status="200"} 5' in service.metrics.render({})

    caplog.set_level(logging.INFO, "lalia.serve")
    talk([tones], tmp_path, scenario)
    [line] = {record.getMessage().split(" in ")[0] for record in caplog.records if "Wyoming" in record.getMessage()}
    assert line == '127.0.0.1 "Wyoming transcribe" 200'


def test_words_of_a_streaming_student_come_before_the_audio_ends(streaming_student: Path, tmp_path: Path) -> None:
    data = pcm(noise(48_000)[0].numpy())

    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        await client.write_event(Describe().event())
        assert Info.from_event((await read(client, "info"))[0]).asr[0].supports_transcript_streaming
        await client.write_event(AudioChunk(16_000, 2, 1, data).event())  # without audio-start
        early = await read(client, "transcript-chunk")
        await client.write_event(AudioStop().event())
        events = early + await read(client, "transcript-stop")
        assert events[0].type == "transcript-start" and events[-2].type == "transcript"
        chunks = [event.data["text"] for event in events if event.type == "transcript-chunk"]
        wave_S = np.frombuffer(data, "<i2").astype(np.float32) / 32_768
        text = Student.load(streaming_student, threads=1).transcribe(wave_S).text
        assert len(chunks) > 1 and "".join(chunks) == Transcript.from_event(events[-2]).text == text

    talk([streaming_student], tmp_path, scenario)


def test_names_and_languages_choose_a_student(tones: Path, tmp_path: Path) -> None:
    capitals = make_student(tmp_path / "capitals", ("<blank>", "|", "A", "B", "C", "D", "E"), language=["swh"])

    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        for name, language, text in ((None, None, "bad"), ("capitals", None, "BAD"), (None, "sw", "BAD")):
            await client.write_event(Transcribe(name, language, transcript_names=["Bad, cab"]).event())
            await send(client, pcm(sing("bad")))
            assert Transcript.from_event((await read(client))[-1]).text == text
        await client.write_event(Transcribe(language="de").event())
        await send(client, bytes(4_000_000))  # it is refused before all of this has arrived
        error = Error.from_event((await read(client, "error"))[-1])
        assert error.code == "no_language" and "'de'" in error.text and await client.read_event() is None

    talk([tones, capitals], tmp_path, scenario)


def line(**event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bad_event", "Wyoming"),
        (b"[1]\n", "bad_event", "not a JSON object"),
        (b"[" * 60_000 + b"\n", "bad_event", "not a JSON object"),
        (b"x" * 200_000, "too_large", "65536"),
        (line(type="describe", data_length=-1), "bad_event", "data_length is -1"),
        (line(type="audio-chunk", payload_length=1 << 40), "bad_event", "payload_length is 1099511627776"),
        (line(type="ping", data_length=3) + b"\xff{}", "bad_event", "the data"),
        (line(type=7), "bad_event", "a type"),
        (line(type="audio-start", data={"rate": 0}), "bad_audio", "rate is 0"),
        (line(type="audio-start", data={"rate": 16_000, "width": "2"}), "bad_audio", "width is 2"),
        (line(type="audio-start", data={"channels": True}), "bad_audio", "channels is True"),
        (line(type="audio-stop"), "no_audio", "without audio"),
        (line(type="transcribe", data={"language": 3}) + line(type="audio-start"), "bad_event", "language is '3'"),
        (line(type="transcribe", data={"transcript_terms": ["a"] * 3}) + line(type="audio-start"), "too_many_words", "3"),
        (b'{"type": "ping"', "too_slow", "no event for 0.5 s"),
        (line(type="ping", payload_length=9), "too_slow", "did not arrive"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_answered_and_the_connection_closed(
    sent: bytes, code: str, says: str, tones: Path, tmp_path: Path
) -> None:
    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        assert client._writer is not None
        client._writer.write(sent)
        error = Error.from_event((await read(client, "error"))[-1])
        assert error.code == code and says in error.text
        assert await client.read_event() is None

    talk([tones], tmp_path, scenario, idle_s=0.5, patience_s=0.5, hot_words=2)


def hostile(dice: random.Random) -> bytes:
    """An event with wrong types, sizes and ends, or one that is nearly right."""
    types = (
        "describe",
        "transcribe",
        "audio-start",
        "audio-chunk",
        "audio-chunk",
        "audio-stop",
        "ping",
        "synthesize",
        "",
    )
    values: tuple[Any, ...] = (
        None,
        True,
        0,
        -1,
        3,
        16_000,
        10**30,
        1e308,
        float("nan"),
        "it",
        "",
        "\0",
        [],
        ["a"],
        [1],
        {},
        {"a": 1},
    )
    names = ("rate", "width", "channels", "language", "name", "transcript_names", "transcript_terms", "text")
    data: dict[str, Any] = {dice.choice(names): dice.choice(values) for _ in range(dice.randrange(4))}
    if dice.random() < 0.5:
        data = {"rate": dice.choice((8_000, 44_100)), "width": dice.randint(1, 4), "channels": dice.randint(1, 3)}
    event: dict[str, Any] = {"type": dice.choice(types), "data": data}
    payload, behind = dice.randbytes(dice.choice((0, 0, 1, 7, 5_000))), b""
    if dice.random() < 0.3:
        behind = json.dumps(event.pop("data")).encode()
        event["data_length"] = len(behind)
    if payload:
        event["payload_length"] = len(payload)
    sent = json.dumps(event).encode() + b"\n" + behind + payload
    return dice.choice((sent, sent, sent, sent[: dice.randrange(len(sent))], dice.randbytes(50)))


def test_hostile_events_harm_nobody(tones: Path, tmp_path: Path) -> None:
    async def attack(port: int, seed: int) -> bytes:
        dice = random.Random(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.writelines([hostile(dice) for _ in range(dice.randrange(1, 9))])
        if dice.random() < 0.3:
            writer.transport.abort()
            return b""
        writer.write_eof()
        answers = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answers

    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        port = client._writer.get_extra_info("peername")[1]  # type: ignore[union-attr]
        answers = await asyncio.gather(*(attack(port, seed) for seed in range(120)))
        assert sum(b'"error"' in answer for answer in answers) > 30
        assert "lalia_faults_total 0" in service.metrics.render({})
        await send(client, pcm(sing("bad cab")))
        assert Transcript.from_event((await read(client))[-1]).text == "bad cab"

    talk([tones], tmp_path, scenario, patience_s=5.0)


def test_limits_and_faults(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    async def scenario(service: Any, client: AsyncTcpClient) -> None:
        port = client._writer.get_extra_info("peername")[1]  # type: ignore[union-attr]
        await client.write_event(AudioStart(16_000, 2, 1).event())
        await client.write_event(Ping().event())
        await read(client, "pong")
        async with AsyncTcpClient("127.0.0.1", port) as second:  # the only place is taken
            await second.write_event(AudioStart(16_000, 2, 1).event())
            assert Error.from_event((await read(second, "error"))[-1]).code == "busy"
        async with AsyncTcpClient("127.0.0.1", port) as second, AsyncTcpClient("127.0.0.1", port) as third:
            await second.write_event(Ping().event())
            await read(second, "pong")
            assert Error.from_event((await read(third, "error"))[-1]).code == "busy"  # the third connection
        monkeypatch.setattr("lalia.serve.wyoming.LONGEST_S", 1.0)
        await client.write_event(AudioChunk(8_000, 1, 1, bytes(9_000)).event())
        assert Error.from_event((await read(client, "error"))[-1]).code == "too_long"
        async with AsyncTcpClient("127.0.0.1", port) as second:
            monkeypatch.setattr("lalia.serve.wyoming._Format.decode", lambda *_: 1 / 0)
            await second.write_event(AudioChunk(16_000, 2, 1, bytes(64)).event())
            fault = Error.from_event((await read(second, "error"))[-1])
            assert fault.code == "fault" and "ZeroDivisionError" in fault.text
        [record] = [record for record in caplog.records if "fault" in record.getMessage()]
        assert record.args is not None and str(record.args[0]) in fault.text

    talk([tones], tmp_path, scenario, streams=1, connections=2)


def test_an_answer_is_awaited_at_the_end_of_the_server(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with wyoming_server([tones], tmp_path) as (service, port):
            queued, add = asyncio.Event(), service.scheduler.add
            monkeypatch.setattr(service.scheduler, "add", lambda job: queued.set() or add(job))  # type: ignore[func-returns-value]
            client, idle = AsyncTcpClient("127.0.0.1", port), AsyncTcpClient("127.0.0.1", port)
            await client.connect()
            await idle.connect()
            await send(client, pcm(sing("bad cab")))
            await queued.wait()
        assert Transcript.from_event((await read(client))[-1]).text == "bad cab"
        assert await idle.read_event() is None

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_token_cannot_guard_it(tones: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("LALIA_TOKEN", "secret")
    assert main.main(["serve", str(tones), "--port", "0", "--wyoming", "0"]) == 2
    assert "--wyoming: its protocol has no token" in capsys.readouterr().err
