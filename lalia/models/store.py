"""Encoders and recognisers on disk: save and load model folders.

A folder holds ``config.json``, ``model.safetensors`` and ``card.json``; a recogniser also its tokens and normaliser, an encoder
also its quantizer. A recogniser of many languages holds their encoder once, and ``adapters/LANGUAGE/`` with each one's adapter,
head, tokens and normaliser. Folders are written beside their place and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lalia.cards import read_card, write_card, write_json
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.model_folder import TAGGER
from lalia.models.shape import EncoderShape

if TYPE_CHECKING:
    from lalia.models.classifier import Classifier
    from lalia.models.encoder import Encoder
    from lalia.models.quantizer import ContrastiveHead
    from lalia.models.recogniser import Recogniser
    from lalia.models.transducer import TransducerShape
    from lalia.text.normaliser import Normaliser
    from lalia.text.tokens import Tokens

CONFIG, WEIGHTS, TOKENS, NORMALISER = "config.json", "model.safetensors", "tokens.txt", "normaliser.json"
ADAPTERS, ADAPTER, FACTS = "adapters", "adapter.safetensors", "facts.json"
QUANTIZER = "quantizer.safetensors"
"""The quantizer and projections of contrastive pretraining, needed to continue it."""
TAGGER_WEIGHTS = "tagger.safetensors"
"""A classifier's linear layer: weight (labels, features), bias (labels)."""
UNKNOWN_LANGUAGE = "und"
"""ISO 639 code for a recogniser without a language."""


@dataclass
class LanguagePart:
    """What one language adds to a shared encoder."""

    weights: dict[str, Tensor]
    """its adapter, and its head as ``head.weight`` and ``head.bias``"""
    tokens: Tokens
    normaliser: Normaliser


def save_encoder(
    encoder: Encoder,
    folder: Path,
    parents: list[dict[str, Any]],
    quantizer: ContrastiveHead | None = None,
    half: bool = False,
    **facts: Any,
) -> None:
    """Write ``encoder``, and the quantizer it was pretrained with where there is one, to ``folder``, which it replaces.

    ``half``: matrices and kernels are stored in float16 and loaded as float32.
    """
    with replacing(folder) as new:
        weights = _portable(encoder.state_dict())
        if half:
            weights = {key: weight.half() if weight.ndim > 1 else weight for key, weight in weights.items()}
            if lost := [key for key, weight in weights.items() if not bool(weight.isfinite().all())]:
                raise UserError(f"{folder}: {', '.join(lost[:3])} would not be finite in float16; keep float32")
        save_file(weights, new / WEIGHTS)
        config = {"encoder": encoder.shape.to_dict()}
        if quantizer is not None:
            _write_weights(quantizer, new / QUANTIZER)
            config["quantizer"] = asdict(quantizer.shape)
        write_json(new / CONFIG, config)
        write_card(
            new, "encoder", parents, parameters=count_parameters(encoder), frame_s=encoder.shape.frame_s, **facts
        )


def save_recogniser(recogniser: Recogniser, folder: Path, parents: list[dict[str, Any]], **facts: Any) -> None:
    """Write ``recogniser`` to ``folder``, which it replaces."""
    with replacing(folder) as new:
        _write_weights(recogniser, new / WEIGHTS)
        hybrid = {"transducer": asdict(recogniser.transducer.shape)} if recogniser.transducer else {}
        write_json(new / CONFIG, {"encoder": recogniser.encoder.shape.to_dict(), **hybrid})
        recogniser.tokens.save(new / TOKENS)
        recogniser.normaliser.to_json(new / NORMALISER)
        write_card(
            new, "recogniser", parents, parameters=count_parameters(recogniser), frame_s=recogniser.frame_s,
            tokens=len(recogniser.tokens), **facts,
        )  # fmt: skip


def load_encoder(folder: Path) -> Encoder:
    """The encoder in ``folder``: an encoder's, or the one inside a recogniser or classifier."""
    from lalia.models.baselines import make_encoder

    kind = identify(folder).kind
    if kind not in ("encoder", "recogniser", "classifier"):
        raise wrong_kind(folder, "encoder")
    encoder = make_encoder(_read_shape(folder))
    weights = _read_weights(folder / WEIGHTS)
    if kind == "recogniser":
        weights = {key.removeprefix("encoder."): w for key, w in weights.items() if key.startswith("encoder.")}
    _fill(encoder, weights, folder / WEIGHTS)
    return encoder.eval()


