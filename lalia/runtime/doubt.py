"""Whether a student hears what it was made for: a low confidence throughout means another language, or unknown speech.

The limits are measured (docs/runtime.md has the table).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lalia.text.codes import name_of

if TYPE_CHECKING:
    from lalia.decoding.greedy import Word

LEAST_LETTERS = 60
"""On fewer a mean says little; in another language words are not told apart, so words are not counted."""
BEST_PATH, CALIBRATED = 0.80, 0.45
"""A mean confidence below this is told: of words by best path, and of those by a search that tuning calibrated."""


def doubtful(words: Sequence[Word], limit: float) -> bool:
    """Whether there are letters enough, and the mean confidence of ``words`` is below ``limit``."""
    return sum(len(word.text) for word in words) >= LEAST_LETTERS and _mean(words) < limit


def doubt(words: Sequence[Word], languages: Sequence[str]) -> str:
    """What to tell a person of ``words`` that are ``doubtful``, heard by a student of ``languages``."""
    own = " or ".join(f"{code} ({name_of(code)})" if name_of(code) else code for code in languages)
    return (
        f"low confidence throughout (mean {_mean(words):.2f}): is it {own or 'the language of this student'}, and speech like "
        "what the student learned from? Most words may be wrong"
    )


def _mean(words: Sequence[Word]) -> float:
    return statistics.fmean(word.confidence for word in words)
