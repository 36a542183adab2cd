"""The loop of training and aligning (``lalia finetune grow``) beside training on ten minutes and on all true labels.

    python -m benchmarks.align.loop CORPUS --language swa --out runs/loop-swahili

Ten minutes of the training labels of CORPUS are kept. The other training clips are joined to one recording with pauses, and
their texts to one text: a read book without times. Three recognisers with the same settings: of the ten minutes, of all labels,
and of the rounds that begin with the ten minutes and the book. All are scored on the test clips of CORPUS.

The same command again continues. The table is printed; it is in docs/alignment.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.training.learning_corpora import call
from finetune.grow import ROUNDS
from lalia.audio.encoding import flac_bytes
from lalia.cards import write_bytes, write_text
from lalia.data.corpus import Corpus
from lalia.data.labels import choose_minutes
from lalia.data.mixture import Mixture
from lalia.data.prepare.pipeline import rewrite
from lalia.errors import run
from lalia.units import SAMPLE_RATE

PAUSES_S = (0.3, 1.0)


def main() -> int:
    arguments = parse()
    out, corpus = arguments.out, Corpus.load(arguments.corpus)
    ten, book = out / "ten-minutes", out / "book"
    make_material(corpus, arguments.language, arguments.minutes, ten, book)
    settings = [
        "--data.language",
        arguments.language,
        "--hardware.threads",
        "1",
        "--preset",
        "10min",
        *arguments.settings,
    ]
    fit = ["lalia", "finetune", "fit", "--encoder", "nano-multilingual", *settings]
    runs = {"ten": ten, "all": arguments.corpus}
    for name, labels in runs.items():
        call([*fit, "--data.corpus", str(labels), "--out", str(out / name)])
    grow = ["lalia", "finetune", "grow", "--encoder", "nano-multilingual", *settings, "--data.corpus", str(ten)]
    call([
        *grow, "--grow.source", str(book), "--grow.recogniser", str(out / "ten"), "--grow.rounds", str(arguments.rounds),
        "--out", str(out / "grown"),
    ])  # fmt: skip
    print((out / "grown" / ROUNDS).read_text(encoding="utf-8"))
    cers = {name: scores(out / name)["cer"] for name in (*runs, "grown")}
    for name, cer in cers.items():
        print(f"{name}: CER {cer:.3f}, {cer / cers['ten']:.2f} of ten minutes, {cer / cers['all']:.2f} of all labels")
    return 0


def make_material(corpus: Corpus, language: str, minutes: float, ten: Path, book: Path) -> None:
    """A corpus of ``minutes`` of the training labels with dev and test, and a recording and text of the other clips."""
    mixture = Mixture([corpus])
    train = mixture.select("train", [language], labelled=True)
    kept = choose_minutes(mixture, train, minutes)
    held_out = [mixture.select(split, [language], labelled=True) for split in ("dev", "test")]
    rewrite(corpus, ten, np.sort(np.concatenate([kept, *held_out])), {}, [], {})
    rest = np.setdiff1d(train, kept)
    rng = np.random.default_rng(1)
    parts = [part for row in rest.tolist() for part in (corpus.wave(row), pause(rng))]
    write_bytes(book / "book.flac", flac_bytes(np.concatenate(parts)))
    write_text(book / "book.txt", "\n".join(corpus.text(row) for row in rest.tolist()) + "\n")


def pause(rng: np.random.Generator) -> np.ndarray:
    """Faint noise, as recordings have between sentences."""
    return rng.normal(scale=1e-4, size=int(rng.uniform(*PAUSES_S) * SAMPLE_RATE)).astype(np.float32)


def scores(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.align.loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, help="a corpus with labels and splits")
    parser.add_argument("--language", required=True, metavar="CODE", help="language of the labels")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of labels to begin with (10)")
    parser.add_argument("--rounds", type=int, default=3, help="the most rounds (3)")
    parser.add_argument("--out", type=Path, required=True, help="folder for material and runs")
    parser.add_argument(
        "--settings",
        nargs=argparse.REMAINDER,
        default=[],
        help="settings of all trainings, such as --schedule.steps 400",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.align.loop"))
