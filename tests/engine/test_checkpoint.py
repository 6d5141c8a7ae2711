import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seqdsd.engine import Checkpoint, CheckpointError, load_checkpoint, load_latest, save_checkpoint
from seqdsd.engine import checkpoint as checkpoint_module
from seqdsd.engine.checkpoint import optimizer_tensors, restore_optimizer, save_latest


def small(number: int = 0) -> Checkpoint:
    return Checkpoint({"model/a": torch.arange(6.0).view(2, 3) + number}, {"step": number})


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.state == other.state and one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])


def test_tensors_and_state_come_back(tmp_path):
    checkpoint = Checkpoint(
        {
            "a": torch.randn(3, 4).t(),
            "half": torch.randn(5).bfloat16(),
            "count": torch.tensor(3),
            "mask": torch.tensor([True, False]),
            "bits": torch.tensor([1, 255], dtype=torch.uint8),
            "none": torch.empty(0, 2),
        },
        {"phase": "Dense Iter 0", "loss": [0.1, 1e-17], "nested": {"ü": None}},
    )
    save_checkpoint(tmp_path / "x.safetensors", checkpoint)
    assert_equal(load_checkpoint(tmp_path / "x.safetensors"), checkpoint)


def test_tied_tensors_are_written_once_and_come_back_under_every_name(tmp_path):
    one = torch.randn(100, 10)
    path = tmp_path / "x.safetensors"
    tied = Checkpoint({"a": one, "b": one, "c": one.clone(), "part": one[:50], "none": torch.empty(0)}, {})
    save_checkpoint(path, tied)
    assert_equal(load_checkpoint(path), tied)
    assert path.stat().st_size < 4 * (2 * 1000 + 500) + 1000
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'\\"b\\": \\"a\\"', b'\\"b\\": \\"c\\"'))
    assert path.read_bytes() != whole
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_under_strips_the_prefix():
    checkpoint = Checkpoint(
        {"model/a": torch.zeros(1), "model/b/c": torch.ones(1), "modelling/a": torch.ones(2)}, {}
    )
    assert sorted(checkpoint.under("model")) == ["a", "b/c"]


@pytest.mark.parametrize("bit", [1, 128])
def test_every_flipped_bit_is_noticed(tmp_path, bit):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, small())
    whole = path.read_bytes()
    unnoticed = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        try:
            assert_equal(load_checkpoint(path), small())
            unnoticed += 1  # a blank of the header's padding
        except CheckpointError as error:
            assert str(path) in str(error)
    assert unnoticed <= 8


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, small())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="x.safetensors: damaged"):
            load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the checkpoint was unpickled",)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_pickles_are_refused_unopened(tmp_path, write):
    path = tmp_path / "last.safetensors"
    with path.open("wb") as file:
        write(Bomb(), file)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: damaged"):
        load_checkpoint(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: not a seqdsd checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\.safetensors"):
        load_checkpoint(tmp_path / "folder.safetensors")


def test_the_last_two_are_kept(tmp_path):
    assert load_latest(tmp_path) is None
    for number in range(3):
        save_latest(tmp_path, small(number))
        assert_equal(load_latest(tmp_path), small(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert_equal(load_checkpoint(tmp_path / "previous.safetensors"), small(1))


def test_a_damaged_last_is_named_and_the_previous_used(tmp_path, caplog):
    for number in range(2):
        save_latest(tmp_path, small(number))
    last = tmp_path / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"\xff")
    assert_equal(load_latest(tmp_path), small(0))
    assert f"{last}: damaged" in caplog.text and "going on from" in caplog.text
    assert str(tmp_path / "previous.safetensors") in caplog.text


def test_all_damaged_is_an_error_with_a_remedy(tmp_path):
    for number in range(2):
        save_latest(tmp_path, small(number))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.safetensors.*previous\.safetensors.*another --out"):
        load_latest(tmp_path)


class Killed(BaseException):
    """As good as SIGKILL, at a chosen place."""


@pytest.mark.parametrize("is_last_damaged", [False, True])
@pytest.mark.parametrize("renames", range(4))
def test_a_kill_while_saving_never_loses_the_newest_whole_one(
    tmp_path, monkeypatch, renames, is_last_damaged
):
    """Killed before the first rename, after it, and so on; also where the last one was damaged before."""
    for number in (1, 2):
        save_latest(tmp_path, small(number))
    if is_last_damaged:
        (tmp_path / "last.safetensors").write_bytes(b"rubbish")
    left = [None] * renames

    def rename(*paths):
        if not left:
            raise Killed
        left.pop()
        os.rename(*paths)

    monkeypatch.setattr(checkpoint_module.os, "replace", rename)
    try:
        save_latest(tmp_path, small(3))
    except Killed:
        assert renames < 3
    monkeypatch.undo()
    expected = 3 if renames else (1 if is_last_damaged else 2)
    assert_equal(load_latest(tmp_path), small(expected))
    save_latest(tmp_path, small(4))
    assert_equal(load_latest(tmp_path), small(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    ],
)
@pytest.mark.parametrize("lies", [lambda weight: weight, lambda weight: weight.t().contiguous().t()])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path, make, lies):
    """Wherever the weights lie in memory: a fused step takes its buffers to lie as they do."""

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(torch.arange(6.0).view(2, 3) - step).square().mean().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        model.weight = nn.Parameter(lies(model.weight.detach()))
        return model, make(model.parameters())

    unbroken = fresh()
    train(*unbroken, range(6))
    model, optimizer = fresh()
    train(model, optimizer, range(3))
    save_checkpoint(tmp_path / "o", Checkpoint(optimizer_tensors(optimizer), {}))
    resumed, again = fresh()
    resumed.load_state_dict(model.state_dict())
    restore_optimizer(again, load_checkpoint(tmp_path / "o").tensors)
    train(resumed, again, range(3, 6))
    assert torch.equal(resumed.weight, unbroken[0].weight) and torch.equal(resumed.bias, unbroken[0].bias)


def test_messages_name_the_path_once(tmp_path):
    (tmp_path / "x").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x")
    assert len(re.findall(re.escape(str(tmp_path / "x")), str(caught.value))) == 1
