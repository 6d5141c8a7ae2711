"""Beam search for captions, batched, against one image at a time, on the CPU.

    python -m benchmarks.beam_search

Three ways, with the same weights and the same result: ``beam_captions`` on all images; the same function on one image
at a time, whose beams it still runs together; and NeuralTalk's way, one image and one beam at a time to the last step,
written in numpy from its description, in float64 as there. The last two are timed on the first images alone and scaled.

Weights are random. They are scaled so that the next word is about as uncertain as after training, and END gains with
each word, for beams would end at once or never: that gives captions of 4 to 12 words. Encoding the images is left out.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.decode import ScoredCaption, beam_captions
from seqdsd.models import NeuralTalk

State = tuple[Tensor, Tensor]
FEATURE_SIZE = 1280
"""EfficientNet-Lite0's."""
END = 0
"""START too, as in NeuralTalk."""
END_GAIN = 1.0
"""Added to END's logit with each word, in nats; it is 0 after ten words."""


@dataclass(frozen=True)
class Config:
    """What is timed."""

    beam_width: int = 20
    """Beams kept for an image."""
    images: int = 1000
    """For the batched search."""
    images_one_at_a_time: int = 50
    """For the same search on one image at a time."""
    images_by_neuraltalk: int = 5
    """For NeuralTalk's way."""
    neuraltalk_precision: Literal["float64", "float32"] = "float64"
    """The original computes in float64."""
    images_at_once: tuple[int, ...] = (50,)
    """Images of a batch; several numbers are compared."""
    vocab_size: int = 2538
    """Words; 2538 are Flickr8k's with END."""
    hidden_size: int = 256
    """Units of the LSTM."""
    max_words: int = 20
    """Steps at most."""
    rounds: int = 3
    """Timings of each way, in turns."""
    threads: int = 1
    """Of torch; numpy's are set by OMP_NUM_THREADS."""


def end_gain(num_words: int) -> float:
    return END_GAIN * (num_words - 10)


