"""Schedules against the paper's tables, typed in from the paper."""

import math
from dataclasses import replace

import numpy as np
import pytest

from seqdsd.sparsity import Phase, Schedule

NAMES = ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1", "Sparse Iter 2", "Dense Iter 2"]
KINDS = ["dense", "sparse", "redense", "sparse", "redense"]
TABLE_7 = [(0.0, 50, 8e-4), (0.5, 50, 5e-4), (0.0, 50, 3e-4), (0.25, 50, 1e-4), (0.0, 50, 3e-5)]
TABLE_9 = [(0.0, 20, 3e-4), (0.5, 20, 3e-4), (0.0, 20, 3e-5), (0.25, 20, 3e-5), (0.0, 20, 6e-6)]
TABLE_5 = [(0.0, 19, 1e-2), (0.8, 10, 1e-3), (0.0, 6, 1e-4)]


def settings_of(schedule: Schedule) -> list[tuple[float, int, float]]:
    return [(phase.sparsity, phase.epochs, phase.learning_rate) for phase in schedule]


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (Schedule.dsd(), TABLE_7),
        (Schedule.dsd(epochs=20, learning_rates=[3e-4, 3e-4, 3e-5, 3e-5, 6e-6]), TABLE_9),
        (Schedule.dsd(1, epochs=[19, 10, 6], sparsities=[0.8], learning_rates=[1e-2, 1e-3, 1e-4]), TABLE_5),
    ],
)
def test_the_papers_tables(schedule, table):
    assert settings_of(schedule) == table
    assert [phase.name for phase in schedule] == NAMES[: len(table)]
    assert [phase.kind for phase in schedule] == KINDS[: len(table)]
    assert len(schedule) == len(table)


@pytest.mark.parametrize("iters", range(8))
def test_names_kinds_and_order_for_any_number_of_rounds(iters):
    phases = list(Schedule.dsd(iters))
    assert phases[0].name == "Dense Iter 0" and phases[0].kind == "dense"
    for i in range(1, iters + 1):
        sparse, redense = phases[2 * i - 1 : 2 * i + 1]
        assert (sparse.name, sparse.kind) == (f"Sparse Iter {i}", "sparse")
        assert (redense.name, redense.kind) == (f"Dense Iter {i}", "redense")
    assert len(phases) == 2 * iters + 1
    rates = [phase.learning_rate for phase in phases]
    assert rates == sorted(rates, reverse=True)


def test_further_rounds():
    phases = list(Schedule.dsd(4, epochs=[9, 8, 7]))
    assert [phase.learning_rate for phase in phases[5:]] == pytest.approx([9e-6, 2.7e-6, 8.1e-7, 2.43e-7])
    assert [phase.sparsity for phase in phases] == [0, 0.5, 0, 0.25, 0, 0.125, 0, 0.0625, 0]
    assert [phase.epochs for phase in phases] == [9, 8, 7, 7, 7, 7, 7, 7, 7]


def test_one_learning_rate_falls_to_a_tenth_each_time():
    rates = [phase.learning_rate for phase in Schedule.dsd(1, learning_rates=[0.1])]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_longer_lists_are_cut():
    assert settings_of(Schedule.dsd(1)) == TABLE_7[:3]
    assert settings_of(Schedule.dsd(0)) == TABLE_7[:1]


def test_llr_differs_in_pruning_only():
    dsd = Schedule.dsd(2, epochs=[5, 4, 3, 2, 1])
    llr = dsd.lower_learning_rate_only()
    assert [(p.epochs, p.learning_rate) for p in llr] == [(p.epochs, p.learning_rate) for p in dsd]
    assert {(p.kind, p.sparsity) for p in llr} == {("dense", 0.0)}
    assert llr.phases[0] == dsd.phases[0]  # so that both can start from the same dense weights
    assert len({p.name for p in llr}) == 5


def test_the_baseline_has_as_many_epochs():
    """Table 7's baseline: 150 epochs for one round of 50 + 50 + 50, at the first learning rate."""
    baseline = Schedule.dsd(1).equal_epoch_baseline()
    assert baseline.phases == (Phase("Baseline", "dense", 150, 8e-4, 0.0),)
    assert Schedule.dsd(2, epochs=[5, 4, 3, 2, 1]).equal_epoch_baseline().total_epochs == 15


