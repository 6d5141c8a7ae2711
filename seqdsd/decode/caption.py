"""What greedy and beam search for captions share: the model's interface, the result, the checks on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each [batch, hidden]: a row for each image or beam."""


@runtime_checkable
class NextWordModel(Protocol):
    """A caption generator that can be run a word at a time; its rows know nothing of each other."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, START and END included."""

    def start(self, image_features: Float[Tensor, "batch feature_size"]) -> State:
        """Return the state after the image."""

    def step(self, tokens: Int[Tensor, "batch"], state: State) -> tuple[Float[Tensor, "batch vocab"], State]:
        """Return logits of the word after ``tokens``, and the state to give with that word."""


@dataclass(frozen=True)
class ScoredCaption:
    """A caption that a search found."""

    tokens: list[int]
    """Ids of its words, without START and END."""
    log_prob: float
    """Natural log of the model's probability of the words and, unless ``max_words`` cut them off, of END after them."""


class NonFiniteCaptions(ValueError):
    """What the model gives for some images is NaN or infinite; the other images are not touched by it.

    Attributes:
        rows: Of ``image_features``, in their order.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(
            f"the model's log-probabilities are not finite for row(s) {', '.join(map(str, rows))} of image_features. "
            "Check these features and the model's weights for NaN and infinity."
        )
        self.rows = tuple(rows)


@dataclass(frozen=True)
class Ends:
    """How captions begin and end."""

    start_id: int
    """Fed before the first word. Where END has another id, START is never emitted."""
    end_id: int
    """Emitted after the last word; NeuralTalk's START and END are both 0."""
    max_words: int
    """Steps after which a caption is taken as it stands."""

    def check(self, vocab_size: int) -> None:
        """Raise ``ValueError`` if an id is outside the vocabulary or no word may be emitted."""
        for name in ("start_id", "end_id"):
            if not 0 <= getattr(self, name) < vocab_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, outside the model's vocabulary of {vocab_size} words. "
                    "Take both from the vocabulary that the model was trained with."
                )
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {self.max_words}")

    @property
    def forbidden_id(self) -> int | None:
        """The id that must not be emitted, if there is one."""
        return None if self.start_id == self.end_id else self.start_id


def at_least_float32(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Widen half precision, in which sums of log-probabilities would not tell captions apart."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def word_log_probs(
    logits: Float[Tensor, "batch vocab"], forbidden_id: int | None
) -> Float[Tensor, "batch vocab"]:
    """Log-probabilities of the next word; -inf for the forbidden one, whose share the others do not get."""
    # On the CPU several times faster than logsumexp of the logits.
    log_probs = at_least_float32(logits).log_softmax(dim=1)
    if forbidden_id is not None:
        log_probs[:, forbidden_id] = -math.inf
    return log_probs


def select_rows(state: State, rows: Int[Tensor, "selected"]) -> State:
    """The states of some rows, in their order; a row may be taken several times."""
    hidden, cell = state
    return hidden.index_select(0, rows), cell.index_select(0, rows)


def to_captions(
    words: Int[Tensor, "images max_words"], log_probs: Float[Tensor, "images"], end_id: int
) -> list[ScoredCaption]:
    """Bring a search's results to the host and cut each caption before its END.

    Raises:
        NonFiniteCaptions: If a log-probability is not finite; has the images' rows.
    """
    scores = log_probs.tolist()
    bad = (~log_probs.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteCaptions(bad)
    captions = [row[: row.index(end_id)] if end_id in row else row for row in words.tolist()]
    return [ScoredCaption(tokens, score) for tokens, score in zip(captions, scores, strict=True)]
