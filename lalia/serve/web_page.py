"""The server's web page: one HTML file from its parts, its content security policy, and corrected words as files."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lalia.decoding.greedy import Word, text_of_words
from lalia.runtime.transcript import Transcript, turns
from lalia.serve.limits import MEGABYTE, RequestError

STYLES = ("page.css",)
SCRIPTS = ("words.js", "transcript.js", "microphone.js", "recordings.js", "page.js")
"""In this order: each uses those before it."""
WORDS_BYTES = 32 * MEGABYTE
"""Size of a transcript to write as a file; an hour of talk takes about 1 MB."""


@dataclass(frozen=True)
class WebPage:
    """The page, and the policy that allows its own style and script by hash and nothing else."""

    html: str
    policy: str


def load_page() -> WebPage:
    """The page from the files of ``lalia/serve/page``."""
    folder = files("lalia.serve") / "page"
    style, script = (
        "\n" + "".join((folder / name).read_text(encoding="utf-8") for name in names) for names in (STYLES, SCRIPTS)
    )
    html = (folder / "page.html").read_text(encoding="utf-8")
    html = html.replace("<style></style>", f"<style>{style}</style>").replace(
        "<script></script>", f"<script>{script}</script>"
    )
    policy = (
        "default-src 'none'; connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none';"
        f" frame-ancestors 'none'; script-src {_digest(script)}; style-src {_digest(style)}"
    )
    return WebPage(html, policy)


def read_transcript(body: bytes) -> tuple[Transcript, str]:
    """The transcript that the page sends to be written as a file, and the name of its audio; ``RequestError`` if it is none.

    ``{"audio": NAME, "duration_s": SECONDS, "words": [{"text", "start_s", "end_s", "confidence", …}]}``, as in JSON transcripts.
    """
    try:
        found = json.loads(body)
        words = [_word(fields) for fields in found["words"]]
        duration_s = _number(found.get("duration_s", 0.0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RequestError(
            400, "bad_words", 'expected a transcript as JSON: {"words": [{"text", "start_s", "end_s"}, …]}'
        ) from error
    separate = any(word.channel for word in words)
    text = "\n".join(map(text_of_words, turns(words))) if separate else text_of_words(words)
    return Transcript(text, words, duration_s), str(found.get("audio", ""))


def _word(fields: dict[str, Any]) -> Word:
    return Word(
        _line(fields["text"]),
        _number(fields["start_s"]),
        _number(fields["end_s"]),
        _number(fields.get("confidence", 1.0)),
        int(fields.get("channel", 0)),
        fields.get("joined") is True,
        _line(fields.get("speaker", "")),
    )


def _line(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(text)
    return " ".join(text.split())


def _number(value: Any) -> float:
    number = float(value)
    if not 0 <= number < 1e7 or math.isnan(number):
        raise ValueError(value)
    return number


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
