"""Every script: 1,007 sentences of 98 languages through normaliser, tokens, decoding, error rates, words and cues.

    python -m benchmarks.decoding.scripts [--others] [--mms FAIRSEQ]

``scripts.tsv`` has the sentences, how each is written once normalised, and the source. 92 rows were written by hand: names,
numbers, signs, glottal stops, joiners. 915 are paragraphs of the Universal Declaration of Human Rights; their right values are
those of ``by_rule``, which shares no code with lalia and knows each language's apostrophe, joiners and spaces from the sources in
``lalia/text/orthographies.tsv``. No native writer has read them.

A clip is simulated: each token has two frames, blanks between. ``--others`` puts the same rows through Whisper's normaliser and
the one of transformers' fine-tuning guides for Wav2Vec2, ``--mms`` through that of MMS, in a checkout of
github.com/facebookresearch/fairseq (its licence, CC BY-NC, keeps it out of this repository). Spaces of theirs in languages that
write none between words do not count as wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lalia.decoding.confidence import calibrate, confidence
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.greedy import StreamingGreedy, greedy, transcript, words
from lalia.runtime.transcript import make_cues
from lalia.scoring.evaluation import right_words
from lalia.scoring.rates import character_errors, word_errors
from lalia.scoring.tuning import word_evidence
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


# --- The right values ----------------------------------------------------------------------------------

_APOSTROPHES = "'’‘ʼʻʽ`´ˈꞌ′＇"
_GLOTTAL = {
    **dict.fromkeys(("nav", "grn", "hau", "quc", "uzn"), "ʼ"), **dict.fromkeys(("haw", "ton"), "ʻ"), "kek": "ꞌ",
    **dict.fromkeys(("yua", "toj", "tzh", "mic", "ukr"), "'"),
}  # fmt: skip
_AT_EDGES = {"haw", "ton", "nav", "grn", "hau", "mic", "afr", "mlt"}
_NO_SPACES = {"tha", "lao", "khm", "mya", "shn", "cmn", "yue", "jpn", "iii"}
_JOINERS = {
    "fas": "\u200c", "ckb": "\u200c", "urd": "\u200c", "sin": "\u200d", "mal": "\u200d\u200c", "kan": "\u200c", "tel": "\u200c",
    "ben": "\u200c",
}  # fmt: skip
_INSIDE = {"mlt": "-‐‑", "cat": "·", "bod": "་", "dzo": "་"}
_REWRITTEN = {
    "yid": {"װ": "וו", "ױ": "וי", "ײ": "יי"}, "lao": {"ໜ": "ຫນ", "ໝ": "ຫມ"}, "mal": {"ൌ": "ൗ"},
    "ara": dict.fromkeys("\u0640\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670", ""),
}  # fmt: skip


def by_rule(text: str, language: str) -> str:
    """``text`` without digits once normalised: lower case, and a space for all that Unicode calls no letter, mark or digit, but
    the signs that are letters of the language."""
    code = language.partition("-")[0]
    text = unicodedata.normalize("NFC", text)
    if code in ("tur", "azj"):
        text = text.replace("I", "ı").replace("İ", "i")
    if code == "gle":
        text = re.sub(r"\b([tn])([AEIOUÁÉÍÓÚ])", r"\1-\2", text)
    if code != "chr":  # Cherokee is all in small letters, or in capitals
        text = text.lower()
    if code == "uzn":
        text = re.sub(f"([og])[{re.escape(_APOSTROPHES)}]", "\\1ʻ", text)
    for other, kept in _REWRITTEN.get(code, {}).items():
        text = text.replace(other, kept)
    made = ""
    for at, sign in enumerate(text):
        before = at > 0 and (_is_letter(text[at - 1]) or text[at - 1] in _APOSTROPHES)
        behind = at + 1 < len(text) and _is_letter(text[at + 1])
        kind = unicodedata.category(sign)
        if sign in _APOSTROPHES and not (code == "uzn" and sign == "ʻ"):
            glottal = before and (behind or (code in _GLOTTAL and code != "ukr"))
            made += _GLOTTAL.get(code, "'") if glottal or (code in _AT_EDGES and (before or behind)) else " "
        elif sign in _INSIDE.get(code, ""):
            made += sign if (before and behind) or sign == "་" else " "
        elif kind == "Cf":
            made += sign if sign in _JOINERS.get(code, "") and before and behind else ""
        else:
            made += " " if kind[0] in "PSZ" or kind == "Cc" else sign
    between = "" if code in _NO_SPACES else "་" if code in ("bod", "dzo") else " "
    return unicodedata.normalize("NFC", between.join(made.replace("་", " ").split()))


def _is_letter(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LMN"


# --- The checks ----------------------------------------------------------------------------------------


def failed_checks(row: Row, normaliser: Normaliser, tokens: Tokens, search: bool = True) -> list[str]:
    """The names of the checks that ``row`` fails."""
    writing, right = normaliser.output_writing, row.right
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


def tuned_confidence(rows: Sequence[Row], tokens: Tokens, normaliser: Normaliser) -> tuple[float, float]:
    """The lowest confidence of a word when every hypothesis is perfect: before calibration on these rows, and after it."""
    decoder = Decoder(tokens, FRAME_S, writing=normaliser.output_writing)
    evidence, right = word_evidence(
        decoder, ((row.right, simulate(tokens.encode(row.right), len(tokens))) for row in rows)
    )
    if not all(right):
        return 1.0, 0.0
    weights = calibrate(evidence, right)
    return min(map(confidence, evidence)), min(confidence(one, weights) for one in evidence)


def simulate(ids: list[int], size: int) -> np.ndarray:
    """Log-probabilities (T, V) of a clip in which each of ``ids`` is certain for two frames, with a blank behind."""
    probs_TV = np.full((3 * len(ids), size), 0.02 / size, np.float32)
    for place, token in enumerate(ids):
        probs_TV[3 * place : 3 * place + 2, token] = 0.98
        probs_TV[3 * place + 2, 0] = 0.98
    return np.log(probs_TV / probs_TV.sum(axis=1, keepdims=True))


def stream(log_probs_TV: np.ndarray, tokens: Tokens, normaliser: Normaliser) -> list[object]:
    """The words of a stream that arrives four frames at a time."""
    streaming = StreamingGreedy(tokens, FRAME_S, normaliser.output_writing)
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


def mms(folder: Path) -> Callable[[str, str], str]:
    """MMS's normaliser, of a checkout of fairseq; it takes the text and the language."""
    sys.path.insert(0, str(folder))
    from examples.mms.data_prep.text_normalization import text_normalize

    return lambda text, language: str(text_normalize(text, language.partition("-")[0]))


