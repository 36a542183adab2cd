"""Data folders of the older toolkits: Kaldi's ``wav.scp`` and its companions, fairseq's ``.tsv`` with ``.wrd`` or ``.ltr``."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.listing import Part
from lalia.data.prepare.options import Options
from lalia.data.prepare.sources.tables import SPLIT_NAMES
from lalia.exits import UserError
from lalia.filenames import find_path, is_file, is_utf8
from lalia.text.files import conversion, read_lines
from lalia.text.language_names import UNKNOWN, iso_639_3
from lalia.units import SAMPLE_RATE


def list_kaldi(folder: Path, options: Options) -> Part:
    """``wav.scp``, and where they are there ``segments``, ``text``, ``utt2spk``, ``utt2lang``.

    A pipe (``flac -dc a.flac |``) is not run: the one existing file that it names is read, and of that the one channel that it
    picks (``sox a.wav -t wav - remix 2 |``). Paths start from ``--root``, the folder, or one of those above it.
    """
    if not (folder / "wav.scp").is_file():
        raise UserError(f"{folder}: has no wav.scp; expected a Kaldi data folder")
    repeated: list[Dropped] = []
    wavs, texts, speakers, languages, segments = (
        _pairs(folder / name, repeated) for name in ("wav.scp", "text", "utt2spk", "utt2lang", "segments")
    )
    roots = [options.root] if options.root else [folder, Path(), *folder.resolve().parents[:3]]
    files = {recording: _file(words, roots) for recording, words in wavs.items()}
    channels = {recording: _channel(words) for recording, words in wavs.items()}

    def entries() -> Iterator[Clip | Dropped]:
        listed = segments or {recording: recording for recording in wavs}
        for id, words in listed.items():
            recording, *times = words.split() or [""]
            path = files.get(recording)
            if path is None:
                yield Dropped(id, "missing", _why_missing(recording, wavs.get(recording)))
                continue
            try:
                start, end = (float(times[0]), float(times[1])) if segments else (0.0, None)
                language = options.language or iso_639_3(languages.get(id, UNKNOWN))
            except (ValueError, IndexError):
                yield Dropped(id, "bad row", f"segments: {words!r}")
                continue
            except UserError as error:
                yield Dropped(id, "bad row", f"utt2lang: {error}")
                continue
            if not is_utf8(texts.get(id, "")):
                yield Dropped(id, "bad row", f"text: is not UTF-8; save it as UTF-8 ({conversion(folder / 'text')})")
                continue
            end = None if end is not None and end < 0 else end
            if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
                yield Dropped(id, "bad row", f"segments: {words!r}")
                continue
            yield Clip(
                id=id,
                path=str(path),
                language=language,
                text=" ".join(texts.get(id, "").split()),
                speaker=speakers.get(id, ""),
                split=_split_of(folder.name),
                source=folder.resolve().name,
                start_s=start,
                end_s=end,
                duration_s=end - start if end is not None else 0.0,
                channel=channels[recording],
            )
        yield from repeated
        segmented = {words.split(maxsplit=1)[0] for words in segments.values() if words}
        for recording in wavs if segments else ():
            if recording not in segmented:
                yield Dropped(recording, "no segment", "wav.scp has this recording, segments has no part of it")
        table = "segments" if segments else "wav.scp"
        for id in texts:
            if id not in listed:
                yield Dropped(id, "no audio named", f"text has this utterance, {table} has none of its name")

    named = frozenset(path for path in files.values() if path is not None)
    return Part("Kaldi data folder", list(entries()), _split_of(folder.resolve().name, "") != "", named)


def list_fairseq(path: Path, options: Options) -> Part:
    """``train.tsv`` (its first line is the root, the others file and samples), with ``train.wrd`` or ``train.ltr``.

    Of a folder, all its ``.tsv``. The names of the tables are the splits; ``.ltr`` is read as letters with ``|`` for spaces.
    """
    tables = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not tables:
        raise UserError(f"{path}: has no .tsv; expected fairseq's train.tsv, valid.tsv, ...")

    def entries() -> Iterator[Clip | Dropped]:
        for table in tables:
            lines = [line.decode("utf-8", "replace") for line in read_lines(table)]
            if not lines or "\t" in lines[0]:
                raise UserError(
                    f"{table}: its first line is no folder; expected fairseq's form (for a manifest, say its path)"
                )
            root = options.root or (Path(lines[0]) if Path(lines[0]).is_absolute() else table.parent / lines[0])
            texts = _transcripts(table, len(lines) - 1)
            for number, (line, text) in enumerate(zip(lines[1:], texts, strict=True), 2):
                name, _, samples = line.partition("\t")
                if not samples.strip().isdecimal():
                    yield Dropped(f"{table.name} line {number}", "bad row", "expected a file, a tab and its samples")
                    continue
                seconds = int(samples) / SAMPLE_RATE
                split = _split_of(table.stem)
                language = options.language or UNKNOWN
                yield Clip(name, str(root / name), language, text, "", split, table.parent.name, duration_s=seconds)

    known = any(_split_of(table.stem, "") in ("dev", "test") for table in tables)
    return Part("fairseq manifest", list(entries()), known)


def _transcripts(table: Path, rows: int) -> list[str]:
    for suffix in (".wrd", ".ltr"):
        beside = table.with_suffix(suffix)
        if beside.is_file():
            texts = [line.decode("utf-8", "replace") for line in read_lines(beside)]
            if len(texts) != rows:
                raise UserError(
                    f"{beside}: has {len(texts)} lines where {table.name} has {rows} clips; make them anew together"
                )
            if suffix == ".ltr":
                texts = [text.replace(" ", "").replace("|", " ") for text in texts]
            return [" ".join(text.split()) for text in texts]
    return [""] * rows


def _pairs(path: Path, repeated: list[Dropped]) -> dict[str, str]:
    """A Kaldi table: the first word of each line, and the rest; ``{}`` where the file is not there.

    Of lines that begin alike the first counts; the others are put into ``repeated``.

    Spaces and tabs part them, as they do for Kaldi. Bytes that are not UTF-8 stay as lone surrogates: they may name a file.
    """
    if not path.is_file():
        return {}
    lines = (line.decode("utf-8", "surrogateescape").strip() for line in read_lines(path))
    parted = (re.split("[ \t]+", line, maxsplit=1) for line in lines if line)
    found: dict[str, str] = {}
    for key, *rest in parted:
        words = rest[0] if rest else ""
        if found.setdefault(key, words) != words:
            repeated.append(Dropped(key, "bad row", f"{path.name}: another line of this name says {words!r}"))
    return found


def _file(words: str, roots: list[Path]) -> Path | None:
    """The file that an entry of ``wav.scp`` names: the entry itself, or the one file that its pipe names."""
    names = [words]
    if words.endswith("|"):
        try:
            names = shlex.split(words.rstrip("| "))[1:]  # The first word is the program.
        except ValueError:
            return None
    found = [next((path for root in roots if is_file(path := find_path(root / name))), None) for name in names]
    files = [path for path in found if path is not None]
    return files[0] if len(files) == 1 else None


def _why_missing(recording: str, words: str | None) -> str:
    if words is None:
        return f"wav.scp has no such recording ({recording})"
    if found := re.fullmatch(r"(.*\.ark)(:\d+)?(\[.*\])?", words):
        return (
            f"{words} ({recording}) lies in a Kaldi archive, which is not read; copy it out with Kaldi's wav-copy "
            f"({shlex.join(['wav-copy', found[1] + (found[2] or ''), f'{recording}.wav'])}), and name that file in wav.scp"
        )
    return f"{words} ({recording})"


def _channel(words: str) -> int | None:
    """The channel, from 0, that a pipe of ``wav.scp`` picks by sox, sph2pipe or ffmpeg; None where it picks none."""
    if not words.endswith("|"):
        return None
    found = next((match for pattern in _PICKS for match in [re.search(pattern, words)] if match), None)
    if found is None:
        return None
    return int(found["one"]) - 1 if "one" in found.groupdict() else int(found["zero"])


_PICKS = (
    r"\bsph2pipe\b.*?\s-c\s*(?P<one>[12])\s",
    r"\sremix\s+(?P<one>[1-9]\d?)\s*(\s[a-z]|\|)",
    r"\s-map_channel\s+\d+\.\d+\.(?P<zero>\d+)\s",
    r"\bpan=(mono|1c)\|c0=c(?P<zero>\d+)\b",
)
"""A channel counted from one or from zero. sox's ``-c 1`` picks none: it mixes."""


def _split_of(name: str, otherwise: str = "train") -> str:
    """The split that a folder or table is named after: ``dev``, ``test_clean``, ``valid``."""
    word = name.lower().replace("-", "_").split("_")[0]
    return SPLIT_NAMES.get(word, otherwise) if word else otherwise
