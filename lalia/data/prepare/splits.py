"""Make train, dev and test splits for sources that have none.

Labelled clips are split by speaker and sentence where possible. Unlabelled audio is split by recording, since pieces of one
recording share voice, microphone and topic; where recordings are too few or too uneven, the end of the longest one is held
out, after a gap that is in no split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lalia.audio.reading import probe_audio
from lalia.data.prepare.listing import Dropped, SourceClip, SplitSpan, ordering, sentence_key
from lalia.errors import AudioError
from lalia.units import Seconds

# --- Held-out recordings ---------------------------------------------------------------------------------

GAP_S: Seconds = 30.0
GAP_SHARE = 0.02
"""A gap is this share of its recording, at most ``GAP_S``."""
_OVERSHOOT = 1.2
_FIRST = 2.0
"""The first recording of a split may be this many times the wanted share; with others it may reach ``_OVERSHOOT`` times."""
_ENOUGH = 0.5
"""A split with this part of its share needs no other recordings."""


@dataclass(frozen=True)
class Choice:
    """Recordings that are held out whole (recording → split), and the missing share of each split, of all audio."""

    whole: dict[str, str]
    lacking: dict[str, float]


def choose_recordings(seconds: Mapping[str, Seconds], shares: Mapping[str, float]) -> Choice:
    """Recordings for each split of ``shares`` (parts of all ``seconds``), in the order of a hash of their names.

    A pure function of names and lengths, independent of their order. At least one recording stays for training.
    """
    total = sum(seconds.values())
    left = {split: share for split, share in shares.items() if share > 0}
    whole: dict[str, str] = {}
    for name in sorted(seconds, key=ordering):
        if len(whole) + 1 >= len(seconds) or not total:
            break
        share = seconds[name] / total
        for split, wanted in left.items():
            first = wanted == shares[split]
            if share <= wanted * (_FIRST if first else _OVERSHOOT):
                whole[name] = split
                left[split] -= share
                break
    return Choice(whole, {split: wanted for split, wanted in left.items() if wanted > _ENOUGH * shares[split]})


def gap_of(duration_s: Seconds) -> Seconds:
    """The length of the gap between the training part and the held-out part of a recording."""
    return min(GAP_S, GAP_SHARE * duration_s)


def held_out_ends(duration_s: Seconds, wanted_s: Mapping[str, Seconds]) -> tuple[SplitSpan, ...]:
    """Spans at the end of a recording for the splits of ``wanted_s``, in order, each after a gap."""
    spans: list[SplitSpan] = []
    end_s, gap_s = duration_s, gap_of(duration_s)
    for split, length_s in reversed(list(wanted_s.items())):
        start_s = end_s - length_s
        spans += [SplitSpan(split, start_s, end_s if spans else math.inf), SplitSpan("", start_s - gap_s, start_s)]
        end_s = start_s - gap_s
    return tuple(reversed(spans))


def split_at(spans: tuple[SplitSpan, ...], start_s: Seconds, end_s: Seconds) -> str:
    """The split of the part of a recording from ``start_s`` to ``end_s``; "" if it overlaps a gap."""
    touched = {span.split for span in spans if start_s < span.end_s and end_s > span.start_s}
    return "train" if not touched else touched.pop() if len(touched) == 1 else ""


# --- Splits for sources that have none -------------------------------------------------------------------

GAP = "gap before held-out audio"
"""The reason of a dropped piece that is in no split."""
_BY_SENTENCE, _BY_SPEAKER, _BY_BOTH, _BY_RECORDING = (
    "by sentence",
    "by speaker",
    "by speaker and sentence",
    "by recording",
)
HOLD_OUT_METHODS = (_BY_SENTENCE, _BY_SPEAKER, _BY_RECORDING)
"""Phrases in the description of splits that mean that clips were held out."""
PERCENT = 5.0
"""Default share of dev and of test, in percent of the audio."""
LEAST_HELD_OUT = 20
"""Minimum number of labelled clips in a split by default: with fewer, error rates vary from run to run ..."""
MOST_PERCENT = 20.0
"""... but at most this percentage of the clips, because held-out clips are not trained on."""
FEWEST = 20
"""Below this number of labelled clips of a language none is held out."""
ENOUGH_SPEAKERS = 10
_LARGEST = 0.5  # maximum share of a language's clips in one group
_MORE = 1.25


def held_out_percent(labelled: int, requested: float | None = None) -> float:
    """Percent of ``labelled`` clips for dev and for test: as ``requested``, else 5, or more to reach 20 clips, at most 20."""
    if requested is not None:
        return requested
    return min(MOST_PERCENT, max(PERCENT, 100 * LEAST_HELD_OUT / max(labelled, 1)))


def assign_splits(
    clips: list[SourceClip], dev_percent: float | None, test_percent: float | None
) -> tuple[list[SourceClip], str]:
    """``clips`` with dev and test held out from the labelled ones of every language, and a description of the method.

    A percentage of ``None``: by ``held_out_percent``. Clips that share a speaker or a sentence stay in one split if that gives
    enough groups; else clips that share a speaker (from ten speakers on), else clips that share a sentence. Groups are taken in
    hash order.
    """
    chosen: dict[int, str] = {}
    ways: Counter[str] = Counter()
    requested = {"test": test_percent, "dev": dev_percent}
    for language in sorted({clip.language for clip in clips}):
        rows = [row for row, clip in enumerate(clips) if clip.language == language and clip.text]
        if len(rows) < FEWEST or not any(percent is None or percent for percent in requested.values()):
            continue
        way, groups = _grouping([clips[row] for row in rows])
        ways[way] += 1
        members: dict[str, list[int]] = {}
        for row, group in zip(rows, groups, strict=True):
            members.setdefault(group, []).append(row)
        chosen |= _hold_out(clips, members, len(rows), requested)
    held = [replace(clip, split=chosen.get(row, "train")) for row, clip in enumerate(clips)]
    if not ways:
        if all(percent == 0 for percent in requested.values()):
            return held, "as asked"
        return held, f"fewer than {FEWEST} labelled clips of a language are too few to hold any out"
    if not chosen:
        return held, "the speakers or sentences of the labelled clips are too few to hold any out"
    return held, f"labelled clips {' and '.join(ways)}, in hash order"


def _hold_out(
    clips: list[SourceClip], members: Mapping[str, list[int]], labelled: int, requested: Mapping[str, float | None]
) -> dict[int, str]:
    """The split of each held-out row. Groups may be too large for a small share: if no percentage was given, the share is
    increased until the split has ``LEAST_HELD_OUT`` clips."""
    total = sum(_weight(clips[row]) for rows in members.values() for row in rows)
    shares = {
        group: sum(_weight(clips[row]) for row in members[group]) / total for group in sorted(members, key=ordering)
    }
    percents = {split: held_out_percent(labelled, percent) for split, percent in requested.items()}
    while True:
        chosen: dict[int, str] = {}
        left = {split: percent / 100 for split, percent in percents.items()}
        for group, share in shares.items():
            split = next((name for name, wanted in left.items() if share <= wanted * 1.2), None)
            if split is not None:
                left[split] -= share
                chosen.update(dict.fromkeys(members[group], split))
        counts = Counter(chosen.values())
        few = [
            split for split, percent in percents.items()
            if requested[split] is None and counts[split] < LEAST_HELD_OUT and percent < MOST_PERCENT
        ]  # fmt: skip
        if not few:
            return chosen
        percents |= {split: min(MOST_PERCENT, _MORE * percents[split]) for split in few}


def _grouping(clips: list[SourceClip]) -> tuple[str, list[str]]:
    """The method of grouping (by speaker, sentence or both), and the group of every clip."""
    speakers = [clip.speaker for clip in clips]
    sentences = [sentence_key(clip.text) for clip in clips]
    if len(set(speakers) - {""}) < ENOUGH_SPEAKERS:
        return _BY_SENTENCE, sentences
    both = _connected(speakers, sentences)
    if max(Counter(both).values()) <= _LARGEST * len(clips):
        return _BY_BOTH, both
    return _BY_SPEAKER, [speaker or sentence for speaker, sentence in zip(speakers, sentences, strict=True)]


def _connected(speakers: list[str], sentences: list[str]) -> list[str]:
    """A group name for each clip: clips that share a speaker or sentence, directly or through others, have the same."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for speaker, sentence in zip(speakers, sentences, strict=True):
        one, other = find(("sentence", sentence)), find(("speaker", speaker or f"\0{sentence}"))
        parent[max(one, other)] = min(one, other)
    return ["\0".join(find(("sentence", sentence))) for sentence in sentences]


