"""``seqdsd compare``: does DSD pay? A recipe trained in all arms of a fair comparison, over several seeds."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seqdsd.recipes.catalog import Recipe
from seqdsd.recipes.command import run_command
from seqdsd.recipes.training import RunConfig
from seqdsd.records import RunFolderError
from seqdsd.records.asked_seeds import AskedSeeds, newly_asked, note_asked_seeds
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import headline
from seqdsd.reports.comparison.power import outlook, seeds_with_results
from seqdsd.reports.comparison.tables import added_in_words, contrast_grid, table_10
from seqdsd.reports.runs.reading import read_runs
from seqdsd.studies.arms import ARMS, Arm, follows_cosine, make_arms, make_jobs, new_epochs
from seqdsd.studies.command_line import (
    RESERVED,
    add_recipe_options,
    add_training_options,
    parse_options,
    parse_seeds,
    read_settings,
    split_arguments,
)
from seqdsd.studies.jobs import Job
from seqdsd.studies.study import carry_out, estimate

PROG = "seqdsd compare"
SETTINGS = "comparison.toml"
_DESCRIPTION = """\
Does DSD pay on your data? Train, for each seed, the arms of a fair comparison:

  baseline  one dense phase of as many epochs, with its own annealing of the learning rate (or one cosine over all)
  llr       the same phases and learning rates, nothing pruned
  dsd       one round: dense, sparse, redense
  dsdsd     all rounds (--iters)

All arms of a seed start from the same weights; llr and dsd share the very same Dense Iter 0, dsdsd goes on from dsd:
each phase is trained once. Stop it when you like: the same command goes on, with the settings that were chosen for the
corpus at first, and what is finished is never trained again. More seeds or arms may be asked for later; but seeds
that are added after a look at a result make p-values too small, so reports multiply these by the number of looks.
"""
_EPILOG = """\
examples:
  seqdsd compare recipes/an4/ds1.toml --dry-run
  seqdsd compare recipes/an4/ds1.toml --seeds 0,1,2,3,4 --iters 2 --jobs 2
  seqdsd compare neuraltalk --seeds 0,1,2                    the embedded corpus
  seqdsd compare ds1.toml -- --epochs 20 --hidden-size 512   settings of the recipe, after --
  seqdsd compare ds1.toml --submit print > runs.sh           a command a run, for other machines
  seqdsd compare ds1.toml --submit slurm --slurm time=240 --slurm partition=gpu --slurm gpus_per_node=1

how many seeds? --dry-run says what they will find, and seqdsd power how many an improvement needs
then: seqdsd report runs/compare-ds1
"""


@dataclass(frozen=True)
class ComparisonPlan:
    """What is asked, resolved."""

    recipe: Recipe
    common: RunConfig
    """What all runs have in common; of seed, method and folder each has its own."""
    chosen: Mapping[str, Any]
    """What of it was chosen for the corpus, by which measure."""
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    out: Path

    @property
    def settings(self) -> Path:
        """The file of what all runs have in common."""
        return self.out / SETTINGS

    def jobs(self) -> list[Job]:
        """See ``Study``: a run an arm and seed."""
        self.recipe.check_common(self.settings, self.common)
        return make_jobs(
            self.arms,
            self.seeds,
            recipe=self.recipe,
            settings=self.settings,
            out=self.out,
            common=self.common,
        )

    def write_settings(self) -> None:
        """See ``Study``."""
        self.recipe.write_common(self.settings, self.common, self.chosen)
        _note_seeds(self)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd compare``."""
    run_command(lambda: compare(argv, Console()))


def compare(argv: Sequence[str], console: Console) -> None:
    """Parse the command line and do as it says.

    Raises:
        ValueError: For settings or folders that cannot be used.
        JobsFailed: If a run failed.
        StopRequested: After Ctrl-C.
    """
    asked, settings = split_arguments(argv)
    options = parse_options(_parser(), asked)
    plan = _resolve(options, settings, console)
    if options.dry_run:
        describe(plan, options, console)
    elif carry_out(plan, options, console):
        show_result(plan.out, console)


def describe(plan: ComparisonPlan, options: argparse.Namespace, console: Console) -> None:
    """Print the arms with their epochs, and how long it will take."""
    plan.jobs()  # raises for a folder of others
    console.print(_arms_table(plan))
    if plan.common.patience:
        console.print(
            f"A phase ends early after {plan.common.patience} epochs without a better dev score (patience); the "
            "baseline trains all of its epochs."
        )
    trained = _trained(plan.out)
    new = _asked(plan, trained)
    console.print(outlook(trained, plan.seeds, new=new), highlight=False, markup=False)
    if new and (warning := added_in_words(new)):
        console.print(warning, style="yellow", highlight=False, markup=False)
    estimate(plan, options, console)


