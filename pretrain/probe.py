"""``lalia pretrain probe``: linear probes of frozen encoder layers for language, speaker and letters.

Language and speaker are classified from a layer's mean over time, letters from its frames by CTC, each with one matrix, and
scored on held-out clips. The first row of every table is plain log-mel, the baseline that an encoder has to beat.

With ``--ask COLUMN`` the same table is of any label of whole clips (emotion, command, …): each layer is a ridge regression,
scored on sources or speakers that it never saw (``lalia.training.linear_probe``).

B clips (N in a probe), S samples, T frames, D dimensions of a feature, C classes, V tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lalia.cards import write_json
from lalia.cli.parser import Parser, positive
from lalia.data.corpus import SPLITS
from lalia.data.labels import label_encoder
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.data.seeds import generator, mix
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.frontend import FFT, StackedFrames
from lalia.models.recogniser import ctc
from lalia.models.shape import FRAME_HOP, FRAME_WINDOW, EncoderShape
from lalia.report.charts import SERIES, Chart, Level, Line, line_chart, share
from lalia.report.page import Page, Section, figures, table
from lalia.scoring.rates import score
from lalia.text.language_codes import match_languages
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens
from lalia.training.linear_probe import Apart, clip_moments, solve
from lalia.training.linear_probe import ask as ask_column
from lalia.units import SAMPLE_RATE

# --- Command ---------------------------------------------------------------------------------------------


def arguments(program: str, about: str, argv: Sequence[str]) -> ProbeSettings:
    """The settings in ``argv``; a ``UserError`` says what is wrong with it."""
    parser = Parser(prog=program, description=about)
    parser.add_argument("paths", nargs="+", metavar="ENCODER… CORPUS", help="encoder folders to compare, then a corpus")
    parser.add_argument("--out", help="page with table and plots (.html) or the numbers alone (.json)")
    parser.add_argument("--language", default="", help="language of the letters; default: the one with most labels")
    parser.add_argument("--clips", type=positive, default=80, help="clips per language, and at most per speaker (80)")
    parser.add_argument("--minutes", type=float, default=8.0, help="minutes of labelled audio for the letter probe (8)")
    parser.add_argument("--steps", type=positive, default=300, help="steps of the CTC probe of a layer (300)")
    parser.add_argument("--max_s", type=float, default=15.0, help="longer clips are left out, seconds (15)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="COLUMN",
        help="probe this column instead (emotion, …); may be repeated",
    )
    parser.add_argument("--apart", choices=("source", "speaker"), help="with --ask: what is held out")
    found = parser.parse_args(list(argv))
    if len(found.paths) < 2:
        raise UserError(f"{found.paths[0]}: one path given, expected ENCODER… CORPUS; see: {program} --help")
    if found.out and Path(found.out).suffix not in (".html", ".json"):
        raise UserError(f"--out {found.out}: expected a name that ends in .html or .json")
    if bool(found.ask) != bool(found.apart):
        raise UserError("--ask COLUMN and --apart source|speaker belong together; give both or neither")
    *encoders, corpus = found.paths
    return ProbeSettings(
        encoders, corpus, found.out, found.language, found.clips, found.minutes, found.steps, found.max_s, found.seed,
        found.ask, found.apart or "speaker",
    )  # fmt: skip


def probe(ask: ProbeSettings, console: Console | None = None) -> Probe:
    """Run the probes, print their table and write ``ask.out``."""
    folders, corpus = ask.encoders, ask.corpus
    mixture = Mixture.load([corpus])
    encoders = {name: Encoder.load(folder) for name, folder in zip(_names(folders), folders, strict=True)}
    data = ProbeData(mixture, ask)
    found = Probe(
        languages=data.languages.classes, speakers=data.speakers.classes, notes=data.notes,
        chance_language=data.languages.chance, chance_speaker=data.speakers.chance,
        letters_of=data.letters_of,
    )  # fmt: skip
    shape = next(iter(encoders.values())).shape
    stack = max(1, round(shape.frame_s * SAMPLE_RATE / FRAME_HOP))
    found.rows += data.probe_layers("", [BASELINE], LogMel(stack))
    for name, encoder in encoders.items():
        layers = ["input", *(f"{i + 1}" for i in range(encoder.shape.layers))]
        found.rows += data.probe_layers(name, layers, Layers(encoder))
    (console or Console()).print(rich_table(found))
    for note in found.notes:
        print(note, file=sys.stderr)
    if ask.out:
        path = Path(ask.out)
        if path.suffix == ".json":
            write_json(path, asdict(found))
        else:
            write_page(path, found, [str(folder) for folder in folders], str(corpus))
    return found


class Layers:
    """Features of every layer of an encoder: the input of the first block and the output of each block."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        features_BTF, _, frames_B = self.encoder.features(wave_BS, lengths_B)
        collected: list[Tensor] = []
        self.encoder.contextualise(features_BTF, frames_B, collect=collected)
        return [_clips(layer, frames_B) for layer in (features_BTF, *collected)]


