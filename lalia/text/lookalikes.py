"""Letters that look alike and are not: of another script in the middle of a word, or two codes for one letter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from lalia.text.scripts import script_of

# Each line is one shape: letters of several scripts, or several codes that keyboards give for one letter.
_SHAPES = """
aаα bЬ cсϲ dԁ eеҽ ɛεԑ əǝә gɡ hһհ iіι jјϳ kκк lӏ mм nո oоοօ pрρ qԛ sѕ tт uυս vνѵ wԝѡ xхχ yуγү zᴢ ŋη ɔᴐͻ ɣγ ʋυ ɗժ
AАΑ BВΒ CСϹ EЕΕ FϜ GԌ HНΗ IІΙӀ JЈͿ KКΚ MМΜ NΝ OОΟ PРΡ SЅ TТΤ XХΧ YУΥҮ ZΖ QԚ WԜ ƐΕЄ ƏƎӘ
ßβ µμ öӧ äӓ ëё ïї çҫ èѐ
şș ţț ŞȘ ŢȚ ĐÐƉ ŁⱠ
يی كک هہ ةۃ ٱا
"""
GROUPS = tuple(_SHAPES.split())
_APOSTROPHES = "'’‘ʼʻʽ`´ˈꞌ"
_TOGETHER = ({"CJK", "HIRAGANA", "KATAKANA"}, {"CJK", "HANGUL"}, {"CJK", "BOPOMOFO"})
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]*[^\W\d_]*)*")


def _table() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for group in GROUPS:
        for letter in group:
            table.setdefault(letter, set()).update(set(group) - {letter})
    return table


_ALIKE = _table()


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script ``text`` has; what all scripts share is not counted."""
    found: Counter[str] = Counter(map(script_of, text))
    del found[""]
    return found


def mixed_words(text: str) -> list[str]:
    """The words of ``text`` whose letters are of scripts that no language writes together."""
    return [word for word in _WORD.findall(text) if _mixed(scripts_of(word))]


def mend(text: str, usual: str = "") -> str:
    """``text`` with look-alikes in mixed words replaced by the letter of the word's own script, where there is one.

    A word's own script is the one of most of its letters; of two that share it evenly, ``usual`` (else the text's own).
    """
    if not usual and (scripts := scripts_of(text)):
        usual = scripts.most_common(1)[0][0]
    return _WORD.sub(lambda found: _mended(found[0], usual), text)


def alike_in(counts: Counter[str], scripts: Iterable[str] = ()) -> list[list[str]]:
    """Groups of characters of ``counts`` that look alike, each by how often they are used; ``scripts`` limits to those.

    Letters that one of the usual scripts has in its own right (Greek beside Latin) are a group only within that script.
    """
    wanted = set(scripts)
    found = []
    for group in (_APOSTROPHES, *GROUPS):
        there = [c for c in group if counts[c] and (not wanted or script_of(c) in wanted | {""})]
        if len(there) > 1 and len({script_of(c) for c in there} - {""}) <= 1:
            found.append(sorted(there, key=lambda c: -counts[c]))
    return found


def _mixed(scripts: Counter[str]) -> bool:
    return len(scripts) > 1 and not any(set(scripts) <= together for together in _TOGETHER)


def _mended(word: str, usual: str) -> str:
    scripts = scripts_of(word)
    if not _mixed(scripts):
        return word
    most = max(scripts.values())
    own = usual if scripts.get(usual) == most else scripts.most_common(1)[0][0]
    return "".join(_as(c, own) for c in word)


def _as(letter: str, script: str) -> str:
    if script_of(letter) in ("", script):
        return letter
    return next((c for c in sorted(_ALIKE.get(letter, ())) if script_of(c) == script), letter)
