"""What all checkpoint formats share: safe reading of torch files, tensor names, CTC symbols, lalia's own folders.

``Parts`` is a model between two formats: a shape, tensors under lalia's names, a CTC head, a quantizer. Files are read by torch's
restricted unpickler; objects of foreign classes (fairseq's configuration) become inert placeholders that keep their fields.

D width, V tokens or entries, G codebooks, d dimensions of an entry.
"""

from __future__ import annotations

import json
import pickle
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lalia.cards import read_card
from lalia.errors import UserError
from lalia.models.classifier import Classifier, TaggerFacts
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.models.store import (
    LanguagePart,
    load_classifier,
    load_encoder,
    load_quantizer,
    load_recogniser,
    save_languages,
)
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import BLANK, BOUNDARY, Tokens

# --- Parts and lalia folders -----------------------------------------------------------------------------

State = dict[str, Tensor]


@dataclass
class Head:
    """A CTC head: token 0 is the blank."""

    weight_VD: Tensor
    bias_V: Tensor
    tokens: Tokens
    normaliser: Normaliser
    unnamed: int = 0
    """outputs of the source that no vocabulary names, left out"""


@dataclass
class LanguageParts:
    """What one language adds to an encoder with adapters."""

    code: str
    """as the source names it: swh, uzb-script_cyrillic"""
    adapter: State
    head: Head


@dataclass
class ClassifierHead:
    """The linear layer of a classifier of whole utterances."""

    facts: TaggerFacts
    weight_CD: Tensor
    bias_C: Tensor


@dataclass
class Quantizer:
    """What contrastive pretraining adds; names of ``state`` are ``ContrastiveHead``'s."""

    shape: ContrastiveShape
    state: State


@dataclass
class Parts:
    """A model on its way from one layout to another; names of ``encoder`` are ``Encoder``'s."""

    shape: EncoderShape
    encoder: State
    head: Head | None = None
    quantizer: Quantizer | None = None
    parents: list[dict[str, Any]] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    """where there are several: codes for ``read_language``, which reads one at a time (a thousand of them are 10 GB)"""
    read_language: Callable[[str], LanguageParts] | None = None
    classifier: ClassifierHead | None = None
    licence: str = ""
    """the source's licence, "" where it is not known"""
    licence_from: str = ""
    """where it is stated"""
    remarks: list[str] = field(default_factory=list)
    """what the reader decided, for the user"""


def from_lalia(folder: Path, language: str = "") -> Parts:
    """The encoder (with its quantizer), recogniser (of many languages: that of ``language``) or classifier in ``folder``."""
    card = read_card(folder)
    if card["kind"] == "classifier":
        found = load_classifier(folder)
        linear = ClassifierHead(found.facts, found.head.weight.detach(), found.head.bias.detach())
        return Parts(found.encoder.shape, found.encoder.state_dict(), parents=[card], classifier=linear)
    if card["kind"] == "recogniser":
        recogniser = load_recogniser(folder, language)
        encoder = recogniser.encoder
        weight, bias = recogniser.head.weight.detach(), recogniser.head.bias.detach()
        head = Head(weight, bias, recogniser.tokens, recogniser.normaliser)
        left_out = ["without its transducer"] if recogniser.transducer else []
        return Parts(encoder.shape, encoder.state_dict(), head, parents=[card], remarks=left_out)
    encoder = load_encoder(folder)
    quantizer = load_quantizer(folder)
    kept = None if quantizer is None else Quantizer(quantizer.shape, quantizer.state_dict())
    return Parts(encoder.shape, encoder.state_dict(), quantizer=kept, parents=[card])


