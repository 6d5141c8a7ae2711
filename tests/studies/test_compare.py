"""A real comparison of tiny recognisers, each run in a process of its own, as ``seqdsd compare`` makes it."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqdsd.config import read_config, read_provenance, to_toml
from seqdsd.engine import NesterovSettings, load_checkpoint
from seqdsd.recipes import ds1
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.records.asked_seeds import AskedSeeds, read_asked_seeds
from seqdsd.studies.compare import compare

REPOSITORY = Path(__file__).parents[2]
PHASES = {
    "dense": ["Dense Iter 0"],
    "dsd": ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1"],
    "dsdsd": ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1", "Sparse Iter 2", "Dense Iter 2"],
    "llr": ["Dense Iter 0", "LLR Phase 1", "LLR Phase 2", "LLR Phase 3", "LLR Phase 4"],
    "baseline": ["Baseline"],
}
REWRITTEN = ("comparison.toml", "seeds.jsonl", ".lock")
"""Files that a comparison which goes on writes again, although it trains nothing."""


@pytest.fixture(scope="module", autouse=True)
def importable():
    """By the processes that are started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory, write_tone_corpus, tiny_ds1):
    """A settings file with phases that all differ, called after its recipe."""
    folder = tmp_path_factory.mktemp("compared")
    config = tiny_ds1(
        write_tone_corpus(folder / "tones").folder,
        folder / "unused",
        iters=2,
        epochs=(2, 3, 3, 1, 2),
        learning_rates=(2e-2, 1e-2, 5e-3, 2e-3, 1e-3),
        sparsities=(0.5, 0.25),
        optimizer=NesterovSettings(momentum=0.9, anneal=1.25),
    )
    (folder / "ds1.toml").write_text(to_toml(config))
    return folder / "ds1.toml"


