"""OpenAI's Realtime protocol for transcription: WebSocket ``/v1/realtime?intent=transcription``.

The client appends audio as base64 (16-bit samples at 24 kHz or another rate, or G.711 at 8 kHz); voice activity detection, or
the client's ``commit``, ends an item, and each item is transcribed: words of a streaming student as deltas while it is spoken,
else the item as one delta. Both forms of the session are understood: ``session.update`` with ``audio.input`` (general
availability) and ``transcription_session.update`` (beta, header ``OpenAI-Beta: realtime=v1``). A wrong message is answered with
an ``error`` event and changes nothing; the connection stays.

Source: https://platform.openai.com/docs/guides/realtime-transcription
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from lalia.audio.reading import Resampler, ignore_note
from lalia.audio.vad import FRAME_SAMPLES, Endpointer
from lalia.decoding.decoder import Decoder
from lalia.decoding.greedy import text_of_words
from lalia.runtime.streaming import Stream, StreamUpdate
from lalia.runtime.student import TranscribeOptions
from lalia.serve.access import TOKEN_IN_QUERY, TOKENS
from lalia.serve.limits import RequestError
from lalia.serve.scheduler import Job, Steps
from lalia.serve.students import AUTO, Served
from lalia.serve.websocket import PIECE_S, SocketClient, is_keep_alive, serve_socket
from lalia.units import SAMPLE_RATE, Samples, Seconds, clock, to_samples, to_seconds

if TYPE_CHECKING:
    from lalia.serve.application import Service

ROUTE = "/v1/realtime"
LONGEST_S: Seconds = 120.0
"""An item without a pause is ended here, so that memory stays flat."""
_SHORTEST_S: Seconds = 0.1
"""A commit needs as much audio."""
_KEY = "openai-insecure-api-key."
"""Browsers, which cannot set headers, send the token in a subprotocol of this name."""
_FORMATS = {
    "pcm16": ("audio/pcm", 24_000), "g711_ulaw": ("audio/pcmu", 8_000), "g711_alaw": ("audio/pcma", 8_000),
}  # fmt: skip
"""name in the beta → (name today, rate)"""
_RATES = (8_000, 192_000)

Event = dict[str, Any]


async def serve_realtime(service: Service, socket: WebSocket) -> None:
    """``/v1/realtime`` for one client."""
    await serve_socket(service, socket, ROUTE, RealtimeClient(service, socket))


@dataclass(frozen=True)
class Session:
    """What a client may set."""

    format: str = "audio/pcm"
    rate: int = 24_000
    model: str = ""
    language: str = ""
    prompt: str = ""
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    threshold: float = 0.5
    prefix_s: Seconds = 0.3
    silence_s: Seconds = 0.5
    detect: bool = True
    """end items by voice activity; else by the client's commits"""

    @property
    def phrases(self) -> str:
        """What is boosted, one a line."""
        return "\n".join([self.prompt, *self.keywords])

    def updated(self, session: Any) -> Session:
        """With the values of a ``session.update`` or ``transcription_session.update``; ``RequestError`` names a wrong one."""
        if not isinstance(session, Mapping):
            raise _wrong("session", session, "an object")
        audio = session.get("audio", {})
        nested = audio.get("input", {}) if isinstance(audio, Mapping) else None
        if not isinstance(nested, Mapping):
            raise _wrong("session.audio", audio, "an object with input")
        given = {
            "format": session.get("input_audio_format", nested.get("format")),
            "transcription": session.get("input_audio_transcription", nested.get("transcription")),
        }
        made = self
        if given["format"] is not None:
            format, rate = _format(given["format"])
            made = replace(made, format=format, rate=rate)
        if given["transcription"] is not None:
            if not isinstance(given["transcription"], Mapping):
                raise _wrong("transcription", given["transcription"], "an object")
            texts = {name: given["transcription"].get(name) or "" for name in ("model", "language", "prompt")}
            for name, value in texts.items():
                if not isinstance(value, str):
                    raise _wrong(f"transcription.{name}", value, "text")
            lists = {name: given["transcription"].get(name) or [] for name in ("languages", "keywords")}
            for name, values in lists.items():
                if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                    raise _wrong(f"transcription.{name}", values, "a list of texts")
            made = replace(
                made, model=texts["model"], language=texts["language"], prompt=texts["prompt"],
                languages=tuple(lists["languages"]), keywords=tuple(lists["keywords"]),
            )  # fmt: skip
        for parent in (session, nested):
            if "turn_detection" in parent:
                made = made._detecting(parent["turn_detection"])
        return made

    def _detecting(self, wanted: Any) -> Session:
        if wanted is None:
            return replace(self, detect=False)
        if not isinstance(wanted, Mapping):
            raise _wrong("turn_detection", wanted, "an object or null")
        kind = wanted.get("type", "server_vad")
        if kind not in ("server_vad", "semantic_vad"):
            raise _wrong("turn_detection.type", kind, "server_vad")
        return replace(
            self,
            detect=True,
            threshold=_number("turn_detection.threshold", wanted.get("threshold", self.threshold), 0.05, 0.95),
            prefix_s=_number("prefix_padding_ms", wanted.get("prefix_padding_ms", self.prefix_s * 1000), 0, 5000) / 1000,
            silence_s=_number("silence_duration_ms", wanted.get("silence_duration_ms", self.silence_s * 1000), 60, 10_000)
            / 1000,
        )  # fmt: skip

    def as_dict(self, model: str, beta: bool) -> Event:
        """As the server reports it."""
        transcription: Event = {"model": model, "language": self.language or None, "prompt": self.prompt}
        transcription |= {
            name: list(values)
            for name, values in (("languages", self.languages), ("keywords", self.keywords))
            if values
        }
        detection = {
            "type": "server_vad", "threshold": self.threshold, "prefix_padding_ms": round(self.prefix_s * 1000),
            "silence_duration_ms": round(self.silence_s * 1000),
        }  # fmt: skip
        detecting = detection if self.detect else None
        if beta:
            name = next(name for name, (format, _) in _FORMATS.items() if format == self.format)
            return {
                "object": "realtime.transcription_session", "input_audio_format": name,
                "input_audio_transcription": transcription, "turn_detection": detecting,
            }  # fmt: skip
        format = {"type": self.format} | ({"rate": self.rate} if self.format == "audio/pcm" else {})
        return {
            "object": "realtime.transcription_session", "type": "transcription", "include": None,
            "audio": {"input": {"format": format, "transcription": transcription, "noise_reduction": None,
                                "turn_detection": detecting}},
        }  # fmt: skip


