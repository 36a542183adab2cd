"""Draw charts for pages: curves and histograms as inline SVG, bars as HTML. Colours follow the page's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lalia.report import numbers, page
from lalia.units import plural

# Matplotlib has no CSS variables: it draws with these placeholder colours, which are replaced in the finished SVG.
_STAND_INS = {
    "ink": "#010101", "muted": "#010102", "faint": "#010103", "line": "#010104", "grid": "#010105", "card": "#010106",
    "s1": "#010201", "s2": "#010202", "s3": "#010203", "s4": "#010204", "s5": "#010205",
    "good": "#010301", "bad": "#010302",
}  # fmt: skip
SERIES = ("s1", "s2", "s3", "s4", "s5")

_STYLE = {
    "svg.fonttype": "none", "font.size": 9.5, "axes.edgecolor": _STAND_INS["line"], "axes.labelcolor": _STAND_INS["muted"],
    "axes.labelsize": 9.5, "text.color": _STAND_INS["muted"], "xtick.color": _STAND_INS["line"],
    "ytick.color": _STAND_INS["line"], "xtick.labelcolor": _STAND_INS["muted"], "ytick.labelcolor": _STAND_INS["muted"],
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "xtick.major.size": 0.0, "ytick.major.size": 0.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": _STAND_INS["grid"], "grid.linewidth": 0.8, "axes.axisbelow": True,
    "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round",
}  # fmt: skip
_HEAT = (0.30, 0.50, 0.82)
"""A blue that is visible on dark and light pages, because images inside an SVG cannot use CSS variables."""
_FULLEST = 8.0
"""A cell has full colour from this multiple of the uniform share on."""
_WIDTH_IN = 4.2
"""302 units, about as wide as a chart is on a phone and in three columns: its labels keep their size."""
_numbers = count(1)


@dataclass(frozen=True)
class Chart:
    """A drawn chart; ``legend`` has (label, colour) and is shown for two series or more."""

    title: str
    drawing: Markup
    """an ``<svg>``, or the bars in HTML"""
    caption: str | Markup = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Line:
    """One series. ``rough``: noisy values, drawn faint with their moving average; ``dots``: few values, drawn with markers."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "s1"
    rough: bool = False
    dots: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal reference line: chance, a target, the number of codes."""

    value: float
    label: str
    colour: str = "muted"


@dataclass(frozen=True)
class Band:
    """A reference range, filled behind the curves."""

    label: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str = "good"


@dataclass(frozen=True)
class Bar:
    """A value with the ends of its interval (None = no interval)."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    colour: str = "s1"
    text: str = ""
    """the label at its end; empty = the value"""


@dataclass(frozen=True)
class DrawnBar:
    """A bar as the page shows it: lengths in percent of the widest."""

    label: str
    text: str
    width: float
    interval: tuple[float, float] | None
    """its start and its length"""
    colour: str


def share(value: float) -> str:
    """An axis label for a share."""
    return f"{100 * value:g}{numbers.THIN}%"


def plain(value: float) -> str:
    """An axis label for a number: ``2k`` for thousands."""
    if abs(value) >= 10_000 or (abs(value) >= 1_000 and value % 100 == 0):
        return f"{value / 1000:g}k"
    return f"{value:g}"


def small(value: float) -> str:
    """An axis label for learning rates."""
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-") if value < 1e-3 else f"{value:g}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    levels: Sequence[Level] = (),
    caption: str | Markup = "",
    y_label: Callable[[float], str] = plain,
    x_name: str = "step",
    from_zero: bool = False,
    log: bool = False,
    height_in: float = 2.3,
    band: Band | None = None,
) -> Chart:
    """Curves over steps, with reference levels and a reference band."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(height_in)
        if band is not None:
            axes.fill_between(band.x, band.low, band.high, color=_STAND_INS[band.colour], alpha=0.18, lw=0)
        for line in lines:
            _draw(axes, line)
        if log:
            axes.set_yscale("log")
        axes.margins(x=0.02)
        low, high = axes.get_ylim()
        reach = [level.value for level in levels]
        if not log:
            low, high = min([low, *reach]), max([high, *reach])
            axes.set_ylim(0.0 if from_zero else low, high + 0.06 * (high - low))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        for level in levels:
            axes.axhline(level.value, color=_STAND_INS[level.colour], lw=1.1, ls=(0, (4, 3)))
            axes.annotate(
                level.label, (1.0, level.value), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", color=_STAND_INS[level.colour], size=9.5,
            )  # fmt: skip
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_label(value)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axes.set_xlabel(x_name, loc="right")
        svg = _svg(figure, title)
    named = [(line.label, line.colour) for line in lines] + ([(band.label, band.colour)] if band is not None else [])
    return Chart(title, svg, caption, tuple(named))


def bar_chart(
    title: str, bars: Sequence[Bar], caption: str | Markup = "", y_label: Callable[[float], str] = share,
    level: Level | None = None,
) -> Chart:  # fmt: skip
    """Horizontal bars from zero, each with its value and optionally its interval as a thin line."""
    reach = max(max(bar.value, *(bar.interval or (0.0,))) for bar in bars)
    reach = max(reach, level.value if level else 0.0, 1e-9)

    def percent(value: float) -> float:
        return round(100 * value / reach, 2)

    drawn = []
    for bar in bars:
        interval = None
        if bar.interval is not None:
            low, high = bar.interval
            interval = (percent(low), percent(high - low))
        drawn.append(DrawnBar(bar.label, bar.text or y_label(bar.value), percent(bar.value), interval, bar.colour))
    at = percent(level.value) if level else 0.0
    return Chart(title, page.bars(drawn, f"dashed line: {level.label}" if level else "", at), caption)


def profile_chart(
    title: str, profiles: Sequence[Line], level: Level | None = None, caption: str | Markup = "", x_name: str = "code"
) -> Chart:
    """Shares in descending order as filled steps: how evenly a codebook is used."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(2.3)
        for profile in profiles:
            axes.stairs(profile.y, color=_STAND_INS[profile.colour], lw=1.4, label=profile.label)
            axes.stairs(profile.y, color=_STAND_INS[profile.colour], alpha=0.16, fill=True, lw=0)
        if level is not None:
            axes.axhline(level.value, color=_STAND_INS[level.colour], lw=1.1, ls=(0, (4, 3)))
            axes.annotate(
                level.label, (1.0, level.value), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", color=_STAND_INS[level.colour], size=9.5,
            )  # fmt: skip
        axes.set_ylim(0)
        axes.margins(x=0.02)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: share(value)))
        axes.set_xlabel(x_name, loc="right")
        svg = _svg(figure, title)
    return Chart(title, svg, caption, tuple((profile.label, profile.colour) for profile in profiles))


