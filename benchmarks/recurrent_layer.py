"""Training step of our recurrent layers against torch's own packed bidirectional ones, on the CPU.

    python -m benchmarks.recurrent_layer --cells relu gru lstm

A step is forward and backward, from the padded batch to the padded sum of both directions, packing included.
``nn.RNN`` cannot share the input matrix, so it multiplies by two of them, and it does not clip; ``nn.GRU`` and
``nn.LSTM`` do as ours. The layer stands alone, so this says nothing about a whole training run.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.models import FramePacking, GatedRNN, SharedInputRNN

Cell = Literal["relu", "gru", "lstm"]
Lengths = Literal["mixed", "equal"]
SHORTEST_FRAMES, LONGEST_FRAMES = 30, 320
"""Output frames of 0.6 to 6.4 s of speech, as in AN4."""


@dataclass(frozen=True)
class Config:
    """What is timed."""

    cells: tuple[Cell, ...] = ("relu",)
    """relu: ``SharedInputRNN`` against ``nn.RNN``; gru and lstm: ``GatedRNN`` against ``nn.GRU`` and ``nn.LSTM``."""
    hidden_sizes: tuple[int, ...] = (256, 512, 1024)
    """Units; the inputs have as many features."""
    batch_sizes: tuple[int, ...] = (16, 32)
    """Utterances."""
    lengths: tuple[Lengths, ...] = ("mixed", "equal")
    """mixed: evenly spread from 30 to 320 frames; equal: 175 frames each, which is as many frames in all."""
    rounds: int = 5
    """Pairs of timings."""
    threads: int = 1
    """Of torch."""


def make_lengths(kind: Lengths, batch_size: int) -> Tensor:
    """Frames of each utterance, in a shuffled order."""
    if kind == "equal":
        return torch.full((batch_size,), (SHORTEST_FRAMES + LONGEST_FRAMES) // 2)
    return torch.linspace(SHORTEST_FRAMES, LONGEST_FRAMES, batch_size).long()[torch.randperm(batch_size)]


def our_step(cell: Cell, hidden_size: int, padded: Tensor, lengths: Tensor) -> Callable[[], None]:
    layer: nn.Module
    if cell == "relu":
        layer = SharedInputRNN(input_size=hidden_size, hidden_size=hidden_size)
    else:
        layer = GatedRNN(cell=cell, input_size=hidden_size, hidden_size=hidden_size)

    def step() -> None:
        layer.zero_grad()
        inputs = padded.clone().requires_grad_()
        packing = FramePacking.of(lengths, padded.shape[1], padded.device)
        packing.unpack(layer(packing.pack(inputs), packing)).sum().backward()

    return step


def torch_step(cell: Cell, hidden_size: int, padded: Tensor, lengths: Tensor) -> Callable[[], None]:
    layers: dict[Cell, Callable[..., nn.Module]] = {
        "relu": partial(nn.RNN, nonlinearity="relu"),
        "gru": nn.GRU,
        "lstm": nn.LSTM,
    }
    layer = layers[cell](hidden_size, hidden_size, bidirectional=True, batch_first=True)

    def step() -> None:
        layer.zero_grad()
        inputs = padded.clone().requires_grad_()
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        both, _ = pad_packed_sequence(layer(packed)[0], batch_first=True)
        (both[..., :hidden_size] + both[..., hidden_size:]).sum().backward()

    return step


def main(config: Config) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    table = Table("cell", "lengths", "batch", "units", "torch, s", "ours, s", "torch / ours")
    table.title = (
        f"forward + backward, {torch.get_num_threads()} thread(s), median of {config.rounds} pairs (range)"
    )
    verdict = []
    for cell, kind, batch_size, hidden_size in product(
        config.cells, config.lengths, config.batch_sizes, config.hidden_sizes
    ):
        lengths = make_lengths(kind, batch_size)
        padded = torch.randn(batch_size, int(lengths.max()), hidden_size)
        ways = {make.__name__: make(cell, hidden_size, padded, lengths) for make in (torch_step, our_step)}
        seconds = seconds_in_turns(ways, rounds=config.rounds)
        theirs, ours = seconds["torch_step"], seconds["our_step"]
        ratio = Ratio.of(theirs, ours)
        verdict.append(ratio.median)
        middles = [f"{statistics.median(values):.3f}" for values in (theirs, ours)]
        table.add_row(cell, kind, str(batch_size), str(hidden_size), *middles, str(ratio))
    console = Console()
    console.print(table)
    console.print(
        f"torch / ours: {min(verdict):.2f} to {max(verdict):.2f}, median {statistics.median(verdict):.2f}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
