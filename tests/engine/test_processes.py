"""Several processes that train together, each a real one: started by ``torchrun``, or forked and told as it would."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
import two_processes
from forked import environments, run_together
from torch import nn

from seqdsd import cli
from seqdsd.config import read_provenance
from seqdsd.engine import Processes
from seqdsd.models import FrameNorm
from seqdsd.records import RunFolder, read_json_lines
from seqdsd.studies.processes import Running, start

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def torchrun(processes: int, *arguments: object) -> subprocess.Popen:
    """Start; output is taken together."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    return subprocess.Popen(
        [sys.executable, *map(str, (*launcher, *arguments))],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen, *, seconds: float = 120) -> tuple[int, str]:
    """Exit status and output; a process that hangs fails the test."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output


def forked_run(count: int, flags: list[str], log: Path) -> list[Running]:
    """A recipe's processes, which are told of each other where there are several."""
    told = environments(count) if count > 1 else [{}]
    return [start([sys.executable, *flags], log, ENVIRONMENT | one) for one in told]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[int, Path]:
    """The same run by one process and by two."""
    folders = {count: tmp_path_factory.mktemp(f"by-{count}") for count in (1, 2)}
    for count, folder in folders.items():
        run_together(count, two_processes.train, folder, 1, partial(FrameNorm, 16))
    return folders


def left(folder: Path, rank: int) -> dict:
    return torch.load(folder / f"rank-{rank}.pt", weights_only=False)


def test_two_processes_have_the_losses_and_weights_of_one(trained):
    alone, first = left(trained[1], 0), left(trained[2], 0)
    for one, two in zip(alone["records"], first["records"], strict=True):
        # Rounding grows from epoch to epoch; and an item that both compute counts twice in the running variance's
        # n / (n - 1), though in nothing else.
        for name in ("train_loss", "dev_loss"):
            torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=2e-2, atol=1e-3)
        assert one["best_epoch"] == two["best_epoch"]
        assert one["measured_sparsity"] == two["measured_sparsity"]
    assert first["records"][0]["train_loss"][0] == pytest.approx(
        alone["records"][0]["train_loss"][0], rel=1e-5
    )
    for name, tensor in alone["weights"].items():
        tolerance = 2e-2 if "running_var" in name else 1e-3
        torch.testing.assert_close(first["weights"][name], tensor, rtol=tolerance, atol=1e-4)


def test_weights_and_masks_are_the_same_in_all_processes(trained):
    first, second = left(trained[2], 0), left(trained[2], 1)
    for part in ("weights", "masks"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])


def test_masks_are_those_of_one_process(trained):
    alone, first = left(trained[1], 0)["masks"], left(trained[2], 0)["masks"]
    assert all(torch.equal(alone[name], first[name]) for name in alone)


def test_the_first_process_writes_what_all_have_found(trained):
    folder = RunFolder(trained[2] / "run")
    assert [record["name"] for record in folder.read_phases()] == [
        "Dense Iter 0",
        "Sparse Iter 1",
        "Dense Iter 1",
    ]
    rows = list(read_json_lines(folder.hypotheses("Dense Iter 1", "test")))
    assert [row["id"] for row in rows] == [str(i) for i in range(9)]


def test_shares_of_a_batch():
    ranks = [Processes(rank, 3) for rank in range(3)]
    assert [one.share([*range(7)]) for one in ranks] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [one.share([0, 1]) for one in ranks] == [[0, 1]] * 3  # nobody waits for nothing
    assert [one.every_nth([*range(4)]) for one in ranks] == [[0, 3], [1], [2]]
    assert Processes().share([1, 2]) == Processes().every_nth([1, 2]) == [1, 2]


def test_micro_batches():
    two = [Processes(rank, 2) for rank in range(2)]
    assert [one.micro_batches([*range(9)], 2) for one in two] == [[[0, 2], [4, 6, 8]], [[1, 3], [5, 7]]]
    # As many as the smallest share has items; and of a batch that all compute, as many as it has.
    assert [one.micro_batches([0, 1, 2], 4) for one in two] == [[[0, 2]], [[1]]]
    assert [one.micro_batches([0], 4) for one in two] == [[[0]], [[0]]]
    assert Processes().micro_batches([*range(5)], 2) == [[0, 1], [2, 3, 4]]
    assert Processes().micro_batches([*range(5)], 1) == [[*range(5)]]


def test_micro_batches_give_the_losses_of_whole_ones(tmp_path):
    """In a network without batch norm, whose statistics are those of a part."""
    losses = {}
    for count, parts in ((1, 1), (2, 3)):
        folder = tmp_path / str(count)
        folder.mkdir()
        run_together(count, two_processes.train, folder, parts, nn.Identity)
        losses[count] = [loss for record in left(folder, 0)["records"] for loss in record["train_loss"]]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)


def flags(corpus, out: Path) -> list[str]:
    text = f"""--data {corpus.folder} --preset paper --out {out} --precision 32-true --iters 1 --epochs 3 1 1
        --hidden-size 16 --learning-rates 5e-4 2e-4 1e-4 --sparsities 0.5 --device cpu --network.num-recurrent-layers 1
        --optimizer.momentum 0.9 --batches.max-batch-seconds 4 --batches.num-workers 0"""
    return ["-m", "seqdsd.recipes.ds2", *text.split()]


