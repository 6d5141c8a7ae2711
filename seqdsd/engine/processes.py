"""The processes that train together, on one machine or several, as one of them sees them.

Every process holds the whole network and takes its share of every batch, so that a run is the same however many there
are. Splitting the network over processes is left out here; the masks of such networks are ``sparsity``'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, distributed

from seqdsd.fabric import Fabric

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this process speaks for all that ``torchrun`` has started, also before they have met."""
    return os.environ.get("RANK", "0") == "0"


def is_lost_company(error: RuntimeError) -> bool:
    """Whether an error only says that another process has ended while this one waited for it."""
    signs = ("Connection closed by peer", "Connection reset by peer", "monitoredBarrier", "remote process")
    return os.environ.get("WORLD_SIZE", "1") != "1" and any(sign in str(error) for sign in signs)


def leave_company() -> None:
    """End what this process shares with others, if it does, before it ends itself.

    Left to the interpreter's own end, the threads between them have aborted a process that was done.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """How many train together, and which of them this one is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def of(cls, fabric: Fabric) -> Processes:
        """Those that Fabric was launched with."""
        return cls(fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch; one of fewer items than processes is computed by all of them."""
        return items if len(items) < self.count else items[self.rank :: self.count]

    def micro_batches(self, items: Sequence[T], at_most: int) -> list[Sequence[T]]:
        """This process's share of a batch in parts of about the same size, in all processes the same number.

        No part is empty, so there may be fewer than ``at_most``.
        """
        share = self.share(items)
        smallest_share = len(items) // self.count or len(items)
        count = min(at_most, smallest_share)
        return [share[i * len(share) // count : (i + 1) * len(share) // count] for i in range(count)]

    def largest_micro_batch(self, num_items: int, at_most: int) -> int:
        """Most items of a batch of so many that any process computes at once."""
        items = range(num_items)
        first = replace(self, rank=0)  # whose share is as large as any
        return max(map(len, first.micro_batches(items, at_most)))

    def every_nth(self, batches: Sequence[T]) -> Sequence[T]:
        """The batches that this process evaluates, none of them another's; it may have one less than others."""
        return batches[self.rank :: self.count]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place, on its device; nobody waits for the host."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of their ranks."""
        if self.count == 1:
            return list(items)
        everyone: list[Sequence[T]] = [()] * self.count
        distributed.all_gather_object(everyone, items)
        return [item for part in everyone for item in part]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether one of them says so; waits for all."""
        if self.count == 1:
            return flag
        return bool(self.sum_(torch.full((), float(flag), device=device)) > 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            distributed.barrier()
