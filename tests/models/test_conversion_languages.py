"""Models of many languages: MMS's layouts, made by transformers with random weights, give the same numbers here."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    UniSpeechConfig,
    UniSpeechModel,
    UniSpeechSatConfig,
    UniSpeechSatForPreTraining,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
)

from distill.student import cut, everything
from lalia.cards import read_card
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.classifier import Classifier
from lalia.models.encoder import Encoder
from lalia.models.export import onnx_export
from lalia.models.export.deployed import Deployed
from lalia.models.export.onnx_export import export_tagger
from lalia.models.recogniser import Recogniser
from lalia.models.store import languages_of
from lalia.onnx_session import open_session
from lalia.runtime.student import Student
from tests.models.test_conversion import LAYOUTS, SMALL, convert, padded, save_peer, shaken, waves
from tests.tiny_mms import ALPHABETS, make_mms


@pytest.fixture(scope="module")
def mms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mms(tmp_path_factory.mktemp("hub") / "mms-1b-tiny")


def peer_logits(folder: Path, code: str | None, clips: list[Any]) -> torch.Tensor:
    peer = Wav2Vec2ForCTC.from_pretrained(folder, target_lang=code, ignore_mismatched_sizes=True).eval()
    given = Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        clips, sampling_rate=16_000, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        return peer(**given).logits


def check_against(folder: Path, code: str, ours: Recogniser) -> None:
    clips = waves(0.7, 0.4)
    expected = peer_logits(folder, code, clips)
    with torch.no_grad():
        found, frames = ours(*padded(clips))
    for b, n in enumerate(frames.tolist()):
        torch.testing.assert_close(found[b, :n], expected[b, :n], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("asked", "code", "iso"), [("Swahili", "swh", "swh"), ("uzb-script_latin",) * 2 + ("uzb",),
                                                    ("mon", "mon-script_mong", "mon")])  # fmt: skip
def test_one_language_of_mms_becomes_a_recogniser(
    mms: Path, asked: str, code: str, iso: str, tmp_path: Path, capsys
) -> None:
    assert convert(f"hf:{mms}", tmp_path / "ours", "--language", asked) == 0
    printed = capsys.readouterr().out
    assert f"language {code} of 5" in printed and "adapters of 4" in printed and "licence: CC BY-NC 4.0" in printed
    ours = Recogniser.load(tmp_path / "ours")
    assert ours.tokens.symbols == ("<blank>", "<s>", "</s>", "<unk>", "|", *ALPHABETS[code])
    assert ours.normaliser.settings.language == iso
    assert read_card(tmp_path / "ours")["licences"] == ["CC BY-NC 4.0"]
    check_against(mms, code, ours)
    clip = torch.from_numpy(waves(0.5)[0])[None]
    with torch.no_grad():  # what is exported agrees as well
        [log_probs] = Deployed(ours)(clip)
        torch.testing.assert_close(log_probs, ours.log_probs(clip, torch.tensor([8000]))[0], rtol=0, atol=2e-5)
    # And back: transformers loads it, with its adapter.
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'back'}") == 0
    back, seen = Wav2Vec2ForCTC.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not seen["missing_keys"] and not seen["unexpected_keys"] and back.config.adapter_attn_dim == 4


def test_without_a_language_the_tokenizer_names_it(mms: Path, tmp_path: Path, capsys) -> None:
    assert convert(f"hf:{mms}", tmp_path / "ours") == 0
    assert "language eng of 5" in capsys.readouterr().out
    check_against(mms, "eng", Recogniser.load(tmp_path / "ours"))


@pytest.mark.parametrize("asked", [["all"], ["swh", "eng"]], ids=["all", "two"])
def test_several_languages_of_mms_share_an_encoder(mms: Path, asked: list[str], tmp_path: Path, capsys) -> None:
    flags = [word for code in asked for word in ("--language", code)]
    assert convert(f"hf:{mms}", tmp_path / "ours", *flags) == 0
    expected = sorted(ALPHABETS) if asked == ["all"] else ["eng", "swh"]
    assert f"recogniser of {len(expected)} languages" in capsys.readouterr().out
    assert languages_of(tmp_path / "ours") == read_card(tmp_path / "ours")["languages"] == expected
    for code in expected:
        check_against(mms, code, Recogniser.load(tmp_path / "ours", code))
    # One of them alone is a plain recogniser of transformers again.
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'swh'}", "--language", "swh") == 0
    clip = waves(0.5)
    torch.testing.assert_close(
        peer_logits(tmp_path / "swh", None, clip), peer_logits(mms, "swh", clip), rtol=0, atol=2e-5
    )


def test_a_language_that_is_not_there_is_named(mms: Path, tmp_path: Path, capsys) -> None:
    def refused(*argv: object) -> str:
        assert convert(*argv) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1 and not (tmp_path / "ours").exists()
        return printed

    printed = refused(f"hf:{mms}", tmp_path / "ours", "--language", "Italian")
    assert "vocab.json has eng, mon-script_mong" in printed and "not ita" in printed
    printed = refused(f"hf:{mms}", tmp_path / "ours", "--language", "uzb")
    assert "uzb-script_cyrillic and uzb-script_latin" in printed
    half = tmp_path / "half"
    half.mkdir()
    for file in mms.iterdir():
        if file.name != "adapter.swh.safetensors":
            (half / file.name).symlink_to(file)
    assert "has no adapter.swh.safetensors" in refused(f"hf:{half}", tmp_path / "ours", "--language", "swh")
    whole = load_file(mms / "adapter.swh.safetensors")
    narrow = {key: w[..., :2].contiguous() if "linear_2" in key else w for key, w in whole.items()}
    save_file(narrow, half / "adapter.swh.safetensors")
    assert "adapter of swh does not fit" in refused(f"hf:{half}", tmp_path / "ours", "--language", "all")
    assert "has shape" in refused(f"hf:{half}", tmp_path / "ours", "--language", "swh")
    (half / "adapter.swh.safetensors").write_bytes(b"not a file of tensors")
    assert "cannot be read" in refused(f"hf:{half}", tmp_path / "ours", "--language", "swh")
    (half / "adapter.swh.safetensors").unlink()
    assert "expected one; several" in refused(tmp_path, f"hf:{tmp_path / 'ours'}", "--language", "all")
    assert convert(f"hf:{half}", tmp_path / "ours", "--language", "eng") == 0


def test_outputs_are_named_by_every_file_of_a_tokenizer_and_others_are_left_out(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    config = Wav2Vec2Config(**SMALL | LAYOUTS["large"] | {"vocab_size": 10, "pad_token_id": 4})
    peer = shaken(Wav2Vec2ForCTC(config))
    extractor = save_peer(peer, tmp_path / "peer")
    (tmp_path / "peer" / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "|": 2, "[UNK]": 3, "[PAD]": 4}))
    (tmp_path / "peer" / "added_tokens.json").write_text(json.dumps({"<s>": 5}))
    decoder = {"4": {"content": "[PAD]"}, "6": {"content": "</s>", "special": True}, "8": {"content": "c"}}
    (tmp_path / "peer" / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "peer" / "README.md").write_text("---\nlanguage: is\nlicense: apache-2.0\n---\n# A model\n")
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert "2 outputs" in printed and "licence: Apache-2.0" in printed
    ours = Recogniser.load(tmp_path / "ours")
    assert ours.tokens.symbols == ("<blank>", "a", "b", "|", "[UNK]", "<s>", "</s>", "c")
    (clip,) = waves(0.6)
    expected = peer(**extractor(clip, sampling_rate=16_000, return_tensors="pt")).logits[0]
    found = ours(*padded([clip]))[0][0]
    torch.testing.assert_close(found, expected[:, [4, 0, 1, 2, 3, 5, 6, 8]], rtol=0, atol=2e-5)
    with torch.no_grad():  # an output without a symbol would win every frame
        ours.head.bias.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0, 9.0]))
    assert transcript(greedy(ours.log_probs(*padded([clip]))[0][0].numpy()), ours.tokens) == "c"
    # A vocabulary of another model is no match.
    (tmp_path / "peer" / "vocab.json").write_text(json.dumps({"a": 0, "|": 1}))
    for name in ("added_tokens.json", "tokenizer_config.json"):
        (tmp_path / "peer" / name).unlink()
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "other") == 2
    assert "names 3 of the 10 outputs" in capsys.readouterr().err


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_hubert_and_unispeech_have_the_same_encoder(large: bool, tmp_path: Path, capsys) -> None:
    layout = LAYOUTS["large" if large else "base"]
    small = {k: v for k, v in SMALL.items() if "code" not in k}
    clips = waves(0.7, 0.4) if large else waves(0.7, 0.7)
    torch.manual_seed(0)
    for peer in (
        HubertModel(HubertConfig(**small | layout | {"adapter_attn_dim": 4} if large else small)),
        HubertForCTC(HubertConfig(**small | layout)),
        UniSpeechModel(UniSpeechConfig(**SMALL | layout)),
        UniSpeechSatForPreTraining(UniSpeechSatConfig(**SMALL | layout)),
    ):
        name = type(peer).__name__
        extractor = save_peer(shaken(peer), tmp_path / name)
        (tmp_path / name / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate("AB_|'CDE")}))
        assert convert(f"hf:{tmp_path / name}", tmp_path / f"{name}-ours") == 0
        given = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = getattr(peer, peer.base_model_prefix, peer)(**given).last_hidden_state
            found, frames = Encoder.load(tmp_path / f"{name}-ours")(*padded(clips))
        for b, n in enumerate(frames.tolist()):
            torch.testing.assert_close(found[b, :n], expected[b, :n], rtol=0, atol=2e-5, msg=name)
    assert "without unispeech-sat's heads of pretraining" in capsys.readouterr().out


def test_a_recogniser_becomes_a_student_whose_weights_may_lie_beside_its_graph(
    mms: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert(f"hf:{mms}", tmp_path / "many", "--language", "all") == 0
    assert convert(tmp_path / "many", f"onnx:{tmp_path / 'none'}") == 2
    assert "one of them has to be named" in capsys.readouterr().err
    assert convert(tmp_path / "many", f"onnx:{tmp_path / 'float'}", "--language", "swh") == 0
    printed = capsys.readouterr().out
    assert "a student of" in printed and "float32" in printed and "CC BY-NC 4.0" in printed
    (clip,) = waves(0.6)
    expected = Recogniser.load(tmp_path / "many", "swh").log_probs(*padded([clip]))[0][0].numpy()
    np.testing.assert_allclose(Student.load(tmp_path / "float").log_probs(clip), expected, atol=1e-4)
    monkeypatch.setattr(onnx_export, "LARGE", 0)
    for kind, tolerance in (("onnx", 1e-4), ("int8", 0.5)):
        assert convert(tmp_path / "many", f"{kind}:{tmp_path / kind}", "--language", "swh") == 0
        card = read_card(tmp_path / kind)
        assert (
            "model.onnx.data" in card["files"] and card["bytes"] > (tmp_path / kind / "model.onnx.data").stat().st_size
        )
        np.testing.assert_allclose(Student.load(tmp_path / kind).log_probs(clip), expected, atol=tolerance)
    assert "int8, quality not measured" in capsys.readouterr().out
    assert convert(tmp_path / "onnx", f"sherpa:{tmp_path / 'sherpa'}") == 2
    assert "weights beside its graph" in capsys.readouterr().err
    (tmp_path / "onnx" / "model.onnx.data").unlink()
    with pytest.raises(UserError, match=r"model.onnx.data: is missing"):
        Student.load(tmp_path / "onnx")
    assert convert(f"int8:{tmp_path / 'int8'}", tmp_path / "back") == 2
    assert "which cannot be read" in capsys.readouterr().err


def test_a_student_may_keep_the_adapters(mms: Path, tmp_path: Path) -> None:
    assert convert(f"hf:{mms}", tmp_path / "ours", "--language", "swh") == 0
    encoder = Encoder.load(tmp_path / "ours")
    state = cut(encoder, everything(encoder), encoder.shape)
    assert all(torch.equal(state[key], weight) for key, weight in encoder.state_dict().items() if "ffn_residual" in key)
    assert any("ffn_residual" in key for key in state)
    assert load_file(tmp_path / "ours" / "model.safetensors")


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "adapters"])
@pytest.mark.parametrize("weighted", [False, True], ids=["last", "weighted"])
@pytest.mark.parametrize("layout", ["base", "large"])
def test_a_classifier_of_transformers_gives_the_same_logits(
    layout: str, weighted: bool, adapters: bool, tmp_path: Path, capsys
) -> None:
    names = {0: "eng", 1: "swh", 2: "uzb-script_latin"}
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        **SMALL | LAYOUTS[layout], classifier_proj_size=10, use_weighted_layer_sum=weighted, id2label=names,
        label2id={label: number for number, label in names.items()}, adapter_attn_dim=4 if adapters else None,
    )  # fmt: skip
    peer = shaken(Wav2Vec2ForSequenceClassification(config))
    extractor = save_peer(peer, tmp_path / "mms-lid-3")
    assert convert(f"hf:{tmp_path / 'mms-lid-3'}", tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert "a lalia classifier" in printed and "3 labels" in printed and "CC BY-NC 4.0" in printed
    ours = Classifier.load(tmp_path / "ours")
    assert ours.facts.labels == [*names.values()] and ours.facts.task == "language"
    assert ours.facts.licence == "CC BY-NC 4.0" and read_card(tmp_path / "ours")["licences"] == ["CC BY-NC 4.0"]
    clips = waves(0.7, 0.4) if layout == "large" else waves(0.7, 0.7)
    given = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = peer(**given).logits
        torch.testing.assert_close(ours(*padded(clips)), expected, rtol=0, atol=2e-5)
    # The tagger, too, and transformers again.
    export_tagger(ours, tmp_path / "tagger", [], int8=False)
    frames = open_session(tmp_path / "tagger" / "model.onnx").run(None, {"wave": clips[0][None]})[0]
    torch.testing.assert_close(torch.from_numpy(frames).mean(1)[0], expected[0], rtol=0, atol=1e-4)
    assert convert(tmp_path / "ours", f"hf:{tmp_path / 'back'}") == 0
    back, seen = Wav2Vec2ForSequenceClassification.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not seen["missing_keys"] and not seen["unexpected_keys"] and back.config.id2label == names
    with torch.no_grad():
        torch.testing.assert_close(back(**given).logits, expected, rtol=0, atol=2e-5)


def test_a_classifier_of_hubert_is_read_and_one_that_does_not_fit_is_refused(tmp_path: Path, capsys) -> None:
    small = {key: value for key, value in SMALL.items() if "code" not in key}
    config = HubertConfig(**small | LAYOUTS["large"], num_labels=3, id2label={0: "calm", 1: "angry", 2: "sad"})
    peer = shaken(HubertForSequenceClassification(config))
    extractor = save_peer(peer, tmp_path / "peer")
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "ours") == 0
    ours = Classifier.load(tmp_path / "ours")
    assert ours.facts.task == "label" and ours.facts.licence == "" and "licence" not in capsys.readouterr().out
    clips = waves(0.7, 0.4)
    with torch.no_grad():
        expected = peer(**extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")).logits
        torch.testing.assert_close(ours(*padded(clips)), expected, rtol=0, atol=2e-5)
    state = load_file(tmp_path / "peer" / "model.safetensors")
    state.pop("projector.weight")
    save_file(state, tmp_path / "peer" / "model.safetensors")
    assert convert(f"hf:{tmp_path / 'peer'}", tmp_path / "out") == 2
    assert "projector.weight" in capsys.readouterr().err
    assert convert(tmp_path / "ours", f"fairseq2:{tmp_path / 'out.pt'}") == 2
    assert "no classifiers" in capsys.readouterr().err


class HubStandIn(ThreadingHTTPServer):
    """The part of the hub's interface that a download needs, for one model in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.sent = folder, name, set[str]()
        super().__init__(("127.0.0.1", 0), HubRequest)


