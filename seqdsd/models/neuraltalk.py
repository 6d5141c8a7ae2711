"""NeuralTalk's caption generator: an image's CNN features and the words so far in, the next word out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqdsd.models.lstm import LSTM, State


class NeuralTalk(nn.Module):
    """The image, linearly encoded, is the LSTM's first input; then START and the words; each output is a next word.

    At the defaults 1,574,144 + 513 ``vocab_size`` parameters: image 4096 x 256 + 256, LSTM (256 + 256 + 1) x 1024,
    words ``vocab_size`` x 256, output 256 x ``vocab_size`` + ``vocab_size``. Padding after a caption changes nothing
    before it.

    Args:
        vocab_size: Words, with START and END (which share index 0 in the original).
        feature_size: Of the image features; 4096 are VGG-16's fc7.
        hidden_size: Units of the LSTM and size of both encodings.
        tanh_output: ``H = o * tanh(C)`` as NeuralTalk2 has it, on torch's fast LSTM; the original leaves the tanh out.
        dropout: On the LSTM's inputs and again on its outputs, in training.

    Reference: karpathy/neuraltalk, driver.py and imagernn/lstm_generator.py; Han et al. 2017 (DSD), section 4.4.
    Weights start from U[-0.1, 0.1], the LSTM's bias with them, as it is a row of the matrix there; other biases from 0.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        feature_size: int = 4096,
        hidden_size: int = 256,
        tanh_output: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.image = nn.Linear(feature_size, hidden_size)
        self.words = nn.Embedding(vocab_size, hidden_size)
        self.lstm = LSTM(input_size=hidden_size, hidden_size=hidden_size, tanh_output=tanh_output)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.image, self.words, self.output):
            nn.init.uniform_(layer.weight, -0.1, 0.1)
        for linear in (self.image, self.output):
            nn.init.zeros_(linear.bias)

    @property
    def vocab_size(self) -> int:
        """Words, with START and END."""
        return self.words.num_embeddings

    @torch.no_grad()
    def set_output_bias(self, log_frequencies: Sequence[float]) -> None:
        """Start the output from how often each word occurs, so that training need not find out.

        Raises:
            RuntimeError: If there are not ``vocab_size`` numbers.
        """
        self.output.bias.copy_(torch.tensor(log_frequencies).view(self.vocab_size))  # one would be broadcast

    def forward(
        self, image_features: Float[Tensor, "batch feature_size"], tokens: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch words vocab"]:
        """Logits of the word after each of ``tokens`` (START, then words); what follows the image alone is dropped."""
        inputs = torch.cat((self.image(image_features)[None], self.words(tokens.t())))
        hidden = self.lstm(self.dropout(inputs))[1:]
        return self.output(self.dropout(hidden)).transpose(0, 1)

    def start(self, image_features: Float[Tensor, "batch feature_size"]) -> State:
        """The state after the image, to generate from; in evaluation mode."""
        return self.lstm.step(self.image(image_features), None)

    def step(self, tokens: Int[Tensor, "batch"], state: State) -> tuple[Float[Tensor, "batch vocab"], State]:
        """Logits of the word after ``tokens`` (the first are START), and the state with them."""
        state = self.lstm.step(self.words(tokens), state)
        return self.output(state[0]), state
