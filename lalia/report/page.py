"""One self-contained HTML page: style, charts and sounds inside it, nothing fetched, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lalia import __version__
from lalia.cards import write_text

_HERE = Path(__file__).parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_BLOCKS: Any = _ENVIRONMENT.get_template("blocks.html").module


@dataclass
class Section:
    """A heading, a sentence or two, and blocks made by the functions below."""

    title: str
    blocks: list[Markup]
    intro: str | Markup = ""


@dataclass
class Page:
    """What stands on a page, from top to bottom. Plain strings are escaped, ``Markup`` is taken as it is."""

    kicker: str
    title: str
    lead: str | Markup = ""
    summary: Markup = field(default_factory=Markup)
    sections: list[Section] = field(default_factory=list)
    footer: list[str | Markup] = field(default_factory=list)

    def html(self) -> str:
        css = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
        return _ENVIRONMENT.get_template("page.html").render(page=self, css=css, version=__version__)

    def write(self, path: Path) -> Path:
        """Write the page to ``path`` atomically."""
        write_text(path, self.html())
        return path


@dataclass(frozen=True)
class Tile:
    """One number that matters, large; ``verdict`` colours it."""

    value: str
    label: str
    note: str = ""
    verdict: str = ""
    """"" | good | bad"""


@dataclass(frozen=True)
class Goal:
    """What was to be reached, in plain words, and what was found."""

    met: bool
    goal: str
    found: str


def tiles(items: Sequence[Tile]) -> Markup:
    return Markup(_BLOCKS.tiles(items))


def figures(items: Sequence[Any]) -> Markup:
    """Charts (``lalia.report.charts.Chart``) beside each other, under each other where the window is narrow."""
    return Markup(_BLOCKS.figures(items))


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | Markup]], chosen: int = -1, words: bool = False, aside: str = ""
) -> Markup:
    """A table; row ``chosen`` is shaded; ``words`` = cells of text instead of numbers; ``aside`` stands below it."""
    return Markup(_BLOCKS.table(head, rows, chosen, words, aside))


def goals(items: Sequence[Goal]) -> Markup:
    return Markup(_BLOCKS.goals(items))


def clips(items: Sequence[Any], key: Markup) -> Markup:
    """Clips (``lalia.report.players.ShownClip``) with their texts; ``key`` says what the colours mean."""
    return Markup(_BLOCKS.clips(items, key))


def settings(groups: Sequence[tuple[str, Sequence[tuple[str, str, str | None]]]]) -> Markup:
    """Settings by section: (name, value, default or None)."""
    return Markup(_BLOCKS.settings(groups))


def lineage(node: Any) -> Markup:
    """A card and its parents (``lalia.report.lineage.Node``) as a tree."""
    return Markup(_BLOCKS.lineage(node))
