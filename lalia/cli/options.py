"""Options and inputs shared by verbs: audio from files, folders and pipes, corpora, decoding, missing packages."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lalia.audio.channels import parse_channels
from lalia.audio.formats import is_audio
from lalia.audio.reading import SUFFIXES
from lalia.cli.parser import Parser
from lalia.errors import UserError
from lalia.inputs import CARD, SETTINGS, identify

if TYPE_CHECKING:
    from lalia.data.corpus import Corpus
    from lalia.decoding.decoder import AcousticModel, DecodingInputs
    from lalia.runtime.student import Student


@contextmanager
def needs(program: str, extra: str = "train") -> Iterator[None]:
    """Turn an ``ImportError`` in the block into a ``UserError``: ``program`` needs the ``extra`` with that package."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{program} needs the package {error.name}, which is missing; run: pip install 'lalia[{extra}]'"
        ) from error


# --- Audio from a pipe, copied to a temporary file because readers seek ----------------------------------

STDIN = "-"
"""The argument that means stdin."""
MOST_BYTES = 4 << 30
"""The most bytes read from a pipe, which may be endless."""
_PIECE_BYTES = 1 << 20


def text_path(argument: str) -> Path:
    """``type=`` for a text that is read once without seeking; ``-`` is stdin."""
    return Path("/dev/stdin" if argument == STDIN else argument)


def is_pipe(path: Path) -> bool:
    """Whether ``path`` can be read only once: ``-``, a named pipe or a socket."""
    if str(path) == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def called(path: Path) -> str:
    """The name of ``path`` in messages."""
    return "stdin" if str(path) == STDIN else str(path)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """``path``, or for a pipe a temporary file with its content.

    Raises ``UserError`` for more than ``MOST_BYTES`` and for a full disk.
    """
    if not is_pipe(path):
        yield path
        return
    if str(path) == STDIN and sys.stdin.isatty():
        raise UserError("stdin: is the terminal; expected audio from a pipe: cat talk.mp3 | lalia transcribe STUDENT -")
    with tempfile.NamedTemporaryFile(prefix="lalia-") as file:
        try:
            if str(path) == STDIN:
                _copy(sys.stdin.buffer, file, path)
            else:
                with path.open("rb") as pipe:
                    _copy(pipe, file, path)
            file.flush()
        except OSError as error:
            where = os.fspath(Path(file.name).parent)
            raise UserError(
                f"{called(path)}: cannot be copied to {where} ({error.strerror}); set TMPDIR to another folder"
            ) from error
        yield Path(file.name)


def _copy(pipe: IO[bytes], file: IO[bytes], path: Path) -> None:
    size = 0
    while piece := pipe.read(_PIECE_BYTES):
        size += len(piece)
        if size > MOST_BYTES:
            raise UserError(f"{called(path)}: is a pipe with more than {MOST_BYTES >> 30} GB; save it as a file first")
        file.write(piece)


def channel_choice(text: str) -> int | None:
    """``mix``, ``each`` or a number from 1, for ``type=``."""
    try:
        return parse_channels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# --- Audio files and the paths of their transcripts ------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """An audio file, and its path relative to the argument that contains it."""

    path: Path
    name: Path


