"""Decoding with what is known of the language: models, hot words, closed lists; times, confidence, pauses."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalia.decoding.automata import (
    Automaton,
    ClosedList,
    HotWords,
    LetterModel,
    TokenAutomaton,
    WordModel,
    expand,
    read_closed,
    read_hot_words,
)
from lalia.decoding.beam import BeamSettings, ClosedSearch, PhraseTree
from lalia.decoding.confidence import Evidence, calibrate, confidence, expected_error, reliability
from lalia.decoding.decoder import CLOSED, Decoder, text_of
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.lm.ngrams import estimate
from lalia.scoring.tuning import word_evidence
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.tokens import Tokens, spell, token_texts
from lalia.text.writing_system import WritingSystem, writing_system

TOKENS = Tokens(["<blank>", "|", *"abcdehinorst"])
ALPHABET = Tokens(["<blank>", "|", *"abcdefghijklmnopqrstuvwxyz"])
FRAME_S = 0.04


def log_probs(path: str, sure: float = 0.9, **doubts: str) -> np.ndarray:
    """Log-probabilities of ``path``, a symbol per frame, ``_`` the blank; ``t5="s"`` doubts frame 5: maybe s."""
    ids = [0 if s == "_" else TOKENS.symbols.index("|" if s == " " else s) for s in path]
    probs = np.full((len(ids), len(TOKENS)), (1 - sure) / (len(TOKENS) - 1))
    probs[np.arange(len(ids)), ids] = sure
    for frame, letter in doubts.items():
        t = int(frame[1:])
        probs[t, TOKENS.symbols.index(letter)] = sure * 0.8
    probs[np.array(ids) == 0] = np.eye(len(TOKENS))[0] + 1e-6
    return np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)


def decode(log_probs_TV: np.ndarray, *automata: Automaton, **options: object) -> str:
    return text_of(Decoder(TOKENS, FRAME_S, automata, **options).decode(log_probs_TV), TOKENS)  # type: ignore[arg-type]


def test_nothing_known_is_best_path() -> None:
    for path in ("n_oo_n||iss_s_i_", "", "____", "a_b|"):
        log_probs_TV = log_probs(path)
        assert decode(log_probs_TV) == transcript(greedy(log_probs_TV), TOKENS)


def test_language_models_correct_a_letter() -> None:
    """The sound says "a rad", and "red" nearly as much: both models have read that it is red."""
    sound = log_probs("a_|_r_a_d_", t6="e")
    assert decode(sound) == "a rad"
    text = ["a red hood", "a red rose is red", "the red door", "red", "a hand"] * 3
    letters = estimate([list(line.replace(" ", "|")) for line in text], 4)
    words = estimate([line.split() for line in text], 2)
    assert decode(sound, LetterModel(letters, 0.5, 0.5)) == "a red"
    assert decode(sound, WordModel(words, 0.5, 1.0)) == "a red"
    assert decode(log_probs("s_o_n_"), WordModel(words, 0.3, 0.0)) == "son", "a word that it has never read"


def test_hot_words() -> None:
    sound = log_probs("a_|_r_a_d_", t6="e")
    assert decode(sound, hot_words={"red": 3.0}) == "a red"
    assert decode(sound, hot_words={"re": 3.0}) == "a rad", "a hot word is a whole word"
    assert decode(sound, hot_words={"red rose": 3.0}) == "a rad", "what was given on the way is taken back"
    assert decode(sound, hot_words={"rad": -3.0}) == "a red"


def test_hot_words_score_as_counted_by_hand() -> None:
    """Each whole word that is there adds its boost, and nothing else does."""
    boosts = {"on": 2.0, "on a": 3.0, "a car": 5.0, "cart": 1.0}
    automaton = TokenAutomaton(TOKENS, [HotWords(boosts)])
    for text, boost in {
        "on": 2,
        "on a": 5,
        "on a car": 10,
        "a cart": 1,
        "on a cart": 6,
        "once": 0,
        "": 0,
        "no a": 0,
    }.items():
        score, state = 0.0, automaton.start
        for token in TOKENS.encode(text):
            more, state = automaton.arc(state, token)
            score += more
        assert score + automaton.final(state) == pytest.approx(boost), text
        assert score + sum((automaton.arc(state, 1)[0], automaton.final(automaton.arc(state, 1)[1]))) == pytest.approx(
            boost
        )


def test_closed_vocabulary() -> None:
    words = ["on", "rose", "a red hat", "a hat"]
    assert decode(log_probs("r_o_s_t_"), only=words) == "rose"
    assert decode(log_probs("a_|_r_o_d_|_h_a_t"), only=words) == "a red hat"
    assert decode(log_probs("____"), only=words) == ""
    assert decode(log_probs("b_e_b_b_e_b"), only=words) == "", "nothing of the list was said"


def test_closed_vocabulary_is_the_likeliest_of_the_list() -> None:
    """Of random sounds it finds what scoring every phrase on its own finds, or nothing."""
    words = ["on", "no", "oh", "rose", "a hat", "a red door"]
    draw = np.random.default_rng(3)
    for _ in range(8):
        logits = draw.normal(size=(16, len(TOKENS))) * 2
        logits[:, 1] -= 8.0  # few rows of tokens have more boundaries than those below
        log_probs_TV = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        # A boundary in front or behind is another row of tokens, but the same text.
        texts = [f"{first}{text}{last}" for text in ["", *words] for first in ("", " ") for last in ("", " ")]
        slow = {written: total_log_prob(log_probs_TV, TOKENS.encode(written)) for written in texts}
        for settings in (None, BeamSettings(200, 100.0, -50.0)):  # a search of each phrase, and a wide beam
            found = text_of(
                Decoder(TOKENS, FRAME_S, only=words, reject=math.inf, settings=settings).decode(log_probs_TV), TOKENS
            )
            assert found == max(slow, key=slow.__getitem__).strip()


def test_every_phrase_has_the_probability_of_all_its_paths() -> None:
    tokens = Tokens(["<blank>", "a", "b", "c"])
    phrases = ["a", "ab", "aa", "aab", "cab", "abba", "bb"]
    logits = np.random.default_rng(4).normal(size=(9, len(tokens))) * 2
    log_probs_TV = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    search = ClosedSearch(PhraseTree(phrases, tokens, []))
    search.frames(log_probs_TV[:4])
    search.frames(log_probs_TV[4:])
    found = {path.tokens: path.acoustic for path in search.best()}
    slow = {tuple(tokens.encode(text)): total_log_prob(log_probs_TV, tokens.encode(text)) for text in ["", *phrases]}
    assert found == pytest.approx(slow)
    search.begin()
    search.pause()
    assert [(path.tokens, path.acoustic) for path in search.best()] == [((), 0.0)]


def test_a_closed_list_and_hot_words() -> None:
    """A search of each phrase and a wide beam agree, whatever else is known of the language."""
    words, hot = ["on", "no", "oh", "ahat", "noon"], {"on": 2.0, "ahat": -3.0}
    draw = np.random.default_rng(5)
    for _ in range(6):
        logits = draw.normal(size=(14, len(TOKENS))) * 2
        logits[:, 1] -= 16.0  # a beam keeps rows of tokens apart that differ in their boundaries only
        log_probs_TV = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        each, beam = (
            Decoder(TOKENS, FRAME_S, only=words, hot_words=hot, reject=math.inf, settings=settings)
            for settings in (None, BeamSettings(300, 100.0, -50.0, blank_skip=1.0))
        )
        found = []
        for decoder in (each, beam):
            decoder.feed(log_probs_TV)
            found.append({TOKENS.decode(path.tokens): path.score for path in decoder._beam.best()[::-1]})
        best = max(found[0], key=found[0].__getitem__)
        assert found[1][best] == pytest.approx(found[0][best], abs=0.01)
        assert best == max(found[1], key=found[1].__getitem__)


def total_log_prob(log_probs_TV: np.ndarray, ids: list[int]) -> float:
    """The forward algorithm of CTC (Graves et al. 2006), state by state."""
    states = [0]
    for token in ids:
        states += [token, 0]
    alpha = {0: 0.0}
    alpha = {s: log_probs_TV[0, states[s]] for s in range(min(2, len(states)))}
    for log_probs_V in log_probs_TV[1:]:
        after = {}
        for s, token in enumerate(states):
            came = [alpha.get(s, -np.inf), alpha.get(s - 1, -np.inf)]
            if s > 1 and token and token != states[s - 2]:
                came.append(alpha.get(s - 2, -np.inf))
            after[s] = np.logaddexp.reduce(came) + log_probs_V[token]
        alpha = after
    return float(np.logaddexp.reduce([alpha.get(len(states) - 1, -np.inf), alpha.get(len(states) - 2, -np.inf)]))


def test_times_are_those_of_the_sound() -> None:
    found = Decoder(TOKENS, FRAME_S).decode(log_probs("__nn_o__|_ii_s____"))
    assert [(w.text, w.start_s, w.end_s) for w in found.words] == [("no", 0.08, 0.24), ("is", 0.4, 0.56)]
    assert all(0 < w.confidence <= 1 for w in found.words) and len(found.evidence) == 2


def test_fed_in_pieces_it_is_the_same() -> None:
    log_probs_TV = log_probs("nn_o__|_ii_s" + "_" * 40 + "s_o|n" + "_" * 5, t4="s")
    whole = Decoder(TOKENS, FRAME_S).decode(log_probs_TV)
    assert text_of(whole, TOKENS) == "no is so n"
    decoder = Decoder(TOKENS, FRAME_S)
    for cut in (1, 4, 11, 30, 53):
        for piece in (log_probs_TV[:cut], log_probs_TV[:0], log_probs_TV[cut:]):
            decoder.feed(piece)
        assert decoder.finish() == whole


def test_a_pause_ends_a_phrase() -> None:
    """Of a closed list one phrase is heard between two pauses, and each on its own."""
    sound = log_probs("o_n" + "_" * 30 + "b_e_b_e" + "_" * 30 + "_n_o_")
    found = Decoder(TOKENS, FRAME_S, only=["on", "no"]).decode(sound)
    assert [(w.text, w.start_s) for w in found.words] == [("on", 0.0), ("no", pytest.approx(71 * FRAME_S))]


@pytest.mark.parametrize(
    ("frames", "tokens", "loudness", "likely", "most_s"),
    [(3000, TOKENS, 6.0, (2, 3.5), 60), (300, ALPHABET, 0.3, (27, 28), 600)],
    ids=["a trained recogniser", "an untrained one"],
)
def test_speed(frames: int, tokens: Tokens, loudness: float, likely: tuple[float, float], most_s: float) -> None:
    """An hour of frames of 40 ms in well under a minute of one thread, at two or three likely tokens a frame; in minutes where
    every token of an alphabet is as likely as the next, as before anything is learned."""
    random = np.random.default_rng(1)
    logits = random.normal(size=(frames, len(tokens))) * loudness
    log_probs_TV = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    assert likely[0] < (log_probs_TV > -5).sum(1).mean() <= likely[1]
    text = random.choice(tokens.symbols[1:], (300, 30))
    decoder = Decoder(tokens, FRAME_S, [LetterModel(estimate(text.tolist(), 6), 0.5, 0.5)])
    spent = []
    for _ in range(2):
        start = time.process_time()
        decoder.decode(log_probs_TV)
        spent.append(time.process_time() - start)
    first, again = (1e6 * seconds / frames for seconds in spent)
    print(f"{first:.0f} µs a frame, {again:.0f} where every state of the language model was met before")
    assert min(spent) * 90_000 / frames < most_s


def test_speech_without_end_is_cut() -> None:
    """Seventy seconds without a certain blank: memory holds a minute, and nothing is lost."""
    frames = log_probs("n_o_|_" * 292)
    frames[:, 0] = np.minimum(frames[:, 0], math.log(0.9))
    found = Decoder(TOKENS, FRAME_S, settings=BeamSettings(beam=2, token_floor=-3.0)).decode(frames)
    assert len(found.words) in (292, 293)
    assert found.words[-1].end_s > 69.5


def test_confidence_falls_with_doubt() -> None:
    sure, unsure = (
        Decoder(TOKENS, FRAME_S).decode(sound).words[0].confidence
        for sound in (log_probs("r_e_d_"), log_probs("r_e_d_", t2="a"))
    )
    assert unsure < 0.6 < sure


@pytest.mark.parametrize(
    ("language", "said", "likelier", "hot"),
    [("cmn", "我去北京吧", "我去背景吧", "北京"), ("tha", "ไปกรุงเทพนะ", "ไปกลุงเทพนะ", "กรุงเทพ"),
     ("bod", "ང་ལྷ་ས་ཡིན", "ང་ལྭ་ས་ཡིན", "ལྷ་ས"),
     ("kor", "나는 서울 간다", "나는 서을 간다", "서울")],
)  # fmt: skip
def test_hot_words_inside_runs_of_letters(language: str, said: str, likelier: str, hot: str) -> None:
    """What sounds a little more like other letters is read as the hot word, wherever nothing separates words."""
    tokens = Tokens(["<blank>", "|", *sorted({*said, *likelier} - {" "})])
    frames = two_readings(said, likelier, tokens)
    writing = Normaliser(settings_for(language)).writing
    assert text_of(Decoder(tokens, FRAME_S, writing=writing).decode(frames), tokens) == likelier
    decoder = Decoder(tokens, FRAME_S, writing=writing, hot_words={hot: 4.0})
    assert text_of(decoder.decode(frames), tokens) == said


@pytest.mark.parametrize("codes", [("deu", "tha", "bod"), ("tha", "deu", "bod"), ("bod", "tha", "deu")])
@pytest.mark.parametrize(
    ("said", "likelier", "hot", "read"),
    [
        ("ผมไปกรุงเทพนะ", "ผมไปกลุงเทพนะ", "กรุงเทพ", True),
        ("wir sind hier", "wir find hier", "sind", True),
        ("wir sindhier", "wir findhier", "sind", False),  # a word of German is a whole word
        ("ไปmünchenนะ", "ไปmönchenนะ", "münchen", True),  # it ends where Thai letters follow
        ("ང་ལྷ་ས་ཡིན", "ང་ལྭ་ས་ཡིན", "ལྷ་ས", True),
        ("ང་ལྷ་སང་ཡིན", "ང་ལྭ་སང་ཡིན", "ལྷ་ས", False),
    ],
)
def test_hot_words_of_a_model_of_several_writings(
    codes: tuple[str, ...], said: str, likelier: str, hot: str, read: bool
) -> None:
    tokens = Tokens(["<blank>", "|", *sorted({*said, *likelier} - {" "})])
    first, *others = (settings_for(code) for code in codes)
    writing = Normaliser(replace(first, languages={own.language: own for own in others})).output_writing
    frames = two_readings(said, likelier, tokens)
    decoder = Decoder(tokens, FRAME_S, writing=writing, hot_words={hot: 4.0})
    found = decoder.decode(frames)
    assert text_of(found, tokens) == (said if read else likelier)
    assert [word.text for word in found.words] == writing.cut(text_of(found, tokens))


@pytest.mark.parametrize("codes", [("deu", "tha"), ("tha", "deu")])
def test_hot_words_are_normalised_by_the_language_of_their_script(codes: tuple[str, ...], tmp_path: Path) -> None:
    first, other = map(settings_for, codes)
    normaliser = Normaliser(replace(first, languages={other.language: other}))
    tokens = Tokens(["<blank>", "|", *sorted({*"กรุงเทพ", *"gutentag"})])
    path = tmp_path / "hot.txt"
    path.write_text("กรุง เทพ\nGuten Tag!\n", encoding="utf-8")
    assert list(read_hot_words(path, normaliser, tokens)) == ["กรุงเทพ", "guten tag"]
    assert read_closed(path, normaliser, tokens) == ["guten tag", "กรุงเทพ"]


def test_a_closed_list_of_a_model_of_several_writings() -> None:
    """A pause inside a phrase of Thai is no space; one inside a word of German is."""
    writing = Normaliser(replace(settings_for("deu"), languages={"tha": settings_for("tha")})).output_writing
    tokens = Tokens(["<blank>", "|", *sorted({*"กรุงเทพ", *"gutentag"})])
    for settings in (None, CLOSED):
        decoder = Decoder(tokens, FRAME_S, writing=writing, only=["กรุงเทพ", "guten tag"], settings=settings)
        for said, text in [("กรุง เทพ", "กรุงเทพ"), ("guten tag", "guten tag")]:
            assert text_of(decoder.decode(two_readings(said, said, tokens)), tokens) == text
    closed = ClosedList(["กรุงเทพ", "guten tag"], writing)
    for said, allowed in [("กรุง เทพ", True), ("guten tag", True), ("gu ten tag", False), ("gutentag", False)]:
        state, scores = closed.start, []
        for letter in said:
            score, state = closed.letter(state, letter)
            scores.append(score)
        assert (min(scores) == 0) == allowed


def two_readings(said: str, likelier: str, tokens: Tokens) -> np.ndarray:
    """Log-probabilities in which ``likelier`` is twice as likely as ``said`` where they differ."""
    ids, others = tokens.encode(said), tokens.encode(likelier)
    assert len(ids) == len(others)
    probs = np.full((2 * len(ids), len(tokens)), 1e-4)
    probs[1::2, 0] = 1.0
    for i, (token, other) in enumerate(zip(ids, others, strict=True)):
        probs[2 * i, token], probs[2 * i, other] = (0.3, 0.6) if token != other else (0.99, 0.99)
    return np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("language", "text"), [("cmn", "我们去北京"), ("tha", "ไปกรุงเทพ"), ("bod", "བོད་སྐད་ཡིག")])
def test_right_words_are_evidence_of_being_right(language: str, text: str) -> None:
    """Tuning compared run-on references with single characters, so that every word was wrong and confidence fell to 0.001."""
    tokens = Tokens(["<blank>", "|", *sorted(set(text))])
    ids = tokens.encode(text)
    probs = np.full((2 * len(ids), len(tokens)), 1e-3)
    probs[np.arange(0, 2 * len(ids), 2), ids] = probs[1::2, 0] = 0.9
    frames = np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)
    decoder = Decoder(tokens, FRAME_S, writing=Normaliser(settings_for(language)).writing)
    evidence, right = word_evidence(decoder, [(text, frames)] * 20)
    assert all(right) and len(evidence) == len(right) > 40
    weights = calibrate(evidence, right)
    assert min(confidence(one, weights) for one in evidence) >= min(map(confidence, evidence))


def test_confidence_of_ideographs() -> None:
    """Han characters are words each, as in error rates, also those of one piece; the beam's other texts are compared by those."""
    tokens = Tokens(["<blank>", "你", "好", "妈妈", "a"])
    probs = np.full((7, 5), 0.01)
    probs[[0, 1, 2, 3, 4, 5, 6], [1, 0, 3, 0, 2, 0, 4]] = 0.9
    probs[4, 1] = 0.6
    found = Decoder(tokens, FRAME_S).decode(np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32))
    assert [w.text for w in found.words] == ["你", "妈", "妈", "好", "a"]
    assert found.words[3].confidence < 0.5 < found.words[1].confidence


