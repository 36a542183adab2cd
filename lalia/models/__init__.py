"""Models: encoders and recognisers, their storage, export and conversion. ``from lalia.models import Encoder, Recogniser``."""

from __future__ import annotations

from typing import Any

__all__ = ["Encoder", "Recogniser"]


def __getattr__(name: str) -> Any:
    # Late: the shape and the store of a model are read by modules that need no fairseq2.
    if name == "Encoder":
        from lalia.models.encoder import Encoder

        return Encoder
    if name == "Recogniser":
        from lalia.models.recogniser import Recogniser

        return Recogniser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
