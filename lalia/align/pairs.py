"""Find the recordings and their texts: a pair of files, a folder of pairs, or a table with columns for both."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lalia.align.recordings import Pair
from lalia.align.written import SUFFIXES as TEXT_SUFFIXES
from lalia.align.written import natural_order
from lalia.audio.formats import is_audio
from lalia.audio.reading import SUFFIXES as AUDIO_SUFFIXES
from lalia.errors import UserError
from lalia.files import find_path, readable
from lalia.text.text_files import read_unicode

_TABLES = (".tsv", ".csv")
_AUDIO_NAMES = ("audio", "path", "file", "recording", "audio_filepath", "wav", "filename")
_TEXT_NAMES = ("text", "transcript", "text_path", "transcript_path", "book")
_SPLITS = {"": "", "train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def find_pairs(sources: Sequence[Path], say: Callable[[str], None]) -> list[Pair]:
    """The pairs of AUDIO TEXT, of a folder or of a table; ``say`` receives a line about files that are in no pair."""
    if len(sources) == 2:
        return [_of_files(*map(_existing, sources))]
    if len(sources) != 1:
        raise UserError(f"expected AUDIO TEXT, a folder or a table, found {len(sources)} paths")
    source = _existing(sources[0])
    if source.is_dir():
        return _of_folder(source, say)
    if source.suffix.lower() in _TABLES:
        return _of_table(source)
    if source.suffix.lower() in AUDIO_SUFFIXES or is_audio(source):
        raise UserError(f"{source}: needs its text; expected AUDIO TEXT, a folder of pairs, or a table")
    raise UserError(f"{source}: expected AUDIO TEXT, a folder with recordings and texts, or a table (.tsv, .csv)")


def _existing(path: Path) -> Path:
    path = find_path(path.expanduser())
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected a recording, its text, a folder of both, or a table")
    return path


def _of_files(audio: Path, text: Path) -> Pair:
    if not _is_recording(audio) and _is_recording(text):
        audio, text = text, audio
    if audio.is_dir() or not _is_recording(audio):
        raise UserError(f"{audio}: is not audio; expected a recording and its text")
    if not text.is_dir() and _is_recording(text):
        raise UserError(f"{audio} {text}: both are audio; expected a recording and its text")
    return Pair(readable(audio.stem), audio, text)


def _is_recording(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix.lower() not in TEXT_SUFFIXES
        and (path.suffix.lower() in AUDIO_SUFFIXES or is_audio(path))
    )


def _of_folder(folder: Path, say: Callable[[str], None]) -> list[Pair]:
    """Recordings and texts with the same name up to the suffix, at any depth; or all recordings and the only text."""
    files = [file for file in sorted(folder.rglob("*"), key=lambda file: [natural_order(Path(p)) for p in file.parts])]
    files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    recordings = [file for file in files if _is_recording(file)]
    texts = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
    if not recordings or not texts:
        missing = "recordings" if not recordings else f"texts ({', '.join(TEXT_SUFFIXES)})"
        raise UserError(f"{folder}: holds no {missing}; expected recordings and their texts, such as a.mp3 and a.txt")
    by_stem: dict[str, list[Path]] = {}
    for text in texts:
        by_stem.setdefault(text.stem.casefold(), []).append(text)
    pairs, alone = [], []
    for audio in recordings:
        own = by_stem.get(audio.stem.casefold(), [])
        near = [text for text in own if text.parent == audio.parent] or own
        if near:
            pairs.append(Pair(readable(audio.relative_to(folder).with_suffix("").as_posix()), audio, near[0]))
        else:
            alone.append(audio)
    if not pairs and len(texts) == 1:
        say(f"{folder}: {len(recordings)} recordings of one text, {texts[0].name}")
        return [Pair(readable(a.relative_to(folder).with_suffix("").as_posix()), a, texts[0]) for a in recordings]
    if not pairs:
        raise UserError(
            f"{folder}: no recording and text have the same name ({recordings[0].name}, {texts[0].name}); rename them, or give "
            "a table with the columns audio and text"
        )
    unread = [text for text in texts if text not in {pair.text for pair in pairs}]
    for what, left in (("recordings without a text", alone), ("texts without a recording", unread)):
        if left:
            say(f"{folder}: {what}, not used: {len(left)}, such as {left[0].name}")
    return _unique(pairs)


def _of_table(table: Path) -> list[Pair]:
    """A pair per row: columns audio and text (paths relative to the table), and if there are any, speaker and split."""
    lines = read_unicode(table).splitlines()
    header = lines[0] if lines else ""
    tabbed = "\t" in header
    reader = csv.DictReader(lines, dialect="excel-tab" if tabbed else "excel")
    rows = list(reader)
    columns = [name.strip() for name in reader.fieldnames or [] if name]
    audio = next((name for name in _AUDIO_NAMES if name in columns), None)
    text = next((name for name in _TEXT_NAMES if name in columns), None)
    if audio is None or text is None:
        found = ", ".join(columns) or "no rows"
        raise UserError(f"{table}: has {found}; expected the columns audio and text, both with paths of files")
    pairs: list[Pair] = []
    if not rows:
        raise UserError(f"{table}: has no rows; expected a recording and its text in each")
    for number, row in enumerate(rows, 2):
        cells = {str(name).strip(): (value or "").strip() for name, value in row.items() if isinstance(value, str)}
        paths = [find_path(table.parent / cells.get(name, "")) for name in (audio, text)]
        for name, path in zip((audio, text), paths, strict=True):
            if not cells.get(name) or not path.exists():
                raise UserError(
                    f"{table}: line {number}: {name} {cells.get(name, '')!r} is no file below {table.parent}"
                )
        split = cells.get("split", "").lower()
        if split not in _SPLITS:
            raise UserError(f"{table}: line {number}: split {split!r}; expected train, dev or test")
        name = readable(Path(cells[audio]).with_suffix("").as_posix())
        pairs.append(Pair(name, paths[0], paths[1], cells.get("speaker", ""), _SPLITS[split]))
    return _unique(pairs)


def _unique(pairs: Sequence[Pair]) -> list[Pair]:
    """``pairs`` with unique names: repeated ones get a number."""
    seen: dict[str, int] = {}
    named = []
    for pair in pairs:
        seen[pair.name] = seen.get(pair.name, 0) + 1
        named.append(pair if seen[pair.name] == 1 else replace(pair, name=f"{pair.name}~{seen[pair.name]}"))
    return named
