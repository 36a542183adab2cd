"""Evaluation: transcribe labelled clips and report error rates, speed, and where the errors are."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lalia.decoding.greedy import Word
from lalia.errors import AudioError
from lalia.model_folder import LabelledClips
from lalia.runtime.transcript import Transcript
from lalia.scoring.rates import (
    UNKNOWN,
    GroupErrors,
    Score,
    by_group,
    character_errors,
    confusions,
    length_band,
    mean_rates,
    noise_band,
    repeated_confusions,
    score,
)
from lalia.text.edit_distance import alignment
from lalia.text.normaliser import Normaliser
from lalia.text.writing_system import WritingSystem
from lalia.units import Seconds, clock, to_seconds

LENGTH, NOISE, SPEAKER = "length", "signal to noise", "speaker"
MOST_SPEAKERS = 8
MEAN = "mean over languages"
"""The row of the rates that count each language once, whatever its hours."""


@dataclass(frozen=True)
class ScoredClip:
    """One clip: reference and hypothesis, both normalised."""

    id: str
    language: str
    reference: str
    hypothesis: str
    duration_s: Seconds
    words: tuple[tuple[float, bool], ...] = ()
    """confidence of each word of the hypothesis, and whether it is right"""
    writing: WritingSystem = field(default_factory=WritingSystem)
    """how both texts are written: what a word is"""
    greedy: str | None = None
    """the greedy hypothesis beside that of another decoder, normalised; None: not made"""


@dataclass(frozen=True)
class ClipInfo:
    """Metadata of a clip."""

    speaker: str = ""
    """"" if unknown"""
    snr_db: float = math.nan


@dataclass
class Evaluation:
    """Scored clips, skipped clips with the reason, and the time of transcription without reading files."""

    clips: list[ScoredClip] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elapsed_s: Seconds = 0.0

    @property
    def audio_s(self) -> Seconds:
        return sum(clip.duration_s for clip in self.clips)

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work per second of audio."""
        return self.elapsed_s / max(self.audio_s, 1e-9)

    def languages(self) -> list[str]:
        return sorted({clip.language for clip in self.clips})

    def score(self, language: str | None = None) -> Score:
        """CER and WER of all clips, or of one language's."""
        clips = [clip for clip in self.clips if language in (None, clip.language)]
        return score_clips(clips)

    def mean(self) -> tuple[float, float] | None:
        """The means of CER and WER over languages, each counted once whatever its hours; None for one language."""
        scores = [self.score(language) for language in self.languages()]
        return mean_rates(scores) if len(scores) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Figures and clips for a JSON file."""
        groups = {"all": self.score(), **{language: self.score(language) for language in self.languages()}}
        mean = self.mean()
        return {
            "scores": {name: _as_dict(found) for name, found in groups.items()},
            **({"mean_over_languages": {"cer": mean[0], "wer": mean[1]}} if mean else {}),
            "audio_s": round(self.audio_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
            "rtf": self.rtf,
            "skipped": self.skipped,
            "clips": [
                {
                    key: value
                    for key, value in vars(clip).items()
                    if key != "writing" and (key, value) != ("greedy", None)
                }
                for clip in self.clips
            ],
        }


def score_clips(clips: Sequence[ScoredClip]) -> Score:
    """CER and WER of ``clips``, words as each clip's writing has them."""
    references, hypotheses = [clip.reference for clip in clips], [clip.hypothesis for clip in clips]
    return score(references, hypotheses, [clip.writing for clip in clips])


def score_greedy(clips: Sequence[ScoredClip]) -> Score:
    """CER and WER of the greedy hypotheses of ``clips``."""
    return score_clips([replace(clip, hypothesis=clip.greedy or "") for clip in clips])


@dataclass(frozen=True)
class MissedWord:
    """A word of the references that is often wrong in the hypotheses."""

    word: str
    times: int
    """how often it occurs in the references"""
    missed: int
    missed_greedy: int | None
    """how often greedy decoding misses it; None: not known"""
    written: str
    """what stands in its place most often, "" for nothing"""


