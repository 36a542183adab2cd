"""How the peers call the tensors of a wav2vec 2.0 model, beside this house's names for them.

A name that ends in a dot stands for all that begins with it; ``{}`` is a number.
"""

from __future__ import annotations

import re
from typing import Literal

import torch

from lalia.exits import UserError
from lalia.models.contrastive import ContrastiveShape
from lalia.models.convert.parts import Quantizer, State
from lalia.models.shape import EncoderShape

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
_QUANTIZER = [
    ("codebook_GVd", "quantizer.codevectors", "quantizer.vars", "quantizer.entries"),
    ("code_logits.", "quantizer.weight_proj.", "quantizer.weight_proj.", "quantizer.entry_proj."),
    ("context_projection.", "project_hid.", "final_proj.", "final_proj."),
    ("target_projection.", "project_q.", "project_q.", "final_target_proj."),
]


def encoder_names(layout: Layout, stem_norm: str, norm: str) -> list[tuple[str, str]]:
    """(ours, theirs) for the encoder; the peers have one name for norms that stand in different places."""
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
    return rows + [(_ENDS[0] + row[0], _ENDS[column] + row[column]) for row in _IN_BLOCKS]


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
    """(the encoder's tensors by our names, what is left of ``state``), whatever style its weight norm is stored in."""
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
        # Fine-tuned models that hid nothing have none: a fresh one, always the same.
        encoder["mask_embedding"] = torch.rand(
            len(encoder["projection.bias"]), generator=torch.Generator().manual_seed(0)
        )
    return encoder, others


def read_quantizer(state: State, layout: Layout, source: str) -> tuple[Quantizer | None, State]:
    """(the quantizer in ``state`` or None, what is left of it)."""
    found, others = renamed(state, quantizer_names(layout))
    if "codebook_GVd" not in found:
        return None, state
    try:
        entries_NVd, width = found["codebook_GVd"], found["target_projection.weight"].shape[1]
        d = entries_NVd.shape[-1]
        G = width // d
        found["codebook_GVd"] = entries_NVd.reshape(G, -1, d)
        shape = ContrastiveShape(
            "gumbel", G, found["codebook_GVd"].shape[1], width, len(found["target_projection.bias"])
        )
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
    """A ``UserError`` where ``layout`` has no words for ``shape``."""
    wrong = []
    if shape.input != "wave":
        wrong.append(f"input {shape.input} (expected wave)")
    if shape.block != "transformer":
        wrong.append(f"block {shape.block} (expected transformer)")
    if shape.position != "convolution":
        wrong.append(f"position {shape.position} (expected convolution)")
    if shape.pruned:
        wrong.append("blocks of different sizes (expected all alike)")
    if wrong:
        raise UserError(
            f"{layout} cannot express an encoder with {', '.join(wrong)}; ship it with `lalia distill export`"
        )
