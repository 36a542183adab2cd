"""Verbs about this machine: what works (doctor), which models are here (models), completion."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lalia.cli import doctor, main
from tests.tiny_student import make_student


def test_doctor_says_what_is_missing_and_how_to_get_it(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has", lambda module: module not in ("av", "torch", "sounddevice"))
    assert main.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line[9:].split("  ")[0]: line for line in lines}
    assert found["run models"].startswith("ok ") and "onnxruntime" in found["run models"]
    assert found["more audio files"].startswith("missing") and "pip install av" in found["more audio files"]
    assert "lalia[listen]" in found["microphone"] and "no torch" in found["training"]


def test_doctor_fails_where_no_model_runs(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise ImportError("libgomp.so.1: cannot open\nTraceback")

    monkeypatch.setattr(doctor, "_runtime", broken)
    monkeypatch.setattr(doctor, "_gpu", lambda: doctor.Finding("GPU", False, "none"))
    assert main.main(["doctor"]) == 1
    assert "missing  run models" in (said := capsys.readouterr().out) and "libgomp.so.1: cannot open\n" in said


def test_models_below_a_folder(tmp_path: Path, capsys) -> None:
    make_student(tmp_path / "students" / "a", language=["ita"])
    make_student(tmp_path / "students" / ".hidden", language=["ita"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.json").write_text("{")
    assert main.main(["models", str(tmp_path), "--json"]) == 0
    here, *shipped = json.loads(capsys.readouterr().out)
    assert here["path"].endswith("students/a") and (here["kind"], here["languages"]) == ("student", ["ita"])
    assert here["bytes"] > 100 and here["id"].startswith("sha256:")
    assert any(model["path"].endswith("nano-multilingual") for model in shipped)
    assert main.main(["models", str(tmp_path)]) == 0
    assert "1 model below" in capsys.readouterr().out
    assert main.main(["models", str(tmp_path / "none")]) == 2


def test_completion_knows_every_verb_and_its_options(capsys) -> None:
    assert main.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = "COMP_WORDS=(lalia transcribe --form); COMP_CWORD=2; _shtab_lalia; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--format"], done.stderr
    [verbs] = [line for line in script.splitlines() if line.startswith("_shtab_lalia_subparsers=(")]
    assert set(verbs.partition("(")[2].rstrip(")").replace("'", "").split()) == {*main.VERBS, *main.STAGES}
    assert main.main(["completion", "zsh"]) == 0 and capsys.readouterr().out.startswith("#compdef lalia")
    assert main.main(["completion", "fishy"]) == 2
