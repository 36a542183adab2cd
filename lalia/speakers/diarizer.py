"""``Diarizer``: load a diarization folder and say who speaks when in a recording of any length, without torch.

The scheme of pyannote.audio 3.1 (Bredin 2023): windows of 10 s, in each the frames of up to three local speakers, an embedding
of each one's speech without overlap, clustering of all embeddings, and the local frames added up by cluster. Overlap is kept.
Embeddings are clustered in blocks of ten minutes, and then the clusters of the blocks, so that memory and time stay small.

Legend: S samples, T frames, F features, B windows, K local speakers, V sets of them, N embeddings, D their width, C speakers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.audio.reading import NoteHandler, Source, ignore_note, read_blocks
from lalia.cards import read_card
from lalia.errors import UserError
from lalia.model_folder import check_files
from lalia.onnx_session import open_session
from lalia.speakers.clustering import cut_at_count, cut_at_distance, link_centroids
from lalia.speakers.filterbank import FRAME, HOP, kaldi_filterbanks
from lalia.speakers.rttm import SpeakerTurn
from lalia.threads import in_order, last_value
from lalia.units import SAMPLE_RATE, Frames, Samples, Seconds, plural, to_samples, to_seconds

if TYPE_CHECKING:
    import onnxruntime

SEGMENTATION, EMBEDDING = "segmentation.onnx", "embedding.onnx"
FILES = (SEGMENTATION, EMBEDDING)

LOCAL, AT_ONCE = 3, 2
"""Local speakers of a window, and how many of them talk at once."""
FRAME_HOP: Samples = 270
FRAME_WIDTH: Samples = 991
"""The segmentation's frames: samples from one to the next, and that one is computed from."""
WINDOW: Samples = to_samples(10.0)
STEP: Samples = 296 * FRAME_HOP  # 5 s in whole frames, so that the frames of all windows are on one grid
_SHORTEST: Samples = to_samples(1.0)
_BATCH = 4
_BLOCK = 120
"""Windows whose embeddings are clustered together: ten minutes."""
_RECONSTRUCTED: Frames = 36_000
"""Frames that are added up at a time: ten minutes."""

_LEAST_CLEAN_S: Seconds = 0.4
"""With less speech without overlap, a local speaker's embedding is of all its speech."""
_LEAST_EMBEDDED_S: Seconds = 0.1
_MOST_EMBEDDED_S: Seconds = 5.0
"""Of more speech, the middle is embedded: windows overlap by half, so that all speech of a monologue is embedded once."""
_LEAST_CLUSTERED_S: Seconds = 1.0
"""Embeddings of less speech form no cluster; they are given to one."""
_PAUSE_S: Seconds = 0.5
"""A shorter pause of one speaker does not end a turn."""
_LEAST_SPEAKER_S: Seconds = 15.0
_LEAST_SPEAKER_SHARE = 0.06
"""A speaker has that many seconds in windows, which overlap by half, or that share of a short recording's; smaller clusters are
coughs and noises."""
_ONE_VOICE = 0.7
"""Clusters closer than this share of the threshold stay together, whatever number of speakers is requested."""


@dataclass(frozen=True)
class Diarization:
    """The turns of all speakers in order of time, named A, B, … in order of their first turn, and the recording's length."""

    turns: list[SpeakerTurn]
    duration_s: Seconds

    @property
    def speakers(self) -> list[str]:
        return list(dict.fromkeys(turn.speaker for turn in self.turns))


def remarks(found: Diarization, requested: int | None) -> list[str]:
    """What a user should know: no speech, one speaker, or fewer speakers than requested."""
    count = len(found.speakers)
    if not count:
        return ["no speech"]
    if requested is not None and count < requested:
        return [f"{requested} speakers were requested, {plural(count, 'speaker')} can be told apart"]
    return ["one speaker"] if count == 1 else []


@dataclass(frozen=True)
class _Window:
    """A window's place in the recording, which local speakers talk in its frames, and the embeddings of those who do."""

    first: Frames
    active_TK: np.ndarray
    local: list[int]
    embeddings_ND: np.ndarray
    """NaN for too little speech"""
    seconds_N: np.ndarray
    """of speech that each embedding is of"""


