"""Transcription marks such as [laughter], (unclear) or <noise>: finds and removes what annotators write and nobody says.

A mark that holds letters or digits becomes a word of the label unless it is removed: "[laughter] yes" would teach the word
*laughter*. Marks of punctuation alone, such as (.) or [//], are left to the normaliser, which drops them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lalia.text.spoken_signs import SIGNS

MarkKind = Literal["event", "unclear", "code", "word", "unsure"]
"""event: a sound that is no speech · unclear: speech that nobody wrote down · code: a speaker, a pause, a comment, a tag ·
word: a word that is said, with a sign in front · unsure: may be said or not, so it is named and left alone"""

_EVENTS = frozenset(
    """
    laugh laughs laughing laughter chuckle chuckles giggle giggles cough coughs coughing sneeze sneezes sniff sniffs breath
    breathes breathing inhale inhales exhale exhales sigh sighs yawn yawns gasp gasps groan groans cry cries crying sob sobs
    scream screams whistle whistles hum hums humming click clicks lipsmack smack smacks swallow throat clears clearing
    noise noises vocalized vocalised background static distortion beep beeps ring ringing buzz hiss bang knock knocking door
    traffic music song singing sings applause clapping cheering silence pause overlap crosstalk
    lacht lachen lachend gelächter husten hustet räuspern räuspert atmet einatmen ausatmen seufzt niest weint geräusch
    geräusche musik applaus pause stille rauschen schmatzen schmatzt klopfen
    rire rires rit toux tousse souffle soupir bruit bruits musique applaudissements silence
    risa risas ríe tos tose respira suspiro ruido ruidos música aplausos silencio riso risos risada risadas ruído palmas
    risata risate ride tosse sospiro rumore rumori musica applausi silenzio
    смех смеётся смеется кашель кашляет вздох шум музыка аплодисменты пауза тишина
    lach lacht hoest hoesten zucht lawaai muziek applaus skratt skrattar hosta brus musikk musik latter
    śmiech kaszel hałas muzyka smích kašel hluk hudba kicheko kikohozi kelele muziki
    """.split()  # noqa: SIM905
)
"""Words that describe a sound, in the languages that transcribers write most."""
_AMBIGUOUS = frozenset(
    """
    door ring ringing song static traffic background click clicks hum cry cries bang knock buzz hiss swallow ride rit tose
    pause silence latter brus lach stille static overlap
    """.split()  # noqa: SIM905
)
"""Those that may as well be said between parentheses, which texts have of their own."""
_UNCLEAR = frozenset(
    """
    unclear unintelligible inaudible indistinct incomprehensible mumble mumbles mumbling mumbled garbled unk xxx xx
    unverständlich undeutlich unklar incompréhensible inaudible indistinct ininteligible inaudible incomprensible
    ininteligível inaudível incompreensível incomprensibile inudibile неразборчиво невнятно onverstaanbaar niezrozumiałe
    nesrozumitelné ohörbart haisikiki
    """.split()  # noqa: SIM905
)
"""Words that say that speech could not be understood."""
_TAGS = "i b u s em strong font c v ruby rt lang span p br"
_PARTS = re.compile(r"[^\w]+|_")


@dataclass(frozen=True)
class Mark:
    """One mark of a convention."""

    kind: MarkKind
    pattern: re.Pattern[str]
    source: str
    """the convention that writes it so"""
    becomes: str = " "
    """what stays of it in the label, as ``re.sub`` takes it"""
    of: frozenset[str] | None = None
    """group 1 must be made of these words"""

    def fits(self, match: re.Match[str]) -> bool:
        """Whether what was matched is this mark."""
        if self.of is None:
            return True
        words = [word for word in _PARTS.split(match[1].casefold()) if word]
        return bool(words) and all(word in self.of for word in words)


def _mark(kind: MarkKind, pattern: str, source: str, becomes: str = " ", of: frozenset[str] | None = None) -> Mark:
    return Mark(kind, re.compile(pattern), source, becomes, of)


_LDC = "LDC (Hub5, CALLHOME, Fisher)"
_CHAT = "CHAT (MacWhinney, Tools for Analyzing Talk)"
_GAT = "GAT 2 (Selting et al. 2009)"
_SWITCHBOARD = "Switchboard (ISIP)"
_HIAT = "HIAT, as ELAN and EXMARaLDA export it"
_SUBTITLES = "SubRip, WebVTT"

_BRACKETED: tuple[tuple[MarkKind, frozenset[str]], ...] = (("event", _EVENTS), ("unclear", _UNCLEAR))

MARKS = (
    # Speakers and lines of notes.
    _mark("code", r"^\s*\*[A-Z][A-Z0-9]{1,7}:", _CHAT),
    _mark("code", r"^\s*%[a-z]{3,5}:.*$", _CHAT),
    # Scopes first: they hold words that are said.
    _mark("code", r"<<([^<>]*)>\s*([^<>]*)>", _GAT, r" \2 "),
    _mark("event", r"\[laughter-([^\]\s]+)\]", _SWITCHBOARD, r" \1 "),
    _mark("code", rf"</?(?:{'|'.join(_TAGS.split())})(?:[\s.][^<>]*)?/?>", _SUBTITLES),
    _mark("code", r"</?(?:foreign|language|lang|seg|turn|utt)\b[^<>]*>", _LDC),
    # Sounds and speech that nobody understood, between brackets of any kind.
    *(
        _mark(
            kind,
            opening + r"\s*/?([^\[\](){}<>]*?)/?\s*" + closing,
            source,
            of=words - _AMBIGUOUS if opening == r"\(" else words,
        )
        for kind, words in _BRACKETED
        for opening, closing, source in (
            (r"\(\(", r"\)\)", f"{_GAT}; {_LDC}"),
            (r"\[", r"\]", f"{_LDC}; {_SUBTITLES}"),
            (r"\{", r"\}", _LDC),
            (r"<", r">", _LDC),
            (r"\(", r"\)", _SUBTITLES),
        )
    ),
    _mark("code", r"<([^<>]+)>(?=\s*\[)", _CHAT, r" \1 "),
    _mark("event", r"(?<!\S)&=[\w:]+", _CHAT),
    _mark("event", r"(?<!\S)(?:°h{1,3}|h{1,3}°)(?!\S)", _GAT),
    _mark("unclear", r"\(?\b(?:xxx+|XXX+)(?:\s+(?:xxx+|XXX+))*\b\)?", f"{_CHAT}; {_GAT}"),
    # Pauses with their length, comments, codes of errors and replacements.
    _mark(
        "code",
        r"\(\(?\s*(?:\d{1,2}[.,]\d{0,2}\s*(?:s|sec|sek)?|\d{1,2}\s*(?:s|sec|sek))\.?\s*\)\)?",
        f"{_GAT}; {_HIAT}; {_CHAT}",
    ),
    _mark("code", r"\[\[[^\[\]]*\]\]", _LDC),
    _mark("code", r"\[(?:=[!?]?|:{1,2}|\*|\+|%|#)\s*[^\[\]]*\]", _CHAT),
    # Hesitations are said: the sign in front goes, the word stays.
    _mark("word", r"(?<!\S)%([^\W\d_]+)", _LDC, r"\1"),
    _mark("word", r"(?<!\S)&-([^\W\d_]+)", _CHAT, r"\1"),
    # May be said or not.
    _mark("unsure", r"\(\([^()]*[^\W_][^()]*\)\)", f"{_LDC}: the transcriber's guess; {_GAT}: a sound"),
    _mark("unsure", r"\[[^\[\]]*[^\W\d_][^\[\]]*\](?!-)", f"{_GAT}: speech at the same time; {_LDC}: a sound"),
    _mark("unsure", r"\{[^{}]*[^\W\d_][^{}]*\}", _LDC),
    _mark("unsure", r"<(?!\s)[^<>]*[^\W\d_][^<>]*(?<!\s)>", _LDC),
    _mark("unsure", r"(?<!\S)&[+~](?=[^\W\d_])\S+", f"{_CHAT}: a fragment or no word"),
    _mark("unsure", r"^\s*[A-Z][A-Z0-9 .]{1,20}:(?=\s)", f"{_SUBTITLES}: who speaks"),
)
"""In the order in which they are looked for: what one takes the next no longer sees."""

_TRUNCATED = re.compile(r"(?<![\w-])[^\W\d_]+(?:\[[^\W\d_]+\])?-(?=[\s,.;:?!…]|$)")
_COORDINATION = re.compile(
    r"\s*,?\s*(?:und|oder|bzw|sowie|en|of|og|och|eller|and|or|to|ja|tai|e|ed|o|y|et|ou)\b", re.IGNORECASE
)
_SYMBOLS = re.compile(f"[{SIGNS}]")


def find_marks(text: str) -> list[tuple[Mark, str]]:
    """The marks in ``text``, and how each is written there."""
    found: list[tuple[Mark, str]] = []
    _substitute(text, lambda mark, written: found.append((mark, written.strip())))
    return found


def strip_marks(text: str) -> str:
    """``text`` without the marks that are none of its words; what may be said stays."""
    return " ".join(_substitute(text, lambda mark, written: None).split())


def truncated_words(text: str) -> Iterator[str]:
    """Words that end in a hyphen, as those that a speaker broke off; not the first half of *Vor- und Nachname*."""
    for match in _TRUNCATED.finditer(text):
        if not _COORDINATION.match(text, match.end()):
            yield match[0]


def spoken_symbols(text: str) -> list[str]:
    """Signs that are said as words, such as the one of percent."""
    return _SYMBOLS.findall(strip_marks(text))


def _substitute(text: str, on_mark: Callable[[Mark, str], None]) -> str:
    """``text`` after every mark, each of which is told."""
    for mark in MARKS:

        def replaced(match: re.Match[str], mark: Mark = mark) -> str:
            if not mark.fits(match):
                return match[0]
            on_mark(mark, match[0])
            return match[0] if mark.kind == "unsure" else match.expand(mark.becomes)

        text = mark.pattern.sub(replaced, text)
    return text