def save_classifier(classifier: Classifier, folder: Path, parents: list[dict[str, Any]], **facts: Any) -> None:
    """Write ``classifier`` to ``folder``, which it replaces."""
    with replacing(folder) as new:
        _write_weights(classifier.encoder, new / WEIGHTS)
        _write_weights(classifier.head, new / TAGGER_WEIGHTS)
        write_json(new / CONFIG, {"encoder": classifier.encoder.shape.to_dict()})
        write_json(new / TAGGER, asdict(classifier.facts))
        write_card(
            new, "classifier", parents, parameters=count_parameters(classifier), frame_s=classifier.encoder.shape.frame_s,
            task=classifier.facts.task, labels=len(classifier.facts.labels), **facts,
        )  # fmt: skip


def load_classifier(folder: Path) -> Classifier:
    """The classifier in ``folder``; ``UserError`` if its parts do not belong together."""
    from lalia.models.classifier import Classifier, TaggerFacts

    read_card(folder, "classifier")
    path = folder / TAGGER
    try:
        facts = TaggerFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or make the folder again") from error
    encoder = load_encoder(folder)
    facts.check(encoder.shape.layers, path)
    classifier = Classifier(encoder, facts)
    _fill(classifier.head, _read_weights(folder / TAGGER_WEIGHTS), folder / TAGGER_WEIGHTS)
    return classifier.eval()


