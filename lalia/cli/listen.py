"""``lalia listen``: live transcription of a microphone or a file with a streaming student."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from lalia.audio.channels import EACH
from lalia.cli.options import Decoding, add_decoding, add_written_language, called, channel_choice, kept, load_student
from lalia.cli.parser import Parser, positive
from lalia.decoding.greedy import PAUSE_S, Word, text_of_words
from lalia.errors import UserError
from lalia.inputs import is_url, url_error
from lalia.runtime.microphone import Block, Microphone, devices, file_blocks
from lalia.runtime.streaming import Stream, StreamUpdate, as_dict
from lalia.runtime.transcript import FORMATS, render
from lalia.units import SAMPLE_RATE, Seconds

ABOUT = """\
Transcribe the microphone live with a streaming student.

  lalia listen my-student                        words appear while you speak; faint ones may still change. Ctrl-C stops it
  lalia listen my-student --save talk.srt        also save the text: .txt, .json, .srt or .vtt
  lalia listen my-student --format json          one JSON object per change, for programs
  lalia listen my-student --from talk.flac       a file instead of the microphone, in real time (--fast: as fast as possible)
  lalia listen --devices                         list the microphones; choose one with --device 3 or a part of its name

The microphone needs the extra [listen] and PortAudio. Only students trained for streaming work: see
configs/distill/streaming-nano.yaml. A live stream has one channel, and speakers are known only at the end of a recording: for
--channels each and --diarizer, record it and run lalia transcribe.
"""
SENTENCE_S: Seconds = 1.0
"""A pause of this length starts a new line."""
_FAINT, _PLAIN, _CLEAR = "\033[2m", "\033[0m", "\r\033[K"


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="the folder of a streaming student")
    parser.add_argument("--format", choices=FORMATS, default="txt", help="what to write to stdout (default: txt)")
    parser.add_argument(
        "--save", metavar="FILE", type=Path, help="write the transcript to FILE; its suffix sets the format"
    )
    parser.add_argument(
        "--from", dest="source", metavar="FILE", type=Path, help="a file instead of the microphone, - for a pipe"
    )
    parser.add_argument("--fast", action="store_true", help="read the file as fast as it can be transcribed")
    parser.add_argument("--device", metavar="NAME", help="which microphone: its number, or a part of its name")
    parser.add_argument("--devices", action="store_true", help="list the microphones and stop")
    pause = f"seconds without a letter that end a word (default: {PAUSE_S:g}; more for slow speakers)"
    parser.add_argument("--pause", type=float, default=PAUSE_S, metavar="S", help=pause)
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="processor threads (default: 1)")
    parser.add_argument(
        "--channels",
        type=channel_choice,
        metavar="mix|N",
        help="of several: their mix (a file) or the first (a microphone), or one, from 1 (default: mix)",
    )
    parser.add_argument(
        "--voice",
        action="store_true",
        help="transcribe speech only, by voice activity detection; words come 0.5 s later",
    )
    add_written_language(parser)
    add_decoding(parser)


def main(args: argparse.Namespace) -> int:
    """``lalia listen``: until Ctrl-C or the end of the file."""
    if args.devices:
        print("\n".join(devices()) or "no microphone found")
        return 0
    if args.model is None:
        raise UserError("listen: expected the folder of a streaming student; see: lalia listen --help")
    if args.fast and args.source is None:
        raise UserError("--fast: needs --from FILE; a microphone cannot be read faster")
    if args.channels == EACH:
        raise UserError(
            "--channels each: a live stream has one channel; take one, or use: lalia transcribe --channels each"
        )
    if not 0 < args.pause < 60:
        raise UserError(f"--pause {args.pause:g}: expected seconds, such as {PAUSE_S:g}")
    if args.save:
        _check_format(args.save)
    if args.source and is_url(args.source):
        raise url_error(args.source)
    student = load_student(args.model, args.threads, args.language, Decoding.of(args))
    with ExitStack() as opened:
        stopped = opened.enter_context(until_interrupted())
        if args.source is None:
            microphone = Microphone(args.device, args.channels)
            stream = student.stream(rate=microphone.rate, pause_s=args.pause, voice=args.voice)
            opened.enter_context(microphone)
            print(f"lalia: listening to {microphone.name}; Ctrl-C ends it", file=sys.stderr, flush=True)
            blocks = microphone.blocks(stopped)
        else:
            microphone = None
            stream = student.stream(rate=SAMPLE_RATE, pause_s=args.pause, voice=args.voice)
            blocks = file_blocks(opened.enter_context(kept(args.source)), args.fast, stopped, args.channels)
        show = _make_display(args.format)
        late_s, work_s = transcribe_live(stream, blocks, show)
    transcript = stream.transcript()
    name = called(args.source) if args.source else "microphone"
    if args.format in ("srt", "vtt"):
        sys.stdout.write(render(transcript, args.format, name))
    if args.save:
        transcript.save(args.save, name)
    print(f"lalia: {summary(stream, [] if args.fast else late_s, work_s)}", file=sys.stderr)
    if microphone is not None and microphone.lost:
        lost_s = microphone.lost / microphone.rate
        print(f"lalia: {lost_s:.1f} s of audio were lost: this machine is too slow for this student", file=sys.stderr)
    return 0


def transcribe_live(
    stream: Stream, blocks: Iterator[Block], show: Callable[[StreamUpdate, bool], None]
) -> tuple[list[Seconds], Seconds]:
    """Feed ``blocks`` to ``stream`` and pass each update to ``show``, the last with True.

    Returns the latency of each word (from its end until it was shown as stable; words that only the end of the stream made
    stable are left out), and the seconds of computation.
    """
    late_s: list[Seconds] = []
    work_s = 0.0
    for samples, began in blocks:
        start = time.monotonic()
        update = stream.feed(samples)
        show(update, False)
        now = time.monotonic()
        work_s += now - start
        late_s += [now - (began + word.end_s) for word in update.stable]
    start = time.monotonic()
    show(stream.finish(), True)
    return late_s, work_s + time.monotonic() - start


def summary(stream: Stream, late_s: list[Seconds], work_s: Seconds) -> str:
    """One line: duration, words, real-time factor, latency."""
    line = (
        f"{stream.heard_s:.1f} s transcribed, {len(stream.words)} words, RTF {work_s / max(stream.heard_s, 1e-9):.3f}"
    )
    if late_s:
        most = sorted(late_s)[min(len(late_s) - 1, round(0.9 * len(late_s)))]
        line += (
            f"; stable {statistics.median(late_s):.2f} s after the end of a word (median; 90th percentile {most:.2f} s)"
        )
    return line


class Terminal:
    """Stable words, then in faint those that may change, on the last line of a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line: list[Word] = []

    def __call__(self, update: StreamUpdate, last: bool) -> None:
        columns = shutil.get_terminal_size().columns - 1
        for word in update.stable:
            if self._line and (
                word.start_s - self._line[-1].end_s >= SENTENCE_S or len(text_of_words([*self._line, word])) > columns
            ):
                self._out.write(f"{_CLEAR}{text_of_words(self._line)}\n")
                self._line.clear()
            self._line.append(word)
        stable = text_of_words(self._line)
        rest = text_of_words([*self._line, *update.tentative])[len(stable) :][: columns - len(stable)]
        self._out.write(f"{_CLEAR}{stable}{_FAINT}{rest}{_PLAIN}" + ("\n" if last and stable else ""))
        self._out.flush()


