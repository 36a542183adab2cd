"""``python -m finetune VERB``: fit trains a recogniser for a language from labelled audio."""

from __future__ import annotations

import sys
from pathlib import Path

from finetune.config import FinetuneSettings
from lalia import config
from lalia.exits import run
from lalia.training.settings import require, require_folders

ABOUT = {
    "check": "Say in seconds whether a corpus is fit to train on, and what to mend. "
    "Example: python -m finetune check data/demo --language ita --html check.html.",
    "fit": "Fine-tune an encoder on labelled audio with CTC. "
    "Example: python -m finetune fit --config configs/finetune/nano.yaml --data.corpus data/demo --data.language ita "
    "--labels.minutes 10 --encoder runs/pretrain/encoder --out runs/italian. "
    "The same command again continues the run in --out; the recogniser ends in RUN/recogniser."
}


def main() -> int:
    argv = sys.argv[1:]
    if not argv or argv[0] not in ABOUT:
        for verb, about in ABOUT.items():
            print(f"python -m finetune {verb}: {about}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    verbs = {"check": check, "fit": fit}
    return run(lambda: verbs[argv[0]](argv[1:]), "finetune")


def check(argv: list[str]) -> int:
    from finetune import check as stage

    return stage.main(argv)


def fit(argv: list[str]) -> int:
    settings = config.load(FinetuneSettings, argv, "python -m finetune fit", ABOUT["fit"])
    require(settings.out, "--out", "the folder this run is kept in")
    require(settings.encoder, "--encoder", "the folder of an encoder; with --start random only its shape is used")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")
    require_folders([settings.encoder], "--encoder")
    require_folders(settings.data.corpus, "--data.corpus")
    from finetune.fit import finetune  # late: torch and fairseq2 take seconds to import, a typo should not

    finetune(settings, Path(settings.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
