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

_LOOKED_AT = 1000


@dataclass(frozen=True)
class PartListing:
    """What one reader takes of a source.

    ``form`` is what it is, in a word or two; ``has_splits``: it says which they are. ``files`` are those that rows are about
    which make no clip.
    """

    form: str
    entries: Sequence[SourceClip | Dropped]
    has_splits: bool
    files: frozenset[Path] = frozenset()


def finish_listing(name: str, parts: Sequence[PartListing], options: Options, where: Path) -> Listing:
    """A listing of all ``parts``, in their order; what an earlier part lists is not listed again.

    Clips of parts without splits of their own get some. Raises ``UserError`` where the source holds nothing, or names
    files none of which exists.
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
                dropped.append(Dropped(entry.id, "duplicate", f"is listed by the {other.form} and the {part.form}"))
            elif not options.limit or len(divided) + len(undivided) < options.limit:
                clips.append(entry if not options.language else replace(entry, language=options.language))
    clips = [*divided, *undivided]
    of_clips = [part for part in parts if any(isinstance(entry, SourceClip) for entry in part.entries)]
    forms = list(dict.fromkeys(part.form for part in of_clips or parts))
    if not clips:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        first = f"; the first: {dropped[0].detail}" if dropped else ""
        why = f"{reasons}{first}" if reasons else f"as a {' and a '.join(forms)}"
        raise UserError(f"{where}: names no audio that can be used ({why})")
    looked_at = clips[:_LOOKED_AT]
    if not any(clip.data is not None or is_file(clip.path) for clip in looked_at):
        raise UserError(
            f"{where}: none of the first {len(looked_at)} files it names exists (such as {clips[0].path});"
            " say --root FOLDER, the one that its paths start from"
        )
    clips = _unique(clips)
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
    return Listing(name, clips, dropped=dropped, facts=facts)


def _split(clips: list[SourceClip], options: Options, dropped: list[Dropped]) -> tuple[list[SourceClip], str]:
    """``clips`` with splits, and how they were made; what lies in a gap between two splits is ``dropped``."""
    percents = options.dev_percent, options.test_percent
    told = []
    if any(clip.text for clip in clips):
        clips, how = assign_splits(clips, *percents)
        told.append(how)
    made, how = hold_out_recordings(clips, *percents)
    dropped += [entry for entry in made if isinstance(entry, Dropped)]
    return [entry for entry in made if isinstance(entry, SourceClip)], "; ".join(filter(None, [*told, how])) or "none"


def _unique(clips: list[SourceClip]) -> list[SourceClip]:
    """The same name twice would be two clips that nobody can tell apart."""
    seen: Counter[str] = Counter()
    named = []
    for clip in clips:
        seen[clip.id] += 1
        named.append(clip if seen[clip.id] == 1 else replace(clip, id=f"{clip.id}~{seen[clip.id]}"))
    return named
