"""Tables as people have them: compressed, without names of columns, of another computer, with the audio inside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lalia.data.prepare.listing import Listing, Options
from lalia.data.prepare.sources.opening import open_source
from lalia.errors import UserError
from lalia.text.text_files import guess_encoding
from tests.tiny_clips import encoded, save, voiced


def listing(spec: Path | str, said: list[str] | None = None, **options: Any) -> Listing:
    say = (lambda words: None) if said is None else said.append
    work = Path(spec).parent / ".work"
    return open_source(str(spec), Options(**options), None, say)(work)


def texts(found: Listing) -> dict[str, str]:
    """The text of each clip, by the name of its file."""
    return {Path(clip.path).name: clip.text for clip in found.clips}


def audio(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save(folder / name, voiced(number, 1.0), format="WAV")
    return folder


BOTH = {"a.wav": "moja", "b.wav": "mbili"}
ROWS = [{"file": name, "text": text} for name, text in BOTH.items()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.tsv.gz", gzip.compress(b"path\tsentence\na.wav\tmoja\nb.wav\tmbili\n")),
        ("t.csv.gz", gzip.compress(b"path,sentence\na.wav,moja\nb.wav,mbili\n")),
        ("t.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ROWS)).encode())),
        ("t.json", json.dumps(ROWS, indent=1).encode()),
        ("t.json", json.dumps({"data": ROWS}).encode()),
        ("t.json", json.dumps(BOTH).encode()),
        ("t.json", "\n".join(map(json.dumps, ROWS)).encode()),
        (
            "t.jsonl",
            "\n".join(json.dumps({**row, "file": {"path": row["file"], "rate": 16000}}) for row in ROWS).encode(),
        ),
        ("t.csv", "path,sentence\na.wav,moja\nb.wav,mbili\n".encode("utf-16-le")),
        ("t.csv", b'path;sentence\r\n"a.wav";"moja"\r\nb.wav;"mbili"\r\n'),
        ("t.csv", b"\xef\xbb\xbfsep=;\r\npath;sentence\r\na.wav;moja\r\nb.wav;mbili\r\n"),
        ("t.tsv", b"path,sentence\na.wav,moja\nb.wav,mbili\n"),
        ("t.csv", "\ufeff文件,文本\na.wav,moja\nb.wav,mbili\n".encode()),
        ("t.csv", "\ufeffpath,sentence\na.wav,moja\n\ufeffb.wav,mbili\n".encode()),
    ],
    # Not the bytes: gzip writes the time into them, and two workers that collect in different seconds would disagree.
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_tables_in_many_forms(name: str, data: bytes, tmp_path: Path) -> None:
    (audio(tmp_path, *BOTH) / name).write_bytes(data)
    columns = {"text": "文本"} if "文本".encode() in data else {}
    assert texts(listing(tmp_path / name, columns=columns)) == BOTH


def test_audio_inside_parquet(tmp_path: Path) -> None:
    """As the hub has it: bytes and a path; a row may hold the path alone, or nothing. The name of a shard is its split."""
    audio(tmp_path, "b.wav")
    wav = encoded(voiced(5), form="WAV")
    cells = [{"bytes": wav, "path": "a.wav"}, {"bytes": None, "path": "b.wav"}, None]
    (tmp_path / "data").mkdir()
    table = pa.table({"audio": cells, "sentence": ["moja", "mbili", "tatu"], "locale": [3, 3, 3]})
    for path in (tmp_path / "rows.parquet", tmp_path / "data" / "test-00000-of-00001.parquet"):
        pq.write_table(table, path)
    found = listing(tmp_path / "rows.parquet")
    assert {clip.id: clip.text for clip in found.clips} == BOTH
    assert Path(found.clips[0].path).read_bytes() == wav
    assert [dropped.reason for dropped in found.dropped] == ["no audio named"]
    (tmp_path / "rows.parquet").unlink()
    found = listing(tmp_path)
    assert {clip.id: clip.split for clip in found.clips} == {"data/a.wav": "test", "data/b.wav": "test"}


@pytest.mark.parametrize("row", ["x" * 5000, "a\0b", {"array": [0.1]}, ["a.wav"], 7, "/" * 300, "https://a.org/a.wav"])
def test_no_odd_name_is_a_traceback(row: object, tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    lines = [json.dumps({"audio": name, "text": "moja"}) for name in (row, "a.wav")]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = listing(tmp_path / "t.jsonl")
    assert any(clip.path.endswith("/a.wav") for clip in found.clips)


@pytest.mark.parametrize(
    ("table", "data", "files"),
    [
        ("line_index.tsv", "s_1\tmoja\ns_2\tmbili\n", ("wavs/s_1.wav", "wavs/s_2.wav")),
        (
            "train/transcripts.txt",
            "1_2_0\tmoja\n1_2_1\tmbili\n",
            ("train/audio/1/2/1_2_0.flac", "train/audio/1/2/1_2_1.flac"),
        ),
        ("transcript.txt", "x/1.wav|Moja 1|moja|2.1\nx/2.wav|mbili|mbili|1.5\n", ("x/1.wav", "x/2.wav")),
        (
            "metadata.csv",
            "L-1|Moja 1.|moja\nL-2|mbili\nL-3|tatu|tatu\n",
            ("wavs/L-1.wav", "wavs/L-2.wav", "wavs/L-3.wav"),
        ),
        ("t.csv", "a|anna|moja|ˈmoːdʒa\nb|juma|mbili|mˈbiːli\n", ("wavs/a.wav", "wavs/b.wav")),
        ("etc/txt.done.data", '( f_1 "moja" )\n( f_2 "mbili" )\n', ("etc/wav/f_1.wav", "etc/wav/f_2.wav")),
        ("text", "u1 moja\nu2 mbili\n", ("u1.wav", "clips/u2.wav")),
        ("list.csv", 'a.wav,"moja"\nb.wav,"mbili"\n', ("a.wav", "b.wav")),
    ],
)
def test_tables_without_names_of_columns(table: str, data: str, files: tuple[str, ...], tmp_path: Path) -> None:
    audio(tmp_path, *files)
    (tmp_path / table).write_text(data)
    for source in (tmp_path, tmp_path / table):
        said: list[str] = []
        assert list(texts(listing(source, said)).values()) == ["moja", "mbili", "tatu"][: len(files)]
        assert any("has no column names; audio is column 1, text column " in line for line in said)


def test_what_is_no_table_without_names(tmp_path: Path) -> None:
    """Other facts about files, a transcript that begins with a file's name, and names of columns that nobody knows."""
    audio(tmp_path, "a.wav", "b.wav")
    (tmp_path / "segments.txt").write_text("a\thttp://x.org/1\t10.5\t20\nb\thttp://x.org/2\t1\t2\n")
    (tmp_path / "a.txt").write_text("b is here\n")
    (tmp_path / "notes.txt").write_text("a word\n")
    (tmp_path / "unknown.csv").write_text("clip name,said\na,moja\nb,mbili\n")
    said: list[str] = []
    assert texts(listing(tmp_path, said)) == {"a.wav": "b is here", "b.wav": ""}
    assert "not used: 2 .txt, 1 .csv" in said
    assert any(
        line.startswith("unknown.csv is not used: it names audio files here, but no column with texts was recognised")
        for line in said
    )
    with pytest.raises(UserError, match="is neither audio nor a table or annotation of audio"):
        listing(tmp_path / "segments.txt")