def to_lalia(parts: Parts, folder: Path, source: str, **facts: Any) -> str:
    """Write ``parts`` to ``folder``: a recogniser where they have a CTC head, a classifier, or an encoder; return which."""
    encoder = Encoder(parts.shape)
    _fill(encoder, parts.encoder, source)
    facts |= {"licences": [parts.licence]} if parts.licence else {}
    if parts.read_language is not None:
        several = (_language(parts.read_language(code), encoder, source) for code in parts.languages)
        save_languages(encoder, several, folder, parts.parents, **facts)
        return f"recogniser of {len(parts.languages)} languages"
    if parts.classifier is not None:
        classifier = Classifier(encoder, parts.classifier.facts)
        with torch.no_grad():
            classifier.head.weight.copy_(parts.classifier.weight_CD)
            classifier.head.bias.copy_(parts.classifier.bias_C)
        classifier.save(folder, parts.parents, **facts)
        return "classifier"
    if parts.head is not None:
        recogniser = Recogniser(encoder, parts.head.tokens, parts.head.normaliser)
        with torch.no_grad():
            recogniser.head.weight.copy_(parts.head.weight_VD)
            recogniser.head.bias.copy_(parts.head.bias_V)
        recogniser.save(folder, parts.parents, **facts)
        return "recogniser"
    quantizer = None
    if parts.quantizer is not None:
        quantizer = ContrastiveHead(parts.shape, parts.quantizer.shape)
        _fill(quantizer, parts.quantizer.state, source)
    encoder.save(folder, parts.parents, quantizer=quantizer, **facts)
    return "encoder"


def _language(found: LanguageParts, encoder: Encoder, source: str) -> tuple[str, LanguagePart]:
    shapes = {key: weight.shape for key, weight in encoder.state_dict().items() if ".ffn_residual." in key}
    if {key: tensor.shape for key, tensor in found.adapter.items()} != shapes:
        raise UserError(f"{source}: the adapter of {found.code} does not fit the encoder; was it made for another?")
    head = {"head.weight": found.head.weight_VD.float(), "head.bias": found.head.bias_V.float()}
    weights = {key: tensor.float() for key, tensor in found.adapter.items()} | head
    return found.code, LanguagePart(weights, found.head.tokens, found.head.normaliser)


def _fill(module: nn.Module, state: State, source: str) -> None:
    expected = module.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        what = [f"lacks {missing[:3]}"] * bool(missing) + [
            f"has {unknown[:3]} that this model has no place for"
        ] * bool(unknown)
        raise UserError(f"{source}: {' and '.join(what)}; expected a wav2vec 2.0 model")
    for key, tensor in state.items():
        if expected[key].shape != tensor.shape:
            raise UserError(
                f"{source}: {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}; "
                "do its weights belong to its config?"
            )
    with torch.no_grad():  # one by one: a whole copy in float32 of a large model in float16 takes too much memory
        for key, tensor in state.items():
            expected[key].copy_(tensor)


# --- Tensor names of each format -------------------------------------------------------------------------

Layout = Literal["transformers", "fairseq", "fairseq2"]
_COLUMN: dict[Layout, int] = {"transformers": 1, "fairseq": 2, "fairseq2": 3}

_STEM = ("frontend.layers.{}.", "feature_extractor.conv_layers.{}.", "feature_extractor.conv_layers.{}.",
         "encoder_frontend.feature_extractor.layers.{}.")  # fmt: skip
_ENDS = ("blocks.layers.{}.", "encoder.layers.{}.", "encoder.layers.{}.", "encoder.layers.{}.")

# Columns: ours, transformers, fairseq, fairseq2.
_FIXED = [
    ("mask_embedding", "masked_spec_embed", "mask_emb", "masker.temporal_mask_embed"),
    ("feature_norm.", "feature_projection.layer_norm.", "layer_norm.", "encoder_frontend.post_extract_layer_norm."),
    ("projection.", "feature_projection.projection.", "post_extract_proj.", "encoder_frontend.model_dim_proj."),
    ("position.conv.", "encoder.pos_conv_embed.conv.", "encoder.pos_conv.0.", "encoder_frontend.pos_encoder.conv."),
]
_IN_BLOCKS = [
    *((f"self_attn.{x}_proj.", f"attention.{x}_proj.", f"self_attn.{x}_proj.", f"self_attn.{x}_proj.") for x in "qkv"),
    ("self_attn.output_proj.", "attention.out_proj.", "self_attn.out_proj.", "self_attn.output_proj."),
    ("self_attn_layer_norm.", "layer_norm.", "self_attn_layer_norm.", "self_attn_layer_norm."),
    ("ffn.inner_proj.", "feed_forward.intermediate_dense.", "fc1.", "ffn.inner_proj."),
    ("ffn.output_proj.", "feed_forward.output_dense.", "fc2.", "ffn.output_proj."),
    ("ffn_layer_norm.", "final_layer_norm.", "final_layer_norm.", "ffn_layer_norm."),
]
_ADAPTER = [  # transformers alone has them in this form
    ("ffn_residual.layer_norm.", "adapter_layer.norm."),
    ("ffn_residual.down_proj.", "adapter_layer.linear_1."),
    ("ffn_residual.up_proj.", "adapter_layer.linear_2."),
]
_QUANTIZER = [
    ("codebook_GVd", "quantizer.codevectors", "quantizer.vars", "quantizer.entries"),
    ("code_logits.", "quantizer.weight_proj.", "quantizer.weight_proj.", "quantizer.entry_proj."),
    ("context_projection.", "project_hid.", "final_proj.", "final_proj."),
    ("target_projection.", "project_q.", "project_q.", "final_target_proj."),
]


