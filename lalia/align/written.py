"""Read the text of a recording: plain text, USFM, subtitles, HTML and EPUB, as words with sentences, chapters and speakers.

Headings, verse numbers, footnotes and speaker names are recognised, and said, kept or dropped (``TextOptions``).
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args
from xml.etree import ElementTree

from lalia.errors import UserError
from lalia.text.text_files import read_unicode
from lalia.units import Seconds

if TYPE_CHECKING:
    from lalia.text.normaliser import Normaliser
    from lalia.text.tokens import Tokens

# --- Words -----------------------------------------------------------------------------------------------

Use = Literal["said", "kept", "dropped"]
SUFFIXES = (".txt", ".md", ".text", ".usfm", ".sfm", ".srt", ".vtt", ".ass", ".html", ".htm", ".xhtml", ".epub")


@dataclass(frozen=True)
class TextOptions:
    """What the parts of a text are: said = read aloud, like all other words; kept = not read aloud, but stays in the text of
    its piece (a speaker's name: in the column ``speaker``); dropped = neither."""

    headings: Use = "said"
    verses: Use = "dropped"
    notes: Use = "dropped"
    speakers: Use = "kept"
    times: Literal["ignored", "prior"] = "ignored"
    """of subtitles: ignored, or trusted to within ``PRIOR_S``"""


USES = get_args(Use)
PRIOR_S: Seconds = 60.0


@dataclass(frozen=True)
class Word:
    """A word that is read aloud, as it is written, with the punctuation that touches it."""

    text: str
    before: str = ""
    """what is written before it and not read aloud"""
    ends: bool = False
    """whether a sentence ends with it"""
    chapter: str = ""
    speaker: str = ""
    at_s: Seconds | None = None
    """where the times of subtitles put it"""


@dataclass(frozen=True)
class _Block:
    """A paragraph, line or heading, with its marks still in the text."""

    text: str
    kind: Literal["text", "heading", "note", "chapter"] = "text"
    """chapter: a heading that is not in the text, but the name of a file"""
    at_s: Seconds | None = None


VERSE, END_VERSE = "\ue010", "\ue011"
NOTE, END_NOTE = "\ue012", "\ue013"
"""Characters around verse numbers and footnotes inside a block, from the private use area."""
_MARKS = re.compile(f"([{VERSE}{NOTE}][^{END_VERSE}{END_NOTE}]*[{END_VERSE}{END_NOTE}])")
_SENTENCE_END = re.compile(r"[.!?…。！？।॥؟۔።፧།᙮‽⸮][\"'”’»›)\]」』】]*$")
_NAME = re.compile(r"^\s*([^\W\d_][\w .'’-]{0,30}?)\s*:\s+(?=\S)")


def read_words(path: Path, options: TextOptions) -> list[Word]:
    """The words of a text, in order; of a folder, of its files in natural order. ``UserError`` if there is none."""
    words = list(_words(list(_blocks(path)), options))
    if not words:
        raise UserError(f"{path}: has no words to align; expected the text of the recording")
    return words


def encode(words: Sequence[Word], normaliser: Normaliser, tokens: Tokens) -> tuple[list[list[int]], list[int]]:
    """The token ids of each word, without boundaries, and the characters without a token: their number by word.

    A word of punctuation alone, or of unknown letters alone, has no ids.
    """
    known: dict[str, tuple[list[int], int]] = {}
    for word in words:
        if word.text not in known:
            spoken = normaliser(word.text)
            ids = [i for i in tokens.encode(spoken, skip_unknown=True) if i != tokens.boundary]
            known[word.text] = ids, len(tokens.unknown(spoken))
    return [known[word.text][0] for word in words], [known[word.text][1] for word in words]


def join_text(words: Sequence[Word], spaced: bool) -> str:
    """The written text of consecutive words."""
    text = ""
    for number, word in enumerate(words):
        for part in (word.before, word.text):
            text += (" " if text and part and (spaced or part is word.before) else "") + part
        if number == 0:
            text = text.lstrip()
    return text


def _words(blocks: Sequence[_Block], options: TextOptions) -> Iterator[Word]:
    names = _speakers(blocks)
    chapter = speaker = before = ""
    for block in blocks:
        text = block.text
        if block.kind in ("heading", "chapter"):
            chapter = " ".join(_MARKS.sub("", text).split())
        if block.kind == "chapter":
            continue
        use: str = {"heading": options.headings, "note": options.notes, "text": "said"}[block.kind]
        if use != "said":
            before = f"{before} {text}".strip() if use == "kept" else before
            continue
        if (found := _NAME.match(text)) and found[1] in names:
            speaker = found[1]
            text = text if options.speakers == "said" else text[found.end() :]
        line: list[Word] = []
        for part in _MARKS.split(text):
            if part[:1] in (VERSE, NOTE) and part:
                use = options.verses if part[0] == VERSE else options.notes
                if use == "kept":
                    before = f"{before} {part[1:-1]}".strip()
                if use != "said":
                    continue
                part = part[1:-1]
            for word in part.split():
                if not any(c.isalnum() for c in word) and line:  # a dash between words stays with the one before it
                    line[-1] = replace(line[-1], text=f"{line[-1].text} {word}")
                    continue
                who = "" if options.speakers == "dropped" else speaker
                line.append(Word(word, before, bool(_SENTENCE_END.search(word)), chapter, who, block.at_s))
                before = ""
        if line:
            line[-1] = replace(line[-1], ends=True)
        yield from line


def _speakers(blocks: Sequence[_Block]) -> set[str]:
    """The names before colons at the beginning of blocks: those that occur twice, or in capitals."""
    found = Counter(match[1] for block in blocks if block.kind == "text" and (match := _NAME.match(block.text)))
    return {name for name, count in found.items() if count > 1 or (name.isupper() and len(name) > 1)}


# --- Files -----------------------------------------------------------------------------------------------


def _blocks(path: Path) -> Iterator[_Block]:
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in SUFFIXES), key=natural_order)
        if not files:
            raise UserError(f"{path}: holds no texts; expected names like {', '.join(SUFFIXES[:4])}")
        for file in files:
            blocks = list(_blocks(file))
            if not any(block.kind == "heading" for block in blocks):
                yield _Block(file.stem, "chapter")
            yield from blocks
        return
    suffix = path.suffix.lower()
    if suffix == ".epub":
        yield from _epub(path)
    elif suffix in (".srt", ".vtt", ".ass"):
        yield from _subtitles(path)
    else:
        text = read_unicode(path)
        if suffix in (".html", ".htm", ".xhtml") or re.match(r"\s*<(!doctype html|html|\?xml)", text[:200], re.I):
            yield from _html(text, path)
        elif re.search(r"^\\(id|c|v|p)\b", text, re.M):
            yield from _usfm(text)
        else:
            yield from _plain(text)


