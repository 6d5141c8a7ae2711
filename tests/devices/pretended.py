"""CUDA tensors where there is no GPU: every operation is checked as one on a GPU, and computed on the CPU.

A pretended tensor says that it lies on ``cuda:0``; its values are a twin's on the CPU, so that whole runs come to their
ends and their results can be compared with the CPU's. Two things are errors that name the line of ours: an operation
that meets tensors of both devices, and one for which the host would wait for the device. (torch's ``FakeTensorMode``
says the first, too, but has no values, and its backward pass needs a GPU where torch was built for one.) What a GPU
computes, and how fast, is left out: that is for the tests marked ``gpu``.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from seqdsd.fabric import Fabric

CUDA = torch.device("cuda:0")
REPOSITORY = Path(__file__).parents[2]
OURS = tuple(
    REPOSITORY / name for name in ("seqdsd", "tests", "benchmarks")
)  # a virtual environment may lie beside them
aten = torch.ops.aten

_READING = {
    "aten::_local_scalar_dense": "reads a number",
    "aten::equal": "compares, and reads the answer",
    **dict.fromkeys(
        ("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount"),
        "gives as many numbers as it finds",
    ),
    "aten::unique_consecutive": "gives as many numbers as it finds",
}
"""What makes the host wait for a tensor of the device."""
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_COPYING = ("aten::_to_copy", "aten::copy_")
_LENGTHS_ON_THE_CPU = {
    "aten::_ctc_loss": (2, 3),
    "aten::_ctc_loss_backward": (3, 4),
    "aten::lstm": (1,),
    "aten::gru": (1,),
    "aten::_pack_padded_sequence": (1,),
    "aten::_pad_packed_sequence": (1,),
}
"""Arguments that torch wants on the CPU, wherever the others are."""

_IN_HALF_PRECISION = (
    *(nn.functional.linear, nn.functional.conv1d, nn.functional.conv2d, torch.matmul, Tensor.matmul),
    *(Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
)
"""Under autocast."""


class HostWaits(AssertionError):
    """The host would wait for the device."""


class DeviceMixUp(AssertionError):
    """An operation meets tensors of two devices."""


class PretendedTensor(Tensor):
    """Lies on ``cuda:0``, as far as Python is told; ``twin`` has its values."""

    twin: Tensor

    @staticmethod
    def __new__(cls, twin: Tensor) -> PretendedTensor:
        # To torch's C++ it lies on "meta": what lies on CUDA would be differentiated in a thread of a GPU's.
        with torch.inference_mode(
            False
        ):  # else a view of a tensor from outside could not be told of changes to it
            shape = torch.empty_strided(twin.shape, twin.stride(), dtype=twin.dtype, device="meta")
            self = Tensor._make_subclass(cls, shape, False, device_for_backend_keys=CUDA)
        self.twin = twin
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.twin})"

    def tolist(self) -> Any:
        """As torch does, by one copy."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("cannot convert a tensor of cuda:0 to numpy: copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} meets a pretended tensor outside its PretendedCuda")


class PretendedCuda(TorchDispatchMode):
    """While it is entered, ``cuda`` is a device: ``.to("cuda")``, ``torch.zeros(…, device="cuda")`` give its tensors.

    Attributes:
        waits: Where the host has waited with leave, as ``seqdsd/engine/loop.py _read``, in their order.
    """

    def __init__(self, *allowed: str) -> None:
        """Let the host wait in some functions.

        Args:
            allowed: Each a file in the repository and a function in it, as in ``waits``.
        """
        super().__init__()
        self.waits: list[str] = []
        self._allowed = allowed
        self._is_between_steps = False
        self._patches = ExitStack()

    def __enter__(self) -> PretendedCuda:
        autocast = torch.cuda.amp.common
        for of, name, answer in (
            (torch.cuda, "_lazy_init", None),
            (torch.cuda, "is_bf16_supported", True),
            (autocast, "amp_definitely_not_available", False),
        ):
            self._patches.enter_context(patch.object(of, name, lambda *_, answer=answer: answer))
        make_tensor = torch.tensor  # which, given a device, asks no mode
        self._patches.enter_context(
            patch.object(
                torch,
                "tensor",
                lambda *args, device=None, **options: make_tensor(*args, **options).to(device),
            )
        )
        self._patches.enter_context(_PretendedAutocast())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Where the host may wait, and a model may be moved to the device; its parameters stay the same objects."""
        future = torch.__future__
        before = self._is_between_steps, future.get_swap_module_params_on_conversion()
        self._is_between_steps = True
        future.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            self._is_between_steps = before[0]
            future.set_swap_module_params_on_conversion(before[1])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_flatten((args, kwargs))[0]
        is_asked = any(isinstance(one, torch.device) and one.type in ("cuda", "meta") for one in given)
        if not is_asked and not any(isinstance(one, PretendedTensor) for one in given):
            return func(*args, **kwargs)
        if func._can_decompose():  # in inference mode nobody has done so before
            with self._again():
                return func.decompose(*args, **kwargs)
        _check_devices(func, args, kwargs)
        if reason := _reason_to_wait(func, args, kwargs):
            self._wait(func, reason)
        values = func(*tree_map(_twin, args), **{name: tree_map(_twin, one) for name, one in kwargs.items()})
        if torch.Tag.inplace_view in func.tags:  # as transpose_: changes the shape, too
            with no_dispatch():
                func(*args, **kwargs)
        if _is_to_cpu(func, args, kwargs):
            return args[0] if func is aten.copy_.default else values
        return _paired(func, args, kwargs, values)

    @contextmanager
    def _again(self) -> Iterator[None]:
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def _wait(self, func: Any, reason: str) -> None:
        if self._is_between_steps:
            return
        line, function = _site()
        if function not in self._allowed:
            raise HostWaits(f"{line}: {func} {reason}: the host waits for the device")
        self.waits.append(function)


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """There is nothing to set up."""


def pretended_fabric(precision: str = "32-true") -> Fabric:
    """Fabric as ``make_fabric("cuda", precision)`` gives it, on the pretended device."""
    plugin: Any = MixedPrecision(precision, device="cuda") if precision == "bf16-mixed" else None  # type: ignore[arg-type]
    strategy = SingleDeviceStrategy(CUDA, accelerator=_Accelerator(), precision=plugin)
    return Fabric(strategy=strategy)


class _PretendedAutocast(TorchFunctionMode):
    """What ``torch.autocast("cuda")`` does to the functions that our networks multiply with."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _IN_HALF_PRECISION and torch.is_autocast_enabled("cuda"):
            args, kwargs = tree_map(_in_half_precision, (args, kwargs))
        return func(*args, **(kwargs or {}))


