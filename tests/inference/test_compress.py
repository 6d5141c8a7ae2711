"""``seqdsd compress`` on real runs of every kind: what it writes, how it goes on, what it refuses."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import fork
from rich.console import Console

import seqdsd
from seqdsd import cli
from seqdsd.compression import read_compressed
from seqdsd.compression.sizes import zstd_bytes
from seqdsd.config import read_config, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.engine.checkpoint import save_latest
from seqdsd.inference.compress import Compress, compress, write_checked
from seqdsd.recipes import vision
from seqdsd.recipes.compressing.settings import CompressSettings
from seqdsd.records import RunFolder, RunFolderError, read_json_lines
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.runs.reading import read_runs

KINDS = ("speech", "captions", "classification")
QUICK = CompressSettings(sparsity=0.8, steps=1, bits=(4,), epochs=1)


@pytest.fixture(autouse=True)
def cache(monkeypatch, feature_cache):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))


@pytest.fixture(scope="module")
def runs(tone_run, caption_run, class_run) -> dict[str, RunFolder]:
    return dict(zip(KINDS, (tone_run, caption_run, class_run), strict=True))


def asked(run: RunFolder, out: Path, settings: CompressSettings = QUICK, **options: Any) -> Compress:
    return Compress(run=run.path, out=out, settings=settings, device="cpu", **options)


def make(run: RunFolder, out: Path, settings: CompressSettings = QUICK, **options: Any):
    return compress(asked(run, out, settings, **options), Console(quiet=True))


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory, feature_cache) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDSD_CACHE", str(feature_cache))
        return {kind: make(run, folder / f"{kind}.dsdz") for kind, run in runs.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_has_the_bits_of_the_network_that_was_scored(made, kind):
    result, file = made[kind]
    scored = load_checkpoint(result.folder.weights("Shared 1")).tensors
    decoded = read_compressed(file.path).state_dict()
    assert scored.keys() == decoded.keys()
    assert all(torch.equal(scored[name], decoded[name]) for name in scored)
    for name in result.step.bits:
        assert len(decoded[name][decoded[name] != 0].unique()) <= 15
    pruned = sum(int((decoded[name] == 0).sum()) for name in result.step.bits)
    assert pruned / sum(decoded[name].numel() for name in result.step.bits) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_scores_what_its_run_says(made, runs, kind):
    result, file = made[kind]
    scores = seqdsd.load(file.path, device="cpu").evaluate(
        read_config(runs[kind].config, recipe_config(kind)).data, split="dev"
    )
    metric = {"speech": "wer", "captions": "bleu4", "classification": "top1_error"}[kind]
    assert scores.metrics["dev"][metric] == pytest.approx(result.phase["dev"][metric])


def recipe_config(kind: str) -> Any:
    from seqdsd.kinds import KIND_OF_RECIPE
    from seqdsd.recipes.catalog import RECIPES

    return next(one.config_class() for name, one in RECIPES.items() if KIND_OF_RECIPE[name].name == kind)


@pytest.mark.parametrize("kind", KINDS)
def test_its_run_is_a_run_like_any_other(made, kind, capsys, tmp_path):
    result, _ = made[kind]
    cli.main(["table", str(result.folder.path)])
    said = capsys.readouterr().out
    assert all(name in said for name in ("Dense (given)", "Pruned 1", "Shared 1"))
    cli.main(["report", str(result.folder.path), "--out", str(tmp_path / "report.html")])
    assert "Shared 1" in (tmp_path / "report.html").read_text()
    assert seqdsd.load(result.folder.path, phase="Shared 1", device="cpu").phase["kind"] == "shared"
    folder = RunFolder(tmp_path / "worse")
    shutil.copytree(result.folder.path, folder.path)
    records = folder.read_phases()
    for record in records[:-1]:
        record["dev_score"] = [0.0 for _ in record["dev_score"]]
    folder.write_phases(records)  # what is not compressed is better
    assert seqdsd.load(folder.path, device="cpu").phase["name"] == "Shared 1"
    [read] = read_runs([result.folder.path]).runs
    assert read.arm == "Compressed" and read.is_complete and compare_runs([read]) == ()


def test_what_is_found_holds_on_dev(class_run, tmp_path):
    """With all the loss in the world 2 bits are enough."""
    found = CompressSettings(max_loss=100.0, epochs=1, layers=("*=0",))
    result, file = make(class_run, tmp_path / "found.dsdz", found)
    assert "zstd_pruned_bytes" not in file.header  # nothing is
    assert set(result.step.bits.values()) == {2} and result.holds
    steps = list(read_json_lines(result.folder.path / "steps.jsonl"))
    assert [step["kind"] for step in steps] == ["shared"]


def test_a_phase_that_is_named_is_begun_with(class_run, tmp_path):
    """What a sparse phase has pruned stays so where its weights are shared at once."""
    settings = CompressSettings(phase="sparse-iter-1", layers=("*=0",), bits=(4,), epochs=1)
    result, file = make(class_run, tmp_path / "a.dsdz", settings)
    [_, sparse, *_] = class_run.read_phases()
    assert sparse["name"] == "Sparse Iter 1" and result.reference["dev"] == sparse["dev"]
    parent = load_checkpoint(class_run.weights("Sparse Iter 1")).tensors
    dense = load_checkpoint(result.folder.weights("Dense")).tensors
    decoded = read_compressed(file.path).state_dict()
    for name in result.step.bits:
        assert torch.equal(dense[name], parent[name])
        assert torch.equal(decoded[name] == 0, parent[name] == 0)
    assert any((parent[name] == 0).any() for name in result.step.bits)
    file.path.unlink()
    for same in (CompressSettings(), replace(settings, phase="Sparse Iter 1")):
        make(class_run, tmp_path / "a.dsdz", same, resume=True)
    with pytest.raises(RunFolderError, match=r"other settings \(phase: Sparse Iter 1 -> Dense Iter 1\)"):
        make(class_run, file.path, replace(settings, phase="dense iter 1"), resume=True)
    with pytest.raises(RunFolderError, match=f"name the run that it began with, {class_run.path}$"):
        make(result.folder, tmp_path / "again.dsdz")
    with pytest.raises(RunFolderError, match="the compression of .*; resume with it"):
        other = RunFolder(tmp_path / "other")
        shutil.copytree(class_run.path, other.path)
        make(other, file.path, resume=True)


def test_a_phase_that_is_not_there_is_refused_with_those_that_are(class_run, tmp_path):
    with pytest.raises(
        RunFolderError, match="no finished phase is called 'Dense 9'; there are 'Dense Iter 0', "
    ):
        make(class_run, tmp_path / "a.dsdz", CompressSettings(phase="Dense 9"))
    assert not list(tmp_path.iterdir())


def test_the_scan_prunes_what_costs_less_more(made):
    result, _ = made["classification"]
    rows = list(read_json_lines(result.folder.path / "scan.jsonl"))
    [step] = [one for one in read_json_lines(result.folder.path / "steps.jsonl") if one["kind"] == "sparse"]
    assert {row["parameter"] for row in rows} == {"", *step["layers"]}
    assert len(set(step["layers"].values())) > 1  # each its own
    before = load_checkpoint(result.folder.weights("Dense")).tensors
    parent = load_checkpoint(
        RunFolder(Path(read_config(result.folder.config, vision.Config()).start_weights)).weights(
            "Dense Iter 1"
        )
    ).tensors
    assert before.keys() == parent.keys()


def test_what_was_measured_of_another_network_is_measured_anew(class_run, made, tmp_path):
    result, _ = made["classification"]
    scan = read_json_lines(result.folder.path / "scan.jsonl")
    stale = tmp_path / "a.run" / "scan.jsonl"
    stale.parent.mkdir()
    stale.write_text("".join(json.dumps({**row, "dev_loss": row["dev_loss"] + 0.1}) + "\n" for row in scan))
    make(class_run, tmp_path / "a.dsdz")
    assert list(read_json_lines(stale)) == list(read_json_lines(result.folder.path / "scan.jsonl"))


# Going on.


def weights_of(folder: RunFolder) -> dict[str, dict[str, torch.Tensor]]:
    names = [record["name"] for record in folder.read_phases()]
    return {name: load_checkpoint(folder.weights(name)).tensors for name in names}


def streams(path: Path) -> bytes:
    file = read_compressed(path)
    return path.read_bytes()[file.header_bytes :]


@pytest.fixture
def saving_often(class_run, tmp_path):
    """A parent whose compression saves after every step."""
    copy = RunFolder(tmp_path / "parent")
    shutil.copytree(class_run.path, copy.path)
    text = copy.config.read_text().replace("checkpoint_minutes = 5.0", "checkpoint_minutes = 0.0")
    assert "checkpoint_minutes = 0.0" in text
    copy.config.write_text(text)
    return copy


def test_killed_again_and_again_it_comes_to_the_same_file(saving_often, tmp_path):
    settings = CompressSettings(sparsity=0.7, steps=2, epochs=3)
    unbroken, _ = make(saving_often, tmp_path / "unbroken.dsdz", settings)
    out = tmp_path / "broken.dsdz"
    folder = RunFolder(tmp_path / "broken.run")
    flags = ["--sparsity", "0.7", "--steps", "2", "--epochs", "3", "--device", "cpu"]

    def is_within(phase: str) -> bool:
        progress = folder.read_progress()
        return progress is not None and progress["phase"] == phase

    moments = [
        lambda: (folder.path / "scan.jsonl").is_file(),
        lambda: is_within("Pruned 2"),
        lambda: is_within("Shared 1"),
    ]
    log = tmp_path / "log"
    command = ["compress", str(saving_often.path), "--out", str(out), "--resume", *flags]
    for moment in moments:
        process = fork(log, cli.main, command)
        until = time.monotonic() + 120
        try:
            while not moment():
                assert process.is_alive() and time.monotonic() < until, log.read_text()
                time.sleep(0.01)
        finally:
            with suppress(ProcessLookupError):  # where it ended by itself, which is an error
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        assert not out.exists()
    process = fork(log, cli.main, command)
    process.join(timeout=240)
    process.kill()  # where it hangs
    process.join()
    assert process.exitcode == 0, log.read_text()
    mine, theirs = weights_of(folder), weights_of(unbroken.folder)
    assert mine.keys() == theirs.keys() and {"Pruned 2", "Shared 1"} < mine.keys()
    for phase, tensors in theirs.items():
        assert all(torch.equal(one, mine[phase][name]) for name, one in tensors.items()), phase
    assert streams(out) == streams(tmp_path / "unbroken.dsdz")


def test_a_finished_one_writes_its_file_again_and_trains_nothing(made, runs, caplog):
    result, file = made["classification"]
    before = file.path.read_bytes()
    time_of_checkpoint = (result.folder.checkpoints / "last.safetensors").stat().st_mtime_ns
    file.path.unlink()
    with caplog.at_level("INFO"):
        make(runs["classification"], file.path, CompressSettings(), resume=True)
    assert "the 3 phases planned so far are trained already" in caplog.text and "resuming" not in caplog.text
    assert file.path.read_bytes() == before
    assert (result.folder.checkpoints / "last.safetensors").stat().st_mtime_ns == time_of_checkpoint


def test_it_goes_on_with_its_own_settings_alone(made, runs):
    _, file = made["classification"]
    with pytest.raises(RunFolderError, match=r"begun with other settings \(sparsity: 0.8 -> 0.9\)"):
        make(runs["classification"], file.path, CompressSettings(sparsity=0.9), resume=True)
    with pytest.raises(RunFolderError, match="the compression of "):
        make(runs["speech"], file.path, resume=True, run_folder=made["captions"][0].folder.path)


# What cannot be compressed.


def test_a_file_that_is_there_is_not_overwritten(made, runs, tmp_path):
    _, file = made["classification"]
    with pytest.raises(RunFolderError, match="there is such a file already; take another --out"):
        make(runs["classification"], file.path)
    with pytest.raises(RunFolderError, match="there is a run already; go on with --resume"):
        make(
            runs["classification"], tmp_path / "other.dsdz", run_folder=made["classification"][0].folder.path
        )


def test_going_on_with_nothing_overwrites_no_file(made, runs, tmp_path):
    other = tmp_path / "other.dsdz"
    shutil.copy(made["classification"][1].path, other)
    with pytest.raises(RunFolderError, match="there is such a file already"):
        make(runs["classification"], other, resume=True)


def test_a_place_where_nothing_can_be_written_is_refused_before_training(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file/a\.dsdz: cannot be written \(.*\); take another --out"):
        make(runs["classification"], tmp_path / "file" / "a.dsdz", run_folder=tmp_path / "a.run")
    assert not (tmp_path / "a.run").exists()


def test_a_network_that_comes_with_the_package_is_no_run(tmp_path):
    with pytest.raises(
        RunFolderError, match="mnist-lenet300: comes with the package, compressed already; name"
    ):
        compress(Compress(run=Path("mnist-lenet300"), out=tmp_path / "a.dsdz"), Console(quiet=True))


def test_more_than_a_header_should_say_is_refused_before_training(runs, tmp_path):
    about = tmp_path / "about.toml"
    about.write_text(f'title = "{"long " * 20_000}"')
    with pytest.raises(ValueError, match=r"about\.toml: larger than 65,536 bytes; shorten it"):
        make(runs["classification"], tmp_path / "a.dsdz", about=about)
    assert not (tmp_path / "a.run").exists()


def test_the_file_says_what_zstd_makes_of_the_weights_before_they_shared_values(made, capsys):
    result, file = made["classification"]
    weights = load_checkpoint(result.folder.weights("Pruned 1")).tensors.values()
    of_pruned = sum(zstd_bytes(one) for one in weights)
    assert file.header["zstd_pruned_bytes"] == of_pruned
    cli.main(["inspect", str(file.path)])
    said = capsys.readouterr().out
    assert f"pruned weights, zstd {of_pruned:,}" in " ".join(said.split())


def test_several_processes_are_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="is one process; start it without torchrun"):
        make(runs["classification"], tmp_path / "a.dsdz")
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_is_refused(made, runs, tmp_path):
    _, file = made["classification"]
    with pytest.raises(RunFolderError, match="a compressed network cannot be compressed again"):
        make(RunFolder(file.path), tmp_path / "again.dsdz")
    with pytest.raises(RunFolderError, match="not a run folder"):
        make(RunFolder(tmp_path), tmp_path / "again.dsdz")
    with pytest.raises(RunFolderError, match="a run of seqdsd compress; name the run that it began with"):
        make(made["classification"][0].folder, tmp_path / "again.dsdz")
    with pytest.raises(RunFolderError, match="a run of something else than seqdsd compress"):
        make(runs["speech"], tmp_path / "a.dsdz", run_folder=runs["speech"].path, resume=True)
    with pytest.raises(ValueError, match=r"a name that ends in \.dsdz"):
        asked(runs["speech"], tmp_path / "model.zip")


def test_a_run_that_is_not_finished_is_refused(class_run, tmp_path):
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(class_run.path, copy.path)
    copy.write_phases(copy.read_phases()[:2])
    with pytest.raises(
        RunFolderError, match="not finished; go on with python -m seqdsd.recipes.vision --resume"
    ):
        make(copy, tmp_path / "a.dsdz")


def test_data_that_are_gone_are_asked_for_and_found_where_they_are_said_to_be(class_run, tmp_path):
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(class_run.path, copy.path)
    config = read_config(copy.config, vision.Config())
    provenance = copy.config.read_text().partition("[provenance]")[2]
    moved = to_toml(replace(config, data=tmp_path / "gone"))
    copy.config.write_text(f"{moved}\n[provenance]{provenance}")
    with pytest.raises(RunFolderError, match=r"gone: no data there, where those of .* were; .* by --data"):
        make(copy, tmp_path / "a.dsdz")
    with pytest.raises(RunFolderError, match="nowhere: no data there$"):
        make(copy, tmp_path / "a.dsdz", data=tmp_path / "nowhere")
    assert not (tmp_path / "a.run").exists()
    result, _ = make(copy, tmp_path / "a.dsdz", data=config.data)
    assert result.phase["name"] == "Shared 1"


def test_a_layer_that_matches_nothing_is_refused_before_anything_is_written(class_run, tmp_path):
    with pytest.raises(ValueError, match="layers: 'fc9' matches no tensor"):
        make(class_run, tmp_path / "a.dsdz", CompressSettings(layers=("fc9=0.5",)))
    assert not list(tmp_path.glob("a.*")) or not RunFolder(tmp_path / "a.run").config.exists()


def test_its_run_is_not_gone_on_with_as_another(made):
    result, _ = made["classification"]
    config = read_config(result.folder.config, vision.Config())
    with pytest.raises(ValueError, match="a run of seqdsd compress; go on with seqdsd compress"):
        vision.run(config, resume=True, console=Console(quiet=True))


def test_stopped_while_a_first_step_is_written_it_begins_as_it_is_asked(class_run, tmp_path, monkeypatch):
    """A step that was written without its settings would be taken into a compression that was asked otherwise."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("seqdsd.recipes.compressing.run.write_atomically", stop)
        make(class_run, tmp_path / "a.dsdz")
    make(class_run, tmp_path / "a.dsdz", replace(QUICK, sparsity=0.5), resume=True)
    [step] = [one for one in read_json_lines(tmp_path / "a.run" / "steps.jsonl") if one["kind"] == "sparse"]
    assert step["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_a_mask_that_is_gone_is_named(made, runs, tmp_path):
    """Without it pruned weights would share values with others."""
    result, _ = made["classification"]
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(result.folder.path, copy.path)
    first = next(iter(read_json_lines(copy.path / "steps.jsonl")))
    (copy.path / "steps.jsonl").write_text(json.dumps(first) + "\n")
    copy.mask("Pruned 1").unlink()
    latest = load_checkpoint(copy.checkpoints / "last.safetensors")
    state = {**latest.state, "phases": latest.state["phases"][:2], "records": latest.state["records"][:2]}
    for path in copy.checkpoints.glob("last*"):
        path.unlink()
    save_latest(copy.checkpoints, replace(latest, state=state))
    with pytest.raises(ValueError, match=copy.mask("Pruned 1").name):
        make(runs["classification"], tmp_path / "a.dsdz", resume=True, run_folder=copy.path)


def test_damaged_steps_are_named(made, runs, tmp_path):
    result, _ = made["classification"]
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(result.folder.path, copy.path)
    (copy.path / "steps.jsonl").write_text(json.dumps({"kind": "sparse"}) + "\n")
    with pytest.raises(RunFolderError, match=r"steps\.jsonl:1"):
        make(runs["classification"], tmp_path / "a.dsdz", resume=True, run_folder=copy.path)
    (copy.path / "steps.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"steps\.jsonl: 0 steps, but 2 were begun"):
        make(runs["classification"], tmp_path / "a.dsdz", resume=True, run_folder=copy.path)


def test_a_file_that_does_not_give_back_the_weights_is_not_left(made, tmp_path):
    result, _ = made["classification"]
    name = next(iter(result.shared))
    other = replace(result.shared[name], codebook=result.shared[name].codebook * 2)
    with pytest.raises(RuntimeError, match="does not give back the weights"):
        write_checked(tmp_path / "a.dsdz", replace(result, shared={**result.shared, name: other}), {})
    assert not (tmp_path / "a.dsdz").exists()


def test_the_command_says_what_came_out_and_the_plan_trains_nothing(runs, tmp_path, capsys):
    run, out = runs["classification"].path, tmp_path / "model.dsdz"
    cli.main(["compress", str(run), "--out", str(out), "--dry-run", "--bits", "5"])
    said = capsys.readouterr().out
    assert "as dev says" in said and "5 bits" in said and not list(tmp_path.iterdir())
    flags = ["--sparsity", "0.8", "--steps", "1", "--bits", "4", "--epochs", "1", "--device", "cpu"]
    cli.main(["compress", str(run), "--out", str(out), *flags])
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size:,} bytes" in said and "seqdsd inspect" in said
    assert "seqdsd classify" in said
