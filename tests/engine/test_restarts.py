"""Epochs that have diverged are undone: back to the best weights, with a fresh optimizer and half the rate."""

import math
import signal

import pytest
import torch

from seqdsd.engine import (
    NesterovSettings,
    StopRequested,
    TrainingDiverged,
    load_checkpoint,
    save_checkpoint,
)
from seqdsd.records import RunFolder
from seqdsd.sparsity import Phase, Schedule

SCHEDULE = Schedule.dsd(1, 4, (0.5,), (0.05, 0.02, 0.01))
DENSE = Schedule((Phase("Dense Iter 0", "dense", 6, 0.05),))


@pytest.fixture
def optimizers(monkeypatch):
    """Every optimizer that a run has made."""
    made = []
    make = NesterovSettings.make
    monkeypatch.setattr(NesterovSettings, "make", lambda *args: made.append(make(*args)) or made[-1])
    return made


def explode_at(*steps):
    """Weights far off, as after steps that were too large: neither loss recovers within the epoch."""

    def at_step(task, epoch, index, batch):
        if (epoch, index) in steps:
            with torch.no_grad():
                task.model[4].weight.mul_(1e4)

    return at_step


def starve(epoch_bad, first_bad):
    """No finite loss in an epoch from a step on."""

    def at_step(task, epoch, index, batch):
        if epoch == epoch_bad and index >= first_bad:
            batch.numbers.fill_(math.nan)

    return at_step


def scripted(make_task, *scripts, num_batches=3, scores=None):
    """A task, and the weights at each step before it is made."""
    task, seen = make_task(scores), {}
    task.num_batches = num_batches

    def at_step(epoch, index, batch):
        for script in scripts:
            script(task, epoch, index, batch)
        seen[epoch, index] = {name: one.clone() for name, one in task.model.state_dict().items()}

    task.at_step = at_step
    return task, seen


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_in_which_both_losses_explode_is_undone(start, make_task, optimizers):
    task, seen = scripted(make_task, explode_at((2, 1)))
    rates = {}
    record_weights = task.at_step

    def at_step(epoch, index, batch):
        record_weights(epoch, index, batch)
        rates[epoch] = optimizers[0].param_groups[0]["lr"]
        momenta[epoch, index] = max(float(one["momentum_buffer"].abs().max()) for one in state().values())

    momenta, task.at_step = {}, at_step
    state = lambda: optimizers[0].state  # noqa: E731
    [record] = start(task, schedule=DENSE)
    [restart] = record["restarts"]
    assert restart["epoch"] == 3 and restart["back_to"] in (1, 2) and restart["learning_rate"] == 0.025
    losses = f"training loss {record['train_loss'][2]:.4g}, dev loss {record['dev_loss'][2]:.4g}"
    assert restart["why"] == losses and record["dev_loss"][2] > 100 * record["dev_loss"][1]
    good = seen[restart["back_to"], 0]  # what the epoch after the best one began with
    assert is_same(seen[3, 0], good)
    assert list(rates.values()) == [0.05, 0.05, 0.05, 0.025, 0.025, 0.025]
    assert [step for step, momentum in momenta.items() if momentum == 0] == [(0, 0), (3, 0)]
    assert record["epochs"] == 6 == len(record["dev_score"])  # it counts
    assert record["best_epoch"] != 3 and record["learning_rate"] == 0.05


def test_steps_without_a_finite_loss_undo_an_epoch_too(start, make_task, tmp_path):
    task, seen = scripted(make_task, starve(1, 2), num_batches=15)
    [record] = start(task, schedule=DENSE)
    [restart] = record["restarts"]
    assert (restart["epoch"], restart["back_to"], restart["learning_rate"]) == (2, 1, 0.025)
    assert is_same(seen[2, 0], seen[1, 0]) and not is_same(seen[1, 2], seen[1, 0])
    assert math.isfinite(record["train_loss"][1]) and math.isnan(record["dev_score"][1])
    assert record["nonfinite_steps"] == 10 and all(map(math.isfinite, record["dev_loss"][2:]))
    assert RunFolder(tmp_path / "run").read_phases()[0]["dev_loss"][1] is None


