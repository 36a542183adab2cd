"""Language codes: finds the ISO 639-3 code for any code, locale or English name that a source uses.

``iso_639_3.tsv`` is IANA's Language Subtag Registry of 2025-08-25 (CC0) with two-letter codes written as three letters; it also
gives the macrolanguage of a code (swh is part of swa).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lalia.errors import UserError

# --- ISO 639-3 -------------------------------------------------------------------------------------------

TABLE = Path(__file__).with_name("iso_639_3.tsv")


class CodeEntry(NamedTuple):
    """What is known of one code."""

    name: str
    macrolanguage: str
    """the macrolanguage, "" where there is none"""


@cache
def codes() -> dict[str, CodeEntry]:
    """Every code of the standard; those for private use (qaa to qtz) have no entry."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return {code: CodeEntry(name, macrolanguage) for code, name, macrolanguage in (line.split("\t") for line in lines)}


def is_code(word: str) -> bool:
    """Whether ``word`` is a code of ISO 639-3, those for private use among them."""
    return word in codes() or re.fullmatch(r"q[a-t][a-z]", word) is not None


def language_name(code: str) -> str:
    """The English name, "" where there is none."""
    known = codes().get(code)
    return known.name if known else ""


def codes_by_name(name: str) -> list[str]:
    """The codes whose name is ``name``, else those whose name has it as a word, in the order of their names.

    A sign language is found by its whole name only: Valencian is not Valencian Sign Language.
    """
    word = name.strip().casefold()
    names = {code: known.name.casefold() for code, known in codes().items()}
    same = [code for code, known in names.items() if known == word]
    if same:  # A macrolanguage and the part of it that has its name are told apart by nobody: the whole.
        return [code for code in same if codes()[code].macrolanguage not in same]
    words = {code: re.findall(r"[^\W\d_]+", known) for code, known in names.items()}
    return sorted((code for code in words if word in words[code] and "sign" not in words[code]), key=names.__getitem__)


def related_code(code: str, among: Collection[str]) -> str | None:
    """Of ``among`` the one code that means ``code`` as well: its macrolanguage, or the only part of it that is there."""
    whole = codes()[code].macrolanguage if code in codes() else ""
    if whole in among:
        return whole or None
    parts = [other for other in among if other in codes() and codes()[other].macrolanguage == code]
    return parts[0] if len(parts) == 1 and code else None


# --- Languages by their ISO 639-3 codes, whatever code, locale or English name a source uses -------------

UNKNOWN = "und"

