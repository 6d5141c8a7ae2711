"""Which file or folder of a corpus is which split, and in which of the formats that people have.

- ``NAME.jsonl`` (or ``.jsonl.gz``): our manifests, which are NeMo's, or Lhotse's cuts, told by their first line;
- ``cuts_NAME.jsonl.gz``, ``NAME_cuts.jsonl.gz``: Lhotse's cuts;
- ``NAME/`` with ``wav.scp``: a Kaldi data folder;
- ``NAME/`` with ``shards.jsonl.gz``: tar shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from seqdsd.data.kaldi import is_kaldi_folder, read_kaldi
from seqdsd.data.lhotse import is_cut, read_cuts
from seqdsd.data.manifest import Manifest, ManifestError, parse_line, read_lines, read_manifest
from seqdsd.data.shards import INDEX_NAME, is_shard_folder, read_shards

_CUT_ENDINGS = (".jsonl.gz", ".jsonl")


def find_splits(folder: Path) -> dict[str, Path]:
    """The splits of a corpus by name: ``train``, ``dev``, ``test`` or several ``test_NAME``, and whatever else.

    Raises:
        ManifestError: If one of these is there twice, in two formats.
    """
    splits: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = _split_name(path)
        if name is None:
            continue
        if name in splits and (name in ("train", "dev", "test") or name.startswith("test_")):
            raise ManifestError(f"{folder}: both {splits[name].name} and {path.name} are {name}. Remove one.")
        splits.setdefault(name, path)
    return splits


def read_split(path: Path, *, on_bad_data: Literal["error", "skip"] = "error") -> Manifest:
    """Read a manifest in any of the formats.

    Raises:
        ManifestError: See ``read_manifest``; and if the format is none of these.
    """
    if path.is_dir():
        if is_shard_folder(path):
            return read_shards(path, on_bad_data=on_bad_data)
        if not is_kaldi_folder(path):
            raise ManifestError(f"{path}: a folder without wav.scp or {INDEX_NAME} is no split. {_formats()}")
        return read_kaldi(path, on_bad_data=on_bad_data)
    if _begins_with_a_cut(path):
        return read_cuts(path, on_bad_data=on_bad_data)
    return read_manifest(path, on_bad_data=on_bad_data)


def is_split_folder(path: Path) -> bool:
    """Whether a folder is a split: Kaldi's, or one of shards."""
    return is_kaldi_folder(path) or is_shard_folder(path)


def _split_name(path: Path) -> str | None:
    if path.is_dir():
        return path.name if is_split_folder(path) else None
    ending = next((ending for ending in _CUT_ENDINGS if path.name.endswith(ending)), None)
    if ending is None:
        return None
    name = path.name.removesuffix(ending)
    return name.removeprefix("cuts_").removesuffix("_cuts")


def _begins_with_a_cut(path: Path) -> bool:
    try:
        number, line = next(read_lines(path))
        return is_cut(parse_line(line, path, number))
    except (ManifestError, StopIteration):
        return False  # what is wrong ``read_manifest`` says


def _formats() -> str:
    return (
        "Known are NAME.jsonl as here or in NeMo, Lhotse's cuts (cuts_NAME.jsonl.gz), Kaldi's data folders "
        "(NAME/wav.scp), and tar shards with their index (NAME/shards.jsonl.gz; seqdsd shard writes it)."
    )
