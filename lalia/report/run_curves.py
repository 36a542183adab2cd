"""The curves of a training run: which metric is drawn where, with its reference line or the published curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from lalia.report.charts import SERIES, Band, Bar, Chart, Level, Line, bar_chart, line_chart, plain, share, small
from lalia.training.settings import BatchSettings

# --- Published reference curves --------------------------------------------------------------------------

# wav2vec 2.0 BASE on 960 hours, 8 seeds in bfloat16 (NVIDIA's DeepLearningExamples, wav2vec2 README): contrastive accuracy with
# 100 distractors, mean over the seeds, by update of 400,000. The standard deviation is published for the first and the last.
_STEPS, _DISTRACTORS = 400_000, 100
_ACCURACY = ((50_000, 0.491), (100_000, 0.537), (200_000, 0.580), (300_000, 0.610), (400_000, 0.629))
_SPREAD = ((50_000, 0.011), (400_000, 0.007))
_WIDE = 2.0
"""Half the width of the band in standard deviations."""


def healthy_accuracy(steps: int, distractors: int) -> Band:
    """The accuracy of BASE plus and minus two standard deviations over its seeds, for a run of ``steps`` steps.

    Steps are scaled to the schedule; accuracy is converted to the number of ``distractors`` by ``rescale_accuracy``.
    """
    x, low, high = [], [], []
    for at, mean in _ACCURACY:
        (first, wide), (last, narrow) = _SPREAD
        spread = _WIDE * (wide + (narrow - wide) * (at - first) / (last - first))
        x.append(steps * at / _STEPS)
        low.append(rescale_accuracy(mean - spread, distractors))
        high.append(rescale_accuracy(mean + spread, distractors))
    return Band("BASE as published", x, low, high)


def rescale_accuracy(accuracy: float, distractors: int, known: int = _DISTRACTORS) -> float:
    """``accuracy`` with ``known`` distractors converted to ``distractors``, with the same odds against each one.

    Chance and certainty stay what they are.
    """
    odds = accuracy * known / (1.0 - accuracy)
    return odds / (odds + distractors)


# --- The curves of a run ---------------------------------------------------------------------------------

Metrics = Sequence[dict[str, Any]]

# Counts of problems: reported as text, not drawn.
TALLIES = {"train/bad_clips": "clips could not be read", "train/impossible": "labels did not fit their audio"}

MIX = "languages/"
MOST_LANGUAGES = 12

_ACCURACY_WORDS = (
    "How often the masked frame is distinguished from its distractors. The band is BASE on 960 hours (two standard deviations of "
    "8 seeds), scaled to this schedule and number of distractors: smaller models and less audio stay below it, a run above it "
    "is suspect."
)

_DRAWN = {
    "loss", "info_nce", "accuracy", "code_perplexity", "cer", "wer", "wer_lm", "lr", "blank", "diversity", "gumbel",
}  # fmt: skip

# Titles and captions of metrics without a special chart.
_WORDS = {
    "posteriors": ("Divergence from the teacher's posteriors", "Of training batches, at the temperature of the loss."),
    "divergence": ("Divergence from the teacher, held out", "Nats per frame."),
    "hidden": ("Distance from the teacher's hidden frames", "L1 and cosine."),
    "labels": ("CTC on labels", "Nats per token, over labelled clips."),
    "pseudo": ("CTC on pseudo-labels", "Nats per token, over unlabelled clips with a confident pseudo-label."),
    "labelled": ("Labelled clips", "Share of the batch."),
    "pseudo_labelled": ("Clips with a pseudo-label", "Share of the batch."),
    "gradient_norm": ("Gradient norm", "Monitored by the guard: batches far above the median are skipped."),
    "feature_std": (
        "Standard deviation of the features",
        "Monitored by the guard: near 0 the features have collapsed.",
    ),
    "hidden_share": ("Masked frames", "Share of all frames."),
    "code_share": ("Use of the least used codebook", "Monitored by the guard: perplexity as a share of its maximum."),
    "rate_factor": ("The guard's factor on the learning rate", ""),
    "diversity_factor": ("The guard's factor on the diversity penalty", ""),
    "loss_scale": ("Loss scale", "Of float16: halved when a gradient overflows."),
}


def series(metrics: Metrics, name: str) -> tuple[list[float], list[float]]:
    """(steps, values) of one metric; lines without a number for it are skipped."""
    found = [(line["step"], line[name]) for line in metrics if isinstance(line.get(name), (int, float))]
    return [step for step, _ in found], [value for _, value in found]


def curves(metrics: Metrics, config: dict[str, Any]) -> list[Chart]:
    """All charts that ``metrics`` have numbers for, the most important first."""
    chance = [Level(chance_of(config), f"chance {chance_of(config):.4f}")] if "objective" in config else []
    codes = codes_of(config) if "quantizer" in config else 0
    learned = "quantizer" in config and config["quantizer"].get("kind") != "kmeans"
    charts = [
        _chart(
            metrics, "Contrastive loss", {"train/info_nce": "training", "valid/info_nce": "held out"},
            caption="InfoNCE of each masked frame against its distractors, in nats.",
        ),
        _chart(
            metrics, "Contrastive accuracy", {"train/accuracy": "training", "valid/accuracy": "held out"}, chance,
            _ACCURACY_WORDS if chance else "", share, from_zero=True,
            band=healthy_accuracy(config["schedule"]["steps"], config["objective"]["distractors"]) if chance else None,
        ),
        _chart(
            metrics, "Codebook use", {"train/code_perplexity": "training batch", "valid/code_perplexity": "all held-out audio"},
            [Level(codes, f"all {codes} codes")] if codes else [],
            "Perplexity of the codes: the effective number in use. Near 1 the codebook has collapsed; healthy is more than a "
            "third of them.",
            from_zero=True, band=_over_all(metrics, codes / 3, codes) if codes else None,
        ),
        _chart(
            metrics, "Errors on held-out clips",
            {"valid/cer": "characters (CER)", "valid/wer": "words (WER)", "valid/wer_lm": "words, with the language model"},
            caption="On the dev split; the best checkpoint is chosen by it.", y_label=share, from_zero=True,
        ),
        _chart(
            metrics, "Blanks", {"train/blank": "share of frames"}, y_label=share,
            caption="Frames whose most likely token is the CTC blank. From random weights the share starts near 100 % and falls "
            "when the model begins to output letters; with a pretrained encoder it mostly starts low and rises first. If it "
            "stays near 100 %, the model outputs nothing.",
        ),
        _chart(
            metrics, "Loss", {"train/loss": "training", "valid/loss": "held out"},
            caption=_loss_words(config),
        ),
        *(_learned_codes(metrics) if learned else []),
        *_others(metrics),
        language_mix(metrics),
        speed(metrics, config),
        _chart(
            metrics, "Waiting for audio", {"speed/data_wait": "share of the time"}, y_label=share, from_zero=True,
            caption="Time in which training waited for audio to be decoded; raise data.workers if it is high.",
        ),
        _chart(
            metrics, "Learning rate", {"train/lr": "rate"}, y_label=small, from_zero=True, rough=False,
            caption="The learning rate schedule.",
        ),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def _loss_words(config: dict[str, Any]) -> str:
    """The caption of this stage's loss."""
    if "objective" in config or "teacher" in config:
        return "The weighted sum of all losses."
    return "CTC: the negative log-likelihood of the reference, in nats per token."


