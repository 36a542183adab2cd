"""Training: Trainer assembly (the one door to lightning and deepspeed), schedules, checkpoints, recording."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

__all__ = ["Callback", "LightningModule", "Trainer"]