def most_missed(clips: Sequence[ScoredClip], most: int) -> list[MissedWord]:
    """The ``most`` words of the references that are missed most often, by whichever decoder misses them more."""
    times: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    by_greedy: Counter[str] = Counter()
    instead: dict[str, Counter[str]] = {}
    for clip in clips:
        times.update(clip.writing.count_units(clip.reference))
        for word, written in _missed(clip, clip.hypothesis):
            missed[word] += 1
            instead.setdefault(word, Counter())[written] += 1
        if clip.greedy is not None:
            by_greedy.update(word for word, _ in _missed(clip, clip.greedy))
    known = any(clip.greedy is not None for clip in clips)
    ranked = sorted(missed | by_greedy, key=lambda word: (-max(missed[word], by_greedy[word]), -missed[word], word))
    return [
        MissedWord(
            word, times[word], missed[word], by_greedy[word] if known else None,
            instead[word].most_common(1)[0][0] if word in instead else "",
        )
        for word in ranked[:most]
    ]  # fmt: skip


def _missed(clip: ScoredClip, hypothesis: str) -> list[tuple[str, str]]:
    """(word of the reference that is wrong in ``hypothesis``, what stands in its place)."""
    reference, written = (" ".join(clip.writing.count_units(text)) for text in (clip.reference, hypothesis))
    steps = alignment(reference, written)
    return [(step.reference, step.hypothesis) for step in steps if step.kind in ("substitution", "deletion")]


def evaluate(
    transcribe: Callable[[np.ndarray, str], Transcript],
    normaliser: Normaliser,
    clips: LabelledClips,
    rows: Iterable[int],
    progress: Callable[[Evaluation], None] | None = None,
    greedy: Callable[[np.ndarray, str], Transcript] | None = None,
) -> Evaluation:
    """Transcribe ``rows`` of ``clips`` one by one and compare them with their labels, both sides normalised by the rules of the
    clip's language.

    ``transcribe`` takes a wave (samples,), float32 at 16 kHz, and the clip's id. A clip that cannot be read, or whose label
    has no letters after normalisation, is skipped and named. ``greedy`` makes a second transcript to compare with; its time does
    not count.
    """
    found = Evaluation()
    for row in rows:
        own = normaliser.for_language(clips.language(row))
        reference = own(clips.text(row))
        if not reference:
            found.skipped.append(f"{clips.id(row)}: its label has no letters")
            continue
        try:
            wave = clips.wave(row)
        except AudioError as error:
            found.skipped.append(str(error))
            continue
        except MemoryError:
            found.skipped.append(
                f"{clips.id(row)}: is too long for the free memory; split it into parts, each with its label"
            )
            continue
        start = time.perf_counter()
        transcript = transcribe(wave, clips.id(row))
        found.elapsed_s += time.perf_counter() - start
        found.clips.append(
            ScoredClip(
                clips.id(row),
                clips.language(row),
                reference,
                own(transcript.text),
                to_seconds(len(wave)),
                _word_confidences(reference, transcript.words, own.writing),
                own.writing,
                own(greedy(wave, clips.id(row)).text) if greedy else None,
            )
        )
        if progress:
            progress(found)
    return found


def _word_confidences(reference: str, words: Sequence[Word], writing: WritingSystem) -> tuple[tuple[float, bool], ...]:
    """The confidence of each of ``words`` and whether it is right."""
    right = right_words(reference, words, writing)
    return tuple((word.confidence, ok) for word, ok in zip(words, right, strict=False))


def right_words(reference: str, words: Sequence[Word], writing: WritingSystem) -> list[bool]:
    """Whether each of ``words`` is right, by the alignment with the reference in the units of ``writing``."""
    steps = alignment(" ".join(writing.count_units(reference)), " ".join(writing.bare(word.text) for word in words))
    return [step.kind == "equal" for step in steps if step.kind != "deletion"]


def table(found: Evaluation) -> str:
    """A table for the terminal: error rates by language and of all clips, with intervals, and the speed."""
    languages = found.languages()
    groups = [(name, found.score(name)) for name in languages]
    if len(languages) != 1:
        groups.append(("all", found.score()))
    lines = [f"{'':8}{'clips':>7}{'words':>8}   {'CER %':>6} {'(95 %)':15}{'WER %':>6} {'(95 %)':15}".rstrip()]
    for name, group in groups:
        rates = "".join(
            f"{100 * counts.rate:6.1f} {f'({100 * low:.1f} to {100 * high:.1f})':15}"
            for counts, (low, high) in ((group.cer, group.cer_interval), (group.wer, group.wer_interval))
        )
        lines.append(f"{name:8}{group.clips:7}{group.wer.reference:8}   {rates}".rstrip())
    if mean := found.mean():
        cer, wer = (f"{100 * rate:6.1f} {'':15}" for rate in mean)
        lines.append(f"{MEAN:26}{cer}{wer}".rstrip())
    speed = f"{found.elapsed_s:.1f} s for {clock(found.audio_s)} of audio"
    lines.append(f"RTF {found.rtf:.4f} ({1 / max(found.rtf, 1e-9):.0f} × real time, {speed})")
    if found.skipped:
        lines.append(f"clips skipped: {len(found.skipped)}")
    return "\n".join(lines)


