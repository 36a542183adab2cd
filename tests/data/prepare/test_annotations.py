"""Annotations of linguists, subtitles and labels become clips; every annotation that is given is a clip or is in skipped.tsv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options
from lalia.data.prepare.sources.annotations import (
    Annotation,
    AnnotationFile,
    RecordingIndex,
    Tier,
    TierUsage,
    annotation_clips,
    choose_tiers,
    seconds,
)
from lalia.data.prepare.sources.folders import reader_of
from lalia.data.prepare.sources.opening import open_source
from lalia.errors import UserError
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


def prepared(spec: Path | str, out: Path, said: list[str] | None = None, **options: object) -> Corpus:
    say = (lambda words: None) if said is None else said.append
    source = open_source(str(spec), Options(**options), None, say)  # type: ignore[arg-type]
    pipeline.prepare(source, pipeline.Recipe("test", {}, None, "near"), out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


def tiers(corpus: Corpus) -> list[tuple[str, str, str, float]]:
    columns = (corpus.column(name) for name in ("id", "text", "speaker"))
    return sorted(zip(*columns, np.round(corpus.durations_s, 2).tolist(), strict=True))


def skipped(corpus: Corpus) -> list[tuple[str, str]]:
    with (corpus.folder / "skipped.tsv").open(encoding="utf-8") as file:
        return sorted((row["clip"], row["reason"]) for row in csv.DictReader(file, delimiter="\t"))


EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/Users/Anna/My%20Work/la%20notte.mp4" MIME_TYPE="video/mp4"/>
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/Users/Anna/My%20Work/la%20notte.wav" MIME_TYPE="audio/x-wav"/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="s1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="s2" TIME_VALUE="1500"/>
<TIME_SLOT TIME_SLOT_ID="s3" TIME_VALUE="1000"/><TIME_SLOT TIME_SLOT_ID="s4" TIME_VALUE="2000"/><TIME_SLOT TIME_SLOT_ID="u"/>
<TIME_SLOT TIME_SLOT_ID="s5" TIME_VALUE="3050"/><TIME_SLOT TIME_SLOT_ID="s6" TIME_VALUE="3600"/></TIME_ORDER>
<TIER TIER_ID="ref@A" LINGUISTIC_TYPE_REF="ref" PARTICIPANT="Anna">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="s1" TIME_SLOT_REF2="s2">
<ANNOTATION_VALUE>notte.001</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="s4" TIME_SLOT_REF2="s5">
<ANNOTATION_VALUE>notte.002</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="tx@A" LINGUISTIC_TYPE_REF="tx" PARENT_REF="ref@A" PARTICIPANT="Anna">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1"><ANNOTATION_VALUE>la notte &amp;
 il giorno</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a2"><ANNOTATION_VALUE>a domani</ANNOTATION_VALUE>
</REF_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="mot@A" LINGUISTIC_TYPE_REF="mot" PARENT_REF="tx@A" PARTICIPANT="Anna">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a3"><ANNOTATION_VALUE>la</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a6" ANNOTATION_REF="a3" PREVIOUS_ANNOTATION="a5">
<ANNOTATION_VALUE>notte</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="tx@B" LINGUISTIC_TYPE_REF="tx" PARTICIPANT="Bruno">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b1" TIME_SLOT_REF1="s3" TIME_SLOT_REF2="u">
<ANNOTATION_VALUE>s&#xEC;,</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b2" TIME_SLOT_REF1="u" TIME_SLOT_REF2="s4">
<ANNOTATION_VALUE>ciao</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b3" TIME_SLOT_REF1="s1" TIME_SLOT_REF2="s3">
<ANNOTATION_VALUE> </ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b4" TIME_SLOT_REF1="s5" TIME_SLOT_REF2="s6">
<ANNOTATION_VALUE>oltre</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
</ANNOTATION_DOCUMENT>
"""


