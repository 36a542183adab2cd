"""What README and the documents tell people to type exists: verbs, flags, files, make targets, Python names and links."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from lalia.cli import main
from lalia.cli.main import STAGES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [
        body for said, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if said == language
    ]


def commands(path: Path) -> list[str]:
    """Lines of fenced blocks that begin as one of our commands, without their comments."""
    text = path.read_text(encoding="utf-8")
    lines = [line for body in blocks(text, "sh") for line in re.sub(r"\\\n\s*", "", body).splitlines()]
    found = [re.sub(r"\s+#.*", "", line).removeprefix("$ ").strip() for line in lines]
    return [line for line in found if re.match(r"(lalia \w|make |python -m \w|pip install)", line) and "…" not in line]


COMMANDS = sorted({command for path in DOCUMENTS for command in commands(path)})


def flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif words[0] == "lalia":
        verb = words[1:3] if words[1] in STAGES else words[1:2]
        with pytest.raises(SystemExit) as ended:
            main.main([*verb, "--help", "all"])
        assert ended.value.code == 0
        assert flags(words) <= set(re.findall(r"--[\w.-]+", capsys.readouterr().out)), "an unknown flag"
        for flag, value in pairwise(words):
            assert flag != "--config" or (ROOT / value).is_file(), f"{value} is not there"
    elif words[0] == "python":
        assert importlib.util.find_spec(words[2]) is not None
    else:
        assert words[:2] == ["pip", "install"]


def test_the_two_commands_stand_on_top() -> None:
    top = README[:900]
    assert "make demo" in top and "make test" in top


@pytest.mark.parametrize(
    "body", [body for path in DOCUMENTS for body in blocks(path.read_text(encoding="utf-8"), "python")]
)
def test_python_names_exist(body: str) -> None:
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith(("https://", "http://")) or (path.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_files_exist(path: Path) -> None:
    named = re.findall(r"`((?:lalia|pretrain|finetune|distill|tests)/[\w./-]+)`", path.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{path.name} names what is not there: {missing}"


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in a link: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_a_heading(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        page = path.parent / target if target else path
        assert anchor in anchors(page), f"{target}#{anchor}: no such heading"


def test_the_map_shows_every_folder() -> None:
    rows = [row.partition(" | ")[0] for row in README.splitlines() if row.startswith("| `")]
    shown = {name.rstrip("/") for row in rows for name in re.findall(r"[\w./-]+/", row)}
    rooms = {name if "/" in name or (ROOT / name).is_dir() else f"lalia/{name}" for name in shown}
    assert all((ROOT / name).is_dir() for name in rooms), sorted(rooms)
    passing = {"build", "data", "runs"}  # what commands make
    top = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.endswith(".egg-info")} - passing
    assert {name for name in top if not name.startswith((".", "__"))} <= shown
    assert {p.name for p in (ROOT / "lalia").iterdir() if (p / "__init__.py").is_file()} <= {
        Path(name).name for name in shown
    }
