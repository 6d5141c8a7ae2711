"""Arms of a study of retraining against each other: parent by parent as in the paper's Table 10, and across parents.

Table 10's test is of one parent and one test set only: its repeats differ in little but the order of the data. Across
parents each parent counts once, with the mean of its repeats. An improvement above 0 is better whichever way a score
points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from seqdsd.kinds import Metric, Number
from seqdsd.metrics.significance import (
    MeanTest,
    ParentsTest,
    across_parents,
    detectable,
    holm,
    unpaired_t_test,
)
from seqdsd.reports.comparison.contrasts import ALPHA, verdict
from seqdsd.reports.retraining.study import RetrainingStudy, Scores, StudyArm

Finding = Literal["better", "worse", "neither"]


@dataclass(frozen=True)
class ParentEffect:
    """Table 10's test: the retrainings of one parent in two arms.

    Attributes:
        parent: Its number.
        before: Scores of the arm compared with, a repeat each.
        after: Scores of the arm compared.
        improvement: Of the mean, in the score's units.
        interval: The improvement's 95 % confidence interval; None where no test is possible.
        p_value: Two-sided, not corrected, as in the paper; None where no test is possible.
    """

    parent: int
    before: tuple[Number, ...]
    after: tuple[Number, ...]
    improvement: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def finding(self) -> Finding:
        """What the paper's table would say of this parent, at 5 %."""
        if self.p_value is None or self.p_value >= ALPHA:
            return "neither"
        return "better" if self.improvement > 0 else "worse"


@dataclass(frozen=True)
class StudyContrast:
    """Two arms over the parents that both retrained, or an arm beside the parents themselves.

    Attributes:
        before: Name of the arm compared with; ``parents`` for these.
        after: Name of the arm compared.
        epochs: Of the retrainings in the arm compared.
        split: Where it is scored.
        metric: By what.
        parents: Each parent's own test; none beside the parents themselves, which are there once.
        test: Across parents, after minus before; None where there are not two parents.
        means: Over the parents, before and after.
        p_holm: The p-value of ``test``, corrected for the contrasts of its sort; None where there is none.
        family: How many contrasts were corrected for.
        num_looks: How often a result was looked at before retrainings were added, this time included: likewise.
    """

    before: str
    after: str
    epochs: tuple[int, ...]
    split: str
    metric: Metric
    parents: tuple[ParentEffect, ...]
    test: ParentsTest | None
    means: tuple[float, float]
    p_holm: float | None = None
    family: int = 1
    num_looks: int = 1

    @property
    def name(self) -> str:
        """``dsd-0.5_… on llr_…``."""
        return f"{self.after} on {self.before}"

    @property
    def improvement(self) -> float:
        """Of the mean over parents, in the score's units."""
        return float(self.metric.gain(*self.means))

    @property
    def relative(self) -> float | None:
        """The improvement as a share of the mean before; None where that is 0."""
        return self.improvement / self.means[0] if self.means[0] else None

    @property
    def p_value(self) -> float | None:
        """Across parents, of this contrast alone; None where no test is possible."""
        return _known(self.test.p_value) if self.test else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The improvement's 95 % confidence interval across parents, of this contrast alone."""
        return as_improvement(self.test.interval, self.metric) if self.test else None

    @property
    def verdict(self) -> str:
        """Across parents, the corrected p-value in words."""
        if self.p_holm is None:
            return "no test: one parent" if self.test is None else "no test: all parents differ by the same"
        return verdict(self.p_holm, self.improvement)

    def could_find(self, *, num_tests: int = 1) -> float | None:
        """The smallest true improvement that so many parents find in four of five studies, going by their scatter.

        None where there is none.

        Args:
            num_tests: Over how many alpha is divided: what is found then is so after Holm's correction, too.
        """
        if self.test is None or not self.test.test.standard_error:
            return None
        return detectable(
            standard_error=self.test.test.standard_error,
            degrees_of_freedom=self.test.num_parents - 1,
            alpha=ALPHA / num_tests,
        )

    def count(self, finding: Finding) -> int:
        """Of how many parents Table 10's test finds so."""
        return sum(one.finding == finding for one in self.parents)


def study_contrasts(study: RetrainingStudy, *, split: str, metric: Metric) -> list[StudyContrast]:
    """Every arm with pruning on the one without, corrected for their number and for looks."""
    made = [
        _contrast(before.name, after, before.scores(split, metric), split, metric)
        for before, after in study.pairs()
    ]
    return _corrected([one for one in made if one], 1 + len(study.looks))


def gains_on_parents(study: RetrainingStudy, *, split: str, metric: Metric) -> list[StudyContrast]:
    """Every arm on the parents as they were, corrected likewise: what the longer training brings."""
    made = []
    for arm in study.arms.values():
        given = {
            parent: {0: next(iter(scores.values()))}
            for parent, scores in arm.scores(split, metric, phase=0).items()
        }
        if one := _contrast("parents", arm, given, split, metric):
            made.append(replace(one, parents=()))
    return _corrected(made, 1 + len(study.looks))


