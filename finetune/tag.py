"""Train a tagger (``lalia finetune tag``): a classifier of whole clips, evaluated on sources or speakers that it never saw.

By default the encoder is frozen and one linear layer is solved in closed form, in seconds; ``--all-weights`` trains both. With
``--teacher`` the labels are another tagger's. The result is ``RUN/classifier`` (torch), ``RUN/tagger`` (int8, for ``lalia tag``)
and ``RUN/scores.json``.

B clips, S samples, N clips, C labels, D width.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.presets import find_encoder
from finetune.teacher import ask_teacher
from lalia.cards import read_card, write_bytes, write_json
from lalia.cli.parser import Parser, positive, print_next
from lalia.data.augment import Augment, AugmentSettings
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.data.seeds import reseed
from lalia.errors import GateRefused, UserError
from lalia.model_folder import MODEL
from lalia.models.classifier import Classifier, TaggerFacts
from lalia.models.encoder import Encoder
from lalia.models.export.onnx_export import export_tagger
from lalia.onnx_session import open_session
from lalia.tags.tagger import Tagger
from lalia.training.linear_probe import Figures, Question, ask, clip_moments, figures, solve, temperature
from lalia.training.settings import SpecAugmentSettings
from lalia.units import plural

ABOUT = """\
Train a tagger: labels of whole clips (language, speaker, emotion, command, …) from an encoder.

  lalia finetune tag data/commands --label command --apart speaker --out runs/commands
  lalia finetune tag data/commands --label command --apart speaker --all-weights --out runs/commands-full
  lalia finetune tag data/a data/b data/c --label language --apart source --out runs/languages
  lalia finetune tag data/radio --teacher mms-languages --out runs/small

COLUMN is language, speaker, source or text, or a column that lalia prepare --keep kept. By default the encoder is frozen and a
linear layer is solved in closed form, in seconds; --all-weights trains the encoder too, in minutes. Accuracy is measured on
sources or speakers that training never saw. Where labels and sources coincide it cannot be known, and none is printed.

--teacher distils a large tagger into a small one on audio without labels. There is no RUN/tagger if the two agree on fewer
than --agreement of the clips that training never saw (exit status 1).

