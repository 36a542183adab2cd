"""Data checks that compare labels with their clips: lengths and speaking rates, audio quality, splits, wrong labels.

Audio quality uses the measurements of ``lalia prepare``. Wrong labels need a recogniser: they are found by forced alignment,
compared with greedy decoding.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.check.findings import DEV, EXAMPLES, TEST, TRAIN, Example, Finding, Labels, Split, some
from lalia.cards import read_card
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.splits import ENOUGH_SPEAKERS, FEWEST, LEAST_HELD_OUT, MOST_PERCENT, held_out_percent
from lalia.decoding.forced_alignment import align, frames_needed
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import AudioError, UserError
from lalia.scoring.rates import character_errors
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens, Vocabulary, require_coverage
from lalia.units import plural

# --- Lengths and speaking rates ------------------------------------------------------------------------

TOO_LONG = 0.02
"""A larger share of labels with more letters than frames must be fixed before training."""
FAR = 5.0
"""Outlier: this many deviations (1.4826 times the median absolute deviation) from the median ..."""
AT_LEAST = 2.5
"""... and at least this many times faster or slower."""
FEWEST_FOR_RATES = 20
"""Minimum number of clips for an estimate of the usual rate."""
REPEATED = 0.05
LONGEST_S = 30.0


def check_lengths(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    """Findings on lengths and rates."""
    return [*_empty(labels), *_beyond_frames(labels, vocabulary), *_rates(labels), *_repeated(labels), *_long(labels)]


def empty_labels(labels: Labels) -> list[int]:
    """Places of labels that are empty after normalisation."""
    return [p for p, text in enumerate(labels.normal) if not text]


def _empty(labels: Labels) -> list[Finding]:
    places = empty_labels(labels)
    if not places:
        return []
    what = f"{plural(len(places), 'label', 'is', 'are')} empty after normalisation, as {labels.texts[places[0]]!r}"
    if len(places) == len(labels.normal):
        return [Finding("empty labels", "stop", f"all: {what}", "give labels with letters", labels.examples(places))]
    fix = "--fix removes them; the audio stays, unlabelled"
    return [Finding("empty labels", "look", what, fix, labels.examples(places), True)]


def beyond_frames(labels: Labels, vocabulary: Vocabulary) -> list[int]:
    """Places of labels with more letters than their clips have frames."""
    needed = np.array([frames_needed(vocabulary.tokens.encode(text, skip_unknown=True)) for text in labels.normal])
    return np.flatnonzero(needed > np.floor(labels.durations_s / labels.frame_s)).tolist()


def _beyond_frames(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    places = beyond_frames(labels, vocabulary) if vocabulary else []
    if not places:
        return []
    share = len(places) / len(labels.normal)
    what = (
        f"{plural(len(places), 'label')} ({share:.1%}) with more letters than frames of "
        f"{1000 * labels.frame_s:g} ms in the clip: nothing can be learned from them"
    )
    fix = "are these the labels of other clips? --fix removes them"
    weight = "stop" if share > TOO_LONG else "look"
    return [Finding("label > frames", weight, what, fix, labels.examples(places), True)]  # type: ignore[arg-type]


def letters_per_s(labels: Labels) -> np.ndarray:
    """Letters per second of speech, (N,); a label without letters counts as half of one."""
    letters = np.array([sum(not c.isspace() for c in text) for text in labels.normal])
    speech_s = np.maximum(labels.durations_s * labels.speech_ratio, 0.2)
    return np.maximum(letters, 0.5) / (speech_s + 0.1)


def rate_outliers(labels: Labels) -> list[int]:
    """Places of labels with an unusual speaking rate for this corpus, the most unusual first."""
    if len(labels.rows) < FEWEST_FOR_RATES:
        return []
    spoken = np.array([bool(text) for text in labels.normal]) & (labels.speech_ratio > 0.05)
    if not spoken.any():
        return []
    logs = np.log(letters_per_s(labels))
    middle = np.median(logs[spoken])
    deviation = 1.4826 * np.median(np.abs(logs[spoken] - middle))
    off = np.abs(logs - middle)
    # Rates of short labels vary the most.
    letters = np.array([len(text) for text in labels.normal])
    slack = np.where(letters < 8, np.log(2.0), 0.0)
    places = np.flatnonzero(spoken & (off - slack > max(FAR * deviation, np.log(AT_LEAST))))
    return places[np.argsort(-off[places], kind="stable")].tolist()


def _rates(labels: Labels) -> list[Finding]:
    places = rate_outliers(labels)
    if not places:
        return []
    rates = letters_per_s(labels)
    usual = float(np.median(rates))
    writing = labels.normaliser.writing
    counts = [len(writing.count_units(labels.normal[p])) / labels.durations_s[p] for p in places]
    notes = [f"{rates[p]:.1f} letters, {c:.1f} {writing.units} a second" for p, c in zip(places, counts, strict=True)]
    worst = f"{rates[places[0]]:.1f} letters a second of speech (median {usual:.1f})"
    what = f"{plural(len(places), 'label', 'has', 'have')} a far higher or lower speaking rate than the others, the worst {worst}"
    fix = "probably the label of another clip, or a cut clip; --fix removes them"
    return [Finding("rate", "look", what, fix, labels.examples(places, notes), True)]


def _repeated(labels: Labels) -> list[Finding]:
    writing = labels.normaliser.writing
    counts = Counter(text for text in labels.normal if writing.words_in(writing.cut(text)) > 2)
    if not counts:
        return []
    text, times = counts.most_common(1)[0]
    if times < max(5, REPEATED * len(labels.normal)):
        return []
    places = [p for p, other in enumerate(labels.normal) if other == text]
    what = f"one label belongs to {plural(times, 'clip')} ({times / len(labels.normal):.0%}): {text[:60]!r}"
    return [Finding("repeated label", "look", what, "is it a default value? listen to some", labels.examples(places))]


def _long(labels: Labels) -> list[Finding]:
    places = [int(p) for p in np.flatnonzero(labels.durations_s > LONGEST_S) if labels.splits[p] == TRAIN]
    if not places:
        return []
    minutes = float(labels.durations_s[places].sum()) / 60
    what = f"{plural(len(places), f'{SPLITS[TRAIN]} clip')} ({minutes:.1f} min) longer than {LONGEST_S:g} s"
    fix = f"fit skips clips longer than --data.max_s; set it to {np.ceil(labels.durations_s.max()):g} to use all"
    return [Finding("long clips", "look", what, fix, labels.examples(places))]


# --- Audio quality -------------------------------------------------------------------------------------

NO_SPEECH = 0.05
"""A clip with a lower share of speech frames has no speech."""
MANY = 0.05
NOISY_DB = 0.0
CLIPPED = 0.01


def without_speech(labels: Labels) -> list[int]:
    """Places of labelled clips in which voice activity detection found almost no speech."""
    return np.flatnonzero(labels.speech_ratio < NO_SPEECH).tolist()


def check_sound(labels: Labels) -> list[Finding]:
    """Findings on audio quality."""
    found = []
    silent = without_speech(labels)
    if silent:
        share = len(silent) / len(labels.rows)
        what = f"{plural(len(silent), 'labelled clip')} ({share:.1%}) with almost no speech"
        weight = "stop" if share > MANY else "look"
        fix = "--fix removes their labels; voice activity detection can miss very short words: listen to some"
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


# --- Splits --------------------------------------------------------------------------------------------

LEAST_TRAIN_S = 120.0
LEAKING = 0.05
"""Above this share of test clips whose sentence is in train, test scores are meaningless."""
CLOSED = 0.2
"""Below this ratio of different sentences to clips, the corpus contains commands, not sentences."""


def count_splits(labels: Labels) -> list[Split]:
    """Totals of the labelled clips of each split."""
    found = []
    for code, name in enumerate(SPLITS):
        places = labels.where(code)
        normal = [labels.normal[p] for p in places]
        speakers = {labels.speakers[p] for p in places} - {""}
        hours = float(labels.durations_s[places].sum()) / 3600
        words = sum(len(labels.normaliser.writing.count_units(text)) for text in normal)
        found.append(Split(name, len(places), hours, len(speakers), len(set(normal)), words))
    return found


def check_splits(labels: Labels) -> list[Finding]:
    """Findings on amounts and on leakage between the splits."""
    return [*_amounts(labels), *_unlabelled(labels), *_sentences(labels), *_speakers(labels), *_recordings(labels)]


def _amounts(labels: Labels) -> list[Finding]:
    counts = [len(labels.where(code)) for code in range(3)]
    missing = [SPLITS[code] for code in range(3) if not counts[code]]
    if missing:
        what = f"no labelled clips in {' and '.join(missing)}; fit needs train, dev (for validation) and test"
        few = sum(counts)
        if few < FEWEST:
            fix = f"label more: {plural(few, 'clip')} are too few to hold any out; the minimum is {FEWEST}"
            return [Finding("splits", "stop", what, fix)]
        percent = held_out_percent(few)
        fix = f"--fix makes new splits, by speaker and sentence, as lalia prepare does: {percent:.3g} % for dev and for test each"
        return [Finding("splits", "stop", what, fix, fixable=True)]
    found = []
    seconds = float(labels.durations_s[labels.where(TRAIN)].sum())
    if seconds < LEAST_TRAIN_S:
        what = f"{seconds:.0f} s of labels to train on; readable text needs about ten minutes or more"
        found.append(Finding("amount", "look", what, "label more clips; every minute helps"))
    for code in (DEV, TEST):
        if counts[code] < LEAST_HELD_OUT:
            what = f"{SPLITS[code]} has {plural(counts[code], 'clip')}; its error rate will vary much from run to run"
            percent = math.ceil(held_out_percent(sum(counts)))
            clips = min(LEAST_HELD_OUT, int(percent / 100 * sum(counts)))
            fix = f"hold out {clips} clips or more: lalia prepare … --{SPLITS[code]} {percent} (percent)"
            if percent >= MOST_PERCENT:
                fix += f"; by default it is at most {MOST_PERCENT:g} %, because held-out clips are not trained on"
            found.append(Finding("amount", "look", what, fix))
    return found


def _unlabelled(labels: Labels) -> list[Finding]:
    """Unlabelled clips of the language: probably a mistake if they are the minority, intended otherwise."""
    rows = labels.corpus.select(language=labels.language, with_text=False)
    clips = len(rows) + len(labels.rows)
    if not len(rows) or not len(labels.rows):
        return []
    have, them = ("has", "it") if len(rows) == 1 else ("have", "them")
    what = f"{len(rows):,} of {clips:,} clips {have} no label; fit does not learn from {them}"
    if len(rows) > clips / 2:
        return [Finding("unlabelled", "fine", f"{what}, pretraining does")]
    fix = "if that is a mistake, add the texts to the table and prepare it again"
    return [Finding("unlabelled", "look", what, fix, [Example(int(row), "no label") for row in rows[:EXAMPLES]])]


def leaking(labels: Labels) -> list[int]:
    """Places of training clips whose sentence is also in dev or test."""
    held = {labels.normal[p] for code in (DEV, TEST) for p in labels.where(code)} - {""}
    return [int(p) for p in labels.where(TRAIN) if labels.normal[p] in held]


def is_closed(labels: Labels) -> bool:
    """Whether the labels are a few phrases that repeat, as commands do."""
    return len(set(labels.normal)) <= CLOSED * len(labels.normal)


def _sentences(labels: Labels) -> list[Finding]:
    trained = {labels.normal[p] for p in labels.where(TRAIN)} - {""}
    test = labels.where(TEST)
    places = [int(p) for p in test if labels.normal[p] in trained]
    if not places or not trained:
        return []
    share = len(places) / len(test)
    what = f"{plural(len(places), 'test clip')} ({share:.0%}) with a sentence that is also in train"
    if is_closed(labels):
        phrases = plural(len(set(labels.normal)), "phrase")
        what = f"the labels are {phrases} that repeat ({share:.0%} of the test clips' are in train)"
        fix = "fine for commands: the test measures new voices, not new words"
        return [Finding("sentence leak", "look", what, fix, labels.examples(places))]
    fix = "--fix removes the labels of these training clips, or makes new splits if they are too many"
    weight = "stop" if share > LEAKING else "look"
    return [Finding("sentence leak", weight, what, fix, labels.examples(places), fixable=True)]  # type: ignore[arg-type]


def _speakers(labels: Labels) -> list[Finding]:
    of = [{labels.speakers[p] for p in labels.where(code)} - {""} for code in range(3)]
    both = of[TRAIN] & (of[TEST] | of[DEV])
    everyone = of[TRAIN] | of[DEV] | of[TEST]
    if not everyone:
        what = "no clip names its speaker, so speakers in both train and test cannot be detected"
        return [Finding("speakers", "look", what, "give a speaker column to lalia prepare, if there are several")]
    if not both:
        return []
    named = some(sorted(both), 4)
    if len(everyone) < ENOUGH_SPEAKERS:
        what = (
            f"{plural(len(everyone), 'voice')}, in both train and test: the test measures new sentences, not new voices"
        )
        return [Finding("speakers", "look", what, "test with other speakers before you rely on it for them")]
    what = f"{len(both)} of {len(everyone)} speakers are in train and in dev or test ({named})"
    return [Finding("speaker leak", "look", what, "split by speaker, as lalia prepare does when it makes the splits")]


def _recordings(labels: Labels) -> list[Finding]:
    """Duplicate recordings, and parts of one recording in both train and held-out splits."""
    found = []
    twins = same_recordings(labels.corpus, labels.rows)
    splits = labels.corpus.splits
    across = [group for group in twins if len({int(splits[row]) for row in group}) > 1]
    place = {int(row): p for p, row in enumerate(labels.rows)}
    if across:
        what = f"{plural(len(across), 'recording', 'is', 'are')} in two splits under different names"
        places = [place[row] for group in across for row in group]
        found.append(
            Finding(
                "recording leak",
                "stop",
                what,
                "--fix keeps the copy in test and drops the others",
                labels.examples(places),
                True,
            )
        )
    inside = [group for group in twins if len({int(splits[row]) for row in group}) == 1]
    if inside:
        differing = [g for g in inside if len({labels.normal[place[r]] for r in g}) > 1]
        what = f"{plural(len(inside), 'recording', 'is', 'are')} in the corpus twice" + (
            f", {len(differing)} of them with different labels" if differing else ""
        )
        places = [place[row] for group in differing or inside for row in group]
        found.append(Finding("twice", "look", what, "--fix keeps one of each", labels.examples(places), True))
    parts: dict[str, set[int]] = defaultdict(set)
    for p, row in enumerate(labels.rows):
        id = labels.corpus.id(int(row))
        if "#" in id:
            parts[id.partition("#")[0]].add(int(labels.splits[p]))
    shared = sorted(name for name, codes in parts.items() if TRAIN in codes and len(codes) > 1)
    if shared:
        what = (
            f"{plural(len(shared), 'recording', 'has', 'have')} parts in train and in dev or test ({some(shared, 2)})"
        )
        found.append(Finding("recording leak", "look", what, "split whole recordings: give one speaker per recording"))
    return found


def same_recordings(corpus: Corpus, rows: np.ndarray) -> list[list[int]]:
    """Groups of rows with the same bytes of audio. Only clips of equal duration are read."""
    _, inverse, counts = np.unique(corpus.durations_s[rows], return_inverse=True, return_counts=True)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows[counts[inverse] > 1]:
        groups[hashlib.blake2b(corpus.audio_bytes(int(row)), digest_size=16).digest()].append(int(row))
    return [group for group in groups.values() if len(group) > 1]


# --- Wrong labels --------------------------------------------------------------------------------------

FAR_GAP = 4.0
"""A label is likely wrong if its gap is this many deviations above the median ..."""
LEAST_CER = 0.6
"""... and the CER of the recogniser's transcript against it is at least this, ..."""
LEAST_NATS = 10.0
"""... and the gap in all is at least this many nats: one misrecognised short word proves nothing."""


