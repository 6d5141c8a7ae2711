"""Records of phases that nobody trained, for tests of what is made of them."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from seqdsd.sparsity import Phase

SCORES = {"wer": 0.25, "substitutions": 1, "deletions": 1, "insertions": 0, "ref_words": 8}


@pytest.fixture
def phase_records() -> Callable[[Iterable[Phase]], list[dict[str, Any]]]:
    """Makes records as the engine writes them of a speech run."""

    def make(phases: Iterable[Phase]) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "name": phase.name,
                "kind": phase.kind,
                "epochs": phase.epochs,
                "epochs_planned": phase.epochs,
                "best_epoch": 1,
                "learning_rate": phase.learning_rate,
                "sparsity": phase.sparsity,
                "measured_sparsity": phase.sparsity,
                "train_loss": [1.0] * phase.epochs,
                "dev_loss": [1.0] * phase.epochs,
                "dev_score": [0.25] * phase.epochs,
                "dev": SCORES,
                "test": SCORES,
                "train_seconds": 1.0,
            }
            for index, phase in enumerate(phases)
        ]

    return make
