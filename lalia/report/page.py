"""Build self-contained HTML pages: sections, tables, lineage, audio players and marked transcription errors.

Style, charts and audio are inside the file; it loads nothing and follows the reader's light or dark theme.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lalia import __version__
from lalia.audio.encoding import mp3_bytes
from lalia.cards import NAME, read_card, write_text
from lalia.report import numbers
from lalia.scoring.rates import character_errors
from lalia.text.edit_distance import alignment
from lalia.units import clock, plural, to_seconds

# --- One self-contained HTML page ------------------------------------------------------------------------

_HERE = Path(__file__).parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_BLOCKS: Any = _ENVIRONMENT.get_template("blocks.html").module
_POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""The content security policy: no address is loaded, and no other script runs, whatever the texts on the page hold."""


@dataclass
class Section:
    """A heading, a sentence or two, and blocks made by the functions below."""

    title: str
    blocks: list[Markup]
    intro: str | Markup = ""
    folded: bool = False
    """closed until the reader opens it"""


@dataclass(frozen=True)
class Verdict:
    """The result of the page in a few words (``title``) and its reason (``text``)."""

    title: str
    text: str = ""
    kind: Literal["", "good", "bad"] = ""


@dataclass
class Page:
    """The contents of a page from top to bottom. Plain strings are escaped, ``Markup`` is not."""

    kicker: str
    title: str
    lead: str | Markup = ""
    verdict: Verdict | None = None
    next: Sequence[tuple[str, str]] = ()
    """(command to type next, what it is for)"""
    summary: Markup = field(default_factory=Markup)
    sections: list[Section] = field(default_factory=list)
    footer: list[str | Markup] = field(default_factory=list)
    assets: Sequence[str] = ()
    """more files of this folder (``.css`` or ``.js``) to put into the page"""

    def html(self) -> str:
        css, script = (
            Markup("").join(
                Markup((_HERE / name).read_text(encoding="utf-8"))
                for name in (first, *self.assets)
                if name.endswith(Path(first).suffix)
            )
            for first in ("page.css", "page.js")
        )
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return _ENVIRONMENT.get_template("page.html").render(
            page=self, css=css, script=script, policy=Markup(_POLICY.format(digest)), version=__version__,
            commands=commands,
        )  # fmt: skip

    def write(self, path: Path) -> Path:
        """Write the page to ``path`` atomically."""
        write_text(path, self.html())
        return path


@dataclass(frozen=True)
class Tile:
    """One key figure in large type; ``verdict`` colours it."""

    value: str
    label: str
    note: str = ""
    verdict: str = ""
    """"" | good | bad"""


@dataclass(frozen=True)
class Goal:
    """A goal in plain words, and the result."""

    met: bool
    goal: str
    found: str


@dataclass(frozen=True)
class ShownFinding:
    """A problem with its severity, its remedy and examples."""

    kind: Literal["bad", "warning", ""]
    severity: str
    topic: str
    what: str
    fix: str = ""
    examples: Sequence[tuple[str, Markup]] = ()
    """(name of the clip, its text)"""


def tiles(items: Sequence[Tile]) -> Markup:
    return Markup(_BLOCKS.tiles(items))


def figures(items: Sequence[Any]) -> Markup:
    """Charts (``lalia.report.charts.Chart``) side by side, or stacked in a narrow window."""
    return Markup(_BLOCKS.figures(items))


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | Markup]], chosen: int = -1, aside: str | Markup = ""
) -> Markup:
    """A table, which becomes a card per row in a narrow window. Columns of numbers are aligned to the right.

    Row ``chosen`` is shaded; ``aside`` is a note below it.
    """
    right = [number > 0 and _of_numbers([row[number] for row in rows]) for number in range(len(head))]
    return Markup(_BLOCKS.table(head, rows, right, chosen, aside))


_NUMBER = re.compile(r"[<>+±×−–-]?\s?\d.{0,19}|–|✓|")


