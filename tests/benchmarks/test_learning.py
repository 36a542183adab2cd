"""The corpora of the learning proof: no test clip, sentence or speaker is known; and its table from finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training import learning_report
from benchmarks.training.learning_corpora import TARGETS, Row, split_target
from benchmarks.training.learning_report import Trial, best_cells, collect, write_results
from lalia.data.prepare.listing import sentence_key


def rows(speakers: int, sentences: int, test: int = 0) -> list[Row]:
    """Every speaker says every sentence in six seconds; the first ``test`` clips are called test by their source."""
    made = [
        {"audio": f"{s}-{t}.opus", "language": "isl", "speaker": f"voice {s}" if speakers > 1 else "", "text": f"setning {t}",
         "split": "", "duration_s": "6.0"}
        for s in range(speakers) for t in range(sentences)
    ]  # fmt: skip
    return [row | {"split": "test" if i < test else "train"} for i, row in enumerate(made)] if test else made


def held(split: list[Row], name: str, column: str) -> set[str]:
    return {sentence_key(row[column]) if column == "text" else row[column] for row in split if row["split"] == name}


def test_where_there_are_many_speakers_whole_speakers_are_held_out_and_their_sentences_too() -> None:
    # 40 voices of 30 s say five sentences of their own each, and one that everybody says
    own = [r | {"text": f"{r['speaker']} {r['text']}"} if i % 6 else r for i, r in enumerate(rows(40, 6))]
    split = split_target(own)
    for later, earlier in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not held(split, later, "speaker") & held(split, earlier, "speaker")
        assert not held(split, later, "text") & held(split, earlier, "text")
    seconds = sum(float(row["duration_s"]) for row in split if row["split"] == "test")
    assert 4 * 60 < seconds <= 8 * 60


def test_of_one_voice_whole_sentences_are_held_out() -> None:
    split = split_target(rows(1, 300))
    assert {row["split"] for row in split} == {"train", "dev", "test"}
    assert not held(split, "train", "text") & (held(split, "test", "text") | held(split, "dev", "text"))
    assert split == split_target(list(reversed(rows(1, 300))))[::-1]


def test_a_source_s_test_split_is_kept_and_its_surplus_is_unused() -> None:
    given = rows(1, 300, test=120)  # twelve minutes, of which eight are kept
    split = split_target(given)
    known = {row["audio"] for row in given if row["split"] == "test"}
    kept = {row["audio"] for row in split if row["split"] == "test"}
    assert kept < known
    assert not {row["audio"] for row in split if row["split"] != "test"} & known


def test_the_table_uses_each_start_s_best_rate_on_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(TARGETS[0], start, 10.0, rate, 1) for start in ("random", "third") for rate in (0.002, 0.004)]
    for trial, (dev, test) in zip(trials, ((0.5, 0.40), (0.4, 0.50), (0.3, 0.25), (0.2, 0.30)), strict=True):
        finish(trial.folder(tmp_path), dev, test)
    cells = best_cells(collect(trials, tmp_path))
    assert cells["isl", 10.0, "random"].cers == (0.50,) and cells["isl", 10.0, "third"].rate == 0.004
    for name in ("PAGE", "BY_LABELS", "BY_HOURS"):
        monkeypatch.setattr(learning_report, name, tmp_path / "docs" / getattr(learning_report, name).name)
    page = write_results(trials, tmp_path, "command", 400)
    assert "| Icelandic | 10 | 0.500 | 0.300 (0.60) |" in page.read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "learning.svg").stat().st_size > 1000
    assert (tmp_path / "docs" / "hours.svg").stat().st_size > 1000


@pytest.mark.parametrize(("random", "said"), [(1.0, "reached"), (0.9, "6.5"), (0.1, "315")])
def test_the_line_through_the_rounds_says_how_far_the_goal_is(
    random: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [Trial(TARGETS[0], start, 10.0, 0.004, 1) for start in ("random", "first", "second", "third")]
    for trial, cer, hours in zip(
        trials, (random, 0.9, 0.8, 0.7), (0, 1, 1, 2), strict=True
    ):  # 1, 2 and 4 hours together
        finish(trial.folder(tmp_path), cer, cer)
        run = tmp_path / trial.start
        run.mkdir()
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "time_s": 3600 * hours}) + "\n")
    for name in ("PAGE", "BY_LABELS", "BY_HOURS"):
        monkeypatch.setattr(learning_report, name, tmp_path / "docs" / getattr(learning_report, name).name)
    page = write_results(trials, tmp_path, "command", 400).read_text(encoding="utf-8")
    assert f"| Icelandic | -0.100 | {0.7 * random:.3f} | 0.700 | {said} |" in page


def finish(folder: Path, dev: float, test: float) -> None:
    """A fine-tuning run that is over."""
    folder.mkdir(parents=True)
    (folder / "finished.json").write_text(json.dumps({"test_cer": test}))
    (folder / "config.yaml").write_text("schedule: {}\n")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "valid/cer": dev}) + "\n")
