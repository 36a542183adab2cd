"""The demo's page: the chain as a picture, what was to be reached and what was, curves, a table, and clips to hear."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from benchmarks import demo_sections
from benchmarks.demo_chain import ChainFacts, chain_svg
from benchmarks.demo_figures import Figures, goals, parts_of
from benchmarks.demo_sections import NAMES
from lalia.cards import write_json, write_text
from lalia.data.corpus import Corpus
from lalia.machine import processor
from lalia.report import formats, page
from lalia.report.errors import KEY, marked
from lalia.report.lineage import lineage_of
from lalia.report.players import ShownClip, make_player
from lalia.runtime.decoders import make_decoder
from lalia.runtime.student import Student
from lalia.scoring.rates import character_errors, word_errors
from lalia.units import clock

if TYPE_CHECKING:
    from benchmarks.demo import Demo

# Counted on import: once torch has run, this thread may be bound to one of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

_REACHED = "Measured by this very run, on clips that no stage has heard."
_LISTEN = (
    "Ten Italian clips of the test split, chosen by a hash of their names: what was said, the letters that the int8 student "
    "writes alone, and its words with the language model of the training labels."
)
_LINEAGE = "What the student is made of, back to the raw audio, by the first letters of each content's hash."


def write_report(demo: Demo) -> Path:
    """Write ``OUT/report.html``, ``OUT/summary.json`` and the chain alone as ``OUT/chain.svg``; returns the page's path."""
    figures, parts = Figures.load(demo), parts_of(demo.out)
    seconds = {part.name: part.seconds for part in parts}
    summary = figures.summary()
    write_json(demo.out / "summary.json", summary)
    corpus = Corpus.load(demo.corpus)
    student = Student.load(demo.student, threads=1)
    shown = _clips(demo, corpus, student)
    facts = _chain(figures, seconds)
    write_text(demo.out / "chain.svg", chain_svg(facts, standalone=True) + "\n")
    sections = [
        page.Section("", [_picture(facts)]),
        page.Section("What was to be reached", [page.goals(goals(summary))], _REACHED),
        demo_sections.pretraining(demo, figures, corpus),
        demo_sections.bought(figures),
        demo_sections.student(figures, parts),
        page.Section("Listen", [page.clips(shown, KEY)], _LISTEN),
        page.Section("Lineage", [page.lineage(lineage_of(figures.student))], _LINEAGE),
        demo_sections.commands(parts),
        demo_sections.data(figures),
    ]
    total = sum(figures.corpus["clips"].values())
    lead = Markup(
        "A small encoder listens to raw speech in {} languages, learns to write Italian from {:g} minutes of labels, and hands "
        "what it knows to a student of <strong>{}</strong> that runs without a GPU and without PyTorch. Made from {} clips in "
        "<strong>{}</strong> on {}."
    ).format(
        len(figures.corpus["hours"]), summary["finetune"]["minutes_of_labels"], formats.megabytes(summary["student"]["mb_int8"]),
        formats.count(total), clock(sum(seconds.values())), machine(),
    )  # fmt: skip
    return page.Page(
        kicker="lalia demo", title="From raw voices to a recogniser on a laptop", lead=lead, sections=sections,
        footer=["Everything on this page, sound included, is inside this one file."],
    ).write(demo.out / "report.html")  # fmt: skip


def print_table(demo: Demo) -> None:
    """The figures on the terminal."""
    figures = Figures.load(demo)
    summary = figures.summary()
    console = Console()
    table = Table(title="Italian test clips", title_justify="left", caption_justify="left")
    for head in ("", "parameters", "size", "CER", "WER", "× real time"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=not head)
    for row in demo_sections.contender_rows(figures):
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
            f"{formats.count(encoder.get('parameters', 0))} parameters",
            f"contrastive accuracy {formats.percent(pretrain['accuracy'], 0)}",
            f"(chance {formats.percent(pretrain['chance'], 0)})",
        ],
        recogniser=[
            f"{finetune['minutes_of_labels']:.0f} minutes of Italian labels",
            f"CER {formats.percent(finetune['cer_pretrained'])}",
            f"(from random weights {formats.percent(finetune['cer_random'])})",
        ],
        student=[
            f"{formats.count(int8.parameters)} parameters, {formats.megabytes(int8.mb)}",
            f"WER {formats.percent(int8.wer, 0)}, with an LM {formats.percent(figures.spoken.wer, 0)}",
            f"{formats.times(1 / int8.rtf)} real time on one thread",
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
    from benchmarks.demo import chosen_clips

    shown, decoder = [], make_decoder(student, demo.lm)
    for row in chosen_clips(corpus):
        wave = corpus.wave(row)
        reference = student.normaliser(corpus.text(row))
        hypothesis = student.normaliser(student.transcribe(wave, corpus.id(row)).text)
        searched = student.normaliser(student.transcribe(wave, corpus.id(row), decoder=decoder).text)
        said, heard = marked(reference, hypothesis)
        texts = [
            ("said", said),
            (f"student alone · {_rates(reference, hypothesis)}", heard),
            (f"with the language model · {_rates(reference, searched)}", marked(reference, searched)[1]),
        ]
        shown.append(ShownClip(corpus.id(row), texts, make_player(corpus.id(row), wave)))
    return shown


def _rates(reference: str, hypothesis: str) -> str:
    letters, words = character_errors(reference, hypothesis).rate, word_errors(reference, hypothesis).rate
    return f"CER {formats.percent(letters, 0)}, WER {formats.percent(words, 0)}"
