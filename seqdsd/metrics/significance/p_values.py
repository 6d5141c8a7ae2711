"""P-values corrected for their number, and as they are printed."""

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float | int]) -> list[float]:
    """Correct p-values for their number, so that the chance of even one false alarm among them stays below alpha.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none ends below a smaller one, or above 1. An
    adjusted p-value is compared with alpha as a single one would be. The tests need not be independent.

    Args:
        p_values: Of all comparisons that were made, in any order.

    Returns:
        The adjusted p-values, in the order given.

    Raises:
        ValueError: If one is not within [0, 1]; it is named.

    Reference: Holm 1979, as adjusted p-values (R's ``p.adjust``, statsmodels' ``multipletests``).
    """
    for index, p_value in enumerate(p_values):
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values[{index}] is {p_value}; a p-value lies within [0, 1]")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted


def in_words(p_value: float | int, *, alpha: float = 0.05) -> str:
    """Say a p-value as it is printed: "p = 0.013", "p < 0.001", or "not significant (p = 0.21)".

    It is rounded to two digits, or as many as it takes to stay on its side of ``alpha``.

    Args:
        p_value: In [0, 1]; corrected for the number of comparisons, where there are several. NaN, as ``MeanTest`` has
            it, is "no test possible: nothing varies".
        alpha: What it must fall below to be significant.
    """
    if math.isnan(p_value):
        return "no test possible: nothing varies"
    is_significant = p_value < alpha
    said = "p < 0.001" if p_value < 0.001 else f"p = {_round(p_value, alpha)}"
    return said if is_significant else f"not significant ({said})"


def _round(p_value: float | int, alpha: float) -> str:
    rounded = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return next(text for text in rounded if (float(text) < alpha) == (p_value < alpha))
