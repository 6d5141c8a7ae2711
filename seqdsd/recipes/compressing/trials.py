"""What a change of the weights costs on dev, without any training after it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seqdsd.compression import SharedTensor
from seqdsd.engine import Evaluation, Task
from seqdsd.fabric import Fabric
from seqdsd.records import RunFolder, read_json_lines, shapes, write_json_lines
from seqdsd.sparsity import magnitude_mask
from seqdsd.sparsity.parameters import by_alias
from seqdsd.sparsity.sensitivity import Sensitivity

DENSITIES = (0.6, 0.4, 0.25, 0.15, 0.09, 0.05, 0.03, 0.015)
"""To which each tensor is pruned alone."""

_NO_LOSS = 1e30
"""Stands for NaN and infinity."""


class _Row(Struct):
    """A line of ``scan.jsonl``: the tensor is empty where nothing is pruned."""

    parameter: str
    density: shapes.Share
    dev_loss: shapes.Number


class Trials:
    """Judges changed weights of a task's network, which has its own again afterwards."""

    def __init__(self, task: Task[Any], fabric: Fabric) -> None:
        self._task, self._fabric = task, fabric
        self._model = fabric.setup_module(task.model)
        self._parameters = by_alias(task.model)

    def evaluate(self) -> Evaluation:
        """The network as it is."""
        return self._task.evaluate(self._model, "dev", self._fabric.device)

    def shared(self, shared: Mapping[str, SharedTensor]) -> Evaluation:
        """With shared weights in place of the tensors of the same names."""
        with self._changed({name: one.dense() for name, one in shared.items()}):
            return self.evaluate()

    def scan(self, names: Sequence[str], folder: RunFolder, console: Console) -> list[Sensitivity]:
        """Prune each tensor alone to each of ``DENSITIES``; what was measured is kept in ``scan.jsonl``."""
        path = folder.path / "scan.jsonl"
        dense = self._finite(self.evaluate())
        rows = list(read_json_lines(path, _Row)) if path.is_file() else []
        if not any(row["parameter"] == "" and math.isclose(row["dev_loss"], dense) for row in rows):
            rows = [{"parameter": "", "density": 1.0, "dev_loss": dense}]  # or those of another network
        known = {(row["parameter"], row["density"]): row["dev_loss"] for row in rows}
        todo = [(name, density) for name in names for density in DENSITIES]
        with _progress(console, len(todo)) as advance:
            for name, density in todo:
                if (name, density) not in known:
                    loss = known[name, density] = self._pruned(name, density)
                    rows.append({"parameter": name, "density": density, "dev_loss": loss})
                    write_json_lines(path, rows)
                advance()
        return [
            Sensitivity(
                name,
                self._parameters[name].parameter.numel(),
                {1.0: dense, **{density: known[name, density] for density in DENSITIES}},
            )
            for name in names
        ]

    def _pruned(self, name: str, density: float) -> float:
        weight = self._parameters[name].parameter
        most = 1 - 1 / weight.numel()  # one weight stays
        mask = magnitude_mask(weight, min(1 - density, most))
        with self._changed({name: torch.where(mask, weight.detach(), 0.0)}):
            return self._finite(self.evaluate())

    @staticmethod
    def _finite(found: Evaluation) -> float:
        return found.loss if math.isfinite(found.loss) else _NO_LOSS

    @contextmanager
    def _changed(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        parameters = {name: self._parameters[name].parameter for name in tensors}
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(before[name])


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    bar = Progress(
        TextColumn("[bold]what each tensor's weights are worth"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
