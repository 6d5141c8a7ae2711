"""What ``gpu_check`` times: steps of our networks against cuDNN's of as many parameters, and masks of 68 M weights.

Shares of a limit are of what the same device does when it does nothing else: products of large matrices, copies of
large tensors.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.sparse_step import make_large_network
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.engine import AdaptiveSettings, NesterovSettings
from seqdsd.engine.precision import measure_precision
from seqdsd.models import DeepSpeech1, DeepSpeech2, NeuralTalk
from seqdsd.models.shared_input_rnn import PERSISTENT
from seqdsd.sparsity import SPEECH_RULES, MaskSet, measured_sparsity, resolve

ROUNDS = 3
MASK_BYTES = 12
"""Of traffic for a weight in single precision to be masked: it and its mask are read, it is written."""
Finding = tuple[str, str, bool]
"""What was looked at, what was found, and whether it is as it should be."""


class CudnnRecogniser(nn.Module):
    """A convolution of stride 2, bidirectional layers of ``nn.RNN`` or ``nn.LSTM``, a linear output."""

    def __init__(self, cell: str, units: int, *, layers: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(161, units, 11, stride=2, padding=5)
        self.rnn = {"RNN": nn.RNN, "LSTM": nn.LSTM}[cell](units, units, layers, bidirectional=True)
        self.output = nn.Linear(2 * units, 29)

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and their lengths, as ours."""
        lengths = (num_frames - 1) // 2 + 1
        hidden = self.conv(features.transpose(1, 2)).relu().permute(2, 0, 1)
        packed = pack_padded_sequence(hidden, lengths, enforce_sorted=False)
        hidden = pad_packed_sequence(self.rnn(packed)[0])[0]
        return self.output(hidden).float().log_softmax(-1).transpose(0, 1), lengths


