"""``lalia separate``: split recordings of two voices on one channel into one file for each voice."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lalia.audio.encoding import WavWriter
from lalia.audio.reading import TWO_VOICES, Note, read_blocks
from lalia.cli.options import called, find_clips, kept
from lalia.cli.parser import Parser, positive
from lalia.errors import AudioError, UserError
from lalia.files import one_line
from lalia.inputs import is_url, url_error
from lalia.runtime.separation import ONE_VOICE_DB, Loudness, VoiceSeparator
from lalia.units import clock, to_seconds

ABOUT = """\
Split recordings in which two people speak at the same time into one file for each voice.

  lalia separate my-separator talk.wav --out voices/        voices/talk-1.wav and voices/talk-2.wav, 16 kHz
  lalia separate my-separator talks/ --out voices/          every file of a folder

The separator is made by lalia finetune separate; docs/hearing.md says how well one works. Which voice is 1 and which is 2 is
arbitrary, but the same from the beginning of a file to its end. A clip that cannot be read is named on stderr, and the others
are separated. Exit status: 0 all clips, 1 some, 2 none.
"""


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
    stems: dict[Path, Path] = {}
    for clip in clips:
        stem = args.out / clip.name.with_suffix("")
        if stem in stems:
            raise UserError(f"{clip.path} and {stems[stem]} would both be written to {stem}-1.wav; rename one")
        stems[stem] = clip.path
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: is a file; expected a folder for the separated files")
    done = 0
    for stem, source in stems.items():
        name = called(source)

        def say(text: str, name: str = name) -> None:
            print(f"lalia: {one_line(name)}: {text}", file=sys.stderr)

        try:
            if is_url(source):
                raise AudioError(str(url_error(source)))
            with kept(source) as path:
                _separate(separator, path, name, stem, say)
        except AudioError as error:
            print(f"lalia: {one_line(str(error))}", file=sys.stderr)
            continue
        done += 1
    return 0 if done == len(stems) else 1 if done else 2


def _separate(separator: VoiceSeparator, path: Path, name: str, stem: Path, say: Callable[[str], None]) -> None:
    """Write ``stem``-1.wav and ``stem``-2.wav, and say what was found."""

    def note(found: Note) -> None:
        more = (
            "; if each channel holds one voice, lalia transcribe --channels each keeps them apart without a separator"
        )
        say(found.text + more * (found.kind == TWO_VOICES))

    start, loudness = time.perf_counter(), Loudness()
    source = path.read_bytes() if name == "stdin" else path
    targets = [stem.with_name(f"{stem.name}-{number}.wav") for number in (1, 2)]
    with WavWriter(targets[0]) as first, WavWriter(targets[1]) as second:
        for voices_2S in separator.separate(read_blocks(source, name, tell=note)):
            loudness.add(voices_2S)
            first.write(voices_2S[0])
            second.write(voices_2S[1])
        if not loudness.samples:
            raise AudioError(f"{name}: holds no sound (0 samples); remove it or record it again")
    duration_s, elapsed_s = to_seconds(loudness.samples), time.perf_counter() - start
    difference = loudness.difference_db
    if loudness.silent:
        say("holds only silence, and so do the two files")
    elif abs(difference) > ONE_VOICE_DB:
        louder, fainter = (1, 2) if difference > 0 else (2, 1)
        say(f"voice {fainter} is {abs(difference):.0f} dB below voice {louder}: perhaps there is only one voice")
    print(f"{targets[0]}\t{targets[1]}")
    say(f"{clock(duration_s)} of audio in {elapsed_s:.1f} s ({duration_s / max(elapsed_s, 1e-9):.0f} × real time)")
