"""Initial models: turns an encoder, a recogniser or a baseline's settings into the recogniser to fine-tune, and saves it.

It chooses normaliser and vocabulary from the labels, copies or re-initialises weights, extends an old head by new letters, and
adds a language's adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.config import FinetuneSettings, LabelSettings
from finetune.presets import InitialModel
from lalia.cards import read_card
from lalia.data.labels import normalised_label
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.models.adapters import adapt, adapter_of, load_adapter, rank_of
from lalia.models.baselines import BaselineShape, make_encoder
from lalia.models.encoder import Encoder, EncoderShape
from lalia.models.recogniser import Recogniser
from lalia.models.store import (
    LanguagePart,
    count_parameters,
    language_facts,
    languages_of,
    load_encoder,
    read_adapter,
    save_adapted,
)
from lalia.models.transducer import TransducerShape
from lalia.text.language_codes import match_languages
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.number_words import read_numbers
from lalia.text.tokens import BLANK, BOUNDARY, Tokens, choose_vocabulary, missing_characters
from lalia.text.writing_system import LABELS_SEEN, script_of_texts

# --- The initial model ---------------------------------------------------------------------------------

CONFORMER_WIDTH = 192


def initial_model_of(settings: FinetuneSettings) -> InitialModel:
    """The facts about the model to fine-tune that presets depend on."""
    encoder = _fresh(settings) if settings.model.kind != "encoder" else load_encoder(Path(initial_folder(settings)))
    shape = encoder.shape
    return InitialModel(count_parameters(encoder), shape.width, shape.frame_s, shape.input == "wave", settings.fresh)


def initial_folder(settings: FinetuneSettings) -> str:
    """The folder of the initial encoder or recogniser; empty for a baseline."""
    return settings.recogniser or settings.encoder


def make_recogniser(settings: FinetuneSettings, mixture: Mixture, rows: np.ndarray, language: str) -> Recogniser:
    """The recogniser to train on ``rows`` in ``language``, with everything frozen that ``settings.mode`` freezes."""
    known = _known(settings, language)
    if known is None:
        normaliser = make_normaliser(settings.labels, _first_labels(mixture, rows, language))
        tokens = make_tokens(mixture, rows, normaliser, settings.labels)
    else:
        normaliser = _with_languages(
            known.normaliser, _first_labels(mixture, rows, language), settings.mode == "adapter"
        )
        tokens = extended(known.tokens, make_tokens(mixture, rows, normaliser, settings.labels, known.tokens))
    torch.manual_seed(settings.seed)
    encoder = make_initial_encoder(settings, known)
    transducer = settings.transducer
    shape = TransducerShape(transducer.width, transducer.predictor) if settings.head == "transducer" else None
    recogniser = Recogniser(encoder, tokens, normaliser, settings.regular.dropout, shape)
    if known is not None:
        keep_rows(recogniser, known)
    if settings.mode == "head":
        encoder.requires_grad_(False)
    elif settings.mode == "adapter":
        _adapt(settings, encoder, language)
    elif settings.freeze.stem and encoder.shape.input == "wave":
        encoder.frontend.requires_grad_(False)
    return recogniser


def make_initial_encoder(settings: FinetuneSettings, known: Recogniser | None = None) -> Encoder:
    """The initial encoder with fine-tuning's dropouts: that of ``known``, the one in a folder, or random weights with the
    folder's feature statistics."""
    if settings.model.kind != "encoder":
        return _fresh(settings)
    shared = settings.mode == "adapter"  # its weights belong to no single language
    start = known.encoder if known is not None and not shared else load_encoder(Path(initial_folder(settings)))
    fresh = make_encoder(_with_dropout(settings, start.shape))
    weights = start.state_dict()
    if settings.start == "random":
        fresh.load_state_dict(
            {name: weights[name] for name, _ in fresh.named_buffers() if name in weights}, strict=False
        )
    else:
        first_renewed = start.shape.layers - settings.freeze.renew
        renewed = tuple(f"blocks.layers.{i}." for i in range(first_renewed, start.shape.layers))
        kept = {key: w for key, w in weights.items() if not (renewed and key.startswith(renewed))}
        fresh.load_state_dict(kept, strict=False)
    return fresh


def extended(old: Tokens, found: Tokens) -> Tokens:
    """``old`` followed by the symbols that only ``found`` has; old symbols keep their numbers."""
    known = set(old.symbols)
    return Tokens([*old.symbols, *(symbol for symbol in found.symbols if symbol not in known)])


