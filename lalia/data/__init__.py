"""Training data: prepare a corpus, read it, plan batches and load them (``from lalia.data import Corpus``)."""

from __future__ import annotations

from typing import Any

__all__ = ["Corpus"]


def __getattr__(name: str) -> Any:
    # Late: the arguments of `lalia prepare` are read where pyarrow may be missing.
    if name == "Corpus":
        from lalia.data.corpus import Corpus

        return Corpus
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
