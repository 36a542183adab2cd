"""A corpus made by hand: each letter is a chord, so that a recogniser of a few thousand parameters has something to learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lalia.audio.encoding import flac_bytes
from lalia.cards import write_card
from lalia.data.corpus import COLUMNS, SCHEMA, SPLITS, Corpus, schema_with, write_index

LETTER_S = 0.09
WORDS = {
    "ita": ("pronto", "grazie", "uno", "due", "sette", "numero", "sbagliato", "attendere", "prego", "linea"),
    "eng": ("hello", "thanks", "one", "two", "seven", "number", "wrong", "hold", "please", "line"),
    "deu": ("Indien", "ist", "groß"),
    "tur": ("ISPARTA", "ilk"),
}


def chant(text: str, random: np.random.Generator) -> np.ndarray:
    """A wave (samples,) in which each letter is a chord of two tones under a little noise, and a space is silence."""
    t = np.arange(int(LETTER_S * 16_000)) / 16_000
    fade = np.minimum(1.0, 12 * np.minimum(t, t[::-1]) / LETTER_S)
    pitch = random.uniform(0.97, 1.03)
    pieces = [np.zeros(1600)]
    for letter in text:
        code = ord(letter) - ord("a")
        tones = (250 + 55 * (code % 6), 900 + 260 * (code // 6)) if letter != " " else ()
        pieces.append(fade * sum((np.sin(2 * np.pi * hz * pitch * t) for hz in tones), np.zeros_like(t)) * 0.2)
    wave = np.concatenate([*pieces, np.zeros(1600)])
    return (wave + random.normal(scale=0.004, size=len(wave))).astype(np.float32)


def make_corpus(folder: Path, sentences: int = 36, languages: Sequence[str] = ("ita", "eng"), **facts: Any) -> Path:
    """Write a corpus of ``sentences`` clips of 1 to 3 s per language: two of three to train, the rest to dev and test."""
    random = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for language in languages:
        for i in range(sentences):
            text = " ".join(random.choice(WORDS[language], random.integers(2, 6)))
            wave = chant(text, random)
            rows.append(
                {
                    "id": f"{language}/{i:03d}",
                    "audio": {"bytes": flac_bytes(wave), "path": f"{i:03d}.flac"},
                    "language": language,
                    "text": text,
                    "speaker": "nobody",
                    "split": SPLITS[max(0, i % 6 - 3)],
                    "duration_s": len(wave) / 16_000,
                    "source": "synthetic",
                    "snr_db": 30.0,
                    "clipping": 0.0,
                    "speech_ratio": 1.0,
                    "loudness_dbfs": -20.0,
                    "original_rate": 16_000,
                    "bandwidth_hz": 8_000.0,
                }
            )
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    write_index(folder, [name], len(rows), (folder / name).stat().st_size, "0123456789abcdef", "synthetic")
    corpus = Corpus.open(folder, {})
    counted = {split: int(np.sum(corpus.splits == code)) for code, split in enumerate(SPLITS)}
    hours = {"clips": counted, "hours": corpus.hours(), "labelled_hours": corpus.hours(labelled=True)}
    write_card(folder, "corpus", [], **{"source": "synthetic", **hours, "licences": ["CC0"], **facts})
    return folder


def write_clips(folder: Path, clips: Sequence[dict[str, Any]]) -> Path:
    """Write a corpus of ``clips``, each a ``wave`` and values of columns; those that no other corpus has are kept too."""
    rows: list[dict[str, Any]] = []
    for number, clip in enumerate(clips):
        empty = {name: "" if pa.types.is_string(kind) else 0 for name, kind in COLUMNS.items()}
        wave = clip["wave"]
        facts = {"id": f"{number:04d}", "language": "und", "split": "train", "duration_s": len(wave) / 16_000}
        audio = {"bytes": flac_bytes(wave), "path": f"{number:04d}.flac"}
        rows.append(
            {**empty, **facts, "audio": audio, **{name: value for name, value in clip.items() if name != "wave"}}
        )
    folder.mkdir(parents=True)
    extra: dict[str, Literal["string", "float"]] = {name: "string" for name in rows[0] if name not in COLUMNS}
    schema, name = schema_with(extra), "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    write_index(folder, [name], len(rows), (folder / name).stat().st_size, "0123456789abcdef", "synthetic", extra)
    corpus = Corpus.open(folder, {})
    write_card(folder, "corpus", [], clips=corpus.tally(), hours=corpus.hours(), licences=["CC0"])
    return folder
