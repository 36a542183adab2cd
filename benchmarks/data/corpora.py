"""End-to-end check of corpus preparation and training with interruptions, on raw audio in four layouts.

    OMP_NUM_THREADS=1 python -m benchmarks.data.corpora data/demo [--hours 3] [--out runs/corpora] [--workers 2]

From the prompts of a corpus it makes one continuous recording, a Kaldi folder, a manifest and a hub folder, prepares each with
the commands of docs/corpora.md, kills one preparation and a training of each stage with SIGKILL, and continues them. It prints
the audio kept and dropped, the memory used, and whether a continued run equals an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.corpora_sources import KINDS, Truth, make_hub_folder, make_kaldi, make_manifest, make_recording
from benchmarks.demo.report import machine
from lalia.cards import read_card
from lalia.data.corpus import Corpus
from lalia.errors import UserError, run

# --- Run public commands as a user does ------------------------------------------------------------------

_POLL_S, _MEASURE_EVERY = 0.1, 5  # Reading /proc for all processes takes time.


def resolved(command: Sequence[str]) -> list[str]:
    """The command with its program found in the environment of this process."""
    programs = {"python": sys.executable, "lalia": str(Path(sys.executable).with_name("lalia"))}
    return [programs[command[0]], *command[1:]]


@dataclass
class Ended:
    """Result of a command: status, seconds, peak private memory (bytes) of its largest process and of all together."""

    status: int
    seconds: float
    largest: int
    together: int
    output: str


def call(command: Sequence[str], kill: Callable[[], bool] = lambda: False) -> Ended:
    """Run a command; send SIGKILL to all its processes as soon as ``kill`` returns True."""
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    begun, largest, together = time.monotonic(), 0, 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(resolved(command), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        looks = 0
        while process.poll() is None:
            if looks % _MEASURE_EVERY == 0:
                used = _private_bytes(process.pid)
                largest, together = max([largest, *used]), max(together, sum(used))
            looks += 1
            if kill():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(_POLL_S)
        output.seek(0)
        return Ended(process.returncode, time.monotonic() - begun, largest, together, output.read())


def call_checked(command: Sequence[str]) -> Ended:
    """Run a command; ``UserError`` if it fails."""
    ended = call(command)
    if ended.status:
        raise UserError(f"{shlex.join(command)}: ended with status {ended.status}: {ended.output[-2000:]}")
    return ended


def _private_bytes(session: int) -> list[int]:
    """Private memory (RssAnon, without mapped files) of every process of a session."""
    used = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                lines = (folder / "status").read_text().splitlines()
                used += [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
        except (OSError, ValueError, IndexError):  # It ended meanwhile.
            continue
    return used


# --- Prepare raw audio in four layouts with interruptions, and train every stage on the corpora -------------

STEPS = 12
_SMALL = (
    f"--schedule.steps {STEPS} --log.every 1 --log.valid_every {STEPS} --log.checkpoint_every 3 --data.max_s 12 "
    "--hardware.precision fp32 --hardware.threads 1 --batch.micro_s 24 --batch.hours 0.00667"
)
_SHAPE = (
    "--model.width 64 --model.layers 3 --model.heads 2 --model.feedforward 128 --quantizer.entries 32 "
    "--quantizer.code_width 32 --quantizer.final_width 32 --objective.distractors 10"
)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


class Sources:
    """The raw audio below a folder, made once, and its known content."""

    def __init__(self, corpus: Corpus, out: Path, hours: float, minutes: float) -> None:
        self.folder = out / "sources"
        self.truth, self.expected = Truth(), dict[str, int]()
        facts = self.folder / "facts.json"
        self.talk, self.short = self.folder / "talk", self.folder / "talk-short"
        languages = self._languages(corpus, minutes)
        self.language = {name: code for name, (code, _) in zip(("kaldi", "manifest", "hub"), languages, strict=True)}
        requested = {"corpus": corpus.card["id"], "hours": hours, "minutes": minutes}
        if facts.is_file() and (known := json.loads(facts.read_text()))["asked"] == requested:
            self.truth, self.expected = Truth([tuple(span) for span in known["truth"]]), known["expected"]
            return
        shutil.rmtree(out, ignore_errors=True)
        self.truth = make_recording(corpus, self.talk / "talk.flac", hours)
        make_recording(corpus, self.short / "talk.flac", hours / 6)
        (_, kaldi), (_, manifest), (_, hub) = languages
        make_kaldi(corpus, kaldi, self.folder / "kaldi")
        _, self.expected = make_manifest(corpus, manifest, self.folder / "manifest")
        make_hub_folder(corpus, hub, self.folder / "hub")
        facts.write_text(json.dumps({"asked": requested, "truth": self.truth.spans, "expected": self.expected}))

    @staticmethod
    def _languages(corpus: Corpus, minutes: float) -> list[tuple[str, np.ndarray]]:
        """Labelled clips of three languages; repeats a language if there are fewer."""
        hours = {name: sum(splits.values()) for name, splits in corpus.hours(labelled=True).items()}
        names = [name for name in sorted(hours, key=lambda name: -hours[name]) if hours[name]]
        if not names:
            raise UserError(f"{corpus.folder}: has no labelled clips; choose another corpus")
        found = []
        for name in (names * 3)[:3]:
            rows = corpus.select(language=name, with_text=True)
            rows = np.random.default_rng(1).permutation(rows)
            enough = int(np.searchsorted(np.cumsum(corpus.durations_s[rows]), minutes * 60)) + 1
            found.append((name, np.sort(rows[:enough])))
        return found

    def commands(self, out: Path, workers: int) -> dict[str, list[str]]:
        """The commands of the preparations, as in docs/corpora.md."""
        sources: dict[str, list[str]] = {
            "recording": [str(self.talk), "--language", "mul"],
            "a sixth of it": [str(self.short), "--language", "mul"],
            "Kaldi folder": [f"kaldi:{self.folder / 'kaldi' / 'data' / 'all'}"],
            "manifest": [str(self.folder / "manifest" / "clips.tsv"), "--strict"],
            "hub folder": [f"hub:{self.folder / 'hub'}"],
        }
        return {
            name: ["lalia", "prepare", *words, "--out", str(out / name.replace(" ", "-")), "--workers", str(workers)]
            for name, words in sources.items()
        }


def prepare_all(sources: Sources, out: Path, workers: int) -> float:
    """Prepare every source from scratch and print the table; returns the seconds for the long recording."""
    took = 0.0
    print("| source | in | kept | clips | left out | seconds | peak memory: one process, all |")
    print("|---|---:|---:|---:|---|---:|---:|")
    for name, command in sources.commands(out, workers).items():
        folder = Path(command[command.index("--out") + 1])
        shutil.rmtree(folder, ignore_errors=True)
        ended = call_checked(command)
        card = read_card(folder, "corpus")
        if name == "manifest" and card["dropped"] != sources.expected:
            raise UserError(f"{folder}: left out {card['dropped']}, expected {sources.expected}")
        _print_row(name, card, ended)
        took = ended.seconds if name == "recording" else took
    return took


def _print_row(name: str, card: dict[str, Any], ended: Ended) -> None:
    kept = 60 * sum(sum(splits.values()) for splits in card["hours"].values())
    cut = {key: value for key, value in card.get("cut", {}).items() if key.endswith("_h")}
    lost = [f"{60 * value:.1f} min {key[:-2].replace('_', ' ')}" for key, value in cut.items() if key != "kept_h"]
    lost += [f"{count} {reason}" for reason, count in card["dropped"].items()]
    whole = f"{60 * sum(cut.values()):.1f} min" if cut else ""
    memory = f"{ended.largest / 2**20:.0f}, {ended.together / 2**20:.0f} MiB"
    clips = sum(card["clips"].values())
    print(
        f"| {name} | {whole} | {kept:.1f} min | {clips:,} | {', '.join(lost)} | {ended.seconds:.0f} | {memory} |",
        flush=True,
    )


def print_recording(sources: Sources, folder: Path) -> None:
    """Print the share of each kind of sound that is in the utterances."""
    spans = [id.rpartition("#")[2].split("-") for id in Corpus.load(folder).column("id")]
    kept, whole = sources.truth.kept([(float(a), float(b)) for a, b in spans]), sources.truth.seconds()
    print("\n| sound in the recording | minutes | kept |\n|---|---:|---:|")
    for kind in KINDS:
        if whole[kind]:
            print(f"| {kind} | {whole[kind] / 60:.1f} | {kept[kind] / whole[kind]:.1%} |")


def kill_preparation(sources: Sources, out: Path, workers: int, took_s: float) -> str:
    """Kill a preparation once a shard exists, or after 0.7 of the time of an uninterrupted one, and continue it.

    Returns a sentence about the bytes.
    """
    command = sources.commands(out, workers)["recording"]
    whole = Path(command[command.index("--out") + 1])
    broken = whole.with_name("recording-broken")
    work = broken.with_name(f".{broken.name}.work")
    for folder in (broken, work):
        shutil.rmtree(folder, ignore_errors=True)
    again = [word.replace(str(whole), str(broken)) for word in command]
    late = time.monotonic() + 0.7 * took_s
    ended = call(again, kill=lambda: any((work / "parts").glob("*.arrow")) or time.monotonic() > late)
    if ended.status != -signal.SIGKILL or (broken / "card.json").exists():
        raise UserError(f"the preparation ended before it could be killed (status {ended.status}); give more --hours")
    shards = len(list((work / "parts").glob("*.arrow")))
    call_checked(again)
    same = content(broken) == content(whole)
    if not same:
        raise UserError(f"{broken} differs from {whole}")
    files, size = len(content(whole)), sum(map(len, content(whole).values()))
    return f"was killed with {shards} shard(s) written, and continued: all {files} files ({size / 1e6:.0f} MB) are identical"


def trainings(sources: Sources, out: Path) -> dict[str, list[str]]:
    """The public commands of the three stages, with small settings; later ones use the models of earlier ones."""
    corpora = {name: str(out / name) for name in ("recording", "Kaldi-folder", "manifest", "hub-folder")}
    everything = [word for folder in corpora.values() for word in ("--data.corpus", folder)]
    runs = {
        "pretrain": [
            "lalia", "pretrain", "fit", "--config", "configs/pretrain/nano.yaml", *everything, *_SMALL.split(),
            *_SHAPE.split(),
        ],
    }  # fmt: skip
    for name, key in (("Kaldi-folder", "kaldi"), ("manifest", "manifest"), ("hub-folder", "hub")):
        learn = ["--data.corpus", corpora[name], "--data.language", sources.language[key], *_SMALL.split()]
        runs[f"finetune on {name}"] = [
            "lalia", "finetune", "fit", "--config", "configs/finetune/nano.yaml", *learn,
            "--encoder", str(out / "pretrain" / "encoder"),
        ]  # fmt: skip
        runs[f"distill on {name}"] = [
            "lalia", "distill", "fit", "--config", "configs/distill/nano.yaml", *learn, "--student.layers", "2",
            "--teacher", str(out / f"finetune-on-{name}" / "recogniser"),
        ]  # fmt: skip
    return runs


def train_all(sources: Sources, out: Path) -> None:
    """Run every training once; one of each stage a second time, killed and continued."""
    print("\n| training | steps | last loss | killed after step, continued |\n|---|---:|---:|---|")
    broken_stages: set[str] = set()
    for name, command in trainings(sources, out).items():
        folder = out / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        call_checked([*command, "--out", str(folder)])
        stage = command[1]
        verdict = "" if stage in broken_stages else kill_training(command, folder)
        broken_stages.add(stage)
        loss = next(value for key, value in _lines(folder)[-1].items() if key.startswith("train/"))
        print(f"| {name} | {_step(folder)} | {loss:.3f} | {verdict} |", flush=True)


def kill_training(command: list[str], unbroken: Path) -> str:
    """Kill a training at a step in the middle and continue it; ``UserError`` if its weights differ from ``unbroken``."""
    broken = unbroken.with_name(unbroken.name + "-broken")
    shutil.rmtree(broken, ignore_errors=True)
    again = [*command, "--out", str(broken)]
    ended = call(again, kill=lambda: _step(broken) >= STEPS // 2)
    at = _step(broken)
    if ended.status != -signal.SIGKILL:
        raise UserError(f"{shlex.join(again)}: ended before it could be killed (status {ended.status})")
    call_checked(again)
    made = next(path.parent.name for path in unbroken.glob("*/model.safetensors"))
    same = all((run / made / "model.safetensors").is_file() for run in (unbroken, broken)) and (
        (unbroken / made / "model.safetensors").read_bytes() == (broken / made / "model.safetensors").read_bytes()
    )
    if not same:
        raise UserError(f"{broken / made}: its weights differ from those of {unbroken / made}")
    return f"{at}; the weights are identical"


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of training steps in the metrics."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in found if any(key.startswith("train/") for key in line)]


def _step(folder: Path) -> int:
    """The last training step in the metrics of a run."""
    return max((line["step"] + 1 for line in _lines(folder)), default=0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--hours", type=float, default=3.0, help="hours of the continuous recording (3)")
    parser.add_argument("--minutes", type=float, default=12.0, help="minutes of each labelled source (12)")
    parser.add_argument("--out", type=Path, default=Path("runs/corpora"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("prepare", "train"), help="only one half of the benchmark")
    args = parser.parse_args(argv)

    def measure() -> None:
        sources = Sources(Corpus.load(args.corpus), args.out, args.hours, args.minutes)
        words = f"--hours {args.hours:g} --minutes {args.minutes:g} --workers {args.workers}"
        print(f"`python -m benchmarks.data.corpora {args.corpus} {words}`, {date.today()}, {machine()}:\n")
        if args.only != "train":
            took_s = prepare_all(sources, args.out, args.workers)
            print_recording(sources, args.out / "recording")
            output = kill_preparation(sources, args.out, args.workers, took_s)
            print(f"\nThe recording's preparation {output}.", flush=True)
        if args.only != "prepare":
            train_all(sources, args.out)

    return run(measure, "corpora")


if __name__ == "__main__":
    sys.exit(main())
