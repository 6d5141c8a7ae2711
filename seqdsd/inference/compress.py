"""``seqdsd compress``: a trained network as one small file, by pruning, weight sharing and entropy coding.

What is trained, and how it goes on, is ``seqdsd.recipes.compressing``'s; what the file holds is ``model_files``'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from seqdsd.compression import CompressedFile, read_compressed
from seqdsd.compression.sizes import zstd_bytes
from seqdsd.engine import StopRequested, load_checkpoint
from seqdsd.inference.model_files import SUFFIX, ZSTD_PRUNED, write_model
from seqdsd.inference.ready import read_about, ready_files, usual_command
from seqdsd.kinds import kind_of_scores
from seqdsd.recipes.command import run_command
from seqdsd.recipes.compressing.run import Compressed, Parent, compress_run, describe_compression
from seqdsd.recipes.compressing.search import DENSE
from seqdsd.recipes.compressing.settings import CompressSettings
from seqdsd.records import RunFolder, RunFolderError, is_test_split
from seqdsd.reports.phase_table import phase_table

PROG = "seqdsd compress"
_DESCRIPTION = """Make one small file of a trained network: prune it, share its weights, code them (Deep Compression).

The run's best network on dev, or that of --phase, is pruned in steps and retrained under its mask, each tensor as far
as it can bear; then its weights are made to share a few values, which are trained. Both go on while the dev score holds
(--max-loss). All is trained on the run's own data, in a run folder beside the file, that seqdsd table and seqdsd report
take as any other. seqdsd transcribe, caption, classify, evaluate, export and seqdsd.load take the file as they take a
run.

Examples:
  seqdsd compress runs/an4-ds2 --out an4-ds2.dsdz
  seqdsd compress runs/mnist-lenet300 --out lenet300.dsdz --max-loss 0
  seqdsd compress runs/mnist-lenet300 --out lenet300.dsdz --sparsity 0.92 --bits 4
  seqdsd compress runs/an4-ds2 --out an4-ds2.dsdz --resume
"""


@dataclass(frozen=True)
class Compress:
    """What to compress, and to where."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """NAME.dsdz."""
    run_folder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the compression trains; by default NAME.run beside the file."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The run's data, where they are not where they were."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    resume: bool = False
    """Go on where the compression in the run folder stopped; start it where there is none."""
    about: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """TOML with what its file and its model card (seqdsd models --card) are to say of the network: texts called title,
    corpus, terms, licence, use and limits, and a list of commands."""
    dry_run: bool = False
    """Print which tensors are pruned and shared, and the phases that are certain; train nothing."""
    settings: Annotated[CompressSettings, tyro.conf.arg(name="")] = field(default_factory=CompressSettings)

    def __post_init__(self) -> None:
        if self.out.suffix != SUFFIX:
            raise ValueError(f"out: a name that ends in {SUFFIX}, got {self.out}")

    @property
    def folder(self) -> RunFolder:
        """Of the compression's own run."""
        return RunFolder(self.run_folder or self.out.with_suffix(".run"))


def compress(asked: Compress, console: Console) -> tuple[Compressed, CompressedFile]:
    """Compress, or go on with it, and write the file.

    Raises:
        ValueError: For a run, settings, data or folders that cannot be used; the message says what to do.
    """
    parent, about = _checked(asked)
    try:
        made = compress_run(parent, asked.folder, asked.settings, resume=asked.resume, console=console)
    except StopRequested as stopped:
        raise StopRequested(
            "stopped on request, all is saved; go on with the same command and --resume"
        ) from stopped
    return made, write_checked(asked.out, made, {**about, **_pruned_alone(made)})


def _checked(asked: Compress) -> tuple[Parent, dict[str, Any]]:
    """The run, and what is to be said of it, where it can be compressed to there; nothing is written yet.

    Raises:
        ValueError: If it cannot, or more is to be said than should be.
    """
    about = {} if asked.about is None else read_about(asked.about)
    if asked.out.exists() and not (asked.resume and asked.folder.config.is_file()):
        raise RunFolderError(f"{asked.out}: there is such a file already; take another --out, or remove it")
    if str(asked.run) in ready_files() and not asked.run.exists():
        raise RunFolderError(
            f"{asked.run}: comes with the package, compressed already; name the folder of a run of yours (its --out)"
        )
    _check_place(asked.out)
    return Parent.read(asked.run, asked.data, asked.device), about


def _check_place(out: Path) -> None:
    """Find out before anything is trained whether the file can be written."""
    there = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror or error}); take another --out"
        ) from error


def _pruned_alone(made: Compressed) -> dict[str, Any]:
    """What zstd makes of the pruned weights, before they share values: ``seqdsd inspect`` shows it beside the file."""
    path = made.folder.weights(made.step.begin_with)
    if made.step.begin_with == DENSE or not path.is_file():
        return {}
    return {ZSTD_PRUNED: sum(map(zstd_bytes, load_checkpoint(path).tensors.values()))}


def write_checked(path: Path, made: Compressed, about: Mapping[str, Any]) -> CompressedFile:
    """Write the file, and see that it gives back the weights that were scored, bit for bit.

    Args:
        path: Of the file.
        made: What the compression came to.
        about: What else its header is to say.

    Raises:
        RuntimeError: If it does not.
    """
    name = str(made.phase["name"])
    write_model(path, made.folder, name, made.shared, about=about)
    file = read_compressed(path)
    scored, decoded = load_checkpoint(made.folder.weights(name)).tensors, file.state_dict()
    if scored.keys() != decoded.keys() or not all(_is_same(one, decoded[key]) for key, one in scored.items()):
        path.unlink()
        raise RuntimeError(f"{path}: does not give back the weights of {made.folder.weights(name)}")
    return file


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same bits."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy().tobytes() == other.numpy().tobytes()
    )


def show(made: Compressed, file: CompressedFile, console: Console) -> None:
    """Print the phases, what came out, and what to do next."""
    kind = kind_of_scores(made.phase["dev"])
    assert kind is not None  # a task's own
    metric, dense = kind.primary, sum(entry.dense_bytes for entry in file.entries)
    scores = ", ".join(
        f"{split} {metric.title} {metric.written(metric.of(made.phase, split))}{metric.unit and ' ' + metric.unit} "
        f"(dense: {metric.written(metric.of(made.reference, split))})"
        for split in ("dev", *filter(is_test_split, made.phase))
    )
    bits = " and ".join(str(one) for one in sorted(set(made.step.bits.values())))
    where = shlex.quote(str(file.path))
    console.print(phase_table(made.folder.read_phases()))
    said = [
        "",
        f"{file.path}: {file.size_bytes:,} bytes, {dense / file.size_bytes:.1f} times smaller than the {dense:,} of "
        "its float32 weights; read back, and equal to the last bit",
        f"{made.phase['name']}: {made.sparsity:.1%} pruned, {bits} bits; {scores}",
        "",
        f"What the bytes go into:  seqdsd inspect {where}",
        f"Use it:                  {usual_command(kind, where)}",
    ]
    console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)
    if not made.holds:
        console.print(
            f"it loses {made.points_lost:.2f} points on dev, more than --max-loss allows: train for longer (--epochs), "
            "prune less (--sparsity), take more bits (--bits), or allow more",
            style="yellow",
            soft_wrap=True,
        )


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd compress``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Compress, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        console = Console()
        if asked.dry_run:
            parent, _ = _checked(asked)
            describe_compression(parent, asked.folder, asked.settings, resume=asked.resume, console=console)
            return
        show(*compress(asked, console), console)

    run_command(parse_and_run)