GIVEN = Schedule.dsd(2, epochs=[5, 4, 3, 2, 1]).first_given()


def test_a_first_phase_that_is_given_has_no_epochs_and_the_others_stay_as_they_are():
    whole = Schedule.dsd(2, epochs=[5, 4, 3, 2, 1])
    assert GIVEN.phases[1:] == whole.phases[1:] and GIVEN.phases[0] == replace(whole.phases[0], epochs=0)
    assert [phase.is_given for phase in GIVEN] == [True, False, False, False, False]
    assert GIVEN.total_epochs == 10 and GIVEN.phase_at(0).name == "Sparse Iter 1"


def test_fair_comparisons_begin_with_what_is_given():
    llr, baseline = GIVEN.lower_learning_rate_only(), GIVEN.equal_epoch_baseline()
    assert llr.phases[0] == baseline.phases[0] == GIVEN.phases[0]
    assert [(one.epochs, one.learning_rate) for one in llr] == [
        (one.epochs, one.learning_rate) for one in GIVEN
    ]
    assert baseline.phases[1:] == (Phase("Baseline", "dense", 10, 5e-4),)


def test_only_the_first_phase_can_be_given_and_something_has_to_follow():
    with pytest.raises(ValueError, match="Dense Iter 0 is given, and no phase follows it"):
        Schedule.dsd(0).first_given()
    dense, sparse, redense = GIVEN.phases[:3]
    for phases in ((dense,), (sparse, replace(redense, epochs=0)), (replace(sparse, epochs=0), redense)):
        with pytest.raises(ValueError, match="Iter .: epochs must be at least 1, got 0"):
            Schedule(phases, from_trained=True)
    with pytest.raises(ValueError, match="Dense Iter 0: epochs must be at least 1, got 0"):
        Schedule(GIVEN.phases)
    with pytest.raises(ValueError, match="Sparse Iter 1: epochs must not be negative, got -1"):
        replace(sparse, epochs=-1)
    with pytest.raises(ValueError, match="Dense Iter 0 has no step; leave it out"):
        GIVEN.starts(of=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iters": -1}, "iters must be at least 0, got -1"),
        ({"epochs": 0}, "Dense Iter 0: epochs must be at least 1, got 0"),
        ({"epochs": [3, 0]}, "Sparse Iter 1: epochs"),
        ({"epochs": []}, "epochs must not be empty"),
        ({"sparsities": []}, "sparsities must not be empty"),
        ({"learning_rates": []}, "learning_rates must not be empty"),
        ({"sparsities": [0.5, 1.0]}, r"\[0, 1\)"),
        ({"sparsities": [0.5, 0.0]}, "Sparse Iter 2: a sparse phase cannot have sparsity 0"),
        ({"learning_rates": [1e-3, -1e-4]}, "Sparse Iter 1: learning_rate must be in"),
        ({"learning_rates": [0.0, 1e-3]}, "Dense Iter 0: learning_rate must be in"),
        ({"learning_rates": [math.nan]}, "Dense Iter 0: learning_rate must be in"),
        ({"learning_rates": [math.inf, 1.0]}, "Dense Iter 0: learning_rate must be in"),
        ({"epochs": [1.9]}, "epochs must be a whole number, got 1.9"),
        ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
        ({"learning_rates": [1e-3, 1e-2]}, r"rise at their end \(0.001 to 0.01\).*each of the 5 phases"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule.dsd(**arguments)


@pytest.mark.parametrize("kind", ["dense", "redense"])
def test_only_sparse_phases_prune(kind):
    with pytest.raises(ValueError, match=f"a {kind} phase cannot have sparsity 0.5"):
        Phase("odd", kind, 1, 1e-3, 0.5)


def test_numbers_of_numpy_are_whole_numbers_too():
    epochs = [phase.epochs for phase in Schedule.dsd(1, epochs=[np.int64(2), np.int32(3)])]
    assert epochs == [2, 3, 3] and {type(one) for one in epochs} == {int}
    assert Schedule.dsd(0, epochs=np.int64(4)).total_epochs == 4


def test_a_rising_ladder_is_kept_where_it_is_complete():
    rates = [phase.learning_rate for phase in Schedule.dsd(1, learning_rates=[1e-3, 1e-3, 1e-2])]
    assert rates == [1e-3, 1e-3, 1e-2]
    assert [phase.learning_rate for phase in Schedule.dsd(1, learning_rates=[1e-2, 1e-3, 1e-3])][-1] == 1e-3
    with pytest.raises(ValueError, match="rise"):
        Schedule.dsd(2, learning_rates=[1e-3, 1e-3, 1e-2])


DENSE, SPARSE = Phase("D", "dense", 1, 0.1), Phase("S", "sparse", 1, 0.1, 0.5)
REDENSE = Phase("R", "redense", 1, 0.1)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((), "at least one phase"),
        ((DENSE, SPARSE, replace(SPARSE, sparsity=0.6)), "more than one is called S"),
        ((SPARSE, REDENSE), r"S: a schedule begins with a dense phase.*from_trained=True"),
        ((REDENSE,), "R: a redense phase comes right after a sparse one"),
        ((DENSE, REDENSE), "R: a redense phase comes right after a sparse one"),
        ((DENSE, SPARSE, replace(DENSE, name="E"), REDENSE), "R: a redense phase comes right after"),
    ],
)
def test_what_cannot_be_walked_is_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        Schedule(phases)


