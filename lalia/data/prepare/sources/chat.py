"""CHAT transcripts (``.cha``) of CHILDES and TalkBank."""

from __future__ import annotations

from pathlib import Path

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier
from lalia.exits import UserError
from lalia.text.files import decoded

_UNKNOWN_WORDS = frozenset(("xxx", "yyy", "www"))  # unintelligible, phonological, untranscribed


def read_chat(path: Path) -> Annotated:
    """The utterances with what can be heard of each: codes and what is between brackets are taken out.

    One with words that nobody could understand has no text: its label would leave them out.
    """
    try:
        from rustling.chat import CHAT
    except ImportError as error:
        raise UserError(
            f"{path}: CHAT is read by rustling, which is not installed; run: pip install rustling"
        ) from error
    text = decoded(path)
    try:
        chat = CHAT.from_strs([text], parallel=False, strict=False, mor_tier=None, gra_tier=None)
        header = chat.headers()[0]
        utterances = chat.utterances()
    except Exception as error:
        raise UserError(f"{path}: cannot be read as CHAT ({error}); expected a .cha file") from error
    names = {one.code: one.name or one.code for one in header.participants}
    found = []
    for one in utterances:
        if one.changeable_header is not None:
            continue
        words = (one.audible or "").split()
        text = "" if _UNKNOWN_WORDS & set(words) else " ".join(words)
        start_s, end_s = (at / 1000 for at in one.time_marks) if one.time_marks else (None, None)
        found.append(Annotation(text.rstrip(' .?!+/"').strip(), start_s, end_s, names.get(one.participant or "", "")))
    if not found:
        raise UserError(f"{path}: holds no utterance; expected a CHAT transcript with lines such as *CHI:")
    media = (header.media or {}).get("filename") or ""
    return Annotated("CHAT transcript", [Tier("", found)], [media], (header.languages or [""])[0])