def run(settings, out, *flags, seeds="0"):
    """``seqdsd compare``, two runs at a time; returns what it printed."""
    console = Console(file=io.StringIO(), width=150)
    compare([str(settings), "--out", str(out), "--seeds", seeds, "--jobs", "2", *flags], console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def unbroken(settings, tmp_path_factory, importable):
    """A whole comparison of one seed: (folder, what was printed)."""
    out = tmp_path_factory.mktemp("comparisons") / "unbroken"
    return out, run(settings, out)


@pytest.fixture
def copied(unbroken, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(unbroken[0], tmp_path / "copy")
    return tmp_path / "copy"


def folder_of(out, arm, seed=0):
    return RunFolder(out / f"seed-{seed}" / arm)


def weights(folder, phase):
    return load_checkpoint(folder.weights(phase)).tensors


def assert_same_weights(one, other, phase):
    mine, theirs = weights(one, phase), weights(other, phase)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), phase


def state_of(out):
    """When each file was written last, and how long it is."""
    found = {path.relative_to(out): path.stat() for path in out.rglob("*") if path.is_file()}
    return {path: (one.st_mtime_ns, one.st_size) for path, one in found.items() if path.name not in REWRITTEN}


# What is trained. All of these read one comparison, which the first to run waits for.


@pytest.mark.slow
def test_each_arm_has_a_run_with_its_phases(unbroken):
    out = unbroken[0]
    assert sorted(path.name for path in (out / "seed-0").iterdir()) == sorted(PHASES)
    for arm, phases in PHASES.items():
        assert [record["name"] for record in folder_of(out, arm).read_phases()] == phases
        assert folder_of(out, arm).all_hypotheses(phases[-1])
    sparsities = [record["sparsity"] for record in folder_of(out, "dsdsd").read_phases()]
    assert sparsities == [0, 0.5, 0, 0.25, 0]
    for arm in ("llr", "baseline"):
        assert {record["measured_sparsity"] for record in folder_of(out, arm).read_phases()} == {0}


@pytest.mark.slow
def test_several_processes_can_train_each_run(settings, tmp_path):
    out = tmp_path / "by-two"
    run(settings, out, "--arms", "dsd", "--iters", "1", "--processes-per-run", "2", "--jobs", "1")
    for arm in ("dense", "dsd"):
        folder = folder_of(out, arm)
        assert [record["name"] for record in folder.read_phases()] == PHASES[arm]
        assert read_provenance(folder.config)["processes"] == 2
        said = (out / "logs" / f"seed-0.{arm}.log").read_text()
        assert said.count("Dense Iter 0 ends") == (arm == "dense")  # by one process, and taken over after it


@pytest.mark.slow
def test_shared_phases_are_the_same_to_the_bit_and_trained_once(unbroken):
    out = unbroken[0]
    for arm in ("dsd", "dsdsd", "llr"):
        assert_same_weights(folder_of(out, arm), folder_of(out, "dense"), "Dense Iter 0")
    for phase in PHASES["dsd"]:
        assert_same_weights(folder_of(out, "dsdsd"), folder_of(out, "dsd"), phase)
    trained = {
        arm: [one["name"] for one in folder_of(out, arm).read_phases() if "taken_over_from" not in one]
        for arm in PHASES
    }
    assert trained == {
        "dense": PHASES["dense"],
        "dsd": PHASES["dsd"][1:],
        "dsdsd": PHASES["dsdsd"][3:],
        "llr": PHASES["llr"][1:],
        "baseline": PHASES["baseline"],
    }


@pytest.mark.slow
def test_the_baseline_has_as_many_epochs(unbroken):
    epochs = {
        arm: sum(record["epochs"] for record in folder_of(unbroken[0], arm).read_phases()) for arm in PHASES
    }
    assert epochs == {"dense": 2, "dsd": 8, "dsdsd": 11, "llr": 11, "baseline": 11}


@pytest.mark.slow
def test_all_arms_start_from_the_same_weights(unbroken):
    """Made again from their settings; and so the first epoch of the baseline is that of Dense Iter 0."""
    dense, baseline = (folder_of(unbroken[0], arm) for arm in ("dense", "baseline"))
    tasks = [ds1.make_task(read_config(one.config, ds1.Config())) for one in (dense, baseline)]
    first, second = (task.model.state_dict() for task in tasks)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    records = [one.read_phases()[0] for one in (dense, baseline)]
    for key in ("train_loss", "dev_loss"):
        assert records[0][key][0] == records[1][key][0] and records[0][key][1] != records[1][key][1]


def learning_rates(folder):
    """Of every epoch, as TensorBoard shows them."""
    return [
        event.value
        for event in EventAccumulator(str(folder.tensorboard)).Reload().Scalars("train/learning_rate")
    ]


@pytest.mark.slow
def test_the_baseline_falls_from_the_first_rate_to_the_last(unbroken):
    ladder = learning_rates(folder_of(unbroken[0], "dsdsd"))  # of the phases that it trained itself
    baseline = learning_rates(folder_of(unbroken[0], "baseline"))
    assert ladder == pytest.approx([2e-3, 1e-3, 1e-3 / 1.25])
    assert len(baseline) == 11 and baseline[0] == pytest.approx(2e-2)
    assert baseline[-1] == pytest.approx(1e-3 / 1.25, rel=1e-4)
    assert [after / before for before, after in zip(baseline, baseline[1:], strict=False)] == pytest.approx(
        [(0.04) ** 0.1] * 10, rel=1e-4
    )


@pytest.mark.slow
def test_each_run_says_how_it_came_about(unbroken):
    """And its log what it printed."""
    out = unbroken[0]
    config = read_config(folder_of(out, "dsdsd").config, ds1.Config())
    assert (config.method, config.iters, config.seed) == ("dsd", 2, 0)
    text = folder_of(out, "dsdsd").config.read_text()
    assert f"python -m seqdsd.recipes.ds1 --config {out}/comparison.toml" in text
    assert f"--start-from {out}/seed-0/dsd" in text
    assert "Dense Iter 2 ends" in (out / "logs" / "seed-0.dsdsd.log").read_text()
    threads = {
        line
        for arm in PHASES
        for line in folder_of(out, arm).config.read_text().splitlines()
        if "threads" in line
    }
    assert threads == {f"threads = {max(1, len(os.sched_getaffinity(0)) // 2)}"}


@pytest.mark.slow
def test_the_result_is_printed(unbroken):
    out, printed = unbroken
    for arm in PHASES:
        assert (
            f"seed-0/{arm}: training " in printed and f"seed-0/{arm}: done, last epoch's dev WER" in printed
        )
    for expected in (
        "Dense Iter 2",
        "DSDSD on Baseline",
        "1 seed: DSDSD",
        "the equal-epoch baseline's",
        "against LLR's",
        "no statistics",
        f"seqdsd report {out}",
    ):
        assert expected in printed


# Going on.


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(settings, copied):
    before = state_of(copied)
    printed = run(settings, copied)
    assert state_of(copied) == before
    assert "training" not in printed and "DSDSD on Baseline" in printed


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(settings, unbroken, copied):
    """SIGKILL to the comparison while dsd trains: its run saves and ends by itself, even while it goes on already."""
    shutil.rmtree(copied / "seed-0" / "dsd")
    before = state_of(copied)
    command = [
        sys.executable,
        "-m",
        "seqdsd.cli",
        "compare",
        settings,
        "--out",
        copied,
        "--seeds",
        "0",
        "--jobs",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while folder_of(copied, "dsd").read_progress() is None:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(folder_of(copied, "dsd").read_phases()) < 3, "it was killed too late to show anything"
    printed = run(settings, copied)
    assert "seed-0/dsd: done" in printed and "seed-0/dense: " not in printed
    for arm, phases in PHASES.items():
        for phase in phases:
            assert_same_weights(folder_of(copied, arm), folder_of(unbroken[0], arm), phase)
        losses = [
            [record["train_loss"] for record in folder_of(one, arm).read_phases()]
            for one in (copied, unbroken[0])
        ]
        assert losses[0] == losses[1]
    after = state_of(copied)
    assert {path: after[path] for path in before if path.parts[0] == "seed-0"} == {
        path: state for path, state in before.items() if path.parts[0] == "seed-0"
    }


@pytest.mark.slow
def test_more_seeds_later_train_those_alone_here_by_a_printed_script(
    settings, copied, capsys, monkeypatch, tmp_path_factory
):
    """Whose paths are relative, and which is run from another folder."""
    monkeypatch.chdir(copied.parent)
    before = state_of(copied)
    run(settings, copied.name, "--arms", "baseline", "--submit", "print", seeds="0,1")
    script = capsys.readouterr().out
    assert "# seed-1/baseline" in script and "seed-0/baseline" not in script
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(
        ["sh", "-e"], input=script, text=True, check=True, stdout=subprocess.DEVNULL, cwd=elsewhere
    )
    assert not list(elsewhere.iterdir())
    after = state_of(copied)
    assert {path: after[path] for path in before} == before
    assert {path.parts[:2] for path in after.keys() - before.keys()} == {("seed-1", "baseline")}
    records = [folder_of(copied, "baseline", seed).read_phases()[0] for seed in (0, 1)]
    assert records[0]["train_loss"][0] != records[1]["train_loss"][0]
    assert "training" not in run(settings, copied, "--arms", "baseline", seeds="0,1")


@pytest.mark.slow
def test_seeds_that_are_added_after_a_look_are_kept_and_said(settings, copied, capsys):
    assert read_asked_seeds(copied) == (AskedSeeds((0,), ()),)
    shutil.copytree(copied / "seed-0", copied / "seed-1")
    for path in copied.glob("seed-1/*/config.toml"):
        path.write_text(path.read_text().replace("\nseed = 0\n", "\nseed = 1\n"))
    dry = " ".join(run(settings, copied, "--dry-run", seeds="0,1").split())
    assert "runs: 10, of which finished: 10" in dry and "came after a look" not in dry
    said = "Seeds 2, 3 came after a look at the result of seeds 0, 1"
    dry = " ".join(run(settings, copied, "--dry-run", "--jobs", "1", seeds="1,2,3").split())
    assert said in dry and len(read_asked_seeds(copied)) == 1
    capsys.readouterr()
    for _ in range(2):  # the second time nothing is added
        run(settings, copied, "--submit", "print", seeds="1,2,3")
    assert " ".join(capsys.readouterr().err.split()).count(said) == 1
    assert read_asked_seeds(copied)[1:] == (AskedSeeds((2, 3), (0, 1)),)


# Looking ahead.


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_tells_arms_epochs_and_time(settings, tmp_path):
    printed = run(
        settings, tmp_path / "out", "--dry-run", "--arms", "baseline,dsdsd", "--jobs", "1", seeds="3"
    )
    assert not (tmp_path / "out").exists()
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    for start in (["dense", "1", "2", "2", "0.02"], ["dsd", "3", "8", "6"], ["dsdsd", "5", "11", "3"]):
        assert any(row[: len(start)] == start for row in rows), start
    assert any(row[:5] == ["baseline", "1", "11", "11", "0.02,"] for row in rows)
    assert "after 10 epochs without a better dev score (patience); the baseline trains all" in printed
    assert "runs: 4, of which finished: 0" in printed and "at a time: 1, threads" in printed
    assert "What it will be able to find is not known yet" in printed
    assert any(line.startswith("about ") and " here: 22 epochs of " in line for line in printed.splitlines())


@pytest.mark.slow
def test_a_dry_run_over_a_finished_comparison_has_nothing_to_measure(settings, copied):
    before = state_of(copied)
    printed = run(settings, copied, "--dry-run")
    assert "runs: 5, of which finished: 5" in printed and "measuring" not in printed
    assert state_of(copied) == before


@pytest.mark.slow
def test_a_dry_run_needs_no_file_of_weights_to_begin_with(write_classes, tiny_vision, tmp_path):
    data, gone = write_classes(tmp_path / "classes"), tmp_path / "gone.pt"
    (tmp_path / "resnet8.toml").write_text(to_toml(tiny_vision(data, tmp_path / "unused", weights=gone)))
    printed = run(
        tmp_path / "resnet8.toml", tmp_path / "out", "--dry-run", "--arms", "baseline", "--jobs", "1"
    )
    assert any(line.startswith("about ") and " here: 4 epochs of " in line for line in printed.splitlines())


# What is refused; nothing is lost.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--", "--hidden-size", "16"], r"comparison\.toml: .*\(hidden_size: 32 -> 16\); take another --out"),
        (["--iters", "1"], r"comparison\.toml: .*\(iters: 2 -> 1\)"),
        (["--baseline-anneal", "1"], r"seed-0/baseline: .*\(optimizer\.anneal: 1\.37973 -> 1\.0\)"),
        (["--dry-run", "--", "--patience", "3"], r"comparison\.toml: .*\(patience: 10 -> 3\)"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(settings, copied, flags, message):
    before, toml = state_of(copied), (copied / "comparison.toml").read_text()
    with pytest.raises(RunFolderError, match=message):
        run(settings, copied, *flags)
    assert state_of(copied) == before and (copied / "comparison.toml").read_text() == toml


@pytest.mark.slow
def test_another_recipe_in_the_same_folder_is_refused(copied):
    with pytest.raises(RunFolderError, match=r"comparison\.toml: of runs of 'ds1', among which 'neuraltalk'"):
        run("neuraltalk", copied)


@pytest.mark.slow
def test_a_damaged_run_is_refused_by_name_before_anything_is_trained(settings, copied):
    phases = folder_of(copied, "dsd").phases
    phases.write_text(phases.read_text()[:-9])
    before = state_of(copied)
    with pytest.raises(
        RunFolderError, match=r"seed-0/dsd/phases\.jsonl:3: damaged record .* remove .*seed-0/dsd"
    ):
        run(settings, copied, seeds="0,1")
    assert state_of(copied) == before


@pytest.mark.slow
def test_a_run_that_cannot_be_read_does_not_hide_the_others_results(settings, copied):
    hyps = folder_of(copied, "llr").hypotheses("LLR Phase 4", "test")
    hyps.write_text("{")
    printed = run(settings, copied)
    assert f"not counted: {hyps}:1: damaged record" in printed
    assert "DSDSD on Baseline" in printed and "LLR Phase" not in printed


@pytest.mark.slow
def test_two_at_once_in_a_folder_are_refused(settings, copied):
    with RunFolder(copied).locked(), pytest.raises(RunFolderError, match="is writing here already"):
        run(settings, copied)


def test_slurm_that_is_not_here_is_said(settings, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match='--submit slurm: Could not detect "srun"'):
        run(settings, tmp_path / "out", "--submit", "slurm", "--slurm", "time=5")
    assert not (tmp_path / "out" / "seed-0").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0,1,0"], "a seed comes twice in '0,1,0'"),
        (["--seeds", "0,x"], "expected whole numbers with commas between them, got '0,x'"),
        (["--seeds", "-1"], "--seeds"),
        (["--hidden-size", "7"], r"unknown: --hidden-size 7 (settings of the recipe stand after --)"),
        (["--slurm", "time=3"], "--slurm goes with --submit slurm"),
    ],
)
def test_a_wrong_command_line(settings, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        run(settings, tmp_path / "out", *flags)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arms", "dsd,foo"], "there is no arm foo"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--iters", "0"], "at least one round"),
        (["--", "--seed", "3"], "--seed after --: seqdsd compare decides that itself"),
        (["--", "--dry-run"], "--dry-run after --"),
        (["--", "--epochs", "0"], "epochs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked_for(settings, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run(settings, tmp_path / "out", *flags)
    assert not (tmp_path / "out" / "seed-0").exists()


def test_a_run_s_settings_can_be_compared(settings, tmp_path):
    """Whatever arm it was: method, seed and folder are the comparison's."""
    config = read_config(settings, ds1.Config())
    path = tmp_path / "config.toml"
    path.write_text(to_toml(replace(config, method="llr", seed=7, out=tmp_path / "run"), {"recipe": "ds1"}))
    out = tmp_path / "out"
    run(path, out, "--submit", "print")
    assert read_config(out / "comparison.toml", ds1.Config()) == replace(config, out=out)


@pytest.mark.slow
def test_a_comparison_goes_on_with_the_settings_chosen_at_first(tone_corpus, tmp_path):
    """Although the corpus has grown a letter since; what was chosen stays noted, however often it goes on."""
    out = tmp_path / "out"
    asked = ["--arms", "baseline", "--iters", "1", "--", "--data", str(tone_corpus.folder), "--epochs", "1"]
    short = ["--hidden-size", "16", "--batches.num-workers", "0"]
    assert "Chosen for this corpus" in run("ds1", out, *asked, *short)
    first = read_config(out / "comparison.toml", ds1.Config())
    entries = tone_corpus.read_manifest("train")
    tone_corpus.write_manifest("train", [{**one, "text": one["text"].replace("a", "ä")} for one in entries])
    for _ in range(2):
        assert "Chosen for this corpus" not in run("ds1", out, *asked, *short)
        assert read_config(out / "comparison.toml", ds1.Config()) == first
        noted = read_provenance(out / "comparison.toml")
        assert "learning_rates" in noted["chosen_automatically"] and noted["corpus"]["utterances"] == 24
    for other in (["--hidden-size", "17"], [*short, "--preset", "paper"]):
        with pytest.raises(RunFolderError, match="the runs there have other settings"):
            run("ds1", out, *asked, *other)


def test_its_own_rounds_count_where_settings_are_chosen(tone_corpus, tmp_path):
    """Two steps an epoch: one round of 700 epochs a phase is a short training, and two are not."""
    asked = ["--submit", "print", "--", "--data", str(tone_corpus.folder), "--epochs", "700"]
    assert "no masks: 4,200 steps in all" in run("ds1", tmp_path / "one", "--iters", "1", *asked)
    assert "masked spectrograms" in run("ds1", tmp_path / "two", *asked)
    one, two = (read_config(tmp_path / name / "comparison.toml", ds1.Config()) for name in ("one", "two"))
    assert (one.iters, one.augment.spec_augment) == (1, False)
    assert (two.iters, two.augment.spec_augment) == (2, True)


def test_before_a_run_has_begun_the_corpus_is_measured_again(tone_corpus, tmp_path):
    asked = ["--submit", "print", "--", "--data", str(tone_corpus.folder)]
    run("ds1", tmp_path / "out", *asked)
    entries = tone_corpus.read_manifest("train")
    tone_corpus.write_manifest("train", [{**one, "text": one["text"].replace("a", "ä")} for one in entries])
    run("ds1", tmp_path / "out", *asked)
    assert "ä" in read_config(tmp_path / "out" / "comparison.toml", ds1.Config()).tokenizer.alphabet