def details(found: Evaluation, about: Mapping[str, ClipInfo]) -> str:
    """Error analysis for the terminal: by condition, confusions and worst clips; ``about`` has the clips' metadata by id."""
    references = [clip.reference for clip in found.clips]
    hypotheses = [clip.hypothesis for clip in found.clips]
    lines: list[str] = []
    for name, groups in groups_by_condition(found, about).items():
        parts = {group: _errors(clips) for group, clips in groups.items()}
        note = ""
        if name == SPEAKER:
            parts = dict(sorted(parts.items(), key=lambda item: -item[1].cer.rate)[:MOST_SPEAKERS])
            note = f"   (worst of {len(groups)})"
        lines += [*([""] if lines else []), f"{name:20}{'clips':>7}{'CER %':>8}{'WER %':>8}{note}"]
        lines += [_part(group, part) for group, part in parts.items()]
    units: tuple[tuple[Literal["character", "word"], str], ...] = (("character", "letters"), ("word", "words"))
    for unit, name in units:
        most = confusions(references, hypotheses, unit, writing=[clip.writing for clip in found.clips])
        shown = ", ".join(
            f"{_shown(c.reference)} → {_shown(c.hypothesis)} {c.count}" for c in repeated_confusions(most)
        )
        lines += ["", f"confusions of {name}: {shown or ('none occurs twice' if most else 'none')}"]
    ranked = sorted(found.clips, key=lambda c: -character_errors(c.reference, c.hypothesis).rate)
    for clip in ranked[:3]:
        lines += ["", f"{clip.id}", f"  reference   {clip.reference}", f"  hypothesis  {clip.hypothesis}"]
    return "\n".join(lines)


def groups_by_condition(found: Evaluation, about: Mapping[str, ClipInfo]) -> dict[str, dict[str, list[ScoredClip]]]:
    """The clips by length, signal-to-noise ratio and speaker, without conditions that have only one value."""
    by_length = sorted(found.clips, key=lambda clip: clip.duration_s)
    known = {clip.id: about.get(clip.id, ClipInfo()) for clip in found.clips}
    by_noise = sorted(found.clips, key=lambda clip: (math.isnan(known[clip.id].snr_db), known[clip.id].snr_db))
    groups = {
        LENGTH: _grouped(by_length, lambda clip: length_band(clip.duration_s)),
        NOISE: _grouped(by_noise, lambda clip: noise_band(known[clip.id].snr_db)),
        SPEAKER: _grouped(found.clips, lambda clip: known[clip.id].speaker or UNKNOWN),
    }
    return {name: group for name, group in groups.items() if len(group) > 1 or name == LENGTH}


def _grouped(clips: Iterable[ScoredClip], name: Callable[[ScoredClip], str]) -> dict[str, list[ScoredClip]]:
    groups: dict[str, list[ScoredClip]] = {}
    for clip in clips:
        groups.setdefault(name(clip), []).append(clip)
    return groups


def _errors(clips: Sequence[ScoredClip]) -> GroupErrors:
    references, hypotheses = [c.reference for c in clips], [c.hypothesis for c in clips]
    [part] = by_group(references, hypotheses, [""] * len(clips), [c.writing for c in clips]).values()
    return part


def _part(name: str, part: GroupErrors) -> str:
    return f"{name[:20]:20}{part.clips:7}{100 * part.cer.rate:8.1f}{100 * part.wer.rate:8.1f}"


def _shown(text: str) -> str:
    return "nothing" if not text else "space" if text == " " else text


def _as_dict(found: Score) -> dict[str, Any]:
    return {
        "cer": found.cer.rate,
        "cer_interval": list(found.cer_interval),
        "wer": found.wer.rate,
        "wer_interval": list(found.wer_interval),
        "clips": found.clips,
        "words": found.wer.reference,
        "characters": found.cer.reference,
    }