class Captioner:
    """A ``NeuralTalk`` with random weights that ends its captions."""

    def __init__(self, network: NeuralTalk) -> None:
        self.network = network.eval()
        self.num_words = 0
        with torch.no_grad():
            network.words.weight.mul_(10)
            network.output.weight.mul_(20)
        network.set_output_bias((-torch.arange(1, self.vocab_size + 1).log()).tolist())

    @property
    def vocab_size(self) -> int:
        """Words and END."""
        return self.network.vocab_size

    def start(self, image_features: Tensor) -> State:
        """The state after the image."""
        self.num_words = 0
        return self.network.start(image_features)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the next word; all beams of a batch have as many words."""
        logits, state = self.network.step(tokens, state)
        logits[:, END] += end_gain(self.num_words)
        self.num_words += 1
        return logits, state


class ByNeuralTalk:
    """NeuralTalk's search for one image, a beam at a time (imagernn/lstm_generator.py, ``predict``)."""

    def __init__(self, network: NeuralTalk, precision: str) -> None:
        arrays = {name: tensor.numpy().astype(precision) for name, tensor in network.state_dict().items()}
        self.image, self.image_bias = arrays["image.weight"].T.copy(), arrays["image.bias"]
        self.lstm, self.lstm_bias = arrays["lstm.weight"].T.copy(), arrays["lstm.bias"]
        self.output, self.output_bias = arrays["output.weight"].T.copy(), arrays["output.bias"]
        self.words = arrays["words.weight"]

    def tick(self, inputs: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of the LSTM; gates i, f, o, g."""
        gates = np.concatenate([inputs, hidden]) @ self.lstm + self.lstm_bias
        i, f, o = np.split(1 / (1 + np.exp(-gates[: 3 * len(hidden)])), 3)
        cell = i * np.tanh(gates[3 * len(hidden) :]) + f * cell
        return o * cell, cell

    def log_probs(self, hidden: np.ndarray, num_words: int) -> np.ndarray:
        """Of each next word."""
        logits = hidden @ self.output + self.output_bias
        logits[END] += end_gain(num_words)
        exps = np.exp(logits - logits.max())
        return np.log(1e-20 + exps / exps.sum())

    def search(self, features: np.ndarray, beam_width: int, max_words: int) -> ScoredCaption:
        """The best caption."""
        zeros = np.zeros_like(self.words[0])
        beams = [(0.0, [END], *self.tick(features @ self.image + self.image_bias, zeros, zeros))]
        for step in range(max_words):
            candidates = []
            for log_prob, words, hidden, cell in beams:
                if step > 0 and words[-1] == END:
                    candidates.append((log_prob, words, hidden, cell))
                    continue
                hidden, cell = self.tick(self.words[words[-1]], hidden, cell)
                gains = self.log_probs(hidden, step)
                for word in np.argsort(-gains)[:beam_width].tolist():
                    candidates.append((log_prob + float(gains[word]), [*words, word], hidden, cell))
            beams = sorted(candidates, key=lambda beam: -beam[0])[:beam_width]
        log_prob, words, _, _ = beams[0]
        return ScoredCaption([word for word in words if word != END], log_prob)


class Searches:
    """The ways to time, on the same images."""

    def __init__(self, config: Config) -> None:
        network = NeuralTalk(
            vocab_size=config.vocab_size, feature_size=FEATURE_SIZE, hidden_size=config.hidden_size
        )
        self.config = config
        self.captioner = Captioner(network)
        self.by_neuraltalk = ByNeuralTalk(network, config.neuraltalk_precision)
        self.features = torch.randn(config.images, FEATURE_SIZE)

    def batched(self, images: int, images_at_once: int) -> list[ScoredCaption]:
        """Our search."""
        return beam_captions(
            self.captioner,
            self.features[:images],
            start_id=END,
            end_id=END,
            beam_width=self.config.beam_width,
            max_words=self.config.max_words,
            images_at_once=images_at_once,
        )

    def neuraltalk(self) -> list[ScoredCaption]:
        """NeuralTalk's way."""
        features = (
            self.features[: self.config.images_by_neuraltalk].numpy().astype(self.config.neuraltalk_precision)
        )
        return [
            self.by_neuraltalk.search(one, self.config.beam_width, self.config.max_words) for one in features
        ]


def seconds_for_all(config: Config, searches: Searches) -> dict[str, list[float]]:
    """Seconds by way, scaled to all images where fewer were timed."""
    sizes = config.images_at_once
    batches = {f"{n} images at once": lambda n=n: searches.batched(config.images, n) for n in sizes}
    alone = {"one image at a time": lambda: searches.batched(config.images_one_at_a_time, 1)}
    seconds = seconds_in_turns(
        {**batches, **alone, "NeuralTalk's way": searches.neuraltalk}, rounds=config.rounds
    )
    timed = [*[config.images] * len(sizes), config.images_one_at_a_time, config.images_by_neuraltalk]
    return {
        way: [one * config.images / count for one in values]
        for (way, values), count in zip(seconds.items(), timed, strict=True)
    }


def report_captions(searches: Searches, console: Console) -> None:
    """Say how long captions are and whether NeuralTalk's way finds the same."""
    ours = searches.batched(searches.config.images, searches.config.images_at_once[0])
    lengths = [len(caption.tokens) for caption in ours]
    theirs = searches.neuraltalk()
    same = sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=False))
    console.print(
        f"captions of {min(lengths)} to {max(lengths)} words, {statistics.mean(lengths):.1f} on average; "
        f"{same} of {len(theirs)} are the same in NeuralTalk's way",
        soft_wrap=True,
    )


def main(config: Config) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    console = Console()
    searches = Searches(config)
    report_captions(searches, console)
    seconds = seconds_for_all(config, searches)
    first = next(iter(seconds))
    table = Table("", "seconds", f"over {first}")
    table.title = (
        f"{config.images} images, beam of {config.beam_width}, {torch.get_num_threads()} thread(s), "
        f"median of {config.rounds} (range)"
    )
    for way, values in seconds.items():
        table.add_row(way, f"{statistics.median(values):.1f}", str(Ratio.of(values, seconds[first])))
    console.print(table)
    ratios = [
        f"{way} / {first}: {Ratio.of(seconds[way], seconds[first]).median:.1f}" for way in list(seconds)[-2:]
    ]
    console.print("; ".join(ratios), soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
