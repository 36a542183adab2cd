"""Generates ``lalia/text/spoken_signs.tsv`` from a checkout of CLDR's JSON (github.com/unicode-org/cldr-json).

  python -m benchmarks.data.cldr_signs CLDR-JSON > lalia/text/spoken_signs.tsv

How each language says %, °, $, €, £, &, +, =, § and its words for millions: the units, currencies, list patterns and compact
numbers of CLDR as they are. CLDR names + and = as signs ("plus sign") and has several keywords for each; ``CHOSEN`` has the
keyword that is said between numbers. ``BY_HAND`` has what CLDR lacks.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks.data.cldr_table import iso_code, read_json
from lalia.errors import UserError
from lalia.text.languages import DATA, profiles

CHOSEN = {
    "+": "en:plus de:plus fr:plus es:más it:più pt:mais nl:plus sv:plus da:plus fi:plus pl:plus cs:plus ru:плюс uk:плюс tr:artı "
    "ja:プラス ko:더하기 zh:加 th:บวก vi:cộng el:συν hu:plusz ro:plus id:plus he:פלוס hi:प्लस ka:პლუსი hy:պլյուս",
    "=": "en:equals de:gleich fr:égal es:igual it:uguale pt:igual nl:is_gelijk_aan sv:lika_med da:er_lig_med cs:rovná_se "
    "ru:равно uk:дорівнює tr:eşittir ja:イコール zh:等于 th:เท่ากับ el:ίσον hu:egyenlő ro:egal id:sama_dengan hi:बराबर "
    "hy:հավասար_է",
    "§": "en:section de:Paragraf pl:paragraf cs:paragraf da:paragraf nl:paragraaf fr:section he:סעיף ru:параграф",
}
BY_HAND = {
    ("kor", "%"): ("{} 퍼센트", "Standard Korean Language Dictionary: 퍼센트"),
    ("cmn", "%"): ("百分之{}", "Xiandai Hanyu Cidian: 百分之"),
    ("yue", "%"): ("百分之{}", "words.hk: 百分之"),
    ("jpn", "%"): ("{}パーセント", "CLDR 47 units/ja concentr-percent, without the space"),
    ("vie", "%"): ("{} phần trăm", "CLDR 47 annotations/vi"),
    ("glg", "%"): ("{} por cento", "Dicionario da RAG: cento"),
    ("lit", "%"): ("one:{} procentas|few:{} procentai|many:{} procento|other:{} procentų", "Dabartinės lietuvių kalbos žodynas"),
    ("spa", "£"): ("one:una libra|other:{} libras", "Diccionario de la lengua española: libra"),
    ("fra", "£"): ("one:une livre|other:{} livres", "CLDR 47 currencies/fr GBP; feminine"),
    ("ita", "£"): ("one:una sterlina|other:{} sterline", "CLDR 47 currencies/it GBP; feminine"),
    ("por", "£"): ("one:uma libra|other:{} libras", "CLDR 47 currencies/pt GBP; feminine"),
    ("cat", "£"): ("one:una lliura|other:{} lliures", "CLDR 47 currencies/ca GBP; feminine"),
    ("glg", "£"): ("one:unha libra|other:{} libras", "CLDR 47 currencies/gl GBP; feminine"),
    ("nld", "£"): ("{} pond", "Van Dale: pond"),
    ("fra", "of"): ("de", "Grevisse: millions de"),
    ("fra", "of'"): ("d'", "Grevisse: millions d'euros"),
    ("cat", "of'"): ("d'", "DIEC2: milió"),
    ("spa", "of"): ("de", "Diccionario panhispánico de dudas: millón"),
    ("ita", "of"): ("di", "Treccani: milione"),
    ("por", "of"): ("de", "Priberam: milhão"),
    ("cat", "of"): ("de", "DIEC2: milió"),
    ("glg", "of"): ("de", "Dicionario da RAG: millón"),
    ("deu", "1"): ("ein", "Duden: ein, before a noun"),
    ("spa", "1"): ("un", "Diccionario panhispánico de dudas: uno, before a masculine noun"),
    ("ita", "1"): ("un", "Treccani: uno, before a masculine noun"),
    ("cat", "1"): ("un", "DIEC2: un, before a masculine noun"),
    ("glg", "1"): ("un", "Dicionario da RAG: un"),
}  # fmt: skip
"""By language and sign; ``1`` is how one is said before a noun, ``of`` what stands between millions
and a noun, ``of'`` before a vowel."""
NOT_THE_WORD = [("sqi", "£"), ("bul", "£"), ("tuk", "£"), ("quy", "£"), ("que", "£"), ("yor", "€"), ("fao", "$")]
NOT_THE_WORD += [("uig", "°"), ("sah", "°"), ("uzn", "°"), ("uzb", "°")]
"""CLDR's name, and what the rules here take from it is not what is said."""
ONLY_FORM = "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cldr", type=Path, help="folder with cldr-core, cldr-units-full, cldr-annotations-full, ...")
    for line in table(parser.parse_args().cldr):
        print(line)


