"""Distillation in miniature: a student with scores, from audio whose labels it may mostly not see; resumed, the very same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill.config import DistillSettings, LossSettings, StudentSettings
from distill.fit import choose_labels
from distill.pseudo_labels import beam_labels
from distill.student import make_student
from distill.task import DistillTask
from distill.teacher import TorchTeacher
from lalia.cards import ancestors, read_card
from lalia.data.augment import AugmentSettings
from lalia.data.labels import LabelSubset, choose_minutes, clips_digest, label_encoder
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.decoder import make_decoder
from lalia.lm.folder import make, symbols_of
from lalia.models.export.onnx_export import export_student
from lalia.models.recogniser import Recogniser
from lalia.text.tokens import Tokens
from tests.tiny_corpus import WORDS, make_corpus
from tests.tiny_teacher import make_recogniser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    make_corpus(folder / "corpus", 24, ("ita", "eng"))
    mixture = Mixture.load([folder / "corpus"])
    labelled = choose_minutes(mixture, mixture.select("train", ["ita"], labelled=True, min_s=0.5, max_s=15), 0.2)
    teacher = make_recogniser(width=32, layers=3)
    facts = {"labels": {"minutes": 0.2, "clips": clips_digest(mixture, labelled)}}
    teacher.save(folder / "teacher", [read_card(folder / "corpus")], finetuning=facts)
    return folder


@pytest.fixture()
def run(made, train):
    """``run(out, *flags)`` -> (exit status, standard output, standard error)."""
    steps = "--schedule.steps", "6", "--log.valid_every", "3", "--log.checkpoint_every", "3"
    losses = "--augment.speed", "1.0", "--regular.dropout", "0.1", "--loss.confidence", "0.1"
    return lambda out, *flags: train("fit", made, out, *steps, *losses, *flags)


def test_from_a_teacher_to_a_student_with_scores_and_resumed_the_same(made, run):
    status, said, complained = run("run")
    assert status == 0, complained
    assert "test CER" in said
    assert "note:" not in complained  # the labels are those the teacher's card names
    scores = json.loads((made / "run" / "scores.json").read_text())
    assert {"cer", "teacher_cer", "minutes", "minutes_of_labels"} <= set(scores)
    assert scores["minutes_of_labels"] <= 0.2 < scores["minutes"]
    student = Recogniser.load(made / "run" / "recogniser")
    assert student.encoder.shape.layers == 2
    card = read_card(made / "run" / "recogniser", "recogniser")
    assert [parent["kind"] for parent in card["parents"]] == ["recogniser", "corpus"]
    assert {"corpus"} <= {parent["kind"] for parent in ancestors(card)}
    line = json.loads((made / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"train/posteriors", "train/hidden", "train/labels", "train/pseudo"} <= set(line)
    assert 0 < line["train/labelled"] < 1
    assert "finished" in run("run")[1]
    assert "begun with loss.confidence 0.1, now 0.2" in run("run", "--loss.confidence", "0.2")[2]

    # The run as a kill behind step 3 leaves it.
    (made / "broken" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl"):
        text = (made / "run" / name).read_text().replace(str(made / "run"), str(made / "broken"))
        (made / "broken" / name).write_text(text)
    kept = made / "run" / "checkpoints" / "step00000003.ckpt"
    (made / "broken" / "checkpoints" / kept.name).write_bytes(kept.read_bytes())
    status, _, complained = run("broken")
    assert status == 0, complained
    assert "continuing from step 3" in complained
    whole, resumed = (
        torch.load(made / name / "checkpoints" / "step00000006.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "broken")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not any(name.startswith("teacher") for name in whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.language", "deu"], "deu: not in the corpus, which has eng, ita"),
        (["--labels.minutes", "600"], "labels.minutes 600: the corpus has"),
        (["--teacher", "nowhere"], "--teacher nowhere: no such folder"),
        (["--student.layers", "9"], "student.layers 9: the teacher has 3"),
        (["--student.layer", "2"], "student.layer"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, flags, said):
    status, _, complained = run("mistaken", *flags)
    assert status == 2
    assert said in complained
    assert len(complained.strip().splitlines()) == 1


def settings(made, **changes) -> DistillSettings:
    return DistillSettings(**{"teacher": [str(made / "teacher")], "join_s": 0.0, **changes})


def task_and_batch(made, chosen: DistillSettings, labels: bool = True):
    mixture = Mixture.load([made / "corpus"])
    teacher = Recogniser.load(made / "teacher")
    rows = mixture.select("train", ["ita"])[:4]
    clips = LabelSubset(mixture, rows[:2] if labels else rows[:0])
    torch.manual_seed(0)
    task = DistillTask(chosen, [TorchTeacher(teacher)], make_student(teacher, chosen.student, chosen.regular), {})
    encode = label_encoder(teacher.tokens, teacher.normaliser)
    return task, next(iter(make_eval_loader(clips, rows, 60.0, encode, finish=task.sampler)))


def test_pseudo_labels_come_from_the_teachers_beam_under_a_language_model_where_one_is_given(made, run):
    teacher = Recogniser.load(made / "teacher")
    symbols = [symbols_of(word, "letter", teacher.tokens)[0] for word in WORDS["ita"]]
    make(made / "lm", symbols, "letter", 3, teacher.normaliser, [])
    flags = ("--loss.pseudo_lm", str(made / "lm"), "--loss.confidence")
    status, _, complained = run("searched", *flags, "0.0")
    assert status == 0, complained
    unlabelled = re.search(r"(\d+) of (\d+) unlabelled clips get a pseudo-label", complained)
    assert unlabelled is not None and 0 < int(unlabelled[1]) <= int(unlabelled[2])
    kept = json.loads((made / "searched" / "pseudo.json").read_text())
    assert kept["teacher"] == read_card(made / "teacher")["id"] and kept["lm"] == read_card(made / "lm")["id"]
    lines = [json.loads(line) for line in (made / "searched" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("train/pseudo", 0.0) > 0 for line in lines)

    mixture = Mixture.load([made / "corpus"])
    rows = mixture.select("train", ["ita"])[:3]
    card = read_card(made / "teacher")
    given = (str(made / "lm"), mixture, rows)
    every = beam_labels(teacher, card, *given, 0.0, made / "searched-all", True)
    sure = kept_by(made / "searched-all", 0.9)
    assert beam_labels(teacher, card, *given, 0.9, made / "searched-all", True).keys() == {
        row for row in every if mixture.id(row) in sure
    }
    decoder = make_decoder(
        cast(
            Any,
            SimpleNamespace(tokens=teacher.tokens, normaliser=teacher.normaliser, frame_s=teacher.frame_s, card=card),
        ),
        made / "lm",
    )
    for row in every:
        wave = mixture.wave(row)
        log_probs_BTV, _ = teacher.log_probs(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
        assert every[row] == [span.token for span in decoder.decode(log_probs_BTV[0].numpy()).spans]


def kept_by(folder, confidence: float) -> set[str]:
    clips = json.loads((folder / "pseudo.json").read_text())["clips"]
    return {name for name, (tokens, sure) in clips.items() if tokens and sure >= confidence}


def test_labels_are_chosen_as_the_teacher_chose_them(made, capsys):
    mixture = Mixture.load([made / "corpus"])
    rows = mixture.select("train", ["ita"], min_s=0.5, max_s=15)
    card = read_card(made / "teacher")
    chosen = choose_labels(settings(made), mixture, rows, card)
    assert 0 < mixture.durations_s[chosen].sum() <= 12
    assert len(choose_labels(settings(made, loss=LossSettings(labels=0.0)), mixture, rows, card)) == 0
    assert capsys.readouterr().err == ""
    other = settings(made)
    other.labels.minutes = 0.0
    assert len(choose_labels(other, mixture, rows, card)) == len(rows)
    assert "not those that the teacher was trained on" in capsys.readouterr().err


def test_hidden_labels_are_not_to_be_seen(made):
    mixture = Mixture.load([made / "corpus"])
    rows = mixture.select("train", ["ita"])
    clips = LabelSubset(mixture, rows[:3])
    assert [bool(clips.text(int(row))) for row in rows] == [True] * 3 + [False] * (len(rows) - 3)
    np.testing.assert_array_equal(clips.wave(int(rows[5])), mixture.wave(int(rows[5])))
    task, batch = task_and_batch(made, settings(made), labels=False)
    assert float(task.losses(batch)["labels"]) == 0.0


def test_a_student_that_is_its_teacher_has_nothing_to_learn(made):
    chosen = settings(made, student=StudentSettings(layers=3))
    chosen.regular = replace(chosen.regular, time_coverage=0.0, channel_coverage=0.0)
    task, batch = task_and_batch(made, chosen)
    task.train()
    found = task.losses(batch)
    assert float(found["posteriors"].detach()) == pytest.approx(0.0, abs=1e-5)
    # -log sigmoid of a cosine of 1 is what remains
    assert float(found["hidden"].detach()) == pytest.approx(float(torch.tensor(1.0).sigmoid().log().neg()), abs=1e-4)


def test_joined_clips_are_compared_frame_by_frame_with_what_the_teacher_hears_in_each_alone(made):
    chosen = settings(made, student=StudentSettings(layers=3), join_s=1e-3)
    chosen.regular = replace(chosen.regular, time_coverage=0.0, channel_coverage=0.0)
    task, batch = task_and_batch(made, chosen)
    task.train()
    alone = task.losses(batch)
    assert float(alone["posteriors"].detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(alone["pauses"]) == 0.0
    batch = replace(task.sampler, join_s=1000.0)(batch)
    joined = task.losses(batch)
    assert float(joined["posteriors"].detach()) > 1e-4  # neighbours are heard
    assert float(joined["pauses"].detach()) > 0.0
    heard = task.student_outputs(batch)
    assert heard.logits_BTV.shape == task.targets(batch, heard).logits_BTV.shape
    assert heard.frames_P is not None and len(heard.frames_P) == len(batch.lengths_B) - 1


def test_labels_win_over_what_the_teacher_heard(made):
    chosen = settings(made, loss=LossSettings(confidence=0.0))
    task, batch = task_and_batch(made, chosen)
    found = task.losses(batch)
    assert float(found["labelled"]) == 0.5
    assert float(found["pseudo_labelled"]) <= 0.5


def test_noise_is_for_the_student_alone_and_drawn_by_the_micro_batch(made):
    chosen = settings(made, augment=AugmentSettings(noise=1.0, noise_snr_db=(0.0, 0.0)))
    chosen.regular = replace(chosen.regular, time_coverage=0.0, channel_coverage=0.0)
    task, batch = task_and_batch(made, chosen)
    quiet, unchanged = task_and_batch(made, settings(made, regular=chosen.regular))
    assert_close(*(one.teachers.first.hear(batch).logits_BNV for one in (task, quiet)))
    noisy = task.student_outputs(batch).logits_BTV
    assert not torch.allclose(noisy, quiet.student_outputs(unchanged).logits_BTV, atol=1e-3)
    assert_close(noisy, task.student_outputs(task.sampler(batch)).logits_BTV)
    assert not torch.allclose(noisy, task.student_outputs(task.sampler(replace(batch, number=7))).logits_BTV)


def test_training_brings_the_student_to_the_teacher(made):
    """A few dozen steps on one batch: the divergence falls far, and only the student has moved."""
    chosen = settings(made, loss=LossSettings(labels=0.0, pseudo=0.0))
    chosen.regular = replace(chosen.regular, time_coverage=0.0, channel_coverage=0.0)
    task, batch = task_and_batch(made, chosen)
    teacher = cast(TorchTeacher, task.teachers.first).recogniser
    with torch.no_grad():
        teacher.head.weight.mul_(8)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    first = last = 0.0
    for step in range(40):
        found = task.losses(task.sampler(replace(batch, number=step)))
        optimizer.zero_grad()
        task.weighted(found).backward()
        optimizer.step()
        last = float(found["posteriors"].detach())
        first = first or last
    assert last < 0.2 * first
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())


def test_two_teachers_and_a_store_give_a_student_of_its_own_frames_and_the_next_student_reads_the_store(made, train):
    other = make_recogniser(1, width=32, layers=3, stack=2)
    other.save(made / "other", [])
    export_student(made / "teacher", made / "onnx")
    flags = ("--teacher", str(made / "other"), "--teacher", str(made / "onnx"), "--store.folder", str(made / "store"))
    short = (
        "--schedule.steps", "2", "--log.valid_every", "1", "--log.checkpoint_every", "2", "--student.input", "logmel",
        "--student.bins", "80", "--student.layers", "1", "--student.alphabet", "labels", "--augment.speed", "1.0",
    )  # fmt: skip
    status, _, told = train("fit", made, "of-three", *flags, *short)
    assert status == 0, told
    assert "outputs of 3 teachers for" in told and "starts from the shipped encoder nano-multilingual" in told
    scores = json.loads((made / "of-three" / "scores.json").read_text())
    assert [Path(one["folder"]).name for one in scores["teachers"]] == ["teacher", "other", "onnx"]
    kinds = [parent["kind"] for parent in read_card(made / "of-three" / "recogniser")["parents"]]
    assert kinds == ["encoder", "recogniser", "recogniser", "student", "corpus"]
    assert len(list((made / "store").glob("*/posteriors.bin"))) == 3
    status, _, told = train(
        "fit", made, "of-three-again", *flags, *short, "--student.block", "conformer", "--student.width", "24"
    )
    assert status == 0, told
    assert "outputs of" not in told.replace("stored outputs of", "") and "starts from random weights" in told

    card = read_card(made / "other")
    (made / "other" / "card.json").write_text(json.dumps(card | {"id": "sha256:changed"}))
    status, _, told = train("fit", made, "older", *flags, *short)
    assert status == 2 and "holds the outputs of an older" in told.splitlines()[-1]


def test_a_teacher_of_another_alphabet_is_refused(made, train):
    foreign = make_recogniser(width=32, layers=3)
    foreign.tokens = Tokens(["<blank>", "|", *(chr(0x430 + n) for n in range(len(foreign.tokens) - 2))])
    foreign.save(made / "foreign", [])
    status, _, told = train("fit", made, "of-foreign", "--teacher", str(made / "foreign"), "--labels.minutes", "0")
    assert status == 2, told
    assert "every teacher needs every letter of the student" in told.splitlines()[-1]
