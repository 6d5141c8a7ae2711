"""The arms of a fair comparison (Han et al. 2017, Tables 2, 4, 7 and 10), as runs that share their first phases.

Every arm of a seed starts from the same weights. LLR and DSD share Dense Iter 0 itself, and DSDSD goes on from DSD: a
phase is trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seqdsd.recipes.catalog import Recipe
from seqdsd.recipes.training import RunConfig
from seqdsd.studies.jobs import Job
from seqdsd.studies.study import run_job

ARMS = ("baseline", "llr", "dsd", "dsdsd")


@dataclass(frozen=True)
class Arm:
    """One kind of run of a comparison."""

    name: str
    """Of its folder below the seed's."""
    method: Literal["dsd", "llr", "baseline"]
    iters: int
    takes_over: str | None = None
    """The arm whose phases it begins with."""
    anneal: float | None = None
    """Where it differs from the settings': the learning rate is divided by this after every epoch."""

    def flags(self) -> list[str]:
        """What makes a run of the recipe this arm's."""
        flags = ["--method", self.method, "--iters", str(self.iters)]
        return flags if self.anneal is None else [*flags, "--optimizer.anneal", str(self.anneal)]

    def config(self, common: RunConfig) -> RunConfig:
        """The settings of a run of the recipe with these flags."""
        config = replace(common, method=self.method, iters=self.iters)
        return config if self.anneal is None else _with_anneal(config, self.anneal)


def make_arms(common: RunConfig, wanted: Sequence[str], *, baseline_anneal: float | None) -> list[Arm]:
    """The arms asked for, and the shared first phases where one of them begins with these; in the order of their needs.

    The baseline is as long as the longest arm, ``common.iters`` rounds; with one round DSDSD is DSD.

    Args:
        common: The recipe's settings.
        wanted: Names out of ``ARMS``.
        baseline_anneal: What the baseline's learning rate is divided by after every epoch; by default as
            ``own_annealing`` says.

    Raises:
        ValueError: If an arm is unknown, there is no round, or the annealing is out of range.
    """
    if unknown := [name for name in wanted if name not in ARMS]:
        raise ValueError(f"--arms: there is no arm {', '.join(unknown)}; choose of {', '.join(ARMS)}")
    if common.iters < 1:
        raise ValueError(f"a comparison needs at least one round (--iters 1), got {common.iters}")
    anneal = own_annealing(common) if baseline_anneal is None else baseline_anneal
    try:
        _with_anneal(common, anneal)
    except ValueError as error:
        raise ValueError(f"--baseline-anneal: {error}") from error
    shared = None if common.start_weights else "dense"  # given weights need no training
    every = [
        Arm("dense", "dsd", 0),
        Arm("dsd", "dsd", 1, takes_over=shared),
        Arm("dsdsd", "dsd", common.iters, takes_over="dsd"),
        Arm("llr", "llr", common.iters, takes_over=shared),
        Arm("baseline", "baseline", common.iters, anneal=anneal),
    ]
    chosen = {*wanted} | ({"dsd"} if "dsdsd" in wanted else set())
    if common.iters == 1:
        chosen -= {"dsdsd"}
    if shared and chosen & {"dsd", "llr"}:
        chosen.add(shared)
    return [arm for arm in every if arm.name in chosen]


def own_annealing(common: RunConfig) -> float:
    """The factor by which one dense phase falls from the ladder's first rate to its last over all epochs.

    1 where the rates follow a cosine: the baseline's one cycle, over all its epochs, falls by itself.
    """
    if follows_cosine(common):
        return 1.0
    schedule = replace(common, method="dsd").schedule
    first, last = next(phase for phase in schedule if not phase.is_given), schedule.phases[-1]
    end = last.learning_rate / _optimizer(common).anneal ** (last.epochs - 1)
    factor = (first.learning_rate / end) ** (1 / (schedule.total_epochs - 1))
    return max(1.0, float(f"{factor:.6g}"))  # as one may type it


def follows_cosine(common: RunConfig) -> bool:
    """Whether the learning rate falls along a cosine within each phase."""
    return bool(_optimizer(common).curve == "cosine")


def new_epochs(arm: Arm, arms: Iterable[Arm], common: RunConfig) -> int:
    """Epochs that the arm trains itself."""
    parent = next((one for one in arms if one.name == arm.takes_over), None)
    shared = parent.config(common).schedule.total_epochs if parent else 0
    return arm.config(common).schedule.total_epochs - shared


def make_jobs(
    arms: Sequence[Arm], seeds: Sequence[int], *, recipe: Recipe, settings: Path, out: Path, common: RunConfig
) -> list[Job]:
    """A job an arm and seed; seed by seed, so that the first comparison is complete as early as possible.

    Args:
        arms: In the order of their needs.
        seeds: Each gets a folder.
        recipe: Of all runs.
        settings: File with ``common``, from which the runs are started.
        out: Folder of the comparison.
        common: What the runs have in common.

    Raises:
        RunFolderError: If a folder holds another run than the arm's, or one whose records are damaged.
    """
    jobs = []
    for seed in seeds:
        for arm in arms:
            jobs.append(
                run_job(
                    recipe,
                    replace(arm.config(common), seed=seed),
                    out=out,
                    name=f"seed-{seed}/{arm.name}",
                    settings=settings,
                    flags=arm.flags(),
                    takes_over=f"seed-{seed}/{arm.takes_over}" if arm.takes_over else None,
                    shared_epochs=arm.config(common).schedule.total_epochs - new_epochs(arm, arms, common),
                )
            )
    return jobs


def _optimizer(config: RunConfig) -> Any:
    return config.optimizer  # type: ignore[attr-defined]  # every recipe's settings have one


def _with_anneal(config: Any, anneal: float) -> Any:
    return replace(config, optimizer=replace(_optimizer(config), anneal=anneal))
