"""Checkpoint files: written whole by a background thread, pruned, read mapped; the room they need; a full disk.

A save copies the state to buffers in host memory, which are kept from save to save, and a thread writes the copy. Where memory
has no room for the copy, the training step waits for the file. Only rank 0 writes.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor, nn

from lalia.errors import UserError, full_disk

NEWEST = 2
"""Newest checkpoints that are kept."""
SPARE = 0.8
"""Share of the free memory that copies of the state may take."""

# --- Files -----------------------------------------------------------------------------------------------


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``checkpoint`` atomically; a write that fails leaves no part of it. A kill leaves a ``.part``, see ``prune``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of ``path``, tensors mapped from the file; no code is unpickled."""
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def step_path(folder: Path, step: int) -> Path:
    """The file of the checkpoint of ``step``."""
    return folder / f"step{step:08d}.ckpt"


def steps_in(folder: Path) -> list[Path]:
    """The step checkpoints in ``folder``, newest first."""
    found = [path for path in folder.glob("step*.ckpt") if path.stem[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.stem[4:]), reverse=True)


def prune(folder: Path, keep: Collection[int] = (), newest: int = NEWEST) -> None:
    """Remove all checkpoints but the newest and those of the steps ``keep``, and partial files of a killed run."""
    kept = {step_path(folder, step) for step in keep}
    for path in steps_in(folder)[newest:]:
        if path not in kept:
            path.unlink(missing_ok=True)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to checkpoint files: saves in the background and prunes after each save.

    Files are written one after the other in the order of the saves; one may wait while another is written. After a write that
    failed nothing more is written, and ``failure`` holds the reason.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        """processes of the run on this machine, whose memory peaks at the same time"""
        self.keep: tuple[int, ...] = ()
        """steps whose checkpoints stay, besides the newest"""
        self.failure: BaseException | None = None
        self._buffers: dict[tuple[Any, ...], list[Tensor]] = {}
        self._jobs: list[Future[None]] = []
        self._writer = ThreadPoolExecutor(1, "lalia-checkpoint")

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` in the background; before returning where memory has no room for a copy of it."""
        self.wait(most=1)
        job = Path(path), self.keep
        if self._fits(checkpoint):
            self._jobs.append(self._writer.submit(self._write, self._copied(checkpoint), *job, copied=True))
        else:
            self.wait()
            self._write(checkpoint, *job)

    def reserve(self, module: nn.Module) -> None:
        """Make the buffers for ``module`` and AdamW's moments in the background: new pages of memory cost more than a copy."""
        state = [p for p in module.parameters() for _ in range(3 if p.requires_grad else 1)]

        def make() -> None:
            if self._fits(state):
                self._give_back([_buffer(p).zero_() for p in self._missing(state)])

        self._jobs.append(self._writer.submit(make))

    def wait(self, most: int = 0) -> None:
        """Return when at most ``most`` files are still to be written; see ``failure``."""
        self._jobs = [job for job in self._jobs if not job.done()]
        while len(self._jobs) > most:
            self._jobs.pop(0).result()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def _write(self, checkpoint: Any, path: Path, keep: tuple[int, ...], copied: bool = False) -> None:
        try:
            if self.failure is None:
                try:
                    write_checkpoint(checkpoint, path)
                except Exception as error:
                    if full_disk(error) is None:
                        raise
                    prune(path.parent, keep[-1:], newest=1)
                    write_checkpoint(checkpoint, path)
                prune(path.parent, keep)
        except Exception as error:
            self.failure = _cannot_be_written(path, error, checkpoint)
        finally:
            if copied:
                self._give_back(checkpoint)

    # -- copies in host memory --

    def _fits(self, state: Any) -> bool:
        """Whether memory has room for a copy of ``state``, buffers that are free counted in."""
        return sum(tensor.nbytes for tensor in self._missing(state)) < SPARE * free_memory(self.processes)

    def _missing(self, state: Any) -> Iterator[Tensor]:
        """The tensors of ``state`` for which there is no free buffer."""
        free = {kind: len(buffers) for kind, buffers in self._buffers.copy().items()}  # the writer may add kinds
        for tensor in _tensors(state):
            kind = _kind(tensor)
            free[kind] = free.get(kind, 0) - 1
            if free[kind] < 0:
                yield tensor

    def _copied(self, checkpoint: dict[str, Any]) -> Any:
        def copied(value: Any) -> Any:
            if isinstance(value, Tensor):
                free = self._buffers.get(_kind(value))
                return (free.pop() if free else _buffer(value)).copy_(value.detach(), non_blocking=True)
            if isinstance(value, dict):
                copy = value.copy()
                copy.update({key: copied(held) for key, held in value.items()})
                if hasattr(value, "_metadata"):  # the versions of the modules in a state dict
                    copy._metadata = value._metadata  # type: ignore[attr-defined]
                return copy
            return type(value)(map(copied, value)) if type(value) in (list, tuple) else value

        copy = copied(checkpoint)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return copy

    def _give_back(self, copy: Any) -> None:
        for buffer in _tensors(copy):
            self._buffers.setdefault(_kind(buffer), []).append(buffer)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for held in value.values() if isinstance(value, dict) else value:
            yield from _tensors(held)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype


def _buffer(tensor: Tensor) -> Tensor:
    """Host memory for a copy of ``tensor``, page-locked where that makes copies from a GPU fast."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")


# --- Room in memory and on disk --------------------------------------------------------------------------


def free_memory(processes: int = 1) -> float:
    """Bytes of this machine's memory that stay free while ``processes`` like this one take what they took at their peak; at most
    what is left of this process's cgroup (containers, SLURM). 0 where the system does not say: only Linux does."""
    if sys.platform != "linux":
        return 0.0
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = min(1024.0 * float(meminfo["MemAvailable"].split()[0]), _cgroup_free())
    now = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(0.0, free - processes * max(0, peak - now))


def _cgroup_free() -> float:
    """Bytes left in the tightest of this process's cgroups (version 2); infinite without a limit."""
    root, free = Path("/sys/fs/cgroup"), float("inf")
    try:
        [own] = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return free
    group = root / own.lstrip("/")
    for folder in (group, *group.parents):
        if folder == root.parent:
            break
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                used = float((folder / "memory.current").read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, float(limit) - used + float(stat.get("inactive_file", 0)))  # caches of files give way
        except OSError:
            continue
    return free


def check_disk(folder: Path, module: nn.Module, kept: int) -> str:
    """What the checkpoints of ``module`` need in ``folder`` and what is free, in one line.

    Raises ``UserError`` where not even one fits, older ones removed.
    """
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    one = buffers + sum(p.nbytes * (3 if p.requires_grad else 1) for p in module.parameters())
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    older = sum(path.stat().st_size for path in steps_in(folder)[1:])
    if free + older < one:
        raise UserError(
            f"{folder}: a checkpoint needs {in_bytes(one)}, and {in_bytes(free)} are free; make room, or give an --out "
            "elsewhere"
        )
    return f"checkpoints: {in_bytes(one)} each, up to {in_bytes(one * kept)} at a time; {in_bytes(free)} are free"


def _cannot_be_written(path: Path, error: Exception, checkpoint: Any) -> BaseException:
    """``error`` as one line where a user can do something about it."""
    refused = full_disk(error) or (error if isinstance(error, OSError) else None)
    if refused is None:
        return error
    need, free = sum(t.nbytes for t in _tensors(checkpoint)), shutil.disk_usage(path.parent).free
    kept = steps_in(path.parent)
    then = f"continues from step {int(kept[0].stem[4:])}" if kept else "starts anew"
    return UserError(
        f"{path}: cannot be written ({refused.strerror}; it needs {in_bytes(need)}, {in_bytes(free)} are free); make room, and "
        f"the same command {then}"
    )


@contextmanager
def quiet_if_full() -> Iterator[None]:
    """Context in which a thread that fails since the disk is full prints no traceback: who waits for the thread reports it."""
    plain = threading.excepthook

    def quiet(failed: threading.ExceptHookArgs) -> None:
        if full_disk(failed.exc_value) is None:
            plain(failed)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = plain


def in_bytes(number: float) -> str:
    """``number`` bytes as text: "1.14 GB", "20 MB"."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"