def test_the_first_epoch_of_a_phase_goes_back_to_what_it_began_with(start, make_task):
    """In a sparse phase that is pruned, and stays so."""
    task, seen = scripted(make_task, starve(0, 1), starve(4, 1), num_batches=12)
    records = start(task, schedule=SCHEDULE)
    assert [[one["back_to"] for one in record["restarts"]] for record in records] == [[0], [0], []]
    for epoch in (0, 4):
        assert is_same(seen[epoch + 1, 0], seen[epoch, 0])
        assert not is_same(seen[epoch, 1], seen[epoch, 0])
    zeros = [int((weights["0.weight"] == 0).sum()) for (epoch, _), weights in seen.items() if 4 <= epoch < 8]
    assert set(zeros) == {48}
    assert records[1]["measured_sparsity"] == 0.5


def test_in_a_sparse_phase_the_masks_still_hold_after_a_return(start, make_task):
    task, seen = scripted(make_task, explode_at((5, 1)))
    records = start(task, schedule=SCHEDULE)
    assert [len(record["restarts"]) for record in records] == [0, 1, 0]
    zeros = {step: seen[step]["0.weight"] == 0 for step in seen if 4 <= step[0] < 8}
    assert all(torch.equal(one, zeros[4, 0]) and int(one.sum()) == 48 for one in zeros.values())
    assert not torch.equal(seen[6, 0]["0.weight"], seen[7, 0]["0.weight"])


def test_of_a_redense_phase_s_first_epoch_the_sparse_phase_is_the_measure(start, make_task):
    records = start(scripted(make_task, explode_at((8, 1)))[0], schedule=SCHEDULE)
    assert [[one["epoch"] for one in record["restarts"]] for record in records] == [[], [], [1]]
    assert records[2]["restarts"][0]["back_to"] == 0


def test_after_three_returns_the_run_stops(start, make_task, tmp_path):
    task, seen = scripted(make_task, explode_at(*((epoch, 0) for epoch in range(1, 9))))
    for _ in range(2):  # when it is resumed, too
        with pytest.raises(TrainingDiverged, match=r"in epoch 5 .*at 1/8 of its learning rate; take a lower"):
            start(task, schedule=DENSE)
    now = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors").state["now"]
    assert [one["learning_rate"] for one in now["restarts"]] == [0.025, 0.0125, 0.00625]
    assert max(epoch for epoch, _ in seen) == 4


def test_patience_is_counted_anew_at_half_the_rate(start, make_task):
    """Else a phase of little patience would end with the epoch that is undone, and the lower rate never be tried."""
    task, _ = scripted(make_task, explode_at((1, 0)), scores=[1, 2, 3, 4])
    [record] = start(task, schedule=DENSE, patience=1)
    assert [one["epoch"] for one in record["restarts"]] == [2] and record["best_epoch"] == 1
    assert record["epochs"] == 3


def test_a_phase_without_one_good_epoch_stops_the_run(start, make_task, tmp_path):
    task, _ = scripted(make_task, starve(0, 1), starve(1, 1), num_batches=12)
    for _ in range(2):
        with pytest.raises(TrainingDiverged, match="all of Dense Iter 0's 2 epochs have diverged"):
            start(task, schedule=Schedule((Phase("Dense Iter 0", "dense", 2, 0.05),)))
    assert RunFolder(tmp_path / "run").read_phases() == []


def test_what_no_step_has_changed_is_not_undone(start, make_task):
    """The items are to blame: named, at once, and after a return from which nothing came either."""
    with pytest.raises(TrainingDiverged, match=r"10 steps in a row.*item-0-9-0"):
        start(scripted(make_task, starve(0, 0), num_batches=12)[0], "first", schedule=DENSE)
    task, seen = scripted(make_task, starve(1, 1), starve(2, 0), num_batches=12)
    with pytest.raises(TrainingDiverged, match=r"10 steps in a row.*item-2-9-0"):
        start(task, "later", schedule=DENSE)
    assert is_same(seen[2, 9], seen[1, 0])


