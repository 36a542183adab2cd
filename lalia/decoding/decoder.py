"""Beam search decoding: log-probabilities in, words out, with a language model, hot words, a closed list or LSTM rescoring.

T frames, V tokens. ``make_decoder`` builds a ``Decoder`` and checks that its parts fit the model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lalia.decoding.automata import (
    Automaton,
    CachedAutomaton,
    ClosedList,
    HotWordList,
    HotWords,
    Phrases,
    TokenAutomaton,
    lm_automaton,
    read_closed,
    read_hot_words,
)
from lalia.decoding.beam import MOST_NODES, Beam, BeamSettings, ClosedSearch, Hypothesis, PhraseTree
from lalia.decoding.confidence import Evidence, confidence
from lalia.decoding.forced_alignment import align, frames_needed
from lalia.decoding.greedy import TokenSpan, Word, transcript, words
from lalia.decoding.transducer_search import Joiner, TransducerBeam
from lalia.errors import UserError
from lalia.lm.folder import BONUS, WEIGHT, LanguageModel, model_names
from lalia.lm.lstm import Lstm, LstmModel
from lalia.text.edit_distance import alignment
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens, spell, token_texts
from lalia.text.writing_system import WritingSystem
from lalia.units import Frames, Seconds

# --- What a decoder needs of the model -------------------------------------------------------------------


class AcousticModel(Protocol):
    """A CTC model that decoding, tuning and scoring can use: an ONNX ``Student``, or a recogniser in torch.

    Named as speech recognition names the part that turns audio into token probabilities, beside the language model;
    ``Recogniser`` is the torch module in ``lalia.models``.
    """

    @property
    def tokens(self) -> Tokens: ...

    @property
    def normaliser(self) -> Normaliser: ...

    @property
    def frame_s(self) -> Seconds:
        """Seconds from one frame of the output to the next."""
        ...

    @property
    def card(self) -> dict[str, Any]:
        """Its card; tuned weights are stored by the card's ``id``."""
        ...

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Natural log-probabilities (T, V) float32 of a wave (samples,), float32 at 16 kHz."""
        ...


def joiner_of(model: AcousticModel) -> Joiner | None:
    """The joiner that ``model`` is decoded with; None: it is decoded with its CTC head, as all but some students are."""
    found: Joiner | None = getattr(model, "joiner", None)
    return found


def frames_of(model: AcousticModel, wave: np.ndarray) -> np.ndarray:
    """What ``make_decoder`` of ``model`` is fed for a wave: its log-probabilities, and behind them what a joiner adds."""
    found: np.ndarray = model.log_probs(wave) if joiner_of(model) is None else model.frames(wave)  # type: ignore[attr-defined]
    return found


# --- Rescoring of n-best lists ---------------------------------------------------------------------------

Rescore = Callable[[list[Hypothesis]], list[Hypothesis]]
"""Takes an utterance's n-best list, the best first, and returns it with new scores, again the best first."""


class Rescorer:
    """Adds ``weight`` times an LSTM's log probability, and ``bonus`` for each letter, to the score of each hypothesis."""

    def __init__(self, lstm: Lstm, tokens: Tokens, weight: float, bonus: float) -> None:
        self._lstm = lstm
        self._spellings = token_texts(tokens)
        self.weight, self.bonus = weight, bonus

    def __call__(self, paths: list[Hypothesis]) -> list[Hypothesis]:
        """The hypotheses with their new scores, the best first."""
        if not self.weight or len(paths) < 2:
            return paths
        log_probs_N, letters_N = self.score_texts(paths)
        added_N = self.weight * log_probs_N + self.bonus * letters_N
        found = [replace(path, score=path.score + more) for path, more in zip(paths, added_N.tolist(), strict=True)]
        return sorted(found, key=lambda path: -path.score)

    def score_texts(self, paths: Sequence[Hypothesis]) -> tuple[np.ndarray, np.ndarray]:
        """(natural log probability of each text (N,), its number of letters (N,), spaces included)."""
        texts = [" ".join("".join(self._spellings[token] for token in path.tokens).split()) for path in paths]
        return self._lstm.log_probs([self._lstm.ids(text) for text in texts]), np.array([len(text) for text in texts])


