"""A compression as a run: its folder, its phases one after the other, and how it goes on where it was stopped.

``steps.jsonl`` says what was decided so far. The settings in ``config.toml`` are those of the run that is compressed,
with the phases decided so far, so that whatever reads run folders reads this one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from seqdsd.compression import SharedTensor, share_weights
from seqdsd.compression.sharing import MAX_BITS
from seqdsd.config import (
    ConfigError,
    flat_values,
    read_config,
    read_provenance,
    read_values,
    to_toml,
    to_values,
)
from seqdsd.engine import (
    DSDTraining,
    GivenWeights,
    TrainSettings,
    device_name,
    load_checkpoint,
    make_fabric,
)
from seqdsd.engine.saving import add_phases, phases_begun
from seqdsd.fabric import Fabric
from seqdsd.kinds import NONE
from seqdsd.recipes import start_weights
from seqdsd.recipes.catalog import RECIPES, Recipe
from seqdsd.recipes.compressing.search import DENSE, MIN_BITS, Search, Step, Tensors
from seqdsd.recipes.compressing.settings import CompressSettings
from seqdsd.recipes.compressing.trials import Trials
from seqdsd.recipes.training import LATER_PHASES, RunConfig, finished_phases, read_run_provenance
from seqdsd.records import (
    RunFolder,
    RunFolderError,
    provenance,
    read_json_lines,
    write_atomically,
    write_json_lines,
)
from seqdsd.reports import phase_called
from seqdsd.sparsity import MaskSet
from seqdsd.sparsity.parameters import named_parameters
from seqdsd.sparsity.sensitivity import Sensitivity

STEPS = "steps.jsonl"
NOTED = "compress"
"""Of a run's provenance: what was asked of the compression."""


@dataclass(frozen=True)
class Compressed:
    """What a compression comes to.

    Attributes:
        folder: Of its run.
        step: The one that was chosen.
        phase: Its record.
        reference: The record of the weights that were given.
        points_lost: By how much it is worse on dev.
        holds: Whether that is no more than was allowed.
        shared: Its shared tensors by name.
    """

    folder: RunFolder
    step: Step
    phase: Mapping[str, Any]
    reference: Mapping[str, Any]
    points_lost: float
    holds: bool
    shared: Mapping[str, SharedTensor]

    @property
    def sparsity(self) -> float:
        """Share of zeros in the shared tensors."""
        kept = sum(int(one.mask.sum()) for one in self.shared.values())
        return 1 - kept / sum(one.codes.numel() for one in self.shared.values())


@dataclass(frozen=True)
class Parent:
    """The run that is compressed: finished, and its data still there.

    Attributes:
        folder: Of the run.
        recipe: That trained it.
        config: Its settings, with the place of the data that was asked for.
    """

    folder: RunFolder
    recipe: Recipe
    config: RunConfig

    @classmethod
    def read(cls, path: Path, data: Path | None, device: str) -> Parent:
        """See that a run can be compressed.

        Raises:
            ValueError: If it is none, not finished, compressed already, or its data are gone; or if several processes
                are to compress it.
        """
        if os.environ.get("WORLD_SIZE", "1") != "1":  # each would decide and write for itself
            raise ValueError("seqdsd compress is one process; start it without torchrun")
        folder = RunFolder(path)
        if path.is_file():
            raise RunFolderError(
                f"{path}: a file; a compressed network cannot be compressed again, nor trained. Name the folder of the "
                "run that trained it"
            )
        if not folder.config.is_file():
            raise RunFolderError(
                f"{path}: not a run folder (it has no config.toml); name the --out of a training run"
            )
        name = read_run_provenance(folder).get("recipe")
        if name not in RECIPES:
            raise RunFolderError(f"{folder.config}: its recipe {name!r} is none of {', '.join(RECIPES)}")
        recipe = RECIPES[name]
        config: RunConfig = read_config(folder.config, recipe.config_class())
        if config.method == "compress":
            raise RunFolderError(
                f"{path}: a run of seqdsd compress; name the run that it began with, "
                f"{start_weights.run_of_weights(Path(config.start_weights or '')).path}"
            )
        if finished_phases(folder, config) is None:
            raise RunFolderError(
                f"{path}: the run is not finished; go on with python -m {recipe.module} --resume --out {path}"
            )
        config = replace(config, device=device, data=data or config.data)
        if config.data is not None and not config.data.exists():
            raise RunFolderError(
                f"{config.data}: no data there"
                + ("" if data else f", where those of {path} were; name their place now by --data")
            )
        return cls(folder, recipe, config)

    def named(self, asked: CompressSettings) -> CompressSettings:
        """The same with the phase's name as the run has it.

        Raises:
            RunFolderError: If no finished phase is called so.
        """
        if asked.phase is None:
            return asked
        record = phase_called(asked.phase, self.folder.read_phases(), self.folder.path)
        return replace(asked, phase=record["name"])

    def config_of(self, out: Path, steps: Sequence[Step], phase: str | None) -> RunConfig:
        """The settings of the compression's run with these steps, begun with a phase or with the best."""
        unused = steps[0].learning_rate
        return replace(
            self.config.with_fresh_weights(),
            out=out,
            start_weights=self.folder.weights(phase) if phase else self.folder.path,
            method="compress",
            iters=len(steps),
            epochs=(1, *(step.epochs for step in steps)),
            learning_rates=(unused, *(step.learning_rate for step in steps)),
            sparsities=tuple(step.sparsity for step in steps),
        )


