"""What a run prunes, by which rule: its plan as a table, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqdsd.kinds import NONE
from seqdsd.reports.layout import Cells, Grid
from seqdsd.reports.runs.reading import Run


def plan_grid(run: Run) -> Grid | None:
    """A row a parameter: which rule decided what; None where the folder does not say."""
    if not run.plan:
        return None
    phases = list(dict.fromkeys(phase for row in run.plan for phase in row["sparsity_by_phase"]))
    rows = tuple(_plan_row(row, phases) for row in run.plan)
    total = sum(row["count"] for row in run.plan)
    pruned = [_pruned(run, phase) for phase in phases]
    return Grid(
        name="plan",
        header=("Parameter", "Shape", "Rule", "Why", "Weights", *(f"{phase}\npruned %" for phase in phases)),
        sections=(
            rows,
            (("All", "", "", "", f"{total:,}", *(f"{100 * one / max(1, total):.2f}" for one in pruned)),),
        ),
        caption="A parameter is pruned by the first rule whose pattern fits its name; what no rule fits stays dense.",
        num_labels=4,
    )


def without_plan(run: Run) -> str:
    """What to say where there is no plan to show."""
    if run.plan:
        return ""
    if run.method != "dsd" or run.iters == 0:
        return "This run prunes nothing."
    sparse = (record for record in run.phases if record["sparsity"])
    shares = ", ".join(f"{record['name']} {100 * record['sparsity']:g} %" for record in sparse)
    return (
        f"The run folder does not say which rule pruned what (it has no {run.folder.plan.name}). "
        f"Of every pruned parameter: {shares or 'nothing yet'}."
    )


def _plan_row(row: Mapping[str, Any], phases: Sequence[str]) -> Cells:
    shares = (row["sparsity_by_phase"].get(phase) for phase in phases)
    return (
        row["parameter"],
        " × ".join(map(str, row["shape"])),
        row["rule"] or NONE,
        row["why"],
        f"{row['count']:,}",
        *(NONE if not share else f"{100 * share:g}" for share in shares),
    )


def _pruned(run: Run, phase: str) -> float:
    return float(sum(row["count"] * (row["sparsity_by_phase"].get(phase) or 0) for row in run.plan))
