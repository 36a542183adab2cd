"""The files below a folder, and what of it cannot be looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lalia.audio.reading import SUFFIXES
from lalia.audio.signatures import is_audio
from lalia.data.prepare.clips import Dropped


class Tree:
    """The files below a folder but hidden ones, in the order of their names; links to folders are followed once.

    ``hidden`` counts the hidden ones (a hidden folder as one), ``dropped`` are the folders that cannot be entered.
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
        """Audio by its suffix, or by what it holds, whatever it is called."""
        return (path for path in self.files if path.suffix.lower() in SUFFIXES or is_audio(path))

    def _refused(self, error: OSError) -> None:
        name = Path(error.filename or self.root)
        relative = name.relative_to(self.root).as_posix() if name.is_relative_to(self.root) else name.name
        self.dropped.append(Dropped(relative, "unreadable", f"{name}: cannot be entered ({error.strerror})"))
