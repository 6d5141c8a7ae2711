"""The weights at the five moments of each round (Han et al. 2017, Figure 2), taken while training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from seqdsd.sparsity import LayerStatistics, MaskSet, Moment, Regrowth, weight_statistics


def weight_row(
    model: nn.Module,
    masks: MaskSet,
    *,
    moment: Moment,
    phase_name: str,
    round_number: int,
    earlier: Sequence[dict[str, Any]],
) -> dict[str, Any] | None:
    """Statistics of all masked layers at one moment, and what taking them cost.

    Args:
        model: May be wrapped.
        masks: Of the round.
        moment: Which of the five.
        phase_name: Of the phase that begins or ends with it.
        round_number: Of the sparse and redense phase together, from 1.
        earlier: The run's rows so far; a round begins with "before pruning", whose bins its other moments share.

    Returns:
        A row; None where the round's first moment was not taken (by a version that did not), so that there are no bins.
    """
    started = time.monotonic()
    begin = next((row for row in earlier if row["round"] == round_number), None)
    if begin is None and moment != "before pruning":
        return None
    first = [LayerStatistics.from_json(layer) for layer in begin["layers"]] if begin else []
    layers = [asdict(layer) for layer in weight_statistics(model, masks, earlier=first)]
    return {
        "round": round_number,
        "moment": moment,
        "phase": phase_name,
        "seconds": round(time.monotonic() - started, 4),
        "layers": layers,
    }


def regrowth_in(rows: Sequence[dict[str, Any]], phase_name: str) -> Regrowth | None:
    """How far restored weights had come back at the end of a redense phase; None where its moments were not taken.

    Args:
        rows: Of the run, so far.
        phase_name: Of the redense phase.
    """
    end = next((row for row in rows if (row["phase"], row["moment"]) == (phase_name, _END)), None)
    begin = next((row for row in rows if end is not None and row["round"] == end["round"]), None)
    if begin is None or end is None or not (count := sum(layer["pruned"] for layer in end["layers"])):
        return None
    before, after = (_sum_abs(row) / count for row in (begin, end))
    return Regrowth(count, before, after, count - sum(layer["pruned_near_zero"] for layer in end["layers"]))


_END: Moment = "after redense retraining"


def _sum_abs(row: dict[str, Any]) -> float:
    """|w| of the pruned weights of all layers, added up."""
    return math.fsum(layer["pruned"] * (layer["pruned_mean_abs"] or 0.0) for layer in row["layers"])
