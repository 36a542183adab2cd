"""Streaming over a WebSocket: audio in, words out as they become final.

The client sends binary messages, cut anywhere: 16-bit little-endian mono samples at ``?rate=`` (default 16,000), or with
``?format=webm`` or ``ogg`` the Opus of a browser's MediaRecorder; then ``{"finish": true}``. The server sends JSON objects with
``stable`` and ``tentative`` words, ``heard_s`` and ``last``, and with ``?vad=true`` where speech begins and ends. Clients that
cannot send an Authorization header, such as web pages, send ``{"token": "…"}`` first. Each message is processed before the next
one is read, so TCP slows clients that send faster than the server works.

A client may pause: a stream stays open without a message for ``Limits.idle_s``, and the usual keep-alives (``KEEP_ALIVE``)
begin that time again. With ``?session=new`` the first answer is ``{"session": ID, "heard_s": 0, "bytes": 0}``; a client whose
connection breaks opens ``?session=ID`` within ``Limits.resume_s``, is told how much arrived, and sends on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from lalia.audio.opus_stream import OpusSource
from lalia.audio.reading import Resampler, ignore_note
from lalia.audio.vad import FRAME_S, Endpointer
from lalia.errors import AudioError, UserError
from lalia.runtime.streaming import Stream, StreamUpdate, as_dict
from lalia.serve.access import TOKEN_IN_QUERY, TOKENS
from lalia.serve.limits import RequestError, truth
from lalia.serve.scheduler import StreamJob
from lalia.serve.students import AUTO, Served
from lalia.tags.language_routing import RoutedStream
from lalia.units import SAMPLE_RATE, Samples, Seconds, clock, to_seconds

if TYPE_CHECKING:
    from lalia.serve.application import Service

Result = TypeVar("Result")
ROUTE = "/stream"
PIECE_S: Seconds = 1.0
"""Audio per scheduler step, so that a large message does not delay other streams."""
_RATES = (8_000, 192_000)
_FORMATS = ("pcm", "webm", "ogg")
_QUERY = {"rate", "format", "model", "language", "hot_words", "session", "vad", "silence_ms"}
PAUSE_S: Seconds = 0.3
"""A tentative word that stays unchanged for so long has the stability 1."""
_POLICY, _FAULT, _AGAIN, _DONE, _GONE = 1008, 1011, 1013, 1000, 1006


KEEP_ALIVE = ("keepalive", "keep_alive", "ping", "pong", "heartbeat", "noop")
"""Words of a text message, or of its ``type``, that say only that the client is there; so does an empty message."""


class Sessions:
    """The streams of broken connections, each for ``Limits.resume_s``, and of one client."""

    def __init__(self, keep_s: Seconds) -> None:
        self._keep_s = keep_s
        self._kept: dict[str, tuple[Speech, asyncio.TimerHandle]] = {}

    def keep(self, name: str, speech: Speech) -> None:
        timer = asyncio.get_running_loop().call_later(self._keep_s, self._kept.pop, name, None)
        self._kept[name] = speech, timer

    def take(self, name: str) -> Speech:
        """The stream ``name``; ``RequestError`` if it is not here (any more)."""
        if name not in self._kept:
            what = f"session {name[:40]!r} is unknown or ended; they are kept for {self._keep_s:g} s: session=new"
            raise RequestError(404, "no_session", what)
        speech, timer = self._kept.pop(name)
        timer.cancel()
        return speech


async def serve_stream(service: Service, socket: WebSocket) -> None:
    """``/stream`` for one client."""
    await serve_socket(service, socket, ROUTE, StreamClient(service, socket))


async def serve_socket(service: Service, socket: WebSocket, route: str, client: SocketClient) -> None:
    """Serve one client from handshake to close; its errors end only its own connection."""
    request = service.access.name_request(socket)
    status, inside = 101, False
    try:
        try:
            trusted = _check_handshake(service, socket, client)
            if trusted:
                inside = service.enter(stream=True)
                await client.open()
        except RequestError as error:
            status = error.status
            headers = {"retry-after": f"{error.retry_s:.0f}"} if error.retry_s is not None else {}
            answer = JSONResponse(error.as_dict(), error.status, {**headers, "x-request-id": request.id})
            await socket.send_denial_response(answer)
            return
        await socket.accept(client.subprotocol, headers=[(b"x-request-id", request.id.encode())])
        if not trusted:
            await client.authenticate()
            inside = service.enter(stream=True)
            await client.open()
        await client.listen()
    except (WebSocketDisconnect, asyncio.CancelledError):
        client.keep()
    except Exception as error:  # a bug here fails only this connection
        failed = service.as_request_error(error, request)
        status = failed.status
        again = _AGAIN if failed.retry_s is not None else _POLICY
        await client.fail(failed, _FAULT if status == 500 else again)
    finally:
        if inside:
            service.leave(stream=True)
        service.answered(request, route, status, client.heard_s)
        service.metrics.streamed(client.heard_s, client.worked_s)


def _check_handshake(service: Service, socket: WebSocket, client: SocketClient) -> bool:
    """Whether the handshake has the token; ``RequestError`` refuses it."""
    origin = socket.headers.get("origin", "")
    if origin and not service.access.is_own_page(socket, origin):
        # Browsers let any page open a WebSocket to any server, including local ones.
        raise RequestError(403, "other_origin", f"pages of {origin[:80]} must not use this server (see --origin)")
    authorization = client.authorization
    trusted = service.access.authorized(authorization)
    if not trusted and authorization:
        raise RequestError(401, "no_token", "the token in the header Authorization is not this server's")
    client.check()
    return trusted


class Worker:
    """A connection whose work is done by the scheduler's threads, as the work of its client's address."""

    def __init__(self, service: Service, address: str) -> None:
        self.worked_s: Seconds = 0.0
        self._service = service
        self._address = address

    async def _work(self, work: Callable[[], Result]) -> Result:
        """``work()`` in a worker thread, when it is this client's turn."""
        job = StreamJob(work, self._address)
        self._service.scheduler.add(job)
        try:
            found: Result = await asyncio.wrap_future(job.future)
        finally:
            self.worked_s += job.worked_s
        return found


