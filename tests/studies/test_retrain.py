"""Real retrainings of tiny classifiers, as ``seqdsd retrain`` plans them.

Most are trained in this process, by the commands that ``--submit print`` gives: a process's start takes longer than
such a training.
"""

import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from seqdsd.compression import write_compressed
from seqdsd.config import read_config, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.recipes import vision
from seqdsd.recipes.catalog import RECIPES
from seqdsd.recipes.command import parse_command
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.records.asked_seeds import AskedSeeds, read_asked_seeds
from seqdsd.studies import retrain as command
from seqdsd.studies.retrain import RetrainPlan, retrain

REPOSITORY = Path(__file__).parents[2]
LLR, DSD, SLOWER_LLR, SLOWER = (
    f"{name}_0.005-{rate}" for rate in ("0.005", "0.001") for name in ("llr", "dsd-0.5")
)
LADDERS = ("--learning-rates", "5e-3,5e-3", "5e-3,1e-3")


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


def ask_plan(settings, out, *flags) -> RetrainPlan:
    """What would be trained."""
    return command.read_plan([str(settings), "--out", str(out), *flags], Console(quiet=True))[0]


@pytest.fixture(scope="module")
def commands():
    """The runs that are left, by name: the recipe's arguments."""

    def of(settings, out, *flags):
        with redirect_stdout(io.StringIO()) as printed:
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


