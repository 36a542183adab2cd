"""Transducer decoding against slow sums over all paths, in blocks of any size, and with a language model and hot words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lalia.decoding.automata import Automaton, CachedAutomaton, HotWords, TokenAutomaton
from lalia.decoding.beam import BeamSettings
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import StreamingGreedy, text_of_words, transcript
from lalia.decoding.transducer_search import MOST, Joiner, TransducerBeam, TransducerSpans
from lalia.errors import UserError
from lalia.text.tokens import Tokens

TOKENS = Tokens(["<blank>", "|", "a", "b"])
V, E, FRAME_S = 4, 5, 0.04


def random_joiner(seed: int, width: int = 0) -> Joiner:
    draw = np.random.default_rng(seed)
    shapes = {"last_VE": (V, E), "second_last_VE": (V, E), "predict_EJ": (E, V + width), "predict_J": (V + width,)}
    shapes |= {"output_WV": (width, V)} if width else {}
    return Joiner({name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def random_frames(seed: int, T: int, joiner: Joiner, blank: float = 0.5) -> np.ndarray:
    """Frames whose CTC blank has the probability ``blank``."""
    log_probs_TV = np.log(np.full((T, V), (1 - blank) / (V - 1), np.float32))
    log_probs_TV[:, 0] = np.log(blank)
    joint_TJ = np.random.default_rng(seed).normal(size=(T, joiner.width), scale=2).astype(np.float32)
    return np.concatenate([log_probs_TV, joint_TJ], 1)


def text_probability(joiner: Joiner, encoded_TJ: np.ndarray, text: tuple[int, ...]) -> float:
    """The sum over all places of the text's tokens in the frames, at most ``MOST`` in one."""
    total = 0.0
    for places in itertools.combinations_with_replacement(range(len(encoded_TJ)), len(text)):
        if any(places.count(t) > MOST for t in places):
            continue
        path, before, emitted = 0.0, (0, 0), 0
        for t, encoded_J in enumerate(encoded_TJ):
            while True:
                scores_V = joiner.scores(encoded_J, joiner.predicted(*before)).astype(np.float64)
                log_probs_V = scores_V - np.log(np.exp(scores_V).sum())
                if emitted == len(text) or places[emitted] != t:
                    path += log_probs_V[0]
                    break
                path += log_probs_V[text[emitted]]
                before, emitted = (before[1], text[emitted]), emitted + 1
        total += np.exp(path)
    return total


@pytest.mark.parametrize("width", [0, 6])
def test_an_unpruned_beam_sums_all_paths(width: int) -> None:
    joiner = random_joiner(1, width)
    frames_TX = random_frames(2, 3, joiner)
    automaton = CachedAutomaton(TokenAutomaton(TOKENS, []), V)
    beam = TransducerBeam(automaton, joiner, BeamSettings(100_000, 1000.0, -1000.0))
    beam.frames(frames_TX)
    found = {path.tokens: path.acoustic for path in beam.best()}
    for text in [(), (2,), (2, 2), (3, 2), (1, 3, 2), (2, 2, 2, 2)]:
        assert np.exp(found[text]) == pytest.approx(text_probability(joiner, frames_TX[:, V:], text), rel=1e-4)
    assert beam.best()[0].acoustic == max(found.values())


def slow_greedy(joiner: Joiner, frames_TX: np.ndarray) -> list[int]:
    found: list[int] = []
    for frame_X in frames_TX:
        for _ in range(MOST):
            before = [0, 0, *found][-2:]
            token = int(joiner.scores(frame_X[V:], joiner.predicted(*before)).argmax())
            if not token:
                break
            found.append(token)
    return found


@pytest.mark.parametrize("width", [0, 6])
def test_greedy_equals_a_loop_over_frames_in_blocks_of_any_size(width: int) -> None:
    for seed in range(5):
        joiner = random_joiner(seed, width)
        frames_TX = random_frames(seed, 70, joiner)
        frames_TX[:, V] += 2  # more blanks, so that runs of them are longer than what is scored at once
        at_once = TransducerSpans(joiner, FRAME_S)
        at_once.feed(frames_TX)
        assert [span.token for span in at_once.spans()] == slow_greedy(joiner, frames_TX)
        assert all(0 < span.confidence <= 1 for span in at_once.spans())
        for step in (1, 7):
            blocks = TransducerSpans(joiner, FRAME_S)
            for start in range(0, 70, step):
                blocks.feed(frames_TX[start : start + step])
            assert blocks.spans() == at_once.spans()


def test_certain_blanks_are_left_out_and_a_pause_begins_a_new_text() -> None:
    joiner = random_joiner(3)
    speech, silence = random_frames(4, 12, joiner), random_frames(5, 40, joiner, blank=0.9999)
    alone = TransducerSpans(joiner, FRAME_S)
    alone.feed(speech)
    twice = TransducerSpans(joiner, FRAME_S)
    for part in (silence[:3], speech, silence[:20], silence[20:], speech):
        twice.feed(part)
    tokens = [span.token for span in alone.spans()]
    assert [span.token for span in twice.spans()] == tokens * 2
    assert twice.spans()[len(tokens)].start_frame == alone.spans()[0].start_frame + 3 + 12 + 40


