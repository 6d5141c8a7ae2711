"""Where the runs of ``seqdsd retrain`` lie below its folder, for the one who writes them and the one who reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SETTINGS = "retrain.toml"
"""In the study's folder: what its runs have in common."""

_PARENT, _REPEAT = re.compile(r"parent-(\d{1,9})"), re.compile(r"repeat-(\d{1,9})")


@dataclass(frozen=True)
class Retraining:
    """Which retraining a run is.

    Attributes:
        study: Folder of the study.
        parent: Number of the parent, from 0.
        repeat: Number of the repeat, from 0.
        arm: Name of the arm.
    """

    study: Path
    parent: int
    repeat: int
    arm: str

    @property
    def name(self) -> str:
        """Of the run's folder below the study's."""
        return f"{parent_name(self.parent)}/repeat-{self.repeat}/{self.arm}"

    @classmethod
    def at(cls, folder: Path) -> Retraining | None:
        """Which retraining the run in a folder is; None where the folder is not that of one."""
        path = folder.resolve()
        study, parent, repeat = (
            (path.parents[depth] for depth in (2, 1, 0)) if len(path.parts) > 3 else [path] * 3
        )
        numbers = [_PARENT.fullmatch(parent.name), _REPEAT.fullmatch(repeat.name)]
        if not all(numbers) or not (study / SETTINGS).is_file():
            return None
        return cls(study, *(int(found[1]) for found in numbers if found), arm=path.name)


def parent_name(number: int) -> str:
    """Of the folder of a parent's retrainings."""
    return f"parent-{number}"


def trained_parent(number: int) -> str:
    """Of the run of a parent that the study has trained itself."""
    return f"{parent_name(number)}/dense"
