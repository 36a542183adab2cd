"""Transcriber's ``.trs`` files: turns of speakers, with times at their beginnings and within."""

from __future__ import annotations

from pathlib import Path

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier
from lalia.data.prepare.sources.markup import read_xml
from lalia.exits import UserError

_NOT_SPOKEN = ("Event", "Comment", "Background")


def read_transcriber(path: Path) -> Annotated:
    """What is said between two times; where two speak at once, what each of them says."""
    root = read_xml(path, "Trans", "a Transcriber file")
    names = {one.get("id", ""): one.get("name", one.get("id", "")) for one in root.iterfind("Speakers/Speaker")}
    found: list[Annotation] = []
    try:
        for turn in root.iter("Turn"):
            speakers = [names.get(id, id) for id in turn.get("speaker", "").split()]
            pieces: list[tuple[float, list[list[str]]]] = [(float(turn.get("startTime", "")), [[turn.text or ""]])]
            for one in turn:
                if one.tag == "Sync":
                    at_s = float(one.get("time", ""))
                    if at_s > pieces[-1][0]:
                        pieces.append((at_s, [[]]))
                elif one.tag == "Who":
                    who = int(one.get("nb", "1"))
                    while len(pieces[-1][1]) < who:
                        pieces[-1][1].append([])
                    pieces[-1][1][who - 1].append(one.tail or "")
                    continue
                elif one.tag not in _NOT_SPOKEN:
                    pieces[-1][1][-1].append("".join(one.itertext()))
                pieces[-1][1][-1].append(one.tail or "")
            ends_s = [start_s for start_s, _ in pieces[1:]] + [float(turn.get("endTime", ""))]
            for (start_s, said), end_s in zip(pieces, ends_s, strict=True):
                texts = [" ".join("".join(words).split()) for words in said]
                for number, text in enumerate(texts):
                    if text or not any(texts):
                        speaker = speakers[number] if number < len(speakers) else ""
                        found.append(Annotation(text, start_s, end_s, speaker))
                        if not text:
                            break
    except ValueError as error:
        raise UserError(f"{path}: holds a time that is none ({error}); expected a Transcriber file") from error
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang", "")
    return Annotated("Transcriber file", [Tier("", found)], [root.get("audio_filename", "")], language)
