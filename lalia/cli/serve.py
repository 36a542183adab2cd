"""``lalia serve``: transcription over HTTP and WebSocket with one or several students, and a web page for uploads."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from lalia.cli.options import (
    Decoding,
    add_decoding,
    add_written_language,
    load_decoding,
    load_student,
    needs,
    open_corpus,
)
from lalia.cli.parser import Parser, positive
from lalia.decoding.decoder import DecodingInputs
from lalia.errors import UserError
from lalia.inputs import identify
from lalia.model_folder import labelled_rows, languages_taken
from lalia.runtime.student import Student
from lalia.scoring.compare import compare_versions
from lalia.serve.access import Access
from lalia.serve.limits import MEGABYTE, Limits
from lalia.serve.students import KEEP, Gate, Load, Students
from lalia.speakers.diarizer import Diarizer
from lalia.tags.language_routing import STUDENTS
from lalia.tags.tagger import Tagger

TOKEN = "LALIA_TOKEN"
_GATE_CLIPS = 300
"""Clips of each comparison, spread evenly over the dev split."""

ABOUT = """\
Serve one or several students over HTTP, with a web page for uploads.

  lalia serve my-student                                  then open http://127.0.0.1:8000
  curl --data-binary @talk.mp3 'http://127.0.0.1:8000/transcribe?format=srt'
  curl -F file=@talk.mp3 -F response_format=verbose_json http://127.0.0.1:8000/v1/audio/transcriptions
  curl -F file=@talk.mp3 -F 'prompt=Dodoma, Mwanza' -F stream=true http://127.0.0.1:8000/v1/audio/transcriptions
  curl -F file=@talk.mp3 -F response_format=diarized_json http://127.0.0.1:8000/v1/audio/transcriptions    (with --diarizer)
  lalia serve students/ --tagger tagger                   all students of a folder; model=, language= or language=auto chooses

  GET / /health /metrics /v1/models    POST /transcribe /render /v1/audio/transcriptions (the form of OpenAI's API)
  WebSocket /stream?rate=16000         16-bit samples in, words out during speech (streaming students)
  lalia serve my-student --host 0.0.0.0 --wyoming 10300     also for Home Assistant: add the integration Wyoming Protocol

Several students: each is loaded when it is first requested; beyond --keep the least recently used is unloaded. A request's
model= is the name of a folder; without it language=CODE chooses, then the first student is used. With several, --lm, --rescore,
--hot and --only may be folders with an entry of each student's name. SIGHUP, or PUT /v1/models/NAME with the token, replaces
students by the versions that are on disk now; running requests end with the old one, and with --gate so do all others if the
new one is significantly worse on a corpus.
A student of several languages writes the one of a request's language=CODE, else that of --language. A request's prompt= or
hot_words= (phrases, separated by commas) are boosted in addition to --hot; voice=true leaves out what is not speech;
channels=mix, each or a number takes or keeps apart the channels of its file (default: mix).
Clients share the processor fairly, streams first. Beyond a limit the answer is 413 (too large or too long), 408 (too slow)
or 429 (too many). A bug is answered with 500 and the request's id (X-Request-ID), and logged with it.
With a token (the variable LALIA_TOKEN, or --token-file) all but the page and /health require
'Authorization: Bearer TOKEN'. SIGTERM and Ctrl-C let running requests finish. Use a reverse proxy for TLS and public access.
"""


def add_arguments(parser: Parser) -> None:
    default = Limits()
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument(
        "models", metavar="MODEL", type=Path, nargs="+", help="a student folder, or a folder of several"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=_port, default=8000, help="port (default: 8000; 0: any free port)")
    parser.add_argument(
        "--wyoming", type=_port, metavar="PORT", help="also the protocol of Home Assistant (usual: 10300)"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token (default: LALIA_TOKEN)")
    parser.add_argument("--origin", action="append", default=[], metavar="URL",
                        help="pages of this origin (https://example.org; *: all) may use it; may be repeated")  # fmt: skip
    parser.add_argument("--proxy", action="store_true",
                        help="behind a reverse proxy: believe its X-Forwarded-For and X-Forwarded-Host")  # fmt: skip
    parser.add_argument("--access-log", action="store_true", help="a line on stderr for every request")
    add_written_language(parser)
    add_decoding(parser)
    parser.add_argument("--voice", action="store_true", help="transcribe only speech (voice activity detection)")
    parser.add_argument(
        "--diarizer",
        type=Path,
        metavar="FOLDER",
        help="names speakers for diarize=true and response_format=diarized_json",
    )
    parser.add_argument("--tagger", type=Path, metavar="FOLDER", help="of languages, for language=auto (finetune tag)")
    parser.add_argument("--keep", type=positive, metavar="N", help="students kept in memory (default: 8)")
    parser.add_argument("--gate", type=Path, metavar="CORPUS",
                        help="a new version must not be significantly worse on its dev split")  # fmt: skip
    limits = parser.add_argument_group("limits")
    _number(
        limits, "--jobs", default.jobs, "N", "windows transcribed in parallel, one thread each (default: all cores)"
    )
    _number(limits, "--requests", default.requests, "N", f"parallel requests (default: {default.requests})")
    _number(limits, "--streams", default.streams, "N", f"parallel streams (default: {default.streams})")
    _number(limits, "--connections", default.connections, "N", f"open connections (default: {default.connections})")
    size = default.upload_bytes // MEGABYTE
    _number(limits, "--max-mb", size, "N", f"megabytes per file (default: {size})")
    minutes = int(default.audio_s // 60)
    _number(limits, "--max-minutes", minutes, "N", f"minutes of audio per file (default: {minutes})")
    _number(
        limits, "--timeout", int(default.work_s), "S", f"seconds to transcribe a request (default: {default.work_s:g})"
    )
    _number(limits, "--patience", int(default.patience_s), "S",
            f"seconds to wait for headers and slow uploads (default: {default.patience_s:g})")  # fmt: skip
    _number(limits, "--idle", int(default.idle_s), "S",
            f"seconds that a stream may send nothing (default: {default.idle_s:g})")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """``lalia serve``: runs until SIGTERM or Ctrl-C."""
    with needs("lalia serve", "serve"):
        from lalia.serve.application import Service
        from lalia.serve.connections import listen, serve
        from lalia.serve.wyoming import attach

    limits = Limits(
        jobs=args.jobs, requests=args.requests, streams=args.streams, connections=args.connections,
        upload_bytes=args.max_mb * MEGABYTE, audio_s=args.max_minutes * 60.0, work_s=float(args.timeout),
        patience_s=float(args.patience), idle_s=float(args.idle),
    )  # fmt: skip
    token = _token(args.token_file)
    if args.wyoming is not None and token:
        raise UserError(
            "--wyoming: its protocol has no token, so its port is open to all who reach it; serve it without one"
        )
    access = Access(token, tuple(_origin(origin) for origin in args.origin), args.proxy, args.access_log)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="lalia: %(asctime)s %(message)s")
    logging.getLogger("lalia.serve").setLevel(logging.INFO)
    if args.gate and args.keep:
        raise UserError("--gate compares with the version in memory, so all students stay there; leave out --keep")
    students = Students(
        args.models, _loader(args), sys.maxsize if args.gate else args.keep or KEEP,
        Tagger.load(args.tagger, 1) if args.tagger else None, _gate(args.gate) if args.gate else None,
    )  # fmt: skip
    for listed in students.listed if args.gate else students.listed[: len(students.listed) == 1]:
        students.replace(listed.name)
    diarizer = Diarizer.load(args.diarizer) if args.diarizer else None
    bound = listen(args.host, args.port)
    wyoming = listen(args.host, args.wyoming) if args.wyoming is not None else None
    with tempfile.TemporaryDirectory(prefix="lalia-serve-") as folder:
        service = Service(students, limits, Path(folder), access, args.voice, diarizer)
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        open_to = "" if token or host in ("127.0.0.1", "::1") else " without a token: anybody who reaches it can use it"
        names = ", ".join(listed.name for listed in students.listed[:10]) + (", …" if len(students.listed) > 10 else "")
        print(f"lalia: serving {names} on http://{shown}:{port}{open_to}", file=sys.stderr, flush=True)
        application = service.application()
        if wyoming is not None:
            attach(application, service, wyoming)
            print(f"lalia: Wyoming on tcp://{shown}:{wyoming.getsockname()[1]}", file=sys.stderr, flush=True)
        serve(application, bound, limits, service.reload)
    return 0


def _loader(args: argparse.Namespace) -> Load:
    """Loads a student with its decoding files, in the language of ``--language`` if it has several."""
    files, alone = Decoding.of(args), len(args.models) == 1 and identify(args.models[0]).kind in STUDENTS

    def load(name: str, folder: Path) -> tuple[Student, DecodingInputs]:
        if alone:
            student = load_student(folder, 1, args.language)
        else:
            student = Student.load(folder, 1)
            if len(student.normaliser.languages) > 1:
                student = student.in_language(args.language, strict=False)
        student = files.student(student)
        return student, load_decoding(files if alone else files.of_student(name), student)

    return load


def _gate(path: Path) -> Gate:
    """Compares versions on the dev split of the corpus in ``path``."""
    corpus = open_corpus(path)

    def gate(before: Student, after: Student) -> str:
        languages = languages_taken(None, before.languages, corpus.language_names, "the student", path, quiet=True)
        rows = labelled_rows(corpus, path, "dev", languages, _GATE_CLIPS)
        report, worse = compare_versions(before, after, corpus, rows)
        if worse:
            raise UserError(f"the new version does not pass --gate {path}: {report}")
        return report

    return gate


def _token(path: Path | None) -> str:
    if path is None:
        return os.environ.get(TOKEN, "").strip()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the token ({error})") from error
    if not token:
        raise UserError(f"{path}: is empty; expected the token")
    return token


def _origin(text: str) -> str:
    url = urlsplit(text)
    if text != "*" and not (url.scheme in ("http", "https") and url.netloc and not url.path.strip("/")):
        raise UserError(f"--origin {text}: expected the origin of a page, such as https://example.org, or *")
    return text.rstrip("/")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError("expected a port from 0 to 65535")
    return int(text)


def _number(group: argparse._ArgumentGroup, flag: str, default: int, metavar: str, help: str) -> None:
    group.add_argument(flag, type=positive, default=default, metavar=metavar, help=help)
