"""Signs that are spoken: right values by hand from each language's grammar, plural rules against CLDR's own samples."""

from __future__ import annotations

import pytest

from lalia.text.normaliser import Normaliser, NormaliserSettings, settings_for
from lalia.text.number_words import dates_and_times, spell_numbers
from lalia.text.spoken_signs import _category, spell_signs


@pytest.mark.parametrize(
    ("language", "written", "right"),
    [
        ("eng", "It cost $5.50 & 3% of £1.", "it cost five dollars fifty and three percent of one pound"),
        ("eng", "$1 $5.00 $1,000 5€50", "one dollar five dollars one thousand dollars five euros fifty"),
        ("eng", "$5 million, AT&T, 21°C", "five million dollars at and t twenty one degrees celsius"),
        ("eng", "5 + 3 = 8 in C++", "five plus three equals eight in c"),
        ("eng", "US$5 or 18+", "us five or eighteen"),
        ("deu", "5,50 €, 1 €, 3 Millionen €, §5", "fünf euro fünfzig ein euro drei millionen euro paragraf fünf"),
        ("deu", "5%ige", "fünf prozentige"),
        ("fra", "5 % de 2 millions €", "cinq pour cent de deux millions d'euros"),
        ("spa", "$2 millones, 1 £", "dos millones de dólares una libra"),
        ("ita", "1 €, 21 $", "un euro ventuno dollari"),
        ("rus", "1%, 22%, 5 %, 1,5 %", "один процент двадцать два процента пять процентов одна целая пять десятых процента"),
        ("rus", "$1, $3, $5", "один доллар три доллара пять долларов"),
        ("pol", "2 $ i 5 $", "dwa dolary i pięć dolarów"),
        ("ron", "5 $, 25 $", "cinci dolari douăzeci și cinci de dolari"),
        ("tur", "%50 veya 50%", "yüzde elli veya yüzde elli"),
        ("tur", "2.5%", "iki beş"),  # the decimal mark of another language: the sign is left out rather than put between
        ("swh", "5%, $5", "asilimia tano dola tano"),
        ("cmn", "5%和3°C", "百分之五和三摄氏度"),
        ("jpn", "5%、3℃", "五パーセント摂氏三度"),
        ("tha", "5% & $5", "ห้าเปอร์เซ็นต์และห้าดอลลาร์"),
        ("heb", "1° 2° 5°", "מעלה אחת שתי מעלות חמש מעלות"),
        ("kor", "5%", "오 퍼센트"),
        ("hin", "५%", "पाँच प्रतिशत"),
    ],
)  # fmt: skip
def test_signs_are_written_as_they_are_said(language: str, written: str, right: str) -> None:
    normaliser = Normaliser(settings_for(language))
    assert normaliser(written) == right
    assert normaliser(right) == right


def test_plural_categories() -> None:
    """The samples of CLDR 47 plurals.json for Russian, Arabic and Danish."""
    from lalia.text.spoken_signs import _table

    rules = {code: _table()[code]["plural"] for code in ("rus", "ara", "dan")}
    wanted = {
        "rus": {"one": "1 21 101", "few": "2 4 22 102", "many": "0 5 19 100 11", "other": "0.0 1.5 10.0"},
        "ara": {"zero": "0 0.0", "one": "1 1.0", "two": "2", "few": "3 10 103", "many": "11 26 111", "other": "100 102 0.1"},
        "dan": {"one": "1 0.1 1.6", "other": "0 2 16 2.0 0.0"},
    }  # fmt: skip
    for code, categories in wanted.items():
        for category, numbers in categories.items():
            assert {_category(number, rules[code]) for number in numbers.split()} == {category}


def test_a_table_gives_the_words_of_signs() -> None:
    table = {"%": "por ciento q'in", "₽": "rublo {}", "&": "xuqujeʼ"}
    assert spell_signs("7 % & ₽ 5", "quc", None, table) == "7 por ciento q'in xuqujeʼ rublo 5"
    assert spell_signs("7 %", "quc") == "7 %"
    assert spell_signs("a & b, § 5", "quc", None, {"&": r"n\1", "§": "taq {}"}) == r"a n\1 b, taq 5"
    assert spell_signs("5 °c, 5° N, 7°N, $5 Million, 7 §", "eng") == (
        "5 degrees Celsius, 5 degrees N, 7°N, 5 Million dollars, 7 §"
    )


def test_signs_that_are_kept_are_not_spelled() -> None:
    assert Normaliser(settings_for("eng", keep="%"))("5%") == "five%"
    assert Normaliser(settings_for("eng", digits="keep"))("5%") == "5"
    stored = NormaliserSettings(language="eng", digits="spell")  # made before signs were spelled
    assert Normaliser(stored)("5%") == "five" and "signs" not in stored.to_json()


@pytest.mark.parametrize(
    ("language", "written", "words"),
    [
        ("eng", "100 200", "one hundred two hundred"),
        ("eng", "100 000", "one hundred thousand"),
        ("deu", "12 500", "zwölftausendfünfhundert"),
        ("rus", "100 200", "сто тысяч двести"),
        ("rus", "3,14 и 21,5", "три целых четырнадцать сотых и двадцать одна целая пять десятых"),
    ],
)
def test_spaces_between_thousands_and_russian_decimals(language: str, written: str, words: str) -> None:
    assert spell_numbers(written, language) == words


def test_dates_and_clock_times_are_found() -> None:
    text = "am 24.12. um 10:30, 2024-12-24, ۱۰:۳۰, 2024年12月24日, 14h05; not 3.5 or 12"
    assert dates_and_times(text) == ["24.12.", "10:30", "2024-12-24", "۱۰:۳۰", "2024年12月24日", "14h05"]