_CODES = """
aa aar afar, ab abk abkhazian, ae ave avestan, af afr afrikaans, ak aka akan, am amh amharic, an arg aragonese,
ar ara arabic, as asm assamese, av ava avaric, ay aym aymara, az aze azerbaijani, ba bak bashkir, be bel belarusian,
bg bul bulgarian, bi bis bislama, bm bam bambara, bn ben bengali, bo bod tibetan, br bre breton, bs bos bosnian,
ca cat catalan, ce che chechen, ch cha chamorro, co cos corsican, cr cre cree, cs ces czech, cu chu churchslavonic,
cv chv chuvash, cy cym welsh, da dan danish, de deu german, dv div divehi, dz dzo dzongkha, ee ewe ewe, el ell greek,
en eng english, eo epo esperanto, es spa spanish, et est estonian, eu eus basque, fa fas persian, ff ful fulah,
fi fin finnish, fj fij fijian, fo fao faroese, fr fra french, fy fry frisian, ga gle irish, gd gla gaelic,
gl glg galician, gn grn guarani, gu guj gujarati, gv glv manx, ha hau hausa, he heb hebrew, hi hin hindi,
ho hmo hirimotu, hr hrv croatian, ht hat haitian, hu hun hungarian, hy hye armenian, hz her herero, ia ina interlingua,
id ind indonesian, ie ile interlingue, ig ibo igbo, ii iii nuosu, ik ipk inupiaq, io ido ido, is isl icelandic,
it ita italian, iu iku inuktitut, ja jpn japanese, jv jav javanese, ka kat georgian, kg kon kongo, ki kik kikuyu,
kj kua kwanyama, kk kaz kazakh, kl kal greenlandic, km khm khmer, kn kan kannada, ko kor korean, kr kau kanuri,
ks kas kashmiri, ku kur kurdish, kv kom komi, kw cor cornish, ky kir kyrgyz, la lat latin, lb ltz luxembourgish,
lg lug ganda, li lim limburgish, ln lin lingala, lo lao lao, lt lit lithuanian, lu lub lubakatanga, lv lav latvian,
mg mlg malagasy, mh mah marshallese, mi mri maori, mk mkd macedonian, ml mal malayalam, mn mon mongolian,
mr mar marathi, ms msa malay, mt mlt maltese, my mya burmese, na nau nauru, nb nob bokmal, nd nde sindebele,
ne nep nepali, ng ndo ndonga, nl nld dutch, nn nno nynorsk, no nor norwegian, nr nbl isindebele, nv nav navajo,
ny nya chichewa, oc oci occitan, oj oji ojibwe, om orm oromo, or ori odia, os oss ossetian, pa pan punjabi, pi pli pali,
pl pol polish, ps pus pashto, pt por portuguese, qu que quechua, rm roh romansh, rn run rundi, ro ron romanian,
ru rus russian, rw kin kinyarwanda, sa san sanskrit, sc srd sardinian, sd snd sindhi, se sme sami, sg sag sango,
sh hbs serbocroatian, si sin sinhala, sk slk slovak, sl slv slovenian, sm smo samoan, sn sna shona, so som somali,
sq sqi albanian, sr srp serbian, ss ssw swati, st sot sotho, su sun sundanese, sv swe swedish, sw swa swahili,
ta tam tamil, te tel telugu, tg tgk tajik, th tha thai, ti tir tigrinya, tk tuk turkmen, tl tgl tagalog, tn tsn tswana,
to ton tonga, tr tur turkish, ts tso tsonga, tt tat tatar, tw twi twi, ty tah tahitian, ug uig uyghur, uk ukr ukrainian,
ur urd urdu, uz uzb uzbek, ve ven venda, vi vie vietnamese, vo vol volapuk, wa wln walloon, wo wol wolof, xh xho xhosa,
yi yid yiddish, yo yor yoruba, za zha zhuang, zh zho chinese, zu zul zulu
"""
_ENTRIES = [entry.split() for entry in _CODES.split(",")]
_SHORT = {short: code for short, code, _ in _ENTRIES}
_NAMES = {name: code for _, code, name in _ENTRIES}
_TWO_LETTERS = {code: short for short, code, _ in _ENTRIES}
_KNOWN = {code for _, code, _ in _ENTRIES} | {
    "ast",
    "ceb",
    "ckb",
    "cmn",
    "fil",
    "kab",
    "kam",
    "kea",
    "luo",
    "nso",
    "umb",
    "yue",
}


_BIBLIOGRAPHIC = {
    "alb": "sqi", "arm": "hye", "baq": "eus", "bur": "mya", "chi": "zho", "cze": "ces", "dut": "nld", "fre": "fra",
    "geo": "kat", "ger": "deu", "gre": "ell", "ice": "isl", "mac": "mkd", "mao": "mri", "may": "msa", "per": "fas",
    "rum": "ron", "slo": "slk", "tib": "bod", "wel": "cym",
}  # fmt: skip
"""Libraries' codes of ISO 639-2; as names of folders some are any word."""
_DEPRECATED = {
    "iw": "heb", "in": "ind", "ji": "yid", "jw": "jav", "mo": "ron", "mol": "ron", "scc": "srp", "scr": "hrv", "tl": "tgl",
    "sh": "hbs", "bh": "bho", "ajp": "apc",
}  # fmt: skip
"""Codes that older software writes (IANA's Language Subtag Registry, Deprecated and Preferred-Value)."""
_COMMON_NAMES = {
    "farsi": "fas", "mandarin": "cmn", "cantonese": "yue", "sorani": "ckb", "kurmanji": "kmr", "kiswahili": "swa",
    "tagalog": "tgl", "bahasa indonesia": "ind", "bahasa melayu": "msa", "flemish": "nld",
    "castilian": "spa", "moldovan": "ron", "moldavian": "ron", "azeri": "aze", "uighur": "uig", "sinhalese": "sin",
    "myanmar": "mya", "oriya": "ori", "dari": "prs", "gujerati": "guj", "kiche": "quc", "k'iche'": "quc", "quiche": "quc",
    "kekchi": "kek", "q'eqchi'": "kek", "senćoŧen": "str", "sencoten": "str", "secwepemctsín": "shs", "deutsch": "deu",
    "français": "fra", "español": "spa", "italiano": "ita", "português": "por", "filipino": "fil", "greenlandic": "kal",
}  # fmt: skip
"""What people call languages where ISO 639-3 has another name or several."""


