from dataclasses import replace
from pathlib import Path

import pytest

from seqdsd.config import to_toml
from seqdsd.engine import AdamWSettings, AdaptiveSettings, NesterovSettings
from seqdsd.recipes import neuraltalk
from seqdsd.recipes.catalog import RECIPES
from seqdsd.recipes.command import parse_command
from seqdsd.records import RunFolder, RunFolderError, write_atomically
from seqdsd.studies.arms import ARMS, make_arms, make_jobs, new_epochs, own_annealing

DS1 = RECIPES["ds1"]


@pytest.fixture
def common(tiny_ds1):
    """Two rounds of phases that all differ in length."""
    return tiny_ds1(
        Path("corpus"),
        Path("unused"),
        iters=2,
        epochs=(7, 5, 4, 3, 2),
        learning_rates=(8e-3, 5e-3, 3e-3, 1e-3, 3e-4),
        sparsities=(0.5, 0.25),
    )


def arms_of(common, *wanted, anneal=None):
    return {arm.name: arm for arm in make_arms(common, wanted or ARMS, baseline_anneal=anneal)}


def jobs_of(common, *wanted, seeds=(0,), out=Path("out")):
    arms = make_arms(common, wanted or ARMS, baseline_anneal=None)
    return make_jobs(arms, seeds, recipe=DS1, settings=out / "common.toml", out=out, common=common)


# Which arms, and what each is.


@pytest.mark.parametrize(
    ("iters", "wanted", "expected"),
    [
        (2, ARMS, ["dense", "dsd", "dsdsd", "llr", "baseline"]),
        (3, ["baseline", "dsdsd"], ["dense", "dsd", "dsdsd", "baseline"]),
        (2, ["llr"], ["dense", "llr"]),
        (2, ["baseline", "dsd"], ["dense", "dsd", "baseline"]),
        (2, ["baseline"], ["baseline"]),
        (1, ARMS, ["dense", "dsd", "llr", "baseline"]),
        (1, ["dsdsd"], ["dense", "dsd"]),
    ],
)
def test_arms_and_what_they_begin_with_come_in_the_order_of_their_needs(common, iters, wanted, expected):
    arms = make_arms(replace(common, iters=iters), wanted, baseline_anneal=None)
    assert [arm.name for arm in arms] == expected
    for place, arm in enumerate(arms):
        assert arm.takes_over is None or arm.takes_over in expected[:place]


def test_the_phases_of_each_arm(common):
    schedules = {name: arm.config(common).schedule for name, arm in arms_of(common).items()}
    names = ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1", "Sparse Iter 2", "Dense Iter 2"]
    for arm, number in (("dense", 1), ("dsd", 3), ("dsdsd", 5)):
        assert [phase.name for phase in schedules[arm]] == names[:number]
    assert schedules["dsd"].phases == schedules["dsdsd"].phases[:3]
    assert schedules["dense"].phases == schedules["llr"].phases[:1] == schedules["dsd"].phases[:1]
    rates = [phase.learning_rate for phase in schedules["llr"]]
    assert rates == [phase.learning_rate for phase in schedules["dsdsd"]]
    assert [phase.sparsity for phase in schedules["llr"]] == [0] * 5
    assert [phase.name for phase in schedules["baseline"]] == ["Baseline"]


@pytest.mark.parametrize("iters", [1, 2, 3])
def test_the_fair_arms_have_equal_epochs(common, iters):
    common = replace(common, iters=iters)
    totals = {name: arm.config(common).schedule.total_epochs for name, arm in arms_of(common).items()}
    longest = "dsd" if iters == 1 else "dsdsd"
    assert totals["baseline"] == totals["llr"] == totals[longest] == {1: 16, 2: 21, 3: 25}[iters]


def test_epochs_that_an_arm_trains_itself(common):
    arms = arms_of(common)
    own = {name: new_epochs(arm, arms.values(), common) for name, arm in arms.items()}
    assert own == {"dense": 7, "dsd": 9, "dsdsd": 5, "llr": 14, "baseline": 21}


@pytest.mark.parametrize(
    "optimizer",
    [
        *(NesterovSettings(momentum=0.9, anneal=1.1), NesterovSettings(momentum=0.9)),
        *(AdamWSettings(decay=0.95), AdamWSettings(anneal=1.1)),
    ],
)
def test_flags_give_the_recipe_the_arm_s_settings(common, tmp_path, optimizer):
    """Read by the recipe's own command line."""
    common = replace(common, optimizer=optimizer)
    (tmp_path / "common.toml").write_text(to_toml(common))
    for arm in arms_of(common).values():
        argv = ["--config", str(tmp_path / "common.toml"), *arm.flags()]
        command = parse_command(
            DS1.config_class, prog="", description="", without_data=DS1.without_data, argv=argv
        )
        assert command.settings == arm.config(common), arm.name


# The baseline's own annealing.


def rates_of(config):
    """The learning rate of every epoch, by the rule that ``anneal``'s docstring states."""
    return [
        phase.learning_rate / config.optimizer.anneal**epoch
        for phase in config.schedule
        for epoch in range(phase.epochs)
    ]


