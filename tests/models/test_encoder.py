"""The encoder's promises: padding never changes the answer, masks hide, evaluation repeats, errors say what is wrong."""

from __future__ import annotations

import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.models.store import load_encoder
from lalia.training.distributed import COMPILERS

STEM = [[12, 10, 5], [12, 3, 4], [12, 3, 4], [12, 2, 2]]  # 10 ms frames, four convolutions
INPUTS: dict[str, dict[str, Any]] = {
    "group": dict(input="wave", stem=STEM),
    "layer": dict(input="wave", stem=STEM, stem_norm="layer", stem_bias=True, normalise_wave=True),
    "logmel": dict(input="logmel", bins=10, stack=2),
    "mfcc": dict(input="mfcc", bins=8, stack=2),
}
BLOCKS: dict[str, dict[str, Any]] = {
    "post": dict(block="transformer", norm="post"),
    "pre": dict(block="transformer", norm="pre"),
    "convolutional": dict(block="convolutional", block_kernel=5),
    "conformer": dict(block="conformer", block_kernel=5),
}
SMALL: dict[str, Any] = dict(width=16, layers=2, heads=4, feedforward=24, position_kernel=8, position_groups=4)


def make(**shape: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderShape(**SMALL | shape)).eval()


def batch(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of noise around an offset, and rubbish behind the ends of the short ones."""
    generator = torch.Generator().manual_seed(1)
    wave_BS = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator) + 0.03
    for row, length in zip(wave_BS, lengths, strict=True):
        row[length:] = 0.7
    return wave_BS, torch.tensor(lengths)


@pytest.mark.parametrize(
    ("source", "block", "position"),
    list(itertools.product(INPUTS, BLOCKS, ("convolution", "rotary"))),
)
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(source: str, block: str, position: str) -> None:
    encoder = make(**INPUTS[source], **BLOCKS[block], position=position)
    wave_BS, lengths_B = batch(8_000, 4_321, 1_700)
    together, frames_B = encoder(wave_BS, lengths_B)
    layers, _ = encoder.hidden_layers(wave_BS, lengths_B)
    for b, length in enumerate(lengths_B.tolist()):
        alone, frames = encoder(wave_BS[b : b + 1, :length], lengths_B[b : b + 1])
        n = int(frames_B[b])
        assert n == int(frames) == alone.shape[1] == encoder.shape.frames(length)
        torch.testing.assert_close(together[b, :n], alone[0], rtol=0, atol=1e-5)
        each, _ = encoder.hidden_layers(wave_BS[b : b + 1, :length], lengths_B[b : b + 1])
        for whole, part in zip(layers, each, strict=True):
            torch.testing.assert_close(whole[b, :n], part[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("source", INPUTS)
@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_of_a_clip_do_not_depend_on_padding(source: str, block: str) -> None:
    encoder = make(**INPUTS[source], **BLOCKS[block])
    wave_BS, lengths_B = batch(6_000, 2_500)

    def gradients(wave: torch.Tensor, lengths: torch.Tensor, row: int) -> dict[str, torch.Tensor]:
        encoder.zero_grad()
        hidden, frames = encoder(wave, lengths)
        hidden[row, : int(frames[row])].square().mean().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    alone = gradients(wave_BS[1:, :2_500], lengths_B[1:], 0)
    for name, gradient in gradients(wave_BS, lengths_B, 1).items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-5, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("source", INPUTS)
def test_masked_frames_are_hidden(source: str) -> None:
    encoder = make(**INPUTS[source])
    wave_BS, lengths_B = batch(6_000)
    features, _, frames = encoder.features(wave_BS, lengths_B)
    mask = torch.zeros(1, features.shape[1], dtype=torch.bool)
    mask[:, 3:9] = True
    other = torch.where(mask[:, :, None], torch.randn_like(features), features)
    seen = encoder.contextualise(features, frames, mask)
    torch.testing.assert_close(encoder.contextualise(other, frames, mask), seen)
    assert not torch.allclose(encoder.contextualise(features, frames), seen, atol=1e-3)
    channels = torch.zeros(1, 16, dtype=torch.bool)
    channels[:, :4] = True
    assert not torch.allclose(encoder.contextualise(features, frames, None, channels), encoder(wave_BS, lengths_B)[0])


def test_evaluation_repeats_and_training_drops_blocks() -> None:
    encoder = make(**INPUTS["group"], layerdrop=0.5, dropout=0.0, dropout_input=0.0, attention_dropout=0.0)
    wave_BS, lengths_B = batch(4_000)
    first = encoder(wave_BS, lengths_B)[0]
    torch.testing.assert_close(encoder(wave_BS, lengths_B)[0], first, rtol=0, atol=0)
    assert len(encoder.hidden_layers(wave_BS, lengths_B)[0]) == 2
    encoder.train()
    outcomes = {tuple(encoder(wave_BS, lengths_B)[0].flatten()[:8].tolist()) for _ in range(40)}
    assert len(outcomes) == 4  # each of two blocks there or not


@torch.no_grad()
def test_dropout_input_drops_projected_features_before_the_mask() -> None:
    """As fairseq's ``dropout_input``: after the projection, so that the mask embedding stays whole."""
    off = dict(layerdrop=0.0, dropout=0.0, attention_dropout=0.0)
    encoder = make(**INPUTS["group"], **off, dropout_input=0.5).train()
    wave_BS, lengths_B = batch(4_000)
    features_BTF, _, frames_B = encoder.features(wave_BS, lengths_B)
    seen: list[torch.Tensor] = []
    assert encoder.position is not None
    encoder.position.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask_BT = torch.zeros(1, features_BTF.shape[1], dtype=torch.bool)
    mask_BT[:, :5] = True
    encoder.contextualise(features_BTF, frames_B, mask_BT)
    full_BTD, dropped_BTD = encoder.projection(features_BTF), seen[0]
    torch.testing.assert_close(dropped_BTD[0, :5], encoder.mask_embedding.expand(5, -1), rtol=0, atol=0)
    gone = dropped_BTD[:, 5:] == 0
    assert 0.4 < float(gone.float().mean()) < 0.6
    torch.testing.assert_close(dropped_BTD[:, 5:][~gone], 2 * full_BTD[:, 5:][~gone])
    encoder.eval().contextualise(features_BTF, frames_B)
    torch.testing.assert_close(seen[1], full_BTD, rtol=0, atol=0)


@torch.no_grad()
def test_dropout_features_drops_only_what_the_quantizer_sees() -> None:
    """As fairseq's ``dropout_features``; the encoder's own features stay whole."""
    shape = EncoderShape(**SMALL | INPUTS["group"])
    head = ContrastiveHead(shape, ContrastiveShape(entries=4, code_width=8, final_width=8, dropout_features=0.5))
    features_BMF = torch.ones(1, 1, shape.features)
    head.code_logits.weight.fill_(1.0)
    drawn = {float(head.logits(features_BMF)[0, 0, 0, 0]) for _ in range(40)}
    assert len(drawn) > 5 and all(value % 2 == 0 for value in drawn)  # kept features count twice
    assert float(head.eval().logits(features_BMF)[0, 0, 0, 0]) == shape.features


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_that_are_computed_again_give_the_same_numbers(block: str, precision: torch.dtype) -> None:
    wave_BS, lengths_B = batch(6_000, 2_500)

    def step(checkpointing: bool) -> dict[str, torch.Tensor]:
        chances = dict.fromkeys(
            ("dropout", "dropout_input", "attention_dropout", "feedforward_dropout", "layerdrop"), 0.3
        )
        encoder = make(**INPUTS["logmel"], **BLOCKS[block] | chances | {"layers": 4}).train()
        if checkpointing:
            encoder.checkpoint_blocks()
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            hidden_BTD, _ = encoder(wave_BS, lengths_B)
        hidden_BTD.float().square().sum().backward()
        gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        return gradients | {"": hidden_BTD.detach(), "draws": torch.get_rng_state()}

    kept, again = step(False), step(True)
    assert kept.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in kept.items())


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("block", ["post", "convolutional"])
def test_compiled_blocks_give_the_same_frames_and_gradients(block: str) -> None:
    # With dropout: on a CPU its draws are the same ones, so that the numbers can be compared.
    chances = dict.fromkeys(("dropout", "attention_dropout", "feedforward_dropout", "layerdrop"), 0.2)
    plain, compiled = (make(**INPUTS["logmel"], **BLOCKS[block] | chances | {"layers": 1}).train() for _ in range(2))
    compiled.compile_blocks()
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for lengths in ((6_000, 2_500), (8_000, 3_000, 7_000)):
        gradients = []
        for encoder in (plain, compiled):
            encoder.zero_grad()
            torch.manual_seed(5)
            hidden_BTD, _ = encoder(*batch(*lengths))
            hidden_BTD.sin().sum().backward()
            gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
        assert len(gradients[0]) > 10
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("source", INPUTS)
def test_a_clip_too_short_for_a_frame_is_an_error_that_says_so(source: str) -> None:
    encoder = make(**INPUTS[source])
    shortest = encoder.shape.receptive_field
    wave_BS, _ = batch(6_000, 6_000)
    assert encoder(wave_BS[:1, :shortest], torch.tensor([shortest]))[0].shape[1] == 1
    for wave, lengths in ((wave_BS, [6_000, shortest - 1]), (wave_BS[:1, : shortest - 1], [shortest - 1])):
        with pytest.raises(
            ValueError, match=f"{shortest - 1} samples is shorter than one frame \\({shortest} samples\\)"
        ):
            encoder(wave, torch.tensor(lengths))


