"""A small network that holds everything a file can: both codings, tied weights, every type of dense tensor."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqdsd.compression import SharedTensor, half_where_safe, share_weights, write_compressed

sys.path.insert(0, str(Path(__file__).parent))  # for plain_format.py

HEADER = {
    "network": "tiny",
    "vocabulary": ["<s>", "héllo", "…"],
    "scores": {"wer": 0.25, "words": 8},
    "licence": None,
}


def make_state() -> dict[str, torch.Tensor | SharedTensor]:
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape)).float()

    # Rows and columns of different densities, so that both have classes; a vector; a tensor of four dimensions.
    chance = np.outer(np.repeat([0.1, 0.9], 60), np.repeat([0.03, 0.5, 0.9], [70, 30, 20]))
    grid = share_weights(normal(120, 120), torch.from_numpy(generator.random((120, 120)) < chance), bits=4)
    small = share_weights(normal(3, 4), torch.from_numpy(generator.random((3, 4)) < 0.5), bits=2)
    convolution = share_weights(0.1 * normal(8, 3, 3, 3), bits=8)
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-42])
    running = normal(6).double()
    return {
        "embedding.weight": grid,
        "small.weight": small,
        "convolution.weight": convolution,
        "output.weight": grid,
        "vector": share_weights(normal(50), torch.arange(50) % 5 == 0, bits=3),
        "pruned": share_weights(torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.bool), bits=3),
        "bias": half_where_safe(normal(120)),
        "exact": normal(7),
        "odd": odd,
        "also odd": odd,
        "scalar": torch.tensor(3.25),
        "steps": torch.tensor(2**40 + 1),
        "empty": torch.zeros(0, 5),
        "turned": normal(3, 5).T,
        "mask": torch.tensor([True, False, True]),
        "double": running,
        "half": running.half(),
        "brain": running.bfloat16(),
        "int32": torch.tensor([-5, 2**31 - 1], dtype=torch.int32),
        "int16": torch.tensor([-5, 300], dtype=torch.int16),
        "int8": torch.tensor([-5, 100], dtype=torch.int8),
        "uint8": torch.tensor([5, 200], dtype=torch.uint8),
    }


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor | SharedTensor]:
    """See the module."""
    return make_state()


@pytest.fixture(scope="session")
def dense_state(state) -> dict[str, torch.Tensor]:
    """The same as the file gives it back."""
    return {name: one.dense() if isinstance(one, SharedTensor) else one for name, one in state.items()}


@pytest.fixture(scope="session")
def header() -> dict[str, Any]:
    """What the writer says of it."""
    return HEADER


@pytest.fixture(scope="session")
def content(tmp_path_factory, state) -> bytes:
    """The bytes of its file."""
    path = tmp_path_factory.mktemp("compressed") / "tiny.dsdz"
    write_compressed(path, state, HEADER)
    return path.read_bytes()
