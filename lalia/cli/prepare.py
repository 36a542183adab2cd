"""``lalia prepare``: a corpus from audio of any kind, with or without transcripts."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lalia.audio.channels import parse_channels
from lalia.cards import cores, write_text
from lalia.cli.options import needs
from lalia.cli.parser import Parser
from lalia.errors import AudioError, UserError
from lalia.units import plural

if TYPE_CHECKING:
    from rich.console import Console

    from lalia.data.prepare.listing import Options
    from lalia.data.prepare.pipeline import Engine, Recipe
    from lalia.data.prepare.segments import Segmentation
    from lalia.tags.tagger import Tagger

SURE = 0.8
"""Least probability of another language that a clip is listed with."""
ABOUT = """\
Make a corpus (16 kHz mono FLAC, languages, labels, splits) from raw audio.

  lalia prepare recordings/ --language swh --out data/mine      audio of any format, with or without transcripts next to it
  lalia prepare clips.tsv --columns audio=path,text=sentence --language isl --out data/isl
  lalia prepare calls/ --channels each --out data/calls         both sides of telephone calls, as two speakers
  lalia prepare demo --out data/demo                            prompts in five languages, for a first try

SOURCE is one of
  FOLDER            with audio files at any depth and their transcripts (a.txt next to a.wav, or txt/a.txt for
                    wav/a.wav), releases in the layout of LibriSpeech, Common Voice, FLEURS, LJSpeech, OpenSLR, MLS or the
                    hub's AudioFolder, tables of its audio files, Kaldi's wav.scp, annotations next to their
                    recordings, a dataset made by save_to_disk. Files that are not used are counted
  FILE.wav          or other audio: one recording
  FILE.tsv|.csv|.jsonl|.json|.parquet, also .gz   a table with a column for the audio; optional: text, language, speaker,
                    split, start, end; manifests of NeMo and lhotse; or lines that begin with the name of an audio file
  FILE.eaf|.TextGrid|.trs|.cha|.stm|.srt|.vtt|.ass   annotations of ELAN, Praat, Transcriber, CHAT or NIST, or subtitles; also
                    ELAN's tab-delimited export and Audacity's labels (.txt). --tier chooses the tiers
  kaldi:DIR         wav.scp, segments, text, utt2spk
  fairseq:FILE.tsv  with FILE.wrd or FILE.ltr next to it, or a folder of them
  hub:NAME[/CONFIG] a dataset of the hub, streamed, or a folder in its layout
  demo              Asterisk's sound prompts in five languages, downloaded