class CudnnCaptioner(nn.Module):
    """An image and words through ``nn.LSTM`` to the next words."""

    def __init__(self, units: int, *, vocab_size: int, feature_size: int) -> None:
        super().__init__()
        self.image = nn.Linear(feature_size, units)
        self.words = nn.Embedding(vocab_size, units)
        self.rnn = nn.LSTM(units, units)
        self.output = nn.Linear(units, vocab_size)

    def forward(self, image_features: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the word after each token, as ours."""
        inputs = torch.cat((self.image(image_features)[None], self.words(tokens.t())))
        return self.output(self.rnn(inputs)[0][1:]).transpose(0, 1)


def num_parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def of_as_many_parameters(build: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    """The network whose number of units gives nearest to so many parameters."""

    def count(units: int) -> int:
        with torch.device("meta"):
            return num_parameters(build(units))

    low, high = 1, 1
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return build(min((low, high), key=lambda units: abs(count(units) - wanted)))


@dataclass(frozen=True)
class Contest:
    """One of our networks, its rivals, and what they are trained on."""

    name: str
    ours: Callable[[], nn.Module]
    rivals: dict[str, Callable[[int], nn.Module]]
    inputs: tuple[Tensor, Tensor]
    lengths: Tensor | None
    """Of utterances; None for captions."""
    rows: int
    """That every matrix is multiplied with."""


def contests(*, small: bool) -> list[Contest]:
    """The papers' sizes on a batch of speech or captions; or small ones."""
    torch.manual_seed(0)
    items, frames = (2, 100) if small else (32, 800)
    num_frames = torch.linspace(frames * 3 // 4, frames, items).long()
    speech = (torch.randn(items, frames, 161), num_frames)
    sizes: dict[str, Any] = {"hidden_size": 64} if small else {}
    layers = 2 if small else 7
    captions, vocab_size, features = (10, 200, 256) if small else (100, 2538, 4096)
    words = (torch.randn(captions, features), torch.randint(1, vocab_size, (captions, 12)))

    def recogniser(cell: str, layers: int) -> Callable[[int], nn.Module]:
        return lambda units: CudnnRecogniser(cell, units, layers=layers)

    def rivals(layers: int) -> dict[str, Callable[[int], nn.Module]]:
        return {f"nn.{cell}": recogniser(cell, layers) for cell in ("RNN", "LSTM")}

    rows = int(((num_frames + 1) // 2).sum())
    return [
        Contest("DeepSpeech 1", lambda: DeepSpeech1(**sizes), rivals(1), speech, num_frames, rows),
        Contest(
            "DeepSpeech 2",
            lambda: DeepSpeech2(**sizes, num_recurrent_layers=layers),
            rivals(layers),
            speech,
            num_frames,
            rows,
        ),
        Contest(
            "NeuralTalk",
            lambda: NeuralTalk(vocab_size=vocab_size, feature_size=features, **sizes),
            {"nn.LSTM": lambda units: CudnnCaptioner(units, vocab_size=vocab_size, feature_size=features)},
            words,
            None,
            words[1].numel(),
        ),
    ]


def step_flops(model: nn.Module, contest: Contest) -> float:
    """Multiplications and additions of a step: each matrix with each row, forward and twice backward.

    Of NeuralTalk's image matrix there are fewer rows; a convolution over bins is applied at each of its output bins.
    """
    total = 0.0
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding):
            continue
        rows = len(contest.inputs[0]) if name == "image.weight" else contest.rows
        if weight.ndim == 4:
            rows *= 81 if name.startswith("conv1") else 41
        total += 6.0 * weight.numel() * rows
    return total


def make_step(
    model: nn.Module, contest: Contest, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """A step as the engine takes it; returns when the device is done."""
    first, second = contest.inputs
    is_speech = contest.lengths is not None
    first, second = first.to(device), second if is_speech else second.to(device)
    settings = NesterovSettings() if is_speech else AdaptiveSettings()
    model.to(device).train()
    optimizer: Any = settings.make(model.parameters(), 1e-5)
    lengths = (second + 1) // 2
    num_tokens = lengths // 8
    tokens = torch.randint(1, 29, (int(num_tokens.sum()),), device=device) if is_speech else second
    autocast = torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()

    def step() -> None:
        with autocast:
            outputs = model(first, second)
        if is_speech:
            log_probs, frames = outputs
            loss = F.ctc_loss(log_probs.transpose(0, 1), tokens, frames, num_tokens, reduction="sum") / len(
                first
            )
        else:
            loss = F.cross_entropy(outputs.float().flatten(0, 1), tokens.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad()
        wait(device)

    return step


def scanned(step: Callable[[], None], *, once: bool) -> Callable[[], None]:
    """The step with its recurrences as one launch each, or as launches for each frame."""

    def step_so() -> None:
        with patch.dict(os.environ, {PERSISTENT: str(int(once))}):
            step()

    return step_so


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], object], device: torch.device, *, rounds: int = 5) -> float:
    """The median, after a round that is not counted."""

    def run() -> None:
        function()
        wait(device)

    wait(device)
    return statistics.median(seconds_in_turns({"it": run}, rounds=rounds)["it"])


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / seconds_of(lambda: one @ other, device)


def speed_rows(device_name: str, dtype_name: str, *, small: bool) -> Iterator[Finding]:
    """Steps a second, the share of the device's limit, peak memory, and the ratio to each rival."""
    device, dtype = torch.device(device_name), getattr(torch, dtype_name)
    torch.backends.cudnn.allow_tf32 = False  # as torch's own products are by default, ours and the limit's
    limit = matmul_flops_per_second(device, dtype)
    yield f"matrix products, {dtype_name}", f"{limit / 1e12:.2f} Tflop/s", True
    if dtype == torch.bfloat16:
        yield "--precision auto", str(measure_precision(device)), True
    for contest in contests(small=small):
        ours = contest.ours()
        wanted = num_parameters(ours)
        models = {"ours": ours}
        models |= {name: of_as_many_parameters(build, wanted) for name, build in contest.rivals.items()}
        steps = {name: make_step(model, contest, device, dtype) for name, model in models.items()}
        seconds = seconds_in_turns(steps, rounds=1 if small else ROUNDS)
        for name, model in models.items():
            middle = statistics.median(seconds[name])
            share = step_flops(model, contest) / middle / limit
            said = f"{1 / middle:.2f} steps/s, {share:.1%} of the limit, {_peak(steps[name], device)}"
            if name != "ours":
                said += f"; ours takes {Ratio.of(seconds['ours'], seconds[name])} of its time"
            is_finite = all(bool(one.isfinite().all()) for one in model.parameters())
            yield (
                f"{contest.name}, {dtype_name}: {name}, {num_parameters(model) / 1e6:.1f} M",
                said,
                is_finite,
            )


def _peak(step: Callable[[], None], device: torch.device) -> str:
    if device.type != "cuda":
        return "memory not measured"
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return f"{(torch.cuda.max_memory_allocated(device) - before) / 1e9:.2f} GB over {before / 1e9:.2f} GB"


def scan_rows(device_name: str, *, small: bool) -> Iterator[Finding]:
    """Steps with recurrences as one launch each, against the same with launches for each frame."""
    device = torch.device(device_name)
    for contest in contests(small=small):
        if contest.lengths is None:
            continue
        ours = contest.ours()
        models = {once: copy.deepcopy(ours).to(device) for once in (False, True)}
        before = flat(models[False])
        steps = {}
        for once, model in models.items():
            torch.manual_seed(0)  # of the texts
            steps[str(once)] = scanned(make_step(model, contest, device, torch.float32), once=once)
        seconds = seconds_in_turns(steps, rounds=1 if small else 2 * ROUNDS)
        ratio = Ratio.of(seconds["False"], seconds["True"])
        plain, scanned_once = flat(models[False]), flat(models[True])
        apart = float((plain - scanned_once).norm() / (plain - before).norm())
        yield (
            f"{contest.name}: recurrence in one launch",
            f"{ratio} times as fast a step; of the way that weights have gone {apart:.1e} is another",
            apart
            < 1e-3,  # rounding decides what is clamped, so that it may have to be more: no GPU has told yet
        )


def flat(model: nn.Module) -> Tensor:
    """All weights, one after the other; a copy."""
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def mask_rows(device_name: str, *, units: int) -> Iterator[Finding]:
    """Choosing, attaching, and what a sparse step adds, against the time that reading and writing alone would take."""
    device = torch.device(device_name)
    model = make_large_network(units).to(device)
    plan = resolve(model, SPEECH_RULES, 0.5)
    source = torch.zeros(max(units * units * 16, 2**24), device=device)
    copied = torch.empty_like(source)
    bytes_per_second = 2 * source.nbytes / seconds_of(lambda: copied.copy_(source), device)
    yield "copies of tensors", f"{bytes_per_second / 1e9:.0f} GB/s", True
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    chosen = seconds_of(lambda: MaskSet.from_magnitude(model, plan), device, rounds=3)
    masks = MaskSet.from_magnitude(model, plan)
    optimizer = NesterovSettings().make(model.parameters(), 1e-5)
    wait(device)
    started = time.perf_counter()
    handle = masks.attach(optimizer)
    wait(device)
    attached = time.perf_counter() - started
    sparsity = masks.sparsity()
    covered = sum(one.numel() for one in masks.masks.values())
    yield (
        f"masks of {covered / 1e6:.1f} M weights: chosen, attached",
        f"{1000 * chosen:.1f} ms, {1000 * attached:.1f} ms; sparsity {sparsity:.4f}",
        abs(sparsity - 0.5) < 1e-4,
    )
    limit = MASK_BYTES * covered / bytes_per_second
    for name, function in (("applied", masks.apply_), ("gradients masked", masks.mask_gradients_)):
        taken = seconds_of(function, device)
        yield f"masks: {name}", f"{1000 * taken:.2f} ms, {limit / taken:.0%} of the memory's speed", True
    zeros = measured_sparsity(model, plan.sparsities)
    handle.remove()
    yield "masks: weights that are 0", f"{zeros:.4f}", abs(zeros - 0.5) < 1e-4
