"""Tokens: text to ids and back, and files that say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lalia.errors import UserError
from lalia.text.tokens import Tokens


def test_from_texts_and_back(tmp_path: Path) -> None:
    texts = ["la casa", "è l'ora", "नमस्ते दुनिया", "你好"]
    tokens = Tokens.from_texts(texts)
    assert tokens.symbols[:2] == ("<blank>", "|")
    assert list(tokens.symbols[2:]) == sorted(tokens.symbols[2:])
    for text in texts:
        assert tokens.decode(tokens.encode(text)) == text
    tokens.save(tmp_path / "tokens.txt")
    assert (tmp_path / "tokens.txt").read_text(encoding="utf-8").startswith("<blank> 0\n| 1\n' 2\n")
    assert Tokens.load(tmp_path / "tokens.txt") == tokens


def test_longest_symbol_wins() -> None:
    tokens = Tokens(["<blank>", "|", "s", "c", "h", "sch"])
    assert tokens.encode("schs c") == [5, 2, 1, 3]


def test_unknown_characters_are_named() -> None:
    with pytest.raises(UserError, match=r"'x' \(U\+0078\), '\|' \(U\+007C\)"):
        Tokens.from_texts(["abc"]).encode("axb|a x")


def test_without_boundary() -> None:
    tokens = Tokens(["<blank>", "你", "好"])
    assert tokens.boundary is None
    with pytest.raises(UserError):
        tokens.encode("你 好")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a 0\n", "first symbol"),
        ("<blank> 0\na 2\n", "line 2"),
        ("<blank> 0\na\n", "line 2"),
        ("<blank> 0\na 1\na 2\n", "'a' stands at 1 and at 2"),
        ("", "first symbol is nothing"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says) as caught:
        Tokens.load(path)
    assert str(path) in str(caught.value)


def test_no_texts() -> None:
    with pytest.raises(UserError, match="no characters"):
        Tokens.from_texts(["", " "])
