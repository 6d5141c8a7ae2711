"""The report's page: from runs to HTML, in one file that loads nothing.

Which numbers stand there is others' business: comparisons come from ``results``, charts from
``run_charts``, utterances and captions from ``items``, what is said of a run from ``described_runs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from seqdsd import __version__
from seqdsd.kinds import KINDS, Kind
from seqdsd.reports.captions.terminal import GAP
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.comparison.tables import table_1
from seqdsd.reports.layout import Grid
from seqdsd.reports.numbers import run_grid
from seqdsd.reports.page.charts import LIBRARY_NOTICE, library
from seqdsd.reports.page.described_runs import (
    all_runs_grid,
    default_run,
    plans,
    provenance_rows,
    run_label,
    settings_text,
    shown_runs,
)
from seqdsd.reports.page.items import Items, read_items
from seqdsd.reports.page.rendering import asset, inline, json_markup, render
from seqdsd.reports.page.results import Result, StudyResult, headlines, results, study_result
from seqdsd.reports.page.run_charts import ChartBook, moment_charts, run_charts, run_curves
from seqdsd.reports.retraining.contrasts import headline
from seqdsd.reports.retraining.study import RetrainingStudy, is_shown
from seqdsd.reports.runs.reading import Run, RunSet
from seqdsd.reports.weights import read_rounds, rounds_as_json, weight_grid

MAX_PAGE_BYTES = 9_500_000
"""Up to which recordings and pictures are embedded where nobody asks for a number: a page can still be sent by mail."""
MAX_HISTOGRAMS = 3_000
"""Of one layer at the moments of one round, 2 kB each: more layers than this allows are in the tables only."""

Step = Callable[[str], None]
"""Told what is begun."""

_SCRIPTS = ("tables.js", "items.js", "report.js")


@dataclass(frozen=True)
class ReportPage:
    """The page and what it holds."""

    html: str
    num_runs: int
    num_items: int
    num_embedded: int
    num_outside: int
    """Pictures left out since they lie outside the corpus' folder."""


@dataclass(frozen=True)
class _Run:
    """What the page says of a run, beside its curves and weights."""

    number: int
    label: str
    arm: str
    kind: Kind
    phases: Grid
    weights: list[Grid]
    provenance: list[tuple[str, str]]
    settings: str


def report_page(
    run_set: RunSet,
    comparisons: Sequence[Comparison],
    *,
    studies: Sequence[RetrainingStudy] = (),
    split: str | None = None,
    media_mb: float | int | None = None,
    on_step: Step = lambda _: None,
) -> ReportPage:
    """Write the page of some runs.

    Args:
        run_set: Runs, and those refused.
        comparisons: Of these runs.
        studies: Of retraining, likewise.
        split: Whose utterances or captions to show; by default each run's first test set, or dev where it has none.
        media_mb: How many megabytes of recordings and pictures to embed, as they stand in the page; by default as many
            as ``MAX_PAGE_BYTES`` leaves.
        on_step: Told of each step that may take a while.

    Raises:
        ValueError: If no run has that split, or ``media_mb`` is below 0.
    """
    if media_mb is not None and not 0 <= media_mb < math.inf:
        raise ValueError(f"the megabytes of audio and images must be a number of at least 0, got {media_mb}")
    _check_split(run_set.runs, split)
    # Where a study holds no example, such as one of a single parent alone, whatever is there.
    runs = shown_runs([run for run in run_set.runs if is_shown(run)] or run_set.runs[:1])
    on_step("aligning what every phase said")
    items = read_items(runs, comparisons, split=split)
    if media_mb is None:
        on_step("testing the differences, and measuring the page without audio and images")
        bare = _render(run_set, runs, comparisons, studies, items.with_media(0))
        room = max(0, MAX_PAGE_BYTES - len(bare.encode()))
    else:
        room = int(media_mb * 1e6)
    on_step("embedding audio and images")
    items = items.with_media(room)
    on_step("writing tables and charts")
    html = _render(run_set, runs, comparisons, studies, items)
    num_items = sum(len(group["items"]) for group in items.groups)
    return ReportPage(html, len(runs), num_items, items.num_embedded, items.num_outside)


def _check_split(runs: Sequence[Run], split: str | None) -> None:
    known = list(dict.fromkeys(name for run in runs for name in ("dev", *run.test_splits)))
    if split is not None and split not in known:
        raise ValueError(
            f"no run was scored on {split!r}, but on {', '.join(known)}; take one of those by --split"
        )


