"""Jobs are real processes here, of a few lines each."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from seqdsd.engine import StopRequested
from seqdsd.records import RunFolder
from seqdsd.studies import jobs as jobs_module
from seqdsd.studies.jobs import (
    Job,
    JobsFailed,
    JobStates,
    JobsView,
    Share,
    makespan,
    most_at_a_time,
    run_jobs,
)

REPOSITORY = Path(__file__).parents[2]
ONE = Share(runs=1, threads=1)

SAVES_WHEN_ASKED = """
import os, signal, sys, time
def save(number, frame):
    open("saved-" + os.environ["NAME"], "w").close()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
with open("begun-" + os.environ["NAME"], "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, "ready-" + os.environ["NAME"])  # never seen without the number in it
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs_module, "POLL_SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)


class Events(JobsView):
    """What was told, in order."""

    def __init__(self):
        self.told, self.most_running = [], 0

    def started(self, job, log):
        self.told.append(("started", job.name))

    def waiting(self, job):
        self.told.append(("waiting", job.name))

    def ended(self, job, *, failure, log):
        self.told.append(("ended", job.name, failure))
        assert log.is_file()

    def states(self, states):
        self.most_running = max(self.most_running, len(states.running))

    def stopping(self):
        self.told.append(("stopping",))


def job(name, code="", *, needs=None, is_done=False, epochs=1):
    """A job of a few lines, which know its name."""
    command = ("-c", f"import os; os.environ['NAME'] = {name!r}\n{textwrap.dedent(code)}")
    return Job(name, command, RunFolder(Path("runs") / name), epochs, is_done, needs)


def run(*jobs, share=ONE, show=None):
    run_jobs(jobs, share=share, logs=Path("logs"), show=show or JobsView())


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def is_alive(pid):
    """Also false of a process that is dead, but whose new parent has not asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Order, and how many at a time.

TIMED = """
import json, os, time
started = time.monotonic()
time.sleep(0.15)
with open("times.jsonl", "a") as file:
    file.write(json.dumps([os.environ["NAME"], started, time.monotonic()]) + "\\n")
"""


def times():
    rows = [json.loads(line) for line in Path("times.jsonl").read_text().splitlines()]
    assert len({row[0] for row in rows}) == len(rows)
    return {name: (started, ended) for name, started, ended in rows}


class FullOnce(Events):
    """Writes a file when as many run at a time as are allowed."""

    def states(self, states):
        super().states(states)
        if len(states.running) == states.share.runs:
            Path("full").touch()


# On a machine however slow, it runs beside the others until as many do as are allowed.
TIMED_UNTIL_FULL = TIMED.replace(
    "time.sleep(0.15)",
    """
while not os.path.exists("full") and time.monotonic() < started + 60:
    time.sleep(0.01)
time.sleep(0.15)
""",
)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_jobs_run_after_what_they_need_and_no_more_at_a_time_than_allowed(processes):
    needs = {"a": None, "b": "a", "c": "b", "d": "a", "e": None, "f": "e"}
    codes = {"a": TIMED}  # what three at a time have to wait for
    events = FullOnce()
    run(
        *(job(name, codes.get(name, TIMED_UNTIL_FULL), needs=needed) for name, needed in needs.items()),
        share=Share(processes, 1),
        show=events,
    )
    found = times()
    assert found.keys() == needs.keys()
    for name, needed in needs.items():
        assert needed is None or found[needed][1] < found[name][0]
    running = [sum(begun <= start < ended for begun, ended in found.values()) for start, _ in found.values()]
    assert max(running) <= processes and events.most_running == processes


def test_on_one_core_jobs_run_in_the_order_given():
    """But for those whose needs are not met yet."""
    run(job("c", TIMED, needs="b"), job("a", TIMED), job("b", TIMED), job("d", TIMED))
    assert sorted(times(), key=lambda name: times()[name]) == ["a", "b", "c", "d"]


def test_what_is_done_is_not_run_and_counts_as_done():
    events = Events()
    run(job("a", "1/0", is_done=True), job("b", TIMED, needs="a"), show=events)
    assert list(times()) == ["b"]
    assert events.told == [("started", "b"), ("ended", "b", None)]


def test_with_nothing_to_do_it_returns_at_once():
    run(job("a", "1/0", is_done=True))


# What a process gets.

SAYS_ENVIRONMENT = """
import json, os
from pathlib import Path
names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
Path(os.environ["NAME"]).write_text(json.dumps([os.environ.get(name) for name in names]))
"""


def test_each_process_has_its_share_of_the_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run(job("a", SAYS_ENVIRONMENT), job("b", SAYS_ENVIRONMENT), share=Share(2, 3))
    assert json.loads(Path("a").read_text()) == json.loads(Path("b").read_text()) == ["3", "3", None]


def test_each_process_has_a_gpu_of_its_own():
    code = SAYS_ENVIRONMENT + "\nimport time; time.sleep(0.5)"
    run(*(job(name, code) for name in "abc"), share=Share(3, 1, gpus=("4", "GPU-7")))
    assert [json.loads(Path(name).read_text())[2] for name in "abc"] == ["4", "GPU-7", "4"]


def test_the_cores_are_shared_among_as_many_as_can_run(monkeypatch):
    monkeypatch.setattr(jobs_module, "_num_cores", lambda: 8)
    three = [job("a"), job("b", needs="a"), job("c", needs="a"), job("d"), job("e", needs="d")]
    share = Share.of_this_machine
    assert share(None, three, device="cpu") == Share(3, 2)
    assert share(2, three, device="cpu") == Share(2, 4)
    assert share(16, three, device="cpu") == Share(3, 2)
    many = [job(str(number)) for number in range(20)]
    assert share(None, many, device="cpu") == Share(8, 1)
    assert share(12, many, device="cpu") == Share(12, 1)
    finished = [job("a", is_done=True), *three[1:]]  # as much at a time, so that its bits do not change
    assert share(None, finished, device="cpu") == Share(3, 2)
    with pytest.raises(ValueError, match="--jobs must be at least 1, got 0"):
        share(0, three, device="cpu")


def test_several_processes_a_run_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(jobs_module, "_num_cores", lambda: 8)
    many = [job(str(number)) for number in range(20)]
    share = Share.of_this_machine
    assert share(None, many, device="cpu", processes_per_run=2) == Share(4, 1, processes_per_run=2)
    assert share(1, many, device="cpu", processes_per_run=2) == Share(1, 4, processes_per_run=2)
    assert share(None, many, device="cpu", processes_per_run=9) == Share(1, 1, processes_per_run=9)
    monkeypatch.setattr(jobs_module.torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    on_gpus = share(None, many, device="auto", processes_per_run=2)
    assert on_gpus.runs == 2
    assert [on_gpus.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,1", "2,3"]
    with pytest.raises(ValueError, match="--processes-per-run 6 needs as many GPUs; there are 5"):
        share(None, many, device="auto", processes_per_run=6)
    with pytest.raises(ValueError, match="--processes-per-run must be at least 1, got 0"):
        share(None, many, device="cpu", processes_per_run=0)


@pytest.mark.parametrize(
    ("visible", "count", "device", "expected"),
    [
        (None, 2, "auto", ("0", "1")),
        ("5,3", 2, "auto", ("5", "3")),
        ("5,3,-1,2", 2, "cuda", ("5", "3")),
        ("GPU-8932f937,GPU-1", 2, "auto", ("GPU-8932f937", "GPU-1")),
        (None, 2, "cpu", ()),
        ("", 0, "auto", ()),
    ],
)
def test_by_default_a_process_a_gpu(monkeypatch, visible, count, device, expected):
    """By the names under which this process sees them: its own first GPU may be the machine's sixth."""
    monkeypatch.setattr(jobs_module, "_num_cores", lambda: 8)
    monkeypatch.setattr(jobs_module.torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    share = Share.of_this_machine(None, [job(str(number)) for number in range(9)], device=device)
    assert share == Share(len(expected) or 8, 8 // (len(expected) or 8), expected)


# Failures.


def test_a_failure_stops_only_what_needs_it():
    failing = "print('first line'); print('äh?', flush=True); raise SystemExit(3)"
    events = Events()
    with pytest.raises(JobsFailed) as error:
        run(
            job("seed-0/a", failing),
            job("seed-0/b", TIMED, needs="seed-0/a"),
            job("seed-0/c", TIMED, needs="seed-0/b"),
            job("seed-1/a", TIMED),
            job("seed-1/b", TIMED, needs="seed-1/a"),
            show=events,
        )
    assert list(times()) == ["seed-1/a", "seed-1/b"]
    assert ("ended", "seed-0/a", "exit status 3") in events.told
    said = str(error.value)
    for expected in (
        "seed-0/a failed (exit status 3); the end of logs/seed-0.a.log:",
        "    first line\n    äh?",
        "not begun, because they need what failed: seed-0/b, seed-0/c",
        "run the same command: what is finished is kept",
    ):
        assert expected in said


def test_of_many_failures_the_first_is_shown_in_full():
    failing = "print('first line'); raise SystemExit('no such corpus')"
    with pytest.raises(JobsFailed) as error:
        run(job("a", failing), job("b", failing), job("c", failing))
    lines = str(error.value).splitlines()
    assert lines.count("    first line") == 1 and lines.count("    no such corpus") == 3


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("SIGKILL", "killed; if you did not do it, memory ran out"),
        ("SIGSEGV", "ended by SIGSEGV"),
        ("SIGRTMIN + 1", "ended by signal"),
    ],
)
def test_a_process_that_dies_of_a_signal(number, expected):
    code = f"import os, signal; os.kill(os.getpid(), signal.{number})"
    with pytest.raises(JobsFailed, match=expected):
        run(job("a", code))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "print('error: no such corpus'); raise SystemExit(1)",
            "exit status 1.*\n    .*error: no such corpus$",
        ),
        (
            "import os, time; time.sleep(60 * int(os.environ['LOCAL_RANK'])); exit('error: no such corpus')",
            "exit status 1.*\n    .*error: no such corpus$",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "killed; if you did not do it, memory ran out",
        ),
    ],
    ids=["both fail", "the other one is asked to end", "killed"],
)
def test_of_several_processes_a_run_s_own_words_are_shown_and_not_torchruns(code, expected):
    Path("fails.py").write_text(code)
    with pytest.raises(JobsFailed, match=f"(?ms){expected}") as error:
        run(replace(job("a"), command=("fails.py",)), share=Share(1, 1, processes_per_run=2))
    assert "elastic" not in str(error.value)


