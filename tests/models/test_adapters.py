"""Adapters: many languages on one encoder, none of which changes another, each of which can be a recogniser of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lalia.errors import UserError
from lalia.models.adapters import adapt, adapter_of, count, fold, load_adapter, rank_of
from lalia.models.encoder import Encoder
from lalia.models.export.deployed import Deployed
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.models.store import LanguagePart, languages_of, load_encoder, read_adapter, save_adapted
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from tests.tiny_teacher import SHAPE

WAVE_BS = 0.1 * torch.randn(2, 9_000, generator=torch.Generator().manual_seed(3))
LENGTHS_B = torch.tensor([9_000, 7_000])


def make_encoder(seed: int = 0, **shape) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(EncoderShape(**{**SHAPE, **shape})).eval()


def heard(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(WAVE_BS, LENGTHS_B)[0]


def disturb(encoder: Encoder) -> None:
    """As training would: every number that learns is another."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def part(letters: str, language: str, encoder: Encoder) -> LanguagePart:
    recogniser = Recogniser(encoder, Tokens.from_texts([letters]), Normaliser(NormaliserSettings(language=language)))
    head = {k: w for k, w in recogniser.state_dict().items() if k.startswith("head.")}
    return LanguagePart(adapter_of(encoder) | head, recogniser.tokens, recogniser.normaliser)


def add(language: str, letters: str, start: Path, folder: Path, seed: int) -> torch.Tensor:
    """Add ``language`` to what is in ``start``; what its adapted encoder hears."""
    encoder = load_encoder(start)
    torch.manual_seed(seed)
    adapt(encoder, 2)
    disturb(encoder)
    save_adapted(part(letters, language, encoder), load_encoder(start), start, folder, [])
    return heard(encoder.eval())


@pytest.mark.parametrize("block", ["transformer", "convolutional", "conformer"])
def test_an_adapter_begins_as_no_change_and_folds_into_the_same_numbers(block):
    encoder, plain = make_encoder(block=block), make_encoder(block=block)
    before = heard(encoder)
    adapt(encoder, 2)
    assert torch.equal(heard(encoder), before)
    disturb(encoder)
    after = heard(encoder)
    assert not torch.allclose(after, before, atol=1e-3)
    fold(plain, adapter_of(encoder))
    assert torch.equal(heard(plain), after)


def test_only_the_adapter_learns_and_it_is_as_small_as_asked():
    encoder = make_encoder(width=192, layers=5, feedforward=768, block_kernel=9)
    whole = sum(p.numel() for p in encoder.parameters())
    adapt(encoder, rank_of(encoder, 0.02))
    learning = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert learning == count(adapter_of(encoder))
    assert 0.01 < learning / whole < 0.03


def test_what_was_taken_out_can_be_put_in_again():
    encoder, other = make_encoder(), make_encoder()
    adapt(encoder, 2)
    disturb(encoder)
    adapt(other, 2)
    load_adapter(other, adapter_of(encoder))
    assert torch.equal(heard(other), heard(encoder))
    with pytest.raises(UserError, match="was it made for another"):
        load_adapter(make_encoder(), adapter_of(encoder))
    with pytest.raises(UserError, match="was it made for another"):
        fold(make_encoder(width=32), adapter_of(encoder))


