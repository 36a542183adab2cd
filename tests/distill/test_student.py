"""Cutting a student out of a teacher: which blocks, which channels, and that what is kept is kept exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.models.transformer import StandardFeedForwardNetwork, StandardTransformerEncoderLayer
from torch.testing import assert_close

from distill.config import DistillSettings, RegularSettings, StudentSettings
from distill.student import choose_blocks, kept_channels, make_projections, make_student
from lalia import config
from lalia.errors import UserError
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.models.transducer import TransducerShape
from tests.tiny_teacher import make_recogniser

REGULAR = RegularSettings()
CONFIGS = Path(__file__).parents[2] / "configs" / "distill"


def clip(samples=12_000):
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(0)) * 0.1, torch.tensor([samples])


@pytest.mark.parametrize(
    ("settings", "teacher", "blocks"),
    [
        (StudentSettings(), 6, [0, 2, 5]),
        (StudentSettings(), 5, [0, 2, 4]),
        (StudentSettings(layers=2), 12, [0, 11]),
        (StudentSettings(layers=1), 4, [3]),
        (StudentSettings(layers=4), 4, [0, 1, 2, 3]),
        (StudentSettings(blocks=[1, 3, 5]), 6, [1, 3, 5]),
    ],
)
def test_blocks_are_spread_from_first_to_last(settings, teacher, blocks):
    assert choose_blocks(settings, teacher) == blocks


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (StudentSettings(layers=5), "student.layers 5: the teacher has 4"),
        (StudentSettings(blocks=[2, 1]), "student.blocks"),
        (StudentSettings(blocks=[0, 4]), "from 0 to 3"),
        (StudentSettings(layers=3, blocks=[0, 1]), "contradict"),
        (StudentSettings(width=50), "student.width 50: expected a multiple of the teacher's head width 12"),
        (StudentSettings(feedforward=97), "student.feedforward 97: the teacher has 96"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        make_student(make_recogniser(), settings, REGULAR)


@pytest.mark.parametrize("block", ["transformer", "convolutional", "conformer"])
@pytest.mark.parametrize("position", ["rotary", "convolution"])
def test_a_student_as_large_as_its_teacher_says_the_same(block, position):
    teacher = make_recogniser(
        block=block, position=position, position_kernel=9, position_groups=4, layers=2, norm="pre"
    )
    student = make_student(teacher, StudentSettings(layers=2), REGULAR)
    assert_close(student.log_probs(*clip())[0], teacher.log_probs(*clip())[0])


def test_a_student_starts_from_the_chosen_blocks():
    teacher = make_recogniser()
    student = make_student(teacher, StudentSettings(blocks=[1, 3]), REGULAR)
    theirs, mine = teacher.encoder.state_dict(), student.encoder.state_dict()
    for name, weight in mine.items():
        source = (
            name.replace("layers.1.", "layers.3.") if ".layers.1." in name else name.replace("layers.0.", "layers.1.")
        )
        assert_close(weight, theirs[source])


def test_a_transducer_is_left_out_of_a_teacher_and_refused_as_a_start(tmp_path):
    teacher = make_recogniser()
    hybrid = Recogniser(teacher.encoder, teacher.tokens, teacher.normaliser, transducer=TransducerShape()).eval()
    assert make_student(hybrid, StudentSettings(), REGULAR).transducer is None
    hybrid.save(tmp_path / "hybrid", [])
    with pytest.raises(UserError, match="distillation trains CTC heads only"):
        make_student(teacher, StudentSettings(start=str(tmp_path / "hybrid")), REGULAR)


def test_changing_the_student_leaves_the_teacher_alone():
    teacher = make_recogniser()
    before = teacher.log_probs(*clip())[0]
    student = make_student(teacher, StudentSettings(), REGULAR)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert_close(teacher.log_probs(*clip())[0], before)


def test_units_that_say_nothing_are_the_first_to_go():
    """Feed-forward units, heads and channels whose weights are zero can be cut without any change of the output."""
    teacher = make_recogniser(block="transformer", norm="pre", layers=2)
    with torch.no_grad():
        for block in teacher.encoder.blocks.layers:
            assert isinstance(block, StandardTransformerEncoderLayer)
            assert isinstance(block.ffn, StandardFeedForwardNetwork)
            block.ffn.output_proj.weight[:, ::2] = 0
    student = make_student(teacher, StudentSettings(layers=2, feedforward=48), REGULAR)
    assert student.encoder.shape.feedforward == 48
    assert_close(student.log_probs(*clip())[0], teacher.log_probs(*clip())[0])


@pytest.mark.parametrize("block", ["transformer", "convolutional", "conformer"])
@pytest.mark.parametrize("position", ["rotary", "convolution"])
def test_narrower_students_keep_whole_heads_and_run(block, position):
    teacher = make_recogniser(block=block, position=position, position_kernel=8, position_groups=4, layers=2)
    settings = StudentSettings(width=24, feedforward=32, position_kernel=4)
    student = make_student(teacher, settings, REGULAR)
    assert (student.encoder.shape.width, student.encoder.shape.heads) == (24, 2)
    assert student.log_probs(*clip())[0].isfinite().all()


def test_a_grouped_position_convolution_is_cut_inside_its_groups():
    """The narrow convolution is the wide one where all that is cut off is silent."""
    teacher = make_recogniser(position="convolution", position_kernel=8, position_groups=4, layers=2).encoder
    student = make_student(
        make_recogniser(position="convolution", position_kernel=8, position_groups=4, layers=2),
        StudentSettings(layers=2, width=24), REGULAR,
    ).encoder  # fmt: skip
    channels = kept_channels(teacher, student.shape.width)
    assert torch.bincount(channels // 12, minlength=4).tolist() == [6, 6, 6, 6]
    x_BDT = torch.zeros(1, 48, 11)
    x_BDT[:, channels] = torch.randn(1, 24, 11)
    assert teacher.position is not None and student.position is not None
    wide, narrow = teacher.position.conv(x_BDT), student.position.conv(x_BDT[:, channels])
    assert_close(narrow, wide[:, channels])


def test_projections_begin_as_what_was_cut_out():
    channels = torch.tensor([0, 3, 5])
    projection = make_projections(make_recogniser().encoder.shape, channels, 1)[0]
    hidden = torch.randn(2, 4, 3)
    wide = projection(hidden)
    assert_close(wide[..., channels], hidden)
    assert float(wide.detach().abs().sum()) == pytest.approx(float(hidden.abs().sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "millions"), [("pocket", (1.5, 2.5)), ("laptop", (9.0, 12.0)), ("server", (22.0, 27.0))]
)
def test_sizes_cost_what_they_are_named_by_and_fit_a_larger_teacher(size, millions):
    asked = config.load(DistillSettings, ["--config", str(CONFIGS / f"{size}.yaml")], "test", "")
    shape = {"width": 576, "layers": 7, "heads": 9, "feedforward": 2304, "block_kernel": 9, "bins": 80}
    student = make_student(make_recogniser(**shape), asked.student, REGULAR)
    low, high = millions
    assert low < count_parameters(student) / 1e6 < high
    assert student.log_probs(*clip())[0].isfinite().all()
    with pytest.raises(UserError, match=r"student\.\w+ \d+.*(teacher)"):
        make_student(make_recogniser(), asked.student, REGULAR)
