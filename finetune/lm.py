"""Language model for a fine-tuned recogniser (``lalia finetune lm RUN``): built, tuned, and compared with greedy decoding."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from finetune.evaluate import DECODING, LM, LSTM, EvaluationClips, FinetunedModel, add_arguments
from lalia.cards import NAME, write_json
from lalia.cli import lm
from lalia.cli.options import text_path
from lalia.cli.parser import Parser
from lalia.decoding.decoder import Decoder, make_decoder
from lalia.lm.folder import LanguageModel
from lalia.model_folder import STUDENT, check_labels, labelled_rows
from lalia.runtime.student import Student
from lalia.scoring.compare import compare, table

ABOUT = """\
Make a language model of the labels that a run trained on and of any text, find how much it counts, and say what it is worth.

  lalia finetune lm runs/swahili                          n-grams of letters, of the training labels
  lalia finetune lm runs/swahili news.txt talks.txt.gz    and of more text, a sentence a line: the more the better
  lalia finetune lm runs/swahili news.txt --unit word     n-grams of words: for millions of words of text
  lalia finetune lm runs/swahili words.arpa --unit word   n-grams that another toolkit counted
  lalia finetune lm runs/swahili news.txt --lstm          also a small LSTM that weighs what the n-grams found

It counts n-grams with modified Kneser-Ney smoothing (RUN/lm), tries weights and bonuses on the dev split, and sets best path,
n-grams and LSTM (RUN/lstm) side by side on the test split: errors, seconds per hour of speech, and whether the difference is
more than chance. What dev or test clips say is left out of the text. The table is kept in RUN/decoding.json.

Then: lalia finetune eval RUN, lalia transcribe RUN talk.mp3 --lm RUN/lm.
"""


def main(argv: list[str]) -> int:
    """Make, tune and compare; the exit status."""
    parser = Parser(prog="lalia finetune lm", description=ABOUT)
    add_arguments(parser)
    parser.add_argument(
        "text", metavar="TEXT", nargs="*", type=text_path, help="text files (.gz too), or one ARPA file"
    )
    lm.add_ngrams(parser)
    parser.add_argument("--lstm", action="store_true", help="train an LSTM of letters too (minutes to an hour)")
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="at most N clips of dev to tune on (300)")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="which clips the table is of (test)")
    args = parser.parse_args(argv)
    model = FinetunedModel.from_arguments(args)
    folder = model.student()
    clips = model.clips()
    labelled_rows(clips, model.corpora[0], "dev", [], None)  # report missing labels before the work starts
    ngrams, lstm = model.home / LM, model.home / LSTM
    ready = lm.arpa_files(args.text)
    asked = {**vars(args), "like": folder, "language": [], "steps": None, "heldout": None}
    material = {"text": args.text if ready else [*model.corpora_in_languages(), *args.text]}

    def make(**said: Any) -> None:
        lm.make_lm(argparse.Namespace(**{**asked, **material, **said}), model.open_corpus, _train)

    def tune(rescore: Path | None) -> None:
        wanted = {"model": folder, "corpus": model.corpora[0], "lm": ngrams, "rescore": rescore, "split": "dev"}
        lm.tune(argparse.Namespace(**{**asked, **wanted}), lambda _: clips)

    make(out=ngrams, lstm=False)
    tune(None)
    if args.lstm:
        counted = {"order": None, "arpa": None, "kenlm": None}
        make(out=lstm, lstm=True, unit="letter", **counted, text=_learned_from(model, args.text))
        tune(lstm)
    _compare(args, model, folder, clips)
    return 0


def _learned_from(model: FinetunedModel, texts: list[Path]) -> list[Path]:
    """Training text of the LSTM: everything but ARPA files, which hold counts and no text."""
    counted = lm.arpa_files(texts)
    return [*model.corpora_in_languages(), *(path for path in texts if path not in counted)]


def _compare(args: argparse.Namespace, model: FinetunedModel, folder: Path, clips: EvaluationClips) -> None:
    """Compare the decoders on the terminal and in ``RUN/decoding.json``."""
    student = Student.load(folder, 1)
    ngrams, lstm = model.home / LM, model.home / LSTM
    ngram_model = LanguageModel.load(ngrams)
    rows = labelled_rows(clips, model.corpora[0], args.split, [], None)
    check_labels(clips, model.corpora[0], rows, student)
    name = f"{ngram_model.ngrams.order}-grams of {ngram_model.unit}s"
    decoders: dict[str, Decoder | None] = {"best path": None, name: make_decoder(student, ngram_model)}
    if args.lstm:
        decoders[f"{name} and LSTM"] = make_decoder(student, ngram_model, rescore=lstm)
    shown = (lambda name: print(f"\r\033[K{name} …", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    found = compare(student, clips, rows, decoders, shown)
    if shown:
        print("\r\033[K", end="", file=sys.stderr)
    print(f"\n{args.split} split\n{table(found)}")
    write_json(model.home / DECODING, {"split": args.split, "lm": ngram_model.id, **found.as_dict()})
    place = model.home if (model.home / STUDENT / NAME).is_file() else folder
    given = f"--lm {ngrams}" + (f" --rescore {lstm}" if args.lstm else "")
    corpora = "" if model.run else "".join(f" --corpus {corpus}" for corpus in model.corpora)
    here = corpora + (f" --out {args.out}" if args.out else "")
    print(f"next: lalia finetune eval {args.run}{here}\n      lalia transcribe {place} talk.mp3 {given}")


def _train(*material: Any, steps: int | None) -> bool:
    from lalia.training.letter_lstm import LstmSettings, train_model  # late: torch takes seconds to import

    sentences, out, normaliser, parents, facts = material
    return train_model(sentences, out, normaliser, parents, facts, LstmSettings())
