"""Evaluate a model on a corpus: transcripts with CER and WER of a recogniser, codes of a pretrained quantizer.

B clips, S samples, T frames, V tokens or entries, G codebooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from lalia.data.labels import normalised_label
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.decoder import Decoder
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.scoring.rates import Score, by_group, mean_rates, score
from lalia.text.normaliser import Normaliser
from lalia.text.writing_system import WritingSystem
from lalia.training.trainer import CONFIG, newest_checkpoint

# --- Transcripts and error rates -------------------------------------------------------------------------


@dataclass
class Transcripts:
    """References and hypotheses of clips, both normalised."""

    ids: list[str]
    references: list[str]
    hypotheses: list[str]
    unread: list[str] = field(default_factory=list)
    """a line for each clip that could not be read"""
    writings: list[WritingSystem] = field(default_factory=list)
    """how each pair is written: what a word is"""
    languages: list[str] = field(default_factory=list)
    """the language of each pair"""

    def add(self, mixture: Mixture, row: int, normaliser: Normaliser, hypothesis: str) -> None:
        """Add ``row`` of ``mixture`` with its normalised label as the reference."""
        language = mixture.language(row)
        self.ids.append(mixture.id(row))
        self.languages.append(language)
        self.writings.append(normaliser.for_language(language).writing)
        self.references.append(normalised_label(mixture, row, normaliser))
        self.hypotheses.append(hypothesis)

    def score(self) -> Score:
        return score(self.references, self.hypotheses, self.writings)

    def as_dict(self) -> dict[str, Any]:
        """CER and WER with their intervals, and reference and hypothesis of every clip; of several languages, also the rates of
        each and their mean."""
        scored = self.score()
        pairs = zip(self.ids, self.references, self.hypotheses, strict=True)
        unread = {"unread": self.unread} if self.unread else {}
        parts = by_group(self.references, self.hypotheses, self.languages, self.writings)
        apart = {}
        if len(parts) > 1:
            cer, wer = mean_rates(list(parts.values()))
            rates = {code: {"cer": part.cer.rate, "wer": part.wer.rate} for code, part in sorted(parts.items())}
            apart = {"languages": rates, "mean": {"cer": cer, "wer": wer}}
        return {
            "cer": scored.cer.rate,
            "wer": scored.wer.rate,
            "cer_interval": list(scored.cer_interval),
            "wer_interval": list(scored.wer_interval),
            "clips": [{"id": i, "reference": r, "hypothesis": h} for i, r, h in pairs],
            **apart,
            **unread,
        }


def describe_clips(scores: dict[str, Any]) -> str:
    """Number of clips in ``scores`` (``Transcripts.as_dict``), and of clips that could not be read, as a phrase."""
    unread = scores.get("unread", [])
    return f"{len(scores['clips'])} clips" + (f" ({len(unread)} more cannot be read: {unread[0]})" if unread else "")


def transcribe_rows(
    recogniser: Recogniser, mixture: Mixture, rows: np.ndarray, micro_s: float = 60.0, by_transducer: bool = False
) -> Transcripts:
    """Greedy transcripts of ``rows`` by the CTC head or the transducer; unreadable clips are listed in ``unread``."""
    outputs, decode = (recogniser.frames, recogniser.greedy()) if by_transducer else (recogniser.log_probs, greedy)
    found = Transcripts([], [], [])
    for row, frames_TX in _frames_of_rows(outputs, recogniser, mixture, rows, micro_s, found.unread):
        found.add(mixture, row, recogniser.normaliser, transcript(decode(frames_TX), recogniser.tokens))
    return found


BLANK_PENALTIES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def tune_blank_penalty(recogniser: Recogniser, mixture: Mixture, rows: np.ndarray) -> float:
    """Lower the blank's score of the transducer by the penalty that gives the lowest greedy CER on ``rows``; the penalty.

    A transducer that has not seen much spreads a token's probability over several frames: the blank wins in each of them, and
    the token is lost.
    """
    assert recogniser.transducer is not None
    clips = list(_frames_of_rows(recogniser.frames, recogniser, mixture, rows, 60.0, []))
    bias_J = recogniser.transducer.predict.bias.data
    before = float(bias_J[0])
    tried = {}
    for penalty in BLANK_PENALTIES:
        bias_J[0] = before - penalty
        decode, found = recogniser.greedy(), Transcripts([], [], [])
        for row, frames_TX in clips:
            found.add(mixture, row, recogniser.normaliser, transcript(decode(frames_TX), recogniser.tokens))
        tried[penalty] = found.score().cer.rate if clips else 0.0
    best = min(tried, key=tried.__getitem__)
    bias_J[0] = before - best
    return best


def _frames_of_rows(
    outputs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], recogniser: Recogniser, mixture: Mixture, rows: np.ndarray,
    micro_s: float, unread: list[str],
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """(row, what ``outputs`` gives for its frames) of each readable row; lines about the others go to ``unread``."""
    device = recogniser.head.weight.device
    for batch in make_eval_loader(mixture, rows, micro_s):
        unread += batch.bad
        batch = batch.to(device)
        frames_BTX, frames_B = outputs(batch.wave_BS, batch.lengths_B)
        for row, frames_TX, frames in zip(
            batch.rows_B.tolist(), frames_BTX.cpu().numpy(), frames_B.tolist(), strict=True
        ):
            yield row, frames_TX[:frames]


def transcribe_by_beam(
    recogniser: Recogniser, decoder: Decoder, mixture: Mixture, rows: np.ndarray
) -> dict[str, tuple[list[int], float]]:
    """Id of each readable row -> (tokens, geometric mean of their probabilities by the recogniser alone)."""
    found: dict[str, tuple[list[int], float]] = {}
    device = recogniser.head.weight.device
    for batch in make_eval_loader(mixture, rows, 60.0):
        batch = batch.to(device)
        log_probs_BTV, frames_B = recogniser.log_probs(batch.wave_BS, batch.lengths_B)
        decoded = zip(batch.rows_B.tolist(), log_probs_BTV.cpu().numpy(), frames_B.tolist(), strict=True)
        for row, log_probs_TV, frames in decoded:
            spans = decoder.decode(log_probs_TV[:frames]).spans
            mean = sum(math.log(max(span.confidence, 1e-12)) for span in spans) / max(1, len(spans))
            found[mixture.id(row)] = ([span.token for span in spans], math.exp(mean) if spans else 0.0)
    return found


def describe_languages(scores: dict[str, Any]) -> str:
    """The rates of each language in ``scores`` (``Transcripts.as_dict``) and their mean, in a line; "" where there is one."""
    if "languages" not in scores:
        return ""
    groups = {**scores["languages"], "mean over languages": scores["mean"]}
    return "; ".join(f"{name} CER {rates['cer']:.3f}, WER {rates['wer']:.3f}" for name, rates in groups.items())


# --- Codes of a pretrained quantizer ---------------------------------------------------------------------


class CodeReader:
    """Encoder and quantizer from the newest checkpoint of a pretraining run."""

    def __init__(self, encoder: Encoder, head: ContrastiveHead) -> None:
        self.encoder = encoder.eval()
        self.head = head.eval()

    @classmethod
    def load(cls, run: Path | str) -> CodeReader:
        """Load from the folder of a pretraining run. Raises ``UserError`` if it is not one or has no checkpoint."""
        run = Path(run)
        try:
            config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
            shape, quantizer = EncoderShape(**config["model"]), ContrastiveShape(**config["quantizer"])
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{run}: expected the folder of a pretraining run ({error})") from error
        found = newest_checkpoint(run)
        if found is None:
            raise UserError(f"{run}: has no checkpoint that can be read; the quantizer is kept only there")
        reader = cls(Encoder(shape), ContrastiveHead(shape, quantizer))
        weights = found[1]["state_dict"]
        for name, module in (("encoder.", reader.encoder), ("head.", reader.head)):
            module.load_state_dict({k.removeprefix(name): w for k, w in weights.items() if k.startswith(name)})
        return reader

    @torch.inference_mode()
    def codes(self, wave: np.ndarray) -> np.ndarray:
        """Code of each frame of ``wave`` (S,) in each codebook: (T, G) int64; T is 0 for a wave shorter than a frame."""
        if self.encoder.shape.frames(len(wave)) < 1:
            return np.zeros((0, self.head.shape.codebooks), np.int64)
        wave_1S, length_1 = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        features_1TF, raw_1TF, frames_1 = self.encoder.features(wave_1S, length_1)
        if self.head.shape.kind == "kmeans":
            return self.head.clusters(wave_1S, length_1, raw_1TF, frames_1)[0].numpy()
        return self.head.logits(features_1TF)[0].argmax(-1).numpy()

    def usage(self, waves: Iterable[np.ndarray]) -> np.ndarray:
        """Share of the frames of ``waves`` per entry: (G, V); each codebook sums to 1."""
        G, V = self.head.shape.codebooks, self.head.shape.entries
        counts_GV = np.zeros((G, V))
        for wave in waves:
            codes_TG = self.codes(wave)
            for g in range(G):
                counts_GV[g] += np.bincount(codes_TG[:, g], minlength=V)
        return counts_GV / np.maximum(counts_GV.sum(1, keepdims=True), 1.0)
