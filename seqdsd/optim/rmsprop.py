"""RMSProp with its epsilon inside the root, as NeuralTalk has it; torch's adds it to the root."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class NeuralTalkRMSprop(torch.optim.Optimizer):
    """``cache = decay * cache + (1 - decay) * g^2``; ``w -= learning rate * g / sqrt(cache + eps)``.

    The cache starts at 0 and is not corrected for it, so the first steps are up to ``1 / sqrt(1 - decay)`` times the
    learning rate: 32 times at the original's 0.999.

    Like torch's fused optimizers it takes a ``found_inf`` attribute: a 0-d tensor on the weights' device, 1 where the
    step is to change nothing. None, the default, always steps.

    Reference: karpathy/neuraltalk, imagernn/solver.py, ``rmsprop``. ``weight_decay`` is added to the gradient as it
    comes; there, the cost function adds its 1e-8 before it divides by the batch size and clips.
    """

    # Of the class: torch neither copies nor pickles an optimizer's own attributes.
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        decay: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: If ``lr``, ``eps`` or ``weight_decay`` is negative or ``decay`` not in [0, 1).
        """
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:  # so written, NaN is refused as well
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [one for one in group["params"] if one.grad is not None]
        if not parameters:
            return
        grads: list[Tensor] | tuple[Tensor, ...] = [one.grad for one in parameters if one.grad is not None]
        caches = [self._cache(one) for one in parameters]
        keep: float | Tensor = group["decay"]
        if group["weight_decay"]:
            grads = torch._foreach_add(grads, parameters, alpha=group["weight_decay"])
        if self.found_inf is not None:
            failed = self.found_inf.bool()
            grads = [torch.where(failed, 0, grad) for grad in grads]  # not a product: NaN * 0 is NaN
            keep = torch.where(failed, 1.0, group["decay"])
        torch._foreach_mul_(caches, keep)
        torch._foreach_addcmul_(caches, grads, grads, 1 - group["decay"])
        roots = torch._foreach_add(caches, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(parameters, grads, roots, -group["lr"])

    def _cache(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "cache" not in state:
            state["cache"] = torch.zeros_like(parameter)
        return state["cache"]
