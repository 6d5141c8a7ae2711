"""The runs of a comparison on other machines: printed as commands, or handed to Slurm by submitit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from seqdsd.studies.jobs import Job, python_command


def print_script(jobs: Sequence[Job], *, processes_per_run: int = 1) -> None:
    """Print a command a run that is not done; one that takes phases over says which must be finished before it.

    The first line goes to this folder, from which the paths in the commands lead on.
    """
    left = [job for job in jobs if not job.is_done]
    if left:
        print(shlex.join(["cd", str(Path.cwd())]))
    for job in left:
        print(f"# {job.name}" + (f", after {job.needs}" if job.needs else ""))
        print(shlex.join(python_command(job, processes_per_run)))


def submit_to_slurm(
    jobs: Sequence[Job],
    *,
    logs: Path,
    parameters: Sequence[str],
    console: Console,
    processes_per_run: int = 1,
) -> None:
    """Submit a Slurm job a run that is not done; Slurm holds those that take phases over until these are trained.

    Args:
        jobs: In the order of their needs; their folders must be on a disk that all machines share.
        logs: Where submitit writes.
        parameters: ``key=value`` each, as submitit's Slurm executor knows them; the time must be among them.
        console: Where the job numbers are printed.
        processes_per_run: That train a run together, on one machine.

    Raises:
        ValueError: If submitit is not installed, Slurm is not here, or a parameter cannot be used.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--submit slurm needs submitit: pip install 'seqdsd[slurm]'") from None
    settings = _parameters(parameters)

    def executor(job: Job, after: str | None) -> Any:
        made = submitit.SlurmExecutor(folder=logs)
        # A run that waits for one that failed would stay in the queue for ever.
        waits = {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"} if after else {}
        made.update_parameters(**{"job_name": job.name, **settings}, additional_parameters=waits)
        return made

    try:
        submit(jobs, executor, console, processes_per_run=processes_per_run)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"--submit slurm: {error}") from error


def submit(
    jobs: Sequence[Job],
    executor: Callable[[Job, str | None], Any],
    console: Console,
    *,
    processes_per_run: int = 1,
) -> None:
    """Submit what is not done, each after what it needs, and print the numbers given.

    Args:
        jobs: In the order of their needs.
        executor: Makes submitit's executor for a job, which waits for the one with the number, if any.
        console: For the job numbers.
        processes_per_run: That train a run together.
    """
    from submitit.helpers import CommandFunction, FunctionSequence

    numbers: dict[str, str] = {}
    for job in jobs:
        if not job.is_done:
            task = FunctionSequence()  # unlike a function alone it is begun again when its time is over
            task.add(CommandFunction(python_command(job, processes_per_run)))
            after = numbers.get(job.needs) if job.needs else None
            numbers[job.name] = executor(job, after).submit(task).job_id
            console.print(f"{job.name}: job {numbers[job.name]}", highlight=False)


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"--slurm: expected KEY=VALUE, got {text!r}")
        parameters[key] = int(value) if value.isdecimal() else value
    if "time" not in parameters:  # submitit's own is 5 minutes
        raise ValueError("--slurm: say for how many minutes a run may be trained at a time: --slurm time=240")
    return parameters
