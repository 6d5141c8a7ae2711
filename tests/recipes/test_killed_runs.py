"""Whole runs in processes of their own, which are killed, interrupted and started twice."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seqdsd.config import read_config, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.command import parse_command
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.studies.processes import start
from seqdsd.tasks import AugmentSettings, BatchSettings

REPOSITORY = Path(__file__).parents[2]
PHASES = ("dense-iter-0", "sparse-iter-1", "dense-iter-1")


@pytest.fixture(scope="module")
def settings(tmp_path_factory, write_tone_corpus, tiny_ds1):
    """A TOML file with everything on that draws random numbers, and a data loader in a process of its own."""
    folder = tmp_path_factory.mktemp("killed")
    config = tiny_ds1(
        write_tone_corpus(folder / "tones").folder,
        folder / "unused",
        network=ds1.NetworkSettings(batch_norm=True, dropout=0.2),
        augment=AugmentSettings(spec_augment=True, speed_factors=(0.9, 1.0, 1.1)),
        batches=BatchSettings(max_batch_seconds=4.0, num_workers=1),
        checkpoint_minutes=0.0,
    )
    path = folder / "settings.toml"
    path.write_text(to_toml(config))
    return path


@pytest.fixture(scope="module")
def caption_settings(tmp_path_factory, write_shape_corpus, tiny_neuraltalk):
    """A TOML file for captions: features of a file, dropout, and epochs enough to be killed in."""
    folder = tmp_path_factory.mktemp("killed-captions")
    config = tiny_neuraltalk(
        write_shape_corpus(folder / "captioned"),
        folder / "unused",
        epochs=(15, 10, 10),
        network=neuraltalk.NetworkSettings(dropout=0.5),
        checkpoint_minutes=0.0,
    )
    path = folder / "settings.toml"
    path.write_text(to_toml(config))
    return path


@pytest.fixture
def command(settings, caption_settings):
    """A run as it would be typed."""

    def make(out, *flags, recipe="ds1"):
        of_recipe = {"ds1": settings, "neuraltalk": caption_settings}[recipe]
        options = ["--config", str(of_recipe), "--out", str(out), *flags]
        return [sys.executable, "-m", f"seqdsd.recipes.{recipe}", *options]

    return make


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}


@pytest.fixture
def fork(command, tmp_path):
    """Start a run as studies do, which takes a second where the command takes five."""
    started = []

    def begin(out, *flags, recipe):
        started.append(start(command(out, *flags, recipe=recipe), tmp_path / "log", ENVIRONMENT))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process._process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def start_typed(command):
    """Start a run in a process group of its own; what is left of it in the end is killed."""
    started = []

    def begin(out, *flags):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(
            subprocess.Popen(command(out, *flags), env=ENVIRONMENT, start_new_session=True, **pipes)
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_a_checkpoint(folder, process):
    """Until training is under way: a checkpoint is written that was not there before."""
    until, before = time.monotonic() + 60, time_of_checkpoint(folder)
    while time_of_checkpoint(folder) in (None, before):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def time_of_checkpoint(folder):
    try:
        return (folder / "checkpoints" / "last.safetensors").stat().st_mtime_ns
    except FileNotFoundError:  # also for a moment while one takes another's place
        return None


def assert_same(one, other):
    for phase in PHASES:
        mine, theirs = (
            load_checkpoint(run / "checkpoints" / f"{phase}.safetensors").tensors for run in (one, other)
        )
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    records = [[but_for_time(record) for record in RunFolder(run).read_phases()] for run in (one, other)]
    assert records[0] == records[1]


def but_for_time(record):
    return {name: value for name, value in record.items() if not name.endswith("_seconds")}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ds1", "neuraltalk"])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_bits(fork, tmp_path, recipe, exit_status):
    """SIGKILL to the trainer alone: its data loader lives on, and the folder must be free at once."""
    generator = random.Random(time.time_ns())
    process = fork(tmp_path / "unbroken", recipe=recipe)
    wait_for_a_checkpoint(tmp_path / "unbroken", process)
    begun = time.monotonic()
    assert exit_status(process) == 0, (tmp_path / "log").read_text()
    training_seconds = time.monotonic() - begun
    folder = tmp_path / "run"
    for flags in ([], ["--resume"], ["--resume"]):
        process = fork(folder, *flags, recipe=recipe)
        wait_for_a_checkpoint(folder, process)
        # Half of the whole at most, for three kills: what is measured includes the end, in which nothing is trained.
        seconds = generator.uniform(0, training_seconds / 6)
        print(f"killed {seconds:.3f} s after the first checkpoint")
        time.sleep(seconds)
        assert process.poll() is None
        process._process.kill()
        process.wait()
    assert exit_status(fork(folder, "--resume", recipe=recipe)) == 0, (tmp_path / "log").read_text()
    assert_same(folder, tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(start_typed, tmp_path, settings, number):
    """Sent to the whole group, data loader and all, as a terminal does. A second run meanwhile is refused."""
    folder = tmp_path / "run"
    process = start_typed(folder, "--epochs", "1000")
    wait_for_a_checkpoint(folder, process)
    config = read_config(folder / "config.toml", ds1.Config())
    with pytest.raises(RunFolderError, match=rf"another run \(process {process.pid}\) is writing here"):
        ds1.run(config, resume=True)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    flags = shlex.split(re.search(r"go on with (--resume .*)", said)[1])
    command = parse_command(
        ds1.Config, prog="", description="", without_data=ds1.RECIPE.embedded_settings, argv=flags
    )
    assert command.settings == config and command.invocation.resume
    state = load_checkpoint(folder / "checkpoints" / "last.safetensors").state
    assert state["records"] == [] and state["now"]["step"] > 0
