"""Open a source of `lalia prepare`: from the user's argument to the function that lists its clips.

To add a source:

1. Write a function that returns a ``Listing`` of ``SourceClip`` (used) and ``Dropped`` (not used, with a reason). If the
   source has files or rows, return a ``PartListing``: ``finish_listing`` makes names unique, checks files, adds splits.
2. Register it: a prefix (``kaldi:DIR``) in ``open_source`` below, a folder layout in ``folders.add_releases``,
   an annotation format in ``folders.ANNOTATIONS``, a kind of table in ``tables.read_table``.
3. Add its name to ``_EXPECTED`` below, a test in tests/data/prepare and a row in docs/corpora.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lalia.audio.formats import is_audio
from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.finish_listing import finish_listing
from lalia.data.prepare.listing import Listing, Options, Say
from lalia.data.prepare.sources import folders, hub, layouts, tables, unsupported
from lalia.data.prepare.sources.audio_files import NamedAudio
from lalia.data.prepare.sources.columns import detect_headerless
from lalia.data.prepare.sources.demo import list_demo
from lalia.errors import UserError
from lalia.files import find_path
from lalia.inputs import identify, is_url, url_error

ListSource = Callable[[Path], Listing]
"""Lists a source; may write files to the given work folder."""

_EXPECTED = (
    "a folder, a recording, a table (.tsv, .csv, .jsonl, .json, .parquet), annotations (.eaf, .TextGrid, .trs, .cha, .stm, "
    ".srt, .vtt, labels), kaldi:DIR, fairseq:FILE, hub:NAME[/CONFIG], or demo"
)


def open_source(spec: str, options: Options, audio: Path | None, say: Say) -> ListSource:
    """The function that lists ``spec``; ``UserError`` if the source is unknown or does not exist."""
    kind, colon, rest = spec.partition(":")
    if spec == "demo":
        return lambda work: list_demo(work, audio, say)
    if audio is not None:
        raise UserError("--audio FOLDER is for demo only; give the folder as the source")
    if colon and kind == "hub":
        return lambda work: hub.list_hub(rest, options, say)
    if colon and kind == "kaldi":
        folder = _existing(rest)
        return lambda work: finish_listing(_named(folder), [layouts.list_kaldi(folder, options)], options, folder)
    if colon and kind == "fairseq":
        path = _existing(rest)
        name = _named(path if path.is_dir() else path.parent)
        return lambda work: finish_listing(name, [layouts.list_fairseq(path, options)], options, path)
    if colon and kind == "demo":
        raise UserError(f"source {spec!r}: the demo has no name; give: lalia prepare demo")
    path = _existing(spec)
    if path.is_dir():
        found = identify(path)
        if found.kind == "corpus":
            raise UserError(
                f"{path}: is a corpus already; train on it: lalia pretrain fit --data.corpus {path} --out RUN"
            )
        if hub.is_saved(path):
            say(f"{path}: a dataset made by save_to_disk, read as hub:{path}")
            return lambda work: hub.list_hub(str(path), options, say)
        return lambda work: folders.list_folder(path, options, work, say)
    if read := folders.reader_of(path):
        return lambda work: folders.list_annotations(path, read, options, say)
    if path.suffix.lower() in SUFFIXES or is_audio(path):
        return lambda work: folders.list_recording(path, options, work, say)
    if problem := unsupported.describe_unsupported(path):
        raise UserError(f"{path}: {problem}")
    named = NamedAudio(path, options.root or path.parent)
    if not tables.form_of(path) and detect_headerless(path, named) is None:
        raise UserError(
            f"{path}: is neither audio nor a table or annotation of audio; expected {_EXPECTED}, or lines that begin with "
            f"names of audio files below {named.root}"
        )
    name = tables.stem_of(path)
    if name in ("manifest", "metadata"):
        name = _named(path.parent)
    return lambda work: finish_listing(name, [tables.list_table(path, options, work, say)], options, path)


def _named(folder: Path) -> str:
    return folder.resolve().name


def _existing(spec: str) -> Path:
    if is_url(spec):
        raise url_error(spec)
    if spec == "-":
        raise UserError("-: a source is read more than once; save the table as a file next to its clips")
    path = find_path(Path(spec).expanduser())
    if not os.path.exists(path):  # noqa: PTH110 - pathlib raises OSError for very long names
        raise UserError(f"{spec}: no such file or folder; expected {_EXPECTED}")
    return path
