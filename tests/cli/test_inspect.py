"""`lalia inspect` on everything that has a card, and on what has none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from lalia.cards import read_card, write_card
from lalia.cli.main import main
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Dropped, Listing, SourceClip
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]


@pytest.fixture
def corpus(tmp_path: Path, loud_is_voice: None) -> Path:
    clips = [
        SourceClip(f"c{n}", str(save(tmp_path / f"{n}.wav", voiced(n, 0.5))), "ita", "<b>ciao</b>", split="train")
        for n in range(6)
    ]
    recipe = pipeline.Recipe("prompts", {}, None, "near")
    listing = Listing("prompts", clips, dropped=[Dropped("x", "silent")])
    pipeline.prepare(lambda work: listing, recipe, tmp_path / "corpus", in_this_process, Console(quiet=True))
    return tmp_path / "corpus"


def test_a_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(corpus)]) == 0
    shown = capsys.readouterr().out
    assert "corpus, 6 clips" in shown
    for word in ("ita", "SNR, dB", "bandwidth, Hz", '{"silent": 1}'):
        assert word in shown


def test_its_page(corpus: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(corpus), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "data:audio/" in page
    assert all(f"c{number}" in page for number in range(6))
    assert "<b>ciao</b>" not in page, "what people said is text, not markup"
    assert "&lt;b&gt;ciao" in page
    for word in ("SNR, dB", "lowest SNR", "silent"):
        assert word in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page), "nothing is fetched"


def test_a_lineage(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "encoder").mkdir()
    encoder = write_card(tmp_path / "encoder", "encoder", [read_card(corpus)], parameters=2_000_000)
    (tmp_path / "student").mkdir()
    write_card(tmp_path / "student", "student", [encoder], bytes=1000)
    assert main(["inspect", str(tmp_path / "student")]) == 0
    shown = capsys.readouterr().out
    assert "student, " in shown
    assert "encoder · sha256:" in shown
    assert "corpus · sha256:" in shown
    assert "of audio in 1 corpus in all" in shown
    assert main(["inspect", str(tmp_path / "student"), "--html", "x.html"]) == 2


def test_a_run(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "encoder").mkdir(parents=True)
    write_card(tmp_path / "run" / "encoder", "encoder", [read_card(corpus)], parameters=2_000_000)
    lines = [
        json.dumps({"step": 1, "loss": 5.0}),
        json.dumps({"step": 2, "loss": 4.5, "accuracy": 0.1}),
        '{"step": 3, "lo',
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    assert main(["inspect", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "run, not finished" in shown
    assert (
        "step        2" in shown
        and "loss        4.5" in shown
        and "accuracy    0.1" in shown
        and "2.0 M parameters" in shown
    )
    assert "made from" not in shown and f"lalia inspect {tmp_path / 'run'} --all" in shown
    assert main(["inspect", str(tmp_path / "run"), "--all"]) == 0
    shown = capsys.readouterr().out
    assert "loss: 4.5" in shown and "accuracy: 0.1" in shown and "parameters: 2000000" in shown and "made from" in shown


def test_a_long_run_is_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metrics in groups, and a model of many corpora in lines that count them."""
    run = tmp_path / "run"
    (run / "recogniser").mkdir(parents=True)
    corpora = [
        {"kind": "corpus", "id": f"sha256:{n}", "source": f"voice {n}", "hours": {"ita": {"train": 1.0}}, "parents": []}
        for n in range(40)
    ]
    write_card(run / "recogniser", "recogniser", corpora, parameters=2_000_000, languages=["ita"])
    metrics = {"step": 1199, "time_s": 90.0, "valid/cer": 0.125, "train/loss": 0.5, "guard/skipped": 0.0}
    metrics |= {f"languages/{n}": 0.01 for n in range(100)}
    (run / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "step        1,199, 1:30" in shown and "held out    cer 0.125" in shown and "training    loss 0.5" in shown
    assert len(shown.splitlines()) < 20
    assert main(["inspect", str(run / "recogniser")]) == 0
    shown = capsys.readouterr().out
    assert "40 corpora · 40.0 h · 1 language" in shown and "voice 7" not in shown
    assert main(["inspect", str(run / "recogniser"), "--all"]) == 0
    assert "voice 7" in capsys.readouterr().out


def test_what_is_nothing_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is an empty folder, expected a corpus, a model or a run" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
