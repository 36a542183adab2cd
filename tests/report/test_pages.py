"""Pages: self-contained, escaped, in both colour schemes; charts, players and errors as a reader meets them."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from lalia.audio.reading import read_audio
from lalia.report import numbers, page
from lalia.report.charts import (
    Bar,
    Level,
    Line,
    bar_chart,
    histogram,
    line_chart,
    moving_average,
    profile_chart,
    usual_range,
)
from lalia.report.page import ERROR_LEGEND, ShownClip, lineage_of, make_player, mark_errors


class _Balance(HTMLParser):
    """Collects tags that are closed without being open, or left open."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def check_page(html: str) -> _Balance:
    """Every tag is closed and nothing is fetched: addresses are data, places in the page, or links to be clicked."""
    found = _Balance()
    found.feed(html)
    assert not found.wrong and not found.open
    fetched = [a for a in found.addresses if not a.startswith(("data:", "#", "https://creativecommons.org/"))]
    assert not fetched
    assert "@import" not in html and "url(http" not in html
    return found


def tone(seconds: float) -> np.ndarray:
    t = np.arange(int(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def test_a_page_holds_everything_it_shows() -> None:
    chart = line_chart("Loss", [Line("a", [0, 1, 2], [3.0, 2.0, 1.0])], [Level(2.0, "half")])
    clip = ShownClip("clip/1", [("said", Markup("a"))], make_player("clip/1", tone(0.5)))
    made = page.Page(
        kicker="a run",
        title="runs/<x>",
        lead="1 < 2 & 3",
        summary=page.tiles([page.Tile("31 %", "accuracy", "chance 2 %", "good")]),
        sections=[
            page.Section("Curves", [page.figures([chart])]),
            page.Section("Clips", [page.clips([clip], ERROR_LEGEND)]),
            page.Section("Goals", [page.goals([page.Goal(False, "be quick", "was slow")])]),
            page.Section("Numbers", [page.table(["a", "b"], [["x", "1"]], chosen=0, aside="so it is")]),
        ],
        footer=["the end"],
    ).html()
    check_page(made)
    assert "runs/&lt;x&gt;" in made and "1 &lt; 2 &amp; 3" in made
    assert "prefers-color-scheme: dark" in made
    assert "✗ missed" in made


def test_a_page_begins_with_its_verdict_and_the_next_command() -> None:
    sections = [page.Section(title, [Markup("<p>x</p>")], folded=title == "c") for title in ("a", "b", "c")]
    made = page.Page(
        "run", "it", verdict=page.Verdict("Collapsed.", "Only <3> codes.", "bad"), next=[("lalia x 'a b' <c>", "go on")],
        sections=sections,
    ).html()  # fmt: skip
    check_page(made)
    assert (
        made.index("Only &lt;3&gt; codes.")
        < made.index("go on")
        < made.index('class="contents"')
        < made.index("<main>")
    )
    assert "<code>lalia x &#39;a b&#39; &lt;c&gt;</code>" in made and made.count('class="copy"') == 1
    assert re.findall(r'<a href="#(s\d)">(\w)</a>', made) == [("s1", "a"), ("s2", "b"), ("s3", "c")]
    assert made.count("<details>") == 1 and made.index('id="s3"') < made.index("<details>")
    few = page.Page("run", "it", sections=sections[:2]).html()
    assert 'class="contents"' not in few and 'class="verdict' not in few and 'class="next"' not in few


def test_columns_of_numbers_are_aligned_right_and_cells_keep_their_heading() -> None:
    rows = [["a 1", "1.5\u202f%", "3 words", "–"], ["b", "", "none at all", "12 to 20"]]
    table = page.table(["name", "CER", "note", "95 % CI"], rows)
    assert [name for name in ("name", "CER", "note", "95 % CI") if f'<td class="n" data-label="{name}">' in table] == [
        "CER", "95 % CI",
    ]  # fmt: skip
    assert table.count('data-label="note"') == 2


def test_bars_are_as_long_as_their_values_and_have_their_intervals() -> None:
    chart = bar_chart("CER", [Bar("<a>", 0.2, (0.1, 0.4)), Bar("b", 0.1)], level=Level(0.3, "goal"))
    assert (
        "width: 50.0%" in chart.drawing
        and "width: 25.0%" in chart.drawing
        and "left: 25.0%; width: 75.0%" in chart.drawing
    )
    assert "&lt;a&gt;" in chart.drawing and "dashed line: goal" in chart.drawing and 'left: 75.0%"' in chart.drawing


def test_verdicts_on_error_rates() -> None:
    titles = [
        page.score_verdict({"cer": cer, "wer": wer, "cer_interval": (cer, cer)}, 1).kind
        for cer, wer in ((0.02, 0.08), (0.1, 0.3), (0.3, 0.6), (0.5, 0.9))
    ]
    assert titles == ["good", "good", "", "bad"]


def test_charts_take_the_colours_of_the_page() -> None:
    charts = [
        line_chart(
            "Loss", [Line("rough", range(99), np.random.default_rng(0).random(99).tolist(), rough=True)], log=True
        ),
        bar_chart("Errors", [Bar("a", 0.2, (0.1, 0.3)), Bar("b", 0.4, colour="s2")], level=Level(0.3, "goal")),
        profile_chart("Codes", [Line("codebook 1", range(4), [0.4, 0.3, 0.2, 0.1])], Level(0.25, "alike")),
        histogram("SNR, dB", np.random.default_rng(0).normal(20, 5, 200)),
        histogram("one value", np.full(3, 7.0)),
    ]
    for chart in charts:
        assert "#0102" not in chart.drawing and "#0101" not in chart.drawing, "a stand-in for a colour is left"
        drawn = set(re.findall(r"#[0-9a-f]{6}\b", chart.drawing))
        assert not drawn, f"a colour that does not turn dark with the page: {drawn}"
        assert "var(--" in chart.drawing and "DejaVu" not in chart.drawing
    ids = [re.findall(r' id="([^"]+)"', chart.drawing) for chart in charts]
    assert len({i for some in ids for i in some}) == sum(map(len, ids)), "two charts of a page share an id"


def test_a_chart_reaches_to_its_levels() -> None:
    with_level = line_chart("Codes", [Line("a", [0, 1], [1.0, 2.0])], [Level(200.0, "all codes")])
    assert "all codes" in with_level.drawing and ">200<" in with_level.drawing


def test_a_histogram_counts_all_values_and_names_the_median() -> None:
    chart = histogram("length, s", np.concatenate([np.arange(100.0), [1e6]]), bins=10)
    assert chart.caption == "median 50; 1 clip above 225, the highest 1,000,000" and ">clips<" in chart.drawing
    assert "1e" not in chart.drawing and ">1000k<" not in chart.drawing, "an outlier stretches the axis"


def test_a_histogram_without_outliers_names_none() -> None:
    values = np.linspace(0, 10, 50)
    assert usual_range(values) == (0.0, 10.0) and histogram("x", values).legend == ()
    assert usual_range(np.array([3.0] * 7 + [9.0])) == (3.0, 3.0), "most are equal"


def test_moving_average_is_the_mean_of_what_stands_around() -> None:
    assert moving_average([2.0, 4.0, 6.0, 8.0], 3).tolist() == [3.0, 4.0, 6.0, 7.0]


def test_players_play_the_clip() -> None:
    wave = tone(1.0)
    player = make_player("a/b", wave)
    kind, _, data = player.audio.partition(",")
    assert kind == "data:audio/mpeg;base64"
    heard = read_audio(base64.b64decode(data), "clip.mp3")
    assert abs(len(heard) - len(wave)) < 0.1 * len(wave)
    assert player.length == "1.0 s"
    assert player.outline.count("M") == player.outline_width


@pytest.mark.parametrize(
    ("reference", "hypothesis", "said", "heard"),
    [
        ("ciao", "ciao", "ciao", "ciao"),
        ("ciao", "cia", 'cia<mark class="gone">o</mark>', "cia"),
        ("ciao", "cixo", 'ci<mark class="other">a</mark>o', 'ci<mark class="other">x</mark>o'),
        ("ciao", "ciaone", "ciao", 'ciao<mark class="extra">ne</mark>'),
        ("a b", "ab", 'a<mark class="gone">\u00a0</mark>b', "ab"),
        ("a<b", "", '<mark class="gone">a&lt;b</mark>', '<span class="nothing">nothing</span>'),
    ],
)
def test_errors_are_marked(reference: str, hypothesis: str, said: str, heard: str) -> None:
    assert mark_errors(reference, hypothesis) == (said, heard)


def test_lineage_shows_each_content_where_it_was_used_first() -> None:
    corpus = {"kind": "corpus", "id": "sha256:cc", "source": "demo", "parents": []}
    encoder = {"kind": "encoder", "id": "sha256:ee", "parameters": 2_000_000, "parents": [corpus]}
    recogniser = {"kind": "recogniser", "id": "sha256:rr", "parameters": 2_100_000, "parents": [corpus, encoder]}
    tree = lineage_of(recogniser)
    assert [node.kind for node in tree.parents] == ["encoder"]
    assert [node.kind for node in tree.parents[0].parents] == ["corpus"]
    html = page.lineage(tree)
    assert html.index("recogniser") < html.index("encoder") < html.index("corpus")


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        (numbers.percent(0.3381), "33.8 %"), (numbers.percent(None), "–"), (numbers.count(2_345_678), "2.35 M"),
        (numbers.count(612_345), "0.61 M"), (numbers.count(9_800), "9,800"), (numbers.megabytes(0.914), "0.91 MB"),
        (numbers.hours(0.5), "30 min"), (numbers.hours(12.34), "12.3 h"), (numbers.times(130.4), "130 ×"),
        (numbers.number(1.6), "1.6"), (numbers.number(7200), "7,200"), (numbers.number(2e-6), "2.00e-06"),
        (numbers.number(float("nan")), "–"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(spelled: str, text: str) -> None:
    assert spelled.replace(numbers.THIN, " ") == text
