"""``seqdsd evaluate`` for image classifiers: top-1 and top-5 error, as the run itself scores.

Only the images of the split that is judged need be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqdsd.data.labelled_images import open_images, read_image_set
from seqdsd.data.synthetic import SyntheticShapes, synthetic_shapes
from seqdsd.inference.scoring import Evaluate, Scores, Scoring, print_facts, print_remarks, progress_bar
from seqdsd.inference.trained import TrainedClassifier
from seqdsd.kinds import CLASSIFICATION
from seqdsd.tasks.classification import ClassificationTask

_DESCRIPTION = """Score a trained image classifier: top-1 and, of more than five classes, top-5 error, as its own run \
scores.

Examples:
  seqdsd evaluate runs/cifar10-resnet20
  seqdsd evaluate runs/cifar10-resnet20 --phase "Sparse Iter 1" --hyps hyps.jsonl
  seqdsd evaluate runs/cifar10-resnet20 --data data/mine --split dev
"""


@dataclass(frozen=True)
class EvaluateClasses(Evaluate):
    """What to score, and with which weights."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with test/ (or dev/, val/), and in it a folder of images for each class, called as in training; by default
    the data that the run was trained on."""
    split: Literal["test", "dev"] = "test"
    """Which images."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Images at once; bounds memory. By default the run's own."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def score_classes(trained: TrainedClassifier, asked: EvaluateClasses, console: Console) -> Scores:
    """Score an image classifier on a split.

    Raises:
        ValueError: For a folder or an image that cannot be used; the message says what to do.
    """
    config, labeller = trained.config, trained.labeller
    on_bad_data = asked.on_bad_data or config.on_bad_data
    images, left_out = read_image_set(
        asked.data or trained.saved.data(config) or synthetic_shapes(SyntheticShapes()),
        asked.split,
        classes=labeller.classes,
        on_bad_data=on_bad_data,
    )
    source = open_images(images, labeller.format, num_workers=config.num_workers, on_bad_data=on_bad_data)
    task = ClassificationTask(
        model=trained.model.module,
        labeller=labeller,
        sources={asked.split: source},
        batch_size=asked.batch_size or config.batch_size,
        processes=trained.processes,
        left_out=left_out,
    )
    with progress_bar(console) as progress:
        bar = progress.add_task(escape(f"{trained.phase['name']} on {asked.split}"), total=len(source.images))
        evaluation = task.evaluate(
            trained.model, asked.split, trained.device, after_images=partial(progress.advance, bar)
        )
    return Scores(trained.phase, {asked.split: evaluation}, task.skipped)


def print_class_scores(scores: Scores, command: str, console: Console) -> None:
    """Print a table of both errors with their counts, and what they depend on."""
    table = Table("set", "error", "%", "errors", "images", box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    [(split, one)] = scores.evaluations.items()
    found = one.metrics
    for metric in CLASSIFICATION.metrics:
        if metric.key in found:
            errors = found[f"{metric.key}s"]
            table.add_row(
                split, metric.title, metric.written(found[metric.key]), str(errors), str(found["images"])
            )
    console.print(table)
    print_remarks(scores, console)
    facts = {
        "loss": f"{found['loss']:.4f} an image",
        "phase": scores.phase["name"],
        "signature": found["signature"],
        "command": command,
    }
    print_facts(facts, console)


SCORING = Scoring(EvaluateClasses, _DESCRIPTION, score_classes, print_class_scores)