Then: lalia tag RUN talk.wav
"""
SCORES = "scores.json"
"""Written last: the figures, and the arguments of the finished run."""
CHECKED = 200
"""Clips on which the int8 tagger is compared with the float classifier."""
AGREEMENT = 0.97
"""Share of them on which both must name the same label; else the tagger stays in float32."""
HELD_OUT = 4
"""With ``--all-weights`` every fourth fold is held out."""


def main(argv: list[str]) -> int:
    """Train, evaluate and export; the exit status. ``GateRefused`` if the tagger agrees too seldom with its teacher."""
    args = _arguments(argv)
    folder, out = find_encoder(args.encoder), Path(args.out)
    mixture = Mixture.load(args.corpus)
    teacher = Tagger.load(args.teacher) if args.teacher else None
    sources = [read_card(Path(folder)), *mixture.cards, *([teacher.card] if teacher else [])]
    asked = _asked(args) | {"inputs": [card["id"] for card in sources]}
    if (out / SCORES).is_file():
        if json.loads((out / SCORES).read_text(encoding="utf-8"))["arguments"] != asked:
            raise UserError(f"{out}: holds a tagger made with other settings or inputs; choose another --out")
        _say(f"{out}: this run is finished; its tagger is {out / 'tagger'}")
        return 0
    if teacher:
        question, targets_NC = ask_teacher(mixture, teacher, args.apart, args.max_s)
    else:
        question = ask(mixture, args.label, args.apart, args.max_s, args.only)
        targets_NC = np.eye(len(question.names))[question.labels]
    if lost := sorted(set(args.reject) - set(question.names)):
        raise UserError(f"--reject {lost[0]}: is not a label; there are {', '.join(question.names[:20])}")
    for note in question.notes:
        _say(note)
    facts = _facts(args, mixture, question, teacher)
    encoder = Encoder.load(folder)
    if args.blocks and args.blocks > encoder.shape.layers:
        raise UserError(f"--blocks {args.blocks}: the encoder has {encoder.shape.layers}")
    classifier, found, scores = (all_weights if args.all_weights else closed_form)(
        encoder, mixture, question, targets_NC, facts, args
    )
    score = "agreement with the teacher" if teacher else "accuracy"
    _say(found.line(question, score) if found else question.confounded)
    scores |= {"label": question.column, "apart": question.apart, "clips": len(question.rows)}
    scores |= {"unknown": question.confounded}
    if teacher and found:
        scores["agreement"] = scores.pop("accuracy")
    classifier.save(out / "classifier", sources, evaluation=scores)
    if teacher:
        _check_agreement(found, args.agreement, out)
    card = read_card(out / "classifier")
    made = export_tagger(classifier, out / "tagger", [card], evaluation=scores)
    agreement = _agreement(classifier, out / "tagger" / MODEL, mixture, question.rows)
    if agreement < AGREEMENT:
        _say(
            f"int8 names another label than float32 for {1 - agreement:.1%} of the clips, so the tagger stays in float32"
        )
        made = export_tagger(classifier, out / "tagger", [card], int8=False, evaluation=scores)
    else:
        _say(f"int8 names the label of float32 for {agreement:.1%} of {min(CHECKED, len(question.rows))} clips")
    write_json(out / SCORES, {**scores, "arguments": asked})
    _say(f"{out / 'tagger'}: {plural(len(question.names), 'label')}, {made['bytes'] / 1e6:.2f} MB")
    print_next((f"lalia tag {out} talk.wav", "labels of audio files"))
    return 0


def _facts(args: argparse.Namespace, mixture: Mixture, question: Question, teacher: Tagger | None) -> TaggerFacts:
    licences = {str(licence) for card in mixture.cards for licence in card.get("licences", [])}
    rejected = args.reject
    if teacher:
        licences |= {str(teacher.card.get("licence") or "")} - {""}
        rejected = rejected or sorted(teacher.rejected & set(question.names))
    return TaggerFacts(
        args.task or {"text": "command"}.get(question.column, question.column), question.names,
        licence="; ".join(sorted(licences)), rejected=rejected,
        clip_s=round(float(np.median(mixture.durations_s[question.rows])), 3),
    )  # fmt: skip


def _check_agreement(found: Figures | None, limit: float, out: Path) -> None:
    """Raise ``GateRefused`` if the student names the teacher's label too seldom, or it is not known how often."""
    if limit and (found is None or found.accuracy < limit):
        known = f"is {found.accuracy:.3f}" if found else "cannot be known"
        raise GateRefused(
            f"{out / 'tagger'}: not exported. The agreement with the teacher {known}; the limit (--agreement) is {limit:g}. Give "
            f"more audio, another --encoder, or --all-weights; as it is: lalia convert {out / 'classifier'} int8:{out / 'tagger'}"
        )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="lalia finetune tag", description=ABOUT)
    parser.add_argument("corpus", nargs="+", metavar="CORPUS", help="corpora made by lalia prepare")
    parser.add_argument("--label", metavar="COLUMN", help="the column to tell apart")
    parser.add_argument(
        "--teacher", metavar="TAGGER", help="instead of --label: learn what this tagger says of the clips"
    )
    parser.add_argument(
        "--apart",
        choices=("source", "speaker", "recording"),
        help="what the evaluation holds out (with --teacher: speakers if all are known, else recordings)",
    )
    parser.add_argument(
        "--agreement",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="with --teacher: share of clips on which both must name the same label (0.9; 0 = any)",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder of this run")
    parser.add_argument("--encoder", default="nano-multilingual", metavar="FOLDER", help="(nano-multilingual)")
    parser.add_argument(
        "--blocks",
        type=positive,
        metavar="N",
        help="use the first N blocks of the encoder (default: all); fewer are smaller",
    )
    parser.add_argument("--only", type=_words, default=[], metavar="LABEL,…", help="only these labels")
    parser.add_argument(
        "--reject", type=_words, default=[], metavar="LABEL,…", help="labels that mean that none of the others is there"
    )
    parser.add_argument("--task", default="", metavar="NAME", help="what the labels are (default: the column)")
    parser.add_argument(
        "--max_s", type=float, default=15.0, metavar="S", help="longer clips are left out, seconds (15)"
    )
    parser.add_argument(
        "--all-weights", action="store_true", help="train the encoder too; every fourth fold is held out"
    )
    parser.add_argument("--steps", type=positive, default=600, metavar="N", help="steps of --all-weights (600)")
    parser.add_argument("--lr", type=float, default=1e-3, metavar="RATE", help="its peak learning rate (0.001)")
    parser.add_argument("--batch_s", type=float, default=60.0, metavar="S", help="seconds of audio of its steps (60)")
    parser.add_argument(
        "--noise",
        default="",
        metavar="FOLDER",
        help="folder of noise to add with --all-weights (default: coloured noise)",
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if bool(args.label) == bool(args.teacher):
        raise UserError(f"give either --label COLUMN or --teacher TAGGER; see: {parser.prog} --help")
    if args.label and args.apart not in ("source", "speaker"):
        raise UserError(
            f"--apart {args.apart or 'is missing'}: expected source or speaker, which the evaluation holds out"
        )
    if args.teacher and args.only:
        raise UserError("--only belongs to --label; a student has the labels that its teacher names")
    return args


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide the result."""
    return {name: value for name, value in vars(args).items() if name not in ("out", "agreement")}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _say(line: str) -> None:
    print(f"lalia: {line}", file=sys.stderr, flush=True)


# --- In closed form --------------------------------------------------------------------------------------


def closed_form(
    encoder: Encoder, mixture: Mixture, question: Question, targets_NC: np.ndarray, facts: TaggerFacts,
    args: argparse.Namespace,
) -> tuple[Classifier, Figures | None, dict[str, Any]]:  # fmt: skip
    """A linear layer on the frozen ``encoder`` that gives each clip the probabilities ``targets_NC``; its figures (None: cannot
    be known) and scores."""

    def layers(wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        states, frames_B = encoder.hidden_states(wave_BS, lengths_B)
        return [
            [clip_TD[:frames] for clip_TD, frames in zip(state, frames_B.tolist(), strict=True)]
            for state in states[: args.blocks + 1 if args.blocks else None]
        ]

    found = solve(question, clip_moments(mixture, question.rows, layers), targets_NC)
    last = len(found.linears) - 1
    facts.layer, facts.joined, facts.moments = last, True, 2
    classifier = Classifier(encoder, facts).eval()
    among = question.scored if question.scored.any() else np.ones(len(question.rows), bool)
    factor = temperature(found.held_out_NC[among], targets_NC[among])
    with torch.no_grad():
        halves = zip(*(np.split(linear.weight_CD, 2, axis=1) for linear in found.linears), strict=True)
        weight_CD = np.concatenate([part_CD for half in halves for part_CD in half], axis=1) / (last + 1)
        bias_C = np.mean([linear.bias_C for linear in found.linears], axis=0)
        classifier.head.weight.copy_(torch.from_numpy(factor * weight_CD))
        classifier.head.bias.copy_(torch.from_numpy(factor * bias_C))
    scores: dict[str, Any] = {"weights": "closed form on a frozen encoder", "layer": last}
    if question.confounded:
        return classifier, None, scores
    shown = figures(question, found.held_out_NC.argmax(1))
    by_layer = ", ".join(f"{number}: {accuracy:.3f}" for number, accuracy in enumerate(found.by_layer))
    score = "agreement" if args.teacher else "accuracy"
    _say(f"{score} by last layer (0 is the input of the first block): {by_layer}; layers 0 to {last} are used")
    return classifier, shown, {**scores, **asdict(shown), "by_layer": found.by_layer}


# --- All weights -----------------------------------------------------------------------------------------

REGULAR = SpecAugmentSettings(time_coverage=0.2, channel_coverage=0.1)
SMOOTHING = 0.1
"""Label smoothing."""
KEPT_EVERY = 100
"""Steps between two checkpoints."""


def all_weights(
    encoder: Encoder, mixture: Mixture, question: Question, targets_NC: np.ndarray, facts: TaggerFacts,
    args: argparse.Namespace,
) -> tuple[Classifier, Figures | None, dict[str, Any]]:  # fmt: skip
    """An encoder and a linear layer trained together on three of four folds; as ``closed_form``."""
    held_N = question.folds % HELD_OUT == 0
    if not (question.scored & held_N).any() and not question.confounded:
        raise UserError(f"too few {question.apart}s to hold some out; leave --all-weights out")
    learned = {question.names[label] for label in question.labels[~held_N].tolist()}
    if lost := sorted(set(question.names) - learned):
        raise UserError(
            f"{lost[0]!r} stands in held-out {question.apart}s only; leave --all-weights out, or use --only"
        )
    reseed(args.seed, "tagger", 0)
    facts.layer = args.blocks or -1
    classifier = Classifier(encoder, facts)
    encoder.blocks.layer_drop_p = 0.0  # the states of all layers are collected
    torch.nn.init.zeros_(classifier.head.weight)
    torch.nn.init.zeros_(classifier.head.bias)
    rows = question.rows[~held_N]
    place = {int(row): number for number, row in enumerate(question.rows)}
    _train(classifier, mixture, rows, torch.from_numpy(targets_NC).float(), place, args)
    predicted_N = np.full(len(question.rows), -1)
    with torch.inference_mode():
        for batch in make_eval_loader(mixture, question.rows[held_N], args.batch_s):
            best_B = classifier(batch.wave_BS, batch.lengths_B).argmax(-1)
            for row, best in zip(batch.rows_B.tolist(), best_B.tolist(), strict=True):
                predicted_N[place[row]] = best
    scores: dict[str, Any] = {"weights": "all", "steps": args.steps, "trained_clips": len(rows)}
    if question.confounded:
        return classifier, None, scores
    shown = figures(question, predicted_N, held_N)
    return classifier, shown, {**scores, **asdict(shown)}


def _train(
    classifier: Classifier, mixture: Mixture, rows: np.ndarray, targets_NC: Tensor, place: dict[int, int],
    args: argparse.Namespace,
) -> None:  # fmt: skip
    """Train in place on the targets at each row's ``place``, with AdamW and a triangular learning rate, from the checkpoint of an
    interrupted call if there is one."""
    plan = BatchPlan(
        durations_s=mixture.durations_s, groups=np.zeros(len(mixture), np.int32), rows=rows, seed=args.seed,
        micro_batch_s=args.batch_s, min_s=0.0, max_s=float(mixture.durations_s[rows].max()), alpha=1.0, crop=False,
    )  # fmt: skip
    augment = Augment(AugmentSettings(speed=0.3, noise=0.5, gain=0.3, noise_folder=args.noise))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, args.steps, pct_start=0.1, anneal_strategy="linear"
    )
    path = Path(args.out) / "checkpoint.pt"
    begun = _asked(args)
    step = 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        if state["arguments"] != begun:
            raise UserError(f"{path}: was begun with other settings; give them again, or another --out")
        classifier.load_state_dict(state["classifier"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step = state["step"]
        _say(f"continuing from step {step}")
    batches = make_loader(
        mixture, plan, start=step, workers=1, augment=augment,
        finish=REGULAR.sampler(args.seed, classifier.encoder.shape), context="threads",
    )  # fmt: skip
    classifier.train()
    for batch in batches:
        if step == args.steps:
            break
        reseed(args.seed, "dropout", batch.number)
        assert batch.masks is not None
        targets_BC = targets_NC[[place[row] for row in batch.rows_B.tolist()]]
        logits_BC = classifier(batch.wave_BS, batch.lengths_B, batch.masks.frames_BT, batch.masks.channels_BD)
        loss = F.cross_entropy(logits_BC, targets_BC, label_smoothing=0.0 if args.teacher else SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if step % KEPT_EVERY == 0:
            _say(f"step {step} of {args.steps}: loss {loss.item():.3f}")
            _keep(path, {"arguments": begun, "step": step, "classifier": classifier.state_dict(),
                         "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})  # fmt: skip
    classifier.eval()
    path.unlink(missing_ok=True)


def _keep(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


# --- The exported tagger ---------------------------------------------------------------------------------


@torch.inference_mode()
def _agreement(classifier: Classifier, graph: Path, mixture: Mixture, rows: np.ndarray) -> float:
    """The share of clips, at most ``CHECKED``, for which the graph names the same label as ``classifier``."""
    session = open_session(graph)
    same = []
    chosen = rows if len(rows) <= CHECKED else rows[np.linspace(0, len(rows) - 1, CHECKED).astype(int)]
    for row in chosen.tolist():
        wave_1S = mixture.wave(row)[None]
        expected = int(classifier(torch.from_numpy(wave_1S), torch.tensor([wave_1S.shape[1]])).argmax())
        [logits_1TC] = session.run(["logits"], {"wave": wave_1S})
        same.append(int(logits_1TC[0].mean(0).argmax()) == expected)
    return float(np.mean(same))
