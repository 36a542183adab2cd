"""``Student``: load an exported recogniser (ONNX, tokens, normaliser) and transcribe audio with it, without torch."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from lalia.audio.channels import EACH
from lalia.audio.reading import Note, NoteHandler, Source, ignore_note, probe_rate_channels, read_blocks, wave_blocks
from lalia.cards import cores, read_card
from lalia.decoding.automata import HotWordList, Phrases
from lalia.decoding.decoder import Decoder, DecodingInputs
from lalia.decoding.greedy import PAUSE_S, CtcSpans, Spans, StreamingGreedy, Word, text_of_words, transcript, words
from lalia.decoding.transducer_search import JOINT, Joiner, TransducerSpans
from lalia.errors import AudioError, UserError
from lalia.model_folder import MODEL, NORMALISER, TOKENS, TRANSDUCER, check_files, find_exported, languages_of
from lalia.onnx_session import open_session
from lalia.runtime.naming import name_speakers
from lalia.runtime.streaming import SILENCE_PEAK, STATE, Chunks, Stream, StreamingState
from lalia.runtime.transcript import (
    PHRASE_S,
    Cue,
    Track,
    Transcript,
    duplicate_channels,
    iter_cues,
    merge_channels,
    turns,
)
from lalia.runtime.windows import Window, WindowOutput, cut_windows, silence, stitch
from lalia.speakers.diarizer import Diarizer
from lalia.text.language_codes import match_languages
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.threads import in_order, last_value
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

if TYPE_CHECKING:
    import onnxruntime

    from lalia.lm.folder import LanguageModel
    from lalia.lm.lstm import LstmModel

WINDOW_S: Seconds = 30.0
OVERLAP_S: Seconds = 4.0
SHORTEST: Samples = to_samples(0.1)
"""Shorter waves are padded with silence: a model's first filters need a minimum length."""


@dataclass(frozen=True)
class TranscribeOptions:
    """How a file is transcribed."""

    channels: int | None = None
    """None mixes all channels; a number takes that one, from 0; ``lalia.audio.channels.EACH`` transcribes each by itself"""
    voice: bool | None = None
    """transcribe speech only, by voice activity detection; None: as the student was loaded"""
    jobs: int = 1
    """windows of a long file that are transcribed at a time, one thread each"""
    decoder: Decoder | None = None
    """for one call at a time, made by ``lalia.decoding.decoder.make_decoder``; None: as the student was loaded"""
    on_note: NoteHandler = ignore_note
    """receives notes about the file while it is read, such as a repaired header; ``Transcript.notes`` has them too"""
    on_words: Callable[[list[Word]], None] | None = None
    """receives words as they become final, for display: in a file of several windows or channels, up to a window early"""
    diarizer: Diarizer | None = None
    """names the speaker of each word; None: as the student was loaded"""
    speakers: int | None = None
    """their number, for the diarizer, where it is known"""

    def __post_init__(self) -> None:
        if self.channels is not None and (not isinstance(self.channels, int) or self.channels < EACH):
            raise UserError(f"channels={self.channels!r}: expected None (their mix), a number from 0, or EACH")


DEFAULTS = TranscribeOptions()


