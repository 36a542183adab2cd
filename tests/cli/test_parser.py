"""Command lines: what is wrong in them is one line that says where help is, in every program."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from lalia.cli import main as cli
from lalia.cli.parser import Parser, positive
from lalia.errors import UserError


def test_a_wrong_argument_is_one_line_with_the_help_command() -> None:
    parser = Parser(prog="lalia sing")
    parser.add_argument("--often", type=positive)
    parser.add_argument("--key", type=float)
    parser.add_argument("--voice", choices=("alto", "tenor", "bass"))
    for argv, told in (
        (["--loud"], "unrecognized arguments: --loud; see: lalia sing --help"),
        (["--oft", "2"], "unrecognized arguments: --oft 2 (did you mean --often?); see: lalia sing --help"),
        (["--often", "0"], "--often 0: expected a whole number from 1; see: lalia sing --help"),
        (["--often"], "--often: expected one argument; see: lalia sing --help"),
        (["--key", "H"], "--key H: expected a number; see: lalia sing --help"),
        (
            ["--voice", "tenr"],
            "--voice tenr: expected alto, tenor or bass (did you mean tenor?); see: lalia sing --help",
        ),
        (["--lm", "x"], "unrecognized arguments: --lm x; see: lalia sing --help"),
        (["aria"], "unrecognized arguments: aria; see: lalia sing --help"),
    ):
        with pytest.raises(UserError) as caught:
            parser.parse_args(argv)
        assert str(caught.value) == told
    assert parser.parse_args(["--often", "3"]).often == 3


def test_verbs_below_a_parser_tell_their_own_help() -> None:
    parser = Parser(prog="lalia")
    sing = parser.add_subparsers(required=True).add_parser("sing")
    sing.add_argument("song")
    sing.add_argument("--loud", action="store_true")
    with pytest.raises(UserError, match="required: song; see: lalia sing --help"):
        parser.parse_args(["sing"])
    with pytest.raises(UserError) as caught:
        parser.parse_args(["sing", "a", "--lout"])
    assert str(caught.value) == "unrecognized arguments: --lout (did you mean --loud?); see: lalia sing --help"
    with pytest.raises(UserError, match=r"no verb 'sign' \(did you mean sing\?\); expected sing; see: lalia --help"):
        parser.parse_args(["sign", "a"])


def test_descriptions_keep_their_lines() -> None:
    about = "Sing.\n\n  lalia sing a song     loudly\n"
    assert about in Parser(description=about).format_help()


@pytest.mark.parametrize(
    ("stage", "slip", "verb"),
    [("pretrain", "fti", "fit"), ("finetune", "evl", "eval"), ("distill", "exprot", "export")],
)
def test_a_slip_in_a_stage_s_verb_is_one_line(
    stage: str, slip: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([stage, slip, "runs/swahili"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"lalia: no verb {slip!r} (did you mean {verb}?); expected ")
    assert said.err.endswith(f"; see: lalia {stage} --help\n")


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "²"])
def test_other_values_than_whole_numbers_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1"):
        positive(text)


def _check(argv: list[str]) -> object:
    from finetune.check.check import main

    return main(argv)


def _probe(argv: list[str]) -> object:
    from pretrain.probe import arguments

    return arguments("lalia pretrain probe", "", argv)


def _evaluate(argv: list[str]) -> object:
    from finetune.evaluate import main

    return main(argv)


def _lm(argv: list[str]) -> object:
    from finetune.lm import main

    return main(argv)


@pytest.mark.parametrize(
    ("program", "run"),
    [
        ("lalia finetune check", _check), ("lalia finetune eval", _evaluate),
        ("lalia finetune lm", _lm), ("lalia pretrain probe", _probe),
    ],
)  # fmt: skip
def test_the_stages_tell_it_in_the_same_words(program: str, run: Callable[[list[str]], object]) -> None:
    with pytest.raises(UserError, match=f"--sideways; see: {program} --help"):
        run(["here", "there", "--sideways"])