def _weight(clip: SourceClip) -> float:
    return clip.duration_s or 1.0


_PROBED = 2000
"""Maximum number of files whose duration is read; if there are more, the file size is a good enough estimate."""
_LEAST_CUT_S: Seconds = 300.0
"""Shorter recordings are not divided, because their end may have no speech."""
_LEAST_END_S: Seconds = 60.0
_MOST_END = 0.1
"""By default the held-out end of a recording lasts at least a minute, but at most this share of it."""
_MOST_WHOLE = {"dev": 0.25, "test": 0.1}
"""Maximum share of the audio in a split with a single recording, if no recording can be divided."""


@dataclass(frozen=True)
class _Recording:
    """A file and its unlabelled clips."""

    path: str
    name: str
    rows: list[int]
    duration_s: Seconds
    """end of its last clip"""
    audio_s: Seconds
    """total duration of its clips"""


def hold_out_recordings(
    clips: list[SourceClip], dev_percent: float | None, test_percent: float | None
) -> tuple[list[SourceClip | Dropped], str]:
    """``clips`` with dev and test held out from the unlabelled audio of every language, and a description of the method.

    Whole recordings are held out, so that no recording is in two splits; if they are too few or too uneven, the end of the
    longest one after a gap. Unlabelled pieces of a recording with labelled clips go to the split of these, if that is one,
    else to train.
    """
    percents = {"dev": dev_percent, "test": test_percent}
    shares = {split: (PERCENT if percent is None else percent) / 100 for split, percent in percents.items()}
    chosen: dict[int, SourceClip | Dropped] = {}
    lines: list[str] = []
    for language, recordings in sorted(_unlabelled(clips, chosen).items()):
        found = choose_recordings({r.name: r.audio_s for r in recordings}, shares)
        for recording in recordings:
            for row in recording.rows:
                chosen[row] = replace(clips[row], split=found.whole.get(recording.name, "train"))
        left = [r for r in recordings if r.name not in found.whole]
        if found.lacking:
            longest = max(left, key=lambda r: (r.duration_s, r.name))
            total_s = sum(recording.audio_s for recording in recordings)
            wanted_s = {split: share * total_s for split, share in found.lacking.items()}
            for split in wanted_s.keys() & {split for split, percent in percents.items() if percent is None}:
                wanted_s[split] = max(wanted_s[split], min(_LEAST_END_S, _MOST_END * longest.duration_s))
            line = _divide(clips, longest, wanted_s, chosen)
            lines.append(f"{language}: {line or _give_shortest(clips, left, found.lacking, recordings, chosen)}")
    made = [chosen.get(row, clip) for row, clip in enumerate(clips)]
    if not chosen or not sum(shares.values()):
        return made, ""
    if lines and all(isinstance(c, SourceClip) and c.split == "train" and not c.held_out for c in chosen.values()):
        return made, _too_little(made[row] for row in chosen)
    how = f"unlabelled audio {_BY_RECORDING}; {100 * shares['test']:g} % test, {100 * shares['dev']:g} % dev, in hash order"
    return made, "; ".join([how, *filter(None, lines)])


