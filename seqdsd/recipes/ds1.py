"""DeepSpeech 1 with Dense-Sparse-Dense training (Han et al. 2017, section 4.5).

    python -m seqdsd.recipes.ds1 --iters 2                               # embedded corpus, no download
    python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --iters 2  # AN4

Where no data is named a small corpus is synthesised, and the settings begin from ``ds1_embedded.toml``; otherwise
from the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from seqdsd.audio import LogSpectrogram
from seqdsd.config import read_config
from seqdsd.data import Corpus, read_corpus
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.engine import NesterovSettings
from seqdsd.models import DeepSpeech1
from seqdsd.recipes.command import parse_command, run_command
from seqdsd.recipes.training import (
    RunConfig,
    RunResult,
    describe_training,
    find_parent,
    finished_phases,
    holds_run,
    train,
)
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.phase_table import phase_table
from seqdsd.sparsity import SPEECH_RULES
from seqdsd.sparsity.schedule import DS1_LEARNING_RATES, DS1_SPARSITIES
from seqdsd.tasks import AugmentSettings, BatchSettings, SpeechTask
from seqdsd.text import CharacterTokenizer, SubwordTokenizer, Tokenizer, load_tokenizer

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


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
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
    learning_rates: tuple[float, ...] = DS1_LEARNING_RATES
    """One a phase (Table 7); further phases keep the last ratio."""
    sparsities: tuple[float, ...] = DS1_SPARSITIES
    """One a round (Table 7); further rounds halve the last."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    optimizer: NesterovSettings = field(default_factory=NesterovSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)


def run(
    config: Config,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train, or go on where the run in ``config.out`` stopped; a complete run is returned as it is.

    ``start_from`` is a run whose leading phases are taken over, as far as both have them in common.

    Raises:
        ValueError: For settings, data or a run folder that cannot be used; the message says what to do.
    """
    console = console or Console()
    folder = RunFolder(config.out)
    has_run = holds_run(folder, config, resume=resume, may_change=MAY_CHANGE_ON_RESUME)
    parent = find_parent(start_from, folder, config, recipe=RECIPE, may_change=MAY_CHANGE_ON_RESUME)
    phases = finished_phases(folder, config) if has_run else None
    if phases is None:
        # Not learnt again: from transcripts mended since then, sub-words would come out otherwise.
        known = folder if has_run else parent
        task = make_task(config, load_tokenizer(known.path / "tokenizer") if known else None)
        phases = train(
            task,
            config,
            recipe=RECIPE,
            rules=SPEECH_RULES,
            optimizer=config.optimizer,
            folder=folder,
            console=console,
            save_parts=lambda path: _save_parts(task, path),
            start_from=parent,
        )
    console.print(phase_table(phases))
    return RunResult(folder, phases)


def dry_run(config: Config, console: Console | None = None) -> None:
    """Print corpus, network, pruning plan and schedule; train nothing."""
    describe(config, make_task(config), console or Console())


def make_task(config: Config, tokenizer: Tokenizer | None = None) -> SpeechTask:
    """The network with fresh weights and its data; without a tokenizer the one asked for is made.

    Raises:
        ValueError: For data that cannot be used.
    """
    torch.manual_seed(config.seed)
    folder = config.data or synthetic_speech(SyntheticSpeech())
    corpus = read_corpus(folder, on_bad_data=config.on_bad_data, with_test=config.score_test)
    tokenizer = tokenizer or make_tokenizer(config.tokenizer, corpus)
    return SpeechTask(
        model=make_model(config, tokenizer),
        tokenizer=tokenizer,
        corpus=corpus,
        batches_settings=config.batches,
        augment=config.augment,
        on_bad_data=config.on_bad_data,
        seed=config.seed,
        pin_memory=config.pins_memory,
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
    describe_training(task.model, config, rules=SPEECH_RULES, console=console)


def embedded_settings() -> Config:
    """Settings for the embedded corpus: small enough for a few minutes on two CPU cores."""
    return read_config(EMBEDDED_SETTINGS, Config())


def _save_parts(task: SpeechTask, path: Path) -> None:
    task.tokenizer.save(path / "tokenizer")
    judged = [utterance for split in ("dev", *task.test_splits) for utterance in task.utterances(split)]
    rows = ({"id": one.id, "path": str(one.audio_path)} for one in judged)
    write_json_lines(RunFolder(path).audio, rows)


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
            asked = command.invocation
            run(command.settings, resume=asked.resume, start_from=asked.start_from)

    run_command(parse_and_run)


__all__ = ["Config", "RunResult", "dry_run", "main", "make_model", "make_task", "make_tokenizer", "run"]

if __name__ == "__main__":
    main()
