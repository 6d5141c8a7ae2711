"""A run's weights at the five moments of each round: the paper's Figure 2 as numbers, as a table, and to be drawn.

Reads the records of ``weights.jsonl``, checked by ``checks``; drawing is the page's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqdsd.kinds import NONE
from seqdsd.reports.layout import Cells, Grid

Record = Mapping[str, Any]

BEFORE, AFTER = "before pruning", "after redense retraining"
MOMENTS = (BEFORE, "after pruning", "after sparse retraining", "after restoring", AFTER)


@dataclass(frozen=True)
class Round:
    """What is known of one round: the layers of each of its moments so far, by name."""

    number: int
    moments: Mapping[str, Mapping[str, Record]]

    @property
    def first(self) -> Mapping[str, Record]:
        """The layers when their masks were chosen."""
        return next(iter(self.moments.values()))


def read_rounds(weights: Sequence[Record]) -> tuple[Round, ...]:
    """Sort a run's records by rounds and moments, without other moments and layers that not every moment has."""
    rounds: dict[int, dict[str, dict[str, Record]]] = {}
    for record in weights:
        if record["moment"] in MOMENTS:
            layers = {layer["name"]: layer for layer in record["layers"]}
            rounds.setdefault(record["round"], {})[record["moment"]] = layers
    shared = {number: _shared(moments) for number, moments in sorted(rounds.items())}
    return tuple(Round(number, moments) for number, moments in shared.items() if any(moments.values()))


def largest_layer(one: Round) -> str:
    """The name of the layer with the most weights, the first of equals."""
    return max(one.first.values(), key=lambda layer: layer["weights"])["name"]


def weight_grid(one: Round) -> Grid:
    """A row a layer: how much of it is pruned, and what became of the pruned weights and of mean |w|."""
    caption = (
        f"Round {one.number}. Near zero: share of the pruned weights that are within the threshold after the redense "
        "phase. Mean |w|: of all weights before pruning and after the redense phase, and how far it changed; then of "
        "the kept and of the pruned ones alone."
    )
    return Grid(
        name=f"weights-round-{one.number}",
        header=(
            "Layer",
            "Shape",
            "Weights",
            "Pruned %",
            "Threshold",
            "Near zero %",
            "Mean |w|\nbefore",
            "Mean |w|\nafter",
            "Change %",
            "Kept\nbefore",
            "Kept\nafter",
            "Pruned\nbefore",
            "Pruned\nafter",
        ),
        sections=(tuple(_row(one, name) for name in one.first),),
        caption=caption,
        num_labels=2,
    )


def layer_in_words(one: Round, name: str) -> str:
    """What happened to a layer in a round, in a sentence or two."""
    before, after = one.first[name], one.moments.get(AFTER, {}).get(name)
    said = f"{name}, {_shape(before)}: {before['weights']:,} weights"
    if before["pruned"]:
        share = _percent(before["pruned"], before["weights"])
        said += f", of which {share} % were pruned (|w| up to {_short(before['threshold'])})"
    if after is None:
        return f"{said}. The redense phase is not finished."
    if not before["pruned"]:
        return f"{said}; none was pruned."
    near = _percent(after["pruned_near_zero"], after["pruned"])
    change = _change(before["mean_abs"], after["mean_abs"])
    return (
        f"{said}. After the redense phase {near} % of the pruned weights are still that near zero, their mean |w| is "
        f"{_short(after['pruned_mean_abs'])}; the mean |w| of all weights went from {_short(before['mean_abs'])} to "
        f"{_short(after['mean_abs'])} ({change} %)."
    )


def rounds_as_json(rounds: Sequence[Round], *, max_layers: int) -> list[dict[str, Any]]:
    """What the page's script draws: for each round the histograms of its largest layers, at its moments."""
    return [_round_as_json(one, _largest_layers(one, max_layers)) for one in rounds]


def _largest_layers(one: Round, count: int) -> list[str]:
    """The names of the layers with the most weights, in the network's order."""
    ranked = sorted(one.first.values(), key=lambda layer: -layer["weights"])
    kept = {layer["name"] for layer in ranked[:count]}
    return [name for name in one.first if name in kept]


def _round_as_json(one: Round, names: Sequence[str]) -> dict[str, Any]:
    return {
        "round": one.number,
        "moments": list(one.moments),
        "largest": names.index(largest_layer(one)),
        "layers": [_layer_as_json(one, name) for name in names],
    }


def _shared(moments: Mapping[str, Mapping[str, Record]]) -> dict[str, dict[str, Record]]:
    names = set.intersection(*(set(layers) for layers in moments.values()))
    return {
        moment: {name: layer for name, layer in layers.items() if name in names}
        for moment, layers in moments.items()
    }


def _layer_as_json(one: Round, name: str) -> dict[str, Any]:
    layer = one.first[name]
    shown = [layers[name] for layers in one.moments.values()]
    return {
        "name": name,
        "said": layer_in_words(one, name),
        "weights": layer["weights"],
        "low": layer["low"],
        "high": layer["high"],
        "threshold": layer["threshold"],
        "histograms": [now["histogram"] for now in shown],
        "zeros": [now["zeros"] for now in shown],
    }


def _row(one: Round, name: str) -> Cells:
    before, after = one.first[name], one.moments.get(AFTER, {}).get(name, {})
    return (
        name,
        _shape(before),
        f"{before['weights']:,}",
        _percent(before["pruned"], before["weights"]),
        _short(before["threshold"]),
        _percent(after.get("pruned_near_zero"), after.get("pruned")),
        _short(before["mean_abs"]),
        _short(after.get("mean_abs")),
        _change(before["mean_abs"], after.get("mean_abs")),
        *(
            _short(moment.get(key))
            for key in ("kept_mean_abs", "pruned_mean_abs")
            for moment in (before, after)
        ),
    )


def _shape(layer: Record) -> str:
    return " × ".join(map(str, layer["shape"]))


def _percent(part: int | None, whole: int | None) -> str:
    return f"{100 * part / whole:.1f}" if part is not None and whole else NONE


def _change(before: float | int | None, after: float | int | None) -> str:
    return (
        f"{100 * (after - before) / before:+.1f}".replace("-", "−") if before and after is not None else NONE
    )


def _short(value: float | int | None) -> str:
    return NONE if value is None else f"{value:.4f}"