@torch.no_grad()
def keep_rows(recogniser: Recogniser, known: Recogniser) -> None:
    """Copy the head of ``known`` to the first rows of ``recogniser``'s head; the tokens of ``known`` come first in both.

    A transducer of the same shape is copied in the same way.
    """
    if recogniser.head.in_features != known.head.in_features:
        raise UserError(
            f"the head was made for frames of {known.head.in_features} dimensions, the encoder has "
            f"{recogniser.head.in_features}; start from the encoder that belongs to it"
        )
    rows = len(known.tokens)
    recogniser.head.weight[:rows] = known.head.weight
    recogniser.head.bias[:rows] = known.head.bias
    # New letters start as unlikely as an average old one, so that they do not displace the old ones.
    recogniser.head.bias[rows:] = known.head.bias[1:].mean()
    if recogniser.transducer and known.transducer and recogniser.transducer.shape == known.transducer.shape:
        own = recogniser.transducer.state_dict()
        for name, weight in known.transducer.state_dict().items():
            own[name][tuple(map(slice, weight.shape))] = weight


def save(
    settings: FinetuneSettings, recogniser: Recogniser, folder: Path, parents: list[dict[str, Any]], **facts: Any
) -> None:
    """Write ``recogniser`` to ``folder``; in adapter mode, the shared encoder with the adapters of all its languages."""
    if settings.mode != "adapter":
        recogniser.save(folder, parents, **facts)
        return
    weights = adapter_of(recogniser.encoder)
    head = {name: w for name, w in recogniser.state_dict().items() if name.startswith("head.")}
    start = Path(initial_folder(settings))
    part = LanguagePart(weights | head, recogniser.tokens, recogniser.normaliser)
    save_adapted(part, load_encoder(start), start, folder, parents, **facts)


def parents_of(settings: FinetuneSettings) -> list[dict[str, Any]]:
    """The card of the folder that the run starts from."""
    folder = initial_folder(settings)
    return [read_card(Path(folder))] if folder and settings.start == "pretrained" else []


def fold(folder: Path, language: str, out: Path) -> None:
    """Write one language of the recogniser with adapters in ``folder`` as a plain recogniser."""
    if not languages_of(folder):
        raise UserError(f"{folder}: has no adapters, so it is a plain recogniser already")
    card = read_card(folder, "recogniser")
    language = next(iter(match_languages([language] if language else [], languages_of(folder))), "")
    recogniser = Recogniser.load(folder, language)
    spoken = language or languages_of(folder)[0]
    recogniser.save(out, [card], language=spoken, **language_facts(folder, spoken))


def _known(settings: FinetuneSettings, language: str) -> Recogniser | None:
    """The recogniser in ``settings.recogniser``, if it has a head for ``language`` to continue from."""
    if not settings.recogniser:
        return None
    folder = Path(settings.recogniser)
    languages = languages_of(folder)
    if languages:
        return Recogniser.load(folder, language) if language in languages else None
    known = Recogniser.load(folder)
    if settings.mode == "adapter" and language not in known.normaliser.languages:
        return None  # another language: it gets a new head
    return known


def _with_languages(known: Normaliser, labels: Mapping[str, Sequence[str]], alone: bool) -> Normaliser:
    """``known`` for the languages of ``labels``, the first of them first; ``alone``: for that one only.

    Languages that it has keep their rules, and so do those that are not in ``labels``. A language in place of its only one is
    written by the same rules, since its letters are in the head. Another beside it has its own rules, with the same case.
    """
    language = next(iter(labels))
    old = known.settings
    if len({*known.languages, *labels}) < 2 or (len(labels) == 1 and not old.languages):
        return Normaliser(replace(old, language=language))
    new = {
        code: settings_for(code, script_of_texts(texts), form=old.form, case=old.case, punctuation=old.punctuation)
        for code, texts in labels.items()
        if code not in known.languages
    }
    if not old.language:
        old, new = replace(old, language=language), {code: own for code, own in new.items() if code != language}
    found = replace(old, languages={**old.languages, **new}).for_language(language)
    return Normaliser(replace(found, languages={}) if alone else found)


def _first_labels(mixture: Mixture, rows: np.ndarray, first: str) -> dict[str, list[str]]:
    """Some labels of each language of ``rows``, those of ``first`` first."""
    names = [mixture.language_names[code] for code in np.unique(mixture.languages[rows])]
    return {
        name: [mixture.text(int(row)) for row in rows[mixture.languages[rows] == mixture.language_names.index(name)]
               [:LABELS_SEEN]]
        for name in sorted(names, key=lambda name: (name != first, name))
    }  # fmt: skip


def _adapt(settings: FinetuneSettings, encoder: Encoder, language: str) -> None:
    """Freeze the shared encoder and add the language's adapter, an existing one if there is one."""
    folder = Path(initial_folder(settings))
    rank, known = rank_of(encoder, settings.adapter.share), None
    if language in languages_of(folder):
        known = {k: w for k, w in read_adapter(folder, language).items() if not k.startswith("head.")}
        ranks = [w.shape[1] for k, w in known.items() if k.endswith(".up")]
        rank, known = (ranks[0], known) if ranks else (rank, None)
    adapt(encoder, rank)
    if known is not None:
        load_adapter(encoder, known)


