"""Turn annotation files into clips: choose the transcription tiers and find the recording.

The formats are read in ``annotation_formats.py``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from lalia.data.prepare.listing import Dropped, Options, SourceClip
from lalia.files import find_path, is_file, is_utf8
from lalia.text.language_codes import UNKNOWN, find_language
from lalia.units import Seconds


@dataclass(frozen=True)
class Annotation:
    """A text and its time. ``start_s`` is None if the file has no time for it."""

    text: str
    start_s: Seconds | None
    end_s: Seconds | None
    speaker: str = ""
    media: str = ""
    """the recording, if a file is about several"""
    channel: int | None = None
    """from 0; None = unknown"""

    def of_all_channels(self) -> Annotation:
        return replace(self, channel=None)


@dataclass
class Tier:
    """Annotations of one kind or speaker. ``kind`` is the file's name for this kind of tier, ``parent`` the name of a tier."""

    name: str
    annotations: list[Annotation]
    kind: str = ""
    parent: str = ""
    speaker: str = ""


@dataclass
class AnnotationFile:
    """The content of an annotation file; ``media`` are names of its recording, the most reliable first."""

    form: str
    tiers: list[Tier]
    media: list[str] = field(default_factory=list)
    language: str = ""


ReadAnnotations = Callable[[Path], AnnotationFile]
"""Reads a file of one format; ``UserError`` for other files."""

_SPOKEN = frozenset(
    word
    for words in (
        "tx txt text texts transcript transcription transcriptions transcribed trs orth ortho orthography",
        "orthographic utt utterance utterances phrase phrases sentence sentences speech says said default",
    )
    for word in words.split()
)
"""Words in the names of tiers with orthographic transcriptions."""
_OTHER = frozenset(
    word
    for words in (
        "ft free translation translations translated trans gloss glosses glossing gl ge pos ps morph morphs morpheme",
        "morphemes mb mot note notes nt comment comments com ref refs id ids phone phones phoneme phonemes phon phons phonetic",
        "phonetics ipa syll syllable syllables syl tone tones tobi break breaks pitch gesture gestures gaze hand head event",
        "events noise overlap code codes literal lit segment segments vowel vowels consonant context topic section",
        "sections turn status silence silences vad lemma lemmas",
    )
    for word in words.split()
)
"""Words in the names of other tiers."""
_WORDS = frozenset(("word", "words", "wd", "wrd", "token", "tokens"))


_PAUSES = frozenset(("", "sil", "sp", "<sil>", "<eps>", "<p:>", "#", "_"))
_PAUSE_S: Seconds = 0.5
_UTTERANCE_S: Seconds = 20.0


def choose_tiers(annotation_file: AnnotationFile, wanted: tuple[str, ...]) -> list[Tier]:
    """The tiers to read: those that ``wanted`` names (as a pattern, or by their kind), else the transcriptions.

    Transcriptions are tiers with such a name or kind (``tx@Anna``, ``utterance``); else tiers with their own times and no other
    known name, such as ``gloss``; else tiers of words, which are joined to utterances. Of a tier and its child tiers only the
    parent is read.
    """
    filled = [tier for tier in annotation_file.tiers if any(a.text.strip() for a in tier.annotations)]
    if wanted:
        names = [name.casefold() for name in wanted]
        return [
            tier
            for tier in annotation_file.tiers
            if any(fnmatchcase(tier.name.casefold(), name) or tier.kind.casefold() == name for name in names)
        ]
    if len(filled) <= 1:
        return filled
    plain = [tier for tier in filled if not _parts(tier.name) & _OTHER]
    chosen = [tier for tier in plain if _parts(tier.name) & _SPOKEN]
    chosen = chosen or [tier for tier in plain if _parts(tier.kind) & _SPOKEN and not _parts(tier.kind) & _OTHER]
    chosen = chosen or [tier for tier in plain if not tier.parent and not _parts(tier.name) & _WORDS]
    chosen = chosen or [tier for tier in plain if not tier.parent] or plain or filled
    parents = {tier.name: tier.parent for tier in annotation_file.tiers}
    upper = {tier.name for tier in chosen}
    return [tier for tier in chosen if not upper & set(_above(tier.name, parents))]


def _above(name: str, parents: dict[str, str]) -> Iterator[str]:
    """The ancestors of the tier ``name``, nearest first."""
    seen = {name}
    while (name := parents.get(name, "")) and name not in seen:
        seen.add(name)
        yield name


def _parts(name: str) -> set[str]:
    """The words of a tier's name without the speaker: ``tx@Anna``, ``A_Transcription-txt-hsn``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.partition("@")[0])
    return set(re.findall(r"[^\W\d_]+", spaced.casefold()))


class RecordingIndex:
    """The audio files that annotations may be about, by name with and without suffix, in any Unicode normal form."""

    def __init__(self, paths: Iterable[Path], root: Path | None = None) -> None:
        self._root = root
        self._found: dict[str, list[Path]] = {}
        self._beside: dict[tuple[Path, str], list[Path]] = {}
        for path in paths:
            for key in {_key(path.name), _key(path.stem)}:
                self._found.setdefault(key, []).append(path)
                self._beside.setdefault((path.parent, key), []).append(path)

    def find(self, annotations: Path, names: Iterable[str]) -> Path | None:
        """The recording of the file ``annotations``: one of ``names`` (a path or URL on any machine), else the file of the same
        name next to it, else the only file with such a name anywhere."""
        given = [_local(name) for name in names if name]
        bases = [PurePosixPath(name.replace("\\", "/")).name for name in given]
        own = [annotations.name, annotations.stem, annotations.stem.rpartition(".")[0]]
        for name in given:
            path = find_path((self._root or annotations.parent) / name)
            if is_file(path):
                return path
        keys = [*map(_key, bases), *(_key(Path(base).stem) for base in bases), *map(_key, filter(None, own))]
        for key in keys:
            if found := self._beside.get((annotations.parent, key)):
                return found[0]
        for key in keys:
            if len(found := self._found.get(key, [])) == 1:
                return found[0]
        return None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _local(name: str) -> str:
    """The path in a file's reference to its media: a ``file:`` URL, or a path of another system."""
    if name.casefold().startswith("file:"):
        name = unquote(name[len("file:") :])
        return "/" + name.lstrip("/")
    return name


