"""A study of retraining as tables: its contrasts across parents, and beside them what Table 10's test says of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from seqdsd.kinds import NONE, Metric, Number
from seqdsd.records import slug
from seqdsd.records.asked_seeds import AskedSeeds
from seqdsd.reports.comparison.contrasts import verdict
from seqdsd.reports.layout import Cells, Grid
from seqdsd.reports.retraining.contrasts import (
    ParentEffect,
    StudyContrast,
    gains_on_parents,
    study_contrasts,
)
from seqdsd.reports.retraining.other_items import on_other_items
from seqdsd.reports.retraining.study import RetrainingStudy
from seqdsd.reports.runs.scores import span

TABLE_10_SAYS = (
    "Table 10's test (of this parent and this test set only): Welch's t-test over the retrainings of one parent, as in "
    "the paper; these differ in the order of the data alone, so that it says nothing of another parent or another test "
    "set; not corrected for their number. That repeats of both arms share seeds it does not know; where these "
    "correlate, it errs less often than in the 5 % that it is made for, and finds less"
)
ACROSS_SAYS = (
    "Across parents: each parent counts once, with the mean of its repeats; t-test of the differences parent by "
    "parent, which is the mixed model's test where all have as many repeats"
)
_IMPROVEMENT = "An improvement above 0 is better; relative ones are in percent"


def study_grids(study: RetrainingStudy) -> list[Grid]:
    """All tables, test set by test set; of dev where test was not scored."""
    metrics = [(split, metric) for split in study.splits for metric in _metrics(study)]
    made = [
        make(study, split=split, metric=metric)
        for split, metric in metrics
        for make in (across_grid, parent_grid)
    ]
    return [grid for grid in made if grid.rows]


def across_grid(study: RetrainingStudy, *, split: str, metric: Metric) -> Grid:
    """Every contrast across parents, and how often Table 10's test finds what; below, the arms on the parents."""
    made = study_contrasts(study, split=split, metric=metric)
    gains = gains_on_parents(study, split=split, metric=metric)
    return Grid(
        name=slug(f"retrained {study.title} {split} {metric.title}"),
        header=(
            "Arm",
            "On",
            "Epochs",
            "Before",
            "After",
            "Improve\n(abs)",
            "Improve\n(rel)",
            "Across parents\n95 % CI",
            "p",
            "Verdict across\nparents",
            "Table 10's\ntest",
            "SD of\nparents",
            "SD of\nrepeats",
            "Detectable",
        ),
        sections=(tuple(map(_across_cells, made)), tuple(map(_across_cells, gains))),
        caption=_across_caption(study, split, metric, made),
        num_labels=2,
        num_last=5,
    )


def parent_grid(study: RetrainingStudy, *, split: str, metric: Metric) -> Grid:
    """Every contrast parent by parent (Table 10's test), and below each the test across parents."""
    made = study_contrasts(study, split=split, metric=metric)
    return Grid(
        name=slug(f"table 10 of each parent {study.title} {split} {metric.title}"),
        header=(
            "Contrast",
            "Parent",
            "Before",
            "After",
            "Repeats",
            "Improve\n(abs)",
            "95 % CI",
            "p",
            "Says",
        ),
        sections=tuple(
            (*(_parent_cells(one, parent) for parent in one.parents), _all_parents_cells(one)) for one in made
        ),
        caption=_paragraph(
            f"{study.title}: {split} {metric.title}{_in_percent(metric)}, mean ± standard deviation over the "
            f"repeats (last rows of each: over the parents). {_IMPROVEMENT}",
            TABLE_10_SAYS,
            ACROSS_SAYS,
            "Intervals are of each row alone; p is Holm-corrected in the rows of all parents, and there alone",
        ),
        num_labels=2,
        num_last=1,
    )


def study_notes(study: RetrainingStudy) -> list[str]:
    """What a reader must know: which runs are not there, or do not count."""
    notes = []
    if len(study.num_repeats) > 1:
        notes.append(
            f"Parents have {span(study.num_repeats)} repeats in an arm, so that p across parents is approximate"
        )
    sparse = [
        f"{arm.name} ({len(arm.nearly_sparse)} of {arm.num_runs}, {100 * fmean(arm.nearly_sparse):.0f} %)"
        for arm in study.arms.values()
        if arm.nearly_sparse
    ]
    if sparse:
        notes.append(
            "Still nearly sparse, for the redense phase was too short or too slow; mean |w| of restored weights, of "
            f"the former: {', '.join(sparse)}"
        )
    if study.unfinished:
        names = ", ".join(run.name for run in study.unfinished[:3])
        more = f" and {len(study.unfinished) - 3} more" if len(study.unfinished) > 3 else ""
        notes.append(f"Unfinished and not counted: {names}{more}")
    if study.left_out:
        notes.append(f"Not counted: {'; '.join(refusal.message for refusal in study.left_out)}")
    notes += [added_in_words(one, num_looks=len(study.looks) + 1) for one in study.looks[-1:]]
    if missing := study.still_to_come:
        arms = ", ".join(
            f"{name} ({count} of {count + study.arms[name].num_runs})" for name, count in missing.items()
        )
        notes.append(
            f"Asked for and not there yet, of the retrainings: {arms}; finish them, for who stops where a result "
            "pleases finds too much"
        )
    if len(study.parents) == 1:
        notes.append("With one parent nothing can be said of others: train more (--num-parents, --parents)")
    return notes


