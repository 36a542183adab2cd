"""Transcribe recordings in several languages: each part by the student of its language (``--language auto``, ``language=auto``).

A recording is cut at quiet places into pieces of 6 to 12 s. A tagger names each piece's language among those of the students;
without a tagger every student transcribes it, and the one that is most confident wins. Neighbouring pieces of one language are
transcribed together, up to a minute at a time. A stream is in one language, that of its first seconds of sound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalia.audio.channels import EACH
from lalia.audio.reading import Note, Resampler, Source, read_blocks
from lalia.decoding.decoder import Decoder
from lalia.decoding.greedy import Word, text_of_words
from lalia.errors import UserError
from lalia.inputs import identify
from lalia.runtime.naming import name_speakers
from lalia.runtime.streaming import Stream, StreamUpdate
from lalia.runtime.student import DEFAULTS, Student, TranscribeOptions
from lalia.runtime.transcript import Transcript
from lalia.tags.tagger import Tagger
from lalia.text.language_codes import match_languages
from lalia.threads import last_value
from lalia.units import Samples, Seconds, clock, to_samples, to_seconds

PIECE_S: tuple[Seconds, Seconds] = (6.0, 12.0)
"""A piece is cut at the quietest place between these."""
LONGEST_S: Seconds = 60.0
QUIET: Samples = to_samples(0.1)
STUDENTS = ("student", "run of recogniser")


class StudentsByLanguage:
    """Students of several languages that transcribe one recording, each the parts in its language."""

    def __init__(self, students: Mapping[str, Student], tagger: Tagger | None = None) -> None:
        """``students`` by language; one that is loaded when it is looked up is loaded when its language is spoken."""
        self.students, self.tagger = students, tagger
        self._labels: dict[str, str] = {}
        """the tagger's label of each language"""
        if tagger is not None:
            tagger.require_task("language", "--tagger")
            known = {code: match_languages([code], tagger.labels)[0] for code in students}
            self._labels = {code: label for code, label in known.items() if label in tagger.labels}
            if len(self._labels) < 2:
                raise UserError(
                    f"--tagger: tells {', '.join(tagger.labels[:10])} apart, the students write {', '.join(students)}; two "
                    "or more languages have to be the same"
                )
            if lost := sorted(set(students) - set(self._labels)):
                print(f"lalia: the tagger does not know {', '.join(lost)}, which is not transcribed", file=sys.stderr)

    @classmethod
    def load(cls, folder: Path, tagger: Path | None, threads: int | None = None) -> StudentsByLanguage:
        """The students in the subfolders of ``folder``, or the languages of the one student ``folder``."""
        alone = identify(folder).kind in STUDENTS
        paths = (
            [folder] if alone else sorted(p for p in folder.glob("*") if p.is_dir() and identify(p).kind in STUDENTS)
        )
        students: dict[str, Student] = {}
        for path in paths:
            student = Student.load(path, threads)
            for code in student.normaliser.languages or student.languages:
                if code in students:
                    raise UserError(
                        f"{path}: writes {code}, as another student in {folder} does; keep one of them there"
                    )
                students[code] = student.in_language(code) if len(student.normaliser.languages) > 1 else student
        if len(students) < 2:
            found = f"writes {' and '.join(students)} only" if students else f"{identify(folder).description}"
            raise UserError(f"{folder}: {found}; --language auto needs a folder with students of two or more languages")
        return cls(students, Tagger.load(tagger, threads) if tagger else None)

    @property
    def languages(self) -> list[str]:
        return list(self.students)

    def transcribe(
        self, source: Source | np.ndarray, name: str | None = None, options: TranscribeOptions = DEFAULTS
    ) -> Transcript:
        """As ``Student.transcribe``, without a decoder; a note says which languages were found, and when."""
        return last_value(self.steps(source, name, options))

    def steps(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        options: TranscribeOptions = DEFAULTS,
        decoder: Callable[[str], Decoder | None] = lambda code: None,
        on_language: Callable[[str], None] = lambda code: None,
    ) -> Generator[Seconds, None, Transcript]:
        """``transcribe`` as ``Student.steps``. ``decoder`` makes that of a language's student; ``on_language`` receives the
        language of each part."""
        if options.channels == EACH:
            raise UserError("--language auto mixes channels; take one with --channels N")
        notes: list[Note] = []

        def note(found: Note) -> None:
            notes.append(found)
            options.on_note(found)

        blocks = (
            [source]
            if isinstance(source, np.ndarray)
            else read_blocks(source, name, channel=options.channels, tell=note)
        )
        words: list[Word] = []
        parts: list[tuple[str, Seconds, Seconds]] = []
        decoders: dict[str, Decoder | None] = {}
        duration_s = 0.0
        for code, start_s, wave_S in self._parts(blocks):
            student, end_s = self.students[code], start_s + to_seconds(len(wave_S))
            if code not in decoders:
                decoders[code] = decoder(code)
            on_language(code)
            steps = student.steps(wave_S, name, replace(options, channels=None, decoder=decoders[code], diarizer=None))
            try:
                while True:
                    yield start_s + next(steps)
            except StopIteration as end:
                found = end.value
            words += [replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s) for word in found.words]
            if parts and parts[-1][0] == code:
                parts[-1] = (code, parts[-1][1], end_s)
            else:
                parts.append((code, start_s, end_s))
            duration_s = end_s
        spans = "; ".join(f"{code} {clock(start_s)} to {clock(end_s)}" for code, start_s, end_s in parts)
        if parts:
            note(Note("languages", f"languages: {spans}"))
        transcript = Transcript(_text(words, parts), words, round(duration_s, 3), notes)
        if options.diarizer is None:
            return transcript
        return (
            yield from name_speakers(
                transcript, options.diarizer, source, name, speakers=options.speakers, channel=options.channels,
                jobs=options.jobs, on_note=note,
            )
        )  # fmt: skip

    def _parts(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[str, Seconds, np.ndarray]]:
        """(language, start, wave) of consecutive parts of the recording. Silent pieces go to the language before them."""
        held: list[np.ndarray] = []
        language, start, at = "", 0, 0
        for piece_S in pieces(blocks):
            code = self.language_of(piece_S) or language
            length = sum(map(len, held))
            if held and ((code != language and language) or length + len(piece_S) > to_samples(LONGEST_S)):
                yield language or next(iter(self.students)), to_seconds(start), np.concatenate(held)
                held, start = [], at
            held.append(piece_S)
            language, at = code or language, at + len(piece_S)
        if held:
            yield language or next(iter(self.students)), to_seconds(start), np.concatenate(held)

    def language_of(self, wave_S: np.ndarray) -> str:
        """The likeliest language of a piece among those of the students; "" for silence."""
        if self.tagger is not None:
            ranked = self.tagger.tag(wave_S).whole.labels
            places = {label: number for number, (label, _) in enumerate(ranked)}
            return min(self._labels, key=lambda code: places[self._labels[code]]) if ranked else ""
        scores = {code: _confidence(student.transcribe(wave_S).words) for code, student in self.students.items()}
        best = max(scores, key=lambda code: scores[code])
        return best if scores[best] > 0 else ""


