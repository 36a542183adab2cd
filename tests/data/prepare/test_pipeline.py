"""Preparation as a user meets it: what becomes a clip, what is left out and why, and what survives a kill."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lalia.cards import read_card, write_json
from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline, shards
from lalia.data.prepare.listing import Listing, SourceClip
from lalia.data.prepare.segments import Segmentation
from lalia.errors import UserError
from tests.tiny_clips import encoded, in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


def make(listing: Listing, out: Path, segmentation: Segmentation | None = None, duplicates: str = "near") -> Corpus:
    recipe = pipeline.Recipe("test", {}, segmentation, duplicates)
    pipeline.prepare(lambda work: listing, recipe, out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


def listed(folder: Path, count: int, seconds: float = 0.6) -> Listing:
    clips = []
    for number in range(count):
        path = save(folder / f"{number:03d}.wav", voiced(number, seconds))
        clips.append(SourceClip(f"{number:03d}", str(path), "ita", text=f"clip {number}", speaker=f"s{number % 3}"))
    return Listing("test", clips)


def skipped(corpus: Path) -> dict[str, str]:
    with (corpus / "skipped.tsv").open(encoding="utf-8") as file:
        return {row["clip"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bad_clips_are_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(tmp_path / "a" / "good.wav", voiced(1))
    save(tmp_path / "a" / "silent.wav", np.zeros(16_000, np.float32))
    save(tmp_path / "a" / "nan.wav", np.full(1600, np.nan, np.float32), subtype="FLOAT")
    save(tmp_path / "a" / "one.wav", np.full(1, 0.5, np.float32))
    save(tmp_path / "a" / "surround.wav", np.stack([voiced(2, 0.5, 96_000)] * 6, axis=1), 96_000)
    (tmp_path / "a" / "nothing.wav").write_bytes(b"")
    (tmp_path / "a" / "cut.wav").write_bytes(good.read_bytes()[:9000])
    (tmp_path / "a" / "words.mp3").write_text("this is no sound " * 100)
    assert main(["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1"]) == 0
    assert skipped(tmp_path / "c") == {
        "silent.wav": "silent",
        "nan.wav": "not finite",
        "one.wav": "too short",
        "nothing.wav": "empty",
        "words.mp3": "unreadable",
    }
    corpus = Corpus.load(tmp_path / "c")
    assert corpus.column("id") == ["cut.wav", "good.wav", "surround.wav"]
    assert corpus.column("original_rate") == [16_000, 16_000, 96_000]
    assert corpus.card["dropped"]["silent"] == 1 and corpus.card["notes"] == {"cut short": 1}
    assert np.abs(corpus.wave(1) - voiced(1)).max() < 1e-4
    assert "used with a note, see notes.tsv: 1 cut short" in capsys.readouterr().err


def test_no_usable_clip_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a" / "silent.wav", np.zeros(16_000, np.float32))
    assert main(["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1"]) == 2
    assert "not one clip is fit (1 silent)" in capsys.readouterr().err
    assert (tmp_path / "c" / "skipped.tsv").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "no such file or folder"),
        (["empty"], "contains no audio"),
        (["empty", "--language", "klingon!"], "language 'klingon!' is unknown"),
        (["empty", "--columns", "words"], "expected OURS=THEIRS"),
        (["empty", "--shortest", "30"], "expected 0.1 to 120 s"),
        (["empty", "--dev", "40", "--test", "40"], "expected a sum of at most 50"),
        (["empty", "--audio", "empty"], "for demo only"),
        (["file.xyz"], "is neither audio nor a table or annotation of audio"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.xyz").touch()
    assert main(["prepare", *arguments, "--out", "c", "--workers", "1"]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message


def test_again_it_says_that_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a" / "x.wav", voiced(1))
    command = ["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1"]
    assert main(command) == 0
    before = content(tmp_path / "c")
    assert main(command) == 0
    assert "is finished (1 clips" in capsys.readouterr().err
    assert content(tmp_path / "c") == before
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "./a", "--out", "c", "--workers", "1"]) == 0  # the same folder, typed otherwise
    assert main([*command, "--language", "ita"]) == 2
    assert "holds another corpus (language: as usual, now ita)" in capsys.readouterr().err
    card = json.loads((tmp_path / "c" / "card.json").read_text(encoding="utf-8"))
    card["recipe"] |= {"dev": 5.0, "test": 5.0}  # as every corpus was prepared when 5 was the default
    write_json(tmp_path / "c" / "card.json", card)
    assert main(command) == 0
    assert main([*command, "--dev", "9"]) == 2
    assert "holds another corpus (dev: 5.0, now 9.0" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*work"))


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a corpus"):
        make(listed(tmp_path / "a", 2), tmp_path / "c")
    assert (tmp_path / "c" / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_preparation_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    listing = listed(tmp_path / "a", 11)
    whole = make(listing, tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("*.arrow"))) == 4

    read = shards.Reader.read
    calls = Counter[str]()

    def dies_at_8(reader: shards.Reader, clip: SourceClip) -> Any:
        calls[clip.id] += 1
        if clip.id == "008" and calls[clip.id] == 1:
            raise KeyboardInterrupt
        return read(reader, clip)

    monkeypatch.setattr(shards.Reader, "read", dies_at_8)
    monkeypatch.setattr(shards, "plan_units", lambda listing, choice: [shards.Unit(0, listing.clips)])
    monkeypatch.setattr(pipeline, "plan_units", lambda listing, choice: [shards.Unit(0, listing.clips)])
    with pytest.raises(KeyboardInterrupt):
        make(listing, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    make(listing, tmp_path / "broken")
    assert calls["004"] == 1, "what was in a shard is not read again"
    assert calls["006"] == 2, "what was not in one yet is"
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert whole.column("id") == [f"{n:03d}" for n in range(11)]


def test_a_recording_cut_in_two_sittings_is_cut_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    silence = np.zeros(32_000, np.float32)
    talk = np.concatenate([part for n in range(7) for part in (voiced(n, 3.0), silence)])
    path = save(tmp_path / "talk.wav", talk)
    listing = Listing("talk", [SourceClip("talk.wav", str(path), "ita")])
    segmentation = Segmentation(1.0, 8.0)
    whole = make(listing, tmp_path / "whole", segmentation)
    assert len(whole) == 7
    assert np.allclose(whole.durations_s, 3.3, atol=0.15)
    assert whole.card["cut"]["recordings"] == 1
    assert whole.card["cut"]["silence_h"] == pytest.approx((7 * 2 - 7 * 0.3) / 3600, rel=0.1)

    made = shards.Reader._make
    count = Counter[str]()

    def dies_once(reader: shards.Reader, clip: SourceClip, name: str, *rest: object) -> object:
        count["made"] += 1
        if count["made"] == 4:
            raise KeyboardInterrupt
        return made(reader, clip, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shards.Reader, "_make", dies_once)
    with pytest.raises(KeyboardInterrupt):
        make(listing, tmp_path / "broken", segmentation)
    make(listing, tmp_path / "broken", segmentation)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_duplicates_are_left_out_once(tmp_path: Path) -> None:
    wave = voiced(5, 4.0)
    files = {
        "a.wav": encoded(wave, form="WAV"),
        "b.flac": encoded(wave),
        "c.ogg": encoded(wave * 0.3, form="OGG"),
        "d.wav": encoded(voiced(6, 4.0), form="WAV"),
    }
    clips = [SourceClip(name, name, "ita", data=data) for name, data in files.items()]
    corpus = make(Listing("test", clips), tmp_path / "near")
    assert corpus.column("id") == ["a.wav", "d.wav"]
    assert skipped(tmp_path / "near") == {"b.flac": "duplicate", "c.ogg": "near duplicate"}
    assert make(Listing("test", clips), tmp_path / "exact", None, "exact").column("id") == ["a.wav", "c.ogg", "d.wav"]
    assert len(make(Listing("test", clips), tmp_path / "keep", None, "keep")) == 4


def test_of_two_the_labelled_one_stays_and_two_labels_that_differ_both_stay(tmp_path: Path) -> None:
    wave, other = voiced(5, 4.0), voiced(6, 4.0)
    clips = [
        SourceClip("raw", "raw", "ita", data=encoded(wave)),
        SourceClip("labelled", "labelled", "ita", text="ciao", data=encoded(wave * 0.5)),
        SourceClip("one", "one", "ita", text="one", data=encoded(other)),
        SourceClip("two", "two", "ita", text="two", data=encoded(other * 0.5)),
    ]
    assert make(Listing("test", clips), tmp_path / "c").column("id") == ["labelled", "one", "two"]


def test_a_label_that_contradicts_that_of_the_same_samples_is_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.wav", voiced(5, 2.0))
    save(tmp_path / "d.wav", voiced(6, 2.0))
    table = tmp_path / "t.tsv"
    table.write_text("path\ttext\na.wav\tmoja\nb.wav\tmbili\nc.wav\tMoja!\nd.wav\ttatu\nd.wav\tnne\n")
    assert main(["prepare", str(table), "--out", str(tmp_path / "c"), "--workers", "1"]) == 0
    rows = [line.split("\t") for line in (tmp_path / "c" / "skipped.tsv").read_text().splitlines()[1:]]
    assert rows == [
        ["b.wav", "conflicting label", "the same samples as a.wav, which has another label: 'moja', not 'mbili'"],
        ["c.wav", "duplicate", "the same samples as a.wav"],
        ["d.wav~2", "conflicting label", "the same samples as d.wav, which has another label: 'tatu', not 'nne'"],
    ]
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "2 conflicting label" in error
        and "2 clips hold the same samples as another clip with a different label" in error
    )


def test_a_line_says_what_became_of_recordings_that_were_cut(tmp_path: Path) -> None:
    quiet = np.zeros(30 * 16_000, np.float32)
    path = save(tmp_path / "talk.wav", np.concatenate([voiced(1, 6.0), quiet, voiced(2, 6.0)]))
    console = Console(file=io.StringIO(), soft_wrap=True)
    listing = Listing("talk", [SourceClip("talk", str(path), "ita")])
    pipeline.prepare(
        lambda work: listing,
        pipeline.Recipe("test", {}, Segmentation(), "near"),
        tmp_path / "c",
        in_this_process,
        console,
    )
    assert isinstance(console.file, io.StringIO)
    assert "0.7 min of recordings were cut: 0.2 min in utterances, 0.5 silence\n" in console.file.getvalue()


def test_where_what_was_held_out_cannot_be_used_the_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "good.wav", voiced(5, 90.0))
    (tmp_path / "a" / "page.wav").write_bytes(b"RIFFnothing")
    assert main(["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1", "--cut", "never"]) == 0
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "held out: nothing, since no clip that was chosen for it is usable, see skipped.tsv; `lalia pretrain fit`"
        in error
    )


def test_a_full_disk_is_reported_and_finished_work_is_kept(tmp_path: Path) -> None:
    """The limit on the size of files stands in for a disk that is full: both are an OSError while writing."""
    listing = tmp_path / "a"
    for number in range(6):
        save(listing / f"{number}.wav", voiced(number, 3.0))
    code = (
        "import resource, sys; from lalia.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        f"sys.exit(main(['prepare', {str(listing)!r}, '--out', {str(tmp_path / 'c')!r}, '--workers', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File too large); make room and run again" in done.stderr
    assert main(["prepare", str(listing), "--out", str(tmp_path / "c"), "--workers", "1"]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_reported(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        make(listed(tmp_path / "a", 1), tmp_path / "locked" / "c")


def test_killed_processes_leave_what_the_next_ones_finish(tmp_path: Path) -> None:
    """kill -9 of everything in the middle, then the same command with more workers: the bytes of an unbroken run."""
    for number in range(40):
        save(tmp_path / "a" / f"{number:02d}.wav", voiced(number, 1.0))
    code = (
        "import sys; from lalia.data.prepare import shards; shards.SHARD_ROWS = 5\n"
        "from lalia.cli.main import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "small_shards.py"
    script.write_text(code)

    def command(name: str, workers: int) -> list[str]:
        out = str(tmp_path / name)
        return [sys.executable, str(script), "prepare", str(tmp_path / "a"), "--out", out, "--workers", str(workers)]

    subprocess.run(command("whole", 1), check=True, capture_output=True, timeout=120)
    running = subprocess.Popen(
        command("broken", 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / ".broken.work" / "parts").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(10)
    assert not (tmp_path / "broken" / "card.json").exists()
    subprocess.run(command("broken", 2), check=True, capture_output=True, timeout=120)
    assert content(tmp_path / "broken").keys() == content(tmp_path / "whole").keys()
    same = content(tmp_path / "whole")
    for name, data in content(tmp_path / "broken").items():
        assert data == same[name], name


def test_a_decoder_that_crashes_costs_one_clip(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "a" / f"{number}.wav", voiced(number, 0.5))
    code = (
        "import os, sys; from lalia.data.prepare import rows\n"
        "read = rows.read_blocks\n"
        "def crashes(source, *rest, **how):\n"
        "    if str(source).endswith('2.wav'): os.abort()\n"
        "    return read(source, *rest, **how)\n"
        "rows.read_blocks = crashes\n"
        "from lalia.cli.main import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "crashing.py"
    script.write_text(code)
    command = [
        sys.executable,
        str(script),
        "prepare",
        str(tmp_path / "a"),
        "--out",
        str(tmp_path / "c"),
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert skipped(tmp_path / "c") == {"2.wav": "unreadable"}
    assert Corpus.load(tmp_path / "c").column("id") == ["0.wav", "1.wav", "3.wav"]


def test_the_card_counts_what_the_corpus_holds(tmp_path: Path) -> None:
    corpus = make(listed(tmp_path / "a", 5), tmp_path / "c")
    card = read_card(tmp_path / "c", "corpus")
    assert card["clips"] == {"train": 5, "dev": 0, "test": 0}
    assert card["speakers"] == 3
    assert card["hours"]["ita"]["train"] == pytest.approx(float(corpus.durations_s.sum()) / 3600, abs=1e-4)
    assert json.loads((tmp_path / "c" / "dataset_info.json").read_text())["splits"]["train"]["num_examples"] == 5


def test_a_ray_cluster_makes_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    for number in range(6):
        save(tmp_path / "a" / f"{number}.wav", voiced(number, 0.5))
    command = ["prepare", str(tmp_path / "a"), "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "local")]) == 0
    status = main([*command, "--out", str(tmp_path / "ray"), "--engine", "ray"])
    if status and "Ray does not start here" in capsys.readouterr().err:
        pytest.skip("Ray does not start on a machine as busy as this")
    assert status == 0
    assert content(tmp_path / "ray") == content(tmp_path / "local")
