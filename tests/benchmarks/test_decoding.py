"""The benchmark of decoding runs on any student and corpus, and writes its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.decoding import hot_words, language_models
from lalia.audio.encoding import flac_bytes
from lalia.decoding.decoder import Decoder
from lalia.lm.arpa import write_arpa
from lalia.lm.ngrams import estimate
from tests.cli.test_main import make_corpus
from tests.tiny_student import make_student, sing


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"train": ("a bad bed", "add a cab"), "dev": ("bad cab", "a cab"), "test": ("ace bed", "a bad cab")}
    clips = [("ita", split, text, flac_bytes(sing(text))) for split, some in texts.items() for text in some]
    corpus = make_corpus(tmp_path / "corpus", clips)
    (tmp_path / "free.txt").write_text("a dead bed\nace bed\n")
    table = tmp_path / "table.md"
    argv = [
        make_student(tmp_path / "student"),
        corpus,
        "--language",
        "ita",
        "--text",
        tmp_path / "free.txt",
        "--out",
        table,
        "--width",
        16,
    ]
    monkeypatch.setattr(sys, "argv", ["decoding", *map(str, argv)])
    language_models.main()
    rows = table.read_text().splitlines()
    assert len(rows) == 2 + 2 + 2 * 4 + 4
    assert [row.split(" | ")[0] for row in rows[-4:]] == [
        "| 6-grams of letters and the LSTM, labels and free text (weight 0, bonus 0)",
        "| the same, beam 64",
        "| 6-grams of letters, labels and free text, 1 hot words",
        "| closed list of 4 sentences",
    ]
    assert rows[2].startswith("| greedy | 0.0 | 0.0 (0.0 to 0.0) | ")


def test_table_of_a_large_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arpa(estimate([["a", "bad", "bed"], ["a", "cab"]], 3), tmp_path / "words.arpa")
    table = tmp_path / "table.md"
    argv = [make_student(tmp_path / "student"), "--arpa", tmp_path / "words.arpa", "--work", tmp_path, "--out", table]
    monkeypatch.setattr(sys, "argv", ["decoding", *map(str, argv)])
    language_models.main()
    assert [row.split(" | ")[0] for row in table.read_text().splitlines()[2:4]] == [
        "| `lalia lm`: ARPA to a folder",
        "| loading the folder, ready to decode",
    ]


@pytest.mark.parametrize("language", ["kor", "tha"])
def test_a_boost_recalls_planted_names(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setitem(hot_words.NAMES, language, hot_words.NAMES[language][:2])
    names = hot_words.NAMES[language]
    tokens, normaliser, clips = hot_words.simulated(language)
    decoders = {
        boost: Decoder(tokens, hot_words.FRAME_S, writing=normaliser.writing,
                       hot_words=dict.fromkeys(names, boost) if boost else None)
        for boost in (0.0, 9.0)
    }  # fmt: skip
    without, boosted = (
        int(row.split("|")[4].split()[0]) for row in hot_words.rows("x", names, clips, normaliser, tokens, decoders)
    )
    assert without < 0.6 * len(clips) and boosted > 0.8 * len(clips)


def test_hot_words_of_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"train": ("a bad bed",), "test": ("a bead dace", "a bad cab")}
    clips = [("ita", split, text, flac_bytes(sing(text))) for split, some in texts.items() for text in some]
    corpus = make_corpus(tmp_path / "corpus", clips)
    argv = ["hot_words", str(make_student(tmp_path / "student")), str(corpus), "--language", "ita"]
    monkeypatch.setattr(sys, "argv", argv)
    hot_words.main()
    assert "| Italian, 2 words | 2 | 6 | 2 of 2 (100 %) | 0 | 0.0 |" in capsys.readouterr().out
