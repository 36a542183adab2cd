"""Transcripts: a text file for each audio file, of its name, beside it or in a tree of folders like that of the audio."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from lalia.exits import UserError
from lalia.kinds import document
from lalia.text.files import decoded

SUFFIXES = (".txt", ".lab")
_OFFSETS = re.compile(r"(\d+)\s+(\d+)\s+(\S.*)")
_LEAST_SAMPLES = 1000
_MICROPHONE = re.compile(r"_mic\d$")


class Transcripts:
    """The texts among ``files``, which lie below ``root``."""

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self._root = root
        self._texts = [path for path in files if path.suffix.lower() in SUFFIXES]
        self._texts.sort(key=lambda path: (SUFFIXES.index(path.suffix.lower()), path))
        self._beside: dict[tuple[Path, str], Path] = {}
        for path in self._texts:
            for name in (path.stem, key_of(path)):
                self._beside.setdefault((path.parent, name), path)

    def beside(self, audio: Path) -> Path | None:
        """The text of the name of ``audio`` in its folder, whatever its case."""
        found = self._beside.get((audio.parent, audio.stem))
        return found or self._beside.get((audio.parent, key_of(audio)))

    def elsewhere(self, audio: Iterable[Path], beside: dict[Path, Path]) -> tuple[dict[Path, Path], list[Path]]:
        """The texts in other folders that belong to ``audio``, and those of which nobody can say to which file; what has a
        text ``beside`` it needs none.

        Of several of one name those belong together that lie in like folders: ``txt/p225/001.txt`` and ``wav/p225/001.wav``. One
        recording by several microphones (VCTK's ``_mic1``, ``_mic2``) has one text.
        """
        recordings: dict[str, dict[tuple[Path, str], list[Path]]] = {}
        for path in audio:
            key = _MICROPHONE.sub("", key_of(path))
            recordings.setdefault(key, {}).setdefault((path.parent, key), []).append(path)
        texts: dict[str, list[Path]] = {}
        used = set(beside.values())
        for path in self._texts:
            if path not in used and key_of(path) in recordings:
                texts.setdefault(key_of(path), []).append(path)
        found: dict[Path, Path] = {}
        unclear: list[Path] = []
        for key, some in texts.items():
            places = recordings[key]
            for text in some:
                place = self._nearest(text.parent, [parent for parent, _ in places])
                if place is None or self._nearest(place, list({other.parent for other in some})) != text.parent:
                    unclear.append(text)
                elif wordless := [path for path in places[place, key] if path not in beside]:
                    for path in wordless:
                        found.setdefault(path, text)  # .txt before .lab
                else:
                    unclear.append(text)
        return found, unclear

    def _nearest(self, folder: Path, others: list[Path]) -> Path | None:
        """The only one of ``others``, or the one that is most like ``folder``; None where several are, or none is."""
        likeness = {other: self._likeness(folder, other) for other in others}
        best = [other for other in others if likeness[other] == max(likeness.values())]
        return best[0] if len(best) == 1 and (len(others) == 1 or likeness[best[0]]) else None

    def _likeness(self, one: Path, other: Path) -> int:
        """How many folders at the ends and at the beginnings of two paths are the same."""
        parts = [path.relative_to(self._root).parts for path in (one, other)]
        return _common(*parts) + _common(*(part[::-1] for part in parts))


def read_transcript(path: Path) -> str | None:
    """The text of a transcript, without TIMIT's numbers of samples; None where it is a list of times and labels, as HTK's are.

    ``UserError`` where it is a document, or neither UTF-8 nor UTF-16.
    """
    if told := document(path):
        raise UserError(f"{path}: is {told}, not a text; save it as plain text")
    lines = [line.strip() for line in decoded(path).splitlines() if line.strip()]
    timed = [found for line in lines if (found := _OFFSETS.fullmatch(line))]
    if len(lines) == 1 and timed and timed[0][1] == "0" and int(timed[0][2]) >= _LEAST_SAMPLES:
        return " ".join(timed[0][3].split())
    if len(lines) > 1 and len(timed) == len(lines) and all(int(found[1]) <= int(found[2]) for found in timed):
        return None
    return " ".join(" ".join(lines).split())


def key_of(path: Path) -> str:
    """The name of a file without suffix, however its accents are composed and its letters written."""
    return unicodedata.normalize("NFC", path.stem).casefold()


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count
