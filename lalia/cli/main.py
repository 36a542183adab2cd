"""The light program ``lalia``: its verbs, and what they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lalia import __version__
from lalia.cli.parser import STAGES, Parser, enter, positive
from lalia.errors import STATUSES, UserError, run

if TYPE_CHECKING:
    from lalia.data.corpus import Corpus

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
_PREPARE = """\
Make a corpus (16 kHz mono FLAC, languages, labels, splits) from raw audio.

  lalia prepare recordings/ --language swh --out data/mine      audio of any kind, with or without transcripts beside it
  lalia prepare clips.tsv --columns audio=path,text=sentence --language isl --out data/isl
  lalia prepare calls/ --channels each --out data/calls         a telephone call's two sides as two speakers
  lalia prepare demo --out data/demo                            prompts in five languages, to try everything with
"""
_CONVERT = """\
Make an encoder or a recogniser of a peer's wav2vec 2.0 weights, and the other way round.

  lalia convert hf:wav2vec2-xls-r-300m encoders/xls-r           transformers: pretrained, with a CTC head, or bare
  lalia convert fairseq:xlsr2_300m.pt encoders/xls-r            fairseq: the file alone
  lalia convert fairseq2:omniASR_CTC_300M.pt asr --tokens omniASR_tokenizer.model
  lalia convert my-recogniser hf:shared                         for Wav2Vec2ForCTC.from_pretrained("shared")

Logits stay the same. A pretrained model's quantizer comes along: lalia pretrain fit --encoder goes on from it.
"""
_INSPECT = """\
Say what a folder is (corpus, encoder, recogniser, student, language model, run), what it holds and where it comes from.

  lalia inspect my-student                        its facts, and the tree of all that it is made of
  lalia inspect corpora/demo                      hours by language and split, lengths and quality
  lalia inspect corpora/demo --html corpus.html   a page with histograms and clips to hear
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lalia`` with ``argv`` (the process's own unless given) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _main(arguments), "lalia")


def _main(argv: list[str]) -> int:
    if argv and argv[0] in STAGES:  # each parses what it is given itself
        return enter(argv[0], argv[1:])
    parser = Parser(prog="lalia", description=_ABOUT, epilog=STATUSES)
    parser.add_argument("--version", action="version", version=f"lalia {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    parsers = {name: verbs.add_parser(name, help=verb.help) for name, verb in VERBS.items()}
    for stage, about in STAGES.items():
        verbs.add_parser(stage, help=about)
    named = next((argument for argument in argv if not argument.startswith("-")), "")
    if named in VERBS:  # what a verb takes is declared where the verb is, and loaded where it is asked for
        VERBS[named].declare(parsers[named])

    if not argv:
        parser.print_help(sys.stderr)
        return 2
    parsed_arguments = parser.parse_args(argv)
    return int(parsed_arguments.call(parsed_arguments) or 0)


def _transcribe(parser: Parser) -> None:
    from lalia.cli import transcribe

    transcribe.add_arguments(parser)


def _evaluate(parser: Parser) -> None:
    from lalia.cli import evaluate, options

    parser.description = evaluate.ABOUT
    evaluate.add_evaluate(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    options.add_decoding(parser)
    parser.set_defaults(title="", call=lambda args: evaluate.evaluate(args, _open_corpus, _write_evaluation))


def _lm(parser: Parser) -> None:
    from lalia.cli import lm

    parser.description = lm.LM
    lm.add_lm(parser)
    parser.set_defaults(call=lambda args: lm.lm(args, _open_corpus, _train_lstm))


def _tune(parser: Parser) -> None:
    from lalia.cli import lm

    parser.description = lm.TUNE
    lm.add_tune(parser)
    parser.set_defaults(call=lambda args: lm.tune(args, _open_corpus))


def _listen(parser: Parser) -> None:
    from lalia.cli import listen

    listen.add_arguments(parser)


def _serve(parser: Parser) -> None:
    from lalia.cli import serve

    serve.add_arguments(parser)


def _prepare(parser: Parser) -> None:
    from lalia.cli import prepare

    parser.description = _PREPARE
    prepare.add_arguments(parser)
    parser.set_defaults(call=prepare.main)


def _inspect(parser: Parser) -> None:
    from lalia.cli import inspect

    parser.description = _INSPECT
    inspect.add_arguments(parser)
    parser.set_defaults(call=inspect.main)


def _convert(parser: Parser) -> None:
    from lalia.cli import convert

    parser.description = _CONVERT
    convert.add_arguments(parser)
    parser.set_defaults(call=convert.main)


class _Verb(NamedTuple):
    help: str
    declare: Callable[[Parser], None]


VERBS = {
    "transcribe": _Verb("audio to text", _transcribe),
    "evaluate": _Verb("error rates on a corpus", _evaluate),
    "lm": _Verb("a language model from text", _lm),
    "tune": _Verb("how much a language model counts", _tune),
    "listen": _Verb("the microphone to text, while somebody speaks", _listen),
    "serve": _Verb("a student over HTTP, with a page", _serve),
    "prepare": _Verb("raw audio to a corpus", _prepare),
    "inspect": _Verb("what a folder is, and its lineage", _inspect),
    "convert": _Verb("weights from and to the peers", _convert),
}


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
        from lalia.report.evaluation_page import write_evaluation
    except ImportError as error:
        raise UserError(f"pages are made by {error.name}, which is missing; run: pip install 'lalia[train]'") from error
    write_evaluation(*material)


if __name__ == "__main__":
    sys.exit(main())
