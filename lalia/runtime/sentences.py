"""The sentences that a language model is made of: text files and the labels of corpora, as a student writes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lalia.cards import NAME, read_card
from lalia.exits import UserError
from lalia.kinds import look, refusal
from lalia.runtime.held_out import HeldOut
from lalia.runtime.integrity import find_student
from lalia.runtime.spoken import OpenCorpus, labelled_rows, languages_of, languages_taken, require_alphabet
from lalia.runtime.text_files import lines
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import FILE_NAME as TOKENS
from lalia.text.tokens import Tokens


@dataclass(frozen=True)
class Material:
    """What a model is made of: sentences of symbols, the student's normaliser and tokens, and what the card shall say."""

    sentences: list[list[str]]
    normaliser: Normaliser
    tokens: Tokens
    parents: list[dict[str, Any]]
    facts: dict[str, Any]
    held_back: int = 0
    """how often a held-out clip of the corpora was found in the text files beside them, and taken out"""

    @classmethod
    def read(cls, args: argparse.Namespace, open_corpus: OpenCorpus, paths: Iterable[Path]) -> Material:
        """The sentences of all ``paths``; a ``UserError`` names the first that has none that the student could write."""
        from lalia.decoding.language_model import symbols_of

        folder = args.like if (args.like / NAME).is_file() else find_student(args.like)
        if look(folder).kind not in ("student", "recogniser"):
            raise refusal(folder, "student", "--like")
        like = read_card(folder)
        normaliser, tokens = Normaliser.from_json(folder / NORMALISER), Tokens.load(folder / TOKENS)
        parents: list[dict[str, Any]] = []
        sentences: list[list[str]] = []
        paths = list(paths)
        for path in paths:
            if path.is_file() or not path.exists():  # a pipe is read but once
                next(lines(path), None)  # what is no text is told before an hour of text is read
        own, taken_in = languages_of(like, normaliser.settings.language), dict[Path, list[str]]()
        for path in paths:
            if path.is_dir():
                there = open_corpus(path).language_names
                taken_in[path] = languages_taken(args.language, own, there, args.like, path)
        said = {normaliser(text) for path in taken_in for text in _held_out(path, taken_in[path], open_corpus)} - {""}
        apart = HeldOut(said, normaliser.settings.spaces == "keep")
        strange_words = 0
        for path in paths:
            written = filter(None, map(normaliser, _texts(path, taken_in.get(path, []), open_corpus, parents)))
            words, strange, example, taken = 0, 0, "", apart.taken
            for text in written if path.is_dir() else apart.without(written):
                symbols, unknown = symbols_of(text, args.unit, tokens)
                words += text.count(" ") + 1
                strange += unknown
                example = example or (text if unknown else "")
                sentences.append(symbols)
            if not words and apart.taken > taken:
                raise UserError(
                    f"{path}: holds nothing but what dev or test clips say; leave it out, or give other text"
                )
            if not words:
                raise UserError(f"{path}: holds no words; expected text, a sentence a line, or a corpus with labels")
            require_alphabet(str(path), strange, words, example)
            strange_words += strange
        facts = {"language": like.get("language"), "sentences": len(sentences), "unknown_words": strange_words}
        return cls(sentences, normaliser, tokens, parents, facts, apart.taken)

    def heldout(self, args: argparse.Namespace) -> list[list[str]]:
        """The sentences of ``--heldout``."""
        from lalia.decoding.language_model import symbols_of

        texts = (self.normaliser(line) for line in lines(args.heldout))
        return [symbols_of(text, args.unit, self.tokens)[0] for text in texts if text]


def _texts(
    path: Path, languages: Sequence[str], open_corpus: OpenCorpus, parents: list[dict[str, Any]]
) -> Iterator[str]:
    """The sentences of a text file, or the training labels of a corpus, whose card becomes a parent."""
    if not path.is_dir():
        yield from lines(path)
        return
    corpus = open_corpus(path)
    parents.append(corpus.card)
    for row in labelled_rows(corpus, path, "train", languages, None):
        yield corpus.text(row)


def _held_out(path: Path, languages: Sequence[str], open_corpus: OpenCorpus) -> Iterator[str]:
    """What the dev and test clips of a corpus say."""
    corpus, every = open_corpus(path), list[str | None](languages) or [None]
    for split in ("dev", "test"):
        for language in every:
            for row in corpus.select(split=split, language=language, with_text=True):
                yield corpus.text(int(row))