def test_retrainings_that_are_added_after_a_look_are_noted(settings, study, commands, capsys):
    first, out = (1000, 1001, 2000, 2001), study[0]
    commands(settings, out, "--num-parents", "4", "--repeats", "2", *LADDERS)
    lines = read_asked_seeds(out)
    assert lines[0] == AskedSeeds(first, ())
    assert {4000, 4001} <= {*lines[-1].seeds} and lines[-1].with_results == first
    assert "came after a look at the result of 4: who adds" in " ".join(capsys.readouterr().err.split())
    commands(settings, out, "--num-parents", "4", "--repeats", "2", *LADDERS)
    assert read_asked_seeds(out) == lines and "a look" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_missing_is_trained_in_a_process_of_its_own_and_the_result_is_printed(
    settings, study, monkeypatch
):
    """To the same bits; and both tests are in the table."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    lost = folder_of(study[0], 1, 1, SLOWER)
    before = weights(lost, "Dense Iter 1")
    shutil.rmtree(lost.path)
    printed = ask(settings, study[0], "--num-parents", "2", "--repeats", "2", *LADDERS, "--jobs", "1")
    assert f"parent-1/repeat-1/{SLOWER}: done" in printed and printed.count(": training ") == 1
    assert are_equal(weights(lost, "Dense Iter 1"), before)
    assert f"{DSD} on {LLR}" in printed or f"{SLOWER} on {SLOWER_LLR}" in printed
    assert "better, " in printed and "of this parent and this test set only" in " ".join(printed.split())
    assert f"seqdsd report {study[0]}" in printed


# Parents from elsewhere.


@pytest.fixture(scope="module")
def parents(study, settings, tmp_path_factory):
    """What can be named: a finished run, and two files."""
    folder, out = tmp_path_factory.mktemp("parents"), study[0]
    run = RunFolder(out / "parent-0" / "dense")
    tensors = dict(weights(RunFolder(out / "parent-1" / "dense"), "Dense Iter 0"))
    save_file(tensors, folder / "theirs.safetensors")
    moved = {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    write_compressed(folder / "small.dsdz", moved, {})
    return [run.path, folder / "theirs.safetensors", folder / "small.dsdz"]


def test_runs_and_files_are_retrained(settings, parents, commands, tmp_path):
    named = ["--parents", *map(str, parents)]
    asked = [*named, "--repeats", "2", "--learning-rates", "5e-3,5e-3"]
    left = commands(settings, tmp_path / "out", *asked)
    assert len(left) == 3 * 2 * 2 and not any("dense" in name for name in left)
    for parent in range(3):
        vision.main(left[f"parent-{parent}/repeat-1/{DSD}"])
    first = weights(folder_of(tmp_path / "out", 0, 1, DSD), "Dense Iter 0")
    assert are_equal(first, weights(RunFolder(parents[0]), "Dense Iter 0"))
    for parent in (1, 2):
        given = records(tmp_path / "out", parent, 1, DSD)[0]["given"]
        assert given["file"] == str(parents[parent]) and len(given["sha256"]) == 64
    assert len(commands(settings, tmp_path / "out", *asked)) == len(left) - 3


def test_a_parent_that_comes_later_is_not_one_that_is_retrained_already(
    settings, parents, commands, tmp_path
):
    asked = ["--repeats", "2", "--learning-rates", "5e-3,5e-3"]
    for arguments in commands(settings, tmp_path / "out", "--parents", str(parents[0]), *asked).values():
        vision.main(arguments)
    twin = changed_copy(parents[0], tmp_path / "twin", lambda run: None)
    with pytest.raises(ValueError, match=r"twin: the same weights as .*dense; a parent counts once"):
        ask(settings, tmp_path / "out", "--parents", str(parents[0]), str(twin), *asked, "--submit", "print")


def changed_copy(run, folder, change):
    shutil.copytree(run, folder)
    change(RunFolder(folder))
    return folder


def test_a_parent_of_another_network_is_refused_by_name(settings, parents, tmp_path):
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: not the weights of this network .* or take others"):
        ask(settings, tmp_path / "out", "--parents", str(parents[0]), str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match=r"parent-0.*: not the weights of this network .*of another shape"):
        ask(settings, tmp_path / "out", "--parents", str(parents[0]), "--", "--hidden-size", "5")
    assert not (tmp_path / "out").exists()


def unfinish(run):
    text = run.config.read_text()
    run.config.write_text(text.replace("iters = 0", "iters = 1"))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("unfinished", r"unfinished: not a finished run; finish it first .*--resume"),
        ("empty", r"empty: no run in it; --parents takes finished runs, and files of weights"),
        ("other", r"other: a run of 'ds1', which 'vision' cannot retrain"),
        ("gone.pt", r"gone\.pt: no such file"),
        ("twice", r"twice: the same weights as .*dense; a parent counts once"),
    ],
)
def test_what_is_no_parent_is_refused_by_name(settings, parents, tmp_path, named, message):
    (tmp_path / "empty").mkdir()
    changed_copy(parents[0], tmp_path / "unfinished", unfinish)
    changed_copy(parents[0], tmp_path / "twice", lambda run: None)
    changed_copy(
        parents[0],
        tmp_path / "other",
        lambda run: run.config.write_text(
            run.config.read_text().replace('recipe = "vision"', 'recipe = "ds1"')
        ),
    )
    with pytest.raises(ValueError, match=message):
        ask(settings, tmp_path / "out", "--parents", str(parents[0]), str(tmp_path / named), "--dry-run")


def test_parents_in_another_order_are_refused(settings, parents, commands, tmp_path):
    asked = ["--repeats", "2", "--learning-rates", "5e-3,5e-3"]
    left = commands(settings, tmp_path / "out", "--parents", *map(str, parents[:2]), *asked)
    vision.main(left[f"parent-0/repeat-0/{LLR}"])
    with pytest.raises(RunFolderError, match=r"parent-0/repeat-0/llr.*other settings \(start_weights: "):
        ask(settings, tmp_path / "out", "--parents", *map(str, parents[1::-1]), *asked)


# Arms.


def test_an_arm_of_one_s_own_comes_with_its_like_without_pruning(settings, study, commands):
    asked = ("--num-parents", "2", "--repeats", "2", *LADDERS, "--arm", "long: --epochs 2 1 3")
    left = commands(settings, study[0], *asked)
    assert {name.rpartition("/")[2] for name in left} == {"llr-long", "long"} and len(left) == 8
    configs = [
        read_config(study[0] / "arms" / f"{arm}.toml", vision.Config()) for arm in ("long", "llr-long")
    ]
    assert [one.method for one in configs] == ["dsd", "llr"] and {one.epochs for one in configs} == {
        (2, 1, 3)
    }
    assert configs[0].sparsities == (0.5,)


def test_arms_that_differ_in_how_weights_are_restored_share_llr_and_the_sparse_phase(
    settings, study, commands
):
    former = "former: --restored-start former --learning-rates 1e-2 5e-3 1e-3"
    left = commands(settings, study[0], "--num-parents", "2", "--repeats", "2", *LADDERS, "--arm", former)
    assert {name.rpartition("/")[2] for name in left} == {"former"}
    arguments = left["parent-1/repeat-0/former"]
    assert arguments[arguments.index("--start-from") + 1] == str(folder_of(study[0], 1, 0, DSD).path)
    plan = ask_plan(settings, study[0].parent / "new", "--num-parents", "1", "--arm", former, *LADDERS)
    assert plan.shared["former"][1] == 1  # the sparse phase's epoch, and not the redense phase's


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--learning-rates", "1e-2"],
            "--learning-rates 0.01: give one for each of the 2 phases after the parent",
        ),
        (["--arm", "no colon"], "--arm: expected 'NAME: FLAGS'"),
        (["--arm", "../up: --epochs 1"], "--arm: expected 'NAME: FLAGS'"),
        (["--arm", "a: --seed 3"], "--seed after --: seqdsd retrain --arm a decides that itself"),
        (["--arm", "a: --method baseline"], "--arm a: --method must be dsd or llr"),
        (["--arm", "a: --sparsities 0.5"], "--arm a: dsd-0.5_0.005-0.002 is there with the same settings"),
        (
            ["--arm", "a: --epochs 3", "--arm", "a: --epochs 4"],
            "--arm a: another is there with the same name",
        ),
        (["--iters", "0"], "a retraining needs at least one round"),
        (["--", "--start-weights", "x"], "--start-weights after --"),
        (["--", "--learning-rates", "1"], "--learning-rates after --"),
    ],
)
def test_what_makes_no_arms_is_refused(settings, tmp_path, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(settings, tmp_path / "out", "--num-parents", "2", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--num-parents", "2", "--repeats", "1"],
            "must be at least 2: one retraining of a parent does not tell",
        ),
        (["--num-parents", "0"], "expected a whole number from 1 to 1000"),
        ([], "one of the arguments --parents --num-parents is required"),
        (["--num-parents", "2", "--parents", "x"], "not allowed with argument"),
    ],
)
def test_a_wrong_command_line_is_refused(settings, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        ask(settings, tmp_path / "out", *flags)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_given_weights_in_the_settings_are_parents_by_another_name(settings, tmp_path):
    (tmp_path / "lenet300.toml").write_text(f'start_weights = "x.pt"\n{settings.read_text()}')
    with pytest.raises(ValueError, match=r"start_weights x\.pt: name what is retrained by --parents instead"):
        ask(tmp_path / "lenet300.toml", tmp_path / "out", "--num-parents", "2")


def test_parents_may_have_begun_with_weights_and_retrainings_do_not(settings, tmp_path):
    (tmp_path / "lenet300.toml").write_text(f'weights = "x.pt"\n{settings.read_text()}')
    plan = ask_plan(tmp_path / "lenet300.toml", tmp_path / "out", "--num-parents", "2")
    assert plan.common.weights == Path("x.pt") and {arm.config.weights for arm in plan.arms} == {None}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_its_commands_as_they_are_meant(name, commands, tmp_path):
    recipe, out = RECIPES[name], tmp_path / "out"
    left = commands(name, out, "--num-parents", "1", "--repeats", "2", "--iters", "1")
    plan = ask_plan(name, out, "--num-parents", "1", "--repeats", "2", "--iters", "1")
    assert len(left) == 1 + 2 * 2
    for arm in plan.arms:
        found = parse_command(
            recipe.config_class,
            prog="",
            description="",
            without_data=recipe.without_data,
            argv=left[f"parent-0/repeat-1/{arm.name}"],
        ).settings
        expected = arm.of(plan.parents[0].weights, 1001)
        assert replace(found, out=expected.out) == expected
        assert found.out == out / "parent-0" / "repeat-1" / arm.name
    parent = parse_command(
        recipe.config_class,
        prog="",
        description="",
        without_data=recipe.without_data,
        argv=left["parent-0/dense"],
    ).settings
    assert (parent.method, parent.iters, parent.seed, parent.start_weights) == ("dsd", 0, 0, None)


# Looking ahead.


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_tells_arms_epochs_and_time(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    printed = ask(
        settings,
        tmp_path / "out",
        "--num-parents",
        "3",
        "--repeats",
        "2",
        *LADDERS,
        "--dry-run",
        "--jobs",
        "1",
    )
    assert not (tmp_path / "out").exists()
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert [LLR, "2", "2", "-", "0.005,", "0.005"] in rows and [
        SLOWER,
        "2",
        "1",
        "0.5",
        "0.005,",
        "0.001",
    ] in rows
    assert (
        "parents: 3, repeats of each arm from each: 2" in printed
        and "runs: 27, of which finished: 0" in printed
        and "What it will be able to find is not known yet" in printed
    )
    epochs = 3 * 2 + 3 * 2 * (2 + 2 + 1 + 1)
    assert any(
        line.startswith("about ") and f" here: {epochs} epochs of " in line for line in printed.splitlines()
    )
