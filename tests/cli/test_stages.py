"""The training stages through the program ``lalia``: from any folder, with the checkout's configs, or one line saying why not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lalia.cli import main

ROOT = Path(__file__).parents[2]
VERBS = {stage: about.partition(": ")[2].split(", ") for stage, about in main.STAGES.items()}


def typed(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``lalia`` run in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "lalia", *argv],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
    )  # fmt: skip


def test_the_checkout_s_config_is_found_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()  # a folder of this name is not the stage
    argv = ("pretrain", "fit", "--config", "configs/pretrain/nano.yaml", "--data.corpus", "absent", "--out", "run")
    ended = typed(tmp_path, *argv)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "absent" in ended.stderr and "nano.yaml" not in ended.stderr and ended.stderr.count("\n") == 1
    nearer = tmp_path / "configs" / "pretrain" / "nano.yaml"
    nearer.parent.mkdir(parents=True)
    nearer.write_text("nearer: 1\n")
    assert "nearer" in typed(tmp_path, *argv).stderr


def test_a_config_that_is_nowhere_is_named(tmp_path: Path) -> None:
    for words in (["--config", "configs/pretrain/nono.yaml"], ["--config=configs/pretrain/nono.yaml"]):
        ended = typed(tmp_path, "pretrain", "fit", *words)
        assert ended.returncode == 2 and "configs/pretrain/nono.yaml" in ended.stderr


@pytest.mark.parametrize("stage", main.STAGES)
def test_a_stage_is_the_same_by_both_names(stage: str, tmp_path: Path) -> None:
    module = subprocess.run([sys.executable, "-m", stage, "--help"], cwd=ROOT, capture_output=True, text=True)
    ended = typed(tmp_path, stage, "--help")
    assert (ended.returncode, ended.stdout) == (0, module.stdout)
    verbs = [
        line.split()[2] for line in ended.stdout.partition("\nverbs:\n")[2].splitlines() if line.startswith("  lalia ")
    ]
    assert main.STAGES[stage].partition(": ")[2] == ", ".join(verbs)


def test_help_names_the_stages_and_loads_nothing_heavy(tmp_path: Path) -> None:
    ended = typed(tmp_path, "--help")
    assert all(f"    {stage} " in ended.stdout for stage in main.STAGES)
    listed = typed(tmp_path, "--help", PYTHONPROFILEIMPORTTIME="1").stderr
    assert not any(heavy in listed for heavy in ("numpy", "onnxruntime", "jsonargparse", "torch"))


def test_an_install_without_stages_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "CHECKOUT", tmp_path)
    assert main.main(["finetune", "fit"]) == 2
    assert "finetune: this install of lalia runs students and does not train; clone" in capsys.readouterr().err


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lalia", tmp_path / "lalia", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "distill").mkdir()
    (tmp_path / "distill" / "__init__.py").touch()
    (tmp_path / "distill" / "__main__.py").write_text("import no_such_package\n")
    ended = typed(tmp_path, "distill", "fit", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "distill needs the package no_such_package, which is missing; run: pip install -e" in ended.stderr


@pytest.mark.parametrize("verb", [*main.VERBS, *((stage, verb) for stage, verbs in VERBS.items() for verb in verbs)])
def test_the_examples_of_help_are_what_its_verb_takes(
    verb: str | tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Help begins with what the verb does, and examples in which every flag is one of its own."""
    monkeypatch.setenv("COLUMNS", "200")
    words = [verb] if isinstance(verb, str) else list(verb)
    with pytest.raises(SystemExit):
        main.main([*words, "--help", "all"])
    told = capsys.readouterr().out
    known = set(re.findall(r"--[\w.-]+", told.split("\noptions:")[1]))
    examples = re.findall(rf"^  (lalia {' '.join(words)} .*(?:\\\n.*)?)", told, re.MULTILINE)
    assert examples, "no example"
    for example in examples:
        typed = re.sub(r"\s{3,}.*", "", example.replace("\\\n", ""))
        assert set(re.findall(r"(?<!\S)--[\w.-]+", typed)) <= known, typed
        for config in re.findall(r"--config (\S+)", typed):
            assert (ROOT / config).is_file()


@pytest.mark.parametrize("verb", ["pretrain fit", "finetune fit", "distill fit", "distill prune"])
def test_help_of_fit_is_an_example_and_the_ten_settings_used_most(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main.main([*verb.split(), "--help"])
    short = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main([*verb.split(), "--help", "all"])
    every = set(re.findall(r"^  (--[\w.-]+)", capsys.readouterr().out.split("\noptions:")[1], re.MULTILINE))
    used_most = re.findall(r"^  (--[\w.-]+)", short, re.MULTILINE)
    assert len(used_most) == 10 and set(used_most) <= every
    assert re.search(rf"^  lalia {verb} --", short, re.MULTILINE) and len(short.splitlines()) < 30
