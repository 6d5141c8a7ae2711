"""Where a run computes, in which precision, and with how many processes."""

import logging
import os
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from seqdsd.engine.precision import Precision, measure_precision
from seqdsd.fabric import DDPStrategy, Fabric

log = logging.getLogger(__name__)

AskedPrecision = Literal["auto", "32-true", "bf16-mixed"]

# Statistics of norms are the same in all processes (``FrameNorm``). Sent at every forward pass, they would make
# processes that evaluate unlike numbers of batches wait for each other for ever. torch 2.14 has renamed the option.
_SENT_BUFFERS = {"forward_sync_buffers", "broadcast_buffers"} & set(
    signature(DistributedDataParallel).parameters
)
_WITHOUT_SENT_BUFFERS: dict[str, Any] = {max(_SENT_BUFFERS): False}


class _LengthsStayDDP(DDPStrategy):
    """DDP that leaves inputs where they are: it would send lengths to a GPU, and the host would wait for them."""

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        return DistributedDataParallel(module=module, **self._ddp_kwargs)


def make_fabric(device: str, precision: AskedPrecision, *, is_trained: bool = False) -> Fabric:
    """Fabric on one device; started by ``torchrun``, on one device for each of its processes, which have then met.

    Args:
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.
        precision: Of the network's arithmetic; weights and losses stay in 32 bits. ``auto`` takes the faster one
            (``measure_precision``); of several processes, which would have to agree, 32 bits.
        is_trained: Of a network that was trained in this precision and is only used from now on: in single precision
            where bfloat16 multiplies slower than that, as on processors without units for it.

    Raises:
        ValueError: If there is no such device here.
    """
    count, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    try:
        if count == 1 and precision == "auto":
            precision = _faster(Fabric(accelerator=device, devices=1).device)
        if count == 1 and precision == "bf16-mixed" and is_trained:
            precision = _bearable(Fabric(accelerator=device, devices=1).device)
        if count == 1:
            return Fabric(accelerator=device, devices=1, precision=_known(precision))
        fabric = Fabric(
            accelerator=device,
            devices=here,
            num_nodes=count // here,
            precision=_known(precision),
            strategy=_LengthsStayDDP(**_WITHOUT_SENT_BUFFERS),
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--device {device}: {error}") from error
    fabric.launch()
    if precision == "auto" and fabric.is_global_zero:
        log.info("precision 32-true: several processes do not measure; --precision bf16-mixed takes bfloat16")
    return fabric


def _faster(device: torch.device) -> Precision:
    """The faster one on a device, which is said."""
    measured = measure_precision(device)
    log.info("%s", measured)
    return measured.precision


def _bearable(device: torch.device) -> Precision:
    """bfloat16, or single precision where it is the faster one, which is said."""
    speedup = measure_precision(device).speedup
    if speedup >= 1:
        return "bf16-mixed"
    log.info(
        "trained in bfloat16, which takes %.2g times as long as single precision here, and used in single precision: "
        "scores may differ by rounding",
        1 / speedup,
    )
    return "32-true"


def precision_of(fabric: Fabric) -> Precision:
    """In which its networks compute."""
    found: list[Precision] = [
        one for one in get_args(Precision) if one == fabric.strategy.precision.precision
    ]
    return found[0]


def _known(precision: AskedPrecision) -> Precision:
    return "32-true" if precision == "auto" else precision


def device_name(device: torch.device) -> str:
    """A device for records: ``cpu``, or a GPU with its model, as in ``cuda:0 NVIDIA H100``."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
