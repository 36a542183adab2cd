"""What was said and what was heard, with the differences coloured."""

from __future__ import annotations

from itertools import groupby

from markupsafe import Markup, escape

from lalia.scoring.rates import alignment

KEY = Markup(
    '<span><mark class="gone">missed</mark> said, not heard</span>'
    '<span><mark class="other">mistaken</mark> heard as another letter</span>'
    '<span><mark class="extra">invented</mark> heard, not said</span>'
)
"""The legend of the colours; each has its own underline as well, for who sees colours alike."""

_CLASSES = {"deletion": ("gone", ""), "substitution": ("other", "other"), "insertion": ("", "extra"), "equal": ("", "")}


def marked(reference: str, hypothesis: str) -> tuple[Markup, Markup]:
    """(reference, hypothesis) as HTML, letters that differ marked; aligned letter by letter."""
    said: list[tuple[str, str]] = []
    heard: list[tuple[str, str]] = []
    for edit in alignment(reference, hypothesis, unit="character"):
        in_reference, in_hypothesis = _CLASSES[edit.kind]
        said.append((in_reference, edit.reference))
        heard.append((in_hypothesis, edit.hypothesis))
    return _spans(said), _spans(heard)


def _spans(letters: list[tuple[str, str]]) -> Markup:
    letters = [(name, text) for name, text in letters if text]
    if not letters:
        return Markup('<span class="nothing">nothing</span>')
    out = Markup()
    for name, run in groupby(letters, key=lambda letter: letter[0]):
        text = escape("".join(letter for _, letter in run))
        # A marked space is seen only where it has a width that does not collapse.
        out += Markup('<mark class="{}">{}</mark>').format(name, text.replace(" ", "\u00a0")) if name else text
    return out
