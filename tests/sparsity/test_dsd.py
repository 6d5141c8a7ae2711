"""The object by itself, and in a plain loop. What must hold in every trainer is in ``tests/integrations``."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import run_together
from torch import Tensor, nn

import seqdsd
from seqdsd.sparsity import DSD, Phase, Rule, Schedule
from seqdsd.sparsity.held_weights import handles_on

BATCHES = 3
SCHEDULE = Schedule.dsd(2, (2, 2, 1), (0.5, 0.25), (5e-2, 2e-2, 1e-2, 5e-3, 2e-3))
OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, weight_decay=0.1),
}


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 8, batch_first=True, bidirectional=True)
        self.output = nn.Linear(16, 1)

    def forward(self, numbers):
        return self.output(self.rnn(numbers.view(-1, 3, 2))[0].mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.second.weight = self.first.weight

    def forward(self, numbers):
        return self.output(self.second(self.first(numbers).tanh()).tanh())


MODELS = {"perceptron": perceptron, "lstm": Recurrent, "tied": Tied}


class Stopped(Exception):
    """Where a test stops a training; the trainer has saved its state."""


@dataclass(frozen=True)
class Case:
    """What a trainer trains: the sum of six numbers.

    Attributes:
        scores: By epoch; without ``best`` nobody looks at them.
        stop_after: So many epochs, counted over the whole schedule.
    """

    model: Callable[[], nn.Module] = perceptron
    optimizer: Callable = OPTIMIZERS["momentum"]
    schedule: Schedule = SCHEDULE
    rules: tuple[Rule, ...] = (Rule("*"),)
    best: str | None = None
    patience: int = 0
    scores: tuple[float, ...] = tuple(range(SCHEDULE.total_epochs))
    stop_after: int | None = None

    def make(self) -> tuple[nn.Module, DSD]:
        torch.manual_seed(0)
        model = self.model()
        return model, DSD(model, self.schedule, self.rules, best=self.best, patience=self.patience)

    def batch(self, epoch: int, step: int) -> Tensor:
        return torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * epoch + step))

    def loss(self, model: nn.Module, numbers: Tensor) -> Tensor:
        return nn.functional.mse_loss(model(numbers).squeeze(1), numbers.sum(1))


@dataclass
class Trained:
    """What the loop leaves.

    Attributes:
        starts: By phase, the weights that it was handed.
        ends: By epoch, the weights after it.
        rates: By epoch, its phase and that one's learning rate.
    """

    model: nn.Module
    dsd: DSD
    starts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ends: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    rates: dict[int, tuple[str, float]] = field(default_factory=dict)

    def note_start(self) -> None:
        self.starts[self.dsd.phase.name] = copy.deepcopy(self.model.state_dict())

    def note_epoch(self, epoch: int, learning_rate: float) -> None:
        self.ends[epoch] = copy.deepcopy(self.model.state_dict())
        self.rates[epoch] = (self.dsd.phase.name, learning_rate)


def own_loop(case: Case, folder: Path) -> Trained:
    """A plain loop, which saves after each epoch and goes on from what it finds in the folder."""
    model, dsd = case.make()
    path, saved = folder / "state.pt", {}
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        dsd.load_state_dict(saved["dsd"])
    trained = Trained(model, dsd)
    for phase in dsd.phases():
        trained.note_start()
        optimizer = case.optimizer(model.parameters(), lr=phase.learning_rate)
        if saved:
            optimizer.load_state_dict(saved.pop("optimizer"))
            saved = {}
        with dsd.hold(optimizer):
            for epoch in phase.remaining_epochs:
                for index in range(BATCHES):
                    optimizer.zero_grad()
                    case.loss(model, case.batch(epoch, index)).backward()
                    optimizer.step()
                trained.note_epoch(epoch, phase.learning_rate)
                dsd.epoch_done(score=case.scores[epoch])
                parts = {"model": model, "optimizer": optimizer, "dsd": dsd}
                torch.save({name: part.state_dict() for name, part in parts.items()}, path)
                if epoch + 1 == case.stop_after:
                    raise Stopped
    return trained


@pytest.fixture
def train(tmp_path) -> Callable[..., Trained]:
    """Train a case; of a folder's name, go on with what was trained there."""

    def run(case: Case, name: str = "run") -> Trained:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return own_loop(case, folder)

    return run


