"""Lineage for people: a card, what it says of itself in a line, and the same of its parents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lalia.cards import NAME, read_card
from lalia.report import formats


@dataclass(frozen=True)
class Node:
    """One content in the tree of what a model is made of."""

    kind: str
    id: str
    """the first letters of its content hash"""
    facts: str
    parents: list[Node] = field(default_factory=list)


def lineage_of(card: dict[str, Any]) -> Node:
    """The tree behind ``card``. A parent that is also a parent's parent stands there only, where it was used first."""
    parents = card.get("parents", [])
    deeper = {id for parent in parents for id in _ids_behind(parent)}
    kept = [lineage_of(parent) for parent in parents if parent.get("id") not in deeper]
    return Node(card["kind"], short_hash(card.get("id", "")), describe(card), kept)


def product_card(run: Path) -> dict[str, Any] | None:
    """The card of what the run in ``run`` made, or None while it has made nothing."""
    for name in ("student", "recogniser", "encoder"):
        if (run / name / NAME).is_file():
            return read_card(run / name)
    return None


def short_hash(id: str) -> str:
    return id.removeprefix("sha256:")[:10]


def describe(card: dict[str, Any]) -> str:
    """What ``card`` says of its content, in one line."""
    facts = _corpus_facts(card) if card["kind"] == "corpus" else _model_facts(card)
    return " · ".join(facts)


def total_hours(card: dict[str, Any]) -> float:
    """Hours of audio in a corpus, all languages and splits."""
    return float(sum(sum(splits.values()) for splits in card.get("hours", {}).values()))


def _corpus_facts(card: dict[str, Any]) -> list[str]:
    facts = [str(card.get("source", ""))] if card.get("source") else []
    if card.get("clips"):
        facts.append(f"{formats.count(sum(card['clips'].values()))} clips")
    if card.get("hours"):
        facts += [formats.hours(total_hours(card)), ", ".join(card["hours"])]
    return facts + list(card.get("licences", []))


def _model_facts(card: dict[str, Any]) -> list[str]:
    facts = [f"{formats.count(card['parameters'])} parameters"] if "parameters" in card else []
    if made := card.get("pretraining"):
        facts.append(
            f"pretrained on {formats.hours(made['hours'])}: accuracy {made['accuracy']:.3f} where chance is "
            f"{made['chance']:.4f}, code perplexity {made['code_perplexity']:.0f} of {made['codes']}"
        )
    # A recogniser from elsewhere says less of how it came to be.
    if (made := card.get("finetuning")) and {"start", "minutes_of_labels", "test_cer"} <= set(made):
        facts.append(
            f"fine-tuned from {made['start']} weights on {made['minutes_of_labels']:g}{formats.THIN}min of labels: "
            f"test CER {formats.percent(made['test_cer'])}"
        )
    if made := card.get("distillation"):
        facts.append(f"distilled in {made['steps']:,} steps: test CER {formats.percent(made['test_cer'])}")
    if card["kind"] == "student":
        facts.append(f"{formats.megabytes(card['bytes'] / 1e6)} of ONNX" if "bytes" in card else "ONNX")
    return facts


def _ids_behind(card: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for parent in card.get("parents", []):
        found |= {parent.get("id", "")} | _ids_behind(parent)
    return found
