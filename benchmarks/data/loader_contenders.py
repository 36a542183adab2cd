"""The data loaders that benchmarks/data/loader.py compares, each built as in its toolkit's own examples.

ours            BatchPlan + make_loader, which reads ahead with threads.
ours-fork       the same with forked processes.
transformers    ``datasets`` (Audio column, decoded on access) + Wav2Vec2FeatureExtractor + LengthGroupedSampler + DataLoader,
                as run_speech_recognition_ctc.py of transformers does. Needs torchcodec and FFmpeg.
transformers-sf the same, decoded with soundfile instead of torchcodec.
fairseq2        the data pipeline of fairseq2 0.8.1's recipes/wav2vec2/ssl: shuffle, bucket_by_length, FileMapper,
                AudioDecoder, crops to the shortest clip of a batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

SHORTEST_S, LONGEST_S = 0.5, 20.0
WORKERS = 2
Batches = Iterator[tuple[int, int, int]]  # clips, samples of audio, samples with padding


def chosen_rows(folder: Path) -> np.ndarray:
    """The clips that every contender reads."""
    from lalia.data.corpus import Corpus

    durations_s = Corpus.load(folder).durations_s
    return np.flatnonzero((durations_s >= SHORTEST_S) & (durations_s <= LONGEST_S))


def ours(given: argparse.Namespace) -> Batches:
    return _ours(given, "threads")


def ours_forked(given: argparse.Namespace) -> Batches:
    return _ours(given, "fork")


def _ours(given: argparse.Namespace, context: Literal["threads", "fork"]) -> Batches:
    from lalia.data.corpus import Corpus
    from lalia.data.loader import make_loader
    from lalia.data.plan import BatchPlan

    corpus = Corpus.load(given.corpus)
    plan = BatchPlan(
        durations_s=corpus.durations_s,
        groups=corpus.languages,
        seed=1,
        micro_batch_s=given.batch_s,
        min_s=SHORTEST_S,
        max_s=LONGEST_S,
        crop=False,
        alpha=1.0,
    )
    for batch in make_loader(corpus, plan, start=0, workers=WORKERS, context=context):
        yield len(batch.wave_BS), batch.samples, batch.wave_BS.numel()


def transformers_torchcodec(given: argparse.Namespace) -> Batches:
    return _transformers(given, by_torchcodec=True)


def transformers_soundfile(given: argparse.Namespace) -> Batches:
    return _transformers(given, by_torchcodec=False)


def _transformers(given: argparse.Namespace, by_torchcodec: bool) -> Batches:
    import io

    import datasets
    import soundfile
    import torch
    from transformers import Wav2Vec2FeatureExtractor
    from transformers.trainer_pt_utils import LengthGroupedSampler

    dataset = datasets.load_from_disk(str(given.corpus)).select(chosen_rows(given.corpus))
    dataset = dataset.cast_column("audio", datasets.Audio(sampling_rate=16_000, decode=by_torchcodec))
    lengths = [round(seconds * 16_000) for seconds in dataset["duration_s"]]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)

    def prepare(batch: dict) -> dict:
        if by_torchcodec:
            waves = [audio["array"] for audio in batch["audio"]]
        else:
            waves = [soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")[0] for audio in batch["audio"]]
        return {"input_values": [extractor(wave, sampling_rate=16_000).input_values[0] for wave in waves]}

    def collate(features: list[dict]) -> dict:
        return dict(extractor.pad(features, padding=True, return_tensors="pt"))

    size = round(given.batch_s * 16_000 / np.mean(lengths))
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        dataset.with_transform(prepare),
        batch_size=size,
        sampler=LengthGroupedSampler(size, lengths=lengths),
        collate_fn=collate,
        num_workers=WORKERS,
        prefetch_factor=4,
        persistent_workers=True,
    )
    while True:
        for batch in loader:
            mask = batch["attention_mask"]
            yield len(mask), int(mask.sum()), mask.numel()


def fairseq2(given: argparse.Namespace) -> Batches:
    import soundfile  # noqa: F401 - loads the libsndfile that fairseq2 needs
    import torch
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import Collater, FileMapper, create_bucket_sizes
    from fairseq2.data.text import StrSplitter, read_text

    longest = round(LONGEST_S * 16_000)
    elements = round(given.batch_s * 16_000) // longest * longest
    sizes = create_bucket_sizes(
        min_seq_len=round(SHORTEST_S * 16_000), max_seq_len=longest, max_num_elements=elements, num_seqs_multiple_of=8
    )
    generator = np.random.RandomState(1)

    def crop(batch: list[dict]) -> list[dict]:
        size = min(len(example["audio"]["data"]["waveform"]) for example in batch)
        for example in batch:
            data = example["audio"]["data"]
            if len(data["waveform"]) > size:
                start = generator.randint(0, len(data["waveform"]) - size)
                data["waveform"] = data["waveform"][start : start + size]
        return batch

    builder = read_text(given.files / "train.tsv", rtrim=True, memory_map=True)
    builder.skip(1)
    builder.map(StrSplitter(names=["audio", "audio_size"]))
    builder.map(int, selector="audio_size")
    builder.shuffle(500_000, 1)
    builder.bucket_by_length(
        sizes, selector="audio_size", min_data_len=1, skip_below_min_examples=True, skip_above_max_examples=True
    )
    builder.shuffle(0, 2)
    builder.map(FileMapper(given.files, cached_fd_count=1000), selector="[*].audio")
    builder.map(AudioDecoder(dtype=torch.float32), selector="[*].audio.data", num_parallel_calls=10)
    builder.map(crop)
    builder.map(Collater(pad_value=None))
    builder.prefetch(4)
    pipeline = builder.and_return()
    while True:
        for batch in pipeline:
            wave = batch["audio"]["data"]["waveform"]
            yield len(wave), wave.numel(), wave.numel()
        pipeline.reset()


CONTENDERS: dict[str, Callable[[argparse.Namespace], Batches]] = {
    "ours": ours,
    "ours-fork": ours_forked,
    "transformers": transformers_torchcodec,
    "transformers-sf": transformers_soundfile,
    "fairseq2": fairseq2,
}