def has_no_bits(numbers: Tensor) -> bool:
    """Whether all are +0.0."""
    return not numbers.view(torch.int32).any()


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_stopped_after_any_epoch_it_ends_with_the_same_bits(train, model, optimizer):
    case = Case(model=model, optimizer=OPTIMIZERS[optimizer], best="lowest", scores=(3, 1, 2, 4, 5, 1, 0, 7))
    whole = train(case, "whole").model.state_dict()
    for stop in range(1, case.schedule.total_epochs + 1):
        with pytest.raises(Stopped):
            train(replace(case, stop_after=stop), f"stopped {stop}")
        assert_same_bits(train(case, f"stopped {stop}").model.state_dict(), whole)


def go_on(folder: Path) -> None:
    """With what another process has saved."""
    torch.save(own_loop(Case(model=Recurrent), folder).model.state_dict(), folder / "weights.pt")


def test_another_process_goes_on_within_a_sparse_phase(tmp_path):
    case = Case(model=Recurrent)
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole = own_loop(case, folders[0]).model.state_dict()
    with pytest.raises(Stopped):
        own_loop(replace(case, stop_after=3), folders[1])
    run_together(1, go_on, folders[1], threads=torch.get_num_threads())
    assert_same_bits(torch.load(folders[1] / "weights.pt", weights_only=True), whole)


@pytest.mark.parametrize(
    ("best", "scores", "handed_on"),
    [
        ("lowest", (5, 3, 1, 2, 9, 9, 9, 9), (1, 2)),
        ("highest", (5, 3, 1, 2, 9, 9, 9, 9), (0, 3)),
        ("lowest", (5, 5, math.nan, 2, 9, 9, 9, 9), (0, 3)),  # of equal ones the first; NaN is never the best
        (None, (5, 9, 1, 2, 9, 9, 9, 9), (1, 3)),
    ],
)
def test_the_best_weights_are_handed_on(train, best, scores, handed_on):
    """Those of the epochs ``handed_on`` of the first two phases, with their batch norm's statistics."""
    trained = train(Case(best=best, scores=scores))
    for phase, epoch in zip(("Sparse Iter 1", "Dense Iter 1"), handed_on, strict=True):
        assert_same_bits(trained.starts[phase], trained.ends[epoch])


def test_a_phase_ends_when_patience_does(train):
    schedule = Schedule.dsd(1, (6, 5, 2), (0.5,), (1e-2, 1e-3, 1e-4))
    scores = (4, 3, 5, 3, 0, 0, 9, math.nan, 8, 8.5, 8.5, 1, 1)
    trained = train(Case(schedule=schedule, best="lowest", patience=2, scores=scores))
    assert [*trained.rates] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    assert [trained.rates[epoch][0] for epoch in (3, 6, 11)] == [
        "Dense Iter 0",
        "Sparse Iter 1",
        "Dense Iter 1",
    ]


# The object by itself.


def optimizer_of(model: nn.Module, **settings) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, **settings)


def in_sparse_phase(case: Case | None = None) -> tuple[nn.Module, DSD]:
    """A DSD whose dense phase is done."""
    model, dsd = (case or Case()).make()
    dsd.enter(optimizer_of(model))
    dsd.leave()
    assert dsd.phase.kind == "sparse"
    return model, dsd


def pruned(dsd: DSD) -> Tensor:
    return torch.cat([dsd.model.get_parameter(name)[~mask] for name, mask in dsd.masks.masks.items()])


def test_it_is_in_the_package_too():
    assert seqdsd.DSD is DSD


