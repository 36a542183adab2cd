"""OpenAI's API through OpenAI's own client: files, events, and the Realtime protocol for transcription."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from lalia.audio.encoding import flac_bytes
from lalia.serve.realtime import _decoded
from tests.journeys.material import committed
from tests.models.test_chunks import noise
from tests.serve.test_application import Running, served, wait_for
from tests.tiny_student import sing

openai = pytest.importorskip("openai", reason="the extra [dev] is not installed")
TOKEN = "s3cret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("server"), "--jobs", 2, LALIA_TOKEN=TOKEN) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        yield running


def pcm_24khz(wave_S: np.ndarray) -> bytes:
    return np.rint(soxr.resample(wave_S, 16_000, 24_000) * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()


def coded(wave_S: np.ndarray, subtype: str) -> bytes:
    """G.711 at 8 kHz, as libsndfile writes it."""
    out = io.BytesIO()
    soundfile.write(out, soxr.resample(wave_S, 16_000, 8_000), 8_000, format="RAW", subtype=subtype)
    return out.getvalue()


def talk(
    port: int, session: dict[str, Any], audio: bytes, end: Callable[[Any], bool], commit: bool = True
) -> list[Any]:
    """All events of a session in which ``audio`` is sent in pieces of odd sizes, until ``end`` is true of one."""

    async def main() -> list[Any]:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=TOKEN)
        events = []
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            await connection.session.update(session={"type": "transcription", "audio": {"input": session}})
            for start in range(0, len(audio), 7_777):
                piece = base64.b64encode(audio[start : start + 7_777]).decode()
                await connection.input_audio_buffer.append(audio=piece)
            if commit:
                await connection.input_audio_buffer.commit()
            async for event in connection:
                events.append(event)
                if end(event):
                    break
        return events

    return asyncio.run(asyncio.wait_for(main(), 120))


def is_completed(event: Any) -> bool:
    return bool(event.type == "conversation.item.input_audio_transcription.completed")


def test_files_through_the_client(server: Running) -> None:
    client = openai.OpenAI(base_url=server.url("/v1"), api_key=TOKEN)
    [model] = client.models.list().data
    assert client.models.retrieve(model.id).created == model.created
    ask = client.audio.transcriptions.create
    file = ("talk.flac", flac_bytes(sing("bad cab")))
    assert ask(model="whisper-1", file=file).text == "bad cab"
    full = ask(
        model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"],
        temperature=0, prompt="cab, ace", language="ita",
    )  # fmt: skip
    new = ask(
        model="gpt-transcribe", file=file, keywords=["cab", "ace"], languages=["it", "en"], include=["logprobs"],
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
    )  # fmt: skip
    assert new.text == "bad cab"
    assert [word.word for word in full.words] == ["bad", "cab"] and full.segments[0].text == "bad cab"
    assert full.usage.seconds == 2 and full.segments[0].avg_logprob <= 0
    assert "-->" in ask(model="whisper-1", file=file, response_format="srt")
    *deltas, last = ask(model="whisper-1", file=file, stream=True)
    assert last.text == "".join(delta.delta for delta in deltas) == "bad cab"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url("/v1"), api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("whisper-1")
    with pytest.raises(openai.APIStatusError, match="not a supported audio file") as refused:
        ask(model="whisper-1", file=("a.wav", b"<html>"))
    assert refused.value.code == "bad_audio"


@pytest.mark.parametrize(
    ("format", "code"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, pcm_24khz),
        ({"type": "audio/pcmu"}, lambda wave: coded(wave, "ULAW")),
        ({"type": "audio/pcma"}, lambda wave: coded(wave, "ALAW")),
    ],
)
def test_an_item_that_the_client_commits(server: Running, format: dict[str, Any], code: Callable) -> None:
    session = {"format": format, "turn_detection": None, "transcription": {"model": "whisper-1", "prompt": "cab"}}
    events = talk(server.port, session, code(sing("bad cab")), is_completed)
    assert events[-1].transcript == "bad cab" and events[-1].usage.seconds == pytest.approx(1.4, abs=0.3)
    assert [event.type for event in events] == [
        "session.created", "session.updated", "input_audio_buffer.committed", "conversation.item.added",
        "conversation.item.done", "conversation.item.input_audio_transcription.delta", events[-1].type,
    ]  # fmt: skip
    assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1


def test_with_voice_a_file_and_an_item_of_tones_have_no_words(tmp_path: Path) -> None:
    with served(tmp_path, "--voice", LALIA_TOKEN=TOKEN) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        client = openai.OpenAI(base_url=running.url("/v1"), api_key=TOKEN)
        file = ("talk.flac", flac_bytes(sing("bad cab")))
        assert client.audio.transcriptions.create(file=file, model="lalia").text == ""
        session = {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": None}
        assert talk(running.port, session, pcm_24khz(sing("bad cab")), is_completed)[-1].transcript == ""


def test_pauses_end_items(server: Running) -> None:
    """Three clips of real speech with pauses of a second are three items, whose times are those of the speech."""
    parts, edges, now = [], [], 0.0
    for clip in [clip for clip in committed() if clip.language == "swh"][:3]:
        parts += [clip.wave(), np.zeros(16_000, np.float32)]
        edges.append((now, now + len(parts[-2]) / 16_000))
        now = edges[-1][1] + 1
    seen: list[Any] = []

    def third(event: Any) -> bool:
        seen.append(event)
        return sum(map(is_completed, seen)) == 3

    session = {"turn_detection": {"type": "server_vad", "silence_duration_ms": 600, "prefix_padding_ms": 200}}
    events = talk(server.port, session, pcm_24khz(np.concatenate(parts)), third, commit=False)
    starts = [event.audio_start_ms / 1000 for event in events if event.type.endswith("speech_started")]
    ends = [event.audio_end_ms / 1000 for event in events if event.type.endswith("speech_stopped")]
    for (start, end), heard_start, heard_end in zip(edges, starts, ends, strict=True):
        assert start - 0.3 < heard_start < start + 0.7 and end - 1.5 < heard_end < end + 1.0


def test_words_of_a_streaming_student_are_deltas(streaming_student: Path, tmp_path: Path) -> None:
    with served(tmp_path, student=streaming_student, LALIA_TOKEN=TOKEN) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        audio = pcm_24khz(noise(48_000)[0].numpy())
        events = talk(running.port, {"turn_detection": None}, audio, is_completed)
    deltas = [event.delta for event in events if event.type.endswith("transcription.delta")]
    assert len(deltas) > 1 and "".join(deltas) == events[-1].transcript


def test_wrong_messages_are_answered_and_change_nothing(server: Running) -> None:
    from websockets.sync.client import connect

    headers = {"Authorization": f"Bearer {TOKEN}", "OpenAI-Beta": "realtime=v1"}
    address = f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription"
    wrong: list[tuple[object, str]] = [
        (b"\0\0", "invalid_message"),
        ("{", "invalid_json"),
        ("[]", "invalid_event"),
        ({"type": "response.create", "event_id": "e1"}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "***"}, "invalid_audio"),
        ({"type": "input_audio_buffer.append"}, "invalid_audio"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": "session.update", "session": 3}, "invalid_value"),
        ({"type": "transcription_session.update", "session": {"input_audio_format": "mp3"}}, "invalid_value"),
        ({"type": "transcription_session.update", "session": {"turn_detection": {"threshold": 7}}}, "invalid_value"),
        ({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "mp3"}}}}}, "invalid_value"),
    ]  # fmt: skip
    with connect(address, additional_headers=headers, open_timeout=60) as socket:

        def ask(message: object) -> dict[str, Any]:
            socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
            return json.loads(socket.recv(timeout=60))

        assert json.loads(socket.recv(timeout=60))["type"] == "transcription_session.created"
        for message, code in wrong:
            answer = ask(message)
            assert answer["type"] == "error" and answer["error"]["code"] == code, answer
            assert answer["error"]["event_id"] == (message.get("event_id") if isinstance(message, dict) else None)
        session = {"input_audio_format": "pcm16", "turn_detection": None, "input_audio_transcription": {"model": "x"}}
        found = ask({"type": "transcription_session.update", "session": session})
        assert found["type"] == "transcription_session.updated" and found["session"]["turn_detection"] is None
        for _ in range(2):
            audio = base64.b64encode(pcm_24khz(sing("ace"))).decode()
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            if _ == 0:
                assert ask({"type": "input_audio_buffer.clear"})["type"] == "input_audio_buffer.cleared"
        assert ask({"type": "input_audio_buffer.commit"})["type"] == "input_audio_buffer.committed"
        assert json.loads(socket.recv(timeout=60))["type"] == "conversation.item.created"
        assert json.loads(socket.recv(timeout=60))["delta"] == "ace"
    with connect(address, subprotocols=["realtime", f"openai-insecure-api-key.{TOKEN}"], open_timeout=60) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "realtime" and json.loads(socket.recv(timeout=60))["type"] == "session.created"


@pytest.mark.parametrize(("format", "subtype"), [("audio/pcmu", "ULAW"), ("audio/pcma", "ALAW")])
def test_g711_is_libsndfile_s(format: str, subtype: str) -> None:
    codes = bytes(range(256))
    told, _ = soundfile.read(
        io.BytesIO(codes), samplerate=8_000, channels=1, format="RAW", subtype=subtype, dtype="float32"
    )
    np.testing.assert_array_equal(_decoded(codes, format), told)
