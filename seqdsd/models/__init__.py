"""Plain ``nn.Module``s built from keyword arguments; the defaults are the paper's sizes."""

from seqdsd.models.birnn import SharedInputBiRNN
from seqdsd.models.deepspeech1 import DeepSpeech1
from seqdsd.models.packing import FramePacking

__all__ = ["DeepSpeech1", "FramePacking", "SharedInputBiRNN"]
