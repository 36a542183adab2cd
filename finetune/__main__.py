"""``lalia finetune VERB``: check and grow labels, fit recognisers and taggers, make a language model, evaluate, fold."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from finetune import presets
from finetune.config import FinetuneSettings, FoldSettings, GrowSettings
from finetune.presets import check_settings
from lalia import config
from lalia.cards import read_card
from lalia.cli.parser import run_stage
from lalia.model_folder import find_made
from lalia.signals import stops
from lalia.training.settings import require, require_corpora

ABOUT = {
    "": """\
Train a recogniser on labelled audio: an encoder with a CTC head.

  lalia finetune check data/mine
  lalia finetune fit --encoder nano-multilingual --data.corpus data/mine --data.language swh --out runs/swahili
  lalia finetune lm runs/swahili news.txt
  lalia finetune eval runs/swahili
""",
    "check": "Check in seconds whether a corpus is fit to train on, and how to fix it.",
    "fit": """\
Fine-tune an encoder on labelled audio with CTC. The recogniser is RUN/recogniser; RUN/student runs without torch.

  lalia finetune fit --encoder nano-multilingual --data.corpus data/demo --data.language ita --out runs/italian
  lalia finetune fit --encoder runs/encoder/encoder --data.corpus data/demo --data.language ita --labels.minutes 10 --out runs/ten

A preset, chosen by the hours of labels and printed, sets what --config and flags do not.
The same command again continues the run.

used most
  --encoder FOLDER       nano-multilingual (included), or an encoder made by lalia pretrain fit or lalia convert
  --data.corpus CORPUS   made by lalia prepare; repeat it for several
  --data.language CODE   only clips in this language (isl, is, Icelandic)
  --out RUN              the folder of this run
  --labels.minutes N     minutes of labels to train on (0: all)
  --recogniser FOLDER    continue from this recogniser; with --mode adapter add a language to it
  --mode M               what to train: full, head or adapter
  --schedule.steps N     length of the run, instead of the preset's
  --optim.lr N           peak learning rate, instead of the preset's
  --batch.micro_s N      seconds of audio in memory at a time; less needs less memory
""",
    "grow": """\
Turn recordings with text, and audio without, into labels: fit, align, fit again, until no more is accepted.

  lalia finetune grow --encoder nano-multilingual --data.corpus data/ten --data.language swh --grow.source book --out runs/grown
  lalia finetune grow … --grow.unlabelled data/radio --grow.text news.txt     also pseudo-labels for audio without text

Round N trains RUN/round-N/fit on the labels and on what the round before accepted, and aligns the recordings with it
(RUN/round-N/aligned, like lalia align). Sentences of dev and test clips are never accepted. RUN/rounds.tsv has hours and error
rates of every round; RUN/recogniser and RUN/student are the best round's. The same command again continues.

used most
  --grow.source PATH         a folder of pairs or a table, as for lalia align; or twice: the recording and its text
  --grow.unlabelled CORPUS   audio without text, for pseudo-labels; repeat it for several
  --grow.text FILE           text for the language model of the pseudo-labels
  --grow.recogniser RUN      a run on the same labels, used as the first round's
  --grow.accept SCORE        accept pieces up to this expected share of wrong words
  --grow.rounds N            the most rounds
The settings of lalia finetune fit apply to the training of each round.
""",
    "lm": "Make a language model from the run's labels and any text, tune it and measure its effect.",
    "eval": "Evaluate the recogniser of a run: error rates, where the errors are, and a page with clips to play.",
    "tag": "Train a tagger: labels of whole clips, such as language, speaker, emotion or command.",
    "separate": """\
Train a small network that separates two voices on one channel, for lalia separate.

  lalia finetune separate --data.corpus data/one --data.corpus data/two --schedule.minutes 120 --out runs/separator

Mixtures are made while training, of clips of many speakers; no labels are needed. The separator is RUN/separator. The same
command again continues the run.
""",
    "fold": """\
Merge the adapter of one language into a recogniser of that language only, which can be distilled and exported.

  lalia finetune fold --recogniser runs/swahili/recogniser --language swh --out runs/swahili-alone
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    return run_stage(
        "finetune",
        {
            "check": check,
            "fit": fit,
            "grow": grow,
            "lm": lm,
            "eval": evaluate,
            "tag": tag,
            "separate": separate,
            "fold": fold,
        },
        ABOUT,
        argv,
    )


def check(argv: list[str]) -> int:
    from finetune.check.check import main as check_corpus

    return check_corpus(argv)


