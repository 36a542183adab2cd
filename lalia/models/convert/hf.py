"""transformers folders: read wav2vec 2.0 models, MMS among them, and write them, without needing transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lalia.cards import write_json
from lalia.errors import UserError
from lalia.models.classifier import TaggerFacts
from lalia.models.convert.parts import (
    ClassifierHead,
    Head,
    LanguageParts,
    Parts,
    State,
    check_expressible,
    encoder_names,
    make_head,
    read_encoder,
    read_quantizer,
    read_torch,
    renamed,
    write_model,
)
from lalia.models.shape import EncoderShape
from lalia.models.store import replacing
from lalia.text.language_codes import is_code, iso_639_3, match_languages
from lalia.text.tokens import BOUNDARY
from lalia.units import SAMPLE_RATE

# --- Reading ---------------------------------------------------------------------------------------------

PREFIX = "wav2vec2."
CARD = "lalia_card.json"
"""The card of the lalia folder that a transformers folder was made from: keeps its lineage."""


_FAMILIES = {
    "wav2vec2": "wav2vec2.", "hubert": "hubert.", "unispeech": "unispeech.", "unispeech-sat": "unispeech_sat.",
}  # fmt: skip
"""Model types whose encoder is wav2vec 2.0's, and the prefix of its tensors in models with a head."""
_PRETRAINING = {
    "unispeech": ("speech_recog", "ctc_proj.", "dropout.", "quantizer.", "project_q.", "project_hid."),
    "unispeech-sat": (
        "speaker_proj.",
        "layer_norm_for_extract.",
        "label_embeddings_concat",
        "dropout.",
        "quantizer.",
        "project_q.",
        "project_hid.",
    ),
}
"""Tensors of pretraining that are left out: their objectives are not lalia's."""


