"""A signal to the whole process group, as SLURM sends it, saves every stage and ends it at once, and leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.utils.data import Dataset

from lalia.data.loader import RunLoader
from lalia.training import torchrun
from lalia.training.checkpoints import first_step
from lalia.training.run_log import read_metrics
from tests.tiny_stop import make_folder, survivors

ROOT = Path(__file__).parents[2]
PROMPT_S = 30.0
"""From the signal to the end of the program, on a machine that is busy with other tests; seconds where it is not."""

pytestmark = [
    pytest.mark.xdist_group("ranks"),  # processes of their own: one test at a time
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("signals"))


def start(made: Path, stage: str, out: Path, when: str, *flags: str) -> tuple[int, str]:
    """(exit status, stderr) of a stage that signals itself; neither late nor survived by a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.tiny_stop", stage, str(made), when, f"--out={out}", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        _, complaints = process.communicate(timeout=300)
    if "never" not in when:
        assert time.time() - float((made / "signalled").read_text()) < PROMPT_S
    assert survivors(process.pid) == [], complaints
    return process.returncode, complaints


def test_a_pretraining_run_with_worker_processes_is_stopped_at_any_moment(made: Path, tmp_path: Path) -> None:
    flags = ["--augment.speed=0.5", "--augment.noise=0.3"]  # these make the workers processes
    status, said = start(made, "pretrain", tmp_path, "TERM:setup", *flags)
    assert status == 130 and "stopped by SIGTERM; nothing new is saved, the same command starts anew" in said, said
    assert first_step(tmp_path) == 0
    status, said = start(made, "pretrain", tmp_path, "TERM:step", *flags)
    assert status == 130 and "stopped by SIGTERM, saved at step " in said and "the same command continues" in said, said
    assert (saved := first_step(tmp_path)) in (1, 2)
    status, said = start(made, "pretrain", tmp_path, "USR1:validation", *flags)
    assert status == 130 and "stopped by SIGUSR1, saved at step 3 of 12" in said and f"from step {saved}" in said, said
    status, said = start(made, "pretrain", tmp_path, "TERM:saving", *flags)
    assert status == 130 and "saved at step " in said, said
    assert "pretrain 3/12 held-out" in said, "the interrupted validation is repeated"
    assert first_step(tmp_path) in (3, 4)  # the repeated validation is saved beside the next step
    status, said = start(made, "pretrain", tmp_path, "HUP:results", *flags)
    assert status == 130 and "stopped by SIGHUP after its last step" in said and "writes them" in said, said
    assert not (tmp_path / "finished.json").exists()
    status, said = start(made, "pretrain", tmp_path, "TERM:finished", *flags)
    assert status == 0 and (tmp_path / "finished.json").is_file() and (tmp_path / "report.html").is_file(), said
    validated = [line["step"] for line in read_metrics(tmp_path) if "valid/accuracy" in line]
    assert validated == [2, 5, 8, 11]


def test_a_signal_in_the_last_validation_is_made_up_for(made: Path, tmp_path: Path) -> None:
    flags = ["--schedule.steps=2"]  # the only validation is the last
    status, said = start(made, "pretrain", tmp_path, "TERM:validation:process", *flags)
    assert status == 130 and "saved at step 2 of 2" in said and not (tmp_path / "finished.json").exists(), said
    status, said = start(made, "pretrain", tmp_path, "TERM:never", *flags)
    assert status == 0 and (tmp_path / "finished.json").is_file() and "pretrain 2/2 held-out" in said, said


def test_a_step_of_many_micro_batches_is_left_and_repeated(made: Path, tmp_path: Path) -> None:
    status, said = start(made, "distill", tmp_path, "TERM:micro")
    assert status == 130 and "saved at step 1 of 12" in said, said


@pytest.mark.parametrize("devices", [1, 2])
def test_a_pretraining_run_with_worker_threads_is_stopped(made: Path, tmp_path: Path, devices: int) -> None:
    status, said = start(made, "pretrain", tmp_path, "TERM:step", f"--hardware.devices={devices}")
    assert status == 130 and first_step(tmp_path) in (1, 2), said
    assert said.count("stopped by SIGTERM") == 1 and "Traceback" not in said, said  # one rank speaks for all