def _too_little(clips: Iterable[SourceClip | Dropped]) -> str:
    """The reason why no unlabelled clip is held out."""
    seconds: Counter[str] = Counter()
    for clip in clips:
        if isinstance(clip, SourceClip):
            seconds[clip.language] += round(_length_s(clip, True))
    found = ", ".join(f"{language} {length_s / 60:.1f} min" for language, length_s in sorted(seconds.items()))
    return f"the unlabelled audio is too little to hold any out ({found})"


def _unlabelled(clips: list[SourceClip], chosen: dict[int, SourceClip | Dropped]) -> dict[str, list[_Recording]]:
    """The unlabelled recordings of every language; unlabelled pieces of other recordings are assigned in ``chosen``."""
    labelled: dict[str, set[str]] = {}
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        if clip.text:
            labelled.setdefault(clip.path, set()).add(clip.split)
        else:
            rows.setdefault(clip.path, []).append(row)
    files = {path: found for path, found in rows.items() if path not in labelled}
    for path in rows.keys() & labelled.keys():
        split = next(iter(labelled[path])) if len(labelled[path]) == 1 else "train"
        chosen.update({row: replace(clips[row], split=split) for row in rows[path]})
    recordings: dict[str, list[_Recording]] = {}
    for path, found in files.items():
        first = clips[found[0]]
        lengths_s = [_length_s(clips[row], len(files) <= _PROBED) for row in found]
        duration_s = max(clips[row].start_s + length_s for row, length_s in zip(found, lengths_s, strict=True))
        recording = _Recording(path, first.id, found, duration_s, sum(lengths_s))
        recordings.setdefault(first.language, []).append(recording)
    return recordings


