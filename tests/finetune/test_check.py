"""The check: what is wrong with a corpus is named with its remedy, what can be mended is, and sound data passes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.__main__ import main as program
from finetune.check import check, clips
from finetune.check.clips import shifted_labels
from finetune.check.findings import Example, Finding
from finetune.check.report import mark_characters
from lalia.cards import ancestors, read_card
from lalia.data.corpus import Corpus
from lalia.data.prepare.pipeline import rewrite
from lalia.errors import UserError
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.number_words import read_numbers
from lalia.text.tokens import Tokens
from tests.tiny_corpus import WORDS, make_corpus

SENTENCES = (
    "la casa è grande e di legno", "il treno parte per la città", "non è una buona idea che resti",
    "un gatto nero dorme in cucina",
    "la pioggia cade su tutta la valle", "che ora è adesso per favore", "il libro di storia è molto bello",
    "una barca a vela lascia il porto", "non so dove sia la chiave", "per cena c'è la zuppa di pesce",
    "il vento soffia forte sul monte", "la neve copre il tetto di casa",
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sixty clips in Italian with no fault that matters: no sentence in two splits."""
    folder = tmp_path_factory.mktemp("check")
    plain = Corpus.load(make_corpus(folder / "plain", 60, ("ita",)))
    numbers = ["uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove", "dieci"]
    places: dict[int, int] = {}
    changes: dict[int, dict[str, Any]] = {}
    for row in range(len(plain)):
        split = int(plain.splits[row])
        places[split] = places.get(split, -1) + 1
        sentence = SENTENCES[3 * (places[split] % 4) + split]
        counted = f"{numbers[places[split] % 10]} {numbers[places[split] // 10]}"
        text = f"{sentence} {counted}"
        # As fast as people speak, whatever the clip's sound: nothing listens here.
        changes[row] = {"text": text, "speech_ratio": 1.0, "duration_s": len(text) / 15 + 0.01 * (row % 5)}
    rewrite(plain, folder / "sound", np.arange(len(plain)), changes, [], {})
    return Corpus.load(folder / "sound")


def test_offending_characters_are_marked_where_they_are() -> None:
    assert mark_characters("<Latte>", "t") == (
        '&lt;La<mark class="other" title="U+0074 latin small letter t">t</mark>'
        '<mark class="other" title="U+0074 latin small letter t">t</mark>e&gt;'
    )
    assert ">U+200B</mark>" in mark_characters("a\u200bb", {"\u200b"}), "an invisible one is shown as its code"
    assert ">e\u0301</mark>" in mark_characters("caffe\u0301", {"\u0301"}), "a mark stays on its letter"
    assert mark_characters("a & b", ()) == "a &amp; b"


def changed(corpus: Corpus, tmp_path: Path, changes: Mapping[int, Mapping[str, Any]]) -> Path:
    rewrite(corpus, tmp_path / "changed", np.arange(len(corpus)), changes, [], {})
    return tmp_path / "changed"


def topics(corpus: Path, language: str = "ita") -> dict[str, str]:
    found = check.check(Corpus.load(corpus), language)
    return {finding.topic: f"{finding.weight}: {finding.what}" for finding in found.findings}


def train_rows(corpus: Corpus) -> list[int]:
    return [int(row) for row in corpus.select("train")]


def test_sound_data_passes(sound: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(sound.folder)]) == 0
    said = capsys.readouterr().out
    assert "ready to train" in said
    assert "Italian (ita)" in said
    assert "letters, " in said


def each(rows: list[int], corpus: Corpus, change: Any) -> dict[int, dict[str, Any]]:
    return {row: {"text": change(corpus.text(row))} for row in rows}