The same command again continues an interrupted preparation and does nothing to a finished one.
"""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("source", metavar="SOURCE", help="what to read (see above)")
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="the folder to make")
    parser.add_argument(
        "--language", default="", metavar="CODE", help="language of all clips: ita, it, it-IT (default: the source's)"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="licence of the source, for the card")
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder of a table's relative paths (default: the table's)"
    )
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="OURS=THEIRS,…",
        help="a table's columns: text=sentence,audio=path; may be repeated",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN,…",
        help="further columns of a table to keep, such as emotion or command=word: labels for lalia finetune tag",
    )
    parser.add_argument(
        "--tier",
        action="append",
        default=[],
        metavar="NAME",
        help="annotations: a tier to read, by its name or a pattern such as 'tx@*'; may be repeated (default: the "
        "transcriptions)",
    )
    parser.add_argument(
        "--dev",
        type=_percent,
        metavar="PERCENT",
        help="share of the dev split, if the source has no splits (default: 5; more if needed for 20 labelled clips, up to 20)",
    )
    parser.add_argument("--test", type=_percent, metavar="PERCENT", help="the same for the test split")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N clips (hub: of each split)")
    parser.add_argument(
        "--channels",
        type=_channels,
        default="mix",
        metavar="mix|each|N",
        help="of stereo files: the mix, each channel as another speaker (telephone calls), or one channel, from 1 (mix)",
    )
    parser.add_argument(
        "--cut",
        choices=("long", "all", "never"),
        default="long",
        help="cut unlabelled recordings into utterances by voice activity: those over --longest, all, or none (long)",
    )
    parser.add_argument(
        "--shortest", type=float, default=2.0, metavar="S", help="seconds of the shortest utterance (2)"
    )
    parser.add_argument(
        "--longest", type=float, default=20.0, metavar="S", help="seconds of the longest utterance (20)"
    )
    parser.add_argument(
        "--duplicates",
        choices=("near", "exact", "keep"),
        default="near",
        help="duplicates to leave out: near (also re-encoded), exact (the same samples) or keep (none) (near)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="leave out truncated files (default: read them up to the end)"
    )
    parser.add_argument(
        "--audio", type=Path, metavar="FOLDER", help="demo: a folder with the archives, downloaded by hand"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="run the processes on this machine or a Ray cluster (local)",
    )
    parser.add_argument(
        "--address", default="", metavar="HOST:PORT", help="ray: address of the cluster (default: RAY_ADDRESS)"
    )
    parser.add_argument(
        "--tagger",
        type=Path,
        metavar="MODEL",
        help="a tagger of languages: clips that sound like another language are counted and listed in CORPUS.languages.tsv",
    )
    parser.add_argument(
        "--push", default="", metavar="USER/NAME", help="upload the finished corpus to the hub as a private dataset"
    )


def main(args: argparse.Namespace) -> int:
    """``lalia prepare``."""
    with needs("lalia prepare"):
        import pyarrow  # noqa: F401
        from rich.console import Console
    from lalia.data.prepare.pipeline import prepare
    from lalia.data.prepare.sources.opening import open_source
    from lalia.text.language_codes import describe_language

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    options = _options(args)
    if args.language:
        console.print(describe_language(args.language, options.language))
    recipe = _recipe(args, _cutting(args))
    source = open_source(args.source, options, args.audio, console.print)
    tagger = _language_tagger(args.tagger) if args.tagger else None  # fails now rather than after the preparation
    prepare(source, recipe, args.out, _engine(args), console)
    if tagger is not None:
        _list_other_languages(args.out, tagger, console)
    if args.push:
        from lalia.data.prepare.sources.hub import push

        console.print(f"{args.out}: pushed to {push(args.out, args.push)}")
    return 0


def _language_tagger(folder: Path) -> Tagger:
    from lalia.tags.tagger import Tagger

    tagger = Tagger.load(folder, 1)
    tagger.require_task("language", f"--tagger {folder}")
    return tagger


def _list_other_languages(out: Path, tagger: Tagger, console: Console) -> None:
    """Write ``OUT.languages.tsv``: the clips that sound like another language than theirs, or whose language is unknown. Nothing
    is left out of the corpus."""
    from lalia.data.corpus import Corpus
    from lalia.text.language_codes import UNKNOWN, match_languages

    corpus = Corpus.load(out)
    own = dict(zip(corpus.language_names, match_languages(corpus.language_names, tagger.labels), strict=True))
    lines = ["clip\tlanguage\tsounds like\tprobability"]
    found, unknown = Counter[str](), Counter[str]()
    for row in range(len(corpus)):
        language = corpus.language(row)
        if language != UNKNOWN and own[language] not in tagger.labels:
            continue
        try:
            tagged = tagger.tag(corpus.wave(row), corpus.id(row)).whole
        except AudioError as error:
            console.print(str(error))
            continue
        if tagged.label and tagged.label != own[language] and tagged.probability >= SURE:
            (unknown if language == UNKNOWN else found)[f"{language} like {tagged.label}"] += 1
            lines.append(f"{corpus.id(row)}\t{language}\t{tagged.label}\t{tagged.probability:.3f}")
    path = out.with_name(f"{out.name}.languages.tsv")
    write_text(path, "\n".join(lines) + "\n")
    for counted, one, many in (
        (found, "sounds like another language", "sound like another language"),
        (unknown, "of unknown language has a likely one", "of unknown language have a likely one"),
    ):
        most = ", ".join(f"{count} {pair}" for pair, count in counted.most_common(3))
        console.print(f"{out}: {plural(counted.total(), 'clip', one, many)}{f' ({most})' * bool(most)}; see {path}")
    if lost := [name for name in corpus.language_names if name != UNKNOWN and own[name] not in tagger.labels]:
        console.print(f"{out}: the tagger does not know {', '.join(lost)}, whose clips were not checked")


def _options(args: argparse.Namespace) -> Options:
    from lalia.data.prepare.listing import Options, parse_columns, parse_kept
    from lalia.files import find_path
    from lalia.text.language_codes import iso_639_3

    if (args.dev or 0) + (args.test or 0) > 50:
        raise UserError(f"--dev {args.dev:g} --test {args.test:g}: expected a sum of at most 50")
    return Options(
        language=iso_639_3(args.language) if args.language else "",
        licence=args.licence,
        root=None if args.root is None else find_path(args.root),
        columns=parse_columns(args.columns),
        keep=parse_kept(args.keep),
        dev_percent=args.dev,
        test_percent=args.test,
        limit=max(0, args.limit),
        tiers=tuple(args.tier),
    )


def _cutting(args: argparse.Namespace) -> Segmentation | None:
    from lalia.data.prepare.segments import Segmentation

    if args.cut == "never" or args.source == "demo":
        return None
    if not 0.1 <= args.shortest <= args.longest / 2 or args.longest > 120:
        raise UserError(
            f"--shortest {args.shortest:g} --longest {args.longest:g}: expected 0.1 to 120 s, the longest at least twice the"
            " shortest"
        )
    return Segmentation(args.shortest, args.longest, args.cut == "all")


def _recipe(args: argparse.Namespace, segmentation: Segmentation | None) -> Recipe:
    from lalia.data.prepare.pipeline import Recipe
    from lalia.files import readable

    if args.source == "demo":
        if args.keep:
            raise UserError(f"--keep {args.keep[0]}: the demo has no tables; leave it out")
        return Recipe("demo", {}, None, args.duplicates)
    settings = {name: getattr(args, name) for name in ("language", "licence", "dev", "test", "limit", "strict", "tier")}
    settings["columns"] = ",".join(args.columns)
    settings["keep"] = ",".join(args.keep)
    settings["channels"] = "" if args.channels == "mix" else args.channels
    return Recipe(
        readable(args.source), {**settings, "root": readable(str(args.root or ""))}, segmentation, args.duplicates
    )


def _engine(args: argparse.Namespace) -> Engine:
    workers = args.workers or cores()
    if workers < 1:
        raise UserError(f"--workers {args.workers}: expected 1 or more")
    if args.engine == "ray":
        from lalia.data.prepare.workers import make_parts_on_cluster

        return lambda units, work, segmentation, report: make_parts_on_cluster(
            units, work, segmentation, args.address, report, args.strict
        )
    from lalia.data.prepare.workers import make_parts

    return lambda units, work, segmentation, report: make_parts(units, work, segmentation, workers, report, args.strict)


def _channels(text: str) -> str:
    try:
        parse_channels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 50:
        raise argparse.ArgumentTypeError("expected a percentage from 0 to 50")
    return value
