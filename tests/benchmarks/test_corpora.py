"""The sources that `benchmarks.data.corpora` makes are what it says they are, and its commands are ones the program takes."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from benchmarks.data import corpora
from benchmarks.data.corpora import call
from benchmarks.data.corpora_sources import KINDS, Truth, make_hub_folder, make_kaldi, make_manifest, make_recording
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options
from lalia.data.prepare.sources.opening import open_source
from tests.tiny_clips import in_this_process, loud_is_voice
from tests.tiny_corpus import make_corpus

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.load(make_corpus(tmp_path_factory.mktemp("benchmark") / "corpus", sentences=20))


def prepared(spec: str, out: Path, engine: pipeline.Engine = in_this_process) -> Corpus:
    source = open_source(spec, Options(), None, lambda words: None)
    pipeline.prepare(source, pipeline.Recipe("test", {}, None, "near"), out, engine, Console(quiet=True))
    return Corpus.load(out)


def test_a_recording_has_the_requested_length_and_known_content(corpus: Corpus, tmp_path: Path) -> None:
    truth = make_recording(corpus, tmp_path / "talk.flac", 0.05)
    assert soundfile.info(str(tmp_path / "talk.flac")).frames == truth.samples == 180 * 16_000
    assert all(b == c for (_, _, b), (_, c, _) in zip(truth.spans, truth.spans[1:], strict=False))
    seconds = truth.seconds()
    assert sum(seconds.values()) == pytest.approx(180)
    assert seconds["speech"] > 30 and seconds["telephone speech"] > 1
    assert truth.kept([(0, 180)]) == pytest.approx(seconds, abs=1.0)
    assert sum(truth.kept([]).values()) == 0


def test_what_is_kept_is_counted_by_kind() -> None:
    truth = Truth([("speech", 0, 16_000), ("music", 16_000, 48_000)])
    kept = truth.kept([(0.5, 1.5)])
    assert {kind: kept[kind] for kind in ("speech", "music")} == {"speech": 0.5, "music": 0.5}
    assert set(kept) == set(KINDS)


def test_preparation_leaves_out_what_the_manifest_has_of_bad_clips(corpus: Corpus, tmp_path: Path) -> None:
    rows = corpus.select(language="ita", with_text=True)[:10]
    table, expected = make_manifest(corpus, rows, tmp_path / "manifest")
    found = prepared(str(table), tmp_path / "c", engine=partial(in_this_process, strict=True))
    assert found.card["dropped"] == expected
    assert len(found) == 10


def test_kaldi_and_hub_folders_hold_the_labelled_clips(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = corpus.select(language="ita", with_text=True)[:20]
    said = sorted(corpus.text(int(row)) for row in rows)
    for spec in (
        f"kaldi:{make_kaldi(corpus, rows, tmp_path / 'kaldi')}",
        f"hub:{make_hub_folder(corpus, rows, tmp_path / 'hub')}",
    ):
        found = prepared(spec, tmp_path / f"of-{spec.partition(':')[0]}")
        assert sorted(found.text(row) for row in range(len(found))) == said
        assert found.language_names == ["ita"]
        assert np.isclose(found.durations_s.sum(), corpus.durations_s[rows].sum(), atol=0.1)
    assert {"train", "dev", "test"} == set(found.column("split"))


def test_the_commands_are_taken(corpus: Corpus, tmp_path: Path) -> None:
    from distill.config import DistillSettings
    from finetune.config import FinetuneSettings
    from lalia import config
    from pretrain.config import PretrainSettings

    sources = corpora.Sources(corpus, tmp_path, 0.02, 0.2)
    again = corpora.Sources(corpus, tmp_path, 0.02, 0.2)
    assert (again.truth, again.expected) == (sources.truth, sources.expected)
    schemas: dict[str, type[Any]] = {
        "pretrain": PretrainSettings,
        "finetune": FinetuneSettings,
        "distill": DistillSettings,
    }
    commands = corpora.trainings(sources, tmp_path)
    assert {command[1] for command in commands.values()} == set(schemas)
    for command in commands.values():
        settings: Any = config.load(schemas[command[1]], [*command[3:], "--out", str(tmp_path / "run")], command[1], "")
        assert settings.schedule.steps == corpora.STEPS
    for command in sources.commands(tmp_path, 2).values():
        assert command[:2] == ["lalia", "prepare"]


def test_a_command_is_killed_with_all_it_started() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended = call(["python", "-c", code], kill=lambda: True)
    assert ended.status == -signal.SIGKILL and ended.seconds < 50
    assert call(["python", "-c", "print('hello')"]).output == "hello\n"
