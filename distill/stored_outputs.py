"""Outputs of teachers, computed once for all clips and reused by every student.

A large teacher costs more than its student's training, and its outputs for clean clips never change. They are stored as

    STORE/store.json               the corpora, and for each teacher its content hash, shape and what is stored
    STORE/N/posteriors.bin         per frame the best tokens and their log-probabilities in half precision
    STORE/N/hidden.bin             per 40 ms the chosen layers, each reduced to its principal components, in half precision
    STORE/N/basis.npy              mean, scale and components of each layer, from the first minutes of audio
    STORE/N/clips.jsonl            a line for each clip: where its frames are

The probability of the tokens that are not stored is shared by them equally. A clip's line is written after its frames, so an
interrupted computation continues behind the last whole clip. Clips whose speed was changed for training use the outputs of the
clip at its own speed, matched in time.

B clips, N teacher frames, H hidden frames, K stored tokens, V tokens, L stored blocks, D width, P principal components,
R = 2 + P rows of a basis.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import StoreSettings
from distill.teacher import Heard, Teacher, TorchTeacher
from lalia.cards import read_json_lines, write_json
from lalia.data.batch import Batch
from lalia.data.labels import clips_digest
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.store import count_parameters
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.training.checkpoint_files import in_bytes
from lalia.training.validation import Transcripts
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples

FACTS, CLIPS, POSTERIORS, HIDDEN, BASIS, READY = (
    "store.json", "clips.jsonl", "posteriors.bin", "hidden.bin", "basis.npy", "ready.json",
)  # fmt: skip
VERSION = 1
HIDDEN_S: Seconds = 0.04
"""Hidden frames are averaged to at least this length."""
BASIS_FRAMES = 20_000
"""Hidden frames that the principal components are computed from, at most."""
LARGE = 100_000_000
"""Parameters from which a teacher runs in bfloat16 on a CPU that has it."""
TIE = 1e-5
"""Added to the best token's log-probability: in half precision another may be equal, and the greedy text must not change."""
TOLD_S = 60.0
"""Seconds between two lines about the progress."""
PATIENCE_S = 7 * 86_400.0


