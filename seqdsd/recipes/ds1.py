"""DeepSpeech 1 with Dense-Sparse-Dense training (Han et al. 2017, section 4.5).

    python -m seqdsd.recipes.ds1 --iters 2                               # embedded corpus, no download
    python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --iters 2  # AN4

Where no data is named a small corpus is synthesised, and the settings begin from ``ds1_embedded.toml``; otherwise
from the paper's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from seqdsd.audio import LogSpectrogram
from seqdsd.config import differences, read_config, to_toml
from seqdsd.data import Corpus, OnBadData, read_corpus
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.engine import DSDTraining, NesterovSettings, Precision, TrainSettings, make_fabric
from seqdsd.models import DeepSpeech1
from seqdsd.recipes.command import parse_command, run_command
from seqdsd.records import RunFolder, RunFolderError, provenance, write_atomically
from seqdsd.reports.phase_table import phase_table
from seqdsd.sparsity import SPEECH_RULES, Schedule, resolve
from seqdsd.sparsity.schedule import DS1_LEARNING_RATES, DS1_SPARSITIES
from seqdsd.tasks import AugmentSettings, BatchSettings, SpeechTask
from seqdsd.text import CharacterTokenizer, SubwordTokenizer, Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

RECIPE = "ds1"
MAY_CHANGE_ON_RESUME = ("out", "device", "checkpoint_minutes", "batches.num_workers", "on_bad_data")
EMBEDDED_SETTINGS = Path(__file__).with_name("ds1_embedded.toml")


@dataclass(frozen=True)
class NetworkSettings:
    """What the paper's network does not have."""

    batch_norm: bool = False
    """Batch norm over valid frames on every hidden layer, in place of its bias; small corpora need it."""
    dropout: float = 0.0
    """On the feed-forward layers' outputs, in training."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the network spells with."""

    kind: Literal["characters", "subwords"] = "characters"
    """29 characters (a-z, space, apostrophe, blank), or SentencePiece pieces learnt from the training transcripts."""
    vocab_size: int = 128
    """Number of sub-words, the blank included; characters are always 29."""


