"""XML files of annotation programs, read without what could make a reader busy for ever."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from lalia.exits import UserError


def read_xml(path: Path, top: str, what: str) -> ElementTree.Element:
    """The root of the XML file ``path``, which is called ``top``; ``UserError`` where it is no such file.

    None of these formats declares entities, and entities within entities can grow without bounds: such a file is refused.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise UserError(f"{path}: declares entities, which {what} never does; save it again with its program")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: cannot be read as XML ({error}); expected {what}") from error
    if root.tag != top:
        raise UserError(f"{path}: is XML of another kind (<{root.tag}>); expected {what}")
    return root