def test_calibration() -> None:
    """Words whose evidence is four times too good: after calibration their confidence is how often they are right."""
    draw = np.random.default_rng(2)
    truth = draw.uniform(0.1, 0.9, 1500)
    right = (draw.uniform(size=1500) < truth).tolist()
    evidence = [Evidence(float(p**0.25), float(p**0.25), float(p**0.25)) for p in truth]
    weights = calibrate(evidence, right)
    before = expected_error(reliability([confidence(e) for e in evidence], right))
    after = expected_error(reliability([confidence(e, weights) for e in evidence], right))
    assert after < 0.05 and after < before / 2
    table = reliability([0.05, 0.95, 0.95, 1.0], [False, True, True, False])
    assert [(b.words, round(b.right, 3)) for b in table] == [(1, 0.0), (3, 0.667)]
    assert calibrate([Evidence(0.9, 0.8, 1.0)], [True])  # one word is few, but no error


def test_spellings() -> None:
    pieces = Tokens(["<blank>", "|", "▁a", "b", "<0xC3>", "<0xA0>"])
    assert token_texts(pieces)[:4] == ["", " ", " a", "b"] and len({*token_texts(pieces)}) == 6
    assert spell("ab b", Tokens(["<blank>", "|", "a", "b"])) == "ab b"


