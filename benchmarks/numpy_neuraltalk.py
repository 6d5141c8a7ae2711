"""NeuralTalk's training step in numpy as the original takes it: a caption at a time, a word at a time, in float64.

What ours is timed against, and an independent witness for its loss and gradients (tests/benchmarks). Where the original
wastes time this does too: the LSTM multiplies vectors, each word adds an outer product of the size of its matrix to the
gradient, and each caption a whole set of gradients to the batch's. Reading captions, other cells than the default one
and other solvers are left out.

Reference: karpathy/neuraltalk, imagernn/lstm_generator.py, generic_batch_generator.py and solver.py, and the cost in
driver.py; written anew from what they do. Departures: word ids come ready-made; random numbers from numpy's newer
generator, which is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Arrays = dict[str, np.ndarray]
"""By the original's names: We, be (image), Ws (words), WLSTM (rows: bias, input, state), Wd, bd (output)."""
END = 0
"""START too."""


@dataclass(frozen=True)
class NumpySettings:
    """The original's defaults."""

    learning_rate: float = 1e-3
    decay: float = 0.999
    """Of the mean squared gradient."""
    epsilon: float = 1e-8
    """Inside the root."""
    clip_value: float = 5.0
    """For each element."""
    weight_decay: float = 1e-8
    """Of matrices; divided by the batch size with the rest of the gradient."""
    dropout: float = 0.5
    """On the LSTM's inputs and again on its outputs."""


def by_their_names(ours: Mapping[str, Tensor]) -> Arrays:
    """Weights (or gradients) of our ``NeuralTalk`` as the original lays them out, in float64."""
    arrays = {name: tensor.detach().double().numpy().copy() for name, tensor in ours.items()}
    return {
        "We": arrays["image.weight"].T.copy(),
        "be": arrays["image.bias"],
        "Ws": arrays["words.weight"],
        "WLSTM": np.vstack([arrays["lstm.bias"], arrays["lstm.weight"].T]),
        "Wd": arrays["output.weight"].T.copy(),
        "bd": arrays["output.bias"],
    }


@dataclass(frozen=True)
class _Trace:
    """What the backward pass needs of one caption; a row a time step, the image first."""

    words: list[int]
    inputs: np.ndarray
    gates: np.ndarray
    cells: np.ndarray
    outputs: np.ndarray
    input_dropout: np.ndarray
    output_dropout: np.ndarray


