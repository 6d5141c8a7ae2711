"""Weights that a run begins with: which file they are in, and whose network they are of.

``--start-weights`` stand for the first dense phase; with a classifier's ``--weights`` it trains, and with a last
layer of the run's own. Reading a file, and whether it fits, is ``engine/given_weights.py``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from seqdsd.config import differences, read_config, read_provenance
from seqdsd.engine import GivenWeights, has_checkpoint
from seqdsd.records import RunFolder, RunFolderError, checked_provenance
from seqdsd.reports.phase_table import best_phase

if TYPE_CHECKING:
    from seqdsd.recipes.training import RunConfig

log = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT")
NOTED = "start_weights"
"""Of a run's provenance: the file that was read, and its digest."""


def given_weights(config: RunConfig, folder: RunFolder, start_from: RunFolder | None) -> GivenWeights | None:
    """The weights that a run begins with, downloaded if need be; None where it begins without, or has begun.

    A run that has a checkpoint, or takes phases over, has no need of the file.

    Raises:
        ValueError: If the file cannot be had or used, or is another than the run was begun with.
    """
    if config.initial_weights is None or start_from is not None or has_checkpoint(folder.checkpoints):
        return None
    given = GivenWeights.read(weights_file(config))
    begun_with = _provenance(folder).get(NOTED) if folder.config.is_file() else None
    if begun_with and begun_with["sha256"] != given.sha256:
        raise RunFolderError(
            f"{given.path}: not the file that the run in {folder.path} was begun with (sha256 {given.sha256[:12]}…, "
            f"then {begun_with['sha256'][:12]}…); bring that one back, or take another --out"
        )
    return given


def begin_with(given: GivenWeights, model: nn.Module, config: RunConfig) -> None:
    """Give a network the weights that its run begins with, and say so.

    Raises:
        ValueError: If they do not fit.
    """
    given.give_to(model, but=config.fresh_layers)
    if config.fresh_layers:
        log.info(
            "training begins with %s, and with fresh weights in %s",
            given.path,
            ", ".join(config.fresh_layers),
        )
    else:
        log.info("the first phase is given: %s", given.path)


def described(config: RunConfig, model: nn.Module) -> str:
    """For a plan: which weights a run would begin with, that they fit, or that they are still to be brought.

    Raises:
        ValueError: If they are there and cannot be used, or do not fit.
    """
    path = weights_file(config, download=False)
    fresh = f"; fresh: {', '.join(config.fresh_layers)}" if config.fresh_layers else ""
    if not path.exists():
        is_known = config.weights_by_name(str(config.initial_weights), download=False) is not None
        remedy = "the run downloads them" if is_known else "the plan needs none, but a run that begins does"
        return f"Start weights {config.initial_weights}: not at {path}; {remedy}{fresh}"
    given = GivenWeights.read(path)
    given.give_to(model, but=config.fresh_layers)
    return f"Start weights {given.path} (sha256 {given.sha256[:12]}…): they fit the network{fresh}"


def noted(given: GivenWeights | None, start_from: RunFolder | None) -> Mapping[str, Any]:
    """For ``[provenance]`` of a run that begins with given weights, or with the phases of a run that did."""
    if given is not None:
        return {NOTED: {"file": str(given.path), "sha256": given.sha256}}
    before = _provenance(start_from).get(NOTED) if start_from else None
    return {NOTED: before} if before else {}


def weights_file(config: RunConfig, *, download: bool = True) -> Path:
    """The file itself; of a run's folder the weights of its best phase on dev; or those of a name that is known.

    Without ``download`` the file of a name may not be there yet.

    Raises:
        ValueError: If the run has no finished phase, or what is known by name cannot be had.
    """
    path = config.initial_weights
    assert path is not None  # who asks has seen that there are some
    if known := config.weights_by_name(str(path), download=download):
        return known
    run = RunFolder(path)
    return run.weights(best_phase(run.read_phases())["name"]) if run.config.is_file() else path


def given_run(config: RunConfig, recipe: str, *, part: str) -> RunFolder | None:
    """The run whose weights stand for the first phase, if they are of one: what its network spells with goes on.

    Args:
        config: Of the run that begins.
        recipe: Its name.
        part: The settings that decide what the network spells with, in which both must agree.

    Raises:
        ValueError: If it is another recipe's, or has other settings there.
    """
    run = None if config.start_weights is None else _run_of(config.start_weights, recipe)
    if run is None:
        return None
    theirs = read_config(run.config, type(config)())  # type: ignore[call-arg]  # of a recipe's own class
    if changed := differences(getattr(theirs, part), getattr(config, part)):
        raise RunFolderError(
            f"{run.path}: the network of the given weights has other settings of {part} ({'; '.join(changed)}); give "
            "this run the same"
        )
    return run


def with_network_of(config: ConfigT, path: Path, recipe: str | None) -> ConfigT:
    """``config`` with the network of the run that the given weights are of, if they are of one.

    Raises:
        ValueError: If it is another recipe's, or its settings cannot be read.
    """
    if (run := _run_of(path, recipe)) is None:
        return config
    theirs = read_config(run.config, type(config)())
    names = config.NETWORK_SETTINGS  # type: ignore[attr-defined]  # every recipe's settings have them
    log.info("the network is as in %s, whose weights are given", run.path)
    return replace(config, **{name: getattr(theirs, name) for name in names})  # type: ignore[type-var]


def run_of_weights(path: Path) -> RunFolder:
    """The run that is named by its folder or by one of its checkpoints."""
    is_checkpoint = path.suffix == ".safetensors" and not path.is_dir()
    return RunFolder(path.parent.parent if is_checkpoint else path)


def _run_of(path: Path, recipe: str | None) -> RunFolder | None:
    """The run whose folder is named, or one of its checkpoints.

    Raises:
        ValueError: If it is another recipe's.
    """
    run = run_of_weights(path)
    if not run.config.is_file() or not (path.is_dir() or path.parent == run.checkpoints):
        return None
    its_recipe = _provenance(run).get("recipe")
    if recipe is not None and its_recipe != recipe:
        raise RunFolderError(f"{run.path}: the weights of {its_recipe!r}, with which {recipe!r} cannot begin")
    return run


def _provenance(folder: RunFolder) -> dict[str, Any]:
    return checked_provenance(read_provenance(folder.config), folder.config)
