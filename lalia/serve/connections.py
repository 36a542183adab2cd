"""Network connections: uvicorn's server and its HTTP/1.1 protocol with timeouts for idle connections."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
import websockets  # noqa: F401  # uvicorn imports it for the first stream; a missing package must be an error at start-up
from uvicorn.protocols.http.h11_impl import H11Protocol

from lalia.errors import UserError
from lalia.serve.limits import Limits, RequestError

_LINE_BYTES, _LINES = 8_000, 100
"""What a handshake of a WebSocket may have: websockets reads no more than 8,192 bytes a line, and 128 headers."""


def make_protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol with timeouts: it closes connections that are idle or do not read for ``patience_s``."""

    class TimeoutProtocol(H11Protocol):
        _cycle_before: Any = None
        _unsent_before = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._timer = self.loop.call_later(limits.patience_s, self._check_progress)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            lines = [len(name) + len(value) for name, value in self.headers]
            if max(lines, default=0) > _LINE_BYTES or len(lines) > _LINES or len(event.target) > _LINE_BYTES:
                # websockets would fail on it without an answer.
                error = RequestError(
                    431, "headers_too_large", f"a line of the handshake is longer than {_LINE_BYTES} bytes"
                )
                headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
                answer = h11.Response(
                    status_code=error.status, headers=headers, reason=b"Request Header Fields Too Large"
                )
                for part in (answer, h11.Data(data=json.dumps(error.as_dict()).encode()), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(part) or b"")
                self.transport.close()
                return
            if self._timer is not None:  # the WebSocket protocol takes over, with the timeouts of serve_stream
                self._timer.cancel()
            super().handle_websocket_upgrade(event)

        def _check_progress(self) -> None:
            """Close the connection if neither headers nor reads made progress since the last check."""
            unsent = self.transport.get_write_buffer_size()
            answered = self.cycle is not None and self.cycle.response_complete
            idle = self.cycle is self._cycle_before and (answered or self.conn.their_state is h11.IDLE)
            if idle or (unsent and unsent == self._unsent_before):
                self.transport.abort()
                return
            self._cycle_before, self._unsent_before = self.cycle, unsent
            self._timer = self.loop.call_later(limits.patience_s, self._check_progress)

    return TimeoutProtocol


class Server(uvicorn.Server):
    """uvicorn's server with exit status 0 after SIGTERM or SIGINT; SIGHUP calls ``reload`` in a thread, one call at a time."""

    def __init__(self, config: uvicorn.Config, reload: Callable[[], None]) -> None:
        super().__init__(config)
        self._reload = reload
        self._reloading: asyncio.Future[None] | None = None
        self._again = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._handle_hangup)

    def _handle_hangup(self) -> None:
        if self._reloading is not None and not self._reloading.done():
            self._again = True
            return
        self._again = False
        self._reloading = asyncio.get_running_loop().run_in_executor(None, self._reload)
        self._reloading.add_done_callback(lambda _: self._handle_hangup() if self._again else None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any free one); a ``UserError`` if the address cannot be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{host}:{port}: cannot listen on this address ({reason}); give another --host or --port"
        ) from error


def serve(application: Any, bound: socket.socket, limits: Limits, reload: Callable[[], None]) -> None:
    """Serve ``application`` on ``bound`` until SIGTERM or SIGINT; active requests are finished first. SIGHUP calls ``reload``."""
    config = uvicorn.Config(
        application,
        http=make_protocol(limits),
        ws="websockets-sansio",
        ws_max_size=limits.message_bytes,
        ws_ping_timeout=None,  # a busy stream's pong waits behind its audio; a dead one ends by ``idle_s``
        ws_per_message_deflate=False,  # audio hardly compresses, and it rules out decompression bombs
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=int(limits.patience_s),
        timeout_graceful_shutdown=int(limits.drain_s),
    )
    Server(config, reload).run(sockets=[bound])
