"""Conversion against models that the peers themselves made and saved: same waves, same numbers, in both directions."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2.asr.config import Wav2Vec2AsrConfig
from fairseq2.models.wav2vec2.asr.factory import create_wav2vec2_asr_model
from fairseq2.models.wav2vec2.asr.interop import convert_wav2vec2_asr_state_dict
from fairseq2.models.wav2vec2.config import Wav2Vec2Config as Fairseq2Config
from fairseq2.models.wav2vec2.config import Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    pipeline,
)

from lalia.cards import read_card
from lalia.cli import main
from lalia.models.encoder import Encoder
from lalia.models.export.deployed import Deployed
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.models.store import load_quantizer
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens

STEM = [(12, 10, 5), (12, 3, 2), (12, 3, 2), (12, 3, 2), (12, 3, 2), (12, 2, 2), (12, 2, 2)]
VOCAB = ["A", "B", "<pad>", "|", "'", "<s>", "</s>", "<unk>"]
SMALL = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, conv_dim=[12] * 7,
    conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2], num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4, codevector_dim=8, proj_codevector_dim=6, num_codevectors_per_group=5,
    vocab_size=len(VOCAB), pad_token_id=2,
)  # fmt: skip
LAYOUTS = {
    "base": {},
    "large": dict(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True),
    "large-960h": dict(do_stable_layer_norm=False, feat_extract_norm="group", conv_bias=False),
}


def convert(*argv: object) -> int:
    return main.main(["convert", *map(str, argv)])


def waves(*seconds: float) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(int(s * 16_000)) + 0.02).astype(np.float32) for s in seconds]


def padded(clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(c) for c in clips])
    wave_BS = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in zip(wave_BS, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return wave_BS, lengths


Model = TypeVar("Model", bound=torch.nn.Module)


def shaken(model: Model) -> Model:
    """``model`` with every weight moved off its start, so that norms of ones and biases of zeros hide no mistake."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def save_peer(model: PreTrainedModel, folder: Path, do_normalize: bool = True) -> Wav2Vec2FeatureExtractor:
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=True)
    extractor.save_pretrained(folder)
    return extractor


def restyle_weight_norm(folder: Path) -> None:
    """Keys of weight norm as transformers wrote them before parametrizations."""
    path = folder / "model.safetensors"
    old = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    state = {}
    for key, tensor in load_file(path).items():
        for new_style, old_style in old.items():
            key = key.replace(new_style, old_style)
        state[key] = tensor
    assert any(key.endswith("weight_g") for key in state)
    save_file(state, path, {"format": "pt"})


@pytest.mark.parametrize("old_keys", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bare_model_of_transformers_gives_the_same_hidden_states(layout: str, old_keys: bool, tmp_path: Path) -> None:
    peer = shaken(Wav2Vec2Model(Wav2Vec2Config(**SMALL | LAYOUTS[layout])))
    extractor = save_peer(peer, tmp_path / "peer")
    if old_keys:
        restyle_weight_norm(tmp_path / "peer")
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours") == 0
    ours = Encoder.load(tmp_path / "ours")
    # transformers' group norm counts padding in: there only clips of equal length can agree.
    clips = waves(0.7, 0.7) if layout != "large" else waves(0.7, 0.4)
    given = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    expected = peer(**given).last_hidden_state
    found, frames = ours(*padded(clips))
    for b, n in enumerate(frames.tolist()):
        torch.testing.assert_close(found[b, :n], expected[b, :n], rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", ["base", "large"])
def test_a_ctc_model_of_transformers_gives_the_same_logits(layout: str, tmp_path: Path, capsys) -> None:
    peer = shaken(Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL | LAYOUTS[layout])))
    extractor = save_peer(peer, tmp_path / "peer")
    (tmp_path / "peer" / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(VOCAB)}))
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours", "--language", "eng") == 0
    assert "8 tokens" in capsys.readouterr().out
    ours = Recogniser.load(tmp_path / "ours")
    assert ours.tokens.symbols == ("<blank>", "A", "B", "|", "'", "<s>", "</s>", "<unk>")
    assert ours.normaliser("Ab, b'a!") == "AB B'A"
    assert ours.normaliser.settings.language == "eng"
    (clip,) = waves(0.6)
    expected = peer(**extractor(clip, sampling_rate=16_000, return_tensors="pt")).logits[0]
    found = ours(*padded([clip]))[0][0]
    torch.testing.assert_close(found, expected[:, [2, 0, 1, 3, 4, 5, 6, 7]], rtol=0, atol=2e-5)
    assert read_card(tmp_path / "ours")["converted"]["from"] == f"hf:{tmp_path / 'peer'}"
    # What ships agrees as well, normalised wave and all.
    [shipped] = Deployed(ours)(torch.from_numpy(clip)[None])
    torch.testing.assert_close(shipped, found.log_softmax(-1)[None], rtol=0, atol=2e-5)