def _length_s(clip: SourceClip, probe: bool) -> Seconds:
    """The duration of ``clip`` as far as it is known before reading."""
    if clip.end_s is not None:
        return clip.end_s - clip.start_s
    if probe and clip.data is None:
        try:
            return max(1.0, probe_audio(Path(clip.path)).duration_s - clip.start_s)
        except (AudioError, OSError):
            pass  # The reader will report it; here the file size is used.
    return clip.duration_s or 1.0


def _divide(
    clips: list[SourceClip],
    longest: _Recording,
    wanted_s: Mapping[str, Seconds],
    chosen: dict[int, SourceClip | Dropped],
) -> str:
    """Hold out ``wanted_s`` at the end of ``longest``; returns a description, "" if it is too short."""
    gap_s = gap_of(longest.duration_s)
    if longest.duration_s < _LEAST_CUT_S or sum(wanted_s.values()) + len(wanted_s) * gap_s > longest.duration_s / 2:
        return ""
    spans = held_out_ends(longest.duration_s, wanted_s)
    for row in longest.rows:
        clip = clips[row]
        if clip.end_s is None and not clip.start_s:
            chosen[row] = replace(clip, held_out=spans)
            continue
        split = split_at(spans, clip.start_s, clip.end_s if clip.end_s is not None else longest.duration_s)
        chosen[row] = replace(clip, split=split) if split else Dropped(clip.id, GAP, f"of {longest.name}")
    parts = ", ".join(f"{length_s / 60:.1f} min {split}" for split, length_s in wanted_s.items())
    return f"the end of {longest.name} ({parts}, a gap of {gap_s:.0f} s before each left out)"


def _give_shortest(
    clips: list[SourceClip], left: list[_Recording], lacking: Mapping[str, float], all_: Iterable[_Recording],
    chosen: dict[int, SourceClip | Dropped],
) -> str:  # fmt: skip
    """Hold out the shortest recordings for the ``lacking`` splits, if they are not too long; returns a description."""
    total_s = sum(recording.audio_s for recording in all_)
    lines = []
    left = sorted(left, key=lambda r: (r.audio_s, r.name))
    for split in lacking:
        if len(left) > 1 and left[0].audio_s <= _MOST_WHOLE[split] * total_s:
            shortest = left.pop(0)
            chosen.update({row: replace(clips[row], split=split) for row in shortest.rows})
            lines.append(f"{shortest.name} {split}")
        else:
            lines.append(f"too little audio for a {split} split")
    return ", ".join(lines)


def clips_per_split(clip: SourceClip) -> list[SourceClip | Dropped]:
    """``clip`` divided into a clip per split if its end is held out; for recordings that are not segmented into utterances."""
    if not clip.held_out:
        return [clip]
    found: list[SourceClip | Dropped] = []
    whole = SplitSpan("train", 0.0, clip.held_out[0].start_s)
    for span in (whole, *clip.held_out):
        end_s = None if span.end_s == math.inf else span.end_s
        name = f"{clip.id}#{span.start_s:.2f}-{'' if end_s is None else f'{end_s:.2f}'}"
        if not span.split:
            found.append(Dropped(name, GAP, f"of {clip.id}"))
        else:
            length_s = (clip.duration_s if end_s is None else end_s) - span.start_s
            found.append(
                replace(clip, id=name, split=span.split, start_s=span.start_s, end_s=end_s, held_out=(),
                        duration_s=max(0.0, length_s))
            )  # fmt: skip
    return found
