"""Fine-tuning in miniature: from an encoder to a recogniser with scores, through the command a user types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.config import FinetuneSettings, FreezeSettings
from finetune.model import make_initial_encoder
from finetune.task import FinetuneTask
from lalia.cards import ancestors, read_card
from lalia.data.labels import describe_excluded, note_excluded_dev_clips
from lalia.data.mixture import Mixture
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from tests.tiny_corpus import make_corpus

ROOT = Path(__file__).parents[2]
SHAPE = EncoderShape(
    input="logmel",
    stack=2,
    width=32,
    layers=2,
    heads=2,
    feedforward=64,
    block="convolutional",
    block_kernel=5,
    position="rotary",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    make_corpus(folder / "corpus", 24, ("ita", "eng"))
    torch.manual_seed(0)
    encoder = Encoder(SHAPE)
    encoder.measure([np.random.default_rng(0).normal(size=16000).astype(np.float32)])
    encoder.save(folder / "encoder", [])
    return folder


def run(folder: Path, out: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "finetune", "fit", "--data.corpus", str(folder / "corpus"), "--data.language", "ita",
        "--encoder", str(folder / "encoder"), "--data.workers", "0", "--batch.hours", "0.004", "--batch.micro_s", "15",
        "--optim.lr", "3e-3", "--schedule.steps", "6", "--log.every", "2", "--log.valid_every", "3",
        "--log.checkpoint_every", "3", "--out", str(folder / out), *flags,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_from_an_encoder_to_a_recogniser_with_scores(made):
    done = run(made, "run", "--labels.minutes", "0.2")
    assert done.returncode == 0, done.stderr
    assert "test CER" in done.stdout
    scores = json.loads((made / "run" / "scores.json").read_text())
    assert 0 <= scores["cer"] <= 2
    assert scores["minutes_of_labels"] <= 0.2
    assert len(scores["clips"]) == 4
    card = read_card(made / "run" / "recogniser", "recogniser")
    assert {"corpus", "encoder"} <= {parent["kind"] for parent in ancestors(card)}
    recogniser = Recogniser.load(made / "run" / "recogniser")
    assert recogniser.log_probs(torch.randn(1, 16000), torch.tensor([16000]))[0].shape[-1] == len(recogniser.tokens)
    steps = [json.loads(line)["step"] for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)

    again = run(made, "run", "--labels.minutes", "0.2")
    assert again.returncode == 0
    assert "finished" in again.stdout
    other = run(made, "run", "--labels.minutes", "0.3")
    assert other.returncode == 2
    assert "this run was begun with labels.minutes 0.2, now 0.3; give the same settings" in other.stderr


def test_clips_that_are_too_long_or_short_are_counted(made, capsys):
    mixture = Mixture.load([made / "corpus"])
    lengths_s = np.sort(mixture.durations_s[mixture.select("train", ["ita"], labelled=True)])
    every = len(lengths_s)
    assert describe_excluded(mixture, "train", ["ita"], 0.0, 60.0) == ""
    some = describe_excluded(mixture, "train", ["ita"], 0.1, float(lengths_s[-2]) + 1e-4)
    assert some == f" (of {every} labelled ones 1 longer than data.max_s {lengths_s[-2] + 1e-4:g} s left out)"
    both = describe_excluded(mixture, "train", ["ita"], float(lengths_s[1]), float(lengths_s[-2]) + 1e-4)
    assert "1 longer than data.max_s" in both and " and 1 shorter than data.min_s" in both
    longest_s = float(mixture.durations_s[mixture.select("dev", ["ita"], labelled=True)].max())
    note_excluded_dev_clips(mixture, ["ita"], 0.0, 60.0)
    assert not capsys.readouterr().err
    note_excluded_dev_clips(mixture, ["ita"], 0.0, longest_s - 0.01)
    assert "note: validation uses the dev clips that training could use (of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.language", "deu"], "deu: not in the corpus, which has eng, ita"),
        (["--labels.minutes", "600"], "labels.minutes 600: the corpus has"),
        (["--encoder", "nowhere"], "--encoder nowhere: no such folder"),
        (["--schedule.step", "3"], "schedule.step"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(made, flags, said):
    done = run(made, "mistaken", *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def settings(made, **changes) -> FinetuneSettings:
    return FinetuneSettings(encoder=str(made / "encoder"), **changes)


def test_a_random_start_shares_the_shape_and_the_feature_statistics_alone(made):
    known = Encoder.load(made / "encoder").state_dict()
    torch.manual_seed(1)
    fresh = make_initial_encoder(settings(made, start="random")).state_dict()
    assert {k: w.shape for k, w in fresh.items()} == {k: w.shape for k, w in known.items()}
    matrices = [k for k, w in known.items() if w.ndim > 1 and "prior" not in k]
    assert not any(torch.equal(known[k], fresh[k]) for k in matrices)
    assert torch.equal(known["frontend.prior_2M"], fresh["frontend.prior_2M"])
    assert known["frontend.prior_2M"].any()


def test_renewed_blocks_start_anew_and_the_others_stay(made):
    known = Encoder.load(made / "encoder").state_dict()
    torch.manual_seed(1)
    fresh = make_initial_encoder(settings(made, freeze=FreezeSettings(renew=1))).state_dict()
    assert torch.equal(known["blocks.layers.0.ffn.inner_proj.weight"], fresh["blocks.layers.0.ffn.inner_proj.weight"])
    assert not torch.equal(
        known["blocks.layers.1.ffn.inner_proj.weight"], fresh["blocks.layers.1.ffn.inner_proj.weight"]
    )


def test_rates_fall_from_the_head_to_the_frontend(made):
    freeze = FreezeSettings(encoder_lr=0.5, layer_decay=0.1)
    recogniser = Recogniser(Encoder(SHAPE), Tokens.from_texts(["ab"]), Normaliser())
    task = FinetuneTask(settings(made, freeze=freeze), recogniser, {})
    optimizer = task.configure_optimizers()["optimizer"]
    named = {id(p): name for name, p in recogniser.named_parameters()}
    rates = {named[id(p)]: g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == set(named.values())
    top = settings(made).optim.lr
    assert rates["head.weight"] == pytest.approx(top)
    assert rates["encoder.blocks.layers.1.ffn.inner_proj.weight"] == pytest.approx(top * 0.5)
    assert rates["encoder.blocks.layers.0.ffn.inner_proj.weight"] == pytest.approx(top * 0.05)
    assert rates["encoder.projection.weight"] == pytest.approx(top * 0.005)
