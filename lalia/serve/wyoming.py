"""The Wyoming protocol of Home Assistant: transcription over TCP (``lalia serve STUDENT --wyoming 10300``).

An event is a line of JSON with a ``type``; its ``data`` stand in the line or, as JSON of ``data_length`` bytes, behind it, then
``payload_length`` bytes of audio. A client sends ``describe`` and gets ``info``; or it sends ``transcribe`` (model, language,
words to boost), ``audio-start``, ``audio-chunk`` with PCM of any rate, width and number of channels, and ``audio-stop``, and gets
a ``transcript``. Words of a streaming student come during speech, between ``transcript-start`` and ``transcript-stop``. Events of
other kinds are dropped, as the protocol asks. What is wrong is answered with ``error``; then the connection is closed.

Source: https://github.com/OHF-Voice/wyoming
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia import __version__
from lalia.audio.reading import Resampler, ignore_note
from lalia.decoding.greedy import text_of_words
from lalia.runtime.streaming import Stream
from lalia.runtime.student import TranscribeOptions
from lalia.serve.access import RequestName
from lalia.serve.limits import RequestError, busy
from lalia.serve.scheduler import Job
from lalia.serve.students import Served
from lalia.serve.websocket import PIECE_S, Worker
from lalia.text.language_codes import iso_639_1
from lalia.units import SAMPLE_RATE, Samples, Seconds, clock, to_samples, to_seconds

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from lalia.serve.application import Service

LONGEST_S: Seconds = 300.0
"""Audio from ``audio-start`` to ``audio-stop``, which is kept in memory unless the student streams."""
LINE_BYTES = 65_536
_RATES, _WIDTHS, _CHANNELS = (8_000, 192_000), (1, 4), (1, 32)
_ROUTE = "wyoming"
_LINGER_S: Seconds = 2.0


@dataclass(frozen=True)
class Event:
    """One event of the protocol."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        data = json.dumps(self.data, ensure_ascii=False).encode()
        line = {"type": self.type, "version": __version__, "data_length": len(data)}
        return json.dumps(line).encode() + b"\n" + data


@dataclass(frozen=True)
class _Format:
    """PCM: samples per second, bytes per sample, channels side by side."""

    rate: int = SAMPLE_RATE
    width: int = 2
    channels: int = 1

    def of(self, data: Mapping[str, Any]) -> _Format:
        """This format with the values of ``data``; ``RequestError`` names a wrong one."""
        values = {"rate": self.rate, "width": self.width, "channels": self.channels}
        for name, (least, most) in (("rate", _RATES), ("width", _WIDTHS), ("channels", _CHANNELS)):
            value = values[name] = data.get(name, values[name])
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise RequestError(
                    400, "bad_audio", f"{name} is {str(value)[:40]}; expected a whole number from {least} to {most}"
                )
        return _Format(**values)

    def decode(self, data: bytes) -> np.ndarray:
        """The mean of the channels, float32 from -1 to 1; ``data`` are whole samples of all channels."""
        if self.width == 1:
            wave = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
        elif self.width == 3:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            wave = wide.view("<i4")[:, 0].astype(np.float32) / (1 << 31)
        else:
            wave = np.frombuffer(data, f"<i{self.width}").astype(np.float32) / (1 << 8 * self.width - 1)
        return wave.reshape(-1, self.channels).mean(1)


class _Utterance:
    """The audio between ``audio-start`` and ``audio-stop``, and what is transcribed of it so far."""

    def __init__(self, served: Served, stream: Stream | None, format: _Format) -> None:
        self.served = served
        self.stream = stream
        self.parts: list[np.ndarray] = []
        self.samples: Samples = 0
        self.shown = ""
        self._begin(format)

    def _begin(self, format: _Format) -> None:
        self.format, self._resampler, self._rest = format, Resampler(format.rate), b""

    def decode(self, payload: bytes, format: _Format) -> np.ndarray:
        """The samples at 16 kHz that ``payload`` completes; its format may differ from that of the audio before it."""
        before_S = np.zeros(0, np.float32)
        if format != self.format:
            before_S = self.end()
            self._begin(format)
        data = self._rest + payload
        size = format.width * format.channels
        whole = len(data) // size * size
        self._rest = data[whole:]
        return np.concatenate([before_S, self._resampler(format.decode(data[:whole]))])

    def end(self) -> np.ndarray:
        """The samples that the resampler still holds."""
        return self._resampler(np.zeros(0, np.float32), last=True)

    def take(self, wave_S: np.ndarray, last: bool = False) -> str:
        """Transcribe ``wave_S`` with a streaming student, else keep it; what is new of the text."""
        if self.stream is None:
            self.parts.append(wave_S)
            return ""
        if len(wave_S):
            self.stream.feed(wave_S)
        if last:
            self.stream.finish()
        text = text_of_words(self.stream.words)
        new, self.shown = text[len(self.shown) :], text
        return new


