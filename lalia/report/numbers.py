"""Format numbers for people: percentages, counts, sizes, durations."""

from __future__ import annotations

from collections.abc import Sequence

THIN = "\u202f"


def percent(share: float | None, digits: int = 1) -> str:
    """``0.338`` -> ``33.8 %``; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}{THIN}%"


def interval(ends: Sequence[float]) -> str:
    """``(0.153, 0.209)`` -> ``15.3 to 20.9 %``."""
    low, high = ends
    return f"{100 * low:.1f} to {percent(high)}"


def count(number: float) -> str:
    """``2345678`` -> ``2.35 M``, ``612345`` -> ``0.61 M``, ``9800`` -> ``9,800``."""
    if number >= 100_000:
        scaled, unit = (number / 1e9, "B") if number >= 1e9 else (number / 1e6, "M")
        return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{THIN}{unit}"
    return f"{number:,.0f}"


def megabytes(size: float) -> str:
    """Megabytes (10^6 bytes) with about three significant digits."""
    return f"{size:.{2 if size < 10 else 1 if size < 100 else 0}f}{THIN}MB"


def hours(length: float) -> str:
    """Hours of audio; minutes below one and a half."""
    return f"{60 * length:.0f}{THIN}min" if length < 1.5 else f"{length:,.{1 if length < 100 else 0}f}{THIN}h"


def times(ratio: float) -> str:
    """``130.4`` -> ``130 ×``, ``2.13`` -> ``2.1 ×``."""
    return f"{ratio:.{1 if ratio < 10 else 0}f}{THIN}×"


def number(value: float) -> str:
    """A number with four significant digits; with an exponent only if it is very large or very small."""
    if value != value:
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.2e}"
