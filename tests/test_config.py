"""Settings: defaults, YAML and flags; typos end in one line."""

from __future__ import annotations

import pytest

from finetune.config import FinetuneSettings
from lalia import config
from lalia.errors import UserError
from pretrain.config import PretrainSettings


def load(*argv: str) -> PretrainSettings:
    return config.load(PretrainSettings, list(argv), "lalia pretrain fit", "about")


def test_flags_win_over_yaml_which_wins_over_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# a comment\noptim:\n  lr: 0.1\n  clip: 1.0\n")
    settings = load("--config", str(file), "--optim.lr", "0.2")
    assert (settings.optim.lr, settings.optim.clip, settings.optim.beta1) == (0.2, 1.0, 0.9)


def test_a_list_is_filled_by_repeating_its_flag(tmp_path):
    assert load("--data.corpus", "a", "--data.corpus=b c").data.corpus == ["a", "b c"]
    file = tmp_path / "a.yaml"
    file.write_text("data:\n  corpus: [x, y]\n")
    assert load("--config", str(file)).data.corpus == ["x", "y"]
    assert load("--config", str(file), "--data.corpus", "z").data.corpus == ["z"]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--optim.lrr", "1"], "optim.lrr"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--model.input", "mp3"], "model.input"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--model.width", "100", "--model.heads", "3"], "model.width 100"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(argv, named, capsys):
    with pytest.raises(UserError) as caught:
        load(*argv)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""


def test_a_typo_in_a_file_is_named(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optim:\n  rate: 1\n")
    with pytest.raises(UserError, match="rate"):
        load("--config", str(file))


@pytest.mark.parametrize("schema", [PretrainSettings, FinetuneSettings])
def test_what_is_dumped_loads_back_the_same(schema, tmp_path):
    settings = config.load(schema, ["--data.corpus", "a", "--data.corpus", "b", "--optim.lr", "3e-5"], "x", "")
    config.dump(settings, tmp_path / "kept.yaml")
    assert config.load(schema, ["--config", str(tmp_path / "kept.yaml")], "x", "") == settings


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data.langauge", "ita"], "unrecognized arguments: --data.langauge (did you mean --data.language?)"),
        (["--lr=1"], "unrecognized arguments: --lr (did you mean --optim.lr?)"),
        (["stray"], "unrecognized arguments: stray"),
        (["--seed", "x"], "--seed x: expected a whole number"),
        (["--guard.enabled=maybe"], "--guard.enabled maybe: expected true or false"),
        (
            ["--hardware.precision", "fp61"],
            "--hardware.precision fp61: expected auto, fp32, bf16 or fp16 (did you mean fp16?)",
        ),
        (["--data.corpus"], "--data.corpus: expected one argument"),
    ],
)
def test_a_wrong_flag_has_the_form_of_every_program(argv, told):
    with pytest.raises(UserError) as caught:
        load(*argv)
    assert str(caught.value) == f"{told}; see: lalia pretrain fit --help all"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("data: {langauge: [ita]}", "a.yaml: no setting data.langauge (did you mean data.language?); see: "),
        ("seed: one", "a.yaml: seed one: expected a whole number; see: "),
        ("data: 5", "a.yaml: data 5: expected settings in it: corpus, language"),
        ("a: [", "a.yaml: is no YAML (line 1"),
        ("", "a.yaml: holds no settings; expected"),
        ("- a", "a.yaml: holds no settings; expected"),
    ],
)
def test_a_wrong_file_is_named(content, told, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        load("--config", str(file))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_path_of_a_file_is_named_with_what_is_like_it():
    with pytest.raises(UserError) as caught:
        load("--config=configs/pretrain/nono.yaml")
    assert str(caught.value) == (
        "--config configs/pretrain/nono.yaml: no such file (did you mean nano.yaml?); expected a YAML file of settings"
    )


def test_help_is_short_and_says_where_every_setting_is(capsys):
    with pytest.raises(SystemExit) as ended:
        load("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("about\n") and "every setting: lalia pretrain fit --help all" in shown
    assert "--batch.hours" not in shown


def test_help_teaches_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        load("--help", "all")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--batch.hours" in shown
    assert "hours of audio per optimizer step" in shown
