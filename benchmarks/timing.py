"""Timing of rival ways to do one thing, in turns, so that a busy machine is busy for all of them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Ratio:
    """Ratios of pairs of timings taken in the same round: their median, and in which bounds it or they lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numerators: list[float], denominators: list[float]) -> "Ratio":
        """Seconds over seconds, round by round; the bounds are those of the ratios."""
        ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    @classmethod
    def with_confidence(cls, numerators: list[float], denominators: list[float]) -> "Ratio":
        """The same; the bounds are those of the median, with 95 % confidence, or less where there are too few rounds.

        It is the sign test's interval, from the order of the ratios alone: it assumes nothing of the noise but that
        rounds are independent.
        """
        ratios = sorted(above / below for above, below in zip(numerators, denominators, strict=True))
        count = len(ratios)
        tails = accumulate(math.comb(count, number) / 2**count for number in range(count))
        outside = max(0, sum(tail <= 0.025 for tail in tails) - 1)
        return cls(statistics.median(ratios), ratios[outside], ratios[-1 - outside])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def seconds_in_turns(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    and_back: bool = False,
) -> dict[str, list[float]]:
    """Run every way once a round, in order, after one untimed round; seconds by way.

    Args:
        ways: What is timed.
        rounds: How often.
        clock: In seconds.
        and_back: Every other round is in the reverse order (A B B A …), so that a machine that becomes slower or faster
            favours none.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + rounds):
        for name in reversed([*ways]) if and_back and number % 2 else ways:
            start = clock()
            ways[name]()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}
