"""Corpora for the pretraining benchmark (learning.py): all sets of a folder of speech, with leak-free splits for the targets.

A set is a folder with a ``manifest.tsv`` (audio, language, speaker, text, split, duration_s). A target keeps the test clips of
its manifest, else some are chosen: whole speakers if there are many, else whole sentences, in hash order. No sentence or
speaker of the test split is in another split.
"""

from __future__ import annotations

import csv
import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.corpora import resolved
from lalia.cards import write_text
from lalia.data.prepare.listing import ordering, sentence_key
from lalia.errors import UserError

COLUMNS = ("audio", "language", "speaker", "text", "split", "duration_s")
MANY_SPEAKERS = 30
MINUTES = {"test": 8.0, "dev": 3.0}
"""Length of a target's test split; a larger test split of a manifest is reduced to it."""

Row = dict[str, str]


@dataclass(frozen=True)
class Target:
    """A language to train recognisers for."""

    language: str
    """ISO 639-3"""
    name: str
    speech: str
    """the set with its labels; empty = in the demo's prompts"""
    source: str
    """origin of the recordings, in words"""


TARGETS = (
    Target("isl", "Icelandic", "samromur-icelandic", "samromur-asr's demo data (83 voices)"),
    Target("ces", "Czech", "fillets-czech", "Fish Fillets NG (acted dialogue)"),
    Target("swa", "Swahili", "news-swahili", "CateGitau/Swahili-Speech (one voice, telephone)"),
    Target("deu", "German", "kerstin-german", "rhasspy's kerstin (one voice)"),
    Target("nld", "Dutch", "flemishguy-dutch", "rhasspy's flemishguy (one voice)"),
    Target("ita", "Italian", "", "Asterisk's prompts (one voice)"),
)


def prepare_all(speech: Path, out: Path) -> dict[str, Path]:
    """Prepare all sets: name → corpus below ``out``; existing corpora are kept."""
    sets = sorted(path.parent.name for path in speech.glob("*/manifest.tsv"))
    missing = [target.speech for target in TARGETS if target.speech and target.speech not in sets]
    if missing:
        raise UserError(f"{speech}: no set {', '.join(missing)}; expected folders with a manifest.tsv")
    targets = {target.speech for target in TARGETS}
    corpora = {}
    for name in sets:
        table, corpus = out / "tables" / f"{name}.tsv", out / "corpora" / name
        with (speech / name / "manifest.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        split = split_target(rows) if name in targets else hold_out(rows)
        write_text(
            table, "\n".join("\t".join(row) for row in [COLUMNS, *([row[c] for c in COLUMNS] for row in split)]) + "\n"
        )
        call(["lalia", "prepare", str(table), "--root", str(speech / name), "--out", str(corpus)])
        corpora[name] = corpus
    return corpora


def split_target(rows: list[Row]) -> list[Row]:
    """``rows`` with splits, without training rows whose sentence is in the test split."""
    given = any(row["split"] == "test" for row in rows)
    speakers = {row["speaker"] for row in rows if row["speaker"]}
    by_speaker = len(speakers) >= MANY_SPEAKERS
    group: Callable[[Row], str] = (
        (lambda row: row["speaker"]) if by_speaker else (lambda row: sentence_key(row["text"]))
    )
    labelled = [row for row in rows if sentence_key(row["text"])]
    held: dict[str, str] = {}
    for split, minutes in MINUTES.items():
        pool = [row for row in labelled if group(row) not in held]
        if given and split == "test":
            pool = [row for row in pool if row["split"] == "test"]
        elif given:
            pool = [row for row in pool if row["split"] != "test"]
        held |= dict.fromkeys(_groups(pool, group, 60 * minutes), split)
    sentences = {(held[group(row)], sentence_key(row["text"])) for row in labelled if group(row) in held}
    result = []
    for row in rows:
        split, key = held.get(group(row), "train"), sentence_key(row["text"])
        if given and row["split"] == "test" and split == "train":
            continue  # surplus test clips are not used
        others = ("test", "dev") if split == "train" else ("test",) if split == "dev" else ()
        if not any((other, key) in sentences for other in others):
            result.append({**row, "split": split})
    return result


def hold_out(rows: list[Row], share: float = 0.03) -> list[Row]:
    """Assign a share of the clips to dev, so that pretraining is validated on every set."""
    order = sorted(rows, key=lambda row: ordering(row["audio"]))
    dev = {row["audio"] for row in order[: int(share * len(order))]}
    return [{**row, "split": "dev" if row["audio"] in dev else "train"} for row in rows]


def _groups(rows: Iterable[Row], group: Callable[[Row], str], seconds: float) -> list[str]:
    """Whole groups in hash order that fit into ``seconds``."""
    lengths: dict[str, float] = {}
    for row in rows:
        lengths[group(row)] = lengths.get(group(row), 0.0) + float(row["duration_s"])
    chosen = []
    for name in sorted(lengths, key=ordering):
        if lengths[name] <= seconds:
            chosen.append(name)
            seconds -= lengths[name]
    return chosen


def call(command: list[str]) -> None:
    """Run a public command in the environment of this process; ``UserError`` if it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    if status := subprocess.run(resolved(command), check=False).returncode:
        raise UserError(f"this command failed with status {status}; fix its error and run the same command again")
