"""Weights of other programs: what is read of a file, what fits, and what is refused by name."""

import hashlib
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seqdsd.engine import Checkpoint, CheckpointError, GivenWeights, save_checkpoint


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), last=nn.Linear(4, 2)))


@pytest.fixture
def theirs():
    """Somebody's trained weights."""
    model = network(seed=1)
    model(torch.randn(8, 3))  # statistics of the norm
    return model.state_dict()


def check_given(path, theirs):
    """All of them arrive, to the bit."""
    model = network()
    GivenWeights.read(path).give_to(model)
    mine = model.state_dict()
    assert all(torch.equal(mine[name], one) for name, one in theirs.items())


WRITERS = {
    "safetensors": save_file,
    "state_dict": torch.save,
    "file of before 2020": lambda tensors, path: torch.save(
        tensors, path, _use_new_zipfile_serialization=False
    ),
    "Lightning": lambda tensors, path: torch.save(
        {"epoch": 3, "state_dict": {f"model.{name}": one for name, one in tensors.items()}}, path
    ),
    "DDP": lambda tensors, path: torch.save({f"module.{name}": one for name, one in tensors.items()}, path),
    "compiled under DDP": lambda tensors, path: torch.save(
        {"model": {f"_orig_mod.module.{name}": one for name, one in tensors.items()}, "optimizer": {}}, path
    ),
    "a score beside": lambda tensors, path: torch.save(
        {"best_acc1": torch.tensor(71.5), "state_dict": tensors}, path
    ),
    "a checksum of theirs": lambda tensors, path: save_file(tensors, path, metadata={"checksum": "0f3a"}),
    "parameters": lambda tensors, path: torch.save(
        {name: nn.Parameter(one, requires_grad=one.is_floating_point()) for name, one in tensors.items()},
        path,
    ),
    "seqdsd": lambda tensors, path: save_checkpoint(
        path, Checkpoint(dict(tensors), {"phase": "Dense Iter 0"})
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_many_programs_are_read(theirs, tmp_path, writer):
    path = tmp_path / "their weights"  # no suffix: what is in it decides
    WRITERS[writer](theirs, path)
    check_given(path, theirs)
    assert GivenWeights.read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_old_norms_have_no_count_of_batches(theirs, tmp_path):
    del theirs["norm.num_batches_tracked"]
    torch.save(theirs, tmp_path / "old.pt")
    check_given(tmp_path / "old.pt", theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_half_precision_is_widened(theirs, tmp_path, dtype):
    half = {name: one.to(dtype) if one.is_floating_point() else one for name, one in theirs.items()}
    save_file(half, tmp_path / "half.safetensors")
    model = network()
    GivenWeights.read(tmp_path / "half.safetensors").give_to(model)
    assert torch.equal(model.first.weight, half["first.weight"].float())


def test_tied_weights_of_ours_have_all_their_names(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    save_checkpoint(tmp_path / "tied.safetensors", Checkpoint(dict(model.state_dict()), {"phase": "x"}))
    other = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    GivenWeights.read(tmp_path / "tied.safetensors").give_to(other)
    assert torch.equal(other["b"].weight, model["a"].weight)


def drop(tensors):
    del tensors["last.bias"]


def rename(tensors):
    tensors["head.bias"] = tensors.pop("last.bias")


def reshape(tensors):
    tensors["first.weight"] = torch.zeros(5, 3)


def quantise(tensors):
    tensors["first.weight"] = torch.zeros(4, 3, dtype=torch.int8)


def replace_all(tensors):
    for number, name in enumerate(list(tensors)):
        tensors[f"layer{number}.weight"] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop, "(missing: last.bias)"),
        (rename, "(missing: last.bias; unknown to the network: head.bias)"),
        (reshape, "(of another shape: first.weight [5, 3], the network's [4, 3])"),
        (quantise, "(of another shape: first.weight [4, 3] int8, the network's [4, 3])"),
        (
            replace_all,
            "(missing: first.weight, first.bias, norm.weight and 5 more; unknown to the network: layer0.w",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(theirs, tmp_path, change, expected):
    change(theirs)
    torch.save(theirs, tmp_path / "x.pt")
    model = network()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        GivenWeights.read(tmp_path / "x.pt").give_to(model)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'x.pt'}: not the weights of this network (") and expected in said
    assert "--hidden-size" in said
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("change", [drop, rename, lambda one: one.update({"last.bias": torch.zeros(9)})])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_all_but_some_modules_is_taken(theirs, tmp_path, change, prefix):
    change(theirs)
    theirs["last.weight"] = torch.full((7, 4), torch.nan)
    theirs.pop("head.bias", None)
    torch.save({prefix + name: one for name, one in theirs.items()}, tmp_path / "x.pt")
    model = network()
    GivenWeights.read(tmp_path / "x.pt").give_to(model, but=["last"])
    for name, one in model.state_dict().items():
        assert torch.equal(one, (network().state_dict() if name.startswith("last.") else theirs)[name])


def test_of_the_others_none_may_be_missing_or_unknown(theirs, tmp_path):
    theirs["lasting.weight"] = theirs.pop("first.weight")
    torch.save(theirs, tmp_path / "x.pt")
    expected = r"\(missing: first.weight; unknown to the network: lasting.weight\)"
    with pytest.raises(CheckpointError, match=expected) as error:
        GivenWeights.read(tmp_path / "x.pt").give_to(network(), but=["last"])
    assert "--weights" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(theirs, tmp_path, value):
    theirs["last.weight"] = theirs["last.weight"].double()
    theirs["last.weight"][1, 2] = value
    torch.save(theirs, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt: 'last.weight' holds NaN or infinity"):
        GivenWeights.read(tmp_path / "x.pt").give_to(network())


@pytest.mark.parametrize("change", [Tensor.to_sparse, lambda one: one.to("meta")])
def test_what_is_not_laid_out_in_full_is_refused(theirs, tmp_path, change):
    theirs["last.weight"] = change(theirs["last.weight"])
    torch.save(theirs, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt: 'last.weight' is sparse.*save it dense"):
        GivenWeights.read(tmp_path / "x.pt")


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_nothing_is_run(theirs, tmp_path):
    for name, thing in {"model": network(), "bomb": Bomb(tmp_path / "ran"), "array": np.ones(3)}.items():
        torch.save({"state_dict": theirs, "more": thing}, tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(thing))
        for suffix in ("pt", "pkl"):
            with pytest.raises(CheckpointError, match=rf"{name}.{suffix}: .*torch.save\(model.state_dict"):
                GivenWeights.read(tmp_path / f"{name}.{suffix}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("writer", ["safetensors", "state_dict", "file of before 2020", "seqdsd"])
def test_truncated_at_any_place(theirs, tmp_path, writer):
    WRITERS[writer](theirs, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"part: (damaged|neither)"):
            GivenWeights.read(tmp_path / "part")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"epoch": 3, "loss": 0.5}, "no state_dict in it, but a dict of 'epoch', 'loss'"),
        ([1, 2], "no state_dict in it, but a list"),
        ({}, "no state_dict in it, but a dict"),
        ({"state_dict": {}}, "no state_dict in it, but a dict"),
    ],
)
def test_a_file_without_weights(tmp_path, content, expected):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=f"x.pt: {expected}"):
        GivenWeights.read(tmp_path / "x.pt")


def test_no_file_a_folder_and_another_file(tmp_path):
    (tmp_path / "notes.txt").write_text("weights are elsewhere")
    for name, said in {
        "gone.pt": "no such file",
        ".": "a folder, and no run's",
        "notes.txt": "neither a safetensors file nor one of torch.save",
    }.items():
        with pytest.raises(CheckpointError, match=said):
            GivenWeights.read(tmp_path / name)


def test_a_run_s_own_checkpoint_is_more_than_weights(theirs, tmp_path):
    tensors = {f"model/{name}": one for name, one in theirs.items()}
    save_checkpoint(tmp_path / "last.safetensors", Checkpoint(tensors, {"phases": []}))
    with pytest.raises(
        CheckpointError, match="last.safetensors: what a run of seqdsd goes on from.*the run's folder"
    ):
        GivenWeights.read(tmp_path / "last.safetensors")
