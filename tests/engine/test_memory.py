import pytest
import torch

from seqdsd.engine.memory import OutOfMemory, try_largest_batch


def test_trying_the_largest_batch_changes_nothing(make_task, fabric):
    task = make_task()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    peak = try_largest_batch(fabric, fabric.setup_module(task.model), task)
    assert all(torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert peak.items == 8 and "largest batch (8 items)" in str(peak)


def test_a_batch_that_does_not_fit_is_refused(make_task, fabric):
    """By a real lack of memory: a petabyte is asked for."""
    task = make_task()
    task.loss = lambda model, batch: torch.empty(2**48).sum()
    with pytest.raises(OutOfMemory, match=r"the largest batch \(8 items\) does not fit into memory"):
        try_largest_batch(fabric, fabric.setup_module(task.model), task)


def test_other_errors_keep_their_words(make_task, fabric):
    task = make_task()

    def loss(model, batch):
        raise RuntimeError("shapes do not fit")

    task.loss = loss
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        try_largest_batch(fabric, fabric.setup_module(task.model), task)


def test_a_run_begins_with_it(make_task, start):
    """Before any training step, and once."""
    task, seen = make_task(), []
    task.largest_batch = lambda: seen.append(len(task.steps)) or make_task.largest_batch(task)
    start(task)
    assert seen == [0]