def test_another_language_changes_no_bit_of_the_first(tmp_path):
    make_encoder().save(tmp_path / "encoder", [])
    adapted = add("ita", "abc", tmp_path / "encoder", tmp_path / "one", seed=1)
    alone = Recogniser.load(tmp_path / "one")
    assert torch.equal(heard(alone.encoder), adapted)
    add("swh", "xyzw", tmp_path / "one", tmp_path / "two", seed=2)
    add("swh", "xyzwv", tmp_path / "two", tmp_path / "three", seed=3)  # renewed
    assert languages_of(tmp_path / "three") == ["ita", "swh"]
    for name in ("two", "three"):
        again = Recogniser.load(tmp_path / name, "ita")
        assert again.tokens == alone.tokens
        assert torch.equal(again.log_probs(WAVE_BS, LENGTHS_B)[0], alone.log_probs(WAVE_BS, LENGTHS_B)[0])
        for file in ("model.safetensors", "adapters/ita/adapter.safetensors", "adapters/ita/tokens.txt"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
    swahili = Recogniser.load(tmp_path / "three", "swh")
    assert len(swahili.tokens) == 7
    assert not torch.equal(heard(swahili.encoder), heard(alone.encoder))
    for language in ("ita", "swh"):
        recogniser = Recogniser.load(tmp_path / "three", language)
        deployed = Deployed(recogniser)
        with torch.no_grad():
            torch.testing.assert_close(
                deployed(WAVE_BS)[0], recogniser.log_probs(WAVE_BS, torch.tensor([9000] * 2))[0], atol=1e-4, rtol=0
            )


def test_an_encoder_with_adapter_layers_learns_them_alone(tmp_path):
    """MMS's recipe: a language's weights are those of the adapter layers and the head."""
    shape: dict[str, Any] = {"block": "transformer", "norm": "pre", "adapter": 3}
    shared = make_encoder(**shape)
    encoder = make_encoder(**shape)
    adapt(encoder, rank_of(encoder, 0.02))
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning == set(adapter_of(encoder)) and len(learning) == 6 * len(encoder.blocks.layers)
    assert all("ffn_residual" in name for name in learning)
    disturb(encoder)
    other = make_encoder(**shape)
    adapt(other, 1)
    load_adapter(other, adapter_of(encoder))
    fold(shared, adapter_of(encoder))
    assert torch.equal(heard(other), heard(encoder)) and torch.equal(heard(shared), heard(encoder))

    make_encoder(**shape).save(tmp_path / "encoder", [])
    adapted = add("swh", "abc", tmp_path / "encoder", tmp_path / "one", seed=1)
    add("ita", "xyz", tmp_path / "one", tmp_path / "two", seed=2)
    assert torch.equal(heard(Recogniser.load(tmp_path / "two", "swh").encoder), adapted)
    with pytest.raises(UserError, match="was it made for another"):
        load_adapter(encoder, adapter_of(make_encoder(**{**shape, "adapter": 4})))


def test_a_plain_recogniser_stays_one_of_the_languages(tmp_path):
    torch.manual_seed(4)
    plain = Recogniser(
        make_encoder(), Tokens.from_texts(["abc"]), Normaliser(NormaliserSettings(language="ita"))
    ).eval()
    plain.save(tmp_path / "plain", [])
    add("swh", "xyz", tmp_path / "plain", tmp_path / "both", seed=1)
    again = Recogniser.load(tmp_path / "both", "ita")
    assert torch.equal(again.log_probs(WAVE_BS, LENGTHS_B)[0], plain.log_probs(WAVE_BS, LENGTHS_B)[0])
    assert set(read_adapter(tmp_path / "both", "ita")) == {"head.weight", "head.bias"}


def test_which_language_has_to_be_said_where_there_are_several(tmp_path):
    make_encoder().save(tmp_path / "encoder", [])
    add("ita", "abc", tmp_path / "encoder", tmp_path / "one", seed=1)
    add("swh", "xyz", tmp_path / "one", tmp_path / "two", seed=2)
    with pytest.raises(UserError, match="speaks ita, swh, one of them has to be named"):
        Recogniser.load(tmp_path / "two")
    with pytest.raises(UserError, match="speaks ita, not deu"):
        Recogniser.load(tmp_path / "one", "deu")


def test_tokens_of_another_head(tmp_path):
    make_encoder().save(tmp_path / "encoder", [])
    add("ita", "abc", tmp_path / "encoder", tmp_path / "one", seed=1)
    Recogniser.load(tmp_path / "one").save(tmp_path / "plain", [])
    for folder, place in (("one", "one/adapters/ita"), ("plain", "plain")):
        Tokens.from_texts(["ab"]).save(tmp_path / place / "tokens.txt")
        with pytest.raises(UserError, match=r"its head speaks 5 tokens, tokens.txt lists 4"):
            Recogniser.load(tmp_path / folder)
