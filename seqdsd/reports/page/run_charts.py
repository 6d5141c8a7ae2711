"""Which charts a report has, and the numbers that they are drawn from: curves run by run, scores arm by arm.

``charts`` knows how a chart looks. The page's script joins a specification here with the runs' numbers, so that these
are in the page once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seqdsd.kinds import Metric
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.page.charts import (
    ALL_PARENTS,
    Improvement,
    Score,
    Series,
    Spec,
    box_plot,
    curves,
    improvements,
    weight_histogram,
)
from seqdsd.reports.retraining.contrasts import ParentEffect, StudyContrast
from seqdsd.reports.runs.reading import ArmName, Record, Run
from seqdsd.reports.weights import MOMENTS

ARM_SERIES: dict[ArmName, Series] = {
    "Baseline": Series("Baseline", "var(--arm-baseline)"),
    "LLR": Series("LLR", "var(--arm-llr)", (6, 3)),
    "DSD": Series("DSD", "var(--arm-dsd)", (2, 2)),
    "DSDSD": Series("DSDSD", "var(--arm-dsdsd)"),
}
_LOSSES = (Series("training", "var(--arm-baseline)", (6, 3)), Series("dev", "var(--arm-dsdsd)"))
_DIGITS = 5


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: What it shows.
        spec: How it looks.
        draw: How the page's script finds its numbers: ``fixed`` (they are in it), ``arms``, ``run`` or ``moment``.
        what: Which numbers: what is drawn, and of which runs.
        key: Series whose colours and dashes must be told.
    """

    title: str
    spec: Spec
    draw: Literal["fixed", "arms", "run", "moment"]
    what: Mapping[str, Any] = field(default_factory=dict)
    key: tuple[Series, ...] = ()


@dataclass
class ChartBook:
    """The page's charts by the ids of their places, as they are added."""

    by_id: dict[str, Chart] = field(default_factory=dict)

    def add(self, chart: Chart) -> str:
        """Take a chart in; returns its id."""
        id_ = f"chart-{len(self.by_id)}"
        self.by_id[id_] = chart
        return id_

    def as_json(self) -> dict[str, Any]:
        """What the page's script needs of each."""
        return {
            id_: {"spec": chart.spec, "draw": chart.draw, **chart.what} for id_, chart in self.by_id.items()
        }


def run_curves(run: Run) -> dict[str, Any]:
    """A run's curves over all its epochs, and its phases as bands behind them; scores as the tables count them."""
    metric = run.kind.primary
    scores = (one for record in run.phases for one in record["dev_score"])
    return {
        "training": _rounded(_joined(run.phases, "train_loss")),
        "dev": _rounded(_joined(run.phases, "dev_loss")),
        "score": _rounded(_as_counted(score, metric) for score in scores),
        "bands": _bands(run.phases),
    }


def score_box(comparison: Comparison, *, split: str) -> Chart | None:
    """Figure 4 of a comparison; None where no arm has a score there."""
    metric = comparison.kind.primary
    by_arm = {arm.name: scores for arm in comparison.arms if (scores := arm.scores(split, metric))}
    if not by_arm:
        return None
    points = [
        Score(name, seed, metric.scale * score)
        for name, scores in by_arm.items()
        for seed, score in scores.items()
    ]
    title = f"{split} {_titled(metric)}"
    said = (
        f"{name}: {', '.join(f'{metric.written(score)} (seed {seed})' for seed, score in scores.items())}"
        for name, scores in by_arm.items()
    )
    description = f"Box plot of the {title} of each arm’s last phase, {direction(metric)}. {'; '.join(said)}."
    spec = box_plot(points, [ARM_SERIES[name] for name in by_arm], title=title, description=description)
    return Chart(_capital(title), spec, "fixed")


def improvement_chart(contrasts: Sequence[StudyContrast]) -> Chart:
    """Every contrast of a study of retraining: each parent's improvement with its interval, and that of all parents."""
    metric, split = contrasts[0].metric, contrasts[0].split

    def improvement(contrast: StudyContrast, who: str, one: StudyContrast | ParentEffect) -> Improvement:
        low, high = one.interval or (None, None)
        values = (None if value is None else metric.scale * value for value in (one.improvement, low, high))
        return Improvement(contrast.name, who, *values)

    rows = [
        row
        for contrast in contrasts
        for row in (
            *(improvement(contrast, f"parent {one.parent}", one) for one in contrast.parents),
            improvement(contrast, ALL_PARENTS, contrast),
        )
    ]
    title = f"improvement in {split} {_titled(metric)}, above 0 is better"
    said = (f"{one.name}: {metric.written(one.improvement)}, {one.verdict}" for one in contrasts)
    description = (
        f"Each parent’s {title}, with its 95 % interval, and that across parents. {'; '.join(said)}."
    )
    return Chart(_capital(title), improvements(rows, title=title, description=description), "fixed")


