"""What ``seqdsd evaluate`` has in common for all kinds of run: what is asked, and how scores are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress

from seqdsd.data import OnBadData
from seqdsd.engine import Evaluation
from seqdsd.printable import printable
from seqdsd.records import json_values, write_json_lines

PROG = "seqdsd evaluate"


@dataclass(frozen=True)
class Evaluate:
    """What to score, and with which weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), or a .dsdz file, or the name of one (seqdsd models)."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Data of the network's kind; by default those that the run was trained on. A file does not know where they are."""
    split: str = "test"
    """Which part of the data."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""
    on_bad_data: Annotated[OnBadData | None, tyro.conf.arg(metavar="error|skip")] = None
    """Stop at an item that cannot be used, or skip and count it; by default as the run did."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    hyps: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write each item here: one JSON object a line with its split, its id, what was right and what the network says."""
    json: bool = False
    """Print one JSON object instead of a table."""

    @property
    def search(self) -> dict[str, Any]:
        """How the network's outputs become text: what loading it takes, by its name there."""
        return {}


@dataclass(frozen=True)
class Scores:
    """What an evaluation found: the phase's record, one ``Evaluation`` a split, and what was left out and why."""

    phase: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]
    skipped: Mapping[str, str]

    @property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """The numbers of each split, as in ``phases.jsonl``."""
        return {split: one.metrics for split, one in self.evaluations.items()}


@dataclass(frozen=True)
class Scoring:
    """How runs of one kind are scored.

    Attributes:
        asked_class: What can be asked.
        description: For ``--help``.
        score: Scores what ``seqdsd.inference.trained`` has loaded; the console gets the progress bar.
        print_scores: Prints them, and the command that found them.
    """

    asked_class: type[Evaluate]
    description: str
    score: Callable[[Any, Any, Console], Scores]
    print_scores: Callable[[Scores, str, Console], None]


def progress_bar(console: Console) -> Progress:
    """A bar that leaves nothing behind; nothing at all where there is no terminal."""
    return Progress(
        *Progress.get_default_columns(), console=console, transient=True, disable=not console.is_terminal
    )


def write_hypotheses(path: Path, scores: Scores) -> None:
    """Write every item of every split, a JSON object a line."""
    rows = ({"split": split, **row} for split, one in scores.evaluations.items() for row in one.hypotheses)
    write_json_lines(path, rows)


def as_json(scores: Scores, command: str) -> str:
    """One JSON object: the phase, each split's metrics as in ``phases.jsonl``, what was skipped, the command.

    NaN and infinity, which JSON does not have, become null.
    """
    splits = {split: dict(one.metrics) for split, one in scores.evaluations.items()}
    found = {"phase": scores.phase["name"], **splits, "skipped": len(scores.skipped), "command": command}
    return json.dumps(json_values(found), ensure_ascii=False, allow_nan=False)


def print_remarks(scores: Scores, console: Console) -> None:
    """Print what calls for attention."""
    for split, one in scores.evaluations.items():
        for note in one.notes:
            console.print(
                printable(f"{split}: {note}"), style="yellow", highlight=False, markup=False, soft_wrap=True
            )
    if scores.skipped:
        console.print(f"{len(scores.skipped)} items skipped", style="yellow", highlight=False)


def print_facts(facts: Mapping[str, str], console: Console) -> None:
    """Print a fact a line, after its name."""
    width = 1 + max(map(len, facts))
    for name, fact in facts.items():
        console.print(f"{name:<{width}}{fact}", highlight=False, markup=False, soft_wrap=True)
