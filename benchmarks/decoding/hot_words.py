"""Hot words: recall of planted names with and without a boost, in five scripts on simulated clips and on a real student.

    python -m benchmarks.decoding.hot_words
    python -m benchmarks.decoding.hot_words STUDENT CORPUS --language ita

The first command plants each of ten names into each sentence of a language of ``scripts.tsv``. A clip is simulated: each token
has two frames, blanks between, and in ``WRONG`` of the tokens another token is twice as likely as the right one. All names of
the language are hot words, so that the other nine show what a boost inserts by mistake. The second command takes the words of
four letters or more of a corpus's test clips that are in no training label. ``--lm`` is a language model for both decoders.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.decoding.scripts import normaliser_of, read_rows
from lalia.data.corpus import Corpus
from lalia.decoding.decoder import Decoder, make_decoder, text_of
from lalia.runtime.student import Student
from lalia.scoring.rates import ErrorCounts, character_errors
from lalia.text.language_codes import language_name
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens, choose_vocabulary
from lalia.text.writing_system import WritingSystem

FRAME_S = 0.04
WRONG = 0.25
"""Share of the tokens of a simulated clip whose most likely token is wrong."""
BOOSTS = (0.0, 3.0, 6.0, 9.0)
"""0: beam search without hot words. 6 is the default of ``--hot``."""
LEAST_LETTERS = 4

NAMES = {
    "cmn": ("王小明", "李娜", "上海", "长江", "故宫", "欧阳修", "哈尔滨", "马云", "苏州", "诸葛亮"),
    "tha": ("สมชาย", "เชียงใหม่", "ภูเก็ต", "อยุธยา", "สุดารัตน์", "ขอนแก่น", "ประยุทธ์", "อุบลราชธานี", "กรุงเทพ", "ณัฐพล"),
    "kor": ("김민수", "부산", "세종대왕", "한라산", "박지성", "대전", "이순신", "제주도", "윤동주", "경복궁"),
    "ara": ("القاهرة", "فاطمة", "دمشق", "النيل", "يوسف", "بغداد", "مراكش", "خديجة", "الفرات", "عبدالله"),
    "ita": ("giuseppe", "torino", "vesuvio", "lucia", "arno", "palermo", "ghirlandaio", "matteo", "cagliari", "beatrice"),
}  # fmt: skip
"""Names of people and places, normalised."""


@dataclass
class Found:
    """What one way of decoding found of the names in all clips."""

    planted: int = 0
    recalled: int = 0
    inserted: int = 0
    """names of the list that are in a transcript and not in its reference"""
    errors: ErrorCounts = field(default_factory=ErrorCounts)

    def add(self, reference: str, hypothesis: str, names: Sequence[str], writing: WritingSystem) -> None:
        for name in names:
            there, found = (contains(text, name, writing) for text in (reference, hypothesis))
            self.planted += there
            self.recalled += there and found
            self.inserted += found and not there
        self.errors += character_errors(reference, hypothesis)


def contains(text: str, name: str, writing: WritingSystem) -> bool:
    """Whether ``name`` is in ``text``: as a whole word where spaces separate words."""
    if writing.spaced:
        return f" {name} " in f" {text} "
    return name.replace(" ", "") in text.replace(" ", "")


def plant(sentence: str, name: str, writing: WritingSystem, random: np.random.Generator) -> str:
    """``sentence`` with ``name`` before one of its words or clusters."""
    units = writing.cut(sentence)
    place = int(random.integers(len(units)))
    between = " " if writing.spaced else ""
    return between.join([*units[:place], name, *units[place:]])


def simulate(ids: Sequence[int], size: int, random: np.random.Generator) -> np.ndarray:
    """Log-probabilities (T, V) of a clip of the tokens ``ids``, some of which sound more like another token."""
    probs_TV = np.full((3 * len(ids), size), 0.02 / size)
    for place, token in enumerate(ids):
        frames = slice(3 * place, 3 * place + 2)
        if random.random() < WRONG:
            probs_TV[frames, 1 + int(random.integers(size - 1))] += 0.65
            probs_TV[frames, token] += 0.33
        else:
            probs_TV[frames, token] += 0.98
        probs_TV[3 * place + 2, 0] = 0.98
    return np.log(probs_TV / probs_TV.sum(axis=1, keepdims=True)).astype(np.float32)


def simulated(language: str) -> tuple[Tokens, Normaliser, list[tuple[str, np.ndarray]]]:
    """Tokens, normaliser and clips (reference, log-probabilities) of ``language``, each name planted into each sentence."""
    normaliser = normaliser_of(language)
    sentences = [row.right for row in read_rows() if row.language == language and row.source.startswith("UDHR")]
    tokens = choose_vocabulary([*sentences, *NAMES[language]]).tokens
    random = np.random.default_rng(17)
    clips = []
    for sentence in sentences:
        for name in NAMES[language]:
            text = plant(sentence, name, normaliser.writing, random)
            clips.append((text, simulate(tokens.encode(text), len(tokens), random)))
    return tokens, normaliser, clips


def new_words(student: Student, corpus: Corpus, language: str) -> tuple[list[str], list[tuple[str, np.ndarray]]]:
    """The words of the test clips that no training label has, and the clips: (reference, log-probabilities)."""

    def texts(split: str) -> Iterator[tuple[int, str]]:
        for row in corpus.select(split=split, language=language, with_text=True).tolist():
            yield row, student.normaliser(corpus.text(row))

    known = {word for _, text in texts("train") for word in text.split()}
    test = [(row, text) for row, text in texts("test") if text]
    words = {word for _, text in test for word in text.split() if len(word) >= LEAST_LETTERS}
    return sorted(words - known), [(text, student.log_probs(corpus.wave(row))) for row, text in test]


def rows(
    title: str,
    names: Sequence[str],
    clips: Sequence[tuple[str, np.ndarray]],
    normaliser: Normaliser,
    tokens: Tokens,
    decoder: dict[float, Decoder],
) -> Iterator[str]:
    """A row of the table for each boost."""
    for boost, searching in decoder.items():
        found = Found()
        for reference, log_probs_TV in clips:
            hypothesis = normaliser(text_of(searching.decode(log_probs_TV), tokens))
            found.add(reference, hypothesis, names, normaliser.writing)
        recall = f"{found.recalled} of {found.planted} ({100 * found.recalled / max(found.planted, 1):.0f} %)"
        boosted = f"{boost:g}" if boost else "none"
        yield f"| {title} | {len(clips)} | {boosted} | {recall} | {found.inserted} | {100 * found.errors.rate:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, nargs="?")
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--language")
    parser.add_argument("--lm", type=Path)
    args = parser.parse_args()
    print(
        "| language | clips | boost | names recalled | names inserted | CER % |\n|---|---|---|---|---|---|", flush=True
    )
    if args.student:
        student = Student.load(args.student, 1)
        unseen, clips = new_words(student, Corpus.load(args.corpus), args.language)
        decoders = {
            boost: make_decoder(student, args.lm, hot_words=dict.fromkeys(unseen, boost) if boost else None)
            for boost in BOOSTS
        }
        title = f"{language_name(args.language)}, {len(unseen)} words"
        for row in rows(title, unseen, clips, student.normaliser, student.tokens, decoders):
            print(row, flush=True)
        return
    for language, names in NAMES.items():
        tokens, normaliser, clips = simulated(language)
        decoders = {
            boost: Decoder(tokens, FRAME_S, writing=normaliser.writing,
                           hot_words=dict.fromkeys(names, boost) if boost else None)
            for boost in BOOSTS
        }  # fmt: skip
        for row in rows(language_name(language), names, clips, normaliser, tokens, decoders):
            print(row, flush=True)


if __name__ == "__main__":
    main()
