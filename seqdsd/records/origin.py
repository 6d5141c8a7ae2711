"""How a run came about: the ``[provenance]`` table of its ``config.toml``."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqdsd.records.reading import RunFolderError, checked
from seqdsd.records.shapes import Provenance

FORMAT = 1
"""Of run folders. Another number than this one belongs to another version; folders from before it was written are 1."""


def checked_provenance(table: Any, path: Path) -> dict[str, Any]:
    """The table, if it is one, of a folder that this version of seqdsd reads.

    Args:
        table: As it was read.
        path: Of the settings, for the message.

    Raises:
        RunFolderError: If the table has another shape, or another version of seqdsd has written the folder.
    """
    checked(table, Provenance, f"{path}: [provenance]", remedy="bring the file back")
    found = table.get("format", 1)
    if found != FORMAT:
        raise RunFolderError(
            f"{path}: the run folder is from another version of seqdsd (format {found}, this one reads {FORMAT}); use "
            "or report it with the version that wrote it"
        )
    return table


def provenance(seed: int) -> dict[str, Any]:
    """How this run came about, for the ``[provenance]`` table of its ``config.toml``."""
    packages = ("seqdsd", "torch", "torchaudio", "lightning-fabric", "numpy")
    return {
        "format": FORMAT,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_cpu_name()}, {os.cpu_count()} CPUs",
        "git_commit": _git_commit(),
        "versions": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:  # run from a checkout that is not installed
        return "not installed"


def _cpu_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _git_commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it."""
    try:
        _git(
            "ls-files", "--error-unmatch", Path(__file__).name
        )  # else the repository is one around an installed copy
        return _git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
