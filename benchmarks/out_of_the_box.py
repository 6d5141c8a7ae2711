"""Our recognisers with the settings that they choose by themselves, against others' of as many parameters and epochs.

    python -m benchmarks.out_of_the_box --corpus an4 --network ds2 --data ../shared/data --epochs 20
    python -m benchmarks.out_of_the_box --corpus an4 --network gru --data ../shared/data --epochs 20
    python -m benchmarks.out_of_the_box --table

A command trains one network on one corpus, once for each seed, and writes a record of each run below ``--out``; what
has a record is not trained again. recipes/out_of_the_box/ keeps records, and their table. Ours are trained by their
recipe's own command: one dense phase, nothing set but the data, the seed and, if asked for, the epochs. Rivals are
trained by ``trained_rivals``; their peak rate is the one of three that has the lowest dev WER with seed 0.
``small_corpora`` makes the corpora.
"""

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.ctc_rivals import network_of_size, parameters_of
from benchmarks.small_corpora import CORPORA, find_corpus
from benchmarks.trained_rivals import RIVALS, Training, missing, train_rival
from seqdsd.config import read_provenance, read_values
from seqdsd.data import read_corpus
from seqdsd.records import RunFolder, provenance, write_atomically

OURS = ("ds1", "ds2")
PEAKS = (5e-4, 1e-3, 2e-3)
"""A rival's rates to choose from."""
TOLERANCE = 0.05
"""Of a rival's number of parameters."""