def _render(
    run_set: RunSet,
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    studies: Sequence[RetrainingStudy],
    items: Items,
) -> str:
    charts = ChartBook()
    retrained = [study_result(one, number, charts) for number, one in enumerate(studies)]
    compared = results(comparisons, runs, charts)
    labels = [run_label(run, comparisons) for run in runs]
    described = [_described(run, number, labels[number], comparisons) for number, run in enumerate(runs)]
    max_layers = _max_layers(runs)
    moments = [charts.add(chart) for chart in moment_charts()] if max_layers else []
    own_charts = [charts.add(chart) for chart in run_charts(runs)]
    items_title = _items_title({run.kind for run in runs})
    data = {
        "default_run": default_run(runs),
        "gap": GAP,
        "charts": charts.as_json(),
        "runs": [_run_as_json(run, label, max_layers) for run, label in zip(runs, labels, strict=True)],
        "items": items.groups,
    }
    return render(
        "report.html",
        styles=("page.css", "report.css"),
        scripts=[inline(library()), *(inline(asset(name)) for name in _SCRIPTS)],
        title=_title(runs, comparisons, studies),
        headlines=[headline(one) for one in studies] or headlines(runs, comparisons),
        lede=_lede(shown_runs(run_set.runs), comparisons, studies),
        refused=run_set.refused,
        parts=_parts([*retrained, *compared], has_weights=bool(moments), items_title=items_title),
        runs=described,
        run_choices=_run_choices(described),
        default_run=default_run(runs),
        retrained=retrained,
        comparisons=compared,
        overview=overview if (overview := table_1(comparisons)).rows else None,
        run_charts=own_charts,
        moments=moments,
        max_layers=max_layers,
        most_layers=max((len(grid.rows) for run in described for grid in run.weights), default=0),
        plans=plans(runs, labels),
        items=items,
        items_title=items_title,
        all_runs=all_runs_grid(runs, labels) if len(runs) > 1 else None,
        charts=charts.by_id,
        gap=GAP,
        data=json_markup(data),
        made=f"Made by seqdsd report (seqdsd {__version__}) at {datetime.now(UTC).isoformat(timespec='seconds')}.",
        notice=LIBRARY_NOTICE,
    )


def _max_layers(runs: Sequence[Run]) -> int:
    """Of how many layers each round's histograms are in the page; 0 where no run has any."""
    num_rounds = sum(len(read_rounds(run.weights)) for run in runs)
    return max(1, MAX_HISTOGRAMS // num_rounds) if num_rounds else 0


def _described(run: Run, number: int, label: str, comparisons: Sequence[Comparison]) -> _Run:
    return _Run(
        number=number,
        label=label,
        arm=run.arm,
        kind=run.kind,
        phases=run_grid(run, comparisons),
        weights=[weight_grid(one) for one in read_rounds(run.weights)],
        provenance=provenance_rows(run),
        settings=settings_text(run),
    )


def _run_as_json(run: Run, label: str, max_layers: int) -> dict[str, Any]:
    return {
        "label": label,
        "arm": run.arm,
        "seed": run.seed,
        "kind": run.kind.name,
        "curves": run_curves(run),
        "weights": rounds_as_json(read_rounds(run.weights), max_layers=max_layers),
    }


def _run_choices(runs: Sequence[_Run]) -> list[tuple[str, list[_Run]]]:
    """Runs by arm, for the list to choose from."""
    by_arm: dict[str, list[_Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    return list(by_arm.items())


def _title(runs: Sequence[Run], comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy]) -> str:
    if len(studies) == 1 and not comparisons:
        return studies[0].title
    if len(comparisons) == 1 and not comparisons[0].is_single:
        return comparisons[0].title
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _lede(runs: Sequence[Run], comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy]) -> str:
    # Phases that runs share, once: they have the same curve.
    trained = {
        (run.recipe, run.seed, record["name"], *record["train_loss"]): record["epochs"]
        for run in runs
        for record in run.phases
    }
    epochs = sum(trained.values())
    seeds = sorted({run.seed for run in runs})
    counted = [_counted(len(runs), "run"), _counted(len(seeds), "seed"), f"{epochs:,} epochs"]
    if studies:
        counted.insert(0, _counted(sum(len(one.parents) for one in studies), "retrained parent"))
    if len(comparisons) > 1:
        counted.insert(0, _counted(len(comparisons), "comparison"))
    return f"{', '.join(counted)}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _parts(
    compared: Sequence[Result | StudyResult], *, has_weights: bool, items_title: str
) -> list[tuple[str, str]]:
    """Anchors of the page's parts, and what they are called."""
    results = [
        (one.anchor, "Result" if len(compared) == 1 else f"Result {n}") for n, one in enumerate(compared, 1)
    ]
    weights = [("weights", "Weights")] if has_weights else []
    rest = [("items", items_title), ("plan", "Plan"), ("runs", "Runs")]
    return [*results, ("phases", "Phases"), ("curves", "Curves"), *weights, *rest]


def _items_title(kinds: set[Kind]) -> str:
    return " and ".join(kind.items_title for kind in KINDS if kind in kinds)
