"""Separation of two voices: SI-SDR, mixtures, training, and the exported separator that runs without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.hearing import separation as benchmark
from finetune import separation
from lalia.cli.main import main as program
from lalia.data.batch import Batch, MixSampler
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.models.export.onnx_export import export_separator
from lalia.models.separator import Separator, SeparatorShape, best_assignment, ideal_ratio_masks, si_sdr
from lalia.runtime.separation import VoiceSeparator, swapped
from tests.tiny_corpus import make_corpus

SMALL = SeparatorShape(width=8, blocks=2, cycle=2)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def separator() -> Separator:
    torch.manual_seed(0)
    return Separator(SMALL).eval()


@pytest.fixture(scope="module")
def exported(separator: Separator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("separator") / "model"
    export_separator(separator, folder, [], int8=False)
    return folder


# --- SI-SDR ----------------------------------------------------------------------------------------------


def test_si_sdr_of_a_known_distortion_at_any_scale() -> None:
    target, distortion = torch.zeros(1000), torch.zeros(1000)
    target[::2], distortion[1::2] = 1.0, 0.1  # orthogonal, 20 dB apart
    for scale in (0.01, 1.0, -7.0):
        assert si_sdr(scale * (target + distortion), target).item() == pytest.approx(20, abs=0.01)


def test_the_better_assignment_of_each_mixture_counts() -> None:
    voices = torch.from_numpy(noise(2, 2, 4000))
    estimates = voices.clone()
    estimates[1] = voices[1].flip(0)
    score, swap = best_assignment(estimates, voices)
    assert swap.tolist() == [False, True] and bool((score > 60).all())


def test_ideal_masks_separate_voices_of_different_frequencies(separator: Separator) -> None:
    t = torch.arange(16000) / 16000
    voices = torch.stack([torch.sin(2 * torch.pi * hz * t) for hz in (300.0, 3000.0)])[None]
    mixture = voices.sum(1)
    masks = ideal_ratio_masks(separator, voices)
    score, _ = best_assignment(separator.masked(separator.spectrum(mixture), masks, 16000), voices)
    assert score.item() > 20


# --- Mixtures --------------------------------------------------------------------------------------------


def test_mixtures_are_of_different_voices_mostly_of_one_corpus_at_levels_in_range() -> None:
    rows = torch.arange(8)
    corpora, speakers = np.array([0, 0, 0, 0, 1, 1, 1, 2]), np.array([5, 5, 6, 7, 0, 1, 2, 8])
    batch = Batch(3, torch.from_numpy(noise(8, 800)), torch.full((8,), 800), rows, rows * 0, None, None, ())
    sampler = MixSampler(1, "training", 6.0, corpora, speakers)
    mixed = sampler(batch)
    assert mixed.voices_B2S is not None and torch.equal(mixed.wave_BS, mixed.voices_B2S.sum(1))
    assert torch.equal(sampler(batch).wave_BS, mixed.wave_BS)  # a function of the batch's number
    levels = mixed.voices_B2S.square().mean(2).sqrt()
    assert bool((20 * torch.log10(levels[:, 0] / levels[:, 1]).abs() <= 6.0).all())
    unit = batch.wave_BS / batch.wave_BS.square().mean(1, keepdim=True).sqrt()
    pairs = [tuple(int((voice @ unit.T / voice.norm()).argmax()) for voice in two) for two in mixed.voices_B2S]
    assert (
        len(pairs) >= 7 and sum(corpora[a] == corpora[b] for a, b in pairs) == len(pairs) - 3
    )  # three places of change
    assert all(speakers[a] != speakers[b] for a, b in pairs)


# --- Training --------------------------------------------------------------------------------------------


def settings(folder: Path, out: str) -> separation.SeparationSettings:
    found = separation.SeparationSettings(model=SMALL, out=str(folder / out))
    found.data.corpus, found.data.workers, found.data.min_s, found.data.max_s = [str(folder / "corpus")], 0, 1.0, 1.0
    found.batch.micro_s, found.batch.hours = 8.0, 8 / 3600
    found.schedule.steps, found.log.valid_every, found.log.every, found.hardware.threads = 4, 2, 1, 1
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("separation")
    make_corpus(folder / "corpus", 24, ("ita",))
    return folder


def test_a_run_trains_and_exports_a_separator(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(separation, "speaker_numbers", lambda mixture: np.arange(len(mixture)))
    trained, step = [], separation.SeparationTask.training_step

    def record(self: separation.SeparationTask, batch: Batch, batch_idx: int) -> torch.Tensor:
        trained.append(batch.wave_BS.shape[1])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(separation.SeparationTask, "training_step", record)
    chosen, folder = settings(corpus, "run"), corpus / "run"
    separation.separate(chosen, folder)
    assert len(trained) == 4 and all(12_800 <= samples < 16_000 for samples in trained)  # cropped to the fastest voice
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("valid/si_sdri" in line for line in lines) and any("train/si_sdri" in line for line in lines)
    voices = np.concatenate([*VoiceSeparator.load(folder).separate([noise(20_000)])], 1)
    assert voices.shape == (2, 20_000)
    card = json.loads((folder / "separator" / "card.json").read_text())
    assert card["kind"] == "separator" and card["parents"][0]["kind"] == "corpus" and card["training"]["steps"] == 4
    capsys.readouterr()
    separation.separate(settings(corpus, "run"), folder)
    assert "finished" in capsys.readouterr().out
    wider = settings(corpus, "wider")
    wider.model, wider.start = SeparatorShape(width=12, blocks=2), str(folder)
    with pytest.raises(UserError, match="another architecture"):
        separation.separate(wider, corpus / "wider")


def test_validation_needs_two_speakers(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(mixture: Mixture) -> np.ndarray:
        return np.where(mixture.splits == SPLITS.index("dev"), 0, np.arange(len(mixture)))

    monkeypatch.setattr(separation, "speaker_numbers", numbers)
    with pytest.raises(UserError, match="the dev split has one speaker"):
        separation.separate(settings(corpus, "dev"), corpus / "dev")


def test_one_speaker_cannot_be_mixed(corpus: Path) -> None:
    assert set(separation.speaker_numbers(Mixture.load([corpus / "corpus"]))) == {0}
    with pytest.raises(UserError, match="all clips have one speaker"):
        separation.separate(settings(corpus, "alone"), corpus / "alone")


def test_a_batch_must_hold_two_clips(corpus: Path) -> None:
    chosen = settings(corpus, "narrow")
    chosen.batch.micro_s = 1.5
    with pytest.raises(UserError, match=r"batch\.micro_s 1\.5: expected at least 2"):
        separation.separate(chosen, corpus / "narrow")


def test_the_benchmark_scores_mixtures_of_different_voices(
    corpus: Path, exported: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = Corpus.load(corpus / "corpus")
    monkeypatch.setattr(benchmark, "SHORTEST_S", 1.0)
    monkeypatch.setattr(Corpus, "speaker", lambda self, row: "")
    pairs = benchmark.voice_pairs(clips, 3, 1)
    found = benchmark.score_pairs(VoiceSeparator.load(exported), separator, pairs)
    assert len(found.mixed) == 3 and np.mean(found.ideal) > np.mean(found.mixed) + 5
    same = [np.stack([pair[0], pair[0]]) for pair in pairs]
    assert benchmark.assigned(same[0], same[0])[1] > 60


# --- Without torch ---------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 300, 5000, 24_001])
def test_the_exported_separator_equals_the_network(exported: Path, separator: Separator, samples: int) -> None:
    wave = noise(samples)
    found = VoiceSeparator.load(exported).separate_window(wave)
    np.testing.assert_allclose(found, separator(torch.from_numpy(wave)[None])[0].numpy(), atol=2e-5)


class Exchanging(VoiceSeparator):
    """Separates the positive from the negative samples perfectly, in an order that changes from window to window."""

    windows = 0

    def separate_window(self, wave_S: np.ndarray) -> np.ndarray:
        self.windows += 1
        return np.stack([wave_S.clip(0), wave_S.clip(None, 0)])[:: 1 if self.windows % 2 else -1].copy()


def test_voices_keep_their_order_from_window_to_window(exported: Path) -> None:
    model = VoiceSeparator.load(exported)
    exchanging = Exchanging(model.session, 512, 256, model.card)
    wave = noise(16_000 * 50)
    parts = list(exchanging.separate(wave[i : i + 30_000] for i in range(0, len(wave), 30_000)))
    assert exchanging.windows > 3 and max(part.shape[1] for part in parts) <= 16 * 16_000
    np.testing.assert_allclose(np.concatenate(parts, 1), [wave.clip(0), wave.clip(None, 0)], atol=1e-6)
    assert not swapped(np.zeros((2, 9)), np.zeros((2, 9)))


def test_the_program_writes_a_file_for_each_voice(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = noise(16_000 * 2, 2)
    soundfile.write(tmp_path / "stereo.wav", speech, 16_000)
    soundfile.write(tmp_path / "short.wav", noise(4_800), 16_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("no audio")
    out = tmp_path / "out"
    names = ["stereo", "short", "silence", "text", "missing"]
    status = program(["separate", str(exported), *(str(tmp_path / f"{name}.wav") for name in names), "--out", str(out)])
    printed, said = capsys.readouterr()
    assert status == 1 and len(printed.splitlines()) == 3
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}-{number}.wav" for name in names[:3] for number in (1, 2)
    )
    for name, samples in zip(names[:3], (32_000, 4_800, 16_000), strict=True):
        assert soundfile.info(out / f"{name}-2.wav").frames == samples
    assert "silence.wav: holds only silence" in said and "missing.wav" in said and "text.wav" in said
    assert len(said.splitlines()) == 6


def test_models_of_other_kinds_and_audio_in_the_wrong_place_are_refused(
    exported: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(4_800), 16_000)
    wave, out = str(tmp_path / "a.wav"), str(tmp_path / "out")
    for model in (corpus / "corpus", tmp_path / "a.wav", tmp_path / "nothing"):
        assert program(["separate", str(model), wave, "--out", out]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and str(model) in said and "expected a separator" in said
    assert program(["transcribe", str(exported), wave]) == 2
    assert "lalia separate" in capsys.readouterr().err
    assert program(["separate", wave, str(exported), "--out", out]) == 2
    assert "the model comes first" in capsys.readouterr().err
    assert program(["separate", str(exported), wave, "--out", wave]) == 2
    assert "is a file" in capsys.readouterr().err
    soundfile.write(tmp_path / "a-1.wav", noise(4_800), 16_000)
    assert program(["separate", str(exported), wave, str(tmp_path / "a-1.wav"), "--out", str(tmp_path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
