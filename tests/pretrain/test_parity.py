"""The whole pretraining step against the peers': same weights, masks, distractors and noise; same loss, same gradients.

B clips, T frames, M masked frames of the clip that has most, K distractors, G codebooks, V entries.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import vector_quantizer
from fairseq2.models.wav2vec2.config import Wav2Vec2Config as Fairseq2Config
from fairseq2.models.wav2vec2.config import Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from lalia.cli import main
from lalia.data.batch import Batch, Candidates, Contrast, masked_positions, sample_distractors
from lalia.models.convert.parts import Layout, quantizer_names, read_encoder, renamed
from lalia.models.encoder import Encoder
from lalia.models.shape import EncoderShape
from lalia.models.store import load_quantizer
from pretrain.config import PretrainSettings
from pretrain.loss import diversity_penalty
from pretrain.task import ForwardOutput, PretrainTask

K, G, V = 7, 2, 5
STEM = [(12, 10, 5), (12, 3, 4), (12, 3, 4)]


def draw_mask(frames: list[int], masked: list[int]) -> Tensor:
    """(B, T): so many frames of each clip hidden."""
    random = torch.Generator().manual_seed(3)
    mask_BT = torch.zeros(len(frames), max(frames), dtype=torch.bool)
    for row, n, m in zip(mask_BT, frames, masked, strict=True):
        row[torch.randperm(n, generator=random)[:m]] = True
    return mask_BT


class Given:
    """Everything that is drawn at random, drawn beforehand."""

    def __init__(self, mask_BT: Tensor) -> None:
        random = torch.Generator().manual_seed(4)
        self.mask_BT = mask_BT
        self.positions_BM, self.valid_BM = masked_positions(mask_BT)
        self.distractors_BMK = sample_distractors(self.valid_BM, K, random)
        self.uniform_BTGV = torch.rand(*mask_BT.shape, G, V, generator=random).clamp(1e-6, 1 - 1e-6)
        self.rows_B1 = torch.arange(len(mask_BT))[:, None]

    @property
    def uniform_BMGV(self) -> Tensor:
        return self.uniform_BTGV[self.rows_B1, self.positions_BM]

    @property
    def negatives_BTK(self) -> Tensor:
        """The distractors as transformers wants them: places in all frames of the batch."""
        B, T = self.mask_BT.shape
        places_BTK = torch.zeros(B, T, K, dtype=torch.long)
        for b in range(B):
            for m in range(int(self.valid_BM[b].sum())):
                places_BTK[b, self.positions_BM[b, m]] = b * T + self.positions_BM[b, self.distractors_BMK[b, m]]
        return places_BTK

    def gumbel_softmax(self, uniform: Tensor) -> Any:
        """torch's gumbel_softmax with this noise."""
        noise = -torch.log(-torch.log(uniform))

        def softmax(logits: Tensor, tau: float = 1.0, hard: bool = False) -> Tensor:
            noisy = (logits + noise.reshape(logits.shape)) / tau
            soft = noisy.softmax(-1)
            return torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0) - soft.detach() + soft

        return softmax


def our_step(
    folder: Path,
    scale: float,
    given: Given,
    wave_BS: Tensor,
    lengths_B: Tensor,
    temperature: float,
    patch: pytest.MonkeyPatch,
) -> tuple[PretrainTask, ForwardOutput]:
    """A forward pass of the task that starts from ``folder``, without dropout, on what is given."""
    encoder, head = Encoder.load(folder), load_quantizer(folder)
    assert head is not None
    free = dict(
        dropout=0.0,
        dropout_input=0.0,
        attention_dropout=0.0,
        feedforward_dropout=0.0,
        layerdrop=0.0,
        stem_gradient_scale=scale,
    )
    settings = PretrainSettings(
        model=EncoderShape(**encoder.shape.to_dict() | free), quantizer=replace(head.shape, dropout_features=0.0)
    )
    task = PretrainTask(settings)
    task.encoder.load_state_dict(encoder.state_dict())
    task.head.load_state_dict(head.state_dict())
    task.train()
    candidates = Candidates(given.positions_BM, given.valid_BM, given.distractors_BMK)
    contrast = Contrast(given.mask_BT, candidates, None, torch.zeros(1, dtype=torch.int64))
    nothing_B = torch.zeros(len(wave_BS))
    batch = Batch(0, wave_BS, lengths_B, nothing_B, nothing_B, None, None, (), contrast)
    with patch.context() as patched:
        patched.setattr(torch, "rand", lambda *_, **__: given.uniform_BMGV)
        return task, task(batch, temperature)


def compare_gradients(task: PretrainTask, peer: nn.Module, layout: Layout, prefix: str = "") -> dict[str, float]:
    """The largest difference of each gradient over its largest number; every parameter of the peer must have met its own."""
    theirs = {name.removeprefix(prefix): p.grad for name, p in peer.named_parameters() if p.grad is not None}
    shape = task.settings.model
    encoder, others = read_encoder(theirs, layout, shape.stem_norm, shape.norm)
    head, left = renamed(others, quantizer_names(layout))
    assert not left
    head["codebook_GVd"] = head["codebook_GVd"].view(G, V, -1)
    differences = {}
    for found, expected in ((task.encoder, encoder), (task.head, head)):
        ours = {name: p.grad for name, p in found.named_parameters()}
        assert set(ours) == set(expected)
        for name, gradient in ours.items():
            assert gradient is not None
            # Keys' biases have no gradient but rounding: softmax does not see them.
            scale = float(expected[name].abs().max()) if not name.endswith("k_proj.bias") else 1.0
            differences[name] = float((gradient - expected[name]).abs().max()) / scale
    return differences


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.02


