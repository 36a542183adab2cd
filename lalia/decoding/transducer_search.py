"""Transducer decoding in NumPy: the joiner's tables, greedy search of whole or streaming audio, and beam search.

A frame of a student with a transducer holds the CTC head's log-probabilities, then the vector that the joiner adds. Frames whose
CTC blank is certain are left out (Wang et al. 2023, "Accelerating RNN-T training and inference using CTC guidance").

T frames, V tokens (0 is the blank), K hypotheses, E width of the predictor, J columns that the joiner adds: V scores, and the
width of its tanh layer.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lalia.decoding.beam import NEVER, BeamSettings, Hypothesis, Prefixes, log_add
from lalia.decoding.greedy import TokenSpan
from lalia.errors import UserError
from lalia.units import Frames, Seconds

if TYPE_CHECKING:
    from lalia.decoding.automata import CachedAutomaton

JOINT = "joint"
"""The output of a student's graph that its joiner adds to."""
MOST = 3
"""Tokens at most in one frame."""
PAUSE_S: Seconds = 1.0
"""After a pause of this length the predictor begins a new text: it has learned from single sentences."""
_AHEAD = 16
"""Frames that are scored at once for the same tokens so far."""


class Joiner:
    """Predictor and joiner of a student: scores of the next token from a frame and the last two tokens."""

    def __init__(self, tables: dict[str, np.ndarray]) -> None:
        self.tables = tables
        self._last_VE, self._second_last_VE = tables["last_VE"], tables["second_last_VE"]
        self._predict_EJ, self._predict_J = tables["predict_EJ"], tables["predict_J"]
        self._output_WV = tables.get("output_WV")
        self._predicted: dict[tuple[int, int], np.ndarray] = {}

    @property
    def tokens(self) -> int:
        return len(self._last_VE)

    @property
    def width(self) -> int:
        """Columns of a frame that belong to the joiner."""
        return len(self._predict_J)

    def predicted(self, second_last: int, last: int) -> np.ndarray:
        """What the joiner adds after two tokens, (J,); 0 stands for the beginning of the text."""
        found = self._predicted.get((second_last, last))
        if found is None:
            hidden_E = np.maximum(self._last_VE[last] + self._second_last_VE[second_last], 0)
            found = self._predicted[second_last, last] = hidden_E @ self._predict_EJ + self._predict_J
        return found

    def scores(self, encoded_NJ: np.ndarray, predicted_NJ: np.ndarray) -> np.ndarray:
        """Scores (N, V), not normalised; either input may be one vector for all."""
        sums_NJ = encoded_NJ + predicted_NJ
        if self._output_WV is None:
            return sums_NJ
        found: np.ndarray = sums_NJ[..., : self.tokens] + np.tanh(sums_NJ[..., self.tokens :]) @ self._output_WV
        return found

    def save(self, path: Path) -> None:
        np.savez(path, **self.tables)  # type: ignore[arg-type]  # numpy's stub takes keywords for its own flag

    @classmethod
    def load(cls, path: Path) -> Joiner:
        """The joiner in ``path``; ``UserError`` if it cannot be read or its tables do not fit together."""
        try:
            with np.load(path) as stored:
                tables = {name: np.asarray(stored[name], np.float32) for name in stored.files}
            found = cls(tables)
            V, E = tables["last_VE"].shape
            fits = tables["second_last_VE"].shape == (V, E) and tables["predict_EJ"].shape == (E, found.width)
            output = tables["output_WV"].shape if "output_WV" in tables else (0, V)
            if not fits or output != (found.width - V, V):
                raise ValueError("its tables have other shapes")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: cannot be read as a transducer ({error}); copy or export the student again"
            ) from error
        return found


class TransducerSpans:
    """Greedy search of a stream, with the interface of ``lalia.decoding.greedy.CtcSpans``.

    A token's confidence is its share of all tokens but the blank: the blank says when, not what.
    """

    def __init__(self, joiner: Joiner, frame_s: Seconds) -> None:
        self._joiner = joiner
        self._pause: Frames = max(1, round(PAUSE_S / frame_s))
        self._certain = math.log(BeamSettings().blank_skip)
        self._context = (0, 0)
        self._blanks: Frames = 0
        self._spans: list[TokenSpan] = []
        self.frames: Frames = 0
        """frames fed and not forgotten"""

    def feed(self, frames_TX: np.ndarray) -> None:
        """Process the next frames, (T, V + J)."""
        V = self._joiner.tokens
        uncertain = np.flatnonzero(frames_TX[:, 0] < self._certain)
        gaps = np.diff(uncertain, prepend=-1) - 1
        gaps[:1] += self._blanks
        begin = 0
        for place in [*np.flatnonzero(gaps >= self._pause).tolist(), len(uncertain)]:
            self._utterance(frames_TX, uncertain[begin:place], V)
            if place < len(uncertain):
                self._context = (0, 0)
            begin = place
        self._blanks = len(frames_TX) - 1 - int(uncertain[-1]) if len(uncertain) else self._blanks + len(frames_TX)
        self.frames += len(frames_TX)

    def _utterance(self, frames_TX: np.ndarray, places_T: np.ndarray, V: int) -> None:
        encoded_TJ = frames_TX[places_T, V:]
        at, emitted = 0, 0
        while at < len(places_T):
            scores_TV = self._joiner.scores(encoded_TJ[at : at + _AHEAD], self._joiner.predicted(*self._context))
            best_T = scores_TV.argmax(1)
            first = int((best_T != 0).argmax())
            token = int(best_T[first])
            if first or not token:
                emitted = 0
            if not token:
                at += len(best_T)
                continue
            at += first
            if emitted == MOST:
                at, emitted = at + 1, 0
                continue
            # Alone: a product of several frames rounds by their number, and blocks of any size give the same numbers.
            others_V = self._joiner.scores(encoded_TJ[at], self._joiner.predicted(*self._context))[1:]
            share = 1 / float(np.exp(others_V - others_V.max()).sum())
            frame = self.frames + int(places_T[at])
            self._spans.append(TokenSpan(token, frame, frame + 1, share))
            self._context = (self._context[1], token)
            emitted += 1

    def spans(self) -> list[TokenSpan]:
        """The tokens in the frames that are not forgotten."""
        return self._spans

    def forget(self, frames: Frames, spans: int) -> None:
        """Drop the first ``frames`` frames and ``spans`` tokens; what follows counts from there."""
        self._spans = [
            TokenSpan(span.token, span.start_frame - frames, span.end_frame - frames, span.confidence)
            for span in self._spans[spans:]
        ]
        self.frames -= frames


