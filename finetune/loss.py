"""The loss of fine-tuning: CTC, which distillation shares; the function is in ``lalia/models/recogniser.py``."""

from __future__ import annotations

from lalia.models.recogniser import CtcSum, ctc, frames_needed

__all__ = ["CtcSum", "ctc", "frames_needed"]
