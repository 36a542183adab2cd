"""Which clips a command line means, and where their transcripts go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lalia.audio.reading import SUFFIXES
from lalia.audio.signatures import is_audio
from lalia.exits import UserError
from lalia.kinds import CARD, SETTINGS, look
from lalia.runtime.pipes import STDIN


@dataclass(frozen=True)
class Clip:
    """An audio file, and its name below the argument that it came from."""

    path: Path
    name: Path


def find_clips(arguments: Sequence[str], say: Callable[[str], None]) -> list[Clip]:
    """The files among ``arguments`` as given, and the audio files in the folders among them, in order, hidden ones left out.

    In a folder a file is audio by its first bytes or by its name; ``say`` receives a line that counts the others. A
    ``UserError`` where a folder holds none. Files that are named are not opened: missing ones are found later, one by one.
    """
    clips: list[Clip] = []
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            clips.append(Clip(path, Path("stdin" if argument == STDIN else path.name)))
            continue
        found, others = [], Counter[str]()
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in name.parts):
                continue
            if file.suffix.lower() in SUFFIXES or is_audio(file):
                found.append(Clip(file, name))
            else:
                others[file.suffix.lower() or "without a suffix"] += 1
        if found and others:
            counted = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
            say(f"{path}: other files that are no audio: {counted}")
        if not found:
            told = look(path).told if (path / CARD).exists() or (path / SETTINGS).exists() else ""
            raise UserError(
                f"{path}: {told and f'{told} and '}holds no audio files; expected names like .wav, .flac, .mp3 or .m4a"
            )
        clips += found
    return clips


def output_paths(clips: Sequence[Clip], out: Path, format: str) -> list[Path]:
    """``out/NAME.FORMAT`` for every clip; a ``UserError`` where two clips would write the same file."""
    taken: dict[Path, Path] = {}
    for clip in clips:
        path = out / clip.name.with_suffix(f".{format}")
        if path in taken:
            raise UserError(
                f"{clip.path} and {taken[path]} would both be written to {path}; rename one, or run them apart"
            )
        taken[path] = clip.path
    return list(taken)