class Student:
    """A recogniser that needs no torch. ``Student.load(folder).transcribe("talk.mp3").text``

    Threads may share a student.

    The folder holds ``model.onnx`` (input ``wave`` (B, S) float32, the raw 16 kHz wave; output ``log_probs`` (B, T, V)
    float32), ``tokens.txt``, ``normaliser.json`` and ``card.json`` (``files``: their SHA-256, ``frame_s``: seconds per
    frame, ``window_s``: seconds per window, default 30, ``streaming`` for a student that works chunk by chunk). A streaming
    student processes files in the same chunks as a microphone, with bit-equal results. One with a transducer has a second
    output, ``joint`` (B, T, J), and ``transducer.npz``; ``with_transducer`` decodes with it instead of the CTC head.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, tokens: Tokens, normaliser: Normaliser, card: dict[str, Any]
    ) -> None:
        self.session = session
        self.tokens = tokens
        self.normaliser = normaliser
        self.card = card
        self.frame_s: Seconds = float(card["frame_s"])
        self.joiner: Joiner | None = None
        """of the transducer that it is decoded with; None: the CTC head"""
        self._transducer: Joiner | None = None
        self.chunks = Chunks.of(card)
        self.threads = 1
        self.decoding = DecodingInputs()
        """the language model, hot words and closed list that it is loaded with"""
        self.voice = False
        self.diarizer: Diarizer | None = None
        self._idle: list[Decoder] = []
        # Whole frames, so that the frames of all windows are on one grid.
        frame = to_samples(self.frame_s)
        self._frame: Samples = frame
        self._window: Samples = to_samples(float(card.get("window_s", WINDOW_S))) // frame * frame
        self._overlap: Samples = min(to_samples(OVERLAP_S), self._window // 2) // frame * frame

    def in_language(self, language: str, strict: bool = True) -> Student:
        """This student with the spelling, spacing and words of ``language``, a code or English name of ``normaliser.languages``.

        Both share the model. If it has no such language, a ``UserError`` names those it has; not ``strict``: the first is taken.
        """
        names = self.normaliser.languages
        [code] = match_languages([language], names)
        if strict and code not in names:
            has = ", ".join(sorted(names)) or "no language by name"
            raise UserError(f"language {language!r}: the student writes {has}; take one of these, or leave it out")
        other = copy(self)
        other.normaliser = self.normaliser.for_language(code)
        return other

    def with_transducer(self) -> Student:
        """This student decoded with its transducer; both share the model. ``UserError`` if it has none."""
        if self._transducer is None:
            raise UserError(
                "this student has a CTC head only; lalia finetune fit --head transducer makes one with a transducer beside it"
            )
        other = copy(self)
        other.joiner = self._transducer
        # What is tuned for the CTC head, such as the weight of a language model, is not taken for the transducer.
        parents = [{**parent, "id": f"{parent['id']} transducer"} for parent in self.card.get("parents", [])[:1]]
        other.card = {**self.card, "id": f"{self.card.get('id')} transducer", "parents": parents}
        return other

    def with_decoding(self, inputs: DecodingInputs) -> Student:
        """This student decoded with other ``inputs`` (``DecodingInputs()``: greedily); both share the model."""
        other = copy(self)
        other.decoding = inputs
        with other.lend_decoder():
            pass  # errors in the inputs are raised here
        return other

    def __copy__(self) -> Student:
        other = object.__new__(type(self))
        vars(other).update(vars(self), _idle=[])  # decoders are made for one normaliser
        return other

    @property
    def languages(self) -> list[str]:
        """The languages in its card, else that of its normaliser; empty if neither names one."""
        return languages_of(self.card, self.normaliser.settings.language)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        threads: int | None = None,
        language: str = "",
        *,
        lm: LanguageModel | Path | str | None = None,
        rescore: LstmModel | Path | str | None = None,
        hot_words: HotWordList | None = None,
        only: Phrases | None = None,
        transducer: bool = False,
        voice: bool = False,
        diarizer: Diarizer | Path | str | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> Student:
        """The student in ``folder``, or in the run ``folder``, on ``threads`` threads (default: all cores).

        ``language`` is the one that it writes, where it has several (default: the first). The others are the options of the
        program: a language model (a folder), an LSTM that rescores what was found with it, phrases to boost (a file, a list, or
        a mapping to boosts), a closed list of phrases (a file or a list), whether to decode with its transducer, whether to
        leave out what is not speech, and a diarizer that names speakers. ``warn`` gets a line for hot words that cannot be
        written and for a language model that is not tuned. ``UserError`` if a file is missing, damaged or belongs to another
        student, or if options do not fit.
        """
        folder = find_exported(Path(folder))
        card = read_card(folder, "student")
        check_files(folder, card)
        frame_s = card.get("frame_s")
        if not isinstance(frame_s, (int, float)) or not 0.001 <= frame_s <= 1:
            raise UserError(
                f"{folder}: frame_s in its card is {frame_s!r}; expected seconds per frame; export it again"
            )
        if card.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise UserError(
                f"{folder}: expects {card['sample_rate']} samples per second; lalia supports only {SAMPLE_RATE}"
            )
        tokens = Tokens.load(folder / TOKENS)
        normaliser = Normaliser.from_json(folder / NORMALISER)
        try:
            threads = threads or cores()
            session = open_session(folder / MODEL, threads)
        except ValueError as error:
            raise UserError(f"{folder / MODEL}: {error}; copy or export the student again") from error
        _check_graph(session, tokens, folder)
        _check_states(session, card, folder)
        student = cls(session, tokens, normaliser, card)
        if TRANSDUCER in card["files"]:
            student._transducer = Joiner.load(folder / TRANSDUCER)
            _check_joiner(session, student._transducer, tokens, folder)
        student.threads = threads
        student = student.in_language(language) if language else student
        student = student.with_transducer() if transducer else student
        inputs = DecodingInputs.load(student, lm, rescore=rescore, hot_words=hot_words, only=only, warn=warn)
        student = student.with_decoding(inputs)
        student.voice = voice
        student.diarizer = Diarizer.load(diarizer) if isinstance(diarizer, (str, Path)) else diarizer
        return student

    def make_decoder(self, hot_words: Mapping[str, float] | None = None) -> Decoder | None:
        """A new decoder by what the student was loaded with and more ``hot_words`` (normalised); None: greedy decoding.

        It serves one call or stream at a time.
        """
        return self.decoding.decoder(self, hot_words)

    @contextmanager
    def lend_decoder(self) -> Iterator[Decoder | None]:
        """A decoder by what the student was loaded with, for the block; it keeps its caches for the next one."""
        decoder: Decoder | None
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = self.make_decoder()
        try:
            yield decoder
        finally:
            if decoder is not None:
                self._idle.append(decoder)

    def transcribe(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        sample_rate: int | None = None,
    ) -> Transcript:
        """The text and words of an audio file (its path or its bytes), or of a wave, of any length.

        A wave is floats from -1 to 1 of shape (samples,), at ``sample_rate`` (default: 16,000). Memory does not grow with the
        length of a file. Silence gives the empty text. If channels are transcribed each by itself, words have their channel and
        turns are in order of time. ``AudioError`` if the file cannot be read, with ``name`` for bytes and waves.
        """
        return last_value(self.steps(source, name, options, sample_rate=sample_rate))

    async def atranscribe(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        sample_rate: int | None = None,
    ) -> Transcript:
        """``transcribe`` on a thread of asyncio's pool, while the event loop goes on; a task that is cancelled ends it after the
        current window."""
        stopped = threading.Event()

        def work() -> Transcript:
            steps = self.steps(source, name, options, sample_rate=sample_rate)
            return last_value(steps, stopped.is_set)

        try:
            return await asyncio.to_thread(work)
        finally:
            stopped.set()

    def segments(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        sample_rate: int | None = None,
    ) -> Iterator[Cue]:
        """``transcribe(…).segments`` one by one while the file is read: pieces of at most two lines and six seconds.

        With speakers or separate channels, words are in order only at the end, and segments come then.
        """
        return iter_cues(self._words(source, name, options, sample_rate))

    @overload
    def batch(
        self,
        sources: Iterable[Source | np.ndarray],
        jobs: int | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        keep_errors: Literal[False] = False,
    ) -> Iterator[Transcript]: ...

    @overload
    def batch(
        self,
        sources: Iterable[Source | np.ndarray],
        jobs: int | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        keep_errors: Literal[True],
    ) -> Iterator[Transcript | AudioError]: ...

    def batch(
        self,
        sources: Iterable[Source | np.ndarray],
        jobs: int | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        keep_errors: bool = False,
    ) -> Iterator[Transcript] | Iterator[Transcript | AudioError]:
        """The transcripts of ``sources`` in their order, ``jobs`` at a time (default: as many as fill all cores).

        Fastest with ``Student.load(folder, threads=1)``. A file that cannot be read raises ``AudioError`` in its turn, which ends
        the batch; with ``keep_errors`` the error is given instead of its transcript.
        """

        def work(source: Source | np.ndarray) -> Transcript | AudioError:
            try:
                return self.transcribe(source, options=options)
            except AudioError as error:
                if keep_errors:
                    return error
                raise

        return in_order(work, sources, jobs or max(1, cores() // self.threads))

    def _words(
        self, source: Source | np.ndarray, name: str | None, options: TranscribeOptions, sample_rate: int | None
    ) -> Iterator[Word]:
        """The words of the transcript, each as soon as it is final."""
        final: list[Word] = []
        given = 0
        if options.channels != EACH and options.diarizer is None and self.diarizer is None:
            options = replace(options, on_words=final.extend)
        steps = self.steps(source, name, options, sample_rate=sample_rate)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                yield from end.value.words[given:]
                return
            given += len(final)
            yield from final
            final.clear()

    def steps(
        self,
        source: Source | np.ndarray,
        name: str | None = None,
        options: TranscribeOptions = DEFAULTS,
        *,
        sample_rate: int | None = None,
    ) -> Generator[Seconds, None, Transcript]:
        """``transcribe`` as a generator, so that several files can share a thread: it yields the seconds read so far after
        each window, and returns the transcript."""
        notes: list[Note] = []

        def note(found: Note) -> None:
            notes.append(found)
            options.on_note(found)

        diarizer = options.diarizer or self.diarizer
        voice = self.voice if options.voice is None else options.voice
        own = replace(options, voice=voice, on_note=note)
        if not isinstance(source, (str, Path, bytes)):
            source = np.asarray(source)
            if diarizer is not None:  # it reads the wave too
                source = np.concatenate([np.zeros(0, np.float32), *wave_blocks(source, sample_rate or SAMPLE_RATE)])
                sample_rate = None
        elif sample_rate is not None:
            raise UserError(f"sample_rate={sample_rate}: belongs to arrays; a file says its own")
        with nullcontext(options.decoder) if options.decoder is not None else self.lend_decoder() as decoder:
            found = yield from self._channel_steps(source, name, replace(own, decoder=decoder), sample_rate)
        if diarizer is not None:
            found = yield from name_speakers(
                found, diarizer, source, name, speakers=options.speakers, jobs=options.jobs, on_note=note,
                channel=None if options.channels == EACH else options.channels,
            )  # fmt: skip
        return replace(found, notes=notes)

    def _channel_steps(
        self, source: Source | np.ndarray, name: str | None, options: TranscribeOptions, sample_rate: int | None
    ) -> Generator[Seconds, None, Transcript]:
        """The steps of one channel, or of each."""
        channels, on_note = options.channels, options.on_note
        if isinstance(source, np.ndarray):
            return (yield from self._steps(wave_blocks(source, sample_rate or SAMPLE_RATE, name or "wave"), options))
        if channels != EACH:
            return (yield from self._steps(read_blocks(source, name, channel=channels, tell=on_note), options))
        _, count = probe_rate_channels(source, name)
        if count == 1:
            return (yield from self._steps(read_blocks(source, name, tell=on_note), options))
        tracks, by_channel = [Track() for _ in range(count)], []
        for channel, track in enumerate(tracks):
            tell = on_note if channel == 0 else ignore_note
            blocks = track.record(read_blocks(source, name, channel=channel, tell=tell))
            by_channel.append((yield from self._steps(blocks, options)))
        if same := duplicate_channels(tracks):
            which = ", ".join(str(channel + 1) for channel in same)
            on_note(Note("one sound", f"channel {which} has the same audio as an earlier one and is transcribed once"))
        merged = merge_channels([found.words for found in by_channel], tracks)
        text = "\n".join(map(text_of_words, turns(merged)))
        return Transcript(text, merged, max(found.duration_s for found in by_channel))

    def _steps(self, blocks: Iterable[np.ndarray], options: TranscribeOptions) -> Generator[Seconds, None, Transcript]:
        decoder = options.decoder
        show = options.on_words
        streaming = None
        search = self._search()
        if self.chunks is not None:
            streaming = self._streaming_greedy()
        elif show is not None and decoder is None:
            streaming = self._streaming_greedy(PHRASE_S)  # for display; its words are the final text's
        final: list[Word] = []
        counter = _Counter(blocks)
        if decoder is not None:
            decoder.begin()
        for frames_TX in self._frame_blocks(counter, bool(options.voice), options.jobs):
            shown = len(final)
            if decoder is not None:
                decoder.feed(frames_TX)
                final = list(decoder.finished.words) if show is not None else final
            elif streaming is not None:
                final += streaming.feed(frames_TX)
            if decoder is None and self.chunks is None:
                search.feed(frames_TX)
            if show is not None and len(final) > shown:
                show(final[shown:])
            yield to_seconds(counter.samples)
        duration_s = round(to_seconds(counter.samples), 3)
        if decoder is not None:
            found = decoder.finish()
            return Transcript(transcript(found.spans, self.tokens), found.words, duration_s)
        if streaming is not None and self.chunks is not None:
            final += streaming.finish()
            return Transcript(text_of_words(final), final, duration_s)
        if not search.frames:
            return Transcript("")
        # A recogniser that learned from single sentences outputs no boundary at their ends: a pause ends a word too.
        found_words = words(search.spans(), self.tokens, self.frame_s, self.normaliser.output_writing, PHRASE_S)
        return Transcript(text_of_words(found_words), found_words, duration_s)

    def stream(
        self,
        *,
        rate: int = SAMPLE_RATE,
        pause_s: Seconds = PAUSE_S,
        decoder: Decoder | None = None,
        voice: bool | None = None,
    ) -> Stream:
        """A stream to feed with samples at ``rate``, for example from a microphone.

        A word is final at the latest ``pause_s`` after its last letter. ``decoder`` and ``voice`` are as the student was loaded
        unless they are given; ``voice`` delays words by half a second. ``UserError`` if this student cannot stream.
        """
        state = self._streaming_state()
        muted = None
        if self.voice if voice is None else voice:
            from lalia.audio.vad import NonSpeech

            muted = NonSpeech(self._frame)
        return Stream(state, self._streaming_greedy(pause_s), decoder or self.make_decoder(), rate, muted)

    def _streaming_state(self) -> StreamingState:
        if self.chunks is None:
            raise UserError(
                "this student needs whole clips and cannot stream; to make a streaming one: lalia distill fit --config "
                "configs/distill/streaming-nano.yaml, then lalia distill export"
            )
        return StreamingState(self.session, self.chunks, self._columns, self._heads)

    def _streaming_greedy(self, pause_s: Seconds = PAUSE_S) -> StreamingGreedy:
        return StreamingGreedy(self.tokens, self.frame_s, self.normaliser.output_writing, pause_s, self._search())

    def _search(self) -> Spans:
        return CtcSpans() if self.joiner is None else TransducerSpans(self.joiner, self.frame_s)

    @property
    def _heads(self) -> list[str]:
        """The outputs of the model that are decoded."""
        return ["log_probs"] if self.joiner is None else ["log_probs", JOINT]

    @property
    def _columns(self) -> int:
        """The numbers of a frame that is decoded."""
        return len(self.tokens) + (0 if self.joiner is None else self.joiner.width)

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) float32 of a wave of any length (float32, (samples,), 16 kHz), windows stitched."""
        return self.frames(wave)[:, : len(self.tokens)]

    def frames(self, wave: np.ndarray) -> np.ndarray:
        """What a decoder is fed: ``log_probs``, and behind them what the joiner of a transducer adds, (T, V + J)."""
        blocks = list(self._frame_blocks(wave_blocks(wave)))
        return np.concatenate(blocks) if blocks else np.zeros((0, self._columns), np.float32)

    def _frame_blocks(self, blocks: Iterable[np.ndarray], voice: bool = False, jobs: int = 1) -> Iterator[np.ndarray]:
        """The frames of consecutive parts of the audio, (T', V) or (T', V + J) each, without gaps."""
        if self.chunks is not None:
            return self._streaming_blocks(blocks, voice)
        return stitch(in_order(self._run_window, self._windows(blocks, voice), jobs), len(self.tokens))

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

        for _, pieces in groupby(mute_non_speech(blocks, self._frame), itemgetter(0)):
            yield from cut_windows(map(itemgetter(1), pieces), self._window, self._overlap)

    def _run_window(self, window: Window) -> WindowOutput:
        frames = -(-len(window.wave) // self._frame)
        return WindowOutput(self._run(window.wave), frames, window.shared // self._frame)

    def _run(self, wave: np.ndarray) -> np.ndarray:
        if float(np.abs(wave).max()) < SILENCE_PEAK:
            return silence(-(-len(wave) // self._frame), self._columns)
        if len(wave) < SHORTEST:
            wave = np.pad(wave, (0, SHORTEST - len(wave)))
        found = self.session.run(self._heads, {"wave": wave[None].astype(np.float32, copy=False)})
        log_probs_TV = found[0][0]
        if log_probs_TV.shape[1] != len(self.tokens):
            raise UserError(
                f"student: the model has {log_probs_TV.shape[1]} tokens, {TOKENS} lists {len(self.tokens)}; "
                "they belong to different students, export it again"
            )
        return log_probs_TV if len(found) == 1 else np.concatenate([log_probs_TV, found[1][0]], 1)


class _Counter:
    """Passes blocks on and counts their samples."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._audio_blocks = blocks
        self.samples: Samples = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._audio_blocks:
            self.samples += len(block)
            yield block


def _check_graph(session: onnxruntime.InferenceSession, tokens: Tokens, folder: Path) -> None:
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = {o.name: o for o in session.get_outputs()}
    if list(inputs) != ["wave"] or "log_probs" not in outputs or len(inputs["wave"].shape) != 2:
        found = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise UserError(f"{folder / MODEL}: maps {found}; expected wave (B, S) -> log_probs (B, T, V); export it again")
    width = outputs["log_probs"].shape[-1]
    if isinstance(width, int) and width != len(tokens):
        raise UserError(
            f"{folder}: the model has {width} tokens, {TOKENS} lists {len(tokens)}; "
            "they belong to different students, export it again"
        )


def _check_joiner(session: onnxruntime.InferenceSession, joiner: Joiner, tokens: Tokens, folder: Path) -> None:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    if shapes.get(JOINT, [None])[-1] != joiner.width or joiner.tokens != len(tokens):
        raise UserError(
            f"{folder / TRANSDUCER}: does not belong to {MODEL} and {TOKENS} beside it; export the student again"
        )


def _check_states(session: onnxruntime.InferenceSession, card: dict[str, Any], folder: Path) -> None:
    keeps = any(i.name.startswith(STATE) for i in session.get_overridable_initializers())
    if keeps != (card.get("streaming") is not None):
        found = "keeps" if keeps else "does not keep"
        raise UserError(f"{folder / MODEL}: {found} states between chunks, contrary to its card; export it again")
