"""Probes: one matrix reads what is there and nothing that is not, on the same held-out clips for every layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.shape import EncoderShape
from lalia.text.tokens import Tokens
from pretrain.probe import LogMel, arguments, classify, probe, probe_columns, read_letters
from tests.tiny_corpus import make_corpus
from tests.training.test_linear_probe import corpus as labelled
from tests.training.test_linear_probe import grid


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("probe") / "corpus")


def encoder(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    shape = EncoderShape(input="logmel", width=32, layers=2, heads=2, feedforward=64, block="convolutional",
                         block_kernel=5, position="rotary", layerdrop=0.0)  # fmt: skip
    Encoder(shape).save(folder, [])
    return folder


def test_a_ridge_reads_what_one_matrix_can_and_not_noise() -> None:
    random = np.random.default_rng(1)
    classes = random.integers(0, 3, 200)
    x = random.normal(size=(200, 20))
    x[np.arange(200), classes] += 3.0
    assert classify(x[:120], classes[:120], x[120:], classes[120:]).accuracy > 0.8
    noise = random.normal(size=(200, 300))  # more dimensions than clips: nothing to find, however well it fits
    assert classify(noise[:120], classes[:120], noise[120:], classes[120:]).accuracy < 0.55


def test_leave_one_out_is_what_leaving_out_gives() -> None:
    """The penalty is chosen by leave-one-out predictions in closed form: with one dimension, by hand the same."""
    random = np.random.default_rng(2)
    x, classes = random.normal(size=(30, 2)), np.arange(30) % 2
    x[:, 0] += 4.0 * classes
    hits = classify(x, classes, x, classes)
    assert hits.right >= 28 and hits.clips == 30


def test_letters_are_read_from_frames_that_hold_them() -> None:
    tokens = Tokens.from_texts(["abc"])
    random = torch.Generator().manual_seed(1)
    texts = ["".join("abc"[i] for i in torch.randint(3, (4,), generator=random).tolist()) for _ in range(40)]

    def frames(text: str, told: bool) -> torch.Tensor:
        """Three frames per letter and one of nothing behind each."""
        x = 0.1 * torch.randn(4 * len(text), 8, generator=random)
        for i, letter in enumerate(text):
            x[4 * i : 4 * i + 3, "abc".index(letter) if told else 5] += 1.0
        return x

    def rate(told: bool) -> float:
        clips = [frames(text, told) for text in texts]
        return read_letters(
            clips[:30], texts[:30], clips[30:], texts[30:], tokens, lambda text, _: tokens.encode(text), 150, 1
        )

    assert rate(told=True) < 0.1
    assert rate(told=False) > 0.5


def test_log_mel_frames_keep_step_with_their_clip() -> None:
    [clips] = LogMel(4)(torch.randn(2, 16_000), torch.tensor([16_000, 8_000]))
    shape = EncoderShape(input="logmel")
    assert [clip.shape for clip in clips] == [(shape.frames(16_000), 320), (shape.frames(8_000), 320)]


def test_two_encoders_are_compared_with_log_mel(corpus: Path, tmp_path: Path) -> None:
    folders = [str(encoder(tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))]
    paths = [*folders, str(corpus), "--steps", "40", "--clips", "20"]
    out = tmp_path / "probe.json"
    found = probe(arguments("probe", "", [*paths, "--out", str(out)]), Console(width=140))
    assert [(row.encoder, row.layer) for row in found.rows] == [
        ("", "log-mel"), *((name, layer) for name in ("one", "two") for layer in ("input", "1", "2")),
    ]  # fmt: skip
    assert found.languages == 2 and all(0 <= row.language <= 1 for row in found.rows if row.language is not None)
    assert all(row.cer is not None and row.cer < 2 for row in found.rows)
    assert all(row.speaker is None for row in found.rows)  # one speaker says everything
    assert any("fewer than two speakers" in note for note in found.notes)
    assert json.loads(out.read_text())["rows"][0]["layer"] == "log-mel"

    again = probe(arguments("probe", "", [*paths, "--out", str(tmp_path / "probe.html")]), Console(width=140))
    assert again.rows == found.rows
    page = (tmp_path / "probe.html").read_text()
    assert "Probe of encoder layers" in page and page.count("<svg") >= 2


def test_bad_input_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one path given, expected ENCODER"):
        arguments("probe", "", ["somewhere"])
    with pytest.raises(UserError, match=r"ends in .html or .json"):
        arguments("probe", "", ["somewhere", "corpus", "--out", "probe.pdf"])
    with pytest.raises(UserError, match="no such folder"):
        probe(arguments("probe", "", [str(tmp_path / "nowhere"), str(corpus)]))
    with pytest.raises(UserError, match="--language swa: not in the corpus"):
        one = encoder(tmp_path / "encoder", 1)
        probe(arguments("probe", "", [str(one), str(corpus), "--language", "swa"]))


def test_columns_are_asked_with_speakers_apart(tmp_path: Path) -> None:
    clips = labelled(tmp_path / "c", *grid("low mid high", "a b c d"))
    one = encoder(tmp_path / "one", 1)
    paths = [str(one), str(clips), "--ask", "pitch", "--ask", "language", "--apart", "speaker"]
    with pytest.raises(UserError, match="no clip has a language"):
        probe_columns(arguments("probe", "", paths), Console(width=140))
    out = tmp_path / "probe.json"
    paths = [str(one), str(clips), "--ask", "pitch", "--apart", "speaker", "--out", str(out)]
    found = probe_columns(arguments("probe", "", paths), Console(width=140))
    assert [(row["encoder"], row["layer"]) for row in found.rows] == [
        ("", "log-mel"), ("one", "input"), ("one", "1"), ("one", "2"),
    ]  # fmt: skip
    assert found.rows[0]["pitch"] > 0.9 and found.columns["pitch"] == "3 labels, 24 clips scored, chance 0.333"
    assert json.loads(out.read_text())["rows"] == found.rows
    apart = [*paths[:4], "--apart", "source", "--out", str(tmp_path / "probe.html")]
    unknown = probe_columns(arguments("probe", "", apart), Console(width=140))
    assert "cannot be known" in unknown.columns["pitch"] and all(row["pitch"] is None for row in unknown.rows)
    assert "cannot be known" in (tmp_path / "probe.html").read_text()
    with pytest.raises(UserError, match="belong together"):
        arguments("probe", "", [str(one), str(clips), "--ask", "pitch"])
