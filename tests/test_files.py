"""Identify a path on the command line, and the error for a path of another kind than expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cards import write_card
from lalia.cli import main
from lalia.inputs import identify, wrong_kind
from tests.tiny_student import make_student, sing


def run(folder: Path, settings: str, *made: str) -> None:
    """A run with these settings that made something of these kinds."""
    folder.mkdir()
    (folder / "config.yaml").write_text(settings)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step00000003.ckpt").write_bytes(b"PK")
    for kind in made:
        (folder / kind).mkdir()
        write_card(folder / kind, kind, [])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of every kind, by name."""
    monkeypatch.chdir(tmp_path)
    make_student(Path("student"), language="ita")
    for kind in ("corpus", "encoder", "recogniser"):
        Path(kind).mkdir()
        write_card(Path(kind), kind, [])
    for name, form in (("lm", "ngrams"), ("lstm", "lstm")):
        Path(name).mkdir()
        write_card(Path(name), "language model", [], form=form)
    run(Path("pretraining"), "encoder: ''\nquantizer:\n  groups: 2\n", "encoder")
    run(Path("pretraining-begun"), "encoder: ''\nquantizer:\n  groups: 2\n")
    run(Path("fine-tuning"), "encoder: e\nlabels:\n  minutes: 0\n", "recogniser")
    run(Path("fine-tuned"), "encoder: e\nlabels:\n  minutes: 0\n", "recogniser", "student")
    run(Path("distillation"), "teacher: t\nlabels:\n  minutes: 0\n", "recogniser")
    Path("xls-r").mkdir()
    Path("xls-r/config.json").write_text("{}")
    Path("xls-r/pytorch_model.bin").write_bytes(b"PK")
    Path("copied").mkdir()
    Path("copied/model.onnx").write_bytes(b"x")
    Path("students").mkdir()
    make_student(Path("students/dutch"))
    make_student(Path("students/italian"))
    Path("talks/2024").mkdir(parents=True)
    Path("talks/2024/a.flac").write_bytes(flac_bytes(sing("bad cab")))
    Path("texts").mkdir()
    Path("texts/news.txt").write_text("bad cab")
    Path("empty").mkdir()
    Path("things").mkdir()
    Path("things/x.weird").write_text("x")
    Path("broken").mkdir()
    Path("broken/card.json").write_text("{")
    Path("xlsr2_300m.pt").write_bytes(b"PK\3\4")
    Path("talk.flac").write_bytes(flac_bytes(sing("bad cab")))
    Path("talk.txt").write_text("bad cab\n")
    Path("book.pdf").write_bytes(b"%PDF-1.7 \xe2\xe3")
    Path("corpus.zip").write_bytes(b"PK\3\4")
    return tmp_path


def refused(path: str, expected: str, flag: str = "") -> str:
    return str(wrong_kind(path, expected, flag))


