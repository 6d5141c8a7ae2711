"""Plain ``nn.Module``s built from keyword arguments; the defaults are the paper's sizes."""

from seqdsd.models.classifiers import CLASSIFIERS, Classifier, make_classifier, split_logits
from seqdsd.models.deepspeech1 import DeepSpeech1
from seqdsd.models.deepspeech2 import DeepSpeech2
from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.gated_rnn import GatedRNN
from seqdsd.models.lenet import LeNet5, LeNet300100
from seqdsd.models.lstm import LSTM
from seqdsd.models.neuraltalk import NeuralTalk
from seqdsd.models.packing import FramePacking
from seqdsd.models.row_convolution import RowConvolution
from seqdsd.models.shared_input_rnn import SharedInputRNN
from seqdsd.models.small_resnet import SmallResNet

__all__ = [
    "CLASSIFIERS",
    "LSTM",
    "Classifier",
    "DeepSpeech1",
    "DeepSpeech2",
    "FrameNorm",
    "FramePacking",
    "GatedRNN",
    "LeNet5",
    "LeNet300100",
    "NeuralTalk",
    "RowConvolution",
    "SharedInputRNN",
    "SmallResNet",
    "make_classifier",
    "split_logits",
]
