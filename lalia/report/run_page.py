"""The report page of a training run (``RUN/report.html``): verdict, next command, curves, clips, lineage and settings."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from lalia import config as lalia_config
from lalia.cards import read_json_lines
from lalia.errors import UserError
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.report import numbers, page
from lalia.report.charts import Chart, heat_chart
from lalia.report.page import clips_section, lineage_of, product_card, score_verdict
from lalia.report.run_curves import audio_per_step_s, chance_of, codes_of, curves, series, tallies
from lalia.training.run_log import bad_clips_summary, read_bad_clips, read_metrics
from lalia.training.settings import (
    BatchSettings,
    DataSettings,
    HardwareSettings,
    LogSettings,
    OptimSettings,
    ScheduleSettings,
)
from lalia.training.trainer import CONFIG, FINISHED
from lalia.units import clock, plural

NAME = "report.html"
GUARD, CODES = "guard.jsonl", "codes.json"
SHOWN_BAD = 5
SHOWN_ACTIONS = 50

_SHARED: dict[str, Any] = {
    "data": DataSettings, "model": EncoderShape, "quantizer": ContrastiveShape, "batch": BatchSettings,
    "optim": OptimSettings, "schedule": ScheduleSettings, "hardware": HardwareSettings, "log": LogSettings,
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """The files of a run's folder."""

    folder: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    finished: dict[str, Any] | None
    scores: dict[str, Any] | None
    guard: list[dict[str, Any]]
    """the guard's actions"""
    codes: dict[str, Any] | None
    """pretraining: the use of each code over time"""
    card: dict[str, Any] | None

    @classmethod
    def load(cls, folder: Path | str) -> RunFolder:
        """Read ``folder``; ``UserError`` if it is not a run."""
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
                f"{folder / CONFIG}: has no settings of a run; expected sections such as schedule and batch"
            )
        metrics = read_metrics(folder)
        guard = read_json_lines(folder / GUARD)
        return cls(
            folder, config, metrics, kept[FINISHED], kept["scores.json"], guard, kept[CODES], product_card(folder)
        )

    @property
    def name(self) -> str:
        """Its name in titles: that of its folder, with the round's where an outer loop made it."""
        folder = Path(str(self.config.get("out") or self.folder)).absolute()
        return f"{folder.parent.name}, {folder.name}" if folder.name == "fit" else folder.name

    @property
    def teacher(self) -> dict[str, Any] | None:
        """A distillation: the teacher's parameters and scores on the student's test clips."""
        return self.scores.get("teacher") if self.scores else None

    @property
    def stage(self) -> str:
        """pretraining, fine-tuning or distillation, by the sections of its settings."""
        if "objective" in self.config and "quantizer" in self.config:
            return "pretraining"
        return "distillation" if "teacher" in self.config else "fine-tuning"

    @property
    def steps(self) -> tuple[int, int]:
        """(steps done, total steps)."""
        total = int(self.config["schedule"]["steps"])
        done = total if self.finished else max((int(line["step"]) + 1 for line in self.metrics), default=0)
        return min(done, total), total

    @property
    def seconds(self) -> float:
        """The time of the run so far."""
        return float(self.metrics[-1].get("time_s", 0.0)) if self.metrics else 0.0

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        values = series(self.metrics, name)[1]
        return values[-1] if values else None

    def best(self, name: str) -> float | None:
        """The smallest value of a metric."""
        return min(series(self.metrics, name)[1], default=None)