def test_a_pretrained_model_of_transformers_brings_its_quantizer(tmp_path: Path) -> None:
    peer = shaken(Wav2Vec2ForPreTraining(Wav2Vec2Config(**SMALL | LAYOUTS["large"])))
    save_peer(peer, tmp_path / "peer")
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours") == 0
    head = load_quantizer(tmp_path / "ours")
    assert head is not None
    assert head.shape == ContrastiveShape("gumbel", 2, 5, 8, 6, dropout_features=0.0)  # transformers' default
    torch.testing.assert_close(head.codebook_GVd.flatten(0, 1)[None], peer.quantizer.codevectors)
    torch.testing.assert_close(head.target_projection.bias, peer.project_q.bias)
    torch.testing.assert_close(head.context_projection.weight, peer.project_hid.weight)
    # And back: all of it is there again.
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'back'}") == 0
    back, seen = Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not seen["missing_keys"] and not seen["unexpected_keys"]
    for (name, a), b in zip(peer.state_dict().items(), back.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


HF_DROPOUTS = {
    "hidden_dropout": "dropout", "feat_proj_dropout": "dropout_input", "attention_dropout": "attention_dropout",
    "activation_dropout": "feedforward_dropout", "layerdrop": "layerdrop",
}  # fmt: skip


@pytest.mark.parametrize("given", [True, False], ids=["given", "transformers' defaults"])
def test_a_model_of_transformers_keeps_its_dropouts(given: bool, tmp_path: Path) -> None:
    stated = {name: 0.01 * n for n, name in enumerate((*HF_DROPOUTS, "feat_quantizer_dropout"), 1)} if given else {}
    config = Wav2Vec2Config(**SMALL | stated)
    save_peer(Wav2Vec2ForPreTraining(config), tmp_path / "peer")
    written = json.loads((tmp_path / "peer" / "config.json").read_text())
    for name in () if given else HF_DROPOUTS:  # as files of older versions, which hold only what is no default
        written.pop(name, None)
    (tmp_path / "peer" / "config.json").write_text(json.dumps(written))
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours") == 0
    shape, head = Encoder.load(tmp_path / "ours").shape, load_quantizer(tmp_path / "ours")
    for theirs, ours in HF_DROPOUTS.items():
        assert getattr(shape, ours) == getattr(config, theirs), theirs
    assert head is not None and head.shape.dropout_features == config.feat_quantizer_dropout
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'back'}") == 0
    back = Wav2Vec2Config.from_pretrained(tmp_path / "back")
    for name in (*HF_DROPOUTS, "feat_quantizer_dropout"):
        assert getattr(back, name) == getattr(config, name), name