def test_elan(tmp_path: Path) -> None:
    """The recording is found although it was another machine's; tiers that overlap are clips of their own; nothing vanishes."""
    save(tmp_path / "la notte.wav", voiced(1, 3.0))
    (tmp_path / "talk.eaf").write_text(EAF, encoding="utf-8")
    said: list[str] = []
    corpus = prepared(tmp_path / "talk.eaf", tmp_path / "c", said, language="ita")
    assert tiers(corpus) == [
        ("la notte.wav#0.50-1.50", "la notte & il giorno", "Anna", 1.0),
        ("la notte.wav#1.00-2.00", "sì, ciao", "Bruno", 1.0),
        ("la notte.wav#2.00-3.05", "a domani", "Anna", 1.0),
    ], "3.05 s is within rounding of a recording of 3 s"
    assert skipped(corpus) == [
        ("la notte.wav#0.50-1.00", "empty annotation"),
        ("la notte.wav#3.05-3.60", "past the end"),
    ]
    assert said == ["tiers read as transcriptions: tx@A, tx@B; not used: ref@A, mot@A (--tier NAME reads others)"]
    words = prepared(tmp_path / "talk.eaf", tmp_path / "words", tiers=("mot@*",))
    assert tiers(words) == [("la notte.wav#0.50-1.50", "la notte", "Anna", 1.0)], (
        "words that nobody has aligned are one clip"
    )
    with pytest.raises(UserError, match=r"has no tier words \(--tier\); it has ref@A, tx@A, mot@A, tx@B"):
        prepared(tmp_path / "talk.eaf", tmp_path / "none", tiers=("words",))


def test_invalid_elan_or_without_recording_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "other.wav", voiced(1))
    for name, text, line in (
        ("cut.eaf", EAF[:900], "cannot be read as XML"),
        ("page.eaf", "<html></html>", "is XML of another kind"),
        ("bomb.eaf", f"<!DOCTYPE a [<!ENTITY b 'c'>]>{EAF[39:]}", "declares XML entities"),
        ("lost.eaf", EAF, "no recording file:///C:/Users/Anna/My%20Work/la%20notte.wav"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=line):
            prepared(tmp_path / name, tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.txt", "default\tA\t00:00:00.000\t0.0\t00:00:01.500\t1.5\tthe first words\na.wav"),
        ("a.txt", "Begin Time - msec\tEnd Time - msec\tdefault\n0\t1500\tthe first words"),
        ("a.tsv", "Tier\tParticipant\tBegin Time - hh:mm:ss.ms\tEnd Time - hh:mm:ss.ms\tDuration - msec\tAnnotation\tFile Path"
         "\ndefault\tA\t00:00:00.000\t00:00:01.500\t1500\tthe first words\t/Users/x/a.wav"),
        ("export.tsv", "tier\tspeaker\tBegin Time - ss.msec\tEnd Time - ss.msec\tText\tFile\n"
         "x\tA\t0.0\t1.5\tthe first words\ta.wav"),
    ],
)  # fmt: skip
def test_elan_exports(name: str, rows: str, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1, 3.0))
    (tmp_path / name).write_text(rows.removesuffix("\na.wav") + "\n")
    for source in (tmp_path / name, tmp_path):
        corpus = prepared(source, tmp_path / f"c{source.is_dir()}" / "c")
        assert [(text, seconds) for _, text, _, seconds in tiers(corpus)] == [("the first words", 1.5)]


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "utterances"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "he said ""nò""
to all"
        intervals [2]:
            xmin = 1
            xmax = 1.5
            text = ""
        intervals [3]:
            xmin = 1.5
            xmax = 3
            text = "and left"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 3
            text = "h"
    item [3]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 0.5
            mark = "x"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
