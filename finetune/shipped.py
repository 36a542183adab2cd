"""The encoders that come with the project, by name: `--encoder nano-multilingual` is `finetune/encoders/nano-multilingual`."""

from __future__ import annotations

from pathlib import Path

ENCODERS = Path(__file__).parent / "encoders"


def place(encoder: str) -> str:
    """The folder that ``encoder`` means: a shipped one where that is its name and no folder of that name is here."""
    shipped = ENCODERS / encoder
    return str(shipped) if encoder in names() and not Path(encoder).exists() else encoder


def names() -> list[str]:
    """What is shipped."""
    return sorted(card.parent.name for card in ENCODERS.glob("*/card.json"))