@pytest.mark.parametrize(
    ("topic", "weight", "said", "change"),
    [
        ("encoding", "stop", "in the wrong encoding", lambda t: t.replace("a", "à").encode().decode("latin-1")),
        ("encoding", "stop", "letters are lost", lambda t: t + "\ufffd"),
        ("look-alikes", "look", "words of mixed scripts: ", lambda t: t.replace("o ", "о ", 1) + " lаtte"),
        ("unicode", "look", "invisible characters: zero width space", lambda t: t + "\u200b"),
        ("unicode", "look", "not in NFC", lambda t: t + " perche\u0301"),
        ("digits", "look", "spelled out by num2words: '21' as 'ventuno'", lambda t: t + " 21"),
        ("empty labels", "look", "empty after normalisation", lambda t: "…"),
        ("dates", "look", "dates or clock times in digits: 24.12.2024", lambda t: t + " 24.12.2024"),
        ("label > frames", "stop", "more letters than frames", lambda t: " ".join([t] * 20)),
        ("script", "look", "Cyrillic", lambda t: t + " привет"),
        ("language", "look", "look like English", lambda t: "this is what the man said to you"),
        ("rare characters", "look", "ñ", lambda t: t + " añ"),
    ],
)  # fmt: skip
def test_each_fault_is_found(sound: Corpus, tmp_path: Path, topic: str, weight: str, said: str, change: Any) -> None:
    rows = train_rows(sound)[: 1 if topic == "rare characters" else 2]
    found = topics(changed(sound, tmp_path, each(rows, sound, change)))
    assert topic in found, found
    assert found[topic].startswith(weight) and said in found[topic]


def test_a_column_of_numbers_or_names_is_no_transcript(sound: Corpus, tmp_path: Path) -> None:
    ids = changed(sound, tmp_path / "a", {row: {"text": f"utt_{row:04d}.wav"} for row in range(len(sound))})
    assert topics(ids)["numbers"].startswith("stop: 60 of 60 labels are one number or name with digits each")
    digits = changed(sound, tmp_path / "b", {row: {"text": str(row % 10)} for row in range(len(sound))})
    assert topics(digits)["numbers"].startswith("look: ")
    assert "numbers" not in topics(sound.folder)


def test_another_script_and_another_language_stop(sound: Corpus, tmp_path: Path) -> None:
    every = list(range(len(sound)))
    russian = changed(sound, tmp_path / "a", each(every, sound, lambda t: f"привет мир {len(t)} и так далее"))
    assert "Italian (ita) is written in Latin" in topics(russian)["script"]
    german = changed(sound, tmp_path / "b", each(every, sound, lambda t: f"der die und das ist nicht so {t[:3]}"))
    assert topics(german)["language"].startswith("stop: the labels look like German (deu), not Italian (ita)")