def test_weights_in_several_torch_files(tmp_path: Path) -> None:
    peer = shaken(Wav2Vec2Model(Wav2Vec2Config(**SMALL)))
    save_peer(peer, tmp_path / "one")
    peer.save_pretrained(tmp_path / "shards", safe_serialization=False, max_shard_size="8KB")
    (tmp_path / "shards" / "preprocessor_config.json").write_text('{"do_normalize": true}')
    assert len(list((tmp_path / "shards").glob("*.bin"))) > 1
    for name in ("one", "shards"):
        assert convert(f"hf:{tmp_path / name}", tmp_path / f"ours-{name}") == 0
    one, shards = (Encoder.load(tmp_path / f"ours-{name}") for name in ("one", "shards"))
    assert one.shape == shards.shape
    for (name, a), b in zip(one.state_dict().items(), shards.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def our_recogniser(**shape: Any) -> Recogniser:
    torch.manual_seed(0)
    small: dict[str, Any] = dict(
        width=16, layers=2, heads=4, feedforward=24, stem=[list(r) for r in STEM], position_kernel=8, position_groups=4
    )
    encoder = Encoder(EncoderShape(**small | shape))
    return shaken(Recogniser(encoder, Tokens(["<blank>", "|", "a", "b", "c"]), Normaliser(NormaliserSettings())))


LARGE = dict(stem_norm="layer", stem_bias=True, norm="pre", normalise_wave=True)


@pytest.mark.parametrize("shape", [{}, LARGE], ids=["base", "large"])
def test_transformers_loads_our_recogniser_with_the_same_logits(shape: dict, tmp_path: Path) -> None:
    ours = our_recogniser(**shape)
    ours.save(tmp_path / "ours", [])
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'theirs'}") == 0
    peer, seen = Wav2Vec2ForCTC.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not seen["missing_keys"] and not seen["unexpected_keys"] and not seen["mismatched_keys"]
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs")
    clips = waves(0.6, 0.35) if shape else waves(0.6, 0.6)
    expected = peer.eval()(**extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")).logits
    found, frames = ours(*padded(clips))
    for b, n in enumerate(frames.tolist()):
        torch.testing.assert_close(found[b, :n], expected[b, :n], rtol=0, atol=2e-5)

    heard = pipeline("automatic-speech-recognition", model=str(tmp_path / "theirs"), device="cpu")(clips[0])
    from lalia.decoding.greedy import greedy, transcript

    log_probs, _ = ours.log_probs(*padded(clips[:1]))
    assert isinstance(heard, dict)
    assert heard["text"] == transcript(greedy(log_probs[0].numpy()), ours.tokens)

    # There and back: the same tokens, numbers and lineage.
    assert convert(f"hf:{tmp_path / 'theirs'}", tmp_path / "back") == 0
    back = Recogniser.load(tmp_path / "back")
    assert back.tokens == ours.tokens and back.encoder.shape == ours.encoder.shape
    torch.testing.assert_close(back(*padded(clips))[0], found, rtol=0, atol=0)
    assert read_card(tmp_path / "back")["parents"] == [read_card(tmp_path / "ours")]


def test_transformers_loads_our_encoder_with_the_same_hidden_states(tmp_path: Path) -> None:
    ours = our_recogniser(**LARGE).encoder
    ours.save(tmp_path / "ours", [])
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'theirs'}") == 0
    peer, seen = Wav2Vec2Model.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not seen["missing_keys"] and not seen["unexpected_keys"]
    (clip,) = waves(0.5)
    given = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs")(
        clip, sampling_rate=16_000, return_tensors="pt"
    )
    torch.testing.assert_close(ours(*padded([clip]))[0], peer.eval()(**given).last_hidden_state, rtol=0, atol=2e-5)


def fairseq2_encoder(large: bool) -> Wav2Vec2EncoderConfig:
    config = Wav2Vec2EncoderConfig(
        model_dim=16, feature_dim=12, num_encoder_layers=2, num_encoder_attn_heads=4, ffn_inner_dim=24,
        pos_conv_kernel_size=8, num_pos_conv_groups=4, feature_extractor_layer_descs=STEM,
    )  # fmt: skip
    if large:
        config.feature_extractor_bias = config.feature_extractor_layer_norm_convs = True
        config.layer_norm_features, config.norm_order = False, TransformerNormOrder.PRE
    return config


