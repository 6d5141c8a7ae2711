"""Runs on other machines. There is no cluster here: the commands are run by a shell, submitit's own local executor runs
what is submitted, and a stand-in for ``sbatch`` keeps the files that Slurm would be given."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.studies.cluster import print_script, submit, submit_to_slurm
from seqdsd.studies.jobs import Job

submitit = pytest.importorskip("submitit")
SAYS_ITS_NAME = "import sys; open('order.txt', 'a').write(sys.argv[1] + '\\n')"


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """What the first needs is done; an odd name in the arguments must survive the shell."""
    monkeypatch.chdir(tmp_path)

    def job(name, *, needs=None, is_done=False):
        command = ("-c", SAYS_ITS_NAME, f"{name} isn't $HOME")
        return Job(f"seed-0/{name}", command, RunFolder(tmp_path / name), 1, is_done, needs)

    return [
        job("dense", is_done=True),
        job("dsd", needs="seed-0/dense"),
        job("dsdsd", needs="seed-0/dsd"),
        job("baseline"),
    ]


def order():
    return [line.removesuffix(" isn't $HOME") for line in Path("order.txt").read_text().splitlines()]


def console():
    return Console(file=io.StringIO(), width=200)


# Commands.


def test_printed_commands_run_in_a_shell_as_they_stand(jobs, capsys, tmp_path, monkeypatch):
    """Wherever the shell is: what they write, they write where they were printed."""
    here, elsewhere = tmp_path / "isn't $HOME", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    print_script(jobs)
    script = capsys.readouterr().out
    comments = [line for line in script.splitlines() if line.startswith("#")]
    assert comments == [
        "# seed-0/dsd, after seed-0/dense",
        "# seed-0/dsdsd, after seed-0/dsd",
        "# seed-0/baseline",
    ]
    assert script.startswith("cd ") and len(script.splitlines()) == 7
    subprocess.run(["sh", "-e"], input=script, text=True, check=True, cwd=elsewhere)
    assert order() == ["dsd", "dsdsd", "baseline"] and not list(elsewhere.iterdir())


def test_where_all_is_done_nothing_is_printed(jobs, capsys):
    print_script(jobs[:1])
    assert capsys.readouterr().out == ""


# Slurm.


def test_what_is_submitted_runs(jobs):
    """In processes of submitit's own, which has no queue: what a job waits for is waited for here."""
    submitted, asked = {}, []

    def executor(job, after):
        asked.append((job.name, after))
        if after:
            submitted[after].result()

        class Kept(submitit.LocalExecutor):
            def submit(self, task):
                made = super().submit(task)
                submitted[made.job_id] = made
                return made

        return Kept(folder="logs")

    out = console()
    submit(jobs, executor, out)
    for one in submitted.values():
        one.result()
        one._process.wait()
    dsd, dsdsd, baseline = submitted
    assert asked == [("seed-0/dsd", None), ("seed-0/dsdsd", dsd), ("seed-0/baseline", None)]
    assert sorted(order()) == ["baseline", "dsd", "dsdsd"] and order().index("dsd") < order().index("dsdsd")
    lines = [f"seed-0/dsd: job {dsd}", f"seed-0/dsdsd: job {dsdsd}", f"seed-0/baseline: job {baseline}"]
    assert out.file.getvalue().splitlines() == lines


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """``sbatch`` that keeps each file as job-NUMBER.sh, from 41 on; and ``srun``, by which submitit knows Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text("#!/bin/sh\n")
    (folder / "sbatch").write_text(
        f"""#!/bin/sh
number=$((41 + $(ls {tmp_path}/job-*.sh 2>/dev/null | wc -l)))
cp "$1" {tmp_path}/job-$number.sh
echo Submitted batch job $number
"""
    )
    for path in folder.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def batch_flags(path):
    """The ``#SBATCH`` lines of a file."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", path.read_text(), re.MULTILINE))


def test_slurm_is_given_a_job_a_run_and_told_what_comes_before(slurm, jobs):
    out = console()
    submit_to_slurm(
        jobs, logs=slurm / "logs", parameters=["time=240", "partition=gpu", "gpus_per_node=1"], console=out
    )
    assert (
        out.file.getvalue().split()
        == "seed-0/dsd: job 41 seed-0/dsdsd: job 42 seed-0/baseline: job 43".split()
    )
    flags = [batch_flags(slurm / f"job-{number}.sh") for number in (41, 42, 43)]
    assert [one["job-name"] for one in flags] == ["seed-0/dsd", "seed-0/dsdsd", "seed-0/baseline"]
    for one in flags:
        assert (one["time"], one["partition"], one["gpus-per-node"]) == ("240", "gpu", "1")
    assert [one.get("dependency") for one in flags] == [None, "afterok:41", None]
    assert [one.get("kill-on-invalid-dep") for one in flags] == [None, "yes", None]
    # Each file starts submitit on this folder, where the run's command lies pickled under the job's number.
    assert sys.executable in (slurm / "job-41.sh").read_text()
    task = submitit.core.utils.DelayedSubmission.load(slurm / "logs" / "41_submitted.pkl")
    task.result()
    assert order() == ["dsd"]


def test_a_run_whose_time_is_over_is_begun_again(slurm, jobs):
    """And goes on, since it is started with --resume. Such tasks submitit asks for what is to be done later."""
    submit_to_slurm(jobs, logs=slurm / "logs", parameters=["time=240"], console=console())
    task = submitit.core.utils.DelayedSubmission.load(slurm / "logs" / "41_submitted.pkl")
    assert isinstance(task.function, submitit.helpers.Checkpointable)
    task.function.checkpoint().result()
    assert order() == ["dsd"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["partition=gpu"], "for how many minutes .* --slurm time=240"),
        (["time"], "--slurm: expected KEY=VALUE, got 'time'"),
        (["=3"], "--slurm: expected KEY=VALUE, got '=3'"),
        (["time=3", "colour=red"], r"--submit slurm: Unavailable parameter.*colour"),
    ],
)
def test_parameters_that_cannot_be_used(slurm, jobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        submit_to_slurm(jobs, logs=slurm / "logs", parameters=parameters, console=console())
    assert not list(slurm.glob("job-*.sh"))


def test_slurm_that_refuses_a_job_is_quoted(slurm, jobs):
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho Invalid account >&2\nexit 1\n")
    with pytest.raises(ValueError, match="--submit slurm: .*Invalid account"):
        submit_to_slurm(jobs, logs=slurm / "logs", parameters=["time=3"], console=console())


def test_without_slurm_or_submitit_it_says_so(jobs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match='--submit slurm: Could not detect "srun"'):
        submit_to_slurm(jobs, logs=tmp_path / "logs", parameters=["time=3"], console=console())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"pip install 'seqdsd\[slurm\]'"):
        submit_to_slurm(jobs, logs=tmp_path / "logs", parameters=["time=3"], console=console())