def test_names_without_suffix_or_folder_and_of_another_computer(tmp_path: Path) -> None:
    audio(tmp_path, "wavs/a.wav", "clips/my b.wav", "clips/c.wav", "one/d.wav", "two/d.wav", "e.wav")
    names = [
        "a",
        "C:\\Users\\me\\clips\\my%20b.wav",
        "/home/you/corpus/clips/c.wav",
        "d",
        "one/d",
        "/x/e.wav",
        "/y/e.wav",
        "/x/f.wav",
    ]
    (tmp_path / "t.tsv").write_text("\n".join(["path\tsentence", *(f"{name}\t{n}" for n, name in enumerate(names))]))
    said: list[str] = []
    found = listing(tmp_path / "t.tsv", said)
    here = [
        (clip.text, Path(clip.path).relative_to(tmp_path).as_posix())
        for clip in found.clips
        if Path(clip.path).exists()
    ]
    assert here == [
        ("0", "wavs/a.wav"),
        ("1", "clips/my b.wav"),
        ("2", "clips/c.wav"),
        ("4", "one/d.wav"),
        ("5", "e.wav"),
    ]
    reasons = {dropped.id: dropped.detail for dropped in found.dropped}
    assert "2 files match d: one/d.wav, two/d.wav" in reasons["d"]
    assert "/y/e.wav and /x/e.wav both match e.wav" in reasons["/y/e.wav"]
    assert any(
        "3 files are called by a path of another computer; found here, such as clips/my b.wav" in line for line in said
    )
    assert any("2 files are called by a name without its folder or suffix" in line for line in said)


def test_rows_that_repeat_the_names_of_columns(tmp_path: Path) -> None:
    audio(tmp_path, *BOTH)
    (tmp_path / "t.csv").write_text('path,sentence\na.wav,"moja"\npath,sentence\nb.wav,"mbi\nli"\n')
    found = listing(tmp_path / "t.csv")
    assert texts(found) == {"a.wav": "moja", "b.wav": "mbi li"}
    assert [dropped.detail for dropped in found.dropped] == ["line 3: repeats the column names"]


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("café perché", "latin-1", "latin1"),
        ("“café” — naïve", "cp1252", "cp1252"),
        ("доброе утро, как дела", "cp1251", "cp1251"),
        ("доброе утро, как дела", "koi8-r", "koi8-r"),
        ("おはようございます", "shift_jis", "shift_jis"),
        ("早上好，你好吗", "gb18030", "gb18030"),
    ],
)
def test_the_encoding_is_guessed(text: str, encoding: str, guess: str, tmp_path: Path) -> None:
    assert guess_encoding(text.encode(encoding)) == guess
    (audio(tmp_path, "a.wav") / "t.tsv").write_bytes(f"path\tsentence\na.wav\t{text}\n".encode(encoding))
    with pytest.raises(
        UserError, match=rf"1 bad row; .*is not UTF-8; save the table as UTF-8 \(iconv -f {guess} -t utf-8\)"
    ):
        listing(tmp_path / "t.tsv")


