"""N-grams: modified Kneser-Ney equal to the textbook's formulas, ARPA in and out, and files that load in no time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lalia.errors import UserError
from lalia.inputs import is_arpa
from lalia.lm.arpa import _sort_keys, murmur, read_arpa, write_arpa, write_kenlm
from lalia.lm.folder import LanguageModel, make
from lalia.lm.ngrams import FALLBACK, SPECIALS, Ngrams, discounts, estimate
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens

DRAW = np.random.default_rng(5)
WORDS = [*"abcdefghijklmnopqrstuvwyz"]
TEXT = [[WORDS[min(24, int(DRAW.zipf(1.5)) - 1)] for _ in range(int(DRAW.integers(1, 9)))] for _ in range(70)]
HELD = [["a", "b", "a"], ["h", "x", "a"], [], ["c", "c", "g", "h"]]


class Slow:
    """Chen and Goodman's formulas with dictionaries, one word at a time."""

    def __init__(self, text: list[list[str]], order: int) -> None:
        raw: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order + 1)]
        for sentence in text:
            words = ["<s>", *sentence, "</s>"]
            for n in range(1, order + 1):
                raw[n].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        self.counts: list[dict[tuple[str, ...], int]] = [{} for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram, count in raw[n].items():
                if n < order and gram[0] != "<s>":
                    count = len({longer[0] for longer in raw[n + 1] if longer[1:] == gram})
                self.counts[n][gram] = count
        del self.counts[1][("<s>",)]
        self.order = order
        self.vocabulary = len(self.counts[1]) + 1  # and <unk>
        self.discounts = []
        for n in range(1, order + 1):
            t = Counter(self.counts[n].values())
            y = t[1] / (t[1] + 2 * t[2])
            found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)] if all(t[k] for k in (1, 2, 3, 4)) else []
            usable = found and all(0 < d <= k for k, d in enumerate(found, start=1))
            self.discounts.append([0.0, *(found if usable else FALLBACK)])

    def prob(self, word: str, before: tuple[str, ...]) -> float:
        if len(before) >= self.order:
            before = before[len(before) - self.order + 1 :]
        n = len(before) + 1
        shorter = self.prob(word, before[1:]) if before else 1 / self.vocabulary
        after = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == before}
        if not after:
            return shorter
        taken = {w: self.discounts[n - 1][min(c, 3)] for w, c in after.items()}
        total = sum(after.values())
        own = (after[word] - taken[word]) / total if word in after else 0.0
        return own + sum(taken.values()) / total * shorter


@pytest.mark.parametrize("order", [1, 2, 4])
def test_equal_to_the_formulas(order: int) -> None:
    model, slow = estimate(TEXT, order), Slow(TEXT, order)
    known = set(model.symbols)
    for sentence in (*TEXT[:10], *HELD):
        words = [w if w in known else "<unk>" for w in sentence]
        found = model.log_probs([model.id(w) for w in sentence])
        expected = [
            math.log(slow.prob(w, ("<s>", *words[:i]) if order > 1 else ())) for i, w in enumerate([*words, "</s>"])
        ]
        assert found == pytest.approx(expected, abs=1e-5)


def test_probabilities_sum_to_one() -> None:
    model = estimate(TEXT, 3)
    everything = [i for i in range(len(model.symbols)) if i != 1]
    state = model.start
    for word in ("a", "b", "h", "a", "a"):
        assert sum(math.exp(model.advance(state, i)[0]) for i in everything) == pytest.approx(1, abs=1e-5)
        state = model.advance(state, model.id(word))[1]


def test_perplexity() -> None:
    model = estimate(TEXT, 3)
    sentences = [[model.id(w) for w in sentence] for sentence in HELD]
    log_probs = [p for s in sentences for p in model.log_probs(s)]
    assert model.perplexity(sentences) == pytest.approx(math.exp(-np.mean(log_probs)))
    assert model.perplexity([[model.id(w) for w in s] for s in TEXT]) < model.perplexity(sentences)