def other_items_in_words(study: RetrainingStudy, split: str) -> str:
    """The best contrast on another test set, or why nothing can be said; empty where no hypotheses were kept."""
    if not (found := on_other_items(study, split=split)):
        return ""
    best = found.contrast
    if found.items is None:
        return f"What another {split} set would show of {best.name} cannot be said: {found.problem}"
    drawn = f"{found.num_items:,} {study.kind.counted}"
    drawn = f"{found.num_speakers} speakers with their {drawn}" if found.num_speakers else drawn
    both = f"; with other parents, too, {_interval(found.both, best.metric)}" if found.both else ""
    if study.kind.has_word_errors and not found.num_speakers:
        both += "; utterances of one speaker are not independent, so where few speakers said many it is too narrow"
    if (num := len(study_contrasts(study, split=split, metric=best.metric))) > 1:
        both += f"; of this contrast alone, the best of {num}, and so too favourable"
    return (
        f"On another {split} set ({drawn}, drawn again and again): 95 % CI of the improvement by {best.name} "
        f"{_interval(found.items, best.metric)} of these retrainings{both}"
    )


def added_in_words(asked: AskedSeeds, *, num_looks: int | None = None) -> str:
    """What adding parents or repeats after a look does to p-values; empty where no result could be looked at before."""
    if not asked.is_after_a_look:
        return ""
    looks = "number of looks" if num_looks is None else f"{num_looks} looks"
    return (
        f"{len(asked.seeds)} retrainings of each arm came after a look at the result of {len(asked.with_results)}: who "
        "adds parents or repeats until a test is significant finds too much, so p across parents is multiplied by the "
        f"{looks} in verdicts"
    )


def _metrics(study: RetrainingStudy) -> list[Metric]:
    """The score that runs are about, and whatever else its family holds."""
    primary = study.kind.primary
    return [primary, *(metric for metric in study.kind.families[0] if metric is not primary)]


def _across_cells(contrast: StudyContrast) -> Cells:
    metric, test = contrast.metric, contrast.test
    return (
        contrast.after,
        contrast.before,
        span(contrast.epochs),
        *(metric.written(mean) for mean in contrast.means),
        _fine(contrast.improvement, metric),
        NONE if contrast.relative is None else f"{100 * contrast.relative:z.{metric.decimals}f}",
        _interval(contrast.interval, metric),
        _p_value(contrast.p_value),
        contrast.verdict,
        _found(contrast),
        _fine(test.sd_between_parents if test and contrast.parents else None, metric),
        _fine(test.sd_between_repeats if test and contrast.parents else None, metric),
        _fine(contrast.could_find(), metric),
    )


def _found(contrast: StudyContrast) -> str:
    if not contrast.parents:
        return NONE
    return f"{contrast.count('better')} better, {contrast.count('worse')} worse of {len(contrast.parents)}"


def _parent_cells(contrast: StudyContrast, parent: ParentEffect) -> Cells:
    metric = contrast.metric
    if parent.p_value is None:
        said = "no test"
    else:
        said = verdict(parent.p_value, parent.improvement)
    return (
        contrast.name,
        str(parent.parent),
        _spread(parent.before, metric),
        _spread(parent.after, metric),
        span((len(parent.before), len(parent.after))),
        _fine(parent.improvement, metric),
        _interval(parent.interval, metric),
        _p_value(parent.p_value),
        said,
    )


def _all_parents_cells(contrast: StudyContrast) -> Cells:
    metric = contrast.metric
    sides = (
        [fmean(side) for side in sides]
        for sides in zip(*((parent.before, parent.after) for parent in contrast.parents), strict=True)
    )
    return (
        contrast.name,
        "All parents",
        *(_spread(side, metric) for side in sides),
        NONE,
        _fine(contrast.improvement, metric),
        _interval(contrast.interval, metric),
        _p_value(contrast.p_holm),
        contrast.verdict,
    )


def _across_caption(study: RetrainingStudy, split: str, metric: Metric, made: Sequence[StudyContrast]) -> str:
    repeats = span(study.num_repeats)
    family = made[0].family if made else 0
    return _paragraph(
        f"{study.title}: {split} {metric.title}{_in_percent(metric)} of {len(study.parents)} parents, {repeats} "
        f"retrainings of each in an arm. {_IMPROVEMENT}",
        ACROSS_SAYS,
        f"Interval and p are of each contrast alone; the verdict is Holm-corrected for the {family} contrasts of its "
        "section. The last section: each arm on its parents as they were",
        "SD: of the improvement from parent to parent (without what retrainings of both arms by one seed have in "
        "common), and of the retrainings of one parent in an arm. Detectable: the true improvement that such a test "
        "finds four times of five, not corrected",
        TABLE_10_SAYS,
        other_items_in_words(study, split) if metric is study.kind.primary else "",
        *study_notes(study),
    )


def _spread(scores: Sequence[Number], metric: Metric) -> str:
    said = metric.written(fmean(scores))
    return f"{said} ± {_fine(stdev(scores), metric)}" if len(scores) > 1 else said


def _fine(value: float | None, metric: Metric) -> str:
    """With one digit more than scores have: retrainings of one parent differ by little."""
    if value is None or math.isnan(value):
        return NONE
    return f"{metric.scale * value:z.{metric.decimals + 1}f}"


def _interval(interval: tuple[float, float] | None, metric: Metric) -> str:
    return NONE if interval is None else f"[{_fine(interval[0], metric)}, {_fine(interval[1], metric)}]"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return NONE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _in_percent(metric: Metric) -> str:
    return " in percent" if metric.unit == "%" else " from 0 to 100"


def _paragraph(*sentences: str) -> str:
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)
