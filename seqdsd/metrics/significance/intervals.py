"""A score with its confidence interval, and what all tests of a difference check and say of it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of scores, and its confidence interval."""

    value: float
    """On the items as they are, not the mean of the resamples."""
    low: float
    high: float


def check_confidence(confidence: float) -> None:
    """Refuse what is no level of confidence.

    Raises:
        ValueError: If it is not within (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")


def relative_change(difference: float, before: float) -> float:
    """The difference as a fraction of the score before; NaN where that is 0."""
    return difference / before if before else math.nan
