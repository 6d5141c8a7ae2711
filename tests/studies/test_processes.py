"""Real processes: a recipe's are forked, others are started as they would be typed."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from seqdsd.config import read_provenance, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.records import RunFolder
from seqdsd.studies.processes import start

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux only")


@pytest.fixture
def settings(tmp_path, tone_corpus, tiny_ds1):
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(tiny_ds1(tone_corpus.folder, tmp_path / "unused", iters=0, epochs=(2,))))
    return path


@pytest.fixture(scope="module", autouse=True)
def server_of_our_own():
    """Not one that another test's processes were forked from, which a SIGTERM would end: there is one at a time."""
    if sys.platform == "linux":
        forkserver._forkserver._stop()


def command(settings, *flags):
    return [sys.executable, "-m", "seqdsd.recipes.ds1", "--config", str(settings), *flags]


def environment(threads):
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "90"}


@linux_only
def test_a_forked_run_is_the_one_that_the_command_line_gives(settings, tmp_path):
    """The same weights to the bit, settings, threads and noted command."""
    forked, typed = (RunFolder(tmp_path / name) for name in ("forked", "typed"))
    process = start(command(settings, "--out", str(forked.path)), tmp_path / "log", environment(2))
    assert process.poll() is None
    subprocess.run(
        command(settings, "--out", str(typed.path)), env=environment(2), check=True, stdout=subprocess.DEVNULL
    )
    assert process.wait() == 0 == process.poll()
    mine, theirs = (
        load_checkpoint(run.path / "checkpoints" / "dense-iter-0.safetensors").tensors
        for run in (forked, typed)
    )
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    for key in ("threads", "recipe", "versions"):
        assert read_provenance(forked.config)[key] == read_provenance(typed.config)[key], key
    said = [read_provenance(run.config)["command"] for run in (forked, typed)]
    assert said[0].replace(str(forked.path), str(typed.path)) == said[1]
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert log.startswith(f"$ python -m seqdsd.recipes.ds1 --config {settings}")
    assert "Dense Iter 0 ends" in log


@linux_only
def test_a_forked_run_has_a_session_threads_and_a_folder_of_its_own(settings, tmp_path, monkeypatch):
    """And the next one those that are asked of it, whatever the first had."""
    for threads in (1, 2):
        folder = tmp_path / f"with-{threads}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        process = start(command(settings, "--out", "run"), tmp_path / "log", environment(threads))
        number = process._process.pid
        parent = subprocess.check_output(["ps", "-o", "ppid=", "-p", str(number)], text=True)
        assert int(parent) == forkserver._forkserver._forkserver_pid != os.getpid()
        # torch is there before a run is: the recipe was imported by the server.
        assert "libtorch" in Path(f"/proc/{forkserver._forkserver._forkserver_pid}/maps").read_text()
        until = time.monotonic() + 60
        while os.getsid(number) != number:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert process.wait() == 0
        assert read_provenance(RunFolder(folder / "run").config)["threads"] == threads


@linux_only
def test_runs_of_a_script_do_not_begin_with_the_script(settings, tmp_path):
    """Even where it has no ``if __name__ == "__main__"``: what it says, it says once."""
    arguments = command(settings, "--out", str(tmp_path / "run"))
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom pathlib import Path\nfrom seqdsd.studies.processes import start\n"
        "print('begun', flush=True)\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        f"print(start({arguments!r}, log, {{**os.environ, 'OMP_NUM_THREADS': '1'}}).wait())\n"
    )
    environment_of_script = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.check_output([sys.executable, script], text=True, env=environment_of_script)
    assert said.split() == ["begun", "0"]
    assert "begun" not in (tmp_path / "log").read_text(encoding="utf-8")


@linux_only
def test_how_a_forked_run_fails_is_told(settings, tmp_path):
    log = tmp_path / "log"
    assert start(command(settings, "--epochs", "none"), log, environment(1)).wait() not in (0, None)
    assert "--epochs" in log.read_text(encoding="utf-8").split("\n", 1)[1]


@linux_only
@pytest.mark.parametrize("to_all", [False, True], ids=["to it", "to the server, too"])
def test_a_forked_run_that_is_asked_to_end_saves_first(settings, tmp_path, to_all):
    """Also where ``timeout``, or a scheduler, signals all processes of the group: its end is waited for."""
    run = RunFolder(tmp_path / "run")
    flags = ("--out", str(run.path), "--epochs", "200")
    process = start(command(settings, *flags), tmp_path / "log", environment(1))
    until = time.monotonic() + 120
    while run.read_progress() is None:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    if to_all:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGTERM)
        time.sleep(0.5)
    process.terminate()
    assert process.wait() == 130
    assert (run.path / "checkpoints" / "last.safetensors").is_file()
    assert "--resume" in (tmp_path / "log").read_text(encoding="utf-8")


def test_another_command_is_started_as_it_is(tmp_path):
    process = start(
        [sys.executable, "-c", "import sys; print(sys.argv, sys.stdin.read()); sys.exit(3)", "a b"],
        tmp_path / "log",
        environment(1),
    )
    assert process.wait() == 3
    assert (tmp_path / "log").read_text(encoding="utf-8").endswith("['-c', 'a b'] \n")
