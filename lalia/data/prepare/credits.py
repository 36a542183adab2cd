"""Who made Asterisk's prompts, under which licence, and the attribution that it asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """A language's voice as the prompts' copyright file states it."""

    name: str
    years: str
    licence: str
    credits: str


_ALLISON = Voice(
    "Allison Smith",
    "2003-2010",
    "CC BY-SA 3.0",
    "recorded by Allison Smith (http://www.theivrvoice.com); financial contributions by Digium, Inc."
    " (http://www.digium.com)",
)

VOICES = {
    "eng": _ALLISON,
    "spa": _ALLISON,
    "fra": Voice(
        "June Wallack",
        "2006-2008",
        "CC BY-SA 3.0",
        "recorded by June Wallack (http://www.junewallack.com); translated by Clod Patry, Kristopher Lalletti and June"
        " Wallack; financial contributions by Digium, Inc. (http://www.digium.com), Unlimitel (http://www.unlimitel.ca) and"
        " BGM Informatique (www.bgm.qc.ca)",
    ),
    "ita": Voice(
        "Carlo Flora",
        "2012",
        "CC BY 3.0",
        "recorded by Carlo Flora (http://www.carloflora.com, http://www.segreterietelefoniche.it); translated by Silvia"
        " Petrin (traduttore@segreterietelefoniche.it) from the English distributed by Digium",
    ),
    "rus": Voice("Maxim Topal", "2010", "CC BY 3.0", "provided by Maxim Topal (http://www.ivrvoice.ru)"),
}

DEEDS = {
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
}


def attribution() -> str:
    """``ATTRIBUTION.md`` of a corpus made from the prompts."""
    rows = [f"| {code} | {v.name}, {v.years} | {v.licence} | {v.credits} |" for code, v in VOICES.items()]
    deeds = [f"- {name}: {address}" for name, address in DEEDS.items()]
    return "\n".join(
        [
            "# Attribution",
            "",
            "The recordings and transcripts in this corpus are Asterisk's core sound prompts, version 1.6.1, published by",
            "the Asterisk project (https://www.asterisk.org) and packaged by Debian. They were changed: decoded from G.722",
            "and packed as FLAC; single digits in the transcripts were spelled, and transcripts that are not what is heard",
            "were left out. `COPYRIGHT.txt` is the copyright file that came with them.",
            "",
            "| language | voice | licence | credits |",
            "|---|---|---|---|",
            *rows,
            "",
            *deeds,
            "",
            "Whoever passes this corpus on, or something adapted from it, names these people and, for the parts under",
            "CC BY-SA, keeps that licence.",
            "",
        ]
    )