def encoder_names(layout: Layout, stem_norm: str, norm: str) -> list[tuple[str, str]]:
    """(ours, theirs) for the encoder; other toolkits use one name for norms in different places."""
    column = _COLUMN[layout]
    in_stem = [("conv.", "conv.", "0.", "conv.")]
    if stem_norm == "group":
        in_stem.append(("group_norm.", "layer_norm.", "2.", "group_norm."))
    else:
        in_stem.append(("layer_norm.", "layer_norm.", "2.1.", "layer_norm."))
    if norm == "post":
        outer = ("input_norm.", "encoder.layer_norm.", "encoder.layer_norm.", "encoder_frontend.layer_norm.")
    else:
        outer = ("blocks.layer_norm.", "encoder.layer_norm.", "encoder.layer_norm.", "encoder.layer_norm.")
    rows = [(row[0], row[column]) for row in [*_FIXED, outer]]
    rows += [(_STEM[0] + row[0], _STEM[column] + row[column]) for row in in_stem]
    in_blocks = [(row[0], row[column]) for row in _IN_BLOCKS] + (_ADAPTER if layout == "transformers" else [])
    return rows + [(_ENDS[0] + ours, _ENDS[column] + theirs) for ours, theirs in in_blocks]


def quantizer_names(layout: Layout) -> list[tuple[str, str]]:
    """(ours, theirs) for what contrastive pretraining adds."""
    return [(row[0], row[_COLUMN[layout]]) for row in _QUANTIZER]


def renamed(state: State, pairs: list[tuple[str, str]]) -> tuple[State, State]:
    """(tensors that a pair (to, from) of ``pairs`` renames, the others)."""
    patterns = [(re.compile(re.escape(old).replace(r"\{\}", r"(\d+)") + ("" if old[-1] == "." else "$")), new)
                for new, old in pairs]  # fmt: skip
    known: State = {}
    others: State = {}
    for key, tensor in state.items():
        for pattern, new in patterns:
            if found := pattern.match(key):
                known[new.format(*found.groups()) + key[found.end() :]] = tensor
                break
        else:
            others[key] = tensor
    return known, others


def read_encoder(state: State, layout: Layout, stem_norm: str, norm: str) -> tuple[State, State]:
    """(the encoder's tensors under lalia's names, the rest of ``state``); any storage style of weight norm."""
    plain = {}
    for key, tensor in state.items():
        key = key.replace(".parametrizations.weight.original0", ".weight_g")
        plain[key.replace(".parametrizations.weight.original1", ".weight_v")] = tensor
    encoder, others = renamed(plain, encoder_names(layout, stem_norm, norm))
    if "position.conv.weight" in encoder:  # weight norm was folded in
        weight = encoder.pop("position.conv.weight")
        encoder["position.conv.weight_v"] = weight
        encoder["position.conv.weight_g"] = weight.float().norm(dim=(0, 1), keepdim=True)
    if "projection.weight" not in encoder and "feature_norm.weight" in encoder:
        # fairseq has no projection where features are as wide as frames.
        width = len(encoder["feature_norm.weight"])
        encoder["projection.weight"], encoder["projection.bias"] = torch.eye(width), torch.zeros(width)
    if "mask_embedding" not in encoder and "projection.bias" in encoder:
        # Models fine-tuned without masking have none: a new one, always the same.
        encoder["mask_embedding"] = torch.rand(
            len(encoder["projection.bias"]), generator=torch.Generator().manual_seed(0)
        )
    return encoder, others


