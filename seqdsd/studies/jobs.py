"""Training runs as processes of their own: some at a time, each with its share of the cores, in order of their needs.

What is run is ``compare``'s and ``sweep``'s business. Leaves out other machines, which are ``cluster``'s.
"""

from __future__ import annotations

import heapq
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import torch

from seqdsd.engine import StopRequested
from seqdsd.engine.interrupt import stop_on_signals
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.studies.processes import Running, start

POLL_SECONDS = 0.2
SECONDS_TO_SAVE = 110
"""After a SIGTERM; torchrun would kill its processes after 30."""
LOG_LINES_SHOWN = 15

_TORCHRUN = re.compile(r"[WE]\d{4} .*torch/distributed/elastic")
_TORCHRUN_FAILED = re.compile(_TORCHRUN.pattern + r".* failed \(exitcode: (?P<exitcode>-?\d+)\)")


class JobsFailed(ValueError):
    """Some of the runs failed; the others were finished."""


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    """Unique; its folder below the comparison's."""
    command: tuple[str, ...]
    """Arguments of the Python interpreter. Goes on where the run stopped, and returns at once where it is complete."""
    folder: RunFolder
    epochs: int
    """That it trains itself, rather than taking them over."""
    is_done: bool = False
    """The run is complete already."""
    needs: str | None = None
    """The job that must be done before."""

    @property
    def epochs_left(self) -> int:
        """Epochs still to train, as far as the run has said."""
        if self.is_done:
            return 0
        progress = self.folder.read_progress()
        if progress is None:
            return self.epochs
        return max(0, progress["epochs_planned"] - progress["epochs_done"])


@dataclass(frozen=True)
class Share:
    """How the machine is divided."""

    runs: int
    """At a time."""
    threads: int
    """Of each process."""
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them."""
    processes_per_run: int = 1
    """That train a run together."""

    @classmethod
    def of_this_machine(
        cls, asked: int | None, jobs: Sequence[Job], *, device: str, processes_per_run: int = 1
    ) -> Share:
        """Divide the cores among as many runs as are asked for, or can be trained at a time if these are fewer.

        By default there is a process a GPU or, without any, one a core: small networks gain most so.

        Args:
            asked: Runs at a time.
            jobs: What is to be run, and what of it is done: so the shares stay the same when it goes on.
            device: That the runs use, as their settings name it.
            processes_per_run: That train a run together.

        Raises:
            ValueError: If a number is below 1, or a run has more processes than there are GPUs.
        """
        for flag, number in (("--jobs", asked), ("--processes-per-run", processes_per_run)):
            if number is not None and number < 1:
                raise ValueError(f"{flag} must be at least 1, got {number}")
        cores, gpus = _num_cores(), () if device == "cpu" else _visible_gpus()
        if gpus and processes_per_run > len(gpus):
            raise ValueError(
                f"--processes-per-run {processes_per_run} needs as many GPUs; there are {len(gpus)}"
            )
        at_once = max(1, (len(gpus) or cores) // processes_per_run)
        runs = min(asked or at_once, most_at_a_time(jobs))
        return cls(runs, max(1, cores // (runs * processes_per_run)), gpus, processes_per_run)

    def command(self, job: Job) -> list[str]:
        """That starts a run, by torchrun where several processes train it together."""
        return python_command(job, self.processes_per_run)

    def environment(self, slot: int) -> dict[str, str]:
        """Of the run in a slot, 0 to ``runs - 1``: its threads, and its GPUs where there are more than it needs."""
        chosen = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if len(self.gpus) > self.processes_per_run:
            first = slot * self.processes_per_run
            own = [self.gpus[(first + i) % len(self.gpus)] for i in range(self.processes_per_run)]
            chosen["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return {**os.environ, **chosen}


@dataclass
class JobStates:
    """Where all jobs stand, for those who show it."""

    jobs: Sequence[Job]
    share: Share
    running: dict[str, int] = field(default_factory=dict)
    """Names to slots."""
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Names to what happened."""
    waiting: set[str] = field(default_factory=set)
    """Names of those whose folder another process holds."""

    def is_ready(self, job: Job) -> bool:
        """Whether nothing that it needs is left to do before it."""
        is_new = job.name not in self.done | self.running.keys() | self.failed.keys()
        return is_new and (job.needs is None or job.needs in self.done)

    def epochs_left(self) -> dict[str, int]:
        """Of each job."""
        return {job.name: 0 if job.name in self.done else job.epochs_left for job in self.jobs}

    def seconds_left(self) -> float | None:
        """What is left to do in the jobs' order; None before an epoch is over."""
        known = [progress for job in self.jobs if (progress := job.folder.read_progress())]
        epochs = sum(progress["epochs_timed"] for progress in known)
        if not epochs:
            return None
        mean = sum(progress["seconds"] for progress in known) / epochs
        left = {name: count * mean for name, count in self.epochs_left().items()}
        return makespan(self.jobs, left, self.share.runs)


