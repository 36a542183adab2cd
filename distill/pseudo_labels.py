"""Pseudo-labels by beam search: the teacher transcribes unlabelled clips with a language model.

They are made once before training and stored in ``RUN/pseudo.json``, because beam search costs more than a training step. A run
without a language model uses greedy decoding instead (``loss.py``).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from distill.measure import TorchModel
from lalia.cards import write_json
from lalia.data.mixture import Mixture
from lalia.decoding.decoder import make_decoder
from lalia.errors import UserError
from lalia.lm.folder import LanguageModel
from lalia.models.recogniser import Recogniser
from lalia.training.validation import transcribe_by_beam

PSEUDO = "pseudo.json"
PATIENCE_S = 86_400.0


def beam_labels(
    teacher: Recogniser, card: dict[str, Any], lm: str, mixture: Mixture, rows: np.ndarray, confidence: float, folder: Path,
    leads: bool,
) -> dict[int, list[int]]:  # fmt: skip
    """Row -> tokens of the pseudo-labels of ``rows`` whose confidence reaches ``confidence``.

    The confidence is the geometric mean of the tokens' probabilities by the teacher alone. The language model ``lm`` has the
    weights tuned for the teacher (with ``card``), if any. Read from ``folder`` if the same teacher and language model made them.
    With several processes, the one that ``leads`` searches and the others wait.
    """
    model = LanguageModel.load(lm)
    path, facts = folder / PSEUDO, {"teacher": card["id"], "lm": model.card["id"]}
    if not leads:
        _wait(path, facts)
    found = _known(path, facts)
    if found is None:
        if len(rows):
            print(f"the teacher transcribes {len(rows)} unlabelled clips with the language model {lm}", file=sys.stderr)
        found = transcribe_by_beam(teacher, make_decoder(TorchModel(teacher, card), model), mixture, rows)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, facts | {"clips": found})
    by_id = {mixture.id(int(row)): int(row) for row in rows}
    kept = {
        by_id[name]: tokens for name, (tokens, sure) in found.items() if name in by_id and tokens and sure >= confidence
    }
    if leads:
        print(f"{len(kept)} of {len(rows)} unlabelled clips get a pseudo-label with enough confidence", file=sys.stderr)
    return kept


def _known(path: Path, facts: dict[str, Any]) -> dict[str, tuple[list[int], float]] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if {name: stored.get(name) for name in facts} != facts:
        return None
    return {name: (tokens, sure) for name, (tokens, sure) in stored["clips"].items()}


def _wait(path: Path, facts: dict[str, Any]) -> None:
    begun = time.monotonic()
    while _known(path, facts) is None:
        if time.monotonic() - begun > PATIENCE_S:
            raise UserError(f"{path}: not written by the leading process; do all nodes share the folder of --out?")
        time.sleep(1.0)