def script_of_tag(name: str) -> str:
    """The script subtag of a language tag, as ISO 15924 writes it: Latn of ``sr-Latn``; "" where it has none."""
    found = re.fullmatch(r"[A-Za-z]{2,3}[-_]([A-Za-z]{4})(?:[-_]([A-Za-z]{2}|\d{3}))?", name.strip())
    return found[1].capitalize() if found else ""


def iso_639_3(name: str) -> str:
    """The code for what a person or a table wrote: ``it``, ``it-IT``, ``sr-Latn``, ``ita``, ``italian``, ``iw``, ``Farsi``.

    ``""`` becomes ``und``. Raises ``UserError`` for what is no language, with those that it may mean.
    """
    code = _resolve(name)
    if code is not None:
        return code
    named = codes_by_name(name)
    like = ", ".join(f"{code} ({language_name(code)})" for code in named[:5])
    hint = f"did you mean {like}?" if like else "a language without a code takes one for private use, qaa to qtz"
    raise UserError(
        f"language {name!r} is unknown; say its ISO 639-3 code, such as ita (or a locale such as it-IT, or its English name); "
        f"{hint}"
    )


def iso_639_1(code: str) -> str:
    """The two letters of ``code``, or of its macrolanguage: ``it`` of ``ita``, ``zh`` of ``cmn``; "" where there are none."""
    entry = codes().get(code)
    return _TWO_LETTERS.get(code) or (_TWO_LETTERS.get(entry.macrolanguage, "") if entry else "")


def describe_language(word: str, code: str) -> str:
    """What ``word`` was taken for, in a line."""
    name = language_name(code) or "for private use"
    return f"language: {name} ({code})" + ("" if word == code else f", from {word!r}")


def match_languages(asked: Iterable[str], there: Collection[str]) -> list[str]:
    """``asked`` (codes, locales or names), each by the code of it that is ``there``: its own, else that of its kin.

    What is not there stays, to be refused with ``language_not_in_corpus``.
    """
    taken = []
    for word in asked:
        code = word if word in there else _resolve(word) or word
        taken.append(code if code in there else related_code(code, there) or code)
    return taken


def language_not_in_corpus(where: str, code: str, there: Collection[str]) -> UserError:
    """The refusal of a language that no clip is in; ``where`` says which language was asked for, and by what."""
    other = related_code(code, there)
    hint = f"; say {other}, which is {language_name(other)} too" if other else ""
    return UserError(f"{where}: not in the corpus, which has {', '.join(there)}{hint}")


def find_language(name: str) -> str | None:
    """The code that ``name`` surely means, ``None`` where it might be any word: for names of folders."""
    word = name.strip().lower()
    if word in ("", UNKNOWN):
        return UNKNOWN
    if word in _NAMES:
        return _NAMES[word]
    head = re.split(r"[-_]", word)[0]
    if head != word and not re.fullmatch(r"[a-z]{2,3}([-_][a-z]{4})?[-_]([a-z]{2}|\d{3})", word):
        return None
    return _SHORT.get(head) or (head if head in _KNOWN else None)


def _resolve(name: str) -> str | None:
    """The code that ``name`` means where somebody says that it is a language; None where it is none, or several."""
    word = name.strip().lower()
    tag = script_of_tag(word) or re.fullmatch(r"[a-z]{2,3}[-_]([a-z]{2}|\d{3})", word)
    head = re.split(r"[-_]", word)[0] if tag else word
    code = find_language(head) or _BIBLIOGRAPHIC.get(word) or _DEPRECATED.get(head) or _COMMON_NAMES.get(word)
    code = code or (head if is_code(head) else None)
    named = [] if code else codes_by_name(word)
    return named[0] if len(named) == 1 else code