class RoutedStream:
    """A stream whose language is found: ``SOUND_S`` seconds wait, then ``begin(code)`` makes the stream of that language.

    Silence waits on, for ``LONGEST_S`` at most; then the first language is taken.
    """

    SOUND_S: Seconds = 3.0

    def __init__(self, routing: StudentsByLanguage, begin: Callable[[str], Stream], rate: int) -> None:
        self.rate = rate
        self.language = ""
        self._routing, self._begin = routing, begin
        self._resampler = Resampler(rate)
        self._stream: Stream | None = None
        self._held: list[np.ndarray] = []
        self._wave_S = np.zeros(0, np.float32)
        self._next_s = self.SOUND_S
        self._held_s: Seconds = 0.0

    @property
    def words(self) -> list[Word]:
        return self._stream.words if self._stream is not None else []

    @property
    def heard_s(self) -> Seconds:
        return self._stream.heard_s if self._stream is not None else self._held_s

    def feed(self, samples: np.ndarray) -> StreamUpdate:
        """As ``Stream.feed``; nothing until the language is found."""
        if self._stream is not None:
            return self._stream.feed(samples)
        self._held.append(samples)
        self._held_s += len(samples) / self.rate
        self._wave_S = np.concatenate([self._wave_S, self._resampler(samples)])
        if self._held_s < self._next_s:
            return StreamUpdate(heard_s=self._held_s)
        self._next_s = self._held_s + 1.0
        code = self._routing.language_of(self._wave_S)
        if not code and self._held_s < LONGEST_S:
            return StreamUpdate(heard_s=self._held_s)
        return self._start(code)

    def finish(self) -> StreamUpdate:
        """As ``Stream.finish``."""
        update = StreamUpdate()
        if self._stream is None:
            update = self._start(self._routing.language_of(self._wave_S) if len(self._wave_S) else "")
        assert self._stream is not None
        last = self._stream.finish()
        return StreamUpdate(update.stable + last.stable, [], last.heard_s)

    def _start(self, code: str) -> StreamUpdate:
        self.language = code or self._routing.languages[0]
        self._stream = self._begin(self.language)
        held, self._held, self._wave_S = self._held, [], self._wave_S[:0]
        return self._stream.feed(np.concatenate(held)) if held else StreamUpdate()


def pieces(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The wave in pieces cut at the quietest place between ``PIECE_S`` seconds."""
    shortest, longest = map(to_samples, PIECE_S)
    held_S = np.zeros(0, np.float32)
    for block_S in blocks:
        held_S = np.concatenate([held_S, block_S])
        while len(held_S) > longest + shortest:
            frames_TS = np.square(held_S[shortest:longest].reshape(-1, QUIET)).mean(1)
            cut = shortest + int(frames_TS.argmin()) * QUIET + QUIET // 2
            yield held_S[:cut]
            held_S = held_S[cut:]
    if len(held_S):
        yield held_S


def _confidence(words: list[Word]) -> float:
    """The mean confidence of words by letter; 0 without words."""
    letters = sum(len(word.text) for word in words)
    return sum(word.confidence * len(word.text) for word in words) / letters if letters else 0.0


def _text(words: list[Word], parts: list[tuple[str, Seconds, Seconds]]) -> str:
    """The words as text, a line for each language in turn."""
    return "\n".join(
        text for _, start_s, end_s in parts if (text := text_of_words(w for w in words if start_s <= w.start_s < end_s))
    )
