"""Generates ``lalia/text/cldr_languages.tsv`` from a checkout of CLDR's JSON (github.com/unicode-org/cldr-json).

  python -m benchmarks.data.cldr_table CLDR-JSON > lalia/text/cldr_languages.tsv

A line per language: its likely script, its number marks and digits where CLDR has its numbers, and the file they are from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lalia.errors import UserError
from lalia.text.language_codes import codes, iso_639_3
from lalia.text.languages import profiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cldr", type=Path, help="folder with cldr-core, cldr-numbers-full")
    for line in table(parser.parse_args().cldr):
        print(line)


def table(cldr: Path) -> list[str]:
    """The lines of the file."""
    core = cldr / "cldr-core"
    version = read_json(core / "package.json")["version"]
    likely = read_json(core / "supplemental" / "likelySubtags.json")["supplemental"]["likelySubtags"]
    digits = read_json(core / "supplemental" / "numberingSystems.json")["supplemental"]["numberingSystems"]
    rows: dict[str, str] = {}
    for folder in sorted((cldr / "cldr-numbers-full" / "main").iterdir()):
        numbers = folder / "numbers.json"
        if "-" in folder.name or not numbers.is_file() or folder.name == "und":
            continue
        code = iso_code(folder.name)
        if not code:
            continue
        found = read_json(numbers)["main"][folder.name]["numbers"]
        system = found["defaultNumberingSystem"]
        symbols = found[f"symbols-numberSystem-{system}"]
        zero = (
            digits[found["otherNumberingSystems"]["native"]]["_digits"][0] if "otherNumberingSystems" in found else "0"
        )
        script = likely.get(folder.name, "--Latn").split("-")[1]
        latin = found.get("symbols-numberSystem-latn", symbols)
        group = _escaped(latin["group"])
        rows[code] = f"{code}\t{script}\t{latin['decimal']}\t{group}\t{zero}\tCLDR {version} numbers/{folder.name}"
    for tag, full in sorted(likely.items()):
        code = "" if "-" in tag else iso_code(tag)
        script = full.split("-")[1]
        if code and code not in rows and (script != "Latn" or code in profiles()):
            rows[code] = f"{code}\t{script}\t.\t,\t0\tCLDR {version} likelySubtags/{tag}"
    for code in profiles():  # Codes of the data file that CLDR spells by their macrolanguage.
        whole = codes()[code].macrolanguage if code in codes() else ""
        if code not in rows and whole in rows:
            rows[code] = rows[whole].replace(whole, code, 1)
    return ["code\tscript\tdecimal\tgroup\tdigits\tsource", *(rows[code] for code in sorted(rows))]


def iso_code(tag: str) -> str:
    """The ISO 639-3 code of a language subtag; "" for deprecated ones and families."""
    try:
        code = iso_639_3(tag)
    except UserError:
        return ""
    return code if code in codes() else ""


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() and not c.isspace() else f"\\u{ord(c):04x}" for c in text)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
