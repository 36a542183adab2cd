"""Training: Trainer assembly (the one door to lightning and deepspeed), schedules, checkpoints, recording."""

from lightning import LightningModule

__all__ = ["LightningModule"]
