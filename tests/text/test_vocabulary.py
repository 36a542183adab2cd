"""Vocabulary: the unit that suits the writing, and text that comes back as it was."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest

from lalia.errors import UserError
from lalia.text.tokens import Tokens, choose_vocabulary, missing_characters, require_coverage
from lalia.text.unicode import graphemes, to_jamo

HAN = [chr(0x4E00 + i) for i in range(400)]
WRITING = {
    "icelandic": (["þar sem er", "heiti borgarinnar", "sjávar"] * 9, "letters"),
    "russian": (["привет мир", "ёлка"] * 9, "letters"),
    "arabic": (["السلام عليكم", "كيف حالك"] * 9, "letters"),
    "hindi": (["नमस्ते दुनिया", "क्या हाल है", "क्षत्रिय"] * 9, "letters"),
    "amharic": (["ሰላም ለዓለም", "እንዴት ነህ"] * 9, "letters"),
    "yoruba": (["ọ̀rọ̀ yorùbá", "ẹ̀kọ́ ọ̀fẹ́"] * 9, "graphemes"),
    "korean": (["안녕하세요 세계", "읽다 없다"] * 9, "jamo"),
    "mandarin": (["".join(HAN[i : i + 12]) for i in range(0, 388, 3)] * 2, "pieces"),
}


@pytest.mark.parametrize("name", WRITING)
def test_the_unit_suits_the_writing_and_text_comes_back(name: str, tmp_path: Path) -> None:
    texts, unit = WRITING[name]
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    found = choose_vocabulary(texts)
    assert found.unit == unit
    found.tokens.save(tmp_path / "tokens.txt")
    tokens = Tokens.load(tmp_path / "tokens.txt")
    for text in texts:
        assert tokens.decode(tokens.encode(text)) == text
    assert str(len(tokens)) in found.describe()


def test_graphemes_keep_their_marks() -> None:
    assert graphemes("ọ̀rọ̀ ẹ́") == ["ọ̀", "r", "ọ̀", " ", "ẹ́"]
    found = choose_vocabulary(["ọ̀rọ̀", "rọ"] * 5)
    assert len(found.tokens.encode("ọ̀rọ̀")) == 3


@pytest.mark.parametrize(
    "clusters",
    [
        ["l̥", "a", "ː", "t͡", "s"],
        ["क्ष", "त्रि", "य"],  # conjuncts (GB9c)
        ["กำ", "ลั", "ง"],  # SARA AM is a letter for Unicode and belongs to the one before it
        ["မြ", "န်", "မာ", "ငါး"],  # no mark alone, where UAX 29 cuts before the vowel sign
        ["한", "글"],
    ],
)
def test_graphemes_of_many_scripts(clusters: list[str]) -> None:
    assert graphemes("".join(clusters)) == clusters


def test_syllables_become_their_parts() -> None:
    assert len(to_jamo("한글")) == 6
    assert unicodedata.normalize("NFC", to_jamo("한글 가")) == "한글 가"
    tokens = choose_vocabulary(["한글 가나다"] * 5).tokens
    assert tokens.decode(tokens.encode("간")) == "간"  # never seen, but its parts were


def test_rare_letters_are_spelled_in_bytes_and_decode_without_sentencepiece(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["你好世界天地人" * 3] * 40 + HAN
    found = choose_vocabulary(texts, "pieces", 128)
    assert len(found.tokens) <= 128
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for text in ("你好", HAN[123], "龍"):  # the last is in no label
        assert found.tokens.decode(found.tokens.encode(text)) == text
    ids = found.tokens.encode(HAN[123])
    assert len(ids) == 3
    assert found.tokens.decode(ids[:2]) == ""  # half a letter is none
    assert found.tokens.decode([*ids[:2], *found.tokens.encode("好")]) == "好"


def test_pieces_group_letters() -> None:
    texts = ["the thing that they think", "then there is nothing in the theatre"] * 30
    found = choose_vocabulary(texts, "pieces", 60)
    assert any(len(symbol) > 1 for symbol in found.tokens.symbols[2:])
    assert len(found.tokens.encode("the thing")) < len("the thing")
    assert found.tokens.decode(found.tokens.encode("the thing that")) == "the thing that"


def test_without_sentencepiece_the_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"labels\.unit letters"):
        choose_vocabulary(["the thing that they think"] * 9, "pieces", 60)


def test_labels_without_letters() -> None:
    with pytest.raises(UserError, match="no letters"):
        choose_vocabulary(["", " "])


def test_a_head_of_another_alphabet_is_refused() -> None:
    tokens = Tokens.from_texts(["abcde"])
    require_coverage(tokens, ["abc"] * 40 + ["x"], "model")  # a few strange letters are no reason
    assert missing_characters(tokens, ["axb", "x я"]) == {"x": 2, "я": 1}
    with pytest.raises(UserError, match=r"model: its head has no token for 6 characters .*'п' \(U\+043F, 1 times\)"):
        require_coverage(tokens, ["привет"], "model")


def test_what_cannot_be_spelled_is_left_out_when_asked() -> None:
    tokens = Tokens.from_texts(["abc"])
    assert tokens.decode(tokens.encode("axb", skip_unknown=True)) == "ab"
    assert tokens.unknown("axbyx") == ["x", "y"]
