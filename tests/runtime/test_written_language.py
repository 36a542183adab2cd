"""A student of several languages: each clip is written and scored by its own, and --language picks one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.errors import UserError
from lalia.lm.folder import LanguageModel
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser, settings_for
from tests.cli.test_main import make_corpus
from tests.tiny_student import make_student, seal, sing

SYMBOLS = ("<blank>", "|", *"adegiklnoprstßı", *"สวดี", "ั")


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """German first, then Turkish and Thai."""
    folder = make_student(tmp_path / "student", SYMBOLS)
    others = {code: settings_for(code) for code in ("tur", "tha")}
    replace(settings_for("deu"), languages=others).to_json(folder / "normaliser.json")
    seal(folder, language=["deu", "tur", "tha"])
    return folder


def test_the_folder_keeps_the_rules_of_each_language(tmp_path: Path) -> None:
    path = tmp_path / "normaliser.json"
    both = replace(settings_for("deu"), languages={"tur": settings_for("tur")})
    both.to_json(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["language"] == "deu" and list(stored["languages"]) == ["tur"]
    normaliser = Normaliser.from_json(path)
    assert normaliser.settings == both and normaliser.languages == ["deu", "tur"]
    turkish = normaliser.for_language("tur")
    assert turkish.languages == ["tur", "deu"] and turkish.for_language("deu").settings == both
    assert normaliser.for_language("Turkish")("ISPARTA") == turkish("ISPARTA") == "ısparta"
    assert normaliser("ISPARTA") == normaliser.for_language("und")("ISPARTA") == turkish.for_language("deu")("ISPARTA")
    assert "languages" not in json.loads(settings_for("tur").to_json())
    stored["languages"]["tur"]["language"] = "aze"
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(UserError, match="'tur' holds the settings of 'aze'; expected each other language once"):
        Normaliser.from_json(path)


def test_each_clip_is_scored_by_its_language(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One letter wrong, i for ı: 1 of 10 Turkish letters and 1 of 2 words, 0 of 15 German letters and 3 words."""
    labels = (("deu", "Indien ist groß", "indien ist groß"), ("tur", "ISPARTA", "isparta"), ("tur", "ilk", "ilk"))
    clips = [(code, "test", label, flac_bytes(sing(said, SYMBOLS))) for code, label, said in labels]
    corpus = make_corpus(tmp_path / "corpus", clips)
    scores, page = tmp_path / "scores.json", tmp_path / "page.html"
    command = ["evaluate", str(student), str(corpus), "--json", str(scores), "--html", str(page)]
    assert main.main(command) == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["deu"][1:4] == ["1", "3", "0.0"] and lines["tur"][1:4] == ["2", "2", "10.0"]
    assert lines["all"][1:4] == ["3", "5", "4.0"]
    assert lines["mean over languages"] == ["mean", "over", "languages", "5.0", "25.0"]
    found = json.loads(scores.read_text(encoding="utf-8"))
    assert [clip["reference"] for clip in found["clips"]] == ["indien ist groß", "ısparta", "ilk"]
    assert found["scores"]["tur"]["wer"] == 0.5 and found["scores"]["all"]["wer"] == 0.2
    assert found["mean_over_languages"] == {"cer": pytest.approx(0.05), "wer": pytest.approx(0.25)}
    assert "mean over languages" in page.read_text(encoding="utf-8")


def test_language_picks_the_writing_and_its_absence_is_said_once(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = tmp_path / "talk.flac"
    talk.write_bytes(flac_bytes(sing("สวัสดี", SYMBOLS)))

    def words(*flags: str) -> tuple[list[str], str]:
        assert main.main(["transcribe", str(student), str(talk), "--format", "json", *flags]) == 0
        printed = capsys.readouterr()
        return [word["text"] for word in json.loads(printed.out)["words"]], printed.err

    thai, told = words("--language", "tha")
    assert thai == ["ส", "วั", "ส", "ดี"] and told == ""
    assert words("--language", "Thai")[0] == thai
    found, told = words()
    assert found == thai, "the letters are Thai whatever the language"
    assert told.count("\n") == 1 and all(
        fact in told for fact in ("writes deu, tha, tur", "rules of deu", "--language CODE")
    )
    assert main.main(["transcribe", str(student), str(talk), "--language", "ita"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "language 'ita': the student writes deu, tha, tur" in told
    chosen = Student.load(student, language="tur")
    assert chosen.normaliser("ISPARTA") == "ısparta" and chosen.in_language("de").normaliser("ISPARTA") == "isparta"


def test_a_language_model_of_several_languages_fits_each(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = (("deu", "INDIEN IST groß"), ("tur", "ISPARTA"), ("tur", "ilk ISPARTA"), ("deu", "ist"))
    clips = [
        (code, split, text, flac_bytes(sing(text.lower(), SYMBOLS)))
        for code, text in labels
        for split in ("train", "dev")
    ]
    corpus, lm = make_corpus(tmp_path / "corpus", clips), tmp_path / "lm"
    assert main.main(["lm", str(corpus), "--like", str(student), "--out", str(lm)]) == 0
    assert LanguageModel.load(lm).card["letters"].keys() >= set("ıiß")  # ısparta, and indien
    capsys.readouterr()
    assert main.main(["evaluate", str(student), str(corpus), "--split", "dev", "--lm", str(lm)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("not tuned") == 1 and "mean over languages" in printed.out
    for code in ("deu", "tur"):
        chosen = Student.load(student, language=code)
        LanguageModel.load(lm).check(chosen.tokens, chosen.normaliser)
    text = tmp_path / "turkish.txt"
    text.write_text("ISPARTA ilk\n", encoding="utf-8")
    for flags, letters in ((["--language", "tur"], "ısparlk"), ([], "sparlk")):
        assert main.main(["lm", str(text), "--like", str(student), "--out", str(tmp_path / "one"), *flags]) == 0
        found = LanguageModel.load(tmp_path / "one").card["letters"].keys()
        assert found >= set(letters) and ("ı" in found) == bool(flags)
        shutil.rmtree(tmp_path / "one")
