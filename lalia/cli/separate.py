"""``lalia separate``: split recordings of two voices on one channel into one file for each voice."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lalia.audio.encoding import WavWriter
from lalia.audio.reading import TWO_VOICES, Note, read_blocks
from lalia.cli.options import called, find_clips, kept, output_paths
from lalia.cli.parser import Parser, positive
from lalia.errors import AudioError, UserError
from lalia.files import one_line
from lalia.inputs import is_url, url_error
from lalia.runtime.separation import VoiceSeparator
from lalia.units import clock, to_seconds

ABOUT = """\
Split recordings in which two people speak at the same time into one file for each voice.

  lalia separate my-separator talk.wav --out voices/        voices/talk-1.wav and voices/talk-2.wav, 16 kHz
  lalia separate my-separator talks/ --out voices/          every file of a folder

The separator is made by lalia finetune separate; docs/hearing.md says how well one works. Which voice is 1 and which is 2 is
arbitrary, but the same from the beginning of a file to its end. There are always two files: voices are not counted (lalia diarize
counts them), so a recording of one voice is split as well. A clip that cannot be read is named on stderr, and the others are
separated. Exit status: 0 all clips, 1 some, 2 none.
"""
SILENT = 1e-4
"""A recording whose samples are all below this is reported as silent."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a separator's folder, or the run it is in")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, folders of them, - for a pipe")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="the folder of the separated files")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="processor threads (default: 1)")


def main(args: argparse.Namespace) -> int:
    """``lalia separate``."""
    separator = VoiceSeparator.load(args.model, args.threads)
    clips = find_clips(args.audio, lambda line: print(f"lalia: {one_line(line)}", file=sys.stderr))
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: is a file; expected a folder for the separated files")
    sources = {clip.path.resolve() for clip in clips}
    targets = [_targets(path) for path in output_paths(clips, args.out, "wav")]
    if lost := [path for pair in targets for path in pair if path.resolve() in sources]:
        raise UserError(f"{lost[0]}: is one of the recordings and would be overwritten; choose another --out")
    done = 0
    for clip, pair in zip(clips, targets, strict=True):
        name = called(clip.path)

        def say(text: str, name: str = name) -> None:
            print(f"lalia: {one_line(name)}: {text}", file=sys.stderr)

        try:
            if is_url(clip.path):
                raise AudioError(str(url_error(clip.path)))
            with kept(clip.path) as path:
                _separate(separator, path, name, pair, say)
        except AudioError as error:
            print(f"lalia: {one_line(str(error))}", file=sys.stderr)
            continue
        done += 1
    return 0 if done == len(clips) else 1 if done else 2


def _targets(path: Path) -> tuple[Path, Path]:
    """The files of the two voices: ``talk-1.wav`` and ``talk-2.wav`` for ``talk.wav``."""
    return path.with_name(f"{path.stem}-1.wav"), path.with_name(f"{path.stem}-2.wav")


def _separate(
    separator: VoiceSeparator, path: Path, name: str, targets: tuple[Path, Path], say: Callable[[str], None]
) -> None:
    """Write the voices of ``path`` to ``targets``; ``say`` gets a line about what was found."""

    def note(found: Note) -> None:
        more = (
            "; if each channel holds one voice, lalia transcribe --channels each keeps them apart without a separator"
        )
        say(found.text + more * (found.kind == TWO_VOICES))

    start, samples, loudest = time.perf_counter(), 0, 0.0
    with WavWriter(targets[0]) as first, WavWriter(targets[1]) as second:
        for voices_2S in separator.separate(read_blocks(path, name, tell=note)):
            samples += voices_2S.shape[1]
            loudest = max(loudest, float(abs(voices_2S).max(initial=0.0)))
            first.write(voices_2S[0])
            second.write(voices_2S[1])
        if not samples:
            raise AudioError(f"{name}: holds no sound (0 samples); remove it or record it again")
    duration_s, elapsed_s = to_seconds(samples), time.perf_counter() - start
    if loudest < SILENT:
        say("holds only silence, and so do the two files")
    print(f"{targets[0]}\t{targets[1]}")
    say(f"{clock(duration_s)} of audio in {elapsed_s:.1f} s ({duration_s / max(elapsed_s, 1e-9):.0f} × real time)")
