"""Diarization error rate and speed of ``lalia diarize`` beside sherpa-onnx with the same two models.

  python -m benchmarks.hearing.diarization --diarizer my-diarizer --mixes DIARIZER --dialogue fillets-czech

``--mixes``: the files of NeMo-text-processing at abcaa91e, ``tests/.data/asr/diarizer/*/libri_speech_mix``, in one folder (audio
and RTTM). ``--dialogue``: a folder with ``manifest.tsv`` (audio, speaker), such as Debian's fillets-ng-data-cs; its clips are
joined to conversations of two or three voices on one channel. RTF is processor time of one thread, so that other programs do not
count.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from lalia.audio.reading import read_audio
from lalia.scoring.speaker_errors import SpeakerErrors, diarization_errors
from lalia.speakers.diarizer import EMBEDDING, SEGMENTATION, Diarizer
from lalia.speakers.rttm import SpeakerTurn, read_rttm
from lalia.units import SAMPLE_RATE, Seconds, to_samples, to_seconds

# --- Material --------------------------------------------------------------------------------------------

LEADS = ("font_big", "font_small")
THIRD = ("font_statue", "font_parrot", "font_cyan", "font_yellow")
"""Two actors speak most of the dialogue; which actor speaks the other characters is not documented."""


@dataclass(frozen=True)
class Recording:
    """A wave (float32, 16 kHz) and who speaks when in it."""

    name: str
    wave_S: np.ndarray
    turns: Sequence[SpeakerTurn]


def mixes(folder: Path) -> Iterator[Recording]:
    """Recordings with an RTTM file of the same name."""
    for path in sorted(folder.rglob("*.flac")):
        [turns] = read_rttm(next(folder.rglob(f"{path.stem}.rttm"))).values()
        yield Recording(path.stem, read_audio(path), turns)


def conversations(folder: Path, count: int = 8, seconds: Seconds = 120.0, seed: int = 7) -> Iterator[Recording]:
    """Clips of two or three speakers joined: turns of one to three clips, pauses of .1 to .7 s, a fifth of changes overlap."""
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number in range(count):
        draw = np.random.default_rng(seed + number)
        voices = [*LEADS, *((THIRD[number // 2 % len(THIRD)],) if number % 2 else ())]
        own = {voice: [row["audio"] for row in rows if row["speaker"] == voice] for voice in voices}
        clips = {voice: iter(draw.permutation(names * 9).tolist()) for voice, names in own.items()}
        pieces: list[tuple[Seconds, np.ndarray]] = []
        turns: list[SpeakerTurn] = []
        at_s, voice = 0.5, ""
        while at_s < seconds:
            voice = str(draw.choice([other for other in voices if other != voice]))
            for _ in range(int(draw.integers(1, 4))):
                wave_S = _trimmed(read_audio(folder / next(clips[voice])))
                start_s = at_s
                if turns and turns[-1].speaker != voice and draw.random() < 0.2:
                    start_s = max(turns[-1].start_s + 0.2, turns[-1].end_s - float(draw.uniform(0.3, 0.8)))
                pieces.append((start_s, wave_S))
                turns.append(SpeakerTurn(start_s, start_s + to_seconds(len(wave_S)), voice))
                at_s = max(at_s, turns[-1].end_s) + float(draw.uniform(0.1, 0.7))
        joined_S = np.zeros(to_samples(at_s), np.float32)
        for start_s, wave_S in pieces:
            first = to_samples(start_s)
            joined_S[first : first + len(wave_S)] += wave_S
        yield Recording(f"conversation-{number}", joined_S / max(1.0, 1.01 * float(np.abs(joined_S).max())), turns)


def _trimmed(wave_S: np.ndarray) -> np.ndarray:
    """Without the silence before and after speech, at one level."""
    powers_T = np.square(wave_S[: len(wave_S) // 160 * 160]).reshape(-1, 160).mean(axis=1)
    loud = np.flatnonzero(powers_T > 1e-4 * powers_T.max())
    wave_S = wave_S[max(0, int(loud[0]) - 3) * 160 : (int(loud[-1]) + 4) * 160]
    return wave_S * np.float32(0.05 / np.sqrt(np.square(wave_S).mean() + 1e-12))


# --- Systems ---------------------------------------------------------------------------------------------

System = Callable[[np.ndarray], list[SpeakerTurn]]


def lalia_system(folder: Path, threshold: float | None, speakers: int | None = None) -> System:
    diarizer = Diarizer.load(folder)
    diarizer.threshold = threshold or diarizer.threshold
    return lambda wave_S: diarizer.diarize(wave_S, speakers=speakers).turns


def sherpa_system(folder: Path, threshold: float) -> System:
    """sherpa-onnx with the graphs of the diarizer in ``folder``, renamed and with the metadata that it reads."""
    import sherpa_onnx

    with tempfile.TemporaryDirectory() as work:
        segmentation, embedding = Path(work) / SEGMENTATION, Path(work) / EMBEDDING
        segmentation.write_bytes(_for_sherpa(folder / SEGMENTATION, _SEGMENTATION_FACTS, True))
        embedding.write_bytes(_for_sherpa(folder / EMBEDDING, _EMBEDDING_FACTS, False))
        config = sherpa_onnx.OfflineSpeakerDiarizationConfig(
            segmentation=sherpa_onnx.OfflineSpeakerSegmentationModelConfig(
                pyannote=sherpa_onnx.OfflineSpeakerSegmentationPyannoteModelConfig(model=str(segmentation)),
            ),
            embedding=sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(embedding)),
            clustering=sherpa_onnx.FastClusteringConfig(num_clusters=-1, threshold=threshold),
        )
        system = sherpa_onnx.OfflineSpeakerDiarization(config)
    return lambda wave_S: [
        SpeakerTurn(turn.start, turn.end, str(turn.speaker)) for turn in system.process(wave_S).sort_by_start_time()
    ]


_SEGMENTATION_FACTS = {
    "num_speakers": 3, "powerset_max_classes": 2, "num_classes": 7, "sample_rate": SAMPLE_RATE, "window_size": 160_000,
    "receptive_field_size": 991, "receptive_field_shift": 270, "model_type": "pyannote-segmentation-3.0", "version": 1,
}  # fmt: skip
_EMBEDDING_FACTS = {
    "framework": "3d-speaker", "language": "Chinese-English", "sample_rate": SAMPLE_RATE, "output_dim": 192,
    "normalize_samples": 1,
    "feature_normalize_type": "global-mean", "url": "", "comment": "", "model_type": "campplus", "version": 1,
}  # fmt: skip


def _for_sherpa(path: Path, facts: dict[str, object], channel: bool) -> bytes:
    model = onnx.load(path)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=str(value))
    if channel:  # sherpa-onnx gives waves (N, 1, S)
        old = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = [f"{old}.flat" if name == old else name for name in node.input]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "channel.axis"))
        model.graph.node.insert(0, onnx.helper.make_node("Squeeze", [old, "channel.axis"], [f"{old}.flat"], "flat"))
        model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(old, onnx.TensorProto.FLOAT, ["N", 1, "S"]))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


# --- The table -------------------------------------------------------------------------------------------


def measure(system: System, recordings: Sequence[Recording]) -> tuple[SpeakerErrors, SpeakerErrors, float, int]:
    """Errors with collar 0, and with .25 s and no overlap; processor time per second; recordings with the right number."""
    strict, lenient, took_s, right = SpeakerErrors(), SpeakerErrors(), 0.0, 0
    for recording in recordings:
        before = time.process_time()
        turns = system(recording.wave_S)
        took_s += time.process_time() - before
        strict += diarization_errors(recording.turns, turns)
        lenient += diarization_errors(recording.turns, turns, collar_s=0.25, overlap=False)
        right += len({turn.speaker for turn in turns}) == len({turn.speaker for turn in recording.turns})
    return strict, lenient, took_s / sum(to_seconds(len(recording.wave_S)) for recording in recordings), right


def row(name: str, system: System, recordings: Sequence[Recording]) -> str:
    strict, lenient, factor, right = measure(system, recordings)
    parts = [100 * part / strict.reference_s for part in (strict.missed_s, strict.false_s, strict.confused_s)]
    cells = [f"{100 * strict.rate:.1f}", *(f"{part:.1f}" for part in parts), f"{100 * lenient.rate:.1f}"]
    return f"| {' | '.join([name, *cells, f'{right} of {len(recordings)}', f'{factor:.4f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diarizer", type=Path, required=True, action="append", help="a folder; may be repeated")
    parser.add_argument("--mixes", type=Path)
    parser.add_argument("--dialogue", type=Path)
    parser.add_argument(
        "--threshold", type=float, action="append", help="of lalia; may be repeated (default: the card's)"
    )
    parser.add_argument(
        "--sherpa", type=float, action="append", default=[], help="thresholds of sherpa-onnx (its default: .5)"
    )
    args = parser.parse_args()
    materials = {}
    if args.mixes:
        materials["two-speaker mixes"] = list(mixes(args.mixes))
    if args.dialogue:
        materials["conversations"] = list(conversations(args.dialogue))
    for name, recordings in materials.items():
        minutes = sum(to_seconds(len(recording.wave_S)) for recording in recordings) / 60
        print(f"\n{name}: {len(recordings)} recordings, {minutes:.1f} min\n")
        print(
            "| system | DER % | missed | false | confused | DER %, collar .25 s, no overlap | right number of speakers | RTF |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for folder in args.diarizer:
            for threshold in args.threshold or [None]:
                named = f"lalia, {folder.name}" + (f", threshold {threshold:g}" if threshold else "")
                print(row(named, lalia_system(folder, threshold), recordings), flush=True)
        for threshold in args.sherpa:
            system = sherpa_system(args.diarizer[0], threshold)
            print(row(f"sherpa-onnx, threshold {threshold:g}", system, recordings), flush=True)


if __name__ == "__main__":
    main()