class JobsView:
    """Is told what happens; this one says nothing."""

    def started(self, job: Job, log: Path) -> None:
        """A process has begun."""

    def waiting(self, job: Job) -> None:
        """Another process holds the run's folder: it is begun when that has ended."""

    def ended(self, job: Job, *, failure: str | None, log: Path) -> None:
        """A process has come to its end; ``failure`` says how, if not well."""

    def states(self, states: JobStates) -> None:
        """Called several times a second."""

    def stopping(self) -> None:
        """All runs are asked to save and end."""


def most_at_a_time(jobs: Sequence[Job]) -> int:
    """How many jobs there can be work for at once: as many as no other one needs, since each needs one at most."""
    return len({job.name for job in jobs} - {job.needs for job in jobs})


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float | int], processes: int) -> float | int:
    """How long jobs take that each need so many seconds, some at a time, in their order and that of their needs."""
    waiting, done, now = list(jobs), set[str](), 0.0
    running: list[tuple[float | int, str]] = []
    while waiting or running:
        ready = [job for job in waiting if job.needs is None or job.needs in done]
        for job in ready[: processes - len(running)]:
            heapq.heappush(running, (now + seconds[job.name], job.name))
            waiting.remove(job)
        now, name = heapq.heappop(running)
        done.add(name)
    return now


def python_command(job: Job, processes: int) -> list[str]:
    """The whole command of a run by so many processes: torchrun starts several, and hands a SIGTERM on to them."""
    if processes == 1:
        return [sys.executable, *job.command]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, "--shutdown-timeout", str(SECONDS_TO_SAVE), *job.command]


def run_jobs(jobs: Sequence[Job], *, share: Share, logs: Path, show: JobsView) -> None:
    """Run all jobs that are not done; each writes its output to ``logs``.

    After a failure the jobs that need the failed one are left out and the others go on. Ctrl-C and SIGTERM are handed
    on: the runs save, and this function returns by ``StopRequested`` when they have. If this process is killed, they
    save too (on Linux).

    Raises:
        JobsFailed: If a job failed; its log is named.
        StopRequested: After Ctrl-C or SIGTERM.
    """
    states = JobStates(jobs, share, done={job.name for job in jobs if job.is_done})
    logs.mkdir(parents=True, exist_ok=True)
    with stop_on_signals() as wish, _processes() as processes:
        while processes or any(map(states.is_ready, jobs)):
            if wish.requested:
                show.stopping()
                _stop(processes)
                raise StopRequested("stopped on request, all is saved; the same command goes on")
            _collect(states, processes, logs, show)
            _start_ready(states, processes, logs, show)
            show.states(states)
            time.sleep(POLL_SECONDS)
    if len(states.done) < len(jobs):
        raise JobsFailed(_failure_message(states, logs))


@contextmanager
def _processes() -> Iterator[dict[str, Running]]:
    """The running processes by name; none outlives the block."""
    processes: dict[str, Running] = {}
    try:
        yield processes
    finally:
        _stop(processes)


def _stop(processes: Mapping[str, Running]) -> None:
    """Let all processes save and end."""
    for process in processes.values():
        process.terminate()
    for process in processes.values():
        process.wait()


