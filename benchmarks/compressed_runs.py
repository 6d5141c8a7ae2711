"""Compress several trainings alike: what a file of each loses, and what the way they were trained brings.

    python -m benchmarks.compressed_runs --runs runs/compare-lenet300/seed-* --out runs/small -- --bits 4
    python -m benchmarks.compressed_runs --table --out runs/small

Each training is compressed by ``seqdsd compress`` with the same settings, beside a record of its own; what has a
record is not compressed again, and a compression that was stopped goes on. ``--phase`` says whether it begins with a
training's best phase on dev or with its last. A row of the table is a group of trainings that differ by nothing but the
seed: an arm of a comparison, or the runs that are named alike but for their seed.
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
from typing import Any, Literal

import tyro

from seqdsd.kinds import KIND_OF_RECIPE, NONE, Metric
from seqdsd.metrics import paired_t_test
from seqdsd.records import RunFolder, write_atomically
from seqdsd.reports import best_phase

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
    phase: Literal["best", "last"] = "best"
    """Of each training: its best on dev, or its last. Of DSD the best may be a sparse one."""
    settings: tyro.conf.Suppress[str] = ""
    """Flags of seqdsd compress, the same for all; on the command line behind a --."""
    table: bool = False
    """Print the Markdown table of all records in --out; compress nothing."""

    def __post_init__(self) -> None:
        if "--phase" in self.settings:
            raise ValueError("--phase is ours: best or last, before the --")
        if not self.table and not self.runs:
            raise ValueError("give --runs, or --table")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file and what it was made of. Scores are as records of phases have them."""

    run: str
    """Folder of the training, as it was given."""
    group: str
    seed: int
    recipe: str
    network: str
    phase: Literal["best", "last"] = "best"
    """Which was asked for."""
    phase_name: str = ""
    """Which that was; empty in records of before it was noted."""
    size_bytes: int
    """Of the file on disk, all of it."""
    dense_bytes: int
    """Of the same network as float32."""
    before: dict[str, float]
    """By split: of the network that was given."""
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
    """A comparison and its arm, or the training's name without its seed."""
    if _OF_SEED.fullmatch(run.parent.name):
        return f"{run.parents[1].name}/{run.name}"
    return _SEED.sub("", run.name)


def name_of(run: Path) -> str:
    """Of its file."""
    parts = (
        (run.parents[1].name, run.parent.name, run.name)
        if _OF_SEED.fullmatch(run.parent.name)
        else (run.name,)
    )
    return "-".join(parts)


def compress(run: Path, config: Config) -> Record:
    """Compress one training, with the command's own progress.

    Raises:
        ValueError: If there is a record of this name, of another training or of other settings.
        SystemExit: If compressing fails.
    """
    path = config.out / f"{name_of(run)}.dsdz"
    where = path.with_suffix(".json")
    if where.is_file():
        record = read(where)
        if (record.run, record.phase, record.settings) != (str(run), config.phase, config.settings):
            raise ValueError(
                f"{where}: of {record.run}, {record.phase} phase, with {record.settings!r}; take another --out"
            )
        return record
    phases = RunFolder(run).read_phases()
    phase = (phases[-1] if config.phase == "last" else best_phase(phases))["name"]
    command = [sys.executable, "-m", "seqdsd", "compress", str(run), "--out", str(path), "--resume"]
    command += ["--phase", phase, *shlex.split(config.settings)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"error: {shlex.join(command)} failed; say it again to go on")
    record = record_of(path, run, phase, config)
    write_atomically(where, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")
    return record


def record_of(path: Path, run: Path, phase: str, config: Config) -> Record:
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
        run=str(run),
        group=group_of(run),
        seed=about["provenance"]["seed"],
        recipe=about["recipe"],
        network=about["network"],
        phase=config.phase,
        phase_name=phase,
        size_bytes=said["size_bytes"],
        dense_bytes=said["dense_bytes"],
        before={split: given[split][metric.key] for split in splits},
        after={split: about["scores"][split][metric.key] for split in splits},
        settings=config.settings,
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
    *("trained as", "phase", "settings", "seeds", "bytes", "times smaller"),
    *("dev", "from the file", "test", "from the file", "lost on test", "95 % interval"),
)


def table(records: Iterable[Record]) -> str:
    """Markdown: a row for each group and settings, mean and SD over seeds, and what was lost with its 95 % interval.

    Raises:
        ValueError: If a group has a seed twice, so that it is none.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for one in sorted(records, key=lambda one: one.seed):
        groups.setdefault((one.group, one.phase, one.settings), []).append(one)
    lines: list[tuple[str, ...]] = [HEADER, (*["---"] * 3, *["--:"] * (len(HEADER) - 3))]
    lines += [_row(*told, runs) for told, runs in sorted(groups.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(group: str, phase: str, settings: str, runs: list[Record]) -> tuple[str, ...]:
    seeds = [one.seed for one in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{group}: seeds {seeds}, one of them twice: these trainings differ by more than the seed"
        )
    before, after = _scores(runs, "before"), _scores(runs, "after")
    lost = [
        runs[0].metric.gain(small, whole) for whole, small in zip(before["test"], after["test"], strict=True)
    ]
    return (
        group,
        phase,
        f"`{settings}`",
        ", ".join(map(str, seeds)),
        f"{statistics.mean(one.size_bytes for one in runs):,.0f}",
        f"{statistics.mean(one.dense_bytes / one.size_bytes for one in runs):.1f}",
        *(_mean_and_sd(side[split]) for split in ("dev", "test") for side in (before, after)),
        f"{statistics.mean(lost):z.2f}" if lost else NONE,
        _interval(lost),
    )


def _scores(runs: list[Record], side: Literal["before", "after"]) -> dict[str, list[float]]:
    """By split, in points; none where a training was not scored on it."""
    scale = runs[0].metric.scale
    found = {split: [getattr(one, side).get(split) for one in runs] for split in ("dev", "test")}
    return {split: [scale * one for one in each] if None not in each else [] for split, each in found.items()}


def _mean_and_sd(values: list[float]) -> str:
    if not values:
        return NONE
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{sd}"


def _interval(lost: list[float]) -> str:
    """Of the mean over seeds, by Student's t; nothing can be said of one."""
    if len(lost) < 2:
        return NONE
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
        print(table(records))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def from_command_line(arguments: list[str]) -> Config:
    """What stands before a ``--`` is ours, what stands behind it seqdsd compress's."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return replace(tyro.cli(Config, args=arguments[:end]), settings=shlex.join(arguments[end + 1 :]))


if __name__ == "__main__":
    main(from_command_line(sys.argv[1:]))