@dataclass(frozen=True)
class Layout:
    """What is stored of a teacher."""

    id: str
    """its content hash, and the language of its adapter"""
    folder: str
    hop: Samples
    tokens: int
    layers: int
    """its blocks"""
    width: int
    top: int
    """tokens per frame"""
    blocks: list[int]
    """the blocks whose output is stored"""
    components: int
    stride: int
    """its frames per hidden frame"""

    @classmethod
    def of(cls, teacher: Teacher, settings: StoreSettings) -> Layout:
        """The layout for ``teacher``; a ``UserError`` for layers that it does not have."""
        blocks = settings.layers or sorted({teacher.layers // 2 - 1, teacher.layers - 1} - {-1})
        if not teacher.layers or not settings.components:
            blocks = []
        wrong = [block for block in blocks if not 0 <= block < teacher.layers]
        if wrong or blocks != sorted(set(blocks)):
            raise UserError(
                f"store.layers {settings.layers}: {teacher.folder} has {teacher.layers} blocks; expected ascending numbers "
                f"from 0 to {teacher.layers - 1}"
            )
        return cls(
            f"{teacher.card['id']} {teacher.adapter}".strip(), teacher.folder, teacher.hop, len(teacher.tokens), teacher.layers,
            teacher.width,
            min(settings.top, len(teacher.tokens)), blocks, min(settings.components, teacher.width),
            max(1, round(to_samples(HIDDEN_S) / teacher.hop)),
        )  # fmt: skip

    @property
    def frame(self) -> np.dtype[Any]:
        """A frame's stored tokens."""
        kind = np.uint8 if self.tokens <= 256 else np.uint16
        return np.dtype([("token", kind, (self.top,)), ("log_prob", np.float16, (self.top,))])

    @property
    def hidden(self) -> np.dtype[Any]:
        """A hidden frame's components."""
        return np.dtype((np.float16, (len(self.blocks), self.components)))

    def bytes_of(self, seconds: Seconds) -> int:
        """Bytes of so much audio."""
        frames = seconds * SAMPLE_RATE / self.hop
        return round(frames * self.frame.itemsize + frames / self.stride * self.hidden.itemsize)


@dataclass(frozen=True)
class Place:
    """Where a clip is stored."""

    samples: Samples
    frames: int
    start: int
    """its first frame"""
    hidden_start: int
    """its first hidden frame"""

    def hidden_frames(self, stride: int) -> int:
        return -(-self.frames // stride)


class StoredTeacher:
    """A teacher whose outputs are read from a store."""

    def __init__(self, teacher: Teacher, layout: Layout, folder: Path, places: dict[int, Place]) -> None:
        self.folder, self.card, self.adapter = teacher.folder, teacher.card, teacher.adapter
        self.size = f"stored outputs of {teacher.size}"
        self.tokens: Tokens = teacher.tokens
        self.normaliser: Normaliser = teacher.normaliser
        self.parameters, self.hop, self.layers = teacher.parameters, teacher.hop, teacher.layers if layout.blocks else 0
        self.blocks: list[int] | None = layout.blocks
        self.width = layout.components
        self.layout, self.store, self.places = layout, folder, places
        self._frames = np.memmap(folder / POSTERIORS, layout.frame, "r")
        rows = (folder / HIDDEN).stat().st_size // max(1, layout.hidden.itemsize) if layout.blocks else 0
        shape = (rows, len(layout.blocks), layout.components)
        self._hidden = np.memmap(folder / HIDDEN, np.float16, "r", shape=shape) if rows else np.zeros(shape, np.float16)

    def hear(self, batch: Batch) -> Heard:
        """The stored outputs of the clips of ``batch`` at their own speed."""
        device = batch.wave_BS.device
        missing = [row for row in batch.rows_B.tolist() if row not in self.places]
        if missing:
            raise UserError(f"{self.store}: lacks a clip of this run; run the same command again to complete the store")
        places = [self.places[row] for row in batch.rows_B.tolist()]
        parts = [self._frames[p.start : p.start + p.frames] for p in places]
        padded = np.zeros((len(parts), max(map(len, parts))), self.layout.frame)
        for b, part in enumerate(parts):
            padded[b, : len(part)] = part
        tokens_BNK = torch.from_numpy(padded["token"].astype(np.int64)).to(device)
        log_probs_BNK = torch.from_numpy(padded["log_prob"]).to(device).float()
        stride = self.layout.stride
        hidden: dict[int, Tensor] = {}
        if self.layout.blocks:
            pieces = [
                torch.from_numpy(
                    self._hidden[p.hidden_start : p.hidden_start + p.hidden_frames(stride)].astype(np.float32)
                )
                for p in places
            ]
            both_BHLP = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(device)
            hidden = {block: both_BHLP[:, :, n] for n, block in enumerate(self.layout.blocks)}
        return Heard(
            dense(tokens_BNK, log_probs_BNK, self.layout.tokens), torch.tensor([p.frames for p in places]), hidden, stride,
            torch.tensor([p.samples for p in places]),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> None:
        """The store stays on disk."""

    def transcripts(self, mixture: Mixture, rows: np.ndarray) -> Transcripts:
        """Greedy transcripts of ``rows``; clips that could not be read are listed in ``unread``."""
        found = Transcripts([], [], [])
        for row in rows.tolist():
            if (place := self.places.get(row)) is None:
                found.unread.append(f"{mixture.id(row)}: has no stored outputs")
                continue
            frames = self._frames[place.start : place.start + place.frames]
            tokens_NK = torch.from_numpy(frames["token"].astype(np.int64))
            log_probs_NK = torch.from_numpy(frames["log_prob"].astype(np.float32))
            log_probs_NV = dense(tokens_NK[None], log_probs_NK[None], self.layout.tokens)[0].numpy()
            found.add(mixture, row, self.normaliser, transcript(greedy(log_probs_NV), self.tokens))
        return found


def dense(tokens_BNK: Tensor, log_probs_BNK: Tensor, V: int) -> Tensor:
    """Log-probabilities (B, N, V) of the stored tokens, the best first; the others share what is left of the probability."""
    first = torch.zeros(log_probs_BNK.shape[-1], device=log_probs_BNK.device)
    first[0] = TIE
    log_probs_BNK = log_probs_BNK + first
    rest = (1 - log_probs_BNK.exp().sum(-1, keepdim=True)).clamp(min=1e-6) / max(1, V - log_probs_BNK.shape[-1])
    return rest.log().expand(-1, -1, V).scatter(2, tokens_BNK, log_probs_BNK)


# --- Opening a store -----------------------------------------------------------------------------------


def stored(
    teachers: Sequence[Teacher], settings: StoreSettings, mixture: Mixture, rows: np.ndarray, *, device: torch.device,
    precision: str, micro_s: Seconds, leads: bool,
) -> list[Teacher]:  # fmt: skip
    """``teachers`` with their outputs for ``rows`` in the store; the process that ``leads`` computes what is missing first.

    A teacher that ran here is left in the precision that it ran in. Raises ``UserError`` if the store is of other audio or of an
    older teacher, or if the disk is too small.
    """
    folder = Path(settings.folder)
    if leads:
        with _locked(folder):
            layouts = _register(folder, teachers, settings, mixture)
            wanted = _missing(folder, layouts, mixture, rows)
            check_room(folder, layouts, mixture, wanted)
            for number, (teacher, layout) in enumerate(zip(teachers, layouts, strict=True)):
                place = folder / _name(folder, layout)
                if len(wanted[number]):
                    _compute(teacher, layout, place, mixture, wanted[number], device, precision, micro_s)
                write_json(place / READY, {"clips": clips_digest(mixture, rows)})
    found: list[Teacher] = []
    for teacher in teachers:
        layout = Layout.of(teacher, settings)
        if not leads:
            _wait(folder, layout, clips_digest(mixture, rows))
        place = folder / _name(folder, layout)
        found.append(StoredTeacher(teacher, layout, place, _places(place, mixture, rows)))
    return found


def _register(folder: Path, teachers: Sequence[Teacher], settings: StoreSettings, mixture: Mixture) -> list[Layout]:
    """The layouts of ``teachers``, which are entered in the store; a ``UserError`` if it is another's."""
    layouts = [Layout.of(teacher, settings) for teacher in teachers]
    now = {card["id"]: str(corpus.folder) for card, corpus in zip(mixture.cards, mixture.corpora, strict=True)}
    facts = _facts(folder) or {"version": VERSION, "corpora": now, "teachers": []}
    if other := [name for key, name in now.items() if key not in facts["corpora"]]:
        was = ", ".join(facts["corpora"].values())
        raise UserError(
            f"{folder}: holds teachers' outputs for other audio ({was}); {other[0]} is another corpus, or was prepared again: "
            f"give another --store.folder, or remove {folder}"
        )
    for layout in layouts:
        for known in facts["teachers"]:
            if known["id"] == layout.id:
                if known | {"folder": layout.folder} != layout.__dict__:
                    kept = ("top", "blocks", "components")
                    raise UserError(
                        f"{folder}: stores {', '.join(f'{name} {known[name]}' for name in kept)} of {layout.folder}; give the "
                        "same store.top, store.layers and store.components, or another --store.folder"
                    )
                break
            same_folder = Path(known["folder"]).resolve() == Path(layout.folder).resolve()
            if same_folder and known["id"].partition(" ")[0] != layout.id.partition(" ")[0]:
                raise UserError(
                    f"{folder}: holds the outputs of an older {layout.folder} ({known['id'][:19]}…, now {layout.id[:19]}…); "
                    f"give another --store.folder, or remove {folder}, and the outputs are computed again"
                )
        else:
            facts["teachers"].append(layout.__dict__)
    write_json(folder / FACTS, facts)
    return layouts


def _facts(folder: Path) -> dict[str, Any] | None:
    path = folder / FACTS
    if not path.is_file():
        if folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
            raise UserError(f"{folder}: is not empty and no store of teachers' outputs; give another --store.folder")
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another --store.folder, or remove {folder}") from error
    if version != VERSION:
        raise UserError(f"{path}: is of version {version}, this lalia reads {VERSION}; give another --store.folder")
    return dict(facts)


def _name(folder: Path, layout: Layout) -> str:
    facts = _facts(folder) or {"teachers": []}
    return str([known["id"] for known in facts["teachers"]].index(layout.id))


def _places(folder: Path, mixture: Mixture, rows: np.ndarray) -> dict[int, Place]:
    """Where each of ``rows`` is stored, if it is."""
    lines = {(line["corpus"], line["id"]): line for line in read_json_lines(folder / CLIPS)}
    found = {}
    for row in rows.tolist():
        if (line := lines.get(_key(mixture, row))) is not None:
            found[row] = Place(line["samples"], line["frames"], line["start"], line["hidden_start"])
    return found


def _key(mixture: Mixture, row: int) -> tuple[str, str]:
    which = int(np.searchsorted(mixture.starts, row, side="right")) - 1
    return mixture.corpora[which].card["id"], mixture.id(row)


def _missing(folder: Path, layouts: Sequence[Layout], mixture: Mixture, rows: np.ndarray) -> list[np.ndarray]:
    """Of each teacher the rows without stored outputs."""
    found = []
    for layout in layouts:
        there = _places(folder / _name(folder, layout), mixture, rows)
        found.append(np.array([row for row in rows.tolist() if row not in there], np.int64))
    return found


def check_room(folder: Path, layouts: Sequence[Layout], mixture: Mixture, wanted: Sequence[np.ndarray]) -> None:
    """Print what the outputs of the ``wanted`` rows need on disk; a ``UserError`` if that is not free."""
    seconds = [float(mixture.durations_s[rows].sum()) for rows in wanted]
    needed = sum(layout.bytes_of(s) for layout, s in zip(layouts, seconds, strict=True))
    if not needed:
        return
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    hourly = " and ".join(in_bytes(layout.bytes_of(3600)) for layout in layouts)
    told = (
        f"{folder}: outputs of {len(layouts)} teacher{'s' * (len(layouts) > 1)} for {max(seconds) / 3600:.2f} hours need "
        f"{in_bytes(needed)} ({hourly} per hour), {in_bytes(free)} are free"
    )
    if needed > free:
        raise UserError(f"{told}; make room, give a --store.folder elsewhere, or store less (--store.components 0)")
    print(told, file=sys.stderr)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Context in which no other run writes to the store."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{folder}: another run writes to this store; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait(folder: Path, layout: Layout, digest: str) -> None:
    begun = time.monotonic()
    while True:
        facts = _facts(folder) or {"teachers": []}
        if any(known["id"] == layout.id for known in facts["teachers"]):
            ready = folder / _name(folder, layout) / READY
            if ready.is_file() and json.loads(ready.read_text(encoding="utf-8"))["clips"] == digest:
                return
        if time.monotonic() - begun > PATIENCE_S:
            raise UserError(f"{folder}: not completed by the leading process; do all nodes share it?")
        time.sleep(1.0)


# --- Computing outputs ---------------------------------------------------------------------------------


@torch.no_grad()
def _compute(
    teacher: Teacher, layout: Layout, folder: Path, mixture: Mixture, rows: np.ndarray, device: torch.device, precision: str,
    micro_s: Seconds,
) -> None:  # fmt: skip
    """Append the outputs of ``rows`` to the teacher's ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    start, hidden_start = _truncate(folder, layout)
    kind = precision_for(teacher, device, precision)
    if kind is not None and isinstance(teacher, TorchTeacher):
        to_half(teacher, kind)
    teacher.to(device)
    basis_LRD = torch.from_numpy(np.load(folder / BASIS)) if (folder / BASIS).is_file() else None
    begun = told = time.monotonic()
    total, done = float(mixture.durations_s[rows].sum()), 0.0
    with (
        (folder / POSTERIORS).open("ab") as posteriors, (folder / HIDDEN).open("ab") as hidden_file,
        (folder / CLIPS).open("a", encoding="utf-8") as clips,
    ):  # fmt: skip
        for batch in make_eval_loader(mixture, rows, micro_s, workers=1):
            with torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None):
                heard = teacher.hear(batch.to(device))
            if layout.blocks and basis_LRD is None:
                basis_LRD = principal_components(heard, layout)
                np.save(folder / BASIS, basis_LRD.numpy())
            best = heard.logits_BNV.float().log_softmax(-1).topk(layout.top, -1)
            values, tokens = best.values.cpu().numpy(), best.indices.cpu().numpy()
            reduced = (
                []
                if basis_LRD is None
                else [
                    reduce(heard.hidden[block], basis_RD.to(device), layout.stride, heard.frames_B)
                    for block, basis_RD in zip(layout.blocks, basis_LRD, strict=True)
                ]
            )
            lines = []
            for b, (row, frames) in enumerate(zip(batch.rows_B.tolist(), heard.frames_B.tolist(), strict=True)):
                record = np.zeros(frames, layout.frame)
                record["token"], record["log_prob"] = tokens[b, :frames], values[b, :frames]
                posteriors.write(record.tobytes())
                H = -(-frames // layout.stride) if layout.blocks else 0
                if H:
                    parts = np.stack([one_BHP[b, :H] for one_BHP in reduced], 1)
                    hidden_file.write(parts.astype(np.float16).tobytes())
                corpus, name = _key(mixture, row)
                samples = int(batch.lengths_B[b])
                lines.append({"corpus": corpus, "id": name, "samples": samples, "frames": frames, "start": start,
                              "hidden_start": hidden_start})  # fmt: skip
                start, hidden_start = start + frames, hidden_start + H
                done += samples / SAMPLE_RATE
            for file in (posteriors, hidden_file):
                file.flush()
            clips.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            clips.flush()
            now = time.monotonic()
            if now - told > TOLD_S:
                told = now
                left_s = (now - begun) * (total - done) / max(done, 1e-9)
                print(f"{teacher.folder}: outputs of {done / 60:.0f} of {total / 60:.0f} minutes stored; about "
                      f"{left_s / 60:.0f} minutes left", file=sys.stderr)  # fmt: skip


def _truncate(folder: Path, layout: Layout) -> tuple[int, int]:
    """Remove what a killed run left behind the last whole clip; returns the numbers of frames and hidden frames."""
    lines = read_json_lines(folder / CLIPS)
    frames = max((line["start"] + line["frames"] for line in lines), default=0)
    if (path := folder / POSTERIORS).is_file() and path.stat().st_size < frames * layout.frame.itemsize:
        raise UserError(
            f"{path}: is shorter than {CLIPS} says; remove {folder.parent}, and the outputs are computed again"
        )
    per_clip = layout.stride if layout.blocks else 0
    hidden = max(
        (line["hidden_start"] + (-(-line["frames"] // per_clip) if per_clip else 0) for line in lines), default=0
    )
    if (folder / CLIPS).is_file():
        kept = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / CLIPS).write_text(kept, encoding="utf-8")
    for name, size in ((POSTERIORS, frames * layout.frame.itemsize), (HIDDEN, hidden * layout.hidden.itemsize)):
        with (folder / name).open("ab") as file:
            file.truncate(size)
    return frames, hidden


def precision_for(teacher: Teacher, device: torch.device, precision: str) -> torch.dtype | None:
    """What the teacher computes products in; None = float32. ``auto`` is bfloat16 for large teachers where the CPU has it."""
    if precision == "fp32" or not isinstance(teacher, TorchTeacher):
        return None
    if precision != "auto":
        return torch.float16 if precision == "fp16" else torch.bfloat16
    large = count_parameters(teacher.recogniser) >= LARGE
    return torch.bfloat16 if large and device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else None


def to_half(teacher: TorchTeacher, kind: torch.dtype) -> None:
    """Store the matrices of the teacher's blocks in ``kind``, once for all batches; norms and convolutions stay."""
    for module in teacher.recogniser.encoder.blocks.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:
            weight.data = weight.data.to(kind)


def principal_components(heard: Heard, layout: Layout) -> Tensor:
    """Of each stored block (L, 2 + P, D): mean and scale of its channels, and the components of the scaled channels."""
    found: list[Tensor] = []
    inside_BN = torch.arange(heard.logits_BNV.shape[1]) < heard.frames_B[:, None]
    for block in layout.blocks:
        frames_MD = heard.hidden[block].float().cpu()[inside_BN][:BASIS_FRAMES]
        mean_D, scale_D = frames_MD.mean(0), frames_MD.std(0, unbiased=False) + 1e-5
        z_MD = (frames_MD - mean_D) / scale_D
        _, vectors_DD = torch.linalg.eigh(z_MD.T @ z_MD / len(z_MD))
        components_PD = vectors_DD.flip(1)[:, : layout.components].T
        found.append(torch.cat([mean_D[None], scale_D[None], components_PD]))
    return torch.stack(found)


def reduce(hidden_BND: Tensor, basis_RD: Tensor, stride: int, frames_B: Tensor) -> np.ndarray:
    """Principal components (B, H, P) of the mean of each ``stride`` frames."""
    small_BNP = ((hidden_BND.float() - basis_RD[0]) / basis_RD[1]) @ basis_RD[2:].T
    B, N, P = small_BNP.shape
    inside_BN1 = (torch.arange(N) < frames_B[:, None])[:, :, None].to(small_BNP.device)
    H = -(-N // stride)
    padding = (0, 0, 0, H * stride - N)
    sums = nn.functional.pad(small_BNP * inside_BN1, padding).view(B, H, stride, P).sum(2)
    counts = nn.functional.pad(inside_BN1.float(), padding).view(B, H, stride, 1).sum(2)
    return np.asarray((sums / counts.clamp(min=1)).clamp(-6e4, 6e4).cpu().numpy())
