"""Splits for labelled sources that have none: by speaker and sentence where that is possible, else by what is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lalia.data.prepare.clips import Clip, ordering, sentence_key

ENOUGH_SPEAKERS = 10
_LARGEST = 0.5  # of a language's clips, in the largest group that must stay together


def assign_splits(clips: list[Clip], dev_percent: float, test_percent: float) -> tuple[list[Clip], str]:
    """``clips`` with dev and test held out of every language's labelled ones, and in a sentence how that was done.

    Clips that share a speaker or a sentence stay in one split where the clips fall into enough groups that way; else those
    that share a speaker (from ten speakers), else those that share a sentence. Groups go in hash order.
    """
    chosen: dict[int, str] = {}
    ways: Counter[str] = Counter()
    for language in sorted({clip.language for clip in clips}):
        rows = [row for row, clip in enumerate(clips) if clip.language == language and clip.text]
        if len(rows) < 20 or not dev_percent + test_percent:
            continue
        way, groups = _grouping([clips[row] for row in rows])
        ways[way] += 1
        members: dict[str, list[int]] = {}
        for row, group in zip(rows, groups, strict=True):
            members.setdefault(group, []).append(row)
        wanted = {"test": test_percent / 100, "dev": dev_percent / 100}
        total = sum(_weight(clips[row]) for row in rows)
        for group in sorted(members, key=ordering):
            share = sum(_weight(clips[row]) for row in members[group]) / total
            split = next((name for name, left in wanted.items() if share <= left * 1.2), None)
            if split is not None:
                wanted[split] -= share
                chosen.update(dict.fromkeys(members[group], split))
    held = [replace(clip, split=chosen.get(row, "train")) for row, clip in enumerate(clips)]
    how = " and ".join(ways) if ways else "none: too few labelled clips"
    return held, f"{how}; {test_percent:g} % test, {dev_percent:g} % dev, in hash order" if ways else how


def _grouping(clips: list[Clip]) -> tuple[str, list[str]]:
    """How to keep together what belongs together, and the group of every clip."""
    speakers = [clip.speaker for clip in clips]
    sentences = [sentence_key(clip.text) for clip in clips]
    if len(set(speakers) - {""}) < ENOUGH_SPEAKERS:
        return "by sentence", sentences
    both = _connected(speakers, sentences)
    if max(Counter(both).values()) <= _LARGEST * len(clips):
        return "by speaker and sentence", both
    return "by speaker", [speaker or sentence for speaker, sentence in zip(speakers, sentences, strict=True)]


def _connected(speakers: list[str], sentences: list[str]) -> list[str]:
    """A name for each clip that it has in common with all that share its speaker or sentence, through any number."""
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


def _weight(clip: Clip) -> float:
    return clip.duration_s or 1.0