@pytest.mark.parametrize(
    ("line", "phrases"),
    [
        ("turn on", {"turn on"}),
        ("turn (on|off) [the] light", {"turn on the light", "turn off the light", "turn on light", "turn off light"}),
        ("[very [very]] hot", {"hot", "very hot", "very very hot"}),
        ("a|b c", {"a", "b c"}),
    ],
)
def test_grammar(line: str, phrases: set[str]) -> None:
    assert set(expand(line)) == phrases


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("on\n(a|b\n", r"line 2: '\)' is missing"),
        ("a)", r"line 1: '\)' has no opening bracket"),
        ("on\n\nzoo", r"line 3: no token for 'z'"),
        ("...", "line 1: '...' has no letters"),
        ("# nothing\n\n", "has no phrases"),
        ("[a][b][c][d][e][h][i][n][o][r][s][t][a][b][c][d][e]", "smaller grammar"),
    ],
)
def test_closed_lists_that_are_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        read_closed(tmp_path / "words.txt", Normaliser(), TOKENS)


def test_hot_words_files(tmp_path: Path) -> None:
    path = tmp_path / "hot.txt"
    path.write_text("Rose!\n# a comment\nred door\t-2.5\n")
    assert read_hot_words(path, Normaliser(), TOKENS) == {"rose": 6.0, "red door": -2.5}
    path.write_text("rose\nyak\nŁódź\n")
    with pytest.warns(UserWarning, match=r"skipped: line 2: .*, and 1 more"):
        assert read_hot_words(path, Normaliser(), TOKENS) == {"rose": 6.0}
    path.write_text("Łódź\n")
    said: list[str] = []
    assert read_hot_words(path, Normaliser(), TOKENS, said.append) == {}
    assert "can write none of its hot words: line 1" in said[0] and len(said) == 1
    path.write_text("rose\tmuch\n")
    with pytest.raises(UserError, match=r"line 1: the boost is 'much'"):
        read_hot_words(path, Normaliser(), TOKENS)
    with pytest.raises(UserError, match="no such file"):
        read_hot_words(tmp_path / "absent.txt", Normaliser(), TOKENS)


