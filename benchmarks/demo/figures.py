"""The figures of a demo run, read from the folders of its stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluate import DECODING
from lalia.cards import read_card
from lalia.errors import UserError
from lalia.report.page import Goal
from lalia.report.run_page import RunFolder

if TYPE_CHECKING:
    from benchmarks.demo.run import Demo

DEMO = "demo.json"

ACCURACY_OVER_CHANCE = 5.0
CODES_IN_USE = 1 / 3
PRETRAINED_OVER_RANDOM = 0.8
STUDENT_BYTES = 1 / 4
STUDENT_SPEED = 2.0
STUDENT_CER = 1.15


@dataclass(frozen=True)
class Arm:
    """One fine-tuning run: its initial weights, learning rate and scores."""

    start: str
    rate: float
    run: RunFolder
    dev_cer: float
    chosen: bool
    """whether it is the best run from these initial weights on the dev split"""

    @property
    def scores(self) -> dict[str, Any]:
        """Test CER and WER with their intervals, and every clip."""
        assert self.run.scores is not None
        return self.run.scores


@dataclass(frozen=True)
class Contender:
    """One of the recognisers compared by the export."""

    name: str
    parameters: int
    mb: float
    cer: float
    wer: float
    rtf: float
    """real-time factor, on one thread"""


@dataclass(frozen=True)
class LmScores:
    """The student with and without n-grams of the training labels, as measured by ``lalia finetune lm``."""

    name: str
    """name of the n-grams"""
    cer: float
    wer: float
    wer_alone: float
    sentences: int
    """number of sentences in the n-grams"""
    mb: float
    rtf: float
    """real-time factor of acoustic model and search, on one thread"""

    @classmethod
    def load(cls, demo: Demo) -> LmScores:
        """Read the scores; ``UserError`` if they do not exist yet."""
        path = demo.decoding / DECODING
        if not path.is_file():
            raise UserError(f"{path}: does not exist yet; run the demo again to continue it")
        found = json.loads(path.read_text(encoding="utf-8"))
        alone, weighed = found["ways"]
        card = read_card(demo.lm)
        work_s = found["model_seconds_per_hour"] + weighed["seconds_per_hour"]
        size = sum(file.stat().st_size for file in demo.lm.iterdir())
        return cls(
            weighed["name"], weighed["cer"], weighed["wer"], alone["wer"], card["sentences"], size / 1e6, work_s / 3600
        )


@dataclass(frozen=True)
class Figures:
    """All figures of the report."""

    corpus: dict[str, Any]
    """the corpus card"""
    pretrain: RunFolder
    arms: list[Arm]
    distill: RunFolder
    student: dict[str, Any]
    """the student's card"""
    contenders: list[Contender]
    """teacher, student in float, student in int8"""
    spoken: LmScores
    """the student in int8 with a language model"""

    @classmethod
    def load(cls, demo: Demo) -> Figures:
        """Read the results of ``demo``; ``UserError`` if a part is missing."""
        arms = []
        for start in ("pretrained", "random"):
            best = demo.best_arm(start)
            for rate in demo.budget.rates:
                run = RunFolder.load(demo.arm(start, rate))
                if run.scores is None:
                    raise UserError(f"{run.folder}: is not finished; run the demo again to continue it")
                arms.append(Arm(start, rate, run, dev_cer(run.folder), run.folder == best))
        student = read_card(demo.student, "student")
        teacher = read_card(demo.best_arm("pretrained") / "recogniser", "recogniser")
        return cls(
            read_card(demo.corpus, "corpus"), RunFolder.load(demo.pretrain), arms, RunFolder.load(demo.distill),
            student, contenders(student, teacher), LmScores.load(demo),
        )  # fmt: skip

    def chosen(self, start: str) -> Arm:
        """The best arm from ``start`` weights on the dev split."""
        return next(arm for arm in self.arms if arm.start == start and arm.chosen)

    @property
    def pretraining(self) -> dict[str, Any]:
        """accuracy, chance, code_perplexity, codes, steps, hours of the pretraining run."""
        if self.pretrain.finished is None:
            raise UserError(f"{self.pretrain.folder}: is not finished; run the demo again to continue it")
        return self.pretrain.finished

    def summary(self) -> dict[str, dict[str, float]]:
        """The figures of ``summary.json``: error rates as shares, sizes in megabytes, RTF as seconds per second."""
        pretrained, random = self.chosen("pretrained"), self.chosen("random")
        teacher, student, int8 = self.contenders
        return {
            "pretrain": {key: self.pretraining[key] for key in ("accuracy", "chance", "code_perplexity", "codes")},
            "finetune": {
                "cer_pretrained": pretrained.scores["cer"],
                "cer_random": random.scores["cer"],
                "wer_pretrained": pretrained.scores["wer"],
                "wer_random": random.scores["wer"],
                "minutes_of_labels": pretrained.scores["minutes_of_labels"],
            },
            "student": {
                "cer_teacher": teacher.cer,
                "cer_float": student.cer,
                "cer_int8": int8.cer,
                "cer_lm": self.spoken.cer,
                "wer_int8": int8.wer,
                "wer_lm": self.spoken.wer,
                "mb_teacher": teacher.mb,
                "mb_int8": int8.mb,
                "rtf_teacher": teacher.rtf,
                "rtf_int8": int8.rtf,
            },
        }


