"""``lalia pretrain probe``: what encoders have learned, layer by layer, before anybody fine-tunes them.

Language and speaker from the mean over time of a layer's frozen features, letters from its frames, each by one matrix
(``linear.py``) and on clips that were held out. The first row of every table is plain log-mel: an encoder is worth its name
where it beats that.

B clips, S samples, T frames, D dimensions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from lalia.arguments import Parser
from lalia.cards import write_json
from lalia.data.mixture import Mixture
from lalia.exits import UserError
from lalia.models.encoder import Encoder
from lalia.models.frontend import FFT, StackedFrames
from lalia.models.shape import FRAME_HOP, FRAME_WINDOW, EncoderShape
from lalia.units import SAMPLE_RATE
from pretrain.probe_page import rich_table, write_page
from pretrain.questions import BASELINE, Probe, Questions


def arguments(program: str, about: str, argv: Sequence[str]) -> argparse.Namespace:
    """ENCODER… CORPUS and options; a ``UserError`` where they make no sense."""
    parser = Parser(prog=program, description=about)
    parser.add_argument("paths", nargs="+", metavar="ENCODER… CORPUS", help="encoder folders to compare, then a corpus")
    parser.add_argument("--out", help="page with table and plots (.html) or the numbers alone (.json)")
    parser.add_argument("--language", default="", help="language of the letters; default: the one with most labels")
    parser.add_argument("--clips", type=int, default=80, help="clips per language, and at most per speaker (80)")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="minutes of labels that the letters are learned from (8)"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps of the CTC probe of a layer (300)")
    parser.add_argument("--max_s", type=float, default=15.0, help="longer clips are left out, seconds (15)")
    parser.add_argument("--seed", type=int, default=1)
    found = parser.parse_args(list(argv))
    if len(found.paths) < 2:
        raise UserError(f"{found.paths[0]}: one path given, expected ENCODER… CORPUS; see: {program} --help")
    if found.out and Path(found.out).suffix not in (".html", ".json"):
        raise UserError(f"--out {found.out}: expected a name that ends in .html or .json")
    return found


def probe(ask: argparse.Namespace, console: Console | None = None) -> Probe:
    """Run the probes, print their table and write ``ask.out``."""
    *folders, corpus = ask.paths
    mixture = Mixture.load([corpus])
    encoders = {name: Encoder.load(folder) for name, folder in zip(_names(folders), folders, strict=True)}
    questions = Questions(mixture, ask)
    found = Probe(
        languages=questions.languages.classes, speakers=questions.speakers.classes, notes=questions.notes,
        chance_language=questions.languages.chance, chance_speaker=questions.speakers.chance,
        letters_of=questions.letters_of,
    )  # fmt: skip
    shape = next(iter(encoders.values())).shape
    stack = max(1, round(shape.frame_s * SAMPLE_RATE / FRAME_HOP))
    found.rows += questions.ask("", [BASELINE], LogMel(stack))
    for name, encoder in encoders.items():
        layers = ["input", *(f"{i + 1}" for i in range(encoder.shape.layers))]
        found.rows += questions.ask(name, layers, Layers(encoder))
    (console or Console()).print(rich_table(found))
    for note in found.notes:
        print(note, file=sys.stderr)
    if ask.out:
        path = Path(ask.out)
        if path.suffix == ".json":
            write_json(path, asdict(found))
        else:
            write_page(path, found, [str(folder) for folder in folders], str(corpus))
    return found


class Layers:
    """The features of every layer of an encoder: what its blocks are given, and the output of each."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        features_BTF, _, frames_B = self.encoder.features(wave_BS, lengths_B)
        collected: list[Tensor] = []
        self.encoder.contextualise(features_BTF, frames_B, collect=collected)
        return [_clips(layer, frames_B) for layer in (features_BTF, *collected)]


class LogMel:
    """Plain log-mel frames of 25 ms every 10 ms, ``stack`` side by side; nothing is normalised or learned."""

    def __init__(self, stack: int) -> None:
        self.stack = stack
        self.parts = StackedFrames(EncoderShape(input="logmel"))

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        windows_BNK = wave_BS.unfold(1, FRAME_WINDOW, FRAME_HOP) * self.parts.window
        power_BNF = torch.view_as_real(torch.fft.rfft(windows_BNK, n=FFT)).square().sum(-1)
        mel_BNM = torch.log(power_BNF @ self.parts.mel_FM + 1e-6)
        B, N, M = mel_BNM.shape
        T = N // self.stack
        stacked_BTF = mel_BNM[:, : T * self.stack].reshape(B, T, self.stack * M)
        return [_clips(stacked_BTF, ((lengths_B - FRAME_WINDOW) // FRAME_HOP + 1) // self.stack)]


def _clips(x_BTD: Tensor, frames_B: Tensor) -> list[Tensor]:
    return [clip_TD[: int(frames)] for clip_TD, frames in zip(x_BTD, frames_B, strict=True)]


def _names(folders: Sequence[str]) -> list[str]:
    """The folders' own names, or as much of their paths as tells them apart."""
    for parts in range(1, 8):
        names = ["/".join(Path(folder).parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
