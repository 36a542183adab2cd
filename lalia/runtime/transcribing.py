"""The verb ``transcribe`` of the program ``lalia``: audio files to text, on the terminal and in files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lalia.arguments import positive
from lalia.audio.reading import AudioError, Note
from lalia.cards import write_text
from lalia.exits import UserError
from lalia.machine import cores
from lalia.runtime.arguments import add_decoding, decoders
from lalia.runtime.clips import Clip, find_clips, output_paths
from lalia.runtime.student import Student
from lalia.runtime.subtitles import FORMATS, render
from lalia.runtime.transcript import Transcript
from lalia.runtime.workers import in_order
from lalia.units import clock

ABOUT = """\
Write down what is said in audio files of any format, rate and length.

  lalia transcribe my-student talk.mp3                          one clip: its text
  lalia transcribe my-student a.wav b.flac                      several: name, tab, text
  lalia transcribe my-student talk.m4a --format srt > talk.srt  subtitles
  lalia transcribe my-student talks/ --format json              a folder: one JSON object per line, words with times
  lalia transcribe my-student talks/ --format vtt --out subs/   one file per clip
  lalia transcribe my-student meeting.flac --jobs 1             one window at a time and not one per core
  lalia transcribe my-student talk.mp3 --lm my-lm --hot names.txt    a language model, and names to listen for
  lalia transcribe my-student clips/ --only commands.txt        only these phrases, or nothing

A clip that cannot be read is named on stderr, skipped and counted; the exit status is 2 only when none could be read.
Silence gives the empty text. M4A, WebM and G.722 need PyAV (pip install av).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``lalia transcribe`` takes."""
    parser.description = ABOUT
    parser.set_defaults(call=transcribe)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a student folder, or the run it is in")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, and folders of them")
    parser.add_argument("--format", choices=FORMATS, default="txt", help="what to write (default: txt)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write one file per clip here, not to stdout")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="how much at a time, one thread each (default: all cores)"
    )
    parser.add_argument("--voice", action="store_true", help="hear only where there is speech (needs silero-vad)")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    add_decoding(parser)


def transcribe(args: argparse.Namespace) -> int:
    """``lalia transcribe``."""
    clips = find_clips(args.audio)
    several = len(clips) > 1 or Path(args.audio[0]).is_dir()
    if several and args.format in ("srt", "vtt") and args.out is None:
        raise UserError(f"{len(clips)} clips cannot share one {args.format} file; say --out FOLDER")
    paths = output_paths(clips, args.out, args.format) if args.out else [None] * len(clips)
    # Jobs of one thread each do more than one job of several.
    jobs = args.jobs or max(1, cores() // (args.threads or 1))
    student = Student.load(args.model, args.threads or (1 if jobs > 1 else None))
    shown = sys.stderr.isatty() and (args.out is not None or not sys.stdout.isatty())
    start, audio_s, done = time.perf_counter(), 0.0, 0

    decoder = decoders(args, student)

    def hear(clip: Clip) -> tuple[Transcript | AudioError, list[Note]]:
        windows, notes = jobs if len(clips) == 1 else 1, list[Note]()
        try:
            found = student.transcribe(clip.path, voice=args.voice, jobs=windows, decoder=decoder(), tell=notes.append)
        except AudioError as error:
            return error, notes
        return found, notes

    all_heard = in_order(hear, clips, jobs if len(clips) > 1 else 1)
    for number, (clip, path, (heard, notes)) in enumerate(zip(clips, paths, all_heard, strict=True), start=1):
        for note in notes:
            print(f"lalia: {clip.path}: {note.text}", file=sys.stderr)
        if isinstance(heard, AudioError):
            print(f"lalia: {heard}", file=sys.stderr)
            continue
        done += 1
        audio_s += heard.duration_s
        text = render(heard, args.format, str(clip.path))
        _write(path, f"{clip.path}\t{text}" if several and args.format == "txt" and not path else text)
        if shown:
            speed = audio_s / (time.perf_counter() - start)
            print(f"\r{number} of {len(clips)} clips, {speed:.0f} × real time ", end="", file=sys.stderr, flush=True)
    elapsed_s = time.perf_counter() - start
    if shown:
        print(file=sys.stderr)
    if several:
        speed = audio_s / max(elapsed_s, 1e-9)
        bad = f"; {len(clips) - done} of {len(clips)} clips could not be read" if done < len(clips) else ""
        print(f"lalia: {clock(audio_s)} of audio in {elapsed_s:.1f} s ({speed:.0f} × real time){bad}", file=sys.stderr)
    return 0 if done else 2


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
