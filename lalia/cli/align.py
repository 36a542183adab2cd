"""``lalia align``: a corpus from long recordings and their texts."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.align.pieces import (
    ACCEPT,
    NAME,
    Piece,
    Status,
    corrected,
    decide,
    hours_by_status,
    read_corrections,
    read_pieces,
    write_pieces,
)  # fmt: skip
from lalia.align.written import USES, TextOptions
from lalia.cards import cores, read_card
from lalia.cli.options import load_student, needs
from lalia.cli.parser import Parser, positive, print_next
from lalia.errors import UserError
from lalia.inputs import CARD, identify
from lalia.model_folder import STUDENT, find_exported, find_made, languages_of
from lalia.units import clock

if TYPE_CHECKING:
    from rich.console import Console

    from lalia.align.recordings import AcousticModel, Pair
    from lalia.data.prepare.listing import Listing

ABOUT = """\
Make a corpus from long recordings and their texts: audiobooks, read bibles, radio, parliaments. The words are found by a
recogniser, even a rough one (CER .3), and cut into pieces of 2 to 20 s at pauses and ends of sentences.

  lalia align my-student book.mp3 book.txt --out corpora/book     one recording and its text
  lalia align my-student chapters/ --out corpora/book             a folder of pairs: 01.mp3 and 01.txt, or one text for all
  lalia align my-student pairs.tsv --out corpora/book             a table with the columns audio and text (speaker, split)
  lalia align corpora/book --corrections checked.tsv --out corpora/book2     the same pieces after a listener's corrections
  lalia align corpora/book --accept 0.2 --out corpora/book2       the same pieces with another threshold

RECOGNISER is a student (no torch needed to align), a recogniser, or a run that made one. Texts: plain text, USFM, subtitles
(.srt, .vtt), HTML and EPUB, or a folder of chapters. Text that is not read and audio that is not in the text are left out; parts
in another order are found. A text that does not fit its recording is refused.

Each piece has a score, the expected share of its words that are wrong. CORPUS holds the accepted pieces, CORPUS/pieces.tsv all
of them: accepted, doubtful and refused. CORPUS/doubtful.html is a page to listen to the doubtful ones and correct them. The same
command again continues an interrupted alignment.
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument(
        "sources",
        metavar="RECOGNISER SOURCE",
        nargs="+",
        type=Path,
        help="see above; or a corpus that lalia align made",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="the corpus to make")
    parser.add_argument(
        "--accept",
        type=_share,
        default=ACCEPT,
        metavar="SCORE",
        help=f"accept pieces up to this expected share of wrong words (default: {ACCEPT:g})",
    )
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE",
        help="a table of decisions: piece, decision (accept, correct, refuse), text",
    )
    for name, what in (
        ("headings", "headings"), ("verses", "verse numbers"), ("notes", "footnotes"), ("speakers", "speaker names"),
    ):  # fmt: skip
        usual = getattr(TextOptions, name)
        parser.add_argument(
            f"--{name}", choices=USES, default=usual,
            help=f"{what}: said (read aloud), kept (in the text, not read aloud) or dropped (default: {usual})",
        )  # fmt: skip
    parser.add_argument(
        "--times",
        choices=("ignored", "prior"),
        default="ignored",
        help="the times of subtitles: ignored, or right to within a minute (default: ignored)",
    )
    parser.add_argument(
        "--language", default="", metavar="CODE", help="language of the clips (default: the recogniser's)"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="licence of the recordings, for the card")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=cores(),
        metavar="N",
        help="parts of recordings at a time (default: one per core)",
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("expected a share of wrong words from 0 to 1")
    return value


def main(args: argparse.Namespace) -> int:
    """``lalia align``."""
    with needs("lalia align"):
        from rich.console import Console

        import lalia.data.prepare.sources.aligned  # noqa: F401 - needs pyarrow
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    first = args.sources[0]
    if first.is_file() or identify(first).kind == "corpus":
        if len(args.sources) > 1:
            raise UserError(
                f"{first}: is no recogniser; expected RECOGNISER SOURCE, or one corpus that lalia align made"
            )
        _again(args, console)
    else:
        _align(args, console)
    if (args.out / NAME).is_file():
        _write_pages(args, console)
        print_next((f"lalia inspect {args.out}", ""), (f"lalia finetune check {args.out}", "look for bad labels"))
    return 0


def _write_pages(args: argparse.Namespace, console: Console) -> None:
    """The pages to listen to the doubtful pieces of the corpus ``--out``."""
    from lalia.report.correction_page import DOUBTFUL, write_doubtful

    if (args.out / DOUBTFUL).is_file():
        return
    command = f"lalia align {args.out} --corrections corrections.tsv --out {args.out}-checked"
    languages = [*read_card(args.out, "corpus")["hours"], ""]
    for path in write_doubtful(args.out, read_pieces(args.out), languages[0], args.out.name, command):
        console.print(f"{path}: listen to the doubtful pieces and correct them")


