"""Two classifiers on the same items: McNemar's test of those that only one of them got right."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtr


@dataclass(frozen=True)
class McNemarTest:
    """What McNemar's test counted, and how likely chance alone does that.

    Attributes:
        only_before: Items that only the one system, which the other is compared with, got right.
        only_after: Items that only the other got right.
        p_value: Two-sided and exact: of a coin that is thrown once for each of these items.
    """

    only_before: int
    only_after: int
    p_value: float


def mcnemar(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> McNemarTest:
    """McNemar's exact test: do two classifiers err equally often on the same items?

    Items that both got right, or both wrong, say nothing; of the others a better system has more than half.

    Args:
        refs: The class of each item.
        hyps_before: What the one system takes it for.
        hyps_after: What the other takes it for.

    Raises:
        ValueError: If the lists differ in length, or are empty.

    Reference: McNemar 1947; Dietterich 1998 (approximate statistical tests), section 3.1. Departure: the binomial
        distribution itself in place of chi-squared with a correction, which is near it for many such items.
    """
    check_classes(refs, hyps_before, hyps_after)
    rights = [
        (before == ref, after == ref)
        for ref, before, after in zip(refs, hyps_before, hyps_after, strict=True)
    ]
    only_before, only_after = rights.count((True, False)), rights.count((False, True))
    tail = float(bdtr(min(only_before, only_after), only_before + only_after, 0.5))
    return McNemarTest(only_before, only_after, min(1.0, 2 * tail))


def check_classes(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> None:
    """Refuse classes that do not pair up.

    Raises:
        ValueError: If the lists differ in length, or are empty.
    """
    for name, hyps in (("before", hyps_before), ("after", hyps_after)):
        if len(hyps) != len(refs):
            raise ValueError(
                f"got {len(refs)} references but {len(hyps)} hypotheses {name}; they must pair up"
            )
    if not refs:
        raise ValueError("nothing to score: there is no item")
