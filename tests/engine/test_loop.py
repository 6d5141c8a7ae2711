import copy
import math
from contextlib import suppress

import pytest
import torch
from torch import nn

from seqdsd.engine import NesterovSettings, TrainingDiverged
from seqdsd.engine.loop import MAX_BAD_STEPS, LossMeter, step_seed, train_epoch

SETTINGS = NesterovSettings(momentum=0.9, weight_decay=1e-3, clip_norm=1.0)


@pytest.fixture
def train(fabric):
    """Run epochs of a task from its first batch; returns the meter."""

    def run(
        task,
        *,
        epochs=1,
        first=0,
        optimizer=None,
        meter=None,
        after_step=lambda step: None,
        settings=SETTINGS,
    ):
        model = fabric.setup_module(copy.copy(task.model))
        optimizer = optimizer or SETTINGS.make(task.model.parameters(), 0.1)
        wrapped = fabric.setup_optimizers(optimizer)
        meter = meter or LossMeter()
        for epoch in range(epochs):
            train_epoch(
                *(fabric, model, wrapped, task),
                epoch=epoch,
                first=first,
                seed=3,
                settings=settings,
                meter=meter,
                after_step=after_step,
            )
        return meter

    return run


def everything(task, optimizer):
    """Copies of weights, buffers and momentum."""
    state = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    momentum = [
        optimizer.state[parameter]["momentum_buffer"].clone() for parameter in task.model.parameters()
    ]
    return [*state.values(), *momentum]


def is_same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def poison(value):
    def at_step(epoch, index, batch):
        batch.numbers[0, 0] = value

    return at_step


