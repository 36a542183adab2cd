"""Transcripts: text and words with times, conversations over several channels, and txt, JSON, SubRip and WebVTT files."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lalia.audio.channels import compare_seconds, cross_talk_ratio, is_same_sound
from lalia.audio.reading import Note
from lalia.cards import write_text
from lalia.decoding.greedy import Word, text_of_words
from lalia.errors import UserError
from lalia.text.writing_system import WritingSystem
from lalia.units import SAMPLE_RATE, Samples, Seconds

# --- A transcript ----------------------------------------------------------------------------------------


FORMATS = ("txt", "json", "srt", "vtt")


@dataclass(frozen=True)
class Transcript:
    """The text of a clip, its words with times and confidence, and the clip's length.

    It can be pickled, and writes itself as text, JSON, SubRip and WebVTT.
    """

    text: str
    words: list[Word] = field(default_factory=list)
    duration_s: Seconds = 0.0
    notes: list[Note] = field(default_factory=list, compare=False)
    """warnings about the file, such as a header with another length"""

    @property
    def segments(self) -> list[Cue]:
        """The words in pieces of at most two lines and six seconds (``make_cues``)."""
        return make_cues(self.words)

    def to_text(self) -> str:
        """A line; if speakers or channels are known, one for each turn, which begins with the speaker or channel."""
        lines = [f"{turn[0].label}: {text_of_words(turn)}" for turn in turns(self.words)]
        return "\n".join(lines if self.is_conversation else [self.text]) + "\n"

    def to_json(self, name: str = "") -> str:
        """One line of JSON, which names the audio ``name``: words with times, and turns if speakers or channels are known."""
        return _json(self, name) + "\n"

    def to_srt(self) -> str:
        """SubRip subtitles; with speakers or channels, cues begin with them."""
        return "".join(
            f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n"
            + (f"{cue.label}: " if cue.label else "")
            + "\n".join(cue.lines)
            + "\n\n"
            for number, cue in enumerate(iter_cues(self.words), start=1)
        )

    def to_vtt(self) -> str:
        """WebVTT subtitles; speakers or channels are its voices."""
        return "WEBVTT\n\n" + "".join(
            f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
            + (f"<v {_escaped(cue.label)}>" if cue.label else "")
            + "\n".join(map(_escaped, cue.lines))
            + "\n\n"
            for cue in iter_cues(self.words)
        )

    def save(self, path: Path | str, name: str = "") -> None:
        """Write the file ``path`` in the format of its suffix: .txt, .json (which names the audio ``name``), .srt or .vtt.

        It is written whole or not at all: ``UserError`` if the suffix is another one, or the disk is full.
        """
        path = Path(path)
        if path.suffix[1:].lower() not in FORMATS:
            raise UserError(f"{path}: expected a name that ends in {', '.join('.' + f for f in FORMATS)}")
        try:
            write_text(path, render(self, path.suffix[1:].lower(), name))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    @property
    def is_conversation(self) -> bool:
        """Whether speakers are known, or channels were transcribed separately."""
        return any(word.label for word in self.words)


def render(transcript: Transcript, format: str, name: str = "") -> str:
    """``transcript`` as the text of a file in one of ``FORMATS``; JSON names the audio ``name``."""
    if format == "txt":
        return transcript.to_text()
    if format == "json":
        return transcript.to_json(name)
    if format == "srt":
        return transcript.to_srt()
    if format == "vtt":
        return transcript.to_vtt()
    raise UserError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")


# --- Conversations ---------------------------------------------------------------------------------------

PHRASE_S: Seconds = 0.8
"""A longer pause ends a phrase; another speaker's phrase may follow."""
TURN_S: Seconds = 2.0
"""A longer pause ends a turn, also where nobody else speaks."""

_FRAME: Samples = SAMPLE_RATE // 50
_POINT: Samples = 163  # prime, so that no tone is in step with it
_AROUND_S: Seconds = 0.04