def _of_numbers(cells: Sequence[str | Markup]) -> bool:
    """Whether ``cells`` are numbers, perhaps with units or intervals; empty ones and dashes count as such."""
    return any(cells) and all(_NUMBER.fullmatch(str(cell)) for cell in cells)


def bars(items: Sequence[Any], level: str = "", level_at: float = 0.0) -> Markup:
    """Horizontal bars (``lalia.report.charts.DrawnBar``), with a reference line at ``level_at`` percent named ``level``."""
    return Markup(_BLOCKS.bars(items, level, level_at))


def commands(items: Sequence[tuple[str, str]]) -> Markup:
    """(command, note) pairs, each with a button that copies the command."""
    return Markup(_BLOCKS.commands(items))


def fold(title: str, blocks: Sequence[Markup]) -> Markup:
    """``blocks`` behind a line that opens them."""
    return Markup(_BLOCKS.fold(title, blocks))


def goals(items: Sequence[Goal]) -> Markup:
    return Markup(_BLOCKS.goals(items))


def findings(items: Sequence[ShownFinding]) -> Markup:
    return Markup(_BLOCKS.findings(items))


def clips(items: Sequence[Any], key: Markup) -> Markup:
    """Clips (``lalia.report.page.ShownClip``) with their texts; ``key`` is the legend of the colours."""
    return Markup(_BLOCKS.clips(items, key))


def corrections(items: Sequence[Any], key: Markup, storage: str) -> Markup:
    """Clips to correct (``lalia.report.correction_page``); ``storage`` names their decisions in the browser's storage."""
    return Markup(_BLOCKS.corrections(items, key, storage))


def settings(groups: Sequence[tuple[str, Sequence[tuple[str, str, str | None]]]]) -> Markup:
    """Settings by section: (name, value, default or None)."""
    return Markup(_BLOCKS.settings(groups))


def lineage(node: Any) -> Markup:
    """A card and its parents (``lalia.report.page.Node``) as a tree."""
    return Markup(_BLOCKS.lineage(node))


# --- Lineage ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """One model or corpus in the lineage of another."""

    kind: str
    id: str
    """the start of its content hash"""
    facts: str
    parents: list[Node] = field(default_factory=list)


def lineage_of(card: dict[str, Any]) -> Node:
    """The lineage of ``card`` as a tree. A parent that is also an ancestor of another parent is only listed there."""
    parents = card.get("parents", [])
    deeper = {id for parent in parents for id in _ids_behind(parent)}
    kept = [lineage_of(parent) for parent in parents if parent.get("id") not in deeper]
    return Node(card["kind"], short_hash(card.get("id", "")), describe(card), kept)


def product_card(run: Path) -> dict[str, Any] | None:
    """The card of the model that ``run`` made, or None if it has not made one yet."""
    for name in ("student", "recogniser", "encoder"):
        if (run / name / NAME).is_file():
            return read_card(run / name)
    return None


def short_hash(id: str) -> str:
    return id.removeprefix("sha256:")[:10]


def describe(card: dict[str, Any]) -> str:
    """The facts of ``card`` in one line."""
    facts = _corpus_facts(card) if card["kind"] == "corpus" else _model_facts(card)
    return " · ".join(facts)


def total_hours(card: dict[str, Any]) -> float:
    """Hours of audio in a corpus, all languages and splits."""
    return float(sum(sum(splits.values()) for splits in card.get("hours", {}).values()))


_LABELS_MADE = {"alignment": "labels by alignment", "pseudo_labels": "pseudo-labels"}
"""How labels that nobody transcribed were made, by the fact on the card."""


def _corpus_facts(card: dict[str, Any]) -> list[str]:
    facts = [str(card.get("source", ""))] if card.get("source") else []
    facts += [kind for fact, kind in _LABELS_MADE.items() if fact in card]
    if card.get("clips"):
        facts.append(f"{numbers.count(sum(card['clips'].values()))} clips")
    if card.get("hours"):
        facts += [numbers.hours(total_hours(card)), ", ".join(card["hours"])]
    return facts + list(card.get("licences", []))


