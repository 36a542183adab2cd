"""Best path: equal to the slow, obvious decoder; words stand where their letters are."""

from __future__ import annotations

import numpy as np
import pytest

from lalia.decoding.greedy import TokenSpan, collapse, greedy, peaks, transcript, words
from lalia.text.tokens import Tokens
from lalia.text.unicode import is_jamo, to_jamo
from lalia.text.writing_system import join_words

TOKENS = Tokens(["<blank>", "|", "a", "b", "c", "你", "好"])


def log_probs(path: str, top: float = 0.9) -> np.ndarray:
    """Log-probabilities whose best path is ``path``, one symbol per frame, ``_`` for the blank."""
    ids = [0 if s == "_" else TOKENS.symbols.index(s) for s in path]
    probs = np.full((len(ids), len(TOKENS)), (1 - top) / (len(TOKENS) - 1), dtype=np.float32)
    probs[np.arange(len(ids)), ids] = top
    return np.log(probs)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("aa_bb|_|cc", "ab c"),
        ("a_aab", "aab"),
        ("||ab__||", "ab"),
        ("____", ""),
        ("", ""),
        ("你你_好", "你好"),
    ],
)
def test_transcript(path: str, text: str) -> None:
    assert transcript(greedy(log_probs(path)), TOKENS) == text


def test_equal_to_the_obvious_loop() -> None:
    draw = np.random.default_rng(1)
    for _ in range(100):
        logits = draw.normal(size=(40, len(TOKENS))) * 3
        log_probs_TV = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        slow, previous = [], 0
        for frame in range(40):
            token = int(log_probs_TV[frame].argmax())
            if token not in (0, previous):
                slow.append([token, frame, frame + 1, float(np.exp(log_probs_TV[frame, token]))])
            elif token and token == previous:
                slow[-1][2] = frame + 1
                slow[-1][3] = max(slow[-1][3], float(np.exp(log_probs_TV[frame, token])))
            previous = token
        fast = greedy(log_probs_TV)
        assert [(h.token, h.start_frame, h.end_frame) for h in fast] == [tuple(s[:3]) for s in slow]
        np.testing.assert_allclose([h.confidence for h in fast], [s[3] for s in slow], rtol=1e-5)


def test_peaks_of_pieces_collapse_as_the_whole() -> None:
    log_probs_TV = log_probs("aaa_bb|ccc_c|b")
    for cut in range(1, len(log_probs_TV)):
        first, second = peaks(log_probs_TV[:cut]), peaks(log_probs_TV[cut:])
        joined = collapse(np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]]))
        assert joined == greedy(log_probs_TV)


def test_words_with_times() -> None:
    found = words(greedy(log_probs("_aab_|_cc_|_")), TOKENS, frame_s=0.04)
    assert [(w.text, w.start_s, w.end_s) for w in found] == [("ab", 0.04, 0.16), ("c", 0.28, 0.36)]
    assert all(w.confidence == pytest.approx(0.9) for w in found)


def test_ideographs_are_words_each() -> None:
    found = words(greedy(log_probs("你_好ab|a")), TOKENS, frame_s=0.02)
    assert [w.text for w in found] == ["你", "好", "ab", "a"]
    assert join_words(w.text for w in found) == "你好 ab a"


HANGUL = Tokens(["<blank>", "|", *sorted(set(to_jamo("한글말아이")) | {"a"})])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ("\u1112\u1161\u11ab|\u1100\u1173\u11af", "한 글"),
        ("\u1161\u11ab", "안"),  # a vowel alone begins with the silent consonant
        ("\u1112\u1112\u1161", "하"),  # a consonant that no vowel follows
        ("\u1112|\u1161\u1100", "아"),
        ("\u11ab\u1112\u1161\u11ab\u11ab", "한"),  # finals without a vowel
        ("\u1112\u1161a\u11af", "하a"),
        ("\u11af", ""),
    ],
)
def test_hangul_has_no_stray_parts(parts: str, text: str) -> None:
    spans = [TokenSpan(HANGUL.symbols.index(part), 2 * i, 2 * i + 1, 0.9) for i, part in enumerate(parts)]
    assert transcript(spans, HANGUL) == text
    assert [word.text for word in words(spans, HANGUL, 0.02)] == text.split()


def test_hangul_of_any_probabilities_is_whole_syllables() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        spans = greedy(draw.normal(size=(60, len(HANGUL))).astype(np.float32))
        text = transcript(spans, HANGUL)
        assert not any(map(is_jamo, text)) and set(text) - set("a ")
        # the words differ only where a boundary stands between a syllable's parts
        assert not any(is_jamo(letter) for word in words(spans, HANGUL, 0.02) for letter in word.text)