class Track:
    """A summary of a channel, to compare it with the others: 50 powers and 98 samples of each second."""

    def __init__(self) -> None:
        self._powers: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._shares: dict[Track, float] = {}

    def record(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield ``blocks`` of a wave (float32, 16 kHz) unchanged and record them."""
        waiting_S = np.zeros(0, np.float32)
        first: Samples = 0
        for block_S in blocks:
            waiting_S = np.concatenate([waiting_S, block_S])
            whole = len(waiting_S) // _FRAME * _FRAME
            self._powers.append(np.square(waiting_S[:whole]).reshape(-1, _FRAME).mean(axis=1))
            self._points.append(waiting_S[first:whole:_POINT].copy())
            first = (first - whole) % _POINT
            waiting_S = waiting_S[whole:]
            yield block_S

    def is_cross_talk(self, word: Word, others: Iterable[Track]) -> bool:
        """Whether a word is cross-talk from one of the other channels."""
        here = self._power(word)
        return any(here < self._cross_talk(other) * other._power(word) for other in others)

    def _cross_talk(self, other: Track) -> float:
        if other not in self._shares:
            self._shares[other] = cross_talk_ratio(self._joined(self._powers), self._joined(other._powers))
        return self._shares[other]

    def _power(self, word: Word) -> float:
        powers_T = self._joined(self._powers)
        first = max(0, int((word.start_s - _AROUND_S) * SAMPLE_RATE / _FRAME))
        last = max(first + 1, round((word.end_s + _AROUND_S) * SAMPLE_RATE / _FRAME))
        return float(powers_T[first:last].mean()) if first < len(powers_T) else 0.0

    def same_audio(self, other: Track) -> bool:
        """Whether both channels are the same audio: a mono recording saved as stereo."""
        rate = SAMPLE_RATE // _POINT
        return is_same_sound(compare_seconds(self._joined(self._points), other._joined(other._points), rate))

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        parts[:] = [np.concatenate([np.zeros(0, np.float32), *parts])]
        return parts[0]


def duplicate_channels(tracks: Sequence[Track]) -> list[int]:
    """The channels, from 0, with the same audio as an earlier one."""
    return [
        channel
        for channel, track in enumerate(tracks)
        if any(track.same_audio(earlier) for earlier in tracks[:channel])
    ]


def merge_channels(words_C: Sequence[Sequence[Word]], tracks: Sequence[Track]) -> list[Word]:
    """The words of all channels, numbered from 1, phrase by phrase in order of time.

    Cross-talk (``lalia.audio.channels``) and channels that repeat another one are left out.
    """
    phrases: list[list[Word]] = []
    left_out = duplicate_channels(tracks)
    for channel, (words, track) in enumerate(zip(words_C, tracks, strict=True)):
        if channel in left_out:
            continue
        others = [other for other in tracks if other is not track]
        own = [replace(word, channel=channel + 1) for word in words if not track.is_cross_talk(word, others)]
        phrases += _split(own, PHRASE_S)
    return [word for phrase in sorted(phrases, key=lambda phrase: phrase[0].start_s) for word in phrase]


def turns(words: Sequence[Word]) -> list[list[Word]]:
    """The words of a conversation as turns: split at each change of speaker or channel and at long pauses."""
    return _split(words, TURN_S)


def _split(words: Sequence[Word], pause_s: Seconds) -> list[list[Word]]:
    parts: list[list[Word]] = []
    for word in words:
        if parts and _goes_on(parts[-1][-1], word, pause_s):
            parts[-1].append(word)
        else:
            parts.append([word])
    return parts


def _goes_on(before: Word, word: Word, pause_s: Seconds) -> bool:
    """Whether the same speaker or channel goes on without a pause longer than ``pause_s``."""
    return word.label == before.label and word.start_s - before.end_s <= pause_s


# --- Subtitles -------------------------------------------------------------------------------------------

LINE_COLUMNS = 42
LINES = 2
LONGEST_S: Seconds = 6.0
SHORTEST_S: Seconds = 1.0
PAUSE_S: Seconds = 0.8
"""A longer pause ends a cue."""
GAP_S: Seconds = 0.25
"""A shorter gap between two cues flickers; it is closed."""
FLASH_S: Seconds = 0.25
"""No cue is shorter, even if the next one has to wait."""
COLUMNS_PER_S = 17
"""The reading speed that a cue is lengthened for, as far as the pause after it allows."""
_SENTENCE_ENDS = frozenset(".?!…。！？｡؟۔።፧।॥།။។៕")
_CLAUSE_ENDS = frozenset(",;:–—、，；：،؛፣፤፥၊")
_NOT_FIRST = (
    _SENTENCE_ENDS
    | _CLAUSE_ENDS
    | frozenset(")]}»”’％%）］｝」』】〉》〕・々ゝゞヽヾーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶๆฯໆ་")
)
"""What no line begins with: closing marks, Japanese small kana and repetition marks (JIS X 4051), the Thai and Lao ones."""


@dataclass(frozen=True)
class Cue:
    """A subtitle: ``lines`` shown from ``start_s`` to ``end_s``, their ``text`` in one line, and its ``words``.

    ``channel`` (0: mixed), ``speaker`` ("": not known) and ``label`` are those of its words.
    """

    start_s: Seconds
    end_s: Seconds
    lines: tuple[str, ...]
    channel: int = 0
    text: str = ""
    speaker: str = ""
    label: str = ""
    words: tuple[Word, ...] = ()
    """a word longer than a line in its parts"""


def make_cues(words: Iterable[Word]) -> list[Cue]:
    """Words as cues of at most two lines and six seconds, in order; cues of one speaker or channel do not overlap.

    A line has at most 42 columns, a wide character counts two, and a longer word is broken between letters. A cue is shown for
    at least a second and until it is read at 17 columns a second, if the next one leaves the time. Gaps under 0.25 s are closed.
    Netflix's Timed Text Style Guides have 42 columns (16 characters of Chinese), two lines, up to 17 to 20 characters a second
    (9 of Chinese: each counts two columns here) and 5/6 s to 7 s; the BBC's Subtitle Guidelines advise breaks at punctuation
    and pauses, and no gap that flickers.
    """
    return list(iter_cues(words))


def iter_cues(words: Iterable[Word]) -> Iterator[Cue]:
    """``make_cues`` for words that come one by one: each cue as soon as the words after it show where it and the next one end."""
    ends: dict[str, Seconds] = {}
    group: list[Word] = []
    for following in _groups(words):
        if group:
            yield _cue(group, following, ends)
        group = following
    if group:
        yield _cue(group, [], ends)


def _cue(group: list[Word], following: list[Word], ends: dict[str, Seconds]) -> Cue:
    """The cue of ``group``; ``ends`` are those of the last cue of each speaker or channel."""
    label, last_s = group[0].label, group[-1].end_s
    before_s = ends.get(label, -math.inf)
    start_s = before_s if group[0].start_s - before_s < GAP_S else group[0].start_s
    lines = _lines(group)
    read_s = start_s + max(SHORTEST_S, sum(map(_columns, lines)) / COLUMNS_PER_S)
    end_s = max(last_s, read_s)
    if following:
        end_s = min(end_s, max(following[0].start_s, last_s))
        if 0 < following[0].start_s - end_s < GAP_S:
            end_s = following[0].start_s
    ends[label] = end_s = max(min(end_s, start_s + LONGEST_S), start_s + FLASH_S)
    text = text_of_words(group)
    return Cue(start_s, end_s, tuple(lines), group[0].channel, text, group[0].speaker, label, tuple(group))


def _groups(words: Iterable[Word]) -> Iterator[list[Word]]:
    """Each cue's words: cut after a long pause; within a phrase, after a sentence, else a clause, else at the longest pause."""
    phrase: list[Word] = []
    for word in _unbroken(words):
        if phrase and not _goes_on(phrase[-1], word, PAUSE_S):
            yield phrase
            phrase = []
        phrase.append(word)
        while (fitting := _fitting(phrase)) < len(phrase):
            at = _best_cut(phrase, fitting)
            yield phrase[:at]
            phrase = phrase[at:]
    if phrase:
        yield phrase


def _unbroken(words: Iterable[Word]) -> Iterator[Word]:
    """What a line keeps together, each at most a line wide: words with the marks after them, and the parts of longer words."""
    whole: Word | None = None
    for word in filter(lambda word: word.text, words):
        if whole is not None and word.text[0] in _NOT_FIRST and word.label == whole.label:
            whole = replace(whole, text=whole.text + word.text, end_s=word.end_s)
            continue
        if whole is not None:
            yield from _broken(whole)
        whole = word
    if whole is not None:
        yield from _broken(whole)


def _broken(word: Word) -> list[Word]:
    """A word in parts of at most a line, cut between letters; its time is shared among them by their width."""
    if (width := _columns(word.text)) <= _room(word):
        return [word]
    parts = [""]
    for letter in _clusters(word.text):
        if parts[-1] and _columns(parts[-1] + letter) > _room(word):
            parts.append("")
        parts[-1] += letter
    found: list[Word] = []
    start_s = word.start_s
    for part in parts:
        end_s = start_s + (word.end_s - word.start_s) * _columns(part) / width
        found.append(replace(word, text=part, start_s=start_s, end_s=end_s, joined=word.joined or bool(found)))
        start_s = end_s
    return found


def _clusters(text: str) -> list[str]:
    """The places where a word may be broken: its syllables or clusters, and letters with their marks in other scripts."""
    found: list[str] = []
    for piece in WritingSystem().cut(text):
        if _columns(piece) < LINE_COLUMNS // 2:
            found.append(piece)
            continue
        for letter in piece:
            joined = found and (_is_mark(letter) or letter in _NOT_FIRST or found[-1][-1] == "\u200d")
            found[-1:] = [found[-1] + letter] if joined else [*found[-1:], letter]
    return found


def _best_cut(phrase: Sequence[Word], fitting: int) -> int:
    """How many of the ``fitting`` words to keep together, at least half of their letters."""
    enough = sum(_columns(word.text) for word in phrase[:fitting]) / 2
    places, columns = [], 0
    for at in range(1, fitting + 1):
        columns += _columns(phrase[at - 1].text)
        if columns >= enough:
            mark = phrase[at - 1].text[-1]
            rank = 2 if mark in _SENTENCE_ENDS else 1 if mark in _CLAUSE_ENDS else 0
            places.append((rank, round(phrase[at].start_s - phrase[at - 1].end_s, 3), at))
    return max(places)[2]


def _fitting(phrase: Sequence[Word]) -> int:
    """How many words of ``phrase`` fit into two lines and six seconds; at least one."""
    lines, columns = 1, _columns(phrase[0].text)
    for at in range(1, len(phrase)):
        more = _columns(phrase[at].text)
        columns += int(not phrase[at].joined) + more
        if columns > _room(phrase[at]):
            lines, columns = lines + 1, more
        if lines > LINES or phrase[at].end_s - phrase[0].start_s > LONGEST_S:
            return at
    return len(phrase)


def _lines(group: Sequence[Word]) -> list[str]:
    """The text of a cue: one line if it fits, else two, broken after a mark or where they are most even."""
    whole = text_of_words(group)
    if _columns(whole) <= _room(group[0]):
        return [whole]
    places = []
    for at in range(1, len(group)):
        first, second = text_of_words(group[:at]), text_of_words(group[at:])
        if max(_columns(first), _columns(second)) <= _room(group[0]):
            marked = first[-1] in _SENTENCE_ENDS or first[-1] in _CLAUSE_ENDS
            places.append((marked, -abs(_columns(first) - _columns(second)), [first, second]))
    return max(places)[2]


def _room(word: Word) -> int:
    """The columns of a line, less those of the speaker's name or the channel's number."""
    return LINE_COLUMNS - (len(f"{word.label}: ") if word.label else 0)


def _columns(text: str) -> int:
    """The width of ``text`` as terminals and subtitles count: marks and joiners 0, wide and full-width characters 2."""
    return sum(0 if _is_mark(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _is_mark(letter: str) -> bool:
    """Whether ``letter`` has no width: a mark, a joiner, or a vowel or final consonant of a Hangul syllable in parts."""
    return unicodedata.category(letter) in ("Mn", "Me", "Cf") or "\u1160" <= letter <= "\u11ff"


# --- Transcripts as files --------------------------------------------------------------------------------


def _json(transcript: Transcript, name: str) -> str:
    found = {
        "audio": name,
        "duration_s": transcript.duration_s,
        "text": transcript.text,
        "words": [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": round(w.confidence, 3)}
            | ({"joined": True} if w.joined else {})
            | who(w)
            for w in transcript.words
        ],
    }
    if transcript.is_conversation:
        found["turns"] = [
            who(turn[0]) | {"start_s": turn[0].start_s, "end_s": turn[-1].end_s, "text": text_of_words(turn)}
            for turn in turns(transcript.words)
        ]
    return json.dumps(found, ensure_ascii=False)


def who(part: Word | Cue) -> dict[str, int | str]:
    """The channel and the speaker of a word or a cue, as far as they are known, for JSON."""
    channel: dict[str, int | str] = {"channel": part.channel} if part.channel else {}
    return channel | ({"speaker": part.speaker} if part.speaker else {})


def _clock(seconds: Seconds, mark: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
