"""Align recordings: run the recogniser over them in resumable parts, place their words, make pieces, explain what does not fit.

Legend: T frames, V tokens, K placed words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from lalia.align.chains import Allowed, find_chains
from lalia.align.cutting import BRIDGED, Cut, cut, evidence, margin, territory, wrong_probability
from lalia.align.pieces import LONGEST_S, SHORTEST_S, Piece, decide
from lalia.align.placement import Heard, Placement, place
from lalia.align.written import PRIOR_S, TextOptions, Word, encode, join_text, read_words
from lalia.audio.reading import probe_audio, read_blocks
from lalia.cards import write_json
from lalia.decoding.greedy import collapse, peaks
from lalia.errors import AudioError, UserError
from lalia.model_folder import require_alphabet
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.threads import in_order
from lalia.units import SAMPLE_RATE, Frames, Samples, Seconds, plural, to_samples, to_seconds


class AcousticModel(Protocol):
    """A student, or a recogniser of torch, as the alignment sees it."""

    tokens: Tokens
    normaliser: Normaliser
    frame_s: Seconds

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) of a wave (S,)."""
        ...


@dataclass(frozen=True)
class Pair:
    """A recording, its name (unique), its text, and what a table says about it."""

    name: str
    audio: Path
    text: Path
    speaker: str = ""
    split: str = ""


# --- The recogniser's output, on disk --------------------------------------------------------------------

PART_S = 300
"""Seconds of a part; an interrupted alignment loses at most one of each worker."""
_MARGIN_S = 6
"""Read before and after a part, so that its first and last frames have context."""


