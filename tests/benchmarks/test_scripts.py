"""The rows of every script: each is right in all checks but those of the search, which the benchmark itself runs."""

from __future__ import annotations

import pytest

from benchmarks.decoding.scripts import failed_checks, normaliser_of, read_rows
from lalia.text.tokens import choose_vocabulary

ROWS = read_rows()


def test_there_are_enough() -> None:
    assert len({row.language for row in ROWS}) >= 40
    assert all(row.source for row in ROWS)


@pytest.mark.parametrize("language", sorted({row.language for row in ROWS}))
def test_every_row_is_right(language: str) -> None:
    rows = [row for row in ROWS if row.language == language]
    tokens = choose_vocabulary(row.right for row in rows).tokens
    normaliser = normaliser_of(language)
    assert [
        (row.written, names) for row in rows if (names := failed_checks(row, normaliser, tokens, search=False))
    ] == []