3
<exists>
1
"IntervalTier"
"utterances"
0
3
3
0
1
"he said ""nò"" to all"
1
1.5
""
1.5
3
"and left"
"""


@pytest.mark.parametrize(
    "data",
    [TEXTGRID.encode(), TEXTGRID.encode("utf-16"), TEXTGRID.replace("\n", "\r\n").encode("utf-8-sig"), SHORT.encode()],
    ids=["long", "UTF-16", "CRLF", "short"],
)
def test_textgrid(data: bytes, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1, 3.0))
    (tmp_path / "a.TextGrid").write_bytes(data)
    corpus = prepared(tmp_path, tmp_path / "c")
    assert tiers(corpus) == [
        ("a.wav#0.00-1.00", 'he said "nò" to all', "", 1.0),
        ("a.wav#1.50-3.00", "and left", "", 1.5),
    ]
    assert skipped(corpus) == [("a.wav#1.00-1.50", "empty annotation")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.srt", "1\n00:00:00,500 --> 00:00:01,500\n<i>buon</i>\ngiorno\n\n2\n00:00:02,000 --> 00:00:03,000\n{\\an8}a te\n"),
        ("a.it.vtt", "WEBVTT\n\n00:00.500 --> 00:01.500 align:start\n<v Anna>buon giorno</v>\n\n"
         "00:02.000 --> 00:03.000\n<00:02.100><c>a</c> te\n"),
        ("a.txt", "0.5\t1.5\tbuon giorno\n\\\t100\t200\n2,0\t3,0\ta te\n"),
        ("a.stm", ";; a comment\na 1 inter 0.00 0.50 ignore_time_segment_in_scoring\n"
         "a 1 Anna 0.50 1.50 <o,f0,female> buon { giorno / d\u00ec }\na 1 Anna 2.00 3.00 a te\n"),
        ("a.trs", '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE Trans SYSTEM "trans-14.dtd"><Trans audio_filename="a" '
         'xml:lang="it"><Speakers><Speaker id="spk1" name="Anna"/></Speakers><Episode><Section type="report" startTime="0.5" '
         'endTime="3"><Turn speaker="spk1" startTime="0.5" endTime="3"><Sync time="0.5"/>\nbuon <Event desc="b" type="noise" '
         'extent="instantaneous"/>giorno\n<Sync time="1.5"/><Sync time="2.0"/>a te</Turn></Section></Episode></Trans>'),
        ("a.cha", "@UTF8\n@Begin\n@Languages:\tita\n@Participants:\tANN Anna Adult\n@ID:\tita|x|ANN|||||Adult|||\n"
         "@Media:\ta, audio\n*ANN:\tbuon [/] giorno . \x15500_1500\x15\n"
         "*ANN:\ta xxx . \x151500_2000\x15\n*ANN:\ta te ! \x152000_3000\x15\n@End\n"),
    ],
)  # fmt: skip
def test_subtitles_labels_and_transcripts(name: str, text: str, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1, 3.0))
    (tmp_path / name).write_text(text, encoding="utf-8")
    for source in (tmp_path / name, tmp_path):
        corpus = prepared(source, tmp_path / f"c{source.is_dir()}" / "c")
        assert [(id, text, s) for id, text, _, s in tiers(corpus)] == [
            ("a.wav#0.50-1.50", "buon giorno", 1.0),
            ("a.wav#2.00-3.00", "a te", 1.0),
        ]
        assert len(skipped(corpus)) == (name in ("a.trs", "a.cha", "a.stm")), "the empty annotation"
    if name not in ("a.srt", "a.txt"):
        assert set(corpus.column("speaker")) <= {"Anna", ""} and "Anna" in corpus.column("speaker")
        assert set(corpus.column("language")) == {"und" if name == "a.stm" else "ita"}


def test_bad_annotations_are_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1))
    for name, data, line in (
        ("a.TextGrid", b"ooBinaryFile\x08TextGrid", "is a binary TextGrid"),
        ("b.TextGrid", TEXTGRID.encode()[:300], "cannot be read as a TextGrid"),
        ("c.TextGrid", TEXTGRID.encode("latin-1"), "is not UTF-8"),
        ("a.srt", b"nothing\n", "holds no subtitles"),
        ("a.cha", b"nothing\n", "a.cha: "),
        ("a.trs", b"<Trans><Turn startTime='x' endTime='1'/></Trans>", "contains an invalid time"),
        ("a.txt", b"0\t1\tone\ntwo\n", "line 2 is not a label"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=line):
            prepared(tmp_path / name, tmp_path / "c")


def test_which_tiers_are_transcriptions() -> None:
    def chosen(*names: str) -> list[str]:
        tiers = []
        for name in names:
            own, _, parent = name.partition("<")
            tiers.append(Tier(own, [Annotation("x", 0, 1)], parent=parent))
        return [tier.name for tier in choose_tiers(AnnotationFile("x", tiers), ())]

    assert chosen("anything") == ["anything"]
    assert chosen("ref@A", "tx@A<ref@A", "mb@A<tx@A", "ft@A<ref@A") == ["tx@A"]
    assert chosen("A_Transcription-txt-hsn", "A_Translation-gls-eng<A_Transcription-txt-hsn") == [
        "A_Transcription-txt-hsn"
    ]
    assert chosen("Anna", "Bruno", "notes") == ["Anna", "Bruno"]
    assert chosen("words", "phones") == ["words"]
    assert chosen("utterance", "words<utterance") == ["utterance"]
    assert chosen("A", "A-gloss<A", "B") == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "value"), [("1.5", 1.5), ("1,5", 1.5), ("01:02.5", 62.5), ("00:00:010.300", 10.3), ("1:00:00", 3600)]
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


def test_a_folder_of_everything_is_read_once_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release, a table, annotations and own recordings of any name below one root, by the command."""
    root, clip = tmp_path / "all", iter(range(100))
    for name in ("cv/clips/c0.mp3", "cv/clips/c1.mp3"):
        save(root / name, voiced(next(clip), 2.0), format="MP3")
    (root / "cv" / "train.tsv").write_text("client_id\tpath\tsentence\tlocale\na\tc0.mp3\tuna frase\tit\n")
    (root / "cv" / "other.tsv").write_text("client_id\tpath\tsentence\tlocale\nb\tc1.mp3\tun'altra\tit\n")
    for name in (
        "af/train/x.wav",
        "af/test/y.wav",
        "lj/wavs/L-1.wav",
        "field/talk.wav",
        "mine/own.wav",
        "mine/told.wav",
    ):
        save(root / name, voiced(next(clip), 3.0))
    save(root / "mine" / "voice note.bin", voiced(next(clip), 3.0), format="WAV")
    (root / "af" / "train" / "metadata.csv").write_text("file_name,transcription\nx.wav,della tabella\n")
    (root / "af" / "test" / "metadata.jsonl").write_text('{"file_name": "y.wav", "transcription": "di prova"}\n')
    (root / "lj" / "metadata.csv").write_text("L-1|It was 1895.|It was eighteen ninety-five.\n")
    (root / "field" / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\ndai sottotitoli\n")
    (root / "field" / "talk.TextGrid").write_text(SHORT, encoding="utf-8")
    (root / "mine" / "told.txt").write_text("detto accanto\n")
    (root / "mine" / "clips.csv").write_text("path,sentence\nown.wav,parole\n")
    (root / "af" / "train" / "x.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nun'altra volta\n")
    (root / "field" / "metadata.csv").write_text("person,age\nAnna,70\n")
    (root / "notes.pdf").write_bytes(b"%PDF-1.4")
    assert main(["prepare", str(root), "--out", str(tmp_path / "c"), "--cut", "never", "--workers", "1"]) == 0
    corpus = Corpus.load(tmp_path / "c")
    texts = dict(zip(corpus.column("id"), corpus.column("text"), strict=True))
    assert texts == {
        "c0.mp3": "una frase",
        "af/train/x.wav": "della tabella",
        "af/test/y.wav": "di prova",
        "lj/L-1": "It was eighteen ninety-five.",
        "field/talk.wav#0.00-1.00": 'he said "nò" to all',
        "field/talk.wav#1.50-3.00": "and left",
        "mine/own.wav": "parole",
        "mine/told.wav": "detto accanto",
        "mine/voice note.bin": "",
    }
    splits = dict(zip(corpus.column("id"), corpus.column("split"), strict=True))
    assert splits["af/test/y.wav"] == "test"
    error = " ".join(capsys.readouterr().err.split())
    assert "not used: 2 .srt, 1 .csv, 1 .pdf, 1 audio file of a release that are not in its tables" in error
    assert "field/talk.srt is not used: field/talk.TextGrid is read for the same recording" in error
    assert "af/train/x.srt is not used: a table or a release is read for the same recording" in error
    assert "field/metadata.csv is not used: no audio column was recognised" in error


def test_a_folder_without_audio_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(UserError, match=r"contains no audio; expected files such as .*; there are 1 \.pdf"):
        prepared(tmp_path, tmp_path / "c")


def test_many_rows_of_one_file_without_times_stop_with_the_fix(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1, 3.0))
    table = tmp_path / "clips.tsv"
    table.write_text("audio\tfrom here\tto there\ttext\na.wav\t0\t1.0\tone\na.wav\t1.0\t2.5\ttwo\n")
    with pytest.raises(
        UserError, match=r"2 rows with different texts name a\.wav.*--columns start=from here,end=to there"
    ):
        prepared(table, tmp_path / "c")
    corpus = prepared(table, tmp_path / "c", columns={"start": "from here", "end": "to there"})
    assert [(text, s) for _, text, _, s in tiers(corpus)] == [("one", 1.0), ("two", 1.5)]
    table.write_text("audio\ttext\n" + "".join(f"a.wav\ttext {number}\n" for number in range(5)))
    with pytest.raises(UserError, match=r"5 rows with different texts name a\.wav.*--columns start=NAME,end=NAME"):
        prepared(table, tmp_path / "d")