def test_closed_texts_one_within_another() -> None:
    automaton = TokenAutomaton(TOKENS, [ClosedList(["on", "on a", "once"])])
    for text, allowed in {"on": True, "on a": True, "o": False, "once": True, "on ": True, "": True}.items():
        state, score = automaton.start, 0.0
        for token in TOKENS.encode(text):
            more, state = automaton.arc(state, token)
            score += more
        assert (score + automaton.final(state) == 0) == allowed, text


UNSPACED = {  # language: (what is planted, what the sound says instead, the text around it)
    "tha": ("ปูติน", "ปุติน", ("วันนี้", "พบกับ")),
    "cmn": ("普京", "葡京", ("今天", "说")),
    "jpn": ("田中さん", "田仲さん", ("きょう", "です")),
    "lao": ("ວຽງຈັນ", "ວຽງຈິນ", ("ໄປ", "ມື້ນີ້")),
    "khm": ("ភ្នំពេញ", "ភ្នុំពេញ", ("ទៅ", "ថ្ងៃ")),
    "mya": ("ရန်ကုန်", "ရန်ကိန်", ("သူ", "မှာ")),
}


def unspaced(language: str) -> tuple[Tokens, WritingSystem]:
    name, wrong, around = UNSPACED[language]
    return Tokens.from_texts([name, wrong, *around]), writing_system(language)


