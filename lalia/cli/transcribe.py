"""``lalia transcribe``: audio files to text, on the terminal and in files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lalia.audio.channels import parse_channels
from lalia.audio.reading import TWO_VOICES, Note
from lalia.cards import cores, write_text
from lalia.cli.options import Clip, Decoding, add_decoding, called, decoders, find_clips, kept, output_paths
from lalia.cli.parser import Parser, positive
from lalia.decoding.decoder import Decoder
from lalia.decoding.greedy import Word
from lalia.errors import AudioError, UserError, one_of
from lalia.files import one_line, readable
from lalia.inputs import is_url, url_error
from lalia.model_folder import CALIBRATED, GREEDY, doubt, doubtful
from lalia.runtime.student import Student, TranscribeOptions
from lalia.runtime.transcript import FORMATS, Transcript, render
from lalia.runtime.windows import in_order
from lalia.units import clock, plural

ABOUT = """\
Transcribe audio files of any format, rate and length.

  lalia transcribe my-student talk.mp3                          one clip: its text
  lalia transcribe my-student a.wav b.flac                      several: name, tab, text
  lalia transcribe my-student talk.m4a --out talk.srt           subtitles: the file's name says the format
  lalia transcribe my-student talks/ --format json              a folder: one JSON object per line, words with times
  lalia transcribe my-student talks/ --format srt,txt --out subs/    files for each clip; again with --skip-existing: the rest
  ffmpeg -i talk.mkv -f wav - | lalia transcribe my-student -   audio from a pipe
  lalia transcribe my-student call.wav --channels each          a telephone call: who says what, in turns
  lalia transcribe my-student talk.mp3 --lm my-lm --hot names.txt    a language model, and names to listen for
  lalia transcribe my-student clips/ --only commands.txt        only these phrases, or nothing
  lalia transcribe my-student meeting.flac --jobs 1             one window at a time and not one per core

