"""Seeds: every random draw of a run is a function of (seed, number of the micro-batch)."""

from __future__ import annotations

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed hashed from numbers and words."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` seeded by ``mix(*parts)``. Kinds of devices draw different numbers from one seed."""
    return torch.Generator(device).manual_seed(mix(*parts))


def reseed(*parts: int | str) -> None:
    """Seed torch's global generators (dropout, LayerDrop) by ``mix(*parts)``."""
    torch.manual_seed(mix(*parts))