class Diarizer:
    """Says who speaks when. ``Diarizer.load(folder).diarize("talk.mp3").turns``

    The folder holds ``segmentation.onnx`` (``wave`` (B, S) -> ``log_probs`` (B, T, V)), ``embedding.onnx`` (``features``
    (1, T, F): Kaldi filterbanks, mean removed -> ``embedding`` (1, D)) and ``card.json`` (``files``: their SHA-256,
    ``threshold``: the distance of embeddings of length 1 from which two clusters are two speakers).
    """

    def __init__(
        self, segmentation: onnxruntime.InferenceSession, embedding: onnxruntime.InferenceSession, card: dict[str, Any]
    ) -> None:
        self.card = card
        self.threshold = float(card["threshold"])
        self._segmentation = segmentation
        self._embedding = embedding

    @classmethod
    def load(cls, folder: Path | str) -> Diarizer:
        """The diarizer in ``folder``; ``UserError`` if a file is missing, damaged or of another kind."""
        folder = Path(folder)
        card = read_card(folder, "diarizer")
        check_files(folder, card, FILES)
        sessions = []
        for name in FILES:
            try:
                sessions.append(open_session(folder / name))
            except ValueError as error:
                raise UserError(f"{folder / name}: {error}; convert the diarizer again") from error
        return cls(sessions[0], sessions[1], card)

    def diarize(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        *,
        speakers: int | None = None,
        channel: int | None = None,
        jobs: int = 1,
        on_note: NoteHandler = ignore_note,
    ) -> Diarization:
        """Who speaks when in an audio file (its path or bytes) or a wave (float32, mono, 16 kHz).

        ``speakers`` is their number where it is known; fewer are returned if fewer can be told apart. ``channel`` counts from 0;
        None mixes all. ``jobs`` windows are computed at a time, one thread each. ``AudioError`` if the file cannot be read.
        """
        return last_value(self.steps(source, name, speakers=speakers, channel=channel, jobs=jobs, on_note=on_note))

    def steps(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        *,
        speakers: int | None = None,
        channel: int | None = None,
        jobs: int = 1,
        on_note: NoteHandler = ignore_note,
    ) -> Generator[Seconds, None, Diarization]:
        """``diarize`` as a generator that yields the seconds read so far, so that several files can share a thread."""
        blocks = (
            [source] if isinstance(source, np.ndarray) else read_blocks(source, name, channel=channel, tell=on_note)
        )
        windows = _Windows(blocks)
        found: list[_Window] = []
        for some in in_order(self._compute, windows.batches(), jobs):
            found += some
            yield to_seconds(windows.samples)
        labels, count = self._cluster(found, speakers)
        turns = _turns(found, labels, count, windows.samples)
        return Diarization(turns, round(to_seconds(windows.samples), 3))

    # --- A window --------------------------------------------------------------------------------------------

    def _compute(self, windows: Sequence[tuple[Samples, np.ndarray]]) -> list[_Window]:
        """The frames and embeddings of windows of one length, each given as its first sample and its wave."""
        wave_BS = np.stack([np.pad(wave_S, (0, max(0, _SHORTEST - len(wave_S)))) for _, wave_S in windows])
        log_probs_BTV = self._segmentation.run(["log_probs"], {"wave": wave_BS})[0]
        found = []
        for (first, wave_S), log_probs_TV in zip(windows, log_probs_BTV, strict=True):
            active_TK = _SETS_VK[log_probs_TV.argmax(axis=1)]
            active_TK[max(0, (len(wave_S) - FRAME_WIDTH) // FRAME_HOP + 1) :] = False
            local = np.flatnonzero(active_TK.any(axis=0)).tolist()
            features_TF = kaldi_filterbanks(wave_S) if local else np.zeros((0, 0))
            made = [self._embed(features_TF, _own_frames(active_TK, k)) for k in local]
            vectors = [vector for vector, _ in made if vector is not None]
            nothing = np.full_like(vectors[0], np.nan) if vectors else np.full(1, np.nan, np.float32)
            found.append(
                _Window(
                    first // FRAME_HOP,
                    active_TK,
                    local,
                    np.array([nothing if vector is None else vector for vector, _ in made]),
                    np.array([seconds for _, seconds in made]),
                )
            )
        return found

    def _embed(self, features_TF: np.ndarray, own_T: np.ndarray) -> tuple[np.ndarray | None, Seconds]:
        """The embedding (D,), of length 1, of the feature frames that lie in the segmentation's frames ``own_T``."""
        centres = np.arange(len(features_TF)) * HOP + FRAME // 2
        places = np.clip((centres - FRAME_WIDTH // 2 + FRAME_HOP // 2) // FRAME_HOP, 0, len(own_T) - 1)
        own_TF = features_TF[own_T[places]]
        seconds = len(own_TF) * HOP / SAMPLE_RATE
        spare = max(0, len(own_TF) - to_samples(_MOST_EMBEDDED_S) // HOP)
        own_TF = own_TF[spare // 2 : len(own_TF) - (spare - spare // 2)]
        if seconds < _LEAST_EMBEDDED_S:
            return None, seconds
        centred_TF = own_TF - own_TF.mean(axis=0)
        vector_D = self._embedding.run(["embedding"], {"features": centred_TF[None]})[0][0]
        return vector_D / max(float(np.linalg.norm(vector_D)), 1e-9), seconds

    # --- Clusters --------------------------------------------------------------------------------------------

    def _cluster(self, windows: Sequence[_Window], speakers: int | None) -> tuple[list[list[int]], int]:
        """The speaker of each local speaker of each window (-1: none), and their number."""
        sizes = [len(window.local) for window in windows]
        embedded = [window.embeddings_ND for window in windows if np.isfinite(window.embeddings_ND).any()]
        if not embedded:  # only snippets of speech: one speaker
            return [[0] * size for size in sizes], int(any(sizes))
        width = embedded[0].shape[1]
        centroids_CD = self._centroids(windows, width, speakers)
        labels = []
        for window in windows:
            own = [-1] * len(window.local)
            for place, vector_D in enumerate(window.embeddings_ND):
                if np.isfinite(vector_D).all():
                    own[place] = int((centroids_CD @ vector_D).argmax())
            labels.append(own)
        return labels, len(centroids_CD)

    def _centroids(self, windows: Sequence[_Window], width: int, speakers: int | None) -> np.ndarray:
        """The centroids (C, D) of all speakers, of length 1."""
        all_ND = np.concatenate([w.embeddings_ND for w in windows if w.embeddings_ND.shape[-1:] == (width,)])
        all_N = np.concatenate([w.seconds_N for w in windows if w.embeddings_ND.shape[-1:] == (width,)])
        usable_N = np.isfinite(all_ND).all(axis=1)
        if (usable_N & (all_N >= _LEAST_CLUSTERED_S)).any():
            usable_N &= all_N >= _LEAST_CLUSTERED_S
        blocks_N = np.concatenate(
            [
                np.full(len(w.local), number // _BLOCK)
                for number, w in enumerate(windows)
                if w.embeddings_ND.shape[-1:] == (width,)
            ]
        )[usable_N]
        vectors_ND, seconds_N = all_ND[usable_N], all_N[usable_N]
        least_s = min(_LEAST_SPEAKER_S, _LEAST_SPEAKER_SHARE * float(seconds_N.sum()))
        if blocks_N[-1] == blocks_N[0]:
            counts_N = np.ones(len(vectors_ND))
        else:
            parts = [
                self._merge_block(vectors_ND[blocks_N == b], seconds_N[blocks_N == b]) for b in np.unique(blocks_N)
            ]
            vectors_ND, seconds_N, counts_N = (np.concatenate(part) for part in zip(*parts, strict=True))
        merges = link_centroids(vectors_ND, counts_N)
        labels_N = cut_at_distance(merges, len(vectors_ND), self.threshold)
        vectors_CD, totals_C, _ = _merged(vectors_ND, seconds_N, counts_N, labels_N)
        large = max(1, int((totals_C >= least_s).sum()))
        if speakers is not None and large < speakers:
            labels_N = cut_at_count(merges, seconds_N, speakers, least_s, _ONE_VOICE * self.threshold)
            vectors_CD, totals_C, _ = _merged(vectors_ND, seconds_N, counts_N, labels_N)
            large = max(1, int((totals_C >= least_s).sum()))
        # The largest: the dendrogram cut at the number of speakers would spend clusters on coughs.
        kept_CD = vectors_CD[np.argsort(-totals_C)[: min(large, speakers or large)]]
        return kept_CD / np.maximum(np.linalg.norm(kept_CD, axis=1, keepdims=True), 1e-9)

    def _merge_block(self, vectors_ND: np.ndarray, seconds_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels_N = cut_at_distance(link_centroids(vectors_ND), len(vectors_ND), self.threshold)
        return _merged(vectors_ND, seconds_N, np.ones(len(vectors_ND)), labels_N)


def _merged(
    vectors_ND: np.ndarray, seconds_N: np.ndarray, counts_N: np.ndarray, labels_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean vector, the seconds and the count of each cluster."""
    _, places_N = np.unique(labels_N, return_inverse=True)
    member_CN = np.eye(places_N.max() + 1)[places_N].T
    counts_C = member_CN @ counts_N
    return (member_CN * counts_N) @ vectors_ND / counts_C[:, None], member_CN @ seconds_N, counts_C


# --- From the wave to windows, and from windows to turns -------------------------------------------------

_SETS_VK = np.array(
    [[k in chosen for k in range(LOCAL)] for size in range(AT_ONCE + 1) for chosen in combinations(range(LOCAL), size)]
)
"""Which local speakers each class of the segmentation means."""


def _own_frames(active_TK: np.ndarray, speaker: int) -> np.ndarray:
    """The frames (T,) to embed a local speaker by: those without overlap, or with it if they are too few."""
    own_T = active_TK[:, speaker]
    clean_T = own_T & (active_TK.sum(axis=1) == 1)
    return clean_T if clean_T.sum() * FRAME_HOP >= to_samples(_LEAST_CLEAN_S) else own_T


class _Windows:
    """Cuts blocks into windows of 10 s every 5 s; the last one ends with the recording."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = blocks
        self.samples: Samples = 0

    def batches(self) -> Iterator[list[tuple[Samples, np.ndarray]]]:
        """Windows in lists of one length; each is (its first sample, its wave (S,) float32)."""
        windows = self._cut()
        while some := list(islice(windows, _BATCH)):
            if len(some) > 1 and len(some[-1][1]) < len(some[0][1]):
                yield some[:-1]
                some = some[-1:]
            yield some

    def _cut(self) -> Iterator[tuple[Samples, np.ndarray]]:
        held_S, first, start = np.zeros(0, np.float32), 0, 0  # held from `first` on; the next window begins at `start`
        for block_S in self._blocks:
            self.samples += len(block_S)
            held_S = np.concatenate([held_S, block_S.astype(np.float32, copy=False)])
            while first + len(held_S) - start >= WINDOW:
                yield start, held_S[start - first : start - first + WINDOW]
                start += STEP
            # The next window is kept, and one that would end with the recording.
            gone = max(0, min(start - first, len(held_S) - WINDOW - FRAME_HOP))
            held_S, first = held_S[gone:], first + gone
        if self.samples > (start - STEP + WINDOW if start else 0):
            last = max(0, -(-(self.samples - WINDOW) // FRAME_HOP) * FRAME_HOP)
            yield last, held_S[last - first :]


def _turns(
    windows: Sequence[_Window], labels: Sequence[Sequence[int]], count: int, samples: Samples
) -> list[SpeakerTurn]:
    """The turns: in each frame as many speakers as the windows have there on average, those that most windows have.

    Windows count more in their middle.
    """
    frames = max((window.first + len(window.active_TK) for window in windows), default=0)
    open_since: dict[int, Frames] = {}
    spans: list[tuple[Frames, Frames, int]] = []
    first_window = 0
    for start in range(0, frames, _RECONSTRUCTED):
        end = min(start + _RECONSTRUCTED, frames)
        votes_TC, talking_T, weight_T = np.zeros((end - start, count)), np.zeros(end - start), np.zeros(end - start)
        while windows[first_window].first + len(windows[first_window].active_TK) <= start:
            first_window += 1
        for window, own in zip(windows[first_window:], labels[first_window:], strict=True):
            if window.first >= end:
                break
            length = len(window.active_TK)
            here, there = max(start, window.first), min(end, window.first + length)
            inside, outside = slice(here - window.first, there - window.first), slice(here - start, there - start)
            share_T = np.hamming(length)[inside] if length > 1 else np.ones(1)
            weight_T[outside] += share_T
            talking_T[outside] += share_T * window.active_TK[inside].sum(axis=1)
            for speaker in set(own) - {-1}:
                mine = [local for local, found in zip(window.local, own, strict=True) if found == speaker]
                votes_TC[outside, speaker] += share_T * window.active_TK[inside][:, mine].any(axis=1)
        talking_T = np.floor(talking_T / np.maximum(weight_T, 1e-9) + 0.5)
        rank_TC = (-votes_TC).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        active_TC = (rank_TC < talking_T[:, None]) & (votes_TC > 0)
        for speaker in range(count):
            changes = np.flatnonzero(np.diff(active_TC[:, speaker].astype(np.int8), prepend=int(speaker in open_since)))
            for place in changes:
                if speaker in open_since:
                    spans.append((open_since.pop(speaker), start + int(place), speaker))
                else:
                    open_since[speaker] = start + int(place)
    spans += [(begun, frames, speaker) for speaker, begun in open_since.items()]
    names: dict[int, str] = {}
    turns: list[SpeakerTurn] = []
    last: dict[str, int] = {}  # the place of each speaker's last turn
    for begun, ended, speaker in sorted(spans):
        name = names.setdefault(speaker, speaker_name(len(names)))
        end_s = to_seconds(samples) if ended == frames else _edge_s(ended, samples)
        turn = SpeakerTurn(_edge_s(begun, samples) if begun else 0.0, end_s, name)
        if name in last and turn.start_s - turns[last[name]].end_s < _PAUSE_S:
            turns[last[name]] = replace(turns[last[name]], end_s=turn.end_s)
        else:
            last[name] = len(turns)
            turns.append(turn)
    return turns


def _edge_s(frame: Frames, samples: Samples) -> Seconds:
    """The time between a frame's centre and that of the one before it."""
    return to_seconds(min(samples, max(0, frame * FRAME_HOP + FRAME_WIDTH // 2 - FRAME_HOP // 2)))


def speaker_name(number: int) -> str:
    """A, B, …, Z, AA, AB, … for 0, 1, …"""
    name = chr(ord("A") + number % 26)
    return name if number < 26 else speaker_name(number // 26 - 1) + name