def test_trained_weights_may_be_pruned_at_once():
    schedule = Schedule((SPARSE, REDENSE), from_trained=True)
    assert [phase.kind for phase in schedule] == ["sparse", "redense"]
    assert [phase.kind for phase in schedule.lower_learning_rate_only()] == ["dense", "dense"]
    assert [(p.kind, p.epochs) for p in schedule.equal_epoch_baseline()] == [("dense", 2)]


def test_the_phase_of_an_epoch():
    schedule = Schedule.dsd(1, epochs=[2, 1, 3])
    walked = [phase for phase in schedule for _ in range(phase.epochs)]
    assert [schedule.phase_at(epoch) for epoch in range(6)] == walked
    for epoch in (-1, 6):
        with pytest.raises(ValueError, match=rf"epoch must be in \[0, 6\), got {epoch}"):
            schedule.phase_at(epoch)


def test_the_phase_of_a_step_and_of_a_fraction():
    schedule = Schedule.dsd(1, epochs=[2, 1, 3])
    first, second, third = schedule
    assert [schedule.phase_at(epoch) for epoch in (1.9, 2.0, 2.99, 5.5)] == [first, second, second, third]
    assert [schedule.phase_at(share, of=1) for share in (0, 0.33, 0.34, 0.5, 0.999)] == [
        first,
        first,
        second,
        third,
        third,
    ]
    for steps in (6, 7, 60, 61, 10**9 + 7):  # epochs need not be whole numbers of steps
        starts = schedule.starts(of=steps)
        assert starts == tuple(-((-epochs * steps) // 6) for epochs in (0, 2, 3))
        assert [schedule.phase_at(start, of=steps) for start in starts] == [*schedule]
        assert [schedule.phase_at(start - 1, of=steps) for start in starts[1:]] == [first, second]
    with pytest.raises(ValueError, match=r"moment must be in \[0, 60\), got 60"):
        schedule.phase_at(60, of=60)
    with pytest.raises(ValueError, match="2 steps are too few for the 3 phases of 6 epochs"):
        schedule.starts(of=2)


def test_compression_is_pruning_in_steps_then_shared_weights():
    schedule = Schedule.compression([0.5, 0.9, 0.0, 0.0], [1, 4, 5, 6, 7], [0.1, 0.2, 0.3, 0.04, 0.05])
    assert [phase.name for phase in schedule] == ["Dense", "Pruned 1", "Pruned 2", "Shared 1", "Shared 2"]
    assert [phase.kind for phase in schedule] == ["dense", "sparse", "sparse", "shared", "shared"]
    assert schedule.phases[0].is_given and schedule.from_trained
    assert settings_of(schedule)[1:] == [(0.5, 4, 0.2), (0.9, 5, 0.3), (0.0, 6, 0.04), (0.0, 7, 0.05)]


def test_a_compression_without_steps_is_refused():
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        Schedule.compression([], [1], [0.1])
