"""The command line of studies: their own options, and after ``--`` settings of the recipe."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from seqdsd.engine import make_fabric, precision_of
from seqdsd.recipes.catalog import Recipe, find_recipe
from seqdsd.recipes.training import RunConfig, with_noted_precision

Values = tuple[float, ...]

RESERVED = ("--config", "--resume", "--start-from", "--dry-run", "--out", "--seed", "--method", "--iters")
"""Flags of a recipe that commands over many of its runs decide themselves."""


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut at ``--``: before it stands what is the command's, after it what is the recipe's."""
    arguments = list(argv)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The command's own options; a flag of the recipe among them is told its place.

    Raises:
        SystemExit: After ``--help`` or a wrong flag.
    """
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)} (settings of the recipe stand after --)")
    if options.slurm and options.submit != "slurm":
        parser.error("--slurm goes with --submit slurm")
    return options


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which recipe is meant."""
    parser.add_argument(
        "recipe_file",
        metavar="RECIPE",
        help="settings file named after its recipe (recipes/an4/ds1.toml), or a recipe alone (ds1)",
    )
    parser.add_argument("--recipe", help="the file's recipe, where its name does not tell")


def add_training_options(parser: argparse.ArgumentParser, *, dry_run: str) -> None:
    """Add what says where and how runs are trained; ``dry_run`` is the help of that flag."""
    add = parser.add_argument
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time, each with its share of the cores; by default one a GPU, or one a core (or fewer, where a "
        "run has several processes)",
    )
    add(
        "--processes-per-run",
        type=int,
        default=1,
        metavar="N",
        help="processes that train a run together, by torchrun, each on a GPU of its own or on a share of the cores; "
        "default: 1",
    )
    add("--dry-run", action="store_true", help=dry_run)
    add(
        "--submit",
        choices=("print", "slurm"),
        help="print one command a run, or submit them to Slurm (pip install 'seqdsd[slurm]')",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of submitit's Slurm executor, such as time=240 (minutes) or partition=gpu",
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` as numbers.

    Raises:
        argparse.ArgumentTypeError: If one is no whole number from 0 on, or comes twice.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between them, got {text!r}")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed comes twice in {text!r}")
    return seeds


def parse_values(text: str) -> Values:
    """``0.5,0.25`` as numbers.

    Raises:
        argparse.ArgumentTypeError: If one is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}") from None


def texts(values: Values) -> list[str]:
    """Numbers as one would type them."""
    return [f"{value:g}" if float(f"{value:g}") == value else str(value) for value in values]


def read_settings(
    options: argparse.Namespace,
    settings: Sequence[str],
    *,
    prog: str,
    settings_name: str,
    reserved: Sequence[str],
    console: Console,
) -> tuple[Recipe, RunConfig, Mapping[str, Any], Path]:
    """The recipe that is asked for, its settings, what of them was chosen for the corpus, and the study's folder.

    Args:
        options: The command's own; of these ``recipe_file``, ``recipe``, ``out`` and ``iters``.
        settings: Flags of the recipe.
        prog: The command.
        settings_name: File in the folder with what the runs begun before have in common.
        reserved: Flags that may not be among ``settings``.
        console: Where it is said what was chosen for the corpus, and why.

    Raises:
        ValueError: See ``find_recipe`` and ``Recipe.settings``.
    """
    recipe, file = find_recipe(options.recipe_file, options.recipe)
    out = options.out or Path("runs") / f"{prog.split()[-1]}-{file.stem if file else recipe.name}"
    common, chosen = recipe.settings(
        file,
        settings,
        prog=prog,
        reserved=reserved,
        iters=options.iters,
        common=out / settings_name,
        console=console,
    )
    common = with_noted_precision(common, [out / settings_name])
    if common.precision == "auto" and options.submit:
        console.print(
            "precision 32-true: what is faster where the runs go is not known; name it by -- --precision"
        )
        common = replace(common, precision="32-true")
    return recipe, _with_known_precision(common), chosen, out


def _with_known_precision(common: RunConfig) -> RunConfig:
    """One for all runs, which are compared with each other: measured here, where they run."""
    if common.precision != "auto":
        return common
    return replace(common, precision=precision_of(make_fabric(common.device, common.precision)))
