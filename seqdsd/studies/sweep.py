"""``seqdsd sweep``: choose what the paper tuned on its validation set, sparsity and learning rates; never on test."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from seqdsd.config import read_values
from seqdsd.recipes.catalog import Recipe
from seqdsd.recipes.command import run_command
from seqdsd.recipes.training import RunConfig
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.sparsity import Schedule
from seqdsd.studies.command_line import (
    RESERVED,
    Values,
    add_recipe_options,
    add_training_options,
    parse_options,
    parse_seeds,
    parse_values,
    read_settings,
    split_arguments,
    texts,
)
from seqdsd.studies.jobs import Job
from seqdsd.studies.study import carry_out, run_job

PROG = "seqdsd sweep"
SETTINGS = "sweep.toml"
_DESCRIPTION = """\
Choose sparsity and learning rates, as the paper did, on the dev set: every sparsity is trained with every ladder of
learning rates, and each ladder once with nothing pruned (llr), so that one sees what pruning does. The dense phase is
trained once for all that have it in common. The runs never look at a test set, and a run that did is refused. What is
finished is never trained again, and more points or seeds may be asked for later. The same command goes on, with the
settings that were chosen for the corpus at first.
"""
_EPILOG = """\
examples:
  seqdsd sweep recipes/an4/ds1.toml --sparsities 0.25 0.5 0.8
  seqdsd sweep recipes/an4/ds1.toml --iters 2 --sparsities 0.5,0.25 0.8,0.4 \\
      --learning-rates 2e-3,1e-3,5e-4 2e-3,4e-4,8e-5
  seqdsd sweep ds1.toml --sparsities 0.5 --seeds 0,1 -- --epochs 20   settings of the recipe, after --
"""


@dataclass(frozen=True)
class Point:
    """One choice: what is pruned, and at which rates the phases begin."""

    sparsities: Values
    """One a round; none stands for nothing pruned."""
    learning_rates: Values

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{'-'.join(texts(self.sparsities)) or 'llr'}_{'-'.join(texts(self.learning_rates))}"

    def flags(self) -> list[str]:
        """What makes a run of the recipe this point's."""
        flags = ["--learning-rates", *texts(self.learning_rates)]
        if self.sparsities:
            return ["--method", "dsd", "--sparsities", *texts(self.sparsities), *flags]
        return ["--method", "llr", *flags]

    def config(self, common: RunConfig) -> RunConfig:
        """The settings of a run of the recipe with these flags."""
        config = replace(common, learning_rates=self.learning_rates)
        if self.sparsities:
            return replace(config, sparsities=self.sparsities, method="dsd")
        return replace(config, method="llr")

    def dense(self) -> DensePhase:
        """What it begins with."""
        return DensePhase(self.learning_rates[0])


@dataclass(frozen=True)
class DensePhase:
    """The first phase, which all points with its rate share."""

    learning_rate: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"dense_{self.learning_rate}"

    def flags(self) -> list[str]:
        """What makes a run of the recipe this phase alone."""
        return ["--method", "dsd", "--iters", "0", "--learning-rates", str(self.learning_rate)]

    def config(self, common: RunConfig) -> RunConfig:
        """The settings of a run of the recipe with these flags."""
        return replace(common, method="dsd", iters=0, learning_rates=(self.learning_rate,))