CUT = {
    "id": "c1", "start": 0.2, "duration": 0.8, "channel": 0, "type": "MonoCut",
    "supervisions": [{"id": "s1", "start": 0.1, "duration": 0.5, "text": "moja", "speaker": "anna", "language": "sw"}],
    "recording": {
        "id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16000,
        "num_samples": 16000, "duration": 1.0,
    },
}  # fmt: skip


def test_manifests_of_lhotse(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")

    def write(name: str, *rows: object) -> Path:
        with gzip.open(tmp_path / name, "wt") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    cuts = write("x_cuts.jsonl.gz", CUT, {**CUT, "type": "MixedCut"}, {"id": "c3"})
    found = listing(cuts)
    assert [(c.id, c.text, c.speaker, c.language) for c in found.clips] == [("s1", "moja", "anna", "swa")]
    assert (round(found.clips[0].start_s, 3), round(found.clips[0].end_s or 0, 3)) == (0.3, 0.8)
    assert [dropped.reason for dropped in found.dropped] == ["bad row", "bad row"]
    said = {"id": "s1", "recording_id": "a", "start": 0.0, "duration": 1.0, "text": "mbili"}
    supervisions = write("x_supervisions.jsonl.gz", said, {**said, "id": "s2", "recording_id": "b"})
    with pytest.raises(UserError, match="expected their manifest next to it"):
        listing(supervisions)
    write("x_recordings.jsonl.gz", CUT["recording"])
    found = listing(supervisions)
    assert [(c.id, c.text, c.end_s) for c in found.clips] == [("s1", "mbili", None)]
    assert [dropped.detail for dropped in found.dropped] == ["no recording has the id b"]


def test_an_id_names_audio_where_nothing_else_does(tmp_path: Path) -> None:
    """As VoxPopuli's tables do."""
    audio(tmp_path, "clips/s1.ogg", "clips/s2.ogg")
    (tmp_path / "asr.tsv").write_text("id\tnormalized_text\ns1\tmoja\ns2\tmbili\n")
    assert texts(listing(tmp_path / "asr.tsv")) == {"s1.ogg": "moja", "s2.ogg": "mbili"}


def test_of_many_tables_the_first_are_described(tmp_path: Path) -> None:
    for number in range(12):
        audio(tmp_path, f"{number}/u{number}.wav")
        (tmp_path / str(number) / f"t{number}.trans.tsv").write_text(f"u{number}\tmoja\n")
    (tmp_path / "0" / "t0.zzz.tsv").write_text("u0\tagain\n")
    said: list[str] = []
    assert set(texts(listing(tmp_path, said)).values()) == {"moja"}
    assert "7 more tables are read in the same way" in said
    assert any(line.startswith("0/t0.zzz.tsv is not used: another table or a release is read") for line in said)
    assert len(said) == 2 * 5 + 1 + 2, "nothing but that of the table that is not used"


def test_a_table_of_any_name_next_to_the_audio_is_read(tmp_path: Path) -> None:
    folder = audio(tmp_path / "f", "a.wav", "b.wav")
    (folder / "skrár.csv").write_text("skrá;texti\na.wav;moja\nb.wav;mbili\n", encoding="utf-8")
    said: list[str] = []
    assert texts(listing(folder, said)) == {"a.wav": "", "b.wav": ""}
    (line,) = [line for line in said if line.startswith("skrár.csv is not used: it names audio files here")]
    assert line.endswith(f"lalia prepare {folder} --columns 'audio=skrá,text=texti'")
    for columns in ({"text": "texti"}, {"audio": "skrá", "text": "texti"}):
        assert texts(listing(folder, columns=columns)) == {"a.wav": "moja", "b.wav": "mbili"}
    (folder / "metadata.csv").write_text("path,sentence\na.wav,tatu\n")
    assert texts(listing(folder, said, columns={"text": "texti"})) == {"a.wav": "moja", "b.wav": "mbili"}
    assert "metadata.csv is not used: it lacks columns that --columns names" in said


def test_unused_options_are_reported(tmp_path: Path) -> None:
    folder = audio(tmp_path / "f", "a.wav")
    (folder / "people.csv").write_text("name,age\nAnna,70\n")
    with pytest.raises(
        UserError, match=r"--columns text=texti: no table .* has these columns; people.csv has name, age"
    ):
        listing(folder, columns={"text": "texti"})
    said: list[str] = []
    listing(folder, said, root=tmp_path)
    assert any("is not used: it is for paths in tables" in line for line in said)
