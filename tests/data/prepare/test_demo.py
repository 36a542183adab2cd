"""The demo corpus: its archives from anywhere, its labels cleaned, its splits fixed; on archives made here."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import SourceClip, sentence_key
from lalia.data.prepare.sources import demo as asterisk
from lalia.data.prepare.sources.demo import clean_prompt, hold_out, list_demo, match_prompts, read_prompts
from lalia.errors import UserError
from tests.tiny_clips import in_this_process, loud_is_voice

__all__ = ["loud_is_voice"]

PROMPTS = {
    "it": "; comment\nvm-goodbye: Arrivederci.\ndigits/1: uno\nbeep: un suono beep\nsilence/1: (1 secondo)\n",
    "en": "vm-goodbye: Goodbye.\nvm-bye: Goodbye!\nbeep: [this is a beep]\n",
}


def tar_bytes(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def recordings(code: str) -> dict[str, bytes]:
    names = [
        line.partition(":")[0] for line in PROMPTS.get(code, PROMPTS["en"]).splitlines() if not line.startswith(";")
    ]
    draw = np.random.default_rng(sum(code.encode()))
    return {f"{name}.g722": draw.integers(0, 256, 6000, np.uint8).tobytes() for name in names}


def make_debs(folder: Path) -> None:
    def deb(name: str, files: dict[str, bytes]) -> None:
        entries = {"debian-binary": b"2.0\n", "control.tar.xz": b"x", "data.tar.xz": tar_bytes(files, "w:xz")}
        packed = b"!<arch>\n"
        for entry, data in entries.items():
            packed += (
                f"{entry:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
            )
        (folder / name).write_bytes(packed)

    folder.mkdir(parents=True, exist_ok=True)
    for code in asterisk.LANGUAGES:
        text = gzip.compress(PROMPTS.get(code, PROMPTS["en"]).encode())
        doc = f"./usr/share/doc/asterisk-core-sounds-{code}"
        deb(
            f"asterisk-core-sounds-{code}_9-1_all.deb",
            {f"{doc}/core-sounds-{code}.txt.gz": text, f"{doc}/copyright": b"CC"},
        )
        sounds = {f"./usr/share/asterisk/sounds/{code}_XX/{n}": data for n, data in recordings(code).items()}
        deb(f"asterisk-core-sounds-{code}-g722_9-1_all.deb", sounds)


def make_tars(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for code in asterisk.LANGUAGES:
        files = {
            f"core-sounds-{code}.txt": PROMPTS.get(code, PROMPTS["en"]).encode(),
            f"LICENSE-asterisk-core-{code}": b"CC",
        }
        path = folder / f"asterisk-core-sounds-{code}-g722-1.6.1.tar.gz"
        path.write_bytes(tar_bytes({**files, **recordings(code)}, "w:gz"))
        path.with_name(path.name + ".sha1").write_text(f"{hashlib.sha1(path.read_bytes()).hexdigest()}  {path.name}\n")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder behind a local web server that stands in for the Asterisk project's, on a machine without apt."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("LALIA_ASTERISK_SOUNDS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    (tmp_path / "web").mkdir()
    yield tmp_path / "web"
    server.shutdown()


def demo(tmp_path: Path, audio: Path | None, said: list[str]) -> Corpus:
    recipe = pipeline.Recipe("demo", {}, None, "near")
    pipeline.prepare(
        lambda work: list_demo(work, audio, said.append), recipe, tmp_path / "c", in_this_process, Console(quiet=True)
    )
    return Corpus.load(tmp_path / "c")


def test_from_debs_brought_by_hand(tmp_path: Path, loud_is_voice: None) -> None:
    make_debs(tmp_path / "debs")
    said: list[str] = []
    corpus = demo(tmp_path, tmp_path / "debs", said)
    assert "ita/vm-goodbye" in corpus.column("id")
    row = corpus.column("id").index("ita/vm-goodbye")
    assert (corpus.text(row), corpus.speaker(row), corpus.language(row)) == ("Arrivederci.", "Carlo Flora", "ita")
    assert corpus.durations_s[row] == pytest.approx(6000 / 8000)
    assert not any("silence" in id or "beep" in id for id in corpus.column("id"))
    assert "CC BY-SA 3.0" in (tmp_path / "c" / "ATTRIBUTION.md").read_text()
    assert (tmp_path / "c" / "COPYRIGHT.txt").read_text() == "CC"
    assert any("no checksum is known" in line for line in said), "another version is taken, with a note"
    assert any("expected 2831 as in version 1.6.1" in line for line in said)


def test_from_the_projects_tar_files(tmp_path: Path, served: Path, loud_is_voice: None) -> None:
    make_tars(served)
    said: list[str] = []
    assert "ita/digits/1" in demo(tmp_path, None, said).column("id")
    assert said[0] == "demo: apt: apt-get is not installed"
    assert not any("no checksum" in line for line in said)


def test_a_damaged_download_is_named(tmp_path: Path, served: Path) -> None:
    make_tars(served)
    path = served / "asterisk-core-sounds-fr-g722-1.6.1.tar.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"fr-g722-1\.6\.1\.tar\.gz: checksum is .* expected .*; delete the file"):
        asterisk.fetch_archives(tmp_path / "downloads", lambda words: None)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    for name, data in (("a.deb", b"!<arch>\n"), ("b.deb", b"nonsense"), ("c.tar.gz", b"nonsense")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="archive cannot be read"):
            list(asterisk.read_archive(tmp_path / name))


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    make_tars(tmp_path / "tars")
    path = tmp_path / "tars" / "asterisk-core-sounds-en-g722-1.6.1.tar.gz"
    path.write_bytes(tar_bytes({"core-sounds-en.txt": b"a: b\n", "../../../evil.g722": b"\x99" * 100}, "w:gz"))
    path.with_name(path.name + ".sha1").unlink()
    with pytest.raises(UserError, match="outside its folder"):
        list_demo(tmp_path / "work", tmp_path / "tars", lambda words: None)


def test_without_a_connection_the_error_has_a_remedy(
    tmp_path: Path, served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "demo", "--out", str(tmp_path / "c"), "--workers", "1"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be downloaded" in message
    assert "--audio FOLDER" in message
    assert main(["prepare", "demo", "--audio", str(served), "--out", str(tmp_path / "c")]) == 2
    assert "lacks recordings or transcripts for en, es, fr, it, ru" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("note", "label"),
    [
        ("Mailbox?", "Mailbox?"),
        ("Login incorrect. Mailbox?", "Login incorrect. Mailbox?"),
        ("En que carpeta desea guardar el mensaje ?", "En que carpeta desea guardar el mensaje ?"),
        ("Il tempo sar? esattamente..", ""),
        ("La conferenza ? piena.", ""),
        ("cos? come composta", ""),
        ("at [@]", "at"),
        ("spazio []", "spazio"),
        ("[sound of monkeys screaming]", ""),
        ("IAX (note: does not say 2)", ""),
        ("<beep ascending>", ""),
        ("premere 1, poi  2.", "premere uno, poi due."),
        ("marque 500", ""),
        ("modem da 28Kilobit", ""),
        ("H.323", ""),
        ("...", ""),
    ],
)
def test_labels_are_what_is_spoken(note: str, label: str) -> None:
    assert clean_prompt(" ".join(note.split()), "ita") == label


def test_prompt_lists_in_any_encoding() -> None:
    data = "\ufeff; a list\na: perché\nb : due  spazi \nc: uno\nc: due\nd: d: di nuovo\nno colon\n".encode()
    latin = "e: d\xe9j\xe0\n".encode("latin-1")
    prompts = read_prompts(gzip.compress(data + latin))
    assert prompts == {"a": "perché", "b": "due spazi", "c": "", "d": "di nuovo", "e": "déjà"}
    assert match_prompts(["A", "b", "x"], prompts) == {"A": "perché", "b": "due spazi", "x": ""}


def test_no_sentence_is_in_two_splits_and_the_splits_stay_as_they_are() -> None:
    words = "uno due tre quattro cinque sei sette otto nove dieci".split()  # noqa: SIM905
    clips = [
        SourceClip(
            f"{language}/{n}", "", language, f"{words[n % 10]} {words[n // 10 % 10]}, {n // 200}!", duration_s=2.0
        )
        for language in ("ita", "spa")
        for n in range(400)
    ]
    clips = [*clips, *(SourceClip(f"ita/raw{n}", "", "ita", duration_s=2.0) for n in range(20))]
    held = hold_out([clip for clip in clips if clip.language == "ita"], 60.0, 30.0)
    seconds = {
        split: sum(clip.duration_s for clip in held if clip.split == split) for split in ("test", "dev", "train")
    }
    assert seconds == {"test": 60.0, "dev": 28.0, "train": 752.0} or seconds["test"] == 60.0
    keys = {split: {sentence_key(c.text) for c in held if c.split == split} for split in seconds}
    assert not (keys["test"] & keys["train"] or keys["dev"] & keys["train"] or keys["test"] & keys["dev"])
    assert all(clip.split == "train" for clip in held if not clip.text)
    assert held == hold_out([clip for clip in clips if clip.language == "ita"], 60.0, 30.0)
    assert all(clip.split == "train" for clip in hold_out(clips)), "what is said in two languages is not held out"
