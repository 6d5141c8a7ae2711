"""Run folders to be reported: found, read and checked; a damaged one is refused by name and the rest is read.

Leaves out what runs have to do with each other: see ``comparison``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seqdsd.config import PROVENANCE, ConfigError, read_values
from seqdsd.kinds import KINDS, Kind, kind_of_scores
from seqdsd.records import (
    RunFolder,
    RunFolderError,
    checked,
    checked_provenance,
    is_test_split,
    read_json_lines,
    shapes,
)
from seqdsd.records.reading import REMEDY
from seqdsd.records.retraining import Place
from seqdsd.reports.runs.hypotheses import Hypothesis, read_media, read_rows
from seqdsd.reports.runs.pictures import Pictures, read_pictures

log = logging.getLogger(__name__)

Record = Mapping[str, Any]
ArmName = Literal["Baseline", "LLR", "DSD", "DSDSD", "Dense", "Compressed"]

_ARMS: Mapping[str, ArmName] = {"baseline": "Baseline", "llr": "LLR", "compress": "Compressed"}

SEARCH_DEPTH = 3
"""Folders below the one given: seed-0/dsd of a comparison are two, parent-0/repeat-0/llr of a study three."""


@dataclass(frozen=True)
class Run:
    """A run folder that could be read, its records checked.

    Attributes:
        folder: Where it is.
        name: The end of its path, as long as it takes to tell it from the other runs read with it.
        recipe: ``ds1``, ``neuraltalk`` …
        method: ``dsd``, ``llr``, ``baseline`` or ``compress``.
        iters: Rounds of sparse and redense phases; of a compression its phases after the first.
        seed: Of everything random.
        settings: All of ``config.toml`` but its provenance.
        provenance: How the run came about.
        phases: Records of the finished phases, at least one.
        weights: Statistics of the pruned layers, a record a moment; none where nothing was pruned.
        plan: What is pruned by which rule, a record a parameter; none where nothing was pruned.
    """

    folder: RunFolder
    name: str
    recipe: str
    method: str
    iters: int
    seed: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    phases: tuple[Record, ...]
    weights: tuple[Record, ...] = ()
    plan: tuple[Record, ...] = ()

    @property
    def arm(self) -> ArmName:
        """What it is in a comparison; ``Dense`` is the first phase alone, which the other arms hold too."""
        if self.method != "dsd":
            return _ARMS[self.method]
        return ("Dense", "DSD", "DSDSD")[min(self.iters, 2)]

    @property
    def num_planned(self) -> int:
        """Phases of the run when it is complete."""
        return _num_planned(self.settings)

    @property
    def is_complete(self) -> bool:
        """Whether all phases are finished."""
        return len(self.phases) == self.num_planned

    @property
    def kind(self) -> Kind:
        """What is scored."""
        kind = kind_of_scores(self.phases[0]["dev"])
        if kind is None:
            known = ", ".join(one.primary.key for one in KINDS)
            raise RunFolderError(
                f"{self.folder.phases}: no score on dev that is known here ({known}); bring the file back, or report "
                "the run with the version that wrote it"
            )
        return kind

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Test sets, in the order in which the records hold them."""
        names = (name for record in self.phases for name in record if is_test_split(name))
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Refusal:
    """A run folder that is not reported; the message names the damaged file and the remedy."""

    path: Path
    message: str


@dataclass(frozen=True)
class RunSet:
    """What was found: the runs in the order of the paths given, and what is refused."""

    runs: tuple[Run, ...]
    refused: tuple[Refusal, ...] = ()


def read_runs(paths: Sequence[Path]) -> RunSet:
    """Read run folders, and those in folders above run folders; each counts once.

    Raises:
        RunFolderError: If a path is no folder, or there is no run in it.
    """
    folders: dict[Path, Path] = {}
    for folder in (folder for path in paths for folder in _run_folders(path)):
        folders.setdefault(folder.resolve(), folder)
    runs, refused = [], []
    for folder in folders.values():
        try:
            runs.append(_read_run(RunFolder(folder)))
        except RunFolderError as error:
            refused.append(Refusal(folder, str(error)))
        except OSError as error:
            refused.append(
                Refusal(folder, f"{folder}: cannot be read ({error}); see to its files' permissions")
            )
    return RunSet(_named(runs), tuple(refused))


def read_origin(folder: RunFolder) -> dict[str, Any]:
    """How a run came about; nothing where the folder has no settings, only records.

    Raises:
        RunFolderError: If the settings cannot be read, or another version of seqdsd has written the folder.
    """
    if not folder.config.is_file():
        return {}
    return checked_provenance(_read_config(folder).get(PROVENANCE, {}), folder.config)


def read_hypotheses(run: Run, phase_name: str, split: str) -> tuple[Hypothesis, ...]:
    """What a phase of the run says of a split: ``id``, ``refs`` and ``hyp`` of each utterance or image.

    Raises:
        RunFolderError: If the file is missing, empty or damaged; the line is named.
    """
    return read_rows(run.folder, phase_name, split, kind=run.kind)


def read_recordings(run: Run) -> dict[str, Path]:
    """Where the run's recordings lie, by utterance; nothing where the folder does not say.

    Raises:
        RunFolderError: If the list is damaged.
    """
    return read_media(run.folder.audio)


