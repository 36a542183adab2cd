"""Teachers' outputs on disk: what is read back is what the teacher said, resumed and shared, and never of something else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill import stored_outputs
from distill.config import StoreSettings
from distill.stored_outputs import (
    CLIPS,
    POSTERIORS,
    Layout,
    StoredTeacher,
    dense,
    precision_for,
    stored,
    to_half,
)
from distill.teacher import Teachers, TorchTeacher, load_teacher
from lalia.cards import read_card
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from tests.tiny_corpus import make_corpus
from tests.tiny_teacher import make_recogniser, sharpen

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    make_corpus(folder / "corpus", 8, ("ita",))
    teacher = make_recogniser(stack=2)
    sharpen(teacher)
    teacher.save(folder / "teacher", [])
    return folder


def load(made: Path, name: str = "teacher") -> TorchTeacher:
    return cast(TorchTeacher, load_teacher(str(made / name), []))


def open_store(
    made: Path, store: Path, teacher: TorchTeacher, count: int = 5, **changes: Any
) -> tuple[StoredTeacher, Mixture]:
    mixture = Mixture.load([made / changes.pop("corpus", "corpus")])
    settings = replace(StoreSettings(folder=str(store), top=4, components=48), **changes)
    [found] = stored(
        [teacher], settings, mixture, np.arange(count), device=CPU, precision="fp32", micro_s=4.0, leads=True
    )
    return cast(StoredTeacher, found), mixture


def test_what_is_read_is_what_the_teacher_said(made, tmp_path, capsys):
    teacher = load(made)
    found, mixture = open_store(made, tmp_path / "store", teacher)
    told = capsys.readouterr().err
    assert "outputs of 1 teacher for 0.00 hours need" in told and "are free" in told
    assert found.blocks == [1, 3] and found.layout.stride == 2
    [batch] = make_eval_loader(mixture, np.arange(5), 100.0)
    given, read = teacher.hear(batch), found.hear(batch)
    assert torch.equal(given.frames_B, read.frames_B) and read.hidden_stride == 2
    for b, frames in enumerate(given.frames_B.tolist()):
        was, now = given.logits_BNV[b, :frames].softmax(-1), read.logits_BNV[b, :frames].exp()
        assert torch.equal(was.argmax(-1), now.argmax(-1))
        top = was.topk(4, -1)
        assert_close(now.gather(-1, top.indices), top.values, atol=1e-3, rtol=0)
        assert_close(now.sum(-1), torch.ones(frames), atol=2e-3, rtol=0)
    # As many components as the teacher has channels: each pair of frames, averaged, scaled and rotated.
    mean_HD = given.hidden[3][0, :4].reshape(2, 2, -1).mean(1)
    distance = torch.cdist(mean_HD, mean_HD)[0, 1]
    assert float(distance) > 0 and read.hidden[3].shape[-1] == 48
    # Another student computes nothing: the teacher would fail.
    teacher.hear = lambda batch: (_ for _ in ()).throw(AssertionError)  # type: ignore[method-assign]
    again, _ = open_store(made, tmp_path / "store", teacher)
    assert_close(again.hear(batch).logits_BNV, read.logits_BNV)
    assert capsys.readouterr().err == ""
    assert found.transcripts(mixture, np.arange(5)).hypotheses


def test_an_interrupted_store_continues_behind_the_last_whole_clip(made, tmp_path, monkeypatch):
    teacher = load(made)
    whole, mixture = open_store(made, tmp_path / "whole", teacher, 8)
    open_store(made, tmp_path / "store", teacher, 3)
    place = tmp_path / "store" / "0"
    with (place / POSTERIORS).open("ab") as file, (place / CLIPS).open("a") as clips:
        file.write(b"half a clip")
        clips.write('{"corpus": "sha')
    rows: list[int] = []
    loader = stored_outputs.make_eval_loader

    def spied(mixture, wanted, *given, **named):
        rows.extend(wanted)
        return loader(mixture, wanted, *given, **named)

    monkeypatch.setattr(stored_outputs, "make_eval_loader", spied)
    found, _ = open_store(made, tmp_path / "store", teacher, 8)
    assert sorted(rows) == [3, 4, 5, 6, 7]
    assert len((place / CLIPS).read_text().splitlines()) == 8
    [batch] = make_eval_loader(mixture, np.arange(8), 100.0)
    for name in ("logits_BNV", "frames_B", "samples_B"):
        assert_close(getattr(found.hear(batch), name), getattr(whole.hear(batch), name), atol=2e-3, rtol=1e-2)
    (place / POSTERIORS).write_bytes(b"")
    with pytest.raises(UserError, match=r"posteriors.bin: is shorter than clips.jsonl says; remove .*computed again"):
        stored_outputs._truncate(place, found.layout)


def test_a_clip_at_another_speed_gets_the_outputs_of_its_own(made, tmp_path):
    teacher = load(made)
    found, mixture = open_store(made, tmp_path / "store", teacher)
    [batch] = make_eval_loader(mixture, np.arange(3), 100.0)
    slow_BS = batch.wave_BS.repeat_interleave(2, 1)
    slower = replace(batch, wave_BS=slow_BS, lengths_B=batch.lengths_B * 2)
    frames_B = found.hear(batch).frames_B * 2
    T = int(frames_B.max())
    teachers = Teachers([found], teacher.tokens)
    targets = teachers.targets(slower, frames_B, 320, T)
    plain = teachers.targets(batch, frames_B // 2, 320, T // 2)
    assert targets.matched_B is not None and bool(targets.matched_B.all())
    for b, frames in enumerate((frames_B // 2).tolist()):
        was = plain.logits_BTV[b, :frames].argmax(-1).unique_consecutive()
        assert torch.equal(targets.logits_BTV[b, : 2 * frames].argmax(-1).unique_consecutive(), was)


def test_a_store_of_something_else_is_refused_with_the_fix(made, tmp_path):
    teacher = load(made)
    open_store(made, tmp_path / "store", teacher, 2)
    make_corpus(made / "other", 8, ("eng",))
    with pytest.raises(
        UserError, match=r"store: holds teachers' outputs for other audio .*give another --store.folder"
    ):
        open_store(made, tmp_path / "store", teacher, 2, corpus="other")
    with pytest.raises(UserError, match=r"stores top 4, blocks \[1, 3\], components 48 .*give the same"):
        open_store(made, tmp_path / "store", teacher, 2, components=8)
    swahili = load(made)
    swahili.adapter = "swh"  # of a teacher with adapters each language has outputs of its own
    open_store(made, tmp_path / "store", swahili, 2)
    assert (tmp_path / "store" / "1" / POSTERIORS).is_file()
    shutil.copytree(made / "teacher", made / "changing")
    open_store(made, tmp_path / "store", load(made, "changing"), 2)  # the same teacher elsewhere
    card = read_card(made / "changing")
    (made / "changing" / "card.json").write_text(json.dumps(card | {"id": "sha256:new"}))
    facts = tmp_path / "store" / "store.json"
    facts.write_text(facts.read_text().replace(str(made / "teacher"), str(made / "changing")))
    with pytest.raises(UserError, match=r"holds the outputs of an older .*changing \(sha256:\w+…, now sha256:new…\)"):
        open_store(made, tmp_path / "store", load(made, "changing"), 2)
    facts.write_text("{")
    with pytest.raises(UserError, match=r"store.json: cannot be read .*remove"):
        open_store(made, tmp_path / "store", teacher, 2)
    with pytest.raises(UserError, match="is not empty and no store"):
        open_store(made, made, teacher, 2)
    with pytest.raises(UserError, match=r"store.layers \[9\]: .* has 4 blocks; expected ascending numbers from 0 to 3"):
        open_store(made, tmp_path / "another", teacher, 2, layers=[9])


def test_a_disk_that_is_too_small_is_told_before_the_first_clip(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match=r"need .* per hour\), .* are free; make room, .*--store.components 0"):
        open_store(made, tmp_path / "store", load(made), 2)
    assert not (tmp_path / "store" / "0").exists()


def test_an_hour_of_a_large_teacher_takes_40_megabytes_at_most():
    for tokens, layers in ((40, 24), (1200, 48)):
        teacher = cast(TorchTeacher, type("Large", (), {
            "card": {"id": "x"}, "adapter": "", "folder": "t", "hop": 320, "tokens": range(tokens),
            "layers": layers, "width": 1024,
        }))  # fmt: skip
        layout = Layout.of(teacher, StoreSettings())
        assert layout.blocks == [layers // 2 - 1, layers - 1] and layout.bytes_of(3600) < 40e6


def test_the_probability_that_is_not_stored_is_shared():
    found = dense(torch.tensor([[[2, 0]]]), torch.tensor([[[0.5, 0.3]]]).log(), 4).exp()
    assert_close(found, torch.tensor([[[0.3, 0.1, 0.5, 0.1]]]), atol=1e-4, rtol=0)


def test_large_teachers_run_in_bf16_where_the_processor_has_it(monkeypatch):
    teacher = TorchTeacher(make_recogniser())
    assert precision_for(teacher, CPU, "auto") is None
    monkeypatch.setattr(stored_outputs, "LARGE", 1)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert precision_for(teacher, CPU, "auto") == torch.bfloat16
    assert precision_for(teacher, CPU, "fp32") is None
    wave_BS, lengths_B = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
    with torch.no_grad():
        was, _ = teacher.recogniser(wave_BS, lengths_B)
        to_half(teacher, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            now, _ = teacher.recogniser(wave_BS, lengths_B)
    assert_close(now.float().softmax(-1), was.softmax(-1), atol=0.02, rtol=0)
