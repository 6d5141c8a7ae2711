"""``seqdsd power``: how many seeds, parents or test items an improvement needs, and what those there can find."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from seqdsd.kinds import Metric
from seqdsd.metrics.significance import sd_of_parents
from seqdsd.metrics.significance.power import ALPHA, POWER
from seqdsd.printable import printable
from seqdsd.records import json_values
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.comparison.power import ItemScatter, Scatter, item_scatters, main_scatter, scatters
from seqdsd.reports.layout import Grid
from seqdsd.reports.retraining.power import scatters as scatters_of_parents
from seqdsd.reports.retraining.study import retraining_studies
from seqdsd.reports.runs.reading import read_runs

PROG = "seqdsd power"
_POINTS = Metric("points", "points", 1, 2, False, "")
"""Of numbers by hand: in and out in the same units, such as percentage points."""
_REPEATS = (1, 2, 4, 8, 16)
_BY_HAND = ("sd", "seeds", "sd_parents", "sd_repeats", "correlation", "repeats", "parents")
_EPILOG = """\
examples:
  seqdsd power runs/compare-ds1 --improvement 1.0       points: of a WER in percent, of BLEU from 0 to 100
  seqdsd power runs/compare-ds1 --relative 10           percent of the score before
  seqdsd power runs/retrain-lenet300 --relative 2       how many parents, and what more repeats of each save
  seqdsd power --sd 1.2 --seeds 5                       what five seeds find whose differences have an SD of 1.2 points
  seqdsd power --sd 1.2 --improvement 1.0               how many seeds one point needs
  seqdsd power --sd-parents 0.05 --sd-repeats 0.1 --repeats 4 --improvement 0.05
                                                        how many parents, retrained four times in each arm

