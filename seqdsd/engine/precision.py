"""In which precision a network computes faster here: measured by a few products, before a run begins."""

import time
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["32-true", "bf16-mixed"]

WORTH = 2.0
"""So many times as fast bfloat16 has to multiply: a network does other things, too, and casts cost something. At 2.5
times, six of seven networks trained 1.04 to 1.98 times as fast, LeNet-300-100 0.95 times (benchmarks.cpu_training)."""
_ROWS, _INPUTS, _OUTPUTS = 1024, 512, 512
"""A batch's frames through a layer of a recogniser."""
_REPEATS = 6


@dataclass(frozen=True)
class MeasuredPrecision:
    """What was found.

    Attributes:
        precision: The faster one.
        speedup: Of products in bfloat16, as a factor.
    """

    precision: Precision
    speedup: float

    def __str__(self) -> str:
        times = f"bfloat16 products are {self.speedup:.2g} times as fast as those in single precision here"
        return f"precision {self.precision}: {times} (from {WORTH:g} on they are taken)"


def measure_precision(device: torch.device) -> MeasuredPrecision:
    """Multiply in both, a few times, and take the faster one.

    Its numbers are not random, so that torch's generators stay as they are.

    Args:
        device: Where. Other than CPUs and CUDA devices are not measured: they have single precision.
    """
    if device.type not in ("cpu", "cuda"):
        return MeasuredPrecision("32-true", 1.0)
    single, half = (_seconds(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    speedup = single / half
    return MeasuredPrecision("bf16-mixed" if speedup >= WORTH else "32-true", speedup)


@torch.inference_mode()
def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Of the fastest product: the first ones find their kernels."""
    frames = torch.full((_ROWS, _INPUTS), 0.5, dtype=dtype, device=device)
    weight = torch.full((_OUTPUTS, _INPUTS), 0.25, dtype=dtype, device=device)
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        torch.nn.functional.linear(frames, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
