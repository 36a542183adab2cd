"""Cards: identity by content, lineage, and clear words where a folder is not what was expected."""

from __future__ import annotations

import pytest

from lalia.cards import ancestors, content_hash, read_card, write_card, write_text
from lalia.errors import UserError


def folder(tmp_path, name, text):
    made = tmp_path / name
    made.mkdir()
    (made / "weights").write_text(text)
    return made


def test_identity_is_the_content_and_not_the_place(tmp_path):
    a, b, c = (folder(tmp_path, name, text) for name, text in [("a", "x"), ("b", "x"), ("c", "y")])
    assert content_hash(a) == content_hash(b) != content_hash(c)
    write_card(a, "corpus", [])
    assert content_hash(a) == content_hash(b)  # the card itself does not count


def test_from_a_student_back_to_the_corpus(tmp_path):
    corpus = write_card(folder(tmp_path, "corpus", "1"), "corpus", [], hours=2.0)
    encoder = write_card(folder(tmp_path, "encoder", "2"), "encoder", [corpus])
    recogniser = write_card(folder(tmp_path, "recogniser", "3"), "recogniser", [corpus, encoder])
    student = write_card(folder(tmp_path, "student", "4"), "student", [recogniser])
    assert [card["kind"] for card in ancestors(student)] == ["recogniser", "corpus", "encoder"]
    assert read_card(tmp_path / "student", "student") == student


def test_a_wrong_folder_is_named(tmp_path):
    made = folder(tmp_path, "encoder", "2")
    with pytest.raises(UserError, match=r"encoder: has no card\.json, expected a recogniser"):
        read_card(made, "recogniser")
    write_card(made, "encoder", [])
    with pytest.raises(UserError, match="is an encoder, expected a recogniser"):
        read_card(made, "recogniser")
    with pytest.raises(UserError, match="no such folder"):
        read_card(tmp_path / "nowhere")
    (made / "card.json").write_text('{"kind": ')
    with pytest.raises(UserError, match="cannot be read as a card"):
        read_card(made)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