class SocketClient(Worker, ABC):
    """A connected client: what its protocol does with messages."""

    subprotocol: str | None = None
    heard_s: Seconds = 0.0

    def __init__(self, service: Service, socket: WebSocket) -> None:
        super().__init__(service, service.access.client_of(socket))
        self._socket = socket
        self._ends_at = time.monotonic() + service.limits.session_s

    @property
    def authorization(self) -> str:
        """``Bearer TOKEN``, where the handshake has it; else the first message must."""
        return self._socket.headers.get("authorization", "")

    @abstractmethod
    def check(self) -> None:
        """Check the query; ``RequestError`` refuses the handshake."""

    @abstractmethod
    async def open(self) -> None:
        """Begin, once the token is shown and a place is taken; ``RequestError`` if that cannot be."""

    async def authenticate(self) -> None:
        """Read the token from the first message; ``RequestError`` if it is missing or wrong."""
        message = await self._receive(self._service.limits.patience_s)
        token = _object(message).get("token") if isinstance(message, str) else None
        if not isinstance(token, str) or not self._service.access.authorized(f"Bearer {token}"):
            raise RequestError(
                401, "no_token", 'expected {"token": "…"} with this server\'s token as the first message'
            )

    @abstractmethod
    async def listen(self) -> None:
        """Process all messages."""

    @abstractmethod
    def keep(self) -> None:
        """The connection broke."""

    async def fail(self, error: RequestError, code: int) -> None:
        """Send the error if the client is still connected, and close."""
        try:
            await asyncio.wait_for(self._socket.send_text(json.dumps(error.as_dict())), self._patience_s)
            await asyncio.wait_for(self._socket.close(code, error.code), self._patience_s)
        except (WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
            pass

    @property
    def _patience_s(self) -> Seconds:
        return self._service.limits.patience_s

    async def _receive(self, patience_s: Seconds) -> str | bytes:
        left_s = self._ends_at - time.monotonic()
        try:
            message = await asyncio.wait_for(self._socket.receive(), max(0.0, min(patience_s, left_s)))
        except asyncio.TimeoutError as error:
            if left_s < patience_s:
                what = f"the session is older than {clock(self._service.limits.session_s)}; start a new one"
                raise RequestError(408, "session_too_long", what) from error
            what = f'no message for {patience_s:g} s; send samples, or {{"type": "keepalive"}} during a pause'
            raise RequestError(408, "too_slow", what) from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", _DONE))
        text = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def _write(self, message: dict[str, Any]) -> None:
        try:
            text = json.dumps(message, ensure_ascii=False)
            await asyncio.wait_for(self._socket.send_text(text), self._patience_s)
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", "the client does not read responses") from error
        except RuntimeError as error:
            if self._socket.application_state is not WebSocketState.CONNECTED:
                raise
            raise WebSocketDisconnect(_GONE) from error  # uvicorn says so when a client leaves within the handshake


class PcmSource:
    """16-bit little-endian mono samples, cut anywhere: an odd byte waits for the next message."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.waiting = False
        """whether there may be more to read"""
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        self._bytes += data
        self.waiting = True

    def read(self, most: Samples) -> np.ndarray:
        """The next samples, float32, at most ``most``; empty: more bytes are needed."""
        whole = min(len(self._bytes) // 2, most) * 2
        data, self._bytes = self._bytes[:whole], self._bytes[whole:]
        self.waiting = len(self._bytes) > 1
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_768


@dataclass
class Speech:
    """A stream on the server: what decodes its bytes, what transcribes them, and what finds the ends of speech."""

    source: PcmSource | OpusSource
    stream: Stream | RoutedStream
    ends: Endpointer | None
    served: Served | None = None
    """held, so that it is not unloaded"""
    bytes: int = 0
    """received so far"""
    _tentative: list[dict[str, Any]] = field(default_factory=list)
    _since_s: dict[tuple[object, object], Seconds] = field(default_factory=dict)
    _resampler: Resampler | None = None

    def step(self) -> list[dict[str, Any]]:
        """In a worker: transcribe ``PIECE_S`` of the bytes that wait; what to tell the client."""
        samples = self.source.read(round(PIECE_S * self.stream.rate))
        if not len(samples):
            return []
        return [*self._update(self.stream.feed(samples), last=False), *self._find_ends(samples)]

    def finish(self) -> list[dict[str, Any]]:
        """In a worker: the last words."""
        return self._update(self.stream.finish(), last=True)

    def _update(self, update: StreamUpdate, last: bool) -> list[dict[str, Any]]:
        message = as_dict(update, last)
        words: Any = message["tentative"]
        keys = [(word["text"], word["start_s"]) for word in words]
        self._since_s = {key: self._since_s.get(key, update.heard_s) for key in keys}
        for word, key in zip(words, keys, strict=True):
            word["stability"] = round(min(1.0, (update.heard_s - self._since_s[key]) / PAUSE_S), 1)
        before, self._tentative = self._tentative, words
        return [message] if update.stable or words != before or last else []

    def _find_ends(self, samples: np.ndarray) -> list[dict[str, Any]]:
        if self.ends is None:
            return []
        if self._resampler is None:
            self._resampler = Resampler(self.stream.rate)
        found = []
        for _, change in self.ends.feed(self._resampler(samples)):
            now_s = to_seconds(self.ends.at)
            if change:
                found.append({"event": "speech_start", "at_s": round(now_s - FRAME_S, 3)})
            elif change is False:
                at_s = to_seconds(self.ends.ended)
                found.append({"event": "speech_end", "at_s": round(at_s, 3), "delay_s": round(now_s - at_s, 3)})
        return found


class StreamClient(SocketClient):
    """A client of ``/stream``."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        super().__init__(service, socket)
        self._speech: Speech | None = None
        self._session = ""

    @property
    def heard_s(self) -> Seconds:  # type: ignore[override]
        return self._speech.stream.heard_s if self._speech is not None else 0.0

    def check(self) -> None:
        query = self._socket.query_params
        if any(name in query for name in TOKENS):
            raise RequestError(401, "no_token", TOKEN_IN_QUERY)
        if unknown := sorted(set(query) - _QUERY):
            what = f"{unknown[0][:40]!r} is unknown; known are {', '.join(sorted(_QUERY))}"
            raise RequestError(400, "unknown_field", what)
        format = query.get("format", "pcm")
        if format not in _FORMATS:
            raise RequestError(400, "bad_format", f"format {format[:40]!r}: expected {', '.join(_FORMATS)}")
        if format != "pcm" and "rate" in query:
            raise RequestError(400, "bad_rate", f"rate: {format} has its own; leave it out")
        _whole_number(query, "rate", SAMPLE_RATE, _RATES, "bad_rate")
        _whole_number(query, "silence_ms", 500, (60, 10_000), "bad_field")
        truth("vad", query.get("vad", ""))

    async def open(self) -> None:
        """Begin a stream, or go on with the one of a session."""
        query = self._socket.query_params
        self._session = query.get("session", "")
        if self._session not in ("", "new"):
            self._speech = self._service.sessions.take(self._session)
            return
        if self._session:
            self._session = secrets.token_urlsafe(16)
        try:
            self._speech = await self._begin(query)
        except (UserError, AudioError) as error:
            raise RequestError(400, "no_stream", str(error)) from error

    async def _begin(self, query: Mapping[str, str]) -> Speech:
        format, most = query.get("format", "pcm"), self._service.limits.hot_words
        source: PcmSource | OpusSource
        if format == "pcm":
            source = PcmSource(_whole_number(query, "rate", SAMPLE_RATE, _RATES, "bad_rate"))
        else:
            source = OpusSource(format)
        ends = None
        if truth("vad", query.get("vad", "")):
            ends = Endpointer(silence_s=_whole_number(query, "silence_ms", 500, (60, 10_000), "bad_field") / 1000)
        model, language, phrases = (query.get(name, "") for name in ("model", "language", "hot_words"))

        def begin(served: Served) -> Stream:
            decoder = served.decoder(phrases, most, ignore_note)
            return served.student.stream(rate=source.rate, decoder=decoder, voice=self._service.voice)

        if language.lower() != AUTO:
            served = await self._service.served(model, language)
            return Speech(source, begin(served), ends, served)
        routing, by_language = self._service.students.routing(model)
        stream = RoutedStream(routing, lambda code: begin(by_language.served(code)), source.rate)
        return Speech(source, stream, ends)

    def keep(self) -> None:
        """Keep the stream of a session."""
        if self._session and self._speech is not None:
            self._service.sessions.keep(self._session, self._speech)

    async def listen(self) -> None:
        """Process all messages until the stream ends."""
        speech, limits = self._speech, self._service.limits
        assert speech is not None
        if self._session:
            place = {"heard_s": round(speech.stream.heard_s, 3), "bytes": speech.bytes}
            await self._write({"session": self._session, **place})
        while True:
            message = await self._receive(limits.idle_s)
            if isinstance(message, str):
                if is_keep_alive(message):
                    continue
                if _object(message).get("finish") is not True:
                    raise RequestError(400, "bad_message", 'expected samples, or {"finish": true}')
                for answer in await self._work(speech.finish):
                    await self._write(answer)
                self._session = ""
                await self._socket.close(_DONE)
                return
            speech.source.feed(message)
            speech.bytes += len(message)
            while speech.source.waiting:
                for answer in await self._work(speech.step):
                    await self._write(answer)
                if speech.stream.heard_s > limits.audio_s:
                    what = f"more than {clock(limits.audio_s)} of audio; start a new stream"
                    raise RequestError(413, "too_long", what)


def _whole_number(query: Mapping[str, str], name: str, default: int, range: tuple[int, int], code: str) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and range[0] <= int(text) <= range[1]):
        raise RequestError(400, code, f"{name} {text[:20]!r}: expected {range[0]} to {range[1]}")
    return int(text)


def is_keep_alive(text: str) -> bool:
    """Whether a text message says only that the client is there: "", "ping", ``{}``, ``{"type": "KeepAlive"}``."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text or "{}")
        if isinstance(found, dict):
            if not found:
                return True
            text = str(found.get("type", next(iter(found)) if len(found) == 1 else ""))
        elif isinstance(found, str):
            text = found
    return text.strip().lower() in KEEP_ALIVE


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RequestError(400, "bad_message", "expected samples as a binary message, or a JSON object")
    return found
