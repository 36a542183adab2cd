"""``lalia distill VERB``: fit or prune a small recogniser from a large one, export it if it stays within its budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.config import DistillSettings, ExportSettings, PruneSettings
from lalia import config
from lalia.cli.parser import print_next, run_stage
from lalia.inputs import identify
from lalia.model_folder import RUN, find_made, languages_in, languages_taken
from lalia.signals import stops
from lalia.training.settings import require, require_corpora

RECOGNISER = "recogniser"
ABOUT = {
    "": """\
Make a small student of a recogniser, and export it to int8 ONNX for CPUs.

  lalia distill fit --config configs/distill/nano.yaml --teacher runs/italian --data.corpus data/demo --out runs/small
  lalia distill export --recogniser runs/small --teacher runs/italian --data.corpus data/demo --out students/italian
  lalia transcribe students/italian talk.mp3

A small tagger of a large one: lalia finetune tag AUDIO --teacher TAGGER
""",
    "fit": """\
Distil a recogniser into a smaller one, on unlabelled audio and on labels if there are any. The result is RUN/recogniser.

  lalia distill fit --config configs/distill/nano.yaml --teacher runs/italian/recogniser --data.corpus data/demo --out runs/small

The language is the teacher's. The same command again continues the run in --out. Then: lalia distill export.

used most
  --config FILE          the student's size and schedule: configs/distill/nano.yaml, streaming-nano.yaml, …
  --teacher FOLDER       the recogniser to learn from, or its run, or a student; repeat it for an ensemble
  --data.corpus CORPUS   made by lalia prepare; repeat it for several
  --data.language CODE   another language than the teacher's
  --out RUN              the folder of this run
  --schedule.minutes N   length of the run; or --schedule.steps N
  --student.input logmel log-mel frames instead of the teacher's frontend
  --student.chunk N      frames per chunk, for a streaming student
  --optim.lr N           peak learning rate
  --batch.hours N        hours of audio per optimizer step
""",
    "prune": """\
Prune a recogniser to a target size, then distil it from the original. The result is RUN/recogniser.

  lalia distill prune --config configs/distill/prune-nano.yaml --data.corpus data/demo --teacher runs/italian/recogniser \\
      --out runs/pruned

L0 gates on heads, feed-forward units and convolution channels learn what to remove for the target size. The language is the
teacher's. The same command again continues the run in --out.

used most
  --config FILE          the schedule: configs/distill/prune-nano.yaml
  --teacher FOLDER       the recogniser to prune, or its run
  --data.corpus CORPUS   made by lalia prepare; repeat it for several
  --out RUN              the folder of this run
  --prune.target N       share of the cost to keep
  --prune.cost C         parameters or multiply_adds
  --schedule.minutes N   length of the run; or --schedule.steps N
  --data.language CODE   another language than the teacher's
  --optim.lr N           peak learning rate
  --batch.hours N        hours of audio per optimizer step
""",
    "export": """\
Export a recogniser as a student folder (an int8 ONNX model with its tokens and normaliser), if it stays within its budget.

  lalia distill export --recogniser runs/student/recogniser --teacher runs/italian/recogniser --data.corpus data/demo \\
      --out students/italian

The model is evaluated on held-out clips and compared with its float version and its teacher. The language is the recogniser's.
Exit status 1: the budget was exceeded; OUT.refused.json has the figures.

used most
  --recogniser FOLDER    what to export, or its run
  --data.corpus CORPUS   with held-out labelled clips
  --teacher FOLDER       the recogniser to compare with
  --out STUDENT          the folder to write
  --data.language CODE   another language than the recogniser's
  --gate.speed N, --gate.float_ratio N, --gate.teacher_ratio N    the budget
  --measure.split SPLIT  the clips to evaluate it on
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    return run_stage("distill", {"fit": fit, "prune": prune, "export": export}, ABOUT, argv)


def fit(argv: list[str]) -> int:
    settings = config.load(DistillSettings, argv, "lalia distill fit", ABOUT["fit"])
    _require(settings)
    with stops.caught(Path(settings.out), "distill"):
        _check(settings)
        from distill.fit import distill  # late: torch and fairseq2 take seconds to import, a typo should not

        distill(settings, Path(settings.out), config.stated(DistillSettings, argv))
        _print_next(settings)
    return 0


def prune(argv: list[str]) -> int:
    settings = config.load(PruneSettings, argv, "lalia distill prune", ABOUT["prune"])
    _require(settings)
    with stops.caught(Path(settings.out), "prune"):
        _check(settings)
        from distill.prune import prune as prune_teacher

        prune_teacher(settings, Path(settings.out), config.stated(PruneSettings, argv))
        _print_next(settings)
    return 0


