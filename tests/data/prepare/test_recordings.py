"""Audio without labels: whole recordings are held out, or the end of one behind a gap, in prepare and in fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.data.corpus import SPLITS, Corpus
from lalia.data.mixture import NO_SPLIT, Mixture
from lalia.data.prepare import pipeline, splits
from lalia.data.prepare.listing import Dropped, Options, SourceClip, SplitSpan
from lalia.data.prepare.pipeline import rewrite
from lalia.data.prepare.segments import Segmentation
from lalia.data.prepare.shards import make_part, plan_units
from lalia.data.prepare.sources.opening import open_source
from lalia.data.prepare.splits import (
    GAP,
    choose_recordings,
    clips_per_split,
    held_out_ends,
    hold_out_recordings,
    split_at,
)
from lalia.errors import UserError
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]
UTTERANCES = Segmentation(1.0, 8.0)
SHARES = {"dev": 0.05, "test": 0.05}


def talk(first: int, utterances: int) -> np.ndarray:
    """Utterances of 3 s, each behind 2 s of silence."""
    pause = np.zeros(2 * 16_000, np.float32)
    return np.concatenate([p for n in range(utterances) for p in (pause, voiced(first + n, 3.0))])


def make(source: Path, out: Path, segmentation: Segmentation | None = UTTERANCES, **options: object) -> Corpus:
    say = Options(language="swh", **options)  # type: ignore[arg-type]
    recipe = pipeline.Recipe(str(source), {}, segmentation, "keep")
    pipeline.prepare(open_source(str(source), say, None, print), recipe, out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


def recordings_of(corpus: Corpus) -> dict[str, set[str]]:
    """In which splits the recordings of a corpus are."""
    found = corpus.recordings()
    there: dict[str, set[str]] = {}
    for code, split in zip(found.codes, corpus.splits, strict=True):
        there.setdefault(found.names[code], set()).add(SPLITS[split])
    return there


def all_train(corpus: Path, out: Path) -> Path:
    """The corpus as it was prepared before unlabelled audio was held out."""
    found = Corpus.load(corpus)
    rows = np.arange(len(found))
    rewrite(found, out, rows, {int(row): {"split": "train"} for row in rows}, [], {})
    return out


def test_recordings_are_chosen_by_their_hash_until_the_share_is_reached() -> None:
    seconds = {f"{n}.mp3": 60.0 + n for n in range(200)}
    found = choose_recordings(seconds, SHARES)
    assert not found.lacking
    assert found == choose_recordings(dict(reversed(seconds.items())), SHARES)
    for split in SHARES:
        held = sum(seconds[name] for name, where in found.whole.items() if where == split)
        assert 0.04 <= held / sum(seconds.values()) <= 0.06
    more = choose_recordings({**seconds, "new.mp3": 60.0}, SHARES)
    assert len(set(found.whole) ^ set(more.whole)) <= 3, "one file more leaves the choice as it is, but for its end"


@pytest.mark.parametrize("seconds", [{"a": 3600.0}, {"a": 3600.0, "b": 3600.0}, {"a": 3600.0, "b": 900.0, "c": 700.0}])
def test_too_few_or_uneven_recordings_leave_a_share_to_be_found_otherwise(seconds: dict[str, float]) -> None:
    found = choose_recordings(seconds, SHARES)
    assert not found.whole
    assert found.lacking == SHARES


def test_the_end_of_a_recording_is_held_out_after_gaps() -> None:
    spans = held_out_ends(3600.0, {"dev": 180.0, "test": 180.0})
    assert [(span.split, round(span.start_s)) for span in spans] == [
        ("", 3180),
        ("dev", 3210),
        ("", 3390),
        ("test", 3420),
    ]
    places = {
        (0, 20): "train",
        (3170, 3181): "",
        (3209, 3220): "",
        (3211, 3220): "dev",
        (3380, 3425): "",
        (3590, 3610): "test",
    }
    for (start, end), split in places.items():
        assert split_at(spans, start, end) == split


@pytest.mark.usefixtures("loud_is_voice")
def test_a_folder_of_recordings_holds_out_whole_ones(tmp_path: Path) -> None:
    for n in range(14):
        save(tmp_path / "raw" / f"day {n}.wav", talk(10 * n, 5))
    corpus = make(tmp_path / "raw", tmp_path / "c")
    there = recordings_of(corpus)
    assert all(len(places) == 1 for places in there.values())
    assert sorted(place for places in there.values() for place in places).count("dev") == 1
    assert sorted(place for places in there.values() for place in places).count("test") == 1
    assert corpus.card["splitting"].startswith("unlabelled audio by recording; 5 % test, 5 % dev, in hash order")
    shutil.move(tmp_path / "raw", tmp_path / "elsewhere")
    assert recordings_of(make(tmp_path / "elsewhere", tmp_path / "d")) == there, "where the folder lies does not matter"


@pytest.mark.usefixtures("loud_is_voice")
def test_one_recording_holds_out_its_end_and_counts_the_gaps(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "hour.wav", talk(0, 72))  # 6 minutes
    corpus = make(tmp_path / "raw", tmp_path / "c")
    found = corpus.recordings()
    first = [found.starts_s[corpus.splits == split].min() for split in range(3)]
    last = [found.ends_s[corpus.splits == split].max() for split in range(3)]
    assert all(7.2 <= first[split] - last[split - 1] <= 7.2 + 10 for split in (1, 2)), (
        "the utterance at each end of a gap"
    )
    hours = corpus.hours()["swh"]
    assert all(60 * hours[split] == pytest.approx(0.1 * 6 * 3 / 5, abs=0.11) for split in ("dev", "test"))
    skipped = (tmp_path / "c" / "skipped.tsv").read_text(encoding="utf-8").splitlines()
    assert corpus.card["dropped"] == {GAP: sum(GAP in line for line in skipped)}
    assert corpus.card["cut"]["gap_h"] > 0
    assert (
        "the end of hour.wav (0.6 min dev, 0.6 min test, a gap of 7 s before each left out)" in corpus.card["splitting"]
    )


@pytest.mark.usefixtures("loud_is_voice")
def test_a_killed_preparation_continues_to_the_same_splits(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "hour.wav", talk(0, 72))
    whole = make(tmp_path / "raw", tmp_path / "whole")
    listing = open_source(str(tmp_path / "raw"), Options(language="swh"), None, print)(tmp_path)
    for number in range(2):
        (tmp_path / f"{number}" / "parts").mkdir(parents=True)
        [unit] = plan_units(listing)
        record = make_part(unit, tmp_path / f"{number}", Segmentation(1.0, 8.0))
        assert [row[0] for row in record.rows] == whole.column("id")


def test_not_cut_into_utterances_a_recording_is_still_divided(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "hour.wav", talk(0, 72))
    corpus = make(tmp_path / "raw", tmp_path / "c", segmentation=None, dev_percent=5.0, test_percent=5.0)
    assert [SPLITS[split] for split in corpus.splits] == ["train", "dev", "test"]
    assert corpus.durations_s[1] == pytest.approx(18.0, abs=0.01)
    assert corpus.card["dropped"] == {GAP: 2}
    clip = SourceClip("a", "a.wav", "swh", held_out=(SplitSpan("", 5.0, 6.0), SplitSpan("dev", 6.0, float("inf"))))
    found = clips_per_split(clip)
    assert [type(piece) for piece in found] == [SourceClip, Dropped, SourceClip]


def test_pieces_of_one_recording_stay_together_and_follow_its_labels() -> None:
    files = [
        SourceClip(f"u{n}-{k}", f"{n}.wav", "swh", start_s=10.0 * k, end_s=10.0 * k + 9)
        for n in range(40)
        for k in range(6)
    ]
    made, how = hold_out_recordings(files, 5.0, 5.0)
    there: dict[str, set[str]] = {}
    for clip in made:
        assert isinstance(clip, SourceClip)
        there.setdefault(clip.path, set()).add(clip.split)
    assert all(len(places) == 1 for places in there.values())
    assert "dev" in {place for places in there.values() for place in places}
    labelled = [
        SourceClip("a", "0.wav", "swh", "habari", split="test"),
        SourceClip("b", "1.wav", "swh", "ndiyo"),
        SourceClip("c", "1.wav", "swh", "hapana", split="dev"),
    ]
    followed, _ = hold_out_recordings([*labelled, *files], 5.0, 5.0)
    splits_of = {clip.id: clip.split for clip in followed if isinstance(clip, SourceClip)}
    assert splits_of["u0-3"] == "test"
    assert splits_of["u1-3"] == "train"
    assert "5 % dev" in how


def test_of_few_short_recordings_one_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_length_s", lambda clip, probe: clip.duration_s)
    clips = [SourceClip(f"{n}", f"{n}.wav", "swh", duration_s=10.0 + n) for n in range(6)]
    made, how = hold_out_recordings(clips, 5.0, 5.0)
    assert [clip.split for clip in made if isinstance(clip, SourceClip)] == ["dev", *["train"] * 5]
    assert "swh: 0 dev, too little audio for a test split" in how
    assert hold_out_recordings(clips, 0.0, 0.0)[1] == ""
    how = hold_out_recordings(clips[:1], 5.0, 5.0)[1]
    assert how == "the unlabelled audio is too little to hold any out (swh 0.2 min)"


@pytest.mark.usefixtures("loud_is_voice")
def test_a_corpus_of_before_gets_validation_audio_when_it_is_opened(tmp_path: Path) -> None:
    for n in range(14):
        save(tmp_path / "raw" / f"{n}.wav", talk(10 * n, 5))
    make(tmp_path / "raw", tmp_path / "new")
    old = all_train(tmp_path / "new", tmp_path / "old")
    mixture = Mixture.load([old])
    said = mixture.hold_out_recordings(["swh"], 0.5)
    assert "no dev split" in said and "\n" not in said
    rows = mixture.select("dev")
    held = {mixture.id(int(row)).partition("#")[0] for row in rows}
    assert not held & {mixture.id(int(row)).partition("#")[0] for row in mixture.select("train")}
    again = Mixture.load([old])
    again.hold_out_recordings()
    assert np.array_equal(again.splits, mixture.splits), "every process and every resume makes the same choice"
    kept = Mixture.load([tmp_path / "new"])
    assert kept.hold_out_recordings() == ""
    assert np.array_equal(kept.splits, kept.corpora[0].splits)


@pytest.mark.usefixtures("loud_is_voice")
def test_of_one_recording_of_before_its_last_clips_are_validated_on(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "hour.wav", talk(0, 72))
    make(tmp_path / "raw", tmp_path / "new", dev_percent=0.0, test_percent=0.0)
    mixture = Mixture.load([tmp_path / "new"])
    said = mixture.hold_out_recordings()
    assert " in gaps before them are left out" in said
    dev, gap = mixture.select("dev"), np.flatnonzero(mixture.splits == NO_SPLIT)
    assert dev.tolist() == list(range(len(mixture) - len(dev), len(mixture)))
    assert gap.tolist() == list(range(dev[0] - len(gap), dev[0]))
    assert mixture.durations_s[dev].sum() == pytest.approx(0.05 * mixture.durations_s.sum(), abs=3.5)


def test_a_single_clip_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a.wav", voiced(1, 3.0))
    make(tmp_path / "raw", tmp_path / "c")
    with pytest.raises(UserError, match="holds one clip alone to train on, and validation needs another"):
        Mixture.load([tmp_path / "c"]).hold_out_recordings()