@dataclass
class TierUsage:
    """Counts the tiers that were read and those that were not, over all files, for one line."""

    read: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)

    def add(self, other: TierUsage) -> None:
        self.read += other.read
        self.unused += other.unused

    def line(self) -> str:
        """The line; "" if every tier was read."""
        if not self.unused:
            return ""
        read, unused = (", ".join(_counted(found)) for found in (self.read, self.unused))
        return f"tiers read as transcriptions: {read or 'none'}; not used: {unused} (--tier NAME reads others)"


def _counted(found: Counter[str]) -> list[str]:
    names = [f"{name} ({count} files)" if count > 1 else name for name, count in found.most_common(8)]
    return [*names, f"{len(found) - 8} more"] if len(found) > 8 else names


def annotation_clips(
    path: Path,
    annotation_file: AnnotationFile,
    recordings: RecordingIndex,
    where: Path,
    options: Options,
    tiers: TierUsage,
) -> Iterator[SourceClip | Dropped]:
    """A clip for every annotation in the chosen tiers, or a ``Dropped`` with the reason.

    Names are relative to the folder ``where``.
    """
    chosen = choose_tiers(annotation_file, options.tiers)
    tiers.read.update(tier.name for tier in chosen if tier.name)
    tiers.unused.update(
        tier.name for tier in annotation_file.tiers if tier.name and not any(tier is one for one in chosen)
    )
    if options.tiers and not chosen:
        names = ", ".join(tier.name or "(no name)" for tier in annotation_file.tiers) or "none"
        yield Dropped(_name(path, where), "no such tier", f"expected {', '.join(options.tiers)}; it has {names}")
    language = options.language or find_language(annotation_file.language) or UNKNOWN
    files: dict[str, Path | None] = {}
    for tier in chosen:
        words = not options.tiers and _parts(tier.name) & _WORDS
        for number, one in enumerate(_joined(tier.annotations) if words else tier.annotations, 1):
            if one.media not in files:
                files[one.media] = recordings.find(path, [one.media] if one.media else annotation_file.media)
            file = files[one.media]
            row = f"{_name(path, where)} {tier.name} {number}".replace("  ", " ")
            if file is None:
                names = ", ".join([one.media] if one.media else annotation_file.media) or f"{path.stem}.wav or similar"
                yield Dropped(row, "missing", f"no recording {names} next to it; give its folder with --root FOLDER")
                continue
            if one.start_s is None or one.end_s is None:
                yield Dropped(row, "no time", f"the annotation has no time: {one.text}")
                continue
            name = f"{_name(file, where)}#{one.start_s:.2f}-{one.end_s:.2f}"
            text = " ".join(one.text.split())
            if not text:
                yield Dropped(name, "empty annotation", row)
            elif not is_utf8(text):
                yield Dropped(name, "bad row", f"{row}: is not UTF-8")
            elif not 0 <= one.start_s < one.end_s < math.inf:
                yield Dropped(name, "bad row", f"{row}: from {one.start_s} to {one.end_s} s")
            else:
                speaker = (
                    one.speaker or tier.speaker or tier.name.partition("@")[2] or (tier.name if len(chosen) > 1 else "")
                )
                yield SourceClip(
                    name, str(file), language, text, speaker, "train", where.name,
                    start_s=one.start_s, end_s=one.end_s, duration_s=one.end_s - one.start_s, channel=one.channel,
                )  # fmt: skip


def _joined(words: list[Annotation]) -> list[Annotation]:
    """Words joined to utterances, which end at pauses: single words are too short to train on."""
    found: list[Annotation] = []
    for word in words:
        text = "" if word.text.strip().casefold() in _PAUSES else word.text
        if not text or word.start_s is None or word.end_s is None:
            continue
        last = found[-1] if found else None
        if last is not None and last.end_s is not None and last.start_s is not None:
            near = word.start_s - last.end_s <= _PAUSE_S and word.end_s - last.start_s <= _UTTERANCE_S
            if near and (word.speaker, word.media) == (last.speaker, last.media):
                found[-1] = replace(last, text=f"{last.text} {text}", end_s=word.end_s)
                continue
        found.append(replace(word, text=text))
    return found


def _name(path: Path, where: Path) -> str:
    return path.relative_to(where).as_posix() if path.is_relative_to(where) else path.name


_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d+)?)")


def seconds(text: str) -> Seconds:
    """``1.5``, ``1,5``, ``01:02.5`` or ``00:01:02.500`` as seconds; ``ValueError`` for other texts."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time")
    hours, minutes, rest = found.groups()
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + float(rest.replace(",", "."))
