"""Streaming over a WebSocket: audio samples in, words out as they become final.

The client sends binary messages of 16-bit little-endian mono samples at ``?rate=`` (default 16,000), then
``{"finish": true}``; the server sends JSON objects with ``stable`` and ``tentative`` words, ``heard_s`` and ``last``. Clients
that cannot send an Authorization header, such as web pages, send ``{"token": "…"}`` first. Each message is processed before
the next one is read, so TCP slows clients that send faster than the server works.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from lalia.errors import AudioError, UserError
from lalia.runtime.streaming import Stream, StreamUpdate, as_dict
from lalia.serve.limits import RequestError, busy
from lalia.serve.scheduler import StreamJob
from lalia.units import SAMPLE_RATE, Seconds, clock

if TYPE_CHECKING:
    from lalia.serve.application import Service

ROUTE = "/stream"
PIECE_S: Seconds = 1.0
"""Audio per scheduler step, so that a large message does not delay other streams."""
_RATES = (8_000, 192_000)
_POLICY, _FAULT, _DONE = 1008, 1011, 1000


async def serve_stream(service: Service, socket: WebSocket) -> None:
    """Serve one client from handshake to close; its errors end only its own stream."""
    try:
        stream, trusted = _admit(service, socket)
    except RequestError as error:
        service.metrics.answered(ROUTE, error.status)
        headers = {"retry-after": f"{error.retry_s:.0f}"} if error.retry_s is not None else {}
        await socket.send_denial_response(JSONResponse(error.as_dict(), error.status, headers))
        return
    service.active += 1
    service.streams += 1
    client = _StreamClient(service, socket, stream)
    status = 101
    try:
        await socket.accept()
        if not trusted:
            await client.authenticate()
        await client.listen()
    except (WebSocketDisconnect, asyncio.CancelledError):
        pass
    except RequestError as error:
        status = error.status
        await client.fail(error, _POLICY)
    except AudioError as error:
        status = 415
        await client.fail(RequestError(415, "bad_audio", str(error)), _POLICY)
    except Exception as error:  # a bug here fails only this stream
        status = 500
        what = f"{type(error).__name__} in the server; please report it"
        await client.fail(RequestError(500, "fault", what), _FAULT)
    finally:
        service.active -= 1
        service.streams -= 1
        service.metrics.answered(ROUTE, status)
        service.metrics.streamed(stream.heard_s, client.worked_s)


def _admit(service: Service, socket: WebSocket) -> tuple[Stream, bool]:
    """(new stream, whether the header has the token); ``RequestError`` refuses the handshake."""
    origin = socket.headers.get("origin")
    if origin and urlsplit(origin).netloc != socket.headers.get("host", ""):
        # Browsers let any page open a WebSocket to any server, including local ones.
        raise RequestError(403, "other_origin", f"pages of {origin[:80]} must not use this server")
    trusted = service.authorized(socket.headers.get("authorization", ""))
    if not trusted and "authorization" in socket.headers:
        raise RequestError(401, "no_token", "the token in the header Authorization is not this server's")
    rate = socket.query_params.get("rate", str(SAMPLE_RATE))
    if not rate.isdecimal() or not _RATES[0] <= int(rate) <= _RATES[1]:
        raise RequestError(
            400, "bad_rate", f"rate {rate[:20]!r}: expected {_RATES[0]} to {_RATES[1]} samples per second"
        )
    if service.active >= service.limits.requests:
        raise busy(service.limits.requests)
    try:
        student = service.student_for(socket.query_params.get("language", ""))
        return student.stream(rate=int(rate)), trusted
    except UserError as error:
        raise RequestError(400, "no_stream", str(error)) from error


class _StreamClient:
    """A connected client and its stream."""

    def __init__(self, service: Service, socket: WebSocket, stream: Stream) -> None:
        self.worked_s: Seconds = 0.0
        self._service = service
        self._socket = socket
        self._stream = stream
        self._rate = stream.rate
        self._shown: list[Any] = []

    async def authenticate(self) -> None:
        """Read the token from the first message; ``RequestError`` if it is missing or wrong."""
        message = await self._receive()
        token = _object(message).get("token") if isinstance(message, str) else None
        if not isinstance(token, str) or not self._service.authorized(f"Bearer {token}"):
            raise RequestError(
                401, "no_token", 'expected {"token": "…"} with this server\'s token as the first message'
            )

    async def listen(self) -> None:
        """Process all messages until the stream ends."""
        longest = self._service.limits.audio_s
        while True:
            message = await self._receive()
            if isinstance(message, str):
                if _object(message).get("finish") is not True:
                    raise RequestError(400, "bad_message", 'expected samples, or {"finish": true}')
                await self._send(await self._work(self._stream.finish), last=True)
                await self._socket.close(_DONE)
                return
            if len(message) % 2:
                raise RequestError(400, "bad_audio", f"{len(message)} bytes are not whole 16-bit samples")
            samples = np.frombuffer(message, "<i2").astype(np.float32) / 32_768
            size = round(PIECE_S * self._rate)
            for start in range(0, len(samples), size):
                feed = partial(self._stream.feed, samples[start : start + size])
                await self._send(await self._work(feed), last=False)
            if self._stream.heard_s > longest:
                raise RequestError(413, "too_long", f"more than {clock(longest)} of audio; start a new stream")

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

    async def _receive(self) -> str | bytes:
        try:
            message = await asyncio.wait_for(self._socket.receive(), self._patience_s)
        except asyncio.TimeoutError as error:
            raise RequestError(
                408, "too_slow", f"no message for {self._patience_s:g} s; send samples during silence too"
            ) from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", _DONE))
        text = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def _work(self, work: Callable[[], StreamUpdate]) -> StreamUpdate:
        """Run ``work`` before all files: parts of a stream are short, and latency matters."""
        job = StreamJob(work)
        self._service.scheduler.add(job, first=True)
        update = await asyncio.wrap_future(job.future)
        self.worked_s += job.worked_s
        return update

    async def _send(self, update: StreamUpdate, last: bool) -> None:
        if not (update.stable or update.tentative != self._shown or last):
            return
        self._shown = update.tentative
        text = json.dumps(as_dict(update, last), ensure_ascii=False)
        try:
            await asyncio.wait_for(self._socket.send_text(text), self._patience_s)
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", "the client does not read responses") from error


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(400, "bad_message", "expected samples as a binary message, or a JSON object")
    return found