def test_training_equals_torch_s_own_optimizer(train, make_task):
    """Plain SGD, clipping by torch, the same seeds: an epoch written down the obvious way."""
    task, plain = make_task(), make_task()
    meter = train(task, epochs=2)
    optimizer = torch.optim.SGD(
        plain.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    losses = []
    plain.model.train()
    for epoch in range(2):
        for step, (batch,) in enumerate(plain.batches(epoch, first=0), start=1):
            torch.manual_seed(step_seed(3, epoch, step))
            loss = plain.loss(plain.model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    for (name, mine), theirs in zip(
        task.model.state_dict().items(), plain.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=name)
    assert meter.mean == pytest.approx(sum(losses) / len(losses)) and meter.bad_steps == 0


def test_the_global_generator_decides_nothing(train, make_task):
    tasks = [make_task(), make_task()]
    for seed, task in enumerate(tasks):
        torch.manual_seed(seed)
        train(task)
    assert is_same(tasks[0].model.state_dict().values(), tasks[1].model.state_dict().values())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_step_without_a_finite_loss_changes_nothing_not_even_the_first(train, make_task, caplog, value):
    """Neither weights nor momentum nor batch norm's running statistics, which a NaN would spoil for good."""
    task = make_task()
    task.at_step = poison(value)
    optimizer = SETTINGS.make(task.model.parameters(), 0.1)
    before = everything(task, optimizer)
    meter = train(task, optimizer=optimizer)
    assert is_same(everything(task, optimizer), before)
    assert meter.bad_steps == 3 and math.isnan(meter.mean)
    assert "item-0-1-0, item-0-1-1" in caplog.text and "not finite" in caplog.text


def test_a_bad_step_in_between_leaves_the_others_as_they_are(train, make_task):
    task, clean = make_task(), make_task()
    task.at_step = lambda epoch, index, batch: batch.numbers.fill_(math.nan) if index == 1 else None
    batches = clean.batches

    def without_the_middle(epoch, *, first):
        for index, (batch,) in enumerate(batches(epoch, first=first)):
            yield [type(batch)((), batch.numbers[:0]) if index == 1 else batch]  # an empty batch: no step

    clean.batches = without_the_middle
    one, other = train(task, epochs=2), train(clean, epochs=2)
    assert is_same(task.model.state_dict().values(), clean.model.state_dict().values())
    assert one.mean == other.mean and (one.bad_steps, other.bad_steps) == (2, 0)


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too(train, make_task):
    task = make_task()
    task.loss = lambda model, batch: (model(batch.numbers) * 0).abs().sqrt().sum()  # 0, with gradient 0 * inf
    optimizer = SETTINGS.make(task.model.parameters(), 0.1)
    before = everything(task, optimizer)
    assert train(task, optimizer=optimizer).bad_steps == 3
    assert is_same(everything(task, optimizer), before)


def test_the_gradient_is_clipped(train, make_task):
    task = make_task()
    settings = NesterovSettings(momentum=1e-9, clip_norm=0.25)
    optimizer = settings.make(task.model.parameters(), 1.0)
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    task.at_step = lambda epoch, index, batch: batch.numbers.mul_(1000)
    with suppress(StopIteration):
        train(task, optimizer=optimizer, settings=settings, after_step=lambda step: next(iter(())))
    moved = [parameter.detach() - old for parameter, old in zip(task.model.parameters(), before, strict=True)]
    assert float(nn.utils.get_total_norm(moved)) == pytest.approx(0.25, rel=1e-3)


def test_steps_are_counted_from_first_and_batches_left_out(train, make_task):
    task, done = make_task(), []
    train(task, first=1, after_step=done.append)
    assert done == [2, 3] and task.steps == [(0, 1), (0, 2)]


def run_of(meter, finite_flags, *, read_every):
    for number, is_finite in enumerate(finite_flags):
        value = torch.tensor(float(number) if is_finite else math.nan)
        meter.add(value, torch.tensor(not is_finite), (f"step{number}",))
        meter.judge(at_least=read_every)
    meter.judge()


@pytest.mark.parametrize("read_every", [1, 3, 10, 100])
def test_ten_bad_steps_in_a_row_are_the_end_however_often_one_looks(read_every, caplog):
    assert MAX_BAD_STEPS == 10
    run_of(LossMeter(), [True, *[False] * 9, True, *[False] * 9, True], read_every=read_every)
    meter = LossMeter()
    with pytest.raises(TrainingDiverged, match=r"10 steps in a row.*step1[1-9].*lower the learning rate"):
        run_of(meter, [True, True, *[False] * 10, True, True], read_every=read_every)
    assert "step2" in caplog.text
    meter.judge()  # said once; a resumed run has ten more


def test_a_process_without_items_stops_with_the_others():
    meter = LossMeter()
    for _ in range(MAX_BAD_STEPS):
        meter.add(torch.tensor(math.nan), torch.tensor(True), (), torch.tensor(2))
    with pytest.raises(TrainingDiverged, match="the last with no item here"):
        meter.judge()


def test_stopping_for_another_reason_can_always_save():
    meter = LossMeter()
    for number in range(12):
        meter.add(torch.tensor(math.nan), torch.tensor(True), (f"step{number}",))
    assert meter.state() == {"sum": 0.0, "steps": 0, "bad_steps": 10, "bad_in_a_row": 10}
    again = LossMeter(**meter.state())  # nobody was told yet
    for one in (meter, again):
        with pytest.raises(TrainingDiverged):
            one.judge()
        one.judge()


@pytest.mark.parametrize("saved_at", [3, 7, 10, 12])
def test_a_process_that_saves_stops_at_the_same_step_as_the_others(saved_at):
    """Else it would add its gradients to those of another epoch."""
    stopped_at = []
    for saves in (True, False):
        meter = LossMeter()
        for number in range(1, 31):
            meter.add(torch.tensor(1.0), torch.tensor(number > 2), (f"step{number}",))
            if saves and number == saved_at:
                meter.state()
            try:
                meter.judge(at_least=10)
            except TrainingDiverged:
                stopped_at.append(number)
                break
    assert stopped_at == [20, 20]


@pytest.mark.parametrize("read_every", [1, 4, 10, 100])
def test_what_comes_after_too_many_bad_steps_counts_for_nothing_however_often_one_looks(read_every):
    """Else the curves of a run that was resumed among them would differ from an unbroken one's."""
    meter = LossMeter()
    with pytest.raises(TrainingDiverged):
        run_of(meter, [True, True, *[False] * 10, True, True, False], read_every=read_every)
    assert (meter.mean, meter.steps, meter.bad_steps) == (0.5, 2, 10)


def test_the_meter_goes_on_from_its_state():
    flags = [True, False, True, True, False, True]
    whole, first = LossMeter(), LossMeter()
    run_of(whole, flags, read_every=10)
    run_of(first, flags[:3], read_every=10)
    second = LossMeter(**first.state())
    assert second.mean == 1.0 and second.bad_steps == 1
    assert whole.mean == (0 + 2 + 3 + 5) / 4 and whole.bad_steps == 2


def test_step_seeds_differ():
    seeds = {step_seed(seed, epoch, step) for seed in range(5) for epoch in range(20) for step in range(20)}
    assert len(seeds) == 5 * 20 * 20 and step_seed(1, 2, 3) == step_seed(1, 2, 3)
    torch.manual_seed(max(seeds))  # torch takes all 64 bits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
    ]
    + [("anneal", 0.9), ("anneal", math.nan), ("weight_decay", math.nan)],
)
def test_optimizer_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .*, got {value}"):
        NesterovSettings(**{field: value})
