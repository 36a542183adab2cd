"""The light program ``lalia``: its verbs, and what they print."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia import __version__
from lalia.arguments import Parser, positive
from lalia.exits import UserError, run
from lalia.stages import STAGES, run_stage
from lalia.units import clock

if TYPE_CHECKING:
    from lalia.data.corpus import Corpus
    from lalia.runtime.clips import Clip
    from lalia.runtime.transcript import Transcript

# Written out, so that --help need not load the runtime; a test compares them.
FORMATS = ("txt", "json", "srt", "vtt")

_ABOUT = """\
lalia: from raw audio in any language to a small speech recogniser that runs on a laptop.

  lalia transcribe my-student talk.mp3              what is said, as text
  lalia listen my-student                           what is being said, from the microphone
  lalia serve my-student                            the same over HTTP, with a page to drop a file on
  lalia evaluate my-student corpora/demo            error rates on clips it never heard
  lalia lm talks.txt --like my-student --out my-lm  a language model for it; then lalia tune
  lalia prepare demo --out corpora/demo             raw audio becomes a corpus
  lalia inspect my-student                          what a folder is and where it comes from
  lalia convert hf:wav2vec2-xls-r-300m encoders/xls-r    weights from and to transformers, fairseq and fairseq2
  lalia pretrain fit …, finetune fit …, distill fit …    train an encoder, a recogniser, a student: lalia STAGE --help
"""
_EXITS = "exit status: 0 done, 1 a gate said no, 2 you can mend it (one line says how), 130 interrupted"

_TRANSCRIBE = """\
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
_PREPARE = "Make a corpus (16 kHz mono FLAC, languages, labels, splits) from raw audio."
_CONVERT = """\
Make an encoder or a recogniser of a peer's wav2vec 2.0 weights, and the other way round.

  lalia convert hf:wav2vec2-xls-r-300m encoders/xls-r           transformers: pretrained, with a CTC head, or bare
  lalia convert fairseq:xlsr2_300m.pt encoders/xls-r            fairseq: the file alone
  lalia convert fairseq2:omniASR_CTC_300M.pt asr --tokens omniASR_tokenizer.model
  lalia convert my-recogniser hf:shared                         for Wav2Vec2ForCTC.from_pretrained("shared")

Logits stay the same. A pretrained model's quantizer comes along: lalia pretrain fit --encoder goes on from it.
"""
_INSPECT = "Say what a folder is (corpus, encoder, recogniser, student, run), what it holds and where it comes from."


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lalia`` with ``argv`` (the process's own unless given) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _main(arguments), "lalia")


def _main(argv: list[str]) -> int:
    if argv and argv[0] in STAGES:  # each parses what it is given itself
        return run_stage(argv[0], argv[1:])
    from lalia.runtime import arguments as decoding
    from lalia.runtime import judging, language

    parser = Parser(prog="lalia", description=_ABOUT, epilog=_EXITS)
    parser.add_argument("--version", action="version", version=f"lalia {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = next((argument for argument in argv if not argument.startswith("-")), "")

    transcribe = verbs.add_parser("transcribe", help="audio to text", description=_TRANSCRIBE)
    transcribe.add_argument("model", metavar="MODEL", type=Path, help="a student folder, or the run it is in")
    transcribe.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, and folders of them")
    transcribe.add_argument("--format", choices=FORMATS, default="txt", help="what to write (default: txt)")
    transcribe.add_argument("--out", type=Path, metavar="FOLDER", help="write one file per clip here, not to stdout")
    transcribe.add_argument(
        "--jobs", type=positive, metavar="N", help="how much at a time, one thread each (default: all cores)"
    )
    transcribe.add_argument("--voice", action="store_true", help="hear only where there is speech (needs silero-vad)")
    transcribe.set_defaults(call=_transcribe)

    evaluate = verbs.add_parser("evaluate", help="error rates on a corpus", description=judging.ABOUT)
    judging.add_evaluate(evaluate)
    evaluate.set_defaults(title="", call=lambda args: judging.evaluate(args, _open_corpus, _write_evaluation))

    for parsed in (transcribe, evaluate):
        parsed.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
        decoding.add_decoding(parsed)
    lm = verbs.add_parser("lm", help="a language model from text", description=language.LM)
    language.add_lm(lm)
    lm.set_defaults(call=lambda args: language.lm(args, _open_corpus, _train_lstm))
    tune = verbs.add_parser("tune", help="how much a language model counts", description=language.TUNE)
    language.add_tune(tune)
    tune.set_defaults(call=lambda args: language.tune(args, _open_corpus))

    # These are declared where they are made, and only loaded when they are asked for.
    listen = verbs.add_parser("listen", help="the microphone to text, while somebody speaks")
    if verb == "listen":
        from lalia.runtime import listening

        listening.add_arguments(listen)
    serve = verbs.add_parser("serve", help="a student over HTTP, with a page")
    if verb == "serve":
        from lalia.serve import arguments as serve_arguments

        serve_arguments.add_arguments(serve)
    prepare = verbs.add_parser("prepare", help="raw audio to a corpus", description=_PREPARE)
    if verb == "prepare":
        from lalia.data.prepare import arguments as prepare_arguments

        prepare_arguments.add_arguments(prepare)
        prepare.set_defaults(call=prepare_arguments.main)
    inspect = verbs.add_parser("inspect", help="what a folder is, and its lineage", description=_INSPECT)
    if verb == "inspect":
        from lalia.data import inspection

        inspection.add_arguments(inspect)
        inspect.set_defaults(call=inspection.main)
    convert = verbs.add_parser("convert", help="weights from and to the peers", description=_CONVERT)
    if verb == "convert":
        from lalia.models.convert import arguments as convert_arguments

        convert_arguments.add_arguments(convert)
        convert.set_defaults(call=convert_arguments.main)

    for stage, about in STAGES.items():
        verbs.add_parser(stage, help=about)

    if not argv:
        parser.print_help(sys.stderr)
        return 2
    parsed_arguments = parser.parse_args(argv)
    return int(parsed_arguments.call(parsed_arguments) or 0)


def _transcribe(args: argparse.Namespace) -> int:
    from lalia.audio.reading import AudioError, Note
    from lalia.machine import cores
    from lalia.runtime.arguments import decoders
    from lalia.runtime.clips import find_clips, output_paths
    from lalia.runtime.student import Student
    from lalia.runtime.subtitles import render
    from lalia.runtime.workers import in_order

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
    from lalia.cards import write_text

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


def _open_corpus(path: Path) -> Corpus:
    try:
        from lalia.data.corpus import Corpus
    except ImportError as error:
        raise UserError(
            f"corpora are read by {error.name}, which is missing; run: pip install 'lalia[train]'"
        ) from error
    return Corpus.load(path)


def _train_lstm(*material: Any, steps: int | None) -> bool:
    try:
        from lalia.training.letter_lstm import LstmSettings, train_model
    except ImportError as error:
        raise UserError(
            f"an LSTM is trained by {error.name}, which is missing; run: pip install 'lalia[train]'"
        ) from error
    sentences, out, normaliser, parents, facts = material
    settings = LstmSettings() if steps is None else LstmSettings(steps=steps)
    return train_model(sentences, out, normaliser, parents, facts, settings)


def _write_evaluation(*material: Any) -> None:
    try:
        from lalia.report.evaluation import write_evaluation
    except ImportError as error:
        raise UserError(f"pages are made by {error.name}, which is missing; run: pip install 'lalia[train]'") from error
    write_evaluation(*material)


if __name__ == "__main__":
    sys.exit(main())
