"""Signals at every moment of a run: every stage on one and two ranks, to the process and to its group.

    OMP_NUM_THREADS=1 python -m benchmarks.training.signals [--only STAGE[:RANKS]] [--keep FOLDER]

A tiny run of each stage and number of ranks is started again and again by the same command. Each start gets a signal at another
moment, the last start ends the run. After a signal: the exit status is 130 (128 + the signal's number while Python itself
starts), the output has one line of what is saved and no traceback, no process is left, and a step that was done is saved. At the
end: status 0, finished.json, the page and every folder are there, and the model is bit-equal to that of a run without signals. A
row for each stage and number of ranks; exit status 1 if a case fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lalia.cards import read_card
from tests.tiny_stop import arguments, make_folder, survivors

PATIENCE_S = 300.0
STAGES = {"pretrain": "encoder", "finetune": "recogniser", "distill": "recogniser"}
"""stage: the folder that a finished run has"""


@dataclass(frozen=True)
class Case:
    """A signal at a moment."""

    when: str
    """SIGNAL:MOMENT[:process] of ``tests.tiny_stop``; SIGNAL:SECONDS[:process] counts from the start of the program"""
    flags: tuple[str, ...] = ()

    @property
    def after_s(self) -> float | None:
        moment = self.when.split(":")[1]
        return float(moment) if moment[0].isdigit() else None


CASES = [
    Case("INT:1:process"), Case("USR1:loading"), Case("INT:compile", ("--hardware.compile=true",)), Case("HUP:step"),
    Case("TERM:validation:process"), Case("USR1:saving"), Case("TERM:micro"), Case("INT:results"), Case("TERM:finished"),
]  # fmt: skip
"""In the order in which one run gets them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="STAGE or STAGE:RANKS")
    parser.add_argument("--keep", type=Path, help="keep the runs and their output in this folder")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = wanted.keep or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "corpus").exists():
            make_folder(home)
        print("| stage | ranks | cases | as expected | what was not |\n|---|---|---|---|---|", flush=True)
        good = total = 0
        for stage in STAGES:
            for ranks in (1, 2):
                if wanted.only in ("", stage, f"{stage}:{ranks}"):
                    troubles, cases = torment(home, stage, ranks)
                    good, total = good + cases - len(troubles), total + cases
                    row = f"| {stage} | {ranks} | {cases} | {cases - len(troubles)} |"
                    print(f"{row} {'; '.join(f'{case}: {why}' for case, why in troubles.items()) or '–'} |", flush=True)
    print(f"\n{good} of {total} as expected")
    return int(good < total)


def torment(home: Path, stage: str, ranks: int) -> tuple[dict[str, str], int]:
    """({case: what was wrong}, cases) of one run that gets every signal in turn."""
    out, whole = home / f"{stage}-{ranks}", home / f"{stage}-{ranks}-whole"
    flags = [f"--hardware.devices={ranks}"]
    if stage == "pretrain":
        flags += ["--augment.speed=0.5", "--augment.noise=0.3"]  # these make the workers processes
    troubles: dict[str, str] = {}
    start(home, stage, whole, Case("TERM:never"), flags)
    cases = [case for case in CASES if ranks == 1 or not case.flags]
    for case in cases:
        # A compiled run is another run: it is not continued.
        status, said = start(home, stage, out.with_name(f"{out.name}-compiled") if case.flags else out, case, flags)
        if wrong := problem(home, out, case, status, said):
            troubles[case.when] = wrong
    status, said = start(home, stage, out, Case("TERM:never"), flags)
    if status or "Traceback" in said:
        troubles["the same command again"] = f"status {status}"
    missing = [
        name
        for name in (
            "finished.json",
            "report.html",
            f"{STAGES[stage]}/card.json",
            *(["student/card.json"] * (stage == "finetune")),
        )
        if not (out / name).is_file()
    ]
    if missing:
        troubles["complete"] = f"no {', '.join(missing)}"
    elif read_card(out / STAGES[stage])["id"] != read_card(whole / STAGES[stage])["id"]:
        troubles["equal"] = "other weights than without signals"
    return troubles, len(cases) + 3


def start(home: Path, stage: str, out: Path, case: Case, flags: list[str]) -> tuple[int, str]:
    """(exit status, error output) of one start of the run in ``out``; a process that is left over is named in the output."""
    (home / "signalled").unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m"]
    if case.after_s is not None or case.when.endswith("never"):
        command += ["lalia", stage, "fit", *arguments(stage, home)]
    else:
        command += ["tests.tiny_stop", stage, str(home), case.when]
    with subprocess.Popen(
        [*command, f"--out={out}", *flags, *case.flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    ) as process:
        if case.after_s is not None:
            time.sleep(case.after_s)
            process.send_signal(signal.Signals[f"SIG{case.when.split(':')[0]}"])
        try:
            said, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:  # the stacks of its threads
            os.killpg(process.pid, signal.SIGABRT)
            said = f"left over after {PATIENCE_S:.0f} s\n{process.communicate()[0]}"
    if left := survivors(process.pid):
        said += f"\nleft over: {left}"
        os.killpg(process.pid, signal.SIGKILL)
    with (out.parent / f"{out.name}.log").open("a") as log:
        log.write(f"=== {case.when}: {process.returncode}\n{said}\n")
    return process.returncode, said


def problem(home: Path, out: Path, case: Case, status: int, said: str) -> str:
    """What was wrong after ``case``; "" if nothing was."""
    name, moment = case.when.split(":")[:2]
    early = case.after_s is not None
    expected = {130} | ({-signal.Signals[f"SIG{name}"]} if early else set()) if moment != "finished" else {0}
    if not early and not (home / "signalled").is_file():
        return "no signal was sent"
    for bad in ("Traceback", "left over"):
        if bad in said:
            return bad
    if status not in expected:
        return f"status {status}"
    lines = [line for line in said.splitlines() if "stopped by SIG" in line]
    if moment != "finished" and not early and len(lines) != 1:
        return f"{len(lines)} lines of what is saved"
    if moment in ("step", "micro", "validation", "saving") and not any("saved at step" in line for line in lines):
        return "nothing saved"
    return ""


if __name__ == "__main__":
    sys.exit(main())
