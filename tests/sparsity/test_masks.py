"""Masks against a sorted list, a network without the pruned weights, and torch's own pruning."""

import copy
import io
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import prune

from seqdsd.sparsity import MaskSet, Plan, PlanRow, Rule, magnitude_mask, resolve

EVERYTHING = [Rule("*")]
FLOAT_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

OPTIMIZERS = {
    "sgd momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "sgd nesterov": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "sgd fused, decay": lambda params: torch.optim.SGD(
        params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True
    ),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adam fused": lambda params: torch.optim.Adam(params, lr=0.01, fused=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9),
}


class Tagger(nn.Module):
    """A recurrent layer and a linear one: five sequences of seven frames in, three numbers a sequence out."""

    def __init__(self, recurrence: type[nn.RNNBase], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.recurrence = recurrence(4, 6, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(12 if bidirectional else 6, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.recurrence(frames)[0].sum(1))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(28, 6), nn.Tanh(), nn.Linear(6, 3))


MODELS = {
    "mlp": mlp,
    "rnn": lambda: Tagger(nn.RNN),
    "lstm": lambda: Tagger(nn.LSTM),
    "bidirectional lstm": lambda: Tagger(nn.LSTM, bidirectional=True),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_loss(model: nn.Module) -> Tensor:
    return (model(torch.randn(5, 7, 4)) - torch.randn(5, 1)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        random_loss(model).backward()
        optimizer.step()


def pruned_weights(model: nn.Module, masks: MaskSet) -> Tensor:
    """All weights that the masks prune, in one vector."""
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name][~mask] for name, mask in masks.masks.items()]).detach()


def sorted_mask(weights: list[float], sparsity: float) -> list[bool]:
    """By sorting a list: largest first, of equal ones the first."""
    ranking = sorted(range(len(weights)), key=lambda i: (-abs(weights[i]), i))
    kept = ranking[: len(weights) - round(len(weights) * sparsity)]
    return [i in kept for i in range(len(weights))]


shares = st.floats(0, 1, exclude_max=True)
many_ties = st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, -1.0, 3.0])
weight_lists = st.lists(many_ties | st.floats(-1000, 1000, width=16), min_size=1, max_size=40)


def leaves_some(weights: list[float], sparsity: float) -> bool:
    return round(len(weights) * sparsity) < len(weights)


@settings(deadline=None)
@given(weight_lists, shares, st.sampled_from(FLOAT_TYPES))
def test_against_a_sorted_list(weights, sparsity, dtype):
    assume(leaves_some(weights, sparsity))
    weight = torch.tensor(weights, dtype=dtype)
    mask = magnitude_mask(weight, sparsity)
    assert mask.sum() == len(weights) - round(len(weights) * sparsity)
    assert mask.tolist() == sorted_mask(weight.tolist(), sparsity)


@settings(deadline=None)
@given(weight_lists, shares, shares)
def test_a_larger_sparsity_keeps_a_subset(weights, first, second):
    assume(leaves_some(weights, max(first, second)))
    smaller, larger = (magnitude_mask(torch.tensor(weights), share) for share in sorted((first, second)))
    assert not (larger & ~smaller).any()


@settings(deadline=None)
@given(weight_lists, shares)
def test_pruning_a_pruned_weight_again_changes_nothing(weights, sparsity):
    """Only which of several zeros a mask counts as pruned may differ, and that changes no weight."""
    assume(leaves_some(weights, sparsity))
    weight = torch.tensor(weights)
    pruned = weight * magnitude_mask(weight, sparsity)
    assert torch.equal(pruned * magnitude_mask(pruned, sparsity), pruned)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_any_shape_and_type(shape, dtype):
    weight = torch.randn(shape).to(dtype)
    mask = magnitude_mask(weight, 0.4)
    assert mask.shape == weight.shape
    assert mask.flatten().tolist() == sorted_mask(weight.flatten().tolist(), 0.4)


def test_a_transposed_weight_is_ranked_in_its_own_order():
    weight = torch.zeros(3, 2).T
    assert magnitude_mask(weight, 0.5).tolist() == [[True, True, True], [False, False, False]]


def test_all_zero_weights_are_pruned_to_the_exact_count():
    assert magnitude_mask(torch.zeros(10), 0.75).tolist() == [True] * 2 + [False] * 8


