"""``seqdsd inspect``: what a .dsdz file is, and what its bytes go into, as Deep Compression's tables say it.

Of any such file, whoever has written it; only what a recipe here has trained can be used by the other commands.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqdsd.compression import CompressedFile, FileSizes, TensorSize, file_sizes, read_compressed
from seqdsd.inference.model_files import ZSTD_PRUNED, SavedFile
from seqdsd.inference.ready import located
from seqdsd.inference.scoring import print_facts
from seqdsd.kinds import KIND_OF_RECIPE
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command

PROG = "seqdsd inspect"
_DESCRIPTION = """Show what a .dsdz file is, and what its bytes go into.

Of each layer: its weights and how many are kept, bits for each kept weight (those of its code, and those that say where
it is) after pruning and weight sharing and again after coding, bytes in the file, and how many times smaller than
float32. Below: all bytes, header and codebooks included, beside what general compressors make of the same weights.

Examples:
  seqdsd inspect runs/an4-ds2.dsdz
  seqdsd inspect runs/an4-ds2.dsdz --json
"""
_LONGEST = 200
"""Characters that are shown of a text in a header."""
_FEW = 6


@dataclass(frozen=True)
class Inspect:
    """What to show."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .dsdz file, or the name of a network that comes with the package (seqdsd models)."""
    json: bool = False
    """Print one JSON object: sizes, each tensor's row, and all that the header says."""


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd inspect``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Inspect, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        file = read_compressed(located(asked.file))
        sizes = file_sizes(file)
        if asked.json:
            print(json.dumps(as_object(file, sizes)))  # in ASCII, whatever the header holds
        else:
            show(file, sizes, Console())

    run_command(parse_and_run)


def as_object(file: CompressedFile, sizes: FileSizes) -> dict[str, Any]:
    """All that is known of a file, for JSON."""
    return {
        "file": str(file.path),
        "size_bytes": sizes.size_bytes,
        "header_bytes": sizes.header_bytes,
        "ratio": sizes.ratio,
        **{name: sum(getattr(row, name) for row in sizes.rows) for name in _SUMMED},
        "tensors": [{**asdict(row), "density": row.density} for row in sizes.rows],
        "about": file.header,
    }


_SUMMED = ("weights", "kept", "dense_bytes", "shared_bytes", "zstd_float_bytes", "zstd_code_bytes")


def show(file: CompressedFile, sizes: FileSizes, console: Console) -> None:
    """Print what the network is, a row a layer, and the whole beside other compressors."""
    print_facts({name: printable(said) for name, said in _facts(file)}, console)
    console.print(_layers(sizes))
    console.print(_compressors(sizes, file.header.get(ZSTD_PRUNED)))


def _facts(file: CompressedFile) -> Iterator[tuple[str, str]]:
    dense = sum(entry.dense_bytes for entry in file.entries)
    yield (
        "file",
        f"{file.path}, {file.size_bytes:,} bytes of {dense:,}: {dense / file.size_bytes:.1f} times smaller",
    )
    try:
        yield from _of_ours(SavedFile.read(file.path).about)
    except ValueError as error:
        if "recipe" in file.header:
            yield "cannot be used", str(error)
        for name, value in list(file.header.items())[:_FEW]:
            yield printable(_shortened(name)), _said(value)


def _of_ours(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind, phase = KIND_OF_RECIPE[about["recipe"]], about["phase"]
    network = kind.network_name(about["recipe"], about["settings"])
    yield "network", f"{network} (recipe {about['recipe']}), {kind.description}"
    pruned = f", {phase['measured_sparsity']:.1%} of the weights of its pruned layers are 0"
    yield "phase", phase["name"] + (pruned if phase["measured_sparsity"] else "")
    for split, scores in about.get("scores", {}).items():
        found = {
            one.title: one.written(scores[one.key]) + one.unit
            for one in kind.families[0]
            if one.key in scores
        }
        yield split, ", ".join(f"{title} {score}" for title, score in found.items())
    known = {"scores", "seqdsd", "recipe", "network", "settings", "phase", "provenance"}
    known |= {"tokenizer", "vocabulary", "classes", ZSTD_PRUNED}
    for name, value in about.items():
        if name == "commands" and isinstance(value, list):
            yield from ((f"made by {at}", _said(command)) for at, command in enumerate(value, 1))
        elif name not in known:
            yield (
                printable(_shortened(name)),
                _said("embedded corpus" if (name, value) == ("data", None) else value),
            )
    noted = about["provenance"]
    for name in ("command", "started"):
        if name in noted:
            yield {"command": "trained by"}.get(name, name), _said(noted[name])
    if isinstance(noted.get("versions"), dict):
        yield "versions", _said(", ".join(f"{name} {one}" for name, one in noted["versions"].items()))


def _said(value: Any) -> str:
    if isinstance(value, str):
        return _shortened(value)
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | dict) and len(text) > _LONGEST:
        return f"({len(value)} entries)"
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _layers(sizes: FileSizes) -> Table:
    """A row for each shared tensor, one for all dense ones, the header, and the whole."""
    shared = [row for row in sizes.rows if row.coding != "raw"]
    codings = Counter(row.coding for row in shared)
    table = Table(
        *("layer", "weights", "kept", "code bits", "index bits", "bytes", "times"),
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        caption="bits of each kept weight: after weight sharing → in the file; times smaller than dense\ncoding: "
        + (", ".join(f"{coding} ({count})" for coding, count in codings.items()) or "none"),
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    table.columns[0].overflow = "fold"
    for row in shared:
        table.add_row(
            escape(printable(row.name)),
            f"{row.weights:,}",
            f"{row.density:.1%}",
            f"{row.shared_code_bits:.1f} → {row.code_bits:.1f}",
            f"{row.shared_index_bits:.1f} → {row.index_bits:.1f}",
            f"{row.size_bytes:,}",
            f"{row.dense_bytes / row.size_bytes:.1f}",
        )
    if dense := [row for row in sizes.rows if row.coding == "raw"]:
        table.add_row(*_together(f"dense tensors: {len(dense)}", dense))
    table.add_row("header", *[""] * 4, f"{sizes.header_bytes:,}", "", end_section=True)
    whole = list(_together("all", sizes.rows))
    table.add_row(*whole[:-2], f"{sizes.size_bytes:,}", f"{sizes.ratio:.1f}", style="bold")
    return table


def _together(name: str, rows: Sequence[TensorSize]) -> tuple[str, ...]:
    weights, kept, size, dense = (
        sum(getattr(row, one) for row in rows) for one in ("weights", "kept", "size_bytes", "dense_bytes")
    )
    share = f"{kept / max(1, weights):.1%}"
    return (name, f"{weights:,}", share, "", "", f"{size:,}", f"{dense / max(1, size):.1f}")


def _compressors(sizes: FileSizes, pruned: object) -> Table:
    """The whole beside what others make of it; ``pruned``: of the weights before they shared values, by the header."""
    table = Table("the same network", "bytes", "times smaller", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    total = {name: sum(getattr(row, name) for row in sizes.rows) for name in _SUMMED}
    for name, size in {
        "uncompressed": total["dense_bytes"],
        **({"pruned weights, zstd": pruned} if type(pruned) is int and pruned > 0 else {}),  # true is an int
        "pruned and shared, as floats, zstd": total["zstd_float_bytes"],
        "pruned and shared, fixed bits as published": total["shared_bytes"],
        "pruned and shared, as codes, zstd": total["zstd_code_bytes"],
        "this file": sizes.size_bytes,
    }.items():
        table.add_row(name, f"{size:,}", f"{sizes.dense_bytes / max(1, size):.1f}")
    return table
