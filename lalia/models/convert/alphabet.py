"""The symbols of a peer's CTC head, and what its labels must have looked like."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

from lalia.models.convert.parts import Head
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import BLANK, BOUNDARY, Tokens


def make_head(
    weight_VD: Tensor, bias_V: Tensor, symbols: Sequence[str], blank: int, delimiter: str, language: str
) -> Head:
    """A head whose blank stands at 0 and whose word boundary is called as this house calls it; no logit is lost."""
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
    """A normaliser that leaves of a text what ``symbols`` can spell: their case, apostrophes, hyphens and punctuation."""
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
