"""The demo corpus: Asterisk's sound prompts in five languages.

Fetches and verifies the archives, cleans the transcripts, splits by sentence (no sentence is in two splits) and writes the
attribution that the licences require.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lalia.data.prepare.listing import Dropped, Listing, Say, SourceClip, ordering, sentence_key
from lalia.errors import UserError
from lalia.units import Seconds

# --- Asterisk's core sound prompts -----------------------------------------------------------------------

LANGUAGES = {"en": "eng", "es": "spa", "fr": "fra", "it": "ita", "ru": "rus"}
VERSION = "1.6.1"
TARS = "https://downloads.asterisk.org/pub/telephony/sounds/releases"

SHA256 = {
    "asterisk-core-sounds-en-g722_1.6.1-1_all.deb": "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "asterisk-core-sounds-en_1.6.1-1_all.deb": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "asterisk-core-sounds-es-g722_1.6.1-1_all.deb": "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "asterisk-core-sounds-es_1.6.1-1_all.deb": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "asterisk-core-sounds-fr-g722_1.6.1-1_all.deb": "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    "asterisk-core-sounds-fr_1.6.1-1_all.deb": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "asterisk-core-sounds-it-g722_1.6.1-1_all.deb": "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    "asterisk-core-sounds-it_1.6.1-1_all.deb": "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    "asterisk-core-sounds-ru-g722_1.6.1-1_all.deb": "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    "asterisk-core-sounds-ru_1.6.1-1_all.deb": "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
}
"""Checksums of the archives of version 1.6.1-1; other versions are used with a note."""

PACKAGES = [f"asterisk-core-sounds-{code}{kind}" for code in LANGUAGES for kind in ("-g722", "")]
ARCHIVE = re.compile(r"asterisk-core-sounds-(en|es|fr|it|ru)(-g722)?[-_].*(\.deb|\.tar\.gz|\.tgz)")


def fetch_archives(folder: Path, say: Say) -> list[Path]:
    """Download the archives to ``folder`` with apt, else from the Asterisk project; existing files are kept.

    Raises ``UserError`` with a remedy if neither can be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archives = find_archives(folder)
    if not archives:
        failures = []
        for name, fetch in (("apt", _fetch_by_apt), (TARS, _fetch_tars)):
            try:
                fetch(folder, say)
                break
            except _Unreachable as failure:
                failures.append(f"{name}: {failure}")
                say(f"demo: {failures[-1]}")
        archives = find_archives(folder)
        if not archives:
            raise UserError(
                f"demo: Asterisk's sound prompts cannot be downloaded ({'; '.join(failures)}); go online, or download"
                f" the .deb or .tar.gz files asterisk-core-sounds-{{en,es,fr,it,ru}}-g722 (as .deb, also those without -g722)"
                " by hand and give --audio FOLDER"
            )
    verify_archives(archives, say)
    return archives


def find_archives(folder: Path) -> list[Path]:
    """The archives in ``folder``, sorted by name; ``[]`` unless they cover recordings and transcripts of all languages."""
    archives = sorted(path for path in folder.iterdir() if ARCHIVE.fullmatch(path.name)) if folder.is_dir() else []
    return [] if missing_languages(archives) else archives


def missing_languages(archives: list[Path]) -> list[str]:
    """The languages that ``archives`` do not cover. A tar holds recordings and transcripts, a .deb one of the two."""
    missing = []
    for code in LANGUAGES:
        kinds = set()
        for path in archives:
            match = ARCHIVE.fullmatch(path.name)
            if match and match[1] == code and match[2]:
                kinds |= {"recordings"} if path.suffix == ".deb" else {"recordings", "transcripts"}
            elif match and match[1] == code and path.suffix == ".deb":
                kinds.add("transcripts")
        if len(kinds) < 2:
            missing.append(code)
    return missing


