"""The program ``lalia``: its verbs and the module of each, and the way to the training stages.

A verb's module is imported only when the verb is called, so that ``lalia --help`` starts at once. Each has a function
``add_arguments(parser)``, which declares what the verb takes, sets the parser's description, and sets its default ``call`` to the
function that takes the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

from lalia import __version__
from lalia.cli.parser import Parser
from lalia.errors import STATUSES, UserError, run
from lalia.files import CHECKOUT
from lalia.signals import stops

ABOUT = """\
lalia: from raw audio in any language to a small speech recogniser that runs on a laptop.

use a student
  lalia transcribe my-student talk.mp3              audio files to text
  lalia listen my-student                           the microphone to text, live
  lalia tag my-tagger talk.mp3                      language, speaker, emotion, command: labels of audio files
  lalia serve my-student                            the same over HTTP, with a page to drop a file on
  lalia evaluate my-student corpora/demo            CER and WER on held-out clips
  lalia lm talks.txt --like my-student --out my-lm  a language model for it; then lalia tune

make one
  lalia prepare demo --out corpora/demo             raw audio to a corpus
  lalia align my-student book.mp3 book.txt --out corpora/book    hours of audio and their text to a corpus
  lalia finetune fit --encoder nano-multilingual --data.corpus corpora/demo --data.language ita --out runs/italian
  lalia distill fit …, lalia distill export …       a small student of it; lalia pretrain fit …: an encoder of your own
  lalia inspect runs/italian                        what a folder holds and where it comes from
  lalia convert hf:wav2vec2-xls-r-300m encoders/xls-r    weights from and to transformers, fairseq and fairseq2

lalia VERB --help, lalia STAGE --help and lalia STAGE VERB --help show examples first.
"""
VERBS = {
    "transcribe": ("audio to text", "lalia.cli.transcribe"),
    "diarize": ("who speaks when", "lalia.cli.diarize"),
    "listen": ("the microphone to text, live", "lalia.cli.listen"),
    "tag": ("labels of audio files: language, emotion, command, …", "lalia.cli.tag"),
    "serve": ("a student over HTTP, with a page", "lalia.cli.serve"),
    "separate": ("two voices on one channel to a file each", "lalia.cli.separate"),
    "evaluate": ("error rates on a corpus", "lalia.cli.evaluate"),
    "lm": ("a language model from text", "lalia.cli.lm"),
    "tune": ("the weight of a language model, on dev clips", "lalia.cli.tune"),
    "prepare": ("raw audio to a corpus", "lalia.cli.prepare"),
    "align": ("a corpus from long recordings and their texts", "lalia.cli.align"),
    "inspect": ("what a folder is, and its lineage", "lalia.cli.inspect"),
    "models": ("the models that are here, and what can be fetched", "lalia.cli.models"),
    "doctor": ("what works on this machine, and what is missing", "lalia.cli.doctor"),
    "completion": ("a script that completes commands in a shell", "lalia.cli.completion"),
    "convert": ("weights from and to other toolkits", "lalia.cli.convert"),
}
"""verb: (line of help, module)"""
STAGES = {
    "pretrain": "an encoder from raw audio: plan, fit, probe",
    "finetune": "a recogniser from labelled audio: check, fit, grow, lm, eval, tag, separate, fold",
    "distill": "a small student of a recogniser: fit, prune, export",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lalia`` with ``argv`` (the process's own unless given) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _main(arguments), "lalia")


def _main(argv: list[str]) -> int:
    if argv and argv[0] in STAGES:  # a stage parses its own arguments
        return run_in_checkout(argv[0], argv[1:])
    parser = Parser(prog="lalia", description=ABOUT, epilog=STATUSES)
    parser.add_argument("--version", action="version", version=f"lalia {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verbs = {name: subparsers.add_parser(name, help=line) for name, (line, _) in VERBS.items()}
    for stage, line in STAGES.items():
        subparsers.add_parser(stage, help=line)
    named = next((argument for argument in argv if not argument.startswith("-")), "")
    if named in VERBS:
        import_module(VERBS[named][1]).add_arguments(verbs[named])

    if not argv:
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(argv)
    return int(arguments.call(arguments) or 0)


def run_in_checkout(stage: str, argv: Sequence[str]) -> int:
    """What ``python -m STAGE VERB …`` does in the checkout, from any folder; the exit status.

    The stages are packages beside ``lalia`` in the repository, not parts of it: an editable install has them, a wheel does not. A
    ``UserError`` where this install has none, or a package is missing that they need.
    """
    if not (CHECKOUT / stage / "__main__.py").is_file():
        raise UserError(
            f"{stage}: this install of lalia runs students and does not train; clone the repository, and in it run: "
            "pip install -e '.[train]'"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))  # first: a folder of that name in the current folder is not the stage
    try:
        # A training run handles stop signals from here on: its imports take seconds.
        with stops.caught(None, stage) if argv[:1] in (["fit"], ["prune"], ["separate"]) else nullcontext():
            return int(import_module(f"{stage}.__main__").main(argv))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{stage} needs the package {error.name}, which is missing; run: pip install -e '{CHECKOUT}[train]'"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
