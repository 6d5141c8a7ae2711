"""DSD in Hugging Face's Trainer: a tiny ViT on the 1,797 real digits (8 x 8 pixels) that come with scikit-learn.

    pip install 'seqdsd[transformers]' scikit-learn
    python examples/transformers_trainer.py

No download; some seconds on one core. It trains twice from the same weights: by DSD, and by its control, the same
epochs and learning rates with nothing pruned. Only the difference between the two is pruning's.
"""

import argparse
import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from seqdsd.integrations.transformers import DSDCallback
from seqdsd.sparsity import VISION_RULES, Schedule

SCHEDULE = Schedule.dsd(iters=1, epochs=(12, 4, 4), sparsities=[0.5], learning_rates=[4e-3, 2e-3, 1e-3])


def load() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Digits to train on, and to test on: pixel_values [1, 8, 8] and a label each."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(images, digits.target, strict=True)
    ]
    return rows[:1297], rows[1297:]


def network() -> nn.Module:
    """A vision transformer of two layers, with random weights."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=10,
        )
    )


def error(prediction) -> dict[str, float]:
    """Share of the digits that are taken for another."""
    return {"error": float(np.mean(prediction.predictions.argmax(1) != prediction.label_ids))}


def train(schedule: Schedule, seed: int, folder: str) -> float:
    """Walk the phases; the test error at their end."""
    torch.manual_seed(seed)
    rows, test = load()
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=schedule.total_epochs,
        per_device_train_batch_size=32,
        lr_scheduler_type="cosine",  # within each phase
        logging_strategy="epoch",
        save_strategy="no",
        seed=seed,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        network(),
        arguments,
        train_dataset=rows,
        eval_dataset=test,
        compute_metrics=error,
        callbacks=[DSDCallback(schedule, VISION_RULES)],
    )
    trainer.train()
    return trainer.evaluate()["eval_error"]


def main() -> None:
    """Train by DSD and by its control, and print both errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, schedule in {"DSD": SCHEDULE, "control": SCHEDULE.lower_learning_rate_only()}.items():
            errors[name] = train(schedule, seed, folder)
    for name, share in errors.items():
        print(f"{name}: {share:.1%} of 500 test digits wrong")
    print("One seed says nothing about which of the two is better: try more (--seed).")


if __name__ == "__main__":
    main()