def test_sparsity_0_keeps_all():
    assert magnitude_mask(torch.zeros(2, 2), 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_cannot_be_ranked(bad):
    with pytest.raises(ValueError, match="1 of 3 are NaN or infinite"):
        magnitude_mask(torch.tensor([1.0, bad, 2.0]), 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, math.nan])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        magnitude_mask(torch.ones(3), sparsity)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_tensor_is_never_pruned_whole(size):
    with pytest.raises(ValueError, match=f"would prune all {size} weights; lower it"):
        magnitude_mask(torch.ones(size), 0.9)
    assert magnitude_mask(torch.ones(6), 0.9).sum() == 1
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="^weight: .*would prune all"):
        MaskSet.from_magnitude(model, Plan((PlanRow("weight", (1, 1), 1, 0.9, None, ""),)))


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_against_torchs_own_pruning(sparsity):
    weight = torch.randn(37, 11)
    theirs = prune.L1Unstructured(amount=sparsity).compute_mask(weight, torch.ones_like(weight))
    assert torch.equal(magnitude_mask(weight, sparsity), theirs.bool())


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_no_pruned_weight_moves_until_the_handle_is_removed(build, make_optimizer):
    model = build()
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer, steps=2)  # leaves momentum and moments that point at the pruned weights
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    handle = masks.attach(optimizer)
    assert (pruned_weights(model, masks) == 0).all()
    before = copy.deepcopy(model)
    for _ in range(4):
        train(model, optimizer, steps=1)
        assert (pruned_weights(model, masks) == 0).all()
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        free = masks.masks.get(name, torch.ones_like(now, dtype=torch.bool))
        assert (now != then)[free].all(), f"{name}: kept weights should train"
    handle.remove()
    train(model, make_optimizer(model.parameters()), steps=2)
    assert (pruned_weights(model, masks) != 0).all()


def test_masking_gradients_alone_would_not_hold_them():
    """Why the mask is applied after each step: what the test above guards against does happen."""
    model = mlp()
    optimizer = OPTIMIZERS["sgd momentum"](model.parameters())
    train(model, optimizer, steps=2)
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    masks.apply_()
    optimizer.zero_grad()
    random_loss(model).backward()
    masks.mask_gradients_()
    optimizer.step()
    assert (pruned_weights(model, masks) != 0).all()


def test_equals_training_under_torchs_own_reparametrisation():
    """``torch.nn.utils.prune`` multiplies by the mask in the forward pass: the same after five steps."""
    ours = mlp()
    theirs = copy.deepcopy(ours)
    for layer in (theirs[1], theirs[3]):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    masks = MaskSet.from_magnitude(ours, resolve(ours, EVERYTHING, 0.5))
    for model in (ours, theirs):
        torch.manual_seed(1)
        optimizer = OPTIMIZERS["sgd nesterov"](model.parameters())
        if model is ours:
            masks.attach(optimizer)
        train(model, optimizer, steps=5)
    for index in (1, 3):
        effective = theirs[index].weight_orig * theirs[index].weight_mask
        torch.testing.assert_close(ours[index].weight, effective)
        torch.testing.assert_close(ours[index].bias, theirs[index].bias)


class WithoutPrunedWeights(nn.Module):
    """An MLP of the masks' kept weights only, each a parameter of its own; the pruned ones do not exist."""

    def __init__(self, model: nn.Sequential, masks: MaskSet) -> None:
        super().__init__()
        self.masks = masks.masks
        self.kept = nn.ParameterList([model[i].weight.detach()[self.masks[f"{i}.weight"]] for i in (1, 3)])
        self.biases = nn.ParameterList([model[i].bias.detach().clone() for i in (1, 3)])

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = (
            torch.zeros(mask.shape).masked_scatter(mask, kept)
            for mask, kept in zip(self.masks.values(), self.kept, strict=True)
        )
        hidden = nn.functional.linear(inputs.flatten(1), first, self.biases[0]).tanh()
        return nn.functional.linear(hidden, second, self.biases[1])


def clipped_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(1)
    optimizer.zero_grad()
    random_loss(model).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.05)
    assert norm > 0.05, "the clip must act"
    optimizer.step()


