"""The report page of an evaluation: error rates by condition, confusions, calibration, and clips to play."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from lalia.decoding.confidence import Bin, expected_error, reliability
from lalia.errors import AudioError
from lalia.report import numbers, page
from lalia.report.charts import Bar, Chart, Line, bar_chart, line_chart, plain, share
from lalia.report.page import clips_section, lineage_of
from lalia.scoring.evaluation import (
    MOST_SPEAKERS,
    SPEAKER,
    ClipInfo,
    Evaluation,
    ScoredClip,
    groups_by_condition,
    score_clips,
)
from lalia.scoring.rates import Confusion, Interval, Score, confusions, repeated_confusions
from lalia.units import clock

CONFUSIONS = 12
LONGEST_WORD = 16
FEW_WORDS = 5
_AIDS = {
    "lm": "a language model ({})",
    "rescore": "an LSTM ({})",
    "hot": "hot words ({})",
    "only": "a closed list ({})",
}


def write_evaluation(
    path: Path,
    title: str,
    asked: Mapping[str, str],
    found: Evaluation,
    about: Mapping[str, ClipInfo],
    calibrated: bool,
    wave: Callable[[str], np.ndarray],
    card: dict[str, Any],
    more: Sequence[page.Section] = (),
) -> Path:
    """Write the page of ``found`` to ``path``: one file, nothing fetched.

    ``asked`` holds the split, the language and the files that decoding was given, ``about`` what is known of the clips,
    ``wave`` gives a clip's sound (an ``AudioError`` leaves its player out), ``card`` is the student's.
    ``more`` sections stand before the lineage.
    """
    sections = [_error_rates(found, about), _confusions(found.clips)]
    pairs = [pair for clip in found.clips for pair in clip.words]
    if pairs:
        sections.append(_confidence(pairs, calibrated))

    def sound(id: str) -> np.ndarray | None:
        try:
            return wave(id)
        except (AudioError, MemoryError):
            return None

    said = [(clip.id, clip.reference, clip.hypothesis) for clip in found.clips]
    sections.append(clips_section(said, sound, f"By CER, out of {len(said)} clips.", "Clips to hear"))
    sections += more
    intro = "What the student is made of, each by the first letters of its content's hash."
    sections.append(page.Section("Lineage", [page.lineage(lineage_of(card))], intro))
    ways = [_AIDS[name].format(Path(asked[name]).name) for name in _AIDS if name in asked]
    lead = Markup("<strong>{}</strong> of the {} split, {} of audio. Decoded {}.").format(
        f"{len(found.clips):,} clips", " ".join(asked[name] for name in ("language", "split") if name in asked),
        clock(found.audio_s), "with " + " and ".join(ways) if ways else "by greedy decoding, without a language model",
    )  # fmt: skip
    footer = [f"left out: {reason}" for reason in found.skipped[:20]]
    made = page.Page(
        "evaluation", title, lead, page.tiles(_tiles(found, pairs, calibrated)), sections,
        [*footer, "Thin lines and brackets hold 95 % of bootstrap resamples of the clips.",
         "Everything on this page is inside this one file."],
    )  # fmt: skip
    return made.write(path)


def _tiles(found: Evaluation, pairs: Sequence[tuple[float, bool]], calibrated: bool) -> list[page.Tile]:
    whole = found.score()
    right = sum(clip.reference == clip.hypothesis for clip in found.clips) / len(found.clips)
    tiles = [
        page.Tile(numbers.percent(whole.cer.rate), "CER", _between(whole.cer_interval)),
        page.Tile(numbers.percent(whole.wer.rate), "words wrong (WER)", _between(whole.wer_interval)),
        page.Tile(numbers.percent(right, 0), "clips without an error", f"of {len(found.clips):,}"),
        page.Tile(numbers.times(1 / max(found.rtf, 1e-9)), "real time", f"RTF {found.rtf:.4f}"),
    ]
    if pairs:
        note = "calibrated on held-out speech" if calibrated else "not calibrated: lalia tune does"
        error = expected_error(_bins(pairs))
        tiles.append(page.Tile(f"{error:.3f}", "calibration error (ECE)", note))
    return tiles


def _bins(pairs: Sequence[tuple[float, bool]]) -> list[Bin]:
    return reliability([confidence for confidence, _ in pairs], [right for _, right in pairs])


def _between(interval: Interval) -> str:
    return "95 % between {} and {}".format(*map(numbers.percent, interval))


def _error_rates(found: Evaluation, about: Mapping[str, ClipInfo]) -> page.Section:
    """The error rates by language, length, noise and speaker: a chart each, and all of them as one table."""
    groups = groups_by_condition(found, about)
    if len(found.languages()) > 1:
        by_language = {name: [c for c in found.clips if c.language == name] for name in found.languages()}
        groups = {"language": by_language, **groups}
    charts: list[Chart] = []
    rows: list[list[str]] = []
    aside = ""
    for name, clips in groups.items():
        scores = {group: _score(some) for group, some in clips.items()}
        if name == SPEAKER and len(scores) > MOST_SPEAKERS:
            aside = f"Of {len(scores)} speakers those {MOST_SPEAKERS} with the highest CER."
            scores = dict(sorted(scores.items(), key=lambda item: -item[1].cer.rate)[:MOST_SPEAKERS])
        if len(scores) > 1:
            bars = [
                Bar(f"{group} ({one.clips})", one.cer.rate, one.cer_interval, "s1") for group, one in scores.items()
            ]
            charts.append(
                bar_chart(f"Letters wrong by {name}", [_with_percent(bar) for bar in bars], "Clips in brackets.")
            )
        rows += [
            [f"{name}: {group}", f"{one.clips:,}", f"{one.wer.reference:,}", *_rates(one)]
            for group, one in scores.items()
        ]
    rows.append(["all", f"{len(found.clips):,}", f"{found.score().wer.reference:,}", *_rates(found.score())])
    head = ["", "clips", "words", "CER", "95 %", "WER", "95 %"]
    table = page.table(head, rows, chosen=len(rows) - 1, aside=aside)
    intro = "Letters and words wrong: as many as were missed, mistaken or invented, out of those that were said."
    return page.Section("Where the errors are", [*([page.figures(charts)] if charts else []), table], intro)


def _score(clips: Sequence[ScoredClip]) -> Score:
    return score_clips(clips)


def _with_percent(bar: Bar) -> Bar:
    return Bar(bar.label, bar.value, bar.interval, bar.colour, numbers.percent(bar.value))


def _rates(one: Score) -> list[str]:
    cells: list[str] = []
    for counts, (low, high) in ((one.cer, one.cer_interval), (one.wer, one.wer_interval)):
        cells += [numbers.percent(counts.rate), f"{100 * low:.1f} to {100 * high:.1f}"]
    return cells


def _confusions(clips: Sequence[ScoredClip]) -> page.Section:
    """Which letters and words are missed, mistaken or invented most."""
    references, hypotheses = [clip.reference for clip in clips], [clip.hypothesis for clip in clips]
    charts: list[Chart] = []
    rare: list[str] = []
    units: tuple[tuple[Literal["character", "word"], str], ...] = (("character", "Letters"), ("word", "Words"))
    for unit, title in units:
        said = Counter(unit_ for text in references for unit_ in (text if unit == "character" else text.split()))
        most = confusions(references, hypotheses, unit, CONFUSIONS, [clip.writing for clip in clips])
        if shown := repeated_confusions(most):
            charts.append(
                bar_chart(f"{title} taken for others", [_bar(c, said[c.reference]) for c in shown], y_label=plain)
            )
        elif most:
            rare.append(title)
    if not charts and not rare:
        return page.Section(
            "What is taken for what", [Markup("<p>Nothing: every transcript equals its reference.</p>")]
        )
    intro = Markup(
        "The most frequent errors, and how often the letter or word occurs in the references. Red: missed. "
        "Yellow: heard as another. Blue: heard, not said."
    )
    once = Markup("<p>{}: every error occurs once.</p>").format(" and ".join(rare))
    blocks = [*([page.figures(charts)] if charts else []), *([once] if rare else [])]
    return page.Section("What is taken for what", blocks, intro if charts else "")


def _bar(one: Confusion, said: int) -> Bar:
    colour = "bad" if not one.hypothesis else "s1" if not one.reference else "s5"
    told = f"{one.count} of {said}" if one.reference else f"{one.count}"
    return Bar(f"{_shown_unit(one.reference)} → {_shown_unit(one.hypothesis)}", one.count, None, colour, told)


def _shown_unit(text: str) -> str:
    if not text:
        return "nothing"
    return "space" if text == " " else text if len(text) <= LONGEST_WORD else text[: LONGEST_WORD - 1] + "…"


def _confidence(pairs: Sequence[tuple[float, bool]], calibrated: bool) -> page.Section:
    """How often words of each confidence are right, and how many words have it."""
    bins = _bins(pairs)
    many = [b for b in bins if b.words >= FEW_WORDS]
    lines = [
        Line("as it should be", [0.0, 100.0], [0.0, 1.0], "s4", dashed=True),
        Line("words", [100 * b.confidence for b in many], [b.right for b in many], "s1", dots=True),
    ]
    plot = line_chart(
        "Confidence and truth", lines, y_label=share, x_name="confidence, %", from_zero=True,
        caption=f"Share of the words that are right, by what the student gives them. Less than {FEW_WORDS} words make no dot.",
        height_in=max(2.7, 0.75 + 0.42 * len(bins)),
    )  # fmt: skip
    bars = [
        Bar(f"{b.confidence:.2f}", b.words, None, "s1", f"{b.words:,}, {numbers.percent(b.right, 0)} right")
        for b in bins
    ]
    counts = bar_chart("Words by confidence", bars[::-1], "The mean confidence of each tenth.", y_label=plain)
    error = f"Expected calibration error (ECE): {expected_error(bins):.3f}, the mean distance from the dashed line."
    how = (
        "Confidence was calibrated by lalia tune, on other clips."
        if calibrated
        else "Confidence is not calibrated: lalia tune fits it, to clips held out, for decoding with a language model."
    )
    return page.Section("How far confidence goes", [page.figures([plot, counts])], f"{error} {how}")