def write_run_report(
    run: Path, mixture: Any = None, defaults: Any = None, finished: dict[str, Any] | None = None
) -> Path:
    """Write ``run/report.html`` and return its path, during or after the run.

    ``mixture`` (the run's ``lalia.data.mixture.Mixture``) has the audio of the clips. With ``defaults`` (the stage's default
    settings) only changed settings are shown; without them, the stage's own sections are shown in full. ``finished`` is what
    RUN/finished.json will hold, which is written after the page.
    """
    found = RunFolder.load(run)
    if finished is not None:
        found = replace(found, finished=finished)
    charts = [*curves(found.metrics, found.config), *_codebooks(found.codes)]
    first, rest = charts[:FIRST_CHARTS], charts[FIRST_CHARTS:]
    sections = []
    if found.teacher:
        sections.append(_teacher(found, found.teacher))
    if charts:
        more = [page.fold(plural(len(rest), "more curve"), [page.figures(rest)])] if rest else []
        sections.append(page.Section("Curves", [page.figures(first), *more]))
    if found.guard:
        sections.append(_guard(found.guard))
    if found.scores and found.scores.get("clips"):
        sections.append(_clips(found.scores, mixture))
    if found.card:
        intro = "The model of this run, and the models and corpora behind it, each with the start of its content hash."
        sections.append(page.Section("Lineage", [page.lineage(lineage_of(found.card))], intro, folded=True))
    sections.append(_settings(found.config, defaults))
    done, total = found.steps
    state = f"finished after {total:,} steps" if found.finished else f"at step {done:,} of {total:,}"
    lead = Markup("{} Now <strong>{}</strong>, {} of training.").format(
        _LEADS[found.stage], state, clock(found.seconds)
    )
    return page.Page(
        kicker=f"{found.stage} run", title=found.name, lead=lead, verdict=verdict_of(found), next=_next(found),
        summary=page.tiles(_tiles(found)), sections=sections,
        footer=[*tallies(found.metrics), *_unread(Path(run)), "This page is self-contained."],
    ).write(Path(run) / NAME)  # fmt: skip


FIRST_CHARTS = 3
"""Charts that are shown; the others are behind a line."""
STAGES = {"pretraining": "pretrain", "fine-tuning": "finetune", "distillation": "distill"}
ACCURACY_OVER_CHANCE, CODES_IN_USE = 5.0, 1 / 3
"""A pretraining run is healthy with at least this accuracy, in multiples of chance, and this share of codes in use."""
STILL_FALLING = 0.05
"""Relative fall of the CER over the last quarter of the validations from which more steps may help."""
OVERFIT = 1.15
"""The held-out loss at the end, relative to its minimum, from which a run overfits."""


def verdict_of(run: RunFolder) -> page.Verdict | None:
    """Whether the run went well, by the field's usual signs."""
    done, total = run.steps
    if run.finished is None:
        return page.Verdict(f"Not finished: step {done:,} of {total:,}.", _pretraining_words(run)[1])
    if run.stage == "pretraining":
        title, text, kind = _pretraining_words(run)
        return page.Verdict(title, text, kind) if title else None  # type: ignore[arg-type]
    if run.finished.get("only_blanks"):
        return page.Verdict(
            "Nothing learned.", "Every transcript is empty. Check the labels, then train longer.", "bad"
        )
    if run.scores is None:
        return None
    found = score_verdict(run.scores, len(run.scores.get("clips", ())))
    words = [found.text, *_trend(run)]
    if run.teacher:
        ratio = run.scores["cer"] / max(run.teacher["cer"], 1e-9)
        words.insert(1, f"Its CER is {ratio:.2f} times its teacher's.")
    return replace(found, text=" ".join(words))


def _pretraining_words(run: RunFolder) -> tuple[str, str, str]:
    """(title, text, kind) of a pretraining run; empty without a validation."""
    accuracy, perplexity = run.last("valid/accuracy"), run.last("valid/code_perplexity")
    if run.stage != "pretraining" or accuracy is None or perplexity is None:
        return "", "", ""
    over, codes = accuracy / chance_of(run.config), codes_of(run.config)
    text = (
        f"Held-out accuracy is {numbers.percent(accuracy)}, {over:.1f} times chance; code perplexity is {perplexity:.0f} of "
        f"{codes}."
    )
    if perplexity <= codes * CODES_IN_USE:
        return "The codebook has collapsed.", f"{text} Healthy is more than a third of the codes.", "bad"
    if over < ACCURACY_OVER_CHANCE:
        return "Little learned.", f"{text} A healthy run reaches {ACCURACY_OVER_CHANCE:g} times chance.", "bad"
    return "Healthy.", text, "good"


