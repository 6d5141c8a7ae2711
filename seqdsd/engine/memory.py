"""Whether the largest batch fits into memory: tried before the first epoch, not found out in the middle of it.

What comes later is left out: state that an optimizer makes in its first step (not Nesterov's), and the masks of a
sparse phase; each is as large as the weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from seqdsd.engine.loop import add_gradients
from seqdsd.engine.processes import Processes
from seqdsd.engine.task import Task
from seqdsd.fabric import Fabric


class OutOfMemory(ValueError):
    """The largest batch does not fit."""


@dataclass(frozen=True)
class Peak:
    """Most memory that the largest batch took."""

    items: int
    """Of this process's share of the batch."""
    num_bytes: int | None
    """At once, all of the process; None where the system does not say."""

    def __str__(self) -> str:
        size = "" if self.num_bytes is None else f": {self.num_bytes / 1e9:.1f} GB at its peak"
        return f"largest batch ({self.items} items){size}"


def try_largest_batch(fabric: Fabric, model: nn.Module, task: Task[Any]) -> Peak:
    """Compute gradients of the task's largest batch, and throw them away: nothing changes but the generators' state.

    Args:
        fabric: Device, precision, processes.
        model: The task's, as Fabric has wrapped it.
        task: Names its largest batch.

    Raises:
        OutOfMemory: If it does not fit. On a CPU the system may end the process instead.
    """
    micro_batches = task.largest_batch()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    _forget_peak(fabric.device)
    try:
        add_gradients(fabric, model, task, micro_batches, Processes.of(fabric))
    except RuntimeError as error:
        if not _is_lack_of_memory(error):
            raise
        sizes = " + ".join(str(len(one)) for one in micro_batches)
        said = str(error).strip().splitlines()[0]
        raise OutOfMemory(f"the largest batch ({sizes} items) does not fit into memory ({said})") from error
    peak = peak_bytes(fabric.device)
    model.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)
    return Peak(sum(map(len, micro_batches)), peak)


def _is_lack_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory of this process, on a GPU since its peak was forgotten, else since its start; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform != "linux":
        return None
    import resource  # Unix alone has it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