def test_times_in_milliseconds_and_clocks(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", voiced(1, 3.0))
    for head, row in (("start_ms,end_ms", "500,1500"), ("start_time,end_time", "00:00:00.5,00:00:01.5")):
        (tmp_path / "t.csv").write_text(f"path,{head},sentence\na.wav,{row},ciao\n")
        assert [row[3] for row in tiers(prepared(tmp_path / "t.csv", tmp_path / head))] == [1.0]


def test_a_tier_of_words_is_read_as_utterances(tmp_path: Path) -> None:
    """As aligners write them: pauses of half a second and more part utterances, unless the tier is asked for."""
    save(tmp_path / "a.wav", voiced(1, 3.0))
    times = ("0 0.2 sil", "0.2 0.5 la", "0.5 0.7 ", "0.7 1.2 notte", "1.2 2.0 sp", "2.0 3.0 domani")
    rows = [time.split(" ") for time in times]
    labels = "\n".join(f'{start}\n{end}\n"{text}"' for start, end, text in rows)
    (tmp_path / "a.TextGrid").write_text(
        SHORT[: SHORT.index('"utterances"')] + f'"words"\n0\n3\n{len(rows)}\n{labels}\n'
    )
    corpus = prepared(tmp_path, tmp_path / "c")
    assert tiers(corpus) == [("a.wav#0.20-1.20", "la notte", "", 1.0), ("a.wav#2.00-3.00", "domani", "", 1.0)]
    assert len(prepared(tmp_path, tmp_path / "d", tiers=("words",))) == 5


def test_a_folder_named_train_alone_has_no_held_out_split(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / "set" / "train" / f"{number}.wav", voiced(number, 0.3))
    rows = "".join(f"{number}.wav,frase {number}\n" for number in range(40))
    (tmp_path / "set" / "train" / "metadata.csv").write_text(f"file_name,transcription\n{rows}")
    corpus = prepared(tmp_path / "set", tmp_path / "c", language="ita")
    assert {"train", "dev"} <= set(corpus.column("split")), "no folder of dev or test: some of it is held out"


def test_one_recording_is_a_source(tmp_path: Path) -> None:
    for name in ("plain.wav", "told.wav", "noted.wav"):
        save(tmp_path / name, voiced(len(name), 3.0))
    (tmp_path / "told.txt").write_text("detto\n")
    (tmp_path / "noted.it.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\ndai sottotitoli\n")
    texts = [
        prepared(tmp_path / f"{name}.wav", tmp_path / name / "c").column("text") for name in ("plain", "told", "noted")
    ]
    assert texts == [[""], ["detto"], ["dai sottotitoli"]]
    (tmp_path / "a.bin").write_bytes(b"%PDF-1.4")
    with pytest.raises(
        UserError, match="is neither audio nor a table or annotation of audio; expected a folder, a recording"
    ):
        prepared(tmp_path / "a.bin", tmp_path / "c")


def test_tables_name_files_without_suffix_and_by_backslashes(tmp_path: Path) -> None:
    save(tmp_path / "clips" / "a.flac", voiced(1))
    save(tmp_path / "clips" / "b.wav", voiced(2))
    (tmp_path / "t.csv").write_text("path,sentence\nclips/a,uno\nclips\\b.wav,due\n")
    assert sorted(prepared(tmp_path / "t.csv", tmp_path / "c").column("text")) == ["due", "uno"]


def test_damaged_annotations_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    """Cut off, overwritten, with parts that are missing or twice there: nothing else than a line comes of it."""
    draw = np.random.default_rng(0)
    outcomes: set[bool | None] = set()
    for number in range(600):
        name, text = (("a.eaf", EAF), ("a.TextGrid", TEXTGRID), ("b.TextGrid", SHORT))[number % 3]
        data = bytearray(text.encode())
        first, last = sorted(int(at) for at in draw.integers(0, len(data), 2))
        match number // 3 % 4:
            case 0:
                del data[first:]
            case 1:
                for at in draw.integers(0, len(data), 10):
                    data[at] = int(draw.integers(0, 256))
            case 2:
                del data[first : min(last, first + 200)]
            case _:
                data[first:first] = data[last : last + 100]
        path = tmp_path / name
        path.write_bytes(data)
        read = reader_of(path)
        assert read is not None
        try:
            outcomes.add(
                len(list(annotation_clips(path, read(path), RecordingIndex([]), tmp_path, Options(), TierUsage()))) > 0
            )
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add(None)
    assert outcomes >= {True, None}


@pytest.mark.parametrize(
    "text",
    [
        "txt/p1/001.txt",
        "txt/p1/001.TXT",
        "p1/txt/001.txt",
        "wav48/p1/001.Txt",
    ],
)
def test_transcripts_in_a_tree_of_their_own(text: str, tmp_path: Path) -> None:
    """Those of the audio's name in the like folder; what belongs to nobody knows which is named."""
    root = tmp_path / "all"
    audio = "p1/wav/001.WAV" if text.startswith("p1") else "wav48/p1/001.WAV"
    for number, name in enumerate((audio, audio.replace("p1", "p2"), "wav48/x/only_mic1.wav", "wav48/x/only_mic2.wav")):
        save(root / name, voiced(number), format="WAV")
    folder = "wav48/p1" if text.startswith("wav48") else str(Path(text).parent)
    texts = {f"{folder}/{Path(text).name}": "0 46797 moja", "words/only.txt": "tatu", "elsewhere/001.txt": "nobody's"}
    for name, words in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(words)
    said: list[str] = []
    found = {id: text for id, text, *_ in tiers(prepared(root, tmp_path / "c", said))}
    assert found[audio] == "moja"
    assert found["wav48/x/only_mic1.wav"] == found["wav48/x/only_mic2.wav"] == "tatu"
    assert found[audio.replace("p1", "p2")] == ""
    assert any("in another folder, such as " in line for line in said)
    assert "elsewhere/001.txt is not used: several audio files or texts have this name" in said


def test_a_list_of_times_and_labels_is_no_transcript(tmp_path: Path) -> None:
    save(tmp_path / "all" / "a.wav", voiced(1))
    (tmp_path / "all" / "a.lab").write_text("0 1200000 sil\n1200000 2500000 m\n")
    said: list[str] = []
    assert [row[1] for row in tiers(prepared(tmp_path / "all", tmp_path / "c", said))] == [""]
    assert "not used: 1 .lab" in said


def test_sides_of_a_call_in_an_stm(tmp_path: Path) -> None:
    save(tmp_path / "call.wav", np.stack([voiced(1, 3.0), voiced(2, 3.0)], axis=1))
    (tmp_path / "call.stm").write_text("call A anna 0.0 1.0 <o,f3,female> ciao\ncall B bert 1.5 3.0 a te\n")
    listing = open_source(str(tmp_path), Options(), None, lambda words: None)(tmp_path / "work")
    assert [(clip.text, clip.channel) for clip in listing.clips] == [("ciao", 0), ("a te", 1)]
    (tmp_path / "call.stm").write_text("call 1 anna 0.0 1.0\ncall\n")
    with pytest.raises(UserError, match=r"line 2 is not STM"):
        prepared(tmp_path / "call.stm", tmp_path / "c")