def test_loudness_and_offset_mean_nothing_where_waves_are_normalised() -> None:
    wave_BS, lengths_B = batch(6_000, 2_500)
    encoder = make(**INPUTS["layer"])
    frames = encoder.shape.frames(2_500)
    expected = encoder(wave_BS, lengths_B)[0]
    louder = encoder(3.0 * wave_BS + 0.2, lengths_B)[0]
    torch.testing.assert_close(louder[0], expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(louder[1, :frames], expected[1, :frames], rtol=0, atol=1e-4)
    silence = encoder(torch.zeros(1, 2_500), torch.tensor([2_500]))[0]
    assert bool(silence.isfinite().all())


def test_shapes_that_cannot_be() -> None:
    for wrong, says in (
        (dict(width=18, heads=4), "multiple of model.heads"),
        (dict(block="conformer", block_kernel=4), "must be odd"),
        (dict(input="logmel", normalise_wave=True), "model.normalise_wave needs model.input wave"),
    ):
        with pytest.raises(UserError, match=says):
            EncoderShape(**SMALL | wrong)
    with pytest.raises(UserError, match="unknown keys"):
        EncoderShape.from_dict({"widht": 3})


def test_an_encoder_is_kept_and_found_again(tmp_path: Path) -> None:
    encoder = make(**INPUTS["logmel"])
    encoder.measure([batch(4_000)[0][0].numpy()])
    encoder.save(tmp_path / "encoder", [])
    found = load_encoder(tmp_path / "encoder")
    wave_BS, lengths_B = batch(6_000)
    torch.testing.assert_close(found(wave_BS, lengths_B)[0], encoder(wave_BS, lengths_B)[0], rtol=0, atol=0)
    # Folders made before a setting was known have its default.
    config = tmp_path / "encoder" / "config.json"
    config.write_text(config.read_text().replace('"normalise_wave": false,', ""))
    assert load_encoder(tmp_path / "encoder").shape == encoder.shape
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(tmp_path / "encoder")