def _note_seeds(plan: ComparisonPlan) -> None:
    """Keep which seeds are asked for, and say it where they are added after a look at a result."""
    if asked := _asked(plan, _trained(plan.out)):
        note_asked_seeds(plan.out, asked)
        if warning := added_in_words(asked):
            Console(stderr=True).print(warning, style="yellow", highlight=False, markup=False)


def _asked(plan: ComparisonPlan, trained: Sequence[Comparison]) -> AskedSeeds | None:
    return newly_asked(plan.out, plan.seeds, with_results=seeds_with_results(trained))


def _trained(out: Path) -> tuple[Comparison, ...]:
    """What the folder holds already."""
    try:
        return compare_runs(read_runs([out]).runs)
    except RunFolderError:  # no runs yet
        return ()


def show_result(out: Path, console: Console) -> None:
    """Print the comparisons that the folder holds: every phase, every contrast with its test, and what it comes to.

    Raises:
        RunFolderError: If there is no run.
    """
    run_set = read_runs([out])
    for refusal in run_set.refused:
        console.print(f"not counted: {refusal.message}", style="yellow", markup=False, soft_wrap=True)
    for one in compare_runs(run_set.runs):
        _show_tables(one, console)
        console.print(f"\n{headline(one)}", highlight=False, markup=False)
        if one.arm("LLR"):
            console.print(headline(one, against="LLR"), highlight=False, markup=False)
    report = shlex.join(["seqdsd", "report", str(out)])
    console.print(f"\nAll of it, as a page: {report}", highlight=False, markup=False, soft_wrap=True)


def _arms_table(plan: ComparisonPlan) -> Table:
    table = Table("arm", "phases", "epochs", "of them new", "learning rates", title=plan.recipe.name)
    for arm in plan.arms:
        schedule = arm.config(plan.common).schedule
        rates = ", ".join(f"{phase.learning_rate:g}" for phase in schedule)
        if follows_cosine(plan.common):
            rates += ", one cycle in all" if len(schedule) == 1 else ", a cycle each"
        if arm.anneal is not None and not (follows_cosine(plan.common) and arm.anneal == 1):
            rates += f", divided by {arm.anneal:g} after every epoch"
        new = new_epochs(arm, plan.arms, plan.common)
        table.add_row(arm.name, str(len(schedule)), str(schedule.total_epochs), str(new), rates)
    return table


def _show_tables(comparison: Comparison, console: Console) -> None:
    family, has_tests = comparison.kind.families[0], len(comparison.seeds) > 1
    for split in comparison.scored_splits:
        for make in (table_10, contrast_grid) if has_tests else (table_10,):
            console.print(make(comparison, split=split, family=family).to_terminal())


def _resolve(options: argparse.Namespace, settings: Sequence[str], console: Console) -> ComparisonPlan:
    recipe, common, chosen, out = read_settings(
        options, settings, prog=PROG, settings_name=SETTINGS, reserved=RESERVED, console=console
    )
    arms = make_arms(common, options.arms, baseline_anneal=options.baseline_anneal)
    common = replace(common, seed=0, method="dsd", out=out)
    return ComparisonPlan(recipe, common, chosen, tuple(arms), options.seeds, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} RECIPE [OPTIONS] [-- SETTINGS]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_recipe_options(parser)
    add(
        "--seeds",
        type=parse_seeds,
        default=parse_seeds("0,1,2,3,4"),
        metavar="0,1,…",
        help="default: 0,1,2,3,4",
    )
    add("--iters", type=int, metavar="N", help="rounds of dsdsd; by default the recipe's")
    add(
        "--arms",
        type=lambda text: text.split(","),
        default=ARMS,
        metavar="A,B",
        help=f"of {','.join(ARMS)}; default: all. Baseline and llr are as long as dsdsd, asked for or not: to set dsd "
        "beside its equals, take --iters 1",
    )
    add("--out", type=Path, help="folder of the comparison; by default runs/compare-NAME")
    add(
        "--baseline-anneal",
        type=float,
        metavar="X",
        help="the baseline's learning rate is divided by X after every epoch (1: stays); by default it falls to the "
        "last phase's, or, where optimizer.curve is cosine, along one cosine over all epochs",
    )
    add_training_options(
        parser,
        dry_run="print arms, epochs, an estimate of the time from one measured epoch, and what the seeds will be able "
        "to find by the scatter of those that are trained",
    )
    return parser
