"""Folders in the layouts of MMS's recogniser and language classifier, made by transformers with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile  # noqa: F401  # before fairseq2
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

from tests.models.test_conversion import LAYOUTS, SMALL, save_peer, shaken

ALPHABETS = {
    "eng": "abcdefg", "swh": "abcde", "uzb-script_cyrillic": "абвгд", "uzb-script_latin": "abdeo'", "mon-script_mong": "xyz",
}  # fmt: skip
MMS: dict[str, Any] = SMALL | LAYOUTS["large"] | dict(adapter_attn_dim=4, pad_token_id=0)


def make_mms(folder: Path) -> Path:
    """A folder as mms-1b-all: shared weights, those of English in them, one adapter file per language, a nested vocabulary."""
    vocabularies = {
        code: {symbol: number for number, symbol in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}
        for code, letters in ALPHABETS.items()
    }
    torch.manual_seed(0)
    shared: dict[str, torch.Tensor] = {}
    for code in reversed(ALPHABETS):  # English last: its weights stay in the model's own file
        model = shaken(Wav2Vec2ForCTC(Wav2Vec2Config(**MMS | {"vocab_size": len(vocabularies[code])})))
        model.wav2vec2.load_state_dict(shared, strict=False)
        shared = {key: weight for key, weight in model.wav2vec2.state_dict().items() if "adapter_layer" not in key}
        save_peer(model, folder)
        save_file({k: w.contiguous() for k, w in model._get_adapters().items()}, folder / f"adapter.{code}.safetensors")
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    Wav2Vec2CTCTokenizer(folder / "vocab.json", target_lang="eng").save_pretrained(folder)
    return folder


def make_xlsr(folder: Path) -> Path:
    """A recogniser in the shape of XLS-R with the letters of Swahili."""
    vocabulary = {
        symbol: number
        for number, symbol in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnoprstuvwyz'"])
    }
    torch.manual_seed(0)
    config = Wav2Vec2Config(**SMALL | LAYOUTS["large"] | dict(pad_token_id=0, vocab_size=len(vocabulary)))
    save_peer(shaken(Wav2Vec2ForCTC(config)), folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    return folder


def make_classifier(folder: Path) -> Path:
    """A folder as mms-lid-126, with three languages."""
    names = {0: "eng", 1: "swh", 2: "uzb-script_latin"}
    torch.manual_seed(0)
    config = Wav2Vec2Config(**MMS, id2label=names, label2id={label: number for number, label in names.items()})
    save_peer(shaken(Wav2Vec2ForSequenceClassification(config)), folder)
    return folder
