"""Find audio files: walk a folder, and match names in a table to files.

Names also match if the table was written on another computer or omits the suffix.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from lalia.audio.formats import is_audio
from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.listing import Dropped
from lalia.files import find_path, is_file

# --- The files below a folder, and its unreadable folders ------------------------------------------------


class Tree:
    """The files below a folder except hidden ones, sorted by name; links to folders are followed once.

    ``hidden`` counts the hidden ones (a hidden folder as one), ``dropped`` are the folders that cannot be read.
    """

    def __init__(self, root: Path, deep: bool = True) -> None:
        self.root = root
        self.files: list[Path] = []
        self.folders: list[Path] = []
        self.hidden = 0
        self.dropped: list[Dropped] = []
        seen: set[tuple[int, int]] = set()
        for name, below, files in os.walk(root, followlinks=True, onerror=self._refused):
            folder = Path(name)
            where = folder.stat()
            if (where.st_dev, where.st_ino) in seen:
                below.clear()
                continue
            seen.add((where.st_dev, where.st_ino))
            self.hidden += sum(name.startswith(".") for name in (*files, *(below if deep else ())))
            below[:] = sorted(name for name in below if not name.startswith(".")) if deep else []
            self.folders.append(folder)
            self.files += [folder / name for name in files if not name.startswith(".")]
        self.files.sort(key=lambda path: path.relative_to(root).as_posix())
        self.folders.sort()

    def audio(self) -> Iterator[Path]:
        """The audio files, by their suffix or their first bytes."""
        return (path for path in self.files if path.suffix.lower() in SUFFIXES or is_audio(path))

    def _refused(self, error: OSError) -> None:
        name = Path(error.filename or self.root)
        relative = name.relative_to(self.root).as_posix() if name.is_relative_to(self.root) else name.name
        self.dropped.append(Dropped(relative, "unreadable", f"{name}: cannot be read ({error.strerror})"))


# --- The audio file of a table row, also from another computer's path or without the suffix ----------------

_ELSEWHERE = "a path of another computer"
_SHORT = "a name without its folder or suffix"


class AudioIndex:
    """Audio files by name, and by name without suffix. The search runs at the first use."""

    def __init__(self, files: Callable[[], Iterable[Path]]) -> None:
        self._files = files

    @classmethod
    def below(cls, folder: Path) -> AudioIndex:
        """An index of all audio below ``folder``."""
        return cls(lambda: Tree(folder).audio())

    @cached_property
    def _found(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self._files():
            for key in {_key(path.name), _key(path.stem)}:
                found.setdefault(key, []).append(path)
        return found

    def ending(self, parts: tuple[str, ...]) -> list[Path]:
        """The files whose paths end with ``parts``; the suffix of the last part may be missing or another."""
        *folders, name = (_key(part) for part in parts)
        keys = [name] if Path(name).suffix not in SUFFIXES else [name, Path(name).stem]
        for key in keys:
            found = [path for path in self._found.get(key, []) if _ends(path, folders)]
            if found:
                return found
        return []


class NamedAudio:
    """Finds the audio files of a ``table``: below ``root``, else in the ``index``. ``lines`` reports inexact matches."""

    def __init__(self, table: Path, root: Path, index: AudioIndex | None = None) -> None:
        self.table, self.root = table, root
        self._index = index or AudioIndex.below(root)
        self._names: dict[Path, str] = {}
        self._ways: dict[str, dict[str, Path]] = {_ELSEWHERE: {}, _SHORT: {}}

    def find(self, name: str) -> Path | str:
        """The file ``name``; else a string with the reason, or the path where it should be."""
        for written in _spellings(name):
            path = find_path(self.root / written)
            if is_file(path):
                return path
        if re.match(r"[a-z0-9]+://", name, re.IGNORECASE) and not name.casefold().startswith("file:"):
            return f"{name} is a URL; only local files are read; download it first"
        found, way = self._search(name)
        if len(found) > 1:
            some = ", ".join(self._relative(path) for path in found[:3])
            return f"{len(found)} files match {name}: {some}; add their folders in the table"
        if not found:
            return find_path(self.root / name)
        other = self._names.setdefault(found[0], name)
        if other != name:
            return f"{name} and {other} both match {self._relative(found[0])}"
        self._ways[way][name] = found[0]
        return found[0]

    def knows(self, name: str) -> bool:
        """Whether exactly one file matches ``name``."""
        if not name:
            return False
        return any(is_file(find_path(self.root / one)) for one in _spellings(name)) or len(self._search(name)[0]) == 1

    def lines(self) -> list[str]:
        """For each kind of inexact match: the number of names, and an example."""
        return [
            f"{self.table}: {len(found):,} file{'s are' if len(found) > 1 else ' is'} called by {way}; found here, "
            f"such as {self._relative(path)} for {name}"
            for way, found in self._ways.items()
            for name, path in list(found.items())[:1]
        ]

    def _search(self, name: str) -> tuple[list[Path], str]:
        """The files that match ``name``, and the kind of match ("" for an exact one)."""
        found, way = self._spelled(name)
        return (found, way) if found or "%" not in name else self._spelled(unquote(name))

    def _spelled(self, name: str) -> tuple[list[Path], str]:
        plain = re.sub(r"^(file:/*|[A-Za-z]:)", "/", name.replace("\\", "/"))
        parts = tuple(part for part in PurePosixPath(plain).parts if part not in ("/", "//", ".", ".."))
        if not parts:
            return [], _SHORT
        if plain.startswith("/"):
            for first in range(len(parts)):
                path = find_path(self.root.joinpath(*parts[first:]))
                if is_file(path):
                    return [path], _ELSEWHERE
            for first in range(len(parts) - 1):  # At least a folder and a name, because many files are called 1.wav.
                if found := self._nearest(parts[first:]):
                    return found, _ELSEWHERE
            return [], _ELSEWHERE
        return self._nearest(parts), _SHORT

    def _nearest(self, parts: tuple[str, ...]) -> list[Path]:
        found = self._index.ending(parts)
        near = [path for path in found if path.is_relative_to(self.table.parent)]
        return near if len(near) == 1 else found

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _spellings(name: str) -> Iterator[str]:
    """``name`` unchanged, with slashes between folders, and with ``%20`` decoded to spaces."""
    yield name
    if "\\" in name:
        yield name.replace("\\", "/")
    if re.search("%[0-9A-Fa-f]{2}", name):
        yield unquote(name)


def _ends(path: Path, folders: list[str]) -> bool:
    if not folders:
        return True
    return [_key(part) for part in path.parts[:-1]][-len(folders) :] == folders


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
