"""A folder that transformers loads: Wav2Vec2ForCTC of a recogniser, Wav2Vec2ForPreTraining or Wav2Vec2Model of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lalia.cards import write_json
from lalia.models.convert.hf_reading import CARD, PREFIX
from lalia.models.convert.names import check_expressible, write_model
from lalia.models.convert.parts import Head, Parts
from lalia.models.store import replacing
from lalia.text.tokens import BOUNDARY
from lalia.units import SAMPLE_RATE


def write_hf(parts: Parts, folder: Path) -> str:
    """Write ``parts`` to ``folder`` and return the name of the class that loads it."""
    check_expressible(parts.shape, "transformers")
    state, added = write_model(parts.encoder, parts.shape, parts.quantizer, "transformers")
    config = _config(parts)
    architecture = "Wav2Vec2Model"
    if parts.head is not None or parts.quantizer is not None:
        state = {PREFIX + key: tensor for key, tensor in state.items()} | added
        architecture = "Wav2Vec2ForPreTraining"
    if parts.head is not None:
        state["lm_head.weight"], state["lm_head.bias"] = parts.head.weight_VD, parts.head.bias_V
        architecture = "Wav2Vec2ForCTC"
    with replacing(folder) as new:
        tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in state.items()}
        save_file(tensors, new / "model.safetensors", {"format": "pt"})
        write_json(new / "config.json", {"architectures": [architecture], **config})
        write_json(new / "preprocessor_config.json", _extractor(parts))
        if parts.head is not None:
            _write_tokenizer(parts.head, new)
        if parts.parents:
            write_json(new / CARD, parts.parents[0])
    return architecture


def _config(parts: Parts) -> dict[str, Any]:
    shape = parts.shape
    config: dict[str, Any] = {
        "model_type": "wav2vec2",
        "conv_dim": [row[0] for row in shape.stem],
        "conv_kernel": [row[1] for row in shape.stem],
        "conv_stride": [row[2] for row in shape.stem],
        "num_feat_extract_layers": len(shape.stem),
        "conv_bias": shape.stem_bias,
        "feat_extract_norm": shape.stem_norm,
        "feat_extract_activation": "gelu",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feedforward,
        "hidden_act": "gelu",
        "do_stable_layer_norm": shape.norm == "pre",
        "num_conv_pos_embeddings": shape.position_kernel,
        "num_conv_pos_embedding_groups": shape.position_groups,
        "hidden_dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "activation_dropout": shape.feedforward_dropout,
        "feat_proj_dropout": 0.0,
        "final_dropout": 0.0,
        "layerdrop": shape.layerdrop,
        "layer_norm_eps": 1e-5,
        "dtype": "float32",
    }
    if parts.head is not None:
        special = {name: i for i, name in enumerate(parts.head.tokens.symbols)}
        config |= {
            "vocab_size": len(parts.head.tokens), "pad_token_id": 0, "bos_token_id": special.get("<s>"),
            "eos_token_id": special.get("</s>"), "ctc_loss_reduction": "mean", "ctc_zero_infinity": True,
        }  # fmt: skip
    if parts.quantizer is not None:
        quantizer = parts.quantizer.shape
        config |= {
            "num_codevector_groups": quantizer.codebooks, "num_codevectors_per_group": quantizer.entries,
            "codevector_dim": quantizer.code_width, "proj_codevector_dim": quantizer.final_width,
        }  # fmt: skip
    return config


def _extractor(parts: Parts) -> dict[str, Any]:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        **({"processor_class": "Wav2Vec2Processor"} if parts.head is not None else {}),
        "do_normalize": parts.shape.normalise_wave,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": SAMPLE_RATE,
    }


def _write_tokenizer(head: Head, folder: Path) -> None:
    symbols = list(head.tokens.symbols)
    if "<pad>" not in symbols:
        symbols[0] = "<pad>"  # what transformers' users expect the blank to be called
    present = {
        "pad_token": symbols[0],
        **{name: text if text in symbols else None
           for name, text in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>"))},
    }  # fmt: skip
    write_json(folder / "vocab.json", {symbol: i for i, symbol in enumerate(symbols)})
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "Wav2Vec2CTCTokenizer", "processor_class": "Wav2Vec2Processor", "do_lower_case": False,
         "word_delimiter_token": BOUNDARY, "replace_word_delimiter_char": " ", **present},
    )  # fmt: skip
    write_json(folder / "special_tokens_map.json", {name: text for name, text in present.items() if text})