def natural_order(path: Path) -> list[Any]:
    """A key that sorts ``chapter2`` before ``chapter10``."""
    return [int(part) if part.isdigit() else part.casefold() for part in re.split(r"(\d+)", path.name)]


_CHAPTER = re.compile(
    r"^(chapter|kapitel|kapitola|chapitre|cap[ií]tulo|capitolo|hoofdstuk|rozdział|fejezet|luku|bölüm|sura|sure|psalm|sehemu|"
    r"mlango|часть|глава|kafli|kapittel|part|book|teil|livre|libro)\b[^.!?]{0,60}$",
    re.IGNORECASE,
)
_NUMBER_LINE = re.compile(r"^([IVXLC]+|\d{1,3})\.?$")
_VERSE_LINE = re.compile(r"^\s*(?:\d{1,3}:)?(\d{1,3})[.:)]?\s+(?=\S)")
_REFERENCE = re.compile(r"\[(?:\d{1,3}|[a-z*†‡])\]|[⁰¹²³⁴⁵⁶⁷⁸⁹]+|(?<=\S)[*†‡](?=\s|$)")
_NOTE_LINE = re.compile(r"^\s*(?:\[(?:\d{1,3}|[a-z*†‡])\]|[*†‡]|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)\s*\S")


def _plain(text: str) -> Iterator[_Block]:
    """Paragraphs between empty lines, or lines where there are none."""
    lines = [line.strip() for line in text.splitlines()]
    paragraphed = sum(not line for line in lines) > 0.1 * len(lines)
    wrapped = paragraphed and any(a and b for a, b in pairwise(lines))
    blocks: list[str] = []
    fresh = True
    for line in lines:
        if line and not fresh and wrapped and not _NAME.match(line) and not _VERSE_LINE.match(line) and line[0] != "#":
            blocks[-1] += " " + line
        elif line:
            blocks.append(line)
        fresh = not line or line.startswith("#")
    numbered = _numbered(blocks)
    alone = [_is_heading(block, paragraphed) for block in blocks]
    many = sum(alone) > 0.2 * len(blocks)
    for block, short in zip(blocks, alone, strict=True):
        sure = block.startswith("#") or bool(_CHAPTER.match(block) or _NUMBER_LINE.match(block))
        if sure or (short and not many):
            yield _Block(block.lstrip("# "), "heading")
        elif _NOTE_LINE.match(block):
            yield _Block(block, "note")
        else:
            if numbered and (found := _VERSE_LINE.match(block)):
                block = f"{VERSE}{found[0].strip()}{END_VERSE} {block[found.end() :]}"
            yield _Block(_REFERENCE.sub(lambda found: f"{NOTE}{found[0]}{END_NOTE}", block))