def read_hf(folder: Path, languages: Sequence[str] = ()) -> Parts:
    """The model in ``folder``: wav2vec 2.0 and its family, bare, pretrained, or with a CTC head (and adapters).

    ``languages`` (codes of the model, ISO 639-3 codes, or ``all``) choose among the adapters of a CTC model, as MMS has them;
    none = the one that its tokenizer names. Without adapters, the only one is the language of the normaliser.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; hub:OWNER/NAME downloads a model from the hub and converts it")
    config = read_json(folder / "config.json")
    _refuse_other_layouts(config, folder)
    state = _weights(folder)
    family = config["model_type"]
    bare = {key.removeprefix(_FAMILIES[family]): tensor for key, tensor in state.items()}
    shape = _shape(config, folder)
    encoder, others = read_encoder(bare, "transformers", shape.stem_norm, shape.norm)
    left_out = [key for key in others if key.startswith(_PRETRAINING.get(family, ("none",)))]
    others = {key: tensor for key, tensor in others.items() if key not in left_out}
    dropout_features = config.get("feat_quantizer_dropout", 0.0)
    quantizer, others = read_quantizer(others, "transformers", str(folder), dropout_features)
    parents = [read_json(folder / CARD)] if (folder / CARD).is_file() else []
    parts = Parts(shape, encoder, quantizer=quantizer, parents=parents)
    parts.licence, parts.licence_from = _licence(folder, config)
    parts.remarks += [f"without {family}'s heads of pretraining"] if left_out else []
    if "lm_head.weight" in others:
        weight, bias = others.pop("lm_head.weight"), others.pop("lm_head.bias")
        _read_heads(parts, weight, bias, config, folder, languages)
    elif languages and not any(key.startswith("classifier.") for key in others):
        raise UserError(f"{folder}: has no CTC head, so it has no languages; leave --language out")
    if "classifier.weight" in others:
        parts.classifier = _read_classifier(others, config, folder, parts.licence)
        others = {key: tensor for key, tensor in others.items() if not key.startswith(_CLASSIFIER)}
    if others:
        raise UserError(f"{folder}: has weights that are no part of wav2vec 2.0: {', '.join(sorted(others)[:3])}")
    return parts


def _refuse_other_layouts(config: dict[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    if config.get("model_type") not in _FAMILIES:
        raise UserError(
            f"{path}: model_type is {config.get('model_type')!r}; expected {' or '.join(map(repr, _FAMILIES))}"
        )
    if config.get("add_adapter"):
        raise UserError(
            f"{path}: add_adapter is true: convolutions after the encoder make its frames longer, which lalia does not have; "
            "take a model without them"
        )
    for name, expected in (
        ("hidden_act", "gelu"), ("feat_extract_activation", "gelu"), ("layer_norm_eps", 1e-5),
        ("feat_proj_layer_norm", True), ("conv_pos_batch_norm", False),
    ):  # fmt: skip
        if config.get(name, expected) != expected:
            raise UserError(f"{path}: {name} is {config[name]!r}; expected {expected!r}")


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
            # Where norms come after each block, transformers builds no adapters.
            adapter=(config.get("adapter_attn_dim") or 0) if config["do_stable_layer_norm"] else 0,
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


# --- CTC heads and their languages -----------------------------------------------------------------------


def _read_heads(
    parts: Parts, weight: Tensor, bias: Tensor, config: dict[str, Any], folder: Path, requested: Sequence[str]
) -> None:
    """Give ``parts`` its head, or the languages that are ``requested`` where the model has an adapter for each."""
    path = folder / "vocab.json"
    if not path.is_file():
        raise UserError(f"{folder}: has a CTC head but no vocab.json to name its outputs; copy it there")
    vocabulary = read_json(path)
    tokenizer_path = folder / "tokenizer_config.json"
    tokenizer = read_json(tokenizer_path) if tokenizer_path.is_file() else {}
    nested = bool(vocabulary) and all(isinstance(value, dict) for value in vocabulary.values())
    if not nested:
        if len(requested) > 1 or "all" in requested:
            raise UserError(f"{path}: is the alphabet of one language; give one --language")
        code = requested[0] if requested else ""
        parts.head = _head(weight, bias, vocabulary, tokenizer, config, folder, iso_639_3(code) if code else "")
        return
    own = str(tokenizer.get("target_lang") or config.get("target_lang") or "")
    codes = choose_languages(vocabulary, own, requested, path)

    def read(code: str) -> LanguageParts:
        adapter = _adapter(folder, code)
        if adapter is None:
            if code != own or len(vocabulary[code]) > len(weight):
                raise UserError(
                    f"{folder}: has no adapter.{code}.safetensors, and its own weights are those of "
                    f"{own or 'a language that it does not name'}; copy that file there"
                )
            head = _head(weight, bias, vocabulary[code], tokenizer, config, folder, _iso_code(code))
            adapter = {key: t for key, t in parts.encoder.items() if ".ffn_residual." in key}
            return LanguageParts(code, adapter, head)
        bare = {key.removeprefix(_FAMILIES[config["model_type"]]): t for key, t in adapter.items()}
        own_weight, own_bias = bare.pop("lm_head.weight", None), bare.pop("lm_head.bias", None)
        layers, strange = renamed(bare, encoder_names("transformers", parts.shape.stem_norm, parts.shape.norm))
        if own_weight is None or own_bias is None or strange or not layers:
            what = f"has {sorted(strange)[0]}" if strange else "has no head" if layers else "has no adapter layers"
            raise UserError(f"{folder}: adapter.{code}.safetensors {what}; expected adapter layers and an lm_head")
        head = _head(own_weight, own_bias, vocabulary[code], tokenizer, config, folder, _iso_code(code))
        return LanguageParts(code, layers, head)

    if len(codes) == 1:
        language = read(codes[0])
        parts.encoder |= language.adapter
        parts.head = language.head
        parts.remarks.append(f"language {codes[0]}" + (f" of {len(vocabulary)}" if len(vocabulary) > 1 else ""))
    else:
        parts.encoder = read(codes[0]).adapter | parts.encoder  # in the shared weights only a placeholder
        parts.languages, parts.read_language = codes, read


def choose_languages(vocabulary: Collection[str], own: str, requested: Sequence[str], path: Path | str) -> list[str]:
    """The codes of ``vocabulary`` that ``requested`` means (none: ``own``), in the model's form (``uzb-script_cyrillic``)."""
    if "all" in requested:
        return sorted(vocabulary)
    if not requested:
        if len(vocabulary) == 1:
            return [*vocabulary]
        if own in vocabulary:
            return [own]
        raise UserError(
            f"{path}: has {_several(vocabulary)}, and no tokenizer_config.json says which; give --language CODE or all"
        )
    found = []
    for word in requested:
        (code,) = match_languages([word], vocabulary)
        scripts = sorted(other for other in vocabulary if other.startswith(f"{code}-"))
        if code not in vocabulary and len(scripts) == 1:
            code = scripts[0]
        if code not in vocabulary:
            if scripts:
                raise UserError(f"--language {word}: {path} has {' and '.join(scripts)}; give one of them")
            raise UserError(f"--language {word}: {path} has {_several(vocabulary)}, not {code}")
        found.append(code)
    return list(dict.fromkeys(found))