FENCE = 3.0
"""Values this many interquartile ranges outside the quartiles are outliers (Tukey's outer fences)."""


def usual_range(values: np.ndarray) -> tuple[float, float]:
    """The range (low, high) of ``values`` (N,) without outliers. Where most values are equal, those are the range."""
    first, third = (float(edge) for edge in np.quantile(values, (0.25, 0.75)))
    reach = FENCE * (third - first)
    return max(float(values.min()), first - reach), min(float(values.max()), third + reach)


def histogram(title: str, values: np.ndarray, bins: int = 40) -> Chart:
    """A histogram of ``values`` (N,) of clips. Outliers are counted in the outermost bins, in another colour."""
    low, high = usual_range(values)
    below, above = int((values < low).sum()), int((values > high).sum())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    counts[0] -= below
    counts[-1] -= above
    width = float(edges[1] - edges[0])
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(1.9)
        axes.bar(edges[:-1], counts, width * 0.94, align="edge", color=_STAND_INS["s1"], lw=0)
        for count_outside, start in ((below, low - 3 * width), (above, high + width)):
            if count_outside:  # beside the others, wide enough to be seen
                height = max(count_outside, 0.02 * float(counts.max()))
                axes.bar([start], [height], 2 * width, align="edge", color=_STAND_INS["s2"], lw=0)
        axes.set_xlim(low - (4 * width if below else 0.0), high + (4 * width if above else 0.0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axes.set_ylabel("clips")
        svg = _svg(figure, title)
    caption = [f"median {numbers.number(float(np.median(values)))}", *describe_outliers(values)]
    return Chart(title, svg, "; ".join(caption), (("usual", "s1"), ("outliers", "s2")) if len(caption) > 1 else ())


def describe_outliers(values: np.ndarray) -> list[str]:
    """How many ``values`` (N,) of clips are outside the usual range on each side, and the furthest of them."""
    low, high = usual_range(values)
    below, above = int((values < low).sum()), int((values > high).sum())
    lowest, lower, upper, highest = map(numbers.number, (float(values.min()), low, high, float(values.max())))
    found = [f"{plural(below, 'clip')} below {lower}, the lowest {lowest}"] if below else []
    return found + ([f"{plural(above, 'clip')} above {upper}, the highest {highest}"] if above else [])


def heat_chart(title: str, shares_VL: np.ndarray, steps: Sequence[float], caption: str | Markup = "") -> Chart:
    """A heat map of the shares of V rows at L steps; each column adds up to 1."""
    V = len(shares_VL)
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):  # type: ignore[arg-type]
        figure, axes = _axes(2.3)
        cells = np.zeros((*shares_VL.shape, 4))
        cells[:, :, :3] = _HEAT
        cells[:, :, 3] = np.clip(np.log1p(shares_VL * V) / np.log1p(_FULLEST), 0.02, 1)
        edges = (0.0, float(steps[-1]), float(V), 0.0)
        axes.imshow(cells, aspect="auto", interpolation="nearest", extent=edges)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("step", loc="right")
        axes.set_ylabel("code")
        svg = _svg(figure, title)
    return Chart(title, svg, caption)


def moving_average(values: Sequence[float], span: int) -> np.ndarray:
    """The mean of each value and its neighbours up to ``span // 2`` away; fewer at the ends."""
    array = np.asarray(values, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    places, reach = np.arange(len(array)), span // 2
    starts, ends = np.maximum(0, places - reach), np.minimum(len(array), places + reach + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw(axes: Axes, line: Line) -> None:
    colour = _STAND_INS[line.colour]
    if line.rough and len(line.y) > 20:
        axes.plot(line.x, line.y, color=colour, lw=0.7, alpha=0.28)
        axes.plot(line.x, moving_average(line.y, max(3, len(line.y) // 30)), color=colour, lw=1.8)
        return
    few = line.dots and len(line.y) <= 16
    axes.plot(
        line.x, line.y, color=colour, lw=1.8, ls=(0, (4, 2)) if line.dashed else "-", marker="o" if few else "",
        ms=4.2, mec=_STAND_INS["card"], mew=1.0,
    )  # fmt: skip


def _axes(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an ``<svg>`` element whose ids are unique within a page."""
    out = io.StringIO()
    number = next(_numbers)
    with matplotlib.rc_context({"svg.hashsalt": f"{title}"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<(g|path) id="[a-z0-9]*[a-z]_\d+"', r"<\1", text)  # nothing refers to these
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>c{number}-", text)
    for name, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, f"var(--{name})")
    text = re.sub(r"(font(?:-family)?: ?[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--sans)", text)
    head = re.match(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', text)
    assert head is not None
    label = Markup.escape(title)
    return Markup(
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{head[1]}" role="img" aria-label="{label}">'
        + text[head.end() :].strip()
    )
