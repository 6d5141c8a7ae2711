"""Model, data, loss, decoding and metric of one kind of problem, behind the engine's ``Task`` protocol."""

from seqdsd.tasks.speech import AugmentSettings, BatchSettings, Recogniser, SpeechTask

__all__ = ["AugmentSettings", "BatchSettings", "Recogniser", "SpeechTask"]
