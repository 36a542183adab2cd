"""The chain as a picture: raw audio, encoder, recogniser, student, with their figures; drawn as SVG in the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX_W, BOX_H, GAP_W, GAP_H = 238, 262, 62, 66
PAD = 18

# For the picture alone, outside of a page that defines the colours.
STANDALONE = """\
:root { --card: #ffffff; --ink: #1d1c1a; --muted: #6a665f; --faint: #a39e94; --line: #d9d4c9;
  --s1: #2166b0; --s2: #c4591b; --s3: #16826b }
@media (prefers-color-scheme: dark) { :root { --card: #1c1d1b; --ink: #ebe8e1; --muted: #a6a198; --faint: #757169;
  --line: #3a3b37; --s1: #6ba6e8; --s2: #ea9459; --s3: #57c0a3 } }
svg { --sans: Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
"""


@dataclass(frozen=True)
class ChainFacts:
    """What the picture says. Lines are short: about 34 letters fit into a box."""

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
    """what happens between two boxes, and how long it took; three of them"""


def chain_svg(facts: ChainFacts, tall: bool = False, standalone: bool = False) -> Markup:
    """The picture as an ``<svg>``: boxes beside each other, or below each other; ``standalone`` brings its own colours."""
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
