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
