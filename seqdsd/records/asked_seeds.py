"""Which seeds a study was asked for, and of which it had results by then: ``seeds.jsonl`` in its folder.

Of a comparison these are its seeds; of a study of retraining those of its retrainings, one a parent and repeat.

Seeds that are added after a look at a result make its p-values too small: who adds seeds until a test is significant
finds something sooner or later, whatever is there. Reports count the looks from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seqdsd.records import shapes
from seqdsd.records.reading import read_json_lines
from seqdsd.records.writing import write_json_lines

FILE = "seeds.jsonl"
FEWEST_SEEDS = 2
"""With results: there is no test of fewer, so no result to look at."""


@dataclass(frozen=True)
class AskedSeeds:
    """A line of the file: seeds that had not been asked for before."""

    seeds: tuple[int, ...]
    with_results: tuple[int, ...]
    """Seeds that had been compared when they were asked for."""

    @property
    def is_after_a_look(self) -> bool:
        """Whether there was a result to look at by then."""
        return len(self.with_results) >= FEWEST_SEEDS


def read_asked_seeds(folder: Path) -> tuple[AskedSeeds, ...]:
    """The file's lines; none where it is missing, as in folders from before it was kept.

    Raises:
        RunFolderError: If a line is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    rows = read_json_lines(path, shapes.AskedSeeds, remedy="bring the file back")
    return tuple(AskedSeeds(tuple(row["seeds"]), tuple(row["with_results"])) for row in rows)


def newly_asked(folder: Path, seeds: Iterable[int], *, with_results: Collection[int]) -> AskedSeeds | None:
    """What of the seeds is new in the folder, for ``note_asked_seeds``; None where nothing is.

    Raises:
        RunFolderError: If the file is damaged.
    """
    known = {*with_results, *(seed for one in read_asked_seeds(folder) for seed in one.seeds)}
    new = tuple(sorted({*seeds} - known))
    return AskedSeeds(new, tuple(sorted(with_results))) if new else None


def note_asked_seeds(folder: Path, asked: AskedSeeds) -> None:
    """Add a line."""
    write_json_lines(folder / FILE, [asdict(one) for one in (*read_asked_seeds(folder), asked)])


def looks_before(asked: Sequence[AskedSeeds], seeds: Collection[int]) -> tuple[AskedSeeds, ...]:
    """Those lines that added some of these seeds after a look at others of them."""
    return tuple(
        one
        for one in asked
        if {*one.seeds} & {*seeds} and len({*one.with_results} & {*seeds}) >= FEWEST_SEEDS
    )


def still_to_come(asked: Sequence[AskedSeeds], seeds: Collection[int]) -> tuple[int, ...]:
    """Those that were asked for together with some of these seeds, and are not among them."""
    own = [one for one in asked if {*one.seeds} & {*seeds}]
    return tuple(sorted({seed for one in own for seed in one.seeds} - {*seeds}))
