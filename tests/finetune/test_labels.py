"""Labels of a run: the language's own normaliser under what the settings say, and a vocabulary that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from finetune.config import LabelSettings
from finetune.model import describe, describe_languages_of, make_normaliser, make_tokens
from lalia.data.labels import label_encoder, normalised_label
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens


class Texts:
    """As much of a mixture as labels need."""

    def __init__(self, *texts: str, languages: Sequence[str] = ()) -> None:
        self.texts = texts
        self._languages = languages or ["ita"] * len(texts)

    def text(self, row: int) -> str:
        return self.texts[row]

    def language(self, row: int) -> str:
        return self._languages[row]


def tokens_of(*texts: str, known: Tokens | None = None, **settings: Any) -> Tokens:
    said = LabelSettings(**settings)
    rows = np.arange(len(texts))
    return make_tokens(cast(Mixture, Texts(*texts)), rows, normaliser_of("ita", said), said, known)


def normaliser_of(language: str, said: LabelSettings | None = None, texts: Sequence[str] = ()) -> Normaliser:
    return make_normaliser(said or LabelSettings(), {language: texts})


def test_the_language_says_how_it_is_written(tmp_path: Path) -> None:
    assert normaliser_of("ita")("Un po’ di 21!") == "un po' di ventuno"
    assert normaliser_of("cmn")("你好，世界") == "你好世界"
    assert normaliser_of("wyn")("Kwe, 21") == "kwe 21"
    assert normaliser_of("srp", texts=["Žena i čovek"])("21 Ǌegoš") == "dvadeset i jedan njegoš"
    assert normaliser_of("srp", texts=["Жена и човек"])("21 човек") == "двадесет и један човек"
    table = tmp_path / "numbers.tsv"
    table.write_text("13\toxlajuj\n", encoding="utf-8")
    assert normaliser_of("quc", LabelSettings(numbers=str(table)))("13 Q'ij") == "oxlajuj qʼij"


def test_each_language_is_spelled_by_its_own_rules() -> None:
    labels = {"tur": ["ISPARTA", "ilk"], "deu": ["Indien ist groß"]}
    normaliser = make_normaliser(LabelSettings(), labels)
    texts = Texts("ISPARTA", "ilk", "Indien ist groß", languages=["tur", "tur", "deu"])
    mixture, rows = cast(Mixture, texts), np.arange(3)
    assert [normalised_label(mixture, row, normaliser) for row in range(3)] == ["ısparta", "ilk", "indien ist groß"]
    tokens = make_tokens(mixture, rows, normaliser)
    assert tokens.symbols == ("<blank>", "|", *"adegiklnoprstßı")
    encode = label_encoder(tokens, normaliser)
    assert tokens.decode(encode("ISPARTA IST", "deu")) == "isparta ist"
    assert tokens.decode(encode("ISPARTA IST", "tur")) == "ısparta ıst"
    # ı s p a r t i l k, then d e n g o ß
    told = describe_languages_of(mixture, rows, tokens, normaliser)
    assert told == "languages: tur has 9 tokens, deu adds 6 (d e g n o ß); 15 together"
    assert describe_languages_of(mixture, rows[:2], tokens, normaliser) == ""
    told = describe_languages_of(mixture, rows, tokens, normaliser_of("tur"))
    assert "deu by the rules of tur adds 6" in told


def test_a_table_of_numbers_is_of_one_language(tmp_path: Path) -> None:
    said = LabelSettings(numbers=str(tmp_path / "numbers.tsv"))
    with pytest.raises(UserError, match=r"--labels.numbers: is a table of one language, and the clips are in deu, tur"):
        make_normaliser(said, {"deu": [], "tur": []})


def test_settings_win_over_the_language(tmp_path: Path) -> None:
    said = LabelSettings(case="keep", punctuation="keep", digits="keep")
    assert normaliser_of("ita", said)("Un po' di 21!") == "Un po' di 21!"
    NormaliserSettings(case="upper").to_json(tmp_path / "own.json")
    assert normaliser_of("ita", LabelSettings(normaliser=str(tmp_path / "own.json")))("po' 21") == "PO 21"


def test_the_vocabulary_is_that_of_the_labels() -> None:
    assert tokens_of("La casa", "è qui").symbols == ("<blank>", "|", "a", "c", "i", "l", "q", "s", "u", "è")
    assert tokens_of("abab abab " * 30, unit="pieces", pieces=12).encode("abab") != list("abab")


def test_of_a_known_head_only_what_it_lacks_is_asked_for() -> None:
    known = Tokens.from_texts(["la casa"])
    assert tokens_of("la casa è", known=known).symbols == ("<blank>", "|", "è")
    assert tokens_of("la casa", known=known).symbols == ("<blank>", "|")


def test_labels_that_are_all_empty_are_named() -> None:
    with pytest.raises(UserError, match="all 2 training labels are empty after normalisation"):
        tokens_of("…", "?!")


def test_letters_that_training_never_saw_are_left_out() -> None:
    normalise = normaliser_of("ita")
    tokens = tokens_of("la casa")
    assert tokens.decode(label_encoder(tokens, normalise)("La Casa è, sal", "ita")) == "la casa  sal"


def test_what_is_used_is_told() -> None:
    normalise = normaliser_of("ita")
    told = describe(tokens_of("la casa"), normalise)
    assert "lower case" in told and "6: | a c l s" in told
