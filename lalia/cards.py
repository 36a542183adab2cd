"""Cards: the ``card.json`` of every folder that lalia makes (kind, content hash, parents), and atomic writes.

A card holds its parents' cards, so a student can be traced back to the hours of raw audio even after the folders in between
are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lalia.errors import UserError
from lalia.inputs import wrong_kind

# --- Cards -----------------------------------------------------------------------------------------------

NAME = "card.json"
KINDS = (
    "corpus",
    "encoder",
    "recogniser",
    "classifier",
    "student",
    "tagger",
    "diarizer",
    "separator",
    "language model",
)


def content_hash(folder: Path, known: Mapping[str, str] | None = None, names: Collection[str] | None = None) -> str:
    """``sha256:…`` over the name and SHA-256 of every file in ``folder`` except its card, sorted by name.

    ``known`` are SHA-256 in hex by a file's name in ``folder``. The other files are read, one per core at a time. ``names``
    restricts it to those files.
    """
    hashes = {name: bytes.fromhex(digest) for name, digest in (known or {}).items() if digest}
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    if names is not None:
        paths = [path for path in paths if path.relative_to(folder).as_posix() in names]

    def hashed(path: Path) -> tuple[str, bytes]:
        name = path.relative_to(folder).as_posix()
        if name in hashes:
            return name, hashes[name]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return name, digest.digest()

    total = hashlib.sha256()
    with ThreadPoolExecutor(cores()) as pool:
        for name, digest in pool.map(hashed, paths):
            total.update(name.encode() + b"\0" + digest)
    return "sha256:" + total.hexdigest()


def write_card(
    folder: Path, kind: str, parents: list[dict[str, Any]], *, known: Mapping[str, str] | None = None, **facts: Any
) -> dict[str, Any]:
    """Write ``folder/card.json`` (call it last, when all other files exist) and return it; ``known`` as in ``content_hash``."""
    if kind not in KINDS:
        raise ValueError(f"card kind {kind!r}: expected one of {', '.join(KINDS)}")
    from lalia import __version__

    id = content_hash(folder, known)
    card = {"kind": kind, "id": id, "made_by": f"lalia {__version__}", **facts, "parents": parents}
    write_json(folder / NAME, card)
    return card


def read_card(folder: Path | str, kind: str | None = None) -> dict[str, Any]:
    """The card of ``folder``; ``UserError`` if there is none, it is damaged, or it is not of ``kind``."""
    folder = Path(folder)
    path = folder / NAME
    if not path.is_file():
        raise wrong_kind(folder, kind or "")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        found = card["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a card ({error}); make the folder again") from error
    if kind is not None and found != kind:
        raise wrong_kind(folder, kind)
    return dict(card)


def ancestors(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every ancestor of ``card``, nearest first, each content hash once."""
    seen: set[str] = set()
    queue = list(card.get("parents", []))
    while queue:
        parent = queue.pop(0)
        if parent["id"] not in seen:
            seen.add(parent["id"])
            yield parent
            queue.extend(parent.get("parents", []))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically: a reader sees the old file or the new one, never a partial one."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes private files; a corpus is shared
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if there is no file; an incomplete last line (the writer was killed) is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


# --- The machine that measured the figures ---------------------------------------------------------------


def processor() -> str:
    """The processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processors this process may use: its affinity, and at most the quota of its container (cgroup v2 or v1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        if (unified := groups / "cpu.max").exists():
            quota, period = unified.read_text().split()
        else:
            quota, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return allowed