class LogMel:
    """Plain log-mel frames of 25 ms every 10 ms, ``stack`` side by side; not normalised, nothing trained."""

    def __init__(self, stack: int) -> None:
        self.stack = stack
        self.parts = StackedFrames(EncoderShape(input="logmel"))

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> list[list[Tensor]]:
        windows_BNK = wave_BS.unfold(1, FRAME_WINDOW, FRAME_HOP) * self.parts.window
        power_BNF = torch.view_as_real(torch.fft.rfft(windows_BNK, n=FFT)).square().sum(-1)
        mel_BNM = torch.log(power_BNF @ self.parts.mel_FM + 1e-6)
        B, N, M = mel_BNM.shape
        T = N // self.stack
        stacked_BTF = mel_BNM[:, : T * self.stack].reshape(B, T, self.stack * M)
        return [_clips(stacked_BTF, ((lengths_B - FRAME_WINDOW) // FRAME_HOP + 1) // self.stack)]


def _clips(x_BTD: Tensor, frames_B: Tensor) -> list[Tensor]:
    return [clip_TD[: int(frames)] for clip_TD, frames in zip(x_BTD, frames_B, strict=True)]


def _names(folders: Sequence[str]) -> list[str]:
    """The folders' names, with as much of their paths as makes them unique."""
    for parts in range(1, 8):
        names = ["/".join(Path(folder).parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


# --- Data ------------------------------------------------------------------------------------------------

BASELINE = "log-mel"
SHORTEST_S = 0.3
FEWEST = 8
"""clips that a speaker needs to be included"""


@dataclass(frozen=True)
class ProbeSettings:
    """What is probed, on which clips; the help of ``lalia pretrain probe`` explains each."""

    encoders: Sequence[str]
    corpus: str
    out: str | None = None
    language: str = ""
    clips: int = 80
    minutes: float = 8.0
    steps: int = 300
    max_s: float = 15.0
    seed: int = 1
    ask: Sequence[str] = ()
    apart: Apart = "speaker"


@dataclass
class ProbeRow:
    """Results of one layer; None where the corpus has no data for a task."""

    encoder: str
    layer: str
    language: float | None = None
    """held-out accuracy"""
    speaker: float | None = None
    """held-out accuracy"""
    cer: float | None = None
    """held-out character error rate"""


@dataclass
class Probe:
    """All results of a probe, and its chance levels."""

    rows: list[ProbeRow] = field(default_factory=list)
    languages: int = 0
    speakers: int = 0
    chance_language: float = 0.0
    chance_speaker: float = 0.0
    letters_of: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Groups:
    """Rows and classes of a classification task, training and held-out."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray

    @property
    def classes(self) -> int:
        return len(set(self.train_classes.tolist()))

    @property
    def chance(self) -> float:
        """Accuracy of always naming the commonest class of the held-out clips."""
        return float(np.bincount(self.test_classes).max() / len(self.test_classes)) if len(self.test_classes) else 0.0

    @property
    def possible(self) -> bool:
        return self.classes > 1 and len(self.test) > 0


class ProbeData:
    """What a corpus can be asked, and the clips to ask it of; every layer gets the same."""

    def __init__(self, mixture: Mixture, ask: ProbeSettings) -> None:
        self.mixture, self.steps, self.seed = mixture, ask.steps, ask.seed
        self.notes: list[str] = []
        self._random = np.random.default_rng(mix(ask.seed, "probe clips"))
        longest_s = float(ask.max_s)
        untested = not (mixture.splits == SPLITS.index("test")).any()
        if untested and (note := mixture.hold_out_recordings(min_s=SHORTEST_S)):
            self.notes.append(note)
        train = self._random.permutation(mixture.select("train", min_s=SHORTEST_S, max_s=longest_s))
        held = self._random.permutation(self._held_out(longest_s))
        self.languages = Groups(*self._some(train, ask.clips), *self._some(held, max(1, ask.clips // 2)))
        self.speakers = self._speakers(train, ask.clips)
        if not self.languages.possible:
            self.notes.append("language: the corpus has one language; not probed")
        if not self.speakers.possible:
            self.notes.append(f"speaker: fewer than two speakers have {FEWEST} clips; not probed")
        elif self._speakers_are_languages():
            self.notes.append("speaker: every speaker has a language alone, so speaker and language are the same task")
        self.letters_of = self._language_of_letters(ask.language, train)
        self.letters_train = self._letters(train, ask.minutes)
        self.letters_test = self._letters(held, ask.minutes / 3)
        if not len(self.letters_train) or not len(self.letters_test):
            self.letters_of = ""
            self.notes.append("letters: no labelled clips for training or for scoring; not probed")
        normaliser = Normaliser()
        self._texts = {int(r): normaliser(mixture.text(int(r))) for r in (*self.letters_train, *self.letters_test)}
        self.tokens = Tokens.from_texts([self._texts[int(r)] for r in self.letters_train] or ["a"])
        self._encode = label_encoder(self.tokens, normaliser)

    def probe_layers(
        self, encoder: str, layers: list[str], features: Callable[[Tensor, Tensor], list[list[Tensor]]]
    ) -> list[ProbeRow]:
        """A row for each of ``layers``; ``features`` gives, for a batch, each layer's list of (T, D), one per clip."""
        means, frames = self._read(features, len(layers))
        rows = []
        for i, name in enumerate(layers):
            row = ProbeRow(encoder, name)
            for question, groups in (("language", self.languages), ("speaker", self.speakers)):
                if groups.possible:
                    x, y = (np.stack([means[i][int(r)] for r in part]) for part in (groups.train, groups.test))
                    setattr(row, question, classify(x, groups.train_classes, y, groups.test_classes).accuracy)
            if self.letters_of:
                row.cer = read_letters(
                    [frames[i][int(r)] for r in self.letters_train], [self._texts[int(r)] for r in self.letters_train],
                    [frames[i][int(r)] for r in self.letters_test], [self._texts[int(r)] for r in self.letters_test],
                    self.tokens, self._encode, self.steps, self.seed,
                )  # fmt: skip
            rows.append(row)
            print(f"probed {encoder or BASELINE} {name}", file=sys.stderr, flush=True)
        return rows

    @torch.inference_mode()
    def _read(
        self, features: Callable[[Tensor, Tensor], list[list[Tensor]]], layers: int
    ) -> tuple[list[dict[int, np.ndarray]], list[dict[int, Tensor]]]:
        """For each layer, the mean over time of every clip (D,), and the frames (T, D) of those probed for letters."""
        parts = (self.languages.train, self.languages.test, self.speakers.train, self.speakers.test)
        letters = {int(r) for part in (self.letters_train, self.letters_test) for r in part}
        rows = sorted({int(r) for part in parts for r in part} | letters)
        means: list[dict[int, np.ndarray]] = [{} for _ in range(layers)]
        frames: list[dict[int, Tensor]] = [{} for _ in range(layers)]
        for batch in make_eval_loader(self.mixture, rows, 60.0):
            for i, clips in enumerate(features(batch.wave_BS, batch.lengths_B)):
                for row, clip_TD in zip(batch.rows_B.tolist(), clips, strict=True):
                    means[i][row] = clip_TD.float().mean(0).numpy()
                    if row in letters:
                        frames[i][row] = clip_TD.half()  # half the memory, and more digits than a probe can use
        return means, frames

    def _held_out(self, longest_s: float) -> np.ndarray:
        try:
            return self.mixture.select("test", min_s=SHORTEST_S, max_s=longest_s)
        except UserError:
            return self.mixture.select("dev", min_s=SHORTEST_S, max_s=longest_s)

    def _some(self, rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """At most ``most`` of ``rows`` of each language, and their languages."""
        kept = [
            r
            for code in np.unique(self.mixture.languages[rows])
            for r in rows[self.mixture.languages[rows] == code][:most]
        ]
        return np.array(kept, np.int64), self.mixture.languages[kept].astype(np.int64)

    def _speakers(self, rows: np.ndarray, most: int) -> Groups:
        """Speakers of the training clips: three of four of each one's clips to learn from, the fourth held out."""
        by: dict[str, list[int]] = {}
        for row in rows.tolist():
            by.setdefault(self.mixture.speaker(row), []).append(row)
        known = sorted(name for name, clips in by.items() if name and len(clips) >= FEWEST)[:200]
        train = [(r, i) for i, name in enumerate(known) for n, r in enumerate(by[name][:most]) if n % 4 != 3]
        test = [(r, i) for i, name in enumerate(known) for n, r in enumerate(by[name][:most]) if n % 4 == 3]
        columns = [
            np.array(column, np.int64)
            for part in (train, test)
            for column in (zip(*part, strict=True) if part else ([], []))
        ]
        return Groups(*columns)

    def _speakers_are_languages(self) -> bool:
        pairs = {
            (int(self.mixture.languages[r]), int(c))
            for r, c in zip(self.speakers.train, self.speakers.train_classes, strict=True)
        }
        return len(pairs) == len({language for language, _ in pairs}) == self.speakers.classes

    def _language_of_letters(self, wanted: str, train: np.ndarray) -> str:
        labelled = train[self.mixture.labelled[train]]
        if wanted:
            (code,) = match_languages([wanted], self.mixture.language_names)
            self.mixture.require([code], "--language")
            return code
        if not len(labelled):
            return ""
        seconds = np.bincount(self.mixture.languages[labelled], self.mixture.durations_s[labelled])
        return self.mixture.language_names[int(seconds.argmax())]

    def _letters(self, rows: np.ndarray, minutes: float) -> np.ndarray:
        if not self.letters_of:
            return np.zeros(0, np.int64)
        of = self.mixture.language_names.index(self.letters_of)
        chosen = rows[self.mixture.labelled[rows] & (self.mixture.languages[rows] == of)]
        return chosen[np.cumsum(self.mixture.durations_s[chosen]) <= 60 * minutes]


# --- Columns ---------------------------------------------------------------------------------------------


@dataclass
class ColumnProbe:
    """Accuracy of every layer for every column on sources or speakers that were held out."""

    apart: str
    columns: dict[str, str]
    """column → number of labels, clips and chance, in words; or why no accuracy can be known"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """encoder, layer, and the accuracy of each column (None: cannot be known)"""

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Titles and cells; the best layer of each encoder is starred."""
        cells = []
        for row in self.rows:
            own = [other for other in self.rows if other["encoder"] == row["encoder"]]
            values = []
            for column in self.columns:
                value, best = row[column], max((other[column] or 0.0 for other in own), default=0.0)
                starred = "*" if len(own) > 1 and value == best else ""
                values.append("-" if value is None else f"{value:.3f}{starred}")
            cells.append([row["encoder"] or "-", row["layer"], *values])
        return ["encoder", "layer", *self.columns], cells


def probe_columns(ask: ProbeSettings, console: Console | None = None) -> ColumnProbe:
    """Probe ``ask.ask`` on every layer of every encoder, print the table and write ``ask.out``."""
    mixture = Mixture.load([ask.corpus])
    questions = {column: ask_column(mixture, column, ask.apart, ask.max_s) for column in ask.ask}
    found = ColumnProbe(ask.apart, {})
    for column, question in questions.items():
        chance = np.bincount(question.labels[question.scored]).max(initial=0) / max(1, question.scored.sum())
        known = f"{len(question.names)} labels, {question.scored.sum():,} clips scored, chance {chance:.3f}"
        found.columns[column] = question.confounded or known
    models: dict[str, Callable[[Tensor, Tensor], list[list[Tensor]]]] = {"": LogMel(1)}
    models |= {
        name: Layers(Encoder.load(folder)) for name, folder in zip(_names(ask.encoders), ask.encoders, strict=True)
    }
    for name, features in models.items():
        accuracies: dict[str, list[float]] = {}
        for column, question in questions.items():
            moments = clip_moments(mixture, question.rows, features)
            accuracies[column] = (
                [] if question.confounded else [solve(question, [x_ND]).by_layer[0] for x_ND in moments]
            )
            layers = [BASELINE] if not name else ["input", *(f"{i + 1}" for i in range(len(moments) - 1))]
        found.rows += [
            {"encoder": name, "layer": layer, **{c: values[i] if values else None for c, values in accuracies.items()}}
            for i, layer in enumerate(layers)
        ]
        print(f"probed {name or BASELINE}", file=sys.stderr, flush=True)
    titles, cells = found.table()
    shown = Table(*titles, box=box.SIMPLE_HEAD)
    for line in cells:
        shown.add_row(*line)
    (console or Console()).print(shown)
    for column, words in found.columns.items():
        print(f"{column}, {ask.apart}s apart: {words}", file=sys.stderr)
    if ask.out and ask.out.endswith(".json"):
        write_json(Path(ask.out), asdict(found))
    elif ask.out:
        lead = f"{', '.join(map(str, ask.encoders))} on {ask.corpus}: ridge regressions, {ask.apart}s apart."
        about = " ".join(f"{column}: {words}." for column, words in found.columns.items())
        sections = [Section("Accuracy", [table(titles, cells)], about)]
        Page(kicker="probe", title="Probe of encoder layers", lead=lead, sections=sections).write(Path(ask.out))
    return found


# --- Linear probes ---------------------------------------------------------------------------------------

RIDGES = 10.0 ** np.arange(-3, 5)
"""Ridge penalties, times the number of clips over 100, that leave-one-out chooses from."""


@dataclass(frozen=True)
class Hits:
    """Correctly classified held-out clips."""

    right: int
    clips: int

    @property
    def accuracy(self) -> float:
        return self.right / self.clips


def classify(train_ND: np.ndarray, classes_N: np.ndarray, test_ND: np.ndarray, truth_N: np.ndarray) -> Hits:
    """A ridge regression to one column per class, solved in closed form. The penalty is chosen by leave-one-out accuracy on the
    training clips, never by the held-out clips."""
    mean_D, std_D = train_ND.mean(0), train_ND.std(0) + 1e-6
    x_ND, test_ND = (train_ND - mean_D) / std_D, (test_ND - mean_D) / std_D
    targets_NC = np.eye(int(classes_N.max()) + 1)[classes_N]
    centre_C = targets_NC.mean(0)
    u_NK, s_K, vt_KD = np.linalg.svd(x_ND.astype(np.float64), full_matrices=False)
    along_KC = u_NK.T @ (targets_NC - centre_C)
    best: tuple[float, float] | None = None
    for ridge in RIDGES * len(x_ND) / 100:
        shrink_K = s_K**2 / (s_K**2 + ridge)
        fitted_NC = centre_C + u_NK @ (shrink_K[:, None] * along_KC)
        leverage_N1 = (u_NK**2 @ shrink_K)[:, None] + 1 / len(x_ND)
        left_out_NC = targets_NC - (targets_NC - fitted_NC) / np.maximum(1 - leverage_N1, 1e-6)
        right = float((left_out_NC.argmax(1) == classes_N).mean())
        if best is None or right > best[0]:
            best = (right, float(ridge))
    assert best is not None
    weights_DC = vt_KD.T @ ((s_K / (s_K**2 + best[1]))[:, None] * along_KC)
    predicted_N = (centre_C + test_ND @ weights_DC).argmax(1)
    return Hits(int((predicted_N == truth_N).sum()), len(truth_N))


def read_letters(
    train: Sequence[Tensor], texts: Sequence[str], test: Sequence[Tensor], truths: Sequence[str],
    tokens: Tokens, encode: Callable[[str, str], list[int]], steps: int, seed: int, clips: int = 16,
) -> float:  # fmt: skip
    """The character error rate on ``test`` of one matrix trained by CTC on ``train`` for ``steps`` steps of ``clips`` clips; the
    features are lists of (T, D)."""
    frames_ND = torch.cat(list(train)).float()
    mean_D, std_D = frames_ND.mean(0), frames_ND.std(0) + 1e-5
    labels = [torch.tensor(encode(text, "")) for text in texts]
    head = nn.Linear(frames_ND.shape[1], len(tokens))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=max(2, steps), pct_start=0.1)
    random = generator(seed, "probe")
    for _ in range(steps):
        chosen = torch.randint(len(train), (clips,), generator=random).tolist()
        x_BTD = nn.utils.rnn.pad_sequence([(train[i].float() - mean_D) / std_D for i in chosen], batch_first=True)
        frames_B = torch.tensor([len(train[i]) for i in chosen])
        labels_BU = nn.utils.rnn.pad_sequence([labels[i] for i in chosen], batch_first=True)
        lengths_B = torch.tensor([len(labels[i]) for i in chosen])
        summed = ctc(head(x_BTD), frames_B, labels_BU, lengths_B)
        optimizer.zero_grad()
        (summed.loss / summed.count.clamp(min=1)).backward()
        optimizer.step()
        scheduler.step()
    with torch.inference_mode():
        hypotheses = [
            transcript(greedy(head((x_TD.float() - mean_D) / std_D).log_softmax(-1).numpy()), tokens) for x_TD in test
        ]
    return score(truths, hypotheses).cer.rate


# --- Results ---------------------------------------------------------------------------------------------

TASKS: dict[str, tuple[str, Callable[..., float]]] = {
    "language": ("Language, accuracy", max), "speaker": ("Speaker, accuracy", max), "cer": ("Letters, CER", min),
}  # fmt: skip
"""field of a row: (title, which value is best)"""


def rich_table(found: Probe) -> Table:
    """The table for a terminal; the best layer of each encoder is starred."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("encoder", "layer"):
        shown.add_column(name)
    for name in column_titles(found):
        shown.add_column(name, justify="right")
    for cells in table_rows(found):
        shown.add_row(*cells)
    return shown


def column_titles(found: Probe) -> Iterator[str]:
    """Column titles with chance levels."""
    yield f"language (of {found.languages}, chance {found.chance_language:.2f})"
    yield f"speaker (of {found.speakers}, chance {found.chance_speaker:.2f})"
    yield f"CER {found.letters_of}".strip()


def table_rows(found: Probe) -> Iterator[list[str]]:
    for row in found.rows:
        own = [other for other in found.rows if other.encoder == row.encoder]
        yield [row.encoder or "-", row.layer, *(_cell(row, own, name) for name in TASKS)]


def write_page(path: Path, found: Probe, folders: Sequence[str], corpus: str) -> None:
    """A self-contained HTML page: the curves, the table, and what it was made from."""
    charts = [chart for name in TASKS if (chart := _chart(found, name)) is not None]
    page = Page(
        kicker="probe",
        title="Probe of encoder layers",
        lead=f"{', '.join(folders)} on {corpus}: frozen features, one matrix per layer and task, held-out clips.",
        sections=[
            Section("By layer", [figures(charts)], "The dashed line is plain log-mel, with the same probe."),
            Section(
                "All figures",
                [table(["encoder", "layer", *column_titles(found)], list(table_rows(found)))],
                " ".join(["The best layer of each encoder is starred.", *(f"{note}." for note in found.notes)]),
            ),
        ],
    )
    page.write(path)


def _chart(found: Probe, name: str) -> Chart | None:
    title, _ = TASKS[name]
    baseline = next((getattr(row, name) for row in found.rows if not row.encoder), None)
    encoders = list(dict.fromkeys(row.encoder for row in found.rows if row.encoder))
    lines = []
    for colour, encoder in zip(SERIES * len(encoders), encoders, strict=False):
        values = [getattr(row, name) for row in found.rows if row.encoder == encoder]
        if None not in values:
            lines.append(Line(encoder, range(len(values)), values, colour, dots=True))
    if not lines:
        return None
    levels = [Level(baseline, "log-mel")] if baseline is not None else []
    return line_chart(title, lines, levels, "Layer 0 is the input of the first block.", share, "block", height_in=2.4)


def _cell(row: ProbeRow, own: list[ProbeRow], name: str) -> str:
    value = getattr(row, name)
    if value is None:
        return "-"
    best = TASKS[name][1](getattr(other, name) for other in own)
    return f"{value:.3f}" + ("*" if len(own) > 1 and value == best else "")
