"""The demo corpus: Asterisk's sound prompts in five languages, split so that no sentence is in two splits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lalia.data.prepare.asterisk import (
    ARCHIVE,
    LANGUAGES,
    fetch_archives,
    find_archives,
    missing_languages,
    read_archive,
    verify_archives,
)
from lalia.data.prepare.clips import Clip, Dropped, Listing, ordering, sentence_key
from lalia.data.prepare.credits import VOICES, attribution
from lalia.data.prepare.options import Say
from lalia.data.prepare.prompts import NOT_SPEECH, clean_prompt, match_prompts, read_prompts
from lalia.exits import UserError
from lalia.units import Seconds

EXPECTED_CLIPS = 2_831
TEST_S: Seconds = 4.0 * 60
DEV_S: Seconds = 2.5 * 60
LONGEST_HELD_OUT_S: Seconds = 20.0
G722_BYTES_PER_S = 8_000  # 64 kbit/s, whatever is said


def list_demo(work: Path, audio: Path | None, say: Say) -> Listing:
    """Fetch (or take from ``audio``) the archives, open them below ``work`` and list the clips."""
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
        say(f"demo: {found} recordings, where version 1.6.1 has {EXPECTED_CLIPS}")
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


def hold_out(clips: list[Clip], test_s: Seconds = TEST_S, dev_s: Seconds = DEV_S) -> list[Clip]:
    """``clips`` with their splits: sentences in hash order go to test while they fit, else to dev, else to train."""
    said_in: dict[str, set[str]] = {}
    sentences: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        if key := sentence_key(clip.text):
            said_in.setdefault(key, set()).add(clip.language)
            sentences.setdefault((clip.language, key), []).append(clip)
    split_of: dict[tuple[str, str], str] = {}
    for language in sorted({clip.language for clip in clips}):
        wanted = {"test": test_s, "dev": dev_s}
        for key in sorted((k for lang, k in sentences if lang == language), key=ordering):
            said = sentences[language, key]
            if len(said_in[key]) > 1 or any(clip.duration_s > LONGEST_HELD_OUT_S for clip in said):
                continue
            seconds = sum(clip.duration_s for clip in said)
            split = next((name for name, left in wanted.items() if seconds <= left), None)
            if split is not None:
                wanted[split] -= seconds
                split_of[language, key] = split
    return [replace(clip, split=split_of.get((clip.language, sentence_key(clip.text)), "train")) for clip in clips]


def _add_language(listing: Listing, code: str, language: str, archives: list[Path], folder: Path) -> None:
    """Open the archives of one language below ``folder`` and list what they hold."""
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
                    raise UserError(f"{archive}: names a file outside of its folder ({name}); get the archive anew")
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
            f"demo: the archives hold {len(recordings)} recordings and {len(prompts)} transcripts of {code}"
        )
    noted = match_prompts(recordings, prompts)
    for clip in sorted(recordings):
        name = f"{language}/{clip}"
        if NOT_SPEECH.fullmatch(clip):
            listing.dropped.append(Dropped(name, "not speech", noted[clip]))
            continue
        listing.clips.append(
            Clip(
                id=name,
                path=str(recordings[clip]),
                language=language,
                text=clean_prompt(noted[clip], language),
                speaker=VOICES[language].name,
                source=f"asterisk-core-sounds-{code}",
                duration_s=recordings[clip].stat().st_size / G722_BYTES_PER_S,
            )
        )
