"""Labels of a run: the language's own normaliser under what the settings say, and a vocabulary that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from finetune.config import LabelSettings
from finetune.model import describe, describe_other_languages, make_normaliser, make_tokens
from lalia.data.labels import label_encoder
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.text.normaliser import NormaliserSettings
from lalia.text.tokens import Tokens


class Texts:
    """As much of a mixture as labels need."""

    languages: np.ndarray
    language_names: list[str]

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def text(self, row: int) -> str:
        return self.texts[row]


def tokens_of(*texts: str, language: str = "ita", known: Tokens | None = None, **settings: Any) -> Tokens:
    said = LabelSettings(**settings)
    rows = np.arange(len(texts))
    return make_tokens(cast(Mixture, Texts(*texts)), rows, make_normaliser(said, language), said, known)


def test_the_language_says_how_it_is_written(tmp_path: Path) -> None:
    assert make_normaliser(LabelSettings(), "ita")("Un po’ di 21!") == "un po' di ventuno"
    assert make_normaliser(LabelSettings(), "cmn")("你好，世界") == "你好世界"
    assert make_normaliser(LabelSettings(), "wyn")("Kwe, 21") == "kwe 21"
    assert make_normaliser(LabelSettings(), "srp", ["Žena i čovek"])("21 Ǌegoš") == "dvadeset i jedan njegoš"
    assert make_normaliser(LabelSettings(), "srp", ["Жена и човек"])("21 човек") == "двадесет и један човек"
    table = tmp_path / "numbers.tsv"
    table.write_text("13\toxlajuj\n", encoding="utf-8")
    assert make_normaliser(LabelSettings(numbers=str(table)), "quc")("13 Q'ij") == "oxlajuj qʼij"


def test_labels_written_by_another_languages_rules_are_named() -> None:
    texts = Texts("Iğdır İZMİR", "INDIEN IST GROSS", "schön")
    texts.languages, texts.language_names = np.array([0, 1, 1]), ["tur", "deu"]
    mixture = cast(Mixture, texts)
    [line] = describe_other_languages(mixture, np.arange(3), make_normaliser(LabelSettings(), "tur"))
    assert "1 of 2 labels of deu" in line and "'ındıen ıst gross', by its own 'indien ist gross'" in line
    assert describe_other_languages(mixture, np.arange(1), make_normaliser(LabelSettings(), "tur")) == []


def test_settings_win_over_the_language(tmp_path: Path) -> None:
    said = LabelSettings(case="keep", punctuation="keep", digits="keep")
    assert make_normaliser(said, "ita")("Un po' di 21!") == "Un po' di 21!"
    NormaliserSettings(case="upper").to_json(tmp_path / "own.json")
    assert make_normaliser(LabelSettings(normaliser=str(tmp_path / "own.json")), "ita")("po' 21") == "PO 21"


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
    normalise = make_normaliser(LabelSettings(), "ita")
    tokens = tokens_of("la casa")
    assert tokens.decode(label_encoder(tokens, normalise)("La Casa è, sal")) == "la casa  sal"


def test_what_is_used_is_told() -> None:
    normalise = make_normaliser(LabelSettings(), "ita")
    told = describe(tokens_of("la casa"), normalise)
    assert "lower case" in told and "6: | a c l s" in told