def _is_heading(block: str, paragraphed: bool) -> bool:
    words = block.split()
    capitals = len(words) <= 10 and block.isupper() and len(block) > 3
    return capitals or (paragraphed and len(words) <= 8 and block[-1].isalnum() and not _VERSE_LINE.match(block))


def _numbered(blocks: Sequence[str]) -> bool:
    """Whether the numbers at the beginning of lines count up, as those of verses do."""
    numbers = [int(found[1]) for block in blocks if (found := _VERSE_LINE.match(block))]
    steps = [b - a for a, b in pairwise(numbers)]
    return len(numbers) >= 3 and sum(step == 1 for step in steps) >= 0.6 * len(steps)


def _usfm(text: str) -> Iterator[_Block]:
    """The markers of Bible translations (Unified Standard Format Markers): ``\\c`` chapters, ``\\v`` verses, ``\\f`` notes."""

    def note(found: re.Match[str]) -> str:
        return NOTE + " ".join(re.sub(r"\\[a-z]+\d?\*?|(?<=\\f )[+-]", " ", found[0]).split()) + END_NOTE

    text = re.sub(r"\\f\b.*?\\f\*|\\x\b.*?\\x\*", note, text, flags=re.DOTALL)
    paragraph = ""
    for marker, content in re.findall(r"\\([a-z]+\d?)\*?([^\\]*)", text):
        content = " ".join(content.split())
        if marker in ("c", "s", "s1", "s2", "mt", "mt1", "ms"):
            if paragraph.strip():
                yield _Block(paragraph)
            paragraph = ""
            if content:
                yield _Block(content, "heading")
        elif marker == "v":
            number, _, rest = content.partition(" ")
            paragraph += f" {VERSE}{number}{END_VERSE} {rest}"
        elif marker not in (
            "id",
            "h",
            "toc",
            "toc1",
            "toc2",
            "toc3",
            "ide",
            "rem",
            "f",
            "fr",
            "ft",
            "x",
            "xo",
            "xt",
            "r",
        ):
            paragraph += f" {content}"
    if paragraph.strip():
        yield _Block(paragraph)


def _subtitles(path: Path) -> Iterator[_Block]:
    import pysubs2

    try:
        events = pysubs2.SSAFile.from_string(read_unicode(path))
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise UserError(f"{path}: cannot be read as subtitles ({error})") from error
    shown = sorted((event for event in events if event.type == "Dialogue"), key=lambda event: event.start)
    for event in shown:
        # Descriptions of sounds in brackets are no speech.
        text = re.sub(r"\[[^\]]*\]|\([^)]*\)|♪[^♪]*♪?|<[^>]*>", " ", event.plaintext)
        for line in re.split(r"\n(?=\s*[-–—])", text):
            if line := " ".join(line.split()).lstrip("-–— "):
                yield _Block(line, at_s=event.start / 1000)