def _several(codes: Collection[str]) -> str:
    few = sorted(codes)[:8]
    return f"{', '.join(few)} and {len(codes) - len(few)} more languages" if len(codes) > len(few) else ", ".join(few)


def _iso_code(code: str) -> str:
    """ISO 639-3 for ``uzb-script_cyrillic`` and its like; "" for what is no code."""
    first = code.partition("-")[0]
    return first if is_code(first) else ""


def _adapter(folder: Path, code: str) -> State | None:
    """The adapter of a language; None where there is no file."""
    for name in (f"adapter.{code}.safetensors", f"adapter.{code}.bin"):
        if (folder / name).is_file():
            return _one_file(folder / name)
    return None


def _head(
    weight: Tensor, bias: Tensor, ids: Mapping[str, Any], tokenizer: dict[str, Any], config: dict[str, Any], folder: Path,
    language: str,
) -> Head:  # fmt: skip
    """The head; outputs that no file names are left out, since they cannot be written."""
    names = _output_names(ids, tokenizer, folder, len(weight))
    blank = config.get("pad_token_id", 0)
    if not isinstance(blank, int) or not 0 <= blank < len(weight):
        raise UserError(f"{folder / 'config.json'}: pad_token_id is {blank!r}; expected the number of the blank")
    names.setdefault(blank, "<pad>")
    if 2 * len(names) < len(weight):
        raise UserError(
            f"{folder / 'vocab.json'}: names {len(names)} of the {len(weight)} outputs of the CTC head; is it another model's?"
        )
    rows = sorted(names)
    delimiter = tokenizer.get("word_delimiter_token") or "|"
    if isinstance(delimiter, dict):
        delimiter = delimiter.get("content", "|")
    symbols = [names[row] for row in rows]
    head = make_head(weight[rows], bias[rows], symbols, rows.index(blank), delimiter, language)
    head.unnamed = len(weight) - len(rows)
    return head


def _output_names(ids: Mapping[str, Any], tokenizer: dict[str, Any], folder: Path, outputs: int) -> dict[int, str]:
    """Output -> symbol, of vocab.json, added_tokens.json and the tokenizer's ``added_tokens_decoder``, in that order."""
    added = folder / "added_tokens.json"
    decoder = tokenizer.get("added_tokens_decoder") or {}
    named = [(number, symbol) for symbol, number in ids.items()]
    named += [(number, symbol) for symbol, number in (read_json(added) if added.is_file() else {}).items()]
    named += [
        (int(number), token["content"] if isinstance(token, dict) else token) for number, token in decoder.items()
    ]
    names: dict[int, str] = {}
    for number, symbol in named:
        if not isinstance(number, int):
            raise UserError(f"{folder / 'vocab.json'}: {symbol!r} is {number!r}, expected a number")
        if 0 <= number < outputs and symbol not in names.values():
            names.setdefault(number, str(symbol))
    return names


# --- Classifiers -----------------------------------------------------------------------------------------

_CLASSIFIER = ("classifier.", "projector.", "layer_weights")


