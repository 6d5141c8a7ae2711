"""Compress several trainings alike: what a file of each loses, and what the way they were trained brings.

    python -m benchmarks.compressed_runs --runs runs/compare-lenet300/seed-* --out runs/small -- --bits 4
    python -m benchmarks.compressed_runs --table --out runs/small

Each training is compressed by ``seqdsd compress`` with the same settings, beside a record of its own; what has a
record is not compressed again, and a compression that was stopped goes on. A row of the table is a group of trainings
that differ by nothing but the seed: an arm of a comparison, or the runs that are named alike but for their seed.
"""

import json
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from seqdsd.kinds import KIND_OF_RECIPE, Metric
from seqdsd.metrics import paired_t_test
from seqdsd.records import RunFolder, write_atomically

_SEED = re.compile(r"[-_]s(?:eed)?[-_]?\d+$")
"""At the end of a training's name."""
_OF_SEED = re.compile(r"seed-\d+")
"""A comparison's folder of a seed's arms."""


@dataclass(frozen=True)
class Config:
    """What is compressed."""

    out: Path
    """Folder of the files, of their runs and of the records."""
    runs: tuple[Path, ...] = ()
    """Folders of trainings, or of several (a comparison's runs/compare-NAME/seed-0)."""
    settings: tyro.conf.Suppress[str] = ""
    """Flags of seqdsd compress, the same for all; on the command line behind a --."""
    table: bool = False
    """Print the Markdown table of all records in --out; compress nothing."""

    def __post_init__(self) -> None:
        if not self.table and not self.runs:
            raise ValueError("give --runs, or --table")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file and what it was made of. Scores are as records of phases have them."""

    group: str
    seed: int
    recipe: str
    network: str
    size_bytes: int
    """Of the file on disk, all of it."""
    dense_bytes: int
    """Of the same network as float32."""
    before: dict[str, float]
    """By split: of the training's best network on dev."""
    after: dict[str, float]
    """Of the network that the file holds."""
    settings: str
    origin: dict[str, Any]
    """Command, versions, commit."""

    @property
    def metric(self) -> Metric:
        """Of its scores."""
        return KIND_OF_RECIPE[self.recipe].primary


def trainings(folders: Iterable[Path]) -> list[Path]:
    """Run folders out of these, and of those in them.

    Raises:
        ValueError: If one is none, and has none in it; with its name.
    """
    found = []
    for folder in folders:
        runs = (
            [folder]
            if RunFolder(folder).config.is_file()
            else sorted(one.parent for one in folder.glob("*/config.toml"))
        )
        if not runs:
            raise ValueError(f"{folder}: neither a training's folder nor one of several")
        found += runs
    return found


def group_of(run: Path) -> str:
    """An arm's name, or the folder's without its seed."""
    return _SEED.sub("", run.name)


def compress(run: Path, config: Config) -> Record:
    """Compress one training, with the command's own progress.

    Raises:
        SystemExit: If that fails.
    """
    name = f"{run.parent.name}-{run.name}" if _OF_SEED.fullmatch(run.parent.name) else run.name
    path = config.out / f"{name}.dsdz"
    where = path.with_suffix(".json")
    if where.is_file():
        return read(where)
    command = [sys.executable, "-m", "seqdsd", "compress", str(run), "--out", str(path), "--resume"]
    command += shlex.split(config.settings)
    if not path.is_file() and subprocess.run(command, check=False).returncode:
        sys.exit(f"error: {shlex.join(command)} failed; say it again to go on")
    record = record_of(path, group_of(run), config.settings)
    write_atomically(where, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")
    return record


def record_of(path: Path, group: str, settings: str) -> Record:
    """What a file says of itself, and its compression's run of the network it began with."""
    inspected = subprocess.run(
        [sys.executable, "-m", "seqdsd", "inspect", str(path), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    said = json.loads(inspected.stdout)
    about = said["about"]
    given = RunFolder(path.with_suffix(".run")).read_phases()[0]
    metric = KIND_OF_RECIPE[about["recipe"]].primary
    splits = [split for split in ("dev", "test") if metric.of(given, split) is not None]
    return Record(
        group=group,
        seed=about["provenance"]["seed"],
        recipe=about["recipe"],
        network=about["network"],
        size_bytes=said["size_bytes"],
        dense_bytes=said["dense_bytes"],
        before={split: given[split][metric.key] for split in splits},
        after={split: about["scores"][split][metric.key] for split in splits},
        settings=settings,
        origin=about["provenance"],
    )


def read(path: Path) -> Record:
    """A record.

    Raises:
        ValueError: If it is none; with its name.
    """
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a record ({error}); remove it, and compress again") from error


HEADER = (
    *("trained as", "settings", "seeds", "bytes", "times smaller"),
    *("dev", "from the file", "test", "from the file", "lost on test", "95 % interval"),
)


def table(records: Iterable[Record]) -> str:
    """Markdown: a row for each group and settings, mean and SD over seeds, and what was lost with its 95 % interval."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for one in sorted(records, key=lambda one: one.seed):
        groups.setdefault((one.group, one.settings), []).append(one)
    lines: list[tuple[str, ...]] = [HEADER, ("---", "---", *["--:"] * (len(HEADER) - 2))]
    lines += [_row(group, settings, runs) for (group, settings), runs in sorted(groups.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(group: str, settings: str, runs: list[Record]) -> tuple[str, ...]:
    metric = runs[0].metric
    scores = {
        (split, side): [metric.scale * getattr(one, side)[split] for one in runs]
        for split in ("dev", "test")
        for side in ("before", "after")
    }
    lost = [
        metric.gain(after, before)
        for before, after in zip(scores["test", "before"], scores["test", "after"], strict=True)
    ]
    return (
        group,
        f"`{settings}`",
        ", ".join(str(one.seed) for one in runs),
        f"{statistics.mean(one.size_bytes for one in runs):,.0f}",
        f"{statistics.mean(one.dense_bytes / one.size_bytes for one in runs):.1f}",
        *(_mean_and_sd(values) for values in scores.values()),
        f"{statistics.mean(lost):z.2f}",
        _interval(lost),
    )


def _mean_and_sd(values: list[float]) -> str:
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{sd}"


def _interval(lost: list[float]) -> str:
    """Of the mean over seeds, by Student's t; nothing can be said of one."""
    if len(lost) < 2:
        return "-"
    test = paired_t_test([0.0] * len(lost), lost)
    return f"[{test.low:z.2f}, {test.high:z.2f}]"


def main(config: Config) -> None:
    try:
        if config.table:
            print(table(read(path) for path in sorted(config.out.glob("*.json"))))
            return
        runs = trainings(config.runs)
        records, start = [], time.monotonic()
        for number, run in enumerate(runs):
            minutes = (time.monotonic() - start) / 60 * (len(runs) - number) / number if number else None
            left = "" if minutes is None else f"; about {minutes:.0f} min left"
            print(f"{run}: {number + 1} of {len(runs)}{left}", flush=True)
            records.append(compress(run, config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(records))


def from_command_line(arguments: list[str]) -> Config:
    """What stands before a ``--`` is ours, what stands behind it seqdsd compress's."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return replace(tyro.cli(Config, args=arguments[:end]), settings=shlex.join(arguments[end + 1 :]))


if __name__ == "__main__":
    main(from_command_line(sys.argv[1:]))