def read_quantizer(
    state: State, layout: Layout, source: str, dropout_features: float = ContrastiveShape.dropout_features
) -> tuple[Quantizer | None, State]:
    """(the quantizer in ``state`` or None, what is left of it); ``dropout_features`` as its configuration says."""
    found, others = renamed(state, quantizer_names(layout))
    if "codebook_GVd" not in found:
        return None, state
    try:
        entries_NVd, width = found["codebook_GVd"], found["target_projection.weight"].shape[1]
        d = entries_NVd.shape[-1]
        G = width // d
        found["codebook_GVd"] = entries_NVd.reshape(G, -1, d)
        shape = ContrastiveShape(
            "gumbel", G, found["codebook_GVd"].shape[1], width, len(found["target_projection.bias"]),
            dropout_features=dropout_features,
        )  # fmt: skip
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{source}: its quantizer cannot be read ({error}); expected wav2vec 2.0's") from error
    return Quantizer(shape, found), others


def write_model(
    encoder: State, shape: EncoderShape, quantizer: Quantizer | None, layout: Layout
) -> tuple[State, State]:
    """(encoder's tensors, quantizer's tensors) by the names of ``layout``, weight norm in the style every version reads."""
    pairs = [(theirs, ours) for ours, theirs in encoder_names(layout, shape.stem_norm, shape.norm)]
    state, strange = renamed(encoder, pairs)
    if strange:
        raise UserError(f"{layout} has no place for {sorted(strange)[:3]}")
    added: State = {}
    if quantizer is not None:
        added, _ = renamed(quantizer.state, [(theirs, ours) for ours, theirs in quantizer_names(layout)])
        key = dict(quantizer_names(layout))["codebook_GVd"]
        added[key] = added[key].flatten(0, 1)[None]
    return state, added


def check_expressible(shape: EncoderShape, layout: Layout) -> None:
    """Raise ``UserError`` if ``layout`` cannot express ``shape``."""
    wrong = []
    if shape.input != "wave":
        wrong.append(f"input {shape.input} (expected wave)")
    if shape.block != "transformer":
        wrong.append(f"block {shape.block} (expected transformer)")
    if shape.position != "convolution":
        wrong.append(f"position {shape.position} (expected convolution)")
    if shape.adapter and layout != "transformers":
        wrong.append("adapters (expected none)")
    if shape.pruned:
        wrong.append("blocks of different sizes (expected all alike)")
    if wrong:
        raise UserError(
            f"{layout} cannot express an encoder with {', '.join(wrong)}; ship it with `lalia distill export`"
        )


# --- Making a CTC head -----------------------------------------------------------------------------------


def make_head(
    weight_VD: Tensor, bias_V: Tensor, symbols: Sequence[str], blank: int, delimiter: str, language: str
) -> Head:
    """A head whose blank stands at 0 and whose word boundary is called as in lalia; no logit is lost."""
    order = [blank, *(i for i in range(len(symbols)) if i != blank)]
    rows = torch.tensor(order)
    names = [BLANK, *(_symbol(symbols[i], delimiter) for i in order[1:])]
    return Head(weight_VD[rows], bias_V[rows], Tokens(names), guess_normaliser(names, language))


def _symbol(symbol: str, delimiter: str) -> str:
    if symbol == delimiter:
        return BOUNDARY
    if symbol == BLANK or not symbol:
        return "<unused>"
    return "".join(f"<U+{ord(c):04X}>" if c.isspace() else c for c in symbol)


def guess_normaliser(symbols: Sequence[str], language: str) -> Normaliser:
    """A normaliser that keeps of a text what ``symbols`` can spell: their case, apostrophes, hyphens and punctuation."""
    spelled = "".join(s for s in symbols if not (s.startswith("<") and s.endswith(">")) and s != BOUNDARY)
    upper, lower = any(c.isupper() for c in spelled), any(c.islower() for c in spelled)
    marks = {c for c in spelled if unicodedata.category(c)[0] in "PS"} - set("'’-‐")
    return Normaliser(
        NormaliserSettings(
            language=language,
            case="keep" if upper and lower else "upper" if upper else "lower",
            apostrophes="inside" if set(spelled) & set("'’") else "drop",
            hyphens="inside" if set(spelled) & set("-‐") else "drop",
            punctuation="keep" if marks & set(".,?!;:") else "drop",
            spaces="keep" if BOUNDARY in symbols else "drop",
            keep="" if marks & set(".,?!;:") else "".join(sorted(marks)),
        )
    )