def test_discounts() -> None:
    """Counts of counts 8, 4, 2, 1: Y = 8 / (8 + 2 · 4), D = 1 - 2 Y 4 / 8, 2 - 3 Y 2 / 4, 3 - 4 Y 1 / 2."""
    counts = np.array([0, *[1] * 8, *[2] * 4, *[3] * 2, 4, 9, 9])
    assert discounts(counts) == pytest.approx((0.5, 1.25, 2.0))


def test_discounts_of_little_text() -> None:
    assert discounts(np.array([1, 1, 1])) == FALLBACK
    assert estimate([["a"]], 3).log_probs([3])[0] > math.log(0.3)


def test_saved_and_mapped(tmp_path: Path) -> None:
    model = estimate(TEXT, 4)
    model.save(tmp_path)
    again = Ngrams.load(tmp_path, 4)
    assert isinstance(again.levels[2].log_probs, np.memmap)
    for sentence in HELD:
        ids = [model.id(w) for w in sentence]
        assert again.log_probs(ids) == model.log_probs(ids)
    (tmp_path / "ngrams-3.children.npy").unlink()
    with pytest.raises(UserError, match=r"ngrams-3.children.npy: is missing"):
        Ngrams.load(tmp_path, 4)
    np.save(tmp_path / "ngrams-3.children.npy", np.zeros(4, np.int64))
    with pytest.raises(UserError, match="different language models"):
        Ngrams.load(tmp_path, 4)
    (tmp_path / "ngrams-3.children.npy").write_bytes(b"rotten")
    with pytest.raises(UserError, match="cannot be read"):
        Ngrams.load(tmp_path, 4)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_arpa_and_back(tmp_path: Path, suffix: str) -> None:
    import bz2
    import gzip
    import lzma

    model = estimate(TEXT, 4)
    path = tmp_path / "lm.arpa"
    write_arpa(model, path)
    if suffix:
        written = path.read_bytes()
        path = tmp_path / f"lm.arpa{suffix}"
        path.write_bytes(
            {".gz": gzip.compress(written), ".bz2": bz2.compress(written), ".xz": lzma.compress(written)}[suffix]
        )
        assert is_arpa(path)
    again = read_arpa(path)
    assert again.symbols == model.symbols
    for sentence in (*TEXT[:5], *HELD):
        ids = [model.id(w) for w in sentence]
        assert again.log_probs(ids) == pytest.approx(model.log_probs(ids), abs=1e-5)


def test_kenlm_reads_what_we_write(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = estimate(TEXT, 4)
    write_arpa(model, tmp_path / "lm.arpa")
    theirs = kenlm.Model(str(tmp_path / "lm.arpa"))
    for sentence in (*TEXT[:10], *HELD):
        ours = sum(model.log_probs([model.id(w) for w in sentence])) / math.log(10)
        assert ours == pytest.approx(theirs.score(" ".join(sentence)), abs=1e-4)


@pytest.mark.parametrize("order", [2, 4, 6])
def test_kenlm_maps_the_binary_file_that_we_write(tmp_path: Path, order: int) -> None:
    """Every score, the length it was found at and whether the word is known: the same as of the ARPA file that KenLM parses."""
    kenlm = pytest.importorskip("kenlm")
    model = estimate(TEXT, order)
    write_arpa(model, tmp_path / "lm.arpa")
    write_kenlm(model, tmp_path / "lm.bin")
    parsed, mapped = kenlm.Model(str(tmp_path / "lm.arpa")), kenlm.Model(str(tmp_path / "lm.bin"))
    assert mapped.order == order
    for sentence in (*TEXT, *HELD, ["nowhere", "a"]):
        expected, found = (list(one.full_scores(" ".join(sentence))) for one in (parsed, mapped))
        assert [each[1:] for each in found] == [each[1:] for each in expected]
        assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=2e-6)


def test_kenlm_has_no_single_symbols(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--order 2 or more"):
        write_kenlm(estimate(TEXT, 1), tmp_path / "lm.bin")
    assert not (tmp_path / "lm.bin").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (b"<unk>", 0xEA91E7561F5B392B),
        (b"ab", 0x62BE85B2FE53D1F8),
        (b"abcdefgh", 0xAFDB0257FF41AA98),
        ("ሰላም ለዓለም".encode(), 0x1A3085C4DB588EC7),
    ],
)
def test_words_are_hashed_as_kenlm_hashes_them(word: bytes, expected: int) -> None:
    assert murmur(word) == expected


