"""``seqdsd shard``: a corpus as tar shards with an index, for corpora larger than a disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from seqdsd.audio import AUDIO_SUFFIXES, AudioBytes, encode_flac, read_audio, read_segment
from seqdsd.data import Manifest, ManifestError, OnBadData, Utterance, find_splits, read_split
from seqdsd.data.shard_bytes import ServerError, read_member
from seqdsd.data.shard_files import ShardEntry, index_shard, write_shards
from seqdsd.data.shards import INDEX_NAME, check_base, is_shard_folder, read_shards, write_index
from seqdsd.inference.files import late_progress
from seqdsd.recipes.command import run_command

PROG = "seqdsd shard"
_DESCRIPTION = """Write a corpus as tar shards with an index: DATA's splits (manifests, Lhotse's cuts, Kaldi's folders)
become OUT/SPLIT/ with 000000.tar, 000001.tar … and shards.jsonl.gz. OUT is then what --data takes.

Utterances are shuffled over the shards, so that each is a fair sample of its split, and every recording is decoded once
to see that it can be. A shard holds KEY.flac (or the recording's own bytes, where an utterance is a whole file) and
KEY.json, as webdataset has it. DATA stays as it is.

With --index, shards that others made get an index: KEY.flac (.wav, .ogg, .mp3 …) beside KEY.json with text and
duration, or KEY.txt. With --base, the index says which web server has the shards: training then fetches each utterance
from there, and keeps nothing on the disk; the folder needs nothing but the index.

Examples:
  seqdsd shard data/an4 shards/an4
  python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --data shards/an4
  seqdsd shard --index others/train
  seqdsd shard --index shards/an4/train --base https://example.org/an4/train/
"""
_BYTES_PER_MB = 1_000_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardCommand:
    """Of which corpus, and where to; or of which shards an index is to be made."""

    data: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """Folder of the corpus, with train.jsonl … or splits in another format."""
    out: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = None
    """Folder that gets a folder of shards for each split."""
    shard_mb: float = 256.0
    """A shard is closed once it has so many megabytes."""
    seed: int = 0
    """Of the order: the same seed gives the same shards, byte for byte."""
    on_bad_data: Annotated[OnBadData, tyro.conf.arg(metavar="error|skip")] = "error"
    """Stop at an utterance that cannot be used, or leave it out and say so."""
    index: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the index of the shards in this folder, instead of DATA and OUT."""
    base: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """With --index: the folder on a web server that has the shards. Of an index that is there, nothing else changes."""

    def __post_init__(self) -> None:
        if (self.data is not None, self.out is not None) != ((self.index is None),) * 2:
            raise ValueError("give DATA and OUT, or --index FOLDER")
        if self.base is not None:
            if self.index is None:
                raise ValueError("base: it goes with --index FOLDER")
            check_base(self.base)
        if not 0 < self.shard_mb < math.inf:
            raise ValueError(f"shard_mb must be above 0 and finite, got {self.shard_mb}")


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd shard``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            ShardCommand,
            prog=PROG,
            description=_DESCRIPTION,
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        if asked.index is not None:
            _report(
                asked.index.absolute().name,
                index_folder(asked.index, base=asked.base, on_bad_data=asked.on_bad_data),
            )
        else:
            assert asked.data is not None and asked.out is not None
            _shard_corpus(asked, asked.data, asked.out)

    run_command(parse_and_run)


def index_folder(folder: Path, *, base: str | None = None, on_bad_data: OnBadData = "error") -> Manifest:
    """Write the index of the shards in a folder, or change where an index says that its shards lie.

    Args:
        folder: With ``*.tar``; where ``base`` is given, an index that is there is enough.
        base: URL of the folder on a web server that has the shards; by default they lie beside their index.
        on_bad_data: "skip" leaves out keys that are no utterance.

    Raises:
        ManifestError: If there are no shards, one is damaged, or a key is no utterance; if an id is there twice.
    """
    if base is not None and is_shard_folder(folder):
        manifest = read_shards(folder, base=base)
        write_index(folder, manifest.utterances, base=check_base(base))
        return manifest
    paths = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not paths:
        raise ManifestError(f"{folder}: no *.tar in this folder. Copy the shards there; unpack *.tar.gz.")
    utterances: list[Utterance] = []
    skipped: list[str] = []
    with late_progress(lambda: sum(path.stat().st_size for path in paths)) as advance:
        for number, path in enumerate(paths):
            found, bad = index_shard(path, number, on_bad_data=on_bad_data)
            utterances += found
            skipped += bad
            advance(path.stat().st_size)
    _write_index(folder, utterances, skipped, base=base)
    return Manifest(folder / INDEX_NAME, utterances, skipped)


def shard_split(
    manifest: Manifest,
    folder: Path,
    *,
    shard_bytes: int,
    seed: int = 0,
    on_bad_data: OnBadData = "error",
    on_read: Callable[[float], None] = lambda seconds: None,
) -> Manifest:
    """Write a split's shards and, last, their index. What is begun and not finished is removed, unless killed.

    Args:
        manifest: Whose utterances; their audio is decoded once, as a check.
        folder: Of the shards; it must not exist.
        shard_bytes: A shard is closed once it has so many.
        seed: Of the order of the utterances.
        on_bad_data: "skip" leaves out what cannot be read, but for what a web server does not give.
        on_read: Told the seconds of audio of each utterance when it is done.

    Returns:
        The new split, with a message for every utterance of the old one that was left out.

    Raises:
        ValueError: If audio cannot be read and ``on_bad_data`` is "error", or if none can.
    """
    folder.mkdir(parents=True)
    skipped = list(manifest.skipped)
    written: list[Path] = []
    utterances: list[Utterance] = []
    order = np.random.default_rng(seed).permutation(len(manifest.utterances))
    shuffled = (manifest.utterances[index] for index in order)
    entries = _entries(shuffled, skipped, on_bad_data=on_bad_data, on_read=on_read)
    try:
        for path in write_shards(folder, entries, shard_bytes=shard_bytes):
            written.append(path)
            utterances += index_shard(path, len(written) - 1)[0]
        _write_index(folder, utterances, skipped)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise
    return Manifest(folder / INDEX_NAME, utterances, skipped)


def _shard_corpus(asked: ShardCommand, data: Path, out: Path) -> None:
    splits = find_splits(data)
    if not splits:
        raise ManifestError(f"{data}: no manifest here. DATA is a folder with train.jsonl or other splits.")
    there = find_splits(out)
    for name in splits:
        if name in there or (out / name).exists():
            raise ManifestError(
                f"{there.get(name, out / name)}: is there already. Take another OUT; or remove it, if it holds shards "
                f"that are not needed or, without {INDEX_NAME}, were not finished."
            )
    manifests = {name: read_split(path, on_bad_data=asked.on_bad_data) for name, path in splits.items()}
    with late_progress(lambda: sum(map(_seconds, manifests.values()))) as advance:
        for name, manifest in manifests.items():
            made = shard_split(
                manifest,
                out / name,
                shard_bytes=round(asked.shard_mb * _BYTES_PER_MB),
                seed=asked.seed,
                on_bad_data=asked.on_bad_data,
                on_read=advance,
            )
            _report(name, made)


def _entries(
    utterances: Iterator[Utterance],
    skipped: list[str],
    *,
    on_bad_data: OnBadData,
    on_read: Callable[[float], None],
) -> Iterator[ShardEntry]:
    """What is to be written of each utterance, read and checked; ``skipped`` gets a message for what cannot be."""
    for one in utterances:
        try:
            yield _entry(one)
        except (ValueError, OSError) as error:
            message = f"{one.source}: utterance {one.id}: {error}"
            if isinstance(error, ServerError):
                raise ManifestError(message) from error
            if on_bad_data == "error":
                raise ManifestError(f"{message} (or --on-bad-data skip)") from error
            skipped.append(message)
        on_read(one.duration_seconds)


def _entry(utterance: Utterance) -> ShardEntry:
    """The recording's own bytes; of a part, and of a file that no suffix says the format of, FLAC of 16 bits."""
    seconds = utterance.duration_seconds
    if utterance.start_seconds is not None:
        part = read_segment(
            utterance.audio_path, start_seconds=utterance.start_seconds, seconds=seconds, sample_rate_hz=None
        )
        return ShardEntry(utterance, ".flac", encode_flac(part))
    if utterance.member is None:
        name, audio = (
            utterance.audio_path,
            AudioBytes(utterance.audio_path, Path(utterance.audio_path).read_bytes()),
        )
    else:
        name, audio = utterance.member.name, read_member(utterance.member)
    whole = read_audio(audio, sample_rate_hz=None, expected_seconds=seconds)
    suffix = Path(name).suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        return ShardEntry(utterance, suffix, audio.data)
    return ShardEntry(utterance, ".flac", encode_flac(whole))


def _write_index(
    folder: Path, utterances: Sequence[Utterance], skipped: Sequence[str], *, base: str | None = None
) -> None:
    if not utterances:
        why = f" The first: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{folder}: no utterance is left for the shards.{why}")
    seen: dict[str, str] = {}
    for one in utterances:
        if one.id in seen:
            raise ManifestError(
                f"{one.source}: the id {one.id!r} is in {seen[one.id]} already. Give every utterance its own."
            )
        seen[one.id] = one.audio_path
    write_index(folder, utterances, base=None if base is None else check_base(base))


def _seconds(manifest: Manifest) -> float:
    return sum(one.duration_seconds for one in manifest.utterances)


def _report(name: str, manifest: Manifest) -> None:
    """Say what a split has, and what was left out of it."""
    for message in manifest.skipped:
        log.warning("skipped: %s", message)
    members = [one.member for one in manifest.utterances if one.member is not None]
    shards = {member.shard for member in members}
    size_gb = sum(shard.size_bytes for shard in shards) / 1e9
    left_out = f"; {len(manifest.skipped):,} left out" if manifest.skipped else ""
    Console().print(
        f"{name}: {len(members):,} utterances, {_seconds(manifest) / 3600:.2f} h, {size_gb:.3f} GB in {len(shards):,} "
        f"{'shard' if len(shards) == 1 else 'shards'}{left_out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
