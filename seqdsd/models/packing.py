"""Packed frames: a padded batch without its padding, so that no layer computes on it or learns from it.

A batch [batch, frames, features] becomes one matrix [valid, features] of its valid frames, ordered by time
and then by length, longest first, as ``torch.nn.utils.rnn.PackedSequence`` does. Layers over single frames
(linear, batch norm, dropout) work on that matrix as it is; recurrences step through ``time_blocks``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence


@dataclass(frozen=True)
class FramePacking:
    """Where the valid frames of one padded batch are.

    Attributes:
        batch: Items.
        frames: Frames of the padded batch.
        rows: For each packed row, its position in the flattened [batch * frames].
        reverse: For each packed row, the packed row of the same item's mirrored frame (first for last, …).
        active: For each time step, how many items are still running; its sum is the number of packed rows.
    """

    batch: int
    frames: int
    rows: Int[Tensor, "valid"]
    reverse: Int[Tensor, "valid"]
    active: tuple[int, ...]
    _time_blocks: dict[int, TimeBlocks] = field(init=False, default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, num_frames: Int[Tensor, "batch"], frames: int, device: torch.device) -> FramePacking:
        """The packing of items whose first ``num_frames`` of ``frames`` frames are valid.

        Args:
            num_frames: Each in [1, frames]. Keep it on the CPU: the indices are computed there, and lengths
                on another device have to be waited for.
            frames: Frames of the padded batch.
            device: Where the frames are.

        Raises:
            ValueError: If a length is outside [1, frames].
        """
        lengths = num_frames.cpu()
        _check_lengths(lengths, frames)
        starts = torch.arange(len(lengths)).unsqueeze(1) * frames
        position = torch.arange(frames).unsqueeze(0)
        packed = pack_padded_sequence(starts + position, lengths, batch_first=True, enforce_sorted=False)
        mirrored = (lengths.unsqueeze(1) - 1 - position).clamp(min=0) + starts
        mirrored_rows = pack_padded_sequence(mirrored, lengths, batch_first=True, enforce_sorted=False).data
        packed_row = torch.empty(len(lengths) * frames, dtype=torch.long)
        packed_row[packed.data] = torch.arange(len(packed.data))
        return cls(
            batch=len(lengths),
            frames=frames,
            rows=packed.data.to(device, non_blocking=True),
            reverse=packed_row[mirrored_rows].to(device, non_blocking=True),
            active=tuple(packed.batch_sizes.tolist()),
        )

    def time_blocks(self, directions: int) -> TimeBlocks:
        """Where a recurrence of one or two directions finds its rows; made once for all layers of a network."""
        if directions not in self._time_blocks:
            self._time_blocks[directions] = TimeBlocks.of(self, directions)
        return self._time_blocks[directions]

    def pack(self, padded: Float[Tensor, "batch frames features"]) -> Float[Tensor, "valid features"]:
        """The valid frames of a padded batch."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, packed: Float[Tensor, "valid features"]) -> Float[Tensor, "batch frames features"]:
        """The padded batch, with 0 where there is no valid frame."""
        padded = packed.new_zeros(self.batch * self.frames, packed.shape[-1])
        return padded.index_copy_(0, self.rows, packed).view(self.batch, self.frames, -1)