def test_after_an_exception_nothing_is_held_and_the_phase_goes_on_with_its_masks():
    model, dsd = in_sparse_phase()
    optimizer = optimizer_of(model)
    with pytest.raises(ZeroDivisionError), dsd.hold(optimizer):
        chosen = dsd.masks
        dsd.epoch_done()
        raise ZeroDivisionError
    assert not any(handles_on(parameter) for parameter in model.parameters())
    assert not optimizer._optimizer_step_post_hooks
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    assert (dsd.phase.name, dsd.state_dict()["epoch"], dsd.masks) == ("Sparse Iter 1", 1, chosen)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    with dsd.hold(optimizer_of(model)):
        assert has_no_bits(pruned(dsd)) and len(pruned(dsd)) == (6 * 16 + 16) // 2


def test_a_return_from_the_block_leaves_the_position():
    model, dsd = in_sparse_phase()

    def stop_early():
        for phase in dsd.phases():
            with dsd.hold(optimizer_of(model)):
                for _ in phase.remaining_epochs:
                    dsd.epoch_done()
                    return

    stop_early()
    assert (dsd.phase.name, dsd.state_dict()["epoch"]) == ("Sparse Iter 1", 1)
    assert not any(handles_on(parameter) for parameter in model.parameters())
    assert next(dsd.phases()).name == "Sparse Iter 1"


def test_the_saved_masks_are_what_counts_not_the_zeros():
    model, dsd = in_sparse_phase()
    with dsd.hold(optimizer_of(model)):
        state = dsd.state_dict()
    again, other = Case().make()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.normal_()
    other.load_state_dict(state)
    for name, mask in dsd.masks.masks.items():
        assert torch.equal(other.masks.masks[name], mask)
    with other.hold(optimizer_of(again)):
        assert has_no_bits(pruned(other))


def test_a_state_takes_one_bit_a_weight_beside_the_best_weights():
    model, dsd = in_sparse_phase(Case(model=lambda: nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 1))))
    with dsd.hold(optimizer_of(model)):
        masks = dsd.state_dict()["masks"]
    assert masks["0.weight"].numel() == 64 * 128 // 8 and masks["0.weight"].dtype == torch.uint8


@pytest.mark.parametrize("saved_after", [None, 6, 7, 8])
def test_a_trainer_that_counts_steps_ends_with_the_bits_of_the_loop(tmp_path, saved_after):
    """By ``enter`` and ``leave``, as docs/your-own-model.md has it; saved and loaded after some step."""
    case = Case()
    whole = own_loop(case, tmp_path).model.state_dict()
    model, dsd = case.make()
    total = SCHEDULE.total_epochs * BATCHES
    starts, optimizer = SCHEDULE.starts(of=total), case.optimizer(model.parameters(), lr=1.0)
    for step in range(total):
        if not dsd.is_held:
            if step in starts:
                optimizer.state.clear()
            optimizer.param_groups[0]["lr"] = dsd.enter(optimizer).learning_rate
        assert SCHEDULE.phase_at(step, of=total) is dsd.phase
        optimizer.zero_grad()
        case.loss(model, case.batch(*divmod(step, BATCHES))).backward()
        optimizer.step()
        if step + 1 in (*starts, total):
            dsd.leave()
        if step + 1 == saved_after:
            saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, dsd)])
            dsd.release()
            model, dsd = case.make()
            optimizer = case.optimizer(model.parameters(), lr=1.0)
            for part, state in zip((model, optimizer, dsd), saved, strict=True):
                part.load_state_dict(state)
    assert dsd.phase is None
    assert_same_bits(model.state_dict(), whole)


def test_the_control_has_the_same_epochs_rates_and_best_and_prunes_nothing():
    model, dsd = Case(best="lowest", patience=2).make()
    control = dsd.control()
    assert control.model is model and control.plans == {}
    for phase, other in zip(dsd.schedule, control.schedule, strict=True):
        assert (phase.epochs, phase.learning_rate) == (other.epochs, other.learning_rate)
    with control.hold(optimizer_of(model)):
        assert [control.epoch_done(score=score) for score in (1, 0)] == [True, True]
    assert dsd.control(copy.deepcopy(model)).model is not model
    with (
        pytest.raises(ValueError, match="best='lowest' is told by scores"),
        control.hold(optimizer_of(model)),
    ):
        control.epoch_done()


