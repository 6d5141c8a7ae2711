"""What pruning costs in training: a sparse step, and the choice of the masks, over a dense step on the CPU.

    python -m benchmarks.sparse_step

Three tables. The first times whole optimizer steps of ``DeepSpeech1`` (CTC, clipping, the engine's own Nesterov
SGD) on 60 s of random features cut like AN4: dense, under our masks, and under ``torch.nn.utils.prune``. The
second times the choice of all masks of a network of DeepSpeech 2's size against
``torch.nn.utils.prune.l1_unstructured`` and one dense step of seven stacked recurrent layers on a small
batch. DeepSpeech 2's convolutions are left out and its real batches are many times larger, so that the masks'
real share of a step is smaller still. The third times the zeroing of pruned weights, which a step does once for the
weights and once for the gradients, by ways that leave +0.0 also of NaN (all but the product), over that product.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.engine import NesterovSettings
from seqdsd.models import DeepSpeech1, FramePacking, SharedInputRNN
from seqdsd.sparsity import SPEECH_RULES, MaskSet, Plan, magnitude_mask, resolve
from seqdsd.sparsity.held_weights import laid_as, zero_pruned_
from seqdsd.sparsity.parameters import by_alias

SPARSITY = 0.5
SETTINGS = NesterovSettings()


@dataclass(frozen=True)
class Config:
    """What is timed."""

    hidden_sizes: tuple[int, ...] = (320, 1024)
    """Units of DeepSpeech 1 in the first table."""
    large_units: int = 1760
    """Units of each layer in the second table; 1760 are DeepSpeech 2's. 0 leaves the table out."""
    large_frames: int = 200
    """Output frames of each of the 4 utterances of the second table's step."""
    held_weights: int = 2**24
    """Weights of the third table's tensor. 0 leaves the table out."""
    rounds: int = 5
    """Timings of each way, in turns."""
    threads: int = 1
    """Of torch."""