def table(cldr: Path) -> list[str]:
    """The lines of the file."""
    version = read_json(cldr / "cldr-core" / "package.json")["version"]
    plurals = read_json(cldr / "cldr-core" / "supplemental" / "plurals.json")["supplemental"]["plurals-type-cardinal"]
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    for folder in sorted((cldr / "cldr-units-full" / "main").iterdir()):
        code = "" if "-" in folder.name else iso_code(folder.name)
        if code not in profiles():
            continue
        for sign, (forms, source) in _signs(cldr, folder.name).items():
            if forms:
                rows[code, sign] = _joined(forms), f"CLDR {version} {source}"
        rules = {
            name.rpartition("-")[2]: rule.split("@")[0].strip() for name, rule in plurals.get(folder.name, {}).items()
        }
        rules.pop(ONLY_FORM, None)
        if rules:
            rows[code, "plural"] = "|".join(f"{name}:{rule}" for name, rule in rules.items()), f"CLDR {version} plurals"
    rows |= BY_HAND
    for key in NOT_THE_WORD:
        rows.pop(key, None)
    for code, entry in read_json(DATA).items():
        pair = (code, entry.get("same_as", code))
        for own, sign in [key for key in rows if key[0] in pair]:
            rows.setdefault((pair[own == code], sign), rows[own, sign])
    lines = (f"{code}\t{sign}\t{forms}\t{source}" for (code, sign), (forms, source) in sorted(rows.items()))
    return ["code\tsign\tforms\tsource", *lines]


def _signs(cldr: Path, tag: str) -> dict[str, tuple[dict[str, str], str]]:
    """The forms of each sign by plural category, with {} where the number stands, and the file that they are from."""
    long = read_json(cldr / "cldr-units-full" / "main" / tag / "units.json")["main"][tag]["units"]["long"]
    annotations = cldr / "cldr-annotations-full" / "annotations" / tag / "annotations.json"
    names = read_json(annotations)["annotations"].get("annotations", {}) if annotations.is_file() else {}
    numbers_folder = cldr / "cldr-numbers-full" / "main" / tag
    currencies = read_json(numbers_folder / "currencies.json")["main"][tag]["numbers"]["currencies"]
    numbers = read_json(numbers_folder / "numbers.json")["main"][tag]["numbers"]
    system = numbers["defaultNumberingSystem"]
    orders = {ONLY_FORM: "{0} {1}"} | {
        name.rpartition("-")[2]: pattern for name, pattern in numbers[f"currencyFormats-numberSystem-{system}"].items()
        if name.startswith("unitPattern-count-")
    }  # fmt: skip
    celsius = _units(long, "temperature-celsius")
    found = {
        "%": (_units(long, "concentr-percent"), f"units/{tag} concentr-percent"),
        "°": (_degrees(long, celsius), f"units/{tag} temperature-generic, angle-degree, temperature-celsius"),
        "°C": (celsius, f"units/{tag} temperature-celsius"),
        "°F": (_units(long, "temperature-fahrenheit"), f"units/{tag} temperature-fahrenheit"),
    }  # fmt: skip
    named = _name(names, "%")
    if (
        not found["%"][0]
        and " " not in named
        and sum(map(str.isalpha, named)) > 1
        and tag not in ("zh", "yue", "ja", "ko")
    ):
        found["%"] = {ONLY_FORM: f"{{}} {named}"}, f"annotations/{tag}"
    for sign, currency in (("$", "USD"), ("€", "EUR"), ("£", "GBP")):
        forms = _currency(currencies[currency], _name(names, sign), whole=currency == "EUR", nouns=tag in ("de", "lb"))
        order = {
            form: text if text.startswith("{0}") == orders[ONLY_FORM].startswith("{0}") else orders[ONLY_FORM]
            for form, text in orders.items()
        }
        patterns = {
            form: order.get(form, order[ONLY_FORM]).replace("{1}", forms.get(form, forms[ONLY_FORM])).replace("{0}", "{}")
            for form in (*forms, *(form for form in order if form not in forms))
        } if forms else {}  # fmt: skip
        found[sign] = patterns, f"currencies/{tag} {currency}"
    pair = re.fullmatch(r"\{0\}(.*\w.*)\{1\}", _list_pattern(cldr, tag))
    word = pair[1] if pair and not re.search(r"[-(]", pair[1]) else ""
    if len(word.strip()) > 1 and word != word.strip():
        word = f" {word.strip()} "
    found["&"] = ({ONLY_FORM: word} if word and not (word.isascii() and tag == "ug") else {}), f"listPatterns/{tag}"
    for sign, every in CHOSEN.items():
        chosen = dict(pair.split(":") for pair in every.split()).get(tag, "").replace("_", " ")
        keywords = {word for name in (sign, *("➕" * (sign == "+"))) for word in names.get(name, {}).get("default", [])}
        if chosen and chosen not in keywords | {_name(names, sign)}:
            raise UserError(f"{annotations}: {sign} has no keyword {chosen}; change CHOSEN")
        chosen = chosen if tag in ("ja", "zh", "th") or not chosen else f" {chosen} "
        found[sign] = ({ONLY_FORM: chosen} if chosen else {}), f"annotations/{tag}"
    compact = numbers[f"decimalFormats-numberSystem-{system}"]["long"]["decimalFormat"]
    scale = [
        text.replace("\u200f", "").removeprefix("0 ") for name, text in compact.items()
        if re.match("1000(000|000000|000000000)?-", name) and re.fullmatch("\u200f?0 [^\\s\\d'/.]{2,}", text)
    ]  # fmt: skip
    found["scale"] = (
        ({ONLY_FORM: " ".join(dict.fromkeys(scale))} if scale else {}),
        f"numbers/{tag} decimalFormats long",
    )
    return found


