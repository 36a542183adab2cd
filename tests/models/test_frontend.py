"""The frontends: their numbers against torchaudio and worked statistics, their frame counts against the shape's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchaudio

from lalia.models.frontend import (
    FFT,
    PRIOR_FRAMES,
    ConvolutionStem,
    PaddedGroupNorm,
    StackedFrames,
    StemLayer,
    group_norm,
    make_frontend,
    normalise_over_time,
    valid_frames,
)
from lalia.models.shape import EncoderShape


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def logmel(**shape: Any) -> StackedFrames:
    small: dict[str, Any] = dict(input="logmel", bins=20, stack=4)
    return StackedFrames(EncoderShape(**small | shape))


def layer(stem: ConvolutionStem, number: int) -> StemLayer:
    found = stem.layers[number]
    assert isinstance(found, StemLayer)
    return found


def test_log_mel_bins_are_those_of_torchaudio() -> None:
    wave = noise(1, 4_000)
    mel = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=FFT, win_length=400, hop_length=160, f_min=20.0, f_max=8_000.0, n_mels=20, center=False, power=2.0
    )
    # torchaudio puts the window in the middle of 512 samples; so the wave is moved by half of what is left.
    expected = torch.log(mel(torch.nn.functional.pad(wave, (56, 56))) + 1e-6)[0].T
    torch.testing.assert_close(logmel()._bins(wave)[0], expected, rtol=1e-4, atol=1e-4)


def test_cepstra_are_the_cosine_transform_of_log_mel_bins() -> None:
    wave = noise(1, 4_000)
    frames = StackedFrames(EncoderShape(input="mfcc", bins=13, stack=2))
    bins = logmel(bins=80)._bins(wave)[0]
    k = torch.arange(13, dtype=torch.float64)[:, None]
    basis = torch.cos(torch.pi / 80 * (torch.arange(80, dtype=torch.float64) + 0.5) * k) * (2 / 80) ** 0.5
    basis[0] /= 2**0.5
    torch.testing.assert_close(frames._bins(wave)[0], (bins.double() @ basis.T).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [399, 400, 559, 560, 879, 880, 881, 16_000])
@pytest.mark.parametrize("shape", [
    EncoderShape(input="logmel", bins=8, stack=1), EncoderShape(input="logmel", bins=8, stack=4),
    EncoderShape(stem=[[4, k, s] for _, k, s in EncoderShape().stem]),
])  # fmt: skip
def test_frames_are_as_many_as_the_shape_says(shape: EncoderShape, samples: int) -> None:
    expected = shape.frames(samples)
    assert (expected > 0) == (samples >= shape.receptive_field)
    if expected:
        features, frames = make_frontend(shape)(noise(1, samples), torch.tensor([samples]))
        assert features.shape[1] == int(frames) == expected


def test_statistics_of_a_clip_are_mixed_with_those_of_the_training_audio() -> None:
    features = noise(1, 7, 3)
    prior = torch.tensor([[0.5, -1.0, 0.0], [1.25, 2.0, 0.5]])
    found = normalise_over_time(features, torch.tensor([5]), 1e-3, prior)
    for f in range(3):
        mean = (features[0, :5, f].sum() + PRIOR_FRAMES * prior[0, f]) / (5 + PRIOR_FRAMES)
        square = (features[0, :5, f].square().sum() + PRIOR_FRAMES * prior[1, f]) / (5 + PRIOR_FRAMES)
        expected = (features[0, :5, f] - mean) / (square - mean**2 + 1e-3).sqrt()
        torch.testing.assert_close(found[0, :5, f], expected)
    assert bool((found[0, 5:] == 0).all())


def test_measured_statistics_are_those_of_all_frames() -> None:
    frames = logmel()
    waves = [noise(4_000), noise(2_000) + 0.2, noise(10)]
    frames.measure(waves)
    bins = torch.cat([frames._bins(wave[None])[0] for wave in waves[:2]])
    torch.testing.assert_close(
        frames.prior_2M, torch.stack([bins.mean(0), bins.square().mean(0)]), rtol=1e-4, atol=1e-4
    )


def test_group_norm_of_an_unpadded_clip_is_torchs() -> None:
    torch.manual_seed(0)
    stem = ConvolutionStem(EncoderShape(stem=[[8, 10, 5]]))
    first = layer(stem, 0)
    assert first.group_norm is not None
    torch.nn.init.normal_(first.group_norm.weight)
    wave = noise(2, 900)
    expected = torch.nn.functional.gelu(first.group_norm(first.conv(wave[:, None]))).transpose(1, 2)
    torch.testing.assert_close(stem(wave, torch.tensor([900, 900]))[0], expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_stem_is_scaled_while_training_only() -> None:
    torch.manual_seed(0)
    stem = ConvolutionStem(EncoderShape(stem=[[8, 10, 5], [8, 3, 2]], stem_gradient_scale=0.1))

    def gradient() -> torch.Tensor:
        stem.zero_grad()
        stem(noise(1, 900), torch.tensor([900]))[0].square().sum().backward()
        found = layer(stem, 1).conv.weight.grad
        assert found is not None
        return found.clone()

    training = gradient()
    stem.eval()
    torch.testing.assert_close(training, 0.1 * gradient(), rtol=1e-4, atol=1e-7)


def test_normalised_waves_have_no_mean_and_unit_variance_within_the_clip() -> None:
    stem = ConvolutionStem(EncoderShape(stem=[[1, 1, 1]], stem_norm="layer", normalise_wave=True))
    seen: list[torch.Tensor] = []
    layer(stem, 0).conv.register_forward_pre_hook(lambda _module, args: seen.append(args[0][:, 0]))
    wave = 0.3 * noise(2, 5_000) + 0.4
    stem(wave, torch.tensor([5_000, 3_000]))
    for row, length in zip(seen[0], (5_000, 3_000), strict=True):
        assert float(row[:length].mean()) == pytest.approx(0, abs=1e-5)
        assert float(row[:length].var(unbiased=False)) == pytest.approx(1, abs=1e-3)
        assert bool((row[length:] == 0).all())


def test_frontends_compute_in_float32_under_autocast() -> None:
    wave, lengths = noise(1, 4_000), torch.tensor([4_000])
    frames = logmel()
    expected = frames(wave, lengths)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(frames(wave, lengths)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_group_norm_of_all_clips_at_once_equals_each_clip_alone(kind: torch.dtype) -> None:
    lengths_B, norm = torch.tensor([50, 31, 1]), torch.nn.GroupNorm(6, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    given = noise(3, 6, 50) + torch.linspace(-3, 3, 6)[:, None]
    gradient = noise(3, 6, 50)

    def results(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        assert y.dtype == kind
        return [y.detach(), *torch.autograd.grad((y * gradient).sum(), (x, norm.weight, norm.bias))]

    x = given.to(kind).requires_grad_()
    found = results(x, PaddedGroupNorm.apply(x, norm.weight, norm.bias, lengths_B, norm.eps))
    alone = [  # the module itself refuses a single frame
        torch.group_norm(x[b : b + 1, :, :n].float(), 6, norm.weight, norm.bias, norm.eps).to(kind)
        for b, n in enumerate(lengths_B.tolist())
    ]
    padded = torch.cat([torch.nn.functional.pad(y, (0, 50 - y.shape[2])) for y in alone])
    exact = kind == torch.float32
    for one, other in zip(found, results(x, padded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if exact else 0.02, atol=1e-4 if exact else 0.02)
    for one, other in zip(results(x, group_norm(norm, x, lengths_B)), found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if exact else 0.02, atol=1e-4 if exact else 0.02)


def test_valid_frames() -> None:
    assert valid_frames(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]