# --- From log-probabilities to words ---------------------------------------------------------------------

PAUSE_S: Seconds = 1.0
"""A pause of this length ends an utterance; each utterance is searched separately."""
UTTERANCE_S: Seconds = 30.0
"""A longer utterance ends at the next certain blank, and in any case at twice this length."""
CLOSED = BeamSettings(beam=64, width=40.0, token_floor=-14.0)
"""For closed lists too long for exact search. A wide beam, since each letter of a spoken phrase may be unlikely."""
REJECT = 2.5
"""A phrase is rejected if its log-probability per token is lower than the greedy one's by more than this."""
_ALTERNATIVES = 8


@dataclass
class Decoded:
    """A decoding result: tokens with frames, words with times and confidence, and the features of each word's confidence."""

    spans: list[TokenSpan] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)


class Decoder:
    """Decodes frames as they arrive: ``feed`` any number of times, then ``finish``.

    Frames are log-probabilities (T, V); with the ``joiner`` of a transducer, what it adds stands behind them. Memory holds one
    utterance. ``rescorer`` rescores the n-best list of each utterance. Word times come from a forced alignment of the best
    text by the CTC head.
    """

    def __init__(
        self,
        tokens: Tokens,
        frame_s: Seconds,
        automata: Sequence[Automaton] = (),
        *,
        writing: WritingSystem | None = None,
        hot_words: dict[str, float] | None = None,
        only: Sequence[str] | None = None,
        reject: float = REJECT,
        weights: Sequence[float] | None = None,
        settings: BeamSettings | None = None,
        rescorer: Rescore | None = None,
        joiner: Joiner | None = None,
    ) -> None:
        if joiner is not None and only is not None:
            raise UserError("--only searches with the CTC head; leave out --decoder transducer")
        self.tokens = tokens
        self.frame_s = frame_s
        self.weights = weights
        """of ``confidence``, calibrated by tuning; None: not calibrated"""
        plain = WritingSystem()
        self.writing = writing or (plain.without_spaces() if tokens.boundary is None else plain)
        self._splits = self.writing.splits(tokens.symbols)
        self._reject = reject if only is not None else math.inf
        automata = list(automata)
        if hot_words:
            spelled = {spell(text, tokens): boost for text, boost in hot_words.items()}
            automata.append(HotWords(spelled, self.writing))
        self.settings = settings or (CLOSED if only is not None else BeamSettings())
        self._rescorer = rescorer
        self._beam: Beam | ClosedSearch | TransducerBeam
        self._joins_phrases = only is not None and not self.writing.spaced
        if only is not None and self._joins_phrases:
            only = [self.writing.join(text.split()) for text in only]
        tree = PhraseTree(only, tokens, automata, self.writing) if only is not None and settings is None else None
        if tree is not None and len(tree) <= MOST_NODES:
            self._beam = ClosedSearch(tree)
        else:
            if only is not None:
                automata.append(ClosedList([spell(text, tokens) for text in only], self.writing))
            automaton = CachedAutomaton(TokenAutomaton(tokens, automata), len(tokens))
            self._beam = (
                TransducerBeam(automaton, joiner, self.settings)
                if joiner is not None
                else Beam(automaton, len(tokens), self.settings)
            )
        self._pause: Frames = max(1, round(PAUSE_S / frame_s))
        self._long: Frames = max(1, round(UTTERANCE_S / frame_s))
        self.begin()

    def begin(self) -> None:
        """Start a new recording."""
        self._decoded = Decoded()
        self._now: Frames = 0
        self._next()

    def _next(self) -> None:
        self._beam.begin()
        self._kept: list[np.ndarray] = []  # log-probabilities of the utterance's frames, a run of certain blanks as one
        self._places: list[np.ndarray] = []  # the indices of those frames
        self._held = 0
        self._blanks: Frames = 0

    def decode(self, frames_TX: np.ndarray) -> Decoded:
        """Decode a whole recording, (T, V) natural log-probabilities (and what a joiner adds)."""
        self.begin()
        self.feed(frames_TX)
        return self.finish()

    def feed(self, frames_TX: np.ndarray) -> None:
        """Process the next frames, (T, V) natural log-probabilities (and what a joiner adds)."""
        if not len(frames_TX):
            return
        blank_T = frames_TX[:, 0] >= math.log(self.settings.blank_skip)
        edges = np.flatnonzero(np.diff(blank_T, prepend=~blank_T[:1])).tolist()
        for start, end in zip(edges, [*edges[1:], len(blank_T)], strict=True):
            if blank_T[start]:
                self._rest(frames_TX, start, end)
            else:
                self._search(frames_TX, start, end)
        self._now += len(frames_TX)

    def _rest(self, frames_TX: np.ndarray, start: int, end: int) -> None:
        """Process certain blanks: one of them separates two equal letters, many end the utterance."""
        if self._held and not self._blanks:
            self._beam.pause()
            self._keep(frames_TX, start, start + 1)
        self._blanks += end - start
        if self._held and (self._blanks >= self._pause or self._held > self._long):
            self._close()

    def _search(self, frames_TX: np.ndarray, start: int, end: int) -> None:
        self._blanks = 0
        while start < end:
            stop = min(end, start + max(1, 2 * self._long - self._held))
            self._beam.frames(frames_TX[start:stop])
            self._keep(frames_TX, start, stop)
            start = stop
            if self._held >= 2 * self._long:
                self._close()

    def _keep(self, frames_TX: np.ndarray, start: int, end: int) -> None:
        self._kept.append(frames_TX[start:end, : len(self.tokens)])
        self._places.append(np.arange(self._now + start, self._now + end))
        self._held += end - start

    def finish(self) -> Decoded:
        """The result of all frames fed; the next ``feed`` starts a new recording."""
        if self._held:
            self._close()
        decoded = self._decoded
        self.begin()
        return decoded

    @property
    def finished(self) -> Decoded:
        """The result of the utterances that have ended; it grows as more of them end."""
        return self._decoded

    @property
    def in_utterance(self) -> bool:
        """Whether an utterance is unfinished."""
        return bool(self._held)

    def _close(self) -> None:
        """End the utterance and add its result."""
        paths = self._beam.best()
        if isinstance(self._beam, TransducerBeam):
            # It may emit several tokens in a frame: of its texts, those are taken that CTC can align.
            paths = [path for path in paths if frames_needed(path.tokens) <= self._held]
        if self._rescorer is not None:
            paths = self._rescorer(paths)
        log_probs_TV = np.concatenate(self._kept)
        places_T = np.concatenate(self._places)
        self._next()
        if self._joins_phrases:
            paths = [replace(path, tokens=self._without_spaces(path.tokens)) for path in paths]
        if not paths or not paths[0].tokens or self._rejected(paths[0], log_probs_TV):
            return
        spans = _token_spans(log_probs_TV, places_T, paths[0].tokens)
        found = words(spans, self.tokens, self.frame_s, self.writing)
        evidence = self._evidence(paths, spans, found)
        boundary = self.tokens.boundary
        if self._decoded.words and found:
            before, first = self._decoded.words[-1].text, spans[0].start_frame
            if boundary is not None and self.writing.pause_between(before[-1], found[0].text[0]):
                self._decoded.spans.append(TokenSpan(boundary, first, first, 1.0))
            else:
                found[0] = replace(found[0], joined=True)
        self._decoded.spans += spans
        self._decoded.evidence += evidence
        self._decoded.words += [
            replace(word, confidence=confidence(e, self.weights)) for word, e in zip(found, evidence, strict=True)
        ]

    def _without_spaces(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a phrase without the spaces that nobody writes there."""
        texts = ["", *(self.tokens.symbols[token] for token in tokens), ""]
        around = zip(texts, texts[2:], strict=False)
        return tuple(
            token
            for token, (before, after) in zip(tokens, around, strict=True)
            if token != self.tokens.boundary or (before and after and self.writing.space_between(before[-1], after[0]))
        )

    def _rejected(self, path: Hypothesis, log_probs_TV: np.ndarray) -> bool:
        free = float(log_probs_TV.max(axis=1).sum())
        return free - path.acoustic > self._reject * len(path.tokens)

    def _evidence(
        self, paths: Sequence[Hypothesis], spans: Sequence[TokenSpan], found: Sequence[Word]
    ) -> list[Evidence]:
        scores = np.array([path.score for path in paths[:_ALTERNATIVES]])
        share_K = np.exp(scores - scores.max())
        share_K /= share_K.sum()
        text = " ".join(word.text for word in found)
        shares = np.full(len(found), float(share_K[0]))
        for path, share in zip(paths[1:_ALTERNATIVES], share_K[1:].tolist(), strict=False):
            if share < 1e-4:
                break
            steps = alignment(text, self._words(path))
            same = [step.kind == "equal" for step in steps if step.kind != "insertion"]
            shares[same] += share
        return [
            Evidence(word.confidence, min(lowest), float(share))
            for word, lowest, share in zip(
                found, _probabilities_by_word(spans, found, self.frame_s), shares, strict=True
            )
        ]

    def _words(self, path: Hypothesis) -> str:
        """The words of a hypothesis, separated by spaces, as ``words`` splits them (faster if spaces separate them)."""
        spans = [TokenSpan(token, 0, 0, 0.0) for token in path.tokens]
        if not self._splits:
            return transcript(spans, self.tokens)
        return " ".join(word.text for word in words(spans, self.tokens, self.frame_s, self.writing))


def _token_spans(log_probs_TV: np.ndarray, places_T: np.ndarray, tokens: Sequence[int]) -> list[TokenSpan]:
    """The frames of each of ``tokens`` on the best path, and its highest probability in them."""
    path_T = align(log_probs_TV, list(tokens))
    frames = np.flatnonzero(path_T >= 0)
    _, first, count = np.unique(path_T[frames], return_index=True, return_counts=True)
    return [
        TokenSpan(
            token,
            int(places_T[frames[start]]),
            int(places_T[frames[start + many - 1]]) + 1,
            min(1.0, math.exp(float(log_probs_TV[frames[start : start + many], token].max()))),
        )
        for token, start, many in zip(tokens, first.tolist(), count.tolist(), strict=True)
    ]


def _probabilities_by_word(spans: Sequence[TokenSpan], found: Sequence[Word], frame_s: Seconds) -> list[list[float]]:
    """The probabilities of the letters of each word: those of the spans within its times."""
    places = iter(spans)
    gathered = []
    span = next(places, None)
    for word in found:
        letters: list[float] = []
        while span is not None and round(span.end_frame * frame_s, 3) <= word.end_s:
            if round(span.start_frame * frame_s, 3) >= word.start_s:
                letters.append(span.confidence)
            span = next(places, None)
        gathered.append(letters or [word.confidence])
    return gathered


def text_of(decoded: Decoded, tokens: Tokens) -> str:
    """The text of what was decoded, words separated by one space."""
    return transcript(decoded.spans, tokens)


# --- The decoder of a model ------------------------------------------------------------------------------

RESCORING = {"weight": 0.2, "bonus": 0.3, "confidence": None}
"""The LSTM's weight and bonus per letter until they are tuned."""


def make_decoder(
    model: AcousticModel,
    lm: LanguageModel | Path | str | None = None,
    *,
    rescore: LstmModel | Rescore | Path | str | None = None,
    hot_words: Path | dict[str, float] | None = None,
    only: Path | Sequence[str] | None = None,
    weight: float | None = None,
    bonus: float | None = None,
    settings: BeamSettings | None = None,
) -> Decoder:
    """A decoder for ``model``: beam search with a language model, hot words, a closed list of phrases, or several of them.

    ``weight`` and ``bonus`` default to the values tuned for this model. ``rescore`` is an LSTM, or a function, that rescores
    the n-best lists found with ``lm``. ``hot_words`` is a file of phrases, or normalised phrases with boosts as natural
    logarithms; ``only`` is a file of phrases with ``(a|b)`` and ``[a]``, or normalised phrases. A student ``with_transducer``
    is searched with it. ``UserError`` if the model has no tokens for them, or if they cannot be combined.
    """
    automata: list[Automaton] = []
    weights: Sequence[float] | None = None
    rescorer: Rescore | None = None
    if rescore is not None and lm is None:
        raise UserError("--rescore rescores what beam search with n-grams found; give the n-grams as --lm")
    if rescore is not None and only is not None:
        raise UserError("--rescore has no effect with the closed list of --only; leave one of them out")
    if lm is not None:
        language_model = lm if isinstance(lm, LanguageModel) else LanguageModel.load(lm)
        language_model.check(model.tokens, model.normaliser)
        tuned = language_model.tuned(model_names(model.card))
        weights = tuned["confidence"]
        if callable(rescore):
            rescorer = rescore
        elif rescore is not None:
            lstm = rescore if isinstance(rescore, LstmModel) else LstmModel.load(rescore)
            lstm.check(model.tokens, model.normaliser)
            found = {**RESCORING, **(lstm.find_tuned(pair_names(model, language_model)) or {})}
            rescorer = Rescorer(lstm.lstm, model.tokens, found["weight"], found["bonus"])
            # The LSTM was tuned on what these n-grams found with this weight and bonus.
            tuned = {"weight": found.get("lm_weight", tuned["weight"]), "bonus": found.get("lm_bonus", tuned["bonus"])}
            weights = found["confidence"]
        automata.append(
            lm_automaton(
                language_model,
                tuned["weight"] if weight is None else weight,
                tuned["bonus"] if bonus is None else bonus,
            )
        )
    if isinstance(hot_words, Path):
        hot_words = read_hot_words(hot_words, model.normaliser, model.tokens)
    if isinstance(only, Path):
        only = read_closed(only, model.normaliser, model.tokens)
    return Decoder(
        model.tokens, model.frame_s, automata, writing=model.normaliser.output_writing,
        hot_words=hot_words, only=only, weights=weights, settings=settings, rescorer=rescorer,
        joiner=joiner_of(model),
    )  # fmt: skip


@dataclass(frozen=True)
class DecodingInputs:
    """What the decoders of several requests or threads share; a decoder serves one of them at a time."""

    lm: LanguageModel | None = None
    rescore: LstmModel | None = None
    hot_words: Mapping[str, float] = field(default_factory=dict)
    """normalised phrases and their boosts"""
    only: Sequence[str] | None = None
    """the closed list of normalised phrases"""

    @classmethod
    def load(
        cls,
        model: AcousticModel,
        lm: LanguageModel | Path | str | None = None,
        *,
        rescore: LstmModel | Path | str | None = None,
        hot_words: HotWordList | None = None,
        only: Phrases | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> DecodingInputs:
        """From folders and lists of phrases for ``model``; how the program, the server and ``Student.load`` read them.

        ``warn`` gets a line if the weight of ``lm`` is not tuned for the model, or if hot words cannot be written.
        """
        language_model = LanguageModel.load(lm) if isinstance(lm, (str, Path)) else lm
        lstm = LstmModel.load(rescore) if isinstance(rescore, (str, Path)) else rescore
        hot = read_hot_words(hot_words, model.normaliser, model.tokens, warn) if hot_words is not None else {}
        phrases = read_closed(only, model.normaliser, model.tokens) if only is not None else None
        if language_model is not None and language_model.find_tuned(model_names(model.card)) is None:
            name = lm if isinstance(lm, (str, Path)) else "the language model"
            warn(
                f"{name}: its LM weight is not tuned for this student, so the defaults are used (weight {WEIGHT:g}, bonus"
                f" {BONUS:g}); run: lalia tune STUDENT CORPUS --lm {lm if isinstance(lm, (str, Path)) else 'LM'}"
                + " --decoder transducer"
                * (joiner_of(model) is not None)
            )
        return cls(language_model, lstm, hot, phrases)

    def decoder(self, model: AcousticModel, hot_words: Mapping[str, float] | None = None) -> Decoder | None:
        """A decoder for ``model``, with more ``hot_words``; None: nothing is given, so decoding is greedy."""
        hot = {**self.hot_words, **(hot_words or {})}
        if self.lm is None and self.rescore is None and not hot and self.only is None:
            return None
        return make_decoder(model, self.lm, rescore=self.rescore, hot_words=hot or None, only=self.only)


def pair_names(model: AcousticModel, lm: LanguageModel) -> list[str]:
    """The names, in an LSTM's card, of its tuning for ``model`` and the n-grams ``lm``."""
    return [f"{name} {lm.id}" for name in model_names(model.card)]