def _units(long: dict[str, Any], name: str) -> dict[str, str]:
    """The patterns of a unit; none if the one for ``other`` has a sign instead of a word. "one" may be without its number."""
    patterns = {
        key.rpartition("-")[2]: _plain(text.replace("{0}", "{}")) for key, text in long.get(name, {}).items()
        if key.startswith("unitPattern-count-")
    }  # fmt: skip
    patterns = {form: text for form, text in patterns.items() if not re.search(r"[%٪°]|\bC\b|\bF\b|\.$", text)}
    return patterns if "{}" in patterns.get(ONLY_FORM, "") else {}


def _degrees(long: dict[str, Any], celsius: dict[str, str]) -> dict[str, str]:
    """Degrees without a scale: of temperature rather than of an angle, where the words differ."""
    generic, angle = _units(long, "temperature-generic"), _units(long, "angle-degree")
    if generic and len(generic[ONLY_FORM].split()) == 2:
        return generic
    word = angle.get(ONLY_FORM, "").replace("{}", "").strip()
    if word and (not celsius or word in celsius[ONLY_FORM]):
        return angle
    found = {form: re.fullmatch(r"(\{\} \S+) \S+", text) for form, text in celsius.items()}
    return {form: match[1] for form, match in found.items() if match} if all(found.values()) else {}


def _currency(names: dict[str, str], sign_name: str, whole: bool, nouns: bool) -> dict[str, str]:
    """The word of a currency by plural category: of "US dollars" the one that is like the sign's name, "dollar"."""
    forms = {
        key.rpartition("-")[2]: _plain(text) for key, text in names.items() if key.startswith("displayName-count-")
    }
    inflected = len(set(forms.values())) > 1
    forms = forms if ONLY_FORM in forms else {ONLY_FORM: _plain(names.get("displayName", ""))}
    forms = {form: text if nouns else text.lower() for form, text in forms.items()}
    sign_name = _plain(sign_name if nouns else sign_name.lower())
    if min(sum(map(str.isalpha, text)) for text in (forms[ONLY_FORM], sign_name)) < 2:
        return {}
    if whole:
        return forms
    found = {}
    for form, text in forms.items():
        if (sign_name in text or sign_name.startswith(text)) and not inflected:
            found[form] = min(sign_name, text, key=len)
            continue
        pairs = [(_same(a, b), a, b) for a in text.split() for b in sign_name.split()]
        same, word, named = max(pairs)
        if same < min(3, len(named)) or same < 0.6 * max(len(word), len(named)):
            return {}
        found[form] = named if not inflected and same == len(named) else word
    return found


def _same(one: str, other: str) -> int:
    """How many letters both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _plain(text: str) -> str:
    """``text`` without invisible characters, its spaces plain."""
    return " ".join(re.sub("[\u200b\u200e\u200f‘]", "", text).split())


def _list_pattern(cldr: Path, tag: str) -> str:
    path = cldr / "cldr-misc-full" / "main" / tag / "listPatterns.json"
    if not path.is_file():
        return ""
    return str(read_json(path)["main"][tag]["listPatterns"]["listPattern-type-standard"]["2"])


def _name(names: dict[str, Any], sign: str) -> str:
    return next(iter(names.get(sign, {}).get("tts", [])), "")


def _joined(forms: dict[str, str]) -> str:
    """``one:FORM|other:FORM``; the form alone where all are the same."""
    if len(set(forms.values())) == 1:
        return forms[ONLY_FORM]
    return "|".join(f"{form}:{text}" for form, text in forms.items())


if __name__ == "__main__":
    main()
