"""Linear classifiers of whole clips in closed form, evaluated on sources or speakers that training never saw.

A clip is the mean over time of its frames' features and of their squares; a ridge regression to one column per label classifies
it, and the mean of those of several layers does so better. Each fold of sources (or speakers) is predicted by a solution of all
other folds. Labels that coincide with sources are found first: where every source has labels of its own, a classifier may tell
microphones apart, and no accuracy can be known.

N clips, D features, C labels, K folds, P penalties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.units import Seconds, plural

Apart = Literal["source", "speaker", "recording"]
MOST_FOLDS = 20
SHORTEST_S: Seconds = 0.3
FEWEST = 2
"""Clips that a label needs."""

# --- What is asked of which clips ------------------------------------------------------------------------


@dataclass
class Question:
    """The labels of clips, and the sources or speakers that are held out together."""

    column: str
    apart: Apart
    rows: np.ndarray
    """the clips of the corpus that have a label, (N,)"""
    labels: np.ndarray
    """their labels, numbers in ``names``, (N,)"""
    names: list[str]
    groups: np.ndarray
    """their sources or speakers, (N,)"""
    folds: np.ndarray
    """groups that are held out together, (N,)"""
    scored: np.ndarray
    """clips that can be scored: their label is known from another group, and their source does not give it away, (N,)"""
    notes: list[str]
    """clips and labels that are left out"""

    @property
    def confounded(self) -> str:
        """Why no accuracy can be known; "" if it can."""
        if len(set(self.labels[self.scored].tolist())) >= 2:
            return ""
        pairs = set(zip(self.labels.tolist(), self.groups.tolist(), strict=True))
        often = Counter(label for label, _ in pairs)
        alone = [self.names[label] for label, groups in sorted(often.items()) if groups == 1]
        unknown = "accuracy cannot be known and is not printed"
        if len(often) - len(alone) >= 2:
            return (
                f"every source holds one {self.column} only, so a classifier may tell their microphones apart: {unknown}. Add a "
                "source with several labels, or evaluate with --apart source"
            )
        named = ", ".join(alone[:3]) + (", …" if len(alone) > 3 else "")
        return (
            f"{len(alone)} of {plural(len(often), 'label')} ({named}) come from one {self.apart} only, so a classifier may tell "
            f"{self.apart}s apart instead: {unknown}. Two labels with a second {self.apart} each are needed"
        )


def ask(mixture: Mixture, column: str, apart: Apart, longest_s: Seconds = 15.0, names: Sequence[str] = ()) -> Question:
    """The question whether ``column`` can be told from clips of other sources or speakers; ``UserError`` if it cannot be asked.

    All splits are used, since the folds hold out whole sources or speakers. ``names``: only these labels.
    """
    values, sources, speakers = (
        [(which, value) for which, corpus in enumerate(mixture.corpora) for value in corpus.labels(name)]
        for name in (column, "source", "speaker")
    )
    where = ", ".join(str(corpus.folder) for corpus in mixture.corpora)
    groups = sources if apart == "source" else speakers
    counts = Counter(value for _, value in values if value)
    if column == "language":
        counts.pop("und", None)
    wanted = set(names or counts)
    if lost := sorted(wanted - set(counts)):
        raise UserError(f"{where}: no clip has the {column} {lost[0]!r}; it has {', '.join(sorted(counts)[:20])}")
    kept = {label for label in wanted if counts[label] >= FEWEST}
    fits = (mixture.durations_s >= SHORTEST_S) & (mixture.durations_s <= longest_s)
    have = np.array([value in kept for _, value in values]) & fits
    known = np.array([bool(value) for _, value in groups])
    notes = []
    for what, count in (
        (f"have no {column}", sum(not value for _, value in values)),
        (f"are not {SHORTEST_S:g} to {longest_s:g} s long", int((~fits).sum())),
        (f"have no {apart}", int((have & ~known).sum())),
    ):
        if count:
            notes.append(f"{plural(count, 'clip')} of {len(mixture):,} {what}")
    if rare := sorted(wanted - kept):
        notes.append(f"labels with fewer than {FEWEST} clips: {', '.join(rare[:5])}")
    rows = np.flatnonzero(have & known)
    found = sorted({values[row][1] for row in rows.tolist()})
    if len(found) < 2:
        has = f"the only {column} is {found[0]!r}" if found else f"no clip has a {column} and a {apart}"
        raise UserError(f"{where}: {has}; two or more are needed ({'; '.join(notes) or 'every clip has it'})")
    labels = np.array([found.index(values[row][1]) for row in rows.tolist()])
    own, every_source = ([names[row] for row in rows.tolist()] for names in (groups, sources))
    return question_of(column, apart, rows, labels, found, own, every_source, notes)


def question_of(
    column: str, apart: Apart, rows: np.ndarray, labels: np.ndarray, names: list[str],
    groups: Sequence[tuple[int, str]], sources: Sequence[tuple[int, str]], notes: list[str],
) -> Question:  # fmt: skip
    """The question whether ``labels`` can be told; ``groups`` and ``sources`` of the clips are (number of the corpus, name)."""
    own = _numbers(groups)
    scored = _scored(labels, own, _numbers(sources), apart)
    return Question(column, apart, rows, labels, names, own, _folds(own), scored, notes)


def _numbers(values: Sequence[tuple[int, str]]) -> np.ndarray:
    known: dict[tuple[int, str], int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values])


def _folds(groups: np.ndarray) -> np.ndarray:
    """Groups joined to at most ``MOST_FOLDS`` folds of similar size; parts of a group if there is one only."""
    sizes = np.bincount(groups)
    if len(sizes) == 1:  # nothing is scored then; the penalty still has to be chosen
        return np.arange(len(groups)) % 5
    filled = np.zeros(min(len(sizes), MOST_FOLDS), np.int64)
    fold_of = np.zeros(len(sizes), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[groups]


def _scored(labels: np.ndarray, groups: np.ndarray, sources: np.ndarray, apart: Apart) -> np.ndarray:
    """The clips whose label also stands in another group; of several sources, with speakers apart, only those of sources with
    several labels."""
    pairs = set(zip(labels.tolist(), groups.tolist(), strict=True))
    often = Counter(label for label, _ in pairs)
    several = Counter(source for source, _ in set(zip(sources.tolist(), labels.tolist(), strict=True)))
    one_source = len(several) == 1 or apart != "speaker"
    return np.array(
        [
            often[label] > 1 and (one_source or several[source] > 1)
            for label, source in zip(labels.tolist(), sources.tolist(), strict=True)
        ]
    )


# --- Features of clips -----------------------------------------------------------------------------------

Features = Callable[[Tensor, Tensor], list[list[Tensor]]]
"""(wave_BS, lengths_B) -> for each layer the frames (T, D) of each clip."""


@torch.inference_mode()
def clip_moments(mixture: Mixture, rows: np.ndarray, features: Features, micro_s: Seconds = 60.0) -> list[np.ndarray]:
    """For each layer the mean over time of frames and of their squares, (N, 2 D) float32, in the order of ``rows``.

    ``UserError`` for a clip that cannot be read.
    """
    place = {int(row): number for number, row in enumerate(rows)}
    found: list[np.ndarray] = []
    for batch in make_eval_loader(mixture, rows, micro_s):
        if batch.bad:
            raise UserError(f"{batch.bad[0]}; prepare the corpus again")
        layers = features(batch.wave_BS, batch.lengths_B)
        if not found:
            found = [np.zeros((len(rows), 2 * layer[0].shape[1]), np.float32) for layer in layers]
        for moments_ND, clips in zip(found, layers, strict=True):
            for row, clip_TD in zip(batch.rows_B.tolist(), clips, strict=True):
                x_TD = clip_TD.float()
                moments_ND[place[row]] = torch.cat([x_TD.mean(0), x_TD.square().mean(0)]).numpy()
    return found


# --- Ridge regression ------------------------------------------------------------------------------------

PENALTIES = 10.0 ** np.arange(-5, 3)
"""Ridge penalties on standardised features, per clip."""


@dataclass(frozen=True)
class Linear:
    """Scores of clips, ``x_ND @ weight_CD.T + bias_C``: about 1 for the label, 0 for the others."""

    weight_CD: np.ndarray
    bias_C: np.ndarray


class _Sums:
    """Sums over clips from which a ridge regression is solved; those of a fold can be subtracted."""

    def __init__(self, x_ND: np.ndarray, y_NC: np.ndarray) -> None:
        self.count = len(x_ND)
        self.x_D, self.y_C = x_ND.sum(0), y_NC.sum(0)
        self.xx_DD, self.xy_DC = x_ND.T @ x_ND, x_ND.T @ y_NC

    def without(self, other: _Sums) -> _Sums:
        left = _Sums.__new__(_Sums)
        for name in vars(self):
            setattr(left, name, getattr(self, name) - getattr(other, name))
        return left

    def solve(self) -> Iterator[Linear]:
        """The solution for each of ``PENALTIES``, on features standardised by these clips."""
        mean_D, target_C = self.x_D / self.count, self.y_C / self.count
        covariance_DD = self.xx_DD / self.count - np.outer(mean_D, mean_D)
        # A feature that is constant here says nothing; without a floor its rounding errors would.
        std_D = np.sqrt(np.maximum(np.diag(covariance_DD), 1e-12))
        values_D, vectors_DD = np.linalg.eigh(covariance_DD / np.outer(std_D, std_D))
        along_DC = vectors_DD.T @ ((self.xy_DC / self.count - np.outer(mean_D, target_C)) / std_D[:, None])
        for penalty in PENALTIES:
            weight_DC = (vectors_DD @ (along_DC / (np.maximum(values_D, 0) + penalty)[:, None])) / std_D[:, None]
            yield Linear(weight_DC.T, target_C - mean_D @ weight_DC)


@dataclass(frozen=True)
class Solved:
    """A classifier of all clips, and the scores of each clip by solutions that never saw its fold."""

    linears: list[Linear]
    """of each layer from the first to the best last one, on all clips, with the penalty that is best on held-out folds; the
    classifier is their mean"""
    held_out_NC: np.ndarray
    """scores of each clip; last layer and penalty of each half of the folds are chosen on the other half"""
    by_layer: list[float]
    """accuracy of the mean up to each layer on the scored clips, chosen in the same way"""


def solve(question: Question, layers: Iterable[np.ndarray], targets_NC: np.ndarray | None = None) -> Solved:
    """Classifiers of ``layers`` (N, D each) for ``question``: the mean of those from the first layer to the best last one.

    ``targets_NC``: probabilities to regress on instead of 1 for the label and 0 for the others.
    """
    y_NC = np.eye(len(question.names))[question.labels] if targets_NC is None else targets_NC
    halves = [question.folds % 2 == half for half in (0, 1)]
    scored = question.scored if question.scored.any() else np.ones(len(y_NC), bool)
    every_PNC: list[np.ndarray] = []  # the sum over the layers so far, which names the same labels as their mean
    sums: list[_Sums] = []
    shifts: list[np.ndarray] = []
    for x_ND in layers:
        x_ND = x_ND.astype(np.float64)
        shift_D = x_ND.mean(0)
        x_ND = x_ND - shift_D  # sums of squares lose fewer digits around the mean
        whole = _Sums(x_ND, y_NC)
        predicted_PNC = np.zeros((len(PENALTIES), *y_NC.shape))
        for fold in np.unique(question.folds):
            held = question.folds == fold
            for number, linear in enumerate(whole.without(_Sums(x_ND[held], y_NC[held])).solve()):
                predicted_PNC[number][held] = x_ND[held] @ linear.weight_CD.T + linear.bias_C
        every_PNC.append(predicted_PNC + every_PNC[-1] if every_PNC else predicted_PNC)
        sums.append(whole)
        shifts.append(shift_D)

    def right(predicted_NC: np.ndarray, among: np.ndarray) -> float:
        among = among & scored if (among & scored).any() else scored
        return float((predicted_NC[among].argmax(1) == question.labels[among]).mean())

    def choose(options: list[tuple[int, int]], among: np.ndarray) -> tuple[int, int]:
        return max(options, key=lambda option: right(every_PNC[option[0]][option[1]], among))

    def crossed(options: list[tuple[int, int]]) -> np.ndarray:
        """Held-out scores, each half's options chosen on the other half."""
        chosen_NC = np.zeros_like(y_NC)
        for half, other in (halves, halves[::-1]):
            layer, penalty = choose(options, other)
            chosen_NC[half] = every_PNC[layer][penalty][half] / (layer + 1)
        return chosen_NC

    options = [(layer, penalty) for layer in range(len(every_PNC)) for penalty in range(len(PENALTIES))]
    everywhere = np.ones(len(y_NC), bool)
    last, penalty = choose(options, everywhere)
    linears = []
    for whole, shift_D in zip(sums[: last + 1], shifts, strict=False):
        linear = list(whole.solve())[penalty]
        linears.append(Linear(linear.weight_CD, linear.bias_C - linear.weight_CD @ shift_D))
    by_layer = [right(crossed([o for o in options if o[0] == number]), everywhere) for number in range(len(every_PNC))]
    return Solved(linears, crossed(options), by_layer)


