"""Published curves that a run is read against."""

from __future__ import annotations

from lalia.report.charts import Band

# wav2vec 2.0 BASE on 960 hours, 8 seeds in bfloat16 (NVIDIA's DeepLearningExamples, wav2vec2 README): contrastive accuracy among
# 100 distractors, mean over the seeds, by updates of 400,000. The spread is given at the first and at the last of them.
_STEPS, _DISTRACTORS = 400_000, 100
_ACCURACY = ((50_000, 0.491), (100_000, 0.537), (200_000, 0.580), (300_000, 0.610), (400_000, 0.629))
_SPREAD = ((50_000, 0.011), (400_000, 0.007))
_WIDE = 2.0
"""Standard deviations to either side."""


def healthy_accuracy(steps: int, distractors: int) -> Band:
    """BASE's accuracy, two standard deviations of its seeds to either side, over a run of ``steps`` steps: the same share of the
    schedule stands at the same place, and other numbers of distractors keep the odds against a single one."""
    x, low, high = [], [], []
    for at, mean in _ACCURACY:
        (first, wide), (last, narrow) = _SPREAD
        spread = _WIDE * (wide + (narrow - wide) * (at - first) / (last - first))
        x.append(steps * at / _STEPS)
        low.append(among(mean - spread, distractors))
        high.append(among(mean + spread, distractors))
    return Band("BASE as published", x, low, high)


def among(accuracy: float, distractors: int, known: int = _DISTRACTORS) -> float:
    """What ``accuracy`` among ``known`` distractors is among ``distractors``: chance stays chance, certainty certainty."""
    odds = accuracy * known / (1.0 - accuracy)
    return odds / (odds + distractors)
