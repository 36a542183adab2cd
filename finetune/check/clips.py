"""The check of pairs: does a rough recogniser hear in a clip what its label says (forced alignment against its best path).

The check of lengths: labels that say nothing, too much for their clip, or far more or less per second than the others.

The check of the sound, by the figures that preparation measured: clips without speech, noise, clipping.

The check of the splits: is there enough of each, and does any clip stand on both sides of the test.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.check.findings import DEV, EXAMPLES, TEST, TRAIN, Example, Finding, Labels, Split, plural, some
from lalia.cards import read_card
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.splits import ENOUGH_SPEAKERS, FEWEST, LEAST_HELD_OUT, MOST_PERCENT, held_out_percent
from lalia.decoding.forced_alignment import align, frames_needed
from lalia.decoding.greedy import best_path, transcript
from lalia.errors import AudioError, UserError
from lalia.scoring.rates import character_errors
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens, Vocabulary, require_head

# --- The check of lengths --------------------------------------------------------------------------------

TOO_LONG = 0.02
"""Share of labels longer than their frames that must be mended first."""
FAR = 5.0
"""Outlier: so many times the usual deviation (1.4826 times the median's) from the median ..."""
AT_LEAST = 2.5
"""... and at least so many times faster or slower than it."""
FEWEST_FOR_RATES = 20
"""Below so many clips there is no usual rate."""
REPEATED = 0.05
LONGEST_S = 30.0


def check_lengths(labels: Labels, vocabulary: Vocabulary | None) -> list[Finding]:
    """Findings on lengths and rates."""
    return [*_empty(labels), *_beyond_frames(labels, vocabulary), *_rates(labels), *_repeated(labels), *_long(labels)]


def silent_labels(labels: Labels) -> list[int]:
    """Places of labels that hold nothing to say once they are normalised."""
    return [p for p, text in enumerate(labels.normal) if not text]


def _empty(labels: Labels) -> list[Finding]:
    places = silent_labels(labels)
    if not places:
        return []
    what = f"{plural(len(places), 'label', 'says', 'say')} nothing, as {labels.texts[places[0]]!r}"
    if len(places) == len(labels.normal):
        return [Finding("empty labels", "stop", f"all {what}", "give labels with letters", labels.examples(places))]
    fix = "--fix takes them off; the audio stays, unlabelled"
    return [Finding("empty labels", "look", what, fix, labels.examples(places), True)]


def beyond_frames(labels: Labels, vocabulary: Vocabulary) -> list[int]:
    """Places of labels that their clips have too few frames for."""
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
    fix = "are these the labels of other clips? --fix takes them off"
    weight = "stop" if share > TOO_LONG else "look"
    return [Finding("label > frames", weight, what, fix, labels.examples(places), True)]  # type: ignore[arg-type]


def letters_per_s(labels: Labels) -> np.ndarray:
    """Letters per second of speech, (N,); a label without letters counts as half of one."""
    letters = np.array([sum(not c.isspace() for c in text) for text in labels.normal])
    speech_s = np.maximum(labels.durations_s * labels.speech_ratio, 0.2)
    return np.maximum(letters, 0.5) / (speech_s + 0.1)


def rate_outliers(labels: Labels) -> list[int]:
    """Places of labels said far faster or slower than the corpus is, the farthest first."""
    if len(labels.rows) < FEWEST_FOR_RATES:
        return []
    spoken = np.array([bool(text) for text in labels.normal]) & (labels.speech_ratio > 0.05)
    if not spoken.any():
        return []
    logs = np.log(letters_per_s(labels))
    middle = np.median(logs[spoken])
    deviation = 1.4826 * np.median(np.abs(logs[spoken] - middle))
    off = np.abs(logs - middle)
    # One word in a second of speech may be half breath: short labels vary the most.
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
    words = [len(labels.normal[p].split()) / labels.durations_s[p] for p in places]
    notes = [f"{rates[p]:.1f} letters, {w:.1f} words a second" for p, w in zip(places, words, strict=True)]
    worst = f"{rates[places[0]]:.1f} letters a second of speech, where {usual:.1f} are usual"
    what = (
        f"{plural(len(places), 'label', 'is', 'are')} said far faster or slower than the others, the worst at {worst}"
    )
    fix = "most likely another clip's label or a cut clip; --fix takes them off"
    return [Finding("rate", "look", what, fix, labels.examples(places, notes), True)]


def _repeated(labels: Labels) -> list[Finding]:
    counts = Counter(text for text in labels.normal if len(text.split()) > 2)
    if not counts:
        return []
    text, times = counts.most_common(1)[0]
    if times < max(5, REPEATED * len(labels.normal)):
        return []
    places = [p for p, other in enumerate(labels.normal) if other == text]
    what = f"one label stands at {plural(times, 'clip')} ({times / len(labels.normal):.0%}): {text[:60]!r}"
    return [Finding("repeated label", "look", what, "was a default filled in? listen to some", labels.examples(places))]


def _long(labels: Labels) -> list[Finding]:
    places = [int(p) for p in np.flatnonzero(labels.durations_s > LONGEST_S) if labels.splits[p] == TRAIN]
    if not places:
        return []
    minutes = float(labels.durations_s[places].sum()) / 60
    what = f"{plural(len(places), f'{SPLITS[TRAIN]} clip')} ({minutes:.1f} min) longer than {LONGEST_S:g} s"
    fix = (
        f"fit leaves out what is longer than --data.max_s; set it to {np.ceil(labels.durations_s.max()):g} to have all"
    )
    return [Finding("long clips", "look", what, fix, labels.examples(places))]


# --- The check of the sound, by the figures that preparation measured ------------------------------------

NO_SPEECH = 0.05
"""Share of a clip's frames with speech below which it has none."""
MANY = 0.05
NOISY_DB = 0.0
CLIPPED = 0.01


def without_speech(labels: Labels) -> list[int]:
    """Places of labelled clips in which voice activity found next to no speech."""
    return np.flatnonzero(labels.speech_ratio < NO_SPEECH).tolist()


def check_sound(labels: Labels) -> list[Finding]:
    """Findings on what can be heard."""
    found = []
    silent = without_speech(labels)
    if silent:
        share = len(silent) / len(labels.rows)
        what = f"{plural(len(silent), 'labelled clip')} ({share:.1%}) with next to no speech"
        weight = "stop" if share > MANY else "look"
        fix = "--fix takes their labels off; very short words may be missed by voice activity: listen to some"
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


# --- The check of the splits -----------------------------------------------------------------------------

LEAST_TRAIN_S = 120.0
LEAKING = 0.05
"""Share of the test's clips whose sentence is trained on that makes its figures worthless."""
CLOSED = 0.2
"""Fewer different sentences than this share of the clips: commands, not sentences."""


def count_splits(labels: Labels) -> list[Split]:
    """What the labelled clips of each split add up to."""
    found = []
    for code, name in enumerate(SPLITS):
        places = labels.where(code)
        normal = [labels.normal[p] for p in places]
        speakers = {labels.speakers[p] for p in places} - {""}
        hours = float(labels.durations_s[places].sum()) / 3600
        words = sum(len(text.split()) for text in normal)
        found.append(Split(name, len(places), hours, len(speakers), len(set(normal)), words))
    return found


def check_splits(labels: Labels) -> list[Finding]:
    """Findings on amounts and on leakage between the splits."""
    return [*_amounts(labels), *_unlabelled(labels), *_sentences(labels), *_speakers(labels), *_recordings(labels)]


def _amounts(labels: Labels) -> list[Finding]:
    counts = [len(labels.where(code)) for code in range(3)]
    missing = [SPLITS[code] for code in range(3) if not counts[code]]
    if missing:
        what = f"no labelled clips in {' and '.join(missing)}; fit needs train, dev (to choose the best step) and test"
        few = sum(counts)
        if few < FEWEST:
            fix = f"label more: of {plural(few, 'clip')} nothing can be held out; {FEWEST} are the least"
            return [Finding("splits", "stop", what, fix)]
        percent = held_out_percent(few)
        fix = f"--fix makes new splits, by speaker and sentence, as lalia prepare does: {percent:.3g} % for dev and for test each"
        return [Finding("splits", "stop", what, fix, mended=True)]
    found = []
    seconds = float(labels.durations_s[labels.where(TRAIN)].sum())
    if seconds < LEAST_TRAIN_S:
        what = f"{seconds:.0f} s of labels to train on; ten minutes are about the least that gives readable text"
        found.append(Finding("amount", "look", what, "label more clips; every minute counts here"))
    for code in (DEV, TEST):
        if counts[code] < LEAST_HELD_OUT:
            what = f"{SPLITS[code]} has {plural(counts[code], 'clip')}; its error rate will jump from run to run"
            percent = math.ceil(held_out_percent(sum(counts)))
            clips = min(LEAST_HELD_OUT, int(percent / 100 * sum(counts)))
            fix = f"hold out {clips} clips or more: lalia prepare … --{SPLITS[code]} {percent} (percent)"
            if percent >= MOST_PERCENT:
                fix += f"; it takes no more than {MOST_PERCENT:g} % unasked, since what is held out is not trained on"
            found.append(Finding("amount", "look", what, fix))
    return found


def _unlabelled(labels: Labels) -> list[Finding]:
    """Clips of the language that nobody labelled: a slip where they are few, meant where they are most."""
    rows = labels.corpus.select(language=labels.language, with_text=False)
    clips = len(rows) + len(labels.rows)
    if not len(rows) or not len(labels.rows):
        return []
    have, them = ("has", "it") if len(rows) == 1 else ("have", "them")
    what = f"{len(rows):,} of {clips:,} clips {have} no label; fit does not learn from {them}"
    if len(rows) > clips / 2:
        return [Finding("unlabelled", "fine", f"{what}, pretraining does")]
    fix = "if that is an oversight, write what is said into the table and prepare it again"
    return [Finding("unlabelled", "look", what, fix, [Example(int(row), "no label") for row in rows[:EXAMPLES]])]


def leaking(labels: Labels) -> list[int]:
    """Places of training clips whose sentence is said in dev or test."""
    held = {labels.normal[p] for code in (DEV, TEST) for p in labels.where(code)} - {""}
    return [int(p) for p in labels.where(TRAIN) if labels.normal[p] in held]


def is_closed(labels: Labels) -> bool:
    """Whether the labels are a few phrases said again and again, as commands are."""
    return len(set(labels.normal)) <= CLOSED * len(labels.normal)


def _sentences(labels: Labels) -> list[Finding]:
    trained = {labels.normal[p] for p in labels.where(TRAIN)} - {""}
    test = labels.where(TEST)
    places = [int(p) for p in test if labels.normal[p] in trained]
    if not places or not trained:
        return []
    share = len(places) / len(test)
    what = f"{plural(len(places), 'test clip')} ({share:.0%}) with a sentence that is trained on"
    if is_closed(labels):
        phrases = plural(len(set(labels.normal)), "phrase")
        what = f"the labels are {phrases} again and again ({share:.0%} of the test's are trained on)"
        fix = "fine for commands: the test tells about new voices, not new words"
        return [Finding("sentence leak", "look", what, fix, labels.examples(places))]
    fix = "--fix takes the labels off the training clips that say them, or makes new splits where that is too many"
    weight = "stop" if share > LEAKING else "look"
    return [Finding("sentence leak", weight, what, fix, labels.examples(places), mended=True)]  # type: ignore[arg-type]


def _speakers(labels: Labels) -> list[Finding]:
    of = [{labels.speakers[p] for p in labels.where(code)} - {""} for code in range(3)]
    both = of[TRAIN] & (of[TEST] | of[DEV])
    everyone = of[TRAIN] | of[DEV] | of[TEST]
    if not everyone:
        what = "no clip says who speaks: whether voices are in train and test alike cannot be told"
        return [Finding("speakers", "look", what, "give a speaker column to lalia prepare, if there are several")]
    if not both:
        return []
    named = some(sorted(both), 4)
    if len(everyone) < ENOUGH_SPEAKERS:
        what = f"{plural(len(everyone), 'voice')}, in train and test alike: the test tells of new sentences, not of new voices"
        return [Finding("speakers", "look", what, "record others before you rely on it for others")]
    what = f"{len(both)} of {len(everyone)} speakers are in train and in dev or test ({named})"
    return [
        Finding("speaker leak", "look", what, "split by speaker: lalia prepare does where the splits are left to it")
    ]


def _recordings(labels: Labels) -> list[Finding]:
    """The same samples twice, and parts of one recording on both sides."""
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
                "--fix keeps the test's and drops the others",
                labels.examples(places),
                True,
            )
        )
    inside = [group for group in twins if len({int(splits[row]) for row in group}) == 1]
    if inside:
        differing = [g for g in inside if len({labels.normal[place[r]] for r in g}) > 1]
        what = f"{plural(len(inside), 'recording', 'is', 'are')} there twice" + (
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
        found.append(Finding("recording leak", "look", what, "split whole recordings: name one speaker per recording"))
    return found


def same_recordings(corpus: Corpus, rows: np.ndarray) -> list[list[int]]:
    """Groups of rows that hold the same bytes of audio. Only clips that last equally long are read."""
    _, inverse, counts = np.unique(corpus.durations_s[rows], return_inverse=True, return_counts=True)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows[counts[inverse] > 1]:
        groups[hashlib.blake2b(corpus.audio_bytes(int(row)), digest_size=16).digest()].append(int(row))
    return [group for group in groups.values() if len(group) > 1]


# --- The check of pairs ----------------------------------------------------------------------------------

FAR_BELOW = 4.0
"""A suspect: so many usual deviations worse than the median pair ..."""
MISHEARD = 0.6
"""... of which the recogniser hears so few letters: errors per letter, at least; ..."""
UNLIKELY = 10.0
"""... and so many nats in all: a word of two letters that is misheard is no proof."""


@dataclass(frozen=True)
class Judge:
    """A recogniser or student as far as it is needed here."""

    name: str
    tokens: Tokens
    normaliser: Normaliser
    log_probs: Callable[[np.ndarray], np.ndarray]
    align: Callable[[np.ndarray, list[int]], np.ndarray]
    """(log-probabilities (T, V), token numbers) -> which of them each frame says: ``lalia.decoding.forced_alignment.align``"""


def load_judge(folder: Path) -> Judge:
    """The recogniser or student in ``folder``."""
    kind = read_card(folder)["kind"]
    if kind == "student":
        from lalia.runtime.student import Student

        student = Student.load(folder)
        return Judge(str(folder), student.tokens, student.normaliser, student.log_probs, align)
    if kind != "recogniser":
        raise UserError(f"--recogniser {folder}: is of kind {kind}; expected a recogniser or a student")
    import torch

    from lalia.models.recogniser import Recogniser
    from lalia.models.recogniser import align as align_sooner

    recogniser = Recogniser.load(folder)

    def log_probs(wave_S: np.ndarray) -> np.ndarray:
        found_BTV, frames_B = recogniser.log_probs(torch.from_numpy(wave_S)[None], torch.tensor([len(wave_S)]))
        return found_BTV[0, : int(frames_B[0])].numpy()

    return Judge(str(folder), recogniser.tokens, recogniser.normaliser, log_probs, align_sooner)


@dataclass(frozen=True)
class Judged:
    """A pair: its place, by how much the label is less likely than what is heard (nats a letter, and in all), errors a letter,
    and what is heard."""

    place: int
    gap: float
    nats: float
    errors: float
    heard: str


def judge(labels: Labels, judge: Judge) -> Iterator[Judged]:
    """Every pair that can be judged; a label that does not fit its frames has an infinite gap.

    The gap is the log-probability of the best path less that of the best path that spells the label, per letter of it.
    """
    require_head(judge.tokens, (judge.normaliser(text) for text in labels.texts), judge.name)
    for place, row in enumerate(labels.rows):
        text = judge.normaliser(labels.texts[place])
        ids = judge.tokens.encode(text, skip_unknown=True)
        if not ids:
            continue
        try:
            log_probs_TV = judge.log_probs(labels.corpus.wave(int(row)))
        except AudioError:
            continue
        heard = transcript(best_path(log_probs_TV), judge.tokens)
        errors = character_errors(text, heard).rate
        try:
            path_T = judge.align(log_probs_TV, ids)
        except ValueError:
            yield Judged(place, float("inf"), float("inf"), errors, heard)
            continue
        spoken_T = np.where(path_T >= 0, np.asarray(ids)[path_T], 0)
        spelled = float(log_probs_TV[np.arange(len(path_T)), spoken_T].sum())
        nats = float(log_probs_TV.max(1).sum()) - spelled
        yield Judged(place, nats / len(ids), nats, errors, heard)


def suspects(judged: list[Judged]) -> list[Judged]:
    """The pairs that fall out of the ordinary, the worst first."""
    if not judged:
        return []
    gaps = np.array([j.gap for j in judged])
    finite = gaps[np.isfinite(gaps)]
    if not len(finite):
        return []
    middle = float(np.median(finite))
    deviation = 1.4826 * float(np.median(np.abs(finite - middle)))
    beyond = middle + FAR_BELOW * max(deviation, 1e-3)
    found = [j for j in judged if j.gap > beyond and j.errors >= MISHEARD and j.nats >= UNLIKELY]
    return sorted(found, key=lambda j: -j.gap)


def check_pairs(labels: Labels, folder: Path) -> tuple[list[Finding], list[Example], list[int]]:
    """The finding, all suspects with what is heard in them, and their places."""
    found = suspects(list(judge(labels, load_judge(folder))))
    examples = [Example(int(labels.rows[j.place]), f"heard: {j.heard or 'nothing'}") for j in found]
    if not found:
        return [Finding("pairs", "fine", f"{folder} hears in every clip something like its label")], [], []
    what = f"in {plural(len(found), 'clip')} {folder} hears something else than the label says"
    fix = "listen to them on the page; --fix takes these labels off"
    return [Finding("pairs", "look", what, fix, examples[:5], True)], examples, [j.place for j in found]