@dataclass(frozen=True)
class Config:
    """What is trained."""

    corpus: str | None = None
    """an4, an4-8k, an4-10, embedded, speechocean762, digits or one-voice; or a folder of manifests."""
    network: Literal["ds1", "ds2", "gru", "torchaudio-deepspeech", "torchaudio-conformer", "crdnn"] | None = (
        None
    )
    """Ours are ds1 and ds2."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run each."""
    data: Path = Path("../shared/data")
    """Folder with an4 and speechocean762."""
    out: Path = Path("runs/out-of-the-box")
    """Folder of the records and of our runs."""
    epochs: int | None = None
    """By default as many as ours (or --like) chooses by itself."""
    like: Literal["ds1", "ds2"] | int = "ds2"
    """A rival has as many parameters, within 5 %, as this one chooses on the corpus by itself; or so many."""
    peak: Literal["auto"] | float = "auto"
    """A rival's peak rate; auto takes the best of 5e-4, 1e-3 and 2e-3 on dev, with seed 0."""
    batch_seconds: float = 15.0
    """Audio in a rival's batch."""
    threads: int = 1
    """Of torch."""
    table: bool = False
    """Print the Markdown table of all records in --out; train nothing."""

    def __post_init__(self) -> None:
        if not self.table and (self.corpus is None or self.network is None):
            raise ValueError("give --corpus and --network, or --table")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if isinstance(self.like, int) and not (self.like >= 1 and self.epochs):
            raise ValueError(f"--like {self.like} has to be above 0, and needs --epochs")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run. Word error rates are fractions; lists are by epoch."""

    corpus: str
    network: str
    like: str
    """Whose number of parameters it has; one of ours has its own."""
    seed: int
    parameters: int
    epochs: int
    """That were asked for."""
    batch_seconds: float
    peak: float
    candidates: dict[str, float] = field(default_factory=dict)
    """Dev WER by peak rate, with seed 0; none where the rate was given."""
    dev_wer: float
    """Of the best epoch, as is the next."""
    test_wer: float
    best_epoch: int
    train_loss: list[float]
    dev_wer_by_epoch: list[float]
    train_seconds: float
    """Without evaluation."""
    skipped_steps: int
    threads: int
    origin: dict[str, Any]
    """Command, versions, machine, commit."""


@dataclass(frozen=True)
class Row:
    """What one command trains."""

    config: Config
    corpus: str
    network: str
    folder: Path
    """Of the corpus."""
    sample_rate_hz: int
    size: int
    """Parameters of ``--like`` or of our own network."""
    epochs: int

    @classmethod
    def of(cls, config: Config) -> "Row":
        """Find the corpus, and see what our network chooses on it."""
        assert config.corpus and config.network
        folder, sample_rate_hz = find_corpus(config.corpus, config.data)
        ours = config.network if config.network in OURS else config.like
        if isinstance(ours, int):
            size, epochs = ours, config.epochs or 0
        else:
            size, epochs = what_ours_chooses(ours, folder, config.epochs)
        corpus = config.corpus if config.corpus in CORPORA else folder.name
        return cls(config, corpus, config.network, folder, sample_rate_hz, size, epochs)

    @property
    def like(self) -> str:
        """Whose size it has."""
        return self.network if self.network in OURS else str(self.config.like)

    def name(self, seed: int) -> str:
        """Of a run."""
        like = "" if self.network in OURS else f"-like-{self.like}"
        return f"{self.corpus}-{self.network}{like}-e{self.epochs}-s{seed}"

    def record(self, seed: int) -> Path:
        """Where the record of a run lies."""
        return self.config.out / f"{self.name(seed)}.json"

    def candidate(self, peak: float) -> Path:
        """Where the record of a run lies that may show another rate to be better."""
        return self.config.out / "candidates" / f"{self.name(0)}-p{peak:g}.json"


def our_command(network: str, folder: Path, epochs: int | None) -> list[str]:
    """The recipe's command with nothing set that it can choose: one dense phase, in the rivals' precision."""
    command = [sys.executable, "-m", f"seqdsd.recipes.{network}", "--data", str(folder), "--iters", "0"]
    command += ["--precision", "32-true"]
    return command + (["--epochs", str(epochs)] if epochs else [])


def what_ours_chooses(network: str, folder: Path, epochs: int | None) -> tuple[int, int]:
    """Parameters and epochs, as its ``--dry-run`` prints them.

    Raises:
        RuntimeError: If it fails or prints neither; with what it printed.
    """
    done = subprocess.run(
        [*our_command(network, folder, epochs), "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    total = re.search(r"\btotal\W+([\d,]+)", done.stdout)
    phase = re.search(r"\bDense Iter 0\W+(\d+)", done.stdout)
    if done.returncode or not total or not phase:
        raise RuntimeError(f"{shlex.join(done.args)} failed:\n{done.stdout}{done.stderr}")
    return int(total[1].replace(",", "")), int(phase[1])


def train_ours(row: Row, seed: int) -> Record:
    """By the recipe's command, which shows its own progress; a run that was stopped goes on."""
    run = RunFolder(row.config.out / "runs" / row.name(seed))
    command = our_command(row.network, row.folder, row.config.epochs)
    command += ["--seed", str(seed), "--out", str(run.path), "--resume"]
    threads = {"OMP_NUM_THREADS": str(row.config.threads)}
    if subprocess.run(command, env={**os.environ, **threads}, check=False).returncode:
        sys.exit(f"error: {shlex.join(command)} failed; say it again to go on")
    phase = run.read_phases()[0]
    return Record(
        corpus=row.corpus,
        network=row.network,
        like=row.like,
        seed=seed,
        parameters=row.size,
        epochs=row.epochs,
        batch_seconds=read_values(run.config)["batches"]["max_batch_seconds"],
        peak=phase["learning_rate"],
        dev_wer=phase["dev"]["wer"],
        test_wer=phase["test"]["wer"],
        best_epoch=phase["best_epoch"],
        train_loss=phase["train_loss"],
        dev_wer_by_epoch=phase["dev_score"],
        train_seconds=phase["train_seconds"],
        skipped_steps=phase.get("nonfinite_steps", 0),
        threads=row.config.threads,
        origin=read_provenance(run.config) | {"command": provenance(seed)["command"]},
    )


class Progress:
    """A line an epoch, with what is left of the command."""

    def __init__(self, runs: int, epochs: int) -> None:
        self.left = runs * epochs
        self.done = 0
        self.start = time.monotonic()

    def after_epoch(self, what: str, training: Training) -> None:
        """Print it."""
        self.done += 1
        self.left -= 1
        minutes = (time.monotonic() - self.start) / self.done * self.left / 60
        print(
            f"{what}, epoch {len(training.dev_wer)}: loss {training.train_loss[-1]:.2f}, "
            f"dev WER {100 * training.dev_wer[-1]:.1f} %; about {minutes:.0f} min left",
            flush=True,
        )


