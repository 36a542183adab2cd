"""Clips alone and in one file: the benchmark's own cutting changes nothing where it says that nothing is changed."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.decoding.long_files import Bench
from lalia.data.corpus import Corpus
from tests.tiny_corpus import make_corpus
from tests.tiny_teacher import make_recogniser


def test_features_by_each_clips_own_level_are_those_of_the_clip_alone(tmp_path):
    make_corpus(tmp_path / "corpus", 12, ("ita",))
    bench = Bench(make_recogniser(layers=1), Corpus.load(tmp_path / "corpus"), "ita")
    assert len(bench.waves) == len(bench.texts) == len(bench.alone) > 1
    assert sorted(number for window in bench.windows(0.5) for number in window) == list(range(len(bench.waves)))
    first, second = bench.waves[:2]
    start = -(-len(first) // bench.hop) * bench.hop
    joined = np.concatenate([np.pad(first, (0, start - len(first))), second])
    alone = bench.features(second, [], False)
    with torch.no_grad():
        own = bench.features(joined, [(first, 0), (second, start)], True)[:, start // bench.hop :]
        together = bench.features(joined, [], False)[:, start // bench.hop :]
    frames = min(alone.shape[1], own.shape[1])
    torch.testing.assert_close(own[:, :frames], alone[:, :frames], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[:, :frames], alone[:, :frames], atol=1e-2)
    other, wrong = bench.joined(0.5, True, True)
    assert other >= 0 and wrong >= 0
