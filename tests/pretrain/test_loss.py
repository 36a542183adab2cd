"""The contrastive objective against slow obvious versions, numbers worked by hand, and fairseq2's own model."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lalia.data.batch import sample_distractors
from pretrain import loss as losses


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames():
    """Three clips of 9, 6 and 4 masked frames, five distractors, two codebooks of four entries."""
    g = random()
    valid_BM = torch.arange(9) < torch.tensor([9, 6, 4])[:, None]
    context = torch.randn(3, 9, 8, generator=g)
    targets = torch.randn(3, 9, 8, generator=g)
    codes = torch.randint(4, (3, 9, 2), generator=g)
    distractors = sample_distractors(valid_BM, 5, g)
    return context, targets, codes, distractors, valid_BM


def test_info_nce_equals_two_for_loops(frames):
    context, targets, codes, distractors, valid = frames
    total, correct, count = 0.0, 0, 0
    for b in range(3):
        for m in range(int(valid[b].sum())):
            positive = F.cosine_similarity(context[b, m], targets[b, m], dim=0) / 0.1
            negatives = [
                F.cosine_similarity(context[b, m], targets[b, k], dim=0) / 0.1
                for k in distractors[b, m].tolist()
                if codes[b, k].tolist() != codes[b, m].tolist()
            ]
            total += float(torch.logsumexp(torch.stack([positive, *negatives]), 0) - positive)
            correct += bool(negatives) and all(positive > n for n in negatives)
            count += 1
    found = losses.info_nce(context, targets, codes, distractors, valid, 0.1)
    torch.testing.assert_close(found.loss, torch.tensor(total), rtol=1e-5, atol=1e-5)
    assert (int(found.count), int(found.correct)) == (count, correct) == (19, correct)


def test_info_nce_by_hand():
    # One frame that looks exactly like its target, one distractor at a right angle: -log(e^10 / (e^10 + e^0)).
    context = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    valid = torch.tensor([[True, False]])
    found = losses.info_nce(context, targets, torch.tensor([[[0], [1]]]), torch.tensor([[[1], [0]]]), valid, 0.1)
    assert float(found.loss) == pytest.approx(math.log1p(math.exp(-10.0)), abs=1e-6)
    assert (int(found.count), int(found.correct)) == (1, 1)


def test_a_frame_without_a_different_distractor_is_never_counted_right():
    context = targets = torch.randn(1, 3, 4, generator=random())
    codes = torch.zeros(1, 3, 1, dtype=torch.long)  # a collapsed codebook
    valid = torch.ones(1, 3, dtype=torch.bool)
    found = losses.info_nce(context, targets, codes, sample_distractors(valid, 4, random()), valid, 0.1)
    assert int(found.correct) == 0  # the peers report accuracy 1.0 here
    assert float(found.loss) == 0.0


def test_objective_stays_in_float32_under_autocast(frames):
    context, targets, codes, distractors, valid = frames
    expected = losses.info_nce(context, targets, codes, distractors, valid, 0.1).loss
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.info_nce(context, targets, codes, distractors, valid, 0.1).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_quantize_without_noise_takes_the_likeliest_entry_of_each_codebook():
    logits = torch.randn(2, 5, 2, 4, generator=random())
    book = torch.randn(2, 4, 3, generator=random(1))
    valid = torch.ones(2, 5, dtype=torch.bool)
    codes = losses.quantize(logits, book, valid, 1.0)
    for b in range(2):
        for m in range(5):
            chosen = [int(logits[b, m, g].argmax()) for g in range(2)]
            torch.testing.assert_close(codes.quantized_BMC[b, m], torch.cat([book[g, v] for g, v in enumerate(chosen)]))
            assert codes.indices_BMG[b, m].tolist() == chosen


def test_quantize_passes_gradients_to_every_logit_and_to_chosen_entries_only():
    logits = torch.randn(1, 6, 1, 4, generator=random(), requires_grad=True)
    book = torch.randn(1, 4, 3, generator=random(1), requires_grad=True)
    codes = losses.quantize(logits, book, torch.ones(1, 6, dtype=torch.bool), 1.0, random(2))
    codes.quantized_BMC.sum().backward()
    assert logits.grad is not None and book.grad is not None
    assert bool((logits.grad != 0).all())
    used = set(codes.indices_BMG.flatten().tolist())
    assert {v for v in range(4) if bool((book.grad[0, v] != 0).any())} == used


def test_quantizer_noise_is_gumbel_noise():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(1, 20_000, 1, 3)
    codes = losses.quantize(logits, torch.eye(3)[None], torch.ones(1, 20_000, dtype=torch.bool), 1.0, random())
    drawn = torch.bincount(codes.indices_BMG.flatten(), minlength=3) / 20_000
    torch.testing.assert_close(drawn, torch.tensor([0.5, 0.3, 0.2]), atol=0.015, rtol=0)


def test_codes_that_are_known_are_looked_up():
    book = torch.randn(1, 4, 3, generator=random())
    indices = torch.tensor([[[0], [2], [2], [1]]])
    valid = torch.tensor([[True, True, True, False]])
    codes = losses.look_up(indices, book, valid)
    torch.testing.assert_close(codes.quantized_BMC[0], book[0][indices[0, :, 0]])
    torch.testing.assert_close(codes.usage_GV, torch.tensor([[1 / 3, 0, 2 / 3, 0]]))


def test_padding_counts_for_nothing_in_code_statistics():
    logits = torch.randn(1, 4, 2, 5, generator=random())
    book = torch.randn(2, 5, 3, generator=random(1))
    alone = losses.quantize(logits[:, :3], book, torch.ones(1, 3, dtype=torch.bool), 1.0)
    padded = losses.quantize(logits, book, torch.tensor([[True, True, True, False]]), 1.0)
    torch.testing.assert_close(alone.probabilities_GV, padded.probabilities_GV)
    torch.testing.assert_close(alone.usage_GV, padded.usage_GV)


def test_perplexity_and_diversity_at_their_ends():
    even, single = torch.full((2, 8), 1 / 8), F.one_hot(torch.tensor([3, 3]), 8).float()
    torch.testing.assert_close(losses.perplexity(even), torch.tensor([8.0, 8.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.perplexity(single), torch.tensor([1.0, 1.0]), rtol=1e-4, atol=0)
    assert float(losses.diversity_penalty(even)) == pytest.approx(0.0, abs=1e-4)
    assert float(losses.diversity_penalty(single)) == pytest.approx(1 - 2 / 16, abs=1e-4)


def test_feature_penalty_is_the_mean_square_of_valid_frames():
    raw = torch.tensor([[[2.0, 2.0], [100.0, 100.0]]])
    assert float(losses.feature_penalty(raw, torch.tensor([[True, False]]))) == pytest.approx(4.0)


def test_gumbel_temperature_goes_from_start_to_end():
    assert losses.gumbel_temperature(0, 2.0, 0.5, 100) == 2.0
    assert losses.gumbel_temperature(50, 2.0, 0.5, 100) == pytest.approx(1.0)
    assert losses.gumbel_temperature(500, 2.0, 0.5, 100) == pytest.approx(0.5)


def test_equal_to_fairseq2_on_the_same_masked_frames(monkeypatch):
    """fairseq2's Wav2Vec2Model scores and losses, from the same encoder output, features, weights and distractors."""
    import soundfile  # noqa: F401  # before fairseq2
    from fairseq2.models.wav2vec2.config import Wav2Vec2Config, Wav2Vec2EncoderConfig
    from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
    from fairseq2.models.wav2vec2.model import Wav2Vec2Features
    from fairseq2.models.wav2vec2.vector_quantizer import GumbelWav2Vec2VectorQuantizer
    from fairseq2.nn import BatchLayout

    torch.manual_seed(0)
    small = Wav2Vec2EncoderConfig(
        model_dim=32, feature_dim=24, num_encoder_layers=1, num_encoder_attn_heads=4, ffn_inner_dim=32,
        pos_conv_kernel_size=8, num_pos_conv_groups=4, feature_extractor_layer_descs=[(24, 10, 5)],
    )  # fmt: skip
    config = Wav2Vec2Config(
        encoder_config=small, final_dim=16, quantized_dim=16, num_codebooks=2, num_codebook_entries=6, num_distractors=5
    )
    peer = create_wav2vec2_model(config).eval()
    B, M, K = 2, 11, 5
    context = torch.randn(B, M, 32)
    features = torch.randn(B, M, 24)
    mask_BT = torch.ones(B, M, dtype=torch.bool)
    valid = torch.ones(B, M, dtype=torch.bool)
    distractors = sample_distractors(valid, K, random(3))
    monkeypatch.setattr(torch, "compile", lambda *a, **k: lambda f: f)

    def same_distractors(targets):
        rows = torch.arange(B)[:, None, None]
        return targets[rows, distractors]

    monkeypatch.setattr(peer, "_sample_distractors", same_distractors)
    peer_leaves = [context.clone().requires_grad_(), features.clone().requires_grad_()]
    seen = Wav2Vec2Features(peer_leaves[0], BatchLayout.of(context), peer_leaves[1], mask_BT, features)
    output = peer.quantize_and_contrast(seen)
    peer_loss = peer.compute_contrastive_loss(output.logits)
    peer_diversity = peer.compute_diversity_loss(output.logits, output.quantizer_output.prob_perplexity) / (B * M)
    (peer_loss + peer_diversity).backward()

    ours_leaves = [context.clone().requires_grad_(), features.clone().requires_grad_()]
    assert isinstance(peer.quantizer, GumbelWav2Vec2VectorQuantizer)
    book = peer.quantizer.entries.detach().view(2, 6, 8).clone().requires_grad_()
    logits = F.linear(ours_leaves[1], peer.quantizer.entry_proj.weight, peer.quantizer.entry_proj.bias)
    codes = losses.quantize(logits.view(B, M, 2, 6), book, valid, 1.0)
    found = losses.info_nce(
        peer.final_proj(ours_leaves[0]), peer.final_target_proj(codes.quantized_BMC), codes.indices_BMG, distractors,
        valid, 0.1,
    )  # fmt: skip
    diversity = losses.diversity_penalty(codes.probabilities_GV)
    torch.testing.assert_close(found.loss, peer_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(diversity, peer_diversity, rtol=1e-5, atol=1e-6)
    (found.loss + diversity).backward()
    torch.testing.assert_close(ours_leaves[0].grad, peer_leaves[0].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours_leaves[1].grad, peer_leaves[1].grad, rtol=1e-4, atol=1e-5)
    assert book.grad is not None and peer.quantizer.entries.grad is not None
    torch.testing.assert_close(book.grad.flatten(), peer.quantizer.entries.grad.flatten(), rtol=1e-4, atol=1e-5)
