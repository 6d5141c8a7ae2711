"""What a model's weights look like: shares of exact zeros, measured on the weights and not on the masks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def measured_sparsity(model: nn.Module, names: Iterable[str]) -> float:
    """Share of weights that are exactly 0 among the named parameters; 0.0 where none is named.

    Raises:
        ValueError: If the model has no parameter of a name.
    """
    parameters = dict(model.named_parameters())
    names = list(names)
    if unknown := [name for name in names if name not in parameters]:
        raise ValueError(f"the model has no parameters {', '.join(map(repr, unknown))}")
    chosen = [parameters[name] for name in names]
    zeros = sum(int((parameter == 0).sum()) for parameter in chosen)
    return zeros / max(1, sum(parameter.numel() for parameter in chosen))
