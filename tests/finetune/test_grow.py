"""``lalia finetune grow``: rounds with a table, held-out sentences and kinds of labels apart, continued by the same command."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest

from finetune.__main__ import main
from lalia.align.pieces import read_pieces
from lalia.audio.encoding import flac_bytes
from lalia.cards import ancestors, read_card
from lalia.cli.main import main as program
from lalia.data.corpus import Corpus
from lalia.data.prepare.pipeline import rewrite
from tests.journeys.pages import blocks
from tests.tiny_clips import loud_is_voice
from tests.tiny_corpus import WORDS, chant, make_corpus
from tests.tiny_finetune import SMALL
from tests.tiny_teacher import make_teacher

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels, a recogniser of them, a read book with one of the test sentences in it, and audio without text."""
    folder = tmp_path_factory.mktemp("grow")
    labels = Corpus.load(make_corpus(folder / "labels", 36, ("ita",)))
    make_teacher(folder / "teacher", folder / "labels")
    random = np.random.default_rng(5)
    held_out = max((labels.text(int(row)) for row in labels.select(split="test")), key=len)
    sentences = [" ".join(random.choice(WORDS["ita"], 5)) for _ in range(9)] + [held_out]
    pause = random.normal(scale=0.004, size=12_000).astype(np.float32)  # the noise of the chants
    book = np.concatenate([part for text in sentences for part in (chant(text, random), pause)])
    (folder / "book").mkdir()
    (folder / "book" / "one.flac").write_bytes(flac_bytes(book))
    (folder / "book" / "one.txt").write_text("".join(f"{text.capitalize()}.\n" for text in sentences))
    rows = labels.select(split="train")[:8]
    rewrite(labels, folder / "radio", rows, {int(row): {"text": ""} for row in rows}, [], {})
    return folder


def grow(made: Path, out: Path, *flags: str) -> int:
    return main([
        "grow", *SMALL, "--recogniser", str(made / "teacher"), "--data.corpus", str(made / "labels"), "--schedule.steps", "4",
        "--grow.accept", "1", *([] if "--grow.source" in flags else ["--grow.source", str(made / "book")]),
        *([] if "--grow.recogniser" in flags else ["--grow.recogniser", str(made / "teacher")]), "--out", str(out), *flags,
    ])  # fmt: skip


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "rounds.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_labels_grow_in_rounds(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grown"
    flags = ("--grow.rounds", "2", "--grow.unlabelled", str(made / "radio"), "--grow.confidence", "0.2")
    assert grow(made, out, *flags) == 0
    first, second = rows_of(out)
    aligned, pseudo = out / "round-1" / "aligned", out / "round-1" / "pseudo-1"
    pieces = read_pieces(aligned)
    accepted = [piece for piece in pieces if piece.status == "accepted"]
    assert accepted and {piece.split for piece in pieces} == {"train"}
    assert [piece.reason for piece in pieces if piece.status == "refused"].count("held out") == 1
    assert set(Corpus.load(aligned).column("split")) == {"train"}
    hours = sum(piece.duration_s for piece in accepted) / 3600
    assert float(first["accepted_h"]) == pytest.approx(hours, abs=1e-4)
    labels = read_card(made / "labels")["labelled_hours"]["ita"]["train"]
    assert float(first["labelled_h"]) == pytest.approx(labels, abs=1e-4)
    assert float(second["labelled_h"]) == pytest.approx(labels + hours, abs=2e-4)

    # Each kind of label is a corpus of its own on the card of the recogniser.
    assert float(first["pseudo_h"]) > 0 and float(second["pseudo_labelled_h"]) == pytest.approx(
        float(first["pseudo_h"])
    )
    facts = read_card(pseudo)["pseudo_labels"]
    assert facts["recogniser"] == read_card(made / "teacher")["id"] and facts["confidence"] == 0.2
    card = read_card(out / "round-2" / "fit" / "recogniser")
    kinds = [(("alignment" in one), ("pseudo_labels" in one)) for one in card["parents"] if one["kind"] == "corpus"]
    assert sorted(kinds) == [(False, False), (False, True), (True, False)]
    assert all(corpus.labelled.all() for corpus in (Corpus.load(pseudo), Corpus.load(aligned)))
    assert read_card(made / "teacher")["id"] in {one["id"] for one in ancestors(card)}
    lm = read_card(out / "round-2" / "lm")["parents"]
    assert {one["kind"] for one in lm} == {"corpus"} and not any("pseudo_labels" in one for one in lm)

    # The best recogniser is that of OUT, and the same command only reads what is there.
    best = min(rows_of(out), key=lambda row: float(row["dev_cer"]))
    source = made / "teacher" if best["round"] == "1" else out / "round-2" / "fit" / "recogniser"
    assert read_card(out / "recogniser")["id"] == read_card(source)["id"]
    assert read_card(out / "student")["parents"][0]["id"] == read_card(source)["id"]
    made_at = {path: path.stat().st_mtime_ns for path in out.rglob("card.json") if "round" in path.parts[-3]}
    capfd.readouterr()
    assert grow(made, out, *flags) == 0
    assert made_at == {path: path.stat().st_mtime_ns for path in made_at}
    assert "the best recogniser on dev is that of round" in capfd.readouterr().out
    assert grow(made, out, *flags, "--schedule.steps", "5") == 2
    assert "schedule.steps" in capfd.readouterr().err


def test_what_cannot_grow_is_said(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one.flac").write_bytes((made / "book" / "one.flac").read_bytes())
    (tmp_path / "other" / "one.txt").write_text("Gattino bello.\n" * 20)
    for flags, said in (
        (("--labels.minutes", "10"), "labels.minutes"),
        (("--grow.rounds", "0"), "grow.rounds 0: expected 1 or more"),
        (("--hardware.devices", "2"), "one device"),
        (("--grow.unlabelled", str(made / "teacher")), "--grow.unlabelled"),
        (("--grow.recogniser", str(made / "labels")), "--grow.recogniser"),
        (("--grow.source", str(tmp_path / "nothing")), "no such file or folder"),
        (("--grow.source", str(tmp_path / "other")), "does not fit"),
    ):
        assert grow(made, tmp_path / "out", *flags) == 2, flags
        assert said in capfd.readouterr().err


def test_the_recipe_of_the_page(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/new-language.md, on chants instead of speech: a tiny recogniser finds these at once."""
    (block,) = (block for block in blocks("docs/new-language.md") if block.language == "sh")
    labels = Corpus.load(made / "labels")
    (tmp_path / "clips").mkdir()
    for row in range(len(labels)):
        (tmp_path / "clips" / f"{row}.flac").write_bytes(labels.audio_bytes(row))
    rows = (f"{row}.flac\t{labels.text(row)}\tanna\n" for row in range(len(labels)))
    (tmp_path / "clips.tsv").write_text("path\tsentence\tspeaker\n" + "".join(rows))
    (tmp_path / "book").symlink_to(made / "book")
    (tmp_path / "news.txt").write_text("uno due sette\npronto grazie prego\n")
    (tmp_path / "talk.mp3").write_bytes(labels.audio_bytes(0))
    teacher = str(made / "teacher")
    small = {
        "grow": [*SMALL, "--schedule.steps", "4", "--encoder=", "--recogniser", teacher, "--grow.recogniser", teacher,
                 "--grow.rounds", "1", "--grow.accept", "1"],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line.replace("swh", "ita"), comments=True) for line in block.text.splitlines()]
    assert [words[:3] for words in commands][1] == ["lalia", "finetune", "grow"]
    for words in commands:
        assert program([*words[1:], *small.get(words[2], [])]) == 0, words
