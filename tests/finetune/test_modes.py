"""Modes and starts of fine-tuning: head, adapters, a longer alphabet, baselines, patience, and a resume that is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.config import FinetuneSettings
from finetune.fit import only_blanks
from finetune.model import extended, fold
from lalia.cards import ancestors, read_card
from lalia.errors import UserError
from lalia.models.export.deployed import deploy
from lalia.models.frontend import StackedFrames
from lalia.models.recogniser import Recogniser
from lalia.models.store import languages_of, load_encoder
from lalia.text.tokens import Tokens
from lalia.training.settings import DataSettings
from tests.tiny_corpus import WORDS, chant
from tests.tiny_finetune import fit, make_folder, metrics

STEPS = ("--schedule.steps", "4", "--log.valid_every", "2", "--optim.lr", "1e-3")
WAVE_BS = torch.from_numpy(chant("pronto prego", np.random.default_rng(5)))[None]
LENGTHS_B = torch.tensor([WAVE_BS.shape[1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("modes"))
    fit(folder, "full", *STEPS)
    return folder


def said(recogniser: Recogniser) -> torch.Tensor:
    return recogniser.log_probs(WAVE_BS, LENGTHS_B)[0]


def test_a_head_alone_leaves_the_encoder_as_it_was(folder):
    run = fit(folder, "head", "--mode", "head", *STEPS)
    before, after = load_encoder(folder / "encoder").state_dict(), load_encoder(run / "recogniser").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(
        Recogniser.load(run / "recogniser").head.weight, Recogniser.load(folder / "full" / "recogniser").head.weight
    )


def test_going_on_from_a_recogniser_never_ends_worse_than_it(folder, capsys):
    start = folder / "full" / "recogniser"
    run = fit(
        folder, "on", "--recogniser", str(start), "--schedule.steps", "2", "--log.valid_every", "1", "--optim.lr", "1"
    )
    old, new = Recogniser.load(start).state_dict(), Recogniser.load(run / "recogniser").state_dict()
    facts = json.loads((run / "finished.json").read_text())
    told = capsys.readouterr().err
    assert facts["best_step"] == 0 and facts["start_cer"] == metrics(run, "valid/cer")[0] <= min(
        metrics(run, "valid/cer")
    )
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "is validated before the first step" in told and "its weights are kept" in told


def test_a_recogniser_that_outputs_only_blanks_is_reported(capsys):
    settings = FinetuneSettings(data=DataSettings(["data/mine"]))
    assert only_blanks(settings, {"clips": [{"hypothesis": ""}, {"hypothesis": "a"}]}) == {}
    assert only_blanks(settings, {"clips": [{"hypothesis": ""}] * 3}) == {"only_blanks": True}
    assert "not one of 3 test clips has a transcript" in (told := capsys.readouterr().err)
    assert "lalia finetune check data/mine" in told


def test_a_vocabulary_grows_and_its_old_rows_stay(folder):
    old = Recogniser.load(folder / "full" / "recogniser")
    run = fit(
        folder, "grown", "--recogniser", str(folder / "full" / "recogniser"), *STEPS[:-1], "1e-12", language="eng"
    )
    new = Recogniser.load(run / "recogniser")
    rows = len(old.tokens)
    assert new.tokens.symbols[:rows] == old.tokens.symbols
    assert set("hwk") <= set(new.tokens.symbols[rows:])
    torch.testing.assert_close(new.head.weight[:rows], old.head.weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(new.encoder.projection.weight, old.encoder.projection.weight, atol=1e-6, rtol=0)
    assert new.normaliser.settings.language == "eng"
    assert "recogniser" in {parent["kind"] for parent in ancestors(read_card(run / "recogniser"))}
    assert extended(Tokens.from_texts(["ba"]), Tokens.from_texts(["abc"])).symbols == ("<blank>", "|", "a", "b", "c")


def test_languages_share_an_encoder_and_none_changes_another(folder):
    first = fit(folder, "adapter-ita", "--mode", "adapter", *STEPS) / "recogniser"
    alone = said(Recogniser.load(first))
    second = fit(folder, "adapter-eng", "--mode", "adapter", "--recogniser", str(first), *STEPS, language="eng")
    both = second / "recogniser"
    assert languages_of(both) == ["eng", "ita"]
    assert torch.equal(said(Recogniser.load(both, "ita")), alone)
    assert read_card(both)["languages"] == ["eng", "ita"]
    base, shared = load_encoder(folder / "encoder").state_dict(), load_encoder(both).state_dict()
    assert all(torch.equal(base[name], shared[name]) for name in base)
    scores = json.loads((second / "scores.json").read_text())
    assert scores["mode"] == "adapter"

    fold(both, "ita", folder / "ita-alone")
    plain = Recogniser.load(folder / "ita-alone")
    assert languages_of(folder / "ita-alone") == []
    made, folded = read_card(first)["finetuning"], read_card(folder / "ita-alone")["finetuning"]
    assert folded == made  # distillation learns from it which labels may be seen
    assert torch.equal(said(plain), alone)
    with torch.no_grad():
        torch.testing.assert_close(deploy(plain)(WAVE_BS)[0], alone, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="plain recogniser already"):
        fold(folder / "ita-alone", "ita", folder / "again")

    # Asked for once more, a language goes on from its own adapter, and its neighbour still stays.
    third = fit(
        folder, "adapter-more", "--mode", "adapter", "--recogniser", str(both), *STEPS[:-1], "1e-12", language="ita"
    )
    torch.testing.assert_close(said(Recogniser.load(third / "recogniser", "ita")), alone, atol=1e-5, rtol=0)
    english = said(Recogniser.load(both, "eng"))
    assert torch.equal(said(Recogniser.load(third / "recogniser", "eng")), english)


def test_one_adapter_is_for_one_language(folder):
    with pytest.raises(UserError, match="the clips are in eng, ita; take one of them"):
        fit(folder, "mixed", "--mode", "adapter", *STEPS, "--data.language", "ita", "--data.language", "eng")


@pytest.mark.parametrize(
    ("kind", "features", "width", "lr"),
    [("wav2letter", "mfcc", 0, 1e-3), ("deepspeech", "spectrogram", 32, 1e-2), ("conformer", "mfcc", 32, 4e-3)],
)
def test_baselines_are_trained_by_the_same_command(folder, kind, features, width, lr):
    run = fit(
        folder, kind, "--model.kind", kind, "--model.features", features, "--model.width", str(width), *STEPS,
        "--schedule.steps", "8", "--optim.lr", str(lr),
    )  # fmt: skip
    losses = metrics(run, "valid/loss")
    assert losses[-1] < losses[0]
    recogniser = Recogniser.load(run / "recogniser")
    assert isinstance(recogniser.encoder.frontend, StackedFrames)
    assert recogniser.encoder.frontend.prior_2M.abs().sum() > 0
    card = read_card(run / "recogniser")
    assert {parent["kind"] for parent in ancestors(card)} == {"corpus"} and card["finetuning"]["start"] == "random"
    with torch.no_grad():
        torch.testing.assert_close(deploy(recogniser)(WAVE_BS)[0], said(recogniser), atol=1e-4, rtol=0)


def test_patience_ends_a_run_that_gets_no_better(folder, capsys):
    flags = (
        "--optim.lr", "1e-12", "--schedule.steps", "40", "--log.valid_every", "2", "--schedule.patience", "3",
        "--freeze.encoder_share", "0.05", "--alarm.grace", "0.053",
    )  # fmt: skip
    run = fit(folder, "patient", *flags)
    assert len(metrics(run, "valid/cer")) == 5  # the two up to step 4 do not count: 2 of 40 frozen, 2 to learn to speak
    assert "ends at step 10 of 40: no better result in 3 validations" in capsys.readouterr().err
    # A kill between the last step and the result: the same command writes the result and trains no more.
    (run / "finished.json").unlink()
    shutil.rmtree(run / "recogniser")
    fit(folder, "patient", *flags)
    assert Recogniser.load(run / "recogniser")
    assert len(metrics(run, "valid/cer")) == 5


def test_a_resumed_run_equals_an_unbroken_one(folder):
    flags = (
        *STEPS, "--schedule.steps", "6", "--log.checkpoint_every", "3", "--freeze.encoder_share", "0.3", "--mode", "adapter",
        "--regular.dropout", "0.1", "--regular.time_coverage", "0.2", "--augment.speed", "0.5",
    )  # fmt: skip
    whole = fit(folder, "whole", *flags)
    broken = folder / "broken"
    shutil.copytree(whole, broken)
    (broken / "finished.json").unlink()
    (broken / "checkpoints" / "step00000006.ckpt").unlink()
    shutil.rmtree(broken / "recogniser")
    fit(folder, "broken", *flags)
    first, second = (
        torch.load(run / "checkpoints" / "step00000006.ckpt", weights_only=True)["state_dict"]
        for run in (whole, broken)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_label_that_cannot_fit_its_clip_is_named(folder, capsys, monkeypatch):
    from lalia.data.mixture import Mixture

    text = Mixture.text
    odd: dict[str, int] = {}

    def longer(self: Mixture, row: int) -> str:
        odd.setdefault("row", row)
        return " ".join(WORDS["ita"] * 9) if row == odd["row"] else text(self, row)

    monkeypatch.setattr(Mixture, "text", longer)
    fit(folder, "long", *STEPS)
    assert "note: 1 of" in capsys.readouterr().err
