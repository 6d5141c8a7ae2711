"""What every recipe's run has in common: its folder, its schedule, its training, and the description of both.

What differs, the settings and the task made from them, is each recipe's own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from seqdsd.config import differences, flat_values, read_config, read_provenance, read_values, to_toml
from seqdsd.data import OnBadData
from seqdsd.engine import (
    AskedPrecision,
    DSDTraining,
    GivenWeights,
    OptimizerSettings,
    OutOfMemory,
    Precision,
    Processes,
    Task,
    TrainSettings,
    device_name,
    has_checkpoint,
    make_fabric,
    precision_of,
)
from seqdsd.fabric import Fabric
from seqdsd.printable import printable
from seqdsd.recipes import start_weights
from seqdsd.records import RunFolder, RunFolderError, checked_provenance, provenance, write_atomically
from seqdsd.records.shapes import MAX_ITERS
from seqdsd.sparsity import RestoredStart, Rule, Schedule, resolve

log = logging.getLogger(__name__)

NetworkT = TypeVar("NetworkT", bound=nn.Module)
TaskT = TypeVar("TaskT", bound=Task[Any])
ConfigT = TypeVar("ConfigT", bound="RunConfig")

MAX_HIDDEN_SIZE = 65_536
MAX_EPOCHS = 1_000_000
MAX_ACCUMULATE = 1_000_000
MAX_LEARNING_RATE = 1000.0
"""No optimizer here learns at a higher one; far beyond it floating point overflows."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that every recipe has; those without a default get the recipe's own."""

    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("hidden_size", "network")
    """Those that make the network and what goes with it."""
    SETTINGS_OF_USE: ClassVar[tuple[str, ...]] = ("precision",)
    """Those, beside them, that decide what a trained network gives and how it is scored."""

    data: Path | None = None
    """Where the corpus is; without it a small one is made on the spot."""
    out: Path
    """The run folder."""
    iters: int
    """Rounds of sparse and redense phases after the first dense phase."""
    epochs: tuple[int, ...]
    """Epochs of each phase: one number for all or one a phase."""
    hidden_size: int | None
    """Units of every hidden layer; None where a network has its own."""
    start_weights: Path | None = None
    """Trained weights that stand for the first dense phase, so that the run begins with the first sparse one: a
    safetensors file, a state_dict saved by torch, a .dsdz file, or the folder of a run (its best phase on dev). Epochs
    and learning rates keep their places: the first of each is not used."""
    seed: int = 0
    """Decides initial weights, order of the data and all randomness."""
    learning_rates: tuple[float, ...]
    """One a phase; further phases keep the last ratio."""
    sparsities: tuple[float, ...]
    """One a round; further rounds halve the last."""
    method: Literal["dsd", "llr", "baseline", "compress"] = "dsd"
    """llr: the same phases and learning rates, nothing pruned; baseline: one dense phase of as many epochs in all;
    compress: of a run of seqdsd compress, whose phases are in iters, epochs, sparsities (0: shared weights)."""
    restored_start: RestoredStart = "zero"
    """What pruned weights begin their redense phase with: zero, as in the paper; former, their values before they were
    pruned; fresh, new draws of the network's initialisation, which the seed decides."""
    score_test: bool = True
    """Score the test sets at each phase's end; without it (while settings are still being chosen) they are not read."""
    patience: int = 10
    """A phase ends early after this many epochs without a better dev score; 0 never ends it early. One with
    optimizer.curve "cosine" then ends before its rate has fallen: take 0, or at least the phase's epochs."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at least this often, and at every phase's end."""
    on_bad_data: OnBadData = "error"
    """Stop at an item that cannot be used, or skip it and list it in skipped.jsonl."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the network. auto multiplies a few times in either before the run begins, takes bfloat16 where it
    is at least twice as fast, and notes in config.toml what that was."""
    accumulate: int = 1
    """Micro-batches that a process computes of a batch, one after the other, to need less memory. Gradients are added
    up; batch norm sees one micro-batch at a time."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name, value, most in (
            ("hidden_size", 1 if self.hidden_size is None else self.hidden_size, MAX_HIDDEN_SIZE),
            ("accumulate", self.accumulate, MAX_ACCUMULATE),
            ("epochs", max((1, *self.epochs)), MAX_EPOCHS),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")
        if self.iters > MAX_ITERS:
            raise ValueError(f"iters must be at most {MAX_ITERS}, got {self.iters}")
        if max((0, *self.learning_rates)) > MAX_LEARNING_RATE:
            raise ValueError(
                f"learning_rates must be at most {MAX_LEARNING_RATE:g}, got {self.learning_rates}"
            )
        # Now, not when a run folder has been begun:
        TrainSettings(patience=self.patience, checkpoint_minutes=self.checkpoint_minutes)
        _ = self.schedule  # raises for iters, epochs, rates and sparsities out of range

    @property
    def schedule(self) -> Schedule:
        """The phases."""
        if self.method == "compress":
            if not len(self.sparsities) == self.iters == len(self.epochs) - 1 == len(self.learning_rates) - 1:
                raise ValueError(
                    'method "compress" is that of the runs of seqdsd compress, which begins them'
                )
            return Schedule.compression(self.sparsities, self.epochs, self.learning_rates)
        schedule = Schedule.dsd(self.iters, self.epochs, self.sparsities, self.learning_rates)
        if self.start_weights is not None:
            if not self.iters:
                raise ValueError(
                    "start_weights stand for the first dense phase, and with iters 0 there is no other to train; take "
                    "iters 1 or more, or leave start_weights out"
                )
            schedule = schedule.first_given()
        if self.method == "llr":
            return schedule.lower_learning_rate_only()
        return schedule.equal_epoch_baseline() if self.method == "baseline" else schedule

    @property
    def initial_weights(self) -> Path | None:
        """What the network begins with in place of fresh weights: a file, the folder of a run, or a name."""
        return self.start_weights

    def with_fresh_weights(self) -> RunConfig:
        """The settings of a run that begins with no weights of somebody else."""
        return replace(self, start_weights=None)

    @property
    def fresh_layers(self) -> tuple[str, ...]:
        """Modules of the network that begin fresh all the same."""
        return ()

    def weights_by_name(self, name: str, *, download: bool = True) -> Path | None:
        """The file of ``initial_weights`` that a name stands for; None where it is no such name.

        Without ``download`` it may not be there yet.
        """
        return None

    @property
    def pins_memory(self) -> bool:
        """Whether batches are made ready to be copied to a GPU while it computes."""
        return torch.cuda.is_available() and self.device != "cpu"


LESS_MEMORY = (
    "compute less of it at once (--accumulate 4), keep less of it (--precision bf16-mixed; for recognisers "
    "--network.recompute-layers), or make batches smaller (docs/scaling.md)"
)
LATER_PHASES = ("out", "method", "iters", "epochs", "learning_rates", "sparsities", "restored_start")
"""Settings in which runs may differ that have their leading phases in common; the phases themselves are compared."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: its folder and its phase records."""

    folder: RunFolder
    phases: list[dict[str, Any]]