def _start_ready(states: JobStates, processes: dict[str, Running], logs: Path, show: JobsView) -> None:
    for job in filter(states.is_ready, states.jobs):
        free = sorted(set(range(states.share.runs)) - set(states.running.values()))
        if not free:
            return
        if _is_held(job.folder):
            if job.name not in states.waiting:
                show.waiting(job)
            states.waiting.add(job.name)
            continue
        states.waiting.discard(job.name)
        command, environment = states.share.command(job), states.share.environment(free[0])
        processes[job.name] = start(command, _log(logs, job), environment)
        states.running[job.name] = free[0]
        show.started(job, _log(logs, job))


def _is_held(folder: RunFolder) -> bool:
    """Whether another process writes there, such as a run of a killed comparison that is still saving."""
    if not folder.path.is_dir():
        return False
    try:
        with folder.locked():
            return False
    except RunFolderError:
        return True


def _collect(states: JobStates, processes: dict[str, Running], logs: Path, show: JobsView) -> None:
    for job in states.jobs:
        process = processes.get(job.name)
        if process is None or (status := process.poll()) is None:
            continue
        del processes[job.name], states.running[job.name]
        failure = _failure(status)
        if status == 1 and _was_killed_under_torchrun(_log(logs, job)):
            failure = _failure(-signal.SIGKILL)
        if failure is None:
            states.done.add(job.name)
        else:
            states.failed[job.name] = failure
        show.ended(job, failure=failure, log=_log(logs, job))


def _failure(status: int) -> str | None:
    """How a process ended, if not well."""
    if status == 0:
        return None
    if status == -signal.SIGKILL:
        return "killed; if you did not do it, memory ran out, and fewer --jobs help"
    names = {one.value: one.name for one in signal.Signals}  # real-time signals have none
    return f"exit status {status}" if status > 0 else f"ended by {names.get(-status, f'signal {-status}')}"


def _log(logs: Path, job: Job) -> Path:
    return logs / f"{job.name.replace('/', '.')}.log"


def _failure_message(states: JobStates, logs: Path) -> str:
    """The end of the first failed run's log, the last line of the others': most often all have the same cause."""
    lines: list[str] = []
    for job in states.jobs:
        if job.name in states.failed:
            log = _log(logs, job)
            said = _said(log)
            last = said[-1:] if lines else said[-LOG_LINES_SHOWN:]
            lines += [f"{job.name} failed ({states.failed[job.name]}); the end of {log}:"]
            lines += [f"    {line}" for line in last]
    left = [job.name for job in states.jobs if job.name not in states.done | states.failed.keys()]
    if left:
        lines.append(f"not begun, because they need what failed: {', '.join(left)}")
    return "\n".join([*lines, "mend it, and run the same command: what is finished is kept"])


def _said(log: Path) -> list[str]:
    """What the last process of a log said; not what torchrun adds when one of several has failed, dozens of lines."""
    own = takewhile(lambda line: not _TORCHRUN_FAILED.match(line), _last_attempt(log))
    return [line for line in own if not _TORCHRUN.match(line)]  # such as which processes it asks to end


def _was_killed_under_torchrun(log: Path) -> bool:
    """Whether torchrun says that a process of its was killed; its own exit status tells nothing."""
    failed = next(filter(None, map(_TORCHRUN_FAILED.match, _last_attempt(log))), None)
    return failed is not None and failed["exitcode"] == str(-signal.SIGKILL)


def _last_attempt(log: Path) -> list[str]:
    """The lines from the last command on."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[max((number for number, line in enumerate(lines) if line.startswith("$ ")), default=0) :]


def _num_cores() -> int:
    """That this process may use: of the machine, by its affinity, and as a container is allowed."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file outside cgroup 2; "max" is no number: no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(cores, int(quota) // int(period)))
    return cores


def _visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, by the names that a process of its own would be given."""
    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(listed.split(",")[:count]) if listed else tuple(map(str, range(count)))
