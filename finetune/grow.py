"""``lalia finetune grow``: from few labels to many, in rounds of training a recogniser and aligning recordings with it.

Round N: fit on the labels and on what round N - 1 accepted; align the recordings with their text; give pseudo-labels to audio
without text. Aligned and pseudo-labelled clips are corpora of their own, so their hours stay apart on every card. All of them
are training clips: every round is scored on the same held-out labelled clips.
"""

from __future__ import annotations

import copy
import csv
import io
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from finetune.config import FinetuneSettings, GrowSettings
from finetune.evaluate import LM, RECOGNISER, FinetunedModel
from finetune.fit import finetune
from finetune.lm import make_tuned_ngrams
from finetune.presets import apply_choices, data_choices
from lalia import config
from lalia.align.pairs import Pair, find_pairs
from lalia.align.pieces import NAME, Piece, decide, hours_by_status, read_pieces
from lalia.align.recordings import align_all
from lalia.cards import NAME as CARD
from lalia.cards import cores, read_card, write_text
from lalia.cli.lm import NgramOptions
from lalia.cli.parser import print_next
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.labels import held_out_rows
from lalia.data.mixture import Mixture
from lalia.data.prepare.listing import Listing
from lalia.data.prepare.pipeline import Recipe, prepare, rewrite
from lalia.data.prepare.sources.aligned import list_pieces
from lalia.data.prepare.workers import make_parts
from lalia.decoding.decoder import make_decoder
from lalia.errors import UserError
from lalia.lm.build import LeakageFilter
from lalia.lm.folder import LanguageModel
from lalia.model_folder import RUN, STUDENT, find_made
from lalia.models.recogniser import Recogniser
from lalia.report.correction_page import write_doubtful
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser
from lalia.training.run_log import read_metrics
from lalia.training.validation import transcribe_by_beam, transcribe_rows

ROUNDS = "rounds.tsv"
_RECORDS = (RUN, "metrics.jsonl", "scores.json", "report.html", "finished.json")
HELD_OUT = "held out"
"""Reason of a refused piece: its text has a sentence of a dev or test clip."""


@dataclass(frozen=True)
class Round:
    """A row of the table of rounds; hours of training clips, error rates on the held-out labelled clips."""

    round: int
    labelled_h: float
    """labels and accepted pieces that this round was trained on"""
    pseudo_labelled_h: float
    """pseudo-labels that this round was trained on"""
    dev_cer: float
    test_cer: float
    test_wer: float
    accepted_h: float
    doubtful_h: float
    refused_h: float
    pseudo_h: float
    """pseudo-labels that this round's recogniser made"""

    @property
    def made_h(self) -> float:
        return self.accepted_h + self.pseudo_h


def grow(settings: GrowSettings, out: Path, stated: Collection[str]) -> None:
    """Run the rounds below ``out``, or continue them; ``stated`` as in ``finetune.fit.finetune``."""
    language = _check(settings)
    if settings.preset != "none":
        apply_choices(settings, data_choices(settings, stated), stated)
    pairs = find_pairs([Path(path) for path in settings.grow.source], _say) if settings.grow.source else []
    rounds: list[Round] = []
    models: list[FinetunedModel] = []
    more: list[Path] = []
    for number in range(1, settings.grow.rounds + 1):
        folder = out / f"round-{number}"
        _say(f"--- round {number}")
        if number == 1 and settings.grow.recogniser:
            models.append(_given(settings, folder))
        else:
            models.append(_fit(settings, folder / "fit", more, stated))
        aligned, pseudo = folder / "aligned", [folder / f"pseudo-{n + 1}" for n in range(len(settings.grow.unlabelled))]
        if pairs:
            _align(settings, pairs, models[-1], aligned, language)
        for corpus, made in zip(settings.grow.unlabelled, pseudo, strict=True):
            _pseudo_label(
                settings, models[-1], [*settings.data.corpus, *([aligned] if pairs else [])], Path(corpus), made
            )
        rounds.append(_measure(settings, number, models[-1], more, aligned if pairs else None, pseudo))
        write_text(out / ROUNDS, table_of(rounds))
        _say(_describe(rounds[-1]))
        more = [corpus for corpus in (aligned, *pseudo) if (corpus / CARD).is_file()]
        if len(rounds) > 1 and rounds[-1].made_h < rounds[-2].made_h * (1 + settings.grow.least):
            _say("the accepted hours no longer grow")
            break
    best = min(rounds, key=lambda one: round(one.dev_cer, 4))
    _publish(settings, models[best.round - 1], out)
    last = out / f"round-{len(rounds)}" / "aligned"
    print(
        f"the best recogniser on dev is that of round {best.round}: test CER {best.test_cer:.3f}, in round 1 "
        f"{rounds[0].test_cer:.3f}; it is {out / RECOGNISER}, the table of rounds {out / ROUNDS}"
    )
    print_next(
        (f"lalia transcribe {out} talk.mp3", "transcribe a file"),
        *([(f"lalia align {last} --corrections corrections.tsv --out {out}-checked",
            f"after listening to {last}/doubtful.html")] if pairs else []),
    )  # fmt: skip


