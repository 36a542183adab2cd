"""Make the table that tests compare DER and cpWER with: the figures of pyannote.metrics 4.2.0 and meeteval 0.4.3.

  pip install pyannote.metrics==4.2.0 meeteval==0.4.3        in an environment of its own: they need scipy and scikit-learn
  python benchmarks/hearing/speaker_truth.py > tests/scoring/speaker_errors.json

It imports nothing of lalia. ``collar_s`` is the time on each side of a boundary, half of pyannote's.
"""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = [
    "he",
    "hoped",
    "there",
    "would",
    "be",
    "stew",
    "for",
    "dinner",
    "turnips",
    "and",
    "carrots",
    "bruised",
    "potatoes",
]


def turns(draw: random.Random, speakers: int, count: int) -> list[tuple[float, float, str]]:
    """Turns in order of time, some of which overlap; those of one speaker do not."""
    found, ends = [], dict.fromkeys("abcd"[:speakers], 0.0)
    at = 0.0
    for _ in range(count):
        at = max(0.0, at + draw.uniform(-0.8, 0.9))
        speaker = draw.choice(sorted(ends))
        start = round(max(at, ends[speaker] + 0.05), 3)
        end = round(start + draw.uniform(0.2, 4.0), 3)
        found.append((start, end, speaker))
        ends[speaker], at = end, end
    return found


def diarization_case(seed: int) -> dict[str, Any]:
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    draw = random.Random(seed)
    reference = turns(draw, draw.randint(1, 3), 9)
    hypothesis = [
        (round(max(0.0, start + draw.gauss(0, 0.3)), 3), round(end + draw.gauss(0, 0.3), 3), speaker.upper())
        for start, end, speaker in (turns(draw, 4, 9) if seed % 4 == 3 else reference)
    ]
    hypothesis = [
        (start, end, draw.choice("ABC") if draw.random() < 0.2 else speaker)
        for start, end, speaker in hypothesis
        if end > start
    ]
    annotations = []
    for each in (reference, hypothesis):
        annotation = Annotation()
        for number, (start, end, speaker) in enumerate(each):
            annotation[Segment(start, end), number] = speaker
        annotations.append(annotation.support() if each is hypothesis else annotation)
    case: dict[str, Any] = {"reference": reference, "hypothesis": hypothesis, "figures": []}
    for collar_s in (0.0, 0.25):
        for overlap in (True, False):
            found = DiarizationErrorRate(collar=2 * collar_s, skip_overlap=not overlap)(*annotations, detailed=True)
            figures = [found[name] for name in ("missed detection", "false alarm", "confusion", "total")]
            case["figures"].append([collar_s, overlap, [round(float(figure), 6) for figure in figures]])
    return case


def words_case(seed: int) -> dict[str, Any]:
    from meeteval.wer import cp_word_error_rate

    draw = random.Random(seed)
    reference = {f"r{n}": " ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for n in range(draw.randint(1, 4))}
    kept = [" ".join(word for word in text.split() if draw.random() < 0.8) for text in reference.values()]
    draw.shuffle(kept)
    kept = kept[: draw.randint(1, 4)] + [" ".join(draw.choices(WORDS, k=3))] * (seed % 2)
    hypothesis = {f"h{n}": text for n, text in enumerate(kept)}
    found = cp_word_error_rate(list(reference.values()), list(hypothesis.values()))
    return {"reference": reference, "hypothesis": hypothesis, "errors": found.errors, "words": found.length}


if __name__ == "__main__":
    table = {"der": [diarization_case(seed) for seed in range(12)], "cpwer": [words_case(seed) for seed in range(12)]}
    print(json.dumps(table, indent=None, separators=(",", ":")).replace("},{", "},\n{"))