class Lines:
    """Stable words, one line per sentence, printed when it ends."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line: list[Word] = []

    def __call__(self, update: StreamUpdate, last: bool) -> None:
        for word in update.stable:
            if self._line and word.start_s - self._line[-1].end_s >= SENTENCE_S:
                self._end()
            self._line.append(word)
        pause_s = update.heard_s - self._line[-1].end_s if self._line else 0.0
        if self._line and (last or (not update.tentative and pause_s >= 2 * SENTENCE_S)):
            self._end()

    def _end(self) -> None:
        self._out.write(text_of_words(self._line) + "\n")
        self._out.flush()
        self._line.clear()


class Objects:
    """A JSON object for each change: the words that became stable, the tentative words, the seconds transcribed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tentative: list[Word] = []

    def __call__(self, update: StreamUpdate, last: bool) -> None:
        if update.stable or update.tentative != self._tentative or last:
            self._out.write(json.dumps(as_dict(update, last), ensure_ascii=False) + "\n")
            self._out.flush()
            self._tentative = update.tentative


def _make_display(format: str) -> Callable[[StreamUpdate, bool], None]:
    if format == "json":
        return Objects(sys.stdout)
    if format == "txt":
        return Terminal(sys.stdout) if sys.stdout.isatty() else Lines(sys.stdout)
    if sys.stderr.isatty():  # subtitles are written at the end
        return Terminal(sys.stderr)
    return lambda update, last: None


def _check_format(path: Path) -> None:
    if path.suffix[1:].lower() not in FORMATS:
        raise UserError(f"--save {path}: expected a name that ends in {', '.join('.' + f for f in FORMATS)}")


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came since the block began; a second one interrupts as usual."""
    pressed: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def press(number: int, _: FrameType | None) -> None:
        pressed.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, press)
    try:
        yield lambda: bool(pressed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