def find_clips(arguments: Sequence[str], say: Callable[[str], None]) -> list[Clip]:
    """The files among ``arguments``, and the audio files in its folders without hidden ones, in order.

    In a folder, audio is recognised by its suffix or first bytes; ``say`` receives a line that counts the other files.
    Raises ``UserError`` for a folder without audio. Files given by name are not opened, so a missing one fails later, alone.
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
            say(f"{path}: skipped files that are not audio: {counted}")
        if not found:
            made = (path / CARD).exists() or (path / SETTINGS).exists()
            what = f"{identify(path).description} and " if made else ""
            raise UserError(f"{path}: {what}holds no audio files; expected names like .wav, .flac, .mp3 or .m4a")
        clips += found
    return clips


def output_paths(clips: Sequence[Clip], out: Path, format: str) -> list[Path]:
    """``out/NAME.FORMAT`` for every clip; ``UserError`` if two clips would write the same file."""
    taken: dict[Path, Path] = {}
    for clip in clips:
        path = out / clip.name.with_suffix(f".{format}")
        if path in taken:
            raise UserError(
                f"{clip.path} and {taken[path]} would both be written to {path}; rename one, or give them separately"
            )
        taken[path] = clip.path
    return list(taken)


# --- Corpora ---------------------------------------------------------------------------------------------


def open_corpus(path: Path) -> Corpus:
    """The corpus in ``path``; ``UserError`` if the packages that read it are missing."""
    with needs("reading a corpus"):
        from lalia.data.corpus import Corpus
    return Corpus.load(path)


def add_language(parser: Parser) -> None:
    """``--language``: the languages of the clips to use, for ``lalia.model_folder.languages_taken``."""
    parser.add_argument(
        "--language",
        metavar="CODE",
        action="append",
        help="only clips in this language (ita, it, it-IT or Italian; may be repeated; default: the student's)",
    )


# --- The language of a student that has several ----------------------------------------------------------


def add_written_language(parser: Parser, more: str = "") -> None:
    """``--language``: the one that a student of several languages writes, for ``load_student``; ``more`` is added to its help."""
    parser.add_argument(
        "--language",
        default="",
        metavar="CODE",
        help="of a student of several languages: the one whose rules come first where several share a script (default: its first)"
        + more,
    )


def load_student(
    model: Path,
    threads: int | None,
    language: str,
    decoding: Decoding | None = None,
) -> Student:
    """The student in ``model`` that writes ``language``; "" is its first one, and a line on stderr says so if it has several."""
    from lalia.runtime.student import Student

    files = decoding or Decoding()
    student = Student.load(
        model, threads, language, lm=files.lm, rescore=files.rescore, hot_words=files.hot, only=files.only,
        transducer=bool(files.decoder), warn=warn,
    )  # fmt: skip
    first, *others = student.normaliser.languages or [""]
    if others and not language:
        print(
            f"lalia: {model}: writes {', '.join(sorted((first, *others)))}; words are split by their script, and by the rules of "
            f"{first} where several share one (--language CODE: another)",
            file=sys.stderr,
        )
    return student


def warn(what: str) -> None:
    """Print a line on stderr."""
    print(f"lalia: {what}", file=sys.stderr)


# --- Decoding --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding:
    """The decoder, and the files that it uses in addition to the student; without any: greedy decoding."""

    lm: Path | None = None
    """folder of n-grams, for beam search"""
    rescore: Path | None = None
    """folder of an LSTM that rescores the hypotheses of beam search with ``lm``"""
    hot: Path | None = None
    """words to boost"""
    only: Path | None = None
    """the closed list of phrases"""
    decoder: str = ""
    """"transducer": instead of the CTC head"""

    @classmethod
    def of(cls, args: Any) -> Decoding:
        """From the parsed arguments that ``add_decoding`` declared."""
        return cls(args.lm, args.rescore, args.hot, args.only, "" if args.decoder == "ctc" else args.decoder)

    def of_student(self, name: str) -> Decoding:
        """The files for one of several students: where a path is a folder without a card, the entry in it of that name."""

        def own(path: Path | None) -> Path | None:
            if path is None or not path.is_dir() or (path / CARD).exists():
                return path
            return next((file for file in sorted(path.iterdir()) if name in (file.name, file.stem)), None)

        return replace(self, lm=own(self.lm), rescore=own(self.rescore), hot=own(self.hot), only=own(self.only))

    def as_dict(self) -> dict[str, str]:
        """What is given, by the names of the options."""
        return {name: str(path) for name, path in vars(self).items() if path}

    def student(self, student: Student) -> Student:
        """``student``, decoded with its transducer if that is chosen; ``UserError`` if it has none."""
        return student.with_transducer() if self.decoder else student


def add_head(parser: Parser) -> None:
    """``--decoder``: the head of the student to decode with."""
    parser.add_argument(
        "--decoder",
        choices=("ctc", "transducer"),
        default="ctc",
        help="the head to decode with; transducer: of students fitted with --head transducer (default: ctc)",
    )


def add_decoding(parser: Parser) -> None:
    """The options that ``Decoding`` is made from."""
    add_head(parser)
    parser.add_argument("--lm", type=Path, metavar="LM", help="a language model made by lalia lm")
    parser.add_argument(
        "--rescore", type=Path, metavar="LM", help="an LSTM (lalia lm --lstm) that rescores the hypotheses of --lm"
    )
    parser.add_argument("--hot", type=Path, metavar="FILE", help="hot words: one per line, tab, boost (default: 6)")
    parser.add_argument(
        "--only",
        type=Path,
        metavar="FILE",
        help="transcribe only these phrases, one per line: turn (on|off) [the] light",
    )


def load_decoding(files: Decoding, model: AcousticModel, warn: Callable[[str], None] = warn) -> DecodingInputs:
    """Load the files for ``model``."""
    from lalia.decoding.decoder import DecodingInputs

    inputs = DecodingInputs.load(
        model, files.lm, rescore=files.rescore, hot_words=files.hot, only=files.only, warn=warn
    )
    inputs.decoder(model)  # errors in the files are raised before the first clip is decoded
    return inputs
