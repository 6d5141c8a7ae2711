"""Where made corpora and image sets are kept, and how one appears there: complete or not at all."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_JUST_MADE_SECONDS = 60.0
"""A folder so young may be about to be locked."""


def default_cache_dir() -> Path:
    """``$SEQDSD_CACHE``, else ``$XDG_CACHE_HOME/seqdsd``, else ``~/.cache/seqdsd``."""
    if own := os.environ.get("SEQDSD_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "seqdsd"
    try:
        return Path.home() / ".cache" / "seqdsd"
    except RuntimeError as error:  # neither $HOME nor an entry for the user
        raise OSError(
            f"no home folder ({error}). Set SEQDSD_CACHE to a folder that can be written."
        ) from error


def cached_corpus(
    name: str, key: Mapping[str, Any], build: Callable[[Path], None], *, cache_dir: Path | None = None
) -> Path:
    """Find a corpus in the cache, or have it built aside and renamed into place.

    What processes that were killed have left of others of its name is removed.

    Args:
        name: Start of the folder's name; a digest of ``key`` follows.
        key: All that the corpus' bytes depend on, as JSON can hold it; kept in the folder's ``corpus.json``.
        build: Writes the corpus into the empty folder it is given.
        cache_dir: Where corpora are kept; by default `default_cache_dir`.

    Returns:
        The corpus' folder. Two processes that build it at once end with the same one.

    Raises:
        OSError: If the cache cannot be written; the message says what to do.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = (cache_dir or default_cache_dir()) / f"{name}-{digest[:12]}"
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(folder.parent, f".{name}-*")
        with (
            tempfile.TemporaryDirectory(
                prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
            ) as aside,
            _locked(Path(aside)),
        ):
            building = Path(aside) / "corpus"
            building.mkdir()
            build(building)
            _marker(building).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            _publish(building, folder)
    except OSError as error:  # a full disk's own error names no file
        raise OSError(
            f"cannot write {folder.name} under {folder.parent}: {error}. "
            "Set SEQDSD_CACHE to a folder that can be written, on a disk with room."
        ) from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder, by which it is told from one left over: the lock falls with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some networks' disks know no locks; there nothing is taken for left over
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_left_over(parent: Path, pattern: str) -> None:
    """Remove folders in which nobody builds any more."""
    for folder in parent.glob(pattern):
        with suppress(OSError):  # gone, another user's, or locked
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - folder.stat().st_mtime > _JUST_MADE_SECONDS:
                    shutil.rmtree(folder)
            finally:
                os.close(handle)


def _marker(folder: Path) -> Path:
    return folder / "corpus.json"


def _is_complete(folder: Path) -> bool:
    return _marker(folder).is_file()


def _publish(building: Path, folder: Path) -> None:
    if folder.exists() and not _is_complete(folder):
        shutil.rmtree(folder)
    try:
        building.rename(folder)
    except OSError:
        if not _is_complete(folder):  # else another process was faster, with the same bytes
            raise
