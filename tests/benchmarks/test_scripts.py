"""The rows of every script: each is right in all checks but those of the search, which the benchmark itself runs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.decoding.scripts import (
    by_rule,
    failed_checks,
    normaliser_of,
    one_letter_wrong,
    read_rows,
    simulate,
    tuned_confidence,
)
from lalia.decoding.greedy import StreamingGreedy, greedy, text_of_words, transcript, words
from lalia.scoring.rates import character_errors, word_errors
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.tokens import Tokens, choose_vocabulary

ROWS = read_rows()


def test_there_are_enough() -> None:
    counts = Counter(row.language for row in ROWS)
    assert sum(count >= 10 for count in counts.values()) >= 90
    assert all(row.source for row in ROWS)
    assert len({(row.language, row.written) for row in ROWS}) == len(ROWS)


def test_the_declaration_is_written_by_the_rule() -> None:
    rows = [row for row in ROWS if row.source.startswith("UDHR") and not any(map(str.isdecimal, row.written))]
    assert len(rows) > 900
    assert [row.written for row in rows if by_rule(row.written, row.language) != row.right] == []


def test_a_model_of_several_scripts_is_right_in_each() -> None:
    """Spaces, clusters, syllables and ideographs in one model, whichever language comes first."""
    codes = ["deu", "tha", "bod", "cmn", "kor", "heb"]
    rows = [row for code in codes for row in [row for row in ROWS if row.language == code][:3]]
    tokens = choose_vocabulary(row.right for row in rows).tokens
    first, *others = map(settings_for, codes)
    normaliser = Normaliser(replace(first, languages={own.language: own for own in others}))
    for row in rows:
        assert failed_checks(row, normaliser.for_language(row.language), tokens, search=False) == []


def test_streams_of_mixed_text_are_the_whole_text() -> None:
    """Parts of sentences of ten languages in a clip, some in scripts that the model has no language for, in tokens of one to four
    letters and blocks of any size."""
    draw = random.Random(1)
    rows = [
        row for row in ROWS if row.language in ("deu", "tha", "bod", "cmn", "kor", "mya", "khm", "lao", "jpn", "ckb")
    ]
    first, *others = map(settings_for, ["deu", "tha", "bod", "cmn", "kor", "mya", "khm"])
    normaliser = Normaliser(replace(first, languages={own.language: own for own in others}))
    for _ in range(100):
        parts = (draw.choice(rows).right[draw.randrange(10) :][: draw.randint(3, 25)] for _ in range(3))
        text = " ".join(" ".join(parts).split())
        if draw.random() < 0.5:
            text = text.replace(" ", "", 2)
        cuts = {text[at : at + draw.randint(2, 4)] for at in draw.choices(range(len(text) - 4), k=10)}
        letters = set(text) - {" "}
        tokens = Tokens(["<blank>", "|", *sorted(letters | {piece for piece in cuts if " " not in piece})])
        log_probs_TV = simulate(tokens.encode(text), len(tokens))
        writing = normaliser.for_language(draw.choice(["deu", "tha", "bod"])).output_writing
        found = words(greedy(log_probs_TV), tokens, 0.04, writing)
        assert text_of_words(found) == transcript(greedy(log_probs_TV), tokens) == text
        streaming, step = StreamingGreedy(tokens, 0.04, writing), draw.randint(1, 9)
        blocks = [log_probs_TV[at : at + step] for at in range(0, len(log_probs_TV), step)]
        assert [word for block in blocks for word in streaming.feed(block)] + streaming.finish() == found


@pytest.mark.parametrize("language", ["cmn", "tha", "bod", "kor", "ara", "nav"])
def test_tuning_on_perfect_hypotheses_lowers_no_confidence(language: str) -> None:
    rows = [row for row in ROWS if row.language == language][:4]
    tokens = choose_vocabulary(row.right for row in rows).tokens
    before, after = tuned_confidence(rows, tokens, normaliser_of(language))
    assert after >= before


def test_one_wrong_letter_in_a_hundred_changes_the_rates_by_no_more_than_it() -> None:
    for row in ROWS:
        if len(row.right) < 100:
            continue
        writing, wrong = normaliser_of(row.language).writing, one_letter_wrong(row.right)
        cer, wer = character_errors(row.right, wrong), word_errors(row.right, wrong, writing)
        clusters = 2 if writing.units == "clusters" else 1
        assert cer.errors == 1 and cer.reference == len(row.right)
        assert wer.errors <= clusters and wer.reference == len(writing.count_units(row.right))


@pytest.mark.parametrize("language", sorted({row.language for row in ROWS}))
def test_every_row_is_right(language: str) -> None:
    rows = [row for row in ROWS if row.language == language]
    tokens = choose_vocabulary(row.right for row in rows).tokens
    normaliser = normaliser_of(language)
    assert [
        (row.written, names) for row in rows if (names := failed_checks(row, normaliser, tokens, search=False))
    ] == []
