"""Where the runs of ``seqdsd retrain`` lie below its folder, for the one who writes them and the one who reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SETTINGS = "retrain.toml"
"""In the study's folder: what its runs have in common."""

_PLACE = re.compile(r"parent-(\d{1,9})/(?:repeat-(\d{1,9})/([^/]+)|dense)")


@dataclass(frozen=True)
class Place:
    """Which run of a study one is.

    Attributes:
        study: Folder of the study.
        parent: Number of the parent, from 0.
        repeat: Number of the repeat, from 0; None of a parent that the study has trained itself.
        arm: Name of the arm; empty of a parent.
    """

    study: Path
    parent: int
    repeat: int | None = None
    arm: str = ""

    @property
    def name(self) -> str:
        """Of the run's folder below the study's."""
        own = "dense" if self.repeat is None else f"repeat-{self.repeat}/{self.arm}"
        return f"parent-{self.parent}/{own}"

    @property
    def is_example(self) -> bool:
        """Whether it is of the first repeat of the first parent: what reports show of single runs, they show of it."""
        return (self.parent, self.repeat) == (0, 0)

    @classmethod
    def of(cls, folder: Path) -> Place | None:
        """That of the run in a folder; None where it is part of no such study."""
        path = folder.resolve()
        for depth in (2, 3):
            study = path.parents[min(depth, len(path.parents)) - 1]
            found = _PLACE.fullmatch(path.relative_to(study).as_posix())
            if found and (study / SETTINGS).is_file():
                parent, repeat, arm = found.groups()
                return cls(study, int(parent), *((int(repeat), arm) if arm else ()))
        return None
