"""``lalia tag``: labels of audio files by a tagger, as a whole, as a time line, or live from a microphone."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lalia.audio.reading import Resampler
from lalia.cards import cores
from lalia.cli.listen import until_interrupted
from lalia.cli.options import Clip, called, find_clips, kept
from lalia.cli.parser import Parser, positive
from lalia.errors import AudioError, UserError
from lalia.files import one_line, readable
from lalia.inputs import is_url, url_error
from lalia.runtime.microphone import Microphone, file_blocks
from lalia.tags.spotter import THRESHOLD, Detection, Spotter
from lalia.tags.tagger import Tagger, Tags, TagSpan
from lalia.threads import in_order
from lalia.units import SAMPLE_RATE, clock, plural

ABOUT = """\
Name the label of audio files with a tagger: its language, speaker, emotion or command, whatever the tagger was trained for.

  lalia tag my-tagger talk.mp3                     name, label, probability
  lalia tag my-tagger calls/ --format csv          a folder, as a table
  lalia tag my-tagger meeting.flac --every 10      a time line in steps of 10 s
  lalia tag my-tagger talk.mp3 --format json       every label with its probability
  lalia tag my-tagger --live                       commands from the microphone, as they are spoken; Ctrl-C stops it
  lalia tag my-tagger --live --from talk.wav       commands in a file

Silence of a second and more is left out. A file in which all is silence has no label. Exit status: 0 all files, 1 some, 2 none.
"""
FORMATS = ("text", "json", "csv")
_TOP = 5
SHORT = 0.5
"""A line warns of clips shorter than this share of the tagger's training clips."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a tagger folder, or the run it is in")
    parser.add_argument("audio", metavar="AUDIO", nargs="*", help="audio files, folders of them, - for a pipe")
    parser.add_argument("--every", type=float, default=0.0, metavar="S", help="a time line in steps of so many seconds")
    parser.add_argument("--format", choices=FORMATS, default="text", help="what to write (text)")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="files at a time, one thread each (default: all cores)"
    )
    parser.add_argument("--live", action="store_true", help="commands in a stream: a line for each, as it is spoken")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        type=Path,
        help="live: a file instead of the microphone, as fast as possible",
    )
    parser.add_argument("--device", metavar="NAME", help="live: which microphone (lalia listen --devices)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="P",
        help=f"live: least probability of a command ({THRESHOLD:g})",
    )


def main(args: argparse.Namespace) -> int:
    """``lalia tag``."""
    if args.live:
        return _live(args)
    if not args.audio:
        raise UserError("tag: expected audio files, or --live; see: lalia tag --help")
    if args.every and not 0.5 <= args.every <= 3600:
        raise UserError(f"--every {args.every:g}: expected seconds from 0.5 to 3600")
    clips = find_clips(args.audio, lambda line: print(f"lalia: {one_line(line)}", file=sys.stderr))
    jobs = args.jobs or cores()
    tagger = Tagger.load(args.model, 1 if jobs > 1 and len(clips) > 1 else None)
    start, audio_s, done = time.perf_counter(), 0.0, 0
    write = _writer(args.format, args.every > 0)

    def tag(clip: Clip) -> Tags | AudioError:
        if is_url(clip.path):
            return AudioError(str(url_error(clip.path)))
        try:
            with kept(clip.path) as path:
                return tagger.tag(path, called(clip.path), args.every)
        except AudioError as error:
            return error

    for clip, found in zip(clips, in_order(tag, clips, jobs if len(clips) > 1 else 1), strict=True):
        if isinstance(found, AudioError):
            print(f"lalia: {one_line(str(found))}", file=sys.stderr)
            continue
        name = one_line(readable(called(clip.path)))
        if not found.whole.label:
            print(f"lalia: {name}: holds only silence, so it has no label", file=sys.stderr)
        elif found.sound_s < SHORT * tagger.clip_s:
            print(
                f"lalia: {name}: {found.sound_s:.1f} s of sound is short; the tagger learned from clips of about "
                f"{tagger.clip_s:.1f} s",
                file=sys.stderr,
            )
        write(name, tagger, found)
        done += 1
        audio_s += found.whole.end_s
    if len(clips) > 1:
        elapsed_s = max(time.perf_counter() - start, 1e-9)
        bad = f"; {len(clips) - done} of {plural(len(clips), 'file')} could not be read" if done < len(clips) else ""
        print(
            f"lalia: {clock(audio_s)} of audio in {elapsed_s:.1f} s ({audio_s / elapsed_s:.0f} × real time){bad}",
            file=sys.stderr,
        )
    return 0 if done == len(clips) else 1 if done else 2


