"""Writing systems: words, syllables and clusters of every script are cut, joined and stored as their language has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lalia.errors import UserError
from lalia.text.normaliser import Normaliser, NormaliserSettings, settings_for
from lalia.text.writing_system import WritingSystem, languages, mixed_writing, writing_system


@pytest.mark.parametrize(
    ("language", "text", "pieces"),
    [
        ("eng", "the ferry leaves", ["the", "ferry", "leaves"]),
        ("kor", "안녕하세요 세계", ["안녕하세요", "세계"]),
        ("cmn", "我们去ok北京", ["我", "们", "去", "ok", "北", "京"]),
        ("jpn", "東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("tha", "สวัสดีน้ำแม่เก่า", ["ส", "วั", "ส", "ดี", "น้ำ", "แม่", "เก่า"]),
        ("lao", "ສະບາຍດີ", ["ສະ", "ບາ", "ຍ", "ດີ"]),
        ("mya", "မြန်မာဘာသာ", ["မြန်", "မာ", "ဘာ", "သာ"]),
        ("khm", "ភាសាខ្មែរ", ["ភា", "សា", "ខ្មែ", "រ"]),
        ("bod", "བོད་སྐད་ཡིག", ["བོད་", "སྐད་", "ཡིག"]),
        ("", "go 世界", ["go", "世", "界"]),
    ],
)
def test_cut(language: str, text: str, pieces: list[str]) -> None:
    writing = writing_system(language)
    assert writing.cut(text) == pieces
    assert writing.join(pieces).replace(" ", "") == text.replace(" ", "")


def test_a_stream_waits_until_a_piece_is_certain() -> None:
    """However a text is split, what is certain of its beginning is what the whole text is cut into."""
    for language, text in [
        ("mya", "မြန်မာနိုင်ငံတော်သည်"), ("tha", "ประเทศไทยงดงามok"), ("bod", "བོད་སྐད་ཡིག"), ("cmn", "我们去ok北京"),
        ("khm", "ព្រះរាជាណាចក្រកម្ពុជា"),
    ]:  # fmt: skip
        writing = writing_system(language)
        whole = writing.cut(text)
        for end in range(1, len(text)):
            pieces = writing.cut(text[:end])
            certain = writing.certain(pieces)
            assert pieces[:certain] == whole[:certain], (language, text[:end])


def test_units_of_error_rates_have_no_separator() -> None:
    assert writing_system("bod").count_units("བོད་སྐད་ཡིག") == ["བོད", "སྐད", "ཡིག"]


def test_enough_languages_are_known() -> None:
    assert len(languages()) > 1000
    assert {"nav", "dzo", "quc", "kek", "shs", "str", "haw", "bod", "ckb", "mya"} <= languages()
    assert writing_system("heb").direction == writing_system("ckb").direction == "rtl"
    assert writing_system("srp").script == "Cyrl" and writing_system("srp", "Latn").script == "Latn"
    assert writing_system("fas").digits == "۰" and writing_system("deu").decimal == ","


def test_every_writing_survives_its_file(tmp_path: Path) -> None:
    for language in sorted(languages()):
        settings = settings_for(language)
        settings.to_json(tmp_path / "normaliser.json")
        assert NormaliserSettings.from_json(tmp_path / "normaliser.json") == settings


def test_old_folders_write_as_before(tmp_path: Path) -> None:
    """A normaliser without a writing system: no mark becomes a letter, but words are cut as the language does."""
    path = tmp_path / "normaliser.json"
    path.write_text('{"language": "bod", "spaces": "drop"}', encoding="utf-8")
    old = Normaliser.from_json(path)
    assert old("བོད་སྐད།") == "བོདསྐད" and not old.writing.spaced
    path.write_text('{"language": "haw", "replace": {"\'": "ʻ"}}', encoding="utf-8")
    assert Normaliser.from_json(path)("Hawai'i") == "hawaiʻi"
    path.write_text('{"language": "tha", "spaces": "drop"}', encoding="utf-8")
    assert len(Normaliser.from_json(path).writing.cut("สวัสดี")) == 4
    path.write_text('{"language": "gle"}', encoding="utf-8")
    assert Normaliser.from_json(path)("an tUachtarán") == "an tuachtarán"


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ([], "expected an object"), ({"word": 1}, "expected an object"), ({"units": "word"}, "units is 'word'"),
        ({"letters": {"ʼ": "x"}}, "places 'x'"), ({"script": 3}, "script is 3"), ({"same": {"": "a"}}, "empty"),
    ],
)  # fmt: skip
def test_a_damaged_writing_is_named(stored: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "normaliser.json"
    path.write_text(json.dumps({"writing": stored}), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        NormaliserSettings.from_json(path)


@pytest.mark.parametrize("codes", [("deu", "tha", "bod"), ("bod", "deu", "tha"), ("tha", "bod", "deu")])
def test_each_stretch_of_a_mixed_text_is_of_its_own_language(codes: tuple[str, ...]) -> None:
    first, *others = (settings_for(code) for code in codes)
    writing = Normaliser(replace(first, languages={own.language: own for own in others})).output_writing
    assert writing.cut("guten Tag สวัสดี བོད་སྐད་ ไปmünchen") == [
        "guten", "Tag", "ส", "วั", "ส", "ดี", "བོད་", "སྐད་", "ไป", "münchen",
    ]  # fmt: skip
    assert mixed_writing([writing_system("kor"), writing_system("tha")]).cut("iphone은ดี") == ["iphone은", "ดี"]
    assert writing.count_units("བོད་སྐད་ ok") == ["བོད", "སྐད", "ok"]
    assert [writing.edge(letter) for letter in "aทབ"] == [" ", "", "་"]
    assert writing.space_between("a", "b") and writing.space_between("a", "ท") and not writing.space_between("ท", "ท")
    assert not writing.spaced and writing.splits("ท") and not writing.splits("ab")


def test_languages_that_are_cut_alike_share_a_writing() -> None:
    german, turkish, thai = map(writing_system, ("deu", "tur", "tha"))
    assert mixed_writing([german, turkish]) is german
    assert mixed_writing([writing_system("mya"), writing_system("ksw")]).cut("မြန်မာ") == ["မြန်", "မာ"]
    assert mixed_writing([writing_system("ksw"), writing_system("mya")]).cut("မြန်မာ") == ["မြန်မာ"]
    assert mixed_writing([thai, german]).part("aท") is not mixed_writing([thai, german]).part("ทa")


def test_dropped_spaces_are_asked_of_the_normaliser() -> None:
    assert not Normaliser(NormaliserSettings(spaces="drop")).writing.spaced
    assert Normaliser().writing == WritingSystem()
