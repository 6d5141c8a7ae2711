"""What holds pruned weights at 0, and what frees them again: bits, hooks, wrappers, lost handles."""

import copy
import gc
import io
import math
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import jaxtyping
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seqdsd.fabric import Fabric
from seqdsd.sparsity import MaskSet, Rule, magnitude_mask, resolve
from seqdsd.sparsity.held_weights import _PART_BYTES, _SMALL, zero_pruned_

BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16}
BITS |= {torch.float32: torch.int32, torch.float64: torch.int64}
ODD = [math.nan, math.inf, -math.inf, -0.0, -1.0, 1e-40]
"""What a product with 0 does not turn into +0.0, and a number so small that some processors take it for 0."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def half_of(model: nn.Module) -> MaskSet:
    return MaskSet.from_magnitude(model, resolve(model, [Rule("*")], 0.5))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(5, 6)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def pruned(model: nn.Module, masks: MaskSet) -> Tensor:
    """All weights that the masks prune, in one vector."""
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name][~mask] for name, mask in masks.masks.items()]).detach()


def is_free(model: nn.Module, masks: MaskSet) -> bool:
    """Whether an optimizer of its own now moves every pruned weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    train(model, torch.optim.Adam(model.parameters()))
    return bool((pruned(model, masks) != 0).all())


def larger(one: Tensor) -> Tensor:
    """Not small, but one part."""
    made = one.repeat(1 + _SMALL // one.numel(), 1, 1, 1)
    assert made.numel() > _SMALL and made.nbytes <= _PART_BYTES
    return made


LAYOUTS = {
    "plain": lambda one: one,
    "channels last": lambda one: one.contiguous(memory_format=torch.channels_last),
    "transposed": lambda one: one.transpose(0, 1),
    "with gaps": lambda one: one.repeat_interleave(2, dim=3)[..., ::2],
    "larger": lambda one: larger(one),
    "larger, channels last": lambda one: larger(one).contiguous(memory_format=torch.channels_last),
    "larger, with gaps": lambda one: larger(one).repeat_interleave(2, dim=3)[..., ::2],
    "many parts": lambda one: one.repeat(1 + _PART_BYTES // one.nbytes, 2, 1, 1),
    "many parts, transposed": lambda one: one.repeat(1 + _PART_BYTES // one.nbytes, 2, 1, 1).transpose(0, 1),
    "one by one": lambda one: one[:, :, :1, :1].contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", BITS)
def test_pruned_weights_and_gradients_are_plus_zero_whatever_stood_there(layout, dtype):
    """And the bits of the others are as they were."""
    model = nn.Module()
    model.weight = nn.Parameter(layout(torch.randn(6, 4, 3, 3).to(dtype)))
    mask = magnitude_mask(model.weight, 0.5)
    masks = MaskSet(model, {"weight": mask})
    odd = torch.tensor(ODD).to(dtype)
    with torch.no_grad():
        filled = odd.repeat(-(-mask.numel() // len(odd)))[: mask.numel()].view(mask.shape)
        model.weight.copy_(filled)
        model.weight.grad = torch.empty_like(model.weight).copy_(filled)
    before = filled.view(BITS[dtype])
    masks.apply_()
    masks.mask_gradients_()
    for found in (model.weight.detach(), model.weight.grad):
        bits = found.view(BITS[dtype])
        assert not bits[~mask].any()
        assert torch.equal(bits[mask], before[mask])


def test_threads_that_zero_at_once_do_not_mix_their_masks():
    masks = [torch.rand(2 * _SMALL) < share for share in (0.3, 0.7)]

    def wrong(mask: Tensor) -> int:
        ones = torch.ones(100, 2 * _SMALL)
        for one in ones:
            zero_pruned_(one, mask)
        return int((ones.bool() != mask).sum())

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(wrong, masks)) == [0, 0]


def test_a_thread_that_began_in_inference_mode_goes_on_outside_of_it():
    mask = torch.rand(2 * _SMALL) < 0.5

    def zeroed() -> Tensor:
        with torch.inference_mode():
            zero_pruned_(torch.ones(2 * _SMALL), mask)
        zero_pruned_(weight := torch.ones(2 * _SMALL), mask)
        return weight

    with ThreadPoolExecutor(1) as thread:
        assert torch.equal(thread.submit(zeroed).result(), mask.float())


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.bfloat16(),
        lambda model: model.double(),
        lambda model: model.to(memory_format=torch.channels_last),
    ],
)
def test_masks_follow_a_model_that_is_changed_while_they_are_attached(change):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3))
    masks = half_of(model)
    optimizer = sgd(model)
    with masks.attach(optimizer):
        change(model)
        for _ in range(2):
            inputs = torch.randn(1, 2, 6, 6, dtype=model[0].weight.dtype)
            model(inputs).square().sum().backward()
            for name, mask in masks.masks.items():
                assert not model.get_parameter(name).grad[~mask].any()
            optimizer.step()
            assert not pruned(model, masks).any()
    lies_as = {name: one.stride() for name, one in model.named_parameters() if name in masks.masks}
    assert {name: mask.stride() for name, mask in masks.masks.items()} == lies_as


def test_one_byte_a_weight_while_attached():
    model = nn.Linear(123, 77)
    with half_of(model).attach(sgd(model)):
        gc.collect()
        # By the type itself: isinstance would wake deprecated objects of torch's, which warn.
        tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.numel() == 123 * 77]
        assert [one.element_size() for one in tensors] == [1]


