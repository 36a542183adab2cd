"""What a user may call a source, and who lists it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lalia.data.prepare.clips import Listing
from lalia.data.prepare.demo import list_demo
from lalia.data.prepare.options import Options, Say
from lalia.data.prepare.sources import folders, hub, kaldi, layouts, manifests
from lalia.exits import UserError
from lalia.filenames import find_path

ListSource = Callable[[Path], Listing]
"""Lists a source; may keep files in the work folder that it is given."""

_EXPECTED = "a folder, a .tsv, .csv or .jsonl, kaldi:DIR, fairseq:FILE, hub:NAME[/CONFIG], or demo"


def open_source(spec: str, options: Options, audio: Path | None, say: Say) -> ListSource:
    """How to list ``spec``; ``UserError`` where it is nothing we know or is not there."""
    kind, colon, rest = spec.partition(":")
    if spec == "demo":
        return lambda work: list_demo(work, audio, say)
    if audio is not None:
        raise UserError("--audio FOLDER is for demo alone; name the folder as the source")
    if colon and kind == "hub":
        return lambda work: hub.list_hub(rest, options, say)
    if colon and kind in ("kaldi", "fairseq"):
        path = _existing(rest)
        return lambda work: kaldi.list_kaldi(path, options) if kind == "kaldi" else kaldi.list_fairseq(path, options)
    if colon and kind == "demo":
        raise UserError(f"source {spec!r}: the demo takes no name; say: lalia prepare demo")
    path = _existing(spec)
    if path.is_file():
        if path.suffix.lower() not in manifests.SUFFIXES:
            raise UserError(f"{path}: is a single file; expected {_EXPECTED}")
        return lambda work: manifests.list_manifest(path, options, say)
    return lambda work: _list_folder(path, options, work, say)


def _list_folder(root: Path, options: Options, work: Path, say: Say) -> Listing:
    """The layout of a folder is seen from what lies in it."""
    if layouts.is_common_voice(root):
        return layouts.list_common_voice(root, options)
    if layouts.is_fleurs(root):
        return layouts.list_fleurs(root, options, work)
    if (root / "wav.scp").is_file():
        return kaldi.list_kaldi(root, options)
    named = [root / f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in manifests.SUFFIXES]
    manifest = next((path for path in named if path.is_file()), None)
    if manifest is not None:
        return manifests.list_manifest(manifest, options, say)
    if layouts.is_librispeech(root):
        return layouts.list_librispeech(root, options)
    return folders.list_folder(root, options)


def _existing(spec: str) -> Path:
    path = find_path(Path(spec).expanduser())
    if not path.exists():
        raise UserError(f"{spec}: no such file or folder; expected {_EXPECTED}")
    return path