@pytest.mark.parametrize(
    ("path", "expected", "told"),
    [
        (
            "encoder",
            "student",
            "encoder: is an encoder, expected a student; fine-tune it first: lalia finetune fit --encoder encoder",
        ),
        (
            "pretraining",
            "student",
            "pretraining: is a pretraining run that made an encoder, expected a student; fine-tune it first: "
            "lalia finetune fit --encoder pretraining --data.corpus CORPUS",
        ),
        (
            "pretraining",
            "recogniser",
            "is a pretraining run that made an encoder, expected a recogniser; fine-tune it first",
        ),
        (
            "pretraining-begun",
            "student",
            "is a pretraining run that is not finished, expected a student; continue it with the command that started it",
        ),
        (
            "fine-tuning",
            "student",
            "is a fine-tuning run that made a recogniser, expected a student; lalia finetune eval fine-tuning",
        ),
        (
            "distillation",
            "student",
            "is a distillation run that made a recogniser, expected a student; lalia finetune eval "
            "distillation makes one from its recogniser, lalia distill export --recogniser distillation/recogniser a small one",
        ),
        (
            "fine-tuning",
            "encoder",
            "made a recogniser, expected an encoder; give fine-tuning/recogniser to continue from its encoder",
        ),
        (
            "recogniser",
            "student",
            "is a recogniser, expected a student; it needs torch; lalia finetune eval recogniser makes",
        ),
        ("fine-tuned/recogniser", "student", "it needs torch; its student is fine-tuned/student"),
        (
            "corpus",
            "student",
            "is a corpus, expected a student; the model comes first; train one on it: lalia finetune fit",
        ),
        (
            "corpus",
            "n-grams",
            "is a corpus, expected a language model; make one from it first: lalia lm corpus --like STUDENT",
        ),
        (
            "lm",
            "student",
            "is a language model, expected a student; give it with a student: lalia transcribe STUDENT AUDIO --lm lm",
        ),
        ("lm", "lstm", "it holds n-grams: give it as --lm"),
        (
            "lstm",
            "n-grams",
            "it holds an LSTM for rescoring: give it as --rescore, and n-grams as --lm",
        ),
        ("student", "corpus", "is a student, expected a corpus; the model comes first, then the corpus"),
        (
            "student",
            "recogniser",
            "is a student, expected a recogniser; it holds no torch weights; give the recogniser",
        ),
        ("student", "encoder", "is a student, expected an encoder; a student cannot be trained further"),
        (
            "xls-r",
            "student",
            "is a transformers model, expected a student; convert it first: lalia convert hf:xls-r RECOGNISER",
        ),
        (
            "xls-r",
            "encoder",
            "is a transformers model, expected an encoder; convert it first: lalia convert hf:xls-r ENCODER",
        ),
        ("xlsr2_300m.pt", "encoder", "convert it first: lalia convert fairseq:xlsr2_300m.pt ENCODER"),
        (
            "copied",
            "student",
            "has no card.json next to its model.onnx (was only a part of it copied?), expected a student; copy the whole",
        ),
        (
            "student/model.onnx",
            "student",
            "is the model file of a student, without the other files of its folder, expected a student; give its "
            "folder: student",
        ),
        (
            "student/tokens.txt",
            "student",
            "is a file of student, which is a student, expected a student; give its folder: student",
        ),
        (
            "pretraining/checkpoints/step00000003.ckpt",
            "encoder",
            "is a checkpoint of a run, expected an encoder; give its run: pre",
        ),
        (
            "students",
            "student",
            "it contains dutch (student), italian (student), expected a student; give one of them: students/NAME",
        ),
        (
            "talks",
            "corpus",
            "has no card.json; it contains 1 audio file, expected a corpus; make a corpus from it first: lalia prepare talks",
        ),
        ("empty", "student", "is an empty folder, expected a student"),
        ("things", "student", "has no card.json, expected a student; was the command that made it interrupted?"),
        ("broken", "student", "has a card.json that cannot be read, expected a student; make the folder again"),
        (
            "talk.flac",
            "student",
            "is audio, expected a student; the model comes first, then the audio: lalia transcribe STUDENT talk.flac",
        ),
        ("talk.txt", "n-grams", "is a text file, expected a language model; make one from it first: lalia lm talk.txt"),
        ("book.pdf", "n-grams", "is a PDF, expected a language model; save its text as UTF-8"),
        ("corpus.zip", "corpus", "is an archive, expected a corpus; unpack it first"),
        ("fine-tuning", "n-grams", "expected a language model; make one first: lalia finetune lm fine-tuning"),
        ("pretraining", "encoder", "expected an encoder; give pretraining/encoder"),
        (
            "pretraining/checkpoints",
            "encoder",
            "is a folder of pretraining, which is a pretraining run that made an encoder, ",
        ),
        (
            "texts",
            "n-grams",
            "it contains text files, expected a language model; make one from it first: lalia lm texts/*.txt --like",
        ),
        ("corpus", "recogniser", "is a corpus, expected a recogniser; train one on it: lalia finetune fit"),
        (
            "absent",
            "recogniser",
            "absent: no such folder; expected a recogniser made by lalia, or the run that made a recogniser",
        ),
        (
            "https://example.org/student",
            "student",
            "https://example.org/student: is a URL; only local files are read; "
            "download it first, e.g. curl -LO https://example.org/student",
        ),
    ],
)
def test_every_kind_is_identified(place: Path, path: str, expected: str, told: str) -> None:
    said = refused(path, expected)
    assert told in said and "\n" not in said
    assert said in (again := refused(path, expected, "--teacher")) or again.startswith("--teacher ")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["transcribe", "pretraining", "talk.flac"],
            "is a pretraining run that made an encoder, expected a student; fine-tune it first",
        ),
        (["transcribe", "student/model.onnx", "talk.flac"], "give its folder: student"),
        (
            ["listen", "fine-tuning", "--from", "talk.flac"],
            "is a fine-tuning run that made a recogniser, expected a student",
        ),
        (["lm", "talk.txt", "--like", "corpus", "--out", "x"], "--like corpus: is a corpus, expected a student"),
        (["serve", "corpus"], "is a corpus, expected a student"),
        (["evaluate", "corpus", "student"], "is a corpus, expected a student; the model comes first"),
        (
            ["evaluate", "student", "talks"],
            "it contains 1 audio file, expected a corpus; make a corpus from it first: lalia prepare talks",
        ),
        (["tune", "student", "corpus", "--lm", "student"], "is a student, expected a language model"),
        (["transcribe", "student", "talk.flac", "--lm", "corpus"], "make one from it first: lalia lm corpus"),
        (
            ["inspect", "xls-r"],
            "is a transformers model, expected a corpus, a model or a run; convert it first",
        ),
        (["inspect", "talks"], "has no card.json; it contains 1 audio file"),
        (
            ["finetune", "fit", "--encoder", "student", "--data.corpus", "corpus", "--out", "x"],
            "--encoder student: is a student, ",
        ),
        (
            ["finetune", "fit", "--encoder", "encoder", "--data.corpus", "talks", "--out", "x"],
            "--data.corpus talks: has no card",
        ),
        (
            ["distill", "fit", "--teacher", "pretraining", "--data.corpus", "corpus", "--out", "x"],
            "--teacher pretraining: is a pret",
        ),
        (
            ["distill", "export", "--recogniser", "student", "--data.corpus", "corpus", "--out", "x"],
            "--recogniser student: is a st",
        ),
        (
            ["finetune", "eval", "pretraining"],
            "is a pretraining run that made an encoder, expected a recogniser; fine-tune it first",
        ),
        (["finetune", "check", "student"], "student: is a student, expected a corpus"),
    ],
)
def test_every_verb_reports_it(place: Path, argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(argv) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and said.startswith("lalia: ")


def test_runs_and_their_models_are_identified(place: Path) -> None:
    assert identify("student").kind == "student" and identify("fine-tuned").kind == "run of recogniser"
    assert (
        identify("talk.txt").kind == "text"
        and identify("talk.flac").kind == "audio"
        and identify("absent").kind == "nothing"
    )
    card = json.loads(Path("student/card.json").read_text())
    assert card["kind"] == "student"
