"""Figures of the code: modules, imports, import cycles, and the files that one training step runs through.

    python -m benchmarks.code_figures [--root CHECKOUT] [--corpus CORPUS]

Run on two checkouts it makes the table of docs/design.md. Modules are those of ``lalia`` and the stages, without
``__init__.py``. An import cycle is a set of packages or top modules of ``lalia`` that import one another, with function-level
imports and without those for type checkers. With ``--corpus`` a tiny pretraining run counts the files of the checkout whose
functions are called from the end of the first training step to the end of the third: reading, batching, masking, forward and
backward passes, and the optimizer. Logging, checkpoints and validation are outside this window.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TOPS = ("lalia", "pretrain", "finetune", "distill")
ROOT = Path(__file__).parents[1]
_TRACE = """\
import json, os, sys, threading
root, out, corpus, found = sys.argv[1:5]
sys.path.insert(0, root)
from tests.tiny_run import NANO
from pretrain import task, __main__ as program
files, steps = set(), 0
def profile(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and name.startswith(root + os.sep) and steps in (1, 2):
        files.add(os.path.relpath(name, root))
step = task.PretrainTask.training_step
def counted(self, *args, **kwargs):
    global steps
    done = step(self, *args, **kwargs)
    steps += 1
    return done
task.PretrainTask.training_step = counted
threading.setprofile(profile)
sys.setprofile(profile)
quiet = ["--log.every=100", "--log.valid_every=100", "--log.checkpoint_every=100", "--batch.hours=0.0016"]
sys.argv = ["pretrain", "fit", "--out", out, "--data.corpus", corpus, "--schedule.steps=4", *NANO, *quiet]
program.main()
sys.setprofile(None)
json.dump(sorted(files), open(found, "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--corpus", type=Path, help="a small corpus: also count the files of one training step")
    args = parser.parse_args()
    root = args.root.resolve()
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for top in TOPS for path in (root / top).rglob("*.py")}
    modules = [path for path in trees if path.name != "__init__.py"]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    longest = max(lengths, key=lengths.__getitem__)
    names = Counter(path.name for path in modules if path.is_relative_to(root / "lalia"))
    print(f"modules: {len(modules)}; fewer than 100 lines: {sum(n < 100 for n in lengths.values())}")
    print(f"longest: {lengths[longest]} lines ({longest.relative_to(root)})")
    print(f"module names that occur more than once in lalia: {sum(n > 1 for n in names.values())}")
    print(f"function-level imports: {sum(late for path in trees for _, late in imports_of(trees[path]))}")
    print(f"packages in import cycles: {', '.join(cycle(root, trees)) or 'none'}")
    if args.corpus:
        files = step_files(root, args.corpus.resolve())
        print(f"files that a training step runs through: {len(files)}\n  " + "\n  ".join(files))


def imports_of(tree: ast.AST, late: bool = False) -> Iterator[tuple[list[str], bool]]:
    """The module of each import statement, and whether it is inside a function; without imports for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield [alias.name for alias in node.names], late
        elif isinstance(node, ast.ImportFrom):
            yield [f"{node.module}.{alias.name}" for alias in node.names], late
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from imports_of(node, late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def cycle(root: Path, trees: dict[Path, ast.Module]) -> list[str]:
    """The packages and top modules of ``lalia`` that import one another, directly or through others."""
    needs: dict[str, set[str]] = {}
    for path, tree in trees.items():
        if not path.is_relative_to(root / "lalia") or path == root / "lalia" / "__init__.py":
            continue
        own = path.relative_to(root / "lalia").parts[0].removesuffix(".py")
        named = [name.split(".") for modules, _ in imports_of(tree) for name in modules]
        needs.setdefault(own, set()).update(words[1] for words in named if words[0] == "lalia" and words[1] != own)
    changed = True
    while changed:  # close over what is reached
        changed = False
        for found in needs.values():
            further = set().union(*(needs.get(name, set()) for name in found)) - found
            found |= further
            changed |= bool(further)
    return sorted(name for name, found in needs.items() if name in found)


def step_files(root: Path, corpus: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "files.json")
        subprocess.run(
            [sys.executable, "-c", _TRACE, str(root), str(Path(folder, "run")), str(corpus), str(found)],
            cwd=root, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return [name for name in json.loads(found.read_text(encoding="utf-8")) if not name.startswith("tests/")]


if __name__ == "__main__":
    main()