def _print_next(settings: DistillSettings) -> None:
    """The export of the run that ``settings`` describe, once it is finished."""
    from lalia.training.distributed import is_rank_zero
    from lalia.training.trainer import finished

    run = Path(settings.out)
    if finished(run) and is_rank_zero(settings.hardware):
        corpora = "".join(f" --data.corpus {corpus}" for corpus in settings.data.corpus)
        export = (
            f"lalia distill export --recogniser {run} --teacher {settings.teacher[0]}{corpora} --out {run / 'student'}"
        )
        print_next((export, "int8 ONNX for CPUs, if it stays within its budget"))


def _require(settings: DistillSettings) -> None:
    """Raise ``UserError`` if a required setting is missing."""
    require(settings.out, "--out", "the folder of this run")
    require(settings.teacher, "--teacher", "the folder of the recogniser to learn from")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")


def _check(settings: DistillSettings) -> None:
    """Raise ``UserError`` if a setting names something that is missing."""
    settings.teacher = [_find_teacher(folder) for folder in settings.teacher]
    if settings.student.start:
        settings.student.start = find_made(settings.student.start, RECOGNISER, "--student.start")
    begun = Path(settings.out) / RUN
    if begun.is_file() and not settings.data.language:
        settings.data.language = config.select(begun, ["data.language"])["data"]["language"]
    check_data(settings, settings.teacher[0], unknown=True)


def _find_teacher(folder: str) -> str:
    """The folder of a teacher: a recogniser, the one in a run, or a student."""
    return folder if identify(folder).kind == "student" else find_made(folder, RECOGNISER, "--teacher")


def check_data(settings: DistillSettings | ExportSettings, recogniser: str, unknown: bool = False) -> None:
    """Raise ``UserError`` if a corpus does not exist; replace languages by the codes that the corpora use.

    The default language is the ``recogniser``'s; ``unknown`` adds clips without a known language.
    """
    data = settings.data
    require_corpora(data.corpus, "--data.corpus")
    from lalia.data.mixture import Mixture, resolve_languages
    from lalia.training.distributed import is_rank_zero

    tell = isinstance(settings, ExportSettings) or is_rank_zero(settings.hardware)
    if data.language:
        data.language = resolve_languages(data.language, data.corpus, "--data.language", tell)
        return
    languages, places = Mixture.load(data.corpus).language_names, ", ".join(data.corpus)
    own = languages_in(Path(recogniser))
    data.language = languages_taken(
        None, own, languages, recogniser, places, flag="--data.language", unknown=unknown, quiet=not tell
    )


def export(argv: list[str]) -> int:
    settings = config.load(ExportSettings, argv, "lalia distill export", ABOUT["export"])
    require(settings.out, "--out", "the student folder to write")
    require(settings.recogniser, "--recogniser", "the folder of the recogniser to export")
    require(settings.data.corpus, "--data.corpus", "the folder of a corpus with held-out labelled clips")
    settings.recogniser = find_made(settings.recogniser, RECOGNISER, "--recogniser")
    if settings.teacher:
        settings.teacher = _find_teacher(settings.teacher)
    check_data(settings, settings.recogniser)
    from distill.export import export as export_student

    print(_table(export_student(settings, Path(settings.out)), settings.out))
    print_next(
        (f"lalia transcribe {settings.out} talk.mp3", "try it"),
        (f"lalia evaluate {settings.out} {settings.data.corpus[0]}", "CER and WER of the test split"),
        (f"lalia serve {settings.out}", "serve it over HTTP"),
    )
    return 0


def _table(card: dict[str, Any], out: str) -> str:
    """A table of the exported student and its teacher, for the terminal."""
    sizes = {"teacher": card["bytes_teacher"], "float": card["bytes_float"], "int8": card["bytes"]}
    lines = [f"{'':8} {'MB':>7} {'CER':>7} {'WER':>7} {'x real time, 1 thread':>22} {'2 threads':>10}"]
    for name, rtf in card["rtf"].items():
        if isinstance(rtf, dict):
            scores = card["scores"][name]
            lines.append(
                f"{name:8} {sizes[name] / 1e6:7.2f} {scores['cer']:7.4f} {scores['wer']:7.4f} {1 / rtf['1']:22.0f} "
                f"{1 / rtf['2']:10.0f}"
            )
    kept = card["quantization"]["float"]
    lines.append(
        f"{card['parameters'] / 1e6:.2f} M parameters, {card['cold_start_s']:.2f} s to transcribe 30 s from a cold start, "
        f"{card['peak_memory_mb']:.0f} MB of memory" + (f"; in float: {', '.join(kept)}" if kept else "")
    )
    return "\n".join([*lines, f"the student is {out}"])


if __name__ == "__main__":
    sys.exit(main())
