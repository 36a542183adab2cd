"""``python -m pretrain VERB``: fit trains an encoder on raw audio."""

from __future__ import annotations

import sys
from pathlib import Path

from lalia import config
from lalia.exits import run
from lalia.training.settings import require, require_folders
from pretrain.config import PretrainSettings

ABOUT = {
    "fit": "Pretrain an encoder on unlabelled audio by wav2vec 2.0's contrastive objective. "
    "Example: python -m pretrain fit --config configs/pretrain/nano.yaml --data.corpus data/demo --out runs/encoder. "
    "The same command again continues the run in --out; the encoder ends in RUN/encoder."
}


def main() -> int:
    argv = sys.argv[1:]
    if not argv or argv[0] not in ABOUT:
        for verb, about in ABOUT.items():
            print(f"python -m pretrain {verb}: {about}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    return run(lambda: fit(argv[1:]), "pretrain")


def fit(argv: list[str]) -> int:
    settings = config.load(PretrainSettings, argv, "python -m pretrain fit", ABOUT["fit"])
    require(settings.out, "--out", "the folder this run is kept in")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")
    require_folders(settings.data.corpus, "--data.corpus")
    from pretrain.fit import pretrain  # late: torch and fairseq2 take seconds to import, a typo should not

    pretrain(settings, Path(settings.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