def best_contrast(study: RetrainingStudy, *, split: str) -> StudyContrast | None:
    """That of the largest improvement, by the score that the study is about; None where there is none."""
    made = study_contrasts(study, split=split, metric=study.kind.primary)
    return max(made, key=lambda one: one.improvement, default=None)


def headline(study: RetrainingStudy) -> str:
    """What the study comes to: the largest improvement, and how often either test finds one."""
    metric, split = study.kind.primary, study.splits[0]
    made = study_contrasts(study, split=split, metric=metric)
    if not (best := best_contrast(study, split=split)):
        return f"{study.title}: no arm with pruning is complete beside the same without, so nothing can be said yet."
    parents = f"{len(best.parents)} parent{'' if len(best.parents) == 1 else 's'}"
    verb = "worsens" if best.improvement < 0 else "improves"
    said = f"{study.title}, {parents}: {best.after} on {best.before} {verb} {split} {metric.title} by {_points(best)}"
    if best.interval:
        low, high = (metric.written(end) for end in best.interval)
        said += f", 95 % CI of the improvement [{low}, {high}] across parents, of this contrast alone"
    said += f": {best.verdict}"
    if len(made) > 1:
        significant = [one for one in made if one.p_holm is not None and one.p_holm < ALPHA]
        better = sum(one.improvement > 0 for one in significant)
        said += f". It is the best of {len(made)} contrasts, for which p is Holm-corrected; "
        said += f"significantly better are {better}, worse {len(significant) - better}"
    if best.num_looks > 1:
        said += f". p is multiplied by {best.num_looks} looks at the result"
    said += _power_in_words(best, parents)
    found = [one.finding for contrast in made for one in contrast.parents]
    return (
        f"{said}. Table 10's test, of one parent at a time, would have said {found.count('better')} times better and "
        f"{found.count('worse')} times worse, of {len(found)}."
    )


def _points(contrast: StudyContrast) -> str:
    """Whichever way it goes."""
    points = f"{contrast.metric.written(abs(contrast.improvement))} points"
    return (
        points if contrast.relative is None else f"{points} ({100 * abs(contrast.relative):.1f} % relative)"
    )


def _power_in_words(contrast: StudyContrast, parents: str) -> str:
    """What the test could have found; nothing where nothing varies."""
    num_tests = contrast.family * contrast.num_looks
    alone, corrected = contrast.could_find(), contrast.could_find(num_tests=num_tests)
    if alone is None or corrected is None:
        return ""
    said = f". With {parents} it could have found {contrast.metric.written(corrected)} points at 80 % power"
    return said if num_tests == 1 else f"{said} ({contrast.metric.written(alone)} if it were the only test)"


def _contrast(
    before_name: str, after: StudyArm, before: Scores, split: str, metric: Metric
) -> StudyContrast | None:
    """Over the parents that both have; None where there is none."""
    own = after.scores(split, metric)
    common = [parent for parent in own if parent in before]
    if not common:
        return None
    sides = [[side[parent] for parent in common] for side in (before, own)]
    return StudyContrast(
        before=before_name,
        after=after.name,
        epochs=after.epochs,
        split=split,
        metric=metric,
        parents=tuple(_parent_effect(parent, before[parent], own[parent], metric) for parent in common),
        test=across_parents(*sides) if len(common) > 1 else None,
        means=(_mean_of_means(sides[0]), _mean_of_means(sides[1])),
    )


def _mean_of_means(arm: Sequence[Mapping[int, Number]]) -> float:
    return fmean(fmean(repeats.values()) for repeats in arm)


def _parent_effect(
    parent: int, before: Mapping[int, Number], after: Mapping[int, Number], metric: Metric
) -> ParentEffect:
    sides = (tuple(before.values()), tuple(after.values()))
    test: MeanTest | None = unpaired_t_test(*sides) if min(map(len, sides)) > 1 else None
    return ParentEffect(
        parent,
        *sides,
        improvement=float(metric.gain(fmean(sides[0]), fmean(sides[1]))),
        interval=as_improvement((test.low, test.high), metric) if test else None,
        p_value=_known(test.p_value) if test else None,
    )


def as_improvement(interval: tuple[float, float], metric: Metric) -> tuple[float, float] | None:
    """After minus before as an improvement; None where nothing varies."""
    if any(map(math.isnan, interval)):
        return None
    low, high = sorted(float(metric.gain(0.0, end)) for end in interval)
    return low, high


def _known(p_value: float) -> float | None:
    return None if math.isnan(p_value) else p_value


def _corrected(made: Sequence[StudyContrast], num_looks: int) -> list[StudyContrast]:
    """Holm's method, times the looks; a contrast whose parents all differ by the same counts with p = 1."""
    tried = [one for one in made if one.test]
    p_values = holm([1.0 if one.p_value is None else one.p_value for one in tried])
    corrected = {
        one.name: min(1.0, num_looks * p)
        for one, p in zip(tried, p_values, strict=True)
        if one.p_value is not None
    }
    return [
        replace(one, p_holm=corrected.get(one.name), family=len(tried), num_looks=num_looks) for one in made
    ]
