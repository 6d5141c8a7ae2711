"""The report's results: each comparison's sentence, tables and charts, split by split.

Which numbers stand in a table is ``comparison.tables``'s business, how a chart looks is ``charts``'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqdsd.reports.comparison import contrasts
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.comparison.pairs import pair_tests
from seqdsd.reports.comparison.tables import contrast_grid, pair_grid, seed_grid, table_10
from seqdsd.reports.layout import Grid
from seqdsd.reports.page.run_charts import ChartBook, arm_charts, direction, improvement_chart, score_box
from seqdsd.reports.retraining.contrasts import study_contrasts
from seqdsd.reports.retraining.study import RetrainingStudy
from seqdsd.reports.retraining.tables import across_grid, parent_grid
from seqdsd.reports.runs.reading import Run


@dataclass(frozen=True)
class Split:
    """A comparison's tables on one split, and the id of its box plot."""

    name: str
    box: str | None
    seeds: Grid
    table_10: list[Grid]
    contrasts: list[Grid]
    pairs: Grid | None


@dataclass(frozen=True)
class Result:
    """A comparison's part of the page, with the ids of its curves."""

    anchor: str
    title: str
    direction: str
    has_seeds: bool
    splits: list[Split]
    curves: list[str]


@dataclass(frozen=True)
class StudyResult:
    """A study of retraining's part of the page: for each split and score its chart's id and its tables."""

    anchor: str
    title: str
    scores: list[tuple[str, str, Grid, Grid]]


def study_result(study: RetrainingStudy, number: int, charts: ChartBook) -> StudyResult:
    """The part of a study; ``charts`` takes in what is drawn."""
    scores = []
    for split in study.splits:
        for metric in dict.fromkeys((study.kind.primary, *study.kind.families[0])):
            made = study_contrasts(study, split=split, metric=metric)
            if made:
                across = across_grid(study, split=split, metric=metric)
                by_parent = parent_grid(study, split=split, metric=metric)
                chart = charts.add(improvement_chart(made))
                scores.append((f"{metric.title}, {split}", chart, across, by_parent))
    return StudyResult(f"study-{number}", study.title, scores)


def results(comparisons: Sequence[Comparison], runs: Sequence[Run], charts: ChartBook) -> list[Result]:
    """Each comparison of several runs; ``runs`` are all of the page, and ``charts`` takes in what is drawn."""
    several = [one for one in comparisons if not one.is_single]
    return [_result(one, number, runs, charts) for number, one in enumerate(several)]


def headlines(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[str]:
    """The results of each comparison; where there is none, that of each run. What several say is said once."""
    said = [sentence for one in comparisons for sentence in contrasts.headlines(one)]
    return list(dict.fromkeys(said)) or [_score(run) for run in runs]


def _result(comparison: Comparison, number: int, runs: Sequence[Run], charts: ChartBook) -> Result:
    return Result(
        anchor=f"result-{number}",
        title=comparison.title,
        direction=direction(comparison.kind.primary),
        has_seeds=len(comparison.seeds) > 1,
        splits=[_split(comparison, split, charts) for split in comparison.scored_splits],
        curves=[charts.add(chart) for chart in arm_charts(comparison, runs)],
    )


def _split(comparison: Comparison, split: str, charts: ChartBook) -> Split:
    families = comparison.kind.families
    box = score_box(comparison, split=split)
    tests = pair_tests(comparison, split=split)
    over_seeds = [contrast_grid(comparison, split=split, family=family) for family in families]
    return Split(
        name=split,
        box=charts.add(box) if box else None,
        seeds=seed_grid(comparison, split=split, metric=comparison.kind.primary),
        table_10=[table_10(comparison, split=split, family=family) for family in families],
        contrasts=[grid for grid in over_seeds if grid.rows],
        pairs=pair_grid(comparison, tests) if tests else None,
    )


def _score(run: Run) -> str:
    metric, last = run.kind.primary, run.phases[-1]
    split = next(iter(run.test_splits), "dev")
    score = " ".join(filter(None, (metric.written(metric.of(last, split)), metric.unit, metric.title)))
    return f"{run.name}: {score} on {split} after {last['name']}; the first phase alone, with nothing to compare it to."
