"""HTTP routes of the server: transcription, the page, health, and metrics in Prometheus' text format."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from lalia.audio.channels import parse_channels
from lalia.audio.reading import Note
from lalia.errors import AudioError, UserError
from lalia.runtime.student import Student, TranscribeOptions
from lalia.runtime.transcript import FORMATS, Transcript
from lalia.serve.http import OPENAI, Upload, answer, openai_answer, receive_upload
from lalia.serve.limits import Limits, RequestError, busy
from lalia.serve.scheduler import Job, Scheduler
from lalia.serve.websocket import ROUTE, serve_stream
from lalia.units import Seconds

# --- Metrics ---------------------------------------------------------------------------------------------

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: tuple[Seconds, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counters since the start; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._took_s: Seconds = 0.0
        self._took = 0
        self._audio_s: Seconds = 0.0
        self._work_s: Seconds = 0.0

    def answered(self, route: str, status: int) -> None:
        with self._lock:
            self._requests[route, status] += 1

    def transcribed(self, took_s: Seconds, audio_s: Seconds, work_s: Seconds) -> None:
        """Count a transcript that took ``took_s`` after its upload, ``work_s`` of them in a worker."""
        with self._lock:
            self._took += 1
            self._took_s += took_s
            self._audio_s += audio_s
            self._work_s += work_s
            for bound in _BUCKETS_S:
                self._buckets[bound] += took_s <= bound

    def streamed(self, audio_s: Seconds, work_s: Seconds) -> None:
        """Count a finished stream."""
        with self._lock:
            self._audio_s += audio_s
            self._work_s += work_s

    def render(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """The counters and ``gauges`` (name -> (meaning, value)) as text."""
        with self._lock:
            lines = [
                *_head("lalia_requests_total", "counter", "Requests answered, by route and status."),
                *(f'lalia_requests_total{{route="{route}",status="{status}"}} {count}'
                  for (route, status), count in sorted(self._requests.items())),
                *_head("lalia_audio_seconds_total", "counter", "Audio transcribed."),
                f"lalia_audio_seconds_total {self._audio_s:.3f}",
                *_head("lalia_work_seconds_total", "counter", "Time that worker threads spent on transcription."),
                f"lalia_work_seconds_total {self._work_s:.3f}",
                *_head("lalia_transcription_seconds", "histogram", "From the end of an upload to its transcript."),
                *(f'lalia_transcription_seconds_bucket{{le="{bound:g}"}} {self._buckets[bound]}' for bound in _BUCKETS_S),
                f'lalia_transcription_seconds_bucket{{le="+Inf"}} {self._took}',
                f"lalia_transcription_seconds_sum {self._took_s:.3f}",
                f"lalia_transcription_seconds_count {self._took}",
            ]  # fmt: skip
        for name, (meaning, value) in gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


# --- The routes ------------------------------------------------------------------------------------------

Handler = Callable[[Request], Awaitable[Response]]
Write = Callable[[Transcript, Upload, list[Note]], Response]


class Service:
    """One student and its active requests. Uploads are stored in ``folder`` while they are needed."""

    def __init__(self, student: Student, name: str, limits: Limits, folder: Path, token: str = "") -> None:
        self.student = student
        self.name = name
        self.limits = limits
        self.folder = folder
        self.metrics = Metrics()
        self.scheduler = Scheduler(limits.jobs)
        self.active = 0
        self.streams = 0
        self._token = token.encode()
        languages = student.card.get("language") or []
        self.language = ",".join([languages] if isinstance(languages, str) else languages)
        self._page = (files("lalia.serve") / "page.html").read_text(encoding="utf-8")
        script = re.search(r"<script>(.*?)</script>", self._page, re.S)
        style = re.search(r"<style>(.*?)</style>", self._page, re.S)
        assert script and style
        self._policy = (
            "default-src 'none'; connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none';"
            f" frame-ancestors 'none'; script-src {_digest(script[1])}; style-src {_digest(style[1])}"
        )

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._guarded("/", self.page, closed=False)),
            Route("/health", self._guarded("/health", self.health, closed=False)),
            Route("/metrics", self._guarded("/metrics", self.show_metrics)),
            Route("/v1/models", self._guarded("/v1/models", self.models)),
            Route("/transcribe", self._guarded("/transcribe", self.transcribe), methods=["POST"]),
            Route(
                "/v1/audio/transcriptions",
                self._guarded("/v1/audio/transcriptions", self.transcribe_openai),
                methods=["POST"],
            ),
            WebSocketRoute(ROUTE, self.stream),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.get_running_loop().run_in_executor(None, self.scheduler.close)

        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: self._unknown})

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers={"content-security-policy": self._policy})

    async def health(self, _: Request) -> Response:
        card = self.student.card
        facts = {"model": self.name, "id": card["id"], "inside": self.active, "streaming": card.get("streaming")}
        return JSONResponse({"status": "ok"} | facts)

    async def show_metrics(self, _: Request) -> Response:
        gauges = {
            "lalia_requests_inside": ("Active requests: uploading, queued or being transcribed.", self.active),
            "lalia_requests_limit": (
                "Limit of concurrent requests; more get status 429.",
                self.limits.requests,
            ),
            "lalia_streams": ("Active streams.", self.streams),
            "lalia_jobs_waiting": ("Queued files.", self.scheduler.waiting()),
        }
        return Response(self.metrics.render(gauges), media_type=CONTENT_TYPE)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "lalia"}]})

    async def transcribe(self, request: Request) -> Response:
        """``POST /transcribe?format=srt``: the file as the body, or in a form."""
        format = _require_known("format", request.query_params.get("format", "json"), FORMATS)
        _channel_choice(request.query_params)
        return await self._transcribe(
            request, lambda transcript, upload, notes: answer(transcript, format, upload.name, notes)
        )

    async def transcribe_openai(self, request: Request) -> Response:
        """``POST /v1/audio/transcriptions``: a form as OpenAI's clients send it."""

        def write(transcript: Transcript, upload: Upload, notes: list[Note]) -> Response:
            return openai_answer(
                transcript, upload.fields.get("response_format", "json"), upload.name, written(upload), notes
            )

        def written(upload: Upload) -> str:
            normaliser = self.student_for(upload.fields.get("language", "")).normaliser
            return normaliser.settings.language if len(normaliser.languages) > 1 else self.language

        def check(upload: Upload) -> None:
            _require_known("response_format", upload.fields.get("response_format", "json"), OPENAI)
            if upload.fields.get("stream", "false").lower() not in ("", "false", "0"):
                raise RequestError(400, "no_stream", "stream is not supported; leave it out")

        return await self._transcribe(request, write, check)

    async def stream(self, socket: WebSocket) -> None:
        """WebSocket ``/stream``: streaming recognition."""
        await serve_stream(self, socket)

    async def _transcribe(
        self, request: Request, write: Write, check: Callable[[Upload], None] | None = None
    ) -> Response:
        if self.active >= self.limits.requests:
            raise busy(self.limits.requests)
        self.active += 1
        try:
            async with receive_upload(request, self.limits, self.folder) as upload:
                if check is not None:
                    check(upload)
                start = time.monotonic()
                notes: list[Note] = []
                fields = {**request.query_params, **upload.fields}
                options = TranscribeOptions(_channel_choice(fields), on_note=notes.append)
                student = self.student_for(fields.get("language", ""))
                steps = partial(student.steps, upload.path, upload.name, options)
                job = Job(steps, self.limits.audio_s, self.limits.work_s)
                transcript = await self._wait(request, job)
                self.metrics.transcribed(time.monotonic() - start, transcript.duration_s, job.worked_s)
                return write(transcript, upload, notes)
        finally:
            self.active -= 1

    def student_for(self, language: str) -> Student:
        """The student that writes ``language``; a student of one language writes that, whatever a client sends."""
        if not language or len(self.student.normaliser.languages) < 2:
            return self.student
        try:
            return self.student.in_language(language)
        except UserError as error:
            raise RequestError(400, "no_language", str(error)) from error

    async def _wait(self, request: Request, job: Job) -> Transcript:
        """The job's transcript; if the client disconnects, the job ends before its file is removed."""
        done = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(
            request.receive()
        )  # after the body, this only reports that the client disconnected
        self.scheduler.add(job)
        try:
            either: set[asyncio.Future[Any]] = {done, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                job.cancel()
            return await done
        finally:
            gone.cancel()
            job.cancel()

    def _guarded(self, route: str, handler: Handler, closed: bool = True) -> Handler:
        """``handler`` with authorization, errors as responses, and counted requests."""

        async def call(request: Request) -> Response:
            try:
                if closed:
                    self._check_token(request)
                response = await handler(request)
            except RequestError as error:
                response = _error_response(error)
            except AudioError as error:
                response = _error_response(RequestError(415, "bad_audio", str(error)))
            except Exception as error:  # a bug here fails only this request
                response = _error_response(
                    RequestError(500, "fault", f"{type(error).__name__} in the server; please report it")
                )
            self.metrics.answered(route, response.status_code)
            response.headers["x-content-type-options"] = "nosniff"
            return response

        return call

    def _check_token(self, request: Request) -> None:
        if not self.authorized(request.headers.get("authorization", "")):
            raise RequestError(
                401, "no_token", "expected the header 'Authorization: Bearer TOKEN' with this server's token"
            )

    def authorized(self, authorization: str) -> bool:
        """Whether the header ``Authorization`` has this server's token; always true without one."""
        kind, _, given = authorization.partition(" ")
        shown = kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)
        return shown or not self._token

    async def _unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self.metrics.answered("other", error.status_code)
        there = "GET / /health /metrics /v1/models, POST /transcribe /v1/audio/transcriptions, WebSocket /stream"
        what = f"{error.detail}; there are {there}"
        return _error_response(RequestError(error.status_code, "no_route", what))


def _error_response(error: RequestError) -> Response:
    # Closed, since the body may not have been read to its end.
    headers = {"connection": "close"}
    if error.retry_s is not None:
        headers["retry-after"] = f"{error.retry_s:.0f}"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.as_dict(), error.status, headers)


def _require_known(field: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise RequestError(400, "bad_format", f"{field} {value[:40]!r} is unknown; expected one of {', '.join(known)}")
    return value


def _channel_choice(parameters: Mapping[str, str]) -> int | None:
    try:
        return parse_channels(parameters.get("channels", "mix"))
    except ValueError as error:
        raise RequestError(400, "bad_channels", str(error)) from error


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
