"""The stream of a shared tensor: its codebook, then its codes in whichever of the two codings is smaller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from seqdsd.compression.ans import Coded, decode_ans, encode_ans
from seqdsd.compression.huffman import decode_huffman, encode_huffman
from seqdsd.compression.sharing import SharedTensor, is_codebook
from seqdsd.compression.streams import StreamError, StreamReader

Coding = Literal["ans", "huffman"]
"""How a stream has the codes of a shared tensor: by ranges of whole shares, or as published."""
CODINGS: tuple[Coding, ...] = get_args(Coding)


@dataclass(frozen=True)
class CodedTensor:
    """A shared tensor's stream, by parts.

    Attributes:
        coding: Of ``codes``.
        codebook: Its bytes, with the two that say how many centroids there are, and in what type.
        codes: What the coding made.
    """

    coding: Coding
    codebook: bytes
    codes: Coded

    @property
    def data(self) -> bytes:
        """The whole stream."""
        return self.codebook + self.codes.data


def encode_shared(tensor: SharedTensor, coding: Coding | None = None) -> CodedTensor:
    """Encode a tensor in the given coding, or, without one, in the smaller; nothing is lost."""
    codes = tensor.codes.cpu().numpy().reshape(grid_shape(tensor.shape))
    num_centroids = len(tensor.codebook)
    encoders = {"ans": encode_ans, "huffman": encode_huffman}
    tried = {one: encoders[one](codes, num_centroids) for one in CODINGS if coding in (None, one)}
    smallest = min(tried, key=lambda one: len(tried[one].data))
    return CodedTensor(smallest, _codebook_bytes(tensor.codebook.cpu().numpy()), tried[smallest])


def decode_shared(data: bytes, shape: Sequence[int], coding: Coding) -> SharedTensor:
    """The tensor of a stream.

    Raises:
        StreamError: If the stream is not one of such a tensor.
    """
    stream = StreamReader(data)
    codebook = _read_codebook(stream)
    if coding == "ans":
        codes = decode_ans(stream, grid_shape(shape), len(codebook))
    else:
        codes = decode_huffman(stream, math.prod(shape), len(codebook))
    return SharedTensor(codebook, torch.from_numpy(codes.reshape(tuple(shape))))


def grid_shape(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor as rows and columns: its first dimension by all others; of a vector or a number one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // rows


def _codebook_bytes(codebook: NDArray[np.float32]) -> bytes:
    with np.errstate(over="ignore"):  # what becomes infinite is not exact
        halves = codebook.astype("<f2")
    is_exact = np.array_equal(halves.astype(np.float32), codebook)
    return (
        bytes([len(codebook), 2 if is_exact else 4])
        + (halves if is_exact else codebook.astype("<f4")).tobytes()
    )


def _read_codebook(stream: StreamReader) -> Float[Tensor, "centroids"]:
    count, width = stream.take(2)
    if width not in (2, 4):
        raise StreamError(f"its codebook has {width} bytes a number, where 2 and 4 are known")
    codebook = torch.from_numpy(np.frombuffer(stream.take(count * width), f"<f{width}").astype(np.float32))
    if not is_codebook(codebook):
        raise StreamError(
            "its codebook is not of finite numbers other than 0, each larger than the one before"
        )
    return codebook