def _align(args: argparse.Namespace, console: Console) -> None:
    from lalia.align.pairs import find_pairs
    from lalia.data.prepare.sources.aligned import list_pieces

    if len(args.sources) < 2:
        raise UserError(f"{args.sources[0]}: needs a SOURCE: AUDIO TEXT, a folder of pairs, or a table")
    model, card = _load(args.sources[0], args.language)
    pairs = find_pairs(args.sources[1:], console.print)
    language = _language(args.language, languages_of(card, model.normaliser.settings.language))
    options = TextOptions(args.headings, args.verses, args.notes, args.speakers, args.times)

    def listing(work: Path) -> Listing:
        pieces = _run(pairs, options, model, work / "align", args.jobs, console)
        pieces = _decided(pieces, args)
        made = list_pieces(
            args.out.name, pieces, language, [card],
            accept=args.accept, recordings=len(pairs), corrected=bool(args.corrections),
        )  # fmt: skip
        return _checked(made, pieces, args, console)

    settings = {
        name: str(getattr(args, name)) for name in ("headings", "verses", "notes", "speakers", "times", "licence")
    }
    settings |= {"recogniser": card["id"], "accept": args.accept, "corrections": _digest(args.corrections)}
    _write(" ".join(map(str, args.sources[1:])), settings, args, console, listing)


def _again(args: argparse.Namespace, console: Console) -> None:
    """A corpus from the pieces of an earlier alignment."""
    from lalia.data.prepare.sources.aligned import list_pieces

    source = args.sources[0]
    before = read_pieces(source)
    card = read_card(source, "corpus") if source.is_dir() else {}
    languages = sorted(card.get("hours", {}))
    language = _language(args.language, languages)

    def listing(work: Path) -> Listing:
        pieces = _decided(before, args)
        made = list_pieces(
            args.out.name, pieces, language, [card] if card else [],
            accept=args.accept, corrected=bool(args.corrections),
        )  # fmt: skip
        return _checked(made, pieces, args, console)

    settings = {"accept": args.accept, "corrections": _digest(args.corrections)}
    _write(str(source), settings, args, console, listing)


def _write(
    source: str,
    settings: dict[str, Any],
    args: argparse.Namespace,
    console: Console,
    listing: Callable[[Path], Listing],
) -> None:
    from lalia.data.prepare.pipeline import Recipe, prepare
    from lalia.data.prepare.workers import make_parts
    from lalia.files import readable

    prepare(
        listing,
        Recipe(readable(source), {"aligned": True, **settings}, None, "exact"),
        args.out,
        lambda units, work, segmentation, report: make_parts(units, work, segmentation, args.jobs, report),
        console,
    )


def _load(path: Path, language: str) -> tuple[AcousticModel, dict[str, Any]]:
    """The student in a folder or run, else its recogniser, which needs torch; and its card."""
    kind = identify(path).kind
    if kind == "recogniser" or (kind == "run of recogniser" and not (path / STUDENT / CARD).is_file()):
        folder = Path(find_made(str(path), "recogniser", "RECOGNISER"))
        with needs("a recogniser without a student"):
            from lalia.models.recogniser import Recogniser, WindowedRecogniser
        return WindowedRecogniser(Recogniser.load(folder, language)), read_card(folder)
    return load_student(path, 1, language), read_card(find_exported(path))


def _language(requested: str, available: list[str]) -> str:
    from lalia.text.language_codes import UNKNOWN, iso_639_3

    if requested:
        return iso_639_3(requested)
    return available[0] if available else UNKNOWN


def _run(
    pairs: Sequence[Pair], options: TextOptions, model: AcousticModel, work: Path, jobs: int, console: Console
) -> list[Piece]:
    """The pieces of all recordings; refused ones are named. ``UserError`` if none can be aligned."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lalia.align.recordings import align_all

    pieces: list[Piece] = []
    refused: list[str] = []
    total_s = 0.0
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("align")
        results = align_all(
            pairs, options, model, work, jobs, lambda done_s, all_s: bar.update(task, completed=done_s, total=all_s)
        )
        for pair, found in results:
            for note in found.notes:
                console.print(f"{pair.audio.name}: {note}")
            if found.refused:
                refused.append(f"{pair.audio.name}: {found.refused}")
                if len(pairs) > 1:
                    console.print(refused[-1])
            pieces += found.pieces
            total_s += found.duration_s
    if len(refused) == len(pairs):
        raise UserError(
            refused[0] if len(refused) == 1 else f"none of {len(pairs)} recordings fits its text, see above"
        )
    if refused:
        console.print(f"{len(refused)} of {len(pairs)} recordings are left out, see above")
    console.print(f"{clock(total_s)} of audio aligned")
    return pieces


def _decided(pieces: Sequence[Piece], args: argparse.Namespace) -> list[Piece]:
    """``pieces`` with the statuses that ``--accept`` and ``--corrections`` give them."""
    decided = [decide(piece, args.accept) for piece in pieces]
    if args.corrections is None:
        return decided
    return corrected(decided, read_corrections(args.corrections), args.corrections)


def _checked(listing: Listing, pieces: Sequence[Piece], args: argparse.Namespace, console: Console) -> Listing:
    """``listing``, if any piece is accepted; else the table is written next to ``--out``, and a ``UserError`` says so."""
    hours = hours_by_status(pieces)
    if listing.streams:
        console.print(f"pieces: {_hours(hours)}")
        return listing
    table = args.out.with_name(f"{args.out.name}.{NAME}")
    write_pieces(table, pieces)
    best = min((piece.score for piece in pieces if piece.text), default=1.0)
    raise UserError(
        f"{args.out}: no piece is accepted ({_hours(hours)}; the best score is {best:.2f}); the pieces are in {table}: correct "
        f"them (lalia align {table} --corrections FILE), or give --accept {best + 0.05:.2f}"
    )


def _hours(hours: dict[Status, float]) -> str:
    return ", ".join(f"{status} {clock(3600 * value)}" for status, value in hours.items())


def _digest(path: Path | None) -> str:
    """The content of a file for the recipe; "" without one."""
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
