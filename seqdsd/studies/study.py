"""What studies of many runs have in common: a run as a job, and jobs that are trained here, printed or submitted.

Which runs a study is made of, and what comes of them, is the business of ``compare``, ``sweep`` and ``retrain``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from seqdsd.config import to_toml
from seqdsd.recipes.catalog import Recipe
from seqdsd.recipes.training import RunConfig
from seqdsd.records import RunFolder, write_atomically
from seqdsd.studies.cluster import print_script, submit_to_slurm
from seqdsd.studies.job_display import JobDisplay, in_words
from seqdsd.studies.jobs import Job, Share, makespan, run_jobs
from seqdsd.studies.speed import Speed, measure_speed


@runtime_checkable
class Study(Protocol):
    """Runs of a recipe below a folder."""

    @property
    def recipe(self) -> Recipe:
        """Of all runs."""

    @property
    def common(self) -> RunConfig:
        """What all runs have in common."""

    @property
    def out(self) -> Path:
        """The folder."""

    def jobs(self) -> list[Job]:
        """The runs, in the order of their needs.

        Raises:
            RunFolderError: If the folder holds other runs than these, or damaged ones.
        """

    def write_settings(self) -> None:
        """Write the files from which the runs are started."""


def run_job(
    recipe: Recipe,
    config: RunConfig,
    *,
    out: Path,
    name: str,
    settings: Path,
    flags: Sequence[str],
    needs: str | None = None,
    takes_over: str | None = None,
    shared_epochs: int = 0,
) -> Job:
    """A run of a recipe as a job.

    Args:
        recipe: Of the run.
        config: Its settings.
        out: Folder of the study.
        name: The run's folder below it.
        settings: File from which it is started.
        flags: What, beside the seed, makes ``config`` of the settings in the file.
        needs: The job that must be done before.
        takes_over: The job, likewise, whose run's leading phases it begins with.
        shared_epochs: Epochs of these phases.

    Raises:
        RunFolderError: If the folder holds another run, or one whose records are damaged.
    """
    folder = RunFolder(out / name)
    command = ["-m", recipe.module, "--config", str(settings), *flags, "--seed", str(config.seed)]
    command += ["--out", str(folder.path), "--resume"]
    if takes_over:
        command += ["--start-from", str(out / takes_over)]
    return Job(
        name=name,
        command=tuple(command),
        folder=folder,
        epochs=config.schedule.total_epochs - shared_epochs,
        is_done=recipe.has_finished(folder, config),
        needs=takes_over or needs,
    )


def carry_out(study: Study, options: argparse.Namespace, console: Console) -> bool:
    """Train what is not trained yet; or print or submit it, as ``--submit`` says.

    Returns:
        Whether it was trained here.

    Raises:
        ValueError: For folders or options that cannot be used.
        JobsFailed: If a run failed.
        StopRequested: After Ctrl-C.
    """
    logs, per_run = study.out / "logs", options.processes_per_run
    with RunFolder(study.out).locked():
        jobs = study.jobs()
        share = _share(study, jobs, options) if options.submit is None else None
        study.write_settings()
        if options.submit == "print":
            print_script(jobs, processes_per_run=per_run)
        elif options.submit == "slurm":
            slurm: Mapping[str, Any] = {"parameters": options.slurm, "processes_per_run": per_run}
            submit_to_slurm(jobs, logs=logs, console=console, **slurm)
        if share is None:
            return False
        with JobDisplay.open(console) as display:
            run_jobs(jobs, share=share, logs=logs, show=display)
    return True


def estimate(study: Study, options: argparse.Namespace, console: Console) -> None:
    """Print how many runs are left and how long they will take, from one epoch that is trained and thrown away."""
    jobs = study.jobs()
    share = _share(study, jobs, options)
    left = [job for job in jobs if not job.is_done]
    console.print(f"runs: {len(jobs)}, of which finished: {len(jobs) - len(left)}", highlight=False)
    if not left:
        return
    processes = options.processes_per_run
    per_run = f", processes of each: {processes}" if processes > 1 else ""
    console.print(
        f"measuring one epoch; at a time: {share.runs}{per_run}, threads of each: {share.threads} …"
    )
    speed = _measured(study, share)
    seconds = makespan(jobs, {job.name: speed.seconds(job) for job in jobs}, share.runs)
    console.print(
        f"about {in_words(seconds)} here: {sum(job.epochs_left for job in left)} epochs of "
        f"{speed.epoch_seconds:.1f} s, evaluation included",
        highlight=False,
    )


def _share(study: Study, jobs: Sequence[Job], options: argparse.Namespace) -> Share:
    return Share.of_this_machine(
        options.jobs, jobs, device=study.common.device, processes_per_run=options.processes_per_run
    )


def _measured(study: Study, share: Share) -> Speed:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.toml"
        # One dense phase is measured, of which none is left where its weights are given; how long it takes these do
        # not decide.
        write_atomically(settings, to_toml(study.common.with_fresh_weights()))
        return measure_speed(study.recipe.module, settings, share=share, folder=Path(folder))