class _Client(Worker):
    """One connection: utterances one after the other."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        super().__init__(service, str(peer[0]) if peer else "")
        self._reader, self._writer = reader, writer
        self._wanted: Mapping[str, Any] = {}
        self._utterance: _Utterance | None = None
        self._name = self._new_name()
        self._inside = False
        self._answering = False
        self._closing = False

    def close(self) -> None:
        """End the connection, after the answer if the audio has ended."""
        self._closing = True
        if not self._answering:
            self._writer.close()

    async def run(self) -> None:
        """Answer events until the client leaves or sends a wrong one."""
        try:
            while not self._closing and (event := await self._read()) is not None:
                await self._answer(event)
        except (OSError, EOFError):
            pass  # it left
        except Exception as error:  # a bug here fails only this connection
            failed = self._service.as_request_error(error, self._name)
            self._end(failed.status)
            with contextlib.suppress(OSError, RequestError, asyncio.TimeoutError):
                await self._write("error", text=str(failed), code=failed.code)
                await asyncio.wait_for(self._discard(), _LINGER_S)
        finally:
            self._end(499)
            self._writer.close()

    async def _discard(self) -> None:
        """Read on: a client that is still sending would get a connection reset instead of the error."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        while await self._reader.read(LINE_BYTES):
            pass

    async def _answer(self, event: Event) -> None:
        if event.type == "describe":
            await self._write("info", **_info(self._service))
        elif event.type == "ping":
            await self._write("pong", text=event.data.get("text"))
        elif event.type == "transcribe":
            self._wanted = event.data
        elif event.type == "audio-start":
            await self._begin(_Format().of(event.data))
        elif event.type == "audio-chunk":
            if self._utterance is None:
                await self._begin(_Format().of(event.data))
            await self._hear(event)
        elif event.type == "audio-stop":
            self._answering = True
            await self._finish()
            self._answering = False

    async def _begin(self, format: _Format) -> None:
        self._end(499)  # an utterance that was not stopped
        self._name = self._new_name()
        texts = {name: _text(self._wanted, name) for name in ("name", "language")}
        phrases = "\n".join(_texts(self._wanted, "transcript_names") + _texts(self._wanted, "transcript_terms"))
        self._inside = self._service.enter(stream=True)
        served = await self._service.served(texts["name"], texts["language"])
        decoder = served.decoder(phrases, self._service.limits.hot_words, ignore_note)
        stream = None
        if served.student.chunks is not None:
            stream = served.student.stream(decoder=decoder, voice=self._service.voice)
        self._utterance = _Utterance(served, stream, format)
        self._phrases = phrases
        if stream is not None:
            await self._write("transcript-start", language=_short(served.language))

    async def _hear(self, event: Event) -> None:
        utterance = self._utterance
        assert utterance is not None
        wave_S = utterance.decode(event.payload, utterance.format.of(event.data))
        size = to_samples(PIECE_S)
        for start in range(0, len(wave_S), size):
            await self._take(utterance, wave_S[start : start + size])

    async def _take(self, utterance: _Utterance, wave_S: np.ndarray, last: bool = False) -> None:
        utterance.samples += len(wave_S)
        if utterance.samples > to_samples(LONGEST_S):
            what = (
                f"more than {clock(LONGEST_S)} without audio-stop; send longer audio as a file, with POST /transcribe"
            )
            raise RequestError(413, "too_long", what)
        if time.monotonic() - self._name.began > self._service.limits.session_s:
            what = f"no audio-stop for {clock(self._service.limits.session_s)}"
            raise RequestError(408, "session_too_long", what)
        if utterance.stream is None:
            utterance.take(wave_S)
        elif new := await self._work(partial(utterance.take, wave_S, last)):
            await self._write("transcript-chunk", text=new)

    async def _finish(self) -> None:
        utterance, service = self._utterance, self._service
        if utterance is None:
            raise RequestError(400, "no_audio", "audio-stop without audio before it")
        await self._take(utterance, utterance.end(), last=True)
        text = utterance.shown
        if utterance.stream is None:
            wave_S = np.concatenate(utterance.parts)
            options = TranscribeOptions(
                voice=service.voice,
                decoder=utterance.served.decoder(self._phrases, service.limits.hot_words, ignore_note),
            )
            steps = partial(utterance.served.student.steps, wave_S, "audio", options)
            job = Job(steps, service.limits.audio_s, service.limits.work_s, self._address)
            service.scheduler.add(job)
            try:
                text = (await asyncio.wrap_future(job.future)).text
            finally:
                job.cancel()
                self.worked_s += job.worked_s
        await self._write("transcript", text=text, language=_short(utterance.served.language))
        if utterance.stream is not None:
            await self._write("transcript-stop")
        self._end(200)

    def _end(self, status: int) -> None:
        """Count and log the utterance, if one has begun."""
        if self._inside:
            heard_s = to_seconds(self._utterance.samples) if self._utterance is not None else 0.0
            self._service.leave(stream=True)
            self._service.metrics.streamed(heard_s, self.worked_s)
            self._service.answered(self._name, _ROUTE, status, heard_s)
        elif status not in (200, 499):
            self._service.answered(self._name, _ROUTE, status)
        self._inside, self._utterance, self.worked_s = False, None, 0.0

    def _new_name(self) -> RequestName:
        return RequestName(uuid.uuid4().hex, self._address, "Wyoming transcribe")

    # --- Events on the wire -----------------------------------------------------------------------------

    async def _read(self) -> Event | None:
        """The next event; None if the client has closed the connection."""
        limits = self._service.limits
        try:
            line = await asyncio.wait_for(self._reader.readuntil(b"\n"), limits.idle_s)
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", f"no event for {limits.idle_s:g} s") from error
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        except asyncio.LimitOverrunError as error:
            raise RequestError(
                413, "too_large", f"a line of more than {LINE_BYTES} bytes; send data behind it"
            ) from error
        head = _object(line, "the line of an event")
        sizes = {}
        for name in ("data_length", "payload_length"):
            size = sizes[name] = head.get(name) or 0
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= limits.message_bytes:
                what = f"{name} is {str(size)[:40]}; expected a whole number of at most {limits.message_bytes}"
                raise RequestError(400, "bad_event", what)
        try:
            body = await asyncio.wait_for(self._reader.readexactly(sum(sizes.values())), limits.patience_s)
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", f"the event did not arrive within {limits.patience_s:g} s") from error
        behind, payload = body[: sizes["data_length"]], body[sizes["data_length"] :]
        data = head.get("data") or {}
        if not isinstance(data, dict) or not isinstance(head.get("type"), str):
            raise RequestError(400, "bad_event", "expected an event with a type, and an object as its data")
        return Event(head["type"], data | (_object(behind, "the data of an event") if behind else {}), payload)

    async def _write(self, type: str, **data: Any) -> None:
        self._writer.write(Event(type, data).encode())
        try:
            await asyncio.wait_for(self._writer.drain(), self._service.limits.patience_s)
        except asyncio.TimeoutError as error:
            self._writer.transport.abort()
            raise RequestError(408, "too_slow", "the client does not read responses") from error


