"""Profile of lalia's pretraining step: time by kind of operation, matrix products against the peak, attention kernels.

    OMP_NUM_THREADS=1 python -m benchmarks.training.pretrain_profile [--size "256 x 6"] [--precision fp32 bf16]
    OMP_NUM_THREADS=1 python -m benchmarks.training.pretrain_profile --attention

The peak is a 1024³ product, timed in alternation with the steps. ``--attention`` compares torch's fused kernel with the explicit
products of lalia/models/cpu_kernels.py, forward and backward.

B clips, T frames, H heads, d dimensions of a head.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.pretrain_contenders import SIZES, ours

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "convolutions": ("mkldnn_convolution", "convolution_backward", "_convolution", "slow_conv2d_forward", "thnn_conv2d"),
    "GELU": ("gelu", "gelu_backward"),
    "softmax": ("_softmax", "_softmax_backward_data", "logsumexp"),
    "layer norms": ("native_layer_norm", "native_layer_norm_backward"),
    "draws (dropout, codes)": ("random_", "ge", "rand", "uniform_", "bernoulli_", "exponential_", "log", "log_"),
    "copies and casts": ("copy_", "clone", "cat", "fill_", "zero_", "index", "gather", "scatter_", "index_put_"),
    "element by element": ("mul", "add", "sub", "div", "mul_", "add_", "div_", "sum", "mean", "neg", "where", "pow", "sqrt",
                           "rsqrt", "square", "masked_fill", "masked_fill_"),
}  # fmt: skip
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
ONEDNN = "mkldnn::_linear_pointwise"
"""The product of lalia/models/cpu_products.py, whose operations the profiler does not count."""
SIDE = 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", nargs="+", default=["192 x 5", "256 x 6", "base"], choices=list(SIZES))
    arguments.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--attention", action="store_true", help="compare the two implementations of attention instead"
    )
    given = arguments.parse_args()
    if given.attention:
        compare_attention(given.rounds)
        return
    kinds = [*KINDS, "other", "AdamW"]
    print("| size | precision | ms | " + " | ".join(kinds) + " | products, GFLOP/s | of the peak |")
    print("|---|---|---:|" + "---:|" * (len(kinds) + 2))
    for size in given.size:
        for precision in given.precision:
            seconds, flops, best = where(size, precision, given.rounds)
            total = sum(seconds.values())
            shares = " | ".join(f"{seconds[kind] / total:.0%}" for kind in kinds)
            speed = flops / seconds["matrix products"]
            print(
                f"| {size} | {precision} | {1000 * total:.0f} | {shares} | {speed / 1e9:.0f} | {speed / best:.0%} |",
                flush=True,
            )


def where(size: str, precision: str, rounds: int) -> tuple[dict[str, float], float, float]:
    """(seconds of a step by kind, operations of its matrix products, the machine's peak in operations per second), of the
    fastest round."""
    torch.manual_seed(0)
    contender = ours(SIZES[size])
    optimizer = torch.optim.AdamW(contender.model.parameters())
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(SIDE, SIDE).to(dtype)
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    kind_of[ONEDNN] = "matrix products"
    found: list[tuple[dict[str, float], float]] = []
    best = 0.0
    for turn in range(1 + rounds):
        begun = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        best = max(best, 3 * 2 * SIDE**3 / (time.perf_counter() - begun))
        with profile(activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True) as recorded:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = contender.loss()
            loss.backward()
        begun = time.perf_counter()
        optimizer.step()
        seconds: dict[str, float] = defaultdict(float, AdamW=time.perf_counter() - begun)
        optimizer.zero_grad(set_to_none=True)
        flops = 0.0
        for event in recorded.key_averages(group_by_input_shape=True):
            seconds[kind_of.get(event.key, "other")] += event.self_cpu_time_total / 1e6
            flops += event.flops if event.key in PRODUCTS else 0
            if event.key == ONEDNN:
                (rows, inputs), (outputs, _) = event.input_shapes[:2]
                flops += 2.0 * event.count * rows * inputs * outputs
        if turn:
            found.append((seconds, flops))
    return *min(found, key=lambda each: sum(each[0].values())), best


def compare_attention(rounds: int) -> None:
    """Print a row for each shape, precision and dropout."""
    print("| B, H, T, d | precision | dropout | fused, ms | explicit, ms | fused / explicit |")
    print("|---|---|---:|---:|---:|---:|")
    for shape in ((8, 4, 124, 48), (4, 4, 249, 48), (2, 4, 499, 64), (2, 12, 249, 64), (1, 12, 749, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            for dropout in (0.0, 0.1):
                fused, written = attention_seconds(shape, dtype, dropout, rounds)
                ratio = statistics.median(a / b for a, b in zip(fused, written, strict=True))
                times = " | ".join(f"{1000 * statistics.median(seconds):.1f}" for seconds in (fused, written))
                name = "fp32" if dtype == torch.float32 else "bf16"
                print(
                    f"| {', '.join(map(str, shape))} | {name} | {dropout} | {times} | {ratio:.2f} |",
                    flush=True,
                )


def attention_seconds(
    shape: tuple[int, int, int, int], dtype: torch.dtype, dropout: float, rounds: int, calls: int = 8
) -> tuple[list[float], list[float]]:
    """Seconds of a forward and backward pass, with the fused kernel and with explicit products, alternating."""
    from lalia.models.cpu_kernels import attend

    B, H, T, d = shape
    qkv = [torch.randn(B, T, H, d).to(dtype).requires_grad_() for _ in range(3)]
    gradient = torch.randn(B, H, T, d).to(dtype)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, None, dropout)

    def seconds(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            attend(*(x.transpose(1, 2) for x in qkv)).backward(gradient)
        return (time.perf_counter() - begun) / calls

    seconds(fused), seconds(ours)
    pairs = [(seconds(fused), seconds(ours)) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


if __name__ == "__main__":
    main()
