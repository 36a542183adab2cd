"""``lalia transcribe``: audio files to text, on the terminal and in files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lalia.audio.channels import EACH
from lalia.audio.reading import TWO_VOICES, Note
from lalia.cards import cores
from lalia.cli.options import (
    Clip,
    Decoding,
    add_decoding,
    add_written_language,
    called,
    channel_choice,
    find_clips,
    kept,
    load_student,
    output_paths,
)
from lalia.cli.parser import Parser, positive
from lalia.decoding.greedy import Word
from lalia.errors import AudioError, UserError, one_of
from lalia.files import one_line, readable
from lalia.inputs import is_url, url_error
from lalia.model_folder import CALIBRATED, GREEDY, low_confidence, low_confidence_warning
from lalia.runtime.student import Student, TranscribeOptions
from lalia.runtime.transcript import FORMATS, Transcript, render
from lalia.speakers.diarizer import Diarizer
from lalia.tags.language_routing import StudentsByLanguage
from lalia.threads import in_order
from lalia.units import clock, plural

ABOUT = """\
Transcribe audio files of any format, rate and length.

  lalia transcribe my-student talk.mp3                          one clip: its text
  lalia transcribe my-student a.wav b.flac                      several: name, tab, text
  lalia transcribe my-student talk.m4a --out talk.srt           subtitles: the suffix gives the format
  lalia transcribe my-student talks/ --format json              a folder: one JSON object per line, words with times
  lalia transcribe my-student talks/ --format srt,txt --out subs/    files for each clip; with --skip-existing: only new ones
  ffmpeg -i talk.mkv -f wav - | lalia transcribe my-student -   audio from a pipe
  lalia transcribe my-student call.wav --channels each          a telephone call: turns of the two speakers
  lalia transcribe my-student talk.mp3 --diarizer my-diarizer   who says what: turns of speakers A, B, … (lalia diarize --help)
  lalia transcribe my-student talk.mp3 --lm my-lm --hot names.txt    a language model, and names to boost
  lalia transcribe my-student clips/ --only commands.txt        only these phrases, or nothing
  lalia transcribe students/ talk.mp3 --language auto           several languages: each part by the student of its language
  lalia transcribe my-student meeting.flac --jobs 1             one window at a time instead of one per core

