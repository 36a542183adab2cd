"""transformers folders: read wav2vec 2.0 models from them and write them, without needing transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lalia.cards import write_json
from lalia.errors import UserError
from lalia.models.convert.parts import (
    Head,
    Parts,
    State,
    check_expressible,
    make_head,
    read_encoder,
    read_quantizer,
    read_torch,
    write_model,
)
from lalia.models.shape import EncoderShape
from lalia.models.store import replacing
from lalia.text.tokens import BOUNDARY
from lalia.units import SAMPLE_RATE

# --- Reading ---------------------------------------------------------------------------------------------

PREFIX = "wav2vec2."
CARD = "lalia_card.json"
"""The card of the lalia folder that a transformers folder was made from: keeps its lineage."""


def read_hf(folder: Path, language: str) -> Parts:
    """The wav2vec 2.0 model in ``folder``: BASE or LARGE, XLS-R and MMS layouts, bare, with a CTC head, or as pretrained."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; download the model first: huggingface-cli download NAME --local-dir FOLDER"
        )
    config = read_json(folder / "config.json")
    _refuse_what_is_not_wav2vec2(config, folder)
    state = _weights(folder)
    if strange := sorted(key for key in state if "adapter" in key):
        raise UserError(f"{folder}: has adapters ({strange[0]}), which are one language's; {_WITHOUT_ADAPTERS}")
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    shape = _shape(config, folder)
    encoder, others = read_encoder(bare, "transformers", shape.stem_norm, shape.norm)
    dropout_features = config.get("feat_quantizer_dropout", 0.0)
    quantizer, others = read_quantizer(others, "transformers", str(folder), dropout_features)
    head = _head(others, config, folder, language) if "lm_head.weight" in others else None
    others = {key: tensor for key, tensor in others.items() if not key.startswith("lm_head.")}
    if others:
        raise UserError(f"{folder}: has weights that are no part of wav2vec 2.0: {', '.join(sorted(others)[:3])}")
    parents = [read_json(folder / CARD)] if (folder / CARD).is_file() else []
    return Parts(shape, encoder, head, quantizer, parents)


_WITHOUT_ADAPTERS = "take a model without them, such as the MMS encoder that was only pretrained"


def _refuse_what_is_not_wav2vec2(config: dict[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    if config.get("model_type") != "wav2vec2":
        raise UserError(f"{path}: model_type is {config.get('model_type')!r}; expected 'wav2vec2'")
    if config.get("adapter_attn_dim") is not None or config.get("add_adapter"):
        raise UserError(f"{path}: the model has adapters, which cannot be converted; {_WITHOUT_ADAPTERS}")
    for name in ("hidden_act", "feat_extract_activation"):
        if config.get(name, "gelu") != "gelu":
            raise UserError(f"{path}: {name} is {config[name]!r}; expected 'gelu'")
    if config.get("layer_norm_eps", 1e-5) != 1e-5:
        raise UserError(f"{path}: layer_norm_eps is {config['layer_norm_eps']}; expected 1e-05")


def _shape(config: dict[str, Any], folder: Path) -> EncoderShape:
    extractor = folder / "preprocessor_config.json"
    layer = config.get("feat_extract_norm", "group") == "layer"
    normalise = read_json(extractor).get("do_normalize", True) if extractor.is_file() else layer
    try:
        return EncoderShape(
            input="wave",
            stem=[
                list(row) for row in zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
            ],
            stem_norm="layer" if layer else "group",
            stem_bias=config["conv_bias"],
            normalise_wave=bool(normalise),
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            feedforward=config["intermediate_size"],
            norm="pre" if config["do_stable_layer_norm"] else "post",
            position_kernel=config["num_conv_pos_embeddings"],
            position_groups=config["num_conv_pos_embedding_groups"],
            # transformers does not write values that are its defaults.
            dropout=config.get("hidden_dropout", 0.1),
            dropout_input=config.get("feat_proj_dropout", 0.0),
            attention_dropout=config.get("attention_dropout", 0.1),
            feedforward_dropout=config.get("activation_dropout", 0.1),
            layerdrop=config.get("layerdrop", 0.1),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'}: cannot be read as wav2vec 2.0's ({type(error).__name__} {error})"
        ) from error


def _weights(folder: Path) -> State:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _one_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = sorted(set(read_json(index)["weight_map"].values()))
            return {key: tensor for file in files for key, tensor in _one_file(folder / file).items()}
    raise UserError(f"{folder}: has no model.safetensors and no pytorch_model.bin; is the download complete?")


def _one_file(path: Path) -> State:
    found = read_torch(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, expected tensors by name")
    return found


def _head(state: State, config: dict[str, Any], folder: Path, language: str) -> Head:
    weight, bias = state["lm_head.weight"], state["lm_head.bias"]
    path = folder / "vocab.json"
    if not path.is_file():
        raise UserError(f"{folder}: has a CTC head but no vocab.json to name its outputs; copy it there")
    ids = read_json(path)
    if ids and all(isinstance(value, dict) for value in ids.values()):
        raise UserError(f"{path}: holds the alphabets of {len(ids)} languages; keep the one that the head speaks")
    tokenizer_path = folder / "tokenizer_config.json"
    tokenizer = read_json(tokenizer_path) if tokenizer_path.is_file() else {}
    if (folder / "added_tokens.json").is_file():
        ids |= read_json(folder / "added_tokens.json")
    symbols = [f"<unused-{i}>" for i in range(len(weight))]
    for symbol, number in ids.items():
        if not isinstance(number, int):
            raise UserError(f"{path}: {symbol!r} is {number!r}, expected a number")
        if number < len(symbols):
            symbols[number] = symbol
    blank = config.get("pad_token_id", 0)
    if not isinstance(blank, int) or not 0 <= blank < len(symbols):
        raise UserError(f"{folder / 'config.json'}: pad_token_id is {blank!r}; expected the number of the blank")
    delimiter = tokenizer.get("word_delimiter_token") or "|"
    if isinstance(delimiter, dict):
        delimiter = delimiter.get("content", "|")
    return make_head(weight, bias, symbols, blank, delimiter, language)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at ``path``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a folder that transformers saved") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, expected an object")
    return found


# --- Writing ---------------------------------------------------------------------------------------------


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
        "feat_proj_dropout": shape.dropout_input,
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
            "feat_quantizer_dropout": quantizer.dropout_features,
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
