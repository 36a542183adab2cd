"""Best path: equal to the slow, obvious decoder; words stand where their letters are."""

from __future__ import annotations

import numpy as np
import pytest

from lalia.decoding.greedy import StreamingGreedy, TokenSpan, collapse, greedy, peaks, text_of_words, transcript, words
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.tokens import BOUNDARY, Tokens
from lalia.text.unicode import is_jamo, to_jamo

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
    assert text_of_words(found) == transcript(greedy(log_probs("你_好ab|a")), TOKENS) == "你好ab a"


def spelled(text: str, tokens: Tokens) -> np.ndarray:
    """Log-probabilities of ``text``, two frames for each token; "_" is 20 frames of blanks."""
    ids = [[0] * 20 if c == "_" else [tokens.symbols.index(BOUNDARY if c == " " else c)] * 2 + [0] for c in text]
    path = [token for part in ids for token in part]
    probs = np.full((len(path), len(tokens)), 1e-3)
    probs[np.arange(len(path)), path] = 1.0
    return np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("language", "said", "text"),
    [
        ("tha", "ไปเที่ยว กรุงเทพ", "ไปเที่ยว กรุงเทพ"),  # a space between phrases
        ("tha", "ไปเที่ยว_กรุงเทพ", "ไปเที่ยวกรุงเทพ"),  # a pause is no space
        ("ksw", "ပှၤ တဂၤ_စုာ်စုာ်", "ပှၤ တဂၤ စုာ်စုာ်"),  # Karen has spaces between words, in the letters of Burmese
        ("mya", "မြန်မာ_ဘာသာ", "မြန်မာဘာသာ"),
        ("eng", "go_on now", "go on now"),
        ("cmn", "我们 ok_北京", "我们 ok 北京"),
        ("bod", "བོད་_ཡིག", "བོད་ཡིག"),
    ],
)
def test_streams_keep_the_spaces_of_the_writing(language: str, said: str, text: str) -> None:
    """Each space that the model writes is kept, and a pause between words is one only where the language has it."""
    tokens = Tokens(["<blank>", "|", *sorted(set(said) - set(" _"))])
    writing = Normaliser(settings_for(language, spaces="keep")).writing
    frames = spelled(said, tokens)
    for step in (1, 3, 7, len(frames)):
        streaming = StreamingGreedy(tokens, 0.04, writing)
        found = [word for at in range(0, len(frames), step) for word in streaming.feed(frames[at : at + step])]
        found += streaming.finish()
        assert text_of_words(found) == text
    if "_" not in said:
        assert words(greedy(frames), tokens, 0.04, writing) == found
        assert text_of_words(found) == transcript(greedy(frames), tokens)


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
