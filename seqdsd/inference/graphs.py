"""What is exported of a network: its modules, with inputs to try them on. Writing files of them is ``export.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from seqdsd.inference.trained import TrainedCaptioner, TrainedClassifier, TrainedRecogniser
from seqdsd.models import NeuralTalk


@dataclass(frozen=True)
class Graph:
    """A module to be exported: its inputs twice, in two sizes, and which of their dimensions are dynamic."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    dynamic: tuple[Mapping[int, Any], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def recogniser_graphs(trained: TrainedRecogniser) -> tuple[dict[str, Graph], dict[str, Any]]:
    """A recogniser's graphs by the end of their files' names, and what a program that runs them must know."""
    features = trained.config.features
    facts = {
        "frame_seconds": trained.frame_seconds,
        "features": asdict(features),
        "tokenizer": trained.tokenizer.to_json(),
    }
    return {"": acoustic_graph(trained.model.module, features.num_bins)}, facts


def captioner_graphs(trained: TrainedCaptioner) -> tuple[dict[str, Graph], dict[str, Any]]:
    """The same of a captioner."""
    return caption_graphs(trained.model.module, trained.feature_size), {}  # type: ignore[arg-type]


def classifier_graphs(trained: TrainedClassifier) -> tuple[dict[str, Graph], dict[str, Any]]:
    """The same of an image classifier: 8-bit images to probabilities, normalisation included."""
    labeller = trained.labeller
    facts = {"classes": list(labeller.classes), "images": asdict(labeller.format)}
    module = _Probabilities(labeller.pixels, trained.model.module)

    def images(count: int) -> Tensor:
        one, generator = labeller.format, torch.Generator().manual_seed(count)
        shape = (count, one.channels, one.height, one.width)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    rows = {0: Dim("batch")}
    return {"": Graph(module, (images(2),), (images(3),), (rows,), ("images",), ("probabilities",))}, facts


class _Probabilities(nn.Module):
    def __init__(self, pixels: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.pixels(images)).softmax(1)


def acoustic_graph(model: nn.Module, num_bins: int) -> Graph:
    """An acoustic model, features of so many bins to log-probabilities."""

    def inputs(*num_frames: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.tensor(num_frames)
        return torch.randn(len(lengths), max(num_frames), num_bins, generator=generator), lengths

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


def caption_graphs(model: NeuralTalk, feature_size: int) -> dict[str, Graph]:
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
