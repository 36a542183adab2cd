"""Who may use the server: tokens, origins of pages, proxies; and the names of requests in the log."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lalia.serve.limits import RequestError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

TOKENS = ("token", "access_token", "api_key", "key")
TOKEN_IN_QUERY = "a token in the address ends in logs and is not read; send 'Authorization: Bearer TOKEN'"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class RequestName:
    """What the log and the metrics call a request."""

    id: str
    """the client's ``X-Request-ID``, or a new one"""
    client: str
    what: str
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Access:
    """Who may use the server, and which headers are believed."""

    token: str = ""
    """"": everybody may use it"""
    origins: tuple[str, ...] = ()
    """pages that may use it besides its own, such as ``https://example.org``; ``*``: all pages"""
    proxy: bool = False
    """behind a reverse proxy, whose X-Forwarded-For and X-Forwarded-Host are believed"""
    log: bool = False
    """a line on stderr for every request"""

    def client_of(self, connection: HTTPConnection) -> str:
        """The client's address, by which requests share the processor."""
        forwarded = connection.headers.get("x-forwarded-for", "") if self.proxy else ""
        return forwarded.rsplit(",", 1)[-1].strip() or (connection.client.host if connection.client else "")

    def name_request(self, connection: HTTPConnection) -> RequestName:
        """The id, client and path of a request; never its query, which may hold secrets."""
        given = connection.headers.get("x-request-id", "")
        id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        what = f"{connection.scope.get('method', 'WebSocket')} {connection.url.path}"
        return RequestName(id, self.client_of(connection), what)

    def check_token(self, request: HTTPConnection) -> None:
        """``RequestError`` if the request does not show the token."""
        if self.authorized(request.headers.get("authorization", "")):
            return
        if any(name in request.query_params for name in TOKENS):
            raise RequestError(401, "no_token", TOKEN_IN_QUERY)
        raise RequestError(
            401, "no_token", "expected the header 'Authorization: Bearer TOKEN' with this server's token"
        )

    def authorized(self, authorization: str) -> bool:
        """Whether the header ``Authorization`` has this server's token; always true without one."""
        kind, _, given = authorization.partition(" ")
        shown = kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())
        return shown or not self.token

    def is_own_page(self, connection: HTTPConnection, origin: str) -> bool:
        """Whether a page of ``origin`` is this server's own, or one of the allowed ones."""
        host = connection.headers.get("host", "")
        if self.proxy:
            host = connection.headers.get("x-forwarded-host", host)
        return urlsplit(origin).netloc == host or not {origin, "*"}.isdisjoint(self.origins)