@dataclass(frozen=True)
class SweepPlan:
    """What is asked, resolved."""

    recipe: Recipe
    common: RunConfig
    """What all runs have in common; they do not score test sets. Its learning rates are the recipe's, and each run has
    its own."""
    chosen: Mapping[str, Any]
    """What of it was chosen for the corpus, by which measure."""
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    out: Path

    @property
    def settings(self) -> Path:
        """The file of what all runs have in common."""
        return self.out / SETTINGS

    def folder(self, seed: int, point: Point | DensePhase) -> RunFolder:
        """Of a run."""
        return RunFolder(self.out / f"seed-{seed}" / point.name)

    def jobs(self) -> list[Job]:
        """The shared dense phases, and a run a point; seed by seed.

        Raises:
            RunFolderError: If the folder holds other runs than these, or damaged ones, or one that scored a test set.
        """
        for config in self.out.glob("seed-*/*/config.toml"):
            refuse_test_scores(RunFolder(config.parent))
        self.recipe.check_common(self.settings, self.common, of_each=["learning_rates"])
        is_given = self.common.start_weights is not None  # then there is nothing to share
        dense = {} if is_given else dict.fromkeys(point.dense() for point in self.points)
        runs: list[Point | DensePhase] = [*dense, *self.points]
        return [self._job(seed, run) for seed in self.seeds for run in runs]

    def _job(self, seed: int, point: Point | DensePhase) -> Job:
        parent, shared_epochs = None, 0
        config = replace(point.config(self.common), seed=seed)
        if isinstance(point, Point) and self.common.start_weights is None:
            parent, shared_epochs = point.dense(), config.schedule.phases[0].epochs
        return run_job(
            self.recipe,
            config,
            out=self.out,
            name=f"seed-{seed}/{point.name}",
            settings=self.settings,
            flags=point.flags(),
            takes_over=f"seed-{seed}/{parent.name}" if parent else None,
            shared_epochs=shared_epochs,
        )

    def write_settings(self) -> None:
        """See ``Study``."""
        self.recipe.write_common(self.settings, self.common, self.chosen)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd sweep``."""
    run_command(lambda: sweep(argv, Console()))


def sweep(argv: Sequence[str], console: Console) -> None:
    """Parse the command line, train what is not trained yet, and print every point's dev score.

    Raises:
        ValueError: For settings or folders that cannot be used.
        JobsFailed: If a run failed.
        StopRequested: After Ctrl-C.
    """
    asked, settings = split_arguments(argv)
    options = parse_options(_parser(), asked)
    plan = _resolve(options, settings, console)
    if options.dry_run:
        jobs = plan.jobs()
        for job in jobs:
            console.print(f"{job.name}: {job.epochs_left} epochs", highlight=False)
        console.print(f"{len(jobs)} runs, {sum(job.epochs_left for job in jobs)} epochs", highlight=False)
        return
    if carry_out(plan, options, console):
        show_scores(plan, console)


def refuse_test_scores(folder: RunFolder) -> None:
    """Refuse a run that has looked at a test set.

    Raises:
        RunFolderError: Naming it.
    """
    if read_values(folder.config).get("score_test", True):
        raise RunFolderError(
            f"{folder.path}: this run scored the test sets; settings are chosen on dev alone, so take another --out"
        )


def show_scores(plan: SweepPlan, console: Console) -> None:
    """Print the points from the best dev score to the worst, and the best one's settings."""
    last = {
        point: [plan.folder(seed, point).read_phases()[-1] for seed in plan.seeds] for point in plan.points
    }
    metric = plan.recipe.kind.primary
    scores = {point: [record["dev"][metric.key] for record in records] for point, records in last.items()}
    ranked = sorted(plan.points, key=lambda point: fmean(scores[point]), reverse=not metric.is_error)
    table = Table("sparsity", "learning rates", f"dev {metric.title}", *(f"seed {one}" for one in plan.seeds))
    for point in ranked:
        pruned = ", ".join(f"{one:g}" for one in point.sparsities) or "nothing (llr)"
        found = [metric.written(score) for score in (fmean(scores[point]), *scores[point])]
        table.add_row(pruned, ", ".join(texts(point.learning_rates)), *found)
    console.print(table)
    console.print(f"dev {metric.title}: of the last phase, mean over the seeds; no test set was looked at")
    best = next(point for point in ranked if point.sparsities)
    console.print(
        f"the best that prunes, for the settings file:\n{_toml(best)}", highlight=False, markup=False
    )
    if ranked[0] is not best:
        console.print("without pruning dev is better: DSD has not helped here")


def _toml(point: Point) -> str:
    return f"learning_rates = {list(point.learning_rates)}\nsparsities = {list(point.sparsities)}"


def _resolve(options: argparse.Namespace, settings: Sequence[str], console: Console) -> SweepPlan:
    recipe, common, chosen, out = read_settings(
        options,
        settings,
        prog=PROG,
        settings_name=SETTINGS,
        reserved=(*RESERVED, "--score-test", "--sparsities", "--learning-rates"),
        console=console,
    )
    if common.iters < 1:
        raise ValueError(f"a sweep needs at least one round (--iters 1), got {common.iters}")
    common = replace(common, seed=0, method="dsd", score_test=False, out=out)
    points = [
        Point(pruned, ladder)
        for ladder in options.learning_rates or [common.learning_rates]
        for pruned in (*options.sparsities, ())
    ]
    common = replace(common, sparsities=recipe.config_class().sparsities)  # llr runs have none of their own
    # Values beyond the last round or phase are not used: points that differ in them alone are one.
    unique: dict[Schedule, Point] = {}
    for point in points:
        unique.setdefault(point.config(common).schedule, point)
    return SweepPlan(recipe, common, chosen, tuple(unique.values()), options.seeds, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} RECIPE --sparsities S[,S…] [S[,S…] …] [OPTIONS] [-- SETTINGS]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_recipe_options(parser)
    add(
        "--sparsities",
        type=parse_values,
        nargs="+",
        required=True,
        metavar="S[,S…]",
        help="each: one a round, commas between; further rounds halve the last",
    )
    add(
        "--learning-rates",
        type=parse_values,
        nargs="+",
        metavar="R[,R…]",
        help="each: one a phase, commas between; by default the recipe's",
    )
    add("--iters", type=int, metavar="N", help="rounds; by default the recipe's")
    add("--seeds", type=parse_seeds, default=(0,), metavar="0,1,…", help="default: 0")
    add("--out", type=Path, help="folder of the sweep; by default runs/sweep-NAME")
    add_training_options(parser, dry_run="print the runs and their epochs")
    return parser