def holds_run(folder: RunFolder, config: RunConfig, *, resume: bool, may_change: Sequence[str]) -> bool:
    """Whether the folder holds a run; if it does, it must be the one asked for.

    Args:
        folder: Of the run.
        config: What is asked for.
        resume: Whether a run may be there.
        may_change: Settings that do not change what is trained.

    Raises:
        RunFolderError: If there is a run that may not be, or that has other settings; or parts of one: checkpoints or
            records without settings, or records that no checkpoint goes with.
    """
    if not folder.config.is_file():
        left = [
            path
            for path in (folder.phases, *sorted(folder.checkpoints.glob("*.safetensors")))
            if path.is_file()
        ]
        if left:
            raise RunFolderError(
                f"{folder.config}: missing, but there is {left[0].relative_to(folder.path)} of a run; bring the file "
                "back, or take another --out"
            )
        return False
    if not resume:
        raise RunFolderError(
            f"{folder.path}: there is a run already; go on with --resume or take another --out"
        )
    read_run_provenance(folder)
    if changed := _changed(folder, config, may_change):
        raise RunFolderError(
            f"{folder.path}: the run there has other settings ({'; '.join(changed)}); resume with its own "
            f"(--resume without these flags, or --config {folder.config}) or take another --out"
        )
    if not has_checkpoint(folder.checkpoints):
        _check_no_phase_is_lost(folder, config)
    return True


