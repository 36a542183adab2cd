"""HTTP uploads and responses: store a request's audio in a temporary file, write a transcript in lalia's or OpenAI's formats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import tempfile
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lalia.audio.reading import TWO_VOICES, Note, NoteHandler
from lalia.decoding.greedy import Word, text_of_words
from lalia.errors import UserError
from lalia.model_folder import low_confidence, low_confidence_warning
from lalia.runtime.transcript import Transcript, make_cues, render, turns, who
from lalia.serve.limits import MEGABYTE, Limits, RequestError
from lalia.serve.scheduler import Steps
from lalia.text.tokens import Tokens
from lalia.units import Seconds

# --- Uploads ---------------------------------------------------------------------------------------------

_FIELDS, _FIELD_BYTES, _NAME_CHARACTERS = 1_100, 65_536, 120  # keywords are a field each
_LINGER_S = 2.0


@dataclass(frozen=True)
class Upload:
    """An uploaded file: its path, the client's name for it, and the form's other fields, repeated ones joined by commas."""

    path: Path
    name: str
    fields: dict[str, str]


@asynccontextmanager
async def receive_upload(request: Request, limits: Limits, folder: Path) -> AsyncIterator[Upload]:
    """A context with the request's file (a form's ``file``, or the body) stored in ``folder``.

    ``RequestError`` if it is too large, too slow or missing.
    """
    stream = _bounded(request, limits)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix="upload-"))
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                name, fields = await _form(request, stream, file)
            else:
                name, fields = request.query_params.get("name", ""), {}
                async for chunk in stream:
                    await run_in_threadpool(file.write, chunk)
            file.flush()
        except ClientDisconnect as error:
            raise RequestError(499, "gone", "the client disconnected during the upload") from error
        except OSError as error:
            raise RequestError(
                507, "no_space", f"the upload cannot be stored ({error.strerror})", retry_s=30.0
            ) from error
        except RequestError as error:
            if error.status == 413 and "expect" not in request.headers:
                await _drain(request)
            raise
        yield Upload(Path(file.name), _shown(name), fields)


async def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body's chunks; ``RequestError`` as soon as the body is too large or too slow."""
    too_large = RequestError(
        413, "too_large", f"is larger than {limits.upload_bytes / MEGABYTE:g} MB; send it in parts, or as FLAC or MP3"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.upload_bytes:
        raise too_large
    chunks = request.stream()
    start, total = time.monotonic(), 0
    while True:
        left_s = limits.patience_s + total / limits.upload_rate - (time.monotonic() - start)
        try:
            chunk = await asyncio.wait_for(chunks.__anext__(), max(left_s, 0.001))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise RequestError(408, "too_slow", f"arrived slower than {limits.upload_rate} bytes per second") from error
        total += len(chunk)
        if total > limits.upload_bytes:
            raise too_large
        yield chunk


async def _form(request: Request, stream: AsyncGenerator[bytes, None], file: IO[bytes]) -> tuple[str, dict[str, str]]:
    try:
        parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, "bad_form", f"the form cannot be read ({error.message})") from error
    async with contextlib.AsyncExitStack() as opened:
        fields: dict[str, str] = {}
        for key, value in form.multi_items():
            if isinstance(value, str):
                name = key.partition("[")[
                    0
                ]  # keywords[], chunking_strategy[type]: lists and objects, as OpenAI's clients send them
                fields[name] = f"{fields[name]},{value}" if name in fields else value
        sent = form.get("file")
        for value in form.values():
            if isinstance(value, UploadFile):
                opened.push_async_callback(value.close)
        if not isinstance(sent, UploadFile):
            raise RequestError(400, "no_file", "the form has no file; expected one in the field 'file'")
        await run_in_threadpool(shutil.copyfileobj, sent.file, file)
        return sent.filename or "", fields


async def _drain(request: Request) -> None:
    """Read for a moment: a client that is still sending would get a connection reset instead of the response."""

    async def discard() -> None:
        while (await request.receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(discard(), _LINGER_S)


def _shown(name: str) -> str:
    """A client's file name for messages: the last part, without control characters. It is never opened."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:_NAME_CHARACTERS] or "upload"


# --- Responses -------------------------------------------------------------------------------------------

MEDIA = {
    "txt": "text/plain; charset=utf-8",
    "json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
DIARIZED = "diarized_json"
OPENAI = ("json", "text", "srt", "verbose_json", "vtt", DIARIZED)


def answer(transcript: Transcript, format: str, name: str, notes: Sequence[Note]) -> Response:
    """The response for ``transcript`` of the file ``name`` in one of lalia's formats; JSON has ``notes`` as ``warnings``."""
    if format == "json":
        return _json(json.loads(render(transcript, format, name)) | _warnings(notes))
    return Response(render(transcript, format, name), media_type=MEDIA[format])


def openai_answer(
    transcript: Transcript, upload: Upload, language: str, tokens: Tokens | None, notes: Sequence[Note]
) -> Response:
    """The response of ``/v1/audio/transcriptions``.

    Fields of Whisper that a CTC recogniser has no value for stand with a neutral one, since typed clients read them:
    ``seek`` and ``temperature`` 0, ``no_speech_prob`` 0; ``avg_logprob`` is of the words, not of tokens. ``tokens`` None: the
    text is of several students, whose tokens are not alike; those of segments stay empty.
    """
    format = upload.fields.get("response_format", "json")
    if format == "json":
        return _json({"text": transcript.text, "usage": usage(transcript)} | _warnings(notes))
    if format == DIARIZED:
        return _json(_diarized(transcript) | _warnings(notes))
    if format != "verbose_json":
        return answer(transcript, {"text": "txt"}.get(format, format), upload.name, notes)
    kinds = {kind.strip() for kind in upload.fields.get("timestamp_granularities", "").split(",")}
    if unknown := sorted(kinds - {"word", "segment", ""}):
        raise RequestError(
            400, "bad_field", f"timestamp_granularities {unknown[0][:40]!r} is unknown; expected word or segment"
        )
    words = [{"word": w.text, "start": w.start_s, "end": w.end_s} | who(w) for w in transcript.words]
    found = {
        "task": "transcribe",
        "language": language,
        "duration": transcript.duration_s,
        "text": transcript.text,
        "segments": _segments(transcript, tokens),
        "usage": usage(transcript),
    }
    return _json(found | ({} if kinds == {"segment"} else {"words": words}) | _warnings(notes))


def _diarized(transcript: Transcript) -> dict[str, Any]:
    """As OpenAI's ``diarized_json``: a segment for each turn, speakers A, B, …"""
    segments = [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03d}",
            "start": turn[0].start_s,
            "end": turn[-1].end_s,
            "text": text_of_words(turn),
            "speaker": turn[0].label,
        }
        for number, turn in enumerate(turns(transcript.words))
    ]
    return {
        "task": "transcribe",
        "duration": transcript.duration_s,
        "text": transcript.text,
        "segments": segments,
        "usage": usage(transcript),
    }


