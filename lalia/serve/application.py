"""HTTP routes of the server: transcription, models, the page, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from lalia.audio.channels import EACH, parse_channels
from lalia.audio.reading import Note
from lalia.decoding.decoder import Decoder
from lalia.errors import AudioError, UserError
from lalia.model_folder import CALIBRATED, GREEDY
from lalia.runtime.naming import name_speakers
from lalia.runtime.student import TranscribeOptions
from lalia.runtime.transcript import FORMATS, Transcript
from lalia.serve.access import Access, RequestName
from lalia.serve.http import (
    DIARIZED,
    OPENAI,
    Events,
    EventStream,
    OpenAIEvents,
    Progress,
    Upload,
    answer,
    checked,
    event,
    openai_answer,
    receive_upload,
    reported,
)
from lalia.serve.limits import Limits, RequestError, busy, truth
from lalia.serve.metrics import CONTENT_TYPE, Metrics
from lalia.serve.realtime import ROUTE as REALTIME
from lalia.serve.realtime import serve_realtime
from lalia.serve.scheduler import Job, Scheduler, Steps
from lalia.serve.students import AUTO, Served, Students
from lalia.serve.web_page import WORDS_BYTES, load_page, read_transcript
from lalia.serve.websocket import ROUTE, Sessions, serve_stream
from lalia.speakers.diarizer import Diarizer
from lalia.text.language_codes import language_name
from lalia.text.tokens import Tokens
from lalia.units import Seconds

LOG = logging.getLogger("lalia.serve")

# --- The routes ------------------------------------------------------------------------------------------

Handler = Callable[[Request], Awaitable[Response]]
Write = Callable[[Transcript, Upload, list[Note], "Plan"], Response]
Check = Callable[[Upload], None]

FIELDS = frozenset(
    {"file", "name", "format", "model", "language", "channels", "voice", "hot_words", "prompt", "diarize", "stream"}
)
"""What ``/transcribe`` takes in its query or form; another name is refused."""
OPENAI_FIELDS = frozenset(
    {
        "file", "model", "language", "languages", "prompt", "keywords", "response_format", "temperature", "stream",
        "timestamp_granularities", "include", "chunking_strategy", "channels", "voice", "hot_words", "diarize",
    }
)  # fmt: skip
"""The fields of OpenAI's API, and lalia's own. ``temperature``, ``include`` and ``chunking_strategy`` have no effect here."""


@dataclass
class Plan:
    """How a request is transcribed, and in which languages it was."""

    steps: Callable[[], Steps]
    tokens: Tokens | None
    """None: by several students"""
    languages: list[str]


class Service:
    """The students and their active requests. Uploads are stored in ``folder`` while they are needed."""

    def __init__(
        self, students: Students, limits: Limits, folder: Path, access: Access | None = None, voice: bool = False,
        diarizer: Diarizer | None = None,
    ) -> None:  # fmt: skip
        self.students = students
        self.limits = limits
        self.folder = folder
        self.metrics = Metrics()
        self.scheduler = Scheduler(limits.jobs)
        self.sessions = Sessions(limits.resume_s)
        self.voice = voice
        self.diarizer = diarizer
        self.active = 0
        self.streams = 0
        self.access = access or Access()
        self._page = load_page()

    def application(self) -> Starlette:
        """The ASGI application."""
        get, post, put = ["GET"], ["POST"], ["PUT"]
        table: list[tuple[str, Handler, list[str]]] = [
            ("/", self.page, get),
            ("/health", self.health, get),
            ("/metrics", self.show_metrics, get),
            ("/v1/models", self.models, get),
            ("/v1/models/{name:path}", self.model, get),
            ("/v1/models/{name:path}", self.replace_model, put),
            ("/transcribe", self.transcribe, post),
            ("/render", self.render, post),
            ("/v1/audio/transcriptions", self.transcribe_openai, post),
            ("/v1/audio/translations", self.translate, post),
        ]
        routes = [
            Route(route, self._guarded(route, handler, closed=route not in ("/", "/health")), methods=methods)
            for route, handler, methods in table
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.get_running_loop().run_in_executor(None, self.scheduler.close)

        cors = Middleware(
            CORSMiddleware, allow_origins=list(self.access.origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"], expose_headers=["X-Request-ID", "Retry-After"],
        )  # fmt: skip
        return Starlette(
            routes=[*routes, WebSocketRoute(ROUTE, self.stream), WebSocketRoute(REALTIME, self.realtime)],
            lifespan=lifespan,
            exception_handlers={HTTPException: self._unknown},
            middleware=[cors] if self.access.origins else [],
        )

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page.html, headers={"content-security-policy": self._page.policy})

    async def health(self, _: Request) -> Response:
        listed = self.students.default
        facts = {"model": listed.name, "id": listed.id, "inside": self.active, "streaming": listed.streaming}
        languages = {code: language_name(code) or code for code in listed.languages if listed.several}
        abilities = {
            "languages": languages,
            "diarizer": self.diarizer is not None,
            "tagger": self.students.finds_languages,
        }
        return JSONResponse({"status": "ok"} | facts | abilities | {"loaded": self.students.loaded})

    async def show_metrics(self, _: Request) -> Response:
        gauges = {
            "lalia_requests_inside": (
                "Active requests: uploading, queued or being transcribed; streams too.",
                self.active,
            ),
            "lalia_requests_limit": (
                "Limit of concurrent requests; more get status 429.",
                self.limits.requests,
            ),
            "lalia_streams": ("Active streams.", self.streams),
            "lalia_streams_limit": ("Limit of concurrent streams; more get status 429.", self.limits.streams),
            "lalia_jobs_waiting": ("Queued files.", self.scheduler.waiting()),
            "lalia_students_loaded": ("Students in memory.", len(self.students.loaded)),
        }
        return Response(self.metrics.render(gauges), media_type=CONTENT_TYPE)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [listed.as_dict() for listed in self.students.listed]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self.students.find(request.path_params["name"]).as_dict())

    async def replace_model(self, request: Request) -> Response:
        """``PUT /v1/models/NAME``: the version that is on disk now takes the place of the one in memory."""
        if not self.access.token:
            what = "models are replaced over HTTP only with a token (see lalia serve --token-file); without: kill -HUP"
            raise RequestError(403, "no_token", what)
        name = request.path_params["name"]
        try:
            listed, report = await run_in_threadpool(self.students.replace, name)
        except UserError as error:
            LOG.error("student %s stays at its old version: %s", name[:80], error)
            raise RequestError(409, "not_replaced", f"the old version stays: {error}") from error
        LOG.info(
            "student %s is replaced by the version %s on disk%s", name, listed.id, f" ({report})" if report else ""
        )
        return JSONResponse(listed.as_dict() | ({"gate": report} if report else {}))

    def reload(self) -> None:
        """Replace all students in memory by their versions on disk; blocks, and logs what it did."""
        for line in self.students.reload():
            LOG.info("%s", line)

    async def translate(self, _: Request) -> Response:
        raise RequestError(
            400, "no_translation", "this server writes speech in its own language and does not translate"
        )

    async def transcribe(self, request: Request) -> Response:
        """``POST /transcribe?format=srt``: the file as the body, or in a form."""
        format = _require_known("format", request.query_params.get("format", "json"), FORMATS)
        _channel_choice(request.query_params)
        return await self._transcribe(
            request, lambda transcript, upload, notes, _: answer(transcript, format, upload.name, notes), FIELDS, Events
        )

    async def render(self, request: Request) -> Response:
        """``POST /render?format=srt``: words as JSON, corrected by a client, as a file."""
        format = _require_known("format", request.query_params.get("format", ""), FORMATS)
        limits = replace(self.limits, upload_bytes=min(WORDS_BYTES, self.limits.upload_bytes))
        async with receive_upload(request, limits, self.folder) as upload:
            transcript, name = await run_in_threadpool(lambda: read_transcript(upload.path.read_bytes()))
            return await run_in_threadpool(answer, transcript, format, name, [])

    async def transcribe_openai(self, request: Request) -> Response:
        """``POST /v1/audio/transcriptions``: a form as OpenAI's clients send it."""

        def write(transcript: Transcript, upload: Upload, notes: list[Note], plan: Plan) -> Response:
            return openai_answer(transcript, upload, ",".join(plan.languages), plan.tokens, notes)

        def check(upload: Upload) -> None:
            _require_known("response_format", upload.fields.get("response_format", "json"), OPENAI)

        return await self._transcribe(request, write, OPENAI_FIELDS, OpenAIEvents, check)

    async def stream(self, socket: WebSocket) -> None:
        """WebSocket ``/stream``: streaming recognition."""
        await serve_stream(self, socket)

    async def realtime(self, socket: WebSocket) -> None:
        """WebSocket ``/v1/realtime?intent=transcription``: OpenAI's protocol for live transcription."""
        await serve_realtime(self, socket)

    async def _transcribe(
        self, request: Request, write: Write, known: frozenset[str], events: type[Events], check: Check | None = None
    ) -> Response:
        async with AsyncExitStack() as stack:
            self.enter()
            stack.callback(self.leave)
            upload = await stack.enter_async_context(receive_upload(request, self.limits, self.folder))
            fields = {**request.query_params, **upload.fields}
            if unknown := sorted(fields.keys() - known):
                raise RequestError(
                    400, "unknown_field", f"field {unknown[0][:40]!r} is unknown; known are {', '.join(sorted(known))}"
                )
            if check is not None:
                check(upload)
            begun = time.monotonic()
            notes: list[Note] = []
            options = TranscribeOptions(
                _channel_choice(fields), truth("voice", fields.get("voice", str(self.voice))), on_note=notes.append
            )
            told: asyncio.Queue[Progress] | None = None
            if truth("stream", fields.get("stream", "")):
                told, loop = asyncio.Queue(), asyncio.get_running_loop()

                def tell(progress: Progress, put: Callable[[Progress], None] = told.put_nowait) -> None:
                    loop.call_soon_threadsafe(put, progress)

                options = replace(options, on_words=lambda words: tell(Progress(words)))
            plan = await self._plan(upload, fields, options)
            steps = plan.steps
            if told is not None:
                steps = reported(steps, tell)
            if truth("diarize", fields.get("diarize", "")) or fields.get("response_format") == DIARIZED:
                steps = self._with_speakers(steps, upload, options)
            job = Job(steps, self.limits.audio_s, self.limits.work_s, self.access.client_of(request))
            if told is not None:
                shape = events(upload.name, notes)
                return EventStream(self._events(request, job, told, shape, begun), stack.pop_all())
            transcript = await self._wait(request, job)
            self._transcribed(request, job, transcript, begun)
            return write(transcript, upload, notes, plan)

    async def _plan(self, upload: Upload, fields: Mapping[str, str], options: TranscribeOptions) -> Plan:
        """The student or students of a request, loaded if they are not."""
        model, language = (
            fields.get("model", ""),
            fields.get("language", "") or self.one_language(fields.get("languages", "").split(",")),
        )
        phrases = ",".join(fields.get(name, "") for name in ("prompt", "keywords", "hot_words"))
        most, on_note = self.limits.hot_words, options.on_note
        if language.lower() != AUTO:
            served = await self.served(model, language)
            decoder = served.decoder(phrases, most, on_note)
            steps = partial(served.student.steps, upload.path, upload.name, replace(options, decoder=decoder))
            calibrated = decoder is not None and decoder.weights is not None and served.decoding.only is None
            limit = GREEDY if decoder is None else CALIBRATED if calibrated else 0.0
            return Plan(checked(steps, limit, served.student.languages, on_note), served.tokens, [served.language])
        if options.channels == EACH:
            raise RequestError(400, "bad_channels", "language=auto mixes channels; take one with channels=N")
        routing, by_language = self.students.routing(model)
        found: list[str] = []

        def decoder_of(code: str) -> Decoder | None:
            return by_language.served(code).decoder(phrases, most, on_note)

        def on_language(code: str) -> None:
            if code not in found:
                found.append(code)

        return Plan(partial(routing.steps, upload.path, upload.name, options, decoder_of, on_language), None, found)

    def one_language(self, possible: Sequence[str]) -> str:
        """The language to ask for where any of ``possible`` may be spoken: that one, a tagger's choice, or the default."""
        if len(possible) == 1:
            return possible[0]
        return AUTO if self.students.finds_languages else ""

    async def served(self, model: str, language: str) -> Served:
        """The student for a request, loaded if it is not; ``RequestError`` if there is none."""
        listed = self.students.choose(model, language)
        served = self.students.peek(listed.name)
        if served is None:
            served = await run_in_threadpool(self.students.get, listed.name)
        return served.in_language(language)

    def _with_speakers(
        self, steps: Callable[[], Steps], upload: Upload, options: TranscribeOptions
    ) -> Callable[[], Steps]:
        """``steps`` and then those that name the speakers."""
        diarizer = self.diarizer
        if diarizer is None:
            raise RequestError(
                400, "no_diarizer", "this server names no speakers; start it with lalia serve STUDENT --diarizer FOLDER"
            )
        channel = None if options.channels == EACH else options.channels

        def both() -> Steps:
            transcript = yield from steps()
            return (
                yield from name_speakers(
                    transcript, diarizer, upload.path, upload.name, channel=channel, on_note=options.on_note
                )
            )

        return both

    async def _events(
        self, request: Request, job: Job, told: asyncio.Queue[Progress], shape: Events, begun: float
    ) -> AsyncIterator[bytes]:
        """Server-sent events: words as they become final, then the transcript; an error is the last event."""
        done = asyncio.wrap_future(job.future)
        done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # also if nobody waits any more
        self.scheduler.add(job)
        try:
            while not (done.done() and told.empty()):
                waited = asyncio.ensure_future(told.get())
                try:
                    either: set[asyncio.Future[Any]] = {done, waited}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not waited.done():
                        break
                    for found in shape.progress(waited.result()):
                        yield event(found)
                finally:
                    waited.cancel()
            transcript = await done
            self._transcribed(request, job, transcript, begun)
            for found in shape.done(transcript):
                yield event(found)
        except Exception as error:
            failed = self.as_request_error(error, request.state.name)
            yield event({"type": "error", **failed.as_dict()})
        finally:
            job.cancel()

    def _transcribed(self, request: Request, job: Job, transcript: Transcript, begun: float) -> None:
        request.state.audio_s = transcript.duration_s
        self.metrics.transcribed(time.monotonic() - begun, transcript.duration_s, job.worked_s)

    def enter(self, stream: bool = False) -> bool:
        """Count one more active request; ``RequestError`` if the limit is reached."""
        if stream and self.streams >= self.limits.streams:
            raise busy(self.limits.streams, "streams")
        if not stream and self.active - self.streams >= self.limits.requests:
            raise busy(self.limits.requests)
        self.active += 1
        self.streams += stream
        return True

    def leave(self, stream: bool = False) -> None:
        """Count one active request less."""
        self.active -= 1
        self.streams -= stream

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

    # --- Log and errors --------------------- ------------------------------------------------------------------

    def answered(self, request: RequestName, route: str, status: int, audio_s: Seconds = 0.0) -> None:
        """Count a request, and log it if the access log is on."""
        self.metrics.answered(route, status)
        if self.access.log:
            what = "".join(c if c.isprintable() else "?" for c in request.what)[:200]
            took_s = time.monotonic() - request.began
            heard = f", {audio_s:.1f} s of audio" if audio_s else ""
            LOG.info('%s "%s" %d in %.3f s%s, id %s', request.client, what, status, took_s, heard, request.id)

    def fault(self, error: Exception, request: RequestName) -> RequestError:
        """Log and count an exception that is a bug; what the client is told."""
        self.metrics.faulted()
        LOG.error("fault in request %s (%s from %s)", request.id, request.what, request.client, exc_info=error)
        what = f"{type(error).__name__} in the server, which has logged it; please report it with the id {request.id}"
        return RequestError(500, "fault", what)

    def as_request_error(self, error: Exception, request: RequestName) -> RequestError:
        """What the client is told about ``error``; one that is neither a refusal nor bad audio is a fault."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, AudioError):
            return RequestError(415, "bad_audio", str(error))
        return self.fault(error, request)

    def _guarded(self, route: str, handler: Handler, closed: bool = True) -> Handler:
        """``handler`` with authorization, errors as responses, and counted and named requests."""

        async def call(request: Request) -> Response:
            name = request.state.name = self.access.name_request(request)
            request.state.audio_s = 0.0
            try:
                if closed:
                    self.access.check_token(request)
                response = await handler(request)
            except Exception as error:  # it fails only this request
                response = _error_response(self.as_request_error(error, name))
            self.answered(name, route, response.status_code, request.state.audio_s)
            response.headers["x-content-type-options"] = "nosniff"
            response.headers["x-request-id"] = name.id
            return response

        return call

    async def _unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        name = self.access.name_request(request)
        self.answered(name, "other", error.status_code)
        there = "/ /health /metrics /v1/models /transcribe /render /v1/audio/transcriptions /stream /v1/realtime"
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