def normalised(wave_BS: torch.Tensor) -> torch.Tensor:
    centred = wave_BS - wave_BS.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt()


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_fairseq2_pretrained_checkpoint(large: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Fairseq2Config(
        encoder_config=fairseq2_encoder(large), final_dim=6, quantized_dim=8, num_codebooks=2, num_codebook_entries=5
    )
    peer = shaken(create_wav2vec2_model(config))
    torch.save({"model": peer.state_dict(), "fs2": True}, tmp_path / "peer.pt")
    assert convert(f"fairseq2:{tmp_path / 'peer.pt'}", tmp_path / "ours", "--heads", 4) == 0
    wave_BS, lengths = padded(waves(0.5, 0.5))
    given = normalised(wave_BS) if large else wave_BS
    layout = BatchLayout.of(given)
    seqs, seqs_layout, _ = peer.encoder_frontend.extract_features(given, layout)
    seqs, _ = peer.encoder_frontend.process_features(seqs, seqs_layout)
    expected = peer.encoder(seqs, seqs_layout)
    torch.testing.assert_close(Encoder.load(tmp_path / "ours")(wave_BS, lengths)[0], expected, rtol=0, atol=2e-5)
    head = load_quantizer(tmp_path / "ours")
    assert head is not None and head.shape == ContrastiveShape("gumbel", 2, 5, 8, 6)
    # And back into a model of fairseq2's.
    assert convert(tmp_path / "ours", f"fairseq2:{tmp_path / 'back.pt'}") == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    create_wav2vec2_model(config).load_state_dict(back)
    for name, tensor in peer.state_dict().items():
        torch.testing.assert_close(back[name], tensor, msg=name)


def fairseq2_asr(large: bool, V: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return shaken(
        create_wav2vec2_asr_model(Wav2Vec2AsrConfig(encoder_config=fairseq2_encoder(large), target_vocab_size=V))
    )


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_fairseq2_recogniser(large: bool, tmp_path: Path) -> None:
    peer = fairseq2_asr(large, 4)
    torch.save({"model": peer.state_dict()}, tmp_path / "asr.pt")
    (tmp_path / "asr.tokens.txt").write_text("<s> 0\n| 1\na 2\nb 3\n")
    assert convert(f"fairseq2:{tmp_path / 'asr.pt'}", tmp_path / "ours", "--heads", 4) == 0
    ours = Recogniser.load(tmp_path / "ours")
    assert ours.tokens.symbols == ("<blank>", "|", "a", "b")
    wave_BS, lengths = padded(waves(0.5, 0.5))
    given = normalised(wave_BS) if large else wave_BS
    expected, _ = peer(given, BatchLayout.of(given))
    torch.testing.assert_close(ours(wave_BS, lengths)[0], expected, rtol=0, atol=2e-5)


# fairseq's own names, written out: what its checkpoints hold.
FAIRSEQ = [
    ("encoder_frontend.feature_extractor.layers.{}.conv.", "feature_extractor.conv_layers.{}.0."),
    ("encoder_frontend.feature_extractor.layers.{}.group_norm.", "feature_extractor.conv_layers.{}.2."),
    ("encoder_frontend.feature_extractor.layers.{}.layer_norm.", "feature_extractor.conv_layers.{}.2.1."),
    ("encoder_frontend.post_extract_layer_norm.", "layer_norm."),
    ("encoder_frontend.model_dim_proj.", "post_extract_proj."),
    ("encoder_frontend.pos_encoder.conv.", "encoder.pos_conv.0."),
    ("encoder_frontend.layer_norm.", "encoder.layer_norm."),
    ("masker.temporal_mask_embed", "mask_emb"),
    ("quantizer.entries", "quantizer.vars"),
    ("quantizer.entry_proj.", "quantizer.weight_proj."),
    ("final_target_proj.", "project_q."),
]


def as_fairseq(state: dict[str, torch.Tensor], layers: int = 7) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for new, old in FAIRSEQ:
            for i in range(layers):
                key = key.replace(new.format(i), old.format(i)) if key.startswith(new.format(i)) else key
        if key.startswith("encoder.layers."):
            key = key.replace("output_proj", "out_proj") if "self_attn" in key else key.replace("ffn.inner_proj", "fc1")
            key = (
                key.replace("ffn.output_proj", "fc2")
                .replace("ffn.out_proj", "fc2")
                .replace("ffn_layer_norm", "final_layer_norm")
            )
        if key != "quantizer.num_updates":
            renamed[key] = tensor
    return renamed


@pytest.fixture
def omegaconf():
    """A class by the name of omegaconf's, which is there only while a checkpoint is being saved."""
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self, content: object) -> None:
            self.__dict__["_content"] = content

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    vars(module)["DictConfig"] = DictConfig
    sys.modules["omegaconf"], sys.modules["omegaconf.dictconfig"] = types.ModuleType("omegaconf"), module
    yield DictConfig
    sys.modules.pop("omegaconf", None)
    sys.modules.pop("omegaconf.dictconfig", None)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_fairseq_pretrained_checkpoint(large: bool, zipped: bool, omegaconf, tmp_path: Path) -> None:
    config = Fairseq2Config(
        encoder_config=fairseq2_encoder(large), final_dim=6, quantized_dim=8, num_codebooks=2, num_codebook_entries=5
    )
    torch.manual_seed(0)
    peer = shaken(create_wav2vec2_model(config))
    model = omegaconf(
        {"layer_norm_first": large, "encoder_attention_heads": 4, "dropout": 0.01, "attention_dropout": 0.02,
         "activation_dropout": 0.03, "encoder_layerdrop": 0.04, "dropout_input": 0.05, "dropout_features": 0.06,
         "conv_feature_layers": "[(12, 10, 5)] + [(12, 3, 2)] * 4 + [(12,2,2)] + [(12,2,2)]"}
    )  # fmt: skip
    content = {"model": as_fairseq(peer.state_dict()), "cfg": omegaconf({"model": model, "task": {"normalize": large}})}
    torch.save(content, tmp_path / "peer.pt", _use_new_zipfile_serialization=zipped)
    sys.modules.pop("omegaconf.dictconfig")
    sys.modules.pop("omegaconf")
    assert convert(f"fairseq:{tmp_path / 'peer.pt'}", tmp_path / "ours") == 0
    torch.save({"model": peer.state_dict()}, tmp_path / "peer2.pt")
    assert convert(f"fairseq2:{tmp_path / 'peer2.pt'}", tmp_path / "ours2", "--heads", 4) == 0
    one, two = Encoder.load(tmp_path / "ours"), Encoder.load(tmp_path / "ours2")
    kept: dict[str, Any] = dict(
        dropout=0.01, attention_dropout=0.02, feedforward_dropout=0.03, layerdrop=0.04, dropout_input=0.05
    )  # what fairseq's configuration says; fairseq2's checkpoints hold none
    assert one.shape == replace(two.shape, **kept) and one.shape.heads == 4
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    head = load_quantizer(tmp_path / "ours")
    assert head is not None and head.shape.dropout_features == 0.06


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_fairseq_recogniser(large: bool, tmp_path: Path, capsys) -> None:
    peer = fairseq2_asr(large, 7)
    theirs = {}
    for key, tensor in as_fairseq(peer.state_dict()).items():
        theirs[key.replace("final_proj.", "w2v_encoder.proj.") if key.startswith("final_proj.")
               else f"w2v_encoder.w2v_model.{key}"] = tensor  # fmt: skip
    # fairseq2's own reader of such files finds the model that these names were made of.
    told = convert_wav2vec2_asr_state_dict(
        {"model": dict(theirs)}, Wav2Vec2AsrConfig(encoder_config=fairseq2_encoder(large), target_vocab_size=7)
    )
    assert {k for k in told} == set(peer.state_dict())
    args = argparse.Namespace(
        w2v_args=argparse.Namespace(encoder_attention_heads=4, layer_norm_first=large, normalize=large)
    )
    torch.save({"model": theirs, "args": args}, tmp_path / "asr.pt")
    assert convert(f"fairseq:{tmp_path / 'asr.pt'}", tmp_path / "ours") == 2
    assert "--tokens" in capsys.readouterr().err
    (tmp_path / "dict.ltr.txt").write_text("| 94\nE 51\nT 38\n")
    assert convert(f"fairseq:{tmp_path / 'asr.pt'}", tmp_path / "ours") == 0
    ours = Recogniser.load(tmp_path / "ours")
    assert ours.tokens.symbols == ("<blank>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    wave_BS, lengths = padded(waves(0.5))
    given = normalised(wave_BS) if large else wave_BS
    torch.testing.assert_close(ours(wave_BS, lengths)[0], peer(given, BatchLayout.of(given))[0], rtol=0, atol=2e-5)
    # Its <pad> is a symbol, not the blank: the journey to transformers keeps them apart.
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'theirs'}") == 0
    assert json.loads((tmp_path / "theirs" / "vocab.json").read_text())["<blank>"] == 0


class Dictionary:
    """In the place of fairseq's, which its tasks put into checkpoints."""

    def __init__(self) -> None:
        self.symbols = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]
        self.count = [1] * 7