def attach(application: Starlette, service: Service, bound: socket.socket) -> None:
    """Serve Wyoming clients on ``bound`` as long as ``application`` runs; at its end their last answers are awaited."""
    clients: dict[asyncio.Task[None], _Client] = {}
    inner = application.router.lifespan_context

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(clients) >= service.limits.connections:
            full = busy(service.limits.connections, "connections")
            writer.write(Event("error", {"text": str(full), "code": full.code}).encode())
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        clients[task] = _Client(service, reader, writer)
        try:
            await clients[task].run()
        finally:
            del clients[task]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        async with inner(app) as state:
            server = await asyncio.start_server(connected, sock=bound, limit=LINE_BYTES)
            try:
                yield state
            finally:
                server.close()
                for client in clients.values():
                    client.close()
                if clients:
                    await asyncio.wait(clients, timeout=service.limits.drain_s)

    application.router.lifespan_context = lifespan


def _info(service: Service) -> dict[str, Any]:
    """What the server offers: one program with a model for each student."""
    who = {"attribution": {"name": "lalia", "url": ""}, "installed": True}
    models = [
        {"name": listed.name, **who, "description": f"{listed.name} ({', '.join(listed.languages)})", "version": listed.id,
         "languages": sorted({_short(code) for code in listed.languages})}
        for listed in service.students.listed
    ]  # fmt: skip
    program = {
        "name": "lalia", **who, "description": "lalia: small speech recognisers", "version": __version__, "models": models,
        "supports_transcript_streaming": any(listed.streaming for listed in service.students.listed),
    }  # fmt: skip
    return {"asr": [program]}


def _short(code: str) -> str:
    """As Home Assistant names languages: two letters where there are two."""
    return iso_639_1(code) or code


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise RequestError(400, "bad_event", f"{name} is {str(value)[:40]!r}; expected text")
    return value


def _texts(data: Mapping[str, Any], name: str) -> list[str]:
    values = data.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RequestError(400, "bad_event", f"{name} is {str(values)[:40]!r}; expected a list of texts")
    return values


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RequestError(400, "bad_event", f"{what} is not a JSON object: {text[:40]!r}; this port speaks Wyoming")
    return found