def test_logs_keep_what_earlier_attempts_said_and_name_the_command():
    for attempt in ("one", "two"):
        run(job("seed-0/a", f"print('{attempt}')"))
    log = Path("logs/seed-0.a.log").read_text()
    assert log.startswith("$ python -c 'import os;")
    assert [line for line in log.splitlines() if line in ("one", "two")] == ["one", "two"]


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_is_handed_on_and_waited_for(number):
    """To all that run; what has not begun never does."""
    before = signal.getsignal(number)
    slow = SAVES_WHEN_ASKED.replace('open("saved', 'time.sleep(0.3); open("saved')
    waiting = threading.Thread(
        target=lambda: (
            wait_for(lambda: all(Path(f"ready-{name}").is_file() for name in "ab")),
            os.kill(os.getpid(), number),
        )
    )
    waiting.start()
    events = Events()
    with pytest.raises(StopRequested, match="all is saved; the same command goes on"):
        run(job("a", slow), job("b", slow), job("c", slow), share=Share(2, 1), show=events)
    waiting.join()
    assert sorted(path.name for path in Path().glob("saved-*")) == ["saved-a", "saved-b"]
    assert ("stopping",) in events.told and ("started", "c") not in events.told
    assert signal.getsignal(number) is before


def test_an_error_in_between_leaves_no_process_behind():
    class Broken(JobsView):
        def states(self, states):
            wait_for(lambda: Path("ready-a").is_file())
            raise OSError("terminal gone")

    with pytest.raises(OSError, match="terminal gone"):
        run(job("a", SAVES_WHEN_ASKED), show=Broken())
    assert Path("saved-a").is_file() and not is_alive(Path("ready-a").read_text())


