"""The last steps of every listing: unique names, files that exist, languages, splits, facts for the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lalia.data.prepare.clips import Clip, Dropped, Listing
from lalia.data.prepare.options import Options
from lalia.data.prepare.splits import assign_splits, hold_out_recordings
from lalia.exits import UserError
from lalia.filenames import readable

_LOOKED_AT = 1000


def finish_listing(
    name: str, entries: Iterable[Clip | Dropped], options: Options, *, form: str, has_splits: bool, where: Path
) -> Listing:
    """A listing of ``entries``, in their order.

    ``form`` is what the source is, in a word or two; without splits of its own a source gets some. Raises
    ``UserError`` where the source holds nothing, or names files none of which exists.
    """
    name = readable(name)
    clips: list[Clip] = []
    dropped: list[Dropped] = []
    for entry in entries:
        if isinstance(entry, Dropped):
            dropped.append(entry)
        else:
            clips.append(entry if not options.language else replace(entry, language=options.language))
    if options.limit:
        clips = clips[: options.limit]
    if not clips:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        first = f"; the first: {dropped[0].detail}" if dropped else ""
        raise UserError(
            f"{where}: names no audio that can be used{f' ({reasons}{first})' if reasons else ''}; a {form}?"
        )
    looked_at = clips[:_LOOKED_AT]
    if not any(clip.data is not None or Path(clip.path).is_file() for clip in looked_at):
        raise UserError(
            f"{where}: none of the first {len(looked_at)} files it names exists (such as {clips[0].path});"
            " say --root FOLDER, the one that its paths start from"
        )
    clips = _unique(clips)
    splitting = "as the source says"
    if not has_splits:
        clips, splitting = _split(clips, options, dropped)
    facts = {
        "sources": [{"name": name, "form": form, "licence": options.licence or "not stated"}],
        "licences": [options.licence] if options.licence else [],
        "splitting": splitting,
    }
    return Listing(name, clips, dropped=dropped, facts=facts)


def _split(clips: list[Clip], options: Options, dropped: list[Dropped]) -> tuple[list[Clip], str]:
    """``clips`` with splits, and how they were made; what lies in a gap between two splits is ``dropped``."""
    percents = options.dev_percent, options.test_percent
    told = []
    if any(clip.text for clip in clips):
        clips, how = assign_splits(clips, *percents)
        told.append(how)
    made, how = hold_out_recordings(clips, *percents)
    dropped += [entry for entry in made if isinstance(entry, Dropped)]
    return [entry for entry in made if isinstance(entry, Clip)], "; ".join(filter(None, [*told, how])) or "none"


def _unique(clips: list[Clip]) -> list[Clip]:
    """The same name twice would be two clips that nobody can tell apart."""
    seen: Counter[str] = Counter()
    named = []
    for clip in clips:
        seen[clip.id] += 1
        named.append(clip if seen[clip.id] == 1 else replace(clip, id=f"{clip.id}~{seen[clip.id]}"))
    return named
