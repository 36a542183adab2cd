"""What a client is told when it gets no transcript: a status, one line, and when to come again."""

from __future__ import annotations

from lalia.units import Seconds


class Refusal(Exception):
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


def busy(requests: int) -> Refusal:
    return Refusal(429, "busy", f"{requests} requests are being served already; come again in a second", retry_s=1.0)