Choose the number before you train. Who adds seeds until a test is significant finds too much; reports correct for it
(docs/comparing.md).
"""


@dataclass(frozen=True)
class _Asked:
    """What is to be found, and how surely."""

    improvement: float | None
    """Points."""
    relative: float | None
    """Percent."""
    alpha: float
    power: float
    tests: int | None

    def of(self, scatter: Scatter | ItemScatter) -> float | None:
        """The improvement in the score's units; None where there is none to find."""
        if self.improvement is not None:
            return self.improvement / scatter.metric.scale
        if self.relative is None or not scatter.before:
            return None
        return self.relative / 100 * scatter.before

    def num_tests(self, scatter: Scatter) -> int:
        """That a p-value is corrected for."""
        return self.tests or scatter.num_tests

    @property
    def how(self) -> dict[str, Any]:
        """How surely, as ``Scatter`` and ``ItemScatter`` take it."""
        return {"alpha": self.alpha, "power": self.power}


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd power``."""
    parser = _parser()
    options = parser.parse_args(argv)
    asked = _Asked(options.improvement, options.relative, options.alpha, options.power, options.tests)
    try:
        _check_together(options)
        found, items = _by_hand(options) if options.folder is None else _of_folder(options.folder)
        if options.json:
            print(json.dumps(json_values(_as_json(found, items, asked)), indent=2, allow_nan=False))
        else:
            _print(found, items, asked, Console())
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {printable(str(error))}\n")


def _check_together(options: argparse.Namespace) -> None:
    """See that no flag is given that would have no effect.

    Raises:
        ValueError: If one is; the message names it.
    """
    given = {name for name in _BY_HAND if getattr(options, name) is not None}
    if options.folder is not None:
        idle, why = given, "is of a scatter that is given by hand, and a folder has its own"
    elif "sd" in given:
        idle, why = given - {"sd", "seeds"}, "has no effect beside --sd"
    else:
        idle, why = given & {"seeds"}, "goes with --sd; parents are --parents"
    if idle:
        raise ValueError(f"--{min(idle).replace('_', '-')} {why}; leave it out")


def _by_hand(options: argparse.Namespace) -> tuple[list[Scatter], list[ItemScatter]]:
    """The scatter that the command line gives.

    Raises:
        ValueError: If it gives none, or too little.
    """
    if options.relative is not None:
        raise ValueError(
            "--relative is a share of a finished comparison's score: name its folder, or --improvement"
        )
    sd, unit, count = options.sd, "seeds", options.seeds
    if options.sd_parents is not None and options.sd_repeats is not None:
        sd, unit, count = _sd_of_parents(options), "parents", options.parents
    if sd is None:
        raise ValueError(
            "name the folder of a comparison; or a scatter: --sd, or --sd-parents with --sd-repeats"
        )
    if not sd > 0:
        raise ValueError(f"a scatter must be above 0, got {sd:g}")
    if count is None and options.improvement is None:
        raise ValueError(f"--improvement: what is to be found? Or --{unit}: with how many?")
    if count is not None and count < 2:
        raise ValueError(f"--{unit} must be 2 or more, since a test needs two, got {count}")
    return [Scatter("by hand", unit, count or 0, sd, None, _POINTS)], []


def _sd_of_parents(options: argparse.Namespace) -> float:
    return sd_of_parents(
        sd_between_parents=options.sd_parents,
        sd_between_repeats=options.sd_repeats,
        num_repeats=options.repeats or 1,
        correlation=options.correlation or 0.0,
    )


def _of_folder(folder: Path) -> tuple[list[Scatter], list[ItemScatter]]:
    """The scatter of what a folder holds.

    Raises:
        ValueError: If there are no runs, or they tell nothing.
    """
    studies, others = retraining_studies(read_runs([folder]).runs)
    comparisons = compare_runs(others)
    found = [one for study in studies for one in scatters_of_parents(study)]
    found += [one for comparison in comparisons for one in scatters(comparison)]
    items = [one for comparison in comparisons for one in item_scatters(comparison)]
    if not found and not items:
        raise ValueError(
            f"{folder}: no two seeds (or parents) of two arms are complete, nor hypotheses there to compare, "
            "so nothing is known of the scatter yet; train two seeds, or give it by --sd"
        )
    return found, items


def _print(found: Sequence[Scatter], items: Sequence[ItemScatter], asked: _Asked, console: Console) -> None:
    if found and found[0].before is not None:
        console.print(_scatter_grid(found, asked).to_terminal())
    if found and any(repeats := [_repeat_cells(one, asked) for one in found]):
        console.print(_repeat_grid([cells for cells in repeats if cells]).to_terminal())
    if items:
        console.print(_item_grid(items, asked).to_terminal())
    console.print(_sentence(found, items, asked), highlight=False, markup=False)


def _scatter_grid(found: Sequence[Scatter], asked: _Asked) -> Grid:
    """A row a contrast: what its seeds find, and how many the improvement needs."""
    unit = found[0].unit
    return Grid(
        name="power",
        header=("Contrast", unit.capitalize(), "SD", "They find", "To find", f"takes {unit}"),
        sections=(tuple(_scatter_cells(one, asked) for one in found),),
        caption=f"Points, at {100 * asked.power:g} % power with p below {asked.alpha:g} in the paired test; in "
        "brackets where p is corrected for all contrasts. SD: of the differences.",
    )


def _scatter_cells(one: Scatter, asked: _Asked) -> tuple[str, ...]:
    written, size = one.metric.written, asked.of(one)
    find, find_corrected = (
        written(one.could_find(num_tests=n, **asked.how)) for n in (1, asked.num_tests(one))
    )
    takes = "-"
    if size:
        needed, corrected = (one.needed(size, num_tests=n, **asked.how) for n in (1, asked.num_tests(one)))
        takes = f"{needed} ({corrected})"
    return one.name, str(one.count), written(one.sd), f"{find} ({find_corrected})", written(size), takes


def _repeat_grid(rows: Sequence[tuple[str, ...]]) -> Grid:
    """How many parents it takes, by how often each is retrained."""
    return Grid(
        name="power-repeats",
        header=("Contrast", *(f"{number} repeat{'' if number == 1 else 's'}" for number in _REPEATS)),
        sections=(tuple(rows),),
        caption="Parents that it takes, each retrained so often in each arm (not corrected): repeats take away what "
        "they scatter, not what parents differ by.",
    )


def _repeat_cells(one: Scatter, asked: _Asked) -> tuple[str, ...]:
    """A row; none where there is nothing to find, or parents and repeats cannot be told apart."""
    size = asked.of(one)
    sds = [one.components.sd(number) for number in _REPEATS] if one.components else []
    if size is None or not sds or not all(map(math.isfinite, sds)):
        return ()
    return one.name, *(str(replace(one, sd=sd).needed(size, **asked.how)) if sd else "-" for sd in sds)


def _item_grid(items: Sequence[ItemScatter], asked: _Asked) -> Grid:
    """A row a contrast: how many test items it takes to tell its two networks apart."""
    rows = []
    for one in items:
        size, written = asked.of(one), one.metric.written
        needed = str(one.needed(size, **asked.how)) if size else "-"
        rows.append((one.name, f"{one.count} {one.unit}", written(one.standard_error), written(size), needed))
    return Grid(
        name="power-items",
        header=("Two networks", "Test set", "Error", "To find", "takes"),
        sections=(tuple(rows),),
        caption="To tell one network from another on the test set, whatever other seeds would give. Error: the "
        "standard error of their difference, by the bootstrap.",
        num_labels=2,
    )


def _sentence(found: Sequence[Scatter], items: Sequence[ItemScatter], asked: _Asked) -> str:
    """The answer, of the contrast that a report's headline is about: on LLR, the harder rival, where there is one."""
    one = main_scatter(found) if found else None
    item = next((item for item in items if one is None or item.name.startswith(one.name)), None)
    size = asked.of(one) if one else None
    if one is None:
        said = "Nothing is known of other seeds: no two of an arm are complete."
    else:
        said = _finds(one, asked) if size is None else _needs(one, size, asked)
    return " ".join([said, *([_needs_items(item, asked)] if item and asked.of(item) else [])])


