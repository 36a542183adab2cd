"""Sentences that held-out clips say, found in text and taken out: a model that has read them looks better than it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import itemgetter

from lalia.text.scripts import is_ideograph, script_of

SHORTEST = 4
"""Words that a sentence must have to be taken out of the middle of other text. Shorter ones ("please", "I don't know") are what
any text says of its own: to take them out would tear its sentences apart and hide from the model what everybody says. Four words
or more hardly ever meet by chance, and where they do, little is lost."""
_UNSPACED = {"THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
_IDEOGRAPHS_OF_A_WORD, _LETTERS_OF_A_WORD = 2, 4
_BLOCK = 4096


class HeldOut:
    """Sentences that no text may teach. ``without`` takes them out of a text.

    A line that is one of them goes, however short it is. One of ``SHORTEST`` words or more goes wherever it stands: inside a
    line, from one line to the next, in text that is wrapped or is all one paragraph; what stood before and after it are
    sentences of their own. In scripts that put no spaces between words two ideographs count as a word, or four letters.

    The time is that of a look-up of every place's first four words in a dictionary, whatever the number of sentences; the
    memory is that of the sentences and of a few thousand words.
    """

    def __init__(self, sentences: Iterable[str], spaced: bool = True) -> None:
        """``sentences`` are normalised, as the texts will be; ``spaced``: the normaliser keeps spaces between words."""
        self._spaced = spaced
        self._lines = frozenset(sentences)
        self._longest = SHORTEST
        self._by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for sentence in self._lines:
            units = self._units(sentence)
            if self._words(units) >= SHORTEST:
                self._by_start.setdefault(tuple(units[:SHORTEST]), []).append(units)
                self._longest = max(self._longest, len(units))
        for alike in self._by_start.values():
            alike.sort(key=len, reverse=True)
        self.taken = 0
        """how often ``without`` has taken one out"""

    def without(self, lines: Iterable[str]) -> Iterator[str]:
        """The normalised ``lines`` of one text, none empty, without the sentences."""
        if not self._lines:
            yield from lines
            return
        waiting: list[tuple[str, list[str]]] = []
        units: list[str] = []  # of all lines that wait
        searched = 0  # places in ``units`` where no sentence begins that is not in ``found``
        found: list[tuple[int, int]] = []
        for line in lines:
            waiting.append((line, self._units(line)))
            units += waiting[-1][1]
            if len(units) - searched >= _BLOCK + self._longest:
                safe = len(units) - self._longest + 1
                self._search(units, searched, safe, found)
                done = 0
                while waiting and done + len(waiting[0][1]) <= safe:
                    yield from self._rest(*waiting[0], done, found)
                    done += len(waiting.pop(0)[1])
                units, searched = units[done:], safe - done
                found = [(start - done, end - done) for start, end in found if end > done]
        self._search(units, searched, len(units), found)
        done = 0
        for line, own in waiting:
            yield from self._rest(line, own, done, found)
            done += len(own)

    def _search(self, units: list[str], start: int, end: int, found: list[tuple[int, int]]) -> None:
        """Add to ``found`` the places (from, to) of what begins at ``start`` to ``end`` (not included) of ``units``.

        Of two that overlap the second is found as well, one that lies within another is not: both ends only ever grow.
        """
        starts = zip(*(units[start + i : end + i] for i in range(SHORTEST)), strict=False)
        known = self._by_start
        for at in [start + i for i, key in enumerate(starts) if key in known]:
            for sentence in known[tuple(units[at : at + SHORTEST])]:
                last = at + len(sentence)
                if found and last <= found[-1][1]:
                    break
                if units[at:last] == sentence:
                    found.append((at, last))
                    self.taken += 1
                    break

    def _rest(self, line: str, units: list[str], start: int, found: list[tuple[int, int]]) -> Iterator[str]:
        """What is left of ``line``, whose ``units`` stand at ``start`` of those that were searched."""
        end = start + len(units)
        gaps, at = [], start
        for i in range(bisect_right(found, start, key=itemgetter(1)), len(found)):
            first, last = found[i]
            if first >= end:
                break
            gaps.append((at, first))
            at = last
        if not gaps:
            if line in self._lines:
                self.taken += 1
            else:
                yield line
            return
        places = _places(line, units)
        for first, last in [*gaps, (at, end)]:
            if last > first:
                yield line[places[first - start][0] : places[last - start - 1][1]]

    def _units(self, text: str) -> list[str]:
        """The words of ``text``, or its letters where nothing parts the words."""
        if not self._spaced:
            return list(text)
        words = text.split(" ")
        if text.isascii() or not any(map(_stands_alone, text)):
            return words
        units = []
        for word in words:
            run = ""
            for letter in word:
                if not _stands_alone(letter):
                    run += letter
                    continue
                units += [run, letter] if run else [letter]
                run = ""
            units += [run] if run else []
        return units

    def _words(self, units: list[str]) -> float:
        """How many words ``units`` are, more or less."""
        ideographs = sum(is_ideograph(unit[0]) for unit in units)
        letters = sum(not self._spaced or _stands_alone(unit[0]) for unit in units) - ideographs
        whole = len(units) - ideographs - letters
        return whole + ideographs / _IDEOGRAPHS_OF_A_WORD + letters / _LETTERS_OF_A_WORD


@lru_cache(maxsize=65536)
def _stands_alone(letter: str) -> bool:
    """Whether a letter is of a script that puts no spaces between words."""
    return is_ideograph(letter) or script_of(letter) in _UNSPACED


def _places(text: str, units: list[str]) -> list[tuple[int, int]]:
    """Where each of its ``units`` begins and ends in ``text``."""
    places, at = [], 0
    for unit in units:
        at = text.index(unit, at)
        places.append((at, at + len(unit)))
        at += len(unit)
    return places
