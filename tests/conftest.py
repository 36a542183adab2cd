"""What all tests share: one thread per worker, and the whole chain in miniature, made once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.demo.run import Demo

# Before torch is imported for the first time: it reads this once. Workers must not fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    # Known to pytest-xdist alone, which may be switched off.
    config.addinivalue_line("markers", "xdist_group(name): tests that share an expensive fixture run in one worker")


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Every stage of the demo after a few steps. Tests that use it are marked ``xdist_group("chain")``: one worker makes it."""
    from tests.tiny_chain import make_chain

    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def streaming_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming student whose weights are chance; its export takes seconds."""
    from tests.runtime.test_stream import make_student

    return make_student(tmp_path_factory.mktemp("streaming") / "student")
