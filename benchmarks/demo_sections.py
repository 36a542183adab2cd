"""The demo page's sections: pretraining, what it bought, the student, the commands and the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from benchmarks.demo_figures import Arm, Figures, Part, Weighed
from lalia.data.corpus import Corpus
from lalia.data.prepare.credits import DEEDS, VOICES
from lalia.exits import UserError
from lalia.report import formats, page
from lalia.report.charts import SERIES, Bar, Chart, Level, Line, bar_chart, line_chart, profile_chart, share
from lalia.report.curves import curves, series
from lalia.units import clock

if TYPE_CHECKING:
    from benchmarks.demo import Demo

NAMES = {"eng": "English", "fra": "French", "ita": "Italian", "rus": "Russian", "spa": "Spanish"}
COLOURS = {"pretrained": "s1", "random": "s2"}


def pretraining(demo: Demo, figures: Figures, corpus: Corpus) -> page.Section:
    wanted = ("Contrastive loss", "Contrastive accuracy", "Codebook use")
    charts = [chart for chart in curves(figures.pretrain.metrics, figures.pretrain.config) if chart.title in wanted]
    if (profile := _profile(demo, figures, corpus)) is not None:
        charts.append(profile)
    intro = (
        f"The encoder hears {formats.hours(figures.pretraining['hours'])} of audio without labels. Spans of frames are hidden "
        "from it, and it must tell the code of each hidden frame from the codes of others. All figures are of held-out clips."
    )
    return page.Section("Pretraining", [page.figures(charts)], intro)


def _profile(demo: Demo, figures: Figures, corpus: Corpus) -> Chart | None:
    """How often each code is used on held-out audio, the most used first; None where the run's checkpoints are gone."""
    from lalia.models.codes import CodeReader

    try:
        reader = CodeReader.load(demo.pretrain)
    except UserError:
        return None
    rows = corpus.select("dev")
    usage_GV = reader.usage(corpus.wave(int(row)) for row in rows)
    entries = usage_GV.shape[1]
    lines = [
        Line(f"codebook {g + 1}", range(entries), np.sort(usage_V)[::-1].tolist(), SERIES[g])
        for g, usage_V in enumerate(usage_GV[: len(SERIES)])
    ]
    return profile_chart(
        "How often each code is used", lines, Level(1 / entries, "all alike"),
        f"Share of the frames of {len(rows)} held-out clips, most used codes first.", "code",
    )  # fmt: skip


def bought(figures: Figures) -> page.Section:
    chosen = [figures.chosen(start) for start in ("pretrained", "random")]
    dev = [
        Line(_start(arm.start), *series(arm.run.metrics, "valid/cer"), COLOURS[arm.start], dots=True) for arm in chosen
    ]
    charts = [
        line_chart("Character errors while learning", dev, caption="On the dev split.", y_label=share, from_zero=True),
        _bars(chosen),
    ]
    minutes = figures.summary()["finetune"]["minutes_of_labels"]
    steps = chosen[0].scores["steps"]
    intro = (
        f"The same recogniser learns from the same {minutes:.1f} minutes of Italian labels for the same {steps} steps: once "
        "from the pretrained encoder, once from random weights. Each start keeps the learning rate that did best on the dev "
        "split; the test split decides nothing."
    )
    rows = [_arm_row(arm) for arm in figures.arms]
    head = ["start", "learning rate", "dev CER", "test CER", "test WER", "kept"]
    return page.Section("What pretraining bought", [page.figures(charts), page.table(head, rows)], intro)


def _bars(arms: list[Arm]) -> Chart:
    bars = []
    for name, rate in (("CER", "cer"), ("WER", "wer")):
        for arm in arms:
            value, (low, high) = arm.scores[rate], arm.scores[f"{rate}_interval"]
            label = f"{name}, {_start(arm.start)}"
            bars.append(Bar(label, value, (low, high), COLOURS[arm.start], formats.percent(value)))
    caption = "Letters and words wrong; thin lines hold 95 % of bootstrap resamples of the clips."
    return bar_chart("Errors on the test split", bars, caption)