class HubRequest(BaseHTTPRequestHandler):
    server: HubStandIn
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        data, headers = b"{}", {"X-Error-Code": "RepoNotFound"}
        if parts[:4] == ["api", "models", *self.server.name.split("/")]:
            names, headers = sorted(path.name for path in self.server.folder.iterdir()), {}
            found: Any = {
                "id": self.server.name,
                "sha": self.commit,
                "siblings": [{"rfilename": name} for name in names],
            }
            if "tree" in parts:
                found = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            data = json.dumps(found).encode()
        elif parts[2:4] == ["resolve", self.commit] and "/".join(parts[:2]) == self.server.name:
            data = (self.server.folder / parts[4]).read_bytes()
            headers = {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self.server.sent |= {parts[4]} if body else set()
        self.send_response(404 if "X-Error-Code" in headers else 200)
        for key, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_model_on_the_hub_is_downloaded_and_only_the_files_that_are_read(
    mms: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = HubStandIn(mms, "someone/mms-1b-tiny")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert convert("hub:someone/mms-1b-tiny", tmp_path / "ours", "--language", "swh") == 0
        adapters = {name for name in server.sent if name.startswith("adapter.")}
        assert adapters == {"adapter.swh.safetensors"} and {"model.safetensors", "vocab.json"} <= server.sent
        check_against(mms, "swh", Recogniser.load(tmp_path / "ours"))
        converted = read_card(tmp_path / "ours")["converted"]
        assert (converted["from"], converted["revision"]) == ("hub:someone/mms-1b-tiny", HubRequest.commit)
        assert convert("hub:someone/absent", tmp_path / "absent") == 2
        assert "no such model" in capsys.readouterr().err
        assert convert("hub:someone/mms-1b-tiny", tmp_path / "absent", "--language", "ita") == 2
        assert "not ita" in capsys.readouterr().err
    finally:
        server.shutdown()
        server.server_close()
    # Without a network: what is in the cache, else one line that says what to do.
    assert convert("hub:someone/mms-1b-tiny", tmp_path / "again", "--language", "swh") == 0
    capsys.readouterr()
    assert convert("hub:someone/other", tmp_path / "absent") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "cannot be reached" in message and "hf download someone/other" in message
