"""Checkpoints that survive a kill: safetensors with a checksum, written aside, synced and renamed; never unpickled.

A checkpoint is named tensors plus a JSON state. What they mean is ``engine.dsd``'s business.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seqdsd.records import write_atomically

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what JSON can hold."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix/``, without it."""
        start = f"{prefix}/"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically, with a checksum over names, tensors and state; tied tensors once, with all their names."""
    first = first_names(checkpoint.tensors)
    tensors = {
        # A copy where it lies within another, which safetensors refuses.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if tensor.untyped_storage().nbytes() > tensor.nbytes
        else tensor.detach().cpu().contiguous()
        for name, tensor in checkpoint.tensors.items()
        if first[name] == name
    }
    state = json.dumps(checkpoint.state)
    metadata = {"state": state}
    if aliases := {name: one for name, one in first.items() if one != name}:
        metadata["aliases"] = json.dumps(aliases)
    metadata["checksum"] = _checksum(tensors, state + metadata.get("aliases", ""))
    write_atomically(path, save(tensors, metadata))


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first of those that have the same tensor: its own, where it is not tied to another."""
    seen: dict[tuple[Any, ...], str] = {}
    return {
        # An empty tensor lies nowhere.
        name: seen.setdefault((one.data_ptr(), one.device, one.dtype, one.shape, one.stride()), name)
        if one.numel()
        else name
        for name, one in tensors.items()
    }


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, on the CPU.

    Raises:
        CheckpointError: If it is missing, damaged or not a checkpoint of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error
    if "state" not in metadata or "checksum" not in metadata:
        raise CheckpointError(f"{path}: not a seqdsd checkpoint (no state in its header)")
    aliases = metadata.get("aliases", "")
    if _checksum(tensors, metadata["state"] + aliases) != metadata["checksum"]:
        raise CheckpointError(f"{path}: damaged checkpoint (its checksum does not fit)")
    try:
        state = json.loads(metadata["state"])
        tied = {name: tensors[one] for name, one in json.loads(aliases or "{}").items()}
    except (ValueError, RecursionError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint (its state is no JSON: {error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: damaged checkpoint (its state is no JSON object)")
    return Checkpoint({**tensors, **tied}, state)


def save_latest(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``last.safetensors``; the one before stays as ``previous.safetensors``.

    The new one is complete, as ``next.safetensors``, before an old one is moved: a full disk or a kill loses
    neither.
    """
    fresh, last = folder / "next.safetensors", folder / "last.safetensors"
    save_checkpoint(fresh, checkpoint)
    if last.is_file():
        os.replace(last, folder / "previous.safetensors")
    os.replace(fresh, last)


def has_checkpoint(folder: Path) -> bool:
    """Whether ``load_latest`` would find one, usable or not."""
    return bool(_latest_paths(folder))


def load_latest(
    folder: Path, accept: Callable[[Checkpoint], object] = lambda checkpoint: None
) -> Checkpoint | None:
    """The last checkpoint, or the previous one where the last cannot be used (said in the log); None where none is.

    Args:
        folder: Of the checkpoints.
        accept: Is given each that is whole, until it raises no ``ValueError``: that one is returned.

    Raises:
        CheckpointError: If there are checkpoints and none can be used.
    """
    problems = []
    for path in _latest_paths(folder):
        try:
            checkpoint = load_checkpoint(path)
            accept(checkpoint)
        except ValueError as error:
            problem = str(error) if isinstance(error, CheckpointError) else f"{path}: {error}"
            problems.append(problem)
            log.warning("%s", problem)
            continue
        if problems:
            log.warning("going on from %s instead", path)
        return checkpoint
    if problems:
        raise CheckpointError(
            "; ".join([*problems, "no usable checkpoint is left: start again in another --out"])
        )
    return None


def _latest_paths(folder: Path) -> list[Path]:
    names = ("next", "last", "previous")  # "next" is there only if a kill came between writing and renaming
    return [path for name in names if (path := folder / f"{name}.safetensors").is_file()]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as named tensors: ``0/momentum_buffer``. Numbers become 0-d tensors."""
    return {
        f"{index}/{key}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give a fresh optimizer over the same parameters the state of ``optimizer_tensors``; its settings stay."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused steps take both for memory in one order; a file holds none but the plain one.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.blake2b(state.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]  # a buffer it is
    return digest.hexdigest()