# --- Figures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Accuracy on sources or speakers that training never saw."""

    accuracy: float
    recall: float
    """mean over labels of the share of their clips that is right"""
    clips: int
    labels: int
    """different labels of the scored clips; all labels compete"""
    groups: int
    chance: float
    worst: float
    """accuracy of the worst source or speaker with five scored clips or more"""

    def line(self, question: Question, score: str = "accuracy") -> str:
        return (
            f"{question.column}: {score} {self.accuracy:.3f} (mean recall {self.recall:.3f}, chance {self.chance:.3f}, worst "
            f"{question.apart} {self.worst:.3f}) on {plural(self.clips, 'clip')} of {plural(self.groups, question.apart)} that "
            f"training never saw, {self.labels} of {plural(len(question.names), 'label')}"
        )


def figures(question: Question, predicted_N: np.ndarray, among: np.ndarray | None = None) -> Figures:
    """The figures of predicted labels, on the scored clips (``among``: those of them)."""
    scored = question.scored if among is None else question.scored & among
    right_N = predicted_N == question.labels
    by_label = [right_N[scored & (question.labels == label)].mean() for label in np.unique(question.labels[scored])]
    groups = [right_N[scored & (question.groups == group)] for group in np.unique(question.groups[scored])]
    large = [group for group in groups if len(group) >= 5] or groups
    counts = np.bincount(question.labels[scored])
    return Figures(
        float(right_N[scored].mean()), float(np.mean(by_label)), int(scored.sum()), len(by_label), len(groups),
        float(counts.max() / counts.sum()), float(min(group.mean() for group in large)),
    )  # fmt: skip


def temperature(scores_NC: np.ndarray, targets_NC: np.ndarray) -> float:
    """The factor on scores whose softmax has the lowest cross-entropy to the probabilities ``targets_NC``."""

    def loss(factor: float) -> float:
        logits_NC = factor * scores_NC
        top_N1 = logits_NC.max(1, keepdims=True)
        norm_N = top_N1[:, 0] + np.log(np.exp(logits_NC - top_N1).sum(1))
        return float((norm_N - (targets_NC * logits_NC).sum(1)).mean())

    return float(min(2.0 ** np.arange(-1, 7, 0.25), key=loss))
