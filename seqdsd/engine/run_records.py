"""What a run writes of itself: its plan, its phases with what they said and their weights, and how far it is.

What it needs to go on is not here but in ``run_state``. Of several processes the first writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from seqdsd.engine.checkpoint import Checkpoint, save_checkpoint
from seqdsd.engine.run_state import RunState
from seqdsd.engine.task import Evaluation, Task
from seqdsd.engine.weight_log import regrowth_in
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.sparsity import DSD, Phase, Plan, Regrowth, RestoredStart, measured_sparsity


@dataclass(frozen=True)
class RunRecords:
    """The records of one run in its folder.

    Attributes:
        folder: Of the run.
        task: What is trained.
        dsd: Phases, plans and masks.
        writes: Whether this process writes; the others only make records.
        restored_start: What the weights that a redense phase restores have begun with.
    """

    folder: RunFolder
    task: Task[Any]
    dsd: DSD
    writes: bool
    restored_start: RestoredStart = "zero"

    def write_plan(self) -> None:
        """What the sparse phases prune, if any does."""
        if self.writes and self.dsd.plans:
            write_json_lines(self.folder.plan, plan_rows(self.dsd.plans))

    def write_progress(self, phase: Phase, state: RunState, *, dev: str) -> None:
        """How far the run is; ``seconds`` is the time that its own epochs took, ``epochs_timed`` their number."""
        if not self.writes:
            return
        own = [record for record in state.records if "taken_over_from" not in record]
        spent = [record["train_seconds"] + record.get("evaluate_seconds", 0.0) for record in own]
        now = state.now
        self.folder.write_progress(
            {
                "phase": phase.name,
                "epochs_done": self.epochs_planned_so_far(state),
                "epochs_planned": self.dsd.schedule.total_epochs,
                "epochs_timed": sum(record["epochs"] for record in own) + now.epoch,
                "seconds": math.fsum(spent) + now.seconds + now.evaluate_seconds,
                "dev": dev,
            }
        )

    def epochs_planned_so_far(self, state: RunState) -> int:
        """Epochs until here, as if no phase had ended early."""
        finished = self.dsd.schedule.phases[: len(state.records)]
        return sum(phase.epochs for phase in finished) + state.now.epoch

    def phase_record(
        self, phase: Phase, state: RunState, evaluations: Mapping[str, Evaluation]
    ) -> dict[str, Any]:
        """The line of ``phases.jsonl`` of the phase that ends."""
        plan, now = self.dsd.plans.get(phase), state.now
        statistics = (row["seconds"] for row in state.weight_rows if row["phase"] == phase.name)
        return {
            "index": len(state.records),
            "name": phase.name,
            "kind": phase.kind,
            "epochs": now.epoch,
            "epochs_planned": phase.epochs,
            "best_epoch": now.best_epoch + 1,
            "learning_rate": phase.learning_rate,
            "sparsity": phase.sparsity,
            "measured_sparsity": measured_sparsity(
                self.task.model, plan.sparsities if plan else self._prunable_names
            ),
            "train_loss": now.train_loss,
            "dev_loss": now.dev_loss,
            "dev_score": now.dev_score,
            **{split: dict(evaluation.metrics) for split, evaluation in evaluations.items()},
            "train_seconds": round(now.seconds, 2),
            "evaluate_seconds": round(now.evaluate_seconds, 2),
            "statistics_seconds": round(math.fsum(statistics), 4),
            "skipped": len(self._all_skipped(state)),
            "nonfinite_steps": now.bad_steps,
            "restarts": [asdict(one) for one in now.restarts],
            "remarks": [asdict(one) for one in now.remarks],
            **(self._restored(phase, state) if phase.kind == "redense" else {}),
        }

    def _restored(self, phase: Phase, state: RunState) -> dict[str, Any]:
        regrowth = regrowth_in(state.weight_rows, phase.name)
        return {
            "restored_start": self.restored_start,
            **({} if regrowth is None else {"restored": restored_record(regrowth)}),
        }

    def write_phase(self, phase: Phase, evaluations: Mapping[str, Evaluation]) -> None:
        """What the phase that ends says of every split, its weights, and its masks."""
        if not self.writes:
            return
        for split, evaluation in evaluations.items():
            write_json_lines(self.folder.hypotheses(phase.name, split), evaluation.hypotheses)
        save_checkpoint(
            self.folder.weights(phase.name),
            Checkpoint(dict(self.task.model.state_dict()), {"phase": phase.name}),
        )
        if phase.kind == "sparse" and self.dsd.masks is not None:
            masks = Checkpoint(self.dsd.masks.state_dict(), {"phase": phase.name})
            save_checkpoint(self.folder.mask(phase.name), masks)

    def write_all(self, state: RunState) -> None:
        """The records of all finished phases, the weights' statistics, and what was skipped."""
        if not self.writes:
            return
        # Before the phases: another run may take these over as soon as they are there.
        if state.weight_rows:
            write_json_lines(self.folder.weight_statistics, state.weight_rows)
        self.folder.write_phases(state.records)
        if skipped := self._all_skipped(state):
            rows = [{"source": name, "message": message} for name, message in skipped.items()]
            write_json_lines(self.folder.path / "skipped.jsonl", rows)

    def _all_skipped(self, state: RunState) -> dict[str, str]:
        return {**state.skipped, **self.task.skipped}

    @property
    def _prunable_names(self) -> list[str]:
        """What the run prunes in any sparse phase; a run without one has no prunable weights."""
        return list(dict.fromkeys(name for plan in self.dsd.plans.values() for name in plan.sparsities))


def restored_record(regrowth: Regrowth) -> dict[str, Any]:
    """What a redense phase's record says of the weights that it has restored."""
    return {
        **asdict(regrowth),
        "share": regrowth.share,
        "above_share": regrowth.above_share,
        "is_nearly_sparse": regrowth.is_nearly_sparse,
    }


def plan_rows(plans: Mapping[Phase, Plan]) -> list[dict[str, Any]]:
    """A row a parameter: which rule decided what, and how much each sparse phase prunes of it."""
    first = next(iter(plans.values()))
    return [
        {
            "parameter": row.name,
            "shape": row.shape,
            "count": row.numel,
            "rule": row.rule.match if row.rule else None,
            "why": row.why,
            "sparsity_by_phase": {phase.name: plan.rows[index].sparsity for phase, plan in plans.items()},
        }
        for index, row in enumerate(first.rows)
    ]