def transducer_greedy(joiner: Joiner, frame_s: Seconds, frames_TX: np.ndarray) -> list[TokenSpan]:
    """The tokens of a whole clip, (T, V + J)."""
    search = TransducerSpans(joiner, frame_s)
    search.feed(frames_TX)
    return search.spans()


# A text in the beam: score with the automaton's, acoustic score, number, its last two tokens, the automaton's state.
_Entry = tuple[float, float, int, int, int, int]


class TransducerBeam:
    """Time-synchronous beam search over one utterance (Saon et al. 2020), with the interface of ``lalia.decoding.beam.Beam``.

    Texts that meet in a frame are merged, and their probabilities added.
    """

    def __init__(self, automaton: CachedAutomaton, joiner: Joiner, settings: BeamSettings | None = None) -> None:
        self._automaton = automaton
        self._joiner = joiner
        self.settings = settings or BeamSettings()
        self.begin()

    def begin(self) -> None:
        """Start a new utterance."""
        self._prefixes = Prefixes(self._joiner.tokens)
        self._beam: list[_Entry] = [(0.0, 0.0, 0, 0, 0, self._automaton.begin())]

    def pause(self) -> None:
        """A certain blank changes nothing."""

    def frames(self, frames_TX: np.ndarray) -> None:
        """Process frames (T, V + J); those with a certain blank are left out by the caller."""
        for encoded_J in frames_TX[:, self._joiner.tokens :]:
            self._frame(encoded_J)

    def _frame(self, encoded_J: np.ndarray) -> None:
        settings, growing = self.settings, self._beam
        ended: dict[int, _Entry] = {}
        best = NEVER
        for step in range(MOST + 1):
            predicted_KJ = np.stack([self._joiner.predicted(entry[3], entry[4]) for entry in growing])
            scores_KV = self._joiner.scores(encoded_J, predicted_KJ).astype(np.float64)
            scores_KV -= scores_KV.max(1, keepdims=True)
            scores_KV -= np.log(np.exp(scores_KV).sum(1, keepdims=True))
            for entry, blank in zip(growing, scores_KV[:, 0].tolist(), strict=True):
                total, acoustic, number, *rest = entry
                acoustic, text = acoustic + blank, total - acoustic
                if number in ended:
                    acoustic = log_add(acoustic, ended[number][1])
                ended[number] = (acoustic + text, acoustic, number, *rest)
                best = max(best, acoustic + text)
            if step == MOST:
                break
            scores_KV[:, 0] = NEVER
            likely = np.nonzero(scores_KV >= settings.token_floor)
            grown: list[tuple[float, float, _Entry, int, int]] = []
            for k, token, score in zip(*(found.tolist() for found in likely), scores_KV[likely].tolist(), strict=True):
                entry = growing[k]
                if entry[0] + score < best - settings.width:
                    continue
                more, state = self._automaton.arc(entry[5], token)
                if entry[0] + score + more >= best - settings.width and more > NEVER:
                    grown.append((entry[0] + score + more, entry[1] + score, entry, token, state))
            grown = sorted(grown, key=lambda new: -new[0])[: settings.beam]
            growing = [
                (total, acoustic, self._prefixes.extend(entry[2], token), entry[4], token, state)
                for total, acoustic, entry, token, state in grown
            ]
            if not growing:
                break
        kept = sorted(ended.values(), key=lambda entry: -entry[0])[: settings.beam]
        self._beam = [entry for entry in kept if entry[0] >= best - settings.width]

    def best(self) -> list[Hypothesis]:
        """The texts in the beam that may end here, the best first; empty if none may."""
        found = [
            Hypothesis(self._prefixes.tokens(number), total + self._automaton.final(state), acoustic)
            for total, acoustic, number, _, _, state in self._beam
        ]
        return sorted((path for path in found if path.score > NEVER), key=lambda path: -path.score)
