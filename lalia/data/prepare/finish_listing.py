"""Finish a listing: unique names, existing files, languages, splits, and facts for the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lalia.data.prepare.listing import Dropped, Listing, Options, SourceClip
from lalia.data.prepare.splits import assign_splits, hold_out_recordings
from lalia.errors import UserError
from lalia.files import is_file, readable

_CHECKED = 1000


@dataclass(frozen=True)
class PartListing:
    """The part of a source that one reader lists.

    ``form`` names its format in a word or two. ``has_splits``: the part defines its splits. ``files`` are audio files of rows
    that are not clips.
    """

    form: str
    entries: Sequence[SourceClip | Dropped]
    has_splits: bool
    files: frozenset[Path] = frozenset()


def finish_listing(name: str, parts: Sequence[PartListing], options: Options, where: Path) -> Listing:
    """A listing of all ``parts``, in their order, without clips that an earlier part lists.

    Clips of parts without splits are assigned to splits. Raises ``UserError`` if the source is empty or none of its files
    exists.
    """
    name = readable(name)
    divided: list[SourceClip] = []
    undivided: list[SourceClip] = []
    dropped: list[Dropped] = []
    listed: dict[tuple[object, ...], PartListing] = {}
    for part in parts:
        clips = divided if part.has_splits else undivided
        for entry in part.entries:
            if isinstance(entry, Dropped):
                dropped.append(entry)
            elif (
                other := listed.setdefault((entry.path, entry.start_s, entry.end_s, entry.channel), part)
            ) is not part:
                dropped.append(Dropped(entry.id, "duplicate", f"is listed in the {other.form} and in the {part.form}"))
            elif not options.limit or len(divided) + len(undivided) < options.limit:
                clips.append(entry if not options.language else replace(entry, language=options.language))
    clips = [*divided, *undivided]
    of_clips = [part for part in parts if any(isinstance(entry, SourceClip) for entry in part.entries)]
    forms = list(dict.fromkeys(part.form for part in of_clips or parts))
    if not clips:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        first = f"; the first: {dropped[0].detail}" if dropped else ""
        why = f"{reasons}{first}" if reasons else f"as a {' and a '.join(forms)}"
        raise UserError(f"{where}: no usable audio found ({why})")
    checked = clips[:_CHECKED]
    if not any(clip.data is not None or is_file(clip.path) for clip in checked):
        raise UserError(
            f"{where}: none of its first {len(checked)} files exists (for example {clips[0].path});"
            " give the folder of its relative paths with --root FOLDER"
        )
    clips = _with_kept(_unique(clips), options, where)
    divided, undivided = clips[: len(divided)], clips[len(divided) :]
    splitting = "as the source says" if divided else ""
    if undivided:
        undivided, how = _split(undivided, options, dropped)
        splitting = f"{splitting}; of the rest {how}" if divided else how
    clips = [*divided, *undivided]
    facts = {
        "sources": [{"name": name, "form": form, "licence": options.licence or "not stated"} for form in forms],
        "licences": [options.licence] if options.licence else [],
        "splitting": splitting,
    }
    return Listing(name, clips, dropped=dropped, facts=facts, extra=dict.fromkeys(options.keep, "string"))


def _split(clips: list[SourceClip], options: Options, dropped: list[Dropped]) -> tuple[list[SourceClip], str]:
    """``clips`` with splits, and how they were made; clips in a gap between two splits are added to ``dropped``."""
    percents = options.dev_percent, options.test_percent
    methods = []
    if any(clip.text for clip in clips):
        clips, how = assign_splits(clips, *percents)
        methods.append(how)
    made, how = hold_out_recordings(clips, *percents)
    dropped += [entry for entry in made if isinstance(entry, Dropped)]
    return [entry for entry in made if isinstance(entry, SourceClip)], "; ".join(
        filter(None, [*methods, how])
    ) or "none"


def _with_kept(clips: list[SourceClip], options: Options, where: Path) -> list[SourceClip]:
    """``clips`` with every column of ``--keep``, "" where a clip has no value; ``UserError`` if no clip has one."""
    nothing = dict.fromkeys(options.keep, "")
    clips = [replace(clip, extra=clip.extra or nothing) for clip in clips] if nothing else clips
    for name, theirs in options.keep.items():
        if not any(clip.extra[name] for clip in clips):
            raise UserError(
                f"{where}: no clip has a value for --keep {name}; only tables with a column {theirs!r} have one"
            )
    return clips


def _unique(clips: list[SourceClip]) -> list[SourceClip]:
    """Clips with unique ids: repeated ids get a number."""
    seen: Counter[str] = Counter()
    named = []
    for clip in clips:
        seen[clip.id] += 1
        named.append(clip if seen[clip.id] == 1 else replace(clip, id=f"{clip.id}~{seen[clip.id]}"))
    return named
