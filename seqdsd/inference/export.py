"""``seqdsd export``: a trained network as a file that other programs run, checked against the network itself.

ONNX has the recurrences as operators of its own, so that nothing of seqdsd is needed to run the file. What comes before
the network, features, and after it, decoding, is not in it.
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
from torch import Tensor, nn
from torch.export import Dim

from seqdsd import __version__
from seqdsd.audio import LogSpectrogram
from seqdsd.inference.trained import TrainedRecogniser, load_captioner, load_recogniser, recipe_of
from seqdsd.models import NeuralTalk
from seqdsd.recipes.catalog import RECOGNISERS
from seqdsd.recipes.command import run_command
from seqdsd.records import RunFolder, write_atomically

PROG = "seqdsd export"
_DESCRIPTION = """Write a trained network as ONNX (.onnx) or a program of torch.export (.pt2), batch and time dynamic.

A recogniser takes features [batch, frames, 161] and num_frames [batch], and gives log_probs and out_num_frames; seqdsd
transcribe runs the file. A captioner becomes three files: the whole network (image_features, tokens), NAME.start and
NAME.step, which give the state after the image, and the next word's logits. The file is run here and compared with the
network before the command ends.

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
    """Folder of a training run (its --out)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """NAME.onnx or NAME.pt2."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".onnx", ".pt2"):
            raise ValueError(f"out: a name that ends in .onnx or .pt2, got {self.out}")


@dataclass(frozen=True)
class Graph:
    """A module to be exported: its inputs twice, in two sizes, and which of their dimensions are dynamic."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    dynamic: tuple[Mapping[int, Any], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export(asked: Export) -> dict[Path, float]:
    """Write the files; for each the largest difference between what it gives and what the network gives.

    Raises:
        ValueError: If the run cannot be used, the extra is not installed, or a file gives something else.
    """
    folder = RunFolder(asked.run)
    if recipe_of(folder) in RECOGNISERS:
        trained = load_recogniser(folder, phase=asked.phase, device="cpu")
        graphs = {"": recogniser_graph(trained.model.module)}
        facts = recogniser_facts(trained)
    else:
        captioner = load_captioner(folder, phase=asked.phase, device="cpu")
        graphs = captioner_graphs(captioner.model.module, captioner.feature_size)  # type: ignore[arg-type]
        facts = {"phase": captioner.phase["name"]}
    facts = {"version": __version__, "recipe": recipe_of(folder), **facts}
    write = write_onnx if asked.out.suffix == ".onnx" else write_program
    written = {}
    for name, graph in graphs.items():
        path = asked.out.with_name(f"{asked.out.stem}{name}{asked.out.suffix}")
        written[path] = write(graph, path, facts)
    return written


def recogniser_graph(model: nn.Module) -> Graph:
    """An acoustic model, features to log-probabilities."""
    bins = LogSpectrogram.num_bins

    def inputs(*num_frames: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.tensor(num_frames)
        return torch.randn(len(lengths), max(num_frames), bins, generator=generator), lengths

    batch, frames = (
        Dim("batch"),
        Dim("frames", min=3),
    )  # torch.export finds that shorter ones need another graph
    return Graph(
        module=model,
        examples=inputs(60, 37),
        others=inputs(101, 50, 3),
        dynamic=({0: batch, 1: frames}, {0: batch}),
        inputs=("features", "num_frames"),
        outputs=("log_probs", "out_num_frames"),
    )


def recogniser_facts(trained: TrainedRecogniser) -> dict[str, Any]:
    """What a program that runs the file must know."""
    return {
        "phase": trained.phase["name"],
        "frame_seconds": trained.frame_seconds,
        "tokenizer": trained.tokenizer.to_json(),
    }


class _Start(nn.Module):
    def __init__(self, model: NeuralTalk) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_features: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.start(image_features)


class _Step(nn.Module):
    def __init__(self, model: NeuralTalk) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, (hidden, cell) = self.model.step(tokens, (hidden, cell))
        return logits, hidden, cell


def captioner_graphs(model: NeuralTalk, feature_size: int) -> dict[str, Graph]:
    """A caption generator: all words at once, and word by word."""
    batch, words = Dim("batch"), Dim("words", min=2)

    def images(count: int) -> Tensor:
        return torch.randn(count, feature_size, generator=torch.Generator().manual_seed(0))

    def tokens(*shape: int) -> Tensor:
        return torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(1))

    def state(count: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return model.start(images(count))

    rows = {0: batch}
    return {
        "": Graph(
            model,
            (images(2), tokens(2, 5)),
            (images(3), tokens(3, 9)),
            (rows, {0: batch, 1: words}),
            ("image_features", "tokens"),
            ("logits",),
        ),
        ".start": Graph(
            _Start(model), (images(2),), (images(3),), (rows,), ("image_features",), ("hidden", "cell")
        ),
        ".step": Graph(
            _Step(model),
            (tokens(2), *state(2)),
            (tokens(3), *state(3)),
            (rows, rows, rows),
            ("tokens", "hidden", "cell"),
            ("logits", "next_hidden", "next_cell"),
        ),
    }


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
                f"{path}: {size:.1f} MiB, at most {difference:.1g} from the network",
                highlight=False,
                soft_wrap=True,
            )

    run_command(parse_and_run)
