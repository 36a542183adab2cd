"""The encoders that come with the project, by name: `--encoder nano-multilingual` is `finetune/encoders/nano-multilingual`."""

from __future__ import annotations

from pathlib import Path

from lalia.arguments import closest
from lalia.exits import UserError
from lalia.runtime.integrity import find_made

ENCODERS = Path(__file__).parent / "encoders"


def place(encoder: str) -> str:
    """The folder that ``encoder`` means: a shipped one where that is its name and no folder of that name is here."""
    shipped = ENCODERS / encoder
    return str(shipped) if encoder in names() and not Path(encoder).exists() else encoder


def find(encoder: str) -> str:
    """As ``place``, or the encoder in a run's folder; a ``UserError`` names the shipped ones where there is no such folder."""
    folder = place(encoder)
    if not Path(folder).is_dir():
        raise UserError(
            f"--encoder {encoder}: no such folder{closest(encoder, names())}; expected {' or '.join(names())}, which comes "
            "along, or what lalia pretrain fit or lalia convert made"
        )
    return find_made(folder, "encoder", "--encoder")


def names() -> list[str]:
    """What is shipped."""
    return sorted(card.parent.name for card in ENCODERS.glob("*/card.json"))
