"""What one of two processes finds of sharded tensors; called from ``test_sharded.py``."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from seqdsd.models import DeepSpeech2
from seqdsd.sparsity import SPEECH_RULES, MaskSet, Rule, magnitude_mask, resolve
from seqdsd.sparsity.regrowth import former_weights, measure_regrowth

SHAPES = {"even": (8, 6), "uneven": (5, 7), "fewer rows than processes": (1, 9), "cube": (2, 5, 3)}
SPARSITIES = (0.0, 0.3, 0.5, 0.9)


def weights(shape):
    """Of several kinds, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(shape, generator=generator)
    yield "normal", normal
    yield "ties", (2 * normal).round()
    yield "zeros", torch.zeros(shape)
    yield "bfloat16", normal.bfloat16()
    yield "double", normal.double()


def masks_differ(mesh):
    """Every case in which the sharded mask is not the whole tensor's."""
    wrong = []
    for name, shape in SHAPES.items():
        for kind, weight in weights(shape):
            for placement in (Shard(0), Shard(1), Replicate()):
                for sparsity in SPARSITIES:
                    sharded = distribute_tensor(weight.clone(), mesh, [placement])
                    found = magnitude_mask(sharded, sparsity)
                    assert found.placements == sharded.placements and found.shape == weight.shape
                    if not torch.equal(found.full_tensor(), magnitude_mask(weight, sparsity)):
                        wrong.append((name, kind, str(placement), sparsity))
    return wrong


def refusal(mesh):
    """What is said of a NaN that only one process holds."""
    weight = torch.ones(4, 3)
    weight[3, 2] = torch.nan
    try:
        magnitude_mask(distribute_tensor(weight, mesh, [Shard(0)]), 0.5)
    except ValueError as error:
        return str(error)
    return "nothing"


def make_model():
    torch.manual_seed(0)
    return DeepSpeech2(vocab_size=5, num_bins=9, hidden_size=16, num_recurrent_layers=2)


def step(model, optimizer, rank):
    features = torch.randn(2, 30, 9, generator=torch.Generator().manual_seed(10 + rank))
    log_probs, num_frames = model(features, torch.tensor([30, 21]))
    tokens = torch.tensor([[1, 2], [3, 4]])
    loss = nn.functional.ctc_loss(log_probs.transpose(0, 1), tokens, num_frames, torch.tensor([2, 2]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def dsd_on_deepspeech2(mesh, rank):
    """A sparse and a redense phase of a network split by ``fully_shard``."""
    whole = make_model()
    plan = resolve(whole, SPEECH_RULES, 0.5)
    expected = MaskSet.from_magnitude(whole, plan)
    model = make_model()
    for layer in [*model.recurrent, model.fc]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    masks = MaskSet.from_magnitude(model, plan)
    packed = {
        name: bool(torch.equal(bits, expected.state_dict()[name]))
        for name, bits in masks.state_dict().items()
    }
    restored = MaskSet.from_state_dict(model, expected.state_dict())
    same = all(
        torch.equal(restored.masks[name].to_local(), masks.masks[name].to_local()) for name in masks.masks
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    former = former_weights(model, masks)
    former_abs = {name: abs_of_pruned(model, masks, name) for name in masks.masks}
    handle = masks.attach(optimizer)
    parameters = dict(model.named_parameters())
    zeros, gradients = [], []
    for _ in range(3):
        step(model, optimizer, rank)
        for name, mask in masks.masks.items():
            pruned = ~mask.to_local()
            zeros.append(bool((parameters[name].to_local()[pruned] == 0).all()))
            gradients.append(bool((parameters[name].grad.to_local()[pruned] == 0).all()))
    handle.remove()
    fresh = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, fresh, rank)
    moved = [
        bool((parameters[name].to_local()[~mask.to_local()] != 0).any()) for name, mask in masks.masks.items()
    ]
    return {
        "masks": packed,
        "restored": same,
        "sparsity": masks.sparsity(),
        "zeros": all(zeros),
        "gradients": all(gradients),
        "moved": all(moved),
        "regrowth": asdict(measure_regrowth(model, masks, former)),
        "whole": [(former_abs[name], abs_of_pruned(model, masks, name)) for name in masks.masks],
    }


def abs_of_pruned(model, masks, name):
    """|w| of a tensor's pruned weights, of all processes."""
    pruned = ~masks.masks[name].full_tensor()
    return model.get_parameter(name).full_tensor().detach().abs()[pruned]


def nan_is_zeroed(mesh):
    """Whether a pruned NaN becomes +0.0 in the weights and gradients that a process holds."""
    model = nn.Linear(4, 6, bias=False)
    fully_shard(model, mesh=mesh)
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("*")], 0.5))
    pruned = ~masks.masks["weight"].to_local()
    with masks.attach(torch.optim.SGD(model.parameters(), lr=0.1)):
        model(torch.ones(2, 4)).sum().backward()
        found = [model.weight.detach().to_local(), model.weight.grad.to_local()]
        for one in found:
            one.fill_(torch.nan)
        masks.apply_()
        masks.mask_gradients_()
        return all(not one.view(torch.int32)[pruned].any() and one[~pruned].isnan().all() for one in found)


def unequal_masks(rank):
    """What is said of masks that each process has chosen from weights of its own, and that nothing was done."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    nn.init.constant_(model[0].weight, 1.0)
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("*")], 0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        masks.attach(optimizer)
    except ValueError as error:
        said = str(error)
    else:
        said = "nothing"
    untouched = bool((model[1].weight != 0).all())
    with masks.attach(optimizer, compare_processes=False):
        pass
    wrapped = DistributedDataParallel(model)  # makes the weights equal
    with MaskSet.from_magnitude(wrapped, resolve(model, [Rule("*")], 0.5)).attach(optimizer):
        pass
    return {"said": said, "untouched": untouched}


def find(out: Path) -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    found = {"differ": masks_differ(mesh), "refusal": refusal(mesh), "dsd": dsd_on_deepspeech2(mesh, rank)}
    found |= {"nan": nan_is_zeroed(mesh), "unequal": unequal_masks(rank)}
    torch.save(found, out / f"{rank}.pt")
    distributed.destroy_process_group()
