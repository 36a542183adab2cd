"""Folder layouts of well-known corpora: LibriSpeech, Common Voice, FLEURS."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lalia.data.prepare.clips import Clip, Dropped, sentence_key
from lalia.data.prepare.listing import Part
from lalia.data.prepare.options import Options
from lalia.data.prepare.sources.columns import find_columns
from lalia.data.prepare.sources.named_audio import AudioIndex, NamedAudio
from lalia.data.prepare.sources.tables import clip_of, read_table
from lalia.exits import UserError
from lalia.filenames import find_path
from lalia.text.files import read_lines
from lalia.text.language_names import find_language
from lalia.units import SAMPLE_RATE

_AUDIO = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a")
_FLEURS_FIELDS = 7  # id, file_name, raw_transcription, transcription, characters, num_samples, gender


def list_librispeech(tables: list[Path], root: Path, options: Options) -> Part:
    """Speaker, chapter, utterance: ``61/70968/61-70968.trans.txt``; splits from the folders ``train-*, dev-*, test-*``."""

    def entries() -> Iterator[Clip | Dropped]:
        for table in tables:
            relative = table.relative_to(root).as_posix()
            part = next((name for name in [root.name, *table.relative_to(root).parts] if _librispeech_split(name)), "")
            for number, line in enumerate(read_lines(table), 1):
                try:
                    id, _, text = line.decode("utf-8").partition(" ")
                except UnicodeDecodeError:
                    yield Dropped(f"{relative} line {number}", "bad row", "is not UTF-8")
                    continue
                if not id:
                    continue
                path = next((p for s in _AUDIO if (p := find_path(table.with_name(id + s))).is_file()), None)
                if path is None:
                    yield Dropped(id, "missing", f"no audio file {id}.* beside {relative}")
                    continue
                split = _librispeech_split(part) or "train"
                speaker = id.partition("-")[0]
                yield Clip(id, str(path), options.language or "eng", " ".join(text.split()), speaker, split, root.name)

    known = any(_librispeech_split(name) for table in tables for name in (root.name, *table.relative_to(root).parts))
    return Part("LibriSpeech folder", list(entries()), known)


def list_common_voice(folders: list[Path], root: Path, options: Options) -> Part:
    """Its own train, dev and test, and of what else is validated the clips that share no speaker or sentence with the two.

    Clips that voters found wrong (``invalidated.tsv``) and those nobody judged (``other.tsv``) are left alone.
    """
    kept_out: set[Path] = set()

    def entries() -> Iterator[Clip | Dropped]:
        for folder in folders:
            index = AudioIndex.below(folder / "clips")
            listed: set[str] = set()
            held: set[str] = set()
            for split in ("test", "dev", "train", "validated"):
                table = folder / f"{split}.tsv"
                if not table.is_file():
                    continue
                columns, rows = read_table(table)
                fields = find_columns(columns, options, str(table), ("audio", "text"))
                named = NamedAudio(table, folder / "clips", index)
                for number, row in rows:
                    where = f"{table.relative_to(root)} line {number}"
                    if isinstance(row, str):
                        yield Dropped(where, "bad row", row)
                        continue
                    row = {**row, "split": split}
                    clip = clip_of(row, {**fields, "split": "split"}, named, root.name, where, options)
                    if isinstance(clip, Dropped):
                        yield clip
                        continue
                    keys = {f"s {clip.speaker}", f"t {sentence_key(clip.text)}"}
                    if clip.id in listed:
                        continue
                    if split == "validated" and keys & held:
                        listed.add(clip.id)
                        kept_out.add(Path(clip.path))
                        yield Dropped(clip.id, "shared with held-out", "dev or test has its speaker or its sentence")
                        continue
                    listed.add(clip.id)
                    if split in ("test", "dev"):
                        held |= keys
                    yield clip

    found = list(entries())
    return Part("Common Voice folder", found, has_splits=True, files=frozenset(kept_out))


def list_fleurs(folders: list[Path], root: Path, options: Options, work: Path) -> Part:
    """Tables ``train.tsv, dev.tsv, test.tsv`` and ``audio/train/*.wav``, or ``audio/train.tar.gz``, opened below ``work``."""

    def entries() -> Iterator[Clip | Dropped]:
        for folder in folders:
            language = options.language or find_language(folder.name) or ""
            if not language:
                raise UserError(f"{folder}: its name is no language such as it_it; say --language")
            for split in ("train", "dev", "test"):
                table = folder / f"{split}.tsv"
                audio = _opened(folder / "audio" / split, work / "opened" / folder.name) if table.is_file() else folder
                for number, line in enumerate(read_lines(table) if table.is_file() else [], 1):
                    fields = line.decode("utf-8", "surrogateescape").split("\t")
                    where = f"{folder.name}/{split}.tsv line {number}"
                    if len(fields) != _FLEURS_FIELDS or not fields[5].isdecimal():
                        yield Dropped(where, "bad row", f"has {len(fields)} fields, expected {_FLEURS_FIELDS}")
                        continue
                    name = f"{folder.name}/{split}/{fields[1]}"
                    seconds = int(fields[5]) / SAMPLE_RATE
                    text = " ".join(fields[2].split())
                    path = str(find_path(audio / fields[1]))
                    yield Clip(name, path, language, text, "", split, root.name, duration_s=seconds)

    return Part("FLEURS folder", list(entries()), has_splits=True)


def is_common_voice(folder: Path) -> bool:
    """Whether ``folder`` is a language of Common Voice: it holds ``clips/`` and tables of them."""
    return (folder / "clips").is_dir() and any((folder / f"{name}.tsv").is_file() for name in ("train", "validated"))


def is_fleurs(folder: Path) -> bool:
    """Whether ``folder`` is a language of FLEURS: it holds ``train.tsv`` without a header and ``audio/``."""
    table = folder / "train.tsv"
    return (folder / "audio").is_dir() and table.is_file() and _has_no_header(table)


def _librispeech_split(name: str) -> str:
    match = re.fullmatch(r"(train|dev|test)[-_].*", name)
    return match[1] if match else ""


def _has_no_header(table: Path) -> bool:
    with table.open("rb") as file:
        fields = file.readline().split(b"\t")
    return len(fields) == _FLEURS_FIELDS and fields[0].isdigit()


def _opened(audio: Path, folder: Path) -> Path:
    """Where the clips of a split are: its folder, or its archive opened once below ``folder``."""
    archive = audio.with_name(audio.name + ".tar.gz")
    if audio.is_dir() or not archive.is_file():
        return audio
    there = folder / audio.name
    done = folder / f"{audio.name}.done"
    if not done.exists():
        there.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    if file is not None:
                        (there / Path(member.name).name).write_bytes(file.read())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{archive}: cannot be opened ({error}); fetch it again") from error
        done.touch()
    return there
