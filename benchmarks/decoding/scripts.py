"""Every script: 433 sentences of 86 languages through normaliser, tokens, decoding, error rates, words and cues.

    python -m benchmarks.decoding.scripts [--others]

``scripts.tsv`` has the sentences, how each is written once normalised, and the source. 64 rows were written by hand. The right
values of the 369 rows from the Universal Declaration of Human Rights are lalia's output, compared with a rule that shares no
code with it (lower case, every character of Unicode's categories P, S and Z a space): 296 are equal, 39 differ in the code of
the apostrophe alone, and the other 34 (Maltese hyphens, Tibetan tsheg, Yiddish digraphs, Tzeltal, joiners, Arabic vowel signs,
Lao ligatures) were read one by one. They guard what is right; no native writer has read them.

A clip is simulated: each token has two frames, blanks between.
``--others`` puts the same rows through Whisper's normaliser and the one of transformers' fine-tuning guides for Wav2Vec2.
MMS's is not run: its licence is non-commercial.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import StreamingGreedy, greedy, transcript, words
from lalia.runtime.transcript import make_cues
from lalia.scoring.evaluation import right_words
from lalia.scoring.rates import character_errors, word_errors
from lalia.text.language_codes import language_name
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.tokens import Tokens, choose_vocabulary
from lalia.text.unicode import script_of, script_title

ROWS = Path(__file__).with_name("scripts.tsv")
FRAME_S = 0.04
CHECKS = (
    "normalised",
    "twice",
    "spelled",
    "scored",
    "one letter",
    "greedy",
    "words",
    "stream",
    "beam",
    "confidence",
    "cues",
)


@dataclass(frozen=True)
class Row:
    """A sentence as it is written, and once normalised."""

    language: str
    """ISO 639-3, with a script where it is not the usual one"""
    written: str
    right: str
    source: str


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows of the table."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line and not line.startswith("#")]
    return [Row(*line.split("\t")) for line in lines[1:]]


def normaliser_of(language: str) -> Normaliser:
    code, _, script = language.partition("-")
    return Normaliser(settings_for(code, script))


def failed_checks(row: Row, normaliser: Normaliser, tokens: Tokens, search: bool = True) -> list[str]:
    """The names of the checks that ``row`` fails."""
    writing, right = normaliser.writing, row.right
    log_probs_TV = simulate(tokens.encode(right), len(tokens))
    spans = greedy(log_probs_TV)
    found = words(spans, tokens, FRAME_S, writing)
    wrong = one_letter_wrong(right)
    units = 2 if writing.units == "clusters" else 1  # a vowel that becomes a consonant parts or joins two clusters
    results = {
        "normalised": normaliser(row.written) == right,
        "twice": normaliser(right) == right,
        "spelled": tokens.decode(tokens.encode(right)) == right,
        "scored": character_errors(right, right).errors == word_errors(right, right, writing).errors == 0,
        "one letter": character_errors(right, wrong).errors == 1 and word_errors(right, wrong, writing).errors <= units,
        "greedy": transcript(spans, tokens) == right,
        "words": [word.text for word in found] == writing.cut(right),
        "stream": stream(log_probs_TV, tokens, normaliser) == found,
        "confidence": all(right_words(right, found, writing)),
        "cues": _letters("".join(cue.text for cue in make_cues(found))) == _letters(right),
    }
    if search:
        decoded = Decoder(tokens, FRAME_S, writing=writing).decode(log_probs_TV)
        results["beam"] = text_of(decoded, tokens) == right and all(right_words(right, decoded.words, writing))
    return [name for name in CHECKS if not results.get(name, True)]


def simulate(ids: list[int], size: int) -> np.ndarray:
    """Log-probabilities (T, V) of a clip in which each of ``ids`` is certain for two frames, with a blank behind."""
    probs_TV = np.full((3 * len(ids), size), 0.02 / size, np.float32)
    for place, token in enumerate(ids):
        probs_TV[3 * place : 3 * place + 2, token] = 0.98
        probs_TV[3 * place + 2, 0] = 0.98
    return np.log(probs_TV / probs_TV.sum(axis=1, keepdims=True))


def stream(log_probs_TV: np.ndarray, tokens: Tokens, normaliser: Normaliser) -> list[object]:
    """The words of a stream that arrives four frames at a time."""
    streaming = StreamingGreedy(tokens, FRAME_S, normaliser.writing)
    found: list[object] = []
    for start in range(0, len(log_probs_TV), 4):
        found += streaming.feed(log_probs_TV[start : start + 4])
    return [*found, *streaming.finish()]


def one_letter_wrong(text: str) -> str:
    """``text`` with one base letter in its middle replaced by another of the text."""
    places = [i for i, c in enumerate(text) if unicodedata.category(c)[0] == "L"]
    at = places[len(places) // 2]
    other = next((text[i] for i in places if text[i] != text[at]), "x")
    return text[:at] + other + text[at + 1 :]


def _letters(text: str) -> str:
    return text.replace(" ", "")


def whisper(text: str) -> str:
    """Whisper's normaliser for languages other than English."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return str(BasicTextNormalizer()(text)).strip()


def wav2vec2(text: str) -> str:
    """The normaliser of transformers' fine-tuning guides: a few signs dropped, lower case."""
    return " ".join(re.sub(r"[\,\?\.\!\-\;\:\"\“\%\‘\”\�]", "", text).lower().split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="also Whisper's and transformers' normalisers")
    others: dict[str, Callable[[str], str]] = {"Whisper": whisper, "Wav2Vec2": wav2vec2}
    if not parser.parse_args().others:
        others = {}
    by_language: dict[str, list[Row]] = {}
    for row in read_rows():
        by_language.setdefault(row.language, []).append(row)
    print("| language | script | rows | all right |" + "".join(f" {name} |" for name in others))
    print("|---|---|---|---|" + "---|" * len(others))
    failures, totals, scripts = [], dict.fromkeys(["lalia", *others], 0), set[str]()
    for language, rows in sorted(by_language.items()):
        normaliser = normaliser_of(language)
        tokens = choose_vocabulary(row.right for row in rows).tokens
        failed = [(row, names) for row in rows if (names := failed_checks(row, normaliser, tokens))]
        failures += failed
        script = script_of(next(c for c in rows[0].right if script_of(c)))
        scripts.add(script)
        theirs = {name: sum(other(row.written) == row.right for row in rows) for name, other in others.items()}
        totals["lalia"] += len(rows) - len(failed)
        for name, count in theirs.items():
            totals[name] += count
        name = language_name(language.split("-")[0])
        cells = [f"{name} ({language})", script_title(script), str(len(rows)), str(len(rows) - len(failed))]
        print("| " + " | ".join([*cells, *map(str, theirs.values())]) + " |")
    count = sum(map(len, by_language.values()))
    print(
        f"\n{len(by_language)} languages, {len(scripts)} scripts, {count} rows: "
        + ", ".join(f"{n} {t}" for n, t in totals.items())
    )
    for row, names in failures:
        print(f"- {row.language}: {row.written}: {', '.join(names)}")


if __name__ == "__main__":
    main()
