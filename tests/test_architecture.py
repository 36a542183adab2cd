"""Import rules: which package may import which, and the only places of each large dependency. Checked on the source."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("pretrain", "finetune", "distill")
LIGHT = (
    "__main__",
    "cli",
    "units",
    "errors",
    "signals",
    "files",
    "threads",
    "inputs",
    "cards",
    "model_folder",
    "onnx_session",
    "align",
    "audio",
    "text",
    "lm",
    "decoding",
    "scoring",
    "speakers",
    "runtime",
    "tags",
    "serve",
)
HEAVY = ("config", "data", "models", "report", "training")

DOORS = {
    # package: where it may be named. A path ending in / is everything below it.
    "torch": (
        "lalia/data/",
        "lalia/models/",
        "lalia/training/",
        "pretrain/",
        "finetune/",
        "distill/",
        "benchmarks/",
        "tests/",
    ),
    "torchaudio": ("lalia/data/", "lalia/models/", "lalia/training/", "finetune/", "benchmarks/", "tests/"),
    "fairseq2": ("lalia/cli/convert.py", "lalia/models/", "benchmarks/", "tests/"),
    "fairseq2n": ("lalia/models/",),
    "lightning": ("lalia/training/", "tests/"),
    "deepspeed": ("lalia/training/", "tests/"),
    "tensorboard": ("lalia/training/", "tests/"),
    "datasets": ("lalia/data/corpus.py", "lalia/data/prepare/", "benchmarks/", "tests/"),
    "huggingface_hub": ("lalia/data/prepare/sources/hub.py", "lalia/models/convert/hub_models.py", "tests/"),
    "pyarrow": ("lalia/cli/prepare.py", "lalia/data/corpus.py", "lalia/data/prepare/", "benchmarks/", "tests/"),
    "jsonargparse": ("lalia/config.py", "tests/"),
    "safetensors": ("lalia/cli/convert.py", "lalia/models/", "benchmarks/", "tests/"),
    "onnxruntime": (
        "lalia/onnx_session.py",
        "lalia/runtime/",
        "lalia/speakers/",
        "lalia/tags/",
        "distill/measure.py",
        "benchmarks/",
        "tests/",
    ),
    "onnx": ("distill/", "lalia/models/export/", "lalia/models/convert/", "benchmarks/", "tests/"),
    "av": ("lalia/audio/", "tests/"),
    # fairseq2 asks the system for libsndfile unless soundfile, which brings its own, is there first.
    "soundfile": ("lalia/audio/", "lalia/models/encoder.py", "benchmarks/", "tests/"),
    "miniaudio": ("lalia/audio/flac.py",),
    "soxr": ("lalia/audio/", "benchmarks/", "tests/"),
    "rapidfuzz": ("lalia/text/edit_distance.py", "lalia/scoring/"),
    "num2words": ("lalia/text/number_words.py",),
    "unicode_rbnf": ("lalia/text/number_words.py",),
    "regex": ("lalia/text/unicode.py",),
    "sentencepiece": ("lalia/text/tokens.py", "lalia/models/convert", "tests/"),
    "jiwer": ("tests/",),
    "sherpa_onnx": ("benchmarks/", "tests/"),
    "pocketsphinx": ("benchmarks/",),
    "starlette": ("lalia/serve/", "tests/"),
    "uvicorn": ("lalia/serve/connections.py", "tests/"),
    "websockets": ("lalia/serve/connections.py", "benchmarks/", "tests/"),
    "sounddevice": ("lalia/runtime/microphone.py", "tests/"),
    "praatio": ("lalia/data/prepare/sources/",),
    "pysubs2": ("lalia/align/written.py", "lalia/data/prepare/sources/"),
    "selectolax": ("lalia/align/written.py",),
    "rustling": ("lalia/data/prepare/sources/",),
    "transformers": ("lalia/models/convert", "benchmarks/", "tests/"),
}

LIGHT_PACKAGES = {"numpy", "onnxruntime", "soundfile", "soxr", "rapidfuzz", "shtab", "lalia"}
# Inside a function of a light module a package may be named that only some users need.
LATE_PACKAGES = {
    "lalia/align/written.py": {"pysubs2", "selectolax"},
    "lalia/audio/ffmpeg.py": {"av"},
    "lalia/audio/flac.py": {"miniaudio"},
    "lalia/runtime/microphone.py": {"sounddevice"},
    "lalia/text/unicode.py": {"regex"},
    "lalia/text/number_words.py": {"num2words", "unicode_rbnf"},
    "lalia/text/tokens.py": {"sentencepiece"},
}
# Packages that need an extra; the program loads them late, like heavy ones.
EXTRA_PACKAGES = {"serve": {"starlette", "uvicorn", "h11", "websockets"}}
LONGEST = 600
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "misc"}


@dataclass(frozen=True)
class Import:
    """One imported module: ``late`` inside a function, ``typing`` under TYPE_CHECKING (costs nothing at run time)."""

    module: str
    line: int
    late: bool
    typing: bool
    level: int

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def imports(tree: ast.AST, late: bool = False, typing: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late, typing, 0)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield Import(module, node.lineno, late, typing, node.level)
            for alias in node.names:  # `from lalia import models` names a module as well
                yield Import(f"{module}.{alias.name}", node.lineno, late, typing, node.level)
        else:
            inside = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            only_types = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            yield from imports(node, inside, only_types)


def sources(*tops: str) -> list[Path]:
    return sorted(p for top in tops if (ROOT / top).is_dir() for p in (ROOT / top).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(imports(parsed(path)))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    """The package of ``lalia`` that a file is in: ``audio`` for lalia/audio/reading.py, ``cli`` for lalia/cli/main.py."""
    return path.relative_to(ROOT / "lalia").parts[0].removesuffix(".py")


SOURCES = sources("lalia", *STAGES)
EVERYTHING = [*SOURCES, *sources("tests", "benchmarks")]
IDS = {path: relative(path) for path in EVERYTHING}


def complain(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def test_every_package_is_known() -> None:
    complain(
        [
            f"{relative(p)}: package {package_of(p)!r} is neither light nor heavy"
            for p in sources("lalia")
            if package_of(p) not in (*LIGHT, *HEAVY, "__init__")
        ]
    )


def test_stages_do_not_import_each_other() -> None:
    complain(
        [
            f"{relative(path)}:{found.line}: imports {found.module}"
            for stage in STAGES
            for path in sources(stage)
            for found in imports_of(path)
            if found.package in STAGES and found.package != stage
        ]
    )


def test_lalia_does_not_import_stages() -> None:
    complain(
        [
            f"{relative(path)}:{found.line}: imports {found.module}"
            for path in sources("lalia")
            for found in imports_of(path)
            if found.package in STAGES
        ]
    )


def test_light_packages_do_not_import_heavy_ones() -> None:
    heavy = tuple(f"lalia.{name}" for name in HEAVY)
    found_any = []
    for path in sources("lalia"):
        if package_of(path) not in LIGHT:
            continue
        for found in imports_of(path):
            to_heavy = found.module in heavy or found.module.startswith(tuple(f"{name}." for name in heavy))
            # The program is where the packages meet: a verb loads a heavy one late.
            if to_heavy and not (package_of(path) == "cli" and (found.late or found.typing)):
                found_any.append(f"{relative(path)}:{found.line}: imports {found.module}")
    complain(found_any)


def test_light_packages_need_only_light_dependencies() -> None:
    import sys

    found_any = []
    for path in sources("lalia"):
        if package_of(path) not in (*LIGHT, "__init__"):
            continue
        allowed = LIGHT_PACKAGES | EXTRA_PACKAGES.get(package_of(path), set()) | set(sys.stdlib_module_names)
        for found in imports_of(path):
            fine = allowed | (LATE_PACKAGES.get(relative(path), set()) if found.late else set())
            heavy_verb = package_of(path) == "cli" and (found.late or found.typing)  # a verb loads what only it needs
            if found.package not in fine and not heavy_verb:
                found_any.append(f"{relative(path)}:{found.line}: imports {found.module}")
    complain(found_any)


def test_extras_are_imported_by_the_program_alone() -> None:
    complain(
        [
            f"{relative(path)}:{found.line}: imports {found.module}"
            for path in sources("lalia")
            for found in imports_of(path)
            for extra in EXTRA_PACKAGES
            if found.module.startswith(f"lalia.{extra}") and package_of(path) != extra and package_of(path) != "cli"
        ]
    )


@pytest.mark.parametrize("package", DOORS)
def test_doors(package: str) -> None:
    doors = DOORS[package]
    complain(
        [
            f"{relative(path)}:{found.line}: imports {found.module}; only these may: {', '.join(doors)}"
            for path in EVERYTHING
            for found in imports_of(path)
            if found.package == package and not relative(path).startswith(doors)
        ]
    )


@pytest.mark.parametrize("path", EVERYTHING, ids=IDS.get)
def test_files(path: Path) -> None:
    tree = parsed(path)
    name = path.stem
    problems = []
    if any(found.level for found in imports(tree)):
        problems.append("imports relatively")
    if tree.body and not ast.get_docstring(tree):
        problems.append("does not open with its purpose")
    if name in VAGUE:
        problems.append("has a name that says nothing")
    if name in DOORS:
        problems.append("is named after a dependency")
    complain([f"{relative(path)}: {problem}" for problem in problems])


def test_packages_are_packages() -> None:
    folders = {path.parent for path in SOURCES}
    complain(
        [
            f"{relative(folder)}: has no __init__.py"
            for folder in sorted(folders)
            if not (folder / "__init__.py").is_file()
        ]
    )


def test_packages_form_no_circle() -> None:
    """Packages and top modules of ``lalia`` import one another in one direction only, late imports counted, typing ones not."""
    needs: dict[str, set[str]] = {}
    for path in sources("lalia"):
        own = package_of(path)
        if own == "__init__":  # offers Student and the version to all
            continue
        named = [found.module.split(".") for found in imports_of(path) if not found.typing]
        needs.setdefault(own, set()).update(
            words[1] for words in named if words[0] == "lalia" and len(words) > 1 and words[1] != own
        )
    left = {name: found & needs.keys() for name, found in needs.items()}
    while ready := [name for name, found in left.items() if not found & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, f"in a circle: {left}"


def test_a_basename_stands_once_in_lalia() -> None:
    names = Counter(path.name for path in sources("lalia") if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]


def test_a_module_is_as_long_as_its_one_idea() -> None:
    assert not [relative(p) for p in SOURCES if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST]


WRITING_WORDS = re.compile(r"unspaced|is_ideograph|_IDEOGRAPHS|_stands_alone|\b(?:THAI|LAO|KHMER|MYANMAR)\b")


def test_one_module_knows_how_languages_are_written() -> None:
    """Whether spaces separate words, and what else does, is asked of ``lalia.text.writing_system``."""
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in SOURCES
        if path.name != "writing_system.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if WRITING_WORDS.search(line)
    ]
    complain(found)
