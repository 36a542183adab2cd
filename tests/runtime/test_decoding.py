"""``lalia lm``, ``lalia tune``, and transcribing and evaluating with what is known of the language."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia import Student, TranscribeOptions
from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.decoding.decoder import make_decoder
from lalia.errors import UserError
from lalia.lm.arpa import write_arpa, write_kenlm
from lalia.lm.folder import WEIGHT, LanguageModel, model_names
from lalia.lm.ngrams import estimate
from lalia.scoring.tuning import tune
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from tests.tiny_student import make_student, sing

TEXT = "Bad cab!\na bad bed\nace, ace dead\nbed\nadd a cab\nx-ray bed\n"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("decoding") / "student", window_s=3.0)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str, str]:
        status = main.main([str(a) for a in argv])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def lm(run: Run, student: Path, tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    assert run("lm", tmp_path / "text.txt", "--like", student, "--out", tmp_path / "lm")[0] == 0
    return tmp_path / "lm"


class Songs:
    """Clips that the tiny student hears, for tuning without a corpus."""

    texts = ("bad cab", "a bad bed", "ace dead")

    def id(self, row: int) -> str:
        return f"song-{row}"

    def language(self, row: int) -> str:
        return "ita"

    def text(self, row: int) -> str:
        return self.texts[row]

    def wave(self, row: int) -> np.ndarray:
        return sing(self.texts[row])


def test_made_of_text(run: Run, lm: Path, student: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(lm)
    assert model.ngrams.order == 6 and set(model.ngrams.symbols[3:]) == set("abcde|")
    assert model.card["sentences"] == 6 and model.card["unknown_words"] == 2  # x and ray
    status, out, _ = run(
        "lm", tmp_path / "text.txt", "--unit", "word", "--order", 2, "--like", student, "--out", lm,
        "--arpa", tmp_path / "out" / "lm.arpa", "--kenlm", tmp_path / "out" / "lm.bin",
        "--heldout", tmp_path / "text.txt",
    )  # fmt: skip
    assert status == 0 and "6 sentences" in out and "2 words that the student has no letters for" in out
    assert "perplexity" in out and LanguageModel.load(lm).unit == "word"
    status, out, _ = run(
        "lm", tmp_path / "out" / "lm.arpa", "--unit", "word", "--like", student, "--out", tmp_path / "lm2"
    )
    assert status == 0
    first, second = LanguageModel.load(lm), LanguageModel.load(tmp_path / "lm2")
    ids = [first.ngrams.id(word) for word in ("a", "bad", "cab", "ebb")]
    assert second.ngrams.log_probs(ids) == pytest.approx(first.ngrams.log_probs(ids), abs=1e-5)
    expected = sum(first.ngrams.log_probs(ids)) / math.log(10)
    assert pytest.importorskip("kenlm").Model(str(tmp_path / "out" / "lm.bin")).score("a bad cab ebb") == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["absent.txt"], "absent.txt: no such file"),
        (["latin.txt"], "latin.txt: cannot be read as UTF-8 text; convert it: iconv -f latin1 -t utf-8 latin.txt > "),
        (["kenlm.bin"], "kenlm.bin: is a KenLM binary file, which holds hashes instead of n-grams"),
        (["empty.txt"], "has no words"),
        (["russian.txt"], "russian.txt: the student has no letters for 2 of its 3 words, such as 'a привет мир'"),
        (["text.txt", "--order", "40"], "--order 40: expected 1 to 12"),
        (["text.txt", "lm.arpa"], "give it alone"),
        (["text.txt", "--out", "text.txt"], "text.txt: is a file and is not overwritten; expected a folder"),
        (["words.arpa"], "words.arpa: has n-grams of words, such as 'bad', and not of letters; give --unit word"),
        (["counts", "--unit", "word"], "counts: has n-grams of letters, and not of words; leave out --unit word"),
    ],
)
def test_made_of_nothing_good(
    run: Run, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("latin.txt").write_bytes("però".encode("latin-1"))
    Path("russian.txt").write_text("a привет мир\n")
    Path("empty.txt").write_text("...\n")
    write_kenlm(estimate([["a", "b"]], 2), Path("kenlm.bin"))
    write_arpa(estimate([["a", "bad", "cab"]], 2), Path("words.arpa"))
    write_arpa(estimate([["a", "|", "b"]], 2), Path("counts"))
    status, _, err = run("lm", *change, "--like", student, *([] if "--out" in change else ["--out", "lm"]))
    assert status == 2 and says in err and err.count("\n") == 1
    assert not Path("lm").exists() and Path("text.txt").is_file()


def test_transcribe(run: Run, lm: Path, student: Path, tmp_path: Path) -> None:
    clip = tmp_path / "a.flac"
    clip.write_bytes(flac_bytes(sing("bad cab")))
    (tmp_path / "hot.txt").write_text("cab\t3\n")
    (tmp_path / "only.txt").write_text("(ace|bed)\nbad [bad] cab\n")
    assert run("transcribe", student, clip, "--lm", lm, "--hot", tmp_path / "hot.txt")[:2] == (0, "bad cab\n")
    assert run("transcribe", student, clip, "--only", tmp_path / "only.txt")[:2] == (0, "bad cab\n")
    (tmp_path / "only.txt").write_text("ace\n")
    assert run("transcribe", student, clip, "--only", tmp_path / "only.txt")[:2] == (0, "\n")
    status, out, _ = run("transcribe", student, clip, "--lm", lm, "--format", "json")
    words = json.loads(out)["words"]
    plain = Student.load(student, 1).transcribe(clip).words
    assert [(w["text"], w["start_s"]) for w in words] == [(w.text, w.start_s) for w in plain]
    status, _, err = run("transcribe", student, clip, "--only", tmp_path / "absent.txt")
    assert status == 2 and "absent.txt: no such file" in err


def test_without_the_training_extra(student: Path, tmp_path: Path) -> None:
    from tests.test_light_install import run_light

    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "a.flac").write_bytes(flac_bytes(sing("bad cab")))
    made = run_light(tmp_path, "lm", "text.txt", "--like", student, "--out", "lm")
    assert made.returncode == 0, made.stderr
    ended = run_light(tmp_path, "transcribe", student, "a.flac", "--lm", "lm")
    assert (ended.returncode, ended.stdout) == (0, "bad cab\n")
    assert "not tuned for this student, so the defaults are used" in ended.stderr and ended.stderr.count("\n") == 1
    refused = run_light(tmp_path, "tune", student, tmp_path, "--lm", "lm")
    assert refused.returncode == 2 and "pip install 'lalia[train]'" in refused.stderr


@pytest.mark.parametrize(
    ("name", "says", "lstm_says"),
    [
        (
            "eng.txt",
            "is a text file, expected a language model; make one from it first: lalia lm eng.txt --like STUDENT --out LM",
            "is a text file, expected a language model that is an LSTM; make one from it first: lalia lm eng.txt --like STUDENT "
            "--out LM --lstm",
        ),
        (
            "my.arpa",
            "is an ARPA file, expected a language model; make one from it first: lalia lm my.arpa [--unit word] --like",
            "is an ARPA file, expected a language model that is an LSTM; it holds n-grams; an LSTM is trained on text: lalia lm "
            "TEXT --like STUDENT --out LM --lstm",
        ),
        (
            "my.bin",
            "is a KenLM binary file, which holds hashes instead of n-grams, expected a language model; make the folder from "
            "its ARPA file: lalia lm",
            "is a KenLM binary file, which holds hashes instead of n-grams, expected a language model that",
        ),
        (
            "talk.flac",
            "is audio, expected a language model; a language model is made from text: lalia lm TEXT",
            "is audio",
        ),
        ("absent", "no such folder; expected a language model", "no such folder"),
    ],
)
def test_a_file_for_a_language_model(
    run: Run,
    lm: Path,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    says: str,
    lstm_says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("eng.txt").write_text("a bad cab\n")
    Path("talk.flac").write_bytes(flac_bytes(sing("bad cab")))
    ngrams = estimate([["a", "b"]], 2)
    write_arpa(ngrams, Path("my.arpa"))
    write_kenlm(ngrams, Path("my.bin"))
    for verb in (["transcribe", student, "talk.flac"], ["evaluate", student, "."], ["tune", student, "."]):
        status, _, err = run(*verb, "--lm", name)
        assert status == 2 and f"{name}: {says}" in err and err.count("\n") == 1
        status, _, err = run(*verb, "--lm", lm, "--rescore", name)
        assert status == 2 and f"{name}: {lstm_says}" in err and err.count("\n") == 1


def test_several_clips_at_a_time(run: Run, lm: Path, student: Path, tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    talks.mkdir()
    texts = ("bad cab", "ace", "a bad bed", "dead")
    for i, text in enumerate(texts):
        (talks / f"{i}.flac").write_bytes(flac_bytes(sing(text)))
    status, out, _ = run("transcribe", student, talks, "--lm", lm, "--jobs", 3)
    assert status == 0 and [line.split("\t")[1] for line in out.splitlines()] == list(texts)


def test_long_audio(lm: Path, student: Path) -> None:
    loaded = Student.load(student, 1)
    text = "bad cab ace dead a bad bed add a cab"
    found = loaded.transcribe(sing(text), options=TranscribeOptions(decoder=make_decoder(loaded, lm)))
    assert found.text == text and found.duration_s > 5
    assert found.text == " ".join(word.text for word in found.words)


def test_silence(lm: Path, student: Path) -> None:
    loaded = Student.load(student, 1)
    for wave in (np.zeros(16_000, np.float32), np.zeros(0, np.float32)):
        assert (
            loaded.transcribe(wave, options=TranscribeOptions(decoder=make_decoder(loaded, lm, only=["bed"]))).text
            == ""
        )


def test_tuning(lm: Path, student: Path) -> None:
    loaded, model = Student.load(student, 1), LanguageModel.load(lm)
    found = tune(loaded, model, Songs(), [0, 1, 2])
    assert found.best.wer.rate == 0 and found.best.cost == min(trial.cost for trial in found.trials)
    stored: dict[str, Any] = found.as_dict(split="dev")
    model.store_tuned(model_names(loaded.card), stored)
    again = LanguageModel.load(lm)
    assert again.id == model.id and again.tuned(model_names(loaded.card)) == stored
    assert again.tuned(["sha256:other"])["confidence"] is None
    decoder = make_decoder(loaded, again)
    assert decoder.weights == found.weights
    word = loaded.transcribe(sing("bad cab"), options=TranscribeOptions(decoder=decoder)).words[0]
    assert 0.5 < word.confidence < 1
    with pytest.raises(UserError, match="held-out"):
        tune(loaded, model, Songs(), [])


def test_commands_of_evaluation(run: Run, lm: Path, student: Path, tmp_path: Path) -> None:
    from tests.cli.test_main import make_corpus

    clips = [("ita", split, text, flac_bytes(sing(text))) for split in ("dev", "test") for text in Songs.texts]
    corpus = make_corpus(tmp_path / "corpus", clips)
    status, out, _ = run("tune", student, corpus, "--lm", lm, "--language", "ita")
    assert status == 0 and f"{lm}: weight " in out and "after calibration" in out
    card = LanguageModel.load(lm).card["tuned"]
    (found,) = card.values()
    starred = [line.split() for line in out.splitlines() if line.endswith(" *")]
    assert [float(figure) for figure in starred[-1][:2]] == [round(found["weight"], 2), round(found["bonus"], 2)]
    assert out.splitlines()[0].endswith("* best so far: lowest CER + WER")
    assert [(found["split"], found["clips"], found["wer"]) for found in card.values()] == [("dev", 3, 0)]
    (tmp_path / "only.txt").write_text("a bad bed\n")
    status, out, _ = run(
        "evaluate", student, corpus, "--only", tmp_path / "only.txt", "--json", tmp_path / "s.json", "--details"
    )
    assert status == 0 and "confusions of words: " in out
    stored = json.loads((tmp_path / "s.json").read_text())
    assert [clip["hypothesis"] for clip in stored["clips"]] == ["", "a bad bed", ""]
    assert stored["only"].endswith("only.txt") and "lm" not in stored
    assert run("tune", student, corpus, "--lm", lm, "--split", "test")[0] == 2
    assert run("tune", student, corpus, "--lm", lm, "--language", "rus")[0] == 2
    foreign = make_corpus(
        tmp_path / "foreign", [("rus", "dev", "привет", clips[0][3]), ("eng", "dev", "…", clips[0][3])]
    )
    for verb in (("evaluate", student, foreign, "--split", "dev"), ("tune", student, foreign, "--lm", lm)):
        status, _, err = run(*verb, "--language", "rus")
        assert status == 2 and "no letters for 1 of its 1 words, such as 'привет'" in err and err.count("\n") == 1
        status, _, err = run(*verb, "--language", "eng")
        assert status == 2 and "none of 1 labels has a letter" in err and err.count("\n") == 1
    status, out, _ = run("lm", corpus, "--like", student, "--out", tmp_path / "other")
    assert status == 2  # a corpus without training labels


def test_of_another_alphabet(lm: Path, student: Path) -> None:
    model = LanguageModel.load(lm)
    with pytest.raises(
        UserError, match=r"for another alphabet: the student has no token for .* its letters are абв; make one"
    ):
        model.check(Tokens(["<blank>", "|", "а", "б", "в"]), Normaliser())
    with pytest.raises(UserError, match=r"not normalised like .*case 'lower' instead of 'upper'"):
        model.check(Student.load(student, 1).tokens, Normaliser(NormaliserSettings(case="upper")))


def test_damaged(lm: Path, student: Path) -> None:
    file = lm / "ngrams-2.log_probs.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"ngrams-2.log_probs.npy: its [\d,]+ bytes do not match its card"):
        LanguageModel.load(lm)
    with pytest.raises(UserError, match="expected a language model"):
        LanguageModel.load(student)


def test_tuned_values_follow_a_student_through_export(lm: Path) -> None:
    recogniser = {"kind": "recogniser", "id": "sha256:recogniser", "parents": []}
    first, second = (
        {"kind": "student", "id": f"sha256:{name}", "parents": [recogniser]} for name in ("first", "second")
    )
    model = LanguageModel.load(lm)
    model.store_tuned(model_names(first), {"weight": 0.4, "bonus": 1.5})
    model = LanguageModel.load(lm)
    assert [model.tuned(model_names(card))["weight"] for card in (first, second, recogniser)] == [0.4] * 3
    model.store_tuned(model_names(second), {"weight": 0.7, "bonus": 1.5})
    assert [model.tuned(model_names(card))["weight"] for card in (first, second)] == [0.4, 0.7]
    other = {"kind": "student", "id": "sha256:other", "parents": [{**recogniser, "id": "sha256:another"}]}
    assert model.find_tuned(model_names(other)) is None and model.tuned(model_names(other))["weight"] == WEIGHT


def test_a_stray_file_does_no_harm(lm: Path) -> None:
    model = LanguageModel.load(lm)
    (lm / ".DS_Store").write_bytes(b"x")
    (lm / "notes.txt").write_text("made on Monday")
    LanguageModel.load(lm).store_tuned(["sha256:student"], {"weight": 0.4, "bonus": 1.0})
    assert LanguageModel.load(lm).id == model.id
    card = json.loads((lm / "card.json").read_text())
    (lm / "card.json").write_text(json.dumps({key: value for key, value in card.items() if key != "files"}))
    assert LanguageModel.load(lm).id == model.id  # a folder of an earlier version has no list of files
    (lm / "symbols.txt").write_text("x")
    with pytest.raises(UserError, match="do not match its card"):
        LanguageModel.load(lm)


def test_an_untuned_language_model_is_named_with_the_command(run: Run, student: Path, lm: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.flac"
    clip.write_bytes(flac_bytes(sing("bad cab")))
    lines = [line for line in run("transcribe", student, clip, "--lm", lm)[2].splitlines() if "lalia tune" in line]
    assert len(lines) == 1 and f"--lm {lm}" in lines[0]
    LanguageModel.load(lm).store_tuned(model_names(Student.load(student).card), {"weight": 0.4, "bonus": 1.0})
    assert "lalia tune" not in run("transcribe", student, clip, "--lm", lm)[2]
