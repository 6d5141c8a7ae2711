"""``seqdsd export``: a trained network as a file that other programs run, checked against the network itself.

ONNX has the recurrences as operators of its own, so that nothing of seqdsd is needed to run the file. What comes before
the network, features, and after it, decoding, is not in it; but of classifiers both are.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import Tensor

from seqdsd import __version__
from seqdsd.inference.graphs import Graph
from seqdsd.inference.networks import use_of
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command
from seqdsd.records import write_atomically

PROG = "seqdsd export"
_DESCRIPTION = """Write a trained network as ONNX (.onnx) or a program of torch.export (.pt2), batch and time dynamic.

A recogniser takes features [batch, frames, bins] (161 linear ones, or its log-mel) and num_frames [batch], and gives
log_probs and out_num_frames; seqdsd transcribe runs the file. A captioner becomes three files: the whole network
(image_features, tokens), NAME.start and NAME.step, which give the state after the image, and the next word's logits. An
image classifier takes 8-bit images [batch, channels, height, width] and gives probabilities, in the order of classes
that the file itself names.
The file is run here and compared with the network before the command ends.

Examples:
  seqdsd export runs/an4-ds1 --out an4.onnx
  seqdsd export runs/an4-ds1 --out an4.pt2 --phase "Dense Iter 1"
"""

TOLERANCE = 1e-3
"""Largest difference from the network that a file may have."""


@dataclass(frozen=True)
class Export:
    """What to export, and to where."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), or a .dsdz file, or the name of one (seqdsd models)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """NAME.onnx or NAME.pt2."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".onnx", ".pt2"):
            raise ValueError(f"out: a name that ends in .onnx or .pt2, got {self.out}")


def export(asked: Export) -> dict[Path, float]:
    """Write the files; for each the largest difference between what it gives and what the network gives.

    Raises:
        ValueError: If the run cannot be used, the extra is not installed, or a file gives something else.
    """
    use = use_of(asked.run)
    trained = use.load(asked.run, phase=asked.phase, device="cpu")
    graphs, facts = use.graphs(trained)
    facts = {
        "version": __version__,
        "recipe": trained.saved.recipe(),
        "phase": trained.phase["name"],
        **facts,
    }
    write = write_onnx if asked.out.suffix == ".onnx" else write_program
    written = {}
    for name, graph in graphs.items():
        path = asked.out.with_name(f"{asked.out.stem}{name}{asked.out.suffix}")
        written[path] = write(graph, path, facts)
    return written


def write_program(graph: Graph, path: Path, facts: Mapping[str, Any]) -> float:
    """Write a program of ``torch.export``; returns the largest difference from the network.

    Whoever loads it imports ``seqdsd.models`` first, for the recurrences' operators.

    Raises:
        ValueError: If it gives something else than the network.
    """
    program = torch.export.export(graph.module.eval(), graph.examples, dynamic_shapes=graph.dynamic)
    file = io.BytesIO()  # torch ends the process where it cannot write to a file
    torch.export.save(program, file, extra_files={"seqdsd": json.dumps(facts)})
    file.seek(0)
    loaded = torch.export.load(file).module()
    difference = _largest_difference(graph, lambda inputs: _as_tuple(loaded(*inputs)))
    return _write_if_equal(path, file.getvalue(), difference)


def write_onnx(graph: Graph, path: Path, facts: Mapping[str, Any]) -> float:
    """Write an ONNX file; returns the largest difference from the network, by onnxruntime.

    Raises:
        ValueError: If the extra is not installed, or the file gives something else than the network.
    """
    onnx = _import_onnx()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on names of axes
        program = torch.onnx.export(
            graph.module.eval(),
            graph.examples,
            dynamo=True,
            verbose=False,
            dynamic_shapes=graph.dynamic,
            input_names=graph.inputs,
            output_names=graph.outputs,
            custom_translation_table=onnx.translations(),
        )
    assert program is not None  # it is only where the old exporter writes a file itself
    program.model.metadata_props[onnx.METADATA] = json.dumps(facts)
    content = program.model_proto.SerializeToString()
    session = onnx.session(content)
    difference = _largest_difference(
        graph,
        lambda inputs: tuple(
            torch.from_numpy(one)
            for one in session.run(
                None, {name: one.numpy() for name, one in zip(graph.inputs, inputs, strict=True)}
            )
        ),
    )
    return _write_if_equal(path, content, difference)


def _write_if_equal(path: Path, content: bytes, difference: float) -> float:
    if not difference < TOLERANCE:
        raise ValueError(f"{path}: differs from the network by {difference:g}, and was not written")
    write_atomically(path, content)
    return difference


@torch.inference_mode()
def _largest_difference(graph: Graph, run: Any) -> float:
    """On the inputs that the graph was not made with."""
    theirs, ours = run(graph.others), _as_tuple(graph.module(*graph.others))
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _import_onnx() -> Any:
    try:
        from seqdsd.inference import onnx_files
    except ImportError as error:
        raise ValueError(f"ONNX needs an extra: pip install 'seqdsd[onnx]' ({error})") from error
    return onnx_files


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd export``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Export, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        for path, difference in export(asked).items():
            size = path.stat().st_size / 2**20
            Console().print(
                printable(f"{path}: {size:.1f} MiB, at most {difference:.1g} from the network"),
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    run_command(parse_and_run)
