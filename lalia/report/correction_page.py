"""Pages to listen to doubtful clips and correct their text: the worst first, by keyboard, saved as a table of corrections.

The page downloads ``corrections.tsv`` (piece, decision, text), which ``lalia align --corrections`` and ``lalia finetune check
--corrections`` read. Decisions stay in the browser's storage until then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from lalia.align.pieces import ENDS, Piece
from lalia.audio.reading import read_blocks
from lalia.errors import AudioError
from lalia.report import numbers, page
from lalia.report.page import Player, make_player
from lalia.text.edit_distance import alignment
from lalia.text.normaliser import Normaliser, settings_for
from lalia.units import Seconds, clock, plural, to_samples

DOUBTFUL = "doubtful.html"
PAGE_BYTES = 24_000_000
"""A page holds about an hour of audio; a larger one is slow to open."""
MOST_PAGES = 4
ASSETS = ("corrections.css", "corrections.js")
WORD_LEGEND = Markup(
    '<span><mark class="gone">deletion</mark> written, not transcribed</span>'
    '<span><mark class="other">substitution</mark> transcribed as another word</span>'
    '<span><mark class="extra">insertion</mark> transcribed, not written</span>'
)


@dataclass(frozen=True)
class DoubtfulClip:
    """A clip to listen to."""

    id: str
    """its name in the table of corrections, unique"""
    text: str
    heard: str
    """what a recogniser transcribes"""
    why: str
    """why it is doubtful, in a few words"""
    wave: Callable[[], np.ndarray]
    """its samples (S,), 16 kHz; may raise ``AudioError``"""


@dataclass(frozen=True)
class _Shown:
    id: str
    text: str
    why: str
    marked_text: Markup
    marked_heard: Markup
    player: Player | None


def write_pages(
    path: Path, title: str, clips: Sequence[DoubtfulClip], normaliser: Normaliser, next_command: str
) -> list[Path]:
    """Write the page ``path`` for ``clips``, in this order, and ``NAME-2.html``, … where one is too large; returns their paths.

    Clips beyond the last page are counted on it. Pages of an earlier call are removed. ``next_command`` takes the corrections.
    """
    storage = hashlib.sha256("\n".join(f"{clip.id}\t{clip.text}" for clip in clips).encode()).hexdigest()[:16]
    paths: list[Path] = []
    part: list[_Shown] = []
    shown = 0

    def write(more: bool) -> None:  # each page as soon as it is full: its audio is large
        paths.append(path.with_stem(f"{path.stem}-{len(paths) + 1}") if paths else path)
        lead = Markup("<strong>{}</strong>, the most doubtful first.").format(plural(len(part), "clip"))
        number = f", page {len(paths)}" if more or len(paths) > 1 else ""
        left_out = len(clips) - shown if len(paths) == MOST_PAGES else 0
        footer: list[str | Markup] = [f"{left_out:,} more doubtful clips are on no page."] if left_out else []
        footer.append("Enter saves a corrected text, Escape leaves it. After a decision the next clip plays.")
        sections = [page.Section("", [page.corrections(part, WORD_LEGEND, storage)])]
        steps = [(next_command, "after you downloaded the table")]
        made = page.Page(
            "corrections", title + number, lead, next=steps, sections=sections, footer=footer, assets=ASSETS
        )
        made.write(paths[-1])

    for one, new in _paged(clips, normaliser):
        if new and part:
            write(more=True)
            part = []
            if len(paths) == MOST_PAGES:
                break
        part.append(one)
        shown += 1
    if part:
        write(more=False)
    for old in [path, *path.parent.glob(f"{path.stem}-*.html")]:
        if old not in paths:
            old.unlink(missing_ok=True)
    return paths


def write_doubtful(folder: Path, pieces: Iterable[Piece], language: str, title: str, next_command: str) -> list[Path]:
    """The pages of the doubtful ``pieces`` of an alignment, the highest score first: ``folder/doubtful.html``, …"""
    doubtful = sorted(
        (piece for piece in pieces if piece.status == "doubtful"), key=lambda piece: (-piece.score, -piece.ends)
    )
    clips = [
        DoubtfulClip(
            piece.piece,
            piece.text,
            piece.heard,
            _why(piece),
            partial(read_part, Path(piece.audio), piece.start, piece.end),
        )
        for piece in doubtful
    ]
    return write_pages(folder / DOUBTFUL, title, clips, Normaliser(settings_for(language)), next_command)


def _why(piece: Piece) -> str:
    if piece.reason == ENDS:
        reason = f"first or last word wrong with probability {numbers.percent(piece.ends, 0)}"
    else:
        reason = f"{numbers.percent(piece.score, 0)} of its words are expected to be wrong"
    place = f"{clock(piece.start)} to {clock(piece.end)} of {piece.recording}"
    return f"{reason} · {place}" + (f", {piece.chapter}" if piece.chapter else "")


def _paged(clips: Iterable[DoubtfulClip], normaliser: Normaliser) -> Iterator[tuple[_Shown, bool]]:
    """Each clip as it is shown, and whether a page begins with it."""
    size = PAGE_BYTES
    for clip in clips:
        marked_text, marked_heard = mark_words(clip.text, clip.heard, normaliser)
        why, player = clip.why, None
        try:
            player = make_player(clip.id, clip.wave())
        except AudioError as error:
            why = f"{why}; unreadable: {error}"
        added = (len(player.audio) + 2 * len(player.outline) if player else 0) + len(marked_text) + len(marked_heard)
        new = size + added > PAGE_BYTES
        size = added if new else size + added
        yield _Shown(clip.id, clip.text, why, marked_text, marked_heard, player), new


def read_part(audio: Path, start_s: Seconds, end_s: Seconds) -> np.ndarray:
    """The wave (S,), 16 kHz, of a part of the recording ``audio``; ``AudioError`` if it cannot be read."""
    first_s = int(start_s)
    blocks = list(read_blocks(audio, start_s=first_s, end_s=int(end_s) + 1))
    if not blocks:
        raise AudioError(f"{audio}: ends before {clock(start_s)}")
    return np.concatenate(blocks)[to_samples(start_s - first_s) : to_samples(end_s - first_s)]


# --- Words that were transcribed otherwise ---------------------------------------------------------------

_CLASSES = {"substitution": ("other", "other"), "deletion": ("gone", ""), "insertion": ("", "extra")}


def mark_words(text: str, heard: str, normaliser: Normaliser) -> tuple[Markup, Markup]:
    """(text, heard) as HTML with the words marked that differ; compared as ``normaliser`` writes them, shown as they are.

    In scripts without spaces the units are those of the language's error rate, such as characters.
    """
    written, transcribed = _words(text, normaliser), _words(heard, normaliser)
    classes: tuple[list[str], list[str]] = ([""] * len(written), [""] * len(transcribed))
    owners = [[at for at, (_, keys, _) in enumerate(words) for _ in keys] for words in (written, transcribed)]
    places = [iter(owner) for owner in owners]
    reference, hypothesis = (" ".join(key for _, keys, _ in words for key in keys) for words in (written, transcribed))
    for edit in alignment(reference, hypothesis):
        for side, unit in enumerate((edit.reference, edit.hypothesis)):
            if unit:
                at = next(places[side])
                classes[side][at] = classes[side][at] or _CLASSES.get(edit.kind, ("", ""))[side]
    return _joined(written, classes[0]), _joined(transcribed, classes[1])


def _words(text: str, normaliser: Normaliser) -> list[tuple[str, list[str], str]]:
    """(word as written, its units to compare, what follows it) for each word of ``text``."""
    writing = normaliser.settings.system()
    found = []
    for run in text.split():
        pieces = writing.cut(run)
        for piece, after in zip_longest(pieces, [""] * (len(pieces) - 1), fillvalue=" "):
            found.append(
                (piece, [unit for word in normaliser(piece).split() for unit in writing.count_units(word)], after)
            )
    return found


def _joined(words: Sequence[tuple[str, list[str], str]], classes: Sequence[str]) -> Markup:
    if not words:
        return Markup('<span class="nothing">nothing</span>')
    out = Markup()
    for (word, _, after), name in zip(words, classes, strict=True):
        out += (Markup('<mark class="{}">{}</mark>').format(name, word) if name else escape(word)) + after
    return Markup(out.rstrip())
