"""What the best checkpoint is known by: the words wrong with a language model where that is asked for, also after a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config import SelectSettings
from finetune.task import LmDecoder, make_lm_decoder
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.lm.folder import make
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import ErrorCounts, word_errors
from lalia.text.normaliser import Normaliser, NormaliserSettings
from tests.tiny_corpus import WORDS
from tests.tiny_finetune import fit, make_folder, metrics
from tests.tiny_teacher import make_recogniser

BY = ("--select.by", "wer_lm", "--optim.lr", "4e-3", "--log.valid_every", "2", "--alarm.enabled", "false")
ITALIAN = Normaliser(NormaliserSettings(language="ita"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("selection"))


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "finished.json").read_text())


def frames(recogniser: Recogniser, letters: list[dict[str, float]]) -> np.ndarray:
    """Log-probabilities (T, V): each of ``letters`` in a frame of its own, blanks between."""
    tokens = recogniser.tokens
    probs_TV = np.full((2 * len(letters), len(tokens)), 1e-4)
    probs_TV[1::2, 0] = 1.0
    for t, said in enumerate(letters):
        for letter, prob in said.items():
            probs_TV[2 * t, tokens.encode(letter)] = prob
    return np.log(probs_TV / probs_TV.sum(1, keepdims=True)).astype(np.float32)


def test_the_labels_tell_what_was_said() -> None:
    recogniser = make_recogniser()
    heard = [{letter: 1.0} for letter in "grazie"]
    heard[2] = {"e": 0.55, "a": 0.45}
    said = frames(recogniser, heard)
    lm_decoder = make_lm_decoder(SelectSettings(by="wer_lm", clips=2), recogniser, WORDS["ita"], range(10, 16))
    assert lm_decoder is not None
    assert lm_decoder.transcribe(said) == "grazie"  # of which the best path makes "grezie"
    assert sorted(lm_decoder.rows) == [10, 13]
    assert lm_decoder.description == f"6-grams of letters of {len(WORDS['ita'])} training labels"
    assert make_lm_decoder(SelectSettings(), recogniser, WORDS["ita"], range(10, 16)) is None


def test_a_language_model_is_heard_as_it_was_tuned_last(tmp_path: Path) -> None:
    recogniser = make_recogniser()
    model = make(tmp_path / "lm", [list(word) for word in WORDS["ita"]], "letter", 4, ITALIAN, [])
    settings = SelectSettings(by="wer_lm", lm=str(tmp_path / "lm"))
    heard = [{letter: 1.0} for letter in "grazie"]
    heard[2] = {"e": 0.97, "a": 0.03}

    def text() -> str:
        lm_decoder = make_lm_decoder(settings, recogniser, (), range(3))
        assert lm_decoder is not None and lm_decoder.description == f"4-grams of letters in {tmp_path / 'lm'}"
        return lm_decoder.transcribe(frames(recogniser, heard))

    model.store_tuned(["a student"], {"weight": 3.0, "bonus": 1.0})
    assert text() == "grazie"
    model.store_tuned(["a later one"], {"weight": 0.01, "bonus": 0.0})
    assert text() == "grezie"


def test_a_language_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    recogniser = make_recogniser()
    make(tmp_path / "lm", [list("добрый"), list("вечер")], "letter", 3, ITALIAN, [])

    def asked(lm: str = "", labels: tuple[str, ...] = ("pronto",)) -> LmDecoder | None:
        return make_lm_decoder(SelectSettings(by="wer_lm", lm=lm), recogniser, labels, range(3))

    with pytest.raises(UserError, match=r"^--select\.lm .*lm: is for another alphabet: the student has no token for"):
        asked(str(tmp_path / "lm"))
    with pytest.raises(UserError, match=r"^--select\.lm .*nowhere"):
        asked(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"the labels have no words .* --select\.lm"):
        asked(labels=("…", "привет"))


def test_the_run_keeps_what_it_heard_best_and_says_how(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(folder, "heard", *BY, "--schedule.steps", "6", "--select.clips", "4")
    printed = capsys.readouterr().err
    assert "6-grams of letters of 24 training labels" in printed and "4 of 6 held-out clips" in printed
    looks = metrics(run, "valid/wer_lm")
    assert len(looks) == 3
    assert facts(run)["selected_by"] == "wer_lm" and facts(run)["best_step"] == 2 * (1 + int(np.argmin(looks)))

    mixture, recogniser = Mixture.load([folder / "corpus"]), Recogniser.load(run / "recogniser")
    labels = map(mixture.text, mixture.select("train", ["ita"]).tolist())
    settings = SelectSettings(by="wer_lm", clips=4)
    lm_decoder = make_lm_decoder(settings, recogniser, labels, mixture.select("dev", ["ita"]).tolist())
    assert lm_decoder is not None
    errors = ErrorCounts()
    for row in lm_decoder.rows:
        wave_1S = torch.from_numpy(mixture.wave(row))[None]
        log_probs_1TV, _ = recogniser.log_probs(wave_1S, torch.tensor([wave_1S.shape[1]]))
        errors += word_errors(mixture.text(row), lm_decoder.transcribe(log_probs_1TV[0].numpy()))
    assert errors.rate == pytest.approx(min(looks), abs=1e-3)


def test_the_fewest_words_wrong_choose_the_checkpoint_and_a_resume_keeps_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look alone hears a word right: later ones have fewer letters wrong, and do not count."""
    mixture = Mixture.load([folder / "corpus"])
    dev = mixture.select("dev", ["ita"]).tolist()
    word = mixture.text(dev[0]).split()[0]

    def script(*looks: str) -> None:
        said: Iterator[str] = (text for text in looks for _ in dev)
        monkeypatch.setattr(LmDecoder, "transcribe", lambda self, log_probs_TV, language: next(said))

    flags = (*BY, "--schedule.steps", "8", "--log.checkpoint_every", "4", "--select.clips", "0")
    script("", word, "", "")
    run = fit(folder, "scripted", *flags)
    looks = metrics(run, "valid/wer_lm")
    assert looks[1] < 1.0 and [looks[0], *looks[2:]] == [1.0] * 3
    assert facts(run)["best_step"] == 4

    broken = folder / "broken"
    shutil.copytree(run, broken)
    (broken / "finished.json").unlink()
    (broken / "checkpoints" / "step00000008.ckpt").unlink()
    shutil.rmtree(broken / "recogniser")
    script("", "")  # from step 4 on there are two looks left
    fit(folder, "broken", *flags)
    assert facts(broken)["best_step"] == 4
    first, second = (Recogniser.load(out / "recogniser").state_dict() for out in (run, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)

    (broken / "finished.json").unlink()
    with pytest.raises(UserError, match=r"begun with select\.by wer_lm, now cer"):
        fit(folder, "broken", *flags, "--select.by", "cer")
