"""Training the codebooks: every weight of one code gets the sum of their gradients, and stays equal to the others.

For any training loop and any ``torch.optim`` optimizer that moves each number on its own: weights that are equal, with
equal gradients and equal momentum, move by the same step, which is the one that their centroid would make. After it
they are set to one value, so that rounding cannot part them. Others (Adafactor, Muon and the like) are known by their
first step, in which equal weights part, and refused; L-BFGS is by its closure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from seqdsd.compression.sharing import SharedTensor, half_where_safe, looked_up

_PART = 2**20
_CODES, _CODEBOOK = "/codes", "/codebook"


def load_shared_(model: nn.Module, shared: Mapping[str, SharedTensor]) -> None:
    """Set parameters of a model to shared tensors' weights.

    Args:
        model: Bare: not wrapped by ``torch.compile``, DDP or Fabric, which change its names.
        shared: By any name of their parameter.

    Raises:
        ValueError: If a name or a shape is not the model's, or two are of one parameter.
    """
    for name, parameter in _parameters(model, {name: one.shape for name, one in shared.items()}).items():
        with torch.no_grad():
            parameter.copy_(shared[name].dense())


class CodebookTraining:
    """The shared weights of a model while their codebooks are trained; pruned weights stay at exactly 0.

    Example, after pruning and retraining, with the masks of ``seqdsd.sparsity`` or others:

        >>> import torch
        >>> from torch import nn
        >>> from seqdsd.compression import CodebookTraining, share_weights
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
        >>> shared = {"0.weight": share_weights(model[0].weight, model[0].weight.abs() > 0.1, bits=3)}
        >>> training = CodebookTraining(model, shared)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        >>> with training.attach(optimizer):
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         nn.functional.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> len(model[0].weight.unique()) <= 8
        True
        >>> tuned = training.finish_()  # rounded, also in the model; to be written by write_compressed

    Reference: Han et al. 2016 (Deep Compression), section 3.3, equation 3, as known from memory. Departures: the
    optimizer need not be plain SGD, and gradients may be averaged.
    """

    def __init__(self, model: nn.Module, shared: Mapping[str, SharedTensor]) -> None:
        """Set the model's parameters to ``shared``; see ``load_shared_``, which also says what is refused.

        Raises:
            ValueError: Also if there is none.
        """
        self._hold(model, {name: (one.codebook, one.codes) for name, one in shared.items()})

    def attach(self, optimizer: Optimizer, *, average: bool = False) -> ExitStack:
        """Hold equal weights together at each step of an optimizer, until the ``with`` block of what is returned ends.

        Gradients are summed when ``optimizer.step()`` is called, so after clipping: a norm is that of the weights'
        own gradients, as in training before. Summed ones are larger, and need a lower learning rate. Start a fresh
        optimizer: one from before holds another momentum for each weight. ``close()`` ends it without a ``with``.
        ``step(closure)`` is refused when it is called, and an optimizer that moves equal weights apart by its first
        step, which is undone; or, where that was too small to tell, by its 2nd, 4th, 8th …; both with ``ValueError``.

        Args:
            optimizer: Over the shared parameters, with others or without.
            average: Give each weight the mean of the gradients in place of their sum. A step is then the one that the
                weights would make, as near to it as weights can come that stay equal, so that it needs no lower
                learning rate than they did, however many share a value.

        Raises:
            TypeError: If it is no ``torch.optim.Optimizer``; of a wrapper hand over the one within.
            ValueError: If a shared parameter is not in it, or is held in it already.
        """
        hooks_before_step = getattr(optimizer, "_optimizer_step_pre_hooks", None)
        if hooks_before_step is None:  # also of Accelerate's, which is an Optimizer by name
            raise TypeError(
                f"codebooks are trained by a torch.optim.Optimizer, got {type(optimizer).__name__}; of a wrapper hand "
                "over the optimizer within"
            )
        inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if missing := [name for name, held in self._held.items() if id(held.parameter) not in inside]:
            raise ValueError(f"the optimizer does not hold these shared parameters: {', '.join(missing)}")
        others = {id(parameter) for hook in hooks_before_step.values() for parameter in _held_by(hook)}
        if twice := [name for name, held in self._held.items() if id(held.parameter) in others]:
            raise ValueError(
                f"the optimizer already trains codebooks of {', '.join(twice)}: gradients would be summed twice; leave "
                "that `with` block first, or make the optimizer anew"
            )
        self._average, self._steps = average, 0
        hooks = ExitStack()
        hooks.callback(optimizer.register_step_pre_hook(self._before_step).remove)
        hooks.callback(optimizer.register_step_post_hook(self._after_step).remove)
        return hooks

    def shared(self) -> dict[str, SharedTensor]:
        """The tensors as the model now has them, each codebook rounded to 16 bits where that is safe.

        By all names of a parameter, one tensor: tied ones are so in ``write_compressed``, too. Also after an earlier
        epoch's weights were restored.

        Raises:
            ValueError: If training has made a weight NaN or infinite.
        """
        shared: dict[str, SharedTensor] = {}
        for name, held in self._held.items():
            if not (codebook := held.codebook().float()).isfinite().all():
                raise ValueError(f"{name}: training made weights NaN or infinite; give a lower learning rate")
            tensor = SharedTensor.tidied(half_where_safe(codebook), held.codes)
            shared |= dict.fromkeys(self._names[name], tensor)
        return shared

    def finish_(self) -> dict[str, SharedTensor]:
        """The same, to which the model's weights are now set: what is scored then is what is written."""
        shared = self.shared()
        for name, held in self._held.items():
            with torch.no_grad():
                held.parameter.copy_(shared[name].dense())
        return shared

    def state_dict(self) -> dict[str, Tensor]:
        """Codes and codebooks as they are, not rounded, on the CPU: ``NAME/codes`` and ``NAME/codebook``."""
        state = {}
        for name, held in self._held.items():
            state[name + _CODES], state[name + _CODEBOOK] = held.codes.cpu(), held.codebook().cpu()
        return state

    @classmethod
    def from_state_dict(cls, model: nn.Module, state: Mapping[str, Tensor]) -> CodebookTraining:
        """Go on from ``state_dict``, with a model of the same shapes.

        Raises:
            ValueError: See ``load_shared_``.
        """
        names = [name.removesuffix(_CODES) for name in state if name.endswith(_CODES)]
        training = cls.__new__(cls)
        # Not as SharedTensors: centroids that are trained may pass or meet each other.
        training._hold(model, {name: (state[name + _CODEBOOK], state[name + _CODES]) for name in names})
        return training

    def _hold(self, model: nn.Module, shared: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        if not shared:
            raise ValueError("no shared tensors: nothing would be trained as a codebook")
        parameters = _parameters(model, {name: codes.shape for name, (_, codes) in shared.items()})
        self._held = {name: _Held(parameter, *shared[name]) for name, parameter in parameters.items()}
        all_names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            all_names.setdefault(id(parameter), []).append(name)
        self._names = {name: all_names[id(parameter)] for name, parameter in parameters.items()}

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure") is not None or any(callable(one) for one in args[1:]):
            raise ValueError(
                "codebooks cannot be trained by step(closure): its gradients would come after they were summed; "
                "call backward() before step()"
            )
        for held in self._held.values():
            held.sum_gradients_(average=self._average)

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        self._steps += 1
        is_looked_at = self._steps.bit_count() == 1  # the 1st, 2nd, 4th, 8th …: looking waits for the device
        if is_looked_at and (parted := [name for name, held in self._held.items() if held.has_parted()]):
            for held in self._held.values():
                held.undo_()
            raise ValueError(
                f"{type(optimizer).__name__} has moved weights apart that share a value ({', '.join(parted)}): "
                "codebooks are trained by optimizers that move each number on its own, as SGD, RMSprop and Adam do"
            )
        for held in self._held.values():
            held.make_equal_()


class _Held:
    """One shared parameter, set to its codebook."""

    def __init__(
        self, parameter: nn.Parameter, codebook: Float[Tensor, "centroids"], codes: UInt8[Tensor, "*shape"]
    ) -> None:
        self.parameter = parameter
        self.codes = codes.to(parameter.device)
        self._table = torch.cat([codebook.new_zeros(1), codebook]).to(parameter.device, parameter.dtype)
        # One weight of each code, from which to read what the optimizer has made of its centroid.
        used, places, counts = np.unique(codes.flatten().cpu().numpy(), return_index=True, return_counts=True)
        is_kept = used > 0
        self._used = torch.from_numpy(used[is_kept].astype(np.int64)).to(parameter.device)
        self._places = torch.from_numpy(places[is_kept]).to(parameter.device)
        self._is_known_to_move_together = False
        self._counts = torch.ones(len(self._table), dtype=torch.float64, device=parameter.device)
        self._counts[self._used] = torch.from_numpy(counts[is_kept]).to(self._counts)
        self._set()

    def codebook(self) -> Float[Tensor, "centroids"]:
        """Of the parameter's type."""
        self._read()  # the parameter may have been given an earlier epoch's weights
        return self._table[1:].clone()

    @torch.no_grad()
    def sum_gradients_(self, *, average: bool) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            return
        # In double precision: a centroid may have millions of weights.
        sums = torch.zeros(len(self._table), dtype=torch.float64, device=gradient.device)
        for some, codes in zip(
            gradient.flatten().split(_PART), self.codes.flatten().split(_PART), strict=True
        ):
            sums.index_add_(0, codes.int(), some.double())
        sums[0] = 0.0
        if average:
            sums /= self._counts
        gradient.copy_(looked_up(sums.to(gradient.dtype), self.codes))

    @torch.no_grad()
    def has_parted(self) -> bool:
        """Whether the step just made has moved equal weights apart, by more than rounding does.

        Not looked at once a step was large enough to tell. It waits for the device.
        """
        if self._is_known_to_move_together:
            return False
        size = self._table.abs().max()
        step = (self.parameter - looked_up(self._table, self.codes)).abs().max()
        now = self._table.clone()
        now[self._used] = self.parameter.flatten()[self._places]
        spread = (self.parameter - looked_up(now, self.codes)).abs().max()
        rounding = torch.finfo(self.parameter.dtype).eps * torch.maximum(size, step)
        parted = bool(spread > 10 * rounding)
        self._is_known_to_move_together = not parted and bool(step > 1000 * rounding)
        return parted

    def undo_(self) -> None:
        self._set()

    def make_equal_(self) -> None:
        self._read()
        self._set()

    @torch.no_grad()
    def _read(self) -> None:
        self._table[self._used] = self.parameter.flatten()[self._places]

    @torch.no_grad()
    def _set(self) -> None:
        self.parameter.copy_(looked_up(self._table, self.codes))


def _held_by(hook: object) -> Iterator[nn.Parameter]:
    """The parameters of the training whose hook this is; none of any other hook."""
    if isinstance(training := getattr(hook, "__self__", None), CodebookTraining):
        yield from (held.parameter for held in training._held.values())


def _parameters(model: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, nn.Parameter]:
    """The parameters of these names and shapes."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if unknown := [name for name in shapes if name not in known]:
        raise ValueError(
            f"the model has no parameters {', '.join(map(repr, unknown))}; hand it over bare, not wrapped"
        )
    names: dict[int, str] = {}
    for name, shape in shapes.items():
        if shape != known[name].shape:
            raise ValueError(f"{name!r} has shape {tuple(known[name].shape)}, its codes {tuple(shape)}")
        if (other := names.setdefault(id(known[name]), name)) != name:
            raise ValueError(f"two codebooks for one parameter, {other!r} = {name!r}")
    return {name: known[name] for name in shapes}