def test_pruned_weights_do_not_enter_a_clipped_norm():
    model = mlp()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    masks.apply_()
    without, unmasked = WithoutPrunedWeights(model, masks), copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    masks.attach(optimizer)
    clipped_step(model, optimizer)
    clipped_step(without, torch.optim.SGD(without.parameters(), lr=1.0))
    clipped_step(unmasked, torch.optim.SGD(unmasked.parameters(), lr=1.0))
    for index, kept in zip((1, 3), without.kept, strict=True):
        mask = masks.masks[f"{index}.weight"]
        torch.testing.assert_close(model[index].weight[mask], kept)
        assert not torch.allclose(unmasked[index].weight[mask], kept)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_masked_as_they_accumulate(set_to_none):
    model = mlp()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks.attach(optimizer)
    frames = torch.randn(8, 7, 4)
    whole = copy.deepcopy(model)
    whole(frames).sum().backward()
    for _ in range(2):
        optimizer.zero_grad(set_to_none=set_to_none)
        for half in frames.chunk(2):
            model(half).sum().backward()
            for name, mask in masks.masks.items():
                assert (model.get_parameter(name).grad[~mask] == 0).all()
    for (name, parameter), full in zip(model.named_parameters(), whole.parameters(), strict=True):
        expected = full.grad * masks.masks.get(name, 1)
        torch.testing.assert_close(parameter.grad, expected)


def test_gradients_are_masked_by_hand():
    model = nn.Linear(2, 1)
    model.weight.data = torch.tensor([[3.0, 1.0]])
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    masks.mask_gradients_()
    assert model.weight.grad is None
    model(torch.tensor([[5.0, 7.0]])).backward()
    assert model.weight.grad.tolist() == [[5.0, 7.0]]
    masks.mask_gradients_()
    assert model.weight.grad.tolist() == [[5.0, 0.0]]
    assert model.weight.tolist() == [[3.0, 1.0]]
    masks.apply_()
    assert model.weight.tolist() == [[3.0, 0.0]]


def test_weights_stay_as_they_are_until_attached():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    biases = [parameter.clone() for name, parameter in model.named_parameters() if name.endswith("bias")]
    masks.attach(torch.optim.SGD(model.parameters()))
    after = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert all(torch.equal(*pair) for pair in zip(biases, after, strict=True))


def test_removing_twice_does_nothing():
    model = mlp()
    handle = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5)).attach(
        torch.optim.SGD(model.parameters())
    )
    handle.remove()
    handle.remove()


def test_an_optimizer_that_lacks_a_masked_parameter():
    model = mlp()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    with pytest.raises(
        ValueError, match=r"does not hold these masked parameters: 3\.weight; hand over all optimizers"
    ):
        masks.attach(torch.optim.SGD(model[1].parameters()))
    assert (pruned_weights(model, masks) != 0).all(), "a refused attach must not prune"


def test_several_parameter_groups():
    model = mlp()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    groups = [{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    masks.attach(optimizer)
    train(model, optimizer, steps=3)
    assert (pruned_weights(model, masks) == 0).all()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_copy_made_while_attached_is_a_free_model(build):
    model = build()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    optimizer = torch.optim.Adam(model.parameters())
    masks.attach(optimizer)
    clone = copy.deepcopy(model)
    assert [name for name, _ in clone.named_parameters()] == [name for name, _ in model.named_parameters()]
    train(clone, torch.optim.Adam(clone.parameters()), steps=2)
    assert (pruned_weights(clone, masks) != 0).all()
    train(model, optimizer, steps=1)
    assert (pruned_weights(model, masks) == 0).all()
    torch.save(model, io.BytesIO())  # hooks would not pickle


def test_tied_weights_are_masked_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(28, 28), nn.Tanh(), nn.Linear(28, 28))
    model[3].weight = model[1].weight
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    assert list(masks.masks) == ["1.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks.attach(optimizer)
    train(model, optimizer, steps=2)
    assert (model[3].weight[~masks.masks["1.weight"]] == 0).all()


def test_share_of_pruned_weights():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 30))
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("0.*", 0.8), *EVERYTHING], 0.5))
    assert masks.sparsity() == pytest.approx((80 + 150) / 400)


def test_restored_masks_are_in_the_model_s_order_whatever_a_file_s_is():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("*")], 0.5))
    state = dict(reversed(masks.state_dict().items()))
    assert [name for name in state if "/" not in name] == ["1.weight", "0.weight"]
    assert list(MaskSet.from_state_dict(model, state).masks) == ["0.weight", "1.weight"]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.2, 0.9))
def test_one_bit_a_weight_and_back(rows, columns, sparsity):
    assume(round(rows * columns * sparsity) < rows * columns)
    model = nn.Linear(columns, rows)
    masks = MaskSet(model, {"weight": magnitude_mask(model.weight, sparsity)})
    state = masks.state_dict()
    assert {name: (packed.dtype, packed.shape) for name, packed in state.items()} == {
        "weight": (torch.uint8, (math.ceil(rows * columns / 8),)),
        "weight/shape": (torch.int64, (2,)),
    }
    restored = MaskSet.from_state_dict(copy.deepcopy(model), state)
    assert torch.equal(restored.masks["weight"], masks.masks["weight"])