@pytest.mark.parametrize(
    ("script", "num_batches", "stops"),
    [
        (explode_at((1, 1), (5, 1)), 3, [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2), (5, 2), (6, 0)]),
        (starve(1, 1), 12, [(1, 0), (1, 6), (1, 10), (1, 11), (2, 0)]),
        (starve(4, 2), 12, [(4, 1), (4, 11), (5, 0)]),
    ],
)
def test_stopped_around_a_return_a_run_ends_with_the_same_bits(
    start, make_task, tmp_path, script, num_batches, stops
):
    def run(name, *scripts):
        task, _ = scripted(make_task, script, *scripts, num_batches=num_batches)
        # A rate that sinks: the factor must not be forgotten beside it.
        return start(task, name, schedule=SCHEDULE, optimizer=NesterovSettings(momentum=0.9, anneal=1.2))

    whole = run("unbroken")
    assert any(record["restarts"] for record in whole)
    for number, at in enumerate(stops):

        def stop(task, epoch, index, batch, at=at):
            if (epoch, index) == at:
                signal.raise_signal(signal.SIGINT)

        name = f"run{number}"
        with pytest.raises(StopRequested):
            run(name, stop)
        for mine, theirs in zip(run(name), whole, strict=True):
            for key in ("restarts", "remarks", "train_loss", "dev_loss", "dev_score", "nonfinite_steps"):
                assert repr(mine[key]) == repr(theirs[key]), (at, key)  # NaN is NaN
        for phase in ("dense-iter-0", "sparse-iter-1", "dense-iter-1"):
            paths = [tmp_path / one / "checkpoints" / f"{phase}.safetensors" for one in (name, "unbroken")]
            assert is_same(*(load_checkpoint(path).tensors for path in paths)), (at, phase)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("script", "num_batches", "killed_in"),
    [
        (explode_at((1, 1)), 3, [(1, 2), (2, 0), (2, 1)]),
        (starve(1, 1), 12, [(1, 4), (1, 10), (2, 0), (2, 1)]),
    ],
)
def test_killed_around_a_return_a_run_ends_with_the_same_bits(
    start, make_task, tmp_path, script, num_batches, killed_in
):
    """With a checkpoint after every step: that the epoch is undone is found out again, or was saved with it."""

    def run(name, *scripts, minutes=60.0):
        task, _ = scripted(make_task, *scripts, script, num_batches=num_batches)
        schedule = Schedule((Phase("Dense Iter 0", "dense", 4, 0.05),))
        return start(task, name, schedule=schedule, checkpoint_minutes=minutes)[0]

    whole = run("unbroken")
    assert [one["epoch"] for one in whole["restarts"]] == [2]
    for number, at in enumerate(killed_in):

        def die(task, epoch, index, batch, at=at):
            if (epoch, index) == at:
                raise Killed

        name = f"run{number}"
        with pytest.raises(Killed):
            run(name, die, minutes=0.0)
        again = run(name)
        for key in ("restarts", "train_loss", "dev_loss", "dev_score", "nonfinite_steps"):
            assert repr(again[key]) == repr(whole[key]), (at, key)
        paths = [tmp_path / one / "checkpoints" / "dense-iter-0.safetensors" for one in (name, "unbroken")]
        assert is_same(*(load_checkpoint(path).tensors for path in paths)), at


def test_a_checkpoint_from_before_returns_goes_on(start, make_task, tmp_path):
    """Where it has no weights to go back to, as in a first epoch, the run stops as it did then."""

    def stop(task, epoch, index, batch):
        if (epoch, index) == (0, 2):
            signal.raise_signal(signal.SIGINT)

    def stopped(name):
        with pytest.raises(StopRequested):
            start(scripted(make_task, stop, num_batches=14)[0], name, schedule=DENSE)
        path = tmp_path / name / "checkpoints" / "last.safetensors"
        checkpoint = load_checkpoint(path)
        for field in ("restarts", "remarks", "noted_in_a_row"):
            del checkpoint.state["now"][field]
        for tensor in [one for one in checkpoint.tensors if one.startswith("best/")]:
            del checkpoint.tensors[tensor]
        save_checkpoint(path, checkpoint)

    stopped("good")
    [record] = start(scripted(make_task, num_batches=14)[0], "good", schedule=DENSE)
    assert record["epochs"] == 6
    stopped("bad")
    with pytest.raises(TrainingDiverged, match="10 steps in a row"):
        start(scripted(make_task, starve(0, 3), num_batches=14)[0], "bad", schedule=DENSE)


def test_a_run_that_goes_well_has_nothing_to_say(start, make_task):
    records = start(make_task(), schedule=SCHEDULE)
    assert [record[name] for record in records for name in ("restarts", "remarks")] == [[]] * 6
