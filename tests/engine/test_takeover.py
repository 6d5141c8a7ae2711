import json

import pytest
import torch

from seqdsd.engine import CheckpointError, StopRequested, load_checkpoint
from seqdsd.records import RunFolder, read_json_lines
from seqdsd.sparsity import Schedule

RATES = (0.05, 0.02, 0.01, 0.004, 0.002)
TWO_ROUNDS = Schedule.dsd(2, 2, (0.5,), RATES)


def first_phases(count):
    return Schedule(TWO_ROUNDS.phases[:count])


def comparable(records):
    ignored = ("taken_over_from", "train_seconds", "evaluate_seconds", "statistics_seconds", "seconds")
    return [{name: value for name, value in record.items() if name not in ignored} for record in records]


def assert_same(one, other):
    """Records, weights at the five moments, hypotheses and weights handed on; but for what time it took."""
    records = one.read_phases()
    assert comparable(records) == comparable(other.read_phases())
    rows = [comparable(read_json_lines(folder.weight_statistics)) for folder in (one, other)]
    assert rows[0] == rows[1]
    for record in records:
        mine, theirs = (load_checkpoint(run.weights(record["name"])).tensors for run in (one, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()
        hyps = [[path.read_text() for path in run.all_hypotheses(record["name"])] for run in (one, other)]
        assert hyps[0] == hyps[1] and len(hyps[0]) == 2


@pytest.mark.parametrize("shared", range(1, 6))
def test_a_run_that_takes_phases_over_ends_as_if_it_had_trained_them(start, make_task, tmp_path, shared):
    start(make_task(), "unbroken", schedule=TWO_ROUNDS)
    start(make_task(), "parent", schedule=first_phases(shared))
    task = make_task()
    records = start(task, "child", schedule=TWO_ROUNDS, start_from="parent")
    assert_same(RunFolder(tmp_path / "child"), RunFolder(tmp_path / "unbroken"))
    origins = [record.get("taken_over_from") for record in records]
    assert origins == [str(tmp_path / "parent")] * shared + [None] * (5 - shared)
    assert {epoch for epoch, _ in task.steps} == set(range(2 * shared, 10))  # nothing is trained twice


def test_a_parent_may_have_gone_another_way_after_the_common_phases(start, make_task, tmp_path):
    start(make_task(), "llr", schedule=TWO_ROUNDS.lower_learning_rate_only())
    records = start(make_task(), "dsd", schedule=TWO_ROUNDS, start_from="llr")
    assert ["taken_over_from" in record for record in records] == [True, False, False, False, False]


def test_the_run_that_trained_a_phase_stays_named(start, make_task, tmp_path):
    start(make_task(), "dense", schedule=first_phases(1))
    start(make_task(), "dsd", schedule=first_phases(3), start_from="dense")
    records = start(make_task(), "dsdsd", schedule=TWO_ROUNDS, start_from="dsd")
    assert [record.get("taken_over_from") for record in records[:4]] == [
        str(tmp_path / "dense"),
        str(tmp_path / "dsd"),
        str(tmp_path / "dsd"),
        None,
    ]


def test_stopped_after_it_took_over_it_goes_on_without_its_parent(start, make_task, tmp_path):
    start(make_task(), "unbroken", schedule=TWO_ROUNDS)
    start(make_task(), "parent", schedule=first_phases(2))
    task = make_task()

    def stop(epoch, index, batch):
        raise KeyboardInterrupt

    task.at_step = stop
    with pytest.raises((KeyboardInterrupt, StopRequested)):
        start(task, "child", schedule=TWO_ROUNDS, start_from="parent")
    (tmp_path / "parent").rename(tmp_path / "gone")
    start(make_task(), "child", schedule=TWO_ROUNDS)
    assert_same(RunFolder(tmp_path / "child"), RunFolder(tmp_path / "unbroken"))


def test_no_common_phase_is_an_error(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(1))
    other = Schedule.dsd(1, 3, (0.5,), RATES)
    with pytest.raises(ValueError, match="has not finished this run's first phase"):
        start(make_task(), "child", schedule=other, start_from="parent")


def test_other_training_data_are_an_error(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(1))
    task = make_task()
    task.fingerprint = "other numbers"
    with pytest.raises(ValueError, match="parent: its phases were trained on other data"):
        start(task, "child", schedule=TWO_ROUNDS, start_from="parent")


def test_another_network_is_an_error(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(1))
    task = make_task()
    task.model = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Linear(2, 1))
    with pytest.raises(ValueError, match="parent: its weights are another network's"):
        start(task, "child", schedule=TWO_ROUNDS, start_from="parent")


def test_damaged_weights_are_named(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(1))
    path = RunFolder(tmp_path / "parent").weights("Dense Iter 0")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="dense-iter-0.safetensors: damaged"):
        start(make_task(), "child", schedule=TWO_ROUNDS, start_from="parent")


def test_records_say_which_phase_is_common_not_the_settings(start, make_task, tmp_path):
    """A parent's phase of another length is another phase, whatever its name."""
    start(make_task(), "parent", schedule=first_phases(1))
    folder = RunFolder(tmp_path / "parent")
    [record] = folder.read_phases()
    folder.phases.write_text(json.dumps({**record, "epochs_planned": 7}) + "\n")
    with pytest.raises(ValueError, match="nothing to take over"):
        start(make_task(), "child", schedule=TWO_ROUNDS, start_from="parent")


def test_a_parent_without_weight_statistics_leaves_the_rounds_their_numbers(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(3))
    RunFolder(tmp_path / "parent").weight_statistics.unlink()  # as a version before them left it
    start(make_task(), "child", schedule=TWO_ROUNDS, start_from="parent")
    rows = list(read_json_lines(RunFolder(tmp_path / "child").weight_statistics))
    assert {(row["round"], row["phase"]) for row in rows} == {(2, "Sparse Iter 2"), (2, "Dense Iter 2")}


def test_a_parent_without_checkpoints_is_named(start, make_task, tmp_path):
    start(make_task(), "parent", schedule=first_phases(1))
    for name in ("last", "previous"):
        (tmp_path / "parent" / "checkpoints" / f"{name}.safetensors").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="parent: its checkpoints are missing"):
        start(make_task(), "child", schedule=TWO_ROUNDS, start_from="parent")
