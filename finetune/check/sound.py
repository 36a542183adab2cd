"""The check of the sound, by the figures that preparation measured: clips without speech, noise, clipping."""

from __future__ import annotations

import numpy as np

from finetune.check.findings import Finding, Labels, plural

NO_SPEECH = 0.05
"""Share of a clip's frames with speech below which it has none."""
MANY = 0.05
NOISY_DB = 0.0
CLIPPED = 0.01


def without_speech(labels: Labels) -> list[int]:
    """Places of labelled clips in which voice activity found next to no speech."""
    return np.flatnonzero(labels.speech_ratio < NO_SPEECH).tolist()


def check_sound(labels: Labels) -> list[Finding]:
    """Findings on what can be heard."""
    found = []
    silent = without_speech(labels)
    if silent:
        share = len(silent) / len(labels.rows)
        what = f"{plural(len(silent), 'labelled clip')} ({share:.1%}) with next to no speech"
        weight = "stop" if share > MANY else "look"
        fix = "--fix takes their labels off; very short words may be missed by voice activity: listen to some"
        found.append(Finding("no speech", weight, what, fix, labels.examples(silent), True))  # type: ignore[arg-type]
    for column, topic, bad, words in (
        ("snr_db", "noise", lambda value: value < NOISY_DB, f"with more noise than speech (SNR below {NOISY_DB:g} dB)"),
        ("clipping", "clipping", lambda value: value > CLIPPED, f"with over {CLIPPED:.0%} of the samples clipped"),
    ):
        values = labels.corpus.numbers(column)[labels.rows]
        places = np.flatnonzero(bad(values))
        if len(places) > 0.01 * len(values):
            what = f"{plural(len(places), 'labelled clip')} {words}"
            worst = places[np.argsort(values[places] if topic == "noise" else -values[places], kind="stable")]
            found.append(Finding(topic, "look", what, "usable, but listen to the worst", labels.examples(worst)))
    return found
