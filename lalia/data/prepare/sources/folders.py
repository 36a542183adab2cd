"""A folder of audio files, at any depth; transcripts may lie beside them, languages may be the names of its folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.clips import Clip, Dropped, Listing
from lalia.data.prepare.languages import UNKNOWN, find_language
from lalia.data.prepare.listing import finish_listing
from lalia.data.prepare.options import Options
from lalia.exits import UserError

BYTES_PER_S = 16_000  # Of unknown files, about; for planning only.
_TRANSCRIPTS = (".txt", ".lab")


def list_folder(root: Path, options: Options) -> Listing:
    """Every audio file below ``root``, in the order of their names.

    ``a.txt`` (or ``a.lab``) beside ``a.wav`` is what it says. Without ``--language`` the first folder's name is the language
    where all first folders are named after one.
    """
    files = sorted(_audio_files(root), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise UserError(
            f"{root}: holds no audio; expected files such as {', '.join(sorted(SUFFIXES)[:6])}, at any depth"
        )
    folders = {path.relative_to(root).parts[0] for path in files if len(path.relative_to(root).parts) > 1}
    named = bool(folders) and all(find_language(folder) not in (None, UNKNOWN) for folder in folders)
    return finish_listing(
        root.resolve().name,
        (_clip(path, root, named) for path in files),
        options,
        form="folder of audio",
        has_splits=False,
        where=root,
    )


def _audio_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in files if not name.startswith(".") and _suffix(name) in SUFFIXES)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - millions of names


def _clip(path: Path, root: Path, named: bool) -> Clip | Dropped:
    relative = path.relative_to(root)
    if not path.is_file():  # A link that leads nowhere, or a pipe, which would be waited for without end.
        return Dropped(relative.as_posix(), "missing", "no such file" if not path.exists() else "is no file")
    language = find_language(relative.parts[0]) if named and len(relative.parts) > 1 else None
    text = ""
    for suffix in _TRANSCRIPTS:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            try:
                text = " ".join(beside.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError) as error:
                return Dropped(relative.as_posix(), "unreadable transcript", f"{beside.name}: {error}")
            break
    return Clip(
        id=relative.as_posix(),
        path=str(path),
        language=language or UNKNOWN,
        text=text,
        source=root.resolve().name,
        duration_s=path.stat().st_size / BYTES_PER_S,
    )
