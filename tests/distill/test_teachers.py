"""Students of other teachers: another frontend and frame rate, a part of the alphabet, an ensemble, adapters, ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill.config import DistillSettings, RegularSettings, StudentSettings
from distill.fit import describe_student
from distill.student import initial_student
from distill.task import DistillTask
from distill.teacher import OnnxTeacher, TorchTeacher, adapter_for, choose_tokens, load_teacher
from lalia import config
from lalia.data.batch import pad
from lalia.errors import UserError
from lalia.text.tokens import Tokens
from tests.tiny_student import make_student as make_onnx
from tests.tiny_teacher import make_recogniser, sharpen

REGULAR = RegularSettings(time_coverage=0.0, channel_coverage=0.0)
WAVE: dict[str, Any] = {
    "input": "wave", "stem": [[16, 10, 5], [16, 8, 8], [16, 8, 8]], "stem_norm": "layer", "stem_bias": True,
    "normalise_wave": True, "width": 64, "layers": 4, "heads": 1, "feedforward": 96, "block": "transformer", "norm": "pre",
    "position": "convolution", "position_kernel": 8, "position_groups": 4, "dropout": 0.0, "dropout_input": 0.0,
    "attention_dropout": 0.0, "layerdrop": 0.0,
}  # fmt: skip
"""A small recogniser in the shape of XLS-R: layer norm in the stem, blocks with the norm first, frames of 20 ms."""


def wave_teacher(seed: int = 0) -> TorchTeacher:
    made = make_recogniser(seed, **WAVE)
    sharpen(made)
    wave = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a blank in four frames of five, as CTC teachers have it
        logits_NV = made(wave, torch.tensor([16_000]))[0][0]
        made.head.bias[0] += (logits_NV[:, 1:].amax(-1) - logits_NV[:, 0]).quantile(0.8)
    return TorchTeacher(made, {"id": f"sha256:{seed}"}, "teacher")


def batch_of(task: DistillTask, seconds=(1.0, 0.7)):
    random = np.random.default_rng(0)
    waves = [0.1 * random.standard_normal(round(16_000 * s)).astype(np.float32) for s in seconds]
    return task.sampler(pad(0, [0, 1], waves, np.zeros(2, np.int16), [[], []], []))


def task_for(teachers, student: StudentSettings, **changes) -> DistillTask:
    settings = DistillSettings(teacher=["t"], student=student, regular=REGULAR, join_s=0.0, **changes)
    torch.manual_seed(0)
    tokens = choose_tokens("", teachers[0], [])
    return DistillTask(settings, teachers, initial_student(teachers[0], student, REGULAR, tokens).student, {})


def test_a_log_mel_student_of_a_wave_teacher_learns_its_text_at_half_the_frames():
    teacher = wave_teacher()
    task = task_for([teacher], StudentSettings(input="logmel", layers=1, width=48, feedforward=64))
    assert teacher.hop == 320 and task.student.encoder.shape.hop == 640
    batch = batch_of(task)
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    divergences = []
    for _ in range(25):
        found = task.losses(batch)
        optimizer.zero_grad()
        task.weighted(found).backward()
        optimizer.step()
        divergences.append(float(found["posteriors"].detach()))
    assert divergences[-1] < 0.5 * divergences[0]
    assert {"hidden", "unmatched"} <= found.keys() and 0 < float(found["hidden"].detach()) < 10


@pytest.mark.parametrize(
    ("student", "origin"),
    [
        (StudentSettings(), "the teacher"),
        (StudentSettings(input="logmel", layers=3), "nano-multilingual"),
        (
            StudentSettings(input="logmel", layers=3, width=96, feedforward=192, chunk=4, left_chunks=2),
            "nano-multilingual",
        ),
        (StudentSettings(input="logmel", layers=2, stack=2), "nano-multilingual"),
        (
            StudentSettings(input="logmel", block="transformer", layers=2, width=64, feedforward=64),
            "the teacher's blocks",
        ),
        (StudentSettings(input="logmel", width=384, layers=1), "random weights"),
        (
            StudentSettings(input="logmel", block="conformer", width=24, layers=1, chunk=4, left_chunks=2),
            "random weights",
        ),
    ],
)
def test_where_the_initial_weights_are_from(student, origin):
    teacher = wave_teacher()
    initial = initial_student(teacher, student, REGULAR)
    assert origin in initial.origin and origin in describe_student(initial, teacher)
    shape = initial.student.encoder.shape
    assert (shape.chunk, shape.input) == (student.chunk, student.input or "wave")
    assert initial.measure == (origin not in ("the teacher", "nano-multilingual") or student.stack == 2)
    wave = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert initial.student.log_probs(wave, torch.tensor([16_000]))[0].isfinite().all()


def test_the_teachers_blocks_are_kept_under_a_new_frontend():
    teacher = wave_teacher()
    settings = StudentSettings(input="logmel", block="transformer", layers=4, width=64, feedforward=96)
    mine = initial_student(teacher, settings, REGULAR).student.encoder.state_dict()
    theirs = teacher.recogniser.encoder.state_dict()
    kept = [name for name in mine if name.startswith(("blocks.", "position."))]
    assert len(kept) > 20
    for name in kept:
        assert_close(mine[name], theirs[name])


@pytest.mark.parametrize("size", ["nano", "pocket", "laptop", "server", "streaming-nano"])
def test_every_size_is_made_of_a_wave_teacher(size):
    asked = config.load(DistillSettings, ["--config", f"configs/distill/{size}.yaml"], "test", "")
    made = initial_student(wave_teacher(), asked.student, asked.regular).student
    millions = sum(p.numel() for p in made.parameters()) / 1e6
    assert made.encoder.shape.hop == 640
    assert {"nano": 1.5, "pocket": 1.5, "laptop": 9, "server": 22, "streaming-nano": 1.5}[size] < millions
    assert millions < {"nano": 2.5, "pocket": 2.5, "laptop": 12, "server": 27, "streaming-nano": 2.5}[size]


def test_a_part_of_the_alphabet_is_taken_from_labels_or_a_file(tmp_path):
    teacher = wave_teacher()
    chosen = choose_tokens("labels", teacher, ["to", "at"])
    assert chosen.symbols == ("<blank>", "|", "a", "o", "t")
    chosen.save(tmp_path / "tokens.txt")
    assert choose_tokens(str(tmp_path), teacher, []) == chosen
    task = DistillTask(
        DistillSettings(join_s=0.0, regular=REGULAR), [teacher],
        initial_student(teacher, StudentSettings(), REGULAR, chosen).student, {},
    )  # fmt: skip
    batch = batch_of(task)
    targets = task.targets(batch, task.student_outputs(batch))
    places = [teacher.tokens.symbols.index(symbol) for symbol in chosen.symbols]
    assert_close(targets.logits_BTV, teacher.hear(batch).logits_BNV[..., places])
    # A student as deep as its teacher agrees with it on the letters that it has.
    whole = initial_student(teacher, StudentSettings(layers=4), REGULAR, chosen).student
    logits, _ = whole(batch.wave_BS, batch.lengths_B)
    assert_close(logits, targets.logits_BTV)


def test_letters_that_a_teacher_lacks_are_refused_with_the_fix(tmp_path):
    teacher = wave_teacher()
    Tokens(["<blank>", "|", "a", "ж"]).save(tmp_path / "tokens.txt")
    with pytest.raises(UserError, match=r"--student.alphabet .*the teacher teacher has no ж; .*leave out this teacher"):
        choose_tokens(str(tmp_path), teacher, [])
    with pytest.raises(UserError, match="no training clip has a label"):
        choose_tokens("labels", teacher, ["жжж"])
    other = make_recogniser(**WAVE)
    other.tokens = Tokens([*other.tokens.symbols[:-1], "ж"])
    with pytest.raises(UserError, match="every teacher needs every letter"):
        task_for([teacher, TorchTeacher(other, {}, "other")], StudentSettings(input="logmel", layers=1))


def test_an_ensemble_is_the_mean_of_its_teachers():
    one, two = wave_teacher(), wave_teacher(1)
    both = task_for([one, two], StudentSettings())
    batch = batch_of(both)
    targets = both.targets(batch, both.student_outputs(batch))
    assert targets.matched_B is not None and bool(targets.matched_B.all())
    assert_close(targets.logits_BTV.exp().sum(-1)[0], torch.ones(targets.logits_BTV.shape[1]))
    same = task_for([one, wave_teacher()], StudentSettings())
    given = same.targets(batch, same.student_outputs(batch)).logits_BTV[0]
    assert_close(given, one.hear(batch).logits_BNV[0].log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_a_student_folder_teaches(tmp_path):
    make_onnx(tmp_path / "onnx")
    teacher = load_teacher(str(tmp_path / "onnx"), [])
    assert isinstance(teacher, OnnxTeacher)
    task = task_for([teacher], StudentSettings(layers=1))
    assert task.compared == [] and task.student.encoder.shape.input == "logmel"
    batch = batch_of(task)
    found = task.losses(batch)
    assert found["posteriors"].isfinite() and float(found["hidden"]) == 0.0
    task.weighted(found).backward()


def test_the_adapter_of_the_language_teaches(tmp_path):
    folder = tmp_path / "many"
    for code in ("swh", "uzb-script_cyrillic", "uzb-script_latin"):
        (folder / "adapters" / code).mkdir(parents=True)
        (folder / "adapters" / code / "adapter.safetensors").touch()
    assert adapter_for(folder, ["swh"]) == "swh"
    assert adapter_for(folder, ["uzb-script_latin", "und"]) == "uzb-script_latin"
    with pytest.raises(UserError, match=r"has adapters for uzb-script_cyrillic, uzb-script_latin; .*fold one first"):
        adapter_for(folder, ["uzb"])
    with pytest.raises(UserError, match=r"has adapters for swh, .*not for deu; give one of them with --data.language"):
        adapter_for(folder, ["deu"])
    assert adapter_for(tmp_path, ["swh"]) == ""