def test_several_optimizers_share_a_model():
    model, dsd = in_sparse_phase(Case(model=Tied))
    optimizers = [optimizer_of(part) for part in (model.first, model.output)]
    with dsd.hold(*optimizers):
        model(torch.randn(5, 6)).square().mean().backward()
        for one in optimizers:
            one.step()
        assert has_no_bits(pruned(dsd))


def test_a_wrapper_may_train_what_dsd_holds():
    model, dsd = in_sparse_phase(Case(model=Tied))
    compiled = torch.compile(model, backend="eager")
    with dsd.hold(optimizer_of(compiled)):
        assert has_no_bits(pruned(dsd))


def test_what_it_says_of_itself():
    model, dsd = in_sparse_phase()
    assert repr(dsd).startswith("DSD(Sequential: Dense Iter 0, Sparse Iter 1, ")
    assert repr(dsd).endswith("; Sparse Iter 1)")
    with dsd.hold(optimizer_of(model)):
        dsd.epoch_done()
        assert "Sparse Iter 1 (1 of 2 epochs done), 50.0% of the masked weights held at 0" in repr(dsd)
        said = dsd.summary()
    assert "50.0% are exactly 0 now" in said
    assert "done Dense Iter 0: 2 epochs at 0.05" in said
    assert "now  Sparse Iter 1: 2 epochs at 0.02, 50.0% pruned" in said
    assert str(dsd.plans[SCHEDULE.phases[1]]) in said and str(dsd.plans[SCHEDULE.phases[3]]) in said
    assert "Nothing is pruned." in dsd.control().summary()


def test_a_rule_that_matches_nothing_is_refused_at_once():
    with pytest.raises(ValueError, match="matches no parameter; did you mean"):
        DSD(perceptron(), SCHEDULE, [Rule("1.wieght"), Rule("*")])