@dataclass(frozen=True)
class PairModel:
    """The parts of a recogniser or student that the check uses."""

    name: str
    tokens: Tokens
    normaliser: Normaliser
    log_probs: Callable[[np.ndarray], np.ndarray]
    align: Callable[[np.ndarray, list[int]], np.ndarray]
    """(log-probabilities (T, V), token numbers) -> the place of each frame's token among them, -1 for blank:
    ``lalia.decoding.forced_alignment.align``"""


def load_pair_model(folder: Path) -> PairModel:
    """The recogniser or student in ``folder``."""
    kind = read_card(folder)["kind"]
    if kind == "student":
        from lalia.runtime.student import Student

        student = Student.load(folder)
        return PairModel(str(folder), student.tokens, student.normaliser, student.log_probs, align)
    if kind != "recogniser":
        raise UserError(f"--recogniser {folder}: is a {kind}; expected a recogniser or a student")
    import torch

    from lalia.models.recogniser import Recogniser
    from lalia.models.recogniser import align as align_on_device

    recogniser = Recogniser.load(folder)

    def log_probs(wave_S: np.ndarray) -> np.ndarray:
        found_BTV, frames_B = recogniser.log_probs(torch.from_numpy(wave_S)[None], torch.tensor([len(wave_S)]))
        return found_BTV[0, : int(frames_B[0])].numpy()

    return PairModel(str(folder), recogniser.tokens, recogniser.normaliser, log_probs, align_on_device)


