"""Notebooks run from the top on a tiny demo, and what is committed of them is small, whole and says nothing of who ran it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from benchmarks.demo.run import Demo

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1_500_000


def outputs(notebook: Any) -> list[tuple[str, Any]]:
    """(kind, data) of every output: ``image/png``, ``text/html``, ``stream``, ``error``."""
    found: list[tuple[str, Any]] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found += list(output.data.items()) if "data" in output else [(output.output_type, output.get("text", ""))]
    return found


@pytest.mark.xdist_group("chain")
def test_read_a_run_executes_on_a_tiny_demo(tiny_demo: Demo, tmp_path: Path) -> None:
    target = tmp_path / "executed.ipynb"
    source = ROOT / "notebooks" / "read_a_run.ipynb"
    environment = {**os.environ, "LALIA_RUN": str(tiny_demo.out)}
    ended = subprocess.run(
        [sys.executable, "notebooks/execute.py", str(source), "--out", str(target)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = outputs(nbformat.read(target, as_version=4))
    plots = [base64.b64decode(data) for kind, data in found if kind == "image/png"]
    assert len(plots) >= 8
    assert all(plot.startswith(b"\x89PNG") for plot in plots)
    assert sum("<audio" in data for kind, data in found if kind == "text/html") == 3
    assert target.stat().st_size < MOST_BYTES


def test_a_cell_that_fails_is_one_exit_status(tmp_path: Path) -> None:
    source = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), source)
    ended = subprocess.run(
        [sys.executable, "notebooks/execute.py", str(source)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_is_committed(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = outputs(notebook)
    assert "error" not in {kind for kind, _ in found}
    said = "".join(str(data) for kind, data in found if kind.startswith(("text", "stream")))
    assert str(Path.home()) not in said and str(ROOT) not in said, "an output names a folder of who ran it"
    if found:  # executed as a whole or not at all
        assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")
        assert any(kind == "image/png" for kind, _ in found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_figure_is_followed_by_its_takeaway(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    with_figure = [
        number
        for number, cell in enumerate(cells)
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))
    ]
    assert with_figure
    assert all(cells[number + 1].source.startswith("**Takeaway.**") for number in with_figure)