def _trend(run: RunFolder) -> list[str]:
    """What the ends of the curves say about the length of the run."""
    found = []
    cers = series(run.metrics, "valid/cer")[1]
    if len(cers) >= 4:
        before = min(cers[: -(len(cers) // 4)])
        if min(cers) < (1 - STILL_FALLING) * before:
            found.append("CER was still falling at the end: more --schedule.steps may help.")
    steps, losses = series(run.metrics, "valid/loss")
    if len(losses) >= 4 and losses[-1] > OVERFIT * min(losses):
        at = steps[losses.index(min(losses))]
        found.append(f"The held-out loss has risen since step {at:,.0f}: the run overfits; more labels help most.")
    return found


def _next(run: RunFolder) -> list[tuple[str, str]]:
    """The commands to type next."""
    out = Path(str(run.config.get("out") or run.folder))
    quoted = shlex.quote(str(out))
    if run.finished is None:
        config = shlex.quote(str(out / CONFIG))
        return [(f"lalia {STAGES[run.stage]} fit --config {config}", "continue it from its last checkpoint")]
    corpora = [shlex.quote(str(corpus)) for corpus in run.config["data"].get("corpus", [])] or ["CORPUS"]
    if run.stage == "pretraining":
        encoder = shlex.quote(str(out / "encoder"))
        return [
            (f"lalia finetune fit --encoder {encoder} --data.corpus CORPUS --out RUN", "train a recogniser on labels"),
            (f"lalia pretrain probe {encoder} {corpora[0]}", "measure what each layer learned"),
        ]
    if run.stage == "distillation":
        data = " ".join(f"--data.corpus {corpus}" for corpus in corpora)
        teacher, student = shlex.quote(_first(run.config["teacher"])), shlex.quote(str(out / "student"))
        export = f"lalia distill export --recogniser {quoted} --teacher {teacher} {data} --out {student}"
        return [(export, "write the student as int8 ONNX, if it stays within its error budget")]
    if run.finished.get("only_blanks"):
        return [(f"lalia finetune check {corpora[0]}", "look for bad labels")]
    return [
        (f"lalia transcribe {quoted} talk.mp3", "transcribe a file"),
        (f"lalia finetune lm {quoted}", "build and tune a language model from its labels and any text"),
        (f"lalia finetune eval {quoted}", "evaluate it: a page with the errors and clips to play"),
    ]


def _first(teacher: str | list[str]) -> str:
    """The first teacher; runs of earlier versions name one."""
    return teacher if isinstance(teacher, str) else teacher[0]


def _teacher(run: RunFolder, teacher: dict[str, Any]) -> page.Section:
    """The student beside its teacher: size and error rates on the same test clips."""
    assert run.scores is not None
    size = run.card["parameters"] if run.card else None
    rows = [
        [name, *_rates(scores), numbers.count(parameters) if parameters else "–"]
        for name, parameters, scores in (
            ("teacher", teacher.get("parameters"), teacher), ("student", size, run.scores)
        )
    ]  # fmt: skip
    for one in run.scores.get("teachers", [])[1:]:
        rates = numbers.percent(one["cer"]), "", numbers.percent(one["wer"]), ""
        rows.insert(-1, [f"teacher {Path(one['folder']).name}", *rates, "–"])
    chosen = len(rows) - 1
    if size and teacher.get("parameters"):
        ratios = (run.scores[rate] / max(teacher[rate], 1e-9) for rate in ("cer", "wer"))
        cer, wer = (f"{ratio:.2f}{numbers.THIN}×" for ratio in ratios)
        rows.append(["student / teacher", cer, "", wer, "", f"{size / teacher['parameters']:.2f}{numbers.THIN}×"])
    head = ["", "CER", "95 % CI", "WER", "95 % CI", "parameters"]
    intro = "Both on the same test clips, by greedy decoding."
    return page.Section("Teacher and student", [page.table(head, rows, chosen=chosen)], intro)


def _rates(scores: dict[str, Any]) -> list[str]:
    cells = []
    for rate in ("cer", "wer"):
        low, high = scores[f"{rate}_interval"]
        cells += [numbers.percent(scores[rate]), f"{100 * low:.1f} to {100 * high:.1f}"]
    return cells


_LEADS = {
    "pretraining": "An encoder learns from raw audio: spans of frames are masked, and it distinguishes the target of each masked "
    "frame from distractors of the same clip.",
    "fine-tuning": "A recogniser is trained with CTC on audio with transcripts.",
    "distillation": "A smaller student is trained to match its teacher's outputs.",
}


def _unread(run: Path) -> list[str]:
    """The clips that could not be read."""
    bad = read_bad_clips(run)
    return (
        [f"{bad_clips_summary(run)}: {'; '.join(bad[:SHOWN_BAD])}{'; …' if len(bad) > SHOWN_BAD else ''}"]
        if bad
        else []
    )


def _tiles(run: RunFolder) -> list[page.Tile]:
    tiles: list[page.Tile] = []
    if run.stage == "pretraining":
        accuracy, perplexity = run.last("valid/accuracy"), run.last("valid/code_perplexity")
        chance, codes = chance_of(run.config), codes_of(run.config)
        if accuracy is not None:
            verdict = "good" if accuracy >= ACCURACY_OVER_CHANCE * chance else "bad"
            note = f"chance is {numbers.percent(chance)}"
            tiles.append(page.Tile(numbers.percent(accuracy), "contrastive accuracy, held out", note, verdict))
        if perplexity is not None:
            verdict = "good" if perplexity > codes * CODES_IN_USE else "bad"
            tiles.append(page.Tile(f"{perplexity:.0f}", f"code perplexity of {codes} codes", "held out", verdict))
    if run.scores:
        for rate in ("cer", "wer"):
            note = f"95 % CI {numbers.interval(run.scores[f'{rate}_interval'])}"
            tiles.append(page.Tile(numbers.percent(run.scores[rate]), f"test {rate.upper()}", note))
    elif (cer := run.best("valid/cer")) is not None:
        tiles.append(page.Tile(numbers.percent(cer), "best CER so far", "dev split"))
    if run.card and "parameters" in run.card:
        tiles.append(page.Tile(numbers.count(run.card["parameters"]), "parameters"))
    done, total = run.steps
    per_step = audio_per_step_s(run.config)
    tiles.append(page.Tile(f"{done:,}", f"steps of {total:,}", f"{per_step:.0f} s of audio each"))
    if run.seconds:
        tiles.append(
            page.Tile(numbers.times(done * per_step / run.seconds), "real time", "audio trained on per second")
        )
    return tiles


def _codebooks(codes: dict[str, Any] | None) -> list[Chart]:
    """A heat map of each codebook: a column for each validation, the most used codes on top."""
    if codes is None or len(codes["steps"]) < 2:
        return []
    charts = []
    usage_GVL = np.asarray(codes["usage"], np.float64).transpose(1, 2, 0)
    for book, shares_VL in enumerate(usage_GVL):
        title = "Codes in use" if len(usage_GVL) == 1 else f"Codes in use, codebook {book + 1}"
        ranked_VL = shares_VL[np.argsort(-shares_VL.mean(1), kind="stable")]
        charts.append(heat_chart(title, ranked_VL, codes["steps"], "Of training batches, the most used code on top. "
                                 "Empty rows are unused codes."))  # fmt: skip
    return charts


def _guard(actions: list[dict[str, Any]]) -> page.Section:
    rows = [[f"{action['step']:,}", action["action"], action["says"]] for action in actions[-SHOWN_ACTIONS:]]
    left = len(actions) - len(rows)
    aside = f"{left} earlier actions are in {GUARD}." if left else ""
    intro = "When the run left its healthy ranges, and what the guard did."
    return page.Section("Guard", [page.table(["step", "action", "reason"], rows, aside=aside)], intro)


def _clips(scores: dict[str, Any], mixture: Any) -> page.Section:
    """The clips with the highest and the median CER, with audio if the corpus is available."""
    clips = [(clip["id"], clip["reference"], clip["hypothesis"]) for clip in scores["clips"]]
    rows = _rows(mixture, {id for id, _, _ in clips})
    intro = f"The highest and the median CER of {len(clips)} test clips."
    by_teacher = {clip["id"]: clip["teacher"] for clip in scores["clips"] if "teacher" in clip}
    return clips_section(
        clips, lambda id: mixture.wave(rows[id]) if id in rows else None, intro,
        name="student" if by_teacher else "hypothesis", other=("teacher", by_teacher),
    )  # fmt: skip


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
        known = lalia_config.to_dict(defaults) if is_dataclass(defaults) else dict(defaults)
    else:
        known = {name: lalia_config.to_dict(schema()) for name, schema in _SHARED.items() if name in config}
    groups = []
    alone = [(key, _spell(value), None) for key, value in config.items() if not isinstance(value, dict)]
    for name, section in config.items():
        if isinstance(section, dict) and (rows := _changed(section, known.get(name))):
            groups.append((name, rows))
    intro = (
        "Those that differ from the defaults (in brackets); all resolved settings are in config.yaml beside this page."
    )
    return page.Section("Settings", [page.settings([("run", alone), *groups])], intro, folded=True)


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
    return numbers.number(value) if isinstance(value, (int, float)) else str(value) or "–"


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