class NumpyNeuralTalk:
    """The network and its solver."""

    def __init__(self, weights: Arrays, settings: NumpySettings, *, seed: int = 0) -> None:
        self.weights = weights
        self.settings = settings
        self._caches = {name: np.zeros_like(weight) for name, weight in weights.items()}
        self._generator = np.random.default_rng(seed)

    def step(self, features: Sequence[np.ndarray], captions: Sequence[list[int]]) -> float:
        """One step on pairs of an image's features and a caption's word ids, without START and END; the loss before."""
        loss, gradients = self.loss_and_gradients(features, captions)
        limit = self.settings.clip_value
        for name, gradient in gradients.items():
            self._update(name, np.maximum(np.minimum(gradient, limit), -limit))
        return loss

    def loss_and_gradients(
        self, features: Sequence[np.ndarray], captions: Sequence[list[int]]
    ) -> tuple[float, Arrays]:
        """Loss a caption (without the penalty on weights) and gradients, not yet clipped."""
        images = np.stack(features)
        encoded = images @ self.weights["We"] + self.weights["be"]
        said = [self._forward(one, [END, *caption]) for one, caption in zip(encoded, captions, strict=True)]
        judged = [
            _loss_and_gradient(logits, [*caption, END])
            for (logits, _), caption in zip(said, captions, strict=True)
        ]
        passes = zip((trace for _, trace in said), (gradient for _, gradient in judged), strict=True)
        gradients = self._backward(images, passes)
        if self.settings.weight_decay > 0:
            for name in ("We", "Ws", "WLSTM", "Wd"):
                gradients[name] += self.settings.weight_decay * self.weights[name]
        for name in gradients:
            gradients[name] /= len(captions)
        return sum(loss for loss, _ in judged) / len(captions), gradients

    def _update(self, name: str, gradient: np.ndarray) -> None:
        """RMSProp."""
        decay = self.settings.decay
        self._caches[name] = self._caches[name] * decay + (1 - decay) * gradient**2
        root = np.sqrt(self._caches[name] + self.settings.epsilon)
        self.weights[name] += -(self.settings.learning_rate * gradient) / root

    def _dropout(self, shape: tuple[int, ...]) -> np.ndarray:
        keep = 1 - self.settings.dropout
        return (self._generator.random(shape) < keep) / keep

    def _forward(self, image: np.ndarray, words: list[int]) -> tuple[np.ndarray, _Trace]:
        """Logits of the word after each of ``words``, and how they came about."""
        vectors = np.vstack([image, [self.weights["Ws"][word] for word in words]])
        input_dropout = self._dropout(vectors.shape)
        vectors *= input_dropout
        matrix = self.weights["WLSTM"]
        steps, size = vectors.shape
        hidden_size = matrix.shape[1] // 4
        inputs = np.zeros((steps, len(matrix)))
        gates = np.zeros((steps, 4 * hidden_size))
        cells, outputs = np.zeros((steps, hidden_size)), np.zeros((steps, hidden_size))
        for t in range(steps):
            inputs[t, 0] = 1
            inputs[t, 1 : 1 + size] = vectors[t]
            if t > 0:
                inputs[t, 1 + size :] = outputs[t - 1]
            before = inputs[t] @ matrix
            gates[t, : 3 * hidden_size] = 1 / (1 + np.exp(-before[: 3 * hidden_size]))
            gates[t, 3 * hidden_size :] = np.tanh(before[3 * hidden_size :])
            i, f, o, g = gates[t].reshape(4, hidden_size)
            cells[t] = i * g
            if t > 0:
                cells[t] += f * cells[t - 1]
            outputs[t] = o * cells[t]
        output_dropout = self._dropout(outputs.shape)
        outputs *= output_dropout
        logits = outputs[1:] @ self.weights["Wd"] + self.weights["bd"]
        return logits, _Trace(words, inputs, gates, cells, outputs, input_dropout, output_dropout)

    def _backward(self, images: np.ndarray, passes: Iterable[tuple[_Trace, np.ndarray]]) -> Arrays:
        """Sums of gradients over captions, from those of their logits."""
        total: Arrays = {}
        words = np.zeros_like(self.weights["Ws"])
        encoded = []
        for trace, logits_gradient in passes:
            own, vectors = self._backward_caption(trace, logits_gradient)
            for name, gradient in own.items():
                if name in total:
                    total[name] += gradient
                else:
                    total[name] = gradient
            encoded.append(vectors[0])
            for word, gradient in zip(trace.words, vectors[1:], strict=True):
                words[word] += gradient
        image_gradient = np.stack(encoded)
        return {**total, "Ws": words, "We": images.T @ image_gradient, "be": image_gradient.sum(axis=0)}

    def _backward_caption(self, trace: _Trace, logits_gradient: np.ndarray) -> tuple[Arrays, np.ndarray]:
        """Gradients of LSTM and output for one caption, and of the vectors that it read."""
        logits_gradient = np.vstack([np.zeros(logits_gradient.shape[1]), logits_gradient])
        own = {"Wd": trace.outputs.T @ logits_gradient, "bd": logits_gradient.sum(axis=0)}
        outputs = (logits_gradient @ self.weights["Wd"].T) * trace.output_dropout
        matrix = self.weights["WLSTM"]
        own["WLSTM"] = np.zeros_like(matrix)
        cells, vectors = np.zeros_like(trace.cells), np.zeros_like(trace.input_dropout)
        size = vectors.shape[1]
        for t in reversed(range(len(outputs))):
            i, f, o, g = trace.gates[t].reshape(4, -1)
            cells[t] += o * outputs[t]
            forget = np.zeros_like(f)
            if t > 0:
                forget = trace.cells[t - 1] * cells[t]
                cells[t - 1] += f * cells[t]
            before = np.concatenate(
                [
                    i * (1 - i) * g * cells[t],
                    f * (1 - f) * forget,
                    o * (1 - o) * trace.cells[t] * outputs[t],
                    (1 - g**2) * i * cells[t],
                ]
            )
            own["WLSTM"] += np.outer(trace.inputs[t], before)
            inputs = before @ matrix.T
            vectors[t] = inputs[1 : 1 + size]
            if t > 0:
                outputs[t - 1] += inputs[1 + size :]
        return own, vectors * trace.input_dropout


def _loss_and_gradient(logits: np.ndarray, words: list[int]) -> tuple[float, np.ndarray]:
    """Summed negative log-probability of ``words``, and its gradient by the logits."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exps / exps.sum(axis=1, keepdims=True)
    rows = np.arange(len(words))
    loss = -np.log(1e-20 + probabilities[rows, words]).sum()
    probabilities[rows, words] -= 1
    return float(loss), probabilities