def test_a_sparse_gradient_is_masked_too():
    model = nn.Embedding(6, 4, sparse=True)
    masks = MaskSet(model, {"weight": magnitude_mask(model.weight, 0.5)})
    with masks.attach(torch.optim.SGD(model.parameters(), lr=0.1)):
        model(torch.arange(6)).sum().backward()
        assert torch.equal(model.weight.grad.to_dense(), masks.masks["weight"].float())
        model.zero_grad()
        (model(torch.tensor([1, 4, 1])) * math.nan).sum().backward()
        assert torch.equal(model.weight.grad.to_dense().isnan()[[1, 4]], masks.masks["weight"][[1, 4]])


def test_the_block_s_end_is_the_redense_step_also_after_an_exception():
    model = net()
    masks = half_of(model)
    optimizer = sgd(model)
    with pytest.raises(KeyError), masks.attach(optimizer) as handle:
        train(model, optimizer)
        assert handle.is_attached and not pruned(model, masks).any()
        raise KeyError
    assert not handle.is_attached and not pruned(model, masks).any()  # and restart at 0
    assert is_free(model, masks)
    train(model, optimizer)
    assert (pruned(model, masks) != 0).all()


def test_a_lost_handle_is_found_by_the_model():
    model = net()
    masks = half_of(model)
    masks.attach(sgd(model))  # its handle is lost
    gc.collect()
    train(model, torch.optim.Adam(model.parameters()))
    assert all(not model.get_parameter(name).grad[~mask].any() for name, mask in masks.masks.items())
    MaskSet.detach(model)
    assert is_free(model, masks)
    MaskSet.detach(model)  # nothing is left to do


def test_attaching_beside_masks_that_are_attached_warns_and_says_what_to_do():
    model = net()
    half_of(model).attach(sgd(model))  # lost
    masks = half_of(model)
    with pytest.warns(UserWarning, match=r"already to 0\.weight, 2\.weight.*`with` block.*MaskSet\.detach"):
        masks.attach(sgd(model))
    MaskSet.detach(model)  # both
    assert is_free(model, masks)
    with masks.attach(sgd(model)):
        pass
    with masks.attach(sgd(model)):  # no warning: the first has ended
        pass


def test_a_lost_handle_does_not_keep_its_model_alive():
    model = net()
    half_of(model).attach(sgd(model))
    train(model, sgd(model))
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert [one() for one in parameters] == [None] * 4


def test_a_model_whose_tensors_torch_swaps_can_be_converted_afterwards(monkeypatch):
    """As those of sharded models are; torch refuses where anything refers to them weakly."""
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    model = net()
    with half_of(model).attach(sgd(model)):
        train(model, sgd(model))
    model.zero_grad()
    weight = model[0].weight
    model.double()
    assert model[0].weight is weight and weight.dtype == torch.float64


def refused(model: nn.Module, masks: MaskSet, *optimizers: object) -> str:
    """The error of an attach that must leave no trace."""
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises((ValueError, TypeError)) as caught:
        masks.attach(*optimizers)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items()), "it has pruned"
    model.requires_grad_(True)
    assert is_free(model, masks), "it has left a hook"
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.Optimizer):
            assert not optimizer._optimizer_step_post_hooks
    return str(caught.value)


def test_an_attach_that_is_refused_changes_nothing():
    model = net()
    masks = half_of(model)
    model[2].weight.requires_grad_(False)
    assert "frozen" in refused(model, masks, sgd(model)) and masks.masks
    assert "does not hold these masked parameters: 2.weight" in refused(model, masks, sgd(model[0]))
    assert "0.weight, 2.weight" in refused(model, masks)
    assert "torch.optim.Optimizer, got list" in refused(model, masks, sgd(model), [])


