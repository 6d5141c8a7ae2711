"""Reading a corpus from tar shards against reading its files, utterance by utterance in the order of training.

    python -m benchmarks.shards                           # the embedded corpus
    python -m benchmarks.shards --data data/an4           # a corpus of your own
    python -m benchmarks.shards --data data/an4 --cold    # each round from the disk, not from the system's cache

Both are read in one process, without features or a network. What shards save is the opening of many small files: next
to nothing on a fast disk of one's own, more the slower a file is to find. Shards on a web server are not timed.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data import BucketBatchSampler, SpeechDataset, Utterance, find_splits, load_batches, read_split
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.inference.shard import shard_split
from seqdsd.text import CharacterTokenizer


@dataclass(frozen=True)
class Settings:
    """What is read."""

    data: Path | None = None
    """Folder of a corpus, whose training split is read; without it the embedded one."""
    shard_mb: float = 8.0
    """Size of a shard: small, so that a small corpus has many."""
    rounds: int = 7
    """Timings of each way, in turns."""
    cold: bool = False
    """Ask the system to forget the files before each reading."""


def reader(utterances: Sequence[Utterance]) -> Callable[[], None]:
    """Reads an epoch's batches."""
    shards = [one.member.shard.number for one in utterances if one.member]
    seconds = [one.duration_seconds for one in utterances]
    sampler = BucketBatchSampler(seconds, max_batch_seconds=120.0, epoch=1, shards=shards or None)
    dataset = SpeechDataset(utterances, CharacterTokenizer())

    def read() -> None:
        for batch in load_batches(dataset, sampler, num_workers=0):
            assert not batch.bad, batch.bad[0].message

    return read


def forget(utterances: Iterable[Utterance]) -> None:
    """Drop their files from the system's cache, as far as it does what it is asked."""
    for path in {one.audio_path for one in utterances}:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    torch.set_num_threads(1)
    train = read_split(find_splits(settings.data or synthetic_speech(SyntheticSpeech()))["train"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "train"
        shard_split(train, folder, shard_bytes=round(settings.shard_mb * 1e6))
        ways: dict[str, Callable[[], None]] = {}
        for way, utterances in {"files": train.utterances, "shards": read_split(folder).utterances}.items():
            if settings.cold:
                ways[f"forget {way}"] = partial(
                    forget, utterances
                )  # in turn with the others, but not counted
            ways[way] = reader(utterances)
        seconds = seconds_in_turns(ways, rounds=settings.rounds)
        num_shards = len(list(folder.glob("*.tar")))
    hours = sum(one.duration_seconds for one in train.utterances) / 3600
    title = (
        f"{len(train.utterances):,} utterances, {hours:.2f} h, in {num_shards} shards"
        + settings.cold * ", cold"
    )
    table = Table("read from", "seconds an epoch", "over files", title=title)
    for way in ("files", "shards"):
        table.add_row(
            way, f"{statistics.median(seconds[way]):.3f}", str(Ratio.of(seconds[way], seconds["files"]))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
