"""The light runtime: transcribing works where torch and everything of the training extra is not installed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lalia.audio.encoding import flac_bytes
from tests.tiny_student import make_student, sing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

# Put in front of every import path: what it names fails to import, as on a machine without it.
BLOCKER = """
import sys
import zipfile

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
"""


def extra_modules() -> set[str]:
    """The modules of the training and development extras, and what they bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("-", "_")
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    }
    light = {re.split(r"[^A-Za-z0-9_-]", requirement)[0].lower() for requirement in project["dependencies"]}
    brought = {
        "fairseq2n",
        "pyarrow",
        "pandas",
        "scipy",
        "sklearn",
        "tqdm",
        "yaml",
        "torchmetrics",
        "pytorch_lightning",
    }
    return (named | brought) - light


def run_light(tmp_path: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    """Run ``lalia`` with everything but the light dependencies blocked."""
    (tmp_path / "block").mkdir(exist_ok=True)
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKER.format(blocked=extra_modules()))
    return subprocess.run(
        [sys.executable, "-m", "lalia.cli.main", *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "block")},
    )


def test_the_blocker_blocks(tmp_path: Path) -> None:
    run_light(tmp_path, "--version")
    for name in ("torch", "datasets", "lightning", "fairseq2", "av", "transformers", "pyarrow"):
        assert name in extra_modules()
        ended = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "block")},
        )
        assert "(blocked)" in ended.stderr


def test_transcribe_without_the_training_extra(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    (tmp_path / "clip.flac").write_bytes(flac_bytes(sing("bad cab")))
    ended = run_light(tmp_path, "transcribe", student, "clip.flac")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "bad cab\n", "")
    ended = run_light(tmp_path, "transcribe", student, "clip.flac", "--format", "srt", "--out", "subs")
    assert ended.returncode == 0, ended.stderr
    assert "bad cab" in (tmp_path / "subs" / "clip.srt").read_text()


def test_what_needs_more_says_so(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    for argv in (["evaluate", student, tmp_path], ["prepare", "demo", "--out", tmp_path / "corpus"]):
        ended = run_light(tmp_path, *argv)
        assert ended.returncode == 2, ended.stderr
        assert "pip install 'lalia[train]'" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_serving_needs_its_own_extra(tmp_path: Path) -> None:
    ended = run_light(tmp_path, "serve", make_student(tmp_path / "student"))
    assert ended.returncode == 2 and "pip install 'lalia[serve]'" in ended.stderr and ended.stderr.count("\n") == 1
    assert "starlette" in extra_modules()
    assert "curl" in run_light(tmp_path, "serve", "--help").stdout


def test_few_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 6


def test_the_same_files_build_the_same_bytes(tmp_path: Path) -> None:
    """Whatever their times are, and without any variable in the environment."""
    hashes: dict[str, set[str]] = {}
    for place in ("one", "two"):
        source = tmp_path / place
        shutil.copytree(ROOT / "lalia", source / "lalia", copy_function=shutil.copyfile)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(ROOT / name, source / name)
        if place == "two":
            os.utime(source / "lalia" / "units.py", (1e9, 1e9))
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(source / "dist")]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        for built in (source / "dist").iterdir():
            hashes.setdefault(built.suffix, set()).add(hashlib.sha256(built.read_bytes()).hexdigest())
    assert {suffix: len(found) for suffix, found in hashes.items()} == {".whl": 1, ".gz": 1}
    names = set(zipfile.ZipFile(next((tmp_path / "one" / "dist").glob("*.whl"))).namelist())
    package = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "lalia").rglob("*") if p.is_file() and p.suffix != ".pyc"
    }
    assert package <= names
