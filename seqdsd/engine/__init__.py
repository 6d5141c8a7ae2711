"""Training: one epoch (``loop``), the phases (``dsd``), checkpoints. The only part that knows Lightning Fabric."""

from seqdsd.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    has_checkpoint,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from seqdsd.engine.device import AskedPrecision, device_name, make_fabric, precision_of
from seqdsd.engine.dsd import DSDTraining, TrainSettings
from seqdsd.engine.given_weights import GivenWeights
from seqdsd.engine.interrupt import StopRequested
from seqdsd.engine.loop import TrainingDiverged
from seqdsd.engine.memory import OutOfMemory
from seqdsd.engine.optimizer import AdamWSettings, AdaptiveSettings, NesterovSettings, OptimizerSettings
from seqdsd.engine.precision import Precision
from seqdsd.engine.processes import Processes, is_first_process, is_lost_company, leave_company
from seqdsd.engine.task import Batch, Evaluation, Note, Task

__all__ = [
    "AdamWSettings",
    "AdaptiveSettings",
    "AskedPrecision",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "DSDTraining",
    "Evaluation",
    "GivenWeights",
    "NesterovSettings",
    "Note",
    "OptimizerSettings",
    "OutOfMemory",
    "Precision",
    "Processes",
    "StopRequested",
    "Task",
    "TrainSettings",
    "TrainingDiverged",
    "device_name",
    "has_checkpoint",
    "is_first_process",
    "is_lost_company",
    "leave_company",
    "load_checkpoint",
    "load_latest",
    "make_fabric",
    "precision_of",
    "save_checkpoint",
]
