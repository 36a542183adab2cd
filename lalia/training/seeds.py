"""Seeds: every random draw of a run is a function of (seed, number of the micro-batch)."""

from __future__ import annotations

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed hashed from numbers and words."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by ``mix(*parts)``; draws are moved to the device, so every device gets the same."""
    return torch.Generator().manual_seed(mix(*parts))


def reseed(*parts: int | str) -> None:
    """Seed torch's global generators (dropout, LayerDrop) by ``mix(*parts)``."""
    torch.manual_seed(mix(*parts))
