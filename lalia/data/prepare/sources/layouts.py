"""Read corpora by their folder layout: LibriSpeech, Common Voice, FLEURS, Kaldi and fairseq data folders."""

from __future__ import annotations

import math
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lalia.data.prepare.finish_listing import PartListing
from lalia.data.prepare.listing import Dropped, Options, SourceClip, sentence_key
from lalia.data.prepare.sources.audio_files import AudioIndex, NamedAudio
from lalia.data.prepare.sources.columns import find_columns
from lalia.data.prepare.sources.tables import SPLIT_NAMES, clip_of, read_table
from lalia.errors import UserError
from lalia.files import find_path, is_file, is_utf8
from lalia.text.language_codes import UNKNOWN, find_language, iso_639_3
from lalia.text.text_files import iconv_command, read_lines
from lalia.units import SAMPLE_RATE

# --- Folder layouts of well-known corpora ----------------------------------------------------------------

_AUDIO = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a")
_FLEURS_FIELDS = 7  # id, file_name, raw_transcription, transcription, characters, num_samples, gender


def list_librispeech(tables: list[Path], root: Path, options: Options) -> PartListing:
    """LibriSpeech: ``speaker/chapter/61-70968.trans.txt``; splits from the folders ``train-*, dev-*, test-*``."""

    def entries() -> Iterator[SourceClip | Dropped]:
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
                    yield Dropped(id, "missing", f"no audio file {id}.* next to {relative}")
                    continue
                split = _librispeech_split(part) or "train"
                speaker = id.partition("-")[0]
                yield SourceClip(
                    id, str(path), options.language or "eng", " ".join(text.split()), speaker, split, root.name
                )

    known = any(_librispeech_split(name) for table in tables for name in (root.name, *table.relative_to(root).parts))
    return PartListing("LibriSpeech folder", list(entries()), known)


def list_common_voice(folders: list[Path], root: Path, options: Options) -> PartListing:
    """Common Voice: its train, dev and test, and other validated clips that share no speaker or sentence with dev and test.

    Clips that were voted wrong (``invalidated.tsv``) or not voted on (``other.tsv``) are not used.
    """
    kept_out: set[Path] = set()

    def entries() -> Iterator[SourceClip | Dropped]:
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
                        yield Dropped(clip.id, "shared with held-out", "its speaker or sentence is in dev or test")
                        continue
                    listed.add(clip.id)
                    if split in ("test", "dev"):
                        held |= keys
                    yield clip

    found = list(entries())
    return PartListing("Common Voice folder", found, has_splits=True, files=frozenset(kept_out))


def list_fleurs(folders: list[Path], root: Path, options: Options, work: Path) -> PartListing:
    """FLEURS: ``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``audio/train/`` or ``audio/train.tar.gz``, unpacked to ``work``."""

    def entries() -> Iterator[SourceClip | Dropped]:
        for folder in folders:
            language = options.language or find_language(folder.name) or ""
            if not language:
                raise UserError(f"{folder}: its name is not a language such as it_it; give --language")
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
                    yield SourceClip(name, path, language, text, "", split, root.name, duration_s=seconds)

    return PartListing("FLEURS folder", list(entries()), has_splits=True)


def is_common_voice(folder: Path) -> bool:
    """Whether ``folder`` is a language of Common Voice: it has ``clips/`` and tables of clips."""
    return (folder / "clips").is_dir() and any((folder / f"{name}.tsv").is_file() for name in ("train", "validated"))


def is_fleurs(folder: Path) -> bool:
    """Whether ``folder`` is a language of FLEURS: it has ``train.tsv`` without a header and ``audio/``."""
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
    """The folder of a split's clips: its own, or its archive unpacked once below ``folder``."""
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
            raise UserError(f"{archive}: cannot be unpacked ({error}); download it again") from error
        done.touch()
    return there


# --- Data folders of Kaldi and fairseq -------------------------------------------------------------------


