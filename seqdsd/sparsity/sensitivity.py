"""How much of each tensor may go: what pruning it alone costs, and the sparsities that cost least together.

Pure arithmetic on losses that somebody has measured. What is pruned by them is a ``Rule`` a tensor (``rules.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MOST = 0.995
"""Sparsity that a tensor is given."""
_GRID = np.geomspace(1.0, 1 - MOST, 400)
"""Densities between which is chosen: each 1.3 % below the one before."""
_ROUNDS = 60
"""Halvings of the range in which the price of a weight is looked for."""
_SHARES = 400
"""Stops on the way from the densities at one price to those at the next."""


@dataclass(frozen=True)
class Sensitivity:
    """What pruning one tensor alone costs.

    Attributes:
        name: Of the parameter.
        weights: How many it has.
        losses: By density, which is in (0, 1]: the loss of the network where the tensor alone is pruned to it, without
            retraining. That of density 1, nothing pruned, is among them.
    """

    name: str
    weights: int
    losses: Mapping[float, float]

    def on_grid(self) -> Float[np.ndarray, "densities"]:
        """The loss at each density of the grid, never less at a lower one; between those measured, straight in log."""
        densities = np.array(sorted(self.losses, reverse=True))
        measured = np.maximum.accumulate([self.losses[one] for one in densities])
        at = np.interp(-np.log(_GRID), -np.log(densities), measured)
        # Below the lowest: on as steeply, so that no tensor is emptied for nothing.
        beyond = np.log(densities[-1] / _GRID)
        slope = np.diff(measured)[-1] / -np.diff(np.log(densities))[-1] if len(densities) > 1 else 1.0
        at = at + np.maximum(beyond, 0) * slope
        return np.where(_GRID * self.weights >= 1, at, np.inf)  # one weight stays


def allocate(tensors: Sequence[Sensitivity], density: float) -> dict[str, float]:
    """The density of each tensor that together come to ``density`` of all their weights and cost the least loss.

    The losses of single tensors are added up, as if they did not depend on each other. Then the best densities are
    those at which the last weight costs the same in every tensor. Between two prices where many weights cost the same,
    every tensor goes the same share of the way. A lower ``density`` gives no tensor a higher one.

    Args:
        tensors: At least one.
        density: In (0, 1]; of a lower one than 0.005 all that may go is pruned.
    """
    losses = np.stack([one.on_grid() for one in tensors])
    counts = np.array([[one.weights] for one in tensors], float)
    # The price of a weight in loss, in powers of two: the lowest at which few enough are kept.
    low, high = -80.0, 40.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        chosen = np.argmin(losses + 2.0**middle * counts * _GRID, axis=1)
        if (counts[:, 0] * _GRID[chosen]).sum() > density * counts.sum():
            low = middle
        else:
            high = middle
    more, fewer = (np.argmin(losses + 2.0**price * counts * _GRID, axis=1) for price in (low, high))
    # Where no price gives ``density``: of a tensor whose first weights cost most, any price keeps many or few.
    for share in np.linspace(0, 1, _SHARES):
        chosen = np.floor(more + share * (fewer - more)).astype(int)
        if (counts[:, 0] * _GRID[chosen]).sum() <= density * counts.sum():
            break
    return {one.name: float(_GRID[place]) for one, place in zip(tensors, chosen, strict=True)}