def _format(wanted: Any) -> tuple[str, int]:
    if isinstance(wanted, str) and wanted in _FORMATS:
        return _FORMATS[wanted]
    if isinstance(wanted, Mapping):
        for format, rate in _FORMATS.values():
            if wanted.get("type") == format:
                given = wanted.get("rate", rate) if format == "audio/pcm" else rate
                return format, int(_number("format.rate", given, *_RATES))
    raise _wrong("format", wanted, "audio/pcm, audio/pcmu or audio/pcma (in the beta pcm16, g711_ulaw, g711_alaw)")


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _wrong(name, value, f"a number from {least:g} to {most:g}")
    return float(value)


def _wrong(name: str, value: Any, expected: str) -> RequestError:
    return RequestError(400, "invalid_value", f"{name} is {str(value)[:60]!r}; expected {expected}")


# --- Items -----------------------------------------------------------------------------------------------


@dataclass
class _Item:
    """Audio between two pauses, or between two commits."""

    stream: Stream | None
    """of a streaming student, which transcribes while it is spoken"""
    id: str = field(default_factory=lambda: f"item_{uuid.uuid4().hex[:20]}")
    parts: list[np.ndarray] = field(default_factory=list)
    samples: Samples = 0
    shown: str = ""

    def feed(self, wave_S: np.ndarray) -> list[Event]:
        """Add audio; what can be said about it."""
        self.samples += len(wave_S)
        if self.stream is None:
            self.parts.append(wave_S)
            return []
        return self._delta(self.stream.feed(wave_S))

    def _delta(self, update: StreamUpdate) -> list[Event]:
        if self.stream is None or not update.stable:
            return []
        text = text_of_words(self.stream.words)
        new, self.shown = text[len(self.shown) :], text
        return [self.event("delta", delta=new)] if new else []

    def finish(self) -> list[Event]:
        """The last words of a streaming student."""
        assert self.stream is not None
        return self._delta(self.stream.finish())

    def completed(self, text: str) -> Event:
        usage = {"type": "duration", "seconds": round(to_seconds(self.samples), 3)}
        return self.event("completed", transcript=text, usage=usage, logprobs=None)

    def event(self, kind: str, **values: Any) -> Event:
        type = f"conversation.item.input_audio_transcription.{kind}"
        return {"type": type, "item_id": self.id, "content_index": 0, **values}


