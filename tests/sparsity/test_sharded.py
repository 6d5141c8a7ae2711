"""Masks of tensors split over two real processes against those of whole tensors."""

import sys
from pathlib import Path

import pytest
import torch
from forked import run_together

sys.path.insert(0, str(Path(__file__).parent))

import sharded_processes


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes has found."""
    out = tmp_path_factory.mktemp("found")
    run_together(2, sharded_processes.find, out)
    return [torch.load(out / f"{rank}.pt") for rank in (0, 1)]


def test_bit_for_bit_the_whole_tensors_masks(found):
    assert [one["differ"] for one in found] == [[], []]


def test_a_nan_in_one_process_is_refused_by_all(found):
    assert {one["refusal"] for one in found} == {"cannot rank weights: 1 of 12 are NaN or infinite"}


def test_dsd_on_a_network_split_by_fully_shard(found):
    for one in found:
        dsd = one["dsd"]
        assert all(dsd["masks"].values()) and dsd["restored"]
        assert dsd["sparsity"] == pytest.approx(0.5)
        assert dsd["zeros"] and dsd["gradients"]  # in the sparse phase, in spite of momentum and weight decay
        assert dsd["moved"]  # in the redense phase


def test_how_far_the_weights_of_all_processes_have_come_back(found):
    for one in found:
        regrowth, whole = one["dsd"]["regrowth"], one["dsd"]["whole"]
        former, now = (torch.cat(parts) for parts in zip(*whole, strict=True))
        assert regrowth["weights"] == former.numel() > 100
        assert regrowth["former_mean_abs"] == pytest.approx(float(former.mean()), rel=1e-5)
        assert regrowth["mean_abs"] == pytest.approx(float(now.mean()), rel=1e-5)
        assert regrowth["above_threshold"] == sum(int((now > was.max()).sum()) for was, now in whole)


def test_a_pruned_nan_of_a_shard_is_zeroed(found):
    assert [bool(one["nan"]) for one in found] == [True, True]


def test_masks_that_differ_between_processes_are_refused_by_all(found):
    for one in found:
        assert "different masks for 1.weight, and would" in one["unequal"]["said"]
        assert "choose the masks after DDP" in one["unequal"]["said"] and one["unequal"]["untouched"]