@dataclass(frozen=True)
class PairScore:
    """How well a label fits its clip: place, how much less likely the label is than the greedy transcript (``gap`` in nats per
    letter, ``nats`` in all), CER of the transcript against the label, and the transcript."""

    place: int
    gap: float
    nats: float
    cer: float
    transcript: str


def score_pairs(labels: Labels, model: PairModel) -> Iterator[PairScore]:
    """Scores of all pairs that have letters and readable audio; a label longer than its frames has an infinite gap.

    The gap is the log-probability of the greedy path minus that of the best alignment of the label, per letter of the label.
    """
    require_coverage(model.tokens, (model.normaliser(text) for text in labels.texts), model.name)
    for place, row in enumerate(labels.rows):
        text = model.normaliser(labels.texts[place])
        ids = model.tokens.encode(text, skip_unknown=True)
        if not ids:
            continue
        try:
            log_probs_TV = model.log_probs(labels.corpus.wave(int(row)))
        except AudioError:
            continue
        hypothesis = transcript(greedy(log_probs_TV), model.tokens)
        cer = character_errors(text, hypothesis).rate
        try:
            path_T = model.align(log_probs_TV, ids)
        except ValueError:
            yield PairScore(place, float("inf"), float("inf"), cer, hypothesis)
            continue
        spoken_T = np.where(path_T >= 0, np.asarray(ids)[path_T], 0)
        label_log_prob = float(log_probs_TV[np.arange(len(path_T)), spoken_T].sum())
        nats = float(log_probs_TV.max(1).sum()) - label_log_prob
        yield PairScore(place, nats / len(ids), nats, cer, hypothesis)