@pytest.mark.slow
def test_a_recogniser_learns_the_same_from_one_process_and_two(tone_corpus, tmp_path, exit_status, capsys):
    runs = {}
    for count, less_memory in ((1, ()), (2, ("--network.recompute-layers",))):  # which changes nothing either
        log = tmp_path / f"by-{count}.log"
        processes = forked_run(count, [*flags(tone_corpus, tmp_path / f"by-{count}"), *less_memory], log)
        assert [exit_status(one) for one in processes] == [0] * count, log.read_text()
        assert log.read_text().count("Dense Iter 1 ends") == 1  # said once, however many there are
        runs[count] = RunFolder(tmp_path / f"by-{count}")
    one, two = runs[1].read_phases(), runs[2].read_phases()
    losses, expected = two[0]["train_loss"], one[0]["train_loss"]
    assert losses[0] == pytest.approx(expected[0], rel=1e-4)
    assert losses[1] == pytest.approx(expected[1], rel=1e-3)
    # One process alone, its first weights changed by 1e-7 of their size, is 7e-4 away by then.
    assert losses[2] == pytest.approx(expected[2], rel=1e-2)
    assert len(two) == 3 and two[1]["measured_sparsity"] == one[1]["measured_sparsity"]
    assert read_provenance(runs[2].config)["processes"] == 2
    for split in ("dev", "test"):
        rows = [list(read_json_lines(run.hypotheses("Dense Iter 1", split))) for run in runs.values()]
        assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    hyps = [tmp_path / f"hyps-{count}.jsonl" for count in (1, 2)]
    cli.main(["evaluate", str(runs[1].path), "--json", "--hyps", str(hyps[0])])
    assert capsys.readouterr().out.count('"phase"') == 1
    status, output = finished(
        torchrun(2, "-m", "seqdsd.cli", "evaluate", runs[1].path, "--json", "--hyps", hyps[1])
    )
    assert status == 0 and output.count('"phase"') == 1, output  # said once
    scored = [list(read_json_lines(path)) for path in hyps]
    assert scored[0] == scored[1] and len(scored[0]) > 1


@pytest.mark.slow
def test_bad_audio_takes_the_job_down_with_its_name_and_the_run_goes_on_alone(
    tone_corpus, tmp_path, exit_status
):
    path = tone_corpus.folder / "train" / "train05.wav"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    status, output = finished(torchrun(2, *flags(tone_corpus, tmp_path / "run")))
    assert status != 0
    assert "train.jsonl:6: utterance train05" in output and "--resume" in output
    path.write_bytes(whole)
    log = tmp_path / "alone.log"
    [process] = forked_run(1, [*flags(tone_corpus, tmp_path / "run"), "--resume"], log)
    assert exit_status(process) == 0, log.read_text()
    assert len(RunFolder(tmp_path / "run").read_phases()) == 3


@pytest.mark.slow
def test_bad_audio_that_is_skipped_keeps_nobody_waiting(tone_corpus, tmp_path, exit_status):
    for index in (3, 5, 11):
        path = tone_corpus.folder / "train" / f"train{index:02}.wav"
        path.write_bytes(path.read_bytes()[:1000])
    for index in (0, 1):
        path = tone_corpus.folder / "train" / f"train{index:02}.wav"
        samples, rate_hz = soundfile.read(path)
        soundfile.write(path, 0 * samples, rate_hz)
    # Batches of about two utterances, and of one, which may be all bad for both processes.
    for seconds in ("2.1", "1.2"):
        options = ("--on-bad-data", "skip", "--batches.max-batch-seconds", seconds, "--epochs", "1", "1", "1")
        log = tmp_path / f"{seconds}.log"
        processes = forked_run(2, [*flags(tone_corpus, tmp_path / seconds), *options], log)
        assert [exit_status(one) for one in processes] == [0, 0], log.read_text()
        assert read_provenance(RunFolder(tmp_path / seconds).config)["processes"] == 2
        assert len(list(read_json_lines(tmp_path / seconds / "skipped.jsonl"))) == 3
        records = RunFolder(tmp_path / seconds).read_phases()
        assert [record["nonfinite_steps"] for record in records] == [0, 0, 0]
        assert all(loss > 0 for record in records for loss in record["train_loss"])  # false for NaN
        # Each process comes across some of the silent ones.
        (said,) = [one["text"] for one in records[0]["remarks"] if one["kind"] == "silent in train"]
        assert said.startswith("2 of 24 recordings of train") and "train00.wav" in said


@pytest.mark.slow
def test_stopped_by_the_cluster_all_stop_and_two_go_on_from_there(tone_corpus, tmp_path, exit_status):
    long = [*flags(tone_corpus, tmp_path / "run"), "--epochs", "200", "1", "1", "--patience", "0"]
    process = torchrun(2, *long)
    started = time.monotonic()
    while not (tmp_path / "run" / "progress.json").is_file() and time.monotonic() - started < 100:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, output = finished(process)
    folder = RunFolder(tmp_path / "run")
    assert (folder.checkpoints / "last.safetensors").is_file(), output
    assert "stopped on request, all is saved" in output
    epochs_done = folder.read_progress()["epochs_done"]
    assert 0 < epochs_done < 200
    log = tmp_path / "again.log"
    processes = forked_run(2, [*long, "--resume"], log)
    again = time.monotonic()
    while folder.read_progress()["epochs_done"] <= epochs_done and time.monotonic() - again < 100:
        time.sleep(0.02)
    assert folder.read_progress()["epochs_done"] > epochs_done, log.read_text()
    for one in processes:
        one.terminate()
    assert [exit_status(one) for one in processes] == [130, 130], log.read_text()
    assert f"resuming in phase 1 of 3, epoch {epochs_done + 1}" in log.read_text()
