"""The students that a server offers: found in folders, loaded when first requested, replaced by a new version without a gap.

Whoever transcribes holds a ``Served`` and ends with that version. The least recently used students beyond ``keep`` are unloaded;
one that a request or a stream still holds stays in memory until then, and is not loaded twice.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from lalia.audio.reading import Note, NoteHandler
from lalia.cards import read_card
from lalia.decoding.automata import BOOST, writable
from lalia.decoding.decoder import Decoder, DecodingInputs
from lalia.errors import UserError
from lalia.inputs import identify
from lalia.model_folder import NORMALISER, find_exported, languages_of
from lalia.runtime.student import Student
from lalia.serve.limits import RequestError
from lalia.tags.language_routing import STUDENTS, StudentsByLanguage
from lalia.tags.tagger import Tagger
from lalia.text.language_codes import language_name, match_languages
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens

LOG = logging.getLogger("lalia.serve")
AUTO = "auto"
"""The ``language`` that is found by a tagger, and the ``model`` that is chosen by the language."""
KEEP = 8

Load = Callable[[str, Path], tuple[Student, DecodingInputs]]
"""Loads the student of a name from its folder; ``UserError`` if that cannot be."""
Gate = Callable[[Student, Student], str]
"""Compares a student with its new version and reports the figures; ``UserError`` if the new one is worse."""


def load_plain(name: str, folder: Path) -> tuple[Student, DecodingInputs]:
    """The student in ``folder`` on one thread, decoded greedily."""
    return Student.load(folder, 1), DecodingInputs()


@dataclass(frozen=True)
class Listed:
    """What the folder of a student says without loading its model."""

    name: str
    path: Path
    id: str
    languages: list[str]
    several: bool
    """whether it writes one of ``languages`` by choice"""
    streaming: Any
    created: int

    @classmethod
    def read(cls, name: str, path: Path) -> Listed:
        """Of the student in ``path``, or of the run ``path``; ``UserError`` if there is none."""
        folder = find_exported(path)
        card = read_card(folder, "student")
        normaliser = Normaliser.from_json(folder / NORMALISER)
        writes = normaliser.languages
        languages = writes or languages_of(card, normaliser.settings.language)
        created = int((folder / NORMALISER).stat().st_mtime)
        return cls(name, path, str(card["id"]), languages, len(writes) > 1, card.get("streaming"), created)

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI's API lists a model, with lalia's facts."""
        return {
            "id": self.name, "object": "model", "created": self.created, "owned_by": "lalia", "version": self.id,
            "languages": {code: language_name(code) or code for code in self.languages},
            "streaming": self.streaming,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded version of a student, in one of its languages."""

    name: str
    student: Student
    decoding: DecodingInputs = field(default_factory=DecodingInputs)
    origin: Served | None = None
    """the version as it was loaded, which stays in memory as long as this"""

    def in_language(self, language: str) -> Served:
        """In ``language``; a student of one language writes that, whatever a client sends."""
        if not language or len(self.student.normaliser.languages) < 2:
            return self
        try:
            return replace(self, student=self.student.in_language(language), origin=self.origin or self)
        except UserError as error:
            raise RequestError(400, "no_language", str(error)) from error

    @property
    def language(self) -> str:
        """The code that it writes; several if its rules are not chosen by language."""
        normaliser = self.student.normaliser
        if len(normaliser.languages) > 1:
            return normaliser.settings.language
        found = self.student.card.get("language") or []
        return ",".join([found] if isinstance(found, str) else found)

    @property
    def tokens(self) -> Tokens:
        return self.student.tokens

    def decoder(self, phrases: str, most: int, on_note: NoteHandler) -> Decoder | None:
        """A decoder for one request that boosts ``phrases`` as well; None: greedy decoding."""
        return self.decoding.decoder(self.student, hot_words(phrases, self.student, most, on_note))


def hot_words(text: str, student: Student, most: int, on_note: NoteHandler) -> dict[str, float]:
    """The phrases of a request, separated by commas or lines, normalised; those that the student cannot write become a note."""
    phrases = [phrase for phrase in re.split(r"[\n,;]", text) if phrase.strip()]
    if len(phrases) > most:
        raise RequestError(400, "too_many_words", f"{len(phrases)} phrases to boost; expected at most {most}")
    normaliser = student.normaliser
    found, skipped = writable(
        ((f"{phrase.strip()[:40]!r}", normaliser.for_text(phrase)(phrase), BOOST) for phrase in phrases), student.tokens
    )
    if skipped:
        on_note(Note("hot words", f"phrases that the student cannot write are not boosted: {skipped}"))
    return found


class Students:
    """The students in ``sources``: folders of a student (or run) each, or folders that hold several of them.

    The name of a student is that of its folder. The first is the default. Methods may be called from any thread; ``get``,
    ``replace`` and ``reload`` read from disk.
    """

    def __init__(
        self, sources: Sequence[Path], load: Load = load_plain, keep: int = KEEP, tagger: Tagger | None = None,
        gate: Gate | None = None,
    ) -> None:  # fmt: skip
        self._sources, self._load, self._keep, self._gate = list(sources), load, keep, gate
        self._tagger = tagger
        self._loading = threading.Lock()  # one at a time: a model needs most memory while it is loaded
        self._changing = threading.Lock()
        self._recent: OrderedDict[str, Served] = OrderedDict()
        self._alive: WeakValueDictionary[str, Served] = WeakValueDictionary()
        self._routings: dict[tuple[str, ...], tuple[StudentsByLanguage, ByLanguage]] = {}
        self._listed = self._scan()
        if tagger is not None:
            self._route("")  # a tagger of other languages is an error at the start

    # --- Which there are --------------------------------------------------------------------------------

    def _scan(self) -> dict[str, Listed]:
        found: dict[str, Listed] = {}
        for source in self._sources:
            paths = [source]
            if source.is_dir() and identify(source).kind not in STUDENTS:
                paths = sorted(p for p in source.glob("*") if p.is_dir() and identify(p).kind in STUDENTS) or paths
            for path in paths:
                # Not resolved: a link that is set to a new version keeps its name.
                name = path.name if path.name not in ("", "..") else path.resolve().name
                if name in found:
                    raise UserError(f"{path}: is named {name}, as {found[name].path} is; rename one of the folders")
                found[name] = Listed.read(name, path)
        return found

    @property
    def listed(self) -> list[Listed]:
        """All students, loaded or not."""
        return list(self._listed.values())

    @property
    def default(self) -> Listed:
        return self.listed[0]

    @property
    def finds_languages(self) -> bool:
        """Whether ``language=auto`` can be requested."""
        return self._tagger is not None

    @property
    def loaded(self) -> list[str]:
        """The names of those in memory."""
        return sorted(self._alive)

    def find(self, name: str) -> Listed:
        """The student of this name; ``RequestError`` 404 as OpenAI's API answers."""
        if name not in self._listed:
            there = ", ".join(list(self._listed)[:20])
            raise RequestError(404, "model_not_found", f"model {name[:80]!r} is not here; there are: {there}")
        return self._listed[name]

    def choose(self, model: str, language: str) -> Listed:
        """The student for a request's ``model``, else for its ``language``, else the default one.

        A server of one student uses it for every name, since clients send ``whisper-1``.
        """
        if len(self._listed) == 1:
            return self.default
        if model and model != AUTO:
            return self.find(model)
        if not language:
            return self.default
        for listed in self.listed:
            if match_languages([language], listed.languages)[0] in listed.languages:
                return listed
        there = ", ".join(sorted({code for listed in self.listed for code in listed.languages}))
        raise RequestError(400, "no_language", f"no student here writes {language[:40]!r}; there are: {there}")

    # --- Loaded versions --------------------------------------------------------------------------------

    def peek(self, name: str) -> Served | None:
        """The student if it is in memory; never waits."""
        with self._changing:
            served = self._alive.get(name)
            if served is not None:
                self._use(name, served)
            return served

    def get(self, name: str) -> Served:
        """The student, loaded if it is not; ``RequestError`` 503 if it cannot be."""
        if (served := self.peek(name)) is not None:
            return served
        with self._loading:
            if (served := self.peek(name)) is not None:
                return served
            listed, began = self.find(name), time.monotonic()
            try:
                served = self._open(listed)
            except UserError as error:
                LOG.error("student %s cannot be loaded: %s", name, error)
                what = f"model {name!r} cannot be loaded: its files are missing or damaged; the server has logged the reason"
                raise RequestError(503, "model_unavailable", what) from error
            LOG.info("student %s loaded in %.2f s", name, time.monotonic() - began)
            with self._changing:
                self._use(name, served)
            return served

    def replace(self, name: str) -> tuple[Listed, str]:
        """Load the version of ``name`` that is on disk, for all later requests: what is there now, and what the gate reports.

        ``UserError`` with the reason if it cannot be loaded or does not pass the gate: then the old version stays. A student
        that is new in a folder is taken in; ``RequestError`` 404 if there is none.
        """
        with self._loading:
            if name not in self._listed:
                listed = self._scan().get(name) or self.find(name)  # ``find`` refuses
            else:
                listed = Listed.read(name, self._listed[name].path)
            served = self._open(listed)
            old, report = self._alive.get(name), ""
            if self._gate is not None and old is not None:
                report = self._gate(old.student, served.student)
            with self._changing:
                self._listed = {**self._listed, name: listed}
                self._routings = {}
                self._use(name, served)
        return listed, report

    def reload(self) -> Iterator[str]:
        """Look for new and removed students, and ``replace`` those in memory; a line for the log about each."""
        try:
            found = self._scan()
        except UserError as error:
            yield f"students are not looked for: {error}"
            found = dict(self._listed)
        with self._changing:
            gone = sorted(set(self._listed) - set(found))
            new = sorted(set(found) - set(self._listed))
            # A version in memory stays listed as it is until the new one has taken its place.
            self._listed = {name: self._listed[name] if name in self._alive and name in self._listed else listed
                            for name, listed in found.items()}  # fmt: skip
            self._routings = {}
            for name in gone:
                self._recent.pop(name, None)
                self._alive.pop(name, None)
        for name in gone:
            yield f"{name} is not served any more: its folder is gone"
        for name in new:
            yield f"{name} is new"
        for name in self.loaded:
            try:
                listed, report = self.replace(name)
                yield f"{name} is replaced by the version {listed.id} on disk" + (f" ({report})" if report else "")
            except (UserError, RequestError) as error:
                yield f"{name} stays at its old version: {error}"

    def _open(self, listed: Listed) -> Served:
        return Served(listed.name, *self._load(listed.name, listed.path))

    def _use(self, name: str, served: Served) -> None:
        self._alive[name] = served
        self._recent[name] = served
        self._recent.move_to_end(name)
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)

    # --- A language that is found -----------------------------------------------------------------------

    def routing(self, model: str) -> tuple[StudentsByLanguage, ByLanguage]:
        """The students by language, for ``language=auto``; of several students only ``model``, if that is named."""
        if self._tagger is None:
            what = (
                "language=auto needs a tagger of languages; start the server with lalia serve STUDENTS --tagger FOLDER"
            )
            raise RequestError(400, "no_tagger", what)
        try:
            return self._route(model)
        except UserError as error:
            raise RequestError(400, "no_language", str(error)) from error

    def _route(self, model: str) -> tuple[StudentsByLanguage, ByLanguage]:
        named = len(self._listed) > 1 and model and model != AUTO
        chosen = [self.find(model)] if named else self.listed
        names = tuple(listed.name for listed in chosen)
        if names not in self._routings:
            by_language = ByLanguage(self, chosen)
            self._routings[names] = StudentsByLanguage(by_language, self._tagger), by_language
        return self._routings[names]


class ByLanguage(Mapping[str, Student]):
    """The student of each language, the first that writes it; loaded when it is looked up."""

    def __init__(self, students: Students, listed: Sequence[Listed]) -> None:
        self._students = students
        self._names: dict[str, str] = {}
        for one in listed:
            for code in one.languages:
                self._names.setdefault(code, one.name)

    def served(self, code: str) -> Served:
        return self._students.get(self._names[code]).in_language(code)

    def __getitem__(self, code: str) -> Student:
        return self.served(code).student

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
