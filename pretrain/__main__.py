"""``lalia pretrain VERB``: plan predicts memory and time, fit pretrains an encoder, probe measures what encoders have learned."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from lalia import config
from lalia.cli.parser import print_next, run_stage
from lalia.signals import stops
from lalia.training.settings import DataSettings, require, require_corpora
from pretrain.config import PretrainSettings

ABOUT = {
    "": """\
Train an encoder on audio without transcripts, by wav2vec 2.0's masked contrastive objective.

  lalia pretrain plan --config configs/pretrain/nano.yaml --data.corpus data/demo
  lalia pretrain fit --config configs/pretrain/nano.yaml --data.corpus data/demo --schedule.minutes 60 --out runs/encoder
  lalia pretrain probe runs/encoder/encoder data/demo --out probe.html
""",
    "plan": """\
Estimate what a run needs before it starts: memory by part, micro-batches, steps, passes over the data, and time.

  lalia pretrain plan --config configs/pretrain/nano.yaml --data.corpus data/demo
  lalia pretrain plan --config configs/pretrain/base.yaml --data.corpus data/mine --plan.memory_gb 24

used most
  --config FILE          the settings of a size: configs/pretrain/nano.yaml, base.yaml, …
  --data.corpus CORPUS   made by lalia prepare; repeat it for several
  --plan.memory_gb N     memory of one device
  --plan.devices N       devices to plan for
  --hardware.strategy S  auto, ddp, zero1, zero2, zero3, zero2-offload or zero3-offload
  --hardware.device D    auto, cpu, cuda or mps; another than this machine has needs --plan.memory_gb
  --hardware.precision P auto, fp32, bf16 or fp16
  --batch.hours N        hours of audio per optimizer step
  --batch.micro_s N      seconds of audio in memory at a time
  --schedule.steps N     length of the run
""",
    "fit": """\
Pretrain an encoder on unlabelled audio by wav2vec 2.0's contrastive objective. The result is RUN/encoder.

  lalia pretrain fit --config configs/pretrain/nano.yaml --data.corpus data/demo --schedule.minutes 60 --out runs/encoder
  lalia pretrain fit --config configs/pretrain/nano.yaml --data.corpus data/mine --encoder nano-multilingual --out runs/mine

The same command again continues the run in --out.

used most
  --config FILE          the settings of a size: configs/pretrain/nano.yaml, base.yaml, …
  --data.corpus CORPUS   made by lalia prepare; repeat it for several
  --out RUN              the folder of this run
  --schedule.minutes N   length of the run; or --schedule.steps N
  --encoder FOLDER       continue from this encoder
  --data.language CODE   only clips in this language; repeat it for several
  --optim.lr N           peak learning rate
  --batch.hours N        hours of audio per optimizer step
  --batch.micro_s N      seconds of audio in memory at a time; less needs less memory
  --hardware.devices N   processes, or GPUs, on this machine (docs/hardware.md)
""",
    "probe": """\
Measure in minutes what encoders have learned: linear probes of language, speaker and letters on every frozen layer.

  lalia pretrain probe runs/encoder/encoder data/demo --out probe.html
  lalia pretrain probe runs/encoder/encoder data/acted --ask emotion --apart speaker
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    return run_stage("pretrain", {"plan": plan, "fit": fit, "probe": probe}, ABOUT, argv)


def plan(argv: list[str]) -> int:
    from pretrain.plan import PlanRequest  # late, as in every verb: torch takes seconds to import, a typo should not
    from pretrain.plan import plan as make_plan

    settings = config.load(PlanRequest, argv, "lalia pretrain plan", ABOUT["plan"])
    _require_corpus(settings.data)
    _resolve_languages(settings)
    make_plan(settings)
    return 0


def fit(argv: list[str]) -> int:
    settings = config.load(PretrainSettings, argv, "lalia pretrain fit", ABOUT["fit"])
    require(settings.out, "--out", "the folder of this run")
    with stops.caught(Path(settings.out), "pretrain"):
        _fit(settings, config.stated(PretrainSettings, argv))
    return 0


def _fit(settings: PretrainSettings, stated: Collection[str]) -> None:
    _require_corpus(settings.data)
    _resolve_languages(settings)
    from lalia.training.distributed import is_rank_zero
    from lalia.training.trainer import finished
    from pretrain.fit import pretrain

    run = Path(settings.out)
    pretrain(settings, run, stated)
    if finished(run) and is_rank_zero(settings.hardware):
        encoder = run / "encoder"
        print_next(
            (
                f"lalia finetune fit --encoder {encoder} --data.corpus CORPUS --out RUN",
                "train a recogniser on labelled audio",
            ),
            (f"lalia pretrain probe {encoder} {settings.data.corpus[0]}", "measure what each layer learned"),
        )


def probe(argv: list[str]) -> int:
    from pretrain.probe import arguments, probe_columns
    from pretrain.probe import probe as make_probe

    settings = arguments("lalia pretrain probe", ABOUT["probe"], argv)
    (probe_columns if settings.ask else make_probe)(settings)
    return 0


def _require_corpus(data: DataSettings) -> None:
    require(data.corpus, "--data.corpus", "the folder of a corpus made by `lalia prepare`")
    require_corpora(data.corpus, "--data.corpus")


def _resolve_languages(settings: PretrainSettings) -> None:
    from lalia.data.mixture import resolve_languages
    from lalia.training.distributed import is_rank_zero

    data = settings.data
    data.language = resolve_languages(data.language, data.corpus, "--data.language", is_rank_zero(settings.hardware))


if __name__ == "__main__":
    sys.exit(main())