def _read_classifier(state: State, config: dict[str, Any], folder: Path, licence: str) -> ClassifierHead:
    """The projector and the classifier, with a mean over time between them, as one matrix: all three are linear."""
    try:
        weight, bias = state["classifier.weight"].float(), state["classifier.bias"].float()
        inner, inner_bias = state["projector.weight"].float(), state["projector.bias"].float()
        layer: int | list[float] = -1
        if config.get("use_weighted_layer_sum"):
            layer = state["layer_weights"].float().softmax(-1).tolist()
        folded, folded_bias = weight @ inner, weight @ inner_bias + bias
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder}: its classifier cannot be read ({error}); expected the layout of Wav2Vec2ForSequenceClassification"
        ) from error
    by_number = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
    labels = [by_number.get(number, f"label {number}") for number in range(len(weight))]
    facts = TaggerFacts(_task(labels), labels, layer, licence=licence)
    facts.check(config["num_hidden_layers"], folder / "config.json")
    return ClassifierHead(facts, folded, folded_bias)


def _task(labels: Sequence[str]) -> str:
    """``language`` where nearly all labels are codes of languages, else ``label``."""
    codes = sum(is_code(label.partition("-")[0].lower()) for label in labels)
    return "language" if codes > 0.9 * len(labels) else "label"


def _write_classifier(head: ClassifierHead, shape: EncoderShape) -> tuple[State, dict[str, Any]]:
    """(tensors, settings) of transformers' classifier, whose projector changes nothing."""
    facts = head.facts
    if facts.moments != 1 or facts.joined:
        raise UserError(
            "transformers cannot express a classifier on joined layers or on squares of frames (moments 2); export it as a tagger"
        )
    state = {
        "projector.weight": torch.eye(shape.width), "projector.bias": torch.zeros(shape.width),
        "classifier.weight": head.weight_CD, "classifier.bias": head.bias_C,
    }  # fmt: skip
    layers = shape.layers
    weights = (
        facts.layer
        if isinstance(facts.layer, list)
        else [float(n == facts.layer % (layers + 1)) for n in range(layers + 1)]
    )
    weighted = weights != [0.0] * layers + [1.0]
    if weighted:
        state["layer_weights"] = torch.tensor(weights).clamp(min=1e-30).log()
    labels = {str(number): label for number, label in enumerate(facts.labels)}
    return state, {
        "id2label": labels, "label2id": {label: int(number) for number, label in labels.items()},
        "classifier_proj_size": shape.width, "use_weighted_layer_sum": weighted,
    }  # fmt: skip


# --- Licence ---------------------------------------------------------------------------------------------

_LICENCES = {
    "cc-by-nc-4.0": "CC BY-NC 4.0", "cc-by-4.0": "CC BY 4.0", "cc-by-sa-4.0": "CC BY-SA 4.0", "cc0-1.0": "CC0 1.0",
    "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0", "apache-2.0": "Apache-2.0", "mit": "MIT",
}  # fmt: skip


def _licence(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """(licence, where it is from): as the model card (README.md) states; of an MMS model without one, MMS's; ("", "")."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^licen[sc]e:\s*[\"']?([\w.+-]+)", front[1] if front else "", re.MULTILINE)
    if found:
        return _LICENCES.get(found[1].lower(), found[1]), "as its model card states"
    names = f"{config.get('_name_or_path', '')} {folder.resolve().name} {text[:2000]}".lower()
    if re.search(r"\bmms[-_](1b|300m|lid|tts)|massively multilingual speech", names):
        return "CC BY-NC 4.0", "MMS's; this copy has no model card that states one"
    return "", ""


# --- JSON files ------------------------------------------------------------------------------------------


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
    if parts.classifier is not None:
        added, settings = _write_classifier(parts.classifier, parts.shape)
        state = {PREFIX + key: tensor for key, tensor in state.items()} | added
        config |= settings
        architecture = "Wav2Vec2ForSequenceClassification"
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
        "adapter_attn_dim": shape.adapter or None,
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