def _in_half_precision(one: Any) -> Any:
    is_float = isinstance(one, PretendedTensor) and one.dtype == torch.float32
    return one.to(torch.get_autocast_dtype("cuda")) if is_float else one


def _twin(one: Any) -> Any:
    if isinstance(one, torch.device):
        return torch.device("cpu")
    return one.twin if isinstance(one, PretendedTensor) else one


def _paired(func: Any, args: Any, kwargs: Any, values: Any) -> Any:
    """Results as tensors of the device; those that were changed in place are the same as before."""
    known = {id(one.twin): one for one in tree_flatten((args, kwargs))[0] if isinstance(one, PretendedTensor)}

    def paired(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else PretendedTensor(value)

    return tree_map(paired, values)


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Raise ``DeviceMixUp``, but where a CPU's tensor is copied, or taken for lengths or indices."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise DeviceMixUp(f"{_site()[0]}: {func} on CUDA is given a generator of the CPU")
    name = func._schema.name
    if name in _COPYING:
        return
    on_cpu = _LENGTHS_ON_THE_CPU.get(name, ())
    if any(isinstance(args[place], PretendedTensor) for place in on_cpu):
        raise DeviceMixUp(f"{_site()[0]}: {func} wants lengths on the CPU")
    indices = (1,) if name in _INDEXING else ()
    given = [one for place, one in enumerate(args) if place not in (*on_cpu, *indices)]
    for one in tree_flatten((given, kwargs))[0]:
        # One number of the CPU's is taken along with a kernel, as Python's numbers are.
        if isinstance(one, Tensor) and not isinstance(one, PretendedTensor) and one.ndim > 0:
            raise DeviceMixUp(f"{_site()[0]}: {func} meets tensors of CUDA and of the CPU")


def _reason_to_wait(func: Any, args: Any, kwargs: Any) -> str | None:
    name = func._schema.name
    if name in _READING:
        return _READING[name]
    if _is_to_cpu(func, args, kwargs):
        return "copies to the CPU"
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        return "gives as many numbers as it finds"
    if name in _COPYING:
        source = args[1] if name == "aten::copy_" else args[0]
        non_blocking = kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2])
        return None if isinstance(source, PretendedTensor) or non_blocking else "copies from the CPU at once"
    if name in _INDEXING:
        indices = [one for one in args[1] if one is not None]
        if any(one.dtype in (torch.bool, torch.uint8) for one in indices):
            return "gives as many numbers as it finds"
        if not all(isinstance(one, PretendedTensor) for one in indices):
            return "copies its indices from the CPU at once"
    return None


def _is_to_cpu(func: Any, args: Any, kwargs: Any) -> bool:
    if func is aten._to_copy.default:
        asked = kwargs.get("device")
        return isinstance(args[0], PretendedTensor) and asked is not None and asked.type == "cpu"
    return (
        func is aten.copy_.default
        and isinstance(args[1], PretendedTensor)
        and not isinstance(args[0], PretendedTensor)
    )


def _site() -> tuple[str, str]:
    """The innermost line of ours that is being run, and its function as ``PretendedCuda.waits`` has it."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and any(path.is_relative_to(folder) for folder in OURS):
            name, function = path.relative_to(REPOSITORY), frame.f_code.co_name
            text = linecache.getline(str(path), frame.f_lineno).strip()
            return f"{name}:{frame.f_lineno} in {function}: {text}", f"{name} {function}"
        frame = frame.f_back
    return "a line of no file of ours", ""