def load_quantizer(folder: Path) -> ContrastiveHead | None:
    """The quantizer that the encoder in ``folder`` was pretrained with; None if the folder has none."""
    from lalia.models.quantizer import ContrastiveHead, ContrastiveShape

    read_card(folder)
    if not (folder / QUANTIZER).is_file():
        return None
    try:
        shape = ContrastiveShape(**_read_config(folder)["quantizer"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: says nothing of the quantizer in {QUANTIZER} ({error})") from error
    quantizer = ContrastiveHead(_read_shape(folder), shape)
    _fill(quantizer, _read_weights(folder / QUANTIZER), folder / QUANTIZER)
    return quantizer


def load_recogniser(folder: Path, language: str = "") -> Recogniser:
    """The recogniser in ``folder``; of one of many languages, that of ``language``, its adapter folded into the encoder."""
    from lalia.models.adapters import fold
    from lalia.models.baselines import make_encoder
    from lalia.models.recogniser import Recogniser
    from lalia.text.normaliser import Normaliser
    from lalia.text.tokens import Tokens

    read_card(folder, "recogniser")
    place, known = folder, languages_of(folder)
    if known:
        if language not in known and (language or len(known) > 1):
            asked = f"not {language}; take one of them" if language else "one of them has to be named"
            raise UserError(
                f"{folder}: speaks {_listed(known)}, {asked} (`lalia finetune fold --language ...` makes a recogniser "
                "of one language)"
            )
        place = folder / ADAPTERS / (language or known[0])
    tokens, normaliser = Tokens.load(place / TOKENS), Normaliser.from_json(place / NORMALISER)
    if not known and language and normaliser.languages and language not in normaliser.languages:
        raise UserError(f"{folder}: speaks {', '.join(normaliser.languages)}, not {language}")
    recogniser = Recogniser(
        make_encoder(_read_shape(folder)),
        tokens,
        normaliser.for_language(language),
        transducer=_read_transducer(folder),
    )
    weights = _read_weights(folder / WEIGHTS)
    if known:
        adapter = _read_weights(place / ADAPTER)
        weights |= {key: adapter.pop(key) for key in [key for key in adapter if key.startswith("head.")]}
    head_VD = weights.get("head.weight")
    if head_VD is not None and len(head_VD) != len(tokens):
        raise UserError(
            f"{place}: its head speaks {len(head_VD)} tokens, {TOKENS} lists {len(tokens)}; the two are of different"
            " recognisers, copy the folder again"
        )
    _fill(recogniser, weights, folder / WEIGHTS)
    if known:
        fold(recogniser.encoder, adapter)
    return recogniser.eval()


def _listed(codes: list[str]) -> str:
    return ", ".join(codes[:12]) + (f" and {len(codes) - 12} more languages" if len(codes) > 12 else "")


def languages_of(folder: Path) -> list[str]:
    """The languages that the recogniser in ``folder`` has adapters for; none for a plain recogniser."""
    return sorted(path.parent.name for path in (folder / ADAPTERS).glob(f"*/{ADAPTER}"))


def read_adapter(folder: Path, language: str) -> dict[str, Tensor]:
    """The adapter and head of ``language`` in ``folder``, by the names of ``lalia.models.adapters``."""
    return _read_weights(folder / ADAPTERS / language / ADAPTER)


def save_adapted(
    parts: LanguagePart, encoder: Encoder, start: Path, folder: Path, parents: list[dict[str, Any]], **facts: Any
) -> None:
    """Write the recogniser ``folder`` of the shared ``encoder`` and of every language in ``start``, ``parts`` added or renewed.

    ``start`` is the folder that ``encoder`` came from. What it holds of other languages is copied byte by byte; a plain
    recogniser's language gets an adapter that changes nothing.
    """
    from lalia.text.normaliser import Normaliser

    language = parts.normaliser.settings.language
    with replacing(folder) as new:
        if languages_of(start):
            shutil.copyfile(start / WEIGHTS, new / WEIGHTS)
            shutil.copytree(start / ADAPTERS, new / ADAPTERS)
        else:
            save_file(_portable({f"encoder.{key}": w for key, w in encoder.state_dict().items()}), new / WEIGHTS)
            if (start / TOKENS).is_file():
                plain = load_recogniser(start)
                head = {key: w for key, w in plain.state_dict().items() if key.startswith("head.")}
                known = {key: value for key, value in read_card(start).items() if key == "finetuning"}
                for code in plain.normaliser.languages or [""]:
                    own = Normaliser(replace(plain.normaliser.for_language(code).settings, languages={}))
                    _write_language(LanguagePart(head, plain.tokens, own), new, known)
        _write_language(parts, new, facts)
        write_json(new / CONFIG, {"encoder": encoder.shape.to_dict()})
        write_card(
            new, "recogniser", parents, parameters=count_parameters(encoder), frame_s=encoder.shape.frame_s,
            tokens=len(parts.tokens), language=language, languages=languages_of(new), **facts,
        )  # fmt: skip


def save_languages(
    encoder: Encoder,
    languages: Iterable[tuple[str, LanguagePart]],
    folder: Path,
    parents: list[dict[str, Any]],
    **facts: Any,
) -> None:
    """Write the recogniser ``folder`` of the shared ``encoder`` and its ``languages`` (name of the adapter's folder, parts)."""
    with replacing(folder) as new:
        save_file(_portable({f"encoder.{key}": w for key, w in encoder.state_dict().items()}), new / WEIGHTS)
        for name, parts in languages:
            _write_language(parts, new, facts, name)
        write_json(new / CONFIG, {"encoder": encoder.shape.to_dict()})
        write_card(
            new, "recogniser", parents, parameters=count_parameters(encoder), frame_s=encoder.shape.frame_s,
            languages=languages_of(new), **facts,
        )  # fmt: skip


def language_facts(folder: Path, language: str) -> dict[str, Any]:
    """The card's facts for ``language`` alone."""
    return dict(json.loads((folder / ADAPTERS / language / FACTS).read_text(encoding="utf-8")))


def _write_language(parts: LanguagePart, folder: Path, facts: dict[str, Any], name: str = "") -> None:
    place = folder / ADAPTERS / (name or parts.normaliser.settings.language or UNKNOWN_LANGUAGE)
    place.mkdir(parents=True, exist_ok=True)
    save_file(_portable(parts.weights), place / ADAPTER)
    parts.tokens.save(place / TOKENS)
    parts.normaliser.to_json(place / NORMALISER)
    write_json(place / FACTS, facts)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, without buffers."""
    return sum(p.numel() for p in module.parameters())


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Context with a new empty folder that replaces ``folder`` at the end, or is deleted after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    new.chmod(0o755)
    try:
        yield new
        old = new.with_name(new.name + ".old")
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_weights(module: nn.Module, path: Path) -> None:
    save_file(_portable(module.state_dict()), path)


def _portable(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: w.detach().cpu().contiguous() for key, w in weights.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values["encoder"], dict):
            raise TypeError("its encoder is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a model config ({error}); is the folder complete?") from error
    return dict(values)


def _read_shape(folder: Path) -> EncoderShape:
    from lalia.models.baselines import shape_from

    return shape_from(_read_config(folder)["encoder"])


def _read_transducer(folder: Path) -> TransducerShape | None:
    from lalia.models.transducer import TransducerShape

    found = _read_config(folder).get("transducer")
    try:
        return TransducerShape(**found) if found else None
    except TypeError as error:
        raise UserError(
            f"{folder / CONFIG}: its transducer is {found!r} ({error}); copy or make the folder again"
        ) from error


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own error type, OSError or FileNotFoundError
        raise UserError(f"{path}: cannot be read ({error}); copy or make the folder again") from error


def _fill(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    expected = module.state_dict()
    missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    wrong = sorted(k for k in set(expected) & set(weights) if expected[k].shape != weights[k].shape)
    if missing or unknown or wrong:
        what = [f"lacks {missing[:3]}"] * bool(missing) + [f"has unknown {unknown[:3]}"] * bool(unknown)
        what += [f"has other shapes for {wrong[:3]}"] * bool(wrong)
        raise UserError(f"{path}: {', '.join(what)}; its weights do not belong to its {CONFIG}")
    module.load_state_dict(weights)
