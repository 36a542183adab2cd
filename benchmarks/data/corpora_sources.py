"""Raw audio in users' layouts, made from real prompts: a continuous recording, a Kaldi folder, a manifest, a hub folder.

The content is known, so the result of preparation can be checked. Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch

from lalia.data.augment import coloured_noise, telephone
from lalia.data.corpus import Corpus
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

KINDS = ("speech", "telephone speech", "pause", "silence", "music", "noise")
_TELEPHONE_PART = (1 / 3, 4 / 9)  # share of the recording: after an hour, for twenty minutes


@dataclass
class Truth:
    """The content of a recording: spans (kind, start, end), in samples, without gaps."""

    spans: list[tuple[str, Samples, Samples]] = field(default_factory=list)

    @property
    def samples(self) -> Samples:
        return self.spans[-1][2] if self.spans else 0

    def add(self, kind: str, samples: Samples) -> None:
        self.spans.append((kind, self.samples, self.samples + samples))

    def seconds(self) -> dict[str, Seconds]:
        """The total length of each kind."""
        return {kind: sum(to_seconds(b - a) for k, a, b in self.spans if k == kind) for kind in KINDS}

    def kept(self, utterances: list[tuple[Seconds, Seconds]]) -> dict[str, Seconds]:
        """The seconds of each kind within ``utterances``."""
        taken = np.zeros(self.samples // 160 + 1, bool)
        for start, end in utterances:
            taken[int(start * 100) : int(end * 100)] = True
        found = dict.fromkeys(KINDS, 0.0)
        for kind, start, end in self.spans:
            found[kind] += float(taken[start // 160 : end // 160].sum()) / 100
        return found


def make_recording(corpus: Corpus, path: Path, hours: float) -> Truth:
    """One FLAC file of ``hours``: programmes of prompts, with silence, music and noise between; a part is telephone speech."""
    draw = np.random.default_rng(7)
    truth = Truth()
    samples = to_samples(hours * 3600)
    first, last = (int(part * samples) for part in _TELEPHONE_PART)
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        for kind, wave_S in _programme(corpus, draw):
            wave_S = wave_S[: samples - truth.samples]
            if first <= truth.samples < last:
                wave_S = telephone(torch.from_numpy(wave_S)).numpy()
                kind = "telephone speech" if kind == "speech" else kind
            file.write(np.clip(wave_S, -1, 1))
            truth.add(kind, len(wave_S))
            if truth.samples >= samples:
                return truth
    raise AssertionError("the programme ended")


def _programme(corpus: Corpus, draw: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Pieces of an endless broadcast: prompts of one language with pauses, then another sound."""
    names = corpus.language_names
    waiting = {name: list(draw.permutation(corpus.select(language=name))) for name in names}
    while True:
        name = names[int(draw.integers(len(names)))]
        for _ in range(int(draw.integers(5, 25))):
            if not waiting[name]:
                waiting[name] = list(draw.permutation(corpus.select(language=name)))
            yield "speech", corpus.wave(int(waiting[name].pop()))
            # Rooms are never digitally silent.
            yield "pause", _noise(float(draw.uniform(0.2, 1.2)), -62.0, 1.0, draw)
        kind = str(draw.choice(["silence", "music", "noise"], p=[0.4, 0.4, 0.2]))
        seconds = float(draw.uniform(5, 40))
        if kind == "silence":
            yield kind, _noise(seconds, -66.0, 1.0, draw)
        elif kind == "noise":
            yield kind, _noise(seconds, float(draw.uniform(-40, -22)), float(draw.uniform(0, 2)), draw)
        else:
            yield kind, music(seconds, draw)


def music(seconds: Seconds, draw: np.random.Generator) -> np.ndarray:
    """Plucked chords over a bass with a beat of noise, peak 0.3: (S,) float32."""
    samples = to_samples(seconds)
    out_S = np.zeros(samples + 2 * SAMPLE_RATE)
    beat = to_samples(float(draw.uniform(0.25, 0.6)))
    root = 110 * 2 ** (float(draw.integers(12)) / 12)
    scale = [0, 3, 5, 7, 10, 12, 15, 19]
    plucked = {note: _plucked(root * 2 ** (note / 12)) for note in [*scale, -12]}
    for number, at in enumerate(range(0, samples, beat)):
        notes = draw.choice(scale, size=1 + 2 * (number % 4 == 0), replace=False)
        for note in [*notes.tolist(), -12]:
            out_S[at : at + 2 * SAMPLE_RATE] += plucked[note]
        hit = draw.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
        out_S[at : at + 1600] += 0.5 * hit
    return (0.3 * out_S[:samples] / np.abs(out_S).max()).astype(np.float32)


def _plucked(hz: float) -> np.ndarray:
    """A plucked string of ``hz``: two seconds of seven harmonics that fade, higher ones faster."""
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    harmonics = (np.exp(-(1.5 + k / 2) * time_s) * np.sin(2 * np.pi * hz * k * time_s) / k for k in range(1, 8))
    return np.sum(list(harmonics), axis=0)


def _noise(seconds: Seconds, dbfs: float, exponent: float, draw: np.random.Generator) -> np.ndarray:
    noise_S = coloured_noise(to_samples(round(seconds, 1)), exponent, draw)  # The FFT is slow for other lengths.
    return (noise_S * 10 ** (dbfs / 20) / np.sqrt(np.mean(noise_S**2))).astype(np.float32)


