"""The command line of ``compare`` and ``sweep``: their own options, and after ``--`` settings of the recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

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
    return options


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
