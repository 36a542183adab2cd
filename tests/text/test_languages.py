"""Languages: the data file is sound, and each language's normaliser does what its writers expect, digits included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lalia.errors import UserError
from lalia.text.languages import profile, profiles
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.number_words import numbers_in, read_numbers, spell_numbers
from lalia.text.unicode import script_of


@pytest.mark.parametrize(
    ("language", "written", "normal"),
    [
        (
            "eng", "The 1st of 1,984 cats: 3.5kg at 10:30, 007!",
            "the first of one thousand nine hundred and eighty four cats three point five kg at ten thirty zero zero seven",
        ),
        ("ita", "Il 1º po’ d’oro: 1.984 e 3,5", "il primo po' d'oro millenovecentottantaquattro e tre virgola cinque"),
        ("isl", "Árið 21", "árið tuttugu og einn"),
        ("ara", "٣ كُتُب", "ثلاثة كتب"),
        ("jpn", "３月10日 です。", "三月十日です"),
        ("kor", "3월 10일", "삼월 십일"),
        ("tur", "IĞDIR 2", "ığdır iki"),
        ("swh", "watu 13 ng’ombe", "watu kumi na tatu ng'ombe"),
        ("cmn", "你好，世界 ＯＫ", "你好世界ok"),
        ("uzn", "O‘zbekiston g'alaba a’lo", "oʻzbekiston gʻalaba aʼlo"),
        ("haw", "‘Okina, Hawai'i", "ʻokina hawaiʻi"),
        ("chr", "ᏣᎳᎩ!", "ᏣᎳᎩ"),
        ("ron", "Şi ţară", "și țară"),
        ("fas", "كتاب ي", "کتاب ی"),
        ("amh", "ሰላም፡ለዓለም። 1984", "ሰላም ለዓለም አንድ ሺህ ዘጠኝ መቶ ሰማኒያ አራት"),
        ("nld", "'s Avonds 2e", "'s avonds tweede"),
    ],
)  # fmt: skip
def test_each_language_is_written_its_own_way(language: str, written: str, normal: str) -> None:
    normalise = Normaliser(settings_for(language))
    assert normalise(written) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize("language", sorted(profiles()))
def test_profiles_are_sound(language: str) -> None:
    known = profile(language)
    normalise = Normaliser(settings_for(language))
    assert known.code == language and known.name and known.scripts
    for word in known.common:
        assert {script_of(c) for c in normalise(word)} - {""} <= set(known.scripts), word
    if known.spells:
        most = int(known.cldr_numbers.partition("<")[2] or 10_000)  # CLDR's Macedonian is wrong from 100 on
        numbers = [n for n in [*range(11), 21, 99, 100, 1999] if n < most]
        spelled = spell_numbers(" ".join(map(str, [*numbers, "07"])), language)
        assert not any(map(str.isdecimal, spelled))


def test_a_language_of_no_one_is_written_as_all_are() -> None:
    assert not profile("wyn").known
    assert Normaliser(settings_for("wyn"))("Yahra'h, 12!") == "yahra'h 12"


def test_one_word_for_two_codes() -> None:
    assert profile("swa").name == profile("swh").name == "Swahili"
    assert profile("swa").code == "swa"


def test_where_num2words_is_missing_the_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    assert spell_numbers("no digits here", "eng") == "no digits here"
    with pytest.raises(UserError, match=r"pip install 'lalia\[train\]'"):
        spell_numbers("exactly 4711 of them", "eng")


@pytest.mark.parametrize(
    ("language", "written", "words"),
    [
        ("fra", "10 000 et 1\u202f234,89", "dix mille et mille deux cent trente-quatre virgule huit neuf"),
        ("ukr", "12 500", "дванадцять тисяч п'ятсот"),
        ("hin", "1,00,000 और ३.५", "एक लाख और तीन दशमलव पाँच"),
        ("deu", "1.984,5", "eintausendneunhundertvierundachtzig komma fünf"),
        ("fas", "۱۲٬۵۰۰ و ۳٫۵", "دوازده هزار و پانصد و سه ممیز پنج"),
        ("ita", "1'234 e 007", "milleduecentotrentaquattro e zero zero sette"),
        ("cmn", "1984年1984人", "一九八四年一千九百八十四人"),
        ("jpn", "1984年", "千九百八十四年"),
        ("srp", "21", "двадесет и један"),
        ("ell", "90 και 250.000", "ενενήντα και διακόσιες πενήντα χιλιάδες"),
        ("hye", "101 200 000", "հարյուր մեկ միլիոն երկու հարյուր հազար"),
        ("kat", "250 000", "ორასორმოცდაათი ათასი"),
        ("mkd", "21 и 250", "дваесет и еден и 250"),
        ("cmn", "101", "一百零一"),
        ("amh", "1984 እና 2,100,035", "አንድ ሺህ ዘጠኝ መቶ ሰማኒያ አራት እና ሁለት ሚሊዮን አንድ መቶ ሺህ ሠላሳ አምስት"),
        ("bos", "2 i 2.202", "dva i dvije hiljade dvjesta dva"),
        ("deu", "24.12.2024", "vierundzwanzig.zwölf.zweitausendvierundzwanzig"),
        ("eng", "555 12 3456", "five hundred and fifty-five twelve three thousand, four hundred and fifty-six"),
        ("squ", "Sḵwx̱wú7mesh", "Sḵwx̱wú7mesh"),
    ],
)  # fmt: skip
def test_numbers_are_read_by_the_languages_own_marks(language: str, written: str, words: str) -> None:
    assert spell_numbers(written, language) == words


def test_a_table_of_numbers(tmp_path: Path) -> None:
    """Where no library knows the numbers, a table that the user fills does."""
    path = tmp_path / "numbers.tsv"
    path.write_text("0\tmajun\n1\tjun\n7\twuqub'\n3.5\toxib' rukʼ nikʼaj\n", encoding="utf-8")
    table = read_numbers(path)
    assert (
        spell_numbers("7 winaq, 3.5, 017, 23", "quc", None, table)
        == "wuqub' winaq, oxib' rukʼ nikʼaj, majun jun wuqub', 23"
    )
    assert numbers_in(["7 q'ij 10,000", "7"], "quc") == {"7": 2, "10000": 1}
    for line, says in [
        ("seven\t7", "is no number"),
        ("7", "line 1: 7 has no words"),
        ("7\tx7", "has no words"),
        ("", "holds no numbers"),
    ]:
        path.write_text(line + "\n", encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_numbers(path)
