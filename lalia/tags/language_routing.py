"""Transcribe recordings in several languages: each part by the student of its language (``lalia transcribe --language auto``).

A recording is cut at quiet places into pieces of 6 to 12 s. A tagger names each piece's language among those of the students;
without a tagger every student transcribes it, and the one that is most confident wins. Neighbouring pieces of one language are
transcribed together, up to a minute at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalia.audio.channels import EACH
from lalia.audio.reading import Note, Source, read_blocks
from lalia.decoding.greedy import Word, text_of_words
from lalia.errors import UserError
from lalia.inputs import identify
from lalia.runtime.student import DEFAULTS, Student, TranscribeOptions
from lalia.runtime.transcript import Transcript
from lalia.tags.tagger import Tagger
from lalia.text.language_codes import match_languages
from lalia.units import Samples, Seconds, clock, to_samples, to_seconds

PIECE_S: tuple[Seconds, Seconds] = (6.0, 12.0)
"""A piece is cut at the quietest place between these."""
LONGEST_S: Seconds = 60.0
QUIET: Samples = to_samples(0.1)
STUDENTS = ("student", "run of recogniser")


class StudentsByLanguage:
    """Students of several languages that transcribe one recording, each the parts in its language."""

    def __init__(self, students: dict[str, Student], tagger: Tagger | None = None) -> None:
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

    def transcribe(self, source: Source, name: str | None = None, options: TranscribeOptions = DEFAULTS) -> Transcript:
        """As ``Student.transcribe``, without a decoder; a note says which languages were found, and when."""
        if options.channels == EACH:
            raise UserError("--language auto mixes channels; take one with --channels N")
        blocks = read_blocks(source, name, channel=options.channels, tell=options.on_note)
        words: list[Word] = []
        parts: list[tuple[str, Seconds, Seconds]] = []
        duration_s = 0.0
        for code, start_s, wave_S in self._parts(blocks):
            student, end_s = self.students[code], start_s + to_seconds(len(wave_S))
            found = student.transcribe(wave_S, name, replace(options, channels=None))
            words += [replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s) for word in found.words]
            if parts and parts[-1][0] == code:
                parts[-1] = (code, parts[-1][1], end_s)
            else:
                parts.append((code, start_s, end_s))
            duration_s = end_s
        spans = "; ".join(f"{code} {clock(start_s)} to {clock(end_s)}" for code, start_s, end_s in parts)
        if parts:
            options.on_note(Note("languages", f"languages: {spans}"))
        return Transcript(_text(words, parts), words, round(duration_s, 3))

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
