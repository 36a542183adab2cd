"""A transcript as the body of an answer: our formats, and those of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.responses import Response

from lalia.audio.reading import TWO_VOICES, Note
from lalia.runtime.subtitles import make_cues, render
from lalia.runtime.transcript import Transcript
from lalia.text.scripts import join_words

MEDIA = {
    "txt": "text/plain; charset=utf-8",
    "json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
OPENAI = ("json", "text", "srt", "verbose_json", "vtt")


def answer(transcript: Transcript, format: str, name: str, notes: Sequence[Note]) -> Response:
    """``transcript`` of the file ``name`` in one of our formats; JSON has the ``notes`` of its reader as ``warnings``."""
    if format == "json":
        return _json(json.loads(render(transcript, format, name)) | _warnings(notes))
    return Response(render(transcript, format, name), media_type=MEDIA[format])


def openai_answer(transcript: Transcript, format: str, name: str, language: str, notes: Sequence[Note]) -> Response:
    """``transcript`` as ``/v1/audio/transcriptions`` gives it."""
    if format == "json":
        return _json({"text": transcript.text} | _warnings(notes))
    if format != "verbose_json":
        return answer(transcript, {"text": "txt"}.get(format, format), name, notes)
    cues = make_cues(transcript.words)
    return _json(
        {
            "task": "transcribe",
            "language": language,
            "duration": transcript.duration_s,
            "text": transcript.text,
            "words": [
                {"word": w.text, "start": w.start_s, "end": w.end_s} | _channel(w.channel) for w in transcript.words
            ],
            "segments": [
                {"id": number, "start": cue.start_s, "end": cue.end_s, "text": join_words(cue.lines)}
                | _channel(cue.channel)
                for number, cue in enumerate(cues)
            ],
        }
        | _warnings(notes)
    )


def _channel(channel: int) -> dict[str, int]:
    return {"channel": channel} if channel else {}


def _warnings(notes: Sequence[Note]) -> dict[str, list[str]]:
    hints = {TWO_VOICES: "; channels=each keeps them apart"}
    return {"warnings": [note.text + hints.get(note.kind, "") for note in notes]} if notes else {}


def _json(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), media_type=MEDIA["json"])
