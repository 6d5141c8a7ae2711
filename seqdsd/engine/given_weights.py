"""Weights that somebody else has trained: a file of any program that saves a ``state_dict``, and what fits of it.

Nothing in a file is run: safetensors holds numbers alone, and of torch's files only tensors are read. What a run does
with the weights is ``dsd.py``'s business.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from seqdsd.compression import read_compressed
from seqdsd.compression.header import MAGIC
from seqdsd.engine.checkpoint import CheckpointError, load_checkpoint
from seqdsd.engine.task import Evaluation

_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Under which the weights stand in files that hold more, in the order in which they are looked for."""
_TORCH = (b"PK", b"\x80")
"""How torch's files begin: a zip archive, and before 2020 a pickle."""
_NAMED = 3
"""Tensors that a message names of each sort."""
_CLASSES_DIFFER = ". Where an image classifier's classes are others: --weights in place of --start-weights"


@dataclass(frozen=True)
class GivenWeights:
    """Weights by name, and the file that they are from.

    Attributes:
        path: Of the file.
        sha256: Of its bytes.
        tensors: On the CPU.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> GivenWeights:
        """Read a safetensors file, what ``torch.save`` has written of a ``state_dict``, alone or in a dict, or a .dsdz.

        Raises:
            ValueError: If there is no such file, it is damaged, or it holds something else than tensors.
        """
        try:
            content = path.read_bytes()
        except IsADirectoryError:
            raise CheckpointError(f"{path}: a folder, and no run's; name a file with weights") from None
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        if content[8:9] == b"{":  # after the length of its header
            tensors = _from_safetensors(path, content)
        elif content.startswith(_TORCH):
            tensors = _tensors_in(path, _from_torch(path, content))
        elif content.startswith(MAGIC):
            tensors = read_compressed(path).state_dict()
        else:
            raise CheckpointError(
                f"{path}: neither a safetensors file nor one of torch.save or of seqdsd compress; save the network's "
                "state_dict as one"
            )
        return cls(path, hashlib.sha256(content).hexdigest(), tensors)

    def noted(self, dev: Evaluation) -> dict[str, Any]:
        """For the record of the phase that they stand for: the file, and what chooses the best phase."""
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "dev_loss": dev.loss,
            "dev_score": dev.score,
        }

    def give_to(self, model: nn.Module, *, but: Sequence[str] = ()) -> None:
        """Load them into a network, all or none.

        Prefixes that all names have and the network's do not (``module.``, ``model.``, ``_orig_mod.``) are left out;
        counts of batches, which old files of batch norms lack, stay as they are.

        Args:
            model: The network.
            but: Modules of it, by name, that keep what they have; of these the file may hold anything, or nothing.

        Raises:
            CheckpointError: If names or shapes are not the network's, or a weight is NaN or infinite.
        """
        own = _without(but, model.state_dict())
        tensors = _without(but, _without_prefix(self.tensors, own))
        counts = {name: one for name, one in own.items() if name.endswith("num_batches_tracked")}
        found = {**counts, **tensors}
        problems = [
            *_listed("missing", [name for name in own if name not in found]),
            *_listed("unknown to the network", [name for name in found if name not in own]),
            *_listed("of another shape", _misfits(found, own)),
        ]
        if problems:
            raise CheckpointError(
                f"{self.path}: not the weights of this network ({'; '.join(problems)}); set the network as it was when "
                "they were trained (--hidden-size, --network.*, --features.*, data of as many classes; --dry-run shows "
                f"it), or take others{'' if but else _CLASSES_DIFFER}"
            )
        as_own = {name: one.to(own[name].dtype) for name, one in found.items()}  # where 1e300 is infinite
        if bad := next((name for name, one in as_own.items() if not bool(one.isfinite().all())), None):
            raise CheckpointError(f"{self.path}: {bad!r} holds NaN or infinity; take weights from before")
        model.load_state_dict(as_own, strict=not but)


def _from_safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        tensors = load_safetensors(content)
        with safe_open(path, framework="pt") as file:
            is_ours = {"checksum", "state"} <= (file.metadata() or {}).keys()  # others note a checksum, too
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}); copy it again") from error
    if any(name.startswith("model/") for name in tensors):
        raise CheckpointError(
            f"{path}: what a run of seqdsd goes on from, which is more than weights; name the run's folder, or the "
            "weights of a phase, such as checkpoints/dense-iter-0.safetensors"
        )
    return load_checkpoint(path).tensors if is_ours else tensors  # which knows of tied tensors


def _from_torch(path: Path, content: bytes) -> Any:
    """What ``torch.save`` wrote, if nothing of it has to be run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickles
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: damaged, or it holds more than tensors: Python objects, which would have to be run. Where "
            "you trust the file, save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # whatever the bytes make of it
        said = str(error).strip().splitlines()
        raise CheckpointError(
            f"{path}: damaged or truncated, or no state_dict ({said[0] if said else type(error).__name__}); copy it "
            "again, or save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error


def _tensors_in(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The dict of tensors, at the top or below one of the usual names, beside which a tensor may be a score."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[name] for name in _NESTED if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    tensors = (
        {str(name): one for name, one in loaded.items() if isinstance(one, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors:
        found = (
            f"a dict of {', '.join(map(repr, list(loaded)[:_NAMED]))}"
            if isinstance(loaded, Mapping) and loaded
            else f"a {type(loaded).__name__}"
        )
        raise CheckpointError(
            f"{path}: no state_dict in it, but {found}; save the weights: torch.save(model.state_dict(), FILE)"
        )
    if odd := next((name for name, one in tensors.items() if not _is_plain(one)), None):
        raise CheckpointError(f"{path}: {odd!r} is sparse, nested, or has no numbers (meta); save it dense")
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_meta)


def _without_prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names that they have without what wrappers put before them."""
    named = dict(tensors)
    while named and not named.keys() & own.keys():
        start = next(iter(named)).partition(".")[0] + "."
        if not all(name.startswith(start) for name in named):
            break
        named = {name.removeprefix(start): one for name, one in named.items()}
    return named


def _without(modules: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is not these modules'."""
    prefixes = tuple(f"{name}." for name in modules)
    return {name: one for name, one in tensors.items() if not name.startswith(prefixes)}


def _misfits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {_said(found[name])}, the network's {_said(one)}"
        for name, one in own.items()
        if name in found
        and (found[name].shape, found[name].is_floating_point()) != (one.shape, one.is_floating_point())
    ]


def _said(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _listed(what: str, names: list[str]) -> list[str]:
    """The first names of those that have a problem; nothing where none has."""
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{what}: {', '.join(names[:_NAMED])}{more}"]
