"""The report page of the demo: a diagram of the chain, goals and results, curves, a table, clips with audio, commands."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from rich.console import Console
from rich.table import Table

from benchmarks.demo.figures import Arm, Figures, LmScores, Part, goals, parts_of
from lalia.cards import processor, write_json, write_text
from lalia.data.corpus import Corpus
from lalia.data.prepare.sources.demo import LICENCE_URLS, VOICES
from lalia.decoding.decoder import make_decoder
from lalia.errors import UserError
from lalia.report import numbers, page
from lalia.report.charts import SERIES, Bar, Chart, Level, Line, bar_chart, line_chart, profile_chart, share
from lalia.report.page import ERROR_LEGEND, ShownClip, lineage_of, make_player, mark_errors
from lalia.report.run_curves import curves, series
from lalia.runtime.student import Student, TranscribeOptions
from lalia.scoring.rates import character_errors, word_errors
from lalia.units import clock

if TYPE_CHECKING:
    from benchmarks.demo.run import Demo


# --- The chain as a diagram ------------------------------------------------------------------------------

BOX_W, BOX_H, GAP_W, GAP_H = 238, 262, 62, 66
PAD = 18

# For the diagram alone, outside a page that defines the colours.
STANDALONE = """\
:root { --card: #ffffff; --ink: #1d1c1a; --muted: #6a665f; --faint: #a39e94; --line: #d9d4c9;
  --s1: #2166b0; --s2: #c4591b; --s3: #16826b }
@media (prefers-color-scheme: dark) { :root { --card: #1c1d1b; --ink: #ebe8e1; --muted: #a6a198; --faint: #757169;
  --line: #3a3b37; --s1: #6ba6e8; --s2: #ea9459; --s3: #57c0a3 } }
svg { --sans: Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
"""


@dataclass(frozen=True)
class ChainFacts:
    """The texts of the diagram. Lines are short: about 34 letters fit into a box."""

    hours: dict[str, float]
    """hours of audio by the language's name"""
    target: str
    """the language that is recognised, one of ``hours``"""
    encoder: Sequence[str]
    recogniser: Sequence[str]
    student: Sequence[str]
    word: str
    """a word of the target language, shown as frames become letters"""
    arrows: Sequence[tuple[str, str]]
    """the step between two boxes, and its time; three of them"""


def chain_svg(facts: ChainFacts, tall: bool = False, standalone: bool = False) -> Markup:
    """The diagram as an ``<svg>``: boxes in a row, or in a column if ``tall``; ``standalone`` includes the colours."""
    boxes = [
        ("Raw audio", _minutes(facts), _languages(facts)),
        ("Encoder", facts.encoder, _encoder()),
        ("Recogniser", facts.recogniser, _recogniser(facts.word)),
        ("Student", facts.student, _student()),
    ]
    step = BOX_H + GAP_H if tall else BOX_W + GAP_W
    width = BOX_W if tall else 4 * BOX_W + 3 * GAP_W
    height = 4 * BOX_H + 3 * GAP_H if tall else BOX_H
    out = Markup()
    for i, (title, lines, picture) in enumerate(boxes):
        x, y = (0, i * step) if tall else (i * step, 0)
        out += Markup('<g transform="translate({} {})">{}</g>\n').format(x, y, _box(title, lines, picture))
        if i < 3:
            out += _arrow(*facts.arrows[i], x, y, tall)
    style = Markup("<style>{}</style>\n").format(Markup(STANDALONE)) if standalone else Markup()
    label = "raw audio becomes an encoder, then a recogniser, then a student"
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {} {}" role="img" aria-label="{}">\n{}'
    size = f' width="{width + 2}" height="{height + 2}"' if standalone else ""
    return (
        Markup(head.replace(" role", size + " role")).format(width + 2, height + 2, label, style)
        + out
        + Markup("</svg>")
    )


def _minutes(facts: ChainFacts) -> list[str]:
    total = sum(facts.hours.values())
    return [f"{60 * total:.0f} minutes, {len(facts.hours)} languages", "no labels"]


def _box(title: str, lines: Sequence[str], picture: Markup) -> Markup:
    out = Markup('<rect width="{}" height="{}" rx="12" style="fill: var(--card); stroke: var(--line)"/>').format(
        BOX_W, BOX_H
    )
    out += _text(PAD, 32, title, 17, weight=650, colour="ink")
    for i, line in enumerate(lines):
        out += _text(PAD, 54 + 18 * i, line, 12.5)
    return out + Markup('<g transform="translate({} 118)">{}</g>').format(PAD, picture)


def _arrow(what: str, how_long: str, x: float, y: float, tall: bool) -> Markup:
    if tall:
        middle, top = BOX_W / 2, y + BOX_H
        line = f"M{middle} {top + 8}V{top + GAP_H - 9}m-5 -6l5 6l5 -6"
        return (
            _path(line, "muted", 1.6)
            + _text(middle + 16, top + GAP_H / 2 - 2, what, 12.5, weight=600, colour="ink")
            + _text(middle + 16, top + GAP_H / 2 + 14, how_long, 12)
        )
    left, centre = x + BOX_W, y + BOX_H / 2
    line = f"M{left + 8} {centre}H{left + GAP_W - 9}m-6 -5l6 5l-6 5"
    words = what.split(" ")
    out = _path(line, "muted", 1.6)
    for i, word in enumerate(words):
        out += _text(left + GAP_W / 2, centre - 14 - 15 * (len(words) - 1 - i), word, 12, 600, "ink", "middle")
    return out + _text(left + GAP_W / 2, centre + 22, how_long, 11.5, anchor="middle")


def _languages(facts: ChainFacts) -> Markup:
    out, longest = Markup(), max(facts.hours.values())
    for i, (name, hours) in enumerate(facts.hours.items()):
        y = 4 + 25 * i
        colour = "s1" if name == facts.target else "faint"
        out += _text(0, y + 11, name, 12, weight=650 if name == facts.target else 400, colour="ink")
        out += _rect(62, y + 1, 96 * hours / longest, 13, colour, 3)
        out += _text(62 + 96 * hours / longest + 7, y + 11.5, f"{60 * hours:.0f} min", 11.5)
    return out


def _frames(y: float, hidden: Sequence[int]) -> Markup:
    out = Markup()
    for i in range(12):
        x = 17 * i
        if i in hidden:
            out += Markup(
                '<rect x="{}" y="{}" width="12" height="16" rx="3" style="fill: none; stroke: var(--s2); '
                'stroke-width: 1.4; stroke-dasharray: 3 2.4"/>'
            ).format(x + 0.7, y)
        else:
            out += _rect(x, y, 13.4, 16, "s1", 3)
    return out


def _layers(y: float, count: int, colour: str, width: float = 201, left: float = 0) -> Markup:
    return Markup().join(_rect(left, y + 14 * i, width, 9, colour, 4.5) for i in range(count))


def _encoder() -> Markup:
    hidden = (3, 4, 5, 9, 10)
    guesses = Markup().join(_text(17 * i + 6.7, 14, "?", 14, weight=700, colour="s2", anchor="middle") for i in hidden)
    return guesses + _layers(26, 5, "faint") + _frames(106, hidden)


def _recogniser(word: str) -> Markup:
    letters = word[:6]
    places = [int(12 * (i + 0.5) / max(1, len(letters))) for i in range(len(letters))]
    said = Markup()
    for i in range(12):
        shown, colour, weight = (letters[places.index(i)], "ink", 650) if i in places else ("·", "faint", 400)
        said += _text(17 * i + 6.7, 14, shown, 16, weight=weight, colour=colour, anchor="middle")
    return said + _layers(26, 5, "faint") + _frames(106, ())


def _student() -> Markup:
    chip = _rect(52, 26, 96, 76, "s3", 10)
    pins = Markup()
    for i in range(4):
        pins += _rect(42, 38 + 15 * i, 10, 5, "s3", 2) + _rect(148, 38 + 15 * i, 10, 5, "s3", 2)
        pins += _rect(68 + 17 * i, 16, 5, 10, "s3", 2) + _rect(68 + 17 * i, 102, 5, 10, "s3", 2)
    layers = _layers(46, 3, "card", 64, 68)
    return chip + pins + layers


def _text(
    x: float, y: float, text: str, size: float, weight: int = 400, colour: str = "muted", anchor: str = "start"
) -> Markup:
    style = f"font: {weight} {size}px var(--sans); fill: var(--{colour})"
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}" style="{}">{}</text>').format(
        x, y, anchor, style, escape(text)
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, radius: float) -> Markup:
    return Markup('<rect x="{:g}" y="{:g}" width="{:.1f}" height="{:g}" rx="{:g}" style="fill: var(--{})"/>').format(
        x, y, max(width, 1.0), height, min(radius, max(width, 1.0) / 2), colour
    )


def _path(line: str, colour: str, width: float) -> Markup:
    style = f"fill: none; stroke: var(--{colour}); stroke-width: {width}; stroke-linecap: round; stroke-linejoin: round"
    return Markup('<path d="{}" style="{}"/>').format(line, style)


# --- The demo page's sections ----------------------------------------------------------------------------

NAMES = {"eng": "English", "fra": "French", "ita": "Italian", "rus": "Russian", "spa": "Spanish"}
COLOURS = {"pretrained": "s1", "random": "s2"}


def pretraining(demo: Demo, figures: Figures, corpus: Corpus) -> page.Section:
    wanted = ("Contrastive loss", "Contrastive accuracy", "Codebook use")
    charts = [chart for chart in curves(figures.pretrain.metrics, figures.pretrain.config) if chart.title in wanted]
    if (profile := _profile(demo, figures, corpus)) is not None:
        charts.append(profile)
    intro = (
        f"The encoder is trained on {numbers.hours(figures.pretraining['hours'])} of audio without labels. Spans of frames are "
        "masked, and it must identify the code of each masked frame among distractors. All figures are of held-out clips."
    )
    return page.Section("Pretraining", [page.figures(charts)], intro)


def _profile(demo: Demo, figures: Figures, corpus: Corpus) -> Chart | None:
    """How often each code is used on held-out audio, the most used first; None if the run's checkpoints were deleted."""
    from lalia.training.validation import CodeReader

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
        "How often each code is used", lines, Level(1 / entries, "uniform use"),
        f"Share of the frames of {len(rows)} held-out clips, most used codes first.", "code",
    )  # fmt: skip


def bought(figures: Figures) -> page.Section:
    chosen = [figures.chosen(start) for start in ("pretrained", "random")]
    dev = [
        Line(_start(arm.start), *series(arm.run.metrics, "valid/cer"), COLOURS[arm.start], dots=True) for arm in chosen
    ]
    charts = [
        line_chart("CER during training", dev, caption="On the dev split.", y_label=share, from_zero=True),
        _bars(chosen),
    ]
    minutes = figures.summary()["finetune"]["minutes_of_labels"]
    steps = chosen[0].scores["steps"]
    intro = (
        f"The same recogniser is trained on the same {minutes:.1f} minutes of Italian labels for the same {steps} steps: once "
        "from the pretrained encoder, once from random weights. The learning rate of each is the best on the dev "
        "split; the test split is not used for any choice."
    )
    rows = [_arm_row(arm) for arm in figures.arms]
    head = ["start", "learning rate", "dev CER", "test CER", "test WER", "kept"]
    return page.Section("Gain from pretraining", [page.figures(charts), page.table(head, rows)], intro)


def _bars(arms: list[Arm]) -> Chart:
    bars = []
    for name, rate in (("CER", "cer"), ("WER", "wer")):
        for arm in arms:
            value, (low, high) = arm.scores[rate], arm.scores[f"{rate}_interval"]
            label = f"{name}, {_start(arm.start)}"
            bars.append(Bar(label, value, (low, high), COLOURS[arm.start], numbers.percent(value)))
    caption = "CER and WER; thin lines: 95 % CI, by bootstrap over clips."
    return bar_chart("Errors on the test split", bars, caption)


def _start(start: str) -> str:
    return "pretrained" if start == "pretrained" else "random weights"


def _arm_row(arm: Arm) -> list[str]:
    scores = arm.scores
    return [
        _start(arm.start), f"{arm.rate:g}", numbers.percent(arm.dev_cer), numbers.percent(scores["cer"]),
        numbers.percent(scores["wer"]), "✓" if arm.chosen else "",
    ]  # fmt: skip


def student(figures: Figures, parts: list[Part]) -> page.Section:
    head = ["", "parameters", "size", "CER", "WER", "× real time"]
    rows = contender_rows(figures)
    charts = [
        chart for chart in curves(figures.distill.metrics, figures.distill.config)
        if chart.title in ("Loss", "Errors on held-out clips")
    ]  # fmt: skip
    intro = (
        "The student is initialised with some of the teacher's layers and trained to reproduce its outputs, on Italian audio "
        "with and without labels. The export writes one ONNX file, quantizes its matrix products to int8, and evaluates this "
        "file. Speed is measured on one thread. The last row is the deployed system: the same file "
        f"and a language model, {figures.spoken.name} of {numbers.count(figures.spoken.sentences)} sentences, the labels of the "
        "training clips. Its weight was tuned on the dev split; its size is in addition to the student's."
    )
    notes = " ".join(part.note for part in parts if part.note)
    return page.Section("Teacher and student", [page.table(head, rows, 2, aside=notes), page.figures(charts)], intro)


def contender_rows(figures: Figures) -> list[list[str]]:
    return [
        [
            c.name, numbers.count(c.parameters), numbers.megabytes(c.mb), numbers.percent(c.cer), numbers.percent(c.wer),
            f"{1 / c.rtf:.0f}",
        ]
        for c in figures.contenders
    ] + [_with_language_model(figures.spoken)]  # fmt: skip


def _with_language_model(spoken: LmScores) -> list[str]:
    return [
        f"+ {spoken.name}", "", f"+ {numbers.megabytes(spoken.mb)}", numbers.percent(spoken.cer), numbers.percent(spoken.wer),
        f"{1 / spoken.rtf:.0f}",
    ]  # fmt: skip


def commands(parts: list[Part]) -> page.Section:
    intro = "In this order, each with the time it took. Each can also be run separately."
    return page.Section("The commands", [page.commands([(part.command, clock(part.seconds)) for part in parts])], intro)


def verdict(summary: dict[str, dict[str, float]], parts: list[Part]) -> page.Verdict:
    """Whether the export passed its quality check, and how many goals were reached."""
    reached = [goal.met for goal in goals(summary)]
    met = f"{sum(reached)} of {len(reached)} goals are met."
    if refused := next((part.note for part in parts if part.note), ""):
        text = f"{refused.rstrip('.')}. The student of this page was exported without the check. {met}"
        return page.Verdict("The export was refused.", text, "bad")
    return page.Verdict(met, "Each is below.", "good" if all(reached) else "")


def tiles(figures: Figures) -> list[page.Tile]:
    """The student's error rates alone and with the language model, its size and its speed."""
    int8, spoken = figures.contenders[2], figures.spoken
    found = []
    for name, alone, with_lm in (("CER", int8.cer, spoken.cer), ("WER", int8.wer, spoken.wer)):
        found.append(page.Tile(numbers.percent(alone), f"{name}, student alone", "greedy decoding"))
        found.append(page.Tile(numbers.percent(with_lm), f"{name}, with the language model", spoken.name))
    size = page.Tile(numbers.megabytes(int8.mb), "student", f"+ {numbers.megabytes(spoken.mb)} of language model")
    return [*found, size, page.Tile(numbers.times(1 / int8.rtf), "real time", "one thread, greedy decoding")]


def data(figures: Figures) -> page.Section:
    rows: list[list[Any]] = []
    for source in figures.corpus.get("sources", []):
        voice = VOICES.get(source["language"])
        licence = source["licence"]
        linked = (
            Markup('<a href="{}">{}</a>').format(LICENCE_URLS[licence], licence) if licence in LICENCE_URLS else licence
        )
        rows.append(
            [NAMES.get(source["language"], source["language"]), source["voice"], linked, voice.credits if voice else ""]
        )
    intro = (
        "Asterisk's core sound prompts, version 1.6.1, published by the Asterisk project and packaged by Debian. They were "
        "decoded from G.722 and packed as FLAC; the clips on this page, spoken by Carlo Flora, were then encoded as MP3. "
        "Keep this section when you share this page."
    )
    if not rows:
        licences = ", ".join(figures.corpus.get("licences", [])) or "no licence stated"
        return page.Section("The data", [Markup("<p>{}: {}</p>").format(figures.corpus.get("source", ""), licences)])
    return page.Section(
        "The data and its licences",
        [page.table(["language", "voice", "licence", "credits"], rows)],
        intro,
    )


# --- The demo's page -------------------------------------------------------------------------------------

# Counted on import: once torch has run, this thread may be bound to one of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

_REACHED = "Measured in this run, on clips that no stage was trained on."
_LISTEN = (
    "Ten Italian clips of the test split, chosen by a hash of their names: the reference, the greedy transcript of the int8 "
    "student and its transcript with the language model of the training labels."
)
_LINEAGE = "The student's ancestors, back to the raw audio, with the first letters of their content hashes."


def write_report(demo: Demo) -> Path:
    """Write ``OUT/report.html``, ``OUT/summary.json`` and the chain alone as ``OUT/chain.svg``; returns the page's path."""
    figures, parts = Figures.load(demo), parts_of(demo.out)
    seconds = {part.name: part.seconds for part in parts}
    summary = figures.summary()
    write_json(demo.out / "summary.json", summary)
    corpus = Corpus.load(demo.corpus)
    shipped = Student.load(demo.student, threads=1)
    shown = _clips(demo, corpus, shipped)
    facts = _chain(figures, seconds)
    write_text(demo.out / "chain.svg", chain_svg(facts, standalone=True) + "\n")
    sections = [
        page.Section("", [_picture(facts)]),
        page.Section("Listen", [page.clips(shown, ERROR_LEGEND)], _LISTEN),
        page.Section("Goals", [page.goals(goals(summary))], _REACHED),
        pretraining(demo, figures, corpus),
        bought(figures),
        student(figures, parts),
        page.Section("Lineage", [page.lineage(lineage_of(figures.student))], _LINEAGE, folded=True),
        commands(parts),
        data(figures),
    ]
    total = sum(figures.corpus["clips"].values())
    lead = Markup(
        "A small encoder is pretrained on raw speech in {} languages, fine-tuned to Italian with {:g} minutes of labels, and "
        "distilled into a student of <strong>{}</strong> that runs without a GPU and without PyTorch. Made from {} clips in "
        "<strong>{}</strong> on {}."
    ).format(
        len(figures.corpus["hours"]), summary["finetune"]["minutes_of_labels"], numbers.megabytes(summary["student"]["mb_int8"]),
        numbers.count(total), clock(sum(seconds.values())), machine(),
    )  # fmt: skip
    return page.Page(
        kicker="lalia demo", title="From raw voices to a recogniser on a laptop", lead=lead,
        verdict=verdict(summary, parts), next=[
            (f"lalia transcribe {demo.student} talk.mp3 --lm {demo.lm}", "transcribe a recording in Italian"),
            (f"lalia serve {demo.student} --lm {demo.lm}", "a web page to speak to it, and an API"),
        ],
        summary=page.tiles(tiles(figures)), sections=sections,
        footer=["This page is one file; the audio is inside it."],
    ).write(demo.out / "report.html")  # fmt: skip


def print_table(demo: Demo) -> None:
    """Print the figures on the terminal."""
    figures = Figures.load(demo)
    summary = figures.summary()
    console = Console()
    table = Table(title="Italian test clips", title_justify="left", caption_justify="left")
    for head in ("", "parameters", "size", "CER", "WER", "× real time"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=not head)
    for row in contender_rows(figures):
        table.add_row(*row)
    console.print()
    console.print(table)
    for goal in goals(summary):
        console.print(f"[green]met   [/] {goal.found}" if goal.met else f"[red]missed[/] {goal.found}", highlight=False)


def machine() -> str:
    """The processor, how many cores of it this process may use, and the system."""
    cores = "1 core" if CORES == 1 else f"{CORES} cores"
    return f"{cores} of {processor()}, {platform.system()}, Python {platform.python_version()}"


def _picture(facts: ChainFacts) -> Markup:
    return Markup('<figure class="chain"><div class="wide">{}</div><div class="tall">{}</div></figure>').format(
        chain_svg(facts), chain_svg(facts, tall=True)
    )


def _chain(figures: Figures, seconds: dict[str, float]) -> ChainFacts:
    summary = figures.summary()
    pretrain, finetune = summary["pretrain"], summary["finetune"]
    hours = {NAMES.get(code, code): sum(splits.values()) for code, splits in figures.corpus["hours"].items()}
    encoder = figures.pretrain.card or {}
    arm = figures.chosen("pretrained")
    int8 = figures.contenders[2]
    words = [word for clip in arm.scores["clips"] for word in clip["reference"].split() if len(word) == 6]
    return ChainFacts(
        hours=hours,
        target=NAMES["ita"],
        encoder=[
            f"{numbers.count(encoder.get('parameters', 0))} parameters",
            f"contrastive accuracy {numbers.percent(pretrain['accuracy'], 0)}",
            f"(chance {numbers.percent(pretrain['chance'], 0)})",
        ],
        recogniser=[
            f"{finetune['minutes_of_labels']:.0f} minutes of Italian labels",
            f"CER {numbers.percent(finetune['cer_pretrained'])}",
            f"(from random weights {numbers.percent(finetune['cer_random'])})",
        ],
        student=[
            f"{numbers.count(int8.parameters)} parameters, {numbers.megabytes(int8.mb)}",
            f"WER {numbers.percent(int8.wer, 0)}, with an LM {numbers.percent(figures.spoken.wer, 0)}",
            f"{numbers.times(1 / int8.rtf)} real time on one thread",
        ],
        word=words[0] if words else "lalia",
        arrows=[
            ("mask and predict", _duration(seconds.get("pretrain"))),
            ("train with CTC", _duration(seconds.get(arm.run.folder.name))),
            ("distil, quantize", _duration(seconds.get("distill", 0) + seconds.get("export", 0))),
        ],
    )


def _duration(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"


def _clips(demo: Demo, corpus: Corpus, student: Student) -> list[ShownClip]:
    from benchmarks.demo.run import chosen_clips

    shown, decoder = [], make_decoder(student, demo.lm)
    for row in chosen_clips(corpus):
        wave = corpus.wave(row)
        reference = student.normaliser(corpus.text(row))
        hypothesis = student.normaliser(student.transcribe(wave, corpus.id(row)).text)
        searched = student.normaliser(
            student.transcribe(wave, corpus.id(row), options=TranscribeOptions(decoder=decoder)).text
        )
        said, greedy_marks = mark_errors(reference, hypothesis)
        texts = [
            ("reference", said),
            (f"student alone · {_rates(reference, hypothesis)}", greedy_marks),
            (f"with the language model · {_rates(reference, searched)}", mark_errors(reference, searched)[1]),
        ]
        shown.append(ShownClip(corpus.id(row), texts, make_player(corpus.id(row), wave)))
    return shown


def _rates(reference: str, hypothesis: str) -> str:
    letters, words = character_errors(reference, hypothesis).rate, word_errors(reference, hypothesis).rate
    return f"CER {numbers.percent(letters, 0)}, WER {numbers.percent(words, 0)}"
