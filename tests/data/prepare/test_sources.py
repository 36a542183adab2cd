"""Every form of source becomes the clips, texts, languages, speakers and splits that it tells of."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from lalia.data.prepare.listing import Dropped, Listing, Options, Say, SourceClip, sentence_key
from lalia.data.prepare.sources.opening import open_source
from lalia.data.prepare.splits import assign_splits, held_out_percent
from lalia.errors import UserError
from lalia.text.language_codes import find_language, iso_639_3
from tests.tiny_clips import save, voiced

SILENT: Say = lambda words: None  # noqa: E731


def listing(spec: str | Path, work: Path, **options: object) -> Listing:
    return open_source(str(spec), Options(**options), None, SILENT)(work)  # type: ignore[arg-type]


def told(found: Listing) -> dict[str, tuple[str, str, str, str]]:
    return {clip.id: (clip.language, clip.text, clip.speaker, clip.split) for clip in found.clips}


def test_folder_uses_neighbouring_transcripts_and_languages_from_folders(tmp_path: Path) -> None:
    for name in ("it/a.wav", "it/deep/b.mp3", "welsh/c.ogg", ".hidden/d.wav", "it/notes.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "it" / "a.txt").write_text("\ufeffbuon  giorno\n", encoding="utf-8")
    (tmp_path / "it" / "deep" / "b.txt").write_bytes("perch\xe9".encode("latin-1"))
    found = listing(tmp_path, tmp_path)
    assert told(found) == {
        "it/a.wav": ("ita", "buon giorno", "", "train"),
        "welsh/c.ogg": ("cym", "", "", "train"),
    }
    assert [d.reason for d in found.dropped] == ["unreadable transcript"]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "e.wav").write_bytes(b"x")
    assert {clip.language for clip in listing(tmp_path, tmp_path).clips} == {"und"}, "raw is no language, so none is"
    assert {clip.language for clip in listing(tmp_path, tmp_path, language="isl").clips} == {"isl"}


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_manifests(form: str, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    rows = [
        {
            "path": "a.wav",
            "sentence": 'he said "no", twice',
            "locale": "it-IT",
            "client_id": "x",
            "split": "validation",
        },
        {"path": "b.wav", "sentence": "", "locale": "it", "client_id": "", "split": "test"},
        {"path": "b.wav", "sentence": "again", "locale": "it", "client_id": "", "split": "unheard of"},
    ]
    path = tmp_path / f"clips.{form}"
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    else:
        quote = '"{}"'.format if form == "csv" else str
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        escaped = [[quote(cell.replace('"', '""') if form == "csv" else cell) for cell in line] for line in lines]
        path.write_text("\n".join(("," if form == "csv" else "\t").join(line) for line in escaped) + "\n")
    found = listing(path, tmp_path)
    assert told(found) == {"a.wav": ("ita", 'he said "no", twice', "x", "dev"), "b.wav": ("ita", "", "", "test")}
    assert len(found.dropped) == (2 if form == "jsonl" else 1)
    assert found.facts["splitting"] == "as the source says"


def test_manifest_with_offsets_names_parts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    (tmp_path / "m.jsonl").write_text(
        '{"audio_filepath": "talk.wav", "offset": 1.5, "duration": 2.0, "text": "ciao"}\n'
    )
    (clip,) = listing(tmp_path / "m.jsonl", tmp_path, language="ita").clips
    assert (clip.start_s, clip.end_s, clip.id) == (1.5, 3.5, "talk.wav#1.50-3.50")


def test_manifest_errors_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("name\twords\nx\tciao\n")
    with pytest.raises(
        UserError,
        match=r"no column for audio \(it has name, words\); name it, for example --columns audio=name,text=words",
    ):
        listing(tmp_path / "a.tsv", tmp_path)
    with pytest.raises(UserError, match=r"none of its first 1 files exists .* with --root FOLDER"):
        listing(tmp_path / "a.tsv", tmp_path, columns={"audio": "name"})
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(UserError, match="no column for audio"):
        listing(tmp_path / "empty.tsv", tmp_path)
    (tmp_path / "x.wav").touch()
    (tmp_path / "latin.tsv").write_bytes("audio\ttext\nx.wav\tperch\xe9\nx.wav\tciao\n".encode("latin-1"))
    found = listing(tmp_path / "latin.tsv", tmp_path)
    assert [clip.text for clip in found.clips] == ["ciao"]
    assert "is not UTF-8; save the table as UTF-8" in found.dropped[0].detail
    (tmp_path / "wide.tsv").write_bytes("audio\ttext\nx.wav\tperché\n".encode("utf-16"))
    assert [clip.text for clip in listing(tmp_path / "wide.tsv", tmp_path).clips] == ["perché"]


def test_repeated_names_get_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.wav").touch()
    (tmp_path / "m.tsv").write_text("audio\ttext\nx.wav\tone\nx.wav\ttwo\n")
    assert [clip.id for clip in listing(tmp_path / "m.tsv", tmp_path).clips] == ["x.wav", "x.wav~2"]


def test_kaldi(tmp_path: Path) -> None:
    data, audio = tmp_path / "data" / "dev_it", tmp_path / "audio"
    save(audio / "r1.wav", voiced(1))
    save(audio / "r2.flac", voiced(2))
    data.mkdir(parents=True)
    (data / "wav.scp").write_text(
        "r1 audio/r1.wav\nr2 flac -c -d -s audio/r2.flac |\nr3 audio/gone.wav\nr4 rm -rf audio/r1.wav audio/r2.flac |\n"
    )
    (data / "segments").write_text("r1-a r1 0.1 0.5\nr1-b r1 0.5 0.9\nr2-a r2 0 -1\nr3-a r3 0 1\nr4-a r4 0 1\n")
    (data / "text").write_text("r1-a buon giorno\nr1-b ciao\n", encoding="utf-8")
    (data / "utt2spk").write_text("r1-a anna\nr1-b anna\nr2-a bruno\n")
    found = listing(f"kaldi:{data}", tmp_path, language="ita")
    assert told(found) == {
        "r1-a": ("ita", "buon giorno", "anna", "dev"),
        "r1-b": ("ita", "ciao", "anna", "dev"),
        "r2-a": ("ita", "", "bruno", "dev"),
    }
    assert [(clip.start_s, clip.end_s) for clip in found.clips] == [(0.1, 0.5), (0.5, 0.9), (0.0, None)]
    assert [(d.id, d.reason) for d in found.dropped] == [("r3-a", "missing"), ("r4-a", "missing")]
    assert (audio / "r1.wav").exists(), "a pipe is read, never run"
    assert told(listing(data, tmp_path, language="ita")) == told(found), "the folder alone is recognised"
    with pytest.raises(UserError, match=r"has no wav\.scp"):
        listing(f"kaldi:{audio}", tmp_path)


def test_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    for part, speaker in (("train-clean-100", "19"), ("test-clean", "61")):
        chapter = root / part / speaker / "7"
        save(chapter / f"{speaker}-7-0000.flac", voiced(1, 0.2))
        (chapter / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 HELLO THERE\n{speaker}-7-0001 GONE\n")
    found = listing(root, tmp_path)
    assert told(found) == {
        "61-7-0000": ("eng", "HELLO THERE", "61", "test"),
        "19-7-0000": ("eng", "HELLO THERE", "19", "train"),
    }
    assert {d.reason for d in found.dropped} == {"missing"}


def test_common_voice_keeps_held_out_speakers_and_sentences_out_of_train(tmp_path: Path) -> None:
    folder = tmp_path / "cv" / "cy"
    (folder / "clips").mkdir(parents=True)
    rows = {
        "train": [("s1", "a", "uno")],
        "dev": [("s2", "b", "due")],
        "test": [("s3", "c", "tre")],
        "validated": [("s1", "a", "uno"), ("s2", "b", "due"), ("s3", "c", "tre"),
                      ("s4", "d", "quattro"), ("s3", "e", "cinque"), ("s5", "f", "Due!")],
    }  # fmt: skip
    for split, clips in rows.items():
        lines = ["client_id\tpath\tsentence\tlocale", *(f"{s}\t{p}.mp3\t{t}\tcy" for s, p, t in clips)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        for _, path, _ in clips:
            (folder / "clips" / f"{path}.mp3").touch()
    for root in (tmp_path / "cv", folder):
        found = listing(root, tmp_path)
        assert {id: (text, split) for id, (_, text, _, split) in told(found).items()} == {
            "a.mp3": ("uno", "train"),
            "b.mp3": ("due", "dev"),
            "c.mp3": ("tre", "test"),
            "d.mp3": ("quattro", "train"),
        }
        assert {clip.language for clip in found.clips} == {"cym"}
        assert {d.id: d.reason for d in found.dropped} == {
            "e.mp3": "shared with held-out",
            "f.mp3": "shared with held-out",
        }


def test_fleurs_opens_its_archives(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "it_it"
    for split in ("train", "test"):
        save(tmp_path / "made" / split / "1.wav", voiced(1, 0.2))
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "audio" / f"{split}.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "made" / split / "1.wav", f"{split}/1.wav")
        (folder / f"{split}.tsv").write_text("7\t1.wav\tBuon giorno.\tbuon giorno\tb u o n |\t3200\tFEMALE\n")
    found = listing(tmp_path / "data", tmp_path / "work")
    assert told(found) == {
        "it_it/train/1.wav": ("ita", "Buon giorno.", "", "train"),
        "it_it/test/1.wav": ("ita", "Buon giorno.", "", "test"),
    }
    assert all(Path(clip.path).is_file() for clip in found.clips)


def test_fairseq(tmp_path: Path) -> None:
    save(tmp_path / "audio" / "a.wav", voiced(1, 0.2))
    (tmp_path / "train.tsv").write_text(f"{tmp_path / 'audio'}\na.wav\t3200\n")
    (tmp_path / "train.ltr").write_text("b u o n | d ì |\n", encoding="utf-8")
    (tmp_path / "valid.tsv").write_text(f"{tmp_path / 'audio'}\na.wav\t3200\n")
    (tmp_path / "valid.wrd").write_text("ciao\n")
    found = listing(f"fairseq:{tmp_path}", tmp_path, language="ita")
    assert told(found) == {"a.wav": ("ita", "buon dì", "", "train"), "a.wav~2": ("ita", "ciao", "", "dev")}
    (tmp_path / "valid.wrd").write_text("ciao\nciao\n")
    with pytest.raises(UserError, match=r"has 2 lines, but valid\.tsv has 1 clips"):
        listing(f"fairseq:{tmp_path / 'valid.tsv'}", tmp_path)


def test_hub_streams_local_folders_in_the_same_layouts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set" / "train"
    for number in range(3):
        save(folder / f"{number}.wav", voiced(number, 0.3))
    lines = [
        json.dumps({"file_name": f"{n}.wav", "transcription": f"text {n}", "language": language})
        for n, language in enumerate(("it", "bem", "other"))
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    found = listing(f"hub:{tmp_path / 'set'}", tmp_path, dev_percent=0.0, test_percent=0.0)
    clips = [clip for stream in found.streams for clip in stream.clips(0)]
    assert [(clip.language, clip.text, clip.split) for clip in clips if isinstance(clip, SourceClip)] == [
        (language, f"text {n}", "train") for n, language in enumerate(("ita", "bem", "und"))
    ]
    (again,) = [clip for stream in found.streams for clip in stream.clips(2)]
    assert again == clips[2], "a stream goes on from any clip"

    rows = {"audio": [{"bytes": b"RIFF", "path": "x.wav"}, None], "lang_id": [1, 0]}
    features = datasets.Features(
        {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
         "lang_id": datasets.ClassLabel(names=["de_de", "fr_fr"])}
    )  # fmt: skip
    saved = datasets.Dataset.from_dict(rows, features=features).cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "saved")
    found = listing(f"hub:{tmp_path / 'saved'}", tmp_path)
    clips = [clip for stream in found.streams for clip in stream.clips(0)]
    assert [clip.language for clip in clips if isinstance(clip, SourceClip)] == ["fra", "fra"]
    assert [clip.split for clip in clips if isinstance(clip, SourceClip)] == ["train", "test"]
    assert [clip.reason for clip in clips if isinstance(clip, Dropped)] == ["no audio named"] * 2
    with pytest.raises(UserError, match="cannot be opened as a dataset"):
        listing(f"hub:{tmp_path / 'nowhere'}", tmp_path)


def test_hub_rows_without_text_are_held_out_as_well(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for number in range(40):
        save(tmp_path / "set" / f"{number:02d}.wav", voiced(number, 0.1))

    def splits(start: int = 0, **options: float) -> list[str]:
        found = listing(f"hub:{tmp_path / 'set'}", tmp_path, **options)
        return [clip.split for stream in found.streams for clip in stream.clips(start) if isinstance(clip, SourceClip)]

    whole = splits(dev_percent=5.0, test_percent=5.0)
    assert len(whole) == 40 and Counter(whole) == {"train": 36, "dev": 2, "test": 2}
    assert set(whole[:20]) == set(whole[20:]) == {"train", "dev", "test"}, "a dataset of few rows has some too"
    assert splits(7, dev_percent=5.0, test_percent=5.0) == whole[7:], "a stream goes on from any row"
    assert Counter(splits(dev_percent=2.0, test_percent=0.0))["test"] == 0
    assert set(splits(dev_percent=0.0, test_percent=0.0)) == {"train"}


def test_splits_keep_speakers_and_sentences_apart_where_that_is_possible() -> None:
    def clips(speakers: int, sentences: int) -> list[SourceClip]:
        return [
            SourceClip(str(n), "", "ita", f"text {n % sentences}", f"s{n % speakers}" if speakers else "")
            for n in range(600)
        ]

    for made, way, kept in (
        (clips(60, 60), "by speaker and sentence", (True, True)),
        (clips(50, 7), "by speaker", (True, False)),
        (clips(3, 100), "by sentence", (False, True)),
        (clips(0, 100), "by sentence", (False, True)),
    ):
        held, how = assign_splits(made, 10.0, 10.0)
        assert how == f"labelled clips {way}, in hash order"
        for key, apart in zip((lambda c: c.speaker, lambda c: sentence_key(c.text)), kept, strict=True):
            by_split = [{key(clip) for clip in held if clip.split == split} for split in ("train", "dev", "test")]
            disjoint = not (by_split[0] & by_split[1] or by_split[0] & by_split[2] or by_split[1] & by_split[2])
            assert disjoint or not apart
        for split in ("dev", "test"):
            assert 0.06 <= sum(clip.split == split for clip in held) / len(held) <= 0.13
    assert assign_splits(clips(60, 60), 10.0, 10.0) == assign_splits(clips(60, 60), 10.0, 10.0)


@pytest.mark.parametrize(
    ("count", "percent", "held"), [(60, 20, 12), (100, 20, 20), (150, 40 / 3, 20), (400, 5, 20), (10_000, 5, 500)]
)
def test_as_much_is_held_out_as_the_labels_ask_for(count: int, percent: float, held: int) -> None:
    """Ten minutes are some 150 clips. What was asked for is taken as it is."""
    assert held_out_percent(count) == pytest.approx(percent)
    assert held_out_percent(count, 3.0) == 3.0
    clips = [SourceClip(str(n), "", "ita", f"text {n}") for n in range(count)]
    found, how = assign_splits(clips, None, None)
    for split in ("dev", "test"):
        assert sum(clip.split == split for clip in found) == pytest.approx(held, abs=1)
    assert how == "labelled clips by sentence, in hash order"
    asked, _ = assign_splits(clips, 10.0, 0.0)
    counts = Counter(clip.split for clip in asked)
    assert not counts["test"] and counts["dev"] == pytest.approx(count / 10, abs=1)


def test_with_large_speakers_the_share_is_increased() -> None:
    clips = [SourceClip(str(n), "", "ita", f"text {n}", f"s{n % 12}") for n in range(200)]  # 17 clips each: 8 %
    found, _ = assign_splits(clips, None, None)
    counts = Counter(clip.split for clip in found)
    assert counts["dev"] >= 20 and counts["test"] >= 20


def test_too_few_labels_hold_nothing_out() -> None:
    clips = [SourceClip(str(n), "", "ita", f"text {n}") for n in range(19)]
    found, how = assign_splits(clips, None, None)
    assert {clip.split for clip in found} == {"train"}
    assert how == "fewer than 20 labelled clips of a language are too few to hold any out"
    same = [SourceClip(str(n), "", "ita", "one text") for n in range(30)]
    assert (
        assign_splits(same, None, None)[1]
        == "the speakers or sentences of the labelled clips are too few to hold any out"
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [("it", "ita"), ("IT-it", "ita"), ("pt_br", "por"), ("cmn_hans_cn", "cmn"), ("es_419", "spa"), ("Welsh", "cym")],
)
def test_languages(name: str, code: str) -> None:
    assert find_language(name) == iso_639_3(name) == code


def test_words_that_are_no_languages() -> None:
    assert [find_language(name) for name in ("raw", "data", "it_was", "xyz", "part-1")] == [None] * 5
    assert iso_639_3("wyn") == "wyn"
    with pytest.raises(UserError, match="ISO 639-3"):
        iso_639_3("x9")
