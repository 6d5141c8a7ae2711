"""What decoding and scoring cost beside the forward pass of a recogniser, on real speech, on the CPU.

    python -m benchmarks.decoding runs/an4-ds1 --data data/an4

All utterances of all splits are run through the network once; what it makes of them is decoded in each way. With
pyctcdecode installed (``pip install --no-deps pyctcdecode pygtrie``: it asks for an older numpy, and runs with this
one) its beam search is timed and compared, too: on the same log-probabilities, its own pruning switched off.
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data import Manifest, find_splits, read_split
from seqdsd.decode import beam_decode, greedy_decode
from seqdsd.inference.trained import TrainedRecogniser, load_recogniser
from seqdsd.metrics import cer, wer
from seqdsd.records import RunFolder
from seqdsd.tasks import SpeechTask


@dataclass(frozen=True)
class Config:
    """What is timed."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run."""
    data: Path
    """Folder of a corpus; all of its splits are taken."""
    beam_width: int = 20
    """Of the beam searches."""
    max_batch_seconds: float = 120.0
    """Of a batch."""
    rivals: int = 50
    """Utterances that pyctcdecode decodes."""
    rounds: int = 3
    """Timings of each way, in turns."""


@dataclass(frozen=True)
class Spoken:
    """A corpus in batches, and what the network makes of it."""

    batches: list[Any]
    outputs: list[tuple[Tensor, Tensor]]
    refs: list[str]
    seconds: float


def hear(config: Config, trained: TrainedRecogniser) -> tuple[SpeechTask, Spoken]:
    """Read and run all of it once."""
    manifests: dict[str, Manifest] = {
        name: read_split(path) for name, path in find_splits(config.data).items()
    }
    settings = replace(trained.config.batches, max_batch_seconds=config.max_batch_seconds, num_workers=0)
    task = SpeechTask(
        model=trained.model.module,
        tokenizer=trained.tokenizer,
        corpus=manifests,
        batches_settings=settings,
        features=trained.config.features,
    )
    batches: list[Any] = []
    outputs: list[tuple[Tensor, Tensor]] = []
    refs: list[str] = []
    for split in manifests:
        for batch, out in task.outputs(trained.model, split, trained.device):
            batches.append(batch)
            outputs.append((out.log_probs, out.num_frames))
            refs += batch.texts
    return task, Spoken(batches, outputs, refs, sum(task.seconds.values()))


@torch.inference_mode()
def forward(task: SpeechTask, trained: TrainedRecogniser, spoken: Spoken) -> None:
    """Features and network, no reading."""
    for batch in spoken.batches:
        task.recogniser.log_probs(trained.model, batch.waveforms, batch.num_samples)


def greedy_and_scores(trained: TrainedRecogniser, spoken: Spoken) -> None:
    """Max decoding, WER and CER."""
    hyps = [
        trained.tokenizer.decode(ids)
        for outputs in spoken.outputs
        for ids in greedy_decode(*outputs, blank_id=0)
    ]
    wer(spoken.refs, hyps)
    cer(spoken.refs, hyps)


def beams(spoken: Spoken, width: int) -> list[tuple[list[int], float]]:
    """The best of a prefix beam search, and its log-probability."""
    found = [one for outputs in spoken.outputs for one in beam_decode(*outputs, beam_width=width)]
    return [(item[0].tokens, item[0].log_prob) for item in found]


def items(spoken: Spoken) -> list[np.ndarray]:
    """Each utterance's log-probabilities, in the order of ``beams``."""
    return [
        row[:length].numpy()
        for log_probs, num_frames in spoken.outputs
        for row, length in zip(log_probs, num_frames.tolist(), strict=True)
    ]


def by_pyctcdecode(trained: TrainedRecogniser, rows: list[np.ndarray], width: int) -> list[tuple[str, float]]:
    """Its best text and log-probability of each, with nothing pruned but by the width."""
    from pyctcdecode import build_ctcdecoder  # type: ignore[import-not-found]

    labels = ["", *trained.tokenizer.to_json()["alphabet"]]
    decoder = build_ctcdecoder(labels)
    options = {"beam_width": width, "beam_prune_logp": -1e9, "token_min_logp": -1e9, "prune_history": False}
    best = [decoder.decode_beams(row, **options)[0] for row in rows]
    return [(one[0], one[-2]) for one in best]


def main(config: Config) -> None:
    """Time, compare and print."""
    console = Console()
    trained = load_recogniser(RunFolder(config.run), device="cpu")
    task, spoken = hear(config, trained)
    ways = {
        "forward pass": lambda: forward(task, trained, spoken),
        "max decoding, WER and CER": lambda: greedy_and_scores(trained, spoken),
        f"beam {config.beam_width}": lambda: beams(spoken, config.beam_width),
    }
    seconds = seconds_in_turns(ways, rounds=config.rounds)
    console.print(
        f"{spoken.seconds / 3600:.2f} h of audio, {len(spoken.refs)} utterances, {torch.get_num_threads()} threads"
    )
    table = Table("", "seconds", "of the forward pass")
    for name, values in seconds.items():
        table.add_row(name, f"{np.median(values):.2f}", str(Ratio.of(values, seconds["forward pass"])))
    console.print(table)
    if importlib.util.find_spec("pyctcdecode") is None:
        console.print("pyctcdecode is not installed: no comparison")
        return
    rows = items(spoken)[:: max(1, len(spoken.refs) // config.rivals)]
    ours = beams(spoken, config.beam_width)[:: max(1, len(spoken.refs) // config.rivals)]
    theirs = by_pyctcdecode(trained, rows, config.beam_width)
    timed = seconds_in_turns(
        {"pyctcdecode": lambda: by_pyctcdecode(trained, rows, config.beam_width)}, rounds=config.rounds
    )
    same = sum(
        " ".join(trained.tokenizer.decode(tokens).split()) == " ".join(text.split())
        for (tokens, _), (text, _) in zip(ours, theirs, strict=True)
    )
    gaps = [one - other for (_, one), (_, other) in zip(ours, theirs, strict=True)]
    longer = np.median(timed["pyctcdecode"]) * len(spoken.refs) / len(rows)
    longer /= np.median(seconds[f"beam {config.beam_width}"])
    console.print(
        f"pyctcdecode, beam {config.beam_width}, {len(rows)} utterances: {same} with the same words; our "
        f"log-probability less theirs: median {np.median(gaps):.4f}, from {min(gaps):.4f} to {max(gaps):.4f}; it takes "
        f"{longer:.1f} times as long",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
