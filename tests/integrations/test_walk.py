"""What the callbacks of both Trainers tell their loggers, which is the same."""

import csv
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import seqdsd.integrations.lightning
import seqdsd.integrations.transformers
from seqdsd.sparsity import Rule, Schedule

Numbers = dict[int, tuple[float, float]]
"""By step, from 0: share of zeros, place of the phase."""

SCHEDULE = Schedule.dsd(iters=1, epochs=(2, 1, 1), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
RULES = [Rule("*")]
TOLD = dict(enumerate([(0, 0)] * 4 + [(0.5, 1)] * 2 + [(0, 2)] * 2))
DATA = [{"inputs": row} for row in torch.randn(8, 6, generator=torch.Generator().manual_seed(1))]


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs):
        return {"loss": self.layer(inputs).square().mean()}

    def training_step(self, batch, index):
        return self(**batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def scalars(folder: Path, prefix: str = "") -> Numbers:
    """What TensorBoard shows as curves."""
    events = EventAccumulator(str(folder))
    events.Reload()
    zeros, phases = (
        {one.step: one.value for one in events.Scalars(prefix + name)} for name in ("dsd/zeros", "dsd/phase")
    )
    assert zeros.keys() == phases.keys()
    return {step: (zeros[step], phases[step]) for step in zeros}


def by_transformers(folder: Path) -> dict[str, Numbers]:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=SCHEDULE.total_epochs,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        use_cpu=True,
    )
    callback = seqdsd.integrations.transformers.DSDCallback(SCHEDULE, RULES)
    trainer = Trainer(Module(), arguments, train_dataset=DATA, callbacks=[callback])
    trainer.train()
    (events,) = folder.rglob("events.*")
    shown = scalars(events.parent, "train/")
    history = [log for log in trainer.state.log_history if "dsd/zeros" in log]
    return {
        "TensorBoard": {step - 1: one for step, one in shown.items()},
        "history": {log["step"] - 1: (log["dsd/zeros"], log["dsd/phase"]) for log in history},
    }


def by_lightning(folder: Path) -> dict[str, Numbers]:
    trainer = pl.Trainer(
        max_epochs=SCHEDULE.total_epochs,
        callbacks=[seqdsd.integrations.lightning.DSDCallback(SCHEDULE, RULES)],
        logger=[TensorBoardLogger(folder, "tb", ""), CSVLogger(folder, "csv", "")],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Module(), DataLoader(DATA, 4))
    with open(folder / "csv" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dsd/zeros"]]
    in_file = {int(row["step"]): (float(row["dsd/zeros"]), float(row["dsd/phase"])) for row in rows}
    return {"TensorBoard": scalars(folder / "tb"), "CSV": in_file}


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch's, of Lightning
@pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers")
@pytest.mark.parametrize("train", [by_transformers, by_lightning])
def test_every_logger_is_told_zeros_and_phase_as_numbers(tmp_path, train: Callable[[Path], dict]):
    told = train(tmp_path)
    assert told == dict.fromkeys(told, TOLD)
