"""Against networks whose parameters really are the centroids, through autograd."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.func import functional_call

from seqdsd.compression import CodebookTraining, SharedTensor, load_shared_, share_weights, write_compressed

OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(
        parameters, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2
    ),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, centered=True),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))


def shared_of(model: nn.Module, bits: int = 3) -> dict[str, SharedTensor]:
    return {
        name: share_weights(parameter, parameter.abs() > parameter.abs().median(), bits=bits)
        for name, parameter in model.named_parameters()
        if name.endswith("weight")
    }


def loss_of(outputs: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 2, 1, 0]))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_centroids_move_as_parameters_of_their_own_would(kind, inputs):
    model = network()
    shared = shared_of(model)
    training = CodebookTraining(model, shared)
    free = {
        name: nn.Parameter(shared[name].codebook.clone() if name in shared else parameter.detach().clone())
        for name, parameter in model.named_parameters()
    }
    optimizer, expected = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](free.values())
    with training.attach(optimizer):
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(model(inputs)).backward()
            optimizer.step()
            expected.zero_grad()
            weights = {
                name: torch.cat([torch.zeros(1), one])[shared[name].codes.long()] if name in shared else one
                for name, one in free.items()
            }
            loss_of(functional_call(model, weights, (inputs,))).backward()
            expected.step()
    for name, parameter in model.named_parameters():
        is_shared = name in shared
        now = training.state_dict()[f"{name}/codebook"] if is_shared else parameter.detach()
        assert torch.allclose(now, free[name], rtol=1e-4, atol=1e-6), name
        if is_shared:
            codes = shared[name].codes
            assert torch.equal(parameter.detach(), torch.cat([torch.zeros(1), now])[codes.long()])
            assert not parameter.grad[codes == 0].any()
            assert not torch.signbit(parameter.detach()[codes == 0]).any()  # +0.0, not -0.0


def test_averaged_gradients_make_the_step_of_weights_projected_on_equal_ones(inputs):
    model, own = network(), network()
    shared = shared_of(model)
    training = CodebookTraining(model, shared)
    own.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, own)]
    for _ in range(5):
        with training.attach(optimizers[0], average=True):
            for one, optimizer in zip((model, own), optimizers, strict=True):
                optimizer.zero_grad()
                loss_of(one(inputs)).backward()
                optimizer.step()
        for name, one in shared.items():  # the nearest point at which weights of one code are equal
            weight = own.get_parameter(name).data
            for code in range(int(one.codes.max()) + 1):
                weight[one.codes == code] = weight[one.codes == code].mean() if code else 0.0
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, own.get_parameter(name), atol=1e-6), name


def test_gradients_add_up_over_batches_and_are_clipped_as_they_come(inputs):
    whole, parts = network(), network()
    for model, batches in ((whole, [inputs]), (parts, [inputs[:2], inputs[2:]])):
        training = CodebookTraining(model, shared_of(network()))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with training.attach(optimizer):
            for batch in batches:
                (model(batch).square().sum()).backward()
            own_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert own_norm > 1
            optimizer.step()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_after_the_block_weights_part_again(inputs):
    model = network()
    training = CodebookTraining(model, shared_of(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with training.attach(optimizer):
        pass
    loss_of(model(inputs)).backward()
    optimizer.step()
    assert len(model[2].weight.unique()) > 8


def test_finished_weights_are_the_files(inputs):
    model = network()
    training = CodebookTraining(model, shared_of(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with training.attach(optimizer):
        loss_of(model(inputs)).backward()
        optimizer.step()
    not_rounded = model[2].weight.detach().clone()
    shared = training.finish_()
    assert torch.equal(shared["2.weight"].dense(), model[2].weight.detach())
    assert torch.equal(shared["2.weight"].codebook, shared["2.weight"].codebook.half().float())
    assert torch.allclose(not_rounded, model[2].weight, rtol=2**-10) and not torch.equal(
        not_rounded, model[2].weight
    )


def test_restored_weights_are_the_ones_that_are_finished(inputs):
    model = network()
    training = CodebookTraining(model, shared_of(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best, state = copy.deepcopy(model.state_dict()), training.state_dict()
    with training.attach(optimizer):
        loss_of(model(inputs)).backward()
        optimizer.step()
    moved = training.shared()["2.weight"].codebook
    model.load_state_dict(best)
    restored = training.finish_()["2.weight"]
    assert torch.equal(restored.codebook, state["2.weight/codebook"].sort().values)
    assert torch.equal(restored.dense(), best["2.weight"]) and not torch.equal(moved, restored.codebook)


def test_a_closure_is_refused(inputs):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with CodebookTraining(model, shared_of(model)).attach(optimizer):
        for call in (lambda one: optimizer.step(one), lambda one: optimizer.step(closure=one)):
            with pytest.raises(ValueError, match=r"step\(closure\)"):
                call(lambda: loss_of(model(inputs)))
        optimizer.step(closure=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["Adafactor", "Muon"])
def test_an_optimizer_that_moves_equal_weights_apart_is_refused(kind, dtype, inputs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).to(dtype)
    training = CodebookTraining(model, {"1.weight": shared_of(model)["1.weight"]})
    before = copy.deepcopy(model.state_dict())
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=1e-3)
    loss_of(model(inputs.to(dtype))).backward()
    with training.attach(optimizer):
        with pytest.raises(ValueError, match=rf"{kind} has moved weights apart .*1\.weight.*as SGD, RMSprop"):
            optimizer.step()
    assert torch.equal(before["1.weight"], model[1].weight)


def test_one_whose_first_steps_are_nothing_is_refused_later(inputs):
    model = network()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.0)
    with CodebookTraining(model, shared_of(model)).attach(optimizer):
        loss_of(model(inputs)).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 1e-3
        with pytest.raises(ValueError, match="moved weights apart"):
            optimizer.step()


EACH_NUMBER = [
    "ASGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


@pytest.mark.parametrize("kind", EACH_NUMBER)
@pytest.mark.parametrize("lr", [1e-7, 1e-3, 1.0])
def test_others_are_not(kind, lr, inputs):
    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=lr)
    with CodebookTraining(model, shared_of(model)).attach(optimizer):
        for _ in range(30):
            optimizer.zero_grad()
            loss_of(model(inputs)).backward()
            optimizer.step()


def test_a_resumed_training_of_float64_has_the_bits_of_an_unbroken_one():
    model = nn.Linear(6, 5).double()
    training = CodebookTraining(model, {"weight": shared_of(model)["weight"]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with training.attach(optimizer):
        model(torch.ones(2, 6).double()).square().sum().backward()
        optimizer.step()
    other = nn.Linear(6, 5).double()
    CodebookTraining.from_state_dict(other, training.state_dict())
    assert torch.equal(other.weight, model.weight) and not torch.equal(
        model.weight, model.weight.float().double()
    )
    assert training.shared()["weight"].codebook.dtype == torch.float32


def test_a_resumed_training_has_the_bits_of_an_unbroken_one(inputs):
    def steps(training, model, optimizer, count):
        with training.attach(optimizer):
            for _ in range(count):
                optimizer.zero_grad()
                loss_of(model(inputs)).backward()
                optimizer.step()

    model = network()
    training = CodebookTraining(model, shared_of(model))
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    steps(training, model, optimizer, 3)
    kept = copy.deepcopy([training.state_dict(), model.state_dict(), optimizer.state_dict()])
    steps(training, model, optimizer, 3)

    other = network()
    other.load_state_dict(kept[1])
    resumed = CodebookTraining.from_state_dict(other, kept[0])
    optimizer = OPTIMIZERS["momentum"](other.parameters())
    optimizer.load_state_dict(kept[2])
    steps(resumed, other, optimizer, 3)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_tied_and_unused_and_frozen(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6, bias=False)
            self.second = nn.Linear(6, 6, bias=False)
            self.second.weight = self.first.weight

    model = Tied()
    # Of three centroids one is nobody's.
    one = SharedTensor(
        torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0, 1, 3, 1, 0, 3] * 6).view(6, 6).to(torch.uint8)
    )
    training = CodebookTraining(model, {"second.weight": one})
    assert torch.equal(model.first.weight.detach(), one.dense())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with training.attach(optimizer):
        optimizer.step()  # without gradients
        model.second(model.first(torch.randn(3, 6))).sum().backward()
        optimizer.step()
    assert len(training.shared()["second.weight"].codebook) == 2
    assert model.first.weight.unique().numel() == 3
    file = write_compressed(tmp_path / "tied.dsdz", {**model.state_dict(), **training.finish_()}, {})
    assert [entry.names for entry in file.entries] == [("first.weight", "second.weight")]
    with pytest.raises(
        ValueError, match=r"two codebooks for one parameter, 'first.weight' = 'second.weight'"
    ):
        CodebookTraining(model, {"first.weight": one, "second.weight": one})


def test_what_does_not_fit_is_refused_by_name():
    model = network()
    shared = shared_of(model)
    with pytest.raises(ValueError, match=r"no parameters 'other'; hand it over bare"):
        load_shared_(model, {"other": shared["2.weight"]})
    with pytest.raises(ValueError, match=r"'2.weight' has shape \(3, 64\), its codes \(4, 1, 3, 3\)"):
        load_shared_(model, {"2.weight": shared["0.weight"]})
    with pytest.raises(ValueError, match="no shared tensors"):
        CodebookTraining(model, {})
    training = CodebookTraining(model, shared)
    with pytest.raises(ValueError, match=r"does not hold these shared parameters: 2\.weight"):
        training.attach(torch.optim.SGD(model[0].parameters(), lr=0.1))


def test_a_wrapper_is_no_optimizer():
    model = network()
    training = CodebookTraining(model, shared_of(model))
    try:  # Accelerate's is a torch.optim.Optimizer by name
        wrapped = Accelerator(cpu=True).prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(TypeError):
            training.attach(wrapped)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(TypeError):
        training.attach(nn.Linear(1, 1))


def test_gradients_are_not_summed_twice():
    model = network()
    training, optimizer = (
        CodebookTraining(model, shared_of(model)),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    weights = shared_of(model)
    again = CodebookTraining(model, {"2.weight": weights.pop("2.weight")})
    with training.attach(optimizer):
        for one in (training, again):
            with pytest.raises(ValueError, match=r"already trains codebooks of .*2\.weight: .* summed twice"):
                one.attach(optimizer)
        assert len(optimizer._optimizer_step_pre_hooks) == 1
    with again.attach(optimizer), CodebookTraining(model, weights).attach(optimizer):  # different parameters
        pass


def test_a_training_that_diverged_says_so(inputs):
    model = network()
    training, optimizer = (
        CodebookTraining(model, shared_of(model)),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    with training.attach(optimizer):
        (loss_of(model(inputs)) * float("nan")).backward()
        optimizer.step()
    with pytest.raises(ValueError, match=r"^0\.weight: training made weights NaN or infinite"):
        training.shared()
