"""Limits of the server (size, time, concurrent requests) and the error that clients get beyond them."""

from __future__ import annotations

from dataclasses import dataclass

from lalia.cards import cores
from lalia.units import Seconds

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Defaults are for a small machine that serves a few people."""

    jobs: int = cores()
    """windows at a time, one thread each"""
    requests: int = 32
    """concurrent requests, uploads included; more get status 429"""
    connections: int = 512
    """open connections; the next one is closed"""
    upload_bytes: int = 200 * MEGABYTE
    """a file, as it is sent (413)"""
    audio_s: Seconds = 4 * 3600.0
    """audio in a file, once it is decoded (413): a few kilobytes can hold days of silence"""
    work_s: Seconds = 1800.0
    """from the end of the upload to the answer (504)"""
    patience_s: Seconds = 10.0
    """for the headers, and for an upload beyond what its rate allows (408)"""
    upload_rate: int = 4_000
    """bytes per second that an upload must reach after ``patience_s``"""
    message_bytes: int = 1 << 20
    """a message of a stream (closed)"""
    header_bytes: int = 16_384
    """all headers of a request (400)"""
    drain_s: Seconds = 30.0
    """for active requests at shutdown"""


class RequestError(Exception):
    """Answered with ``status`` and the message; ``code`` names the kind for programs."""

    def __init__(self, status: int, code: str, message: str, retry_s: Seconds | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_s = retry_s

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        """In the form of OpenAI's API, whose clients show ``message``."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


def busy(requests: int) -> RequestError:
    return RequestError(429, "busy", f"{requests} requests are active already; retry in a second", retry_s=1.0)