_BLOCK_TAGS = frozenset(
    [
        "p",
        "div",
        "li",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "td",
        "th",
        "tr",
        "table",
        "section",
        "article",
        "blockquote",
        "dd",
        "dt",
        "dl",
        "ul",
        "ol",
        "pre",
        "br",
        "hr",
        "body",
        "aside",
        "figcaption",
        "header",
        "footer",
        "nav",
        "main",
        "title",
    ]
)
_SILENT_TAGS = frozenset(
    ["script", "style", "head", "nav", "title", "svg", "math", "form", "button", "select", "noscript", "template"]
)
_NOTE_WORDS = re.compile(r"\b(foot|end)?notes?(ref)?\b|\bfn\b|rearnote", re.IGNORECASE)
_VERSE_WORDS = re.compile(r"\b(verse|vnum|v-num|versenum)\b", re.IGNORECASE)


def _html(text: str, path: Path) -> Iterator[_Block]:
    """The visible text of a web page. Notes and verse numbers by their classes, ``epub:type``, or digits in ``sup``."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise UserError(f"{path}: web pages and EPUB are read by selectolax; pip install 'lalia[train]'") from error
    body = LexborHTMLParser(text).body
    if body is None:
        return
    blocks: list[_Block] = []
    current: list[str] = []

    def flush(kind: Literal["text", "heading", "note"]) -> None:
        if joined := " ".join("".join(current).split()):
            blocks.append(_Block(joined, kind))
        current.clear()

    def walk(node: Any, kind: Literal["text", "heading", "note"]) -> None:
        child = node.child
        while child is not None:
            if child.tag == "-text":
                current.append(child.text(deep=False))
            elif child.tag not in _SILENT_TAGS and not child.tag.startswith("-"):
                about = " ".join(str(child.attributes.get(name) or "") for name in ("class", "epub:type", "role", "id"))
                inside = child.text(deep=True).strip()
                is_note = bool(_NOTE_WORDS.search(about)) or (
                    child.tag in ("sup", "a") and bool(_REFERENCE.fullmatch(inside))
                )
                if (
                    child.tag not in _BLOCK_TAGS
                    and inside
                    and (bool(_VERSE_WORDS.search(about)) or (child.tag == "sup" and inside.isdecimal()))
                ):
                    current.append(f"{VERSE}{inside}{END_VERSE} ")
                elif child.tag not in _BLOCK_TAGS and inside and is_note:
                    current.append(f"{NOTE}{inside}{END_NOTE}")
                elif child.tag in _BLOCK_TAGS:
                    flush(kind)
                    own = "heading" if re.fullmatch(r"h[1-6]", child.tag) else "note" if is_note else kind
                    walk(child, own)
                    flush(own)
                else:
                    walk(child, kind)
            child = child.next

    walk(body, "text")
    flush("text")
    yield from blocks


def _epub(path: Path) -> Iterator[_Block]:
    """The documents of an EPUB in the order of its spine."""
    try:
        with zipfile.ZipFile(path) as book:
            container = ElementTree.fromstring(_without_entities(book.read("META-INF/container.xml"), path))
            root = next(node.get("full-path") for node in container.iter() if node.tag.endswith("rootfile"))
            package = ElementTree.fromstring(_without_entities(book.read(root or ""), path))
            items = {node.get("id"): node for node in package.iter() if node.tag.endswith("}item")}
            for reference in (node for node in package.iter() if node.tag.endswith("}itemref")):
                item = items.get(reference.get("idref"))
                if item is None or "nav" in (item.get("properties") or "").split():
                    continue
                name = str(PurePosixPath(root or "").parent / (item.get("href") or "")).removeprefix("./")
                yield from _html(book.read(name).decode("utf-8", "replace"), path)
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, StopIteration) as error:
        raise UserError(f"{path}: cannot be read as EPUB ({error}); is it protected or damaged?") from error


def _without_entities(xml: bytes, path: Path) -> bytes:
    """``xml``, refused where it declares entities, so that none can expand."""
    if b"<!ENTITY" in xml:
        raise UserError(f"{path}: declares XML entities, which are not read")
    return xml