def make_kaldi(corpus: Corpus, rows: np.ndarray, folder: Path) -> Path:
    """``data/all`` with recordings of about three minutes, half of them given as a pipe, and their segments."""
    data, audio = folder / "data" / "all", folder / "audio"
    data.mkdir(parents=True, exist_ok=True)
    audio.mkdir(exist_ok=True)
    tables: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "text", "utt2spk", "utt2lang")}
    recordings = np.array_split(rows, max(1, round(float(corpus.durations_s[rows].sum()) / 180)))
    for number, members in enumerate(recordings):
        name = f"rec{number:03d}"
        pieces, at = [], 0
        for place, row in enumerate(members.tolist()):
            wave_S, id = corpus.wave(row), f"{name}-{place:03d}"
            tables["segments"].append(f"{id} {name} {to_seconds(at):.3f} {to_seconds(at + len(wave_S)):.3f}")
            tables["text"].append(f"{id} {corpus.text(row)}")
            tables["utt2spk"].append(f"{id} {corpus.speaker(row) or 'nobody'}")
            tables["utt2lang"].append(f"{id} {corpus.language(row)}")
            pieces += [wave_S, np.zeros(4800, np.float32)]
            at += len(wave_S) + 4800
        suffix = ("wav", "flac")[number % 2]
        soundfile.write(audio / f"{name}.{suffix}", np.concatenate(pieces), SAMPLE_RATE)
        tables["wav.scp"].append(
            f"{name} audio/{name}.wav" if suffix == "wav" else f"{name} flac -c -d -s audio/{name}.flac |"
        )
    for name, lines in tables.items():
        (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data


FORMS = ("wav", "flac", "ogg", "opus", "mp3")


def make_manifest(corpus: Corpus, rows: np.ndarray, folder: Path) -> tuple[Path, dict[str, int]]:
    """``clips.tsv`` with Common Voice's columns, audio in five formats, and a bad clip of each kind.

    Returns the table and the number of clips that preparation must leave out, by reason.
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    table = ["client_id\tpath\tsentence\tlocale"]
    for number, row in enumerate(rows.tolist()):
        name = f"clips/{number:04d}.{FORMS[number % len(FORMS)]}"
        _write(folder / name, corpus.wave(row))
        table.append(f"{corpus.speaker(row)}\t{name}\t{corpus.text(row)}\t{corpus.language(row)}")
    bad = _bad_files(folder / "clips", corpus.wave(int(rows[0])))
    first = corpus.text(int(rows[0]))  # A duplicate needs the same words, else it is a conflicting label.
    texts = {name: first if reason == "duplicate" else f"words of {name}" for name, reason in bad.items()}
    table += [f"nobody\tclips/{name}\t{text}\teng" for name, text in texts.items()]
    lines = "\n".join(table).encode() + b"\nnobody\tclips/0000.wav\tperch\xe9\tita\n"
    (folder / "clips.tsv").write_bytes(lines)
    reasons: dict[str, int] = {"bad row": 1}
    for reason in bad.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return folder / "clips.tsv", reasons


def _bad_files(folder: Path, wave_S: np.ndarray) -> dict[str, str]:
    """Unusable files, with the reason that preparation must report for each."""
    _write(folder / "whole.wav", wave_S)
    (folder / "cut.wav").write_bytes((folder / "whole.wav").read_bytes()[: len(wave_S)])
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "page.ogg").write_text("<html>404 Not Found</html>" * 50)
    (folder / "wrong.mp3").write_bytes((folder / "whole.wav").read_bytes())
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "one.wav", np.full(1, 0.5), SAMPLE_RATE)
    soundfile.write(folder / "still.flac", np.zeros(16_000), SAMPLE_RATE)
    return {
        "cut.wav": "cut short",
        "empty.mp3": "empty",
        "page.ogg": "unreadable",
        "wrong.mp3": "duplicate",  # Its content is the first clip again.
        "nan.wav": "not finite",
        "one.wav": "too short",
        "still.flac": "silent",
        "gone.wav": "missing",
    }


def make_hub_folder(corpus: Corpus, rows: np.ndarray, folder: Path) -> Path:
    """An ``audiofolder`` of the hub: train/, validation/ and test/, each with WAV files and ``metadata.jsonl``."""
    splits = ("train", "train", "train", "train", "train", "train", "train", "train", "validation", "test")
    lines: dict[str, list[str]] = {split: [] for split in dict.fromkeys(splits)}
    for number, row in enumerate(rows.tolist()):
        split = splits[number % len(splits)]
        _write(folder / split / f"{number:04d}.wav", corpus.wave(row))
        facts = {"file_name": f"{number:04d}.wav", "transcription": corpus.text(row), "language": corpus.language(row)}
        lines[split].append(json.dumps(facts, ensure_ascii=False))
    for split, text in lines.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / "metadata.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def _write(path: Path, wave_S: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    form, kind = {
        ".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"),
        ".flac": ("FLAC", "PCM_16"), ".wav": ("WAV", "PCM_16"),
    }[path.suffix]  # fmt: skip
    soundfile.write(path, np.clip(wave_S, -1, 1), SAMPLE_RATE, format=form, subtype=kind)