def fit(argv: list[str]) -> int:
    settings = config.load(FinetuneSettings, argv, "lalia finetune fit", ABOUT["fit"])
    require(settings.out, "--out", "the folder of this run")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")
    with stops.caught(Path(settings.out), "finetune"):
        _fit(settings, config.stated(FinetuneSettings, argv))
    return 0


def _fit(settings: FinetuneSettings, stated: Collection[str]) -> None:
    _resolve(settings)
    from finetune.fit import finetune  # late: torch and fairseq2 take seconds to import, a typo should not

    finetune(settings, Path(settings.out), stated)
    from finetune.evaluate import export_finished

    export_finished(settings)


def grow(argv: list[str]) -> int:
    settings = config.load(GrowSettings, argv, "lalia finetune grow", ABOUT["grow"])
    require(settings.out, "--out", "the folder of the rounds")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus with labels, made by `lalia prepare`")
    require(
        settings.grow.source + settings.grow.unlabelled, "--grow.source", "recordings with text; or --grow.unlabelled"
    )
    require_corpora(settings.grow.unlabelled, "--grow.unlabelled")
    with stops.caught(Path(settings.out), "finetune"):
        _resolve(settings)
        from finetune.grow import grow as run_rounds

        run_rounds(settings, Path(settings.out), config.stated(GrowSettings, argv))
    return 0


def _resolve(settings: FinetuneSettings) -> None:
    """Check ``settings``, and replace names of models and languages by folders and codes."""
    check_settings(settings)
    settings.encoder = presets.find_encoder(settings.encoder) if settings.encoder else ""
    settings.recogniser = find_made(settings.recogniser, "recogniser", "--recogniser") if settings.recogniser else ""
    require_corpora(settings.data.corpus, "--data.corpus")
    from lalia.data.mixture import resolve_languages  # late: torch takes seconds to import, a typo should not
    from lalia.training.distributed import is_rank_zero

    settings.data.language = resolve_languages(
        settings.data.language, settings.data.corpus, "--data.language", is_rank_zero(settings.hardware)
    )
    _warn(settings)


def _warn(settings: FinetuneSettings) -> None:
    """Print the problems that `lalia finetune check` would stop at, before a new run begins; the run continues."""
    from finetune.check.check import FRAME_S, blocking_findings
    from lalia.training.distributed import is_rank_zero

    if (Path(settings.out) / "config.yaml").exists() or not is_rank_zero(settings.hardware):
        return
    start = settings.encoder or settings.recogniser
    frame_s = float(read_card(start).get("frame_s", FRAME_S)) if start else FRAME_S
    normaliser = Path(settings.labels.normaliser) if settings.labels.normaliser else None
    for trouble in blocking_findings(settings.data.corpus, settings.data.language, frame_s, normaliser):
        print(f"✗ {trouble}", file=sys.stderr)


def lm(argv: list[str]) -> int:
    from finetune.lm import main as make_lm

    return make_lm(argv)


def evaluate(argv: list[str]) -> int:
    from finetune.evaluate import main as evaluate_run

    return evaluate_run(argv)


def tag(argv: list[str]) -> int:
    from finetune.tag import main as train_tagger

    return train_tagger(argv)


def separate(argv: list[str]) -> int:
    from finetune.separation import SeparationSettings  # late: torch takes seconds to import
    from finetune.separation import separate as train
    from lalia.data.mixture import resolve_languages
    from lalia.training.distributed import is_rank_zero

    settings = config.load(SeparationSettings, argv, "lalia finetune separate", ABOUT["separate"])
    require(settings.out, "--out", "the folder of this run")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")
    require_corpora(settings.data.corpus, "--data.corpus")
    with stops.caught(Path(settings.out), "finetune"):
        settings.data.language = resolve_languages(
            settings.data.language, settings.data.corpus, "--data.language", is_rank_zero(settings.hardware)
        )
        train(settings, Path(settings.out), config.stated(SeparationSettings, argv))
    return 0


def fold(argv: list[str]) -> int:
    settings = config.load(FoldSettings, argv, "lalia finetune fold", ABOUT["fold"])
    require(settings.recogniser, "--recogniser", "the folder of a recogniser with adapters")
    require(settings.out, "--out", "the folder to write the recogniser of one language to")
    settings.recogniser = find_made(settings.recogniser, "recogniser", "--recogniser")
    from finetune.model import fold as fold_language

    fold_language(Path(settings.recogniser), settings.language, Path(settings.out))
    print(f"the recogniser is {settings.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