def read_images(run: Run) -> Pictures:
    """Where the run's images lie, by id; nothing where the folder does not say.

    Raises:
        RunFolderError: If the list is damaged.
    """
    return read_pictures(run.folder)


def _run_folders(path: Path) -> Sequence[Path]:
    """The path itself if it is a run, else those below it."""
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise RunFolderError(f"{path}: {what}; name a run folder, or a folder above run folders")
    found = [path] if _is_run(path) else list(_search(path, SEARCH_DEPTH))
    if not found:
        raise RunFolderError(
            f"{path}: no run in it, up to {SEARCH_DEPTH} folders below (a run has a config.toml); "
            "name a run folder, or a folder above run folders"
        )
    return found


def _search(path: Path, depth: int) -> Iterator[Path]:
    try:
        inner = sorted(path.iterdir(), key=_natural)
    except OSError as error:
        log.warning("%s: cannot be searched for runs (%s)", path, error.strerror)
        return
    for folder in inner:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if _is_run(folder):
            yield folder
        elif depth > 1:
            yield from _search(folder, depth - 1)


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file() or (folder / "phases.jsonl").is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts seed-2 before seed-10."""
    parts = re.findall(r"\d+|\D+", path.name)
    # A number's length sorts as its value does, and is no integer of thousands of digits.
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def _read_run(folder: RunFolder) -> Run:
    settings = _read_config(folder)
    provenance = checked_provenance(settings.pop(PROVENANCE, {}), folder.config)
    if "recipe" not in provenance:
        raise RunFolderError(
            f'{folder.config}: no recipe = "…" in a table [{PROVENANCE}]; bring the file back, or name the recipe there'
        )
    remedy = "bring the file back, or report the run with the version that wrote it"
    checked(settings, shapes.RunSettings, str(folder.config), remedy=remedy)
    method, iters = settings["method"], settings["iters"]
    run = Run(
        folder=folder,
        name=folder.path.name,
        recipe=provenance["recipe"],
        method=method,
        iters=iters,
        seed=settings["seed"],
        settings=settings,
        provenance=provenance,
        phases=_read_phases(folder, planned=_num_planned(settings)),
        weights=_read_weights(folder.weight_statistics),
        plan=_read_records(folder.plan, shapes.PlannedParameter),
    )
    _check_files(run)
    return run


def _read_config(folder: RunFolder) -> dict[str, Any]:
    path = folder.config
    if not path.is_file():
        raise RunFolderError(f"{path}: missing, so the run's settings are unknown; bring the file back")
    try:
        return read_values(path)
    except ConfigError as error:
        raise RunFolderError(f"{error}; mend the file or bring it back") from error


def _read_phases(folder: RunFolder, *, planned: int) -> tuple[Record, ...]:
    records = folder.read_phases(planned=planned) if folder.phases.is_file() else []
    if not records:
        raise RunFolderError(
            f"{folder.path}: no finished phase (none in phases.jsonl); wait until one is finished, or go on with "
            f"--resume --config {folder.config}"
        )
    if not shapes.SCORES.keys() & records[0]["dev"].keys():
        raise RunFolderError(
            f"{folder.phases}:1: dev has none of the scores known here ({', '.join(shapes.SCORES)}); {REMEDY}"
        )
    return tuple(records)


def _read_records(path: Path, shape: Any) -> tuple[Record, ...]:
    return tuple(read_json_lines(path, shape)) if path.is_file() else ()


def _read_weights(path: Path) -> tuple[Record, ...]:
    records = _read_records(path, shapes.LayersAtMoment)
    for number, record in enumerate(records, start=1):
        for layer in record["layers"]:
            if (counted := sum(layer["histogram"])) != layer["weights"]:
                raise RunFolderError(
                    f"{path}:{number}: layer {layer['name']!r}: the histogram counts {counted} of {layer['weights']} "
                    f"weights; {REMEDY}"
                )
    return records


def _check_files(run: Run) -> None:
    """Read what is used lazily once: a run with a damaged file would otherwise stop the report half-way."""
    place = Place.of(run.folder.path)
    if place and not place.is_example:  # of hundreds of retrainings nothing else is shown than scores
        return
    for record in run.phases:
        for split in ("dev", *run.test_splits):
            if run.folder.hypotheses(record["name"], split).is_file():
                num_scored = record.get(split, {}).get(run.kind.counted)
                read_rows(run.folder, record["name"], split, kind=run.kind, num_scored=num_scored)
    read_recordings(run)
    read_media(run.folder.images)


def _num_planned(settings: Mapping[str, Any]) -> int:
    if settings["method"] == "baseline":  # after the weights that were given, if any were
        return 2 if "start_weights" in settings else 1
    if settings["method"] == "compress":
        return int(settings["iters"] + 1)
    return int(2 * settings["iters"] + 1)


def _named(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Name runs by the ends of their paths, all of equal length, short but each for itself."""
    paths = [run.folder.path.resolve().parts for run in runs]
    length = 1
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return tuple(replace(run, name="/".join(path[-length:])) for run, path in zip(runs, paths, strict=True))