def _with_dropout(settings: FinetuneSettings, shape: EncoderShape) -> EncoderShape:
    regular = settings.regular
    return replace(
        shape, dropout=regular.dropout, dropout_input=0.0, attention_dropout=regular.dropout,
        feedforward_dropout=regular.feedforward_dropout, layerdrop=regular.layerdrop,
    )  # fmt: skip


def _fresh(settings: FinetuneSettings) -> Encoder:
    """A baseline with random weights."""
    model, regular = settings.model, settings.regular
    if model.kind == "conformer":
        mfcc, width = model.features == "mfcc", model.width or CONFORMER_WIDTH
        shape = EncoderShape(
            input="mfcc" if mfcc else "logmel", bins=40 if mfcc else 80, stack=4, width=width, layers=model.layers, heads=4,
            feedforward=4 * width, block="conformer", block_kernel=15, position="rotary", position_groups=1,
        )  # fmt: skip
        return Encoder(_with_dropout(settings, shape))
    assert model.kind != "encoder"
    return make_encoder(BaselineShape.of(model.kind, model.features, model.width, regular.dropout))


# --- Normaliser and vocabulary -------------------------------------------------------------------------


def make_normaliser(settings: LabelSettings, labels: Mapping[str, Sequence[str]]) -> Normaliser:
    """The normaliser for labels, language-model text and scoring: each language's defaults, changed by ``settings``.

    ``labels`` are some of each language, whose script is the one of its rules; the first language is the default.
    """
    if settings.normaliser:
        return Normaliser.from_json(Path(settings.normaliser))
    given: dict[str, Any] = {"case": settings.case, "punctuation": settings.punctuation, "digits": settings.digits}
    if settings.numbers:
        if len(labels) > 1:
            raise UserError(
                f"--labels.numbers: is a table of one language, and the clips are in {', '.join(labels)}; take one with "
                "--data.language, or put each table into `numbers` of its language in a --labels.normaliser"
            )
        given |= {"numbers": read_numbers(Path(settings.numbers))}
        given |= {"digits": "spell"} if settings.digits == "auto" else {}
    chosen = {name: value for name, value in given.items() if value != "auto"}
    first, *others = (settings_for(code, script_of_texts(texts), **chosen) for code, texts in labels.items())
    return Normaliser(replace(first, languages={own.language: own for own in others}))


def make_tokens(
    mixture: Mixture,
    rows: np.ndarray,
    normaliser: Normaliser,
    settings: LabelSettings | None = None,
    known: Tokens | None = None,
) -> Tokens:
    """The vocabulary of the training labels; with ``known`` tokens, only the letters that those lack."""
    texts = [normalised_label(mixture, int(row), normaliser) for row in rows]
    if not any(texts):
        raise UserError(
            f"all {len(texts)} training labels are empty after normalisation ({mixture.text(int(rows[0]))!r}); "
            "lalia finetune check CORPUS shows what they contain"
        )
    if known is not None:
        return Tokens([BLANK, *[BOUNDARY] * any(" " in text for text in texts), *missing_characters(known, texts)])
    settings = settings or LabelSettings()
    return choose_vocabulary(texts, settings.unit, settings.pieces).tokens


def describe(tokens: Tokens, normaliser: Normaliser) -> str:
    """The normaliser's settings, of each language where there are several, and the tokens, a line each."""
    several = len(normaliser.languages) > 1
    rules = [
        f"labels{f' of {code}' if several else ''}: {normaliser.for_language(code).settings.describe()}"
        for code in normaliser.languages or [""]
    ]
    return "\n".join([*rules, f"tokens: {tokens.describe()}"])


def describe_languages_of(mixture: Mixture, rows: np.ndarray, tokens: Tokens, normaliser: Normaliser) -> str:
    """One line for ``rows`` of several languages: which, and which tokens each adds to those before it; "" for one language."""
    used: dict[str, set[int]] = {language: set() for language in normaliser.languages}
    for row in rows.tolist():
        text = normalised_label(mixture, row, normaliser)
        used.setdefault(mixture.language(row), set()).update(tokens.encode(text, skip_unknown=True))
    used = {language: ids - {tokens.boundary} for language, ids in used.items() if ids}
    if len(used) < 2:
        return ""
    union: set[int] = set()
    parts = []
    for language, ids in used.items():
        added = " ".join(tokens.symbols[i] for i in sorted(ids - union))
        shown = f" ({added if len(added) <= 60 else added[:60] + ' …'})" if union and added else ""
        rules = "" if language in normaliser.languages else f" by the rules of {normaliser.settings.language}"
        parts.append(f"{language}{rules} {f'adds {len(ids - union)}' if union else f'has {len(ids)} tokens'}{shown}")
        union |= ids
    return f"languages: {', '.join(parts)}; {len(union)} together"