def contenders(student: dict[str, Any], teacher: dict[str, Any]) -> list[Contender]:
    """Teacher, student in float and student in int8, with the measurements of the export from the student's card."""
    made = (
        ("teacher", "teacher", teacher["parameters"], student["bytes_teacher"]),
        ("student, float", "float", student["parameters"], student["bytes_float"]),
        ("student, int8", "int8", student["parameters"], student["bytes"]),
    )
    return [
        Contender(
            name, parameters, size / 1e6, student["scores"][key]["cer"], student["scores"][key]["wer"],
            student["rtf"][key]["1"],
        )
        for name, key, parameters, size in made
    ]  # fmt: skip


def dev_cer(run: Path) -> float:
    """The best CER of ``run`` on the dev split: that of the stored weights."""
    best = RunFolder.load(run).best("valid/cer")
    if best is None:
        raise UserError(f"{run}: has no dev scores yet; run the demo again to continue it")
    return best


def goals(summary: dict[str, dict[str, float]]) -> list[Goal]:
    """The goals of the demo, and whether they were reached."""
    pretrain, finetune, student = summary["pretrain"], summary["finetune"], summary["student"]
    over_chance = pretrain["accuracy"] / pretrain["chance"]
    in_use = pretrain["code_perplexity"] / pretrain["codes"]
    bought = finetune["cer_pretrained"] / max(finetune["cer_random"], 1e-9)
    size = student["mb_int8"] / student["mb_teacher"]
    speed = student["rtf_teacher"] / student["rtf_int8"]
    worse = student["cer_int8"] / max(student["cer_teacher"], 1e-9)
    return [
        Goal(
            over_chance >= ACCURACY_OVER_CHANCE,
            "Pretraining identifies the masked frame at least 5 times as often as chance, on held-out audio.",
            f"It is right {100 * pretrain['accuracy']:.1f} % of the time, chance {100 * pretrain['chance']:.1f} %: "
            f"{over_chance:.1f} times as often.",
        ),
        Goal(
            in_use > CODES_IN_USE,
            "More than a third of the quantizer's codes are in use: the objective has not collapsed.",
            f"Code perplexity is {pretrain['code_perplexity']:.0f} of {pretrain['codes']:.0f} codes ({100 * in_use:.0f} %).",
        ),
        Goal(
            bought <= PRETRAINED_OVER_RANDOM,
            "Pretraining helps: with the same labels and steps, CER is at most 0.8 times that of a recogniser from random "
            "weights, each at its best learning rate.",
            f"Test CER {100 * finetune['cer_pretrained']:.1f} % against {100 * finetune['cer_random']:.1f} %: "
            f"{bought:.2f} times.",
        ),
        Goal(
            size <= STUDENT_BYTES,
            "The int8 student has at most a quarter of the teacher's size.",
            f"{student['mb_int8']:.2f} MB of {student['mb_teacher']:.2f} MB: {size:.2f} times.",
        ),
        Goal(
            speed >= STUDENT_SPEED,
            "It is at least twice as fast as the teacher on one thread.",
            f"{1 / student['rtf_int8']:.0f} × real time against {1 / student['rtf_teacher']:.0f}: {speed:.1f} times.",
        ),
        Goal(
            worse <= STUDENT_CER,
            "Its CER is at most 1.15 times the teacher's.",
            f"Test CER {100 * student['cer_int8']:.1f} % against {100 * student['cer_teacher']:.1f} %: {worse:.2f} times.",
        ),
    ]


@dataclass(frozen=True)
class Part:
    """One command of the demo, and its total time over all attempts."""

    name: str
    command: str
    seconds: float
    done: bool
    note: str = ""
    """a remark about its result"""


def parts_of(out: Path) -> list[Part]:
    """The commands that the demo in ``out`` has run, in order."""
    path = out / DEMO
    if not path.is_file():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    return [Part(**part) for part in kept["parts"]]