@pytest.fixture
def parent(tmp_path):
    """A process of its own, in a session of its own, that runs two jobs at a time."""
    script = tmp_path / "parent.py"
    script.write_text(
        f"""
from pathlib import Path
from seqdsd.studies.jobs import Job, JobsView, Share, run_jobs
from seqdsd.records import RunFolder
code = {SAVES_WHEN_ASKED!r}
jobs = [
    Job(name, ("-c", f"import os; os.environ['NAME'] = {{name!r}}\\n" + code), RunFolder(Path(name)), 1)
    for name in "abc"
]
run_jobs(jobs, share=Share(2, 1), logs=Path("logs"), show=JobsView())
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    process.kill()
    process.communicate()
    for path in tmp_path.glob("ready-*"):
        if is_alive(path.read_text()):
            os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent has died")
def test_of_a_parent_that_is_killed_the_children_save_and_end(parent):
    wait_for(
        lambda: parent.poll() is None and all(Path(f"ready-{name}").is_file() for name in "ab"), seconds=120
    )
    children = [Path(f"ready-{name}").read_text() for name in "ab"]
    parent.kill()
    wait_for(lambda: not any(map(is_alive, children)))
    assert sorted(path.name for path in Path().glob("saved-*")) == ["saved-a", "saved-b"]
    assert not Path("ready-c").exists()


def test_ctrl_c_in_the_terminal_reaches_the_runs_through_us_alone():
    """The terminal sends it to its whole group, and a second one would stop a run that is still saving."""
    run(job("a", "import os; open('session', 'w').write(f'{os.getsid(0)} {os.getpgid(0)}')"))
    session, group = map(int, Path("session").read_text().split())
    assert session != os.getsid(0) and group != os.getpgid(0)


def test_a_folder_that_another_process_holds_is_waited_for():
    """Such as a run of a killed comparison that is still saving. Others go on meanwhile."""
    Path("runs/a").mkdir(parents=True)
    code = """
import fcntl, sys
file = open("runs/a/.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
open("held", "w").close()
sys.stdin.read()
open("released", "w").close()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    wait_for(lambda: Path("held").is_file())
    events = Events()
    release = threading.Thread(
        target=lambda: (wait_for(lambda: ("ended", "b", None) in events.told), holder.communicate())
    )
    release.start()
    run(job("a", "import os; assert os.path.exists('released')"), job("b"), show=events)
    release.join()
    assert [one[:2] for one in events.told] == [
        ("waiting", "a"),
        ("started", "b"),
        ("ended", "b"),
        ("started", "a"),
        ("ended", "a"),
    ]


# How long it takes.


def test_most_at_a_time():
    chain = [job("a"), job("b", needs="a"), job("c", needs="b")]
    assert most_at_a_time(chain) == 1
    assert most_at_a_time([*chain, job("d", needs="a"), job("e")]) == 3


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (1, 22),
        # a 0-4, b 4-7, c 7-12; d and e fill the other core: d 4-8, e 0-6 … so c ends last, at 12.
        (2, 12),
        (3, 12),
    ],
)
def test_makespan_by_hand(processes, expected):
    needs = {"a": None, "b": "a", "c": "b", "d": "a", "e": None}
    seconds = {"a": 4, "b": 3, "c": 5, "d": 4, "e": 6}
    chosen = [job(name, needs=needed) for name, needed in needs.items()]
    assert makespan(chosen, seconds, processes) == expected
    assert makespan(chosen, dict.fromkeys("abcde", 0), processes) == 0