def table_of(rounds: Sequence[Round]) -> str:
    """``rounds.tsv``."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow([field.name for field in fields(Round)])
    table.writerows([f"{value:.4f}" if isinstance(value, float) else value for value in astuple(one)] for one in rounds)
    return text.getvalue()


def _check(settings: GrowSettings) -> str:
    """The language of the aligned clips; ``UserError`` for settings that cannot work."""
    if settings.hardware.ranks > 1:
        raise UserError(
            f"hardware.devices {settings.hardware.devices}: grow trains on one device; on several, run fit and align in turn"
        )
    if settings.labels.minutes:
        raise UserError("labels.minutes: grow uses all labels of --data.corpus; leave it out")
    if settings.grow.rounds < 1:
        raise UserError(f"grow.rounds {settings.grow.rounds}: expected 1 or more")
    languages = settings.data.language or Mixture.load(settings.data.corpus).language_names
    if len(languages) != 1:
        raise UserError(f"the labels are in {', '.join(languages)}; choose one with --data.language")
    return languages[0]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# --- One round -------------------------------------------------------------------------------------------


def _given(settings: GrowSettings, folder: Path) -> FinetunedModel:
    """The recogniser that the user has for the first round."""
    path = Path(settings.grow.recogniser)
    find_made(str(path), RECOGNISER, "--grow.recogniser")
    corpora = [Path(corpus) for corpus in settings.data.corpus]
    return FinetunedModel.find(path, corpora, settings.data.language, folder)


def _fit(settings: GrowSettings, run: Path, more: Sequence[Path], stated: Collection[str]) -> FinetunedModel:
    """Train a recogniser on the labels and the corpora ``more``."""
    chosen = _fit_settings(settings, run)
    chosen.data.corpus += map(str, more)
    finetune(chosen, run, {name for name in stated if name.partition(".")[0] not in ("grow", "reading")})
    return FinetunedModel(run / RECOGNISER, run, [Path(path) for path in chosen.data.corpus], chosen.data.language, run)


def _fit_settings(settings: GrowSettings, run: Path) -> FinetuneSettings:
    """Those of a fit in ``run`` on the labels."""
    own = copy.deepcopy(settings)
    return FinetuneSettings(
        **{field.name: getattr(own, field.name) for field in fields(FinetuneSettings)} | {"out": str(run)}
    )


def _align(settings: GrowSettings, pairs: Sequence[Pair], model: FinetunedModel, out: Path, language: str) -> None:
    """The corpus of the accepted pieces of ``pairs``, and the pages of the doubtful ones."""
    folder = model.student()
    student, card = Student.load(folder, 1), read_card(folder)
    jobs = settings.hardware.threads or cores()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    held_out = LeakageFilter(set(_held_out_texts(settings, student.normaliser)), student.normaliser.writing)

    def listing(work: Path) -> Listing:
        pieces: list[Piece] = []
        refused: list[str] = []
        for pair, found in align_all(pairs, settings.reading, student, work / "align", jobs):
            for line in (*found.notes, *filter(None, [found.refused])):
                _say(f"{pair.audio.name}: {line}")
            if found.refused:
                refused.append(f"{pair.audio.name}: {found.refused}")
            pieces += [_decided(piece, settings.grow.accept, held_out, student.normaliser) for piece in found.pieces]
        if len(refused) == len(pairs):
            raise UserError(
                refused[0] if len(pairs) == 1 else f"none of {len(pairs)} recordings fits its text, see above"
            )
        if not any(piece.status == "accepted" for piece in pieces):
            best = min((piece.score for piece in pieces if piece.text), default=1.0)
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in Counter(p.reason for p in pieces).most_common()
            )
            raise UserError(
                f"{out}: no piece of {len(pieces)} is accepted (reasons: {reasons}; the best score is {best:.2f}); give more "
                "labels, or a larger --grow.accept"
            )
        return list_pieces(out.parent.parent.name, pieces, language, [card], accept=settings.grow.accept)

    recipe = {"aligned": True, "recogniser": card["id"], "accept": settings.grow.accept, **vars(settings.reading)}
    prepare(
        listing,
        Recipe(" ".join(settings.grow.source), recipe, None, "exact"),
        out,
        lambda units, work, segmentation, report: make_parts(units, work, segmentation, jobs, report),
        console,
    )
    command = f"lalia align {out} --corrections corrections.tsv --out {out.parent.parent}-checked"
    write_doubtful(out, read_pieces(out), language, out.parent.parent.name, command)


def _decided(piece: Piece, accept: float, held_out: LeakageFilter, normaliser: Normaliser) -> Piece:
    """``piece`` with its status; it is a training clip, and refused if it has a held-out sentence."""
    piece = replace(decide(piece, accept), split="train")
    text = normaliser(piece.text)
    if piece.status == "accepted" and list(held_out.filter([text])) != [text]:
        return replace(piece, status="refused", reason=HELD_OUT)
    return piece


def _held_out_texts(settings: GrowSettings, normaliser: Normaliser) -> list[str]:
    texts = []
    for path in settings.data.corpus:
        corpus = Corpus.load(path)
        for split in SPLITS[1:]:
            texts += [normaliser(corpus.text(int(row))) for row in corpus.select(split=split, with_text=True)]
    return [text for text in texts if text]


def _pseudo_label(
    settings: GrowSettings, model: FinetunedModel, texts: Sequence[Path | str], corpus: Path, out: Path
) -> None:
    """A corpus of the clips of ``corpus`` that beam search transcribes with confidence, with these transcripts as labels.

    The language model is counted from the labels of the corpora ``texts`` and the text files, never from pseudo-labels.
    """
    home = out.parent
    if not (home / LM / CARD).is_file():
        labelled = [Path(path) for path in texts]
        counted = FinetunedModel.find(model.run or model.source, labelled, settings.data.language, home)
        make_tuned_ngrams(counted, [Path(path) for path in settings.grow.text], NgramOptions())
    language_model, recogniser = LanguageModel.load(home / LM), Recogniser.load(model.source)
    unlabelled = Corpus.load(corpus)
    rows = unlabelled.select(with_text=False)
    rows = rows[unlabelled.durations_s[rows] <= settings.data.max_s]
    if not len(rows):
        raise UserError(
            f"{corpus}: has no clips without a label up to {settings.data.max_s:g} s; expected unlabelled audio"
        )
    decoder = make_decoder(Student.load(model.student(), 1), language_model)
    found = transcribe_by_beam(recogniser, decoder, Mixture([unlabelled]), rows)
    changes: dict[int, dict[str, str | float]] = {}
    for row in rows.tolist():
        tokens, sure = found.get(unlabelled.id(row), ([], 0.0))
        if tokens and sure >= settings.grow.confidence:
            changes[row] = {"text": " ".join(recogniser.tokens.decode(tokens).split()), "split": "train"}
    _say(f"{corpus}: {len(changes)} of {len(rows)} clips get a pseudo-label with enough confidence")
    if not changes:
        return
    facts = {
        "recogniser": read_card(model.source)["id"], "lm": language_model.id, "confidence": settings.grow.confidence,
        "transcribed_hours": round(float(unlabelled.durations_s[rows].sum()) / 3600, 4),
    }  # fmt: skip
    rewrite(unlabelled, out, np.array(sorted(changes), np.int64), changes, [], {}, pseudo_labels=facts)


# --- The table of rounds ---------------------------------------------------------------------------------


def _measure(
    settings: GrowSettings, number: int, model: FinetunedModel, more: Sequence[Path], aligned: Path | None,
    pseudo: Sequence[Path],
) -> Round:  # fmt: skip
    hours = (
        hours_by_status(read_pieces(aligned / NAME)) if aligned else {"accepted": 0.0, "doubtful": 0.0, "refused": 0.0}
    )
    trained = [_labelled_hours(Path(path)) for path in settings.data.corpus]
    trained += [_labelled_hours(path) for path in more if "pseudo_labels" not in read_card(path)]
    return Round(
        number, sum(trained), sum(_labelled_hours(path) for path in more if "pseudo_labels" in read_card(path)),
        *_rates(settings, model), hours["accepted"], hours["doubtful"], hours["refused"],
        sum(_labelled_hours(path) for path in pseudo if (path / CARD).is_file()),
    )  # fmt: skip


def _rates(settings: GrowSettings, model: FinetunedModel) -> tuple[float, float, float]:
    """CER on dev, CER and WER on test: of the run, or measured where the recogniser is of no run."""
    facts = read_card(model.source).get("finetuning", {})
    dev = [line["valid/cer"] for line in (read_metrics(model.run) if model.run else []) if "valid/cer" in line]
    if dev and "test_wer" in facts:
        return min(dev), facts["test_cer"], facts["test_wer"]
    mixture, limits = Mixture.load(settings.data.corpus), (settings.data.min_s, settings.data.max_s)
    recogniser = Recogniser.load(model.source)
    rows = held_out_rows(mixture, settings.data.language, *limits, leader=False)
    on_dev, on_test = (transcribe_rows(recogniser, mixture, split).score() for split in rows)
    return on_dev.cer.rate, on_test.cer.rate, on_test.wer.rate


def _labelled_hours(corpus: Path) -> float:
    """Hours of labelled training clips."""
    return sum(splits.get("train", 0.0) for splits in read_card(corpus, "corpus")["labelled_hours"].values())


def _describe(one: Round) -> str:
    parts = [f"accepted {one.accepted_h:.2f} h, doubtful {one.doubtful_h:.2f} h, refused {one.refused_h:.2f} h"]
    if one.pseudo_h:
        parts.append(f"pseudo-labels {one.pseudo_h:.2f} h")
    trained = f"{one.labelled_h:.2f} h of labels" + (
        f" and {one.pseudo_labelled_h:.2f} h of pseudo-labels" if one.pseudo_labelled_h else ""
    )
    return f"round {one.round}: CER {one.dev_cer:.3f} on dev, {one.test_cer:.3f} on test, from {trained}; " + ", ".join(
        parts
    )


def _publish(settings: GrowSettings, model: FinetunedModel, out: Path) -> None:
    """Copy the models and records of a round to ``out``, so that every command that takes a run takes ``out``."""
    for name, source in {RECOGNISER: model.source, STUDENT: model.student()}.items():
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(source, out / name)
    for name in _RECORDS:
        (out / name).unlink(missing_ok=True)
        if model.run and (model.run / name).is_file():
            shutil.copyfile(model.run / name, out / name)
    if not model.run:
        config.dump(_fit_settings(settings, out), out / RUN)
