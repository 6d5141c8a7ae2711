"""What a comparison costs besides its training: the statistics taken while training, and the report afterwards.

    python -m benchmarks.comparison_cost runs/compare-ds1

The first is read from the run folders, where every phase's record says what its statistics took; the second is timed as
a user waits for it, in a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdsd.reports.runs.reading import Run, read_runs

LIMIT_SECONDS = 20.0
LIMIT_SHARE = 0.01


@dataclass(frozen=True)
class StatisticsCost:
    """Of the weight statistics, in the phases that prune."""

    statistics_seconds: float
    train_seconds: float

    @property
    def share(self) -> float:
        """Of the time that these phases trained."""
        return self.statistics_seconds / self.train_seconds


def statistics_cost(runs: Sequence[Run]) -> StatisticsCost:
    """Add up the phases that took statistics, each where it was trained.

    Raises:
        ValueError: If none did.
    """
    pruning = [
        record
        for run in runs
        for record in run.phases
        if "taken_over_from" not in record and record.get("statistics_seconds")
    ]
    if not pruning:
        raise ValueError("no phase of these runs took weight statistics")
    return StatisticsCost(
        float(sum(record["statistics_seconds"] for record in pruning)),
        float(sum(record["train_seconds"] for record in pruning)),
    )


def report_seconds(folder: Path, *, rounds: int) -> tuple[list[float], int]:
    """Seconds of ``seqdsd report`` as often as asked, and the page's bytes."""
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        command = [sys.executable, "-m", "seqdsd.cli", "report", str(folder), "--out", str(page)]
        for _ in range(rounds):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        return seconds, page.stat().st_size


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path, help="folder with the runs of a comparison")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(argv)
    runs = read_runs([asked.comparison]).runs
    cost = statistics_cost(runs)
    print(
        f"statistics: {cost.statistics_seconds:.2f} s of {cost.train_seconds:.0f} s of training in the phases that "
        f"take them, {100 * cost.share:.3f} % (limit: {100 * LIMIT_SHARE:g} %)"
    )
    seconds, size = report_seconds(asked.comparison, rounds=asked.rounds)
    print(
        f"report: {len(runs)} runs, {min(seconds):.1f} to {max(seconds):.1f} s, {max(seconds) / LIMIT_SECONDS:.2f} of "
        f"the limit of {LIMIT_SECONDS:g} s; page {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