class Emissions:
    """The log-probabilities of a recording, float16, and the level of its frames, in files of ``PART_S`` below ``folder``."""

    def __init__(self, folder: Path, frame_s: Seconds) -> None:
        self.folder = folder
        frame = to_samples(frame_s)
        # Parts begin on whole frames and whole seconds.
        self._grid_s = math.lcm(frame, SAMPLE_RATE) // SAMPLE_RATE
        self.part_s = max(1, PART_S // self._grid_s) * self._grid_s
        self.margin_s = -(-_MARGIN_S // self._grid_s) * self._grid_s
        self.frame: Samples = frame
        self.part_frames: Frames = self.part_s * SAMPLE_RATE // frame

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"

    def waves(self, audio: Path) -> Iterator[tuple[int, np.ndarray, Samples, Samples]]:
        """Parts that are not stored yet: (number, wave with margins, samples of the margin before, samples without margins)."""
        first = next(n for n in range(1 << 30) if not self.path(n).is_file())
        begin_s = max(0, first * self.part_s - self.margin_s)
        part, around = self.part_s * SAMPLE_RATE, self.margin_s * SAMPLE_RATE
        at: Samples = begin_s * SAMPLE_RATE  # of the first sample held
        held = np.zeros(0, np.float32)
        number = first
        for block in read_blocks(audio, start_s=begin_s):
            held = np.concatenate([held, block])
            while at + len(held) >= (number + 1) * part + around:
                before = number * part - at
                yield number, held[: before + part + around], before, part
                number += 1
                keep = number * part - around
                held, at = held[keep - at :], keep
        while len(held) > (before := number * part - at):
            yield number, held, before, min(part, len(held) - before)
            number += 1

    def store(self, number: int, log_probs_TV: np.ndarray, wave: np.ndarray, before: Samples, own: Samples) -> None:
        """Store a part, given the model's output for its wave with margins."""
        start: Frames = before // self.frame
        frames: Frames = min(-(-own // self.frame), self.part_frames)
        own_TV = log_probs_TV[start : start + frames].astype(np.float16)
        if len(own_TV) < frames:  # a model may leave out the last frame
            last = np.full((frames - len(own_TV), log_probs_TV.shape[1]), -20.0, np.float16)
            last[:, 0] = 0.0
            own_TV = np.concatenate([own_TV, last])
        padded = np.pad(wave[before : before + own], (0, frames * self.frame - own))
        power_T = np.square(padded.reshape(frames, self.frame), dtype=np.float64).mean(1)
        temporary = self.path(number).with_suffix(".partial")
        with temporary.open("wb") as file:
            np.savez(file, log_probs=own_TV, levels=(10 * np.log10(power_T + 1e-10)).astype(np.float32))
        temporary.replace(self.path(number))

    def levels(self) -> np.ndarray:
        """dB of all frames, (T,) float32."""
        return np.concatenate([np.load(path)["levels"] for path in self._stored()])

    def heard(self, boundary: int | None) -> Heard:
        """The greedy transcript of the recording, without word boundaries."""
        found = [peaks(np.load(path)["log_probs"].astype(np.float32)) for path in self._stored()]
        spans = collapse(np.concatenate([t for t, _ in found]), np.concatenate([p for _, p in found]))
        kept = [span for span in spans if span.token != boundary]
        tokens, starts, ends = (
            np.array([getattr(span, name) for span in kept], np.int64) for name in ("token", "start_frame", "end_frame")
        )
        return Heard(tokens, starts, ends)

    def read(self, start: Frames, end: Frames) -> np.ndarray:
        """Log-probabilities of the frames from ``start`` to before ``end``, float32."""
        parts = []
        for number in range(start // self.part_frames, -(-end // self.part_frames)):
            if self._open[0] != number:
                self._open = number, np.load(self.path(number))["log_probs"]
            first = number * self.part_frames
            parts.append(self._open[1][max(0, start - first) : end - first])
        return np.concatenate(parts).astype(np.float32)

    _open: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def _stored(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))


# --- One recording ---------------------------------------------------------------------------------------

FOUND = 0.1
"""The least share of the recognised letters that must be in chains for a text to count as that of the recording."""
LONG_TEXT = 3.0
"""A text this many times as long as what is spoken is reported."""
SILENT_RATE = 30.0
"""Letters a minute: below it a recogniser hears nothing; speech has hundreds."""
SHORT_BLOCKS_S: Seconds = 60.0
"""Parts in another order are aligned if they are at least this long on average, else the text is refused."""


@dataclass
class Aligned:
    """The result for a recording: its pieces, and lines about it for the user; ``refused`` is the reason why there are none."""

    pieces: list[Piece] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: str = ""
    duration_s: Seconds = 0.0


class Text:
    """A text and the tokens of its words; ``spoken`` are the numbers of the words that have any."""

    def __init__(self, path: Path, options: TextOptions, model: AcousticModel) -> None:
        self.path, self._options = path, options
        self.words = read_words(path, options)
        ids, unknown = encode(self.words, model.normaliser, model.tokens)
        foreign = [word.text for word, count in zip(self.words, unknown, strict=True) if count]
        require_alphabet(str(path), len(foreign), len(self.words), " ".join(foreign[:5]))
        self.spoken = [number for number, own in enumerate(ids) if own]
        self.ids = [ids[number] for number in self.spoken]
        if not self.ids:
            raise UserError(f"{path}: none of its {len(self.words)} words can be spelled by the recogniser")

    @property
    def letters(self) -> int:
        return sum(map(len, self.ids))

    def prior(self, heard: Heard, frame_s: Seconds) -> Allowed | None:
        """Which letters may be in which places, by the times of subtitles; None if these are ignored."""
        times_s = [self.words[number].at_s for number in self.spoken]
        if self._options.times == "ignored" or any(at_s is None for at_s in times_s):
            return None
        letter_s = np.repeat(np.array(times_s, np.float64), [len(ids) for ids in self.ids])
        return lambda h, w: np.abs(heard.starts[h] * frame_s - letter_s[w]) <= PRIOR_S


def share_found(heard: Heard, placement: Placement) -> float:
    """The share of the recognised letters that chains cover."""
    return sum(chain.heard[1] - chain.heard[0] for chain in placement.chains) / max(len(heard.tokens), 1)


def align_recording(pair: Pair, text: Text, emissions: Emissions, model: AcousticModel) -> Aligned:
    """Align a recording whose emissions are stored with its text."""
    levels_T = emissions.levels()
    frames, frame_s, boundary = len(levels_T), model.frame_s, model.tokens.boundary
    heard = emissions.heard(boundary)
    found = Aligned(duration_s=frames * frame_s)
    minutes = max(frames * frame_s / 60, 1e-3)
    if len(heard.tokens) < SILENT_RATE * minutes:
        found.refused = (
            f"the recogniser hears {plural(len(heard.tokens), 'letter')} in {minutes:.1f} minutes; is it speech?"
        )
        return found
    placement = place(heard, text.ids, frames, emissions.read, boundary, text.prior(heard, frame_s))
    share = share_found(heard, placement)
    if share < FOUND or not len(placement.words_K):
        found.refused = (
            f"{pair.text.name} does not fit it: {share:.0%} of the {len(heard.tokens):,} letters that the recogniser hears are "
            "in it; is it the text of another recording, or in another language?"
        )
        return found
    if order := _order(placement, heard, frame_s):
        blocks, seconds = order
        if seconds < SHORT_BLOCKS_S:
            found.refused = (
                f"{pair.text.name} is in another order: it fits in {blocks} parts of {seconds:.0f} s on average, whose order "
                "differs; give the text in the order in which it is read"
            )
            return found
        found.notes.append(
            f"{plural(blocks, 'part')} of {pair.text.name} are read in another order; each is aligned where it is"
        )
    if text.letters > LONG_TEXT * len(heard.tokens):
        words = [text.words[text.spoken[k]].text for k in (placement.words_K.min(), placement.words_K.max())]
        found.notes.append(
            f"{pair.text.name} is {text.letters / len(heard.tokens):.0f} times as long as what is spoken: aligned from "
            f"{words[0]!r} to {words[1]!r}"
        )
    found.pieces = _pieces(pair, text, placement, heard, levels_T, emissions, model)
    return found


def _order(placement: Placement, heard: Heard, frame_s: Seconds) -> tuple[int, Seconds] | None:
    """The parts of a text that is read in another order, and their mean length; None if the order is the text's."""
    chains = placement.chains
    descents = sum(b.written[0] < a.written[0] for a, b in pairwise(chains))
    if not descents:
        return None
    spoken_s = sum((heard.ends[c.heard[1] - 1] - heard.starts[c.heard[0]]) * frame_s for c in chains)
    return descents + 1, float(spoken_s) / (descents + 1)


def _pieces(
    pair: Pair,
    text: Text,
    placement: Placement,
    heard: Heard,
    levels_T: np.ndarray,
    emissions: Emissions,
    model: AcousticModel,
) -> list[Piece]:
    frame_s, boundary, frames = model.frame_s, model.tokens.boundary, len(levels_T)
    words = [text.words[text.spoken[k]] for k in placement.words_K]
    ids = [text.ids[k] for k in placement.words_K]
    # A sentence may end with a word that has no letters for the recogniser.
    ends_K = np.array([_ends_sentence(text, k) for k in placement.words_K], bool)
    cuts = cut(placement, heard, ends_K, levels_T, frame_s)
    edges = territory(placement, frames)
    said = [heard.tokens[slice(*np.searchsorted(heard.starts, edge))] for edge in edges]
    wrong_K = np.where(placement.bridged_K, BRIDGED, wrong_probability(evidence(placement, ids, said, frames)))
    spaced = model.normaliser.writing.units != "clusters"
    pieces = []
    for one in cuts:
        inside = range(one.first, one.last)
        # A long number of which a part is not placed: "116 000" may be heard as one word.
        numbers = any(_skipped_number(text, placement, k, step) for k, step in ((one.first, -1), (one.last - 1, 1)))
        neighbours = (_neighbour(text, placement, one.first, -1), _neighbour(text, placement, one.last - 1, 1))
        log_probs_TV = emissions.read(one.start, one.end)
        first, last = (text.spoken[placement.words_K[k]] for k in (one.first, one.last - 1))
        written = join_text(text.words[first : last + 1], spaced)
        pieces.append(
            _piece(
                pair, one.start * frame_s, one.end * frame_s, written,
                _transcript(log_probs_TV, model), words[one.first],
                score=float(wrong_K[one.first : one.last].mean()),
                ends=float(max(wrong_K[one.first], wrong_K[one.last - 1])) if one.clear and not numbers else 1.0,
                margin=margin(log_probs_TV, [ids[k] for k in inside], *neighbours, boundary),
            )
        )  # fmt: skip
    pieces += _untold(pair, cuts, levels_T, emissions, model)
    return sorted(pieces, key=lambda piece: piece.start)


def _ends_sentence(text: Text, k: int) -> bool:
    own = text.spoken[k]
    after = text.spoken[k + 1] if k + 1 < len(text.spoken) else len(text.words)
    return any(word.ends for word in text.words[own:after])


def _skipped_number(text: Text, placement: Placement, k: int, step: int) -> bool:
    """Whether placed word ``k`` has digits, and so has the word before (-1) or after (1) it in the text, which is not placed."""
    own = int(placement.words_K[k])
    if not 0 <= own + step < len(text.spoken):
        return False
    if 0 <= k + step < len(placement.words_K) and int(placement.words_K[k + step]) == own + step:
        return False
    return all(any(letter.isdigit() for letter in text.words[text.spoken[n]].text) for n in (own, own + step))


def _neighbour(text: Text, placement: Placement, k: int, step: int) -> list[int]:
    """The tokens of the word before (-1) or after (1) placed word ``k`` in the text; none at the text's ends."""
    other = int(placement.words_K[k]) + step
    return text.ids[other] if 0 <= other < len(text.ids) else []


def _transcript(log_probs_TV: np.ndarray, model: AcousticModel) -> str:
    spans = collapse(*peaks(log_probs_TV))
    return " ".join(model.tokens.decode(span.token for span in spans).split())


def _piece(
    pair: Pair, start_s: Seconds, end_s: Seconds, text: str, heard: str, word: Word | None,
    score: float = 1.0, ends: float = 1.0, margin: float = 0.0,
) -> Piece:  # fmt: skip
    start_s, end_s = round(start_s, 3), round(end_s, 3)
    return decide(
        Piece(
            f"{pair.name}#{start_s:.2f}-{end_s:.2f}", "refused", "", round(score, 4), round(ends, 4),
            round(max(-999.0, min(margin, 999.0)), 2), start_s, end_s, text, heard, pair.name,
            word.chapter if word else "", pair.speaker or (word.speaker if word else ""), pair.split,
            str(pair.audio.resolve()),
        )
    )  # fmt: skip


def _untold(
    pair: Pair, cuts: Sequence[Cut], levels_T: np.ndarray, emissions: Emissions, model: AcousticModel
) -> list[Piece]:
    """Audio between the pieces that is not silent, as pieces without text of at most ``LONGEST_S``."""
    frame_s = model.frame_s
    edges = [0, *(frame for one in cuts for frame in (one.start, one.end)), len(levels_T)]
    pieces = []
    step = int(LONGEST_S / frame_s)
    for gap_start, gap_end in zip(edges[::2], edges[1::2], strict=True):
        for start in range(gap_start, gap_end, step):
            end = min(start + step, gap_end)
            if (end - start) * frame_s < SHORTEST_S:
                continue
            transcript = _transcript(emissions.read(start, end), model)
            if len(transcript) >= SILENT_RATE * (end - start) * frame_s / 60:
                pieces.append(_piece(pair, start * frame_s, end * frame_s, "", transcript, None))
    return pieces


# --- All recordings --------------------------------------------------------------------------------------


def align_all(
    pairs: Sequence[Pair], options: TextOptions, model: AcousticModel, work: Path, jobs: int,
    progress: Callable[[Seconds, Seconds], None] = lambda done_s, all_s: None,
) -> Iterator[tuple[Pair, Aligned]]:  # fmt: skip
    """Align ``pairs``, ``jobs`` parts of recordings at a time; results are kept below ``work`` and are not made again."""
    texts: dict[Path, Text] = {}
    for pair in pairs:
        if pair.text not in texts:
            texts[pair.text] = Text(pair.text, options, model)
    lengths_s = [_duration_s(pair.audio) for pair in pairs]
    unreadable: dict[int, str] = {}
    kept = [work / f"{number:05d}.json" for number in range(len(pairs))]
    stored = [Emissions(work / f"{number:05d}", model.frame_s) for number in range(len(pairs))]

    def parts() -> Iterator[tuple[int, int, np.ndarray, Samples, Samples]]:
        for number, pair in enumerate(pairs):
            if not kept[number].is_file():
                stored[number].folder.mkdir(parents=True, exist_ok=True)
                try:
                    for part in stored[number].waves(pair.audio):
                        yield number, *part
                except AudioError as error:
                    unreadable[number] = str(error).removeprefix(f"{pair.audio}: ")
            yield number, -1, np.zeros(0, np.float32), 0, 0  # the recording is complete

    def run(item: tuple[int, int, np.ndarray, Samples, Samples]) -> tuple[int, int, Samples]:
        number, part, wave, before, own = item
        if part >= 0:
            stored[number].store(part, model.log_probs(wave), wave, before, own)
        return number, part, own

    done_s = 0.0
    for number, part, own in in_order(run, parts(), jobs):
        pair = pairs[number]
        if part >= 0:
            done_s += to_seconds(own)
            progress(done_s, sum(lengths_s))
            continue
        if not kept[number].is_file():
            if number in unreadable:
                aligned = Aligned(refused=unreadable[number])
            elif not stored[number].path(0).is_file():
                aligned = Aligned(refused="holds no sound (0 samples)")
            else:
                aligned = align_recording(pair, texts[pair.text], stored[number], model)
                if aligned.refused and (better := _best_guess(pair, pairs, texts, stored[number], model)):
                    aligned.refused = better
            write_json(kept[number], asdict(aligned))
            for file in stored[number].folder.iterdir():
                file.unlink()
            stored[number].folder.rmdir()
        yield pair, _read(kept[number])


def _duration_s(audio: Path) -> Seconds:
    """The duration of a recording; 0 if it cannot be read, which is reported when it is aligned."""
    try:
        return probe_audio(audio).duration_s
    except AudioError:
        return 0.0


def _best_guess(
    pair: Pair, pairs: Sequence[Pair], texts: Mapping[Path, Text], emissions: Emissions, model: AcousticModel
) -> str:
    """The reason why a text is refused, if that of another recording fits; else ""."""
    heard = emissions.heard(model.tokens.boundary)
    if not len(heard.tokens):
        return ""
    fits = {}
    for other in {other.text for other in pairs} - {pair.text}:
        letters = np.concatenate([np.asarray(ids, np.int64) for ids in texts[other].ids])
        chains = find_chains(heard.tokens, letters)
        fits[other] = sum(chain.heard[1] - chain.heard[0] for chain in chains) / len(heard.tokens)
    best = max(fits, key=lambda other: fits[other], default=None)
    if best is None or fits[best] < FOUND:
        return ""
    return f"{pair.text.name} does not fit it, {best.name} does ({fits[best]:.0%} of what is recognised): give it that text"


def _read(path: Path) -> Aligned:
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Aligned([Piece(**piece) for piece in stored.pop("pieces")], **stored)