class LargeNetwork(nn.Module):
    """DeepSpeech 2's recurrent and fully connected layers, 68 million weights, on packed frames."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.recurrent = nn.ModuleList(
            SharedInputRNN(input_size=units, hidden_size=units, batch_norm=True) for _ in range(7)
        )
        self.fc = nn.Linear(units, units, bias=False)
        self.output = nn.Linear(units, 29)

    def forward(self, hidden: Tensor, packing: FramePacking) -> Tensor:
        """Log-probabilities [batch, frames, 29] from packed frames."""
        for layer in self.recurrent:
            hidden = layer(hidden, packing)
        return packing.unpack(self.output(self.fc(hidden)).log_softmax(-1))


def make_large_network(units: int) -> LargeNetwork:
    """Its weights are drawn here: the orthogonal start of such matrices takes longer than all the timings."""
    with torch.device("meta"):
        model = LargeNetwork(units)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=units**-0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
    return model


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[object, ...], num_frames: Tensor
) -> Callable[[], None]:
    """One step as the engine takes it: forward, CTC loss, backward, clipping, update."""
    num_tokens = num_frames // 8
    tokens = torch.randint(1, 29, (len(num_frames), int(num_tokens.max())))

    def step() -> None:
        log_probs = model(*inputs)
        log_probs = log_probs[0] if isinstance(log_probs, tuple) else log_probs
        loss = F.ctc_loss(log_probs.transpose(0, 1), tokens, num_frames, num_tokens, reduction="sum")
        (loss / len(num_frames)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return SETTINGS.make(model.parameters(), 1e-5)


def prune_by_torch(model: nn.Module, plan: Plan) -> None:
    for name, sparsity in plan.sparsities.items():
        module, _, attribute = name.rpartition(".")
        prune.l1_unstructured(model.get_submodule(module), attribute, sparsity)


def deepspeech1_steps(hidden_size: int) -> dict[str, Callable[[], None]]:
    """Steps of three equal networks on the same batch: 20 utterances of 2.7 to 3.0 s, 100 frames a second."""
    num_frames = torch.linspace(270, 300, 20).long()
    features = torch.randn(20, 300, 161)
    dense, masked, reparametrised = (DeepSpeech1(hidden_size=hidden_size, batch_norm=True) for _ in range(3))
    plan = resolve(masked, SPEECH_RULES, SPARSITY)
    prune_by_torch(reparametrised, plan)
    optimizers = [new_optimizer(model) for model in (dense, masked, reparametrised)]
    MaskSet.from_magnitude(masked, plan).attach(optimizers[1])
    return {
        name: make_step(model, optimizer, (features, num_frames), model.output_frames(num_frames))
        for name, model, optimizer in zip(
            ("dense", "masks", "torch prune"), (dense, masked, reparametrised), optimizers, strict=True
        )
    }


def time_steps(config: Config, console: Console) -> str:
    table = Table("units", "dense, s", "masks / dense", "torch prune / dense")
    table.title = f"step of DeepSpeech 1, 60 s of audio, {SPARSITY:.0%} sparsity, {_how(config)}"
    verdict = []
    for hidden_size in config.hidden_sizes:
        seconds = seconds_in_turns(deepspeech1_steps(hidden_size), rounds=config.rounds)
        masks, reparametrised = (Ratio.of(seconds[way], seconds["dense"]) for way in ("masks", "torch prune"))
        middle = statistics.median(seconds["dense"])
        table.add_row(str(hidden_size), f"{middle:.3f}", str(masks), str(reparametrised))
        verdict.append(f"{masks.median:.3f} at {hidden_size} units")
    console.print(table)
    return f"sparse step / dense step: {', '.join(verdict)}"


def choose_by_torch(model: nn.Module, plan: Plan) -> None:
    """``l1_unstructured`` on holders of the same parameters, so that the model stays as it is."""
    parameters = by_alias(model)
    for name, sparsity in plan.sparsities.items():
        holder = nn.Module()
        holder.register_parameter("weight", parameters[name].parameter)
        prune.l1_unstructured(holder, "weight", sparsity)


def time_masks(config: Config, console: Console) -> str:
    model = make_large_network(config.large_units)
    plan = resolve(model, SPEECH_RULES, SPARSITY)
    num_frames = torch.full((4,), config.large_frames)
    packing = FramePacking.of(num_frames, config.large_frames, torch.device("cpu"))
    hidden = torch.randn(int(num_frames.sum()), config.large_units)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: MaskSet.from_magnitude(model, plan),
        "torch prune": lambda: choose_by_torch(model, plan),
        "dense step": make_step(model, new_optimizer(model), (hidden, packing), num_frames),
    }
    seconds = seconds_in_turns(ways, rounds=config.rounds)
    weights = sum(row.numel for row in plan.rows if row.sparsity)
    table = Table("", "seconds", "over ours", "over a dense step")
    table.title = f"masks of {weights / 1e6:.1f} million weights, {SPARSITY:.0%} sparsity, {_how(config)}"
    for name, values in seconds.items():
        ratios = [str(Ratio.of(values, seconds[other])) for other in ("ours", "dense step")]
        table.add_row(name, f"{statistics.median(values):.2f}", *ratios)
    console.print(table)
    share = Ratio.of(seconds["ours"], seconds["dense step"]).median
    gain = Ratio.of(seconds["torch prune"], seconds["ours"]).median
    return f"masks / dense step: {share:.3f}; torch prune / our masks: {gain:.2f}"


HELD = {
    "fp32": lambda one: one,
    "bf16": lambda one: one.bfloat16(),
    "channels last": lambda one: one.view(-1, 256, 8, 8).contiguous(memory_format=torch.channels_last),
    "transposed": lambda one: one.view(-1, 4096).t(),
    "with gaps": lambda one: one.repeat_interleave(2)[::2],
}


def time_holding(config: Config, console: Console) -> str:
    table = Table(
        "weights", "product, ms", "ours", "AND, mask as wide", "AND, int8 mask", "masked_fill_", "where"
    )
    table.title = (
        f"zeroing of {config.held_weights / 1e6:.1f} million weights over their product, {_how(config)}"
    )
    verdict = []
    for name, laid in HELD.items():
        weight = laid(torch.randn(config.held_weights))
        kept = laid_as(magnitude_mask(weight, SPARSITY), weight)
        bits = weight.view(torch.int16 if weight.element_size() == 2 else torch.int32)
        factor, pruned, zero = kept.to(weight.dtype), ~kept, torch.zeros((), dtype=weight.dtype)
        narrow = -kept.to(torch.int8)
        wide = narrow.to(bits.dtype)
        # Bound now: the loop goes on.
        ways: dict[str, Callable[[], object]] = {
            "product": partial(weight.mul_, factor),
            "ours": partial(zero_pruned_, weight, kept),
            "wide": partial(bits.bitwise_and_, wide),
            "narrow": partial(bits.bitwise_and_, narrow),
            "fill": partial(weight.masked_fill_, pruned, 0),
            "where": partial(torch.where, kept, weight, zero, out=weight),
        }
        seconds = seconds_in_turns(ways, rounds=config.rounds)
        ratios = [Ratio.of(seconds[way], seconds["product"]) for way in ways]
        middle = 1000 * statistics.median(seconds["product"])
        table.add_row(name, f"{middle:.1f}", *map(str, ratios[1:]))
        verdict.append(f"{ratios[1].median:.2f} {name}")
    console.print(table)
    return f"zeroing / product: {', '.join(verdict)}"


def _how(config: Config) -> str:
    return f"{torch.get_num_threads()} thread(s), median of {config.rounds} (range)"


def main(config: Config) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    console = Console()
    verdict = [time_steps(config, console)]
    if config.large_units:
        verdict.append(time_masks(config, console))
    if config.held_weights:
        verdict.append(time_holding(config, console))
    console.print("; ".join(verdict), soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
