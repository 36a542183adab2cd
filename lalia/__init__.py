"""lalia: from raw audio in any language to a small speech recogniser that runs on a laptop.

``from lalia import Student`` needs no torch; ``lalia.data``, ``lalia.models`` and ``lalia.training`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalia.runtime.student import Student

__version__ = "0.1.0"
__all__ = ["Student", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, so that `import lalia` costs milliseconds: onnxruntime is loaded by those who use it.
    if name == "Student":
        from lalia.runtime.student import Student

        return Student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
