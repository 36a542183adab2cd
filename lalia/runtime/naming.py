"""Words with their speakers: a transcript and the turns of a diarizer, on one channel or on each of a call."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lalia.audio.reading import Note, NoteHandler, Source, ignore_note
from lalia.decoding.greedy import Word, text_of_words
from lalia.runtime.transcript import Transcript, turns
from lalia.speakers.diarizer import Diarizer, remarks, speaker_name
from lalia.speakers.rttm import SpeakerTurn
from lalia.units import Seconds

SPEAKERS = "speakers"
"""The kind of notes about speakers."""


def name_speakers(
    transcript: Transcript,
    diarizer: Diarizer,
    source: Source | np.ndarray,
    name: str | None = None,
    *,
    speakers: int | None = None,
    channel: int | None = None,
    jobs: int = 1,
    on_note: NoteHandler = ignore_note,
) -> Generator[Seconds, None, Transcript]:
    """``transcript`` of ``source`` with the speaker of each word; yields the seconds read as ``Diarizer.steps`` does.

    If channels were transcribed separately, each is diarized by itself, and a note says which speakers are on which channel.
    Otherwise ``channel``, from 0, is the one that was transcribed (None: the mix).
    """
    separate = sorted({word.channel for word in transcript.words if word.channel})
    found: dict[int, Sequence[SpeakerTurn]] = {}
    for number in separate or [0]:
        which = number - 1 if number else channel
        result = yield from diarizer.steps(source, name, speakers=speakers, channel=which, jobs=jobs)
        found[number] = result.turns
        for line in [] if separate else remarks(result, speakers):
            on_note(Note(SPEAKERS, line))
    words = _in_order_of_speech(name_words(transcript.words, found))
    if separate:
        here = {number: sorted({word.speaker for word in words if word.channel == number}) for number in separate}
        told = [
            f"speaker{'s' * (len(names) > 1)} {' and '.join(names)}: channel {number}" for number, names in here.items()
        ]
        on_note(Note(SPEAKERS, ", ".join(told)))
    text = "\n".join(text_of_words(turn) for turn in turns(words))
    return replace(transcript, text=text if separate else transcript.text, words=words)


def name_words(words: Sequence[Word], turns_by_channel: Mapping[int, Sequence[SpeakerTurn]]) -> list[Word]:
    """Each word with the speaker who talks longest during it; outside of all turns, with that of the nearest one.

    Turns are in order of their start. Speakers of several channels get the channel's number before their name. Words of a channel
    without turns keep their speaker.
    """
    prepared = {}
    for channel, found in turns_by_channel.items():
        starts = np.array([turn.start_s for turn in found])
        prepared[channel] = (found, starts, np.maximum.accumulate(np.array([turn.end_s for turn in found])))
    named = []
    for word in words:
        found, starts, ends = prepared[word.channel]
        if not len(found):
            named.append(word)
            continue
        # The turns that can overlap the word, and one on either side.
        first = max(0, int(np.searchsorted(ends, word.start_s)) - 1)
        last = int(np.searchsorted(starts, word.end_s)) + 1
        shared: dict[str, float] = {}
        for turn in found[first:last]:
            overlap_s = min(turn.end_s, word.end_s) - max(turn.start_s, word.start_s)
            shared[turn.speaker] = max(overlap_s, shared.get(turn.speaker, -np.inf))
        best = max(shared, key=lambda speaker: shared[speaker])
        named.append(replace(word, speaker=f"{word.channel}{best}" if len(turns_by_channel) > 1 else best))
    return named


def _in_order_of_speech(words: Sequence[Word]) -> list[Word]:
    """The speakers renamed A, B, … in order of their first words."""
    names: dict[str, str] = {}
    for word in words:
        if word.speaker and word.speaker not in names:
            names[word.speaker] = speaker_name(len(names))
    return [replace(word, speaker=names.get(word.speaker, "")) for word in words]