def _model_facts(card: dict[str, Any]) -> list[str]:
    facts = [f"{numbers.count(card['parameters'])} parameters"] if "parameters" in card else []
    if made := card.get("pretraining"):
        facts.append(
            f"pretrained on {numbers.hours(made['hours'])}: accuracy {made['accuracy']:.3f} where chance is "
            f"{made['chance']:.4f}, code perplexity {made['code_perplexity']:.0f} of {made['codes']}"
        )
    # Converted recognisers have fewer facts.
    if (made := card.get("finetuning")) and {"start", "minutes_of_labels", "test_cer"} <= set(made):
        facts.append(
            f"fine-tuned from {made['start']} weights on {made['minutes_of_labels']:g}{numbers.THIN}min of labels: "
            f"test CER {numbers.percent(made['test_cer'])}"
        )
    if made := card.get("distillation"):
        facts.append(f"distilled in {made['steps']:,} steps: test CER {numbers.percent(made['test_cer'])}")
    if card["kind"] == "student":
        facts.append(f"{numbers.megabytes(card['bytes'] / 1e6)} of ONNX" if "bytes" in card else "ONNX")
    return facts


def _ids_behind(card: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for parent in card.get("parents", []):
        found |= {parent.get("id", "")} | _ids_behind(parent)
    return found


# --- Audio players ---------------------------------------------------------------------------------------

COLUMNS = 110


@dataclass(frozen=True)
class Player:
    """The audio player of a clip."""

    id: str
    length: str
    audio: str
    """the audio as a ``data:`` URL"""
    outline: str
    """the wave's loudness as an SVG path, ``outline_width`` wide and 2 high"""
    outline_width: int = COLUMNS


@dataclass(frozen=True)
class ShownClip:
    """A clip with (label, text) pairs, and a player if its audio is available."""

    id: str
    texts: list[tuple[str, Markup]]
    clip: Player | None = None


def make_player(id: str, wave: np.ndarray) -> Player:
    """The player of ``wave`` (samples,), 16 kHz."""
    data = base64.b64encode(mp3_bytes(wave)).decode()
    seconds = to_seconds(len(wave))
    length = f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
    return Player(id, length, f"data:audio/mpeg;base64,{data}", _outline(wave))


def _outline(wave: np.ndarray) -> str:
    """An SVG path of ``COLUMNS`` bars around the middle line; the height is the peak of each part."""
    edges = np.linspace(0, len(wave), COLUMNS + 1).astype(int)
    peaks = np.array([np.abs(wave[a:b]).max(initial=0.0) for a, b in pairwise(edges)])
    # The square root keeps quiet consonants visible beside loud vowels.
    heights = np.maximum(np.sqrt(peaks / max(float(peaks.max()), 1e-6)), 0.03)
    return "".join(f"M{i + 0.2:g} {1 - h:.2f}h.6v{2 * h:.2f}h-.6z" for i, h in enumerate(heights.tolist()))


# --- Reference and hypothesis with marked errors ---------------------------------------------------------

ERROR_LEGEND = Markup(
    '<span><mark class="gone">deletion</mark> only in the reference</span>'
    '<span><mark class="other">substitution</mark> another letter</span>'
    '<span><mark class="extra">insertion</mark> only in the hypothesis</span>'
)
"""The legend of the colours; each also has its own underline, for colour-blind readers."""

_CLASSES = {"deletion": ("gone", ""), "substitution": ("other", "other"), "insertion": ("", "extra"), "equal": ("", "")}


def mark_errors(reference: str, hypothesis: str) -> tuple[Markup, Markup]:
    """(reference, hypothesis) as HTML, aligned letter by letter, with the errors marked."""
    left: list[tuple[str, str]] = []
    right: list[tuple[str, str]] = []
    for edit in alignment(reference, hypothesis, unit="character"):
        in_reference, in_hypothesis = _CLASSES[edit.kind]
        left.append((in_reference, edit.reference))
        right.append((in_hypothesis, edit.hypothesis))
    return _spans(left), _spans(right)


def _spans(letters: list[tuple[str, str]]) -> Markup:
    letters = [(name, text) for name, text in letters if text]
    if not letters:
        return Markup('<span class="nothing">nothing</span>')
    out = Markup()
    for name, run in groupby(letters, key=lambda letter: letter[0]):
        text = escape("".join(letter for _, letter in run))
        # A no-break space, because HTML collapses a marked space at the end of a line.
        out += Markup('<mark class="{}">{}</mark>').format(name, text.replace(" ", "\u00a0")) if name else text
    return out


# --- Clips of an evaluation ------------------------------------------------------------------------------

SHOWN = 5
"""Clips of each kind."""
ScoredClip = tuple[str, str, str]
"""(id, reference, hypothesis) of a clip; both texts are normalised."""


def clips_section(
    scored: Sequence[ScoredClip],
    wave: Callable[[str], np.ndarray | None],
    intro: str,
    title: str = "Test clips",
    name: str = "hypothesis",
    other: tuple[str, Mapping[str, str]] = ("", {}),
) -> Section:
    """The worst and the median clips of ``scored`` by CER; ``wave`` returns a clip's wave or None.

    ``name`` says whose hypotheses they are; ``other`` has the name and the hypotheses, by id, of another recogniser or decoder.
    """
    ranked = sorted(scored, key=lambda clip: -character_errors(clip[1], clip[2]).rate)
    middle = max(0, len(ranked) // 2 - SHOWN // 2)
    chosen = [("Worst", ranked[:SHOWN])]
    if len(ranked) > 2 * SHOWN:
        chosen.append(("In the middle", ranked[middle : middle + SHOWN]))
    blocks: list[Markup] = []
    for heading, some in chosen:
        shown = []
        for id, reference, hypothesis in some:
            texts = {name: hypothesis} | ({other[0]: other[1][id]} if id in other[1] else {})
            shown.append(_shown(id, reference, texts, wave(id)))
        blocks += [Markup("<h3>{}</h3>").format(heading), clips(shown, ERROR_LEGEND if not blocks else Markup())]
    return Section(title, blocks, intro)


def _shown(id: str, reference: str, hypotheses: Mapping[str, str], wave: np.ndarray | None) -> ShownClip:
    texts = []
    marked_reference = Markup()
    for name, hypothesis in hypotheses.items():
        marks, marked = mark_errors(reference, hypothesis)
        marked_reference = marked_reference or marks  # as the first hypothesis has it
        cer = numbers.percent(character_errors(reference, hypothesis).rate, 0)
        texts.append((f"{name}, CER {cer}", marked))
    return ShownClip(id, [("reference", marked_reference), *texts], make_player(id, wave) if wave is not None else None)


# --- Verdicts --------------------------------------------------------------------------------------------

FEW_ERRORS, READABLE, RECOGNISABLE = 0.1, 0.3, 0.35
"""Highest WER of a text with few errors and of a readable text, and highest CER of recognisable words."""


def score_verdict(scores: Mapping[str, Any], clips: int) -> Verdict:
    """What error rates mean for a reader; ``scores`` has cer and wer (shares) and cer_interval."""
    cer, wer = scores["cer"], scores["wer"]
    text = f"CER {numbers.percent(cer)} (95 % CI {numbers.interval(scores['cer_interval'])}), WER {numbers.percent(wer)} on "
    text += f"{plural(clips, 'clip')}."
    if wer <= FEW_ERRORS:
        return Verdict("Few errors.", text, "good")
    if wer <= READABLE:
        return Verdict("Readable, with errors.", text, "good")
    if cer <= RECOGNISABLE:
        return Verdict("Most letters are right, many words are not.", text)
    return Verdict("Not usable yet.", text, "bad")
