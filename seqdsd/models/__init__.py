"""Plain ``nn.Module``s built from keyword arguments; the defaults are the paper's sizes."""

from seqdsd.models.birnn import SharedInputBiRNN
from seqdsd.models.deepspeech1 import DeepSpeech1
from seqdsd.models.lstm import LSTM
from seqdsd.models.neuraltalk import NeuralTalk
from seqdsd.models.packing import FramePacking

__all__ = ["LSTM", "DeepSpeech1", "FramePacking", "NeuralTalk", "SharedInputBiRNN"]