def test_unlabelled_clips_are_counted(sound: Corpus, tmp_path: Path, capsys: Any) -> None:
    row = train_rows(sound)[3]
    some = changed(sound, tmp_path / "a", {row: {"text": ""}})
    assert topics(some)["unlabelled"].startswith(f"look: 1 of {len(sound)} clips has no label")
    check.main([str(some), "--fix", "--out", str(tmp_path / "mended")])
    said = capsys.readouterr().out
    assert f"{sound.id(row)}: no label" in said
    most = changed(sound, tmp_path / "b", {row: {"text": ""} for row in train_rows(sound)[: len(sound) // 2 + 1]})
    assert topics(most)["unlabelled"].startswith("fine: ")
    assert "unlabelled" not in topics(sound.folder)


def test_a_language_is_found_by_the_code_it_is_a_part_of(sound: Corpus, tmp_path: Path, capsys: Any) -> None:
    rows = range(len(sound))
    whole = changed(sound, tmp_path, {row: {"language": "swa"} for row in rows})
    check.main([str(whole), "--language", "swh"])
    said = capsys.readouterr()
    assert "--language swh: the corpus is in swa (Swahili), which is taken" in said.err
    assert "Swahili (swa)" in said.out
    for word in ("sw", "swahili", "sw-KE"):
        check.main([str(whole), "--language", word])
        said = capsys.readouterr()
        assert f"language: Swahili (swa), from {word!r}" in said.err and "Swahili (swa)" in said.out
    with pytest.raises(
        UserError, match=r"language swh: not in the corpus, which has swa; say swa, which is Swahili too"
    ):
        Corpus.load(whole).select(language="swh")


def test_signs_that_may_be_letters_are_named(sound: Corpus, tmp_path: Path) -> None:
    rows = train_rows(sound)[:5]
    found = topics(changed(sound, tmp_path / "a", each(rows, sound, lambda t: t + " o:nen")))
    assert ": (5 times, as in o:nen)" in found["signs in words"]
    changes = {
        row: {"language": "wyn", "text": sound.text(row) + (" tsu'" if row in rows else "")}
        for row in range(len(sound))
    }
    assert "' (5 times, as in tsu')" in topics(changed(sound, tmp_path / "b", changes), "wyn")["signs in words"]
    persian = {row: {"language": "fas", "text": "می\u200cخواهم بروم"} for row in range(len(sound))}
    assert "unicode" not in topics(changed(sound, tmp_path / "c", persian), "fas"), "the joiner is spelled"


def test_numbers_that_cannot_be_spelled_must_be_written_out(sound: Corpus, tmp_path: Path) -> None:
    row = train_rows(sound)[0]
    changes: dict[int, dict[str, Any]] = {r: {"language": "quc"} for r in range(len(sound))}
    changes[row] = {"language": "quc", "text": sound.text(row) + " 13"}
    corpus = changed(sound, tmp_path, changes)
    findings = check.check(Corpus.load(corpus), "quc").findings
    told = {finding.topic: (finding.what, finding.fix) for finding in findings}
    assert told["digits"][0].startswith("1 label keeps digits")
    assert "no library knows the numbers of" in told["digits"][1] and "--numbers FILE" in told["digits"][1]
    assert "characters of " in told["rare characters"][0], "digits are no letters"
    table = tmp_path / "numbers.tsv"
    check.main([str(corpus), "--numbers", str(table)])
    lines = table.read_text(encoding="utf-8").splitlines()
    assert "13\t" in lines and "0\t" in lines
    with pytest.raises(UserError, match="line 2: 0 has no words"):
        check.main([str(corpus), "--numbers", str(table)])
    table.write_text("13\toxlajuj\n", encoding="utf-8")
    found = check.check(Corpus.load(corpus), "quc", numbers=read_numbers(table))
    assert {f.topic: f.what for f in found.findings}["digits"].endswith("spelled out by your table: '13' as 'oxlajuj'")


@pytest.mark.parametrize(("language", "number"), [("tam", "13"), ("lao", "13"), ("asm", "13"), ("mkd", "250")])
def test_a_table_is_offered_for_what_no_library_spells(
    language: str, number: str, sound: Corpus, tmp_path: Path
) -> None:
    """Numbers of languages, and large ones of others, and a sign that CLDR has no word for."""
    row = train_rows(sound)[0]
    changes: dict[int, dict[str, Any]] = {r: {"language": language} for r in range(len(sound))}
    changes[row] = {"language": language, "text": f"{sound.text(row)} {number} ₽"}
    corpus = changed(sound, tmp_path, changes)
    findings = [f for f in check.check(Corpus.load(corpus), language).findings if f.topic == "digits"]
    assert len(findings) == 2 and all("--numbers FILE" in finding.fix for finding in findings)
    table = tmp_path / "numbers.tsv"
    check.main([str(corpus), "--numbers", str(table)])
    whole = number.replace(".", "")
    assert {f"{whole}\t", "₽\t"} <= set(table.read_text(encoding="utf-8").splitlines())
    table.write_text(f"{whole}\tabc def\n₽\tghi\n", encoding="utf-8")
    labels = check.check(Corpus.load(corpus), language, numbers=read_numbers(table)).labels
    assert labels.normal[row].endswith("abc def ghi")


def test_leaks_stop(sound: Corpus, tmp_path: Path) -> None:
    test = [int(row) for row in sound.select("test")]
    train = train_rows(sound)
    leaky = changed(sound, tmp_path, {train[i]: {"text": sound.text(row)} for i, row in enumerate(test[:4])})
    found = topics(leaky)
    assert found["sentence leak"].startswith("stop: 4 test clips")
    mended = tmp_path / "mended"
    assert check.main([str(leaky), "--fix", "--out", str(mended)]) == 1
    assert "sentence leak" not in topics(mended)


def test_missing_splits_are_made(sound: Corpus, tmp_path: Path) -> None:
    whole = changed(sound, tmp_path, {row: {"split": "train"} for row in range(len(sound))})
    assert topics(whole)["splits"].startswith("stop: no labelled clips in dev and test")
    check.main([str(whole), "--fix", "--out", str(tmp_path / "mended")])
    found = topics(tmp_path / "mended")
    assert "splits" not in found and "sentence leak" not in found
    counts = Corpus.load(tmp_path / "mended").tally()
    assert counts["dev"] == pytest.approx(12, abs=2) and counts["test"] == pytest.approx(12, abs=2), "as prepare does"


def test_too_few_clips_to_hold_any_out(sound: Corpus, tmp_path: Path) -> None:
    few = {row: {"split": "train", **({} if row < 15 else {"text": ""})} for row in range(len(sound))}
    [finding] = [
        f for f in check.check(Corpus.load(changed(sound, tmp_path, few)), "ita").findings if f.topic == "splits"
    ]
    assert finding.fix.startswith("label more: 15 clips") and "minimum is 20" in finding.fix and not finding.fixable


def test_silence_and_speed_are_noticed(sound: Corpus, tmp_path: Path) -> None:
    rows = train_rows(sound)
    changes: dict[int, dict[str, Any]] = {rows[0]: {"speech_ratio": 0.01}, rows[1]: {"text": "no"}}
    found = topics(changed(sound, tmp_path, changes))
    assert "1 labelled clip " in found["no speech"]
    assert "1 label has a far higher or lower speaking rate" in found["rate"]


def test_fix_says_what_it_did_and_keeps_the_lineage(
    sound: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c, *_ = train_rows(sound)
    wrong = sound.text(a).replace("è", "é").encode().decode("latin-1") + "Ã©"
    damaged = changed(sound, tmp_path, {a: {"text": wrong}, b: {"text": "cаsа"}, c: {"text": "?!"}})
    assert check.main([str(damaged), "--fix", "--out", str(tmp_path / "mended")]) in (0, 1)
    said = capsys.readouterr().out
    assert "encoding" in said and "changed.tsv" in said
    mended = Corpus.load(tmp_path / "mended")
    assert mended.text(a).endswith("é") and "Ã" not in mended.text(a)
    assert mended.text(b) in ("casa", "")  # mended, or too slow for its clip
    assert mended.text(c) == ""
    assert np.array_equal(mended.wave(a), sound.wave(a))
    table = (tmp_path / "mended" / "changed.tsv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "clip\twhy\tbefore\tafter" and len(table) >= 4
    card = read_card(tmp_path / "mended", "corpus")
    assert card["fixed"]["encoding"] == 1
    assert [parent["kind"] for parent in ancestors(card)].count("corpus") >= 2


def test_page_and_json(sound: Corpus, tmp_path: Path) -> None:
    damaged = changed(sound, tmp_path, {0: {"text": "<b>lаtte</b> 21"}})
    page, figures = tmp_path / "check.html", tmp_path / "check.json"
    check.main([str(damaged), "--language", "ita", "--html", str(page), "--json", str(figures)])
    html = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;" in html and "<b>lаtte" not in html
    assert "data:audio/mpeg" in html
    assert "Ready to train." in html and "! warning" in html and ">а</mark>tte" in html, "Cyrillic among Latin letters"
    found = json.loads(figures.read_text(encoding="utf-8"))["languages"]["ita"]
    assert found["ready"] in (True, False) and found["letters"]["e"] > 10
    assert any(finding["topic"] == "look-alikes" for finding in found["findings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        (["CORPUS", "--language", "deu"], "language deu: not in the corpus"),
        (["CORPUS", "--fix"], "--fix and --out must be given together"),
        (["CORPUS", "--encodr", "x"], "--encodr"),
        (["CORPUS", "--frame_s", "20"], "expected seconds per frame"),
        ([], "required: CORPUS"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    sound: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    words = [str(sound.folder) if word == "CORPUS" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["finetune", "check", *words])
    assert program() == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1


def test_a_corpus_without_labels(sound: Corpus, tmp_path: Path) -> None:
    bare = changed(sound, tmp_path, {row: {"text": ""} for row in range(len(sound))})
    with pytest.raises(UserError, match="none of 60 clips has a label"):
        check.main([str(bare)])


def test_labels_that_all_say_nothing_stop(sound: Corpus, tmp_path: Path) -> None:
    nothing = changed(sound, tmp_path, {row: {"text": "…?!"} for row in range(len(sound))})
    assert topics(nothing)["empty labels"].startswith("stop: all: 60 labels")


def test_a_split_that_is_there_stays_where_another_is_missing(sound: Corpus, tmp_path: Path) -> None:
    no_dev = changed(sound, tmp_path, {int(row): {"split": "train"} for row in sound.select("dev")})
    check.main([str(no_dev), "--fix", "--out", str(tmp_path / "mended")])
    mended = Corpus.load(tmp_path / "mended")
    assert len(mended.select("dev"))
    assert {mended.id(r) for r in mended.select("test")} == {sound.id(r) for r in sound.select("test")}


WRITTEN = {
    "rus": "все люди рождаются свободными и равными в своём достоинстве и правах они наделены разумом",
    "ara": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق وقد وهبوا عقلا على أن إلى هذا",
    "hin": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतंत्रता और समानता प्राप्त है",
    "cmn": "人人生而自由 在尊严和权利上一律平等 他们赋有理性和良心 并应以兄弟关系的精神相对待",
    "kor": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다 인간은 천부적으로",
    "amh": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው የተፈጥሮ ማስተዋልና ሕሊና",
    "yor": "gbogbo ènìyàn ni a bí ní òmìnira iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba wọ́n ní ẹ̀bùn",
    "jpn": "すべての人間は 生まれながらにして自由であり かつ 尊厳と権利とについて 平等である",
    "ell": "όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα",
}


@pytest.mark.parametrize("language", WRITTEN)
def test_no_writing_is_a_fault(sound: Corpus, tmp_path: Path, language: str) -> None:
    random = np.random.default_rng(1)
    words = WRITTEN[language].split()
    changes: dict[int, dict[str, Any]] = {}
    for row in range(len(sound)):
        text = " ".join(random.permutation(words)[:6])
        changes[row] = {"text": text, "language": language, "duration_s": len(text) / 8}
    found = topics(changed(sound, tmp_path, changes), language)
    assert not {"script", "encoding", "look-alikes", "language", "unicode", "marks", "rate", "label > frames"} & set(
        found
    ), found


def test_a_label_that_can_be_read_again_is_not_called_lost(sound: Corpus, tmp_path: Path) -> None:
    wrong = sound.text(0).replace("è", "ç") + " Það"
    changes = {0: {"text": wrong.encode().decode("latin-1")}}  # its bytes are control characters in Latin-1
    found = check.check(Corpus.load(changed(sound, tmp_path, changes)), "ita").findings
    [encoding] = [finding for finding in found if finding.topic == "encoding"]
    assert "wrong encoding" in encoding.what


def test_few_held_out_clips_and_how_to_hold_out_more(sound: Corpus, tmp_path: Path) -> None:
    dev = sound.select(split="dev").tolist()
    assert len(dev) < 20
    [amount] = [f for f in check.check(sound, "ita").findings if f.what.startswith("dev has")]
    assert amount.fix.startswith("hold out 12 clips or more: lalia prepare … --dev 20 (percent)")
    assert "at most 20 %" in amount.fix


def test_the_next_command_is_printed(sound: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(sound.folder), "--language", "ita"]) == 0
    out = capsys.readouterr().out
    assert (
        f"train: lalia finetune fit --encoder nano-multilingual --data.corpus {sound.folder} --data.language ita" in out
    )
    odd = changed(sound, tmp_path, {0: {"text": "…"}})
    check.main([str(odd)])
    assert f"fix 1 finding: lalia finetune check {odd} --fix --out {odd}-fixed" in capsys.readouterr().out
    check.main([str(odd), "--fix", "--out", str(tmp_path / "mended")])
    out = capsys.readouterr().out
    assert f"--data.corpus {tmp_path / 'mended'} " in out and "fix 1 finding" not in out


def test_transcribers_marks_are_named_and_taken_out(sound: Corpus, tmp_path: Path, capsys: Any) -> None:
    """What is no word goes, what may be said stays and is listed, and signs are named as digits are."""
    texts = dict(enumerate(sound.column("text")))
    new = {
        0: f"[laughter] {texts[0]}", 1: f"<noise> {texts[1]}", 2: "[laughter]", 3: f"xxx {texts[3]}", 4: f"%um {texts[4]}",
        5: f"*EXP: {texts[5]}", 7: f"{texts[7]} mor- morte", 8: f"{texts[8]} 5 % o 5 ₽", 9: f"[forse] {texts[9]}",
    }  # fmt: skip
    odd = changed(sound, tmp_path, {row: {"text": text} for row, text in new.items()})
    findings = check.check(Corpus.load(odd), "ita").findings
    told = {f"{finding.topic}: {finding.weight}: {finding.what}": finding for finding in findings}

    def one(start: str) -> Any:
        [found] = [finding for line, finding in told.items() if line.startswith(start)]
        return found

    unsaid = one(
        "transcribers' marks: stop: 4 labels with transcribers' marks, which would be learned as words: [laughter] (2)"
    )
    assert unsaid.fixable and "the whole label of 1 clip" in unsaid.fix
    assert one("transcribers' marks: look: 1 label marks unintelligible speech: xxx (1)").fixable
    assert one("transcribers' marks: look: 1 label marks a hesitation: %um (1)").fixable
    assert not one(
        "transcribers' marks: look: 1 label has brackets or codes that may or may not be spoken: [forse]"
    ).fixable
    assert "mor- (1)" in one("cut-off words: look").what
    assert "₽ (1)" in one("digits: look: 1 label has signs that are spoken as words").what
    check.main([str(odd), "--fix", "--out", str(tmp_path / "mended")])
    mended = Corpus.load(tmp_path / "mended")
    after = dict(zip(mended.column("id"), mended.column("text"), strict=True))
    ids = sound.column("id")
    assert [after[ids[row]] for row in (0, 1, 2, 3, 5)] == [texts[0], texts[1], "", texts[3], texts[5]]
    assert after[ids[4]] == f"um {texts[4]}"
    assert [after[ids[row]] for row in (7, 8, 9)] == [new[row] for row in (7, 8, 9)]
    assert "only transcribers' marks" in (tmp_path / "mended" / "changed.tsv").read_text(encoding="utf-8")
    capsys.readouterr()


def test_casing_and_punctuation_are_shown_with_what_becomes_of_them(
    sound: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {0: "LA CASA È GRANDE!", 1: "«Non è l'ora», disse.", 2: "Il treno."}
    odd = changed(sound, tmp_path, {row: {"text": text} for row, text in texts.items()})
    assert "casing" not in topics(odd)  # the normaliser lowers them all
    check.main([str(odd)])
    out = " ".join(capsys.readouterr().out.split())
    assert "capitals in 3 labels (1 in capitals only), made lower case" in out
    assert "! 1" in out and "« 1" in out and ", dropped" in out and "' " in out
    settings = tmp_path / "normaliser.json"
    NormaliserSettings(language="ita", case="keep").to_json(settings)
    findings = check.check(Corpus.load(odd), "ita", normaliser=settings).findings
    [casing] = [finding for finding in findings if finding.topic == "casing"]
    assert "1 label is all in capitals" in casing.what


def test_the_same_fix_again_returns_its_corpus_and_another_is_rejected(sound: Corpus, tmp_path: Path) -> None:
    fixed, again = tmp_path / "fixed", tmp_path / "again"
    (tmp_path / ".again.work").mkdir()  # what a call that was killed leaves
    statuses = {check.main([str(sound.folder), "--fix", "--out", str(out)]) for out in (fixed, again)}
    card = (fixed / "card.json").read_bytes()
    statuses.add(check.main([str(sound.folder), "--fix", "--out", str(fixed)]))
    assert len(statuses) == 1
    assert (fixed / "card.json").read_bytes() == card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "fixed"]
    with pytest.raises(UserError, match="exists and is not empty"):
        rewrite(sound, fixed, np.arange(3), {}, [], {})


HANGUL = ["안녕하세요", "감사합니다", "오늘은 날씨가 좋아요", "시장에 갑니다", "책을 읽어요", "학교에 가요"]


def test_rare_characters_are_in_the_units_of_the_vocabulary(sound: Corpus, tmp_path: Path) -> None:
    """Hangul is spelled by its parts: a rare syllable of common parts is no finding, and one unseen in train neither."""
    changes = {row: {"language": "kor", "text": " ".join(HANGUL)} for row in range(len(sound))}
    held = [int(row) for row in sound.select("test")]
    changes[train_rows(sound)[0]]["text"] += " 놀"
    changes[held[0]]["text"] += " 감안"
    found = topics(changed(sound, tmp_path / "a", changes), "kor")
    assert "rare characters" not in found and "unseen characters" not in found, found
    changes[train_rows(sound)[0]]["text"] += " 쀍"
    changes[held[0]]["text"] += " ж"
    found = topics(changed(sound, tmp_path / "b", changes), "kor")
    assert " of syllables of " in found["rare characters"] or "1 part of a syllable of " in found["rare characters"]
    assert "1 character of dev and test" in found["unseen characters"]


@pytest.mark.parametrize(
    ("language", "text", "topic", "said"),
    [
        ("ita", "c i a o a t u t t i", "spelled letters", "stop: 60 labels spelled with spaces, one letter a word"),
        ("mya", "ေနေကာင္းလား", "encoding", "stop: 60 labels in Zawgyi"),
        ("ara", "\ufeb3\ufefc\ufee1 \ufecb\ufee0\ufef4\ufedc\ufee2", "encoding", "look: 60 labels with presentation forms"),
        ("ara", "\ufee2\ufedc\ufef4\ufee0\ufecb \ufee1\ufefc\ufeb3 \ufee2\ufedc\ufecb",
         "encoding", "stop: 60 labels in visual order"),
        ("fas", "ﺳﻼﻡ", "encoding", "presentation forms"),
    ],
)  # fmt: skip
def test_legacy_spellings_are_found(
    sound: Corpus, tmp_path: Path, language: str, text: str, topic: str, said: str
) -> None:
    found = topics(
        changed(sound, tmp_path, {row: {"language": language, "text": text} for row in range(len(sound))}), language
    )
    assert said in found[topic], found


@pytest.mark.parametrize(
    ("language", "text"),
    [("mya", "နေကောင်းလား"), ("ara", "سلام عليكم"), ("cmn", "你 好 吗 我"), ("vie", "ý kiến à ô"), ("pwo", "မၠင်")],
)
def test_sound_spellings_are_no_finding(sound: Corpus, tmp_path: Path, language: str, text: str) -> None:
    changes = {row: {"language": language, "text": text} for row in range(len(sound))}
    found = topics(changed(sound, tmp_path, changes), language)
    assert "encoding" not in found and "spelled letters" not in found, found


def test_speaker_codes_are_found_and_removed(sound: Corpus, tmp_path: Path) -> None:
    changes = {row: {"text": f"{'AB'[row % 2]}: {sound.text(row)}"} for row in range(len(sound))}
    coded = changed(sound, tmp_path, changes)
    assert "60 labels begin with a speaker's code: A (30), B (30)" in topics(coded)["speaker codes"]
    check.main([str(coded), "--fix", "--out", str(tmp_path / "fixed")])
    fixed = Corpus.load(tmp_path / "fixed")
    assert [fixed.text(row) for row in range(5)] == [sound.text(row) for row in range(5)]
    spoken = {row: {"text": f"Anna: {sound.text(row)}"} for row in range(2)}
    assert "speaker codes" not in topics(changed(sound, tmp_path / "few", spoken))


def test_labels_that_are_shifted_are_judged_against_random_pairings() -> None:
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcdefgh "), 30)) for _ in range(60)]

    def transcripts(shift: int, wrong: float = 0.3) -> dict[int, str]:
        return {
            p: "".join(c if draw.random() > wrong else "x" for c in texts[p + shift])
            for p in range(3, 57)
        }  # fmt: skip

    assert shifted_labels(texts, transcripts(0)) is None
    for shift in (-2, 1):
        found = shifted_labels(texts, transcripts(shift))
        assert found is not None and found[2] == shift and found[0] > 0.8 * found[1]
    unrelated = {p: "".join(draw.choice(list("abcdefgh "), 30)) for p in range(60)}
    found = shifted_labels(texts, unrelated)
    assert found is not None and found[2] is None
    assert shifted_labels(texts, {0: "x"}) is None, "too few to tell"


def test_shifted_labels_stop_and_none_is_removed(
    sound: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recogniser that transcribes each clip as the label of the one before it."""
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcdefgh "), 30)) for _ in range(len(sound))]
    corpus = changed(sound, tmp_path, {row: {"text": text} for row, text in enumerate(texts)})
    model = clips.PairModel("rough", Tokens.from_texts(texts), Normaliser(), lambda wave: wave, lambda *given: given[0])
    scores = [clips.PairScore(p, 1.0, 30.0, 0.9, texts[p - 1]) for p in range(1, len(texts))]
    monkeypatch.setattr(clips, "load_pair_model", lambda folder: model)
    monkeypatch.setattr(clips, "score_pairs", lambda labels, model: iter(scores))
    labels = check.check(Corpus.load(corpus), "ita").labels
    findings, examples, places = clips.check_pairs(labels, Path("rough"))
    assert [finding.weight for finding in findings] == ["stop"] and not examples and not places
    assert "a clip's label is 1 row before it (CER " in findings[0].what


def test_a_listener_corrects_suspect_labels(
    sound: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [int(row) for row in sound.select(split="train", language="ita")[:4]]
    labels = check.check(sound, "ita").labels
    places = [labels.rows.tolist().index(row) for row in rows]
    finding = Finding("pairs", "look", "4 labels likely wrong", fixable=True)
    found = [Example(row, "transcript: tre", "tre") for row in rows]
    monkeypatch.setattr(clips, "check_pairs", lambda labels, folder: ([finding], found, places))
    page, table = tmp_path / "wrong.html", tmp_path / "corrections.tsv"
    given = [str(sound.folder), "--language", "ita", "--recogniser", "rough"]
    check.main([*given, "--listen", str(page)])
    html = page.read_text()
    assert html.count("<article") == 4 and "--fix --out" in html and "tre</mark>" in html
    ids = [sound.id(row) for row in rows]
    decisions = [f"{ids[0]}\taccept\tx", f"{ids[1]}\tcorrect\tgrazie mille", f"{ids[2]}\trefuse\tx"]
    table.write_text("\n".join(["piece\tdecision\ttext", *decisions]) + "\n")
    check.main([*given, "--corrections", str(table), "--fix", "--out", str(tmp_path / "fixed")])
    made = Corpus.load(tmp_path / "fixed")
    texts = dict(zip(made.column("id"), made.column("text"), strict=True))
    assert [texts[id] for id in ids] == [sound.text(rows[0]), "grazie mille", "", ""]
    why = (tmp_path / "fixed" / "changed.tsv").read_text()
    assert "corrected by a listener" in why and "refused by a listener" in why and "likely wrong label" in why

    table.write_text("piece\tdecision\ttext\nelsewhere\trefuse\t\n")
    for flags, said in (
        (["--corrections", str(table), "--fix", "--out", str(tmp_path / "other")], "such as 'elsewhere'"),
        (["--corrections", str(table)], "needs --fix"),
    ):
        with pytest.raises(UserError, match=said):
            check.main([*given, *flags])
    with pytest.raises(UserError, match="needs --recogniser"):
        check.main([str(sound.folder), "--listen", str(page)])


def test_a_language_without_spaces_is_counted_in_its_own_units(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WORDS, "tha", ("a",))
    monkeypatch.setitem(WORDS, "bod", ("a",))
    corpus = Corpus.load(make_corpus(tmp_path / "plain", 24, ("tha", "bod")))
    changes = {}
    for row in range(len(corpus)):
        changes[row] = {"text": "สวัสดีครับ" if corpus.language(row) == "tha" else "བཀྲ་ཤིས་བདེ་ལེགས", "speech_ratio": 1.0}
    found = changed(corpus, tmp_path, changes)
    thai, tibetan = check.check(Corpus.load(found), "tha"), check.check(Corpus.load(found), "bod")
    assert [split.words for split in thai.splits] == [7 * split.clips for split in thai.splits]  # ส วั ส ดี ค รั บ
    assert [split.words for split in tibetan.splits] == [4 * split.clips for split in tibetan.splits]
    assert {"repeated label"} <= {finding.topic for finding in tibetan.findings}
    check.main([str(found)])
    out = capsys.readouterr().out
    assert "clusters" in out and "syllables" in out and "་ is a letter" in out


def test_the_next_command_trains_every_language_that_is_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_corpus(tmp_path / "both", 24, ("deu", "tur"))
    check.main([str(folder), "--fix", "--out", str(tmp_path / "fixed")])
    assert "--data.language deu --data.language tur --out runs/deu-tur\n" in capsys.readouterr().out
