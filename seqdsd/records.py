"""The run folder: what is written where, and read back. Knows files and JSON, neither models nor metrics.

::

    config.toml            the resolved settings, with a [provenance] table: command, seed, versions, commit, and the
                           device on which the run was begun
    phases.jsonl           one record a phase
    hyps/PHASE.SPLIT.jsonl what was recognised: id, ref, hyp; or captioned: id, refs, hyp
    skipped.jsonl          bad data that was left out, if any
    tokenizer/ or vocabulary.json  what the network spells with
    images.jsonl           where the images are that were captioned: id, path
    audio.jsonl            where the recordings are that were recognised: id, path
    plan.jsonl             what the sparse phases prune, by which rule: a parameter a line
    decoding.toml          how to weigh a language model, if seqdsd tune-decoding was run
    weights.jsonl          the pruned layers' weights at the five moments of each round
    progress.json          how far the run is, for those who watch it from another process
    checkpoints/           written by seqdsd.engine.checkpoint
    tb/                    TensorBoard
    captions.html          written by seqdsd.reports.captions.page when asked for
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

FORMAT = 1
"""Of run folders. Another number than this one belongs to another version; folders from before it was written are 1."""

_held_here: set[Path] = set()  # run folders that this process has locked


class RunFolderError(ValueError):
    """A run folder that cannot be used as asked; the message names it and the remedy."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard logs."""
        return self.path / "tb"

    @property
    def phases(self) -> Path:
        """The phase records."""
        return self.path / "phases.jsonl"

    def hypotheses(self, phase_name: str, split: str) -> Path:
        """Where the hypotheses of a phase on a split are."""
        return self.path / "hyps" / f"{slug(phase_name)}.{split}.jsonl"

    @property
    def images(self) -> Path:
        """Where the images of the judged splits are."""
        return self.path / "images.jsonl"

    @property
    def audio(self) -> Path:
        """Where the recordings of the judged splits are."""
        return self.path / "audio.jsonl"

    @property
    def decoding(self) -> Path:
        """How to weigh a language model, as found on dev."""
        return self.path / "decoding.toml"

    @property
    def plan(self) -> Path:
        """What is pruned, by which rule."""
        return self.path / "plan.jsonl"

    @property
    def weight_statistics(self) -> Path:
        """The pruned layers' weights at the five moments of each round."""
        return self.path / "weights.jsonl"

    def check_format(self, provenance: Mapping[str, Any]) -> None:
        """Refuse a folder that another version of seqdsd has written in another way.

        Args:
            provenance: The ``[provenance]`` table of its ``config.toml``.

        Raises:
            RunFolderError: Naming both formats.
        """
        found = provenance.get("format", 1)
        if found != FORMAT:
            raise RunFolderError(
                f"{self.config}: the run folder is from another version of seqdsd (format {found}, this one reads "
                f"{FORMAT}); use or report it with the version that wrote it"
            )

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Say how far the run is. Not kept safe: ``read_progress`` takes a half-written file for none."""
        (self.path / "progress.json").write_text(json.dumps(json_values(progress)), encoding="utf-8")

    def read_progress(self) -> dict[str, Any] | None:
        """How far the run is (see ``seqdsd.engine.dsd``), if that can be read just now."""
        with suppress(OSError, ValueError):
            return json.loads((self.path / "progress.json").read_text(encoding="utf-8"))
        return None

    def all_hypotheses(self, phase_name: str) -> list[Path]:
        """The hypotheses of a phase on every split."""
        return sorted((self.path / "hyps").glob(f"{slug(phase_name)}.*.jsonl"))

    def weights(self, phase_name: str) -> Path:
        """Where the weights that a phase hands on are."""
        return self.checkpoints / f"{slug(phase_name)}.safetensors"

    def mask(self, phase_name: str) -> Path:
        """Where the mask of a sparse phase is, at one bit a weight."""
        return self.checkpoints / f"{slug(phase_name)}.mask.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; it is created if needed. The lock falls with the process, however it ends.

        Raises:
            RunFolderError: If another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        key = self.path.resolve()
        if key in _held_here:  # lockf holds against other processes only
            raise RunFolderError(f"{self.path}: this process is writing here already; take another --out")
        with (self.path / ".lock").open("a+") as file:
            try:
                # Not flock: data-loader workers would inherit it and, after a kill, hold it for seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunFolderError(
                    f"{self.path}: another run (process {holder}) is writing here; wait for it or take another --out"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in self.checkpoints.glob(".*.tmp"):  # of a process killed while it wrote
                leftover.unlink()
            _held_here.add(key)
            try:
                yield
            finally:
                _held_here.discard(key)

    def write_phases(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the phase records."""
        write_json_lines(self.phases, records)

    def read_phases(self) -> list[dict[str, Any]]:
        """The phase records so far.

        Raises:
            RunFolderError: If there are none, or a line is damaged (it is named).
        """
        if not self.phases.is_file():
            raise RunFolderError(f"{self.path}: no phases.jsonl; is this a run folder with a finished phase?")
        return list(read_json_lines(self.phases))


def slug(name: str) -> str:
    """A phase's name as part of a file name: ``Dense Iter 0`` is ``dense-iter-0``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file at once, as ``replacing`` does."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file, synced and renamed at the end: a reader sees the old content or the new, whatever happens.

    Raises:
        OSError: Naming ``path`` and the remedy, where it cannot be written (a full disk's own error names no file).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise  # of another file, or of the folder
        raise type(error)(
            f"{path}: cannot be written ({error.strerror}); make room or take another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically. NaN and infinity, which JSON does not have, become null."""
    lines = (json.dumps(json_values(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomically(path, "".join(lines))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        RunFolderError: Naming the first line that is damaged.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise RunFolderError(f"{path}:{number}: damaged record ({error})") from error


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


def json_values(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {name: json_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
