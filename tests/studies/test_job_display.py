import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.studies.job_display import JobDisplay, in_words, jobs_table
from seqdsd.studies.jobs import Job, JobStates, Share, run_jobs

LOG = Path("logs/a.log")


def write_progress(job, **changes):
    progress = {
        "phase": "Sparse Iter 1",
        "epochs_done": 4,
        "epochs_planned": 10,
        "epochs_timed": 4,
        "seconds": 400.0,
        "dev": "WER 12.34 %",
    }
    job.folder.path.mkdir(exist_ok=True)
    job.folder.write_progress({**progress, **changes})


@pytest.fixture
def jobs(tmp_path):
    return [
        Job(name, ("-c", "pass"), RunFolder(tmp_path / name), epochs=10, needs=needs)
        for name, needs in (("a", None), ("b", None), ("c", "a"))
    ]


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_shows_where_the_running_ones_stand(jobs):
    states = JobStates(jobs, Share(2, 1), running={"a": 0, "b": 1})
    write_progress(jobs[0])
    lines = printed(jobs_table(states))
    assert lines[0].split() == ["run", "phase", "epochs", "dev"]
    assert lines[1].split() == ["a", "Sparse", "Iter", "1", "4", "of", "10", "WER", "12.34", "%"]
    assert lines[2].split() == ["b", "starting", "-", "-"]
    # 100 s an epoch: a and b side by side, then c after a: 6 + 10 epochs.
    assert lines[-1] == "0 of 3 runs, 4 of 30 epochs, about 26 min 40 s left"
    assert len(lines) == 5 and lines[3] == 8 * "━"  # of 60 cells


def test_what_is_done_is_counted_and_no_longer_listed(jobs):
    write_progress(jobs[0], epochs_done=10, epochs_timed=10)
    states = JobStates(jobs, Share(1, 1), running={"c": 0}, done={"a"})
    lines = printed(jobs_table(states))
    assert [line.split()[0] for line in lines[1:-2]] == ["c"]
    assert lines[-1].startswith("1 of 3 runs, 10 of 30 epochs")


def test_without_a_terminal_there_are_lines_alone(jobs):
    console = Console(file=io.StringIO(), width=40)
    with JobDisplay.open(console) as display:
        display.started(jobs[0], LOG)
        display.waiting(jobs[1])
        display.states(JobStates(jobs, Share(1, 1)))
        write_progress(jobs[0])
        display.ended(jobs[0], failure=None, log=LOG)
        display.ended(jobs[1], failure=None, log=LOG)
        display.ended(jobs[2], failure="exit status 1", log=LOG)
        display.stopping()
    assert console.file.getvalue().splitlines() == [
        "a: training 10 epochs; log: logs/a.log",
        f"b: waiting for another process that is writing to {jobs[1].folder.path}",
        "a: done, last epoch's dev WER 12.34 %",
        "b: done",
        "c: failed (exit status 1); see logs/a.log",
        "stopping: the runs save where they stand; once more stops them at once",
    ]


def read_all(master: int) -> str:
    """What was written to a pseudo-terminal whose other end is closed; a read gives a part of it only."""
    parts = []
    with os.fdopen(master, "rb", buffering=0) as file:
        # Linux ends it with an error, not with an empty read.
        with suppress(OSError):
            while part := file.read(65536):
                parts.append(part)
    return b"".join(parts).decode()


def test_in_a_terminal_the_table_is_drawn_and_in_the_end_gone(tmp_path, monkeypatch):
    """A real pseudo-terminal, and a real process."""
    monkeypatch.setenv("TERM", "xterm")
    code = """
import json, time
with open("progress.json", "w") as file:
    json.dump({"phase": "Dense Iter 0", "epochs_done": 1, "epochs_planned": 2, "epochs_timed": 1, "seconds": 9.0,
               "dev": "WER 50.00 %"}, file)
time.sleep(1.5)
"""
    monkeypatch.chdir(tmp_path)
    job = Job("seed-0/dense", ("-c", code), RunFolder(tmp_path), epochs=2)
    master, terminal = os.openpty()
    with ThreadPoolExecutor() as reader, os.fdopen(terminal, "w") as file:
        reading = reader.submit(read_all, master)  # meanwhile: a full terminal would block the one who writes
        console = Console(file=file, width=80)
        with JobDisplay.open(console) as display:
            run_jobs([job], share=Share(1, 1), logs=tmp_path / "logs", show=display)
        console.print("after")
        file.close()
        shown = reading.result()
    assert "seed-0/dense: training 2 epochs" in shown
    assert (
        "Dense Iter 0  1 of 2  WER 50.00 %" in shown and "0 of 1 runs, 1 of 2 epochs, about 9 s left" in shown
    )
    erased = "\x1b[2K"
    assert erased in shown and erased not in shown.split("after")[1]
    left_standing = shown.rsplit(erased, 1)[1]
    assert "after" in left_standing and "epochs" not in left_standing


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (190, "3 min 10 s"),
        (7500.0, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_times_in_words(seconds, expected):
    assert in_words(seconds) == expected
