"""The report page of an evaluation: error rates by condition, confusions, calibration, and clips to play."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from lalia.decoding.confidence import Bin, expected_error, reliability
from lalia.errors import AudioError
from lalia.report import numbers, page
from lalia.report.charts import Bar, Chart, Line, bar_chart, line_chart, plain, share
from lalia.report.page import clips_section, lineage_of, score_verdict
from lalia.scoring.evaluation import (
    MEAN,
    MOST_SPEAKERS,
    SPEAKER,
    ClipInfo,
    Evaluation,
    ScoredClip,
    groups_by_condition,
    most_missed,
    score_clips,
    score_greedy,
)
from lalia.scoring.rates import Confusion, Score, confusions, repeated_confusions, word_errors
from lalia.units import clock, plural

CONFUSIONS = 12
MISSED = 12
"""Most-missed words that are shown."""
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
    settings: Mapping[str, str],
    found: Evaluation,
    about: Mapping[str, ClipInfo],
    calibrated: bool,
    wave: Callable[[str], np.ndarray],
    card: dict[str, Any],
    more: Sequence[page.Section] = (),
) -> Path:
    """Write the page of ``found`` to ``path``, a self-contained file.

    ``settings`` has the split, the language and the files for decoding, ``about`` the clips' metadata. ``wave`` returns a clip's
    samples; with an ``AudioError`` the clip has no player. ``card`` is the student's. ``more`` sections precede the lineage.
    """
    aids = [_AIDS[name].format(Path(settings[name]).name) for name in _AIDS if name in settings]
    beside = [clip for clip in found.clips if clip.greedy is not None]
    decoder = "with " + " and ".join(aids) if aids else ""
    sections = [_beside(beside, decoder)] if beside else []
    sections += [_error_rates(found, about), _missed_words(found.clips), _confusions(found.clips)]
    pairs = [pair for clip in found.clips for pair in clip.words]
    if pairs:
        sections.append(_confidence(pairs, calibrated))

    def sound(id: str) -> np.ndarray | None:
        try:
            return wave(id)
        except (AudioError, MemoryError):
            return None

    texts = [(clip.id, clip.reference, clip.hypothesis) for clip in found.clips]
    sections.append(
        clips_section(
            texts, sound, f"The highest and the median CER of {len(texts)} clips.", "Clips with audio",
            decoder or "hypothesis", ("greedy", {clip.id: clip.greedy or "" for clip in beside}),
        )
    )  # fmt: skip
    sections += more
    intro = "The models and corpora behind this student, each with the start of its content hash."
    sections.append(page.Section("Lineage", [page.lineage(lineage_of(card))], intro, folded=True))
    head = " of its transducer" if settings.get("decoder") == "transducer" else ""
    lead = Markup("<strong>{}</strong> of the {} split, {} of audio. Decoded {}.").format(
        f"{len(found.clips):,} clips", " ".join(settings[name] for name in ("language", "split") if name in settings),
        clock(found.audio_s), decoder or f"by greedy decoding{head}, without a language model",
    )  # fmt: skip
    whole = found.score()
    rates = {"cer": whole.cer.rate, "wer": whole.wer.rate, "cer_interval": whole.cer_interval}
    verdict = score_verdict(rates, len(found.clips))
    if beside:
        gain = score_greedy(beside).wer.rate - score_clips(beside).wer.rate
        change = "lower" if gain >= 0 else "higher"
        text = f"{verdict.text} Its WER is {100 * abs(gain):.1f} points {change} than by greedy decoding."
        verdict = replace(verdict, text=text)
    footer = [f"skipped: {reason}" for reason in found.skipped[:20]]
    made = page.Page(
        "evaluation", title, lead, verdict, summary=page.tiles(_tiles(found, pairs, calibrated)), sections=sections,
        footer=[
            *footer, "CI: confidence interval, by bootstrap over clips; thin lines in charts show the same.",
            "This page is self-contained.",
        ],
    )  # fmt: skip
    return made.write(path)


def _beside(clips: Sequence[ScoredClip], decoder: str) -> page.Section:
    """Error rates of greedy decoding and of ``decoder`` on the same clips."""
    both = {"greedy": score_greedy(clips), decoder: score_clips(clips)}
    rows = [[name, *_rates(one)] for name, one in both.items()]
    differences = [
        word_errors(clip.reference, clip.hypothesis, clip.writing).errors
        - word_errors(clip.reference, clip.greedy or "", clip.writing).errors
        for clip in clips
    ]
    better, worse = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    aside = f"Against greedy decoding, {better:,} of {plural(len(clips), 'clip')} have fewer wrong words and {worse:,} have more."
    head = ["decoding", "CER", "95 % CI", "WER", "95 % CI"]
    return page.Section("Greedy and language model", [page.table(head, rows, chosen=1, aside=aside)], "The same clips.")


def _missed_words(clips: Sequence[ScoredClip]) -> page.Section:
    """The words of the references that are wrong most often."""
    words = most_missed(clips, MISSED)
    if not words:
        return page.Section("Most-missed words", [Markup("<p>None: every word of the references is right.</p>")])
    both = words[0].missed_greedy is not None
    rows = [
        [
            one.word, f"{one.times:,}", *([f"{one.missed_greedy:,}"] if both else []), f"{one.missed:,}",
            (one.written or "nothing") if one.missed else "",
        ]
        for one in words
    ]  # fmt: skip
    missed = ["missed, greedy", "missed"] if both else ["missed"]
    intro = "Words of the references that are substituted or deleted, and what stands in their place most often."
    table = page.table(["word", "occurs", *missed, "transcribed as"], rows)
    return page.Section("Most-missed words", [table], intro)


def _tiles(found: Evaluation, pairs: Sequence[tuple[float, bool]], calibrated: bool) -> list[page.Tile]:
    whole = found.score()
    right = sum(clip.reference == clip.hypothesis for clip in found.clips) / len(found.clips)
    tiles = [
        page.Tile(numbers.percent(whole.cer.rate), "CER", f"95 % CI {numbers.interval(whole.cer_interval)}"),
        page.Tile(numbers.percent(whole.wer.rate), "WER", f"95 % CI {numbers.interval(whole.wer_interval)}"),
        page.Tile(numbers.percent(right, 0), "clips without an error", f"of {len(found.clips):,}"),
        page.Tile(numbers.times(1 / max(found.rtf, 1e-9)), "real time", "audio transcribed per second"),
    ]
    if pairs:
        note = "calibrated on held-out speech" if calibrated else "not calibrated; see lalia tune"
        error = expected_error(_bins(pairs))
        tiles.append(page.Tile(f"{error:.3f}", "calibration error (ECE)", note))
    return tiles


def _bins(pairs: Sequence[tuple[float, bool]]) -> list[Bin]:
    return reliability([confidence for confidence, _ in pairs], [right for _, right in pairs])


def _error_rates(found: Evaluation, about: Mapping[str, ClipInfo]) -> page.Section:
    """Error rates by language, length, noise and speaker: a chart for each, and one table."""
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
            aside = f"The {MOST_SPEAKERS} of {len(scores)} speakers with the highest CER."
            scores = dict(sorted(scores.items(), key=lambda item: -item[1].cer.rate)[:MOST_SPEAKERS])
        if len(scores) > 1:
            bars = [
                Bar(f"{group} ({one.clips})", one.cer.rate, one.cer_interval, "s1") for group, one in scores.items()
            ]
            charts.append(
                bar_chart(f"CER by {name}", [_with_percent(bar) for bar in bars], "Number of clips in brackets.")
            )
        rows += [
            [f"{name}: {group}", f"{one.clips:,}", f"{one.wer.reference:,}", *_rates(one)]
            for group, one in scores.items()
        ]
    whole = len(rows)
    rows.append(["all", f"{len(found.clips):,}", f"{found.score().wer.reference:,}", *_rates(found.score())])
    if mean := found.mean():
        cer, wer = map(numbers.percent, mean)
        rows.append([MEAN, "", "", cer, "", wer, ""])
    head = ["", "clips", "words", "CER", "95 % CI", "WER", "95 % CI"]
    table = page.table(head, rows, chosen=whole, aside=aside)
    intro = "CER and WER: deletions, substitutions and insertions, relative to the letters or words of the reference."
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
    """The most frequent confusions of letters and words."""
    references, hypotheses = [clip.reference for clip in clips], [clip.hypothesis for clip in clips]
    charts: list[Chart] = []
    rare: list[str] = []
    units: tuple[tuple[Literal["character", "word"], str], ...] = (("character", "Letters"), ("word", "Words"))
    for unit, title in units:
        total = Counter(
            counted
            for clip in clips
            for counted in (clip.reference if unit == "character" else clip.writing.count_units(clip.reference))
        )
        most = confusions(references, hypotheses, unit, CONFUSIONS, [clip.writing for clip in clips])
        if shown := repeated_confusions(most):
            charts.append(
                bar_chart(f"Confusions of {title.lower()}", [_bar(c, total[c.reference]) for c in shown], y_label=plain)
            )
        elif most:
            rare.append(title)
    if not charts and not rare:
        return page.Section("Confusions", [Markup("<p>None: every transcript equals its reference.</p>")])
    intro = Markup(
        "The most frequent errors, and how often the letter or word occurs in the references. Red: deletion. "
        "Yellow: substitution. Blue: insertion."
    )
    once = Markup("<p>{}: every error occurs once.</p>").format(" and ".join(rare))
    blocks = [*([page.figures(charts)] if charts else []), *([once] if rare else [])]
    return page.Section("Confusions", blocks, intro if charts else "")


def _bar(one: Confusion, total: int) -> Bar:
    colour = "bad" if not one.hypothesis else "s1" if not one.reference else "s5"
    text = f"{one.count} of {total}" if one.reference else f"{one.count}"
    return Bar(f"{_shown_unit(one.reference)} → {_shown_unit(one.hypothesis)}", one.count, None, colour, text)


def _shown_unit(text: str) -> str:
    if not text:
        return "nothing"
    return "space" if text == " " else text if len(text) <= LONGEST_WORD else text[: LONGEST_WORD - 1] + "…"


def _confidence(pairs: Sequence[tuple[float, bool]], calibrated: bool) -> page.Section:
    """Reliability diagram of the words' confidence, and the number of words per bin."""
    bins = _bins(pairs)
    many = [b for b in bins if b.words >= FEW_WORDS]
    lines = [
        Line("ideal", [0.0, 100.0], [0.0, 1.0], "s4", dashed=True),
        Line("words", [100 * b.confidence for b in many], [b.right for b in many], "s1", dots=True),
    ]
    plot = line_chart(
        "Reliability of confidence", lines, y_label=share, x_name="confidence, %", from_zero=True,
        caption=f"Share of words that are right, by confidence. Bins with less than {FEW_WORDS} words are not shown.",
    )  # fmt: skip
    bars = [
        Bar(f"{b.confidence:.2f}", b.words, None, "s1", f"{b.words:,}, {numbers.percent(b.right, 0)} right")
        for b in bins
    ]
    counts = bar_chart("Words by confidence", bars[::-1], "By the mean confidence of each bin.", y_label=plain)
    error = f"Expected calibration error (ECE): {expected_error(bins):.3f}, the mean distance from the dashed line."
    how = (
        "Confidence was calibrated by lalia tune on other clips."
        if calibrated
        else "Confidence is not calibrated: lalia tune calibrates it on held-out clips, for decoding with a language model."
    )
    return page.Section("Confidence", [page.figures([plot, counts])], f"{error} {how}")
