"""What is shown while several runs go on: a table of them with the time left, or lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from seqdsd.studies.jobs import Job, JobStates, JobsView


class JobDisplay(JobsView):
    """Lines for what has begun and ended; below them, in a terminal, where the running ones stand."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live

    @classmethod
    @contextmanager
    def open(cls, console: Console) -> Iterator[JobDisplay]:
        """Show the table while the block runs."""
        if not console.is_terminal:
            yield cls(console, None)
            return
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield cls(console, live)

    def started(self, job: Job, log: Path) -> None:
        """Say so, with the log's name."""
        self._say(f"{job.name}: training {job.epochs_left} epochs; log: {log}")

    def waiting(self, job: Job) -> None:
        """Say so."""
        self._say(f"{job.name}: waiting for another process that is writing to {job.folder.path}")

    def ended(self, job: Job, *, failure: str | None, log: Path) -> None:
        """Say so, with the last epoch's score on dev: the phase hands on its best one's."""
        progress = job.folder.read_progress()
        result = f"done, last epoch's dev {progress['dev']}" if progress else "done"
        self._say(f"{job.name}: {f'failed ({failure}); see {log}' if failure else result}")

    def states(self, states: JobStates) -> None:
        """Renew the table."""
        if self._live is not None:
            self._live.update(jobs_table(states))

    def stopping(self) -> None:
        """Say so: a run in evaluation may take a while."""
        self._say("stopping: the runs save where they stand; once more stops them at once")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def jobs_table(states: JobStates) -> Group:
    """The running jobs, and how much of all is done."""
    table, below = Table("run", "phase", "epochs", "dev", box=None, pad_edge=False), Table.grid()
    for job in states.jobs:
        if job.name in states.running:
            progress = job.folder.read_progress()
            epochs = f"{progress['epochs_done']} of {progress['epochs_planned']}" if progress else "-"
            phase, dev = (progress["phase"], progress["dev"]) if progress else ("starting", "-")
            table.add_row(job.name, escape(phase), epochs, escape(dev))
    total = sum(job.epochs for job in states.jobs)
    done = total - sum(states.epochs_left().values())
    left = states.seconds_left()
    line = f"{len(states.done)} of {len(states.jobs)} runs, {done} of {total} epochs"
    line += "" if left is None else f", about {in_words(left)} left"
    below.add_row(ProgressBar(total=max(1, total), completed=done, width=60))
    below.add_row(line)
    return Group(table, below)


def in_words(seconds: float | int) -> str:
    """A time with two units at most: ``2 h 5 min``, ``3 min 10 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
