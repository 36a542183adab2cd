"""The clips of a page of scores: those that went worst and those in the middle, to hear, with their errors coloured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from lalia.report import formats, page
from lalia.report.errors import KEY, marked
from lalia.report.players import ShownClip, make_player
from lalia.scoring.rates import character_errors

SHOWN = 5
"""Of each kind."""
Said = tuple[str, str, str]
"""A clip: its id, what was said, what was heard; both normalised."""


def clips_section(
    clips: Sequence[Said], wave: Callable[[str], np.ndarray | None], intro: str, title: str = "Test clips"
) -> page.Section:
    """The worst and the median of ``clips`` by letters wrong; ``wave`` gives a clip's sound, None where it is not at hand."""
    ranked = sorted(clips, key=lambda clip: -character_errors(clip[1], clip[2]).rate)
    middle = max(0, len(ranked) // 2 - SHOWN // 2)
    chosen = [("Worst", ranked[:SHOWN])]
    if len(ranked) > 2 * SHOWN:
        chosen.append(("In the middle", ranked[middle : middle + SHOWN]))
    blocks: list[Markup] = []
    for name, some in chosen:
        shown = [_shown(clip, wave(clip[0])) for clip in some]
        blocks += [Markup("<h3>{}</h3>").format(name), page.clips(shown, KEY if not blocks else Markup())]
    return page.Section(title, blocks, intro)


def _shown(clip: Said, wave: np.ndarray | None) -> ShownClip:
    id, reference, hypothesis = clip
    said, heard = marked(reference, hypothesis)
    errors = character_errors(reference, hypothesis)
    texts = [("said", said), (f"heard, CER {formats.percent(errors.rate, 0)}", heard)]
    return ShownClip(id, texts, make_player(id, wave) if wave is not None else None)