def _check_no_phase_is_lost(folder: RunFolder, config: RunConfig) -> None:
    """See that a run without a checkpoint to go on from has nothing to go on with, or is complete.

    Raises:
        RunFolderError: If it has.
    """
    records = folder.read_phases() if folder.phases.is_file() else []
    if 0 < len(records) < len(config.schedule):
        raise RunFolderError(
            f"{folder.path}: {len(records)} of {len(config.schedule)} phases are recorded, but there is neither "
            f"{folder.checkpoints.name}/last.safetensors nor previous.safetensors to go on from; bring one of them "
            "back, or take another --out"
        )


def find_parent(
    start_from: Path | None, folder: RunFolder, config: RunConfig, *, recipe: str, may_change: Sequence[str]
) -> RunFolder | None:
    """The run whose leading phases are to be taken over; None where none is asked for or training has begun.

    Args:
        start_from: Folder of the run that has trained them.
        folder: Of the run that begins. Its settings may be there already, if it was stopped while it took over.
        config: Of the run that begins.
        recipe: Its recipe's name.
        may_change: Settings that do not change what is trained.

    Raises:
        RunFolderError: If there is no run, it is another recipe's, or it has other settings than those that decide
            about later phases.
    """
    if start_from is None or has_checkpoint(folder.checkpoints):
        return None
    parent = RunFolder(start_from)
    if not parent.config.is_file():
        raise RunFolderError(f"{parent.path}: no run to start from; --start-from takes the folder of a run")
    if (its_recipe := read_run_provenance(parent).get("recipe")) != recipe:
        raise RunFolderError(f"{parent.path}: a run of {its_recipe!r}, from which {recipe!r} cannot start")
    if changed := _changed(parent, config, (*may_change, *LATER_PHASES)):
        raise RunFolderError(
            f"{parent.path}: the run to start from has other settings ({'; '.join(changed)}); give this run the same "
            f"(such as by --config {parent.config})"
        )
    return parent


def read_run_provenance(folder: RunFolder) -> dict[str, Any]:
    """How a run came about.

    Raises:
        ConfigError: If its settings cannot be read.
        RunFolderError: If another version of seqdsd has written the folder.
    """
    return checked_provenance(read_provenance(folder.config), folder.config)


def _changed(folder: RunFolder, config: RunConfig, may_change: Sequence[str]) -> list[str]:
    """Where the run in the folder has other settings, but for those that may change."""
    defaults = type(config)()  # type: ignore[call-arg]  # a recipe's own class has a default for everything
    found = differences(read_config(folder.config, defaults), config)
    return [line for line in found if line.split(":")[0] not in may_change]


def finished_phases(folder: RunFolder, config: RunConfig) -> list[dict[str, Any]] | None:
    """The records of a run that is complete; None of one that is not.

    Raises:
        RunFolderError: If there are records that no run with these settings writes.
    """
    if not folder.phases.is_file():
        return None
    records = folder.read_phases(planned=len(config.schedule))
    return records if len(records) == len(config.schedule) else None