@pytest.mark.parametrize("stage", ["finetune", "distill"])
def test_other_stages_are_stopped(made: Path, tmp_path: Path, stage: str) -> None:
    status, said = start(made, stage, tmp_path, "TERM:step")
    assert status == 130 and first_step(tmp_path) in (1, 2), said
    status, said = start(made, stage, tmp_path, "TERM:validation")
    assert status == 130 and first_step(tmp_path) == 3, said


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_lost(made: Path, tmp_path: Path) -> None:
    status, said = start(made, "finetune", tmp_path, "INT:twice")
    assert status == 130 and "Traceback" not in said, said
    assert "stopped by SIGINT; nothing new is saved, the same command starts anew" in said and first_step(tmp_path) == 0
    status, said = start(made, "finetune", tmp_path, "INT:step")
    assert status == 130 and "stopped by SIGINT, saved at step 2 of 12" in said, said
    status, said = start(made, "finetune", tmp_path, "INT:twice")
    assert status == 130 and "nothing new is saved, the same command continues from step 2" in said, said


def alone(code: str, *signals: signal.Signals, **environment: str) -> tuple[int, str]:
    """(exit status, output) of a process that runs ``code`` inside ``caught``, prints a line, and gets ``signals`` then."""
    whole = (
        "import os, signal, subprocess, sys, time; from pathlib import Path; from lalia.signals import *\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # whoever runs the tests under nohup
        f"with stops.caught(Path('nowhere'), 'work'):\n    {code}\n    print('ready', flush=True)\n    time.sleep(20)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", whole], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        for signum in signals:
            process.send_signal(signum)
            time.sleep(0.3)
        return process.wait(30), said + process.stdout.read()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_run_that_loads_ends_at_once(name: str) -> None:
    status, said = alone("pass", signal.Signals[name])
    assert status == 130 and f"lalia: nowhere: work stopped by {name}; nothing new is saved" in said, said


def test_a_second_ctrl_c_ends_a_run_that_is_inside_a_library() -> None:
    status, said = alone("stops.enter(Phase.TRAINING)", signal.SIGINT, signal.SIGINT)
    assert status == 130 and said.index("Ctrl-C again stops at once") < said.index("stopped by SIGINT"), said


def test_a_finished_run_and_one_under_nohup_ignore_what_they_should() -> None:
    ended = "print('ready', flush=True); time.sleep(1); os._exit(7)"
    assert alone(f"stops.enter(Phase.FINISHED); {ended}", signal.SIGTERM)[0] == 7
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN); stops.install(); "
    assert alone(nohup + ended, signal.SIGHUP)[0] == 7


@pytest.mark.parametrize(("code", "status"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 137)])
def test_a_failed_rank_is_the_run_s_exit_status(code: str, status: int) -> None:
    failing = f"import os, sys; {code}"
    found, said = alone(f"stops.watch_ranks([subprocess.Popen([sys.executable, '-c', {failing!r}])])")
    assert found == status and "a process of this run" in said, said


def test_a_rank_ends_with_the_process_that_started_it() -> None:
    rank = "import time; from lalia.signals import *\nwith stops.caught(None, 'rank'): print('up', flush=True); time.sleep(60)"
    code = f"subprocess.Popen([sys.executable, '-c', {rank!r}], env=os.environ | {{'LOCAL_RANK': '1'}})"
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", f"import os, subprocess, sys, time\n{code}\ntime.sleep(60)"], cwd=ROOT,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert survivors(process.pid) == [] and time.monotonic() - begun < 30


class Noise(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, number: int) -> torch.Tensor:
        time.sleep(0.01)
        return torch.full((3,), float(number))


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers_end_by_nobody_s_signal_but_their_run_s(context: str) -> None:
    loader: RunLoader = RunLoader(Noise(), batch_size=None, num_workers=2, multiprocessing_context=context)
    batches = iter(loader)
    assert float(next(batches)[0]) == 0
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    pids = [str(worker.pid) for worker in workers]
    for name in ("TERM", "INT", "USR1"):
        subprocess.run(["sh", "-c", f"kill -{name} {' '.join(pids)}"], check=True)
    for expected in range(1, 200):
        assert float(next(batches)[0]) == expected
    assert all(worker.is_alive() for worker in workers)
    begun = time.monotonic()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    assert time.monotonic() - begun < 5
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_workers_go_where_their_run_is_killed(made: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal; from tests.training.test_signals import Noise, RunLoader\n"
        "batches = iter(RunLoader(Noise(), batch_size=None, num_workers=2)); next(batches)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True) as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert survivors(process.pid) == []


def test_torchrun_returns_the_run_s_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_with(error: Exception | None) -> int:
        def run(arguments: object) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(torchrun, "run", run)
        return torchrun.main(["-m", "lalia"])

    def failure(code: int) -> ChildFailedError:
        return ChildFailedError("lalia", {0: ProcessFailure(0, 1, code, "")})

    before = signal.getsignal(signal.SIGUSR1)
    try:
        assert [ends_with(failure(code)) for code in (130, 2, -9)] == [130, 2, 137]
        assert ends_with(SignalException("", signal.SIGTERM)) == 130 and ends_with(None) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