def compress_run(
    parent: Parent, folder: RunFolder, asked: CompressSettings, *, resume: bool, console: Console
) -> Compressed:
    """Prune a finished run's best network and share its weights, or go on where that was stopped.

    Args:
        parent: The run.
        folder: Of the compression's own run.
        asked: How.
        resume: Whether it may have begun.
        console: Where progress is shown.

    Raises:
        ValueError: For settings, data or folders that cannot be used; the message says what to do.
        StopRequested, TrainingDiverged: See ``seqdsd.engine.DSDTraining.run``.
    """
    settings = _settings(parent, folder, asked, resume=resume)
    with folder.locked():
        return _Compression(parent, folder, settings, console).run()


def describe_compression(
    parent: Parent, folder: RunFolder, asked: CompressSettings, *, resume: bool, console: Console
) -> None:
    """Print what ``compress_run`` would do; nothing is trained or written.

    Raises:
        ValueError: See ``compress_run``.
    """
    settings = _settings(parent, folder, asked, resume=resume)
    _Compression(parent, folder, settings, console).describe()


def _settings(
    parent: Parent, folder: RunFolder, asked: CompressSettings, *, resume: bool
) -> CompressSettings:
    """Those of the run that has begun, or what was asked.

    Raises:
        RunFolderError: If a run is there that may not be, is none of this command, or was asked otherwise.
    """
    asked = parent.named(asked)
    if not folder.config.is_file():
        return asked.resolved(parent.config, parent.recipe.kind)
    if not resume:
        raise RunFolderError(
            f"{folder.path}: there is a run already; go on with --resume or take another --run-folder"
        )
    noted = read_run_provenance(folder).get(NOTED)
    if not isinstance(noted, dict):
        raise RunFolderError(
            f"{folder.path}: a run of something else than seqdsd compress; take another --run-folder"
        )
    begun = read_values(folder.config).get("start_weights")  # of whatever recipe
    begun_with = start_weights.run_of_weights(Path(str(begun))).path
    if begun_with.resolve() != parent.folder.path.resolve():
        raise RunFolderError(
            f"{folder.path}: the compression of {begun_with}; resume with it, or take another --run-folder"
        )
    if changed := asked.other_than(noted):
        raise RunFolderError(
            f"{folder.path}: was begun with other settings ({'; '.join(changed)}); resume without these flags, or take "
            "another --out"
        )
    try:
        return msgspec.convert(noted, CompressSettings)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(
            f"{folder.config}: [provenance.{NOTED}]: {error}; bring the file back, or take another --out"
        ) from error