A clip that cannot be read is named on stderr, and the others are transcribed. Exit status: 0 all clips, 1 some, 2 none.
Silence gives the empty text. M4A, WebM and G.722 need PyAV (pip install av).
"""


AUTO = "auto"


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
        "--out",
        type=Path,
        metavar="PLACE",
        help="write files instead of stdout: a folder, or for one clip also talk.srt",
    )
    parser.add_argument("--skip-existing", action="store_true", help="skip clips whose files are already in --out")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="clips or windows at a time, one thread each (default: all cores)"
    )
    parser.add_argument(
        "--channels",
        type=channel_choice,
        metavar="mix|each|N",
        help="of stereo files: their mix, each separately (turns of a telephone call), or one, from 1 (default: mix)",
    )
    parser.add_argument(
        "--diarizer", type=Path, metavar="FOLDER", help="name the speaker of each word: A, B, … (lalia diarize --help)"
    )
    parser.add_argument("--speakers", type=positive, metavar="N", help="the number of speakers, with --diarizer")
    parser.add_argument("--voice", action="store_true", help="transcribe speech only, by voice activity detection")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    add_written_language(parser, "; auto: MODEL is a folder of students, each for the parts in its language")
    parser.add_argument(
        "--tagger",
        type=Path,
        metavar="MODEL",
        help="with --language auto: a tagger of languages (default: by confidence)",
    )
    add_decoding(parser)


def _formats(text: str) -> tuple[str, ...]:
    """Formats from ``srt,json``, for ``type=``."""
    found = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    if wrong := [word for word in found if word not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{one_of(FORMATS, wrong[0])}, or several as srt,json")
    return found


@dataclass(frozen=True)
class _Job:
    """A clip and its output files by format; none = stdout."""

    clip: Clip
    files: dict[str, Path]


def main(args: argparse.Namespace) -> int:
    """``lalia transcribe``."""
    if args.tagger and args.language != AUTO:
        raise UserError("--tagger: needs --language auto, and a folder of students")
    clips = find_clips(args.audio, lambda line: print(f"lalia: {one_line(line)}", file=sys.stderr))
    several = len(clips) > 1 or Path(args.audio[0]).is_dir()
    formats, todo = _plan(args, clips, several)
    if args.skip_existing:
        todo = [job for job in todo if not all(path.exists() for path in job.files.values())]
        if there := len(clips) - len(todo):
            print(f"lalia: {there} of {plural(len(clips), 'clip')} already in {args.out}", file=sys.stderr)
    # Several jobs of one thread each are faster than one job of several threads.
    jobs = args.jobs or max(1, cores() // (args.threads or 1))
    threads = args.threads or (1 if jobs > 1 else None)
    if args.speakers and (args.diarizer is None or args.channels == EACH):
        needed = "needs --diarizer FOLDER" if args.diarizer is None else "does not go with --channels each"
        raise UserError(f"--speakers {args.speakers}: {needed}")
    student = (
        _students(args, threads)
        if args.language == AUTO
        else load_student(args.model, threads, args.language, Decoding.of(args))
    )
    diarizer = Diarizer.load(args.diarizer) if args.diarizer else None
    shown = sys.stderr.isatty() and (args.out is not None or not sys.stdout.isatty())
    start, audio_s, done, calls = time.perf_counter(), 0.0, 0, 0
    limit = _limit(args, student)
    words, unsure = list[Word](), list[tuple[str, list[Word]]]()

    def transcribe(job: _Job) -> tuple[Transcript | AudioError, list[Note]]:
        windows, notes = jobs if len(todo) == 1 else 1, list[Note]()
        if is_url(job.clip.path):
            return AudioError(str(url_error(job.clip.path))), notes
        try:
            with kept(job.clip.path) as path:
                options = TranscribeOptions(
                    args.channels, args.voice, windows, on_note=notes.append, diarizer=diarizer, speakers=args.speakers
                )
                found = student.transcribe(path, called(job.clip.path), options)
        except AudioError as error:
            return error, notes
        return found, notes

    results = in_order(transcribe, todo, jobs if len(todo) > 1 else 1)
    for number, (job, (found, notes)) in enumerate(zip(todo, results, strict=True), start=1):
        name = called(job.clip.path)
        calls += any(note.kind == TWO_VOICES for note in notes)
        for note in (note for note in notes if note.kind != TWO_VOICES):  # those are counted at the end
            print(f"lalia: {one_line(name)}: {note.text}", file=sys.stderr)
        if isinstance(found, AudioError):
            print(f"lalia: {one_line(str(found))}", file=sys.stderr)
            continue
        done += 1
        audio_s += found.duration_s
        words += found.words
        if low_confidence(found.words, limit):
            unsure.append((one_line(name), found.words))
        for path in job.files.values():
            found.save(path, readable(name))
        if not job.files:
            text = render(found, formats[0], readable(name))
            named = f"{one_line(name)}\t" if several and formats == ("txt",) else ""
            _print("".join(named + line for line in text.splitlines(keepends=True)))
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
    if unsure or low_confidence(words, limit):
        _warn(words, unsure, done, student.languages)
    if calls:
        which = f"in {calls} of {plural(len(todo), 'clip')}" if several else one_line(called(todo[0].clip.path))
        print(f"lalia: {which}: different voices on two channels; --channels each keeps them apart", file=sys.stderr)
    if several and todo:
        speed = audio_s / max(elapsed_s, 1e-9)
        bad = f"; {len(todo) - done} of {plural(len(todo), 'clip')} could not be read" if done < len(todo) else ""
        print(f"lalia: {clock(audio_s)} of audio in {elapsed_s:.1f} s ({speed:.0f} × real time){bad}", file=sys.stderr)
    return 0 if done == len(todo) else 1 if done or len(todo) < len(clips) else 2


def _students(args: argparse.Namespace, threads: int | None) -> StudentsByLanguage:
    """The students that ``--language auto`` chooses from; ``UserError`` for options that belong to one student."""
    if given := Decoding.of(args).as_dict():
        raise UserError(
            f"--{next(iter(given))}: belongs to one language, and --language auto writes several; leave one out"
        )
    return StudentsByLanguage.load(args.model, args.tagger, threads)


def _warn(
    words: Sequence[Word], unsure: Sequence[tuple[str, list[Word]]], clips: int, languages: Sequence[str]
) -> None:
    """Print one warning about the low confidence of the ``unsure`` clips, or of all ``words`` of the ``clips`` together."""
    affected, names = list(words), f"{clips} clips together"
    if unsure:
        affected = [word for _, found in unsure for word in found]
        names = ", ".join(name for name, _ in unsure[:3]) + (", …" if len(unsure) > 3 else "")
        names = f"{len(unsure)} of {plural(clips, 'clip')} ({names})" if clips > 1 else names
    print(f"lalia: {names}: {low_confidence_warning(affected, languages)}", file=sys.stderr)


def _limit(args: argparse.Namespace, student: Student | StudentsByLanguage) -> float:
    """The mean confidence below which a warning is printed; 0 for uncalibrated beam search, where no limit is known."""
    if isinstance(student, StudentsByLanguage):
        return GREEDY
    with student.lend_decoder() as decoder:
        if decoder is None:
            return GREEDY
        return CALIBRATED if decoder.weights is not None and not args.only else 0.0


def _plan(args: argparse.Namespace, clips: Sequence[Clip], several: bool) -> tuple[tuple[str, ...], list[_Job]]:
    """The formats, and the output files of each clip; ``UserError`` if the options contradict each other."""
    out, formats = args.out, args.format or ("txt",)
    if out is None:
        if args.skip_existing:
            raise UserError("--skip-existing looks for files in --out; give --out FOLDER")
        if len(formats) > 1:
            raise UserError(f"{' and '.join(formats)} cannot share stdout; give --out FOLDER")
        if several and formats[0] in ("srt", "vtt"):
            raise UserError(f"{len(clips)} clips cannot share one {formats[0]} file; give --out FOLDER")
        return formats, [_Job(clip, {}) for clip in clips]
    named = out.suffix[1:].lower()
    if named in FORMATS and not out.is_dir():
        if len(clips) > 1:
            raise UserError(
                f"--out {out}: {len(clips)} clips cannot share one file; give a folder: --out {out.with_suffix('')} "
                f"--format {','.join(args.format or (named,))}"
            )
        if args.format not in (None, (named,)):
            raise UserError(
                f"--out {out}: is a {named} file, --format is {','.join(args.format)}; leave out --format, or give a folder"
            )
        return (named,), [_Job(clips[0], {named: out})]
    if out.is_file():
        raise UserError(
            f"--out {out}: is a file and is not overwritten; expected a folder, or for one clip a name that ends in "
            f"{', '.join('.' + format for format in FORMATS)}"
        )
    paths = [output_paths(clips, out, format) for format in formats]
    return formats, [
        _Job(clip, dict(zip(formats, files, strict=True))) for clip, *files in zip(clips, *paths, strict=True)
    ]


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"stdout: cannot be written ({error.strerror}); what was written before is kept") from error
