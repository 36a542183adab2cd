"""The whole chain in miniature: every stage for a few steps on a hand-made corpus, in a folder like the demo's."""

from __future__ import annotations

from pathlib import Path

from benchmarks.demo.run import Budget, Demo, write_clips
from finetune import lm
from lalia import config
from lalia.data.corpus import Corpus
from tests.tiny_corpus import make_corpus

RATE = 2e-3
STEPS = 12
BUDGET = Budget(pretrain_min=0, finetune_steps=STEPS, rates=(RATE,), distill_min=0, labels_min=0.3)

_SMALL = (
    "--log.every 2 --log.valid_every 6 --log.checkpoint_every 6 --hardware.precision fp32 --hardware.threads 1 "
    "--data.workers 0 --data.max_s 8 --batch.micro_s 12 --batch.hours 0.0034"
)
_SHAPE = (
    "--model.width 32 --model.layers 3 --model.heads 2 --model.feedforward 64 --quantizer.entries 16 --quantizer.code_width 16 "
    "--quantizer.final_width 16 --objective.distractors 8"
)
_MEASURED = "--measure.timing_s 4 --measure.repeats 1 --measure.sensitivity_s 4 --quantize.rescue 0"


def make_chain(folder: Path) -> Demo:
    """Run the demo's own commands, made small, in this process; returns where everything is."""
    demo = Demo(BUDGET, folder / "demo", make_corpus(folder / "corpus"))
    pretrain(demo)
    for start in ("pretrained", "random"):
        finetune(demo, start)
    teacher = demo.best_arm("pretrained") / "recogniser"
    distill(demo, teacher)
    export(demo, teacher)
    lm.main(demo.lm_command()[3:])
    write_clips(Corpus.load(demo.corpus), demo.clips)
    return demo


def pretrain(demo: Demo) -> None:
    from pretrain.config import PretrainSettings
    from pretrain.fit import pretrain

    words = [*demo.pretrain_command()[3:], *_SMALL.split(), *_SHAPE.split(), "--schedule.steps", str(STEPS)]
    settings = config.load(PretrainSettings, words, "pretrain", "")
    pretrain(settings, Path(settings.out))


def finetune(demo: Demo, start: str) -> None:
    from finetune.config import FinetuneSettings
    from finetune.fit import finetune

    settings = config.load(FinetuneSettings, [*demo.finetune_command(start, RATE)[3:], *_SMALL.split()], "finetune", "")
    finetune(settings, Path(settings.out))


def distill(demo: Demo, teacher: Path) -> None:
    from distill.config import DistillSettings
    from distill.fit import distill

    words = [*demo.distill_command(teacher)[3:], *_SMALL.split(), "--schedule.steps", str(STEPS)]
    settings = config.load(DistillSettings, words, "distill", "")
    distill(settings, Path(settings.out))


def export(demo: Demo, teacher: Path) -> None:
    from distill.config import ExportSettings
    from distill.export import export

    words = [*demo.open_export_command(teacher)[3:], *_MEASURED.split()]
    settings = config.load(ExportSettings, words, "export", "")
    export(settings, Path(settings.out))
