"""Packed frames against nested loops over items and frames."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.models import FramePacking
from seqdsd.models.packing import zero_padding

CPU = torch.device("cpu")


@st.composite
def batches(draw) -> tuple[list[int], int]:
    """Valid frames of each item, and frames of the padded batch, at times more than the longest item has."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    return lengths, max(lengths) + draw(st.integers(0, 3))


def packed_positions(packing: FramePacking) -> list[tuple[int, int]]:
    """(Item, frame) of each packed row."""
    return [divmod(row, packing.frames) for row in packing.rows.tolist()]


@settings(deadline=None, max_examples=50)
@given(batches())
def test_order_and_counts_against_loops(batch):
    lengths, frames = batch
    packing = FramePacking.of(torch.tensor(lengths), frames, CPU)
    steps = range(max(lengths))
    assert packing.active == tuple(sum(t < length for length in lengths) for t in steps)
    positions = packed_positions(packing)
    assert [t for _, t in positions] == [t for t in steps for length in lengths if t < length]
    order = [item for item, _ in positions[: len(lengths)]]
    assert [lengths[item] for item in order] == sorted(lengths, reverse=True)
    for t in steps:  # at each step the items that still run, in one and the same order
        assert [item for item, at in positions if at == t] == order[: packing.active[t]]


@settings(deadline=None, max_examples=50)
@given(batches())
def test_reverse_mirrors_each_item_within_its_own_length(batch):
    lengths, frames = batch
    packing = FramePacking.of(torch.tensor(lengths), frames, CPU)
    positions = packed_positions(packing)
    mirrored = [positions[row] for row in packing.reverse.tolist()]
    assert mirrored == [(item, lengths[item] - 1 - t) for item, t in positions]
    assert torch.equal(packing.reverse[packing.reverse], torch.arange(sum(lengths)))


@settings(deadline=None, max_examples=50)
@given(batches())
def test_there_and_back(batch):
    lengths, frames = batch
    padded = torch.randn(len(lengths), frames, 3)
    packing = FramePacking.of(torch.tensor(lengths), frames, CPU)
    packed = packing.pack(padded)
    assert packed.shape == (sum(lengths), 3)
    for row, (item, t) in zip(packed, packed_positions(packing), strict=True):
        assert torch.equal(row, padded[item, t])
    for item, (restored, length) in enumerate(zip(packing.unpack(packed), lengths, strict=True)):
        assert torch.equal(restored[:length], padded[item, :length])
        assert (restored[length:] == 0).all()


def test_against_torchs_packed_sequence():
    lengths, padded = torch.tensor([2, 5, 1, 4]), torch.randn(4, 5, 3)
    packing = FramePacking.of(lengths, 5, CPU)
    theirs = torch.nn.utils.rnn.pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
    assert torch.equal(packing.pack(padded), theirs.data)
    assert packing.active == tuple(theirs.batch_sizes.tolist())


def test_padding_gets_no_gradient():
    padded = torch.randn(2, 3, 1, requires_grad=True)
    packing = FramePacking.of(torch.tensor([3, 1]), 3, CPU)
    packing.unpack(2 * packing.pack(padded)).sum().backward()
    assert padded.grad.squeeze(-1).tolist() == [[2, 2, 2], [2, 0, 0]]


def test_lengths_of_32_bits():
    packing = FramePacking.of(torch.tensor([3, 1], dtype=torch.int32), 3, CPU)
    assert packing.rows.tolist() == [0, 3, 1, 2]
    assert packing.reverse.tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("filling", [0.0, 5.0, math.nan, math.inf])
def test_zero_padding(filling):
    padded = torch.ones(3, 3, 2)
    padded[1, 1:] = filling
    zeroed = zero_padding(padded, torch.tensor([3, 1, 3]))
    assert zeroed[..., 0].tolist() == zeroed[..., 1].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("lengths", [[0, 3], [3, 4], [-1, 2], []])
def test_lengths_out_of_range(lengths):
    lengths = torch.tensor(lengths, dtype=torch.long)
    with pytest.raises(ValueError, match=r"num_frames must be in \[1, 3\], got \["):
        FramePacking.of(lengths, 3, CPU)
    with pytest.raises(ValueError, match=r"num_frames must be in \[1, 3\], got \["):
        zero_padding(torch.ones(len(lengths), 3, 1), lengths)
