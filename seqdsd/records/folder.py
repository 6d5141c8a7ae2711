"""The paths of a run's folder, its lock, and its records."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from seqdsd.atomic import write_atomically
from seqdsd.records.phases import check_phases
from seqdsd.records.reading import RunFolderError, read_json_lines
from seqdsd.records.shapes import Progress
from seqdsd.records.writing import json_values, write_json_lines

_held_here: set[Path] = set()  # run folders that this process has locked


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

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Say how far the run is."""
        write_atomically(self.path / "progress.json", json.dumps(json_values(progress)))

    def read_progress(self) -> dict[str, Any] | None:
        """How far the run is (see ``seqdsd.engine.run_records``), if that can be read just now."""
        with suppress(OSError, ValueError, RecursionError):
            progress = msgspec.json.decode((self.path / "progress.json").read_bytes())
            msgspec.convert(progress, Progress)
            return progress
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

    def read_phases(self, *, planned: int | None = None) -> list[dict[str, Any]]:
        """The phase records so far.

        Args:
            planned: Phases that the run has when it is complete, where that is known.

        Raises:
            RunFolderError: If there are none, or a line is damaged or cannot be what a run wrote (it is named).
        """
        if not self.phases.is_file():
            raise RunFolderError(f"{self.path}: no phases.jsonl; is this a run folder with a finished phase?")
        records = list(read_json_lines(self.phases))
        check_phases(self.phases, records, planned=planned)
        return records


def slug(name: str) -> str:
    """A phase's name as part of a file name: ``Dense Iter 0`` is ``dense-iter-0``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
