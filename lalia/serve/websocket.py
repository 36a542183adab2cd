"""Streaming over a WebSocket: audio samples in, words out as they become final.

The client sends binary messages of 16-bit little-endian mono samples at ``?rate=`` (default 16,000), cut anywhere, then
``{"finish": true}``; the server sends JSON objects with ``stable`` and ``tentative`` words, ``heard_s`` and ``last``. Clients
that cannot send an Authorization header, such as web pages, send ``{"token": "…"}`` first. Each message is processed before
the next one is read, so TCP slows clients that send faster than the server works.

A client may pause: a stream stays open without a message for ``Limits.idle_s``, and the usual keep-alives (``KEEP_ALIVE``)
begin that time again. With ``?session=new`` the first answer is ``{"session": ID, "heard_s": 0}``; a client whose connection
breaks opens ``?session=ID`` within ``Limits.resume_s``, is told how many seconds arrived, and sends on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from lalia.audio.reading import ignore_note
from lalia.errors import UserError
from lalia.runtime.streaming import Stream, StreamUpdate, as_dict
from lalia.serve.limits import RequestError
from lalia.serve.scheduler import StreamJob
from lalia.serve.students import AUTO, Served
from lalia.tags.language_routing import RoutedStream
from lalia.units import SAMPLE_RATE, Seconds, clock

if TYPE_CHECKING:
    from lalia.serve.application import Service

Result = TypeVar("Result")
ROUTE = "/stream"
PIECE_S: Seconds = 1.0
"""Audio per scheduler step, so that a large message does not delay other streams."""
_RATES = (8_000, 192_000)
_POLICY, _FAULT, _AGAIN, _DONE = 1008, 1011, 1013, 1000


KEEP_ALIVE = ("keepalive", "keep_alive", "ping", "pong", "heartbeat", "noop")
"""Words of a text message, or of its ``type``, that say only that the client is there; so does an empty message."""


class Sessions:
    """The streams of broken connections, each for ``Limits.resume_s``, and of one client."""

    def __init__(self, keep_s: Seconds) -> None:
        self._keep_s = keep_s
        self._kept: dict[str, tuple[Stream | RoutedStream, bytes, asyncio.TimerHandle]] = {}

    def keep(self, name: str, stream: Stream | RoutedStream, rest: bytes) -> None:
        """Keep ``stream``, of which the bytes ``rest`` are not a whole sample yet."""
        timer = asyncio.get_running_loop().call_later(self._keep_s, self._kept.pop, name, None)
        self._kept[name] = stream, rest, timer

    def take(self, name: str) -> tuple[Stream | RoutedStream, bytes]:
        """The stream ``name``; ``RequestError`` if it is not here (any more)."""
        if name not in self._kept:
            what = f"session {name[:40]!r} is unknown or ended; they are kept for {self._keep_s:g} s: session=new"
            raise RequestError(404, "no_session", what)
        stream, rest, timer = self._kept.pop(name)
        timer.cancel()
        return stream, rest


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


class SocketClient(ABC):
    """A connected client: what its protocol does with messages."""

    subprotocol: str | None = None
    heard_s: Seconds = 0.0

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self.worked_s: Seconds = 0.0
        self._service = service
        self._socket = socket
        self._address = service.access.client_of(socket)

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
        try:
            message = await asyncio.wait_for(self._socket.receive(), patience_s)
        except asyncio.TimeoutError as error:
            what = f'no message for {patience_s:g} s; send samples, or {{"type": "keepalive"}} during a pause'
            raise RequestError(408, "too_slow", what) from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", _DONE))
        text = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def _work(self, work: Callable[[], Result]) -> Result:
        """``work()`` in a worker thread, when it is this client's turn."""
        job = StreamJob(work, self._address)
        self._service.scheduler.add(job)
        try:
            found: Result = await asyncio.wrap_future(job.future)
        finally:
            self.worked_s += job.worked_s
        return found

    async def _write(self, message: dict[str, Any]) -> None:
        try:
            text = json.dumps(message, ensure_ascii=False)
            await asyncio.wait_for(self._socket.send_text(text), self._patience_s)
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", "the client does not read responses") from error