def sound_of(text: str, doubted: str, tokens: Tokens) -> np.ndarray:
    """Frames of ``text``, each letter followed by a blank; ``doubted``'s letters are nearly as likely where it differs."""
    probs = np.full((2 * len(text), len(tokens)), 0.001)
    probs[1::2, 0] = 1.0
    for i, (letter, other) in enumerate(zip(text, doubted, strict=True)):
        probs[2 * i, tokens.encode(other)] = 0.4
        probs[2 * i, tokens.encode(letter)] = 0.5
    return np.log(probs / probs.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("language", [language for language in UNSPACED if language != "khm"])
def test_hot_words_work_inside_runs_of_letters(language: str) -> None:
    name, wrong, (before, after) = UNSPACED[language]
    tokens, writing = unspaced(language)
    sound = sound_of(before + wrong + after, before + name + after, tokens)
    plain = Decoder(tokens, FRAME_S, writing=writing)
    hot = Decoder(tokens, FRAME_S, writing=writing, hot_words={name: 4.0})
    assert text_of(plain.decode(sound), tokens) == before + wrong + after
    decoded = hot.decode(sound)
    assert text_of(decoded, tokens) == before + name + after
    assert "".join(word.text for word in decoded.words) == before + name + after
    assert [word.text for word in decoded.words] == writing.cut(before + name + after)
    assert all(word.end_s - word.start_s < 1 for word in decoded.words)


@pytest.mark.parametrize("language", UNSPACED)
@pytest.mark.parametrize("settings", [None, BeamSettings(beam=64, width=40.0, token_floor=-14.0)])
def test_a_closed_list_ignores_spaces_in_unspaced_text(language: str, settings: BeamSettings | None) -> None:
    name, _, (before, after) = UNSPACED[language]
    tokens, writing = unspaced(language)
    sound = sound_of(f"{before} {name}", f"{before} {name}", tokens)
    for phrase in (before + name, f"{before} {name}"):
        decoder = Decoder(tokens, FRAME_S, writing=writing, only=[phrase, after], settings=settings)
        assert text_of(decoder.decode(sound), tokens) == before + name


def test_letters_know_no_space_where_none_is_written() -> None:
    model = LetterModel(estimate([list("今天普京说")] * 3, 3), 0.5, 0.5)

    def score(text: str) -> float:
        total, state = 0.0, model.start
        for letter in text:
            more, state = model.letter(state, letter)
            total += more
        return total + model.end(state)

    assert score("今天 普京 说") == score("今天普京说")
