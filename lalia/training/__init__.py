"""Training: Trainer assembly (the one door to lightning and deepspeed), schedules, checkpoints, recording.

Lightning's three names are loaded when somebody asks for them: it takes seconds, and a typo in a flag should not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

__all__ = ["Callback", "LightningModule", "Trainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import lightning
    from lightning.pytorch.callbacks import Callback

    return {"Callback": Callback, "LightningModule": lightning.LightningModule, "Trainer": lightning.Trainer}[name]