def train_one_rival(row: Row, seed: int, peak: float, progress: Progress) -> Record:
    torch.manual_seed(seed)
    torch.set_num_threads(row.config.threads)
    model = network_of_size(RIVALS[row.network][2], row.size, tolerance=TOLERANCE)
    what = f"{row.corpus}, {row.network}, seed {seed}, peak {peak:g}"
    training = train_rival(
        model,
        read_corpus(row.folder),
        sample_rate_hz=row.sample_rate_hz,
        epochs=row.epochs,
        batch_seconds=row.config.batch_seconds,
        peak=peak,
        seed=seed,
        after_epoch=lambda now: progress.after_epoch(what, now),
    )
    origin = provenance(seed)
    return Record(
        corpus=row.corpus,
        network=row.network,
        like=row.like,
        seed=seed,
        parameters=parameters_of(model),
        epochs=row.epochs,
        batch_seconds=row.config.batch_seconds,
        peak=peak,
        dev_wer=training.dev_wer[training.best_epoch - 1],
        test_wer=training.test_wer,
        best_epoch=training.best_epoch,
        train_loss=training.train_loss,
        dev_wer_by_epoch=training.dev_wer,
        train_seconds=training.train_seconds,
        skipped_steps=training.skipped_steps,
        threads=row.config.threads,
        origin=origin,
    )


def train_rivals(row: Row) -> None:
    """Choose the rate, then train with it; each run is recorded as it ends."""
    config = row.config
    asked = PEAKS if config.peak == "auto" else ()
    to_do = [peak for peak in asked if not row.candidate(peak).is_file()]
    seeds = [seed for seed in config.seeds if not row.record(seed).is_file()]
    if not seeds:
        return
    progress = Progress(len(to_do) + len([seed for seed in seeds if seed or not asked]), row.epochs)
    for peak in to_do:
        write(row.candidate(peak), train_one_rival(row, 0, peak, progress))
    tried = [read(row.candidate(peak)) for peak in asked]
    candidates = {f"{one.peak:g}": one.dev_wer for one in tried}
    best = min(tried, key=lambda one: one.dev_wer, default=None)
    for seed in seeds:
        if best and seed == 0:
            record = best
        else:
            record = train_one_rival(row, seed, best.peak if best else float(config.peak), progress)
        write(row.record(seed), replace(record, candidates=candidates))


def train_all_of_ours(row: Row) -> None:
    seeds = [seed for seed in row.config.seeds if not row.record(seed).is_file()]
    start = time.monotonic()
    for number, seed in enumerate(seeds):
        minutes = (time.monotonic() - start) / 60 * (len(seeds) - number) / number if number else None
        left = "" if minutes is None else f"; about {minutes:.0f} min left"
        print(f"{row.corpus}, {row.network}, seed {seed}: run {number + 1} of {len(seeds)}{left}", flush=True)
        write(row.record(seed), train_ours(row, seed))


def write(path: Path, record: Record) -> None:
    write_atomically(path, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Record:
    """A record.

    Raises:
        ValueError: If it is none; with its name.
    """
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a record ({error}); remove it, and train again") from error


HEADER = ("corpus", "network", "parameters", "epochs", "batch", "peak rate", "seeds", "dev WER", "test WER")


def table(records: Iterable[Record]) -> str:
    """Markdown: a row for each network on each corpus, mean and SD over seeds."""
    rows: dict[tuple[Any, ...], list[Record]] = {}
    corpora, networks = list(CORPORA), [*OURS, *RIVALS]
    for one in records:
        place = corpora.index(one.corpus) if one.corpus in corpora else len(corpora)
        key = (place, one.corpus, one.epochs, networks.index(one.network), one.network, one.like)
        rows.setdefault(key, []).append(one)
    lines = [HEADER, ("---", "---", *["--:"] * (len(HEADER) - 2))]
    lines += [_cells(rows[key]) for key in sorted(rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(runs: list[Record]) -> tuple[str, ...]:
    first = runs[0]
    is_ours_or_default = first.network in OURS or first.like == "ds2"
    return (
        first.corpus,
        first.network if is_ours_or_default else f"{first.network}, as large as {first.like}",
        f"{first.parameters:,}",
        str(first.epochs),
        f"{first.batch_seconds:g} s",
        ", ".join(f"{peak:g}" for peak in sorted({one.peak for one in runs})),
        ", ".join(str(one.seed) for one in sorted(runs, key=lambda one: one.seed)),
        _mean_and_sd([100 * one.dev_wer for one in runs]),
        _mean_and_sd([100 * one.test_wer for one in runs]),
    )


def _mean_and_sd(values: list[float]) -> str:
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{sd}"


def main(config: Config) -> None:
    if config.table:
        print(table(read(path) for path in sorted(config.out.glob("*.json"))))
        return
    assert config.network
    if config.network in RIVALS and (why := missing(config.network)):
        sys.exit(f"error: {why}")
    try:
        row = Row.of(config)
        (train_all_of_ours if config.network in OURS else train_rivals)(row)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(table(read(row.record(seed)) for seed in config.seeds))


if __name__ == "__main__":
    main(tyro.cli(Config))
