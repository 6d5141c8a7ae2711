"""Trains by the Trainer as one of two processes; started by ``test_transformers.py``, which also trains alone by it."""

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from seqdsd.integrations.transformers import DSDCallback
from seqdsd.sparsity import Rule, Schedule

SCHEDULE = Schedule.dsd(iters=1, epochs=(2, 2, 1), sparsities=[0.8], learning_rates=[1.0, 0.5, 0.5])


class Net(nn.Module):
    """A tiny classifier."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.layers(inputs), labels)}


class InOrder(Trainer):
    """Its batches are not shuffled."""

    def get_train_dataloader(self):
        loader = torch.utils.data.DataLoader(
            self.train_dataset, self.args.per_device_train_batch_size, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)


def train(folder, batch_size):
    """All phases, clipped at every step; the weights, and the norms of the gradients before they were clipped."""
    torch.manual_seed(0)
    model, inputs, labels = Net(), torch.randn(16, 8), torch.randint(0, 2, (16,))
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=SCHEDULE.total_epochs,
        per_device_train_batch_size=batch_size,
        max_grad_norm=0.05,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = InOrder(
        model,
        arguments,
        train_dataset=[{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)],
        optimizers=(torch.optim.SGD(model.parameters(), lr=1), None),
        callbacks=[DSDCallback(SCHEDULE, [Rule("*")])],
    )
    trainer.train()
    norms = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    return model.state_dict(), norms


if __name__ == "__main__":
    weights, norms = train(Path(sys.argv[1]) / "out", batch_size=2)
    rank = torch.distributed.get_rank()
    torch.save((dict(weights), norms), Path(sys.argv[1]) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
