"""The DSD core, for any ``nn.Module`` and any ``torch.optim`` optimizer: rules, masks, schedules, phases.

``DSD``'s docstring shows a whole training loop of your own in ten lines; ``MaskSet`` is one sparse phase's part of it.
Nothing here knows the engine, a task or a corpus.
"""

from seqdsd.sparsity.controller import DSD, Best, CurrentPhase
from seqdsd.sparsity.held_weights import MaskHandle
from seqdsd.sparsity.masks import MaskSet, magnitude_mask
from seqdsd.sparsity.regrowth import NEARLY_SPARSE, Regrowth
from seqdsd.sparsity.restoring import RestoredStart
from seqdsd.sparsity.rules import (
    CAPTION_RULES,
    SPEECH_RULES,
    VISION_RULES,
    FirstOf,
    Plan,
    PlanRow,
    Rule,
    resolve,
)
from seqdsd.sparsity.schedule import Phase, PhaseKind, Schedule
from seqdsd.sparsity.stats import LayerStatistics, Moment, measured_sparsity, weight_statistics

__all__ = [
    "CAPTION_RULES",
    "DSD",
    "NEARLY_SPARSE",
    "SPEECH_RULES",
    "VISION_RULES",
    "Best",
    "CurrentPhase",
    "FirstOf",
    "LayerStatistics",
    "MaskHandle",
    "MaskSet",
    "Moment",
    "Phase",
    "PhaseKind",
    "Plan",
    "PlanRow",
    "Regrowth",
    "RestoredStart",
    "Rule",
    "Schedule",
    "magnitude_mask",
    "measured_sparsity",
    "resolve",
    "weight_statistics",
]