A clip that cannot be read is named on stderr and counted, the others are done. Exit status: 0 all clips, 1 some, 2 none.
Silence gives the empty text. M4A, WebM and G.722 need PyAV (pip install av).
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder, or the run it is in")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, folders of them, - for a pipe")
    parser.add_argument(
        "--format",
        type=_formats,
        metavar="FORMAT",
        help=f"what to write: {', '.join(FORMATS)}, or several as srt,json (default: txt)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PLACE", help="write files, not to stdout: a folder; of one clip also talk.srt"
    )
    parser.add_argument("--skip-existing", action="store_true", help="leave out clips whose files are in --out already")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="how much at a time, one thread each (default: all cores)"
    )
    parser.add_argument(
        "--channels",
        type=_channels,
        metavar="mix|each|N",
        help="of stereo files: the mix, each by itself with turns in order (a telephone call), or one, from 1 (default: mix)",
    )
    parser.add_argument(
        "--voice", action="store_true", help="transcribe speech only, by voice activity detection (needs silero-vad)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    add_decoding(parser)


def _channels(text: str) -> int | None:
    try:
        return parse_channels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _formats(text: str) -> tuple[str, ...]:
    """Formats from ``srt,json``, for ``type=``."""
    found = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    if wrong := [word for word in found if word not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{one_of(FORMATS, wrong[0])}, or several as srt,json")
    return found


@dataclass(frozen=True)
class _Job:
    """A clip and the files that are made of it, by format; stdout where there are none."""

    clip: Clip
    files: dict[str, Path]


def main(args: argparse.Namespace) -> int:
    """``lalia transcribe``."""
    clips = find_clips(args.audio, lambda line: print(f"lalia: {one_line(line)}", file=sys.stderr))
    several = len(clips) > 1 or Path(args.audio[0]).is_dir()
    formats, todo = _plan(args, clips, several)
    if args.skip_existing:
        todo = [job for job in todo if not all(path.exists() for path in job.files.values())]
        if there := len(clips) - len(todo):
            print(f"lalia: {there} of {plural(len(clips), 'clip')} already in {args.out}", file=sys.stderr)
    # Jobs of one thread each do more than one job of several.
    jobs = args.jobs or max(1, cores() // (args.threads or 1))
    student = Student.load(args.model, args.threads or (1 if jobs > 1 else None))
    shown = sys.stderr.isatty() and (args.out is not None or not sys.stdout.isatty())
    start, audio_s, done, calls = time.perf_counter(), 0.0, 0, 0

    decoder = decoders(Decoding.of(args), student)
    limit = _limit(args, decoder())
    words, odd = list[Word](), list[tuple[str, list[Word]]]()

    def hear(job: _Job) -> tuple[Transcript | AudioError, list[Note]]:
        windows, notes = jobs if len(todo) == 1 else 1, list[Note]()
        if is_url(job.clip.path):
            return AudioError(str(url_error(job.clip.path))), notes
        try:
            with kept(job.clip.path) as path:
                options = TranscribeOptions(args.channels, args.voice, windows, decoder(), notes.append)
                found = student.transcribe(path, called(job.clip.path), options)
        except AudioError as error:
            return error, notes
        return found, notes

    all_heard = in_order(hear, todo, jobs if len(todo) > 1 else 1)
    for number, (job, (heard, notes)) in enumerate(zip(todo, all_heard, strict=True), start=1):
        name = called(job.clip.path)
        calls += any(note.kind == TWO_VOICES for note in notes)
        for note in (note for note in notes if note.kind != TWO_VOICES):  # those are counted in the end
            print(f"lalia: {one_line(name)}: {note.text}", file=sys.stderr)
        if isinstance(heard, AudioError):
            print(f"lalia: {one_line(str(heard))}", file=sys.stderr)
            continue
        done += 1
        audio_s += heard.duration_s
        words += heard.words
        if doubtful(heard.words, limit):
            odd.append((one_line(name), heard.words))
        for format, path in job.files.items():
            _write(path, render(heard, format, readable(name)))
        if not job.files:
            text = render(heard, formats[0], readable(name))
            named = f"{one_line(name)}\t" if several and formats == ("txt",) else ""
            _write(None, "".join(named + line for line in text.splitlines(keepends=True)))
        if shown:
            speed = audio_s / (time.perf_counter() - start)
            print(
                f"\r{number} of {plural(len(todo), 'clip')}, {speed:.0f} × real time ",
                end="",
                file=sys.stderr,
                flush=True,
            )
    elapsed_s = time.perf_counter() - start
    if shown:
        print(file=sys.stderr)
    if odd or doubtful(words, limit):
        _tell_doubts(words, odd, done, student.languages)
    if calls:
        which = f"in {calls} of {plural(len(todo), 'clip')}" if several else one_line(called(todo[0].clip.path))
        print(f"lalia: {which}: different voices on two channels; --channels each keeps them apart", file=sys.stderr)
    if several and todo:
        speed = audio_s / max(elapsed_s, 1e-9)
        bad = f"; {len(todo) - done} of {plural(len(todo), 'clip')} could not be read" if done < len(todo) else ""
        print(f"lalia: {clock(audio_s)} of audio in {elapsed_s:.1f} s ({speed:.0f} × real time){bad}", file=sys.stderr)
    return 0 if done == len(todo) else 1 if done or len(todo) < len(clips) else 2


def _tell_doubts(
    words: Sequence[Word], odd: Sequence[tuple[str, list[Word]]], clips: int, languages: Sequence[str]
) -> None:
    """Say once that all ``words`` of so many ``clips``, or those of the clips that are ``odd``, are of a low confidence."""
    told, names = list(words), f"{clips} clips together"
    if odd:
        told = [word for _, spoken in odd for word in spoken]
        names = ", ".join(name for name, _ in odd[:3]) + (", …" if len(odd) > 3 else "")
        names = f"{len(odd)} of {clips} clips ({names})" if clips > 1 else names
    print(f"lalia: {names}: {doubt(told, languages)}", file=sys.stderr)


def _limit(args: argparse.Namespace, decoder: Decoder | None) -> float:
    """Below which mean confidence a transcript is doubtful; 0 where confidence is of a kind that was not measured."""
    if decoder is None:
        return GREEDY
    return CALIBRATED if decoder.weights is not None and not args.only else 0.0


def _plan(args: argparse.Namespace, clips: Sequence[Clip], several: bool) -> tuple[tuple[str, ...], list[_Job]]:
    """The formats to write, and for every clip where to; a ``UserError`` where they cannot all be had."""
    out, formats = args.out, args.format or ("txt",)
    if out is None:
        if args.skip_existing:
            raise UserError("--skip-existing looks for the files of --out; say --out FOLDER")
        if len(formats) > 1:
            raise UserError(f"{' and '.join(formats)} cannot share stdout; say --out FOLDER")
        if several and formats[0] in ("srt", "vtt"):
            raise UserError(f"{len(clips)} clips cannot share one {formats[0]} file; say --out FOLDER")
        return formats, [_Job(clip, {}) for clip in clips]
    named = out.suffix[1:].lower()
    if named in FORMATS and not out.is_dir():
        if len(clips) > 1:
            raise UserError(
                f"--out {out}: {len(clips)} clips cannot share one file; name a folder: --out {out.with_suffix('')} "
                f"--format {','.join(args.format or (named,))}"
            )
        if args.format not in (None, (named,)):
            raise UserError(
                f"--out {out}: is named as {named}, --format says {','.join(args.format)}; leave --format out, or name a folder"
            )
        return (named,), [_Job(clips[0], {named: out})]
    if out.is_file():
        raise UserError(
            f"--out {out}: is a file, and stays as it is; expected a folder, or for one clip a name that ends in "
            f"{', '.join('.' + format for format in FORMATS)}"
        )
    paths = [output_paths(clips, out, format) for format in formats]
    return formats, [
        _Job(clip, dict(zip(formats, files, strict=True))) for clip, *files in zip(clips, *paths, strict=True)
    ]


def _write(path: Path | None, text: str) -> None:
    try:
        if path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_text(path, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{path or 'stdout'}: cannot be written ({error.strerror}); what was written before is kept"
        ) from error
