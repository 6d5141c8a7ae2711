"""The learning rate of every step of a phase, from where in the phase the step stands and nothing else.

So a resumed run has the rates that it would have had. The rate that a phase begins from, its peak, is the schedule's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

WARMUP_START = 0.04
"""Of the peak: where the warm-up begins."""
COSINE_END = 0.001
"""Of the peak: where the cosine ends."""


@dataclass(frozen=True, kw_only=True)
class RateSettings:
    """How the learning rate moves within a phase; by default not at all."""

    curve: Literal["constant", "cosine"] = "constant"
    """Of the learning rate within a phase. constant: it stays at its peak, the phase's own rate; cosine: it falls along
    half a cosine to a thousandth of that at the phase's last step."""
    warmup: float = 0.0
    """Share of a phase's steps, its first, in which the learning rate rises in a line from 0.04 of its peak to it."""
    anneal: float = 1.0
    """Within a phase the learning rate, whatever its curve, is divided by this after every epoch; 1 changes nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:  # so written, NaN is refused as well
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")
        if not self.anneal >= 1:
            raise ValueError(f"anneal must be at least 1, got {self.anneal}")

    def rate(self, peak: float | int, *, epochs: int, epoch: int, step: int, num_batches: int) -> float:
        """The learning rate of one step.

        With N steps in the phase and W of warm-up, step W (from 0) is the first at the peak and step N - 1, with a
        cosine, the one at its end.

        Args:
            peak: The phase's own learning rate.
            epochs: Of the phase, if it does not end early.
            epoch: Within the phase, from 0.
            step: Within the epoch, from 0.
            num_batches: Planned in every epoch. One of a few more keeps the last planned step's rate; one of a few less
                leaves out the rates of those that are missing.
        """
        last = epochs * num_batches - 1
        at = epoch * num_batches + min(step, num_batches - 1)
        rises_until = min(round(self.warmup * (last + 1)), last)
        share = 1.0
        if at < rises_until:
            share = WARMUP_START + (1 - WARMUP_START) * at / rises_until
        elif self.curve == "cosine" and last > rises_until:
            fallen = (at - rises_until) / (last - rises_until)
            share = COSINE_END + (1 - COSINE_END) * (1 + math.cos(math.pi * fallen)) / 2
        return share * peak / self.anneal**epoch