def list_kaldi(folder: Path, options: Options) -> PartListing:
    """Kaldi: ``wav.scp``, and optionally ``segments``, ``text``, ``utt2spk``, ``utt2lang``.

    A pipe (``flac -dc a.flac |``) is not run: the only existing file in it is read, and only the channel that it selects
    (``sox a.wav -t wav - remix 2 |``). Paths are relative to ``--root``, the folder, or one of its parents.
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

    def entries() -> Iterator[SourceClip | Dropped]:
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
                yield Dropped(id, "bad row", f"text: is not UTF-8; save it as UTF-8 ({iconv_command(folder / 'text')})")
                continue
            end = None if end is not None and end < 0 else end
            if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
                yield Dropped(id, "bad row", f"segments: {words!r}")
                continue
            yield SourceClip(
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
                yield Dropped(recording, "no segment", "this recording of wav.scp has no line in segments")
        table = "segments" if segments else "wav.scp"
        for id in texts:
            if id not in listed:
                yield Dropped(id, "no audio named", f"this utterance of text is missing in {table}")

    named = frozenset(path for path in files.values() if path is not None)
    return PartListing("Kaldi data folder", list(entries()), _split_of(folder.resolve().name, "") != "", named)


def list_fairseq(path: Path, options: Options) -> PartListing:
    """fairseq: ``train.tsv`` (first line: the root; others: file and samples), with ``train.wrd`` or ``train.ltr``.

    For a folder, all its ``.tsv``. The names of the tables are the splits; ``.ltr`` has letters with ``|`` for spaces.
    """
    tables = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not tables:
        raise UserError(f"{path}: has no .tsv; expected fairseq's train.tsv, valid.tsv, ...")

    def entries() -> Iterator[SourceClip | Dropped]:
        for table in tables:
            lines = [line.decode("utf-8", "replace") for line in read_lines(table)]
            if not lines or "\t" in lines[0]:
                raise UserError(
                    f"{table}: its first line is not a folder; expected fairseq's format (give other tables without fairseq:)"
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
                yield SourceClip(
                    name, str(root / name), language, text, "", split, table.parent.name, duration_s=seconds
                )

    known = any(_split_of(table.stem, "") in ("dev", "test") for table in tables)
    return PartListing("fairseq manifest", list(entries()), known)


def _transcripts(table: Path, rows: int) -> list[str]:
    for suffix in (".wrd", ".ltr"):
        text_file = table.with_suffix(suffix)
        if text_file.is_file():
            texts = [line.decode("utf-8", "replace") for line in read_lines(text_file)]
            if len(texts) != rows:
                raise UserError(
                    f"{text_file}: has {len(texts)} lines, but {table.name} has {rows} clips; create both again"
                )
            if suffix == ".ltr":
                texts = [text.replace(" ", "").replace("|", " ") for text in texts]
            return [" ".join(text.split()) for text in texts]
    return [""] * rows


def _pairs(path: Path, repeated: list[Dropped]) -> dict[str, str]:
    """A Kaldi table: the first word of each line → the rest; ``{}`` if the file does not exist.

    Of lines with the same first word the first one is used; the others are added to ``repeated``.

    Words are separated by spaces and tabs, as in Kaldi. Bytes that are not UTF-8 become lone surrogates: they may name a file.
    """
    if not path.is_file():
        return {}
    lines = (line.decode("utf-8", "surrogateescape").strip() for line in read_lines(path))
    parted = (re.split("[ \t]+", line, maxsplit=1) for line in lines if line)
    found: dict[str, str] = {}
    for key, *rest in parted:
        words = rest[0] if rest else ""
        if found.setdefault(key, words) != words:
            repeated.append(Dropped(key, "bad row", f"{path.name}: another line with this name: {words!r}"))
    return found


def _file(words: str, roots: list[Path]) -> Path | None:
    """The file of an entry of ``wav.scp``: the entry itself, or the only existing file in its pipe."""
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
            f"{words} ({recording}) is in a Kaldi archive, which lalia cannot read; extract it with Kaldi's wav-copy "
            f"({shlex.join(['wav-copy', found[1] + (found[2] or ''), f'{recording}.wav'])}), and name that file in wav.scp"
        )
    return f"{words} ({recording})"


def _channel(words: str) -> int | None:
    """The channel, from 0, that a pipe of ``wav.scp`` selects with sox, sph2pipe or ffmpeg; None if it selects none."""
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
"""Patterns of a channel, counted from one or zero. sox's ``-c 1`` selects none: it mixes."""


def _split_of(name: str, otherwise: str = "train") -> str:
    """The split in the name of a folder or table: ``dev``, ``test_clean``, ``valid``."""
    word = name.lower().replace("-", "_").split("_")[0]
    return SPLIT_NAMES.get(word, otherwise) if word else otherwise
