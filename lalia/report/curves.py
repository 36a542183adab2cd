"""The curves of a run: which metric is drawn where, and what it is read against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from lalia.report.charts import SERIES, Band, Bar, Chart, Level, Line, bar_chart, line_chart, plain, share, small
from lalia.report.published import healthy_accuracy
from lalia.training.settings import BatchSettings

Metrics = Sequence[dict[str, Any]]

# Counts of things that should not happen: said in words where they did, never drawn.
TALLIES = {"train/bad_clips": "clips could not be read", "train/impossible": "labels did not fit their audio"}

MIX = "languages/"
MOST_LANGUAGES = 12

_ACCURACY_WORDS = (
    "How often the hidden frame is told from its distractors. The band is BASE on 960 hours (two standard deviations of 8 "
    "seeds), set to this schedule and these distractors: smaller models and less audio stay below it, a run above it is suspect."
)

_DRAWN = {
    "loss", "info_nce", "accuracy", "code_perplexity", "cer", "wer", "wer_lm", "lr", "blank", "diversity", "gumbel",
}  # fmt: skip

# Titles and captions of metrics that need no chart of their own shape.
_WORDS = {
    "posteriors": ("Divergence from the teacher's letters", "Of training batches, at the temperature of the loss."),
    "divergence": ("Divergence from the teacher, held out", "Nats per frame."),
    "hidden": ("Distance from the teacher's hidden frames", "L1 and cosine."),
    "labels": ("CTC on labels", "Nats per letter, over clips that have one."),
    "pseudo": ("CTC on what the teacher heard", "Nats per letter, over unlabelled clips that it was sure of."),
    "labelled": ("Clips with a label", "Share of the batch."),
    "pseudo_labelled": ("Clips that the teacher was sure of", "Share of the batch."),
    "gradient_norm": ("Size of the gradient", "Watched by the guard: a batch far above the median is left out."),
    "feature_std": ("Spread of the features", "Watched by the guard: near 0 the stem says the same of everything."),
    "hidden_share": ("Hidden frames", "Share of all frames."),
    "code_share": ("Use of the worst codebook", "Watched by the guard: perplexity as a share of what is possible."),
    "rate_factor": ("The guard's factor on the learning rate", ""),
    "diversity_factor": ("The guard's factor on the diversity penalty", ""),
    "loss_scale": ("Loss scale", "Of float16: halved when a gradient overflows."),
}


def series(metrics: Metrics, name: str) -> tuple[list[float], list[float]]:
    """(steps, values) of one metric; lines that lack it or hold no number are passed over."""
    found = [(line["step"], line[name]) for line in metrics if isinstance(line.get(name), (int, float))]
    return [step for step, _ in found], [value for _, value in found]


def curves(metrics: Metrics, config: dict[str, Any]) -> list[Chart]:
    """Every chart that ``metrics`` have numbers for, the ones that matter first."""
    chance = [Level(chance_of(config), f"chance {chance_of(config):.4f}")] if "objective" in config else []
    codes = codes_of(config) if "quantizer" in config else 0
    learned = "quantizer" in config and config["quantizer"].get("kind") != "kmeans"
    charts = [
        _chart(
            metrics, "Contrastive loss", {"train/info_nce": "training", "valid/info_nce": "held out"},
            caption="Of telling each hidden frame from its distractors (InfoNCE), in nats.",
        ),
        _chart(
            metrics, "Contrastive accuracy", {"train/accuracy": "training", "valid/accuracy": "held out"}, chance,
            _ACCURACY_WORDS if chance else "", share, from_zero=True,
            band=healthy_accuracy(config["schedule"]["steps"], config["objective"]["distractors"]) if chance else None,
        ),
        _chart(
            metrics, "Codebook use", {"train/code_perplexity": "training batch", "valid/code_perplexity": "all held-out audio"},
            [Level(codes, f"all {codes} codes")] if codes else [],
            "Perplexity of the codes: how many are in use as if all were used alike. Near 1 is a collapse; healthy is more than "
            "a third of them.",
            from_zero=True, band=_over_all(metrics, codes / 3, codes) if codes else None,
        ),
        _chart(
            metrics, "Errors on held-out clips",
            {"valid/cer": "characters (CER)", "valid/wer": "words (WER)", "valid/wer_lm": "words, with the language model"},
            caption="Of the dev split, which chooses the weights that are kept.", y_label=share, from_zero=True,
        ),
        _chart(
            metrics, "Blanks", {"train/blank": "share of frames"}, y_label=share,
            caption="Frames that are answered with the blank, the sign for no new letter. From random weights it begins near all "
            "and falls when the run starts to read; a pretrained encoder mostly begins low and rises first, until each letter is "
            "written once. Nearly all for long: nothing is written.",
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
            caption="Time in which the training had nothing to do since its audio was not decoded yet: raise data.workers.",
        ),
        _chart(
            metrics, "Learning rate", {"train/lr": "rate"}, y_label=small, from_zero=True, rough=False,
            caption="How far a step moves the weights, as the schedule says.",
        ),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def _loss_words(config: dict[str, Any]) -> str:
    """What the loss of this stage is."""
    if "objective" in config or "teacher" in config:
        return "All that training minimises, weighted and added up."
    return "What training minimises: how unlikely it finds the right text, in nats per letter."


def chance_of(config: dict[str, Any]) -> float:
    """Accuracy of guessing: one of the target and its distractors."""
    return 1.0 / (config["objective"]["distractors"] + 1)


def codes_of(config: dict[str, Any]) -> int:
    """Codes of all codebooks together."""
    return int(config["quantizer"]["codebooks"] * config["quantizer"]["entries"])


def language_mix(metrics: Metrics) -> Chart | None:
    """How much of what was heard so far is in which language; None where there is one."""
    heard = [line for line in metrics if any(key.startswith(MIX) for key in line)]
    shares = {key.removeprefix(MIX): value for key, value in heard[-1].items() if key.startswith(MIX)} if heard else {}
    if len(shares) < 2:
        return None
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    bars = [Bar(name, value, text=f"{100 * value:.1f}\u2009%") for name, value in ranked[:MOST_LANGUAGES]]
    if rest := ranked[MOST_LANGUAGES:]:
        value = sum(value for _, value in rest)
        bars.append(Bar(f"{len(rest)} others", value, text=f"{100 * value:.1f}\u2009%"))
    return bar_chart("Languages heard", bars, "Share of the audio that the run has trained on so far.")


def speed(metrics: Metrics, config: dict[str, Any]) -> Chart | None:
    """Seconds of audio trained on per second, looks at held-out audio included."""
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
    """What went wrong on the way, counted over the logged steps: empty where nothing did."""
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
    """A band from ``low`` to ``high`` over every step so far."""
    last = max(line["step"] for line in metrics) if metrics else 0
    return Band("healthy", (0, last), (low, low), (high, high))


def _learned_codes(metrics: Metrics) -> list[Chart | None]:
    """What matters where the quantizer learns its codes; k-means codes are what they are."""
    penalty = _chart(
        metrics, "Diversity penalty", {"train/diversity": "penalty"}, caption="0: every code is used alike."
    )
    return [
        penalty,
        _chart(metrics, "Gumbel temperature", {"train/gumbel": "temperature"}, from_zero=True, rough=False),
    ]


def _others(metrics: Metrics) -> Iterator[Chart | None]:
    """A chart for each metric that is drawn nowhere else, training and held out together; none where it never changes."""
    drawn = ("train/", "valid/", "guard/")
    names = {key.partition("/")[2] for line in metrics for key in line if key.startswith(drawn) and key not in TALLIES}
    known = list(_WORDS)
    for name in sorted(names - _DRAWN, key=lambda name: (known.index(name) if name in known else len(known), name)):
        title, caption = _WORDS.get(name, (name.replace("_", " ").capitalize(), ""))
        lines = {f"train/{name}": "training", f"valid/{name}": "held out", f"guard/{name}": "training"}
        if len({value for full in lines for value in series(metrics, full)[1]}) > 1:
            yield _chart(metrics, title, lines, caption=caption)