def _start(start: str) -> str:
    return "pretrained" if start == "pretrained" else "random weights"


def _arm_row(arm: Arm) -> list[str]:
    scores = arm.scores
    return [
        _start(arm.start), f"{arm.rate:g}", formats.percent(arm.dev_cer), formats.percent(scores["cer"]),
        formats.percent(scores["wer"]), "✓" if arm.chosen else "",
    ]  # fmt: skip


def student(figures: Figures, parts: list[Part]) -> page.Section:
    head = ["", "parameters", "size", "CER", "WER", "RTF", "× real time"]
    rtfs = [*(c.rtf for c in figures.contenders), figures.spoken.rtf]
    rows = [[*row[:5], f"{rtf:.4f}", row[5]] for row, rtf in zip(contender_rows(figures), rtfs, strict=True)]
    charts = [
        chart for chart in curves(figures.distill.metrics, figures.distill.config)
        if chart.title in ("Loss", "Errors on held-out clips")
    ]  # fmt: skip
    intro = (
        "The student starts from some of the teacher's own layers and learns to answer as the teacher does, on Italian audio "
        "with and without labels. The export writes one ONNX file, turns its matrix products to int8, and measures the file "
        "itself. RTF is seconds of work per second of audio, on one thread. The last row is what a user would run: the same file "
        f"and a language model, {figures.spoken.name} of {formats.count(figures.spoken.sentences)} sentences, the labels of the "
        "training clips. Its weight was tuned on the dev split; its size is what it adds."
    )
    notes = " ".join(part.note for part in parts if part.note)
    return page.Section("Teacher and student", [page.table(head, rows, 2, aside=notes), page.figures(charts)], intro)


def contender_rows(figures: Figures) -> list[list[str]]:
    return [
        [
            c.name, formats.count(c.parameters), formats.megabytes(c.mb), formats.percent(c.cer), formats.percent(c.wer),
            f"{1 / c.rtf:.0f}",
        ]
        for c in figures.contenders
    ] + [_with_language_model(figures.spoken)]  # fmt: skip


def _with_language_model(spoken: Weighed) -> list[str]:
    return [
        f"+ {spoken.name}", "", f"+ {formats.megabytes(spoken.mb)}", formats.percent(spoken.cer), formats.percent(spoken.wer),
        f"{1 / spoken.rtf:.0f}",
    ]  # fmt: skip


def commands(parts: list[Part]) -> page.Section:
    lines = Markup("\n").join(Markup("<b>{:>8}</b>  {}").format(clock(part.seconds), part.command) for part in parts)
    intro = "Each is preceded by the time that it took, and may be typed alone."
    return page.Section("The commands", [Markup("<pre>{}</pre>").format(lines)], intro)


def data(figures: Figures) -> page.Section:
    rows: list[list[Any]] = []
    for source in figures.corpus.get("sources", []):
        voice = VOICES.get(source["language"])
        licence = source["licence"]
        linked = Markup('<a href="{}">{}</a>').format(DEEDS[licence], licence) if licence in DEEDS else licence
        rows.append(
            [NAMES.get(source["language"], source["language"]), source["voice"], linked, voice.credits if voice else ""]
        )
    intro = (
        "Asterisk's core sound prompts, version 1.6.1, published by the Asterisk project and packaged by Debian. They were "
        "decoded from G.722 and packed as FLAC; the clips on this page, spoken by Carlo Flora, were then encoded as MP3. "
        "Whoever passes this page on keeps this section."
    )
    if not rows:
        licences = ", ".join(figures.corpus.get("licences", [])) or "no licence stated"
        return page.Section("The data", [Markup("<p>{}: {}</p>").format(figures.corpus.get("source", ""), licences)])
    return page.Section(
        "The data, and whom to thank",
        [page.table(["language", "voice", "licence", "credits"], rows, words=True)],
        intro,
    )