def verify_archives(archives: list[Path], say: Say) -> None:
    """Compare checksums with the pinned ones, or with a ``.sha1`` or ``.sha256`` file next to it; report unknown ones."""
    unknown = []
    for path in archives:
        expected, found = SHA256.get(path.name), _digest(path, "sha256")
        for kind in ("sha256", "sha1"):
            checksum_file = path.with_name(f"{path.name}.{kind}")
            if expected is None and checksum_file.is_file():
                expected, found = checksum_file.read_text().split()[0], _digest(path, kind)
        if expected is None:
            unknown.append(path.name)
        elif expected != found:
            raise UserError(f"{path}: checksum is {found}, expected {expected}; delete the file and run again")
    if unknown:
        say(f"demo: no checksum is known for {', '.join(unknown)}; used unverified")


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a .deb or .tar.gz as (name, bytes); ``UserError`` if it is damaged."""
    try:
        source = io.BytesIO(_deb_data(path)) if path.suffix == ".deb" else path.open("rb")
        with source, tarfile.open(fileobj=source) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name.removeprefix("./"), file.read()
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{path}: archive cannot be read ({error}); delete it and run again") from error


class _Unreachable(Exception):
    """A download source that cannot be used, with the reason; the next one is tried."""


def _fetch_by_apt(folder: Path, say: Say) -> None:
    if shutil.which("apt-get") is None:
        raise _Unreachable("apt-get is not installed")
    say("demo: downloading Asterisk's sound prompts with apt-get download")
    first = _apt([], ["download", *PACKAGES], folder)
    if find_archives(folder):
        return
    # Package lists are missing or older than the mirror: update copies in a private folder, which needs no root.
    private = folder / "apt"
    (private / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (private / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = [
        f"-oDir::State={private}",
        f"-oDir::State::lists={private / 'lists'}",
        f"-oDir::Cache={private / 'cache'}",
        "-oAPT::Sandbox::User=",
        "-oAcquire::Languages=none",
        "-oAcquire::Retries=2",
    ]
    say("demo: apt's package lists are missing or outdated; updating a private copy")
    update = _apt(options, ["update"], folder)  # May fail on one unrelated source and still succeed for ours.
    last = _apt(options, ["download", *PACKAGES], folder)
    shutil.rmtree(private, ignore_errors=True)
    if not find_archives(folder):
        raise _Unreachable(last or update or first or "apt-get downloaded nothing")


def _apt(options: list[str], command: list[str], folder: Path) -> str:
    """Run apt-get in ``folder``; ``""`` on success, else the first line of its error message."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    run = subprocess.run(
        ["apt-get", "-q", *options, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    errors = [line for line in run.stderr.splitlines() if line.startswith("E:")]
    return "" if run.returncode == 0 else (errors or [f"apt-get ended with status {run.returncode}"])[0]


def _fetch_tars(folder: Path, say: Say) -> None:
    root = os.environ.get("LALIA_ASTERISK_SOUNDS", TARS).rstrip("/")
    for code in LANGUAGES:
        name = f"asterisk-core-sounds-{code}-g722-{VERSION}.tar.gz"
        say(f"demo: downloading {root}/{name}")
        _download(f"{root}/{name}", folder / name)
        try:
            _download(f"{root}/{name}.sha1", folder / f"{name}.sha1")
        except _Unreachable:
            say(f"demo: {root} has no checksum for {name}")


def _download(url: str, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, urllib.error.URLError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise _Unreachable(f"{url}: {error}") from error
    partial.replace(path)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.new(kind)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _deb_data(path: Path) -> bytes:
    """The data archive inside a .deb: an ``ar`` of debian-binary, control.tar.* and data.tar.*."""
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise ValueError("not a Debian package")
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode("ascii", "replace").strip(" /"), int(data[at + 48 : at + 58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):  # Ubuntu's; Python reads it from 3.14 on.
                return _dpkg_data(path)
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar in it")


def _dpkg_data(path: Path) -> bytes:
    if shutil.which("dpkg-deb") is None:
        raise ValueError("compressed with zstd, which needs dpkg-deb")
    return subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True).stdout


# --- Asterisk's prompt transcripts -----------------------------------------------------------------------

DIGITS = {
    "eng": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "spa": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
    "fra": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "ita": ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"],
    "rus": ["ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"],
}

NOT_SPEECH = re.compile(r"silence/.*|beep(err)?|(a|de)scending-2tone|confbridge-(join|leave)|tt-monkeys", re.IGNORECASE)
"""Recordings of tones, monkeys and silence."""

_GLOSS = re.compile(r"\[[^\w\]]*\]")  # "at [@]", "spazio []"
_STAGE_DIRECTION = re.compile(r"[\[\](){}<>]")  # "[sound of monkeys]", "(note: does not say "2")"


def read_prompts(data: bytes) -> dict[str, str]:
    """``core-sounds-XX.txt`` (gzipped or not) as {clip: transcript}; lines with ``;`` are comments.

    A clip that is listed twice with different words has no reliable label and becomes ``""``.
    """
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    prompts: dict[str, str] = {}
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        entry = _decode(line).strip()
        if not entry or entry.startswith(";"):
            continue
        clip, colon, words = entry.partition(":")
        if not colon:
            continue
        clip = clip.strip()
        words = " ".join(words.split()).removeprefix(f"{clip}: ")  # One entry begins with its own name again.
        prompts[clip] = words if prompts.get(clip, words) == words else ""
    return prompts


def clean_prompt(words: str, language: str) -> str:
    """The label for a prompt's transcript; ``""`` if the transcript is not what is spoken.

    Glosses of symbols are removed (``at [@]``) and single digits are spelled (prompts name keys of a telephone). A transcript
    is rejected if it has a stage direction, a longer number or an accent that an old encoding turned into a question mark.
    """
    words = _GLOSS.sub(" ", words).strip()
    if _STAGE_DIRECTION.search(words) or _has_broken_accent(words):
        return ""
    words = re.sub(r"(?<![\w.,:+-])\d(?![\w:+-]|[.,]\d)", lambda digit: DIGITS[language][int(digit[0])], words)
    if re.search(r"\d", words) or not re.search(r"[^\W\d_]", words):
        return ""
    return " ".join(words.split())


def match_prompts(clips: Iterable[str], prompts: dict[str, str]) -> dict[str, str]:
    """The transcript of every clip, ``""`` if there is none; names may differ in case if that is unambiguous."""
    folded: dict[str, list[str]] = {}
    for name, words in prompts.items():
        folded.setdefault(name.casefold(), []).append(words)
    matched = {}
    for clip in clips:
        others = folded.get(clip.casefold(), [])
        matched[clip] = prompts[clip] if clip in prompts else others[0] if len(others) == 1 else ""
    return matched


def _has_broken_accent(words: str) -> bool:
    for mark in re.finditer(r"\?", words):
        after = words[mark.end() :].lstrip()
        # A real question mark is at the end or before a capital. Any other one replaces a letter.
        if mark.start() == 0 or (after and not (after[0].isupper() and words[mark.end()].isspace())):
            return True
    return False


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


# --- Speakers and licences of Asterisk's prompts, and the attribution that the licences require ----------


@dataclass(frozen=True)
class Voice:
    """The speaker of a language, from the prompts' copyright file."""

    name: str
    years: str
    licence: str
    credits: str


_ALLISON = Voice(
    "Allison Smith",
    "2003-2010",
    "CC BY-SA 3.0",
    "recorded by Allison Smith (http://www.theivrvoice.com); financial contributions by Digium, Inc."
    " (http://www.digium.com)",
)

VOICES = {
    "eng": _ALLISON,
    "spa": _ALLISON,
    "fra": Voice(
        "June Wallack",
        "2006-2008",
        "CC BY-SA 3.0",
        "recorded by June Wallack (http://www.junewallack.com); translated by Clod Patry, Kristopher Lalletti and June"
        " Wallack; financial contributions by Digium, Inc. (http://www.digium.com), Unlimitel (http://www.unlimitel.ca) and"
        " BGM Informatique (www.bgm.qc.ca)",
    ),
    "ita": Voice(
        "Carlo Flora",
        "2012",
        "CC BY 3.0",
        "recorded by Carlo Flora (http://www.carloflora.com, http://www.segreterietelefoniche.it); translated by Silvia"
        " Petrin (traduttore@segreterietelefoniche.it) from the English distributed by Digium",
    ),
    "rus": Voice("Maxim Topal", "2010", "CC BY 3.0", "provided by Maxim Topal (http://www.ivrvoice.ru)"),
}

LICENCE_URLS = {
    "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
}


def attribution() -> str:
    """``ATTRIBUTION.md`` of a corpus made from the prompts."""
    rows = [f"| {code} | {v.name}, {v.years} | {v.licence} | {v.credits} |" for code, v in VOICES.items()]
    deeds = [f"- {name}: {address}" for name, address in LICENCE_URLS.items()]
    return "\n".join(
        [
            "# Attribution",
            "",
            "The recordings and transcripts in this corpus are Asterisk's core sound prompts, version 1.6.1, published by",
            "the Asterisk project (https://www.asterisk.org) and packaged by Debian. They were changed: decoded from G.722",
            "and packed as FLAC; single digits in the transcripts were spelled, and transcripts that differ from the recording",
            "were left out. `COPYRIGHT.txt` is the copyright file that came with them.",
            "",
            "| language | voice | licence | credits |",
            "|---|---|---|---|",
            *rows,
            "",
            *deeds,
            "",
            "Whoever passes this corpus on, or something adapted from it, names these people and, for the parts under",
            "CC BY-SA, keeps that licence.",
            "",
        ]
    )


# --- The demo corpus -------------------------------------------------------------------------------------

EXPECTED_CLIPS = 2_831
TEST_S: Seconds = 4.0 * 60
DEV_S: Seconds = 2.5 * 60
LONGEST_HELD_OUT_S: Seconds = 20.0
G722_BYTES_PER_S = 8_000  # 64 kbit/s, constant


def list_demo(work: Path, audio: Path | None, say: Say) -> Listing:
    """Download the archives (or use those in ``audio``), unpack them below ``work`` and list the clips."""
    if audio is not None:
        archives = find_archives(audio)
        if not archives:
            there = sorted(p for p in audio.iterdir() if ARCHIVE.fullmatch(p.name)) if audio.is_dir() else []
            raise UserError(
                f"{audio}: lacks recordings or transcripts for {', '.join(missing_languages(there))}; expected"
                " asterisk-core-sounds-XX-g722-*.tar.gz, or asterisk-core-sounds-XX-g722_*.deb and"
                " asterisk-core-sounds-XX_*.deb, for en, es, fr, it, ru"
            )
        verify_archives(archives, say)
    else:
        archives = fetch_archives(work / "downloads", say)
    listing = Listing("demo", [], documents={"ATTRIBUTION.md": attribution()})
    for code, language in LANGUAGES.items():
        _add_language(listing, code, language, archives, work / "sounds" / code)
    found = len(listing.clips) + len(listing.dropped)
    if found != EXPECTED_CLIPS:
        say(f"demo: {found} recordings, expected {EXPECTED_CLIPS} as in version 1.6.1")
    listing.clips = hold_out(listing.clips)
    listing.facts = {
        "sources": [
            {
                "name": f"asterisk-core-sounds-{code}",
                "language": language,
                "voice": VOICES[language].name,
                "licence": VOICES[language].licence,
                "archives": [p.name for p in archives if (m := ARCHIVE.fullmatch(p.name)) and m[1] == code],
            }
            for code, language in LANGUAGES.items()
        ],
        "licences": sorted({voice.licence for voice in VOICES.values()}),
        "attribution": "ATTRIBUTION.md",
        "splitting": "by sentence: in the order of SHA-256 of the sentence, 4 minutes of each language to test, 2.5 to"
        " dev; unlabelled clips, clips over 20 s and sentences said in two languages to train",
    }
    return listing


def hold_out(clips: list[SourceClip], test_s: Seconds = TEST_S, dev_s: Seconds = DEV_S) -> list[SourceClip]:
    """``clips`` with splits: sentences in hash order go to test until it is full, then to dev, the others to train."""
    languages_of: dict[str, set[str]] = {}
    sentences: dict[tuple[str, str], list[SourceClip]] = {}
    for clip in clips:
        if key := sentence_key(clip.text):
            languages_of.setdefault(key, set()).add(clip.language)
            sentences.setdefault((clip.language, key), []).append(clip)
    split_of: dict[tuple[str, str], str] = {}
    for language in sorted({clip.language for clip in clips}):
        wanted = {"test": test_s, "dev": dev_s}
        for key in sorted((k for lang, k in sentences if lang == language), key=ordering):
            clips_of_sentence = sentences[language, key]
            if len(languages_of[key]) > 1 or any(clip.duration_s > LONGEST_HELD_OUT_S for clip in clips_of_sentence):
                continue
            seconds = sum(clip.duration_s for clip in clips_of_sentence)
            split = next((name for name, left in wanted.items() if seconds <= left), None)
            if split is not None:
                wanted[split] -= seconds
                split_of[language, key] = split
    return [replace(clip, split=split_of.get((clip.language, sentence_key(clip.text)), "train")) for clip in clips]


def _add_language(listing: Listing, code: str, language: str, archives: list[Path], folder: Path) -> None:
    """Unpack the archives of one language below ``folder`` and list their clips."""
    prompts: dict[str, str] = {}
    recordings: dict[str, Path] = {}
    for archive in archives:
        match = ARCHIVE.fullmatch(archive.name)
        if match is None or match[1] != code:
            continue
        for name, data in read_archive(archive):
            if name.endswith(".g722"):
                clip = re.sub(r"^.*?sounds/[^/]+/", "", name).removesuffix(".g722")
                path = (folder / f"{clip}.g722").resolve()
                if not path.is_relative_to(folder.resolve()):
                    raise UserError(
                        f"{archive}: contains a path outside its folder ({name}); download the archive again"
                    )
                recordings[clip] = path
                if not path.is_file() or path.stat().st_size != len(data):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
            elif Path(name).name in (f"core-sounds-{code}.txt", f"core-sounds-{code}.txt.gz"):
                prompts = read_prompts(data)
            elif Path(name).name == "copyright" or Path(name).name.startswith(("LICENSE", "CREDITS")):
                known = listing.documents.get("COPYRIGHT.txt", "")
                text = data.decode("utf-8", "replace")
                if text not in known:
                    listing.documents["COPYRIGHT.txt"] = known + text
    if not recordings or not prompts:
        raise UserError(
            f"demo: the archives contain {len(recordings)} recordings and {len(prompts)} transcripts of {code}"
        )
    transcripts = match_prompts(recordings, prompts)
    for clip in sorted(recordings):
        name = f"{language}/{clip}"
        if NOT_SPEECH.fullmatch(clip):
            listing.dropped.append(Dropped(name, "not speech", transcripts[clip]))
            continue
        listing.clips.append(
            SourceClip(
                id=name,
                path=str(recordings[clip]),
                language=language,
                text=clean_prompt(transcripts[clip], language),
                speaker=VOICES[language].name,
                source=f"asterisk-core-sounds-{code}",
                duration_s=recordings[clip].stat().st_size / G722_BYTES_PER_S,
            )
        )