@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_a_wrapped_model_is_refused(wrap):
    with pytest.raises(
        ValueError, match="takes the bare model, got it in .*; hand over the model that was wrapped"
    ):
        DSD(wrap(perceptron()), SCHEDULE, [Rule("*")])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patience": -1}, "patience must not be negative"),
        ({"patience": 1}, "needs best='lowest' or 'highest'"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        DSD(perceptron(), SCHEDULE, [Rule("*")], **settings)


def test_an_optimizer_that_lacks_masked_weights_is_refused_and_changes_nothing():
    model, dsd = in_sparse_phase()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not hold these masked parameters: 3.weight; hand over all"):
        with dsd.hold(optimizer_of(model[0])):
            pass
    assert_same_bits(model.state_dict(), before)
    with dsd.hold(optimizer_of(model)):
        pass


def test_an_optimizer_is_checked_before_any_training():
    model, dsd = Case().make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not hold these masked parameters: 3.weight"):
        dsd.check(optimizer_of(model[0]))
    dsd.check(optimizer_of(model[0]), optimizer_of(model[3]))
    dsd.control().check(optimizer_of(model[0]))
    assert_same_bits(model.state_dict(), before)
    assert not any(handles_on(parameter) for parameter in model.parameters())


def test_zeros_are_counted_among_what_some_phase_prunes():
    model, dsd = Case(rules=(Rule("0.weight"),)).make()
    with torch.no_grad():
        model[3].weight.zero_()
        model[0].weight[:4] = 0
    assert dsd.zeros() == 0.25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"schedule": Schedule.dsd(2, 2)},
            "another schedule: phase 1 was Dense Iter 0 .dense, 2 epochs at 0.05",
        ),
        (
            {"schedule": Schedule(SCHEDULE.phases[:3])},
            "phase 4 was Sparse Iter 2 .*, is here missing; make the DSD as",
        ),
        ({"model": Tied}, "another model: the shape of 'first.weight' was None, is here"),
        (
            {
                "model": lambda: nn.Sequential(
                    nn.Linear(6, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Linear(17, 1)
                )
            },
            r"another model: the shape of '0.weight' was \[16, 6\], is here \[17, 6\]",
        ),
        (
            {"rules": (Rule("0.*"),)},
            "other rules: the sparsity of '3.weight' in Sparse Iter 1 was 0.5, is here None",
        ),
        ({"best": "lowest"}, "saved with best=None, this DSD has best='lowest'"),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(change, said):
    _, dsd = in_sparse_phase()
    _, other = Case(**change).make()
    with pytest.raises(ValueError, match=said):
        other.load_state_dict(dsd.state_dict())
    assert other.phase == other.schedule.phases[0]


def test_what_is_no_state_is_refused():
    model, dsd = Case().make()
    with pytest.raises(ValueError, match="not what dsd.state_dict.. gave: it lacks best, best_epoch"):
        dsd.load_state_dict(model.state_dict())


def test_a_phase_that_is_held_is_not_entered_again():
    model, dsd = in_sparse_phase()
    with dsd.hold(optimizer_of(model)):
        for enter in (dsd.enter, lambda optimizer: dsd.hold(optimizer).__enter__()):
            with pytest.raises(RuntimeError, match="Sparse Iter 1 is held already; leave its"):
                enter(optimizer_of(model))
        with pytest.raises(RuntimeError, match="Sparse Iter 1 is held; load a state before"):
            dsd.load_state_dict(dsd.state_dict())
        model(torch.randn(5, 6)).sum().backward()
        assert has_no_bits(pruned(dsd))


def walk(dsd: DSD, body: Callable) -> None:
    for phase in dsd.phases():
        body(dsd, phase)


def holding(body: Callable) -> Callable:
    def held(dsd, phase):
        with dsd.hold(optimizer_of(dsd.model)):
            body(dsd, phase)

    return held


def hold_twice(dsd, phase):
    for _ in range(2):
        holding(lambda dsd, phase: [dsd.epoch_done() for _ in phase.remaining_epochs])(dsd, phase)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda dsd, phase: None, "Dense Iter 0 is not over: train it within"),
        (holding(lambda dsd, phase: None), "is not over"),
        (holding(lambda dsd, phase: dsd.epoch_done()), ".1 of 2 epochs done. is not over"),
        (lambda dsd, phase: [*phase.remaining_epochs], "cannot train outside of a phase.* do so within"),
        (lambda dsd, phase: dsd.epoch_done(), "cannot count an epoch outside of a phase"),
        (
            holding(lambda dsd, phase: [*phase.remaining_epochs]),
            "call dsd.epoch_done.. at the end of each epoch",
        ),
        (
            holding(lambda dsd, phase: [dsd.epoch_done() for _ in range(3)]),
            "has had all its epochs; loop over",
        ),
        (hold_twice, "Dense Iter 0 is over: hold each phase of dsd.phases.. once"),
        (lambda dsd, phase: dsd.leave(), "was not begun: dsd.enter.optimizer."),
    ],
)
def test_a_loop_that_would_not_do_what_it_says_is_refused(body, said):
    _, dsd = Case().make()
    with pytest.raises(RuntimeError, match=said):
        walk(dsd, body)


def test_a_missing_score_and_a_training_that_is_done():
    model, dsd = Case(best="lowest").make()
    with pytest.raises(ValueError, match="best='lowest' is told by scores"), dsd.hold(optimizer_of(model)):
        dsd.epoch_done()
    model, dsd = Case(schedule=Schedule(SCHEDULE.phases[:1])).make()
    walk(dsd, holding(lambda dsd, phase: [dsd.epoch_done() for _ in phase.remaining_epochs]))
    assert [*dsd.phases()] == []
    with pytest.raises(RuntimeError, match="all phases are done"):
        dsd.enter(optimizer_of(model))


def test_each_sparse_phase_may_have_rules_of_its_own():
    phases = (Phase("One", "sparse", 1, 0.1, 0.5), Phase("Two", "sparse", 1, 0.1, 0.5))
    rules = {"One": [Rule("0.weight")], "Two": [Rule("0.weight", 0.75), Rule("3.weight", 0.25)]}
    dsd = DSD(perceptron(), Schedule(phases, from_trained=True), rules)
    assert [plan.sparsities for plan in dsd.plans.values()] == [
        {"0.weight": 0.5},
        {"0.weight": 0.75, "3.weight": 0.25},
    ]
    assert dsd.control().plans == {}
