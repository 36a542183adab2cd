"""The raw files that the documents' commands name, made from the committed speech: what a user would bring."""

from __future__ import annotations

import csv
import gzip
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.decoding.scripts import normaliser_of, read_rows
from lalia.audio.reading import read_audio

ROOT = Path(__file__).parents[2]
SPEECH = Path(__file__).parent / "speech"
RATE = 16_000


@dataclass(frozen=True)
class Clip:
    """One committed clip."""

    path: Path
    sentence: str
    speaker: str
    language: str

    def wave(self) -> np.ndarray:
        return read_audio(self.path).astype(np.float32)


def committed() -> list[Clip]:
    with (SPEECH / "clips.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Clip(SPEECH / row["path"], row["sentence"], row["speaker"], row["language"]) for row in rows]


def in_language(clips: list[Clip], language: str) -> list[Clip]:
    """``clips`` with labels from the Universal Declaration of Human Rights, of the length that fits each clip.

    What is said is something else: the journeys train for four steps, which teach nothing.
    """
    writing = normaliser_of(language).writing
    rows = [row for row in read_rows() if row.language == language and row.source.startswith("UDHR")]
    pieces = writing.cut(" ".join(row.right for row in rows))
    found = []
    for number, clip in enumerate(clips):
        text: list[str] = []
        while sum(map(len, text)) < 8 * soundfile.info(clip.path).duration:
            text.append(pieces[(7 * number + len(text)) % len(pieces)])
        found.append(replace(clip, sentence=writing.join(text), language=language))
    return found


def lay_out_scripts(folder: Path) -> None:
    """What docs/any-script.md begins with, beside ``lay_out``."""
    swahili = [clip for clip in committed() if clip.language == "swh"]
    clips = swahili[:24]
    for name, language in (("korean", "kor"), ("thai", "tha"), ("tibetan", "bod")):
        _copied(folder / f"{name}.tsv", folder / name, in_language(clips, language))
        shutil.copy(folder / "talk.mp3", folder / f"{name}.mp3")
    both = [*in_language(clips, "deu"), *in_language(swahili[24:], "tur")]  # of fewer than 20 clips none is held out
    _copied(folder / "german-turkish.tsv", folder / "german-turkish", both)
    shutil.copy(folder / "talk.mp3", folder / "turkish.mp3")
    sentences = [f"{clip.sentence}\n" for clip in in_language(clips, "tha")]
    (folder / "thai.txt").write_text("".join(sentences), encoding="utf-8")
    (folder / "thai-names.txt").write_text("เสรีภาพ\n", encoding="utf-8")


def lay_out(folder: Path) -> None:
    """Put everything that a chain begins with into ``folder``, and configs/, as in a checkout."""
    (folder / "configs").symlink_to(ROOT / "configs")
    clips = committed()
    swahili = [clip for clip in clips if clip.language == "swh"]
    icelandic = [clip for clip in clips if clip.language == "isl"]

    _table(folder / "clips.tsv", folder / "clips", swahili)
    _table(folder / "icelandic.tsv", folder / "icelandic", icelandic)
    # A column of labels of whole clips; not what these clips are.
    moods = ["emotion", *("calm" if number % 2 else "angry" for number in range(len(icelandic)))]
    rows = (folder / "icelandic.tsv").read_text(encoding="utf-8").splitlines()
    table = "".join(f"{row}\t{mood}\n" for row, mood in zip(rows, moods, strict=True))
    (folder / "acted.tsv").write_text(table, encoding="utf-8")
    # Recordings without labels: programmes with pauses, in the containers that people have.
    for number, name in enumerate(("monday.mp3", "archive/1998/tape.ogg", "archive/wednesday.flac", "thursday.wav")):
        _write(folder / "recordings" / name, _joined(swahili[number::4]))
    _write(folder / "podcasts" / "first.mp3", _joined(icelandic[::2]))
    _write(folder / "podcasts" / "second.mp3", _joined(icelandic[1::2]))
    _write(folder / "talk.mp3", _joined(swahili[:5]))
    _write(folder / "talks" / "one.mp3", _joined(swahili[5:7]))
    _write(folder / "talks" / "two.flac", _joined(swahili[7:9]))
    _write(folder / "clip.wav", swahili[9].wave())

    sentences = (SPEECH / "sentences-swh.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "news.txt").write_text("".join(sentences[:120]), encoding="utf-8")
    (folder / "talks.txt").write_text("".join(sentences[120:]), encoding="utf-8")
    with gzip.open(folder / "talks.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(sentences[120:])
    shutil.copy(SPEECH / "sentences-isl.txt", folder / "frettir.txt")
    (folder / "names.txt").write_text("mwanza\t6\ndodoma\n", encoding="utf-8")
    (folder / "commands.txt").write_text("washa (taa|redio)\nzima [hiyo] taa\n", encoding="utf-8")
    _kaldi(folder / "kaldi", swahili[:12])
    _text_grid(folder / "interviews" / "anna", swahili[10:16])
    _subtitles(folder / "interviews" / "baraka", swahili[16:22])
    # A call: each side is silent while the other one speaks.
    turns = [
        _turn(clip, number % 2) for number, clip in enumerate((swahili[22], swahili[23], swahili[24], swahili[25]))
    ]
    _write(folder / "calls" / "call.wav", np.concatenate(turns))


def _table(path: Path, folder: Path, clips: list[Clip]) -> None:
    """A table of labels, and beside it the folder of MP3s that it names."""
    rows = ["path\tsentence\tspeaker\n"]
    for clip in clips:
        name = f"{clip.path.stem}.mp3"
        _write(folder / name, clip.wave())
        rows.append(f"{name}\t{clip.sentence}\t{clip.speaker}\n")
    path.write_text("".join(rows), encoding="utf-8")


def _copied(path: Path, folder: Path, clips: list[Clip]) -> None:
    """A table of labels with their languages, and beside it the folder of clips that it names, as they are."""
    folder.mkdir()
    rows = ["path\tsentence\tspeaker\tlanguage\n"]
    for clip in clips:
        shutil.copy(clip.path, folder)
        rows.append(f"{clip.path.name}\t{clip.sentence}\t{clip.speaker}\t{clip.language}\n")
    path.write_text("".join(rows), encoding="utf-8")


def _kaldi(folder: Path, clips: list[Clip]) -> None:
    folder.mkdir()
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for clip in clips:
        name = f"{clip.speaker}-{clip.path.stem}"
        lines["wav.scp"].append(f"{name} {folder.name}/{clip.path.name}\n")
        lines["text"].append(f"{name} {clip.sentence}\n")
        lines["utt2spk"].append(f"{name} {clip.speaker}\n")
        shutil.copy(clip.path, folder / clip.path.name)
    for name, rows in lines.items():
        (folder / name).write_text("".join(rows), encoding="utf-8")


def _timed(clips: list[Clip], pause_s: float = 0.8) -> list[tuple[float, float, str]]:
    """When each clip of ``_joined`` begins and ends, and what is said in it."""
    found, start_s = [], 0.0
    for clip in clips:
        end_s = start_s + len(clip.wave()) / RATE
        found.append((start_s, end_s, clip.sentence))
        start_s = end_s + pause_s
    return found


def _text_grid(name: Path, clips: list[Clip]) -> None:
    """A recording and Praat's annotation of it."""
    _write(name.with_suffix(".flac"), _joined(clips))
    intervals, last_s = [], 0.0
    for start_s, end_s, text in _timed(clips):
        if start_s > last_s:
            intervals.append((last_s, start_s, ""))
        intervals.append((start_s, end_s, text))
        last_s = end_s
    head = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {last_s}",
        "tiers? <exists>",
    ]
    head += ["size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"', '        name = "utterances"']
    head += ["        xmin = 0", f"        xmax = {last_s}", f"        intervals: size = {len(intervals)}"]
    for number, (start_s, end_s, text) in enumerate(intervals, 1):
        head += [f"        intervals [{number}]:", f"            xmin = {start_s}", f"            xmax = {end_s}"]
        quoted = text.replace('"', '""')
        head.append(f'            text = "{quoted}"')
    name.with_suffix(".TextGrid").write_text("\n".join(head) + "\n", encoding="utf-8")


def _subtitles(name: Path, clips: list[Clip]) -> None:
    """A recording and its subtitles."""
    _write(name.with_suffix(".mp3"), _joined(clips))
    lines = []
    for number, (start_s, end_s, text) in enumerate(_timed(clips), 1):
        lines.append(f"{number}\n{_clock(start_s)} --> {_clock(end_s)}\n{text}\n\n")
    name.with_suffix(".srt").write_text("".join(lines), encoding="utf-8")


def _clock(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def _turn(clip: Clip, side: int) -> np.ndarray:
    wave = clip.wave()
    return np.stack([wave if side == channel else np.zeros_like(wave) for channel in (0, 1)], axis=1)


def _joined(clips: list[Clip], pause_s: float = 0.8) -> np.ndarray:
    pause = np.zeros(int(pause_s * RATE), np.float32)
    return np.concatenate([piece for clip in clips for piece in (clip.wave(), pause)])


def _write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".mp3": "MP3", ".ogg": "OGG", ".flac": "FLAC", ".wav": "WAV"}
    soundfile.write(path, wave, RATE, format=formats[path.suffix])
