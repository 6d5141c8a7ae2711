"""What a comparison will be able to find, by what has been trained of it: its scatter over seeds and over test items.

A scatter is known as well as the number of seeds tells it, which is roughly; so is what follows from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from seqdsd.kinds import Metric
from seqdsd.metrics.significance import detectable, items_needed, runs_needed, sd_interval, sd_of_parents
from seqdsd.metrics.significance.power import POWER
from seqdsd.records.asked_seeds import AskedSeeds, looks_before
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.comparison.contrasts import ALPHA, Contrast, contrasts
from seqdsd.reports.comparison.pairs import PairTest, pair_tests


@dataclass(frozen=True)
class Components:
    """Of the scatter over parents: ``ParentsTest`` says what each is."""

    sd_between_parents: float
    sd_between_repeats: float
    correlation: float

    def sd(self, num_repeats: int) -> float:
        """Of the parents' differences, each arm retrained so often; NaN where parents and repeats are one."""
        return sd_of_parents(**asdict(self), num_repeats=num_repeats)


@dataclass(frozen=True)
class Scatter:
    """How the differences between two arms vary over what is repeated: seeds, or parents.

    Attributes:
        name: Of the contrast.
        unit: What is repeated, in the plural.
        count: Of the seeds or parents that it is from.
        sd: Of the differences, in the score's units.
        before: Mean score before; None where it is not known.
        metric: The score.
        family: How many contrasts a p-value is corrected for, …
        num_looks: … times how many looks at a result.
        components: Of parents, what it is made up of; None of seeds.
    """

    name: str
    unit: str
    count: int
    sd: float
    before: float | None
    metric: Metric
    family: int = 1
    num_looks: int = 1
    components: Components | None = None

    @property
    def num_tests(self) -> int:
        """How many tests a p-value is corrected for."""
        return self.family * self.num_looks

    @property
    def sd_interval(self) -> tuple[float, float]:
        """Between what the SD lies with 95 % confidence, as so few tell it."""
        return sd_interval(self.sd, degrees_of_freedom=self.count - 1)

    def could_find(
        self, count: int | None = None, *, num_tests: int = 1, alpha: float = ALPHA, power: float = POWER
    ) -> float:
        """The smallest improvement that so many find; by default as many as the scatter is from."""
        count = count or self.count
        return detectable(
            standard_error=self.sd / math.sqrt(count),
            degrees_of_freedom=count - 1,
            alpha=alpha / num_tests,
            power=power,
        )

    def needed(
        self, improvement: float, *, num_tests: int = 1, alpha: float = ALPHA, power: float = POWER
    ) -> int:
        """How many find an improvement."""
        return runs_needed(improvement, sd=self.sd, alpha=alpha / num_tests, power=power)