def spelling(text: str, joiner: Joiner, per_letter: int = 3) -> np.ndarray:
    """Frames in which CTC and a transducer without a predictor spell ``text``: a letter, then blanks."""
    frames = []
    for token in TOKENS.encode(text):
        for step in range(per_letter):
            scores = np.full(V, -8.0)
            scores[0] = -4.0
            scores[token if step == 0 else 0] = 0.0
            log_probs = scores - np.log(np.exp(scores).sum())
            frames.append(np.concatenate([log_probs, scores]))
    return np.array(frames, np.float32)


def plain_joiner() -> Joiner:
    """Lets the encoder decide: after a token, the same one is unlikely, so that it is not emitted again in its frame."""
    tables = {
        "last_VE": np.eye(V),
        "second_last_VE": np.zeros((V, V)),
        "predict_EJ": -20 * np.eye(V),
        "predict_J": np.zeros(V),
    }
    tables["predict_EJ"][0] = 0
    return Joiner({name: table.astype(np.float32) for name, table in tables.items()})


def test_words_have_times_and_a_stream_gives_the_words_of_the_whole() -> None:
    joiner, text = plain_joiner(), "ab ba ab"
    frames_TX = spelling(text, joiner)
    decoder = Decoder(TOKENS, FRAME_S, joiner=joiner)
    found = decoder.decode(frames_TX)
    assert text_of(found, TOKENS) == text
    assert [word.start_s for word in found.words] == [0.0, 0.36, 0.72]
    assert all(word.confidence > 0.9 for word in found.words)
    streaming = StreamingGreedy(TOKENS, FRAME_S, search=TransducerSpans(joiner, FRAME_S))
    words = []
    for frame in range(len(frames_TX)):
        words += streaming.feed(frames_TX[frame : frame + 1])
    assert text_of_words(words) == "ab ba"
    assert text_of_words(words + streaming.finish()) == text


def test_two_tokens_in_a_frame_are_both_kept_by_a_stream() -> None:
    """A word boundary and the next word's first letter in one frame: the boundary ends the word, the letter stays."""
    joiner = plain_joiner()
    frames_TX = spelling("ab ba", joiner)
    frames_TX = np.concatenate([frames_TX[:6], frames_TX[8:]])  # the boundary's frame, then the letter's
    frames_TX[6, V + 1] = 3.0  # the boundary first, then the letter, which has the second best score
    streaming = StreamingGreedy(TOKENS, FRAME_S, search=TransducerSpans(joiner, FRAME_S))
    words = [word for frame in range(len(frames_TX)) for word in streaming.feed(frames_TX[frame : frame + 1])]
    search = TransducerSpans(joiner, FRAME_S)
    search.feed(frames_TX)
    assert text_of_words(words + streaming.finish()) == transcript(search.spans(), TOKENS)


class Never:
    """An automaton that forbids a letter."""

    start = 0

    def __init__(self, letter: str) -> None:
        self._letter = letter

    def letter(self, state: int, letter: str) -> tuple[float, int]:
        return (-np.inf if letter == self._letter else 0.0), state

    def end(self, state: int) -> float:
        return 0.0


def test_automata_and_hot_words_change_the_text() -> None:
    joiner = plain_joiner()
    frames_TX = spelling("ab", joiner)
    frames_TX[3, V + 2] = frames_TX[3, V + 3] - 1.0  # a is nearly as likely as b
    never_b: list[Automaton] = [Never("b")]
    assert text_of(Decoder(TOKENS, FRAME_S, joiner=joiner).decode(frames_TX), TOKENS) == "ab"
    assert "b" not in text_of(Decoder(TOKENS, FRAME_S, never_b, joiner=joiner).decode(frames_TX), TOKENS)
    joiner.predicted(0, 2)[2] = -6.0  # "aa" is possible, but unlikely
    assert text_of(Decoder(TOKENS, FRAME_S, joiner=joiner).decode(frames_TX), TOKENS) == "ab"
    hot = [HotWords({"aa": 12.0})]
    assert text_of(Decoder(TOKENS, FRAME_S, hot, joiner=joiner).decode(frames_TX), TOKENS) == "aa"


def test_a_closed_list_needs_the_ctc_head() -> None:
    with pytest.raises(UserError, match="--decoder transducer"):
        Decoder(TOKENS, FRAME_S, only=["ab"], joiner=plain_joiner())


def test_a_joiner_is_stored_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "transducer.npz"
    joiner = random_joiner(0, 6)
    joiner.save(path)
    loaded = Joiner.load(path)
    encoded = np.ones(V + 6, np.float32)
    assert (loaded.scores(encoded, loaded.predicted(1, 2)) == joiner.scores(encoded, joiner.predicted(1, 2))).all()
    Joiner({**joiner.tables, "output_WV": joiner.tables["output_WV"][:, 1:]}).save(path)
    with pytest.raises(UserError, match="other shapes"):
        Joiner.load(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="cannot be read as a transducer"):
        Joiner.load(path)
