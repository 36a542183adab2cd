"""A student: a folder with an ONNX recogniser, its tokens and normaliser, run by ONNX Runtime without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lalia.audio.channels import EACH
from lalia.audio.reading import Note, NoteHandler, Source, ignore_note, probe_rate_channels, read_blocks
from lalia.cards import cores, read_card
from lalia.decoding.greedy import PAUSE_S, StreamingGreedy, Word, collapse, peaks, transcript, words
from lalia.errors import AudioError, UserError
from lalia.model_folder import MODEL, NORMALISER, TOKENS, check_files, find_student, languages_of
from lalia.runtime.streaming import SILENCE_PEAK, STATE, Chunks, Stream, StreamingState
from lalia.runtime.transcript import PHRASE_S, Track, Transcript, duplicate_channels, merge_channels, turns
from lalia.runtime.windows import Window, WindowOutput, cut_windows, in_order, silence, stitch
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.text.unicode import join_words
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

if TYPE_CHECKING:
    import onnxruntime

    from lalia.decoding.decoder import Decoder

WINDOW_S: Seconds = 30.0
OVERLAP_S: Seconds = 4.0
SHORTEST: Samples = to_samples(0.1)
"""Shorter waves are filled up with silence, because a model's first filters need a minimum length."""


class Student:
    """A recogniser that needs no torch. ``Student.load(folder).transcribe("talk.mp3")``

    The folder holds ``model.onnx`` (input ``wave`` (B, S) float32, the raw 16 kHz wave; output ``log_probs`` (B, T, V)
    float32), ``tokens.txt``, ``normaliser.json`` and ``card.json`` (``files``: their SHA-256, ``frame_s``: seconds per
    frame, ``window_s``: seconds per window, default 30, ``streaming`` for a student that works chunk by chunk). A streaming
    student processes files in the same chunks as a microphone, with bit-equal results.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, tokens: Tokens, normaliser: Normaliser, card: dict[str, Any]
    ) -> None:
        self.session = session
        self.tokens = tokens
        self.normaliser = normaliser
        self.card = card
        self.frame_s: Seconds = float(card["frame_s"])
        self.chunks = Chunks.of(card)
        # Whole frames, so that windows stand on one grid.
        frame = to_samples(self.frame_s)
        self._frame: Samples = frame
        self._window: Samples = to_samples(float(card.get("window_s", WINDOW_S))) // frame * frame
        self._overlap: Samples = min(to_samples(OVERLAP_S), self._window // 2) // frame * frame

    @property
    def languages(self) -> list[str]:
        """Those that its card says it is of, else the one that its normaliser is for; none where neither says."""
        return languages_of(self.card, self.normaliser.settings.language)

    @classmethod
    def load(cls, folder: Path | str, threads: int | None = None) -> Student:
        """The student in ``folder`` or in the run that ``folder`` is, to run on ``threads`` threads (all cores unless given).

        A ``UserError`` says which file is missing, damaged or of another student.
        """
        folder = find_student(Path(folder))
        card = read_card(folder, "student")
        check_files(folder, card)
        frame_s = card.get("frame_s")
        if not isinstance(frame_s, (int, float)) or not 0.001 <= frame_s <= 1:
            raise UserError(f"{folder}: its card says frame_s {frame_s!r}; expected seconds per frame; export it again")
        if card.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise UserError(
                f"{folder}: expects {card['sample_rate']} samples per second; this runtime has {SAMPLE_RATE}"
            )
        tokens = Tokens.load(folder / TOKENS)
        normaliser = Normaliser.from_json(folder / NORMALISER)
        session = _session(folder / MODEL, threads or cores())
        _check_graph(session, tokens, folder)
        _check_states(session, card, folder)
        return cls(session, tokens, normaliser, card)

    def transcribe(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        *,
        voice: bool = False,
        jobs: int = 1,
        decoder: Decoder | None = None,
        tell: NoteHandler = ignore_note,
        channels: int | None = None,
    ) -> Transcript:
        """What is said in an audio file (its path or its bytes), or in a wave (float32, mono, 16 kHz).

        Of any length, in memory that does not grow with a file. Silence gives the empty text; with ``voice`` everything does
        that is not speech. ``jobs`` windows of a long file are heard at a time. ``AudioError`` where the file cannot be read;
        ``name`` is what errors call bytes, ``tell`` receives notes about the file. Channels are mixed unless ``channels`` is the
        number of one, from 0, or ``lalia.audio.channels.EACH``: then words have a channel, and turns stand in their order.
        Best path, unless a ``decoder`` made for this student (``lalia.decoding.decoder``)
        searches with what it knows of the language; a decoder serves one call at a time.
        """
        steps = self.steps(source, name, voice=voice, jobs=jobs, decoder=decoder, tell=tell, channels=channels)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def steps(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        *,
        voice: bool = False,
        jobs: int = 1,
        decoder: Decoder | None = None,
        tell: NoteHandler = ignore_note,
        channels: int | None = None,
    ) -> Generator[Seconds, None, Transcript]:
        """``transcribe`` window by window: after each the seconds read so far, in the end the transcript as its value.

        Who shares one processor among several files goes on with each in turn.
        """
        if channels != EACH or isinstance(source, np.ndarray):
            blocks = _audio_blocks(source, name, tell, channels)
            return (yield from self._steps(blocks, voice, jobs, decoder))
        _, count = probe_rate_channels(source, name)
        if count == 1:
            return (yield from self._steps(_audio_blocks(source, name, tell, None), voice, jobs, decoder))
        tracks, heard = [Track() for _ in range(count)], []
        for channel, track in enumerate(tracks):
            blocks = track.record(_audio_blocks(source, name, tell if channel == 0 else ignore_note, channel))
            # Whoever listens for a while goes on with another word.
            heard.append((yield from self._steps(blocks, voice, jobs, decoder, PHRASE_S)))
        if same := duplicate_channels(tracks):
            which = ", ".join(str(channel + 1) for channel in same)
            tell(
                Note("one sound", f"the sound of channel {which} is that of an earlier one, which is written down once")
            )
        said = merge_channels([found.words for found in heard], tracks)
        text = "\n".join(join_words(word.text for word in turn) for turn in turns(said))
        return Transcript(text, said, max(found.duration_s for found in heard))

    def _steps(
        self,
        blocks: Iterable[np.ndarray],
        voice: bool,
        jobs: int,
        decoder: Decoder | None,
        pause_s: Seconds = math.inf,
    ) -> Generator[Seconds, None, Transcript]:
        heard: list[tuple[np.ndarray, np.ndarray]] = []
        greedy = None if self.chunks is None else self._streaming_greedy()
        said: list[Word] = []
        counter = _Counter(blocks)
        if decoder is not None:
            decoder.begin()
        for log_probs_TV in self._log_prob_blocks(counter, voice, jobs):
            if decoder is not None:
                decoder.feed(log_probs_TV)
            elif greedy is not None:
                said += greedy.feed(log_probs_TV)
            else:
                heard.append(peaks(log_probs_TV))
            yield to_seconds(counter.samples)
        if decoder is not None:
            found = decoder.finish()
            return Transcript(transcript(found.spans, self.tokens), found.words, round(to_seconds(counter.samples), 3))
        if greedy is not None:
            said += greedy.finish()
            return Transcript(join_words(word.text for word in said), said, round(to_seconds(counter.samples), 3))
        if not heard:
            return Transcript("")
        spans = collapse(np.concatenate([h[0] for h in heard]), np.concatenate([h[1] for h in heard]))
        return Transcript(
            transcript(spans, self.tokens),
            words(spans, self.tokens, self.frame_s, pause_s),
            round(to_seconds(counter.samples), 3),
        )

    def stream(self, *, rate: int = SAMPLE_RATE, pause_s: Seconds = PAUSE_S, decoder: Decoder | None = None) -> Stream:
        """A stream to feed with samples at ``rate``, as they come from a microphone; words are stable ``pause_s`` behind their
        last letter at the latest. ``UserError`` where this student hears clips whole; a decoder serves one stream at a time."""
        return Stream(self._streaming_state(), self._streaming_greedy(pause_s), decoder, rate)

    def _streaming_state(self) -> StreamingState:
        if self.chunks is None:
            raise UserError(
                "this student hears clips whole and cannot stream; make one that can: lalia distill fit --config "
                "configs/distill/streaming-nano.yaml, then lalia distill export"
            )
        return StreamingState(self.session, self.chunks, len(self.tokens))

    def _streaming_greedy(self, pause_s: Seconds = PAUSE_S) -> StreamingGreedy:
        return StreamingGreedy(self.tokens, self.frame_s, pause_s)

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) float32 of a wave of any length (float32, (samples,), 16 kHz), windows stitched."""
        stretches = list(self._log_prob_blocks(_audio_blocks(wave, None)))
        return np.concatenate(stretches) if stretches else np.zeros((0, len(self.tokens)), np.float32)

    def _log_prob_blocks(
        self, blocks: Iterable[np.ndarray], voice: bool = False, jobs: int = 1
    ) -> Iterator[np.ndarray]:
        """The log-probabilities of consecutive stretches, (T', V) each, that follow one another without gap."""
        if self.chunks is not None:
            return self._streaming_blocks(blocks, voice)
        return stitch(in_order(self._run_window, self._windows(blocks, voice), jobs))

    def _streaming_blocks(self, blocks: Iterable[np.ndarray], voice: bool) -> Iterator[np.ndarray]:
        state = self._streaming_state()
        if voice:
            from lalia.audio.vad import mute_non_speech

            blocks = map(itemgetter(1), mute_non_speech(blocks, self._frame))
        for block in blocks:
            for start in range(0, len(block), self._window):
                yield state.feed(block[start : start + self._window])
        yield state.finish()

    def _windows(self, blocks: Iterable[np.ndarray], voice: bool) -> Iterator[Window]:
        if not voice:
            yield from cut_windows(blocks, self._window, self._overlap)
            return
        from lalia.audio.vad import mute_non_speech

        for _, stretch in groupby(mute_non_speech(blocks, self._frame), itemgetter(0)):
            yield from cut_windows(map(itemgetter(1), stretch), self._window, self._overlap)

    def _run_window(self, window: Window) -> WindowOutput:
        frames = -(-len(window.wave) // self._frame)
        return WindowOutput(self._run(window.wave), frames, window.shared // self._frame)

    def _run(self, wave: np.ndarray) -> np.ndarray:
        if float(np.abs(wave).max()) < SILENCE_PEAK:
            return silence(-(-len(wave) // self._frame), len(self.tokens))
        if len(wave) < SHORTEST:
            wave = np.pad(wave, (0, SHORTEST - len(wave)))
        log_probs_TV = self.session.run(["log_probs"], {"wave": wave[None].astype(np.float32, copy=False)})[0][0]
        if log_probs_TV.shape[1] != len(self.tokens):
            raise UserError(
                f"student: the model speaks {log_probs_TV.shape[1]} tokens, {TOKENS} lists {len(self.tokens)};"
                " the two are of different students, export it again"
            )
        return log_probs_TV


class _Counter:
    """Passes blocks on and counts their samples."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._audio_blocks = blocks
        self.samples: Samples = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._audio_blocks:
            self.samples += len(block)
            yield block


def _audio_blocks(
    source: Source | np.ndarray, name: str | None, tell: NoteHandler = ignore_note, channel: int | None = None
) -> Iterable[np.ndarray]:
    if not isinstance(source, np.ndarray):
        return read_blocks(source, name, channel=channel, tell=tell)
    label = name or "wave"
    if source.ndim != 1 or not np.issubdtype(source.dtype, np.floating):
        found = f"{source.dtype} of shape {source.shape}"
        raise AudioError(f"{label}: is {found}; expected floats from -1 to 1 of shape (samples,), mono at 16 kHz")
    if not np.isfinite(source).all():
        raise AudioError(f"{label}: holds samples that are no numbers (NaN or infinite)")
    return [source] if source.size else []


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: ONNX Runtime cannot load it ({reason}); copy or export the student again") from error


def _check_graph(session: onnxruntime.InferenceSession, tokens: Tokens, folder: Path) -> None:
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = {o.name: o for o in session.get_outputs()}
    if list(inputs) != ["wave"] or "log_probs" not in outputs or len(inputs["wave"].shape) != 2:
        found = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise UserError(f"{folder / MODEL}: maps {found}; expected wave (B, S) -> log_probs (B, T, V); export it again")
    width = outputs["log_probs"].shape[-1]
    if isinstance(width, int) and width != len(tokens):
        raise UserError(
            f"{folder}: the model speaks {width} tokens, {TOKENS} lists {len(tokens)};"
            " the two are of different students, export it again"
        )


def _check_states(session: onnxruntime.InferenceSession, card: dict[str, Any], folder: Path) -> None:
    keeps = any(i.name.startswith(STATE) for i in session.get_overridable_initializers())
    if keeps != (card.get("streaming") is not None):
        found = "keeps states" if keeps else "keeps no states"
        raise UserError(f"{folder / MODEL}: {found} from chunk to chunk, its card says otherwise; export it again")
