"""What the weights that a redense phase restores begin with, and how far the records say that they have come back."""

import copy
import signal

import pytest
import torch

from seqdsd.engine import StopRequested, load_checkpoint
from seqdsd.records import RunFolder
from seqdsd.sparsity import MaskSet, Schedule

STARTS = ("zero", "former", "fresh")
STEPS = [(3, 2), (4, 0), (4, 1), (5, 2)]
"""The sparse phase's last, the redense phase's first two and its last: (epoch, step) of 3 phases of 2 epochs."""


class Killed(BaseException):
    """As good as SIGKILL, at a chosen place: nothing of ours catches it."""


def handed_on(folder, phase):
    return load_checkpoint(RunFolder(folder).weights(phase)).tensors


def pruned_of(folder):
    """By layer, which weights the first round has pruned."""
    masks = load_checkpoint(RunFolder(folder).mask("Sparse Iter 1")).tensors
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), *[torch.nn.Identity()] * 3, torch.nn.Linear(16, 1))
    return {name: ~mask for name, mask in MaskSet.from_state_dict(model, masks).masks.items()}


def without_seconds(records):
    return [
        {name: value for name, value in record.items() if not name.endswith("seconds")} for record in records
    ]


@pytest.fixture
def train(start, make_task):
    """Train a run whose restored weights begin so; the task has the network of the end."""

    def run(name, restored_start="zero", *, at_step=None, **settings):
        task = make_task()
        if at_step is not None:
            task.at_step = lambda epoch, index, batch: at_step(task, epoch, index)
        records = start(
            task,
            name,
            restored_start=restored_start,
            make_fresh=lambda: make_other(make_task),
            **settings,
        )
        return task, records

    return run


def make_other(make_task):
    """The network with other draws: torch's generator decides, as in a recipe."""
    model = make_task().model
    for index in (0, 4):
        model[index].reset_parameters()
    return model


@pytest.mark.parametrize("way", STARTS)
def test_at_its_first_step_the_redense_phase_has_its_start(train, tmp_path, way):
    seen = {}

    def look(task, epoch, index):
        if (epoch, index) == (4, 0):
            seen.update(copy.deepcopy(task.model.state_dict()))

    train("run", way, at_step=look)
    sparse, dense = handed_on(tmp_path / "run", "Sparse Iter 1"), handed_on(tmp_path / "run", "Dense Iter 0")
    for name, pruned in pruned_of(tmp_path / "run").items():
        assert torch.equal(seen[name][~pruned], sparse[name][~pruned])
        begun = seen[name][pruned]
        if way == "zero":
            assert not begun.view(torch.int32).any()
        elif way == "former":
            assert torch.equal(begun, dense[name][pruned]) and begun.all()
        else:  # nn.Linear draws from ±1/√(inputs)
            bound = seen[name].shape[1] ** -0.5
            assert begun.all() and begun.abs().max() <= bound and begun.std() > bound / 4
            assert not torch.isin(begun, dense[name]).any()


def test_each_round_has_fresh_draws_of_its_own(train):
    draws = []

    def look(task, epoch, index):
        if (epoch, index) in ((2, 0), (4, 0)):
            draws.append(task.model[0].weight.detach().clone())

    schedule = Schedule.dsd(2, 1, (0.5, 0.5), (0.05, 0.02, 0.01))
    train("run", "fresh", at_step=look, schedule=schedule)
    assert len(draws) == 2 and not torch.isin(draws[0], draws[1]).any()


