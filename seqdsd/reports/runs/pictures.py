"""Which image files a page may show: those of the corpus, and no others that a run folder names.

A page is made to be passed on, and a run folder may come from somebody else. So an image must lie below the folder of
images that the user names; or else below the run's folder, or below the one folder that its ``images.jsonl`` takes its
images from. Links are followed first. Leaves out opening the files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdsd.records import RunFolder, RunFolderError
from seqdsd.reports.runs.hypotheses import read_media


@dataclass(frozen=True)
class Pictures:
    """Image files by id, as far as they are there.

    Attributes:
        paths: Those that a page may show.
        outside: Ids of those that lie outside their folder: no page shows them.
        folder: Where the corpus' images lie; None where the run does not say.
    """

    paths: Mapping[str, Path]
    outside: frozenset[str]
    folder: Path | None


def read_pictures(run: RunFolder, *, remedy: str = "remove the file: the report goes without it") -> Pictures:
    """The images that the run's ``images.jsonl`` lists; none where it is missing.

    Raises:
        RunFolderError: If a line of it is damaged (it is named).
    """
    listed = read_media(run.images, remedy=remedy)
    folder = _common_folder(listed)
    return _sorted_out(listed, [run.path] if folder is None else [run.path, folder], folder)


def pictures_in(folder: Path, ids: Sequence[str]) -> Pictures:
    """The images that a folder holds, called by their ids.

    Raises:
        RunFolderError: If there is no such folder.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder of images; correct --images")
    return _sorted_out({id_: folder / id_ for id_ in ids}, [folder], folder)


def _common_folder(listed: Mapping[str, Path]) -> Path | None:
    """The folder from which most images have their ids for paths, as training writes the list."""
    folders: Counter[str] = Counter()
    for id_, path in listed.items():
        end = os.sep + os.path.normpath(id_)
        if path.is_absolute() and str(path).endswith(end):
            folders[str(path).removesuffix(end)] += 1
    folders.pop("", None)  # all files of a machine are no corpus
    return Path(folders.most_common(1)[0][0]) if folders else None


def _sorted_out(files: Mapping[str, Path], allowed: Sequence[Path], folder: Path | None) -> Pictures:
    roots = [os.path.realpath(one) for one in allowed]
    there = {id_: path for id_, path in files.items() if path.is_file()}
    outside = {id_ for id_, path in there.items() if not any(_is_below(root, path) for root in roots)}
    inside = {id_: path for id_, path in there.items() if id_ not in outside}
    return Pictures(inside, frozenset(outside), folder)


def _is_below(root: str, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)