class _Compression:
    """One compression, from its start or from where its folder stands."""

    def __init__(
        self, parent: Parent, folder: RunFolder, settings: CompressSettings, console: Console
    ) -> None:
        self._parent, self._folder, self._settings, self._console = parent, folder, settings, console
        recipe = parent.recipe
        # The first step's sparsity is not known before the scan; the task asks for none.
        self._config = self._config_of([Step("sparse", DENSE, 0.5, {}, {}, 1, 1.0)])
        self._fabric: Fabric = make_fabric(parent.config.device, parent.config.precision)
        self._given: GivenWeights | None = start_weights.given_weights(self._config, folder, None)
        known = (
            folder
            if folder.config.is_file()
            else start_weights.given_run(self._config, recipe.name, part=recipe.spelling)
        )
        self._task = recipe.make_task(self._config, known, self._fabric, self._given)
        tensors = Tensors.of(self._task.model, settings)
        if not folder.config.is_file():
            tensors.check(settings)
        self._search = Search(settings, recipe.kind.primary, tensors)
        self._has_walked = False
        path = folder.path / STEPS
        rows = list(read_json_lines(path, Step)) if path.is_file() else []
        self._steps = [msgspec.convert(row, Step) for row in rows]

    def run(self) -> Compressed:
        """Train what is left of it."""
        records = self._walk_on()
        while (step := self._next(records)) is not None:
            self._steps.append(step)
            self._write_steps()
            self._console.print(f"Next: {step}", style="bold", highlight=False, markup=False, soft_wrap=True)
            records = self._walk(len(self._steps))
        return self._compressed(records)

    def describe(self) -> None:
        """Print what would be done, as far as it is known before."""
        search, settings, console = self._search, self._settings, self._console
        table = Table("tensor", "shape", "weights", "pruned", "shared", title="Tensors")
        for one in named_parameters(self._task.model):
            fixed = search.tensors.fixed.get(one.name)
            is_open = one.name in search.tensors.weights
            pruned = "as dev says" if fixed is None else f"{fixed:.1%}"
            given = search.tensors.bits(settings.bits) if settings.bits else search.tensors.fixed_bits
            bits = given.get(one.name)
            table.add_row(
                one.name,
                "x".join(map(str, one.parameter.shape)),
                f"{one.parameter.numel():,}",
                pruned if is_open else NONE,
                ("bits as dev says" if bits is None else f"{bits} bits") if is_open else NONE,
            )
        console.print(table)
        said = [
            f"Given: {settings.phase or 'the best network on dev'} of {self._parent.folder.path}",
            *search.said(),
            f"Each step: at most {settings.epochs} epochs at {settings.learning_rate:g} (shared weights: "
            f"{settings.shared_learning_rate:g}); data: {self._config.data or 'the embedded corpus'}",
        ]
        console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)

    def _config_of(self, steps: Sequence[Step]) -> RunConfig:
        return self._parent.config_of(self._folder.path, steps, self._settings.phase)

    def _walk_on(self) -> list[dict[str, Any]]:
        """Train the steps that are decided already, from where the run stands; the records so far."""
        begun = phases_begun(self._folder) - 1
        if begun > len(self._steps):
            raise RunFolderError(
                f"{self._folder.path / STEPS}: {len(self._steps)} steps, but {begun} were begun; bring the file "
                "back, or take another --out"
            )
        records = self._walk(begun) if begun > 0 else []
        for number in range(max(1, begun + 1), len(self._steps) + 1):
            records = self._walk(number)
        return records

    def _next(self, records: Sequence[Mapping[str, Any]]) -> Step | None:
        return self._search.next_step(self._steps, records, scan=self._scan, first_bits=self._first_bits)

    @cached_property
    def _trials(self) -> Trials:
        return Trials(self._task, self._fabric)

    def _scan(self) -> Sequence[Sensitivity]:
        """What pruning each tensor costs, measured once and read from then on."""
        self._load(DENSE)
        return self._trials.scan(self._search.tensors.free, self._folder, self._console)

    def _first_bits(self, begin_with: str) -> int:
        """The fewest bits with which the score of a phase holds before any training."""
        self._load(begin_with)
        metric, most = self._search.metric, self._settings.max_loss or 0.0
        before = metric.of({"dev": self._trials.evaluate().metrics}, "dev")
        for bits in range(MIN_BITS, MAX_BITS):
            shared = self._shared(begin_with, self._search.tensors.bits([bits]))
            after = metric.of({"dev": self._trials.shared(shared).metrics}, "dev")
            assert before is not None and after is not None  # of every network of the kind
            if -metric.scale * metric.gain(before, after) <= most + 1e-9:
                return bits
        return MAX_BITS

    def _load(self, phase: str) -> None:
        """Give the network a phase's weights; before the given ones are measured it has these."""
        path = self._folder.weights(phase)
        if phase != DENSE or path.is_file():
            self._task.model.load_state_dict(load_checkpoint(path).tensors)

    def _shared(self, begin_with: str, bits: Mapping[str, int]) -> dict[str, SharedTensor]:
        """The network's tensors as they are, with shared values; what the phase before has pruned stays pruned."""
        masks: Mapping[str, torch.Tensor] = {}
        if begin_with != DENSE:
            state = load_checkpoint(self._folder.mask(begin_with)).tensors
            masks = MaskSet.from_state_dict(self._task.model, state).masks
        parameters = dict(self._task.model.named_parameters())
        # Where no mask says more, a weight that is exactly zero (of a sparse phase that was given) needs no value of
        # the codebook.
        return {
            name: share_weights(parameters[name], masks.get(name, parameters[name] != 0), bits=one)
            for name, one in bits.items()
        }

    def _write_steps(self) -> None:
        """Write what was decided, first as settings: without them the steps would be nobody's when it goes on."""
        self._folder.path.mkdir(parents=True, exist_ok=True)
        config = self._config_of(self._steps)
        begun = self._folder.config.is_file()
        origin = read_provenance(self._folder.config) if begun else self._origin()
        write_atomically(self._folder.config, to_toml(config, origin))
        write_json_lines(self._folder.path / STEPS, map(asdict, self._steps))

    def _origin(self) -> dict[str, Any]:
        return {
            "recipe": self._parent.recipe.name,
            NOTED: to_values(self._settings),
            **self._parent.recipe.save_parts(self._task, self._folder.path),
            **start_weights.noted(self._given, None),
            "threads": torch.get_num_threads(),
            "device_used": device_name(self._fabric.device),
            **provenance(self._config.seed),
        }

    def _walk(self, number: int) -> list[dict[str, Any]]:
        """Train until so many steps are done; the records of all phases until then."""
        steps = self._steps[:number]
        config = self._config_of(steps)
        schedule, begun = config.schedule, phases_begun(self._folder)
        if 0 < begun <= number:
            add_phases(self._folder, schedule, begin_with=steps[-1].begin_with)
        by_phase = dict(zip((phase.name for phase in schedule.phases[1:]), steps, strict=True))
        training = DSDTraining(
            self._task,
            schedule,
            {name: step.rules for name, step in by_phase.items() if step.kind == "sparse"},
            settings=TrainSettings(
                config.optimizer,  # type: ignore[attr-defined]  # every recipe's settings have one
                config.patience,
                config.checkpoint_minutes,
                config.seed,
                config.score_test,
            ),
            folder=self._folder,
            fabric=self._fabric,
            console=self._console,
            noted={
                name: one
                for name, one in flat_values(config).items()
                if name not in (*self._parent.recipe.may_change, *LATER_PHASES, "data", "start_weights")
            },
            given=self._given,
            says_where=not self._has_walked,
            share=lambda phase: self._shared(by_phase[phase.name].begin_with, by_phase[phase.name].bits),
        )
        self._has_walked = True
        return training.run()

    def _compressed(self, records: Sequence[Mapping[str, Any]]) -> Compressed:
        step, record = self._search.chosen(self._steps, records)
        self._load(str(record["name"]))
        parameters = dict(self._task.model.named_parameters())
        # As many values as it has, so that these are found again, each as it is.
        shared = {
            name: share_weights(parameters[name], parameters[name] != 0, bits=bits)
            for name, bits in step.bits.items()
        }
        return Compressed(
            folder=self._folder,
            step=step,
            phase=record,
            reference=records[0],
            points_lost=self._search.points_lost(record, records[0]),
            holds=self._search.holds(record, records[0]),
            shared=shared,
        )