@dataclass(frozen=True)
class Config:
    """Settings of a DeepSpeech 1 run; the defaults are the paper's where it prints them."""

    data: Path | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl (or several test_NAME.jsonl); scripts in data_prep/ write them.
    Without it a small corpus is synthesised."""
    out: Path = Path("runs/ds1")
    """The run folder."""
    iters: int = 2
    """Rounds of sparse and redense phases after the first dense phase (Table 7: 2)."""
    epochs: tuple[int, ...] = (50,)
    """Epochs of each phase: one number for all or one a phase (Table 7: 50)."""
    hidden_size: int = 1024
    """Units of every hidden layer (Table 6's counts)."""
    seed: int = 0
    """Decides initial weights, order of the data and all randomness."""
    learning_rates: tuple[float, ...] = DS1_LEARNING_RATES
    """One a phase (Table 7); further phases keep the last ratio."""
    sparsities: tuple[float, ...] = DS1_SPARSITIES
    """One a round (Table 7); further rounds halve the last."""
    method: Literal["dsd", "llr", "baseline"] = "dsd"
    """llr: the same phases and learning rates, nothing pruned; baseline: one dense phase of as many epochs in all."""
    patience: int = 10
    """A phase ends early after this many epochs without a better dev score; 0 never ends it early."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at least this often, and at every phase's end."""
    on_bad_data: OnBadData = "error"
    """Stop at an utterance that cannot be used, or skip it and list it in skipped.jsonl."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    precision: Precision = "32-true"
    """Arithmetic of the network."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    optimizer: NesterovSettings = field(default_factory=NesterovSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {self.hidden_size}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        _ = self.schedule  # raises for iters, epochs, rates and sparsities out of range

    @property
    def schedule(self) -> Schedule:
        """The phases."""
        schedule = Schedule.dsd(self.iters, self.epochs, self.sparsities, self.learning_rates)
        if self.method == "llr":
            return schedule.lower_learning_rate_only()
        return schedule.equal_epoch_baseline() if self.method == "baseline" else schedule

    @property
    def stops_after(self) -> int:
        """``patience``, which the baseline does not have: it is there to train as many epochs."""
        return 0 if self.method == "baseline" else self.patience


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: its folder and its phase records."""

    folder: RunFolder
    phases: list[dict[str, Any]]


def run(config: Config, *, resume: bool = False, console: Console | None = None) -> RunResult:
    """Train, or go on where the run in ``config.out`` stopped; a complete run is returned as it is.

    Raises:
        ValueError: For settings, data or a run folder that cannot be used; the message says what to do.
    """
    console = console or Console()
    folder = RunFolder(config.out)
    has_run = _check_folder(folder, config, resume=resume)
    if has_run and folder.phases.is_file() and len(folder.read_phases()) == len(config.schedule):
        phases = folder.read_phases()
    else:
        # Not learnt again: from transcripts mended since then, sub-words would come out otherwise.
        tokenizer = load_tokenizer(folder.path / "tokenizer") if has_run else None
        phases = _train(config, make_task(config, tokenizer), folder, console)
    console.print(phase_table(phases))
    return RunResult(folder, phases)


def dry_run(config: Config, console: Console | None = None) -> None:
    """Print corpus, network, pruning plan and schedule; train nothing."""
    describe(config, make_task(config), console or Console())


def _train(config: Config, task: SpeechTask, folder: RunFolder, console: Console) -> list[dict[str, Any]]:
    fabric = make_fabric(config.device, config.precision)
    with folder.locked():
        if not folder.config.is_file():
            task.tokenizer.save(folder.path / "tokenizer")
            origin = {"recipe": RECIPE, "threads": torch.get_num_threads(), **provenance(config.seed)}
            write_atomically(folder.config, to_toml(config, origin))
        training = DSDTraining(
            task,
            config.schedule,
            SPEECH_RULES,
            settings=TrainSettings(
                config.optimizer, config.stops_after, config.checkpoint_minutes, config.seed
            ),
            folder=folder,
            fabric=fabric,
            console=console,
        )
        return training.run()


def make_task(config: Config, tokenizer: Tokenizer | None = None) -> SpeechTask:
    """The network with fresh weights and its data; without a tokenizer the one asked for is made.

    Raises:
        ValueError: For data that cannot be used.
    """
    torch.manual_seed(config.seed)
    corpus = read_corpus(config.data or synthetic_speech(SyntheticSpeech()), on_bad_data=config.on_bad_data)
    tokenizer = tokenizer or make_tokenizer(config.tokenizer, corpus)
    return SpeechTask(
        model=make_model(config, tokenizer),
        tokenizer=tokenizer,
        corpus=corpus,
        batches_settings=config.batches,
        augment=config.augment,
        on_bad_data=config.on_bad_data,
        seed=config.seed,
        pin_memory=torch.cuda.is_available() and config.device != "cpu",
    )


def make_tokenizer(settings: TokenizerSettings, corpus: Corpus) -> Tokenizer:
    """The tokenizer asked for; sub-words are learnt from the training transcripts."""
    if settings.kind == "characters":
        return CharacterTokenizer()
    return SubwordTokenizer.train([one.text for one in corpus.train.utterances], settings.vocab_size)


def make_model(config: Config, tokenizer: Tokenizer) -> DeepSpeech1:
    """The network, with fresh weights from torch's generator."""
    return DeepSpeech1(
        vocab_size=tokenizer.vocab_size,
        num_bins=LogSpectrogram.num_bins,
        hidden_size=config.hidden_size,
        batch_norm=config.network.batch_norm,
        dropout=config.network.dropout,
    )


def describe(config: Config, task: SpeechTask, console: Console) -> None:
    """Print corpus, network, pruning plan and schedule."""
    seconds = ", ".join(f"{split} {total / 60:.1f} min" for split, total in task.seconds.items())
    console.print(f"[bold]Corpus[/bold] {config.data or 'embedded (synthesised)'}: {seconds}")
    layers = Table("layer", "parameters", title="Network")
    for name, module in task.model.named_children():
        layers.add_row(name, f"{sum(parameter.numel() for parameter in module.parameters()):,}")
    layers.add_row("total", f"{sum(parameter.numel() for parameter in task.model.parameters()):,}")
    console.print(layers)
    phases = Table("phase", "epochs", "learning rate", "sparsity", title=f"Schedule ({config.method})")
    for phase in config.schedule:
        phases.add_row(phase.name, str(phase.epochs), f"{phase.learning_rate:g}", f"{phase.sparsity:.0%}")
    console.print(phases)
    for phase in config.schedule:
        if phase.sparsity:
            console.print(f"[bold]{phase.name} prunes[/bold]")
            console.print(
                str(resolve(task.model, SPEECH_RULES, phase.sparsity)), highlight=False, soft_wrap=True
            )


def _check_folder(folder: RunFolder, config: Config, *, resume: bool) -> bool:
    """Whether the folder holds a run; if it does, it must be the one asked for."""
    if not folder.config.is_file():
        return False
    if not resume:
        raise RunFolderError(
            f"{folder.path}: there is a run already; go on with --resume or take another --out"
        )
    changed = [
        line
        for line in differences(read_config(folder.config, Config()), config)
        if line.split(":")[0] not in MAY_CHANGE_ON_RESUME
    ]
    if changed:
        raise RunFolderError(
            f"{folder.path}: the run there has other settings ({'; '.join(changed)}); resume with its own "
            f"(--config {folder.config}) or take another --out"
        )
    return True


def embedded_settings() -> Config:
    """Settings for the embedded corpus: small enough for a few minutes on two CPU cores."""
    return read_config(EMBEDDED_SETTINGS, Config())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m seqdsd.recipes.ds1``."""

    def parse_and_run() -> None:
        command = parse_command(
            Config,
            prog="python -m seqdsd.recipes.ds1",
            description="Train a DeepSpeech 1 recogniser with Dense-Sparse-Dense training. Where no data is named, it "
            "takes a small synthesised corpus and settings made for it; otherwise the settings begin from the paper's.",
            without_data=embedded_settings,
            argv=argv,
        )
        if command.invocation.dry_run:
            dry_run(command.settings)
        else:
            run(command.settings, resume=command.invocation.resume)

    run_command(parse_and_run)


__all__ = ["Config", "RunResult", "dry_run", "main", "make_model", "make_task", "make_tokenizer", "run"]

if __name__ == "__main__":
    main()