@pytest.mark.parametrize("way", STARTS)
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_stopped_or_killed_around_it_a_run_ends_with_the_same_bits(train, tmp_path, way, how):
    _, records = train("unbroken", way)
    for number, step in enumerate(STEPS):

        def end(task, epoch, index, step=step):
            if (epoch, index) == step:
                if how == "killed":
                    raise Killed
                signal.raise_signal(signal.SIGINT)

        minutes = 0.0 if how == "killed" else 60.0
        with pytest.raises((StopRequested, Killed)):
            train(f"run{number}", way, at_step=end, checkpoint_minutes=minutes)
        _, again = train(f"run{number}", way)
        assert without_seconds(again) == without_seconds(records)
        for phase in ("Sparse Iter 1", "Dense Iter 1"):
            mine, theirs = (handed_on(tmp_path / name, phase) for name in (f"run{number}", "unbroken"))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_killed_between_two_phases_it_is_restored_anew(train, tmp_path):
    """Before the redense phase's first checkpoint."""

    def die(task, epoch, index):
        if (epoch, index) == (4, 1):
            raise Killed

    train("unbroken", "former")
    with pytest.raises(Killed):
        train("run", "former", at_step=die)
    train("run", "former")
    mine, theirs = (handed_on(tmp_path / name, "Dense Iter 1") for name in ("run", "unbroken"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_run_with_another_start_takes_over_what_comes_before_it(train, tmp_path):
    train("zero", "zero")
    train("unbroken", "former")
    _, records = train("former", "former", start_from="zero")
    assert ["taken_over_from" in record for record in records] == [True, True, False]
    mine, theirs = (handed_on(tmp_path / name, "Dense Iter 1") for name in ("former", "unbroken"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    _, again = train("same", "former", start_from="unbroken")
    assert ["taken_over_from" in record for record in again] == [True, True, True]


def test_without_a_way_to_make_the_network_anew_fresh_is_refused(start, make_task):
    with pytest.raises(
        ValueError, match="restored_start 'fresh': it is not said how the network is made anew"
    ):
        start(make_task(), restored_start="fresh")


# How far they have come back.


@pytest.mark.parametrize("way", STARTS)
def test_the_record_s_shares_are_those_of_the_weights_handed_on(train, tmp_path, way):
    """From the files of weights alone, weight by weight."""
    _, records = train("run", way)
    assert all("restored" not in record and "restored_start" not in record for record in records[:2])
    before, after = (handed_on(tmp_path / "run", phase) for phase in ("Dense Iter 0", "Dense Iter 1"))
    former, now, above = [], [], 0
    for name, pruned in pruned_of(tmp_path / "run").items():
        was, has = before[name][pruned].abs(), after[name][pruned].abs()
        former += was.tolist()
        now += has.tolist()
        above += sum(one > float(was.max()) for one in has.tolist())
    found = records[2]["restored"]
    assert records[2]["restored_start"] == way
    assert found["weights"] == len(former) == 48 + 8
    assert found["former_mean_abs"] == pytest.approx(sum(former) / 56, rel=1e-5)
    assert found["mean_abs"] == pytest.approx(sum(now) / 56, rel=1e-5)
    assert found["share"] == pytest.approx(sum(now) / sum(former), rel=1e-5)
    assert found["above_threshold"] == above and found["above_share"] == pytest.approx(above / 56)
    assert found["is_nearly_sparse"] == (sum(now) / sum(former) < 0.25)
    assert RunFolder(tmp_path / "run").read_phases() == records


@pytest.mark.parametrize(("rate", "is_warned"), [(1e-6, True), (0.1, False)])
def test_a_redense_phase_that_hardly_restores_is_warned_of(start, make_task, rate, is_warned, monkeypatch):
    said = []
    monkeypatch.setattr("seqdsd.engine.progress.RunDisplay.warn", lambda display, text: said.append(text))
    records = start(make_task(), schedule=Schedule.dsd(1, 2, (0.5,), (0.05, 0.02, rate)))
    assert records[2]["restored"]["is_nearly_sparse"] == is_warned
    told = [text for text in said if "nearly sparse" in text]
    assert len(told) == is_warned
    if is_warned:
        assert told[0].startswith(
            "Dense Iter 1 was too short or too slow: this network is still nearly sparse"
        )
        assert "raise that phase's learning rate" in told[0]


def test_without_statistics_of_before_there_is_nothing_to_say(start, make_task, tmp_path):
    """Of a run that a version began which took none."""
    start(make_task(), "parent", schedule=Schedule(Schedule.dsd(1, 2, (0.5,), (0.05, 0.02, 0.01)).phases[:2]))
    RunFolder(tmp_path / "parent").weight_statistics.unlink()
    records = start(make_task(), start_from="parent")
    assert "restored" not in records[2] and records[2]["restored_start"] == "zero"
