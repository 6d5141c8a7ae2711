"""How fast a recipe trains here, from one epoch that is trained and thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from seqdsd.records import RunFolder
from seqdsd.studies.jobs import Job, JobsView, Share, run_jobs


@dataclass(frozen=True)
class Speed:
    """Of one run among as many as run at a time."""

    start_seconds: float
    """From the command to the first step, data read and network made; and what a phase's end takes."""
    epoch_seconds: float
    """Of training and of dev's evaluation."""

    def seconds(self, job: Job) -> float:
        """What a job still takes."""
        return 0.0 if job.is_done else self.start_seconds + job.epochs_left * self.epoch_seconds


def measure_speed(module: str, settings: Path, *, share: Share, folder: Path) -> Speed:
    """Train one epoch of as many runs at once as will be trained, since they slow each other.

    Args:
        module: Of the recipe.
        settings: File with the runs' settings.
        share: Of the machine.
        folder: For what is thrown away.

    Raises:
        JobsFailed: If the recipe cannot be trained so; its output is in the message.
    """
    jobs = [_one_epoch(module, settings, folder / str(seed), seed=seed) for seed in range(share.runs)]
    started = time.monotonic()
    run_jobs(jobs, share=share, logs=folder / "logs", show=JobsView())
    seconds = time.monotonic() - started
    records = [job.folder.read_phases()[0] for job in jobs]
    # dev is evaluated twice: after the epoch, and its best weights at the phase's end
    epoch = max(record["train_seconds"] + record["evaluate_seconds"] / 2 for record in records)
    return Speed(max(0.0, seconds - epoch), epoch)


def _one_epoch(module: str, settings: Path, out: Path, *, seed: int) -> Job:
    command = ["-m", module, "--config", str(settings), "--method", "dsd", "--iters", "0", "--epochs", "1"]
    command += ["--no-score-test", "--seed", str(seed), "--out", str(out)]
    return Job(f"epoch-{seed}", tuple(command), RunFolder(out), epochs=1)
