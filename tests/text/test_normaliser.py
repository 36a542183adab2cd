"""The normaliser: one spelling for every script, told by examples a language's writer would recognise."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from lalia.errors import UserError
from lalia.text.normaliser import Normaliser, NormaliserSettings

DEFAULT = Normaliser()


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Hello,   World!", "hello world"),
        ("L’ora è già PASSATA… “davvero”?", "l'ora è gia\u0300 passata davvero"),
        ("Un po' di \u00a0pane\n", "un po di pane"),
        ("don't 'quote' rock 'n' roll", "don't quote rock n roll"),
        ("Ёлка — «Москва», №5", "ёлка москва 5"),
        ("السَّلامُ عليكم، كيف حالك؟", "السَّلامُ عليكم كيف حالك"),
        ("كتـــاب", "كتاب"),
        ("नमस्ते। क्या हाल है?", "नमस्ते क्या हाल है"),
        ("क्\u200dष", "क्ष"),
        ("你好，世界！（2024）", "你好 世界 2024"),
        ("ሰላም፡ለዓለም።", "ሰላም ለዓለም"),
        ("안녕하세요, 세계!", "안녕하세요 세계"),
        ("Zero\u200bwidth\ufeff so\u00adft \u202aleft\u202c", "zerowidth soft left"),
        ("ΟΔΟΣ", "οδος"),
        ("Tiếng Việt: ngã", "tiếng việt ngã"),
        ("ọ̀rọ̀ Yorùbá", "ọ̀rọ̀ yorùbá"),
        ("heart ❤️ 5€ 50 %", "heart 5 50"),
        ("well-known e\u0301tat", "well known état"),
        ("", ""),
        ("… !?", ""),
    ],
)
def test_scripts(written: str, normal: str) -> None:
    assert DEFAULT(written) == unicodedata.normalize("NFC", normal)


def test_marks_without_a_letter_go() -> None:
    assert DEFAULT("a. \u0301b ,\u0308") == "a b"


@pytest.mark.parametrize(
    ("settings", "written", "normal"),
    [
        ({"case": "keep"}, "Über Alles!", "Über Alles"),
        ({"case": "upper"}, "straße", "STRASSE"),
        ({"language": "tur"}, "Iğdır İZMİR", "ığdır izmir"),
        ({"language": "tur", "case": "upper"}, "ığdır izmir", "IĞDIR İZMİR"),
        ({"hyphens": "inside"}, "well-known - a-b -c d- x--y", "well-known a-b c d x y"),
        ({"apostrophes": "edges"}, "un po’ di ‘ndrangheta '", "un po' di 'ndrangheta"),
        ({"apostrophes": "drop"}, "don't", "dont"),
        ({"punctuation": "keep"}, " Hello,  World! ", "hello, world!"),
        ({"spaces": "drop"}, "你好，世 界", "你好世界"),
        ({"keep": "·"}, "col·lecció·", "col·lecció·"),
        ({"drop": "\u064e\u064f\u0651"}, "السَّلامُ", "السلام"),
        ({"replace": {"Ё": "Е", "sch": "š"}}, "ёлка Schule", "елка šule"),
        ({"form": "NFKC"}, "ﬁn ＡＢＣ", "fin abc"),
    ],
)
def test_settings(settings: dict[str, Any], written: str, normal: str) -> None:
    assert Normaliser(NormaliserSettings(**settings))(written) == normal


ALL_SETTINGS = [
    {},
    {"apostrophes": "edges", "hyphens": "inside"},
    {"apostrophes": "drop", "case": "upper"},
    {"punctuation": "keep", "form": "NFKC"},
    {"form": "NFKC", "language": "tur", "spaces": "drop"},
]


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_twice_is_once(settings: dict[str, Any]) -> None:
    normalise = Normaliser(NormaliserSettings(**settings))
    every = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    blocks = ["a" + "a".join(every[i : i + 500]) + "a" for i in range(0, 0x20000, 500)]
    draw = random.Random(7)
    hard = "ab'’-‐ .\u0301\u0308\u0323\u200d\u0640\u20e3İIıßﬁΣ가가각क्षُ|你1\u0345"
    blocks += ["".join(draw.choices(hard, k=12)) for _ in range(20_000)]
    for block in blocks:
        once = normalise(block)
        assert normalise(once) == once, (block, once)


def test_nothing_invisible_comes_out() -> None:
    out = DEFAULT("".join(chr(c) + "a" for c in range(0x20000) if not 0xD800 <= c < 0xE000))
    assert {unicodedata.category(c)[0] for c in out} <= {"L", "M", "N", "Z", "P"}
    assert {c for c in out if unicodedata.category(c)[0] in "PZ"} == {" ", "'"}


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = NormaliserSettings(language="cat", keep="·", replace={"’": "'"}, hyphens="inside")
    text = settings.to_json(tmp_path / "normaliser.json")
    assert json.loads(text)["keep"] == "·"
    assert NormaliserSettings.from_json(tmp_path / "normaliser.json") == settings
    Normaliser(settings).to_json(tmp_path / "again.json")
    assert Normaliser.from_json(tmp_path / "again.json").settings == settings


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "JSON"),
        ('{"casing": "lower"}', "casing"),
        ('{"case": "lowr"}', "lowr"),
        ('{"case": 3}', "case is 3"),
        ("[]", "list"),
        ('{"replace": {"a": "aa"}}', "never end"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "normaliser.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        NormaliserSettings.from_json(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        NormaliserSettings.from_json(tmp_path / "normaliser.json")
