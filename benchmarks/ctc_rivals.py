"""Other toolkits' CTC networks, at a wanted number of parameters; each only where installed.

``ds2_training`` times them, ``out_of_the_box`` trains them (in ``trained_rivals``, with 80 bins and dropout).

Each takes what ``DeepSpeech2`` takes, features [batch, frames, bins] and their lengths, and gives log-probabilities and
their lengths. Their sizes are searched; everything else is as in their own recipes.
"""

import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCAB_SIZE = 29
NUM_BINS = 161
MEL_BINS = 40
"""Of SpeechBrain's TIMIT recipe."""
TOLERANCE = 0.01
"""Of the number of parameters."""


class SpeechBrainCRDNN(nn.Module):
    """SpeechBrain's CTC recipe for TIMIT: two blocks of convolutions, max pooling, four bidirectional layers, two FC.

    There 128 and 256 channels go with 512 units; smaller networks have channels in the same ratio, larger ones no
    more. Its cells are LiGRU; LSTM, which its larger recipes have, is offered too. An output frame has 20 ms, as in
    ours; there dropout is 0.15.
    """

    def __init__(self, units: int, *, num_bins: int, rnn: str, dropout: float = 0.0) -> None:
        super().__init__()
        from speechbrain.lobes.models.CRDNN import CRDNN
        from speechbrain.nnet import RNN

        model = CRDNN(
            input_shape=[None, None, num_bins],
            cnn_channels=[min(128, max(1, units // 4)), min(256, max(1, units // 2))],
            dropout=dropout,
            time_pooling=True,
            rnn_class=getattr(RNN, rnn),
            rnn_neurons=units,
            dnn_neurons=units,
        )
        self.num_bins = num_bins
        self.rnn = rnn
        self.model = model
        self.output = nn.Linear(units, VOCAB_SIZE)

    def ready(self) -> nn.Module:
        """Compiled as its README advises for LiGRU (``--jit``); its other cells are torch's own."""
        if self.rnn == "LiGRU":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated
                self.model = torch.jit.script(self.model)
        return self

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Padding is computed on as if it were speech, as there."""
        hidden = self.model(features[..., : self.num_bins])
        return self.output(hidden).float().log_softmax(-1), (num_frames // 2).clamp(max=hidden.shape[1])


class TorchaudioDeepSpeech(nn.Module):
    """``torchaudio.models.DeepSpeech``: three FC, a bidirectional recurrent layer, an FC; an output every 10 ms."""

    def __init__(self, units: int, *, num_bins: int = NUM_BINS, dropout: float = 0.0) -> None:
        super().__init__()
        from torchaudio.models import DeepSpeech

        self.model = DeepSpeech(num_bins, n_hidden=units, n_class=VOCAB_SIZE, dropout=dropout)

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Padding is computed on as if it were speech."""
        return self.model(features.unsqueeze(1)).float(), num_frames


class TorchaudioConformer(nn.Module):
    """``torchaudio.models.Conformer`` as in its ``conformer_rnnt_base``, with a linear output; one every 40 ms.

    Four frames make one, and 16 layers, four heads, FC layers of four times the units and a kernel of 31 follow.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        from torchaudio.models import Conformer

        size = 4 * (units // 4)
        self.input = nn.Linear(NUM_BINS, size // 4, bias=False)
        # Odd units widen the FC layers, so that every number of parameters can be met.
        self.model = Conformer(size, 4, 4 * size + 4 * (units - size), 16, 31)
        self.output = nn.Linear(size, VOCAB_SIZE)

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Attention leaves padding out, the rest computes on it."""
        whole = features.shape[1] // 4
        stacked = self.input(features[:, : 4 * whole]).unflatten(1, (whole, 4)).flatten(2)
        hidden, lengths = self.model(stacked, (num_frames // 4).clamp(max=whole))
        return self.output(hidden).float().log_softmax(-1), lengths


RIVALS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {
    "SpeechBrain CRDNN, LiGRU, 40 bins": (
        "speechbrain",
        lambda units: SpeechBrainCRDNN(units, num_bins=MEL_BINS, rnn="LiGRU"),
    ),
    "SpeechBrain CRDNN, LiGRU": (
        "speechbrain",
        lambda units: SpeechBrainCRDNN(units, num_bins=NUM_BINS, rnn="LiGRU"),
    ),
    "SpeechBrain CRDNN, LSTM, 40 bins": (
        "speechbrain",
        lambda units: SpeechBrainCRDNN(units, num_bins=MEL_BINS, rnn="LSTM"),
    ),
    "torchaudio DeepSpeech": ("torchaudio", TorchaudioDeepSpeech),
    "torchaudio Conformer": ("torchaudio", TorchaudioConformer),
}
"""By name: the package it needs, and how it is built with so many units."""


def is_installed(name: str) -> bool:
    """Whether a rival's package is there."""
    return importlib.util.find_spec(RIVALS[name][0]) is not None


def parameters_of(model: nn.Module) -> int:
    """How many a network has."""
    return sum(one.numel() for one in model.parameters())


def rival_of_size(name: str, parameters: int, *, jit: bool = True) -> nn.Module:
    """The rival with as many units as give so many parameters, within ``TOLERANCE``.

    Args:
        name: One of ``RIVALS``.
        parameters: How many.
        jit: Compile LiGRU, as SpeechBrain's README advises; with 68 million parameters that took more than 16 GB.

    Raises:
        ValueError: If no such number of units was found.
    """
    model = network_of_size(RIVALS[name][1], parameters, tolerance=TOLERANCE)
    return model.ready() if jit and isinstance(model, SpeechBrainCRDNN) else model


def network_of_size(build: Callable[[int], nn.Module], parameters: int, *, tolerance: float) -> nn.Module:
    """A network with as many units as give so many parameters.

    Args:
        build: Makes it with so many units.
        parameters: How many.
        tolerance: By which share they may differ.

    Raises:
        ValueError: If no such number of units was found.
    """
    units, seen = 64, set[int]()
    for _ in range(30):
        model = build(units)
        share = parameters_of(model) / parameters
        if abs(share - 1) <= tolerance:
            return model
        seen.add(units)
        guess = max(8, round(units * share**-0.5))  # most parameters grow with the square
        units = guess if guess not in seen else max(1, units + (1 if share < 1 else -1))
    raise ValueError(
        f"{type(model).__name__}: no number of units was found that gives {parameters:,} parameters"
    )
