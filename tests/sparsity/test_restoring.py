"""What restored weights begin with, in a loop of one's own; in runs it is ``tests/engine/test_restored_weights.py``."""

import copy
import io

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from seqdsd.sparsity import DSD, Rule, Schedule

SCHEDULE = Schedule.dsd(2, 2, (0.5, 0.25), (5e-2, 2e-2, 1e-2, 5e-3, 2e-3))
STARTS = ("zero", "former", "fresh")
INPUTS = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))


class Stopped(Exception):
    """Where a test stops a training, which was saved."""


class Net(nn.Module):
    """With two weights that are one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.second.weight = self.first.weight

    def forward(self, numbers):
        return self.output(self.second(self.first(numbers).tanh()).tanh())


def make(start, **settings):
    torch.manual_seed(0)
    model = Net()
    return model, DSD(model, SCHEDULE, [Rule("*")], restored_start=start, make_fresh=Net, **settings)


def train(model, dsd, *, stop=None, between=False, watch=lambda phase: None):
    """The plain loop; returns what was saved after ``stop`` epochs, or between two phases after them."""
    done = sum(phase.epochs for phase in SCHEDULE.phases[: SCHEDULE.phases.index(dsd.phase)])
    for phase in dsd.phases():
        optimizer = torch.optim.SGD(model.parameters(), lr=phase.learning_rate)
        with dsd.hold(optimizer):
            watch(phase)
            for _ in phase.remaining_epochs:
                optimizer.zero_grad()
                (model(INPUTS).squeeze(1) - INPUTS.sum(1)).square().mean().backward()
                optimizer.step()
                dsd.epoch_done()
                done += 1
                if done == stop and not between:
                    return saved(model, dsd)
        if done == stop:
            return saved(model, dsd)
    return None


def saved(model, dsd):
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "dsd": dsd.state_dict()}, file)
    return file


def loaded(file, start, **settings):
    file.seek(0)
    state = torch.load(file, weights_only=True)
    model, dsd = make(start, **settings)
    model.load_state_dict(state["model"])
    dsd.load_state_dict(state["dsd"])
    return model, dsd


@pytest.mark.parametrize("start", STARTS)
def test_the_redense_phase_begins_with_the_start_asked_for(start):
    model, dsd = make(start)
    seen_before = {}
    for name in ("Dense Iter 0", "Sparse Iter 1"):
        with dsd.hold(torch.optim.SGD(model.parameters(), lr=0.1)):
            dsd.epoch_done()
            dsd.epoch_done()
        seen_before[name] = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    dsd.enter(torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(torch.get_rng_state(), generator)
    masks = dsd.masks.masks
    assert list(masks) == ["first.weight", "output.weight"]
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight[mask], seen_before["Sparse Iter 1"][name][mask])
        if start == "zero":
            assert not weight[~mask].view(torch.int32).any()
        elif start == "former":
            assert torch.equal(weight[~mask], seen_before["Dense Iter 0"][name][~mask])
        else:
            assert weight[~mask].all() and weight[~mask].abs().max() <= 6**-0.5
            assert not torch.isin(weight[~mask], seen_before["Dense Iter 0"][name]).any()
    assert model.second.weight is model.first.weight


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("between", [False, True])
def test_stopped_anywhere_it_ends_with_the_same_bits(start, between):
    whole, dsd = make(start, seed=4)
    train(whole, dsd)
    for stop in range(2 if between else 1, SCHEDULE.total_epochs, 2 if between else 1):
        model, dsd = loaded(train(*make(start, seed=4), stop=stop, between=between), start, seed=4)
        train(model, dsd)
        for one, other in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.equal(one, other)


def test_an_interrupted_phase_is_not_restored_again():
    model, dsd = make("former")
    train(model, dsd, stop=4, between=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(Stopped), dsd.hold(optimizer):
        with torch.no_grad():
            model.first.weight.fill_(7)
        raise Stopped
    with dsd.hold(optimizer):
        assert (model.first.weight == 7).all()


def test_within_a_redense_phase_that_is_taken_up_nothing_is_restored_again():
    """By whoever saves in another way, weights and position alone."""
    model, dsd = make("fresh")
    masks = []
    train(model, dsd, stop=5, watch=lambda phase: masks.append(dsd.masks))
    before = copy.deepcopy(model.state_dict())
    _, again = make("fresh")
    again.model.load_state_dict(before)
    again.stand_at(2, epoch=1, masks=masks[2])
    with again.hold(torch.optim.SGD(again.model.parameters(), lr=1e-3)):
        assert all(torch.equal(one, before[name]) for name, one in again.model.state_dict().items())


def test_former_values_that_nobody_knows_are_missed_in_words():
    model, dsd = make("former")
    masks = []
    train(model, dsd, stop=4, between=True, watch=lambda phase: masks.append(dsd.masks))
    _, again = make("former")
    again.stand_at(2, masks=masks[1])
    with pytest.raises(RuntimeError, match="Dense Iter 1: the former values .* are not known.*load what"):
        again.enter(torch.optim.SGD(again.model.parameters(), lr=1e-3))


def test_other_seeds_have_other_draws():
    models = []
    for seed in (0, 1):
        model, dsd = make("fresh", seed=seed)
        train(model, dsd, stop=4, between=True)
        dsd.enter(torch.optim.SGD(model.parameters(), lr=0.1))
        models.append(model.first.weight[~dsd.masks.masks["first.weight"]])
    assert not torch.isin(*models).any()


def test_former_values_are_kept_until_they_are_restored():
    """As many as are pruned; nothing of them before and after."""
    model, dsd = make("former")
    counts = {}

    def watch(phase):
        kept = dsd.state_dict()["former_weights"]
        counts[phase.name] = {name: one.numel() for name, one in kept.items()}

    train(model, dsd, watch=watch)
    none = dict.fromkeys(("Dense Iter 0", "Dense Iter 1", "Dense Iter 2"), {})
    assert counts == {
        **none,
        "Sparse Iter 1": {"first.weight": 18, "output.weight": 3},
        "Sparse Iter 2": {"first.weight": 9, "output.weight": 2},
    }


def test_fresh_draws_of_a_network_that_nobody_can_make_are_refused_at_once():
    with pytest.raises(
        ValueError, match="give make_fresh, a function that builds the Net as it was built at"
    ):
        DSD(Net(), SCHEDULE, [Rule("*")], restored_start="fresh")


def test_another_network_made_anew_is_refused_by_name():
    model, _ = make("zero")
    dsd = DSD(model, SCHEDULE, [Rule("*")], restored_start="fresh", make_fresh=lambda: nn.Linear(6, 1))
    train(model, dsd, stop=4, between=True)
    with pytest.raises(ValueError, match="a start for the weights of 'first.weight', .*, but there is none"):
        dsd.enter(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_state_with_another_start_is_refused_and_one_of_before_there_was_a_choice_is_zero_s():
    model, dsd = make("zero")
    train(model, dsd, stop=3)
    dsd.release()
    state = dsd.state_dict()
    with pytest.raises(ValueError, match="saved with restored_start='zero', this DSD has 'former'"):
        make("former")[1].load_state_dict(state)
    for key in ("restored_start", "is_restored", "former", "former_weights", "regrown"):
        del state[key]
    with pytest.raises(ValueError, match="saved with restored_start='zero', this DSD has 'fresh'"):
        make("fresh")[1].load_state_dict(state)
    other, again = make("zero")
    other.load_state_dict(model.state_dict())
    again.load_state_dict(state)
    train(other, again)
    train(model, dsd)
    assert torch.equal(other.first.weight, model.first.weight)


@pytest.fixture
def mesh(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("start", ["former", "fresh"])
def test_weights_that_are_split_over_processes_are_refused_by_name(mesh, start):
    model, dsd = make(start)
    model.output.weight = nn.Parameter(distribute_tensor(model.output.weight.detach(), mesh, [Shard(1)]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="'output.weight' is split over processes .* take restored_start='zero'"
    ):
        dsd.check(optimizer)
    dsd.enter(optimizer)
    dsd.leave()
    with pytest.raises(
        ValueError, match="'output.weight' is split over processes .* take restored_start='zero'"
    ):
        dsd.enter(optimizer)
    assert dsd.masks is None
