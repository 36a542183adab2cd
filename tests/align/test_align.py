"""``lalia align`` from end to end, on recordings that the tiny student transcribes without an error."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from lalia.align.pieces import read_pieces
from lalia.audio.encoding import flac_bytes
from lalia.cards import read_card
from lalia.cli.main import main
from lalia.data.corpus import Corpus
from tests.tiny_clips import loud_is_voice
from tests.tiny_student import make_student, sing

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")
PAUSE = np.zeros(16_000, np.float32)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("aligning") / "student", language="ita")


def sentences(seed: int, count: int) -> list[str]:
    """Sentences of four words of the tiny student's five letters."""
    rng = random.Random(seed)

    def word() -> str:
        letters = [rng.choice("abcde") for _ in range(rng.randint(3, 6))]
        return "".join(b for a, b in zip(["", *letters], letters, strict=False) if a != b)

    return [" ".join(word() for _ in range(4)) for _ in range(count)]


def record(path: Path, spoken: list[str]) -> Path:
    """The sentences with a second of silence between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(flac_bytes(np.concatenate([part for text in spoken for part in (sing(text, frames=2), PAUSE)])))
    return path


def write(path: Path, written: list[str]) -> Path:
    path.write_text("\n".join(f"{text.capitalize()}." for text in written) + "\n", encoding="utf-8")
    return path


def labels(corpus: Path) -> list[str]:
    return sorted(Corpus.load(corpus).column("text"))


def test_a_recording_and_its_text_become_a_corpus(tmp_path: Path, student: Path) -> None:
    said = sentences(1, 12)
    audio, text = record(tmp_path / "book.flac", said), write(tmp_path / "book.txt", said)
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(audio), str(text), "--out", str(out), "--jobs", "1"]) == 0
    corpus = Corpus.load(out)
    pieces = read_pieces(out)
    assert " ".join(piece.text for piece in pieces) == " ".join(f"{text.capitalize()}." for text in said)
    assert all(piece.status == "accepted" and 2 <= piece.duration_s <= 20 for piece in pieces)
    assert corpus.column("id") == [piece.piece for piece in pieces]
    assert set(corpus.column("source")) == {"book"}
    assert corpus.numbers("offset") == pytest.approx([piece.start for piece in pieces])
    assert corpus.numbers("score") == pytest.approx([piece.score for piece in pieces], abs=1e-4)
    assert [piece.heard for piece in pieces] == corpus.column("heard")
    assert corpus.durations_s == pytest.approx([piece.duration_s for piece in pieces], abs=1e-3)
    card = read_card(out)
    assert [parent["kind"] for parent in card["parents"]] == ["student"]
    assert card["alignment"]["hours"]["accepted"] == pytest.approx(corpus.durations_s.sum() / 3600, abs=1e-3)


def test_text_and_audio_without_a_counterpart_are_left_out(tmp_path: Path, student: Path) -> None:
    said, unsaid = sentences(2, 16), sentences(3, 4)
    audio = record(tmp_path / "book.flac", said)
    text = write(tmp_path / "book.txt", [*said[:5], *unsaid, *said[8:]])
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(audio), str(text), "--out", str(out), "--jobs", "1"]) == 0
    found = " ".join(labels(out)).lower().replace(".", "").split()
    spoken = " ".join([*said[:5], *said[8:]]).split()
    assert sorted(found) == sorted(spoken)
    assert any(piece.reason == "no text" for piece in read_pieces(out))
    doubtful = sum(piece.status == "doubtful" for piece in read_pieces(out))
    assert (out / "doubtful.html").is_file() == (doubtful > 0)


def test_chapters_in_another_order_are_found(tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sentences(4, 20), sentences(5, 20)
    audio, text = record(tmp_path / "book.flac", first + second), write(tmp_path / "book.txt", second + first)
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(audio), str(text), "--out", str(out), "--jobs", "1"]) == 0
    assert "read in another order" in capsys.readouterr().err
    found = " ".join(labels(out)).lower().replace(".", "").split()
    assert len(found) >= 0.9 * 4 * 40
    assert set(found) <= set(" ".join(first + second).split())


def test_a_folder_of_pairs_is_split_by_recording_and_a_swapped_text_is_named(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [sentences(10 + n, 6) for n in range(4)]
    written = [texts[0], texts[1], texts[3], texts[2]]
    for number, (said, line) in enumerate(zip(texts, written, strict=True)):
        record(tmp_path / "book" / f"{number}.flac", said)
        write(tmp_path / "book" / f"{number}.txt", line)
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(tmp_path / "book"), "--out", str(out), "--jobs", "2"]) == 0
    lines = capsys.readouterr().err
    assert "2.flac: 2.txt does not fit it, 3.txt does" in lines
    assert "2 of 4 recordings are left out" in lines
    assert {piece.recording for piece in read_pieces(out)} == {"0", "1"}


def test_a_table_gives_speakers_and_splits(tmp_path: Path, student: Path) -> None:
    rows = ["audio\ttext\tspeaker\tsplit"]
    for number, split in enumerate(("train", "test")):
        said = sentences(20 + number, 6)
        record(tmp_path / f"{number}.flac", said)
        write(tmp_path / f"{number}.txt", said)
        rows.append(f"{number}.flac\t{number}.txt\ts{number}\t{split}")
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    assert (
        main(["align", str(student), str(tmp_path / "pairs.tsv"), "--out", str(tmp_path / "corpus"), "--jobs", "1"])
        == 0
    )
    corpus = Corpus.load(tmp_path / "corpus")
    assert set(zip(corpus.column("source"), corpus.column("speaker"), corpus.column("split"), strict=True)) == {
        ("0", "s0", "train"),
        ("1", "s1", "test"),
    }


def test_corrections_make_another_corpus(tmp_path: Path, student: Path) -> None:
    said = sentences(30, 6)
    audio, text = record(tmp_path / "book.flac", said), write(tmp_path / "book.txt", said)
    out, after = tmp_path / "corpus", tmp_path / "after"
    assert main(["align", str(student), str(audio), str(text), "--out", str(out), "--jobs", "1"]) == 0
    pieces = read_pieces(out)
    table = tmp_path / "checked.tsv"
    table.write_text(f"piece\tdecision\ttext\n{pieces[0].piece}\trefuse\t\n{pieces[1].piece}\tcorrect\tAnother text.\n")
    assert main(["align", str(out), "--corrections", str(table), "--out", str(after), "--jobs", "1"]) == 0
    corpus = Corpus.load(after)
    assert corpus.column("id") == [piece.piece for piece in pieces[1:]]
    assert corpus.text(0) == "Another text."
    assert [parent["kind"] for parent in read_card(after)["parents"]] == ["corpus"]


def test_an_interrupted_alignment_continues(tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lalia.align import recordings
    from lalia.runtime.student import Student

    monkeypatch.setattr(recordings, "PART_S", 10)
    said = sentences(40, 14)
    audio, text = record(tmp_path / "book.flac", said), write(tmp_path / "book.txt", said)
    whole, out = tmp_path / "whole", tmp_path / "corpus"
    command = ["align", str(student), str(audio), str(text), "--jobs", "1", "--out"]
    assert main([*command, str(whole)]) == 0
    run, count = Student.log_probs, 0

    def stops(self: Student, wave: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return run(self, wave)

    monkeypatch.setattr(Student, "log_probs", stops)
    assert main([*command, str(out)]) == 130
    before = count
    assert main([*command, str(out)]) == 0
    assert count - before == 3  # five parts, two of which are kept
    assert (out / "pieces.tsv").read_text() == (whole / "pieces.tsv").read_text()


def fails(student: Path, tmp_path: Path, audio: np.ndarray, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "talk.flac").write_bytes(flac_bytes(audio))
    (tmp_path / "talk.txt").write_text(text, encoding="utf-8")
    paths = [str(tmp_path / name) for name in ("talk.flac", "talk.txt")]
    assert main(["align", str(student), *paths, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err.splitlines()[-1]


SPEECH = sing(" ".join(sentences(50, 8)), frames=2)


@pytest.mark.parametrize(
    ("audio", "text", "message"),
    [
        (SPEECH, "Доброе утро всем.\n", "no letters for 3 of its 3 words"),
        (SPEECH, "\n\n", "has no words to align"),
        (SPEECH, "\n".join(sentences(51, 30)), "talk.txt does not fit it"),
        (np.zeros(20 * 16_000, np.float32), "abc abc.\n", "hears 0 letters in 0.3 minutes"),
    ],
    ids=["script", "empty", "other", "silent"],
)
def test_bad_input_is_one_line(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str], audio: np.ndarray, text: str, message: str
) -> None:
    assert message in fails(student, tmp_path, audio, text, capsys)


def test_a_long_text_is_reported_and_its_part_aligned(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = sentences(60, 120)
    audio, text = record(tmp_path / "book.flac", book[50:58]), write(tmp_path / "book.txt", book)
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(audio), str(text), "--out", str(out), "--jobs", "1"]) == 0
    assert "times as long as what is spoken: aligned from" in capsys.readouterr().err
    assert " ".join(piece.text for piece in read_pieces(out)).lower().replace(".", "") == " ".join(book[50:58])


def test_an_unreadable_recording_does_not_end_the_others(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = sentences(70, 6)
    record(tmp_path / "book" / "good.flac", said)
    write(tmp_path / "book" / "good.txt", said)
    (tmp_path / "book" / "bad.flac").write_bytes(b"no audio at all")
    write(tmp_path / "book" / "bad.txt", said)
    out = tmp_path / "corpus"
    assert main(["align", str(student), str(tmp_path / "book"), "--out", str(out), "--jobs", "1"]) == 0
    assert "bad.flac: is not a supported audio file" in capsys.readouterr().err
    assert {piece.recording for piece in read_pieces(out)} == {"good"}