def find_wrong_labels(scored: list[PairScore]) -> list[PairScore]:
    """The pairs whose label is likely wrong, the worst first."""
    if not scored:
        return []
    gaps = np.array([score.gap for score in scored])
    finite = gaps[np.isfinite(gaps)]
    if not len(finite):
        return []
    middle = float(np.median(finite))
    deviation = 1.4826 * float(np.median(np.abs(finite - middle)))
    beyond = middle + FAR_GAP * max(deviation, 1e-3)
    found = [s for s in scored if s.gap > beyond and s.cer >= LEAST_CER and s.nats >= LEAST_NATS]
    return sorted(found, key=lambda score: -score.gap)


CHANCE = 0.8
"""If the CER of the labels reaches this share of that of random pairings, they belong to other clips."""
MOST_SHIFTED = 5
_PAIRS = 300


def shifted_labels(texts: Sequence[str], transcripts: Mapping[int, str]) -> tuple[float, float, int | None] | None:
    """(mean CER of the labels, mean CER of random pairings, shift), if the first is nearly the second; None if not.

    ``texts`` are all labels in the corpus's order, ``transcripts`` those of some places. The label of a clip is ``shift`` places
    after it; None: at no place nearby. An outlier among labels is judged by the others, so it needs most of them to be right;
    this does not.
    """
    places = sorted(transcripts)
    places = places[:: max(1, len(places) // _PAIRS)]
    if len(places) < FEWEST_FOR_RATES:
        return None

    def mean_cer(others: Sequence[int]) -> float:
        pairs = [
            (texts[other], transcripts[p]) for p, other in zip(places, others, strict=True) if 0 <= other < len(texts)
        ]
        rates = [min(1.0, character_errors(text, transcript).rate) for text, transcript in pairs if text]
        return float(np.mean(rates)) if rates else 1.0

    own = mean_cer(places)
    chance = mean_cer(np.random.default_rng(0).permutation(places).tolist())
    if own < CHANCE * chance:
        return None
    cers = {shift: mean_cer([p + shift for p in places]) for shift in range(-MOST_SHIFTED, MOST_SHIFTED + 1) if shift}
    best = min(cers, key=cers.__getitem__)
    return own, chance, best if cers[best] < CHANCE * chance else None


def _shifted(labels: Labels, model: PairModel, scored: Sequence[PairScore]) -> list[Finding]:
    found = shifted_labels([model.normaliser(text) for text in labels.texts], {s.place: s.transcript for s in scored})
    if found is None:
        return []
    own, chance, shift = found
    rates = f"CER {own:.2f}, and {chance:.2f} if labels and clips are paired at random"
    if shift is None:
        what = f"the labels fit their clips no better than chance: {rates}"
        fix = f"listen to a few; if the labels are right, {model.name} does not know this language or sound"
        return [Finding("pairs", "stop", what, fix)]
    where = f"{plural(abs(shift), 'row')} {'after' if shift > 0 else 'before'} it"
    what = f"the labels are shifted: a clip's label is {where} ({rates})"
    return [Finding("pairs", "stop", what, "join the table and the clips by name again, not by their order")]


def check_pairs(labels: Labels, folder: Path) -> tuple[list[Finding], list[Example], list[int]]:
    """The finding, all clips with likely wrong labels and their transcripts, and their places."""
    model = load_pair_model(folder)
    scored = list(score_pairs(labels, model))
    if shifted := _shifted(labels, model, scored):
        return shifted, [], []  # an outlier among wrong labels means nothing, and --fix must not act on it
    found = find_wrong_labels(scored)
    examples = [
        Example(int(labels.rows[s.place]), f"transcript: {s.transcript or '(empty)'}", s.transcript) for s in found
    ]
    if not found:
        return [Finding("pairs", "fine", f"the transcripts of {folder} resemble the labels in every clip")], [], []
    what = f"{plural(len(found), 'label')} likely wrong: the transcript of {folder} is very different"
    fix = "listen to them and correct them: --listen PAGE; --fix removes these labels, or follows --corrections"
    return [Finding("pairs", "look", what, fix, examples[:5], True)], examples, [score.place for score in found]