def test_packed_bits_by_hand():
    model = nn.Linear(5, 2)
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0]]).bool()
    assert MaskSet(model, {"weight": mask}).state_dict()["weight"].tolist() == [0b10000001, 0b10000000]


def test_masks_of_another_shape_are_refused_and_those_without_one_read():
    """Of as many bytes; earlier versions wrote no shapes."""
    state = MaskSet(nn.Linear(6, 4), {"weight": torch.ones(4, 6).bool()}).state_dict()
    assert load(save(state))["weight/shape"].tolist() == [4, 6]
    with pytest.raises(ValueError, match=r"'weight' has shape \(4, 6\), the weight \(6, 4\)"):
        MaskSet.from_state_dict(nn.Linear(4, 6), state)
    del state["weight/shape"]
    assert MaskSet.from_state_dict(nn.Linear(6, 4), state).masks["weight"].shape == (4, 6)


def test_a_mask_must_be_bool():
    with pytest.raises(TypeError, match=r"mask for 'weight' must be bool \(True = kept\), got torch.float32"):
        MaskSet(nn.Linear(6, 4), {"weight": torch.ones(4, 6)})


def test_tied_weights_may_go_by_any_of_their_names():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mask = magnitude_mask(model[0].weight, 0.5)
    masks = MaskSet(model, {"1.weight": mask})
    assert list(masks.masks) == ["0.weight"]
    state = {"1.weight": masks.state_dict()["0.weight"]}
    assert torch.equal(MaskSet.from_state_dict(model, state).masks["0.weight"], mask)
    with pytest.raises(ValueError, match=r"two masks for one parameter: 0\.weight = 1\.weight"):
        MaskSet(model, {"0.weight": mask, "1.weight": mask})


def test_masks_are_copies():
    model, mask = nn.Linear(2, 1, bias=False), torch.tensor([[True, False]])
    masks = MaskSet(model, {"weight": mask})
    mask.fill_(False)
    masks.apply_()
    assert model.weight[0, 0] != 0


def test_a_restored_mask_does_not_look_at_the_weights():
    """A weight that was trained to exactly 0 is not thereby pruned, nor is a mask guessed from zeros."""
    model = mlp()
    state = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5)).state_dict()
    with torch.no_grad():
        model[1].weight.zero_()
    restored = MaskSet.from_state_dict(model, state)
    assert restored.masks["1.weight"].sum() == 28 * 6 / 2


def row(name: str) -> PlanRow:
    return PlanRow(name, (4, 4), 16, 0.5, None, "")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda model: MaskSet(model, {}), "no masks"),
        (lambda model: MaskSet.from_state_dict(model, {}), "no masks"),
        (lambda model: MaskSet(model, {"wait": torch.ones(4, 4).bool()}), "'wait', which the model does not"),
        (
            lambda model: MaskSet(model, {"weight": torch.ones(16).bool()}),
            r"shape \(16,\), the weight \(4, 4\)",
        ),
        (
            lambda model: MaskSet.from_magnitude(model, Plan((row("wait"),))),
            "'wait', which the model does not",
        ),
        (lambda model: MaskSet.from_state_dict(model, {"wait": torch.zeros(2).byte()}), "'wait'"),
        (lambda model: MaskSet.from_state_dict(model, {"weight": torch.zeros(3).byte()}), "3 bytes for 16"),
    ],
)
def test_masks_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build(nn.Linear(4, 4))


def test_a_weight_that_cannot_be_ranked_is_named():
    model = mlp()
    plan = resolve(model, EVERYTHING, 0.5)
    with torch.no_grad():
        model[3].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^3\.weight: .*1 of 18"):
        MaskSet.from_magnitude(model, plan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_same_mask_on_the_gpu(dtype):
    weight = torch.randn(64, 33).round(decimals=1).to(dtype)  # with many ties
    assert torch.equal(magnitude_mask(weight.cuda(), 0.5).cpu(), magnitude_mask(weight, 0.5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flat_lstm_weights_on_the_gpu():
    model = Tagger(nn.LSTM, bidirectional=True).cuda()
    masks = MaskSet.from_magnitude(model, resolve(model, EVERYTHING, 0.5))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    masks.attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 7, 4, device="cuda")).sum().backward()
        optimizer.step()
        assert (pruned_weights(model, masks) == 0).all()
