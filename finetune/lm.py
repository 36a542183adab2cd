"""Language model for a fine-tuned recogniser (``lalia finetune lm RUN``): built, tuned, and compared with greedy decoding."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.evaluate import DECODING, LM, LSTM, EvaluationClips, FinetunedModel, add_run
from lalia.cards import NAME, write_json
from lalia.cli.lm import NgramOptions, add_ngrams, arpa_files, make_lstm, make_ngrams
from lalia.cli.options import text_path
from lalia.cli.parser import Parser, positive, print_next
from lalia.cli.tune import tune
from lalia.decoding.decoder import Decoder, make_decoder
from lalia.lm.folder import LanguageModel
from lalia.model_folder import STUDENT, check_labels, labelled_rows
from lalia.runtime.student import Student
from lalia.scoring.compare import compare, table

LIMIT = 300
ABOUT = """\
Make a language model from the labels that a run trained on and any text, tune its weight, and measure its effect.

  lalia finetune lm runs/swahili                          n-grams of letters, of the training labels
  lalia finetune lm runs/swahili news.txt talks.txt.gz    and of more text, one sentence per line: the more the better
  lalia finetune lm runs/swahili news.txt --unit word     n-grams of words: for millions of words of text
  lalia finetune lm runs/swahili words.arpa --unit word   n-grams from another toolkit
  lalia finetune lm runs/swahili news.txt --lstm          also a small LSTM that rescores what the n-grams found

It counts n-grams with modified Kneser-Ney smoothing (RUN/lm), tunes weight and bonus on the dev split, and compares greedy
decoding, n-grams and LSTM (RUN/lstm) on the test split: error rates, seconds per hour of speech, and whether the difference is
significant. Sentences of dev and test clips are left out of the text. The table is kept in RUN/decoding.json.

Then: lalia finetune eval RUN, lalia transcribe RUN talk.mp3 --lm RUN/lm.
"""


def main(argv: list[str]) -> int:
    """Make, tune and compare; the exit status."""
    parser = Parser(prog="lalia finetune lm", description=ABOUT)
    add_run(parser)
    parser.add_argument(
        "text", metavar="TEXT", nargs="*", type=text_path, help="text files (.gz too), or one ARPA file"
    )
    add_ngrams(parser)
    parser.add_argument("--lstm", action="store_true", help="train an LSTM of letters too (minutes to an hour)")
    parser.add_argument(
        "--limit", type=positive, default=LIMIT, metavar="N", help=f"at most N clips of dev to tune on ({LIMIT})"
    )
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="the clips of the comparison (test)")
    args = parser.parse_args(argv)
    model = FinetunedModel.find(args.run, args.corpus or (), args.language or (), args.out)
    student, clips = model.student(), model.clips()
    ngrams, lstm = make_tuned_ngrams(model, args.text, NgramOptions.of(args), args.limit), model.home / LSTM
    if args.lstm:
        # An ARPA file holds counts and no text, so an LSTM cannot learn from it.
        labels, counted = model.clips_by_corpus(), arpa_files(args.text)
        texts = [*labels, *(path for path in args.text if path not in counted)]
        make_lstm(texts, labels, student, lstm, [])
        tune(student, model.corpora[0], ngrams, lstm, "dev", [], args.limit, clips)
    _compare(model, student, clips, args.split, args.lstm)
    place = model.home if (model.home / STUDENT / NAME).is_file() else student
    given = f"--lm {ngrams}" + (f" --rescore {lstm}" if args.lstm else "")
    corpora = "" if model.run else "".join(f" --corpus {corpus}" for corpus in model.corpora)
    here = corpora + (f" --out {args.out}" if args.out else "")
    print_next(
        (f"lalia finetune eval {args.run}{here}", "see where it errs with the language model"),
        (f"lalia transcribe {place} talk.mp3 {given}", "try it"),
    )
    return 0


def make_tuned_ngrams(model: FinetunedModel, text: Sequence[Path], options: NgramOptions, limit: int = LIMIT) -> Path:
    """Count n-grams of the labels and ``text``, or take those of an ARPA file, and tune them on dev; their folder."""
    student, clips, ngrams = model.student(), model.clips(), model.home / LM
    labelled_rows(clips, model.corpora[0], "dev", [], None)  # fails now rather than after the n-grams are made
    labels = model.clips_by_corpus()
    texts = text if arpa_files(text) else [*labels, *text]
    make_ngrams(texts, labels, student, ngrams, options, [])
    tune(student, model.corpora[0], ngrams, None, "dev", [], limit, clips)
    return ngrams


def _compare(model: FinetunedModel, folder: Path, clips: EvaluationClips, split: str, with_lstm: bool) -> None:
    """Compare the decoders on ``split``, on the terminal and in ``RUN/decoding.json``."""
    student = Student.load(folder, 1)
    language_model = LanguageModel.load(model.home / LM)
    rows = labelled_rows(clips, model.corpora[0], split, [], None)
    check_labels(clips, model.corpora[0], rows, student)
    name = f"{language_model.ngrams.order}-grams of {language_model.unit}s"
    decoders: dict[str, Decoder | None] = {"greedy": None, name: make_decoder(student, language_model)}
    if with_lstm:
        decoders[f"{name} and LSTM"] = make_decoder(student, language_model, rescore=model.home / LSTM)
    shown = (lambda name: print(f"\r\033[K{name} …", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    found = compare(student, clips, rows, decoders, shown)
    if shown:
        print("\r\033[K", end="", file=sys.stderr)
    print(f"\n{split} split\n{table(found)}")
    write_json(model.home / DECODING, {"split": split, "lm": language_model.id, **found.as_dict()})
