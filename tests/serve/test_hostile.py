"""Some hundred requests that mean no good: no fault, no leak, no file left or read; good requests are served all the while."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.runtime.hostile import Attacks, fire, wrong
from lalia.audio.encoding import flac_bytes
from tests.serve.test_application import Running, served, wait_for
from tests.tiny_student import sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
CANARY = "canary-5a1e"


def memory_mb(running: Running) -> float:
    pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_hostile_requests(tmp_path: Path) -> None:
    canary = tmp_path / "canary.wav"
    canary.write_bytes(CANARY.encode() * 100)
    attacks = Attacks(sing("bad cab"), str(canary))
    flac = flac_bytes(sing("ace dab"))
    with served(
        tmp_path, "--max-mb", 2, "--max-minutes", 60, "--patience", 1, "--idle", 1, "--requests", 16, "--jobs", 1
    ) as running:
        wait_for(lambda: running.get("/health").status_code == 200)
        address = ("127.0.0.1", running.port)

        def attack(number: int) -> str:
            """What is wrong with the answer, if anything is."""
            made = attacks.attack(number)
            answer = fire(address, made)
            if CANARY.encode() in answer.body or b"root:" in answer.body or b"Traceback" in answer.body:
                return f"{number} {made.kind}: tells what it must not: {answer.body[:300]!r}"
            return "" if not wrong(made, answer) else f"{number} {made.kind}: {answer.status} {answer.body[-300:]!r}"

        with ThreadPoolExecutor(8) as pool:
            complaints = [*pool.map(attack, range(120))]
            before_mb = memory_mb(running)
            complaints += pool.map(attack, range(120, 360))
            good = pool.submit(running.post, "/transcribe?format=txt", content=flac).result()
        assert not [complaint for complaint in complaints if complaint]
        assert good.text == "ace dab\n"
        wait_for(lambda: running.inside() == 0)
        assert running.process.poll() is None
        assert running.files() == []
        assert memory_mb(running) < before_mb + 60
        assert 'status="500"' not in running.get("/metrics").text
        assert running.post("/transcribe?format=txt", content=flac).text == "ace dab\n"
