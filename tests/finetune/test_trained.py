"""What comes after fit: a student that runs at once, a language model that is tuned and judged, and the page of an evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.__main__ import evaluate, fit, lm
from finetune.check.clips import find_wrong_labels, load_pair_model, score_pairs
from finetune.check.findings import read_labels
from lalia.audio.encoding import flac_bytes
from lalia.cards import read_card
from lalia.cli import main
from lalia.data.corpus import Corpus
from lalia.data.labels import scored_test_rows
from lalia.data.mixture import Mixture
from lalia.data.prepare.pipeline import rewrite
from lalia.errors import UserError
from lalia.models.recogniser import Recogniser
from lalia.runtime.student import Student
from lalia.text.languages import profile
from tests.tiny_corpus import make_corpus
from tests.tiny_finetune import SMALL
from tests.tiny_teacher import make_teacher


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a run on it that starts from a recogniser which hears most letters already."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder / "corpus", 36)
    make_teacher(folder / "teacher", folder / "corpus", 120)
    argv = [
        *SMALL, "--data.corpus", str(folder / "corpus"), "--data.language", "ita", "--recogniser", str(folder / "teacher"),
        "--schedule.steps", "4", "--optim.lr", "1e-4", "--log.valid_every", "2", "--out", str(folder / "run"),
    ]  # fmt: skip
    fit(argv)
    return folder


def held_out(folder: Path, split: str = "test") -> tuple[Corpus, list[int]]:
    corpus = Corpus.load(folder / "corpus")
    return corpus, corpus.select(split=split, language="ita").tolist()


def test_a_run_can_be_listened_with_at_once(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus, rows = held_out(made)
    wave = corpus.wave(rows[0])
    (tmp_path / "a.flac").write_bytes(flac_bytes(wave))
    assert main.main(["transcribe", str(made / "run"), str(tmp_path / "a.flac")]) == 0
    text = capfd.readouterr().out.strip()
    student = Student.load(made / "run")
    assert text and text == student.transcribe(wave).text
    import torch

    recogniser = Recogniser.load(made / "run" / "recogniser")
    said_BTV, _ = recogniser.log_probs(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    np.testing.assert_allclose(student.log_probs(wave), said_BTV[0].numpy(), atol=2e-3)


def test_a_recogniser_says_where_its_student_is(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["transcribe", str(made / "run" / "recogniser"), "a.wav"]) == 2
    assert f"its student is {made / 'run' / 'student'}" in capfd.readouterr().err
    assert main.main(["transcribe", str(made / "teacher"), "a.wav"]) == 2
    assert "lalia finetune eval" in capfd.readouterr().err


def test_fit_says_what_comes_next(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(made / "run" / "student")
    flags = ["--data.corpus", str(made / "corpus"), "--recogniser", str(made / "teacher")]
    fit([*SMALL, *flags, "--data.language", "ita", "--out", str(made / "run")])
    out = capfd.readouterr().out
    for command in ("lalia transcribe", "lalia finetune lm", "lalia finetune eval"):
        assert f"{command} {made / 'run'}" in out
    assert read_card(made / "run" / "student")["parents"][0]["id"] == read_card(made / "run" / "recogniser")["id"]


def test_language_models_are_made_tuned_and_set_side_by_side(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = made / "run"
    corpus, rows = held_out(made)
    said = corpus.text(rows[0])
    (tmp_path / "more.txt").write_text(f"pronto grazie uno\n{said.upper()}!\nlinea prego numero\n", encoding="utf-8")
    assert lm([str(run), str(tmp_path / "more.txt"), "--lstm"]) == 0
    out = capfd.readouterr().out
    assert "1 sentence of dev or test clips removed" in out
    student_id = read_card(run / "student")["id"]
    assert student_id in read_card(run / "lm")["tuned"]
    found = json.loads((run / "decoding.json").read_text())
    names = [way["name"] for way in found["ways"]]
    assert names == ["greedy", "6-grams of letters", "6-grams of letters and LSTM"]
    assert found["split"] == "test" and found["clips"] == len(rows) and len(found["verdict"]) == 2
    assert all(way["seconds_per_hour"] > 0 for way in found["ways"])
    assert all(name in out for name in names) and f"lalia transcribe {run} talk.mp3 --lm {run / 'lm'}" in out


def test_a_text_beside_the_labels_must_be_text_and_teaches_no_test_sentence(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = made / "run"
    corpus, rows = held_out(made)
    said = next(text for row in rows if len((text := corpus.text(row)).split()) > 3)
    for name, content, says in (
        ("labels.tsv", f"file\ttext\n1.wav\t{said}\n2.wav\tpronto\n", "looks like a table with 2 columns"),
        ("empty.txt", "…\n", "has no words"),
        ("thai.txt", "สวัสดีครับ\n", "the student has no letters for 1 of its 1 words"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=f"{name}: {says}"):
            lm([str(run), str(tmp_path / name)])
    wrapped = f"uno grazie prego {said}, linea numero".replace(" ", "\n")
    (tmp_path / "wrapped.txt").write_text(wrapped, encoding="utf-8")
    capfd.readouterr()
    assert lm([str(run), str(tmp_path / "wrapped.txt")]) == 0
    out = capfd.readouterr().out
    assert "; 1 sentence of dev or test clips removed" in out and "the last row with *" in out


def test_an_evaluation_from_the_run_alone(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = made / "run"
    assert lm([str(run)]) == 0
    ways = json.loads((run / "decoding.json").read_text())["ways"]
    capfd.readouterr()
    assert evaluate([str(run)]) == 0
    out = capfd.readouterr().out
    assert f"with the language model {run / 'lm'}" in out and "confusions of letters" in out and "under 2 s" in out
    page = (run / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "Learning curve" in page and "Errors on held-out clips" in page and "Decoding with a language model" in page
    assert page.count("<audio") >= 5 and "Lineage" in page
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert scores["scores"]["all"]["wer"] == pytest.approx(ways[1]["wer"])
    assert (
        evaluate([str(run / "recogniser"), "--greedy", "--split", "test"]) == 0
    )  # the run is found from its recogniser
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert scores["scores"]["all"]["wer"] == pytest.approx(ways[0]["wer"])
    assert {clip["language"] for clip in scores["clips"]} == {"ita"}  # as the run was told; the corpus has English too


def test_a_recogniser_without_its_run_needs_to_be_told_more(made: Path, tmp_path: Path) -> None:
    teacher, corpus = str(made / "teacher"), str(made / "corpus")
    with pytest.raises(UserError, match="give --corpus CORPUS"):
        evaluate([teacher])
    with pytest.raises(UserError, match="give --out FOLDER"):
        evaluate([teacher, "--corpus", corpus])
    assert evaluate([teacher, "--corpus", corpus, "--language", "ita", "--out", str(tmp_path / "seen")]) == 0
    assert (tmp_path / "seen" / "evaluation" / "report.html").is_file()
    with pytest.raises(UserError, match="--language swa: not in the corpus, which has eng, ita"):
        evaluate([teacher, "--corpus", corpus, "--language", "swa", "--out", str(tmp_path / "seen")])
    with pytest.raises(UserError, match="--greedy uses no language model"):
        evaluate([teacher, "--corpus", corpus, "--out", str(tmp_path / "seen"), "--greedy", "--lm", "lm"])


def test_what_is_no_finished_run_is_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs/x: no such run; lalia finetune fit … --out runs/x makes it"):
        evaluate(["runs/x"])
    with pytest.raises(UserError, match="is a corpus, expected a recogniser"):
        evaluate([str(made / "corpus")])
    shutil.copy(made / "run" / "config.yaml", tmp_path / "config.yaml")
    with pytest.raises(
        UserError,
        match="run that is not finished, expected a recogniser; continue it with the command that started it",
    ):
        lm([str(tmp_path)])
    with pytest.raises(
        UserError,
        match=r"run that is not finished, expected a student; continue it with the",
    ):
        Student.load(tmp_path)


def test_a_student_is_made_again_for_another_recogniser(made: Path, tmp_path: Path) -> None:
    for folder in ("run", "corpus"):
        shutil.copytree(made / folder, tmp_path / folder)
    run = tmp_path / "run"
    recogniser = Recogniser.load(run / "recogniser")
    recogniser.head.bias.data[1] += 1.0
    recogniser.save(run / "recogniser", [])
    before = read_card(run / "student")["id"]
    evaluate([str(run), "--corpus", str(tmp_path / "corpus"), "--greedy"])
    after = read_card(run / "student")
    assert after["id"] != before and after["parents"][0]["id"] == read_card(run / "recogniser")["id"]


def test_fit_names_what_check_would_stop_at(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus.load(made / "corpus")
    texts = {row: {"text": "Тест один два"} for row in corpus.select(language="ita").tolist()}
    rewrite(corpus, tmp_path / "wrong", np.arange(len(corpus)), texts, [], {})
    trained = []
    monkeypatch.setattr("finetune.fit.finetune", lambda *settings: trained.append(settings))
    flags = ["--recogniser", str(made / "teacher"), "--data.corpus", str(tmp_path / "wrong"), "--data.language", "ita"]
    assert fit([*SMALL, *flags, "--out", str(tmp_path / "run")]) == 0
    said = capfd.readouterr().err
    assert "✗" in said and "script: the labels are in Cyrillic" in said and "now ita" in said
    assert len(trained) == 1 and not (tmp_path / "run").exists()


def test_a_test_clip_that_no_memory_holds_does_not_end_a_run(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus, rows = held_out(made)
    rewrite(corpus, tmp_path / "long", np.arange(len(corpus)), {rows[0]: {"duration_s": 7200.0}}, [], {})
    found = scored_test_rows(Mixture.load([tmp_path / "long"]), ["ita"], 0.3, 8.0, leader=True)
    assert found.tolist() == rows[1:]
    assert f"1 of {len(rows)} test clips last more than 60 s ({corpus.id(rows[0])})" in capfd.readouterr().err


def test_a_label_that_is_not_said_is_heard_by_recogniser_and_student_alike(made: Path) -> None:
    """The one is aligned by torchaudio, the other as where there is no torch."""
    normaliser = Recogniser.load(made / "run" / "recogniser").normaliser
    labels = read_labels(Corpus.load(made / "corpus"), profile("ita"), normaliser, 0.04)
    wrong, texts = 5, list(labels.texts)
    others = [text for text in texts if not set(text.split()) & set(texts[wrong].split())]
    texts[wrong] = min(others, key=lambda text: abs(len(text) - len(texts[wrong])))
    exchanged = replace(labels, texts=texts)
    judged = [list(score_pairs(exchanged, load_pair_model(made / "run" / kind))) for kind in ("recogniser", "student")]
    for found in judged:
        assert find_wrong_labels(found)[0].place == wrong
    for first, second in zip(*judged, strict=True):
        assert first.gap == pytest.approx(second.gap, rel=0.05, abs=0.05)
