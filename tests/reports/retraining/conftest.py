"""Studies of retraining written by hand: the scores of every parent, arm and repeat are given."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tomli_w

from seqdsd.records import RunFolder, write_json_lines

IMAGES = 1000
RATES = (0.1, 0.01, 0.001)


def record(index: int, wrong: int, *, sparsity: float, rates: Sequence[float], parent: int) -> dict[str, Any]:
    """A phase that leaves so many of 1,000 images wrong; the first is given."""
    kind = ("dense", "sparse" if sparsity else "dense", "redense" if sparsity else "dense")[index]
    names = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")
    epochs = 2 if index else 0
    scores = {
        "top1_error": wrong / IMAGES,
        "top1_errors": wrong,
        "top5_error": 0.0,
        "top5_errors": 0,
        "images": IMAGES,
    }
    return {
        "index": index,
        "name": names[index] if sparsity or not index else f"LLR Phase {index}",
        "kind": kind,
        "epochs": epochs,
        "epochs_planned": epochs,
        "best_epoch": epochs,
        "learning_rate": rates[index],
        "sparsity": sparsity if index == 1 else 0.0,
        "measured_sparsity": sparsity if index == 1 else 0.0,
        "train_loss": [1.0] * epochs,
        "dev_loss": [1.0] * epochs,
        "dev_score": [wrong / IMAGES] * epochs,
        "dev": scores,
        "test": scores,
        "train_seconds": 1.0 * epochs,
        **(
            {}
            if index
            else {"given": {"file": "f", "sha256": f"{parent:064x}", "dev_loss": 1.0, "dev_score": 0.1}}
        ),
    }


def write_retraining(
    run: RunFolder, wrong: int, *, parent: int, given: int, sparsity: float, rates: Sequence[float], seed: int
) -> None:
    """One run that ends with so many wrong."""
    each = (given, wrong, wrong)
    records = [record(n, one, sparsity=sparsity, rates=rates, parent=parent) for n, one in enumerate(each)]
    run.write_phases(records)
    values = {
        "data": "data/cifar10",
        "network": "resnet20",
        "out": str(run.path),
        "iters": 1,
        "epochs": [2, 2, 2],
        "seed": seed,
        "start_weights": f"parents/{parent}",
        "learning_rates": list(rates),
        "sparsities": [sparsity or 0.5],
        "method": "dsd" if sparsity else "llr",
        "optimizer": {"momentum": 0.9, "anneal": 1.0},
    }
    run.config.write_text(
        tomli_w.dumps({**values, "provenance": {"recipe": "vision", "format": 1, "seed": seed}})
    )


def write_study(
    folder: Path,
    arms: Mapping[str, tuple[float, Sequence[Sequence[int]]]],
    *,
    given: int = 60,
    rates: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """``FOLDER/parent-P/repeat-R/ARM``: of each arm its sparsity, and how many are wrong, by parent and repeat."""
    for name, (sparsity, by_parent) in arms.items():
        for parent, by_repeat in enumerate(by_parent):
            for repeat, wrong in enumerate(by_repeat):
                write_retraining(
                    RunFolder(folder / f"parent-{parent}" / f"repeat-{repeat}" / name),
                    wrong,
                    parent=parent,
                    given=given + parent,
                    sparsity=sparsity,
                    rates=(rates or {}).get(name, RATES),
                    seed=1000 * (parent + 1) + repeat,
                )
    (folder / "retrain.toml").write_text("seed = 0\n")
    return folder


def keep_hypotheses(study: Path) -> None:
    """What the runs say of their 1,000 images, of five classes: so many as are wrong, drawn by their seed."""
    for folder in study.glob("parent-*/repeat-*/*"):
        run = RunFolder(folder)
        last, seed = run.read_phases()[-1], tomllib.loads(run.config.read_text())["seed"]
        mistaken = set(Random(seed).sample(range(IMAGES), last["test"]["top1_errors"]))
        rows = [
            {
                "id": f"{item}",
                "ref": f"class {item % 5}",
                "hyp": f"class {(item + (item in mistaken)) % 5}",
                "top5": [{"class": f"class {n}", "probability": 0.2} for n in range(5)],
            }
            for item in range(IMAGES)
        ]
        write_json_lines(run.hypotheses(last["name"], "test"), rows)


@pytest.fixture
def make_study(tmp_path) -> Callable[..., Path]:
    """Writes a study: see ``write_study``."""
    return lambda arms, **settings: write_study(tmp_path / "study", arms, **settings)
