"""Asterisk's core sound prompts: fetching, verifying and opening the archives that hold them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lalia.data.prepare.options import Say
from lalia.exits import UserError

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
"""What the archives of version 1.6.1-1 must be; other versions are taken with a note."""

PACKAGES = [f"asterisk-core-sounds-{code}{kind}" for code in LANGUAGES for kind in ("-g722", "")]
ARCHIVE = re.compile(r"asterisk-core-sounds-(en|es|fr|it|ru)(-g722)?[-_].*(\.deb|\.tar\.gz|\.tgz)")


def fetch_archives(folder: Path, say: Say) -> list[Path]:
    """Bring the archives into ``folder`` by apt, else from the Asterisk project; what is there already is kept.

    Raises ``UserError`` with the way out where neither can be reached.
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
                f"demo: Asterisk's sound prompts cannot be fetched ({'; '.join(failures)}); go online, or bring"
                f" the .deb or .tar.gz files asterisk-core-sounds-{{en,es,fr,it,ru}}-g722 (of .deb, those without -g722 too) by"
                " hand and say --audio FOLDER"
            )
    verify_archives(archives, say)
    return archives


def find_archives(folder: Path) -> list[Path]:
    """The archives in ``folder``, by name; ``[]`` unless there are recordings and transcripts of every language."""
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
    """Compare SHA-256 with the pinned ones, or with a ``.sha1`` or ``.sha256`` beside it; say what is unknown."""
    unknown = []
    for path in archives:
        expected, found = SHA256.get(path.name), _digest(path, "sha256")
        for kind in ("sha256", "sha1"):
            beside = path.with_name(f"{path.name}.{kind}")
            if expected is None and beside.is_file():
                expected, found = beside.read_text().split()[0], _digest(path, kind)
        if expected is None:
            unknown.append(path.name)
        elif expected != found:
            raise UserError(f"{path}: checksum is {found}, expected {expected}; delete the file and run again")
    if unknown:
        say(f"demo: no checksum is known for {', '.join(unknown)}; taken as they are")


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a .deb or .tar.gz as (name, bytes); ``UserError`` where it is damaged."""
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
    """A source that cannot be used here, with the reason; the next is tried."""


def _fetch_by_apt(folder: Path, say: Say) -> None:
    if shutil.which("apt-get") is None:
        raise _Unreachable("apt-get is not here")
    say("demo: fetching Asterisk's sound prompts with apt-get download")
    first = _apt([], ["download", *PACKAGES], folder)
    if find_archives(folder):
        return
    # Package lists are absent or older than the mirror: fetch fresh ones into a folder of our own, which needs no root.
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
    say("demo: apt's package lists are absent or stale; refreshing them into a private folder")
    update = _apt(options, ["update"], folder)  # May fail on one unrelated source and still bring what we need.
    last = _apt(options, ["download", *PACKAGES], folder)
    shutil.rmtree(private, ignore_errors=True)
    if not find_archives(folder):
        raise _Unreachable(last or update or first or "apt-get brought nothing")


def _apt(options: list[str], command: list[str], folder: Path) -> str:
    """Run apt-get in ``folder``; ``""`` where all went well, else the first line of its complaint."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    run = subprocess.run(
        ["apt-get", "-q", *options, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    complaints = [line for line in run.stderr.splitlines() if line.startswith("E:")]
    return "" if run.returncode == 0 else (complaints or [f"apt-get ended with status {run.returncode}"])[0]


def _fetch_tars(folder: Path, say: Say) -> None:
    root = os.environ.get("LALIA_ASTERISK_SOUNDS", TARS).rstrip("/")
    for code in LANGUAGES:
        name = f"asterisk-core-sounds-{code}-g722-{VERSION}.tar.gz"
        say(f"demo: fetching {root}/{name}")
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
        raise ValueError("is not a Debian package")
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode("ascii", "replace").strip(" /"), int(data[at + 48 : at + 58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):  # Ubuntu's; Python learns to read it in 3.14.
                return _dpkg_data(path)
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("holds no data.tar")


def _dpkg_data(path: Path) -> bytes:
    if shutil.which("dpkg-deb") is None:
        raise ValueError("is compressed with zstd, which needs dpkg-deb")
    return subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True).stdout
