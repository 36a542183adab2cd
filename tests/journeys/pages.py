"""The fenced blocks of the documents: which of them a reader types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TYPED = ("sh", "python")
"""Blocks that a reader types: shell commands, with prose only behind #, and Python."""
SHOWN = ("text", "json", "js")
"""Blocks that show what is printed or stored, or a web page's code."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, without the comment: what the table of blocks that are not run names it by."""
        return re.sub(r"\s+#.*", "", self.text.splitlines()[0]).strip() if self.text.strip() else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README, the pages of docs/ and those that lie beside what they describe; attributions are no instructions."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "finetune").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    return blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))


def blocks_of(page: str, text: str) -> list[Block]:
    found, start, language = [], 0, ""
    body: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        fence = re.match(r"\s*```\s*(\S*)", line)
        if fence and not start:
            start, language, body = number, fence[1], []
        elif fence:
            found.append(Block(page, start, language, "".join(body)))
            start = 0
        elif start:
            body.append(line)
    if start:
        raise ValueError(f"{page}:{start}: a block that nothing closes")
    return found