class RealtimeClient(SocketClient):
    """A client of ``/v1/realtime``."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        super().__init__(service, socket)
        offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]
        self.subprotocol = "realtime" if "realtime" in offered else None
        self._keys = [name.removeprefix(_KEY) for name in offered if name.startswith(_KEY)]
        self._beta = socket.headers.get("openai-beta", "") == "realtime=v1" or "openai-beta.realtime-v1" in offered
        self._id = f"sess_{uuid.uuid4().hex[:20]}"
        self._session = Session(model=socket.query_params.get("model", ""))
        self._served: Served | None = None
        self._last_item: str | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget the audio so far: the format may have changed."""
        self._resampler = Resampler(self._session.rate)
        self._rest = b""
        self._item: _Item | None = None
        self._ends = Endpointer(self._session.threshold, self._session.silence_s) if self._session.detect else None
        self._before_S = np.zeros(0, np.float32)

    @property
    def authorization(self) -> str:
        return self._socket.headers.get("authorization", "") or (f"Bearer {self._keys[0]}" if self._keys else "")

    def check(self) -> None:
        query = self._socket.query_params
        if query.get("intent", "transcription") != "transcription":
            raise RequestError(400, "bad_intent", f"intent {query['intent'][:40]!r}; this server only transcribes")
        if any(name in query for name in TOKENS):
            raise RequestError(401, "no_token", TOKEN_IN_QUERY)
        if not self._service.access.authorized(self.authorization):
            raise RequestError(401, "no_token", "expected the header 'Authorization: Bearer TOKEN'")

    async def open(self) -> None:
        await self._choose(self._session)

    async def _choose(self, session: Session) -> None:
        """Load the student of ``session``; ``RequestError`` if there is none, or its prompt is too long."""
        language = session.language or self._service.one_language(session.languages or ("",))
        if language.lower() == AUTO:
            self._service.students.routing(session.model)
            self._served = None
            return
        served = await self._service.served(session.model, language)
        served.decoder(session.phrases, self._service.limits.hot_words, ignore_note)
        self._served = served

    def keep(self) -> None:
        """Nothing: a session ends with its connection."""

    async def listen(self) -> None:
        await self._say({"type": self._named("created"), "session": self._report()})
        while True:
            message = await self._receive(self._service.limits.idle_s)
            event: Any = None
            try:
                if isinstance(message, bytes):
                    raise RequestError(400, "invalid_message", "a binary message; expected JSON with audio as base64")
                if is_keep_alive(message):
                    continue
                try:
                    event = json.loads(message)
                except (ValueError, RecursionError):
                    raise RequestError(400, "invalid_json", "a message that is not JSON") from None
                if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                    raise RequestError(400, "invalid_event", "expected a JSON object with a type")
                await self._handle(event)
            except RequestError as error:
                if error.status not in (400, 404):
                    raise
                await self._say_error(error, event.get("event_id") if isinstance(event, dict) else None)

    async def fail(self, error: RequestError, code: int) -> None:
        try:
            await self._say_error(error, None)
            await self._socket.close(code, error.code)
        except (WebSocketDisconnect, RuntimeError, RequestError):
            pass

    async def _handle(self, event: Event) -> None:
        kind = event["type"]
        if kind in ("session.update", "transcription_session.update"):
            session = self._session.updated(event.get("session"))
            await self._choose(session)
            previous, self._session = self._session, session
            if (session.format, session.rate, session.detect) != (previous.format, previous.rate, previous.detect):
                self._begin()
            elif self._ends is not None:
                self._ends.threshold, self._ends.silence_s = session.threshold, session.silence_s
            await self._say({"type": self._named("updated"), "session": self._report()})
        elif kind == "input_audio_buffer.append":
            await self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            if self._item is None or to_seconds(self._item.samples) < _SHORTEST_S:
                what = f"the buffer has less than {_SHORTEST_S:g} s of audio to commit"
                raise RequestError(400, "input_audio_buffer_commit_empty", what)
            await self._commit(self._item)
        elif kind == "input_audio_buffer.clear":
            self._begin()
            await self._say({"type": "input_audio_buffer.cleared"})
        else:
            known = "session.update, input_audio_buffer.append, .commit, .clear"
            raise RequestError(400, "invalid_value", f"type {kind[:60]!r} is unknown here; expected {known}")

    async def _append(self, audio: Any) -> None:
        try:
            data = self._rest + base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise RequestError(400, "invalid_audio", "audio is not base64") from None
        whole = len(data) // 2 * 2 if self._session.format == "audio/pcm" else len(data)
        self._rest = data[whole:]
        samples = _decoded(data[:whole], self._session.format)
        size = round(PIECE_S * self._session.rate)
        for start in range(0, len(samples), size):
            piece_S = samples[start : start + size]
            self.heard_s += len(piece_S) / self._session.rate
            for event in await self._work(partial(self._hear, piece_S)):
                if isinstance(event, _Item):
                    await self._commit(event)
                else:
                    await self._say(event)
        if self.heard_s > self._service.limits.audio_s:
            raise RequestError(
                413, "too_long", f"more than {clock(self._service.limits.audio_s)} of audio; start a new session"
            )

    def _hear(self, samples_S: np.ndarray) -> list[Event | _Item]:
        """In a worker: process audio; its events, and items that ended."""
        wave_S = self._resampler(samples_S)
        found: list[Event | _Item] = []
        if self._ends is None:
            if self._item is None:
                self._item = self._new_item()
            found += self._item.feed(wave_S)
            if to_seconds(self._item.samples) >= LONGEST_S:
                found.append(self._item)
            return found
        for frame_S, change in self._ends.feed(wave_S):
            found += self._detect(self._ends, frame_S, change)
        return found

    def _detect(self, ends: Endpointer, frame_S: np.ndarray, change: bool | None) -> list[Event | _Item]:
        item = self._item
        if item is None:
            if not change:
                self._before_S = np.concatenate([self._before_S, frame_S])
                self._before_S = self._before_S[max(0, len(self._before_S) - to_samples(self._session.prefix_s)) :]
                return []
            self._item = item = self._new_item()
            start = ends.at - FRAME_SAMPLES - len(self._before_S)
            before_S, self._before_S = self._before_S, np.zeros(0, np.float32)
            said: list[Event | _Item] = [
                {"type": "input_audio_buffer.speech_started", "audio_start_ms": _ms(start), "item_id": item.id}
            ]
            return said + item.feed(np.concatenate([before_S, frame_S]))
        found: list[Event | _Item] = list(item.feed(frame_S))
        if change is False or to_seconds(item.samples) >= LONGEST_S:
            found += [
                {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": _ms(ends.at), "item_id": item.id},
                item,
            ]
            self._item, ends.speaking = None, False
        return found

    async def _commit(self, item: _Item) -> None:
        """End ``item`` and transcribe it."""
        self._item = None
        before, self._last_item = self._last_item, item.id
        shown = {"id": item.id, "object": "realtime.item", "type": "message", "role": "user", "status": "completed",
                 "content": [{"type": "input_audio", "transcript": None}]}  # fmt: skip
        await self._say({"type": "input_audio_buffer.committed", "previous_item_id": before, "item_id": item.id})
        for kind in ("created",) if self._beta else ("added", "done"):
            await self._say({"type": f"conversation.item.{kind}", "previous_item_id": before, "item": shown})
        if item.stream is not None:
            for event in await self._work(item.finish):
                await self._say(event)
            text = item.shown
        else:
            steps = self._steps(np.concatenate(item.parts))
            job = Job(steps, self._service.limits.audio_s, self._service.limits.work_s, self._address)
            self._service.scheduler.add(job)
            text = (await asyncio.wrap_future(job.future)).text
            self.worked_s += job.worked_s
            if text:
                await self._say(item.event("delta", delta=text))
        await self._say(item.completed(text))

    def _steps(self, wave_S: np.ndarray) -> Callable[[], Steps]:
        """Transcribes an item that did not stream."""
        options = TranscribeOptions(voice=self._service.voice)
        if self._served is not None:
            options = replace(options, decoder=self._decoder(self._served))
            return partial(self._served.student.steps, wave_S, "item", options)
        routing, by_language = self._service.students.routing(self._session.model)
        return partial(
            routing.steps, wave_S, "item", options, decoder=lambda code: self._decoder(by_language.served(code))
        )

    def _new_item(self) -> _Item:
        served = self._served
        if served is None or served.student.chunks is None:
            return _Item(None)
        return _Item(served.student.stream(decoder=self._decoder(served), voice=self._service.voice))

    def _decoder(self, served: Served) -> Decoder | None:
        return served.decoder(self._session.phrases, self._service.limits.hot_words, ignore_note)

    def _named(self, what: str) -> str:
        return f"transcription_session.{what}" if self._beta else f"session.{what}"

    def _report(self) -> Event:
        return {"id": self._id, **self._session.as_dict(self._name, self._beta)}

    @property
    def _name(self) -> str:
        return self._served.name if self._served is not None else AUTO

    async def _say(self, event: Event) -> None:
        await self._write({"event_id": f"event_{uuid.uuid4().hex[:20]}", **event})

    async def _say_error(self, error: RequestError, event_id: Any) -> None:
        named = {**error.as_dict()["error"], "event_id": event_id if isinstance(event_id, str) else None}
        await self._say({"type": "error", "error": named})


def _ms(samples: Samples) -> int:
    return round(1000 * samples / SAMPLE_RATE)


def _decoded(data: bytes, format: str) -> np.ndarray:
    """Samples, float32 from -1 to 1, of 16-bit little-endian PCM or of G.711."""
    if format == "audio/pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_768
    table = _MULAW if format == "audio/pcmu" else _ALAW
    return table[np.frombuffer(data, np.uint8)]


def _mulaw() -> np.ndarray:
    """The 256 values of G.711's µ-law, from -1 to 1."""
    code = ~np.arange(256, dtype=np.uint8)
    size = (((code & 15).astype(np.int32) << 3) + 132 << ((code >> 4) & 7)) - 132
    return (np.where(code & 128, -size, size) / 32_768).astype(np.float32)


def _alaw() -> np.ndarray:
    """The 256 values of G.711's A-law, from -1 to 1."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = (code >> 4) & 7
    size = ((code & 15).astype(np.int32) << 4) + 8
    size = np.where(exponent == 0, size, (size + 256) << np.maximum(exponent.astype(np.int32) - 1, 0))
    return (np.where(code & 128, size, -size) / 32_768).astype(np.float32)


_MULAW, _ALAW = _mulaw(), _alaw()
