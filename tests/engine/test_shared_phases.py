"""Phases in which weights share few values, and runs that go on with further phases from any they have had."""

import pytest
import torch

from seqdsd.compression import half_where_safe, share_weights
from seqdsd.engine import NesterovSettings, StopRequested, load_checkpoint
from seqdsd.engine.saving import add_phases, phases_begun
from seqdsd.records import RunFolder
from seqdsd.sparsity import Phase, Rule, Schedule

RULES = {"Pruned": [Rule("0.weight", 0.75), Rule("*", 0)]}
TRAINED = (Phase("Dense", "dense", 2, 0.05), Phase("Pruned", "sparse", 2, 0.02, 0.75))
SCHEDULE = Schedule((*TRAINED, Phase("Shared", "shared", 3, 0.02)))


def sharing(task, *, bits=2, names=("0.weight",)):
    """What of a task's network shares values at a phase's start: these matrices, zeros apart."""

    def share(phase):
        weights = {name: task.model.get_parameter(name) for name in names}
        return {name: share_weights(one, one != 0, bits=bits) for name, one in weights.items()}

    return share


def begin(start, task, name="run", schedule=SCHEDULE, **options):
    return start(task, name, schedule=schedule, rules=RULES, share=sharing(task), **options)


def weights(tmp_path, phase, name="run"):
    return load_checkpoint(RunFolder(tmp_path / name).weights(phase)).tensors


def test_weights_share_few_values_which_are_trained(start, make_task, tmp_path):
    records = begin(start, make_task())
    before, after = (weights(tmp_path, phase)["0.weight"] for phase in ("Pruned", "Shared"))
    codes = share_weights(before, before != 0, bits=2).codes
    assert torch.equal(after == 0, codes == 0)  # pruned weights stay pruned
    for code in (1, 2, 3):
        [value] = after[codes == code].unique()
        assert value != share_weights(before, before != 0, bits=2).codebook[code - 1]
    assert records[-1]["kind"] == "shared" and records[-1]["measured_sparsity"] == 0.75


def test_zeros_are_counted_in_all_that_any_phase_has_pruned(start, make_task):
    rules = {"Pruned": [Rule("0.weight", 0.75)], "Again": [Rule("0.weight", 0.75), Rule("4.weight", 0.5)]}
    again = Phase("Again", "sparse", 1, 0.01, 0.7)
    schedule = Schedule((*TRAINED, again, Phase("Shared", "shared", 1, 0.01)))
    task = make_task()
    share = sharing(task, names=("0.weight", "4.weight"))
    records = start(task, schedule=schedule, rules=rules, share=share)
    zeros = [record["measured_sparsity"] for record in records[1:]]
    both = (0.75 * 96 + 0.5 * 16) / 112
    assert zeros == pytest.approx([0.75, both, both])


def test_what_is_scored_at_the_end_is_rounded_as_a_file_has_it(start, make_task, tmp_path):
    begin(start, make_task())
    assert all(torch.equal(one, half_where_safe(one)) for one in weights(tmp_path, "Shared").values())
    bias = weights(tmp_path, "Pruned")["0.bias"]
    assert not torch.equal(bias, half_where_safe(bias))


@pytest.mark.parametrize("at", [(4, 0), (5, 2), (6, 1)])
def test_stopped_within_it_a_run_goes_on_to_the_same_bits(start, make_task, tmp_path, at):
    momentum = NesterovSettings(momentum=0.9, weight_decay=1e-3)
    begin(start, make_task(), "unbroken", optimizer=momentum)
    task = make_task()

    def stop(epoch, index, batch):
        if (epoch, index) == at:
            raise KeyboardInterrupt

    task.at_step = stop
    with pytest.raises((KeyboardInterrupt, StopRequested)):
        begin(start, task, "broken", optimizer=momentum, checkpoint_minutes=0.0)
    begin(start, make_task(), "broken", optimizer=momentum)
    mine, theirs = (weights(tmp_path, "Shared", name) for name in ("broken", "unbroken"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_without_what_is_shared_the_phase_is_refused(start, make_task):
    with pytest.raises(ValueError, match="Shared: it is not said which weights share"):
        start(make_task(), schedule=SCHEDULE, rules=RULES)


def test_a_run_goes_on_with_further_phases_from_any_it_has_had(start, make_task, tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert phases_begun(folder) == 0
    begin(start, make_task(), schedule=Schedule(TRAINED))
    assert phases_begun(folder) == 2
    add_phases(folder, SCHEDULE, begin_with="Dense")
    assert phases_begun(folder) == 3
    records = begin(start, make_task())
    assert [record["name"] for record in records] == ["Dense", "Pruned", "Shared"]
    assert bool((weights(tmp_path, "Pruned")["0.weight"] == 0).any())
    assert not bool((weights(tmp_path, "Shared")["0.weight"] == 0).any())  # Dense has no zeros


def test_phases_added_to_another_schedule_or_before_its_end_are_refused(start, make_task, tmp_path):
    folder = RunFolder(tmp_path / "run")
    begin(start, make_task(), schedule=Schedule(TRAINED))
    longer = Schedule((Phase("Dense", "dense", 3, 0.05), *SCHEDULE.phases[1:]))
    with pytest.raises(ValueError, match="has not walked"):
        add_phases(folder, longer, begin_with="Dense")
    add_phases(folder, SCHEDULE, begin_with="Pruned")
    further = Schedule((*SCHEDULE.phases, Phase("Shared 2", "shared", 1, 0.01)))
    with pytest.raises(ValueError, match="has not walked"):
        add_phases(folder, further, begin_with="Pruned")
