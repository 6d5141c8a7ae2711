"""Where a trainer that counts steps, or epochs, stands in a schedule: what the adapters have in common."""

from __future__ import annotations

import logging
from bisect import bisect_right
from typing import Any

from seqdsd.sparsity import DSD, Phase

_logger = logging.getLogger(__name__)


class Walk:
    """Walks the phases of a ``DSD`` by a trainer's count; each phase takes its share of it.

    A phase ends as the next one is to begin, so after the evaluations and checkpoints that follow its last step.

    Attributes:
        dsd: What is walked.
        unit: What is counted, for messages.
        total: Of the whole training.
        starts: The count at which each phase begins.
        ends: The count at which each is over.
    """

    def __init__(self, dsd: DSD, unit: str, total: int) -> None:
        """Stand where ``dsd`` stands.

        Raises:
            ValueError: If there are too few for each phase to have one.
        """
        self.dsd, self.unit, self.total = dsd, unit, total
        self.starts = dsd.schedule.starts(of=total)
        self.ends = (*self.starts[1:], total)

    def index_at(self, done: int) -> int:
        """Of the phase that is due, from 0; of the last at the end."""
        return bisect_right(self.starts, done) - 1

    def phase_at(self, done: int) -> Phase | None:
        """The phase that is due; None at the end."""
        return self.dsd.schedule.phases[self.index_at(done)] if done < self.total else None

    def end_phase_if_over(self, done: int, optimizer: Any) -> bool:
        """Leave the phase, with its best weights if these were asked for, where another is due; True if so."""
        if self.dsd.phase == self.phase_at(done):
            return False
        if not self.dsd.is_held:  # of a checkpoint that was saved between its last step and here
            self.dsd.enter(optimizer)
        assert self.dsd.phase is not None  # or it could not be held
        name = self.dsd.phase.name
        self.dsd.leave()
        self.dsd.warn_if_nearly_sparse(name)
        return True

    def report(self) -> dict[str, float]:
        """For a trainer's log, which all loggers take as numbers: share of zeros, and the phase's place, from 0.

        Once all are done, the phase is their number. In a redense phase, also the mean |w| of restored weights in
        shares of what it was before they were pruned.
        """
        phases, phase = self.dsd.schedule.phases, self.dsd.phase
        place = len(phases) if phase is None else phases.index(phase)
        regrowth = self.dsd.regrowth()
        share = None if regrowth is None else regrowth.share
        restored = {} if share is None else {"dsd/restored": share}
        return {"dsd/zeros": self.dsd.zeros(), "dsd/phase": float(place), **restored}

    def warn_if_unfinished(self, done: int) -> None:
        """Say so in the log where the training is at its end and the schedule is not."""
        if (phase := self.dsd.phase) is not None:
            _logger.warning(
                "the training ended before its schedule: in %s, after %d of %d %s",
                *(phase.name, done, self.total, self.unit),
            )
