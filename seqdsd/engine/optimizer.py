"""Optimizers by their settings, and how their gradients are clipped.

Every one takes ``found_inf``, a flag on the device, and changes nothing where it is set: so a step whose loss or
gradient is not finite is skipped without waiting for the device. The settings of a kind are one class here, and
``kind`` in a file or on the command line picks it (see ``seqdsd.config``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from seqdsd.engine.rate import RateSettings
from seqdsd.fabric import Fabric, FabricOptimizer
from seqdsd.optim import NeuralTalkRMSprop


@runtime_checkable
class OptimizerSettings(Protocol):
    """What the engine needs to know of an optimizer."""

    @property
    def state_size(self) -> int:
        """Numbers that it keeps for each weight."""

    def rate(self, peak: float | int, *, epochs: int, epoch: int, step: int, num_batches: int) -> float:
        """The learning rate of one step (see ``RateSettings.rate``)."""

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """A fresh optimizer that takes ``found_inf``."""

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: FabricOptimizer) -> Tensor:
        """Clip the gradients in place; their norm before that (0-d, on the device)."""


@dataclass(frozen=True, kw_only=True)
class NesterovSettings(RateSettings):
    """Nesterov SGD; the gradient's norm is clipped."""

    kind: Literal["nesterov"] = "nesterov"
    """Nesterov SGD, the DSD paper's for recognisers. --optimizer.kind adamw takes AdamW instead, whose flags --help
    shows then."""
    momentum: float = 0.99
    """As Baidu's public DeepSpeech code of that time; the DSD paper names Nesterov SGD only (section 4.5)."""
    weight_decay: float = 0.0
    """L2 penalty."""
    clip_norm: float = 100.0
    """Upper bound of the gradient's norm (same source)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), got {self.momentum}")
        _check_not_negative(self, "weight_decay")
        _check_above_0(self, "clip_norm")

    @property
    def state_size(self) -> int:
        """The momentum."""
        return 1

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

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: FabricOptimizer) -> Tensor:
        """Scale the gradients to ``clip_norm`` where their norm is above it."""
        return _clip_norm_(fabric, model, optimizer, self.clip_norm)


@dataclass(frozen=True, kw_only=True)
class AdamWSettings(RateSettings):
    """Adam with decoupled weight decay, warmed up and annealed; the gradient's norm is clipped."""

    kind: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay. Another --optimizer.kind has other flags, which --help shows beside it."""
    curve: Literal["constant", "cosine"] = "cosine"
    warmup: float = 0.2
    momentum: float = 0.9
    """Of the mean gradient (the first beta)."""
    decay: float = 0.99
    """Of the mean squared gradient (the second beta)."""
    epsilon: float = 1e-8
    """Keeps the division finite."""
    weight_decay: float = 0.01
    """Each step takes this share, times the learning rate, off every weight of a matrix; biases and norms have none."""
    clip_norm: float = 100.0
    """Upper bound of the gradient's norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self)
        _check_not_negative(self, "weight_decay")
        _check_above_0(self, "epsilon", "clip_norm")

    @property
    def state_size(self) -> int:
        """Both moments."""
        return 2

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """Fused AdamW, with one group for matrices and one, undecayed, for vectors."""
        groups, betas = _decayed_and_not(parameters, self.weight_decay), (self.momentum, self.decay)
        return torch.optim.AdamW(groups, learning_rate, betas=betas, eps=self.epsilon, fused=True)

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: FabricOptimizer) -> Tensor:
        """Scale the gradients to ``clip_norm`` where their norm is above it."""
        return _clip_norm_(fabric, model, optimizer, self.clip_norm)


@dataclass(frozen=True)
class AdaptiveSettings(RateSettings):
    """An optimizer that scales each weight's step; the gradient is clipped by element. Defaults are NeuralTalk's."""

    kind: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop: NeuralTalk's, with epsilon inside the root; adam: torch's. --optimizer.kind adamw takes AdamW instead,
    whose flags --help shows then."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self)
        _check_not_negative(self, "weight_decay")
        _check_above_0(self, "epsilon", "clip_value")

    @property
    def state_size(self) -> int:
        """The mean squared gradient; adam's mean gradient, too."""
        return 1 if self.kind == "rmsprop" else 2

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float | int) -> torch.optim.Optimizer:
        """The optimizer, with one group for matrices and one, undecayed, for biases."""
        groups = _decayed_and_not(parameters, self.weight_decay)
        if self.kind == "rmsprop":
            return NeuralTalkRMSprop(groups, learning_rate, decay=self.decay, eps=self.epsilon)
        betas = (self.momentum, self.decay)
        return torch.optim.Adam(groups, learning_rate, betas=betas, eps=self.epsilon, fused=True)

    def clip_(self, fabric: Fabric, model: nn.Module, optimizer: FabricOptimizer) -> Tensor:
        """Clamp every element to ``clip_value``."""
        # Taken first: clamping would turn an infinite gradient into a finite one.
        norm = nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])
        fabric.clip_gradients(model, optimizer, clip_val=self.clip_value)
        return norm


def _decayed_and_not(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and vectors, which do not."""
    every = list(parameters)
    return [
        {"params": [one for one in every if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in every if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _clip_norm_(fabric: Fabric, model: nn.Module, optimizer: FabricOptimizer, most: float) -> Tensor:
    norm = fabric.clip_gradients(model, optimizer, max_norm=most, error_if_nonfinite=False)
    assert norm is not None  # only sharded strategies, which are not used here, return none
    return norm


# So written, the checks refuse NaN as well.
def _check_betas(settings: AdamWSettings | AdaptiveSettings) -> None:
    for name in ("decay", "momentum"):
        if not 0 <= (value := getattr(settings, name)) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


def _check_not_negative(settings: RateSettings, name: str) -> None:
    if not (value := getattr(settings, name)) >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _check_above_0(settings: RateSettings, *names: str) -> None:
    for name in names:
        if not (value := getattr(settings, name)) > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
