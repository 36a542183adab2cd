"""Pages in a real browser: none is wider than a phone, labels can be read, commands are copied, folds open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from lalia.data.corpus import Corpus
from lalia.report import corpus_page, page
from lalia.report.charts import Bar, Level, Line, bar_chart, heat_chart, histogram, line_chart, profile_chart
from lalia.report.run_page import write_run_report
from lalia.scoring.evaluation import ClipInfo
from tests.browser import BROWSER, opened
from tests.report.test_correction_page import COMMAND, ITALIAN, write_pages
from tests.report.test_correction_page import clip as doubtful_clip
from tests.report.test_evaluation import clip, write
from tests.report.test_run import finetuning
from tests.tiny_corpus import make_corpus

WIDTH, SMALLEST_PX = 390, 8.5
LONG = "an-uncommonly-long-name-without-any-place-to-break-it-as-people-give-them-to-folders"


def too_wide(pages: Sequence[Path], folder: Path, width: int = WIDTH) -> dict[str, str]:
    """What is wrong with each page in a window of ``width`` pixels, everything unfolded; empty if nothing is."""
    wrong = {}
    with opened(pages[0].as_uri(), folder) as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
        for path in pages:
            tab.call("Page.navigate", url=path.as_uri())
            tab.wait(f"document.readyState === 'complete' && location.href === '{path.as_uri()}'")
            tab.value("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
            found = tab.value(
                "JSON.stringify([document.documentElement.scrollWidth > innerWidth ? document.documentElement.scrollWidth : 0,"
                "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
                "['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX) && "
                "getComputedStyle(e).position !== 'absolute').map(e => e.className || e.tagName),"
                "[...document.querySelectorAll('figure:not(.chain) svg text')].filter(e => "
                f"e.getBoundingClientRect().height < {SMALLEST_PX}).map(e => e.textContent)])"
            )
            if found != "[0,[],[]]":
                wrong[path.name] = found
    return wrong


def every_chart() -> list[object]:
    x = list(range(40))
    values = np.random.default_rng(0).normal(20, 5, 200)
    return [
        line_chart(
            "Loss", [Line("training", x, [1e4 + n for n in x]), Line("held out", x, x)], [Level(2.0, "chance 0.0196")]
        ),
        bar_chart(
            "Errors", [Bar(LONG, 0.2, (0.1, 0.3)), Bar("b", 0.4, text="1,234 of 5,678")], level=Level(0.3, "goal")
        ),
        profile_chart("Codes", [Line("codebook 1", range(4), [0.4, 0.3, 0.2, 0.1])], Level(0.25, "uniform use")),
        histogram("SNR, dB", np.concatenate([values, [900.0]])),
        heat_chart("Codes in use", np.full((8, 5), 0.125), [1, 2, 3, 4, 5]),
    ]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_no_page_is_wider_than_a_phone(tmp_path: Path) -> None:
    heard = [replace(clip(n, "bad cab", "bad ace", language=("ita", "rus")[n % 2]), greedy="bad") for n in range(12)]
    write(
        tmp_path / "evaluation.html",
        heard,
        {str(n): ClipInfo(LONG + str(n), 30.0) for n in range(12)},
        lm=f"lms/{LONG}",
    )
    write_pages(tmp_path / "corrections.html", LONG, [doubtful_clip(n) for n in range(3)], ITALIAN, COMMAND)
    corpus_page.write_page(Corpus.load(make_corpus(tmp_path / LONG, 12)), tmp_path / "corpus.html")
    run = finetuning(tmp_path / "run")
    write_run_report(run).rename(tmp_path / "run.html")
    finding = page.ShownFinding("bad", "fix first", "encoding", LONG, LONG, [(LONG, Markup(LONG))])
    page.Page(
        "all blocks", LONG, LONG, page.Verdict(LONG, LONG), [(f"lalia transcribe {LONG} {LONG}.mp3", LONG)],
        page.tiles([page.Tile(LONG, LONG, LONG)]),
        [
            page.Section(LONG, [page.figures(every_chart()), page.fold("more", [page.figures(every_chart())])], LONG),
            page.Section("a", [page.table(["name", "CER", LONG], [[LONG, "1.0", LONG]] * 2, aside=LONG)], folded=True),
            page.Section("b", [page.goals([page.Goal(True, LONG, LONG)]), page.findings([finding])]),
            page.Section("c", [page.commands([(LONG, LONG)]), page.settings([("run", [("out", LONG, LONG)])])]),
        ],
    ).write(tmp_path / "blocks.html")  # fmt: skip
    assert not too_wide(sorted(tmp_path.glob("*.html")), tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_commands_are_copied_and_the_contents_open_what_is_folded(tmp_path: Path) -> None:
    sections = [page.Section(title, [Markup("<p>x</p>")], folded=title == "c") for title in ("a", "b", "c")]
    made = page.Page("run", "it", next=[("lalia transcribe 'a b'", "go on")], sections=sections)
    with opened(made.write(tmp_path / "page.html").as_uri(), tmp_path) as tab:
        tab.value("document.querySelector('.copy').click()")
        tab.wait("document.querySelector('.copy').textContent === 'copied'")
        tab.value("addEventListener('paste', e => { document.title = e.clipboardData.getData('text'); })")
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="v", commands=["paste"])
        assert tab.wait("document.title !== 'it · run' && document.title") == "lalia transcribe 'a b'"
        assert not tab.value("document.querySelector('details').open")
        tab.value("document.querySelector('.contents a:last-child').click()")
        assert tab.value("document.querySelector('details').open && location.hash") == "#s3"
        assert not tab.said