def test_a_dictionary_in_the_checkpoint_names_the_symbols(tmp_path: Path) -> None:
    peer = fairseq2_asr(False, 7)
    content = {
        "model": {f"w2v_encoder.w2v_model.{k}" if not k.startswith("final_proj.") else k.replace("final_", "w2v_encoder."): t
                  for k, t in as_fairseq(peer.state_dict()).items()},
        "task_state": {"target_dictionary": Dictionary()},
        # What fairseq keeps besides: nothing of it may be in the way.
        "extra_state": {"best": np.float64(0.5), "meters": collections.defaultdict(float, loss=1.0), "kind": int},
    }  # fmt: skip
    torch.save(content, tmp_path / "asr.pt")
    assert convert(f"fairseq:{tmp_path / 'asr.pt'}", tmp_path / "ours", "--heads", 4) == 0
    assert Recogniser.load(tmp_path / "ours").tokens.symbols[1:] == tuple(Dictionary().symbols[1:])


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/never-made-by-a-checkpoint"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, capsys) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "cfg": Evil()}, tmp_path / "evil.pt")
    assert convert(f"fairseq:{tmp_path / 'evil.pt'}", tmp_path / "ours") == 2
    assert not Path("/tmp/never-made-by-a-checkpoint").exists()


def test_what_cannot_be_converted_says_why(tmp_path: Path, capsys) -> None:
    def refused(*argv: object) -> str:
        assert convert(*argv) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return said

    out = tmp_path / "out"
    assert "no such folder" in refused(f"hf:{tmp_path / 'absent'}", out)
    assert "no such file" in refused(f"fairseq:{tmp_path / 'absent.pt'}", out)
    assert "both lalia folders" in refused(tmp_path / "a", tmp_path / "b")
    assert "can be read but not written" in refused(tmp_path / "a", f"fairseq:{out}")
    (tmp_path / "torn.pt").write_bytes(b"no checkpoint at all")
    assert "cannot be read" in refused(f"fairseq2:{tmp_path / 'torn.pt'}", out)

    longer = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL | LAYOUTS["large"], add_adapter=True))
    save_peer(longer, tmp_path / "longer")
    assert "add_adapter" in refused(f"hf:{tmp_path / 'longer'}", out)
    ctc = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL))
    save_peer(ctc, tmp_path / "ctc")
    assert "vocab.json" in refused(f"hf:{tmp_path / 'ctc'}", out)
    (tmp_path / "ctc" / "config.json").write_text('{"model_type": "wavlm"}')
    assert "'wavlm'" in refused(f"hf:{tmp_path / 'ctc'}", out)

    shape = EncoderShape(
        input="logmel", width=16, layers=1, heads=2, feedforward=16, position="rotary", block="convolutional"
    )
    Encoder(shape).save(tmp_path / "logmel", [])
    said = refused(tmp_path / "logmel", f"hf:{out}")
    assert "input logmel" in said and "block convolutional" in said and "position rotary" in said
    assert "already exists" in refused(f"hf:{tmp_path / 'longer'}", tmp_path / "logmel")

    torch.save({"model": fairseq2_asr(False, 4).state_dict()}, tmp_path / "asr.pt")
    assert "--heads" in refused(f"fairseq2:{tmp_path / 'asr.pt'}", out)
    (tmp_path / "asr.tokens.txt").write_text("<s> 0\n| 1\na 2\n")
    assert "names 3 symbols" in refused(f"fairseq2:{tmp_path / 'asr.pt'}", out, "--heads", 4)