def chance_of(config: dict[str, Any]) -> float:
    """The accuracy of guessing among the target and its distractors."""
    return 1.0 / (config["objective"]["distractors"] + 1)


def codes_of(config: dict[str, Any]) -> int:
    """Codes of all codebooks together."""
    return int(config["quantizer"]["codebooks"] * config["quantizer"]["entries"])


def language_mix(metrics: Metrics) -> Chart | None:
    """The share of each language in the audio trained on so far; None for one language."""
    mixed = [line for line in metrics if any(key.startswith(MIX) for key in line)]
    shares = {key.removeprefix(MIX): value for key, value in mixed[-1].items() if key.startswith(MIX)} if mixed else {}
    if len(shares) < 2:
        return None
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    bars = [Bar(name, value, text=f"{100 * value:.1f}\u2009%") for name, value in ranked[:MOST_LANGUAGES]]
    if rest := ranked[MOST_LANGUAGES:]:
        value = sum(value for _, value in rest)
        bars.append(Bar(f"{len(rest)} others", value, text=f"{100 * value:.1f}\u2009%"))
    return bar_chart("Languages", bars, "Share of the audio that the run has trained on so far.")


def speed(metrics: Metrics, config: dict[str, Any]) -> Chart | None:
    """Seconds of audio trained on per second, validation included."""
    per_step = audio_per_step_s(config)
    lines = [line for line in metrics if any(key.startswith("train/") for key in line)]
    steps, rates = [], []
    for before, after in pairwise(lines):
        seconds = after["time_s"] - before["time_s"]
        if seconds > 0 and after["step"] > before["step"]:
            steps.append(after["step"])
            rates.append(per_step * (after["step"] - before["step"]) / seconds)
    if len(rates) < 2:
        return None
    return line_chart(
        "Speed", [Line("speed", steps, rates, "s3", rough=True)], caption="Seconds of audio per second of training.",
        y_label=lambda value: f"{plain(value)} ×", from_zero=True,
    )  # fmt: skip