# --- Symbols of a CTC head -------------------------------------------------------------------------------

_FAIRSEQ_FIRST = ["<s>", "<pad>", "</s>", "<unk>"]


def beside(checkpoint: Path) -> Path | None:
    """The dictionary that lies beside ``checkpoint``; None where there is none."""
    names = (checkpoint.with_suffix(".tokens.txt").name, "dict.ltr.txt", "tokens.txt", "vocab.json")
    return next((checkpoint.parent / name for name in names if (checkpoint.parent / name).is_file()), None)


def from_dictionary(loaded: dict[str, Any]) -> list[str] | None:
    """The symbols of the dictionary that fairseq put into the checkpoint itself; None where it did not."""
    task = plain(loaded.get("task_state"))
    found = task.get("target_dictionary") if isinstance(task, dict) else None
    symbols = found.get("symbols") if isinstance(found, dict) else None
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else None


def read_symbols(path: Path) -> list[str]:
    """The symbols in the file at ``path`` in the order of the head's outputs.

    ``vocab.json`` (symbol to number), a sentencepiece model (``.model``), ``tokens.txt`` ("symbol number" a line), or
    fairseq's ``dict.ltr.txt`` ("symbol count" a line, which four symbols of its own come before).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the symbols of the CTC head")
    if path.suffix == ".model":
        return _pieces(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            ids = json.loads(text)
            return [symbol for symbol, _ in sorted(ids.items(), key=lambda item: int(item[1]))]
        rows = [line.rstrip("\r").rpartition(" ") for line in text.split("\n") if line.strip()]
        numbers = [int(number) for _, _, number in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a list of symbols ({error})") from error
    symbols = [symbol for symbol, _, _ in rows]
    return symbols if numbers == list(range(len(rows))) else _FAIRSEQ_FIRST + symbols


def _pieces(path: Path) -> list[str]:
    from fairseq2.data.tokenizers.sentencepiece import SentencePieceModel

    try:
        model = SentencePieceModel(path)
    except Exception as error:  # fairseq2's native part raises several types
        raise UserError(f"{path}: cannot be read as a sentencepiece model ({error})") from error
    pieces = [str(model.index_to_token(i)) for i in range(model.vocabulary_size)]
    for piece in pieces:
        if "▁" in piece and piece != "▁":
            raise UserError(f"{path}: {piece!r} joins a space to letters; expected one symbol for the space alone")
    return pieces


# --- Reading torch files safely --------------------------------------------------------------------------

_STAND_INS_AT_MOST = 200


class Inert:
    """Placeholder for an object whose class is not loaded: fields and items, no behaviour."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.__dict__["args"] = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # (fields, slots) or fields
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.__dict__.update(part or {})
        else:
            self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value


def read_torch(path: Path) -> Any:
    """What is in the file at ``path``: .safetensors, or a torch file with ``Inert`` instead of foreign objects."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # safetensors raises its own error type
            raise UserError(f"{path}: cannot be read ({error}); copy it again") from error
    stand_ins: dict[str, type] = {}
    while True:
        allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            # torch leaves the module of built-in names out when it complains of them.
            name = "" if named is None else named[1] if "." in named[1] else f"builtins.{named[1]}"
            if not name or name in stand_ins or len(stand_ins) >= _STAND_INS_AT_MOST:
                found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
                reason = (found[1] if found else str(error).splitlines()[0])[:160]
                raise UserError(f"{path}: cannot be read as weights ({reason}); is it a checkpoint?") from error
            stand_ins[name] = type("Inert", (Inert,), {})
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise UserError(f"{path}: cannot be read as a torch file ({reason}); copy it again") from error


def plain(value: Any) -> Any:
    """``value`` as dicts, lists and scalars: argparse namespaces and omegaconf nodes are unwrapped."""
    if isinstance(value, Inert):
        fields = value.__dict__
        for inner in ("_content", "_val"):
            if inner in fields:
                return plain(fields[inner])
        return {key: plain(item) for key, item in fields.items() if key != "args"}
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if isinstance(key, (str, int, Inert))}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