def test_a_quantizer_is_kept_beside_its_encoder(tmp_path: Path) -> None:
    encoder = our_recogniser().encoder
    head = ContrastiveHead(encoder.shape, ContrastiveShape(codebooks=2, entries=5, code_width=8, final_width=6))
    encoder.save(tmp_path / "encoder", [], quantizer=head)
    found = load_quantizer(tmp_path / "encoder")
    assert found is not None and found.shape == head.shape
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, msg=name)
    encoder.save(tmp_path / "bare", [])
    assert load_quantizer(tmp_path / "bare") is None


def test_an_encoder_to_give_away_takes_half_the_bytes_and_says_nearly_the_same(tmp_path: Path, capsys) -> None:
    encoder = our_recogniser().encoder
    head = ContrastiveHead(encoder.shape, ContrastiveShape(codebooks=2, entries=5, code_width=8, final_width=6))
    encoder.save(tmp_path / "encoder", [], quantizer=head, pretraining={"accuracy": 0.4})
    assert convert(tmp_path / "encoder", f"half:{tmp_path / 'small'}") == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("encoder", "small")]
    assert sizes[1] < 0.75 * sizes[0]  # norms and biases, which weigh much in a model this small, stay as they are
    small = Encoder.load(tmp_path / "small")
    assert all(weight.dtype == torch.float32 for weight in small.state_dict().values() if weight.is_floating_point())
    for (name, kept), weight in zip(small.state_dict().items(), encoder.state_dict().values(), strict=True):
        torch.testing.assert_close(kept, weight, rtol=1e-3, atol=1e-6, msg=name)
    card = read_card(tmp_path / "small")
    assert (
        card["pretraining"] == {"accuracy": 0.4} and card["parents"][0]["id"] == read_card(tmp_path / "encoder")["id"]
    )
    assert load_quantizer(tmp_path / "small") is None
    assert convert(f"half:{tmp_path / 'small'}", tmp_path / "again") == 2
    assert "only a lalia encoder can be written as half:FOLDER" in capsys.readouterr().err
