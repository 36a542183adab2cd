"""The sentences that a language model is made of: text files and the labels of corpora, as a student writes them."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lalia.cards import NAME, read_card
from lalia.decoding.kenlm import is_kenlm
from lalia.exits import UserError
from lalia.runtime.arguments import OpenCorpus, labelled_rows, require_alphabet
from lalia.runtime.integrity import find_student
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens
from lalia.text.tokens import FILE_NAME as TOKENS


@dataclass(frozen=True)
class Material:
    """What a model is made of: sentences of symbols, the student's normaliser and tokens, and what the card shall say."""

    sentences: list[list[str]]
    normaliser: Normaliser
    tokens: Tokens
    parents: list[dict[str, Any]]
    facts: dict[str, Any]
    strangers: str
    """a text with a word that the student cannot write"""
    held_back: int = 0
    """lines of text files that were left out, since held-out clips of the corpora beside them say the same"""

    @classmethod
    def read(cls, args: argparse.Namespace, open_corpus: OpenCorpus, paths: Iterable[Path]) -> Material:
        from lalia.decoding.language_model import symbols_of

        folder = args.like if (args.like / NAME).is_file() else find_student(args.like)
        like = read_card(folder)
        normaliser, tokens = Normaliser.from_json(folder / NORMALISER), Tokens.load(folder / TOKENS)
        parents: list[dict[str, Any]] = []
        sentences: list[list[str]] = []
        strange, strangers, held_back = 0, "", 0
        paths = list(paths)
        apart = {normaliser(text) for path in paths for text in _held_out(path, args.language, open_corpus)}
        for path in paths:
            for text in _texts(path, args.language, open_corpus, parents):
                if written := normaliser(text):
                    if written in apart and not path.is_dir():
                        held_back += 1
                        continue
                    symbols, unknown = symbols_of(written, args.unit, tokens)
                    strange += unknown
                    strangers = strangers or (written if unknown else "")
                    sentences.append(symbols)
        facts = {"language": like.get("language"), "sentences": len(sentences), "unknown_words": strange}
        return cls(sentences, normaliser, tokens, parents, facts, strangers, held_back)

    def check(self, args: argparse.Namespace) -> None:
        """Raise a ``UserError`` where there is no text, or it is none that the student could write."""
        told = ", ".join(map(str, args.text))
        if not self.sentences:
            raise UserError(f"{told}: holds no words; expected text, a sentence a line, or a corpus with labels")
        spaces = sum(sentence.count(BOUNDARY) + 1 for sentence in self.sentences)
        words = spaces if args.unit == "letter" else sum(map(len, self.sentences))
        require_alphabet(told, self.facts["unknown_words"], words, self.strangers)

    def heldout(self, args: argparse.Namespace) -> list[list[str]]:
        """The sentences of ``--heldout``."""
        from lalia.decoding.language_model import symbols_of

        texts = (self.normaliser(line) for line in _lines(args.heldout))
        return [symbols_of(text, args.unit, self.tokens)[0] for text in texts if text]


def _texts(path: Path, language: str | None, open_corpus: OpenCorpus, parents: list[dict[str, Any]]) -> Iterator[str]:
    """The sentences of a text file, or the training labels of a corpus, whose card becomes a parent."""
    if not path.is_dir():
        yield from _lines(path)
        return
    corpus = open_corpus(path)
    parents.append(corpus.card)
    for row in labelled_rows(corpus, path, "train", language, None):
        yield corpus.text(row)


def _held_out(path: Path, language: str | None, open_corpus: OpenCorpus) -> Iterator[str]:
    """What the dev and test clips of a corpus say: a text that has it would make the model look better than it is."""
    if path.is_dir():
        corpus = open_corpus(path)
        for split in ("dev", "test"):
            for row in corpus.select(split=split, language=language, with_text=True):
                yield corpus.text(int(row))


def _lines(path: Path) -> Iterator[str]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file
        ):
            yield from file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected text, a sentence a line") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError) and is_kenlm(path):
            raise UserError(
                f"{path}: is KenLM's binary file, which keeps no n-grams but their hashes; give its ARPA file"
            ) from error
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); convert it, or leave it out") from error