def train_or_resume(
    config: RunConfig,
    *,
    recipe: str,
    rules: Sequence[Rule],
    optimizer: OptimizerSettings,
    may_change: Sequence[str],
    spelling: str,
    make_task: Callable[[RunFolder | None, Fabric, GivenWeights | None], TaskT],
    save_parts: Callable[[TaskT, Path], Mapping[str, Any]],
    make_fresh: Callable[[TaskT], nn.Module],
    resume: bool,
    start_from: Path | None,
    console: Console,
) -> RunResult:
    """Train, or go on where the run in ``config.out`` stopped; a complete run is returned as it is.

    Args:
        config: The run's settings.
        recipe: See ``train``; also ``rules``, ``optimizer``, ``may_change``, ``console``.
        rules: See there.
        optimizer: See there.
        may_change: See there.
        spelling: The part of the settings that decides what the network's outputs mean.
        make_task: Makes what is trained of a run whose outputs' meaning goes on, if any, and the weights that are
            given, if any (see ``make_network``). Of a machine's processes the first makes it before the others.
        save_parts: As in ``train``, with the task before.
        make_fresh: Likewise.
        resume: Whether a run may be there.
        start_from: A run whose leading phases are taken over, as far as both have them in common.
        console: See there.

    Raises:
        ValueError: For settings, data or a run folder that cannot be used; the message says what to do.
    """
    if config.method == "compress":
        raise ValueError(
            f"{config.out}: a run of seqdsd compress; go on with seqdsd compress RUN --out FILE --resume"
        )
    folder = RunFolder(config.out)
    config = with_noted_precision(
        config, [folder.config, *([RunFolder(start_from).config] if start_from else [])]
    )
    has_run = holds_run(folder, config, resume=resume, may_change=may_change)
    parent = find_parent(start_from, folder, config, recipe=recipe, may_change=may_change)
    if has_run and (phases := finished_phases(folder, config)) is not None:
        return RunResult(folder, phases)
    # Not made anew: from data that were mended since then, it would come out otherwise.
    known = folder if has_run else parent or start_weights.given_run(config, recipe, part=spelling)
    fabric = make_fabric(config.device, config.precision)
    config = replace(config, precision=precision_of(fabric))
    with fabric.rank_zero_first(local=True):  # what is downloaded, drawn or computed is so once
        # Before data are read, which may take long.
        given = start_weights.given_weights(config, folder, parent)
        task = make_task(known, fabric, given)
    phases = train(
        task,
        config,
        recipe=recipe,
        rules=rules,
        optimizer=optimizer,
        folder=folder,
        fabric=fabric,
        console=console,
        save_parts=partial(save_parts, task),
        make_fresh=partial(make_fresh, task),
        may_change=may_change,
        start_from=parent,
        given=given,
    )
    return RunResult(folder, phases)


def with_noted_precision(config: ConfigT, files: Iterable[Path]) -> ConfigT:
    """Settings in whose place of ``auto`` is the precision that the first of these files has noted.

    Raises:
        ConfigError: If it cannot be read.
    """
    if config.precision != "auto":
        return config
    for path in filter(Path.is_file, files):
        noted = read_values(path).get("precision")
        for known in get_args(Precision):
            if known == noted:
                return replace(config, precision=known)
    return config


def train(
    task: Task[Any],
    config: RunConfig,
    *,
    recipe: str,
    rules: Sequence[Rule],
    optimizer: OptimizerSettings,
    folder: RunFolder,
    fabric: Fabric,
    console: Console,
    save_parts: Callable[[Path], Mapping[str, Any]],
    may_change: Sequence[str],
    make_fresh: Callable[[], nn.Module] | None = None,
    start_from: RunFolder | None = None,
    given: GivenWeights | None = None,
) -> list[dict[str, Any]]:
    """Train, or go on where the run in the folder stopped.

    Args:
        task: What is trained.
        config: The run's settings.
        recipe: Its name, by which the run's weights are loaded later.
        rules: What is pruned.
        optimizer: How each phase is optimised.
        folder: Of the run.
        fabric: Device, precision, and the processes that train together.
        console: Where progress is shown.
        save_parts: Called once, when a run begins, with the folder's path: writes what the weights need beside them,
            and returns what is to be noted of it with the settings.
        may_change: Settings that do not change what is trained; checkpoints carry the others.
        make_fresh: The task's network once more, with fresh weights from torch's generator; for ``restored_start``
            "fresh".
        start_from: A run that may be taken over from (see ``find_parent``), if any.
        given: The weights that the task's network has been given (see ``make_network``), if any.

    Raises:
        ValueError, StopRequested, TrainingDiverged: See ``DSDTraining.run``.
        OutOfMemory: With what helps; a run that began with it leaves no settings behind.
    """
    # The baseline is there to train as many epochs: it has no patience.
    patience = 0 if config.method == "baseline" else config.patience
    processes = Processes.of(fabric)
    with folder.locked() if processes.is_first else nullcontext():
        begins = processes.is_first and not folder.config.is_file()
        if begins:
            origin = {
                "recipe": recipe,
                **_parts(save_parts, folder.path),
                **start_weights.noted(given, start_from),
                "threads": torch.get_num_threads(),
                **({"processes": processes.count} if processes.count > 1 else {}),
                "device_used": device_name(fabric.device),
                **provenance(config.seed),
            }
            write_atomically(folder.config, to_toml(config, origin))
        elif start_from is None and not has_checkpoint(folder.checkpoints):
            log.warning("%s: no checkpoint to go on from: the run begins with its first phase", folder.path)
        processes.wait()
        training = DSDTraining(
            task,
            config.schedule,
            rules,
            settings=TrainSettings(
                optimizer,
                patience,
                config.checkpoint_minutes,
                config.seed,
                config.score_test,
                config.restored_start,
            ),
            folder=folder,
            fabric=fabric,
            console=console,
            start_from=start_from,
            noted={name: one for name, one in flat_values(config).items() if name not in may_change},
            given=given,
            make_fresh=make_fresh,
        )
        try:
            return training.run()
        except OutOfMemory as error:
            # Nothing is trained, and nothing taken over: the same folder may be begun with other settings.
            if begins and not has_checkpoint(folder.checkpoints):
                folder.config.unlink()
            raise OutOfMemory(f"{error}; {LESS_MEMORY}") from error