@dataclass(frozen=True)
class ItemScatter:
    """How the difference between two networks varies with the test set.

    Attributes:
        name: Of the contrast.
        unit: What is drawn: utterances, images or speakers.
        count: Of them in the test set.
        standard_error: Of the difference between two networks; over the seeds the root of the mean square.
        num_pairs: Pairs of networks that it is from.
        before: Mean score before.
        metric: The score.
    """

    name: str
    unit: str
    count: int
    standard_error: float
    num_pairs: int
    before: float
    metric: Metric

    def needed(self, improvement: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
        """How many it takes to tell two networks apart that differ by an improvement."""
        return items_needed(
            improvement, standard_error=self.standard_error, count=self.count, alpha=alpha, power=power
        )


def scatters(comparison: Comparison) -> tuple[Scatter, ...]:
    """Of each contrast with a paired test of the primary score on the first test set; dev where there is none."""
    metric, split = comparison.kind.primary, comparison.scored_splits[0]
    return tuple(_scatters(contrasts(comparison, split=split, metric=metric)))


def outlook(comparisons: Sequence[Comparison], seeds: Collection[int], *, new: AskedSeeds | None) -> str:
    """What a comparison will be able to find when it has these seeds, too, by the scatter of those that it has.

    Arms that are still to come are not corrected for.

    Args:
        comparisons: What is there.
        seeds: All that it is asked for.
        new: Those of them that it was not asked for before, as ``newly_asked`` finds them.
    """
    for comparison in comparisons:
        found = scatters(comparison)
        main = main_scatter(found) if found else None
        if main and len(comparison.arms) > 1:
            all_seeds = {*seeds} | {*comparison.seeds}
            return expected(main, len(all_seeds), looks=looks_at_the_end(comparison.asked, new, all_seeds))
    return (
        "What it will be able to find is not known yet: no two seeds of two arms are complete here. seqdsd power says "
        "it for a scatter that you give."
    )


def looks_at_the_end(asked: Sequence[AskedSeeds], new: AskedSeeds | None, seeds: Collection[int]) -> int:
    """How many looks a report will count when all these seeds are there."""
    return 1 + len(looks_before((*asked, *([new] if new else ())), seeds))


def expected(one: Scatter, count: int, *, looks: int) -> str:
    """The sentence on what so many will be able to find, by a scatter, after so many looks at a result."""
    one = replace(one, num_looks=looks)
    alone, corrected = (one.metric.written(one.could_find(count, num_tests=n)) for n in (1, one.num_tests))
    more = f" ({corrected} corrected for {one.num_tests} tests)" if one.num_tests > 1 else ""
    return (
        f"With {count} {one.unit} it will be able to find {alone} points at 80 % power{more} ({one.name}), by the "
        f"scatter of the {one.count} {one.unit} that are there."
    )


def main_scatter(found: Sequence[Scatter]) -> Scatter:
    """Of the contrast that is the answer: DSDSD on LLR, the harder rival, where it is there."""

    def rank(one: Scatter) -> tuple[bool, bool]:
        return not one.name.startswith("DSDSD on"), "on LLR" not in one.name

    return min(found, key=rank)


def seeds_with_results(comparisons: Sequence[Comparison]) -> set[int]:
    """Seeds of which two arms are complete: what a report compares."""
    counted = Counter(seed for one in comparisons for arm in one.arms for seed in arm.runs)
    return {seed for seed, num_arms in counted.items() if num_arms > 1}


def _scatters(found: tuple[Contrast, ...]) -> Iterator[Scatter]:
    for one in found:
        if one.paired and one.paired.standard_error:
            count = one.paired.count[0]
            yield Scatter(
                name=one.name,
                unit="seeds",
                count=count,
                sd=one.paired.standard_error * math.sqrt(count),
                before=one.before.mean,
                metric=one.metric,
                family=one.family,
                num_looks=one.num_looks,
            )


def item_scatters(comparison: Comparison) -> tuple[ItemScatter, ...]:
    """Of each contrast whose hypotheses were kept, on the same split."""
    by_name: dict[str, list[PairTest]] = {}
    for test in pair_tests(comparison, split=comparison.scored_splits[0]):
        if test.bootstrap and test.bootstrap.standard_error:
            by_name.setdefault(test.name, []).append(test)
    return tuple(_item_scatter(name, tests, comparison) for name, tests in by_name.items())


def _item_scatter(name: str, tests: list[PairTest], comparison: Comparison) -> ItemScatter:
    first, by_speaker = tests[0], all(test.is_by_speaker for test in tests)
    made = [test.bootstrap for test in tests if test.bootstrap]
    count = first.num_speakers if by_speaker else first.num_items
    return ItemScatter(
        name=name,
        unit="speakers" if by_speaker else comparison.kind.counted,
        count=count or 0,
        standard_error=math.sqrt(fmean(one.standard_error**2 for one in made)),
        num_pairs=len(made),
        before=fmean(one.before.value for one in made),
        metric=comparison.kind.primary,
    )