def _segments(transcript: Transcript, tokens: Tokens | None) -> list[dict[str, Any]]:
    found = []
    for number, cue in enumerate(make_cues(transcript.words)):
        words = [
            word
            for word in transcript.words
            if word.label == cue.label and cue.start_s <= (word.start_s + word.end_s) / 2 <= cue.end_s
        ]
        logs = [math.log(max(word.confidence, 1e-9)) for word in words]
        found.append(
            {
                "id": number,
                "seek": 0,
                "start": cue.start_s,
                "end": cue.end_s,
                "text": cue.text,
                "tokens": _encoded(cue.text, tokens),
                "temperature": 0.0,
                "avg_logprob": round(sum(logs) / len(logs), 4) if logs else 0.0,
                "compression_ratio": round(len(cue.text.encode()) / len(zlib.compress(cue.text.encode())), 4),
                "no_speech_prob": 0.0,
            }
            | who(cue)
        )
    return found


def _encoded(text: str, tokens: Tokens | None) -> list[int]:
    if tokens is None:
        return []
    try:
        return [int(token) for token in tokens.encode(text)]
    except UserError:  # letters that only a language model or a closed list writes
        return []


def usage(transcript: Transcript) -> dict[str, Any]:
    """What was transcribed, as OpenAI counts it: whole seconds."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


# --- Server-sent events ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """News of a running job: words that became final, or the seconds of audio transcribed so far."""

    words: list[Word]
    heard_s: Seconds = 0.0


def reported(steps: Callable[[], Steps], tell: Callable[[Progress], None]) -> Callable[[], Steps]:
    """``steps`` that tell how many seconds were transcribed."""

    def told() -> Steps:
        work = steps()
        while True:
            try:
                heard_s = next(work)
            except StopIteration as end:
                return end.value
            tell(Progress([], heard_s))
            yield heard_s

    return told


def checked(
    steps: Callable[[], Steps], limit: float, languages: Sequence[str], on_note: NoteHandler
) -> Callable[[], Steps]:
    """``steps`` with a note if the confidence of the words is below ``limit`` throughout: probably another language."""

    def both() -> Steps:
        transcript = yield from steps()
        if low_confidence(transcript.words, limit):
            on_note(Note("confidence", low_confidence_warning(transcript.words, languages)))
        return transcript

    return both


class EventStream(StreamingResponse):
    """Server-sent events, and what is closed behind them even if the client leaves before the first."""

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


class Events:
    """The events of ``/transcribe?stream=true``: ``words``, ``progress`` and at the end ``done``, the JSON transcript."""

    def __init__(self, name: str, notes: Sequence[Note]) -> None:
        self._name = name
        self._notes = notes

    def progress(self, told: Progress) -> Iterator[dict[str, Any]]:
        if told.words:
            found = json.loads(render(Transcript("", told.words), "json"))
            yield {"type": "words", "words": found["words"]}
        else:
            yield {"type": "progress", "heard_s": round(told.heard_s, 3)}

    def done(self, transcript: Transcript) -> Iterator[dict[str, Any]]:
        found = json.loads(render(transcript, "json", self._name))
        yield {"type": "done"} | found | _warnings(self._notes)


class OpenAIEvents(Events):
    """The events of OpenAI's API: the text word by word, then all of it."""

    def __init__(self, name: str, notes: Sequence[Note]) -> None:
        super().__init__(name, notes)
        self._shown: list[Word] = []
        self._text = ""

    def progress(self, told: Progress) -> Iterator[dict[str, Any]]:
        if told.words:
            self._shown += told.words
            before, self._text = self._text, text_of_words(self._shown)
            yield {"type": "transcript.text.delta", "delta": self._text[len(before) :]}

    def done(self, transcript: Transcript) -> Iterator[dict[str, Any]]:
        rest = transcript.text.removeprefix(self._text)
        if not self._shown or (rest and rest != transcript.text):
            yield {"type": "transcript.text.delta", "delta": rest}
        yield {"type": "transcript.text.done", "text": transcript.text, "usage": usage(transcript)}


def event(message: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(message, ensure_ascii=False)}\n\n".encode()


def _warnings(notes: Sequence[Note]) -> dict[str, list[str]]:
    hints = {TWO_VOICES: "; channels=each keeps them apart"}
    return {"warnings": [note.text + hints.get(note.kind, "") for note in notes]} if notes else {}


def _json(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), media_type=MEDIA["json"])
