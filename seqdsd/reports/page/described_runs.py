"""Runs as the report's page describes them: what they are called, how they came about, and which share a plan.

Their scores are ``numbers``' tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import tomli_w

from seqdsd.kinds import NONE
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.layout import Grid
from seqdsd.reports.plan import plan_grid, without_plan
from seqdsd.reports.runs.reading import Run

_PROVENANCE = {
    "command": "Command",
    "started": "Started",
    "machine": "Machine",
    "device_used": "Device",
    "threads": "Threads",
    "python": "Python",
    "git_commit": "Commit",
}


@dataclass(frozen=True)
class Plan:
    """What is pruned by which rule, or why that is not known; and the numbers and names of the runs that do so."""

    grid: Grid | None
    said: str
    numbers: list[int]
    labels: list[str]


def shown_runs(runs: Sequence[Run]) -> tuple[Run, ...]:
    """All but the first dense phases that arms beside them hold too: these have taken over their records."""
    held = [_trained(run) for run in runs if run.arm != "Dense"]
    return tuple(run for run in runs if run.arm != "Dense" or _trained(run) not in held)


def _trained(run: Run) -> tuple[Any, ...]:
    """What tells one trained first phase from another."""
    first = run.phases[0]
    return run.recipe, run.seed, first["train_loss"], first["dev_score"]


def run_label(run: Run, comparisons: Sequence[Comparison]) -> str:
    """What a run is called: by arm and seed where one comparison holds all, else by its folder."""
    state = "" if run.is_complete else " (unfinished)"
    is_alone = len(comparisons) == 1 and not comparisons[0].is_single and run in comparisons[0].runs
    return f"{run.arm}, seed {run.seed}{state}" if is_alone else f"{run.name}{state}"


def default_run(runs: Sequence[Run]) -> int:
    """The number of the run that is shown first: the longest of the arms, complete if one is."""
    return max(
        range(len(runs)), key=lambda number: (runs[number].is_complete, len(runs[number].phases), -number)
    )


def provenance_rows(run: Run) -> list[tuple[str, str]]:
    """How a run came about, and what it took: names and values."""
    known, versions = run.provenance, run.provenance.get("versions", {})
    rows = [("Folder", str(run.folder.path)), ("Seed", str(run.seed)), ("Recipe", run.recipe)]
    rows += [(title, str(known[key])) for key, title in _PROVENANCE.items() if key in known]
    if isinstance(versions, Mapping):
        rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    for title, key in (("Training", "train_seconds"), ("Evaluation", "evaluate_seconds")):
        rows.append((title, _duration(_total(run, key))))
    return [*rows, *_cost_rows(run)]


def settings_text(run: Run) -> str:
    """All settings of a run, as its ``config.toml`` has them."""
    return tomli_w.dumps(dict(run.settings))


def all_runs_grid(runs: Sequence[Run], labels: Sequence[str]) -> Grid:
    """A row a run: how far it is, what it took, and where it was made."""
    rows = (
        (
            label,
            run.arm,
            str(run.seed),
            f"{len(run.phases)} of {run.num_planned}",
            str(_total(run, "epochs")),
            _duration(_total(run, "train_seconds")),
            str(run.provenance.get("started", NONE)),
            str(run.provenance.get("git_commit", NONE)),
            str(run.folder.path),
        )
        for run, label in zip(runs, labels, strict=True)
    )
    return Grid(
        name="all-runs",
        header=("Run", "Arm", "Seed", "Phases", "Epochs", "Training", "Started", "Commit", "Folder"),
        sections=(tuple(rows),),
        caption="Training: time in training steps; phases that a run took over from another count too.",
    )


def plans(runs: Sequence[Run], labels: Sequence[str]) -> list[Plan]:
    """Every plan once, with the runs that follow it."""
    found: list[Plan] = []
    for number, run in enumerate(runs):
        grid, said = plan_grid(run), without_plan(run)
        known = next((plan for plan in found if (plan.grid, plan.said) == (grid, said)), None)
        if known is None:
            known = Plan(grid, said, [], [])
            found.append(known)
        known.numbers.append(number)
        known.labels.append(labels[number])
    return found


def _cost_rows(run: Run) -> list[tuple[str, str]]:
    """What it cost to look at the weights, where the records say so."""
    seconds, training = _total(run, "statistics_seconds"), _total(run, "train_seconds")
    if not run.weights or not training:
        return []
    return [("Weight statistics", f"{seconds:.2f} s, {100 * seconds / training:.3f} % of training")]


def _total(run: Run, key: str) -> float | int:
    return sum(record.get(key, 0) for record in run.phases)


def _duration(seconds: float | int) -> str:
    return str(timedelta(seconds=round(seconds)))