def normalised(wave_BS: Tensor, lengths_B: Tensor) -> Tensor:
    """What the peers' own preprocessing hands to LARGE-type models."""
    out = torch.zeros_like(wave_BS)
    for b, n in enumerate(lengths_B.tolist()):
        clip = wave_BS[b, :n].numpy().astype(np.float64)
        out[b, :n] = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)).float()
    return out


Model = TypeVar("Model", bound=nn.Module)


def shaken(model: Model) -> Model:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return model.train()


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_equal_to_transformers(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layout = dict(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True) if large else {}
    off = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0
    )
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, conv_dim=[12] * 3,
        conv_kernel=[10, 3, 3], conv_stride=[5, 4, 4], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
        num_codevector_groups=G, num_codevectors_per_group=V, codevector_dim=8, proj_codevector_dim=6, num_negatives=K,
        diversity_loss_weight=0.1, **off, **layout,
    )  # fmt: skip
    peer = shaken(Wav2Vec2ForPreTraining(config))
    peer.save_pretrained(tmp_path / "peer")
    assert main.main(["convert", f"hf:{tmp_path / 'peer'}", str(tmp_path / "ours")]) == 0

    # transformers' group norm counts padding in: there only clips of equal length can agree.
    lengths_B = torch.tensor([4_000, 2_900 if large else 4_000])
    wave_BS = noise(2, 4_000)
    wave_BS[1, int(lengths_B[1]) :] = 0.0
    frames = [Encoder.load(tmp_path / "ours").shape.frames(int(n)) for n in lengths_B]
    given = Given(draw_mask(frames, [frames[0] // 2, frames[1] // 3]))

    attention = (torch.arange(4_000) < lengths_B[:, None]).long()
    with monkeypatch.context() as patched:
        patched.setattr(nn.functional, "gumbel_softmax", given.gumbel_softmax(given.uniform_BTGV))
        theirs = peer(
            normalised(wave_BS, lengths_B) if large else wave_BS,
            attention_mask=attention if large else None,
            mask_time_indices=given.mask_BT,
            sampled_negative_indices=given.negatives_BTK,
        )
    theirs.loss.backward()

    task, seen = our_step(tmp_path / "ours", 1.0, given, wave_BS, lengths_B, 2.0, monkeypatch)
    diversity = diversity_penalty(seen.codes.probabilities_GV)
    loss = seen.hidden.loss + 0.1 * diversity * seen.hidden.count
    loss.backward()
    assert int(seen.hidden.count) == int(given.mask_BT.sum())
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(seen.hidden.loss, theirs.contrastive_loss, rtol=1e-5, atol=0)
    differences = compare_gradients(task, peer, "transformers", "wav2vec2.")
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_equal_to_fairseq2(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = Wav2Vec2EncoderConfig(
        model_dim=16, feature_dim=12, num_encoder_layers=2, num_encoder_attn_heads=4, ffn_inner_dim=24,
        pos_conv_kernel_size=8, num_pos_conv_groups=4, feature_extractor_layer_descs=STEM, dropout_p=0.0,
        attn_dropout_p=0.0, layer_drop_p=0.0, feature_grad_scale=0.1,
    )  # fmt: skip
    if large:
        small.feature_extractor_bias = small.feature_extractor_layer_norm_convs = True
        small.layer_norm_features, small.norm_order = False, TransformerNormOrder.PRE
    config = Fairseq2Config(
        encoder_config=small, final_dim=6, quantized_dim=8, num_codebooks=G, num_codebook_entries=V, num_distractors=K
    )
    peer = shaken(create_wav2vec2_model(config))
    torch.save({"model": peer.state_dict()}, tmp_path / "peer.pt")
    argv = ["convert", f"fairseq2:{tmp_path / 'peer.pt'}", str(tmp_path / "ours"), "--heads", "4", "--strides", "5,4,4"]
    assert main.main(argv) == 0

    wave_BS, lengths_B = noise(2, 4_000), torch.tensor([4_000, 4_000])
    T = Encoder.load(tmp_path / "ours").shape.frames(4_000)
    given = Given(draw_mask([T, T], [T // 2, T // 2]))  # fairseq2 hides as many frames of each clip
    monkeypatch.setattr(torch, "compile", lambda *a, **k: lambda f: f)
    monkeypatch.setattr(vector_quantizer, "gumbel_softmax", given.gumbel_softmax(given.uniform_BMGV))
    monkeypatch.setattr(
        peer, "_sample_distractors", lambda targets: targets[given.rows_B1[:, :, None], given.distractors_BMK]
    )
    monkeypatch.setattr(peer.masker, "mask_factory", lambda **_: given.mask_BT)
    fed = normalised(wave_BS, lengths_B) if large else wave_BS
    theirs, _ = peer(fed.clone(), BatchLayout.of(fed), diversity_weight=0.1, features_penalty_weight=10.0)
    theirs.aggregate.backward()

    task, seen = our_step(tmp_path / "ours", 0.1, given, wave_BS, lengths_B, 2.0, monkeypatch)
    count = seen.hidden.count
    loss = seen.hidden.loss + count * (
        0.1 * diversity_penalty(seen.codes.probabilities_GV) + 10.0 * seen.feature_penalty
    )
    loss.backward()
    torch.testing.assert_close(seen.hidden.loss, theirs.contrastive, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, theirs.aggregate, rtol=1e-5, atol=0)
    differences = compare_gradients(task, peer, "fairseq2")
    assert max(differences.values()) < 1e-4, differences
