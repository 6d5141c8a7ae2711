"""What the engine needs from a task: a model, batches, a loss and a judgement. Speech and captions implement it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class Batch(Protocol):
    """Items that are trained on together."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the items, for messages."""

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Note:
    """What a user should know of an epoch's end, with what to try.

    Attributes:
        kind: Names what is the matter, the same from epoch to epoch: it is said once a phase.
        text: For the user.
        epochs: Said when as many epochs in a row have had it, or all of a shorter phase: 1 where it is never usual.
        share: And when they are this share of the phase's epochs: a long phase may take long to warm up.
    """

    kind: str
    text: str
    epochs: int = 1
    share: float = 0.0

    def epochs_of(self, phase_epochs: int) -> int:
        """How many of a phase's epochs in a row have to have it."""
        return min(max(self.epochs, math.ceil(self.share * phase_epochs)), phase_epochs)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Evaluation:
    """How a model did on one split.

    Attributes:
        loss: Mean loss an item.
        score: What chooses the best epoch on dev, lower is better (WER; minus BLEU).
        headline: The score in words, for the progress line: ``WER 12.34 %``.
        metrics: What the phase record keeps, as JSON can hold it.
        hypotheses: One object an item: id, ref, hyp.
        notes: What a user should know ("blank collapse …").
    """

    loss: float
    score: float
    headline: str
    metrics: Mapping[str, Any]
    hypotheses: Sequence[Mapping[str, Any]]
    notes: Sequence[Note] = field(default=())


BatchT = TypeVar("BatchT", bound=Batch)


@runtime_checkable
class Task(Protocol[BatchT]):
    """A model with its data, loss, decoding and metric.

    Randomness of an epoch's batches must be a function of the epoch alone, and that of a loss of torch's global
    generator alone: then a resumed run equals an unbroken one.
    """

    @property
    def model(self) -> nn.Module:
        """The bare model."""

    @property
    def test_splits(self) -> Sequence[str]:
        """Names of the test sets; ``dev`` always exists besides."""

    @property
    def fingerprint(self) -> str:
        """Changes when the training items do; a resumed run says so."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Items left out as bad data so far: where each comes from (``train.jsonl:12``) to message."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; epochs may differ by a few."""

    def batches(self, epoch: int, *, first: int) -> Iterator[Sequence[BatchT]]:
        """The batches of an epoch but the ``first`` ones, on the CPU.

        Each comes in the micro-batches, most often one, that are computed one after the other before a step is made; of
        several processes each gives its share, in as many as the others.
        """

    def largest_batch(self) -> Sequence[BatchT]:
        """One that needs as much memory as any, made up, in its micro-batches."""

    def loss(self, model: nn.Module, batch: BatchT) -> Float[Tensor, ""]:
        """Mean loss an item, to be differentiated; ``model`` is the task's own, as the engine has wrapped it."""

    def evaluate(self, model: nn.Module, split: str, device: torch.device) -> Evaluation:
        """Decode and score a split."""
