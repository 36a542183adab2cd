"""Labels from a teacher: what a tagger says of each clip, as the targets of a smaller tagger (``lalia finetune tag --teacher``).

The teacher gives each clip a distribution over its labels (Hinton et al. 2015, arXiv:1503.02531). The student is scored by how
often it names the teacher's label for clips of speakers or recordings that it never saw.

N clips, C labels.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from lalia.data.mixture import Mixture
from lalia.errors import AudioError, UserError
from lalia.tags.tagger import Tagger
from lalia.training.linear_probe import FEWEST, SHORTEST_S, Apart, Question, question_of
from lalia.units import Seconds, plural


def ask_teacher(
    mixture: Mixture, teacher: Tagger, apart: Apart | None, longest_s: Seconds
) -> tuple[Question, np.ndarray]:
    """The question whether the label that ``teacher`` names can be told, and its probabilities (N, C) of each clip.

    The labels are those that the teacher names for two clips or more. ``apart``: what is held out together; None: speakers if
    all clips have one, else recordings. ``UserError`` if fewer than two labels are named.
    """
    if apart is None:
        apart = "speaker" if all("" not in corpus.labels("speaker") for corpus in mixture.corpora) else "recording"
    groups, sources = _names(mixture, apart), _names(mixture, "source")
    fits = (mixture.durations_s >= SHORTEST_S) & (mixture.durations_s <= longest_s)
    fits &= np.array([bool(name) for _, name in groups])
    where = ", ".join(str(corpus.folder) for corpus in mixture.corpora)
    rows, found, bad = [], [], []
    for row in np.flatnonzero(fits).tolist():
        try:
            found.append(teacher.logits(mixture.wave(row)).mean(0))
            rows.append(row)
        except AudioError as error:
            bad.append(str(error))
    if not rows:
        raise UserError(
            f"{where}: no clip with a {apart} and {SHORTEST_S:g} to {longest_s:g} s of audio that can be read; raise --max_s, "
            "or give other audio"
        )
    logits_NC = np.stack(found).astype(np.float64)
    best_N = logits_NC.argmax(1)
    counts = Counter(best_N.tolist())
    kept = sorted(label for label, count in counts.items() if count >= FEWEST)
    if len(kept) < 2:
        named = ", ".join(teacher.labels[label] for label in sorted(counts))
        raise UserError(
            f"{where}: the teacher names {named} alone; two labels are needed: give audio with more of them"
        )
    notes = [
        f"the teacher names {len(counts)} of its {plural(len(teacher.labels), 'label')} here; the student knows the {len(kept)} "
        f"that it names for {FEWEST} clips or more"
    ]
    if left := len(mixture) - len(rows) - len(bad):
        notes.append(
            f"{plural(left, 'clip')} of {len(mixture):,} have no {apart} or are not {SHORTEST_S:g} to {longest_s:g} s long"
        )
    if bad:
        notes.append(f"{plural(len(bad), 'clip')} cannot be read; the first: {bad[0]}")
    among = np.isin(best_N, kept)
    logits_NC, chosen = logits_NC[among][:, kept], np.array(rows)[among]
    odds_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    question = question_of(
        teacher.task, apart, chosen, logits_NC.argmax(1), [teacher.labels[label] for label in kept],
        [groups[row] for row in chosen.tolist()], [sources[row] for row in chosen.tolist()], notes,
    )  # fmt: skip
    return question, odds_NC / odds_NC.sum(1, keepdims=True)


def _names(mixture: Mixture, apart: Apart) -> list[tuple[int, str]]:
    """The number of its corpus and the speaker, source or recording of each clip; "" where it is not known."""
    found = []
    for which, corpus in enumerate(mixture.corpora):
        if apart == "recording":
            names, codes, *_ = corpus.recordings()
            found += [(which, names[code]) for code in codes.tolist()]
        else:
            found += [(which, name) for name in corpus.labels(apart)]
    return found
