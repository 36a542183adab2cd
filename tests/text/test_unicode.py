"""Mending: text in the wrong encoding is read again, and letters of another script in a word are set right."""

from __future__ import annotations

from collections import Counter

import pytest

from lalia.text.unicode import (
    is_unreadable,
    look_alike_groups,
    mixed_words,
    repair_encoding,
    repair_look_alikes,
    script_of,
    script_title,
)

RIGHT = [
    "città è già così", "Þar sem sjávarfalla gætir", "příliš žluťoučký kůň", "привет мир", "Ελλάδα", "السلام عليكم", "नमस्ते",
    "你好，世界", "안녕하세요", "ሰላም", "ọ̀rọ̀ Yorùbá", "“L’età” – già…", "à “là”", "Сірий кіт", "plain", "",
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
@pytest.mark.parametrize("page", ["cp1252", "latin-1", "cp1250", "cp1251"])
def test_utf8_read_in_a_code_page_is_read_again(text: str, page: str) -> None:
    try:
        wrong = text.encode("utf-8").decode(page)
    except UnicodeDecodeError:
        pytest.skip("the page has no such bytes")
    assert repair_encoding(wrong) == text


@pytest.mark.parametrize("text", RIGHT)
def test_right_text_stays(text: str) -> None:
    assert repair_encoding(text) == text
    assert not is_unreadable(text)


def test_twice_wrong_is_mended_twice() -> None:
    wrong = "città più".encode().decode("latin-1").encode().decode("latin-1")
    assert repair_encoding(wrong) == "città più"


def test_lost_bytes_are_noticed() -> None:
    assert is_unreadable("citt\ufffd") and is_unreadable("a\x00b")


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        ("саsa bianca", "casa bianca"),  # the first two are Cyrillic
        ("Mосква", "Москва"),  # the first is Latin
        ("ƙara ɗaya", "ƙara ɗaya"),
        ("bεn kεlεn", "bɛn kɛlɛn"),  # Greek epsilon for the open e
        ("日本語のテスト", "日本語のテスト"),
        ("привет hello", "привет hello"),
        ("ọ̀rọ̀ nàìjíríà", "ọ̀rọ̀ nàìjíríà"),
    ],
)
def test_lookalikes_become_letters_of_the_words_own_script(written: str, mended: str) -> None:
    assert repair_look_alikes(written) == mended
    assert not mixed_words(mended)


def test_two_codes_for_one_letter() -> None:
    assert look_alike_groups(Counter("şşşș")) == [["ş", "ș"]]
    assert look_alike_groups(Counter("a'bʼ")) == [["'", "ʼ"]]
    assert not look_alike_groups(Counter("abcабв"))  # two alphabets, each in its own right


def test_scripts_have_names() -> None:
    assert [script_of(c) for c in "aж字かガ한ሰअب1’"] == [
        "LATIN", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "ETHIOPIC", "DEVANAGARI", "ARABIC", "", "",
    ]  # fmt: skip
    assert script_title("ETHIOPIC") == "Ge'ez"
