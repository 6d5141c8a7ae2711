"""ONNX files: how the recurrences are written in them, and how a recogniser's is run. Needs the extra ``onnx``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxscript import opset18
from torch import Tensor
from torch.nn import functional as F

from seqdsd.models import recurrence_operators  # noqa: F401  # registers the operators
from seqdsd.tasks import DecodingSettings, FeatureSettings, Recogniser
from seqdsd.text import Tokenizer, tokenizer_from_json

METADATA = "seqdsd"
"""Under which name the file says what it is."""
SHORTEST_FRAMES = 3
"""Feature frames below which the exported graphs are not defined: 40 ms."""
_INT32 = 6  # ONNX's number for it

op: Any = opset18  # takes Python's numbers and lists, which its annotations do not say

for _name in ("onnxscript", "onnx_ir"):  # they tell of every node that they take out
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class ExportedRecogniser:
    """A recogniser in an ONNX file; see ``seqdsd.inference.trained.Transcriber``."""

    model: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    recogniser: Recogniser
    frame_seconds: float
    device: torch.device = torch.device("cpu")

    @property
    def tokenizer(self) -> Tokenizer:
        """What the network spells with."""
        return self.recogniser.tokenizer


def load_exported_recogniser(path: Path, decoding: DecodingSettings) -> ExportedRecogniser:
    """Load a recogniser that ``seqdsd export`` has written.

    Raises:
        ValueError: If the file is damaged, or not such a recogniser.
    """
    loaded = session(path)
    try:
        facts = json.loads(loaded.get_modelmeta().custom_metadata_map[METADATA])
        tokenizer, frame_seconds = tokenizer_from_json(facts["tokenizer"]), float(facts["frame_seconds"])
        features = FeatureSettings(**facts.get("features", {})).make()  # linear in files of before 2026-11-27
        _check_graph(loaded, features.num_bins, tokenizer, frame_seconds)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a recogniser that seqdsd export has written ({error!r}); export one"
        ) from error

    def run(features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        missing = max(0, SHORTEST_FRAMES - features.shape[1])
        inputs = {"features": F.pad(features, (0, 0, 0, missing)).numpy(), "num_frames": num_frames.numpy()}
        try:
            log_probs, out_num_frames = loaded.run(None, inputs)
        except Exception as error:  # as below
            raise ValueError(f"{path}: onnxruntime cannot run it ({error}); export it again") from error
        return torch.from_numpy(log_probs), torch.from_numpy(out_num_frames)

    return ExportedRecogniser(run, Recogniser(features, tokenizer, decoding), frame_seconds)


def translations() -> dict[Any, Callable[..., Any]]:
    """The recurrences' operators in ONNX's own, for ``torch.onnx.export``."""
    return {
        torch.ops.seqdsd.clipped_rnn.default: _clipped_rnn,
        torch.ops.seqdsd.gated_states.default: _gated_states,
        torch.ops.seqdsd.neuraltalk_lstm.default: _neuraltalk_lstm,
    }


def _check_graph(
    loaded: onnxruntime.InferenceSession, num_bins: int, tokenizer: Tokenizer, frame_seconds: float
) -> None:
    """See that a graph takes and gives what a recogniser's does.

    Raises:
        ValueError: Saying what is another.
    """
    names = [one.name for one in loaded.get_inputs()], [one.name for one in loaded.get_outputs()]
    if names != (["features", "num_frames"], ["log_probs", "out_num_frames"]):
        raise ValueError(f"its inputs and outputs are {names}")
    features, log_probs = loaded.get_inputs()[0].shape, loaded.get_outputs()[0].shape
    if features[2:] != [num_bins] or log_probs[2:] != [tokenizer.vocab_size]:
        raise ValueError(f"its features are {features}, its log-probabilities {log_probs}")
    if not 0 < frame_seconds < math.inf:
        raise ValueError(f"its frames are {frame_seconds} s apart")


def session(source: Path | bytes) -> onnxruntime.InferenceSession:
    """A file or its content, ready to be run on the CPU.

    Raises:
        ValueError: If it is damaged or no ONNX file.
    """
    where = source if isinstance(source, Path) else "the graph"
    try:
        return onnxruntime.InferenceSession(
            str(source) if isinstance(source, Path) else source, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own have no common class but this
        raise ValueError(f"{where}: onnxruntime cannot load it ({error}); export it again") from error


def _clipped_rnn(inputs: Any, num_frames: Any, weight: Any, bias: Any, recurrent: Any, clip: float) -> Any:
    """``RNN``, whose ``clip`` bounds what goes into the ReLU; both directions have the same input weights."""
    directions, hidden_size, _ = recurrent.shape
    weights = op.Concat(*[op.Unsqueeze(weight, [0])] * directions, axis=0)
    row = op.Unsqueeze(bias, [0])
    biases = op.Concat(
        *[op.Concat(row, op.Sub(row, row), axis=1)] * directions, axis=0
    )  # input's, recurrence's
    states, _ = op.RNN(
        op.Transpose(inputs, perm=[1, 0, 2]),
        weights,
        recurrent,
        biases,
        op.Cast(num_frames, to=_INT32),
        activations=["Relu"] * directions,
        clip=clip,
        direction="bidirectional" if directions == 2 else "forward",
        hidden_size=hidden_size,
    )
    return op.Transpose(op.ReduceSum(states, [1], keepdims=0), perm=[1, 0, 2])


def _gated_states(inputs: Any, num_frames: Any, weight: Any, recurrent: Any, bias: Any, cell: str) -> Any:
    """``GRU``, with its gates in the order z, r, h where torch has r, z, n; or ``LSTM``: i, o, f, c for i, f, g, o."""
    directions, rows, hidden_size = recurrent.shape
    gates = (1, 0, 2) if cell == "gru" else (0, 3, 1, 2)
    order = [gate * hidden_size + unit for gate in gates for unit in range(hidden_size)]
    inputs = op.Transpose(inputs, perm=[1, 0, 2])
    weights = [op.Gather(one, order, axis=1) for one in (weight, recurrent)]
    biases = op.Reshape(op.Gather(bias, order, axis=2), [directions, 2 * rows])
    sizes = {"direction": "bidirectional" if directions == 2 else "forward", "hidden_size": hidden_size}
    lengths = op.Cast(num_frames, to=_INT32)
    if cell == "gru":  # torch's resets what the recurrence has added up, its bias included
        states, _ = op.GRU(inputs, *weights, biases, lengths, linear_before_reset=1, **sizes)
    else:
        states, _, _ = op.LSTM(inputs, *weights, biases, lengths, **sizes)
    # from [frames, directions, batch, hidden]
    return op.Reshape(op.Transpose(states, perm=[2, 0, 1, 3]), [0, 0, directions * hidden_size])


def _neuraltalk_lstm(inputs: Any, weight: Any, bias: Any, tanh_output: bool) -> Any:
    """``LSTM``, with its gates in the order i, o, f, c; ``Affine``, as 1 x + 0, stands for no tanh on the way out."""
    rows, columns = weight.shape
    hidden_size = rows // 4
    order = [gate * hidden_size + unit for gate in (0, 2, 1, 3) for unit in range(hidden_size)]
    weight, bias = op.Gather(weight, order, axis=0), op.Gather(bias, order, axis=0)
    of_input = op.Slice(weight, [0], [columns - hidden_size], [1])
    of_state = op.Slice(weight, [columns - hidden_size], [columns], [1])
    biases = op.Unsqueeze(op.Concat(bias, op.Sub(bias, bias), axis=0), [0])
    states, _, _ = op.LSTM(
        inputs,
        op.Unsqueeze(of_input, [0]),
        op.Unsqueeze(of_state, [0]),
        biases,
        hidden_size=hidden_size,
        activations=["Sigmoid", "Tanh", "Tanh" if tanh_output else "Affine"],
        activation_alpha=None if tanh_output else [1.0],
        activation_beta=None if tanh_output else [0.0],
    )
    return op.Squeeze(states, [1])
