"""The weights at the five moments of each round (Han et al. 2017, Figure 2), taken while training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from seqdsd.sparsity import LayerStatistics, MaskSet, Moment, weight_statistics


def weight_row(
    model: nn.Module, masks: MaskSet, *, moment: Moment, phase_name: str, earlier: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Statistics of all masked layers at one moment, and what taking them cost.

    Args:
        model: The bare model.
        masks: Of the round.
        moment: Which of the five.
        phase_name: Of the phase that begins or ends with it.
        earlier: The run's rows so far; a round begins with "before pruning", whose bins its other moments share.
    """
    started = time.monotonic()
    begins = [row for row in earlier if row["moment"] == "before pruning"]
    is_first = moment == "before pruning"
    first = [] if is_first else [LayerStatistics.from_json(layer) for layer in begins[-1]["layers"]]
    layers = [asdict(layer) for layer in weight_statistics(model, masks, earlier=first)]
    return {
        "round": len(begins) + is_first,
        "moment": moment,
        "phase": phase_name,
        "seconds": round(time.monotonic() - started, 4),
        "layers": layers,
    }