def _equal(theirs: str, right: str, language: str) -> bool:
    """Whether another normaliser's text is right; spaces do not count where the language has none between words."""
    if language.partition("-")[0] in _NO_SPACES:
        return _letters(theirs) == _letters(right)
    return theirs == right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="also Whisper's and transformers' normalisers")
    parser.add_argument(
        "--mms", type=Path, metavar="FAIRSEQ", help="also MMS's normaliser, of this checkout of fairseq"
    )
    args = parser.parse_args()
    others: dict[str, Callable[[str, str], str]] = {}
    if args.others:
        others |= {"Whisper": lambda text, _: whisper(text), "Wav2Vec2": lambda text, _: wav2vec2(text)}
    if args.mms:
        others["MMS"] = mms(args.mms)
    by_language: dict[str, list[Row]] = {}
    for row in read_rows():
        by_language.setdefault(row.language, []).append(row)
    print(
        "| language | script | rows | all right | lowest confidence | tuned |"
        + "".join(f" {name} |" for name in others)
    )
    print("|---|---|---|---|---|---|" + "---|" * len(others))
    failures, totals, scripts = [], dict.fromkeys(["lalia", *others], 0), set[str]()
    for language, rows in sorted(by_language.items()):
        normaliser = normaliser_of(language)
        tokens = choose_vocabulary(row.right for row in rows).tokens
        failed = [(row, names) for row in rows if (names := failed_checks(row, normaliser, tokens))]
        failures += failed
        script = script_of(next(c for c in rows[0].right if script_of(c)))
        scripts.add(script)
        untuned, tuned = tuned_confidence(rows, tokens, normaliser)
        if tuned < untuned:
            failures.append((rows[0], ["confidence after tuning"]))
        theirs = {
            name: sum(_equal(other(row.written, language), row.right, language) for row in rows)
            for name, other in others.items()
        }
        totals["lalia"] += len(rows) - len(failed)
        for name, count in theirs.items():
            totals[name] += count
        name = language_name(language.split("-")[0])
        cells = [f"{name} ({language})", script_title(script), str(len(rows)), str(len(rows) - len(failed))]
        cells += [f"{untuned:.3f}", f"{tuned:.3f}"]
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
