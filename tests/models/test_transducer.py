"""The transducer's loss and scores against torchaudio's and against sums over all paths."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
import torchaudio
from torch import Tensor

from lalia.models.transducer import Transducer, TransducerShape, transducer_loss

B, T, U, V, D = 3, 7, 4, 6, 5
FRAMES, LENGTHS = torch.tensor([7, 5, 3]), torch.tensor([4, 2, 0])
SHAPES = [TransducerShape(0, 8), TransducerShape(8, 8)]


def labels() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(1, V, (B, U))


def full_logits(model: Transducer, encoded_BTJ: Tensor, predicted_BUJ: Tensor) -> Tensor:
    """The joiner by its definition: scores of all tokens at all places, (B, T, U + 1, V)."""
    sums = encoded_BTJ[:, :, None] + predicted_BUJ[:, None]
    return sums if model.output is None else sums[..., :V] + model.output(torch.tanh(sums[..., V:]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore:.*rnnt_loss")
def test_loss_and_gradient_equal_torchaudio(shape: TransducerShape) -> None:
    torch.manual_seed(1)
    model, hidden_BTD, labels_BU = Transducer(D, V, shape), torch.randn(B, T, D), labels()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = full_logits(model, model.project(hidden_BTD), model.prediction(labels_BU))
        expected_B = torchaudio.functional.rnnt_loss(
            logits, labels_BU.int(), FRAMES.int(), LENGTHS.int(), blank=0, reduction="none"
        )
    wanted = torch.autograd.grad(expected_B.sum(), list(model.parameters()))
    scores = model.scores(model.project(hidden_BTD), model.prediction(labels_BU), labels_BU)
    found_B = transducer_loss(*scores, FRAMES, LENGTHS)
    torch.testing.assert_close(found_B, expected_B, rtol=1e-5, atol=1e-5)
    for own, other in zip(torch.autograd.grad(found_B.sum(), list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_loss_is_the_sum_over_all_paths() -> None:
    """By hand: two frames, a label of two tokens; the tokens are emitted in (0, 0), (0, 1) or (1, 1)."""
    torch.manual_seed(2)
    blank, label = torch.randn(1, 2, 3).log_softmax(-1), torch.randn(1, 2, 2)
    paths = []
    for first, second in itertools.combinations_with_replacement(range(2), 2):
        emitted = [sum(frame <= t for frame in (first, second)) for t in range(2)]
        score = label[0, first, 0] + label[0, second, 1] + sum(blank[0, t, emitted[t]] for t in range(2))
        paths.append(float(score))
    total = math.log(sum(map(math.exp, paths)))
    assert float(transducer_loss(blank, label, torch.tensor([2]), torch.tensor([2]))[0]) == pytest.approx(
        -total, rel=1e-5
    )


def test_padding_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, encoded, labels_BU = Transducer(D, V, SHAPES[1]), torch.randn(B, T, V + 8), labels()
    whole = transducer_loss(*model.scores(encoded, model.prediction(labels_BU), labels_BU), FRAMES, LENGTHS)
    monkeypatch.setattr("lalia.models.transducer._CHUNK", B * (U + 1) * (V + 8) * 2)
    # Without torch's own checkpointing, whose first call imports its compiler for seconds.
    monkeypatch.setattr("lalia.models.transducer.checkpoint", lambda f, *args, use_reentrant: f(*args))
    apart = transducer_loss(*model.scores(encoded, model.prediction(labels_BU), labels_BU), FRAMES, LENGTHS)
    torch.testing.assert_close(whole, apart)
    for clip in range(B):
        own, frames, length = labels_BU[clip : clip + 1, : LENGTHS[clip]], FRAMES[clip], LENGTHS[clip]
        scores = model.scores(encoded[clip : clip + 1, :frames], model.prediction(own), own)
        alone = transducer_loss(*scores, frames[None], length[None])
        torch.testing.assert_close(alone[0], whole[clip], rtol=1e-5, atol=1e-5)


def test_extreme_scores_stay_finite() -> None:
    """The encoder is sure of one token and the predictor of another: the product of their exponentials would be 0."""
    model = Transducer(D, V, SHAPES[0])
    encoded, predicted = torch.full((1, 3, V), -300.0), torch.full((1, 2, V), -300.0)
    encoded[..., 1], predicted[..., 2] = 300.0, 300.0
    encoded.requires_grad_()
    blank, label = model.scores(encoded, predicted, torch.tensor([[1]]))
    loss = transducer_loss(blank, label, torch.tensor([3]), torch.tensor([1])).sum()
    loss.backward()
    assert loss.isfinite()
    assert encoded.grad is not None and bool(encoded.grad.isfinite().all())


def test_padding_behind_an_unlikely_clip_has_no_gradient() -> None:
    """Its padding is so much likelier than the clip that the ratio is beyond float32."""
    blank, label = torch.full((1, 40, 3), -0.1), torch.full((1, 40, 2), -2.0)
    blank[:, :2], label[:, :2] = -90.0, -90.0
    blank.requires_grad_(), label.requires_grad_()
    transducer_loss(blank, label, torch.tensor([2]), torch.tensor([1])).sum().backward()
    assert blank.grad is not None and label.grad is not None
    assert not blank.grad[:, 2:].any() and not label.grad[:, 2:].any()
    assert -blank.grad.sum() == pytest.approx(2, rel=1e-5) and -label.grad.sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_around_the_loss_stays_close(shape: TransducerShape) -> None:
    torch.manual_seed(4)
    model, hidden_BTD, labels_BU = Transducer(D, V, shape), torch.randn(B, T, D), labels()

    def loss() -> Tensor:
        scores = model.scores(model.project(hidden_BTD), model.prediction(labels_BU), labels_BU)
        assert all(score.dtype == torch.float32 for score in scores)
        return transducer_loss(*scores, FRAMES, LENGTHS)

    exact = loss()
    with torch.autocast("cpu", torch.bfloat16):
        close = loss()
    torch.testing.assert_close(close, exact, rtol=0.02, atol=0.02)
