"""What each kind of record is: types and bounds, which ``reading`` holds files against. Further keys are allowed.

A field that may be missing, as in folders of before it was written, is ``UNSET`` by default. Bounds also keep out what
later arithmetic could not take: dates of a million years, integers of a thousand digits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

NUM_BINS = 101
"""Of a layer's histogram."""
MAX_ITERS = 1000
"""Rounds of a run."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
Ordinal = Annotated[int, Meta(ge=1, le=2**53)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""Finite."""
Positive = Annotated[float, Meta(gt=0, le=1e300)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Rate = Annotated[float, Meta(ge=0, le=1e300)]
Bleu = Annotated[float, Meta(ge=0, le=100 + 1e-6)]
"""100 may come as 100.00000000000004."""
Line = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text without control characters: it is shown in terminals."""
Name = Annotated[
    str,
    Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"),
]
"""A line that says something, and may be part of a file's name."""


class StartWeights(Struct):
    """The file that a run's network has begun with."""

    file: Line
    sha256: Line


class Provenance(Struct):
    """``[provenance]`` of ``config.toml``."""

    format: Count = 1
    recipe: Name | UnsetType = UNSET
    tokenizer: Line | UnsetType = UNSET
    start_weights: StartWeights | UnsetType = UNSET
    command: str | UnsetType = UNSET
    started: str | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET


class RunSettings(Struct):
    """The settings in ``config.toml`` that every run has and reports ask for."""

    method: Literal["dsd", "llr", "baseline", "compress"]
    iters: Annotated[int, Meta(ge=0, le=MAX_ITERS)]
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Restart(Struct):
    """An epoch that had diverged and was undone: ``back_to`` the weights of another, 0 for the phase's first ones."""

    epoch: Ordinal
    back_to: Count
    learning_rate: Positive
    why: Line


class Remark(Struct):
    """What was said of the training after an epoch."""

    epoch: Ordinal
    kind: Line
    text: Line


class Given(Struct):
    """Of weights that somebody else has trained: where they came from, and what they score before any training."""

    file: str
    sha256: Line
    dev_loss: Number | None
    dev_score: Number | None


class Restored(Struct):
    """Of the weights that a redense phase has restored: how far they had come back at its end (see ``Regrowth``)."""

    weights: Ordinal
    former_mean_abs: Rate
    mean_abs: Rate
    above_threshold: Count
    share: Rate | None
    """Mean |w| in shares of the former; null where that was 0."""
    above_share: Share
    is_nearly_sparse: bool


class Phase(Struct):
    """A line of ``phases.jsonl``; beside ``dev`` there is an object for each test set.

    A phase whose weights were given has no epochs.
    """

    name: Name
    kind: Literal["dense", "sparse", "redense", "shared"]
    epochs: Count
    best_epoch: Count
    learning_rate: Positive
    sparsity: Share
    measured_sparsity: Share
    train_loss: list[Number | None]
    """By epoch; null where it was not finite."""
    dev_score: list[Number | None]
    dev: dict[str, Any]
    train_seconds: Seconds
    index: Count | UnsetType = UNSET
    epochs_planned: Count | UnsetType = UNSET
    dev_loss: list[Number | None] | UnsetType = UNSET
    evaluate_seconds: Seconds | UnsetType = UNSET
    statistics_seconds: Seconds | UnsetType = UNSET
    skipped: Count | UnsetType = UNSET
    nonfinite_steps: Count | UnsetType = UNSET
    restarts: list[Restart] | UnsetType = UNSET
    remarks: list[Remark] | UnsetType = UNSET
    taken_over_from: str | UnsetType = UNSET
    given: Given | UnsetType = UNSET
    restored_start: Literal["zero", "former", "fresh"] | UnsetType = UNSET
    """Of a redense phase: what restored weights began with."""
    restored: Restored | UnsetType = UNSET


class WordErrors(Struct):
    """Scores of a recogniser on a set."""

    wer: Rate
    substitutions: Count
    deletions: Count
    insertions: Count
    ref_words: Count
    hits: Count | UnsetType = UNSET
    cer: Rate | None | UnsetType = UNSET
    utterances: Count | UnsetType = UNSET
    signature: Line | UnsetType = UNSET
    decoding: Line | UnsetType = UNSET


class CaptionScores(Struct):
    """Scores of a captioner on a set."""

    bleu1: Bleu
    bleu2: Bleu
    bleu3: Bleu
    bleu4: Bleu
    brevity_penalty: Number
    cider_d: Number
    rouge_l: Number
    decoding: Line
    neuraltalk_bleu1: Bleu | UnsetType = UNSET
    neuraltalk_bleu2: Bleu | UnsetType = UNSET
    neuraltalk_bleu3: Bleu | UnsetType = UNSET
    neuraltalk_bleu4: Bleu | UnsetType = UNSET
    images: Count | UnsetType = UNSET
    signature: Line | UnsetType = UNSET


class ClassErrors(Struct):
    """Scores of a classifier on a set."""

    top1_error: Share
    top1_errors: Count
    images: Ordinal
    top5_error: Share | UnsetType = UNSET
    """Missing where there are no more than five classes."""
    top5_errors: Count | UnsetType = UNSET
    signature: Line | UnsetType = UNSET


SCORES: dict[str, type[Struct]] = {
    "wer": WordErrors,
    "bleu4": CaptionScores,
    "top1_error": ClassErrors,
}
"""The shape of a set's scores, by the score that only runs of this kind have."""


class Hypothesis(Struct):
    """A line of ``hyps/PHASE.SPLIT.jsonl`` of a recogniser, or of a classifier."""

    id: str
    hyp: str
    ref: str | UnsetType = UNSET
    """Missing where the corpus may not be copied into the folder."""


class CaptionHypothesis(Struct):
    """The same of a captioner."""

    id: str
    hyp: str
    refs: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET


class Medium(Struct):
    """A line of ``images.jsonl`` or ``audio.jsonl``."""

    id: str
    path: str


class PlannedParameter(Struct):
    """A line of ``plan.jsonl``."""

    parameter: Line
    shape: list[Count]
    count: Count
    rule: Line | None
    why: Line
    sparsity_by_phase: dict[str, Share]


class Layer(Struct):
    """A pruned layer at a moment."""

    name: Line
    shape: list[Count]
    weights: Count
    zeros: Count
    pruned: Count
    pruned_near_zero: Count
    low: Number
    high: Number
    histogram: Annotated[list[Count], Meta(min_length=NUM_BINS, max_length=NUM_BINS)]
    threshold: Number | None
    mean: Number | None
    sd: Number | None
    mean_abs: Number | None
    pruned_mean_abs: Number | None
    kept_mean_abs: Number | None


class LayersAtMoment(Struct):
    """A line of ``weights.jsonl``."""

    round: Ordinal
    moment: Line
    layers: list[Layer]
    phase: Name | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET


class Progress(Struct):
    """``progress.json``."""

    phase: Name
    epochs_done: Count
    epochs_planned: Count
    epochs_timed: Count
    seconds: Seconds
    dev: Line


HYPOTHESES = {"ref": Hypothesis, "refs": CaptionHypothesis}
"""By where they have what is right."""
