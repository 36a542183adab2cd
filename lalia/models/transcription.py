"""Transcripts and error rates of a recogniser over clips of a corpus, in padded batches on the recogniser's device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.greedy import best_path, transcript
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import Score, score


@dataclass
class Transcripts:
    """What a recogniser heard in clips, beside what was said; normalised both."""

    ids: list[str]
    references: list[str]
    hypotheses: list[str]
    unread: list[str] = field(default_factory=list)
    """a line for each clip that could not be read"""

    def score(self) -> Score:
        return score(self.references, self.hypotheses)

    def as_dict(self) -> dict[str, Any]:
        """Rates with their intervals, and every clip's pair of texts."""
        scored = self.score()
        pairs = zip(self.ids, self.references, self.hypotheses, strict=True)
        unread = {"unread": self.unread} if self.unread else {}
        return {
            "cer": scored.cer.rate,
            "wer": scored.wer.rate,
            "cer_interval": list(scored.cer_interval),
            "wer_interval": list(scored.wer_interval),
            "clips": [{"id": i, "reference": r, "hypothesis": h} for i, r, h in pairs],
            **unread,
        }


def told_of(scores: dict[str, Any]) -> str:
    """On how many clips ``scores`` (``Transcripts.as_dict``) were made, and how many could not be read."""
    unread = scores.get("unread", [])
    return f"{len(scores['clips'])} clips" + (f" ({len(unread)} more cannot be read: {unread[0]})" if unread else "")


def transcribe_rows(recogniser: Recogniser, mixture: Mixture, rows: np.ndarray, micro_s: float = 60.0) -> Transcripts:
    """Greedy transcripts of ``rows``; clips that cannot be read are left out and named."""
    device = recogniser.head.weight.device
    found = Transcripts([], [], [])
    for batch in make_eval_loader(mixture, rows, micro_s):
        found.unread += batch.bad
        batch = batch.to(device)
        log_probs_BTV, frames_B = recogniser.log_probs(batch.wave_BS, batch.lengths_B)
        for row, log_probs_TV, frames in zip(
            batch.rows_B.tolist(), log_probs_BTV.cpu().numpy(), frames_B.tolist(), strict=True
        ):
            found.ids.append(mixture.id(row))
            found.references.append(recogniser.normaliser(mixture.text(row)))
            found.hypotheses.append(transcript(best_path(log_probs_TV[:frames]), recogniser.tokens))
    return found
