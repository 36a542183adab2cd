"""Execute a notebook from the top and keep its output: python notebooks/execute.py notebooks/read_a_run.ipynb [--out COPY]

The notebook runs in the project's root; LALIA_RUN says which demo it reads (runs/demo unless set).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]


def execute(source: Path, target: Path, timeout_s: int = 600) -> None:
    """Run every cell of ``source`` in a fresh kernel and write it, outputs included, to ``target``.

    What differs between two runs of the same notebook, such as the time a cell took, is left out.
    """
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, help="write here instead of in place")
    args = parser.parse_args()
    try:
        execute(args.notebook, args.out or args.notebook)
    except CellExecutionError as error:
        print(f"{args.notebook}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
