"""Below the leaves: how every file is written, whole or not at all, and a file that cannot be is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file at once, as ``replacing`` does."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file, synced and renamed at the end: a reader sees the old content or the new, whatever happens.

    Raises:
        OSError: If the file cannot be written; the message names it and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # else it would hide the cause
                temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.filename not in (None, str(temporary), *map(str, path.parents)):
            raise  # of what was read within the block
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); make room or correct the path or its permissions"
        ) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
