"""ONNX Runtime sessions: every model file of the light packages is opened here, on the CPU, with the same options."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(model: Path | bytes, threads: int = 1, profile: Path | None = None) -> InferenceSession:
    """A session for the ONNX file or the bytes ``model`` on ``threads`` threads; ``profile`` begins the name of a profile.

    ``ValueError`` with the reason if ONNX Runtime cannot load it.
    """
    import onnxruntime  # late: the program's help and errors do not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise ValueError(f"ONNX Runtime cannot load it ({' '.join(str(error).split())})") from error


@cache
def shared_session(model: Path) -> InferenceSession:
    """The one session of this process for the ONNX file ``model``, on one thread; for use in any of its threads."""
    return open_session(model)