@pytest.mark.parametrize("within", [1.0, 1.12])
def test_the_baseline_falls_from_the_ladder_s_first_rate_to_its_last(common, within):
    common = replace(common, optimizer=replace(common.optimizer, anneal=within))
    ladder, baseline = (rates_of(arms_of(common)[name].config(common)) for name in ("dsdsd", "baseline"))
    assert len(baseline) == len(ladder) == 21
    assert baseline[0] == ladder[0] == 8e-3
    assert baseline[-1] == pytest.approx(ladder[-1], rel=1e-4)
    ratios = [after / before for before, after in zip(baseline, baseline[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * 20)


def test_annealing_by_hand(common):
    """Two rates a factor of 8 apart, over four epochs: three steps of 2."""
    common = replace(common, iters=1, epochs=(2, 1, 1), learning_rates=(0.8, 0.8, 0.1))
    assert own_annealing(common) == 2


def test_a_ladder_that_rises_keeps_the_baseline_s_rate(common):
    assert own_annealing(replace(common, learning_rates=(1e-3, 2e-3, 4e-3, 5e-3, 6e-3))) == 1


@pytest.mark.parametrize(
    "optimizer", [AdamWSettings(), AdamWSettings(anneal=1.2), NesterovSettings(curve="cosine")]
)
def test_the_baseline_of_cosines_is_one_of_them_over_all_epochs(common, optimizer):
    common = replace(common, optimizer=optimizer)
    baseline = arms_of(common)["baseline"].config(common)
    assert baseline.optimizer == replace(optimizer, anneal=1.0)
    (phase,) = baseline.schedule
    assert (phase.epochs, phase.learning_rate) == (21, 8e-3)
    assert arms_of(common)["dsd"].config(common).optimizer == optimizer
    assert arms_of(common, anneal=1.3)["baseline"].config(common).optimizer == replace(optimizer, anneal=1.3)
    constant = replace(common, optimizer=AdamWSettings(curve="constant"))
    assert arms_of(constant)["baseline"].anneal == own_annealing(constant) > 1


def test_annealing_can_be_given(common):
    assert arms_of(common, anneal=1.25)["baseline"].config(common).optimizer.anneal == 1.25
    assert arms_of(common, anneal=1.0)["baseline"].config(common).optimizer.anneal == 1
    assert arms_of(common, anneal=1.25)["dsd"].config(common).optimizer == common.optimizer


def test_captioners_have_an_annealing_too():
    common = neuraltalk.Config(optimizer=AdaptiveSettings(kind="adam"))
    baseline = arms_of(common)["baseline"].config(common)
    assert baseline.optimizer == AdaptiveSettings(kind="adam", anneal=own_annealing(common))
    assert baseline.optimizer.anneal == pytest.approx(100 ** (1 / 34), rel=1e-5)  # 1e-3 to 1e-5, 35 epochs


# What cannot be asked for.


@pytest.mark.parametrize(
    ("changes", "wanted", "anneal", "message"),
    [
        (
            {},
            ["dsd", "dds", "lr"],
            None,
            "--arms: there is no arm dds, lr; choose of baseline, llr, dsd, dsdsd",
        ),
        ({}, ["dense"], None, "there is no arm dense"),
        ({"iters": 0}, ARMS, None, r"at least one round \(--iters 1\), got 0"),
        ({}, ARMS, 0.9, "--baseline-anneal: anneal must be at least 1, got 0.9"),
        ({}, ARMS, float("nan"), "--baseline-anneal: anneal must be at least 1, got nan"),
    ],
)
def test_what_cannot_be_compared(common, changes, wanted, anneal, message):
    with pytest.raises(ValueError, match=message):
        make_arms(replace(common, **changes), wanted, baseline_anneal=anneal)


# The runs.


def test_a_job_an_arm_and_seed_each_after_what_it_needs(common):
    jobs = jobs_of(common, seeds=(3, 1))
    names = ["dense", "dsd", "dsdsd", "llr", "baseline"]
    assert [job.name for job in jobs] == [f"seed-{seed}/{name}" for seed in (3, 1) for name in names]
    assert [job.needs for job in jobs[:5]] == [None, "seed-3/dense", "seed-3/dsd", "seed-3/dense", None]
    assert [job.epochs for job in jobs[:5]] == [7, 9, 5, 14, 21]
    assert [job.folder.path for job in jobs[:2]] == [Path("out/seed-3/dense"), Path("out/seed-3/dsd")]
    flags = ["--seed", "3", "--out", "out/seed-3/dsd", "--resume", "--start-from", "out/seed-3/dense"]
    assert list(jobs[1].command[-7:]) == flags and "--start-from" not in jobs[0].command
    assert not any(job.is_done for job in jobs)


@pytest.fixture
def write_run(phase_records):
    def write(folder, config, num_phases):
        folder.path.mkdir(parents=True)
        folder.config.write_text(to_toml(replace(config, out=folder.path)))
        folder.write_phases(phase_records(list(config.schedule)[:num_phases]))
        write_atomically(folder.checkpoints / "last.safetensors", "to go on from")

    return write


def test_only_complete_runs_are_done(common, write_run, tmp_path):
    arms = arms_of(common)
    for name, num_phases in (("dense", 1), ("dsd", 3), ("dsdsd", 4), ("baseline", 1)):
        config = replace(arms[name].config(common), seed=5)
        write_run(RunFolder(tmp_path / "seed-5" / name), config, num_phases)
    done = {job.name for job in jobs_of(common, seeds=(5, 6), out=tmp_path) if job.is_done}
    assert done == {"seed-5/dense", "seed-5/dsd", "seed-5/baseline"}


def test_a_finished_run_of_another_length_or_annealing_is_refused(common, write_run, tmp_path):
    """Else a comparison's runs would differ, and nobody would know."""
    baseline = arms_of(common, anneal=1.5)["baseline"].config(common)
    write_run(RunFolder(tmp_path / "seed-0" / "baseline"), baseline, 1)
    with pytest.raises(RunFolderError, match=r"seed-0/baseline: .* \(optimizer\.anneal: 1\.5 -> 1\.17"):
        jobs_of(common, out=tmp_path)
    with pytest.raises(RunFolderError, match=r"seed-0/baseline: .* \(iters: 2 -> 3"):
        jobs_of(replace(common, iters=3), out=tmp_path)