class StreamClient(SocketClient):
    """A client of ``/stream``."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        super().__init__(service, socket)
        self._stream: Stream | RoutedStream | None = None
        self._served: Served | None = None  # held, so that it is not unloaded
        self._rest = b""
        self._session = ""
        self._shown: list[Any] = []

    @property
    def heard_s(self) -> Seconds:  # type: ignore[override]
        return self._stream.heard_s if self._stream is not None else 0.0

    def check(self) -> None:
        rate = self._socket.query_params.get("rate", str(SAMPLE_RATE))
        if not rate.isdecimal() or not _RATES[0] <= int(rate) <= _RATES[1]:
            raise RequestError(
                400, "bad_rate", f"rate {rate[:20]!r}: expected {_RATES[0]} to {_RATES[1]} samples per second"
            )

    async def open(self) -> None:
        """Begin a stream, or go on with the one of a session."""
        query = self._socket.query_params
        self._session = query.get("session", "")
        if self._session not in ("", "new"):
            self._stream, self._rest = self._service.sessions.take(self._session)
            return
        if self._session:
            self._session = secrets.token_urlsafe(16)
        try:
            self._stream = await self._begin(
                query.get("model", ""), query.get("language", ""), query.get("hot_words", "")
            )
        except UserError as error:
            raise RequestError(400, "no_stream", str(error)) from error

    async def _begin(self, model: str, language: str, phrases: str) -> Stream | RoutedStream:
        rate, most = int(self._socket.query_params.get("rate", SAMPLE_RATE)), self._service.limits.hot_words
        if language.lower() != AUTO:
            served = await self._service.served(model, language)
            self._served = served
            return served.student.stream(rate=rate, decoder=served.decoder(phrases, most, ignore_note))
        routing, by_language = self._service.students.routing(model)

        def begin(code: str) -> Stream:
            self._served = served = by_language.served(code)
            return served.student.stream(rate=rate, decoder=served.decoder(phrases, most, ignore_note))

        return RoutedStream(routing, begin, rate)

    def keep(self) -> None:
        """Keep the stream of a session."""
        if self._session and self._stream is not None:
            self._service.sessions.keep(self._session, self._stream, self._rest)

    async def listen(self) -> None:
        """Process all messages until the stream ends."""
        stream, limits = self._stream, self._service.limits
        assert stream is not None
        if self._session:
            await self._write({"session": self._session, "heard_s": round(stream.heard_s, 3)})
        while True:
            message = await self._receive(limits.idle_s)
            if isinstance(message, str):
                if is_keep_alive(message):
                    continue
                if _object(message).get("finish") is not True:
                    raise RequestError(400, "bad_message", 'expected samples, or {"finish": true}')
                await self._send(await self._work(stream.finish), last=True)
                self._session = ""
                await self._socket.close(_DONE)
                return
            message = self._rest + message
            whole = len(message) // 2 * 2
            self._rest = message[whole:]
            samples = np.frombuffer(message[:whole], "<i2").astype(np.float32) / 32_768
            size = round(PIECE_S * stream.rate)
            for start in range(0, len(samples), size):
                feed = partial(stream.feed, samples[start : start + size])
                await self._send(await self._work(feed), last=False)
            if stream.heard_s > limits.audio_s:
                raise RequestError(413, "too_long", f"more than {clock(limits.audio_s)} of audio; start a new stream")

    async def _send(self, update: StreamUpdate, last: bool) -> None:
        if not (update.stable or update.tentative != self._shown or last):
            return
        self._shown = update.tentative
        await self._write(as_dict(update, last))


def is_keep_alive(text: str) -> bool:
    """Whether a text message says only that the client is there: "", "ping", ``{}``, ``{"type": "KeepAlive"}``."""
    with contextlib.suppress(ValueError):
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
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(400, "bad_message", "expected samples as a binary message, or a JSON object")
    return found
