"""Optimizers by their settings, and how their gradients are clipped.

Every one takes ``found_inf``, a flag on the device, and changes nothing where it is set: so a step whose loss or
gradient is not finite is skipped without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from seqdsd.optim import NeuralTalkRMSprop


@runtime_checkable
class OptimizerSettings(Protocol):
    """What the engine needs to know of an optimizer."""

    @property
    def anneal(self) -> float | int:
        """Within a phase the learning rate is divided by this after every epoch."""

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """A fresh optimizer that takes ``found_inf``."""

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: _FabricOptimizer) -> Tensor:
        """Clip the gradients in place; their norm before that (0-d, on the device)."""


@dataclass(frozen=True)
class NesterovSettings:
    """Nesterov SGD; the gradient's norm is clipped."""

    momentum: float = 0.99
    """As Baidu's public DeepSpeech code of that time; the DSD paper names Nesterov SGD only (section 4.5)."""
    weight_decay: float = 0.0
    """L2 penalty."""
    clip_norm: float = 100.0
    """Upper bound of the gradient's norm (same source)."""
    anneal: float = 1.0
    """Within a phase the learning rate is divided by this after every epoch; 1 keeps it."""

    def __post_init__(self) -> None:
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), got {self.momentum}")
        _check_common(self.weight_decay, self.anneal)
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}")

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """Fused SGD whose momentum starts at 0.

        The buffers are made here because the fused kernel leaves them uninitialised where the very first step is
        skipped.
        """
        optimizer = torch.optim.SGD(
            parameters,
            lr=learning_rate,
            momentum=self.momentum,
            nesterov=True,
            weight_decay=self.weight_decay,
            fused=True,
        )
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: _FabricOptimizer) -> Tensor:
        """Scale the gradients to ``clip_norm`` where their norm is above it."""
        norm = fabric.clip_gradients(model, optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
        assert norm is not None  # only sharded strategies, which are not used here, return none
        return norm


@dataclass(frozen=True)
class AdaptiveSettings:
    """An optimizer that scales each weight's step; the gradient is clipped by element. Defaults are NeuralTalk's."""

    kind: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop: NeuralTalk's, with epsilon inside the root; adam: torch's."""
    decay: float = 0.999
    """Of the mean squared gradient (Adam's second beta)."""
    momentum: float = 0.9
    """Of the mean gradient: Adam's first beta; NeuralTalk's RMSProp has none."""
    epsilon: float = 1e-8
    """Keeps the division finite."""
    weight_decay: float = 1e-8
    """L2 penalty on matrices; biases have none. (NeuralTalk divides its 1e-8 by the batch size, too.)"""
    clip_value: float = 5.0
    """Each element of the gradient is kept within plus and minus this."""
    anneal: float = 1.0
    """Within a phase the learning rate is divided by this after every epoch; 1 keeps it."""

    def __post_init__(self) -> None:
        for name, value in (("decay", self.decay), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        for name, value in (("epsilon", self.epsilon), ("clip_value", self.clip_value)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        _check_common(self.weight_decay, self.anneal)

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """The optimizer, with one group for matrices and one, undecayed, for biases."""
        every = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [one for one in every if one.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [one for one in every if one.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.kind == "rmsprop":
            return NeuralTalkRMSprop(groups, learning_rate, decay=self.decay, eps=self.epsilon)
        betas = (self.momentum, self.decay)
        return torch.optim.Adam(groups, learning_rate, betas=betas, eps=self.epsilon, fused=True)

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: _FabricOptimizer) -> Tensor:
        """Clamp every element to ``clip_value``."""
        # Taken first: clamping would turn an infinite gradient into a finite one.
        norm = nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])
        fabric.clip_gradients(model, optimizer, clip_val=self.clip_value)
        return norm


def _check_common(weight_decay: float, anneal: float) -> None:
    if not weight_decay >= 0:  # so written, NaN is refused as well
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    if not anneal >= 1:
        raise ValueError(f"anneal must be at least 1, got {anneal}")
