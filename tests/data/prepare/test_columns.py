"""Whoever brings a table is told which column became what, what has no label, and which language was understood."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options, parse_columns, parse_kept
from lalia.data.prepare.sources.opening import open_source
from lalia.errors import UserError
from lalia.text.language_codes import codes, describe_language, iso_639_1, iso_639_3, related_code, script_of_tag
from lalia.text.languages import profile
from tests.tiny_clips import in_this_process, save, voiced


def table(folder: Path, header: str, *rows: str) -> Path:
    """A table of clips that are there, as far as the first column can be read."""
    for number, row in enumerate(rows):
        save(folder / row.split("\t")[0], voiced(number, 1.0))
    path = folder / "labels.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def told(path: Path, **options: object) -> tuple[list[str], list[tuple[str, str]]]:
    """What is said of a table, and the (text, speaker) of its clips."""
    lines: list[str] = []
    listing = open_source(str(path), Options(**options), None, lines.append)(path.parent)  # type: ignore[arg-type]
    return lines, [(clip.text, clip.speaker) for clip in listing.clips]


def summary(path: Path, out: Path, **options: object) -> str:
    """The last line of a preparation."""
    console = Console(file=io.StringIO(), soft_wrap=True)
    source = open_source(str(path), Options(**options), None, lambda words: None)  # type: ignore[arg-type]
    pipeline.prepare(source, pipeline.Recipe("test", {}, None, "near"), out, in_this_process, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_used_and_unused_columns_are_reported(tmp_path: Path) -> None:
    path = table(tmp_path, "file\ttranscript\tvoice\tage", "a.wav\tmoja\tasha\t30", "b.wav\tmbili\tjuma\t31")
    lines, clips = told(path)
    assert clips == [("moja", "asha"), ("mbili", "juma")]
    assert lines == [
        "columns: audio=file, text=transcript, speaker=voice; not used: age (to use it: --columns OURS=NAME)"
    ]
    assert "not used" not in told(path, columns={"id": "age"})[0][0]


def test_a_table_without_recognised_texts_is_reported(tmp_path: Path) -> None:
    path = table(tmp_path, "file\tsaid_here\tperson", "a.wav\tmoja\tasha")
    lines, clips = told(path)
    assert clips == [("", "")]
    assert lines[0] == "columns: audio=file; not used: said_here, person (to use one: --columns text=said_here)"
    assert lines[1:] == [
        f"{path}: no column with texts was recognised, so no clip will have a label; if one of said_here, person does, "
        "give --columns text=NAME"
    ]
    assert len(told(path, columns={"text": "said_here"})[0]) == 1
    assert told(table(tmp_path, "file\tutterance_text", "a.wav\tmoja"))[1] == [("moja", "")]


def test_empty_labels_are_counted_in_the_table_and_in_the_corpus(tmp_path: Path) -> None:
    path = table(tmp_path, "file\ttext", "a.wav\tmoja", "b.wav\t ", "c.wav\ttatu")
    assert told(path)[0][1] == (f"{path}: text is empty in 1 of 3 rows, such as b.wav; that clip will have no label")
    assert "3 clips (2 labelled, 1 without a label), " in summary(path, tmp_path / "some")
    assert Corpus.load(tmp_path / "some").card["labelled_clips"] == {"train": 2, "dev": 0, "test": 0}
    audio = table(tmp_path, "file", "a.wav", "b.wav", "c.wav")
    assert "3 clips (none labelled), " in summary(audio, tmp_path / "none")


def test_a_table_without_a_header_gets_an_example(tmp_path: Path) -> None:
    path = table(tmp_path, "a.wav\tmoja mbili tatu\tasha", "b.wav\tnne\tjuma")
    assert told(path)[1] == [("moja mbili tatu", ""), ("nne", "")], "audio of it is there, so it can be read"
    (tmp_path / "b.wav").unlink()
    for columns in ({}, {"audio": "file"}):
        with pytest.raises(UserError) as found:
            told(path, columns=columns)
        assert "its first line looks like data ('a.wav'), not like column names" in str(found.value)
        assert "for example: audio, text, column3" in str(found.value)


def test_the_resolved_language_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_language("sw", iso_639_3("sw")) == "language: Swahili (swa), from 'sw'"
    assert describe_language("sqh", iso_639_3("sqh")) == "language: Shau (sqh)", "a slip of the keyboard can be seen"
    assert [iso_639_3(name) for name in ("kr", "ger", "Bambara", "gilaki", "qab")] == [
        "kau",
        "deu",
        "bam",
        "glk",
        "qab",
    ]
    with pytest.raises(UserError, match=r"did you mean .*bem \(Bemba \(Zambia\)\)"):
        iso_639_3("bemba")
    assert iso_639_3("Valencian Sign Language") == "vsv"
    with pytest.raises(UserError, match="language 'Valencian' is unknown"):
        iso_639_3("Valencian")
    path = table(tmp_path, "file\ttext", "a.wav\tmoja")
    assert main(["prepare", str(path), "--out", str(tmp_path / "c"), "--language", "zzz"]) == 2
    assert "language 'zzz' is unknown" in capsys.readouterr().err


def test_an_unknown_language_is_one_line(tmp_path: Path) -> None:
    path = table(tmp_path, "file\ttext", "a.wav\tmoja", "b.wav\tmbili")
    assert "the language of 2 clips is unknown and will be und" in summary(path, tmp_path / "none")
    assert "und" not in summary(path, tmp_path / "said", language="swh")


def test_tags_deprecated_codes_and_common_names_are_known() -> None:
    for name, code in {
        "sr-Latn": "srp", "zh-Hant-TW": "zho", "uz_Cyrl": "uzb", "iw": "heb", "iw-IL": "heb", "in": "ind", "Farsi": "fas",
        "Sorani": "ckb", "K'iche'": "quc", "quc-Latn": "quc", "mo": "ron",
    }.items():  # fmt: skip
        assert iso_639_3(name) == code, name
    assert script_of_tag("sr-Latn") == "Latn" and script_of_tag("it-IT") == script_of_tag("sr") == ""


def test_codes_know_their_kin() -> None:
    assert len(codes()) > 7900 and all(known.macrolanguage in (*codes(), "") for known in codes().values())
    assert (related_code("swh", ["ita", "swa"]), related_code("swa", ["swh"])) == ("swa", "swh")
    assert related_code("swa", ["swh", "swc"]) is None, "which of the two"
    assert related_code("swh", ["swc"]) is related_code("ita", ["und"]) is related_code("", ["ita"]) is None
    assert profile("bem").title == "Bemba (Zambia) (bem)"


def test_columns_may_be_given_in_one_flag_or_in_several() -> None:
    told = {"audio": "skrá", "text": "texti", "speaker": "lesari"}
    assert parse_columns(["audio=skrá,text=texti", "speaker = lesari"]) == told
    assert parse_columns(["audio=skrá", "text=texti", "speaker=lesari", "audio=skrá"]) == told
    assert parse_columns([]) == {}
    for words, complaint in (
        (["audio"], "expected OURS=THEIRS"),
        (["name=x"], "OURS one of"),
        (["text=a", "text=b"], "twice"),
    ):
        with pytest.raises(UserError, match=complaint):
            parse_columns(words)


def test_columns_that_are_kept_are_labels_of_the_corpus(tmp_path: Path) -> None:
    path = table(tmp_path, "file\ttranscript\temo\tage", "a.wav\tmoja\tanger\t30", "b.wav\tmbili\t\t31")
    lines, _ = told(path, keep={"emotion": "emo"})
    assert "emotion=emo" in lines[0] and "not used: age" in lines[0]
    summary(path, tmp_path / "out", keep={"emotion": "emo", "age": "age"})
    corpus = Corpus.load(tmp_path / "out")
    assert list(corpus.extra_columns) == ["emotion", "age"]
    assert corpus.labels("emotion") == ["anger", ""] and corpus.labels("age") == ["30", "31"]
    assert corpus.labels("text") == ["moja", "mbili"]
    with pytest.raises(UserError, match=r"no column 'emotoin' \(did you mean emotion\?\)"):
        corpus.labels("emotoin")
    datasets = pytest.importorskip("datasets")
    assert datasets.load_from_disk(str(tmp_path / "out"))[0]["emotion"] == "anger"
    pipeline.rewrite(corpus, tmp_path / "again", np.array([0]), {}, [], {})
    assert Corpus.load(tmp_path / "again").labels("age") == ["30"]


def test_columns_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "file\ttranscript\temo", "a.wav\tmoja\t")
    with pytest.raises(UserError, match="has no column 'mood' for --keep; it has file, transcript, emo"):
        told(path, keep={"mood": "mood"})
    with pytest.raises(UserError, match="no clip has a value for --keep emo"):
        told(path, keep={"emo": "emo"})
    assert parse_kept(["emotion,command=word"]) == {"emotion": "emotion", "command": "word"}
    with pytest.raises(UserError, match="every corpus has it"):
        parse_kept(["speaker=who"])
    with pytest.raises(UserError, match="expected the name of a column"):
        parse_kept(["two words"])


def test_two_letters_of_a_language() -> None:
    codes_ = ("ita", "swa", "swh", "cmn", "nob", "fil", "und", "xyz", "")
    assert [iso_639_1(code) for code in codes_] == ["it", "sw", "sw", "zh", "nb", "", "", "", ""]
