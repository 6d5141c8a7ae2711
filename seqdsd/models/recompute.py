"""Layers that are computed again in the backward pass, so that what is inside them need not be kept until then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_IS_AGAIN = ContextVar("is_again", default=False)


def compute(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """A layer's output; of the layer itself, only the inputs are kept for the backward pass if ``recompute``.

    Results are the same: dropout draws the same again, and ``is_computed_again`` keeps a norm from counting a batch
    twice.

    Args:
        layer: Whose output it is.
        inputs: As the layer takes them.
        recompute: Has no effect where no gradient is taken.
    """
    if not (recompute and torch.is_grad_enabled()):
        return layer(*inputs)
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=_contexts)


def is_computed_again() -> bool:
    """Whether a layer's forward pass is run for the second time, within the backward pass."""
    return _IS_AGAIN.get()


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _again()


@contextmanager
def _again() -> Iterator[None]:
    before = _IS_AGAIN.set(True)
    try:
        yield
    finally:
        _IS_AGAIN.reset(before)