PRUNED = """\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-99\t<s>\t-0.5
-1\t<unk>
-0.7\t</s>
-0.6\tb\t-0.3
-0.4\ta\t-0.2

\\2-grams:
-0.2\t<s> a\t-0.1
-0.3\ta a

\\3-grams:
-0.05\t<s> a b

\\end\\
"""


def test_arpa_that_was_pruned(tmp_path: Path) -> None:
    """``a b`` was pruned although ``<s> a b`` is there: it has what backing off gives it."""
    (tmp_path / "lm.arpa").write_text(PRUNED)
    model = read_arpa(tmp_path / "lm.arpa")
    a, b = model.id("a"), model.id("b")
    in_tens = [p / math.log(10) for p in model.log_probs([a, b, a, b])]
    assert in_tens == pytest.approx([-0.2, -0.05, -0.3 - 0.4, -0.2 - 0.6, -0.3 - 0.7], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("ngram 2=2", "ngram 2=3"), r"declares 5/3/1 n-grams, the file has 5/2/1"),
        (("\\end\\", ""), "and no end"),
        (("-0.3\ta a", "-0.3\ta q"), r"line 15 has 'q', which is not a 1-gram"),
        (("-0.3\ta a", "x\ta a"), "line 15 is 'x"),
        (("-0.2\t<s> a\t-0.1", "-0.2\tb a\t-0.1"), "expected every prefix"),
        (("\\2-grams:", "\\3-grams:"), "line 13 is"),
        (("ngram 1=5", "ngram 1=many"), "declares 'many'"),
    ],
)
def test_arpa_that_is_broken(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(PRUNED.replace(*change))
    with pytest.raises(UserError, match=says):
        read_arpa(path)
    path.write_bytes(b"\xff\xfe\x00rotten")
    with pytest.raises(UserError, match="cannot be read"):
        read_arpa(path)


def test_arpa_with_infinity_blanks_and_another_space(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    changed = PRUNED.replace("-99\t<s>", "-inf\t<s>").replace("\n", " \t\r\n").replace("b", "b\u00a0")
    path.write_bytes(b"\xef\xbb\xbf" + changed.encode())
    (tmp_path / "plain.arpa").write_text(PRUNED)
    model, plain = read_arpa(path), read_arpa(tmp_path / "plain.arpa")
    assert model.symbols == [*SPECIALS, "a", "b\u00a0"]
    for level, known in zip(model.levels, plain.levels, strict=True):
        assert (level.log_probs == known.log_probs).all() and (level.symbols == known.symbols).all()
    path.write_text(PRUNED.replace("-0.3\ta a", "-0.3\ta a\tinf"))
    with pytest.raises(UserError, match="line 15 is"):
        read_arpa(path)


@pytest.mark.parametrize("block", [7, 100, 1 << 20])
def test_arpa_in_blocks_equals_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Wherever a block ends, and whether lines are parsed together or (with two blanks each) alone: the same model."""
    path = tmp_path / "lm.arpa"
    write_arpa(estimate([*TEXT, ["สวัสดี", "\u00a0x", "…"] * 3], 4), path)
    plain = read_arpa(path)
    monkeypatch.setattr("lalia.lm.arpa._BLOCK", block)
    again = read_arpa(path)
    path.write_text(path.read_text(encoding="utf-8").replace("\t", "\t "), encoding="utf-8")
    for model in (again, read_arpa(path)):
        assert model.symbols == plain.symbols
        for level, known in zip(model.levels, plain.levels, strict=True):
            assert all((getattr(level, field) == value).all() for field, value in vars(known).items())


def test_numbers_in_arpa_files_are_read_as_python_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    written = ["-1.2345678", "-0", "0", "-3e-05", "-.5", "-7.", "-0.12345678901234567", "-99", "-123456789012345678901"]
    lines = [f"{number}\tw{i}\t{number}" for i, number in enumerate(written)]
    counted = f"\\data\\\nngram 1={len(lines)}\nngram 2=0\n\n\\1-grams:\n"
    path.write_text(counted + "\n".join(lines) + "\n\\2-grams:\n\\end\\")
    model = read_arpa(path)
    expected = [np.float32(max(float(number), -99.0) * math.log(10)) for number in written]
    assert [model.levels[0].log_probs[model.id(f"w{i}")] for i in range(len(written))] == expected
    assert [model.levels[0].backoffs[model.id(f"w{i}")] for i in range(len(written))] == expected
    for wrong in ("--1", "1-", "-", ".", "-1.2.3", "-1\N{ARABIC-INDIC DIGIT TWO}x"):
        path.write_text(counted + "\n".join([f"{wrong}\tw0", *lines[1:]]) + "\n\\2-grams:\n\\end\\")
        with pytest.raises(UserError, match="line 6 is"):
            read_arpa(path)


def test_long_ngrams_of_many_words_are_sorted_as_tuples() -> None:
    """Also where their numbers do not fit into one of 64 bits."""
    known, wanted = DRAW.integers(0, 1 << 20, (2, 400, 5)).astype(np.int32)
    known[:200, :3], wanted[:200, :4], wanted[:50] = known[0, :3], known[:200, :4], known[:50]
    keys = _sort_keys(known, wanted)
    ordered = sorted({*map(tuple, known.tolist()), *map(tuple, wanted.tolist())})
    ranks = np.unique(np.concatenate(keys), return_inverse=True)[1]
    assert [ordered[rank] for rank in ranks] == [*map(tuple, known.tolist()), *map(tuple, wanted.tolist())]


CAPITALS = """\\data\\
ngram 1=7
ngram 2=4

\\1-grams:
-99 <s> -0.5
-1 <unk>
-0.7 </s>
-0.9 {0} -0.1
-0.8 {1} -0.2
-1.5 {2} -0.3
-2 ?

\\2-grams:
-0.2 <s> {0}
-0.3 {0} {1}
-0.4 {0} {2}
-0.1 {2} </s>

\\end\\
"""


@pytest.mark.parametrize(
    ("language", "written", "expected"),
    [
        ("ita", ("CASA", "BELLA", "Bella"), ("casa", "bella")),
        ("tur", ("IŞIK", "İYİ", "iyi"), ("ışık", "iyi")),
        ("ell", ("ΣΑΣ", "ΚΑΛΑ", "καλα"), ("σας", "καλα")),
        ("rus", ("ДОМ", "БЕЛЫЙ", "белый"), ("дом", "белый")),
    ],
)
def test_arpa_in_capitals_passes_the_normaliser(
    tmp_path: Path, language: str, written: tuple[str, str, str], expected: tuple[str, str]
) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(CAPITALS.format(*written))
    model = read_arpa(path, Normaliser(NormaliserSettings(language=language)))
    assert set(model.symbols) == {*SPECIALS, *expected, "?"}  # a sign that is no letter stays
    first, second = map(model.id, expected)
    # of the two spellings of the second word, the more likely n-gram stays
    in_tens = [p / math.log(10) for p in model.log_probs([first, second])]
    assert in_tens == pytest.approx([-0.2, -0.3, -0.1], abs=1e-6)


@pytest.mark.parametrize(("language", "text"), [("tha", "สวัสดี"), ("bod", "བཀྲ་ཤིས"), ("cmn", "你好"), ("khm", "សួស្តី")])
def test_words_of_an_unspaced_language_are_refused(tmp_path: Path, language: str, text: str) -> None:
    normaliser, tokens = Normaliser(NormaliserSettings(language=language)), Tokens.from_texts([text])
    make(tmp_path / "words", [[text]] * 3, "word", 2, normaliser, [])
    with pytest.raises(UserError, match=r"words: n-grams of words need spaces .* make it with --unit letter"):
        LanguageModel.load(tmp_path / "words").check(tokens, normaliser)
    make(tmp_path / "letters", [list(text)] * 3, "letter", 2, normaliser, []).check(tokens, normaliser)


def test_no_text() -> None:
    with pytest.raises(UserError, match="has no words"):
        estimate([[]], 3)