class Lookahead:
    """Moves the weights on after the optimizer within has."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_wrapper_that_may_move_weights_itself_is_refused():
    model = net()
    assert "got Lookahead; of a wrapper hand over" in refused(model, half_of(model), Lookahead(sgd(model)))


def test_the_optimizer_of_accelerate():
    accelerator = Accelerator(cpu=True)
    model = net()
    masks = half_of(model)
    prepared, optimizer = accelerator.prepare(model, sgd(model))
    with masks.attach(optimizer):
        for _ in range(3):
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(torch.randn(5, 6)).square().mean())
                accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
                optimizer.step()
                assert not pruned(model, masks).any()
                optimizer.zero_grad()
    assert is_free(model, masks)


def test_the_model_and_optimizer_of_fabric():
    fabric = Fabric(accelerator="cpu", devices=1)
    model = net()
    wrapped, optimizer = fabric.setup(model, sgd(model))
    masks = MaskSet.from_magnitude(wrapped, resolve(model, [Rule("*")], 0.5))
    assert list(masks.masks) == ["0.weight", "2.weight"]
    with masks.attach(optimizer):
        train(wrapped, optimizer)
        assert not pruned(model, masks).any()
    assert is_free(model, masks)


@pytest.mark.parametrize("wrap", [lambda model: torch.compile(model, backend="eager"), AveragedModel])
def test_masks_go_by_bare_names_through_a_wrapper(wrap):
    wrapped = wrap(net())
    bare = getattr(wrapped, "_orig_mod", None) or wrapped.module
    masks = MaskSet.from_magnitude(wrapped, resolve(bare, [Rule("*")], 0.5))
    assert list(masks.masks) == ["0.weight", "2.weight"]
    again = MaskSet.from_state_dict(wrapped, masks.state_dict())
    with again.attach(sgd(wrapped)):
        assert not pruned(bare, masks).any()
    masks.attach(sgd(wrapped))
    MaskSet.detach(wrapped)
    assert is_free(bare, masks)


def test_several_optimizers_that_share_the_parameters():
    model = net()
    masks = half_of(model)
    optimizers = [sgd(model[0]), torch.optim.Adam(model[2].parameters())]
    train(model, *optimizers)
    with masks.attach(*optimizers):
        for optimizer in optimizers:
            train(model, optimizer, steps=1)
            assert not pruned(model, masks).any()
    train(model, *optimizers)
    assert (pruned(model, masks) != 0).all()


def test_gradients_that_are_there_already_are_masked():
    model = net()
    model(torch.randn(5, 6)).sum().backward()
    masks = half_of(model)
    with masks.attach(sgd(model)):
        for name, mask in masks.masks.items():
            assert not model.get_parameter(name).grad[~mask].any()
            assert model.get_parameter(name).grad[mask].any()


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model[0]])
def test_weights_loaded_while_attached_are_pruned(part):
    model = net()
    masks = half_of(model)
    dense = copy.deepcopy(part(model).state_dict())
    with masks.attach(sgd(model)):
        part(model).load_state_dict(dense)
        assert not pruned(model, masks).any()
        assert torch.equal(model[0].weight[masks.masks["0.weight"]], dense_of(dense)[masks.masks["0.weight"]])
    part(model).load_state_dict(dense)
    assert torch.equal(model[0].weight, dense_of(dense))


def dense_of(state: dict[str, Tensor]) -> Tensor:
    return state["0.weight"] if "0.weight" in state else state["weight"]


def test_loading_into_a_copy_neither_prunes_it_nor_its_original():
    model = net()
    dense = copy.deepcopy(model.state_dict())
    masks = half_of(model)
    with masks.attach(sgd(model)):
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        copies = [copy.deepcopy(model), torch.load(saved, weights_only=False)]
        copies.append(pickle.loads(pickle.dumps(model)))
        with torch.no_grad():
            model[0].weight.fill_(1.0)
        for one in copies:
            one.load_state_dict(dense)
            assert all(torch.equal(now, dense[name]) for name, now in one.state_dict().items())
        assert (model[0].weight == 1).all()


def test_an_average_taken_by_an_earlier_hook_sees_pruned_weights_only():
    model = net()
    optimizer = sgd(model)
    average = AveragedModel(model)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    masks = half_of(model)
    with masks.attach(optimizer):
        train(model, optimizer, steps=3)
        assert not pruned(average.module, masks).any()


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # torch says it
def test_compiled_steps():
    model = net()
    masks = half_of(model)
    optimizer = sgd(model)
    compiled = torch.compile(model, backend="aot_eager")
    step = torch.compile(optimizer.step, backend="aot_eager")
    jaxtyping.config.update("jaxtyping_disable", True)  # what it wraps functions in cannot be compiled
    try:
        with masks.attach(optimizer):
            for _ in range(3):
                model.zero_grad()
                compiled(torch.randn(5, 6)).square().mean().backward()
                step()
                assert not pruned(model, masks).any()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert is_free(model, masks)


def test_a_scaler_s_skipped_and_taken_steps():
    model = net()
    masks = half_of(model)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with masks.attach(optimizer):
        for factor in (1.0, math.inf, 1.0):
            model.zero_grad()
            scaler.scale(model(torch.randn(5, 6)).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            assert not pruned(model, masks).any()
    assert scaler.get_scale() < 2.0**10, "a step must have been skipped"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu():
    model = net().cuda()
    masks = half_of(model)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs = torch.randn(5, 6, device="cuda")
    with masks.attach(optimizer):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                masks.mask_gradients_()
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not pruned(model, masks).any()
