"""Limits of the server (size, time, concurrent requests), and the error response when a request exceeds them or is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from lalia.cards import cores
from lalia.units import Seconds

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Limits of the server; the defaults suit a small machine with a few users."""

    jobs: int = cores()
    """worker threads, each of which transcribes one window at a time"""
    requests: int = 32
    """concurrent requests without streams, uploads included; more get status 429"""
    streams: int = 512
    """concurrent streams, paused ones included; more get status 429"""
    hot_words: int = 1000
    """phrases to boost in one request (400)"""
    connections: int = 4096
    """open connections, idle streams among them; the next one is closed"""
    upload_bytes: int = 200 * MEGABYTE
    """size of an uploaded file (413)"""
    audio_s: Seconds = 4 * 3600.0
    """duration of the decoded audio (413): a few kilobytes can encode days of silence"""
    work_s: Seconds = 1800.0
    """time from the end of the upload to the response (504)"""
    patience_s: Seconds = 10.0
    """timeout for headers, an upload below its minimum rate, a stream's token, and a client that does not read (408)"""
    idle_s: Seconds = 600.0
    """time that a stream may send nothing, such as from a paused microphone (408)"""
    session_s: Seconds = 24 * 3600.0
    """time that a stream or Realtime session may stay open, whatever it sends (408)"""
    resume_s: Seconds = 60.0
    """time to reconnect to a stream that asked for a session"""
    upload_rate: int = 4_000
    """minimum rate of an upload after ``patience_s``, bytes per second"""
    message_bytes: int = 1 << 20
    """size of a WebSocket message; a larger one closes the stream"""
    header_bytes: int = 16_384
    """total size of a request's headers (400)"""
    drain_s: Seconds = 30.0
    """time for active requests to finish at shutdown"""


class RequestError(Exception):
    """An error response: HTTP ``status``, message, and a machine-readable ``code``."""

    def __init__(self, status: int, code: str, message: str, retry_s: Seconds | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_s = retry_s

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        """The JSON body, in the form of OpenAI's API."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


def busy(count: int, what: str = "requests") -> RequestError:
    return RequestError(429, "busy", f"{count} {what} are active already; retry in a second", retry_s=1.0)


def truth(field: str, value: str) -> bool:
    """The value of a field that is true or false; ``RequestError`` for any other."""
    if value.lower() in ("", "false", "0", "no"):
        return False
    if value.lower() in ("true", "1", "yes"):
        return True
    raise RequestError(400, "bad_field", f"{field} {value[:40]!r}: expected true or false")
