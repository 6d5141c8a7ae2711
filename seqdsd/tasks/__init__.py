"""Model, data, loss, decoding and metric of one kind of problem, behind the engine's ``Task`` protocol."""

from seqdsd.tasks.caption import Captioner, CaptionTask, SearchSettings
from seqdsd.tasks.decoding import DecodingSettings
from seqdsd.tasks.speech import AugmentSettings, BatchSettings, FeatureSettings, Recogniser, SpeechTask

__all__ = [
    "AugmentSettings",
    "BatchSettings",
    "CaptionTask",
    "Captioner",
    "DecodingSettings",
    "FeatureSettings",
    "Recogniser",
    "SearchSettings",
    "SpeechTask",
]
