"""A stream: samples in as they come, words out as they become final."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lalia.audio.resampling import Resampler
from lalia.decoding.greedy import Word
from lalia.decoding.growing import Growing
from lalia.exits import AudioError, UserError
from lalia.runtime.hearing import Hearing
from lalia.runtime.transcript import Transcript
from lalia.text.scripts import join_words
from lalia.units import SAMPLE_RATE, Seconds

if TYPE_CHECKING:
    from lalia.decoding.decoder import Decoder

RATES = (4_000, 768_000)


@dataclass(frozen=True)
class Said:
    """What a block of samples brought: words that will not change any more, and how the sentence goes on as it seems now."""

    stable: list[Word] = field(default_factory=list)
    """those that became final with this block, in order"""
    tentative: list[Word] = field(default_factory=list)
    """all that are not final yet; the next block may change them"""
    heard_s: Seconds = 0.0
    """how much was fed up to now"""


class Stream:
    """``feed`` it samples in blocks of any size, then ``finish``; ``words`` are all stable ones so far.

    Without a decoder words come by CTC's best path, and are stable as soon as a boundary or a pause ends them. A ``decoder``
    (``lalia.runtime.decoders``) searches whole utterances: its words are stable when a pause of a second ends one, and until
    then the best path is shown. How samples are parted into blocks changes nothing that is said in the end.
    """

    def __init__(
        self, hearing: Hearing, growing: Growing, decoder: Decoder | None = None, rate: int = SAMPLE_RATE
    ) -> None:
        """Made by ``Student.stream``. ``UserError`` where no audio has such a ``rate``."""
        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"stream: {rate} samples per second; expected {RATES[0]} to {RATES[1]}")
        self.words: list[Word] = []
        self._hearing = hearing
        self._growing = growing
        self._decoder = decoder
        self._resampler = Resampler(rate)
        self.rate = rate
        self._fed = 0
        self._over = False
        self._shown: list[Word] = []  # with a decoder: words of the best path that it has not decided on
        if decoder is not None:
            decoder.begin()

    def feed(self, samples: np.ndarray) -> Said:
        """Hear on: floats from -1 to 1, mono, of shape (samples,). ``AudioError`` where they are anything else."""
        if self._over:
            raise UserError("stream: is finished; begin another one")
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            found = f"{samples.dtype} of shape {samples.shape}"
            raise AudioError(f"stream: was fed {found}; expected floats from -1 to 1 of shape (samples,), mono")
        if not np.isfinite(samples).all():
            raise AudioError("stream: was fed samples that are no numbers (NaN or infinite)")
        self._fed += len(samples)
        wave_S = self._resampler(samples.astype(np.float32, copy=False))
        return self._said(self._hearing.feed(wave_S))

    def finish(self) -> Said:
        """The last words; all are stable now."""
        if self._over:
            return Said(heard_s=self.heard_s)
        self._over = True
        rest_S = self._resampler(np.zeros(0, np.float32), last=True)
        said = [self._hearing.feed(rest_S), self._hearing.finish()]
        return self._said(np.concatenate(said))

    @property
    def heard_s(self) -> Seconds:
        """How much was fed."""
        return self._fed / self.rate

    def transcript(self) -> Transcript:
        """All that is stable."""
        return Transcript(join_words(word.text for word in self.words), list(self.words), round(self.heard_s, 3))

    def _said(self, log_probs_TV: np.ndarray) -> Said:
        stable = self._growing.feed(log_probs_TV)
        if self._over:
            stable += self._growing.finish()
        tentative = self._growing.tentative()
        if self._decoder is not None:
            self._shown += stable
            self._decoder.feed(log_probs_TV)
            found = self._decoder.finish() if self._over else self._decoder.settled
            stable = found.words[len(self.words) :]
            settled_s = found.words[-1].end_s if found.words else 0.0
            waits = self._decoder.waits and not self._over
            self._shown = [word for word in self._shown if word.start_s >= settled_s] if waits else []
            tentative = self._shown + tentative
        self.words += stable
        return Said(stable, tentative, self.heard_s)


def as_dict(said: Said, last: bool) -> dict[str, object]:
    """``said`` as JSON has it, here and from the server: words with text, start_s, end_s and confidence."""

    def words(found: list[Word]) -> list[dict[str, object]]:
        # A stream is one channel, so its words have none.
        return [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": round(w.confidence, 4)}
            for w in found
        ]

    return {
        "stable": words(said.stable),
        "tentative": words(said.tentative),
        "heard_s": round(said.heard_s, 3),
        "last": last,
    }