def test_makespan_of_jobs_that_need_nothing():
    """Two at a time: a 0-5 beside b 0-1 and c 1-6, then d 5-10."""
    assert makespan([job(name) for name in "abcd"], {"a": 5, "b": 1, "c": 5, "d": 5}, 2) == 10


def write_progress(job, done, planned, timed, seconds):
    job.folder.path.mkdir(parents=True)
    job.folder.write_progress(
        {
            "phase": "Dense Iter 0",
            "epochs_done": done,
            "epochs_planned": planned,
            "epochs_timed": timed,
            "seconds": seconds,
            "dev": "WER 25.00",
        }
    )


def test_time_left_is_told_by_the_epochs_so_far():
    a, b, c = job("a", epochs=10), job("b", epochs=6, needs="a"), job("c", epochs=10)
    states = JobStates([a, b, c], Share(2, 1))
    assert states.seconds_left() is None
    assert states.epochs_left() == {"a": 10, "b": 6, "c": 10}
    write_progress(a, done=4, planned=10, timed=4, seconds=8.0)
    write_progress(c, done=7, planned=10, timed=2, seconds=10.0)  # five of them taken over
    assert states.epochs_left() == {"a": 6, "b": 6, "c": 3}
    # 18 s for 6 epochs: 3 s each. a takes 18 s, then b 18 s; c 9 s beside them.
    assert states.seconds_left() == 36
    states.done.add("a")
    assert states.epochs_left() == {"a": 0, "b": 6, "c": 3} and states.seconds_left() == 18


def test_a_phase_that_ended_early_leaves_nothing_to_train():
    done = job("a", epochs=10, is_done=True)
    write_progress(done, done=7, planned=10, timed=7, seconds=7.0)
    assert done.epochs_left == 0
    over = job("b", epochs=3)
    write_progress(over, done=10, planned=10, timed=3, seconds=3.0)
    assert over.epochs_left == 0
