"""Where a run computes, and in which precision."""

from typing import Literal

import torch
from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]


def make_fabric(device: str, precision: Precision) -> Fabric:
    """Fabric on one device.

    Args:
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.
        precision: Of the network's arithmetic; weights and losses stay in 32 bits.

    Raises:
        ValueError: If there is no such device here.
    """
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--device {device}: {error}") from error


def device_name(device: torch.device) -> str:
    """A device for records: ``cpu``, or a GPU with its model, as in ``cuda:0 NVIDIA H100``."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