def _finds(one: Scatter, asked: _Asked) -> str:
    tests, written = asked.num_tests(one), one.metric.written
    alone, corrected = (written(one.could_find(num_tests=n, **asked.how)) for n in (1, tests))
    more = f" ({corrected} corrected for {tests} tests)" if tests > 1 else ""
    return f"{one.count} {one.unit} find {alone} points{_of(one)} at {100 * asked.power:g} % power{more}."


def _needs(one: Scatter, size: float, asked: _Asked) -> str:
    tests = asked.num_tests(one)
    needed, corrected = (one.needed(size, num_tests=n, **asked.how) for n in (1, tests))
    more = f" ({corrected} corrected for {tests} tests)" if tests > 1 else ""
    said = f"{one.metric.written(size)} points{_of(one)} need {needed} {one.unit} "
    said += f"at {100 * asked.power:g} % power{more}"
    if one.count < 2:
        return f"{said}."
    fewest, most = (replace(one, sd=sd).needed(size, **asked.how) for sd in one.sd_interval)
    return f"{said}; {one.count} {one.unit} tell the scatter so roughly that it may be {fewest} to {most}."


def _needs_items(one: ItemScatter, asked: _Asked) -> str:
    needed = one.needed(asked.of(one) or 0.0, **asked.how)
    return f"To tell two such networks apart takes {needed} test {one.unit} (there are {one.count})."


def _of(one: Scatter) -> str:
    return "" if one.before is None else f" ({one.name})"


def _as_json(found: Sequence[Scatter], items: Sequence[ItemScatter], asked: _Asked) -> dict[str, Any]:
    """All numbers in the scores' own units: error rates are fractions."""
    return {
        **asked.how,
        "contrasts": [_scatter_as_json(one, asked.of(one), asked) for one in found],
        "test_sets": [
            {
                **asdict(one),
                "metric": one.metric.key,
                "improvement": size,
                "needed": one.needed(size, **asked.how) if size else None,
            }
            for one in items
            for size in [asked.of(one)]
        ],
    }


def _scatter_as_json(one: Scatter, size: float | None, asked: _Asked) -> dict[str, Any]:
    tests = {"": 1, "_corrected": asked.num_tests(one)}
    return {
        **asdict(one),
        "metric": one.metric.key,
        "num_tests": tests["_corrected"],
        "improvement": size,
        **{
            f"could_find{key}": one.could_find(num_tests=n, **asked.how) if one.count > 1 else None
            for key, n in tests.items()
        },
        **{
            f"needed{key}": one.needed(size, num_tests=n, **asked.how) if size else None
            for key, n in tests.items()
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="How many seeds, parents or test items does an improvement need? By the scatter of a comparison "
        "that has been trained, or one that you give; every number is as rough as that scatter is known.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="of seqdsd compare or retrain: two seeds, or parents, of two arms or more",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--improvement", type=_positive, metavar="POINTS", help="to be found, such as 1.0")
    what.add_argument(
        "--relative", type=_positive, metavar="PERCENT", help="the same as a share of the score before"
    )
    add(
        "--power",
        type=float,
        default=POWER,
        metavar="P",
        help=f"how surely it is to be found (default: {POWER})",
    )
    add("--alpha", type=float, default=ALPHA, metavar="A", help=f"what p must fall below (default: {ALPHA})")
    add(
        "--tests",
        type=_whole,
        metavar="N",
        help="how many tests the p-value is corrected for (default: the comparison's contrasts)",
    )
    add(
        "--sd",
        type=float,
        metavar="POINTS",
        help="by hand: SD of the differences between two arms, seed by seed",
    )
    add("--seeds", type=_whole, metavar="N", help="with --sd: what do so many find?")
    add("--sd-parents", type=float, metavar="POINTS", help="by hand: SD of the effect from parent to parent")
    add("--sd-repeats", type=float, metavar="POINTS", help="SD of the retrainings of one parent in one arm")
    add(
        "--correlation",
        type=float,
        metavar="R",
        help="of the two arms' retrainings of a parent by one seed, as seqdsd report --json says it (default: 0)",
    )
    add(
        "--repeats",
        type=_whole,
        metavar="N",
        help="retrainings of a parent in an arm (default: 1)",
    )
    add("--parents", type=_whole, metavar="N", help="with --sd-parents: what do so many find?")
    add("--json", action="store_true", help="print the numbers as JSON; error rates are fractions")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)