def _writer(format: str, time_line: bool) -> Callable[[str, Tagger, Tags], None]:
    """A function that writes what a tagger says of a file to stdout."""

    def spans(found: Tags) -> list[TagSpan]:
        return found.spans if time_line else [found.whole]

    def text(name: str, tagger: Tagger, found: Tags) -> None:
        for span in spans(found):
            times = [clock(span.start_s), clock(span.end_s)] if time_line else []
            print("\t".join([name, *times, span.label or "-", f"{span.probability:.2f}"]))

    def objects(name: str, tagger: Tagger, found: Tags) -> None:
        print(json.dumps(_as_dict(name, tagger, found, time_line), ensure_ascii=False))

    def rows(name: str, tagger: Tagger, found: Tags) -> None:
        table.writerows([name, s.start_s, s.end_s, s.label, f"{s.probability:.4f}"] for s in spans(found))

    table = csv.writer(sys.stdout, lineterminator="\n")
    if format == "csv":
        table.writerow(["file", "start_s", "end_s", "label", "probability"])
    return {"text": text, "json": objects, "csv": rows}[format]


def _as_dict(name: str, tagger: Tagger, found: Tags, time_line: bool) -> dict[str, Any]:
    def span(of: TagSpan, most: int | None = None) -> dict[str, Any]:
        return {
            "start_s": of.start_s, "end_s": of.end_s, "label": of.label, "probability": round(of.probability, 4),
            "labels": {label: round(probability, 4) for label, probability in of.labels[:most]},
        }  # fmt: skip

    whole = {"file": name, "task": tagger.task, **span(found.whole), "sound_s": found.sound_s}
    return {**whole, "time_line": [span(part, _TOP) for part in found.spans]} if time_line else whole


def _live(args: argparse.Namespace) -> int:
    """Commands from the microphone or ``--from``, a line each."""
    if args.audio or args.every:
        raise UserError("--live: takes no files and no --every; give a file with --from")
    if args.source and is_url(args.source):
        raise url_error(args.source)
    tagger = Tagger.load(args.model, 1)
    spotter = Spotter(tagger, args.threshold)
    with ExitStack() as opened:
        stopped = opened.enter_context(until_interrupted())
        if args.source is None:
            microphone = opened.enter_context(Microphone(args.device))
            print(f"lalia: listening to {microphone.name}; Ctrl-C ends it", file=sys.stderr, flush=True)
            blocks, rate = microphone.blocks(stopped), microphone.rate
        else:
            blocks, rate = file_blocks(opened.enter_context(kept(args.source)), True, stopped), SAMPLE_RATE
        resampled = Resampler(rate)
        count, start = 0, time.perf_counter()
        if args.format == "csv":
            print("at_s,label,probability")
        for samples, _ in blocks:
            for found in spotter.feed(resampled(samples.astype(np.float32, copy=False))):
                print(_line(found, args.format), flush=True)
                count += 1
    length_s = spotter.samples / SAMPLE_RATE
    rtf = f", RTF {(time.perf_counter() - start) / max(length_s, 1e-9):.3f}" if args.source else ""
    print(f"lalia: {plural(count, 'command')} in {clock(length_s)}{rtf}", file=sys.stderr)
    return 0


def _line(found: Detection, format: str) -> str:
    if format == "json":
        return json.dumps(vars(found), ensure_ascii=False)
    if format == "csv":
        return f"{found.at_s},{found.label},{found.probability:.4f}"
    return f"{found.at_s:.1f}\t{found.label}\t{found.probability:.2f}"
