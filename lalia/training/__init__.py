"""Training: runs, checkpoints, logging, and the only place that imports lightning and deepspeed.

Lightning's three names are imported on first use: the import takes seconds, and a typo in a flag should not.
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
