"""Read a folder as a source: corpora of known layouts, tables, annotations, audio files with transcripts.

Each file is read by one reader only; files that no reader uses are counted and reported.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lalia.audio.formats import is_audio
from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.finish_listing import PartListing, finish_listing
from lalia.data.prepare.listing import Dropped, Listing, Options, Say, SourceClip
from lalia.data.prepare.sources import layouts, tables
from lalia.data.prepare.sources import layouts as kaldi
from lalia.data.prepare.sources.annotation_formats import (
    is_elan_export,
    is_label_track,
    read_chat,
    read_elan,
    read_elan_export,
    read_labels,
    read_stm,
    read_subtitles,
    read_textgrid,
    read_transcriber,
)
from lalia.data.prepare.sources.annotations import (
    AnnotationFile,
    ReadAnnotations,
    RecordingIndex,
    TierUsage,
    annotation_clips,
)
from lalia.data.prepare.sources.audio_files import AudioIndex, NamedAudio, Tree
from lalia.data.prepare.sources.columns import HeaderlessTable, detect_headerless
from lalia.data.prepare.sources.unsupported import NO_AUDIO_COLUMN, unused_file_advice
from lalia.errors import UserError
from lalia.files import readable
from lalia.inputs import document
from lalia.text.language_codes import UNKNOWN, find_language
from lalia.text.text_files import read_unicode

# --- Transcripts -----------------------------------------------------------------------------------------

TRANSCRIPT_SUFFIXES = (".txt", ".lab")
_OFFSETS = re.compile(r"(\d+)\s+(\d+)\s+(\S.*)")
_LEAST_SAMPLES = 1000
_MICROPHONE = re.compile(r"_mic\d$")


class Transcripts:
    """The transcripts among ``files`` below ``root``."""

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self._root = root
        self._texts = [path for path in files if path.suffix.lower() in TRANSCRIPT_SUFFIXES]
        self._texts.sort(key=lambda path: (TRANSCRIPT_SUFFIXES.index(path.suffix.lower()), path))
        self._by_folder: dict[tuple[Path, str], Path] = {}
        for path in self._texts:
            for name in (path.stem, key_of(path)):
                self._by_folder.setdefault((path.parent, name), path)

    def same_folder(self, audio: Path) -> Path | None:
        """The transcript in the folder of ``audio`` with its name, ignoring case."""
        found = self._by_folder.get((audio.parent, audio.stem))
        return found or self._by_folder.get((audio.parent, key_of(audio)))

    def elsewhere(self, audio: Iterable[Path], known: dict[Path, Path]) -> tuple[dict[Path, Path], list[Path]]:
        """The transcripts in other folders that belong to ``audio``, and ambiguous ones; for files that are not in ``known``.

        Of several files with the same name those with similar folders belong together: ``txt/p225/001.txt`` and
        ``wav/p225/001.wav``. A recording by several microphones (VCTK's ``_mic1``, ``_mic2``) has one transcript.
        """
        recordings: dict[str, dict[tuple[Path, str], list[Path]]] = {}
        for path in audio:
            key = _MICROPHONE.sub("", key_of(path))
            recordings.setdefault(key, {}).setdefault((path.parent, key), []).append(path)
        texts: dict[str, list[Path]] = {}
        used = set(known.values())
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
                elif wordless := [path for path in places[place, key] if path not in known]:
                    for path in wordless:
                        found.setdefault(path, text)  # .txt before .lab
                else:
                    unclear.append(text)
        return found, unclear

    def _nearest(self, folder: Path, others: list[Path]) -> Path | None:
        """The only one of ``others``, or the one most similar to ``folder``; None if several are equally similar, or none is."""
        similarity = {other: self._shared_folders(folder, other) for other in others}
        best = [other for other in others if similarity[other] == max(similarity.values())]
        return best[0] if len(best) == 1 and (len(others) == 1 or similarity[best[0]]) else None

    def _shared_folders(self, one: Path, other: Path) -> int:
        """The number of equal folders at the ends and at the beginnings of two paths."""
        parts = [path.relative_to(self._root).parts for path in (one, other)]
        return _common(*parts) + _common(*(part[::-1] for part in parts))


def read_transcript(path: Path) -> str | None:
    """The text of a transcript, without TIMIT's sample numbers; None for a list of times and labels, as in HTK's files.
    ``UserError`` for a document, and for bytes that are neither UTF-8 nor UTF-16.
    """
    if tiers := document(path):
        raise UserError(f"{path}: is {tiers}, expected plain text; save it as plain text")
    lines = [line.strip() for line in read_unicode(path).splitlines() if line.strip()]
    timed = [found for line in lines if (found := _OFFSETS.fullmatch(line))]
    if len(lines) == 1 and timed and timed[0][1] == "0" and int(timed[0][2]) >= _LEAST_SAMPLES:
        return " ".join(timed[0][3].split())
    if len(lines) > 1 and len(timed) == len(lines) and all(int(found[1]) <= int(found[2]) for found in timed):
        return None
    return " ".join(" ".join(lines).split())


def key_of(path: Path) -> str:
    """The name of a file without suffix, in NFC and lower case."""
    return unicodedata.normalize("NFC", path.stem).casefold()


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count


# --- A folder with files of any kind ---------------------------------------------------------------------

BYTES_PER_S = 16_000  # Approximate, for files of unknown length; for planning only.
ANNOTATIONS: dict[str, ReadAnnotations] = {
    ".eaf": read_elan,
    ".textgrid": read_textgrid,
    ".trs": read_transcriber,
    ".cha": read_chat,
    ".stm": read_stm,
    ".ass": read_subtitles,
    ".ssa": read_subtitles,
    ".vtt": read_subtitles,
    ".srt": read_subtitles,
}
"""Readers of annotations by suffix; of several files about one recording the first kind is read."""
_TABLES = ("manifest", "metadata")
_KALDI = frozenset(
    word
    for words in (
        "wav.scp segments text utt2spk spk2utt utt2lang lang2utt utt2dur utt2num_frames reco2dur reco2file_and_channel",
        "spk2gender feats.scp cmvn.scp vad.scp frame_shift utt2uniq stm glm ctm rttm conf",
    )
    for word in words.split()
)
_LISTED = 5  # unused files that are listed by name
_HEADLESS = (".txt", ".tsv", ".csv", ".lst", ".tab", ".data", "")


def reader_of(path: Path) -> ReadAnnotations | None:
    """The reader of an annotation file, by its suffix (texts and tables: also by their first line); None for other files."""
    suffix = path.suffix.lower()
    if suffix in ANNOTATIONS:
        return ANNOTATIONS[suffix]
    if suffix in (".txt", ".tsv", ".csv", ".lab"):
        if is_elan_export(path):
            return read_elan_export
        if suffix in TRANSCRIPT_SUFFIXES and is_label_track(path):
            return read_labels
    return None


def list_annotations(path: Path, read: ReadAnnotations, options: Options, say: Say) -> Listing:
    """The clips of one annotation file, whose recording is in its folder or below ``--root``."""
    files = [*Tree(path.parent, deep=False).audio(), *(Tree(options.root).audio() if options.root else ())]
    annotation_file, tiers = read(path), TierUsage()
    entries = list(
        annotation_clips(path, annotation_file, RecordingIndex(files, options.root), path.parent, options, tiers)
    )
    _report_tiers(tiers, annotation_file, entries, options, path, say)
    return finish_listing(path.stem, [PartListing(annotation_file.form, entries, False)], options, path)


def list_recording(path: Path, options: Options, work: Path, say: Say) -> Listing:
    """One audio file, with the annotations or the transcript of the same name in its folder."""
    tree = Tree(path.parent, deep=False)
    tree.files = [other for other in tree.files if other == path or (_is_of(other, path) and not _is_audio(other))]
    tree.hidden, tree.dropped = 0, []
    return _list(tree, path, path.stem, options, work, say)


def list_folder(root: Path, options: Options, work: Path, say: Say) -> Listing:
    """All clips below ``root``: releases in known layouts, tables of its audio files, annotations with their recordings, and then
    all other audio files, with their transcripts (``a.txt`` next to ``a.wav``).

    Of a release only the files in its tables are read. ``say`` receives lines about files that are not used.
    """
    return _list(Tree(root), root, root.resolve().name, options, work, say)


def _list(tree: Tree, where: Path, name: str, options: Options, work: Path, say: Say) -> Listing:
    printed: set[str] = set()

    def once(line: str) -> None:
        if line not in printed:
            printed.add(line)
            say(line)

    listing = _FolderReader(tree, options, work, once)
    listing.add_releases()
    listing.add_tables()
    listing.add_annotations()
    listing.add_recordings()
    listing.check_options()
    if not any(part.entries for part in listing.parts):
        refused = f"; {tree.dropped[0].detail}" if tree.dropped else ""
        raise UserError(
            f"{where}: contains no audio; expected files such as {', '.join(sorted(SUFFIXES)[:6])}, at any depth"
            f"{listing.unused_line(start='; there are ')}{refused}"
        )
    listing.add_unreadable()
    listing.say_unused()
    return finish_listing(name, listing.parts, options, where)


@dataclass
class _FolderReader:
    """Applies the readers to the files below a root; each file is used by the first reader that accepts it."""

    tree: Tree
    options: Options
    work: Path
    say: Say
    parts: list[PartListing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._audio = list(self.tree.audio())
        self._taken: set[str] = set()  # audio files of clips, and tables and texts that were read
        self._owned: list[Path] = []  # folders of releases: audio that their tables do not name is not read
        self._notes: list[str] = []
        self._index = AudioIndex(lambda: self._audio)
        self._stems = {key_of(path) for path in self._audio}
        self._columns_used = self._root_used = False

    def add_releases(self) -> None:
        """Add folders in the layouts of Common Voice, FLEURS, LibriSpeech and Kaldi."""
        root, options = self.tree.root, self.options
        voices = [folder for folder in self.tree.folders if layouts.is_common_voice(folder)]
        fleurs = [folder for folder in self.tree.folders if layouts.is_fleurs(folder)]
        spoken = [path for path in self.tree.files if path.name.endswith(".trans.txt")]
        if voices:
            self._add(layouts.list_common_voice(voices, root, options))
            self._take([folder / "clips" for folder in voices], [p for f in voices for p in f.glob("*.tsv")])
        if fleurs:
            self._add(layouts.list_fleurs(fleurs, root, options, self.work))
            self._take([folder / "audio" for folder in fleurs], [p for f in fleurs for p in f.glob("*.tsv")])
        if spoken:
            self._add(layouts.list_librispeech(spoken, root, options))
            self._take(sorted({path.parent for path in spoken}), spoken)
        for folder in self.tree.folders:
            # Kaldi's copies of a folder, split for its jobs, would repeat the whole folder.
            if (folder / "wav.scp").is_file() and not any(re.fullmatch(r"split\d+\w*", n) for n in folder.parts):
                self._root_used = True
                self._add(kaldi.list_kaldi(folder, options))
                self._take([], [folder / name for name in _KALDI])

    def add_tables(self) -> None:
        """Add ``manifest`` and ``metadata`` tables at any depth, Parquet files with audio, and other tables with an audio column:
        the one that ``--columns`` names, or one with nearly all values names of audio below the root; in tables without
        column names the first."""
        root, parts, seen = self.tree.root, list[PartListing](), set[str]()
        named = [path for path in self.tree.files if not self._is_taken(path) and self._is_named_table(path)]
        found = {path for path in self.tree.files if not self._is_taken(path) and self._is_found_table(path)}
        fitting = {path for path in (*named, *found) if self._fits(path)} if self.options.columns else set()
        for path in [*named, *sorted(found - {*named})]:  # tables with known names first
            if self._is_taken(path):
                continue
            if fitting and path not in fitting:
                self._notes.append(f"{self._name(path)} is not used: it lacks columns that --columns names")
                continue
            if path.parent != root and path not in found and not tables.names_audio(path, self.options):
                self._notes.append(f"{self._name(path)} {NO_AUDIO_COLUMN}")
                continue
            lines: list[str] = []
            part = tables.list_table(path, self.options, self.work, lines.append, root, self._index)
            files = {_absolute(entry.path) for entry in part.entries if isinstance(entry, SourceClip)}
            if files and files <= seen | self._taken:
                self._notes.append(
                    f"{self._name(path)} is not used: another table or a release is read for the same recordings; to "
                    "use it, give it as the source"
                )
                continue
            seen |= files
            parts.append(part)
            for line in lines if len(parts) <= _LISTED else ():  # the others have similar messages
                self.say(line)
            self._take([], [path])
        if len(parts) > _LISTED:
            self.say(f"{len(parts) - _LISTED:,} more tables are read in the same way")
        self._columns_used, self._root_used = bool(fitting), self._root_used or bool(parts)
        held_out = any(isinstance(e, SourceClip) and e.split != "train" for part in parts for e in part.entries)
        for part in parts:  # a folder with the name train only has no held-out split
            self._add(part if held_out else replace(part, has_splits=False))

    def _is_named_table(self, path: Path) -> bool:
        form = tables.form_of(path)
        if form and tables.stem_of(path) in _TABLES:
            return form != ".json" or tables.names_audio(path, self.options)
        return form == ".parquet" and tables.holds_audio(path)

    def _fits(self, path: Path) -> bool:
        return tables.has_given_columns(path, self.options) and self._headless(path) is None

    def _is_found_table(self, path: Path) -> bool:
        """Whether a file of any name is a table of audio below the root, not used by another reader, about several recordings."""
        suffix = Path(path.name.lower().removesuffix(".gz")).suffix
        about_one = key_of(path) in self._stems or key_of(Path(path.name.partition(".")[0])) in self._stems
        if about_one or suffix not in (*_HEADLESS, ".jsonl", ".ndjson") or _is_audio(path) or reader_of(path):
            return False
        if self._headless(path) is not None:
            return True
        fields = tables.audio_table_fields(path, self.options, self._named_by(path))
        if fields and "text" not in fields and not self.options.columns and not self._is_named_table(path):
            # The table may list lengths only, with the transcripts in separate files.
            columns = f"audio={fields['audio']},text={tables.likely_text_column(path, fields) or 'NAME'}"
            how = f"lalia prepare {shlex.quote(str(self.tree.root))} --columns {shlex.quote(columns)}"
            self._notes.append(
                f"{self._name(path)} is not used: it names audio files here, but no column with texts was recognised; to use it: "
                f"{how}"
            )
            return False
        return bool(fields)

    def _headless(self, path: Path) -> HeaderlessTable | None:
        if tables.form_of(path) in (".jsonl", ".ndjson", ".json", ".parquet"):
            return None
        try:
            return detect_headerless(path, self._named_by(path))
        except UserError:
            return None

    def _named_by(self, path: Path) -> NamedAudio:
        return NamedAudio(path, self.options.root or path.parent, self._index)

    def add_annotations(self) -> None:
        """Add annotation files with a recording that no earlier reader uses."""
        found = [(path, read) for path in self.tree.files if not self._is_taken(path) and (read := reader_of(path))]
        if not found:
            return
        recordings = RecordingIndex(self._audio)
        order = [*ANNOTATIONS.values(), read_elan_export, read_labels]
        entries: list[SourceClip | Dropped] = []
        forms: list[str] = []
        tiers = TierUsage()
        used_by: dict[str, Path] = {}
        for path, read in sorted(found, key=lambda item: order.index(item[1])):
            try:
                annotation_file = read(path)
            except UserError as error:
                entries.append(Dropped(self._name(path), "unreadable transcript", str(error).removeprefix(f"{path}: ")))
                self._take([], [path])
                continue
            own = TierUsage()
            made = list(annotation_clips(path, annotation_file, recordings, self.tree.root, self.options, own))
            about = sorted({entry.path for entry in made if isinstance(entry, SourceClip)})
            other = next((used_by[name] for name in about if name in used_by), None)
            if other or any(self._is_taken(Path(name)) for name in about):
                why = f"{self._name(other)} is" if other else "a table or a release is"
                self._notes.append(
                    f"{self._name(path)} is not used: {why} read for the same recording; to use it, give it as the source"
                )
                continue
            self._take([], [path])
            if made and all(isinstance(entry, Dropped) and entry.reason == "missing" for entry in made):
                detail = next(entry.detail for entry in made if isinstance(entry, Dropped))
                entries.append(Dropped(self._name(path), "missing", f"{len(made)} annotations: {detail}"))
                continue
            tiers.add(own)
            used_by.update(dict.fromkeys(about, path))
            entries += made
            forms.append(annotation_file.form)
        if self.options.tiers and tiers.unused and not tiers.read:
            raise _no_such_tier(self.options, tiers, self.tree.root)
        if entries:
            self._add(PartListing(" and ".join(sorted(set(forms))) or "annotations", entries, False))
            if line := tiers.line():
                self.say(line)

    def add_recordings(self) -> None:
        """Add all other audio files, with their transcripts from the same folder or from a parallel folder tree."""
        root = self.tree.root
        files = [path for path in self._audio if not self._is_taken(path) and not self._is_owned(path)]
        named, source = _are_languages(files, root), root.resolve().name
        transcripts = Transcripts((path for path in self.tree.files if not self._is_taken(path)), root)
        texts = {path: text for path in files if (text := transcripts.same_folder(path))}
        others, unclear = transcripts.elsewhere(files, texts)
        entries = []
        for path in files:
            text = texts.get(path) or others.get(path)
            entry = _recording(path, text, root, named, source)
            entries.append(entry)
            if text is not None and (isinstance(entry, Dropped) or entry.text):
                self._take([], [text])
        if others:
            example = next(iter(others))
            have = "s have their transcripts" if len(others) > 1 else " has its transcript"
            self.say(
                f"{root}: {len(others):,} audio file{have} in "
                f"another folder, such as {self._name(others[example])} of {self._name(example)}"
            )
        self._notes += [
            f"{self._name(path)} is not used: several audio files or texts have this name" for path in unclear
        ]
        if entries and self.parts:
            unlabelled = sum(isinstance(entry, SourceClip) and not entry.text for entry in entries)
            self.say(
                f"{root}: {len(entries):,} audio file{'s' * (len(entries) > 1)} in no table or annotation; also read, "
                f"{unlabelled:,} without a label"
            )
        if entries:
            self._add(PartListing("folder of audio", entries, False))

    def check_options(self) -> None:
        """Raise ``UserError`` if no table has the columns of ``--columns``; report a ``--root`` that is not used."""
        columns = self.options.columns
        if columns and not self._columns_used:
            tiers = ",".join(f"{ours}={theirs}" for ours, theirs in columns.items())
            found = [path for path in self._unused() if tables.form_of(path) and not self._is_owned(path)]
            there = "".join(f"; {self._name(path)} has {tables.columns_of(path)}" for path in found[:1])
            raise UserError(
                f"--columns {tiers}: no table read below {self.tree.root} has these columns{there}; "
                "correct it, or leave it out"
            )
        if self.options.root and not self._root_used:
            self.say(f"--root {self.options.root} is not used: it is for paths in tables, and no table is read")

    def add_unreadable(self) -> None:
        """Add unreadable folders and broken links to the dropped clips."""
        broken = [path for path in self._unused() if path.is_symlink() and not os.path.exists(path)]  # noqa: PTH110
        links = [Dropped(self._name(path), "missing", f"broken link to {path.readlink()}") for path in broken]
        self._take([], broken)
        if found := [*self.tree.dropped, *links]:
            self._add(PartListing("folder", found, False))

    def say_unused(self) -> None:
        """Report unused files: counts by suffix; files that may contain labels by name, with how to use them."""
        if line := self.unused_line(start="not used: "):
            self.say(line)
        printed = {note.partition(" is not used")[0] for note in self._notes}
        unused = [path for path in self._unused() if self._name(path) not in printed and not self._is_owned(path)]
        unused.sort(
            key=lambda path: path.suffix.lower() in TRANSCRIPT_SUFFIXES
        )  # Tables first: they more likely contain labels.
        self._notes += [
            f"{self._name(path)} {why}" for path in unused if (why := unused_file_advice(path, self.options))
        ]
        for note in self._notes[:_LISTED]:
            self.say(note)
        if len(self._notes) > _LISTED:
            self.say(f"and {len(self._notes) - _LISTED:,} more such files")

    def unused_line(self, start: str) -> str:
        """``3 .pdf, 1 .docx``, and audio of releases that is not in their tables; "" if all files are used."""
        counts = Counter(path.suffix.lower() or "without a suffix" for path in self._unused())
        parts = [
            f"{count:,} {readable(suffix)}" for suffix, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
        ]
        if remaining := sum(self._is_owned(path) and not self._is_taken(path) for path in self._audio):
            parts.append(f"{remaining:,} audio file{'s' * (remaining > 1)} of a release that are not in its tables")
        if self.tree.hidden:
            parts.append(f"{self.tree.hidden:,} hidden")
        return start + ", ".join(parts) if parts else ""

    def _unused(self) -> Iterable[Path]:
        audio = {_absolute(path) for path in self._audio}
        return [path for path in self.tree.files if not self._is_taken(path) and _absolute(path) not in audio]

    def _add(self, part: PartListing) -> None:
        self.parts.append(part)
        self._taken |= {_absolute(entry.path) for entry in part.entries if isinstance(entry, SourceClip)}
        self._taken |= {_absolute(path) for path in part.files}

    def _take(self, folders: Iterable[Path], files: Iterable[Path]) -> None:
        self._owned += folders
        self._taken |= {_absolute(path) for path in files}

    def _is_taken(self, path: Path) -> bool:
        return _absolute(path) in self._taken

    def _is_owned(self, path: Path) -> bool:
        return bool(self._owned) and not set(self._owned).isdisjoint(path.parents)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.tree.root).as_posix()


def _is_of(other: Path, path: Path) -> bool:
    """Whether a file name belongs to another: ``talk.it.srt`` to ``talk.wav``."""
    return other.name.casefold().startswith(f"{path.stem.casefold()}.")


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or is_audio(path)


def _absolute(path: Path | str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - keeps links


def _report_tiers(
    tiers: TierUsage,
    annotation_file: AnnotationFile,
    entries: list[SourceClip | Dropped],
    options: Options,
    path: Path,
    say: Say,
) -> None:
    if options.tiers and not tiers.read:
        raise _no_such_tier(options, tiers, path)
    if line := tiers.line():
        say(line)


def _no_such_tier(options: Options, tiers: TierUsage, where: Path) -> UserError:
    names = ", ".join(name for name, _ in tiers.unused.most_common(20)) or "no named tiers"
    return UserError(f"{where}: has no tier {', '.join(options.tiers)} (--tier); it has {names}")


def _are_languages(files: list[Path], root: Path) -> bool:
    """Whether the first folders below ``root`` are all named after languages."""
    folders = {path.relative_to(root).parts[0] for path in files if len(path.relative_to(root).parts) > 1}
    return bool(folders) and all(find_language(folder) not in (None, UNKNOWN) for folder in folders)


def _recording(path: Path, transcript: Path | None, root: Path, named: bool, source: str) -> SourceClip | Dropped:
    """A file as a clip, labelled by the ``transcript`` file."""
    relative = path.relative_to(root)
    try:
        status = path.stat()
    except OSError as error:  # A broken link, or a folder that can be listed but not read.
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else f"cannot be read ({error.strerror})"
        return Dropped(relative.as_posix(), "missing" if missing else "unreadable", why)
    if not stat.S_ISREG(status.st_mode):  # Reading a pipe would block.
        return Dropped(relative.as_posix(), "missing", "is not a regular file")
    language = find_language(relative.parts[0]) if named and len(relative.parts) > 1 else None
    text = ""
    if transcript is not None:
        try:
            text = read_transcript(transcript) or ""
        except UserError as error:
            return Dropped(relative.as_posix(), "unreadable transcript", str(error))
    return SourceClip(
        id=relative.as_posix(),
        path=str(path),
        language=language or UNKNOWN,
        text=text,
        source=source,
        duration_s=status.st_size / BYTES_PER_S,
    )
