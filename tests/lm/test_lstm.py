"""The LSTM: the ONNX graph scores as torch does, training goes on where it stopped, and rescoring changes what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lalia import Student, TranscribeOptions
from lalia.audio.encoding import flac_bytes
from lalia.decoding import beam
from lalia.decoding.decoder import Rescorer, make_decoder, pair_names
from lalia.errors import UserError
from lalia.lm.folder import LanguageModel, symbols_of, write_folder
from lalia.lm.lstm import Lstm, LstmModel, make
from lalia.lm.ngrams import BEGIN, END, SPECIALS
from lalia.scoring.tuning import tune_lstm
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from lalia.training import letter_lstm
from lalia.training.letter_lstm import LetterLstm, LstmSettings, train
from tests.runtime.test_decoding import TEXT, Run, Songs, lm, run, student  # noqa: F401
from tests.tiny_student import SYMBOLS, sing, tone_model

LETTERS = [*SPECIALS, "a", "b", "c", "d", "e", "|"]
SETTINGS = LstmSettings(width=16, embedding=8, dropout=0.2, batch=4, passes=6, rate=1e-2)


def untrained(layers: int = 1, seed: int = 0) -> tuple[LetterLstm, Lstm]:
    torch.manual_seed(seed)
    model = LetterLstm(len(LETTERS), 16, layers, 8, dropout=0.3).eval()
    return model, Lstm(LETTERS, model.graph())


def sentences(count: int = 40) -> list[list[str]]:
    generator = np.random.default_rng(1)
    words = ["bad", "cab", "ace", "bed", "dead", "a"]
    texts = [" ".join(generator.choice(words, generator.integers(1, 5)).tolist()) for _ in range(count)]
    return [symbols_of(text, "letter", Tokens(SYMBOLS))[0] for text in texts]


@pytest.mark.parametrize("layers", [1, 2])
def test_the_graph_scores_as_torch_does(layers: int) -> None:
    model, lstm = untrained(layers)
    texts = [lstm.ids(text) for text in ("bad cab", "bad bed", "", "bad cab", "e", "bad", "a bad cab x")]
    found = lstm.log_probs(texts)
    for text, log_prob in zip(texts, found.tolist(), strict=True):
        numbers = torch.tensor([BEGIN, *text, END])
        with torch.no_grad():
            scores_TV = model(numbers[None, :-1])[0].log_softmax(-1)
        assert log_prob == pytest.approx(float(scores_TV.gather(1, numbers[1:, None]).sum()), abs=1e-5)
    assert model.train().graph() == lstm.model and model.training, "training goes on, and the graph has no dropout"
    assert lstm.ids("a x") == [3, 8, 0] and found[0] == found[3]
    assert lstm.log_probs([]).shape == (0,)
    assert lstm.perplexity(texts) == pytest.approx(np.exp(-found.sum() / sum(len(text) + 1 for text in texts)))


def test_many_texts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lstm = untrained()
    texts = [lstm.ids(text) for text in ("bad cab", "ace", "a", "bad", "cab")]
    alone = [float(lstm.log_probs([text])[0]) for text in texts]
    monkeypatch.setattr("lalia.lm.lstm._TEXTS", 2)
    assert lstm.log_probs(texts) == pytest.approx(alone, abs=1e-5)


def test_folder(tmp_path: Path) -> None:
    _, lstm = untrained(2)
    stored = make(tmp_path / "lstm", lstm, Normaliser(), [], letters={"a": 1.0})
    again = LstmModel.load(tmp_path / "lstm")
    texts = [lstm.ids("bad cab")]
    assert again.lstm.log_probs(texts) == pytest.approx(lstm.log_probs(texts)) and again.id == stored.id
    with pytest.raises(UserError, match=r"holds an LSTM.* give it as --rescore"):
        LanguageModel.load(tmp_path / "lstm")
    with pytest.raises(UserError, match="not normalised like"):
        again.check(Tokens(SYMBOLS), Normaliser(NormaliserSettings(case="upper")))
    with pytest.raises(UserError, match="for another alphabet"):
        again.check(Tokens(["<blank>", "|", "б"]), Normaliser())
    graph = tmp_path / "lstm" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(UserError, match="do not match its card"):
        LstmModel.load(tmp_path / "lstm")
    with pytest.raises(UserError, match="ONNX Runtime cannot load it"):
        Lstm.load(tmp_path / "lstm")
    graph.write_bytes(LetterLstm(7, 16, 1, 8, dropout=0.0).graph())
    with pytest.raises(UserError, match="9 symbols belong to different language models"):
        Lstm.load(tmp_path / "lstm")
    graph.write_bytes(tone_model())
    with pytest.raises(UserError, match="its graph maps wave to log_probs"):
        Lstm.load(tmp_path / "lstm")


def test_folder_of_an_earlier_version(tmp_path: Path) -> None:
    def arrays(folder: Path) -> None:
        (folder / "symbols.txt").write_text("".join(f"{symbol}\n" for symbol in LETTERS))
        np.save(folder / "lstm.embedding.npy", np.zeros((len(LETTERS), 8), np.float32))

    write_folder(tmp_path / "lstm", arrays, Normaliser(), [], {"form": "lstm", "unit": "letter", "layers": 1})
    with pytest.raises(
        UserError, match=r"model\.onnx: is missing; .* of an earlier version; .* lalia lm TEXT .*--lstm$"
    ):
        LstmModel.load(tmp_path / "lstm")


def test_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(sentences(), tmp_path / "whole", SETTINGS)
    assert 1 < whole.perplexity < 7  # of nine symbols
    looks = 0
    keep = letter_lstm._Training._save

    def interrupted(self: letter_lstm._Training) -> None:
        nonlocal looks
        keep(self)
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(letter_lstm._Training, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(sentences(), tmp_path / "lstm", SETTINGS)
    assert (tmp_path / ".lstm.training" / "state.pt").is_file()
    continued = train(sentences(), tmp_path / "lstm", SETTINGS)
    assert continued.perplexity == whole.perplexity and continued.steps == whole.steps
    assert continued.lstm.model == whole.lstm.model


def test_too_little_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 sentences are too few"):
        train([["a"], ["a"]], tmp_path / "lstm", SETTINGS)


def test_rescoring() -> None:
    _, lstm = untrained()
    tokens = Tokens(SYMBOLS)
    paths = [
        beam.Hypothesis(tuple(tokens.encode(text)), score, score)
        for text, score in (("bad", -1.0), ("cab", -1.1), ("", -9.0))
    ]
    log_probs, letters = Rescorer(lstm, tokens, 1.0, 0.0).score_texts(paths)
    assert letters.tolist() == [3, 3, 0] and log_probs == pytest.approx(
        lstm.log_probs([lstm.ids(t) for t in ("bad", "cab", "")])
    )
    found = Rescorer(lstm, tokens, 0.5, 2.0)(paths)
    scores = {path.tokens: path.score for path in found}
    for path, log_prob, length in zip(paths, log_probs.tolist(), letters.tolist(), strict=True):
        assert scores[path.tokens] == pytest.approx(path.score + 0.5 * log_prob + 2.0 * length)
    assert [path.score for path in found] == sorted(scores.values(), reverse=True)
    assert found[0].acoustic in (-1.0, -1.1)
    assert Rescorer(lstm, tokens, 0.0, 5.0)(paths) == paths


def test_what_makes_no_sense(lm: Path, student: Path, tmp_path: Path) -> None:  # noqa: F811
    loaded = Student.load(student, 1)
    make(tmp_path / "lstm", untrained()[1], Normaliser(), [], letters={"a": 1.0})
    with pytest.raises(UserError, match="give the n-grams as --lm"):
        make_decoder(loaded, rescore=tmp_path / "lstm")
    with pytest.raises(UserError, match="leave one of them out"):
        make_decoder(loaded, lm, rescore=tmp_path / "lstm", only=["bed"])
    with pytest.raises(UserError, match=r"holds n-grams.* give it as --lm"):
        make_decoder(loaded, lm, rescore=lm)


def test_tuning(lm: Path, student: Path, tmp_path: Path) -> None:  # noqa: F811
    loaded, model = Student.load(student, 1), LanguageModel.load(lm)
    lstm = make(tmp_path / "lstm", untrained()[1], Normaliser(), [], letters={"a": 1.0})
    found = tune_lstm(loaded, model, lstm, Songs(), [0, 1, 2])
    assert found.best.weight == 0 and found.best.wer.rate == 0  # nothing to mend: the plainest setting is taken
    lstm.store_tuned(pair_names(loaded, model), {**found.as_dict(), "weight": 0.3, "lm_weight": 0.7, "lm_bonus": 1.5})
    decoder = make_decoder(loaded, lm, rescore=tmp_path / "lstm")
    assert decoder.weights == found.weights
    assert loaded.transcribe(sing("bad cab ace"), options=TranscribeOptions(decoder=decoder)).text == "bad cab ace"
    assert LstmModel.load(tmp_path / "lstm").id == lstm.id


def test_commands(run: Run, lm: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from tests.cli.test_main import make_corpus

    monkeypatch.setattr(letter_lstm, "LstmSettings", lambda steps=20: LstmSettings(width=16, embedding=8, steps=steps))
    text, lstm = tmp_path / "more.txt", tmp_path / "lstm"
    text.write_text(TEXT * 3 + "".join(" ".join("".join(s).split("|")) + "\n" for s in sentences()))
    made = ("lm", text, "--like", student, "--out", lstm, "--lstm", "--steps", 20)
    status, out, err = run(*made, "--heldout", text)
    assert status == 0 and "weights" in out and out.count("perplexity") == 2 and "lstm 20/20" in err.replace("\n", " ")
    assert not list(tmp_path.glob(".lstm*"))
    status, out, err = run(*made)
    assert status == 0 and "was already trained on this text" in out and "lstm 20/20" not in err
    clips = [("ita", split, text, flac_bytes(sing(text))) for split in ("dev", "test") for text in Songs.texts]
    corpus = make_corpus(tmp_path / "corpus", clips)
    asked = ("tune", student, corpus, "--lm", lm, "--rescore", lstm, "--language", "ita")
    status, _, err = run(*asked)
    assert status == 2 and "is not tuned for" in err and err.count("\n") == 1
    assert run(*asked[:5])[0] == 0
    status, out, _ = run(*asked)
    assert status == 0 and f"{lstm}: weight " in out
    status, out, _ = run("evaluate", student, corpus, "--lm", lm, "--rescore", lstm)
    assert status == 0 and "ita           3" in out
    (tmp_path / "only.txt").write_text("a bad bed\n")
    for flags in (
        ("--rescore", lstm), ("--lm", lstm), ("--lm", lm, "--rescore", lm),
        ("--lm", lm, "--rescore", lstm, "--only", tmp_path / "only.txt"),
    ):  # fmt: skip
        status, _, err = run("evaluate", student, corpus, *flags)
        assert status == 2 and err.count("\n") == 1
    for wrong in (("--unit", "word"), ("--order", 3), ("--arpa", "a.arpa"), ("--steps", 0)):
        status, _, err = run(*made[:-2], *wrong)
        assert status == 2 and err.count("\n") == 1