def arm_charts(comparison: Comparison, runs: Sequence[Run]) -> list[Chart]:
    """Charts of a comparison's arms over each other; ``runs`` are all of the page, in the order of their numbers."""
    series = [ARM_SERIES[arm.name] for arm in comparison.arms]
    numbers = [number for number, run in enumerate(runs) if run in comparison.runs]
    titles = {
        "score": f"dev {_titled(comparison.kind.primary)}",
        "dev": "dev loss",
        "training": "training loss",
    }
    names = ", ".join(one.name for one in series)
    over = f"over the epochs, on bands of the phases; arms: {names}; {comparison.title}."
    return [
        Chart(
            _capital(title),
            _curves(comparison.runs, (measure,), series, title, f"{_capital(title)} {over}"),
            "arms",
            {"measure": measure, "runs": numbers},
            tuple(series),
        )
        for measure, title in titles.items()
        if any(run_curves(run)[measure] for run in comparison.runs)
    ]


def run_charts(runs: Sequence[Run]) -> list[Chart]:
    """Charts of the run that is chosen, for each kind of runs: its losses, and its score on dev."""
    charts = []
    for kind in dict.fromkeys(run.kind for run in runs):
        own = [run for run in runs if run.kind == kind]
        losses = [one for one in _LOSSES if any(run_curves(run)[one.name] for run in own)]
        names = tuple(one.name for one in losses)
        score = f"dev {_titled(kind.primary)}"
        over = "of the chosen run over the epochs, on bands of the phases."
        for title, measures, series in (("loss", names, losses), (score, ("score",), _LOSSES[1:])):
            spec = _curves(own, measures, series, title, f"{_capital(title)} {over}")
            key = tuple(series) if len(series) > 1 else ()
            charts.append(Chart(_capital(title), spec, "run", {"kind": kind.name, "measures": measures}, key))
    return charts


def moment_charts() -> list[Chart]:
    """Figure 2: a histogram for each moment of a round, of the run, round and layer that are chosen."""
    spec = weight_histogram(description="")
    said = "Histogram of the chosen layer’s weights"
    return [
        Chart(moment, {**spec, "description": f"{said} {moment}."}, "moment", {"moment": moment})
        for moment in MOMENTS
    ]


def direction(metric: Metric) -> str:
    """Which way a score is better."""
    return "lower is better" if metric.is_error else "higher is better"


def _curves(
    runs: Iterable[Run], measures: Sequence[str], series: Sequence[Series], title: str, description: str
) -> Spec:
    """Errors and losses stand on a logarithmic axis if they can; BLEU, where more is better, does not."""
    chosen = list(runs)
    is_score = "score" in measures and any(not run.kind.primary.is_error for run in chosen)
    values = [one for run in chosen for measure in measures for one in run_curves(run)[measure]]
    is_log = not is_score and all(value is None or value > 0 for value in values)
    return curves(series, title=title, description=description, scale="log" if is_log else "linear")


def _joined(phases: Iterable[Record], key: str) -> list[float | int | None]:
    """A curve over all phases; older records have no dev loss."""
    joined: list[float | int | None] = []
    for record in phases:
        joined += record.get(key) or [None] * record["epochs"]
    return joined if any(one is not None for one in joined) else []


def _as_counted(score: float | int | None, metric: Metric) -> float | int | None:
    """The engine minimises: a BLEU stands in ``dev_score`` with its sign turned."""
    if score is None:
        return None
    return metric.scale * score if metric.is_error else -metric.scale * score


def _rounded(values: Iterable[float | int | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in values]


def _bands(phases: Iterable[Record]) -> list[dict[str, Any]]:
    bands, end = list[dict[str, Any]](), 0
    for record in phases:
        if not record["epochs"]:  # weights that were given
            continue
        start, end = end, end + record["epochs"]
        bands.append({"start": start + 0.5, "end": end + 0.5, "name": record["name"], "kind": record["kind"]})
    return bands


def _titled(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
