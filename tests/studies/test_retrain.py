"""Real retrainings of tiny classifiers, as ``seqdsd retrain`` plans them.

Most are trained in this process, by the commands that ``--submit print`` gives: a process's start takes longer than
such a training.
"""

import io
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from seqdsd.config import read_config, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.recipes import vision
from seqdsd.records import RunFolder
from seqdsd.studies.retrain import retrain

REPOSITORY = Path(__file__).parents[2]
LLR, DSD, SLOWER_LLR, SLOWER = (
    f"{name}_0.005-{rate}" for rate in ("0.005", "0.001") for name in ("llr", "dsd-0.5")
)
LADDERS = ("--learning-rates", "5e-3,5e-3", "5e-3,1e-3")
REWRITTEN = (".lock", "retrain.toml", *(f"{arm}.toml" for arm in (LLR, DSD, SLOWER_LLR, SLOWER)))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, write_classes, tiny_vision):
    """A settings file called after its network."""
    folder = tmp_path_factory.mktemp("retrained")
    config = tiny_vision(
        write_classes(folder / "classes"), folder / "unused", sparsities=(0.5,), network="lenet300"
    )
    (folder / "lenet300.toml").write_text(to_toml(config))
    return folder / "lenet300.toml"


def ask(settings, out, *flags):
    """``seqdsd retrain``; what it printed."""
    console = Console(file=io.StringIO(), width=150)
    retrain([str(settings), "--out", str(out), *flags], console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def commands():
    """The runs that are left, by name: the recipe's arguments."""

    def of(settings, out, *flags):
        with pytest.MonkeyPatch.context() as patch:
            printed = io.StringIO()
            patch.setattr("sys.stdout", printed)
            ask(settings, out, "--submit", "print", *flags)
        lines = printed.getvalue().splitlines()[1:]
        names = [line.removeprefix("# ").split(",")[0] for line in lines[::2]]
        return {name: shlex.split(line)[3:] for name, line in zip(names, lines[1::2], strict=True)}

    return of


@pytest.fixture(scope="module")
def train(commands):
    """Train what is left, here; the names of the runs."""

    def train(settings, out, *flags):
        left = commands(settings, out, *flags)
        for arguments in left.values():
            vision.main(arguments)
        return list(left)

    return train


@pytest.fixture(scope="module")
def study(settings, train, tmp_path_factory):
    """Two parents, two repeats, two ladders: (folder, names of the runs in the order in which they were trained)."""
    out = tmp_path_factory.mktemp("studies") / "study"
    return out, train(settings, out, "--num-parents", "2", "--repeats", "2", *LADDERS)


@pytest.fixture
def copied(study, tmp_path):
    """A copy that may be changed, where the study was."""
    shutil.copytree(study[0], tmp_path / "kept")
    yield study[0]
    shutil.rmtree(study[0])
    shutil.copytree(tmp_path / "kept", study[0])


def folder_of(out, parent, repeat, arm):
    return RunFolder(out / f"parent-{parent}" / f"repeat-{repeat}" / arm)


def records(out, parent, repeat, arm):
    return folder_of(out, parent, repeat, arm).read_phases()


def weights(folder, phase):
    return load_checkpoint(folder.weights(phase)).tensors


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is trained. All of these read one study, which the first to run waits for.


def test_each_parent_has_all_arms_in_all_repeats_the_first_repeat_of_all_parents_first(study):
    arms = [LLR, DSD, SLOWER_LLR, SLOWER]
    expected = ["parent-0/dense", *(f"parent-0/repeat-0/{arm}" for arm in arms)]
    expected += ["parent-1/dense", *(f"parent-1/repeat-0/{arm}" for arm in arms)]
    expected += [f"parent-{parent}/repeat-1/{arm}" for parent in (0, 1) for arm in arms]
    assert study[1] == expected


def test_each_retraining_begins_with_its_parent_s_weights(study):
    out = study[0]
    for parent in (0, 1):
        own = RunFolder(out / f"parent-{parent}" / "dense")
        for repeat in (0, 1):
            for arm in (LLR, DSD, SLOWER_LLR, SLOWER):
                first, *others = records(out, parent, repeat, arm)
                assert (first["name"], first["epochs"]) == ("Dense Iter 0", 0) and len(others) == 2
                assert first["dev"] == own.read_phases()[0]["dev"]
                found = weights(folder_of(out, parent, repeat, arm), "Dense Iter 0")
                assert are_equal(found, weights(own, "Dense Iter 0"))
    parents = [weights(RunFolder(out / f"parent-{parent}" / "dense"), "Dense Iter 0") for parent in (0, 1)]
    assert not are_equal(*parents)


def test_arms_of_a_parent_and_repeat_share_the_seed_and_no_others_do(study):
    out = study[0]
    seeds = {
        (parent, repeat): {
            read_config(folder_of(out, parent, repeat, arm).config, vision.Config()).seed
            for arm in (LLR, DSD, SLOWER_LLR, SLOWER)
        }
        for parent in (0, 1)
        for repeat in (0, 1)
    }
    assert seeds == {(0, 0): {1000}, (0, 1): {1001}, (1, 0): {2000}, (1, 1): {2001}}
    losses = [records(out, 0, repeat, LLR)[1]["train_loss"] for repeat in (0, 1)]
    assert losses[0] != losses[1]


def test_arms_differ_in_what_is_pruned_and_in_their_rates_alone(study):
    phases = {
        arm: [
            (one["sparsity"], one["learning_rate"], one["epochs_planned"])
            for one in records(study[0], 0, 0, arm)[1:]
        ]
        for arm in (LLR, DSD, SLOWER_LLR, SLOWER)
    }
    assert phases == {
        LLR: [(0, 5e-3, 1), (0, 5e-3, 1)],
        DSD: [(0.5, 5e-3, 1), (0, 5e-3, 1)],
        SLOWER_LLR: [(0, 5e-3, 1), (0, 1e-3, 1)],
        SLOWER: [(0.5, 5e-3, 1), (0, 1e-3, 1)],
    }


def test_phases_that_arms_share_are_trained_once(study):
    out = study[0]
    for arm, first, phase in ((SLOWER_LLR, LLR, "LLR Phase 1"), (SLOWER, DSD, "Sparse Iter 1")):
        origins = [one.get("taken_over_from") for one in records(out, 1, 1, arm)]
        origin = str(folder_of(out, 1, 1, first).path)
        assert origins == [origin, origin, None]
        assert are_equal(*(weights(folder_of(out, 1, 1, one), phase) for one in (arm, first)))
    for arm in (LLR, DSD):
        assert not any("taken_over_from" in one for one in records(out, 1, 1, arm))


# Going on.


def test_what_is_finished_is_not_trained_again(settings, study, commands):
    out = study[0]
    assert not commands(settings, out, "--num-parents", "2", "--repeats", "2", *LADDERS)
    assert not commands(settings, out, "--num-parents", "1", "--repeats", "2", *LADDERS[:2])


def test_more_parents_repeats_and_arms_may_be_asked_for_later(settings, study, commands):
    more = ("--num-parents", "3", "--repeats", "3", *LADDERS, "--sparsities", "0.5", "0.3")
    left = commands(settings, study[0], *more)
    arms = 6
    assert len(left) == 1 + 3 * 3 * arms - 2 * 2 * 4
    assert (
        "parent-2/dense" in left
        and "parent-0/repeat-2/" + LLR in left
        and "parent-0/repeat-0/" + LLR not in left
    )
    assert "parent-0/repeat-0/dsd-0.3_0.005-0.005" in left
