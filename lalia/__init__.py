"""lalia: from raw audio in any language to a small speech recogniser that runs on a laptop.

``from lalia import Student`` needs no torch; ``lalia.data``, ``lalia.models`` and ``lalia.training`` do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalia.runtime.student import Student, TranscribeOptions

# ONNX Runtime's wheels report their use to its maker from 1.31 on, unless this is set before they are loaded. What somebody
# transcribes is nobody else's business; who wants to report sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Threads that wait for each other sleep instead of spinning. On cores that other programs use too, a thread that is not running
# keeps the others spinning: on a busy machine a training step took 7.3 s on two threads that spin, 0.14 s on two that sleep
# (docs/hardware.md). Read when torch is loaded; set it to ACTIVE where a machine is yours alone and spinning is faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["Student", "TranscribeOptions", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, so that `import lalia` costs milliseconds: onnxruntime is loaded by those who use it.
    if name in ("Student", "TranscribeOptions"):
        from lalia.runtime import student

        return getattr(student, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
