"""The training stages as verbs of the program ``lalia``: where the checkout that holds them is, and how one is run.

They are packages beside ``lalia`` in the repository, not parts of it: an editable install has them, a wheel does not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lalia.exits import UserError
from lalia.filenames import CHECKOUT

STAGES = {
    "pretrain": "an encoder from raw audio: plan, fit, probe",
    "finetune": "a recogniser from labelled audio: check, fit, lm, eval, fold",
    "distill": "a small student of a recogniser: fit, prune, export",
}


def enter(stage: str, argv: Sequence[str]) -> int:
    """What ``python -m STAGE VERB …`` does in the checkout, from any folder; the exit status.

    A ``UserError`` where this install has no stages, or a package is missing that they need.
    """
    if not (CHECKOUT / stage / "__main__.py").is_file():
        raise UserError(
            f"{stage}: this install of lalia runs students and does not train; clone the repository, and in it run: "
            "pip install -e '.[train]'"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))  # first: a folder of that name where the user stands is not the stage
    try:
        return int(import_module(f"{stage}.__main__").main(argv))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{stage} needs the package {error.name}, which is missing; run: pip install -e '{CHECKOUT}[train]'"
        ) from error
