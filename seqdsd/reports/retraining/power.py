"""What a study of retraining will be able to find, by what has been trained of it: its scatter over parents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from seqdsd.records.asked_seeds import AskedSeeds
from seqdsd.reports.comparison.power import Components, Scatter, expected, looks_at_the_end
from seqdsd.reports.retraining.contrasts import study_contrasts
from seqdsd.reports.retraining.study import RetrainingStudy


def scatters(study: RetrainingStudy) -> Iterator[Scatter]:
    """Of each arm with pruning: what its effect scatters by over parents, retrained as often as these were."""
    metric = study.kind.primary
    for one in study_contrasts(study, split=study.splits[0], metric=metric):
        if one.test and one.test.test.standard_error:  # else nothing varies by more than rounding
            yield Scatter(
                name=one.name,
                unit="parents",
                count=one.test.num_parents,
                sd=one.test.sd_seen,
                before=one.means[0],
                metric=metric,
                family=one.family,
                num_looks=one.num_looks,
                components=Components(
                    one.test.sd_between_parents, one.test.sd_between_repeats, one.test.correlation
                ),
            )


def outlook(
    studies: Sequence[RetrainingStudy], num_parents: int, *, seeds: Collection[int], new: AskedSeeds | None
) -> str:
    """What a study will be able to find with so many parents, each retrained as often as those that it has.

    By the arm whose effect scatters most; arms that are still to come are not corrected for.

    Args:
        studies: What is there.
        num_parents: That it is asked for.
        seeds: Of all retrainings that it is asked for.
        new: Those of them that it was not asked for before, as ``newly_asked`` finds them.
    """
    found = [(one, study) for study in studies for one in scatters(study)]
    if not found:
        return (
            "What it will be able to find is not known yet: no two parents of two arms are complete here. seqdsd power "
            "says it for a scatter that you give."
        )
    widest, study = max(found, key=lambda pair: pair[0].sd)
    looks = looks_at_the_end(study.asked, new, {*seeds} | {*study.seeds_with_results})
    return expected(widest, max(num_parents, widest.count), looks=looks)