def _parts(save_parts: Callable[[Path], Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    """What ``save_parts`` notes; the folder is named where it cannot be written."""
    try:
        return save_parts(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error}); make room, or take another --out") from error


def make_network(
    make: Callable[[], NetworkT],
    config: RunConfig,
    *,
    optimizer: OptimizerSettings,
    given: GivenWeights | None = None,
) -> NetworkT:
    """The network as a run begins with it: with weights that the seed decides, or those that are given.

    Raises:
        OutOfMemory: If the machine has not the memory for it.
        ValueError: If the weights do not fit it.
    """
    check_memory(make, config, optimizer=optimizer)
    torch.manual_seed(config.seed)
    model = make()
    if given is not None:
        start_weights.begin_with(given, model, config)
    return model


def check_memory(
    make_model: Callable[[], nn.Module], config: RunConfig, *, optimizer: OptimizerSettings
) -> None:
    """See that the machine has the memory for a network, before it is made.

    Training on the CPU keeps, beside the weights, a gradient, the optimizer's state and the phase's best weights.

    Raises:
        OutOfMemory: If it has not.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # a network without storage
        count = sum(parameter.numel() for parameter in make_model().parameters())
    copies = 1 if config.pins_memory else 3 + optimizer.state_size
    needed, there = 4 * copies * count, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        smaller = "network" if config.hidden_size is None else f"--hidden-size (got {config.hidden_size})"
        raise OutOfMemory(
            f"a network of {count:,} parameters takes {needed / 1e9:,.0f} GB to train, and this machine has "
            f"{there / 1e9:,.0f} GB; take a smaller {smaller}"
        )


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The network's layers by name, those of a list one by one."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", layer) for index, layer in enumerate(child))
        else:
            yield name, child


def describe_training(
    model: nn.Module, config: RunConfig, *, rules: Sequence[Rule], console: Console
) -> None:
    """Print network, schedule, and what each sparse phase prunes by which rule.

    Raises:
        ValueError: If the weights that are to be given are there and cannot be used, or do not fit.
    """
    if config.initial_weights is not None:
        said = printable(start_weights.described(config, model))
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    layers = Table("layer", "parameters", title="Network")
    for name, module in _layers(model):
        if count := sum(parameter.numel() for parameter in module.parameters()):
            layers.add_row(name, f"{count:,}")
    layers.add_row("total", f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    console.print(layers)
    schedule = config.schedule
    phases = Table("phase", "epochs", "learning rate", "sparsity", title=f"Schedule ({config.method})")
    for phase in schedule:
        trained = ("given", "-") if phase.is_given else (str(phase.epochs), f"{phase.learning_rate:g}")
        phases.add_row(phase.name, *trained, f"{phase.sparsity:.0%}")
    console.print(phases)
    for phase in schedule:
        if phase.sparsity:
            console.print(f"[bold]{phase.name} prunes[/bold]")
            plan = str(resolve(model, rules, phase.sparsity))
            console.print(plan, highlight=False, markup=False, soft_wrap=True)