def audio_per_step_s(config: dict[str, Any]) -> float:
    """Seconds of audio that one optimizer step sees, over all devices."""
    batch, hardware = BatchSettings(**config["batch"]), config["hardware"]
    ranks = hardware["devices"] * hardware["nodes"]
    return batch.accumulation(ranks) * ranks * batch.micro_s


def tallies(metrics: Metrics) -> Iterator[str]:
    """The problems of the logged steps, counted."""
    for name, what in TALLIES.items():
        total = sum(series(metrics, name)[1])
        if total:
            yield f"{total:,.0f} {what} in the logged steps"


def _chart(
    metrics: Metrics, title: str, names: dict[str, str], levels: Sequence[Level] = (), caption: str = "",
    y_label: Any = plain, from_zero: bool = False, rough: bool = True, band: Band | None = None,
) -> Chart | None:  # fmt: skip
    lines: list[Line] = []
    for name, label in names.items():
        steps, values = series(metrics, name)
        if values:
            colour = SERIES[len(lines)]
            held_out = name.startswith("valid/")
            lines.append(Line(label, steps, values, colour, rough=rough and not held_out, dots=held_out))
    if not lines:
        return None
    return line_chart(title, lines, levels, caption, y_label, from_zero=from_zero, band=band)


def _over_all(metrics: Metrics, low: float, high: float) -> Band:
    """A band from ``low`` to ``high`` over all steps so far."""
    last = max(line["step"] for line in metrics) if metrics else 0
    return Band("healthy", (0, last), (low, low), (high, high))


def _learned_codes(metrics: Metrics) -> list[Chart | None]:
    """Charts for a quantizer that learns its codes; k-means codes are fixed."""
    penalty = _chart(
        metrics, "Diversity penalty", {"train/diversity": "penalty"}, caption="0: all codes are used equally."
    )
    return [
        penalty,
        _chart(metrics, "Gumbel temperature", {"train/gumbel": "temperature"}, from_zero=True, rough=False),
    ]


def _others(metrics: Metrics) -> Iterator[Chart | None]:
    """A chart for each other metric, training and held out together; metrics that never change have none."""
    drawn = ("train/", "valid/", "guard/")
    names = {key.partition("/")[2] for line in metrics for key in line if key.startswith(drawn) and key not in TALLIES}
    known = list(_WORDS)
    for name in sorted(names - _DRAWN, key=lambda name: (known.index(name) if name in known else len(known), name)):
        title, caption = _WORDS.get(name, (name.replace("_", " ").capitalize(), ""))
        lines = {f"train/{name}": "training", f"valid/{name}": "held out", f"guard/{name}": "training"}
        if len({value for full in lines for value in series(metrics, full)[1]}) > 1:
            yield _chart(metrics, title, lines, caption=caption)
