"""The clipped recurrence as one launch on a GPU, both directions at once, in place of two small launches a time step.

A program computes some units of some items of a direction in all time steps, and after each of them waits for those
that compute the others. It needs Triton, which torch brings for CUDA; ``SharedInputRNN`` says when it is used. It has
been run by Triton's interpreter and compiled for GPUs, and not yet timed on one.

Reference: Diamos et al. 2016, Persistent RNNs: Stashing Recurrent Weights On-Chip, sections 3 and 4. Departures:
weights are read in every step, from a cache, rather than held in registers; the padding of shorter items is not
computed.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from seqdsd.models.packing import TimeBlocks

ITEMS = 16
"""Of a program; tensor cores multiply no fewer rows."""
UNITS = 32
"""That a program computes of them at once."""
INPUTS = 64
"""Of the state before, that it multiplies at once."""


# Compiled anew for other sizes of the network and the batch, not for each length.
@triton.jit(do_not_specialize=["num_steps"])
@no_type_check  # Triton reads what it is called with, and this very function, which checks of types must not wrap
def _scan(
    values,
    states,
    weight,
    starts,
    active,
    arrived,
    num_steps,
    hidden,
    stride_direction,
    stride_out,
    stride_in,
    clip,
    PROGRAMS: tl.constexpr,
    ITEMS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """Step through ``values`` in place; ``PROGRAMS`` share the units of the same items of the same direction."""
    part, tile, direction = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = direction * tl.num_programs(1) + tile
    items = tile * ITEMS + tl.arange(0, ITEMS)
    weight += direction.to(tl.int64) * stride_direction
    for step in range(num_steps):
        now = num_steps - 1 - step if BACKWARD else step
        last = tl.maximum(now + 1 if BACKWARD else now - 1, 0)  # the step that this one follows
        count, last_count = tl.load(active + now), tl.load(active + tl.minimum(last, num_steps - 1))
        rows = (tl.load(starts + now) + direction * count + items).to(tl.int64) * hidden
        last_rows = tl.load(starts + tl.minimum(last, num_steps - 1)) + direction * last_count + items
        last_rows = last_rows.to(tl.int64) * hidden
        is_here = items < count
        # Forward fewer items go on than there were before; backward those that end here follow nothing.
        follows = is_here & (items < last_count) & (step > 0)
        for first in range(part * UNITS, hidden, PROGRAMS * UNITS):
            units = first + tl.arange(0, UNITS)
            is_unit = units < hidden
            here, mask = rows[:, None] + units[None, :], is_here[:, None] & is_unit[None, :]
            sums = tl.load(values + here, mask=mask, other=0.0)
            # Where nothing goes on there is nothing to multiply: at either end, and where all of the items have ended.
            width = hidden if (step > 0) & (tile * ITEMS < tl.minimum(count, last_count)) else 0
            for first_input in range(0, width, INPUTS):
                inputs = first_input + tl.arange(0, INPUTS)
                is_input = inputs < hidden
                # Other processors have written them, so that they are not in this one's own cache; what has been waited
                # for below is seen in either.
                before = tl.load(
                    values + last_rows[:, None] + inputs[None, :],
                    mask=follows[:, None] & is_input[None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                matrix = tl.load(
                    weight + inputs[:, None] * stride_in + units[None, :] * stride_out,
                    mask=is_input[:, None] & is_unit[None, :],
                    other=0.0,
                )
                # Three products of halves of the digits: as exact as single precision, on tensor cores.
                sums = tl.dot(before, matrix, sums, input_precision="tf32x3")
            if BACKWARD:
                state = tl.load(states + here, mask=mask, other=0.0)
                sums = tl.where((state <= 0.0) | (state >= clip), 0.0, sums)
            else:
                sums = tl.clamp(sums, 0.0, clip, propagate_nan=tl.PropagateNan.ALL)
            tl.store(values + here, sums, mask=mask)
        tl.debug_barrier()
        if PROGRAMS > 1:
            tl.atomic_add(arrived + group, 1, sem="release", scope="gpu")
            while tl.atomic_add(arrived + group, 0, sem="acquire", scope="gpu") < (step + 1) * PROGRAMS:
                pass
            tl.debug_barrier()


def scan_(
    states: Float[Tensor, "positions hidden"],
    weight: Float[Tensor, "directions hidden hidden"],
    blocks: TimeBlocks,
    clip: float,
) -> None:
    """Projected inputs to ``h[t] = clamp(x[t] + W h[t-1], 0, clip)``, in place.

    Args:
        states: Single precision, contiguous.
        weight: W by direction, the same.
        blocks: Where the rows of each time step are.
        clip: Upper bound.
    """
    _launch(states, states, weight, blocks, clip, is_backward=False)


def scan_back_(
    deltas: Float[Tensor, "positions hidden"],
    states: Float[Tensor, "positions hidden"],
    weight: Float[Tensor, "directions hidden hidden"],
    blocks: TimeBlocks,
    clip: float,
) -> None:
    """Gradients of the states to those of what was clamped, in place; see ``scan_``."""
    _launch(deltas, states, weight, blocks, clip, is_backward=True)


def _launch(
    values: Tensor, states: Tensor, weight: Tensor, blocks: TimeBlocks, clip: float, *, is_backward: bool
) -> None:
    directions, hidden, _ = weight.shape
    tiles = triton.cdiv(blocks.sizes[0] // directions, ITEMS)
    programs = _programs(values.device, hidden, groups=tiles * directions)
    by_direction, by_row, by_column = weight.stride()
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        _scan[(programs, tiles, directions)](
            values,
            states,
            weight,
            *blocks.steps,
            torch.zeros(tiles * directions, dtype=torch.int32, device=values.device),
            len(blocks.sizes),
            hidden,
            by_direction,
            *((by_column, by_row) if is_backward else (by_row, by_column)),
            clip,
            PROGRAMS=programs,
            ITEMS=ITEMS,
            UNITS=UNITS,
            INPUTS=INPUTS,
            BACKWARD=is_backward,
            # All run at the same time, or the launch is refused: those that wait must not keep out whom they wait for.
            **({"launch_cooperative_grid": True} if programs > 1 else {}),
        )


def _programs(device: torch.device, hidden: int, *, groups: int) -> int:
    """How many share the units of one group, as many each: no more than there are processors for, one each."""
    if device.type != "cuda" or not isinstance(_scan, triton.JITFunction):
        # The interpreter runs one after the other, so that none may wait.
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    blocks = triton.cdiv(hidden, UNITS)
    most = max(1, min(blocks, processors // groups))
    return triton.cdiv(blocks, triton.cdiv(blocks, most))
