"""``RUN/report.html``: what a run is, how it went and what it made, on one page."""

from __future__ import annotations

import json
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from lalia import config as settings_door
from lalia.cards import read_json_lines
from lalia.exits import UserError
from lalia.models.contrastive import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.report import formats, page
from lalia.report.charts import Chart, heat_chart
from lalia.report.curves import audio_per_step_s, chance_of, codes_of, curves, series, tallies
from lalia.report.heard import clips_section
from lalia.report.lineage import lineage_of, product_card
from lalia.training.bad_clips import in_words, read_bad_clips
from lalia.training.recording import read_metrics
from lalia.training.runs import CONFIG, FINISHED
from lalia.training.settings import (
    BatchSettings,
    DataSettings,
    HardwareSettings,
    LogSettings,
    OptimSettings,
    ScheduleSettings,
)
from lalia.units import clock

NAME = "report.html"
GUARD, CODES = "guard.jsonl", "codes.json"
SHOWN_BAD = 5
SHOWN_MEASURES = 50

_SHARED: dict[str, Any] = {
    "data": DataSettings, "model": EncoderShape, "quantizer": ContrastiveShape, "batch": BatchSettings,
    "optim": OptimSettings, "schedule": ScheduleSettings, "hardware": HardwareSettings, "log": LogSettings,
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """What a run left on disk."""

    folder: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    finished: dict[str, Any] | None
    scores: dict[str, Any] | None
    guard: list[dict[str, Any]]
    """what the training guard did, one measure each"""
    codes: dict[str, Any] | None
    """pretraining: how often each code was used as it went on"""
    card: dict[str, Any] | None

    @classmethod
    def load(cls, folder: Path | str) -> RunFolder:
        """Read ``folder``; ``UserError`` where it holds no run."""
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise UserError(f"{folder}: has no {CONFIG}; expected the folder of a run (the --out of a `fit`)")
        try:
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
            kept = {name: _read_json(folder / name) for name in (FINISHED, "scores.json", CODES)}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{folder}: cannot be read as a run ({' '.join(str(error).split())})") from error
        if not isinstance(config, dict) or "schedule" not in config:
            raise UserError(
                f"{folder / CONFIG}: holds no settings of a run; expected sections such as schedule and batch"
            )
        metrics = read_metrics(folder)
        guard = read_json_lines(folder / GUARD)
        return cls(
            folder, config, metrics, kept[FINISHED], kept["scores.json"], guard, kept[CODES], product_card(folder)
        )

    @property
    def stage(self) -> str:
        """pretraining, fine-tuning or distillation, by what its settings speak of."""
        if "objective" in self.config and "quantizer" in self.config:
            return "pretraining"
        return "distillation" if "teacher" in self.config else "fine-tuning"

    @property
    def steps(self) -> tuple[int, int]:
        """(steps done, steps in all)."""
        total = int(self.config["schedule"]["steps"])
        done = total if self.finished else max((int(line["step"]) + 1 for line in self.metrics), default=0)
        return min(done, total), total

    @property
    def seconds(self) -> float:
        """How long the run took so far."""
        return float(self.metrics[-1].get("time_s", 0.0)) if self.metrics else 0.0

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        values = series(self.metrics, name)[1]
        return values[-1] if values else None

    def best(self, name: str) -> float | None:
        """The smallest value of a metric."""
        return min(series(self.metrics, name)[1], default=None)


def write_run_report(run: Path, mixture: Any = None, defaults: Any = None) -> Path:
    """Write ``run/report.html`` and return its path; may be called while the run goes on, and again.

    ``mixture`` (``lalia.data.mixture.Mixture`` of the run) gives the shown clips their sound. ``defaults`` (the stage's settings
    as they are by default) lets the page show only what this run changed; without them, of the stage's own sections all is shown.
    """
    found = RunFolder.load(run)
    charts = [*curves(found.metrics, found.config), *_codebooks(found.codes)]
    sections = [page.Section("Curves", [page.figures(charts)])] if charts else []
    if found.guard:
        sections.append(_guard(found.guard))
    if found.scores and found.scores.get("clips"):
        sections.append(_clips(found.scores, mixture))
    if found.card:
        intro = "What this run made, and everything behind it, each by the first letters of its content's hash."
        sections.append(page.Section("Lineage", [page.lineage(lineage_of(found.card))], intro))
    sections.append(_settings(found.config, defaults))
    done, total = found.steps
    state = f"finished after {total:,} steps" if found.finished else f"at step {done:,} of {total:,}"
    lead = Markup("{} Now <strong>{}</strong>, {} of training.").format(
        _LEADS[found.stage], state, clock(found.seconds)
    )
    return page.Page(
        kicker=f"{found.stage} run", title=str(found.config.get("out") or run), lead=lead, summary=page.tiles(_tiles(found)),
        sections=sections,
        footer=[*tallies(found.metrics), *_unread(Path(run)), "Everything on this page is inside this one file."],
    ).write(Path(run) / NAME)  # fmt: skip


_LEADS = {
    "pretraining": "An encoder learns from raw audio alone: spans of frames are hidden, and it must tell what was there from "
    "what was elsewhere in the clip.",
    "fine-tuning": "A recogniser learns to write what it hears, from audio with transcripts, by CTC: each frame is answered "
    "with a letter or a blank, and every way of spelling the transcript so is right.",
    "distillation": "A smaller student learns to answer as its teacher does.",
}


def _unread(run: Path) -> list[str]:
    """Which clips could not be read."""
    bad = read_bad_clips(run)
    return [f"{in_words(run)}: {'; '.join(bad[:SHOWN_BAD])}{'; …' if len(bad) > SHOWN_BAD else ''}"] if bad else []


def _tiles(run: RunFolder) -> list[page.Tile]:
    tiles: list[page.Tile] = []
    if run.stage == "pretraining":
        accuracy, perplexity = run.last("valid/accuracy"), run.last("valid/code_perplexity")
        chance, codes = chance_of(run.config), codes_of(run.config)
        if accuracy is not None:
            verdict = "good" if accuracy >= 5 * chance else "bad"
            note = f"chance is {formats.percent(chance)}"
            tiles.append(page.Tile(formats.percent(accuracy), "contrastive accuracy, held out", note, verdict))
        if perplexity is not None:
            verdict = "good" if perplexity > codes / 3 else "bad"
            tiles.append(page.Tile(f"{perplexity:.0f}", f"code perplexity of {codes} codes", "held out", verdict))
    if run.scores:
        low, high = (formats.percent(end) for end in run.scores["cer_interval"])
        tiles.append(page.Tile(formats.percent(run.scores["cer"]), "test CER", f"95 % between {low} and {high}"))
        low, high = (formats.percent(end) for end in run.scores["wer_interval"])
        tiles.append(page.Tile(formats.percent(run.scores["wer"]), "test WER", f"95 % between {low} and {high}"))
    elif (cer := run.best("valid/cer")) is not None:
        tiles.append(page.Tile(formats.percent(cer), "best CER so far", "dev split"))
    if run.card and "parameters" in run.card:
        tiles.append(page.Tile(formats.count(run.card["parameters"]), "parameters"))
    done, total = run.steps
    per_step = audio_per_step_s(run.config)
    tiles.append(page.Tile(f"{done:,}", f"steps of {total:,}", f"{per_step:.0f} s of audio each"))
    if run.seconds:
        tiles.append(
            page.Tile(formats.times(done * per_step / run.seconds), "real time", "audio heard per second of training")
        )
    return tiles


def _codebooks(codes: dict[str, Any] | None) -> list[Chart]:
    """A picture of each codebook: a column for each look at held-out audio, the most used codes on top."""
    if codes is None or len(codes["steps"]) < 2:
        return []
    charts = []
    usage_GVL = np.asarray(codes["usage"], np.float64).transpose(1, 2, 0)
    for book, shares_VL in enumerate(usage_GVL):
        title = "Codes in use" if len(usage_GVL) == 1 else f"Codes in use, codebook {book + 1}"
        ranked_VL = shares_VL[np.argsort(-shares_VL.mean(1), kind="stable")]
        charts.append(heat_chart(title, ranked_VL, codes["steps"], "By training batches; the most used code is on top. "
                                 "Empty rows are dead codes."))  # fmt: skip
    return charts


def _guard(measures: list[dict[str, Any]]) -> page.Section:
    rows = [[f"{measure['step']:,}", measure["action"], measure["says"]] for measure in measures[-SHOWN_MEASURES:]]
    left = len(measures) - len(rows)
    aside = f"{left} measures before these stand in {GUARD}." if left else ""
    intro = "Where the run left what is healthy, and what was done about it."
    return page.Section(
        "What the guard did", [page.table(["step", "measure", "why"], rows, words=True, aside=aside)], intro
    )


def _clips(scores: dict[str, Any], mixture: Any) -> page.Section:
    """The clips that went worst and those in the middle, with their sound where the corpus is at hand."""
    clips = [(clip["id"], clip["reference"], clip["hypothesis"]) for clip in scores["clips"]]
    rows = _rows(mixture, {id for id, _, _ in clips})
    intro = f"By characters wrong, out of {len(clips)} clips that training never heard."
    return clips_section(clips, lambda id: mixture.wave(rows[id]) if id in rows else None, intro)


def _rows(mixture: Any, ids: set[str]) -> dict[str, int]:
    """The row of each of ``ids`` in the test split."""
    if mixture is None:
        return {}
    found = {}
    for row in mixture.select("test").tolist():
        if (id := mixture.id(row)) in ids:
            found[id] = row
    return found


def _settings(config: dict[str, Any], defaults: Any) -> page.Section:
    if defaults is not None:
        known = settings_door.to_dict(defaults) if is_dataclass(defaults) else dict(defaults)
    else:
        known = {name: settings_door.to_dict(schema()) for name, schema in _SHARED.items() if name in config}
    groups = []
    alone = [(key, _spell(value), None) for key, value in config.items() if not isinstance(value, dict)]
    for name, section in config.items():
        if isinstance(section, dict) and (rows := _changed(section, known.get(name))):
            groups.append((name, rows))
    intro = "As they differ from the defaults, which stand in brackets; everything resolved is in config.yaml beside this page."
    return page.Section("Settings", [page.settings([("run", alone), *groups])], intro)


def _changed(section: dict[str, Any], defaults: dict[str, Any] | None) -> list[tuple[str, str, str | None]]:
    if defaults is None:
        return [(key, _spell(value), None) for key, value in section.items()]
    return [
        (key, _spell(value), None if isinstance(value, list) else _spell(defaults.get(key)))
        for key, value in section.items()
        if value != defaults.get(key)
    ]


def _spell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return " ".join(_spell(item) for item in value) if value else "none"
    return formats.number(value) if isinstance(value, (int, float)) else str(value) or "–"


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