@dataclass(frozen=True)
class TimeBlocks:
    """Packed rows in the order in which a recurrence steps through them: for each time step those of each direction.

    Attributes:
        sizes: For each time step, its rows of all directions.
        rows: For each position, the packed row that a direction meets there.
        positions: By direction and packed row, where it is.
        later: By direction, the positions but those of the first time step.
        earlier: For each of ``later``, the position of the same item one step before.
    """

    sizes: tuple[int, ...]
    rows: Int[Tensor, "positions"]
    positions: Int[Tensor, "directions valid"]
    later: Int[Tensor, "directions later"]
    earlier: Int[Tensor, "directions later"]

    @classmethod
    def of(cls, packing: FramePacking, directions: int) -> TimeBlocks:
        """Forward, or forward and backward, which meets each item mirrored."""
        active, device = torch.tensor(packing.active), packing.rows.device
        of_row = torch.repeat_interleave(active, active)
        start = torch.repeat_interleave(active.cumsum(0) - active, active)
        index = torch.arange(len(start))
        first = directions * start + index - start
        met = torch.stack([first + direction * of_row for direction in range(directions)])
        before = index - torch.repeat_interleave(torch.cat((active[:1], active[:-1])), active)
        later, earlier = met[:, packing.active[0] :], met[:, before[packing.active[0] :]]
        met, later, earlier = (one.to(device, non_blocking=True) for one in (met, later, earlier))
        rows = [torch.arange(len(start), device=device), packing.reverse][:directions]
        return cls(
            sizes=tuple(directions * count for count in packing.active),
            rows=torch.empty_like(met.flatten()).index_copy(0, met.flatten(), torch.cat(rows)),
            positions=torch.stack([where[row] for where, row in zip(met, rows, strict=True)]),
            later=later,
            earlier=earlier,
        )

    @cached_property
    def steps(self) -> tuple[Int[Tensor, "steps"], Int[Tensor, "steps"]]:
        """For each time step its first position, and how many items are still running; where the rows are."""
        sizes, device = torch.tensor(self.sizes), self.rows.device
        both = (sizes.cumsum(0) - sizes, sizes // len(self.positions))
        starts, active = (one.to(device, non_blocking=True) for one in both)
        return starts, active

    def split(
        self, blocks: Float[Tensor, "positions hidden"]
    ) -> list[Float[Tensor, "directions active hidden"]]:
        """A view of each time step."""
        directions = len(self.positions)
        return [one.view(directions, -1, blocks.shape[1]) for one in blocks.split(self.sizes)]

    def summed(self, blocks: Float[Tensor, "positions hidden"]) -> Float[Tensor, "valid hidden"]:
        """The sum over directions, as packed rows."""
        each = [blocks.index_select(0, where) for where in self.positions]
        return each[0] if len(each) == 1 else each[0].add_(each[1])

    def side_by_side(
        self, blocks: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "valid directions_hidden"]:
        """Packed rows of each direction's, the forward one first."""
        return blocks.index_select(0, self.positions.t().flatten()).view(self.positions.shape[1], -1)

    def pairs(
        self, there: Float[Tensor, "positions gates"], before: Float[Tensor, "positions hidden"]
    ) -> tuple[Float[Tensor, "directions later gates"], Float[Tensor, "directions later hidden"]]:
        """For each row but the first of an item, what the one tensor has there and the other one step before."""
        return there[self.later], before[self.earlier]


@dataclass(frozen=True)
class PaddedFrames:
    """Stands for ``FramePacking`` while a network is exported: all frames are rows, those of the padding too.

    Which rows are valid depends on the data, and a graph's shapes must not. Layers over single frames compute on
    padding in vain; a recurrence must be told where items end.
    """

    batch: int
    frames: int
    num_frames: Int[Tensor, "batch"]

    def pack(self, padded: Float[Tensor, "batch frames features"]) -> Float[Tensor, "rows features"]:
        """All frames, an item after the other."""
        return padded.flatten(0, 1)

    def unpack(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "batch frames features"]:
        """The padded batch, with 0 where there is no valid frame."""
        return zero_padding(self.padded(rows), self.num_frames)

    def padded(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "batch frames features"]:
        """The padded batch as it is."""
        return rows.unflatten(0, (self.batch, self.frames))


def pack_frames(
    num_frames: Int[Tensor, "batch"], frames: int, device: torch.device
) -> FramePacking | PaddedFrames:
    """``FramePacking.of``; while a network is exported, what stands for it."""
    if torch.compiler.is_exporting():
        return PaddedFrames(num_frames.shape[0], frames, num_frames)
    return FramePacking.of(num_frames, frames, device)


def zero_padding(
    padded: Float[Tensor, "batch frames features"], num_frames: Int[Tensor, "batch"]
) -> Float[Tensor, "batch frames features"]:
    """Set the frames past each item's ``num_frames`` to 0, whatever they hold, NaN included.

    What a convolution reads past the end of an item is then the same as past the end of the whole batch.

    Raises:
        ValueError: If a length is outside [1, frames].
    """
    frames = padded.shape[1]
    if torch.compiler.is_exporting():  # nothing can be checked that depends on the data
        is_padding = torch.arange(frames, device=padded.device) >= num_frames.unsqueeze(1)
        return padded.masked_fill(is_padding.unsqueeze(-1), 0)
    lengths = num_frames.cpu()
    _check_lengths(lengths, frames)
    outside = torch.arange(frames) >= lengths.unsqueeze(1)
    return padded.masked_fill(outside.to(padded.device, non_blocking=True).unsqueeze(-1), 0)


def _check_lengths(lengths: Tensor, frames: int) -> None:
    if len(lengths) == 0 or not 1 <= int(lengths.min()) <= int(lengths.max()) <= frames:
        raise ValueError(f"num_frames must be in [1, {frames}], got {lengths.tolist()}")
