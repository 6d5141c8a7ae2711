"""Training a caption generator on the CPU: our step against NeuralTalk's in numpy, and what our own choices cost.

    python -m benchmarks.caption_step                             # made-up captions as long as Flickr8k's
    python -m benchmarks.caption_step --data data/flickr8k        # real ones

Three tables. The first compares captions a second of a whole step (batch, forward, loss, backward, clipping, RMSProp):
ours, taken by the engine's own loop, and NeuralTalk's, which is ``numpy_neuraltalk.py``, on the same captions. The
second compares our steps: dense, under caption masks, and with the tanh that the original leaves out, which is torch's
LSTM instead of our own scan; "dense again" is the same as dense and shows the noise. The third, for real captions, is
the share of an epoch that is padding. Features are random, for their values do not change the work. Torch and numpy get
as many threads: where numpy's have been set otherwise, the benchmark starts itself anew.
"""

import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.numpy_neuraltalk import NumpyNeuralTalk, NumpySettings, by_their_names
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data import (
    CaptionBatch,
    CaptionBatchSampler,
    CaptionCorpus,
    CaptionedImage,
    EncodedCaptions,
    encode_captions,
    make_batch,
    padding_share,
    read_captions,
)
from seqdsd.engine import AdaptiveSettings, make_fabric
from seqdsd.engine.loop import LossMeter, train_epoch
from seqdsd.models import NeuralTalk
from seqdsd.sparsity import CAPTION_RULES, MaskSet, resolve
from seqdsd.tasks import CaptionTask
from seqdsd.text import WordVocabulary
from seqdsd.vision import ImageFeatures

LEARNING_RATE = 1e-4
SPARSITY = 0.8
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FLICKR8K_IMAGES, CAPTIONS_AN_IMAGE = 6000, 5
FLICKR8K_WORDS = 2537
MEAN_WORDS, SPREAD_OF_WORDS = 10.5, 3.7
"""Of Flickr8k's training captions without rare words (10.8 with them); the spread is a standard deviation."""


@dataclass(frozen=True)
class Config:
    """What is timed."""

    data: Path | None = None
    """Caption file in the Karpathy format, or its folder; without it captions are made up."""
    feature_sizes: tuple[int, ...] = (1280, 4096)
    """Of the images' features: 1280 are EfficientNet-Lite0's, 4096 VGG-16's."""
    hidden_size: int = 256
    """Units of the LSTM."""
    batch_size: int = 100
    """Captions in a batch."""
    batches: int = 3
    """Batches of a timing, spread evenly from the shortest to the longest captions."""
    rounds: int = 15
    """Timings of each of our steps, in turns."""
    numpy_rounds: int = 3
    """Timings of NeuralTalk's step and ours, in turns."""
    threads: int = 1
    """Of torch and of numpy."""


@dataclass(frozen=True)
class Captions:
    """Training captions, with what is needed to encode them."""

    corpus: CaptionCorpus
    vocabulary: WordVocabulary

    @property
    def encoded(self) -> EncodedCaptions:
        """The training captions as word ids."""
        images = self.corpus.train
        return encode_captions(images, self.vocabulary, rows=[image.index for image in images])


def made_up_captions(
    *, num_images: int = FLICKR8K_IMAGES, num_words: int = FLICKR8K_WORDS, seed: int = 0
) -> Captions:
    """Captions of words drawn by Zipf's law, as many, as long and as spread in length as Flickr8k's."""
    generator = np.random.default_rng(seed)
    words = [f"word{index}" for index in range(num_words)]
    shares = 1 / np.arange(1, num_words + 1)
    shape = (MEAN_WORDS / SPREAD_OF_WORDS) ** 2
    lengths = generator.gamma(shape, MEAN_WORDS / shape, (num_images, CAPTIONS_AN_IMAGE)).round().astype(int)
    images = tuple(
        CaptionedImage(
            id=f"{index}.jpg",
            path=f"/{index}.jpg",
            index=index,
            captions=tuple(
                tuple(generator.choice(words, max(1, length), p=shares / shares.sum()).tolist())
                for length in own
            ),
            split="train",
            source=f"made up: image {index}",
        )
        for index, own in enumerate(lengths)
    )
    names = tuple(image.id for image in images)
    corpus = CaptionCorpus(
        Path("made-up"), Path("/"), train=images, dev=images[:1], test=images[:1], all_filenames=names
    )
    counts = (shares / shares[-1]).astype(int).tolist()
    return Captions(
        corpus,
        WordVocabulary(
            ("<end>", *words),
            (lengths.size, *counts),
            start_id=0,
            end_id=0,
            unknown_id=None,
            num_words_seen=num_words,
            num_running_words_seen=sum(counts),
        ),
    )


def real_captions(data: Path) -> Captions:
    corpus = read_captions(data)
    captions = [caption for image in corpus.train for caption in image.captions]
    return Captions(corpus, WordVocabulary.build(captions))


@dataclass
class ChosenBatches(CaptionTask):
    """The recipe's task, but an epoch is some chosen batches."""

    captions: EncodedCaptions = field(kw_only=True)
    chosen: list[list[int]] = field(kw_only=True)

    def batches(self, epoch: int, *, first: int) -> Iterator[list[CaptionBatch]]:
        """The chosen ones, gathered anew each time."""
        for indices in self.chosen[first:]:
            yield [make_batch(self.captions, indices, self.features.array)]


def random_features(corpus: CaptionCorpus, feature_size: int) -> ImageFeatures:
    array = np.random.default_rng(0).random((len(corpus.all_filenames), feature_size), np.float32)
    rows = {image.id: image.index for image in corpus.images}
    return ImageFeatures(array, rows, {}, "random", "random")


def spread_batches(captions: EncodedCaptions, *, batch_size: int, count: int) -> list[list[int]]:
    """Batches from the middles of ``count`` equal parts of an epoch in the order of length."""
    every = list(CaptionBatchSampler(captions.num_words, batch_size=batch_size, by_length=True))
    return [every[(2 * part + 1) * len(every) // (2 * count)] for part in range(count)]


class Trainings:
    """Networks of one shape with the same weights, and the batches that they are trained on."""

    def __init__(self, config: Config, captions: Captions, feature_size: int) -> None:
        self.config = config
        self.captions = captions
        self.encoded = captions.encoded
        self.chosen = spread_batches(self.encoded, batch_size=config.batch_size, count=config.batches)
        self.features = random_features(captions.corpus, feature_size)

    @property
    def feature_size(self) -> int:
        """Of an image."""
        return self.features.feature_size

    @property
    def num_captions(self) -> int:
        """Of one timing."""
        return sum(map(len, self.chosen))

    def network(self, *, tanh_output: bool = False, dropout: float = 0.5) -> NeuralTalk:
        """One as the recipe makes it, the same weights each time."""
        torch.manual_seed(0)
        network = NeuralTalk(
            vocab_size=self.captions.vocabulary.vocab_size,
            feature_size=self.feature_size,
            hidden_size=self.config.hidden_size,
            tanh_output=tanh_output,
            dropout=dropout,
        )
        network.set_output_bias(self.captions.vocabulary.output_bias())
        return network

    def ours(
        self, network: NeuralTalk, *, sparsity: float = 0.0, settings: AdaptiveSettings | None = None
    ) -> Callable[[], float]:
        """Trains on all batches by the engine's loop; the mean loss."""
        settings = settings or AdaptiveSettings()
        corpus, vocabulary = self.captions.corpus, self.captions.vocabulary
        task = ChosenBatches(
            network, vocabulary, corpus, self.features, captions=self.encoded, chosen=self.chosen
        )
        fabric = make_fabric("cpu", "32-true")
        model = fabric.setup_module(network)
        own = settings.make(network.parameters(), LEARNING_RATE)
        optimizer: Any = fabric.setup_optimizers(own)
        if sparsity:
            MaskSet.from_magnitude(network, resolve(network, CAPTION_RULES, sparsity)).attach(own)

        def train() -> float:
            meter = LossMeter()
            train_epoch(
                fabric,
                model,
                optimizer,
                task,
                epoch=1,
                first=0,
                seed=0,
                settings=settings,
                meter=meter,
                after_step=lambda step: None,
            )
            return meter.mean

        return train

    def neuraltalk(self, network: NumpyNeuralTalk) -> Callable[[], float]:
        """Trains on the same batches, in NeuralTalk's way; the mean loss."""
        encoded = self.encoded
        pairs = [
            (
                [self.features.array[encoded.image_rows[index]] for index in batch],
                [
                    encoded.words[encoded.starts[index] : encoded.starts[index + 1]].tolist()
                    for index in batch
                ],
            )
            for batch in self.chosen
        ]
        return lambda: statistics.mean(network.step(features, captions) for features, captions in pairs)


def compare_with_numpy(every: list[Trainings], config: Config, console: Console) -> str:
    columns = []
    verdict = []
    for trainings in every:
        network = trainings.network()
        theirs = NumpyNeuralTalk(
            by_their_names(network.state_dict()), NumpySettings(learning_rate=LEARNING_RATE)
        )
        ways = {"numpy": trainings.neuraltalk(theirs), "ours": trainings.ours(network)}
        seconds = seconds_in_turns(ways, rounds=config.numpy_rounds)
        ratio = Ratio.of(seconds["numpy"], seconds["ours"])
        rates = [trainings.num_captions / statistics.median(values) for values in seconds.values()]
        columns.append([*(f"{rate:.0f}" for rate in rates), str(ratio)])
        verdict.append(f"{ratio.median:.1f} at {trainings.feature_size} features")
    names = ("NeuralTalk in numpy, captions/s", "ours, captions/s", "ours / NeuralTalk")
    console.print(_table(f"whole training step, {_how(config.numpy_rounds)}", every, names, columns))
    return f"ours / NeuralTalk, captions a second: {', '.join(verdict)}"


def compare_our_own(every: list[Trainings], config: Config, console: Console) -> str:
    columns = []
    verdict = []
    for trainings in every:
        ways = {
            "dense": trainings.ours(trainings.network()),
            "sparse": trainings.ours(trainings.network(), sparsity=SPARSITY),
            "dense again": trainings.ours(trainings.network()),
            "torch": trainings.ours(trainings.network(tanh_output=True)),
        }
        seconds = seconds_in_turns(ways, rounds=config.rounds)
        dense = seconds.pop("dense")
        ratios = {way: Ratio.of(values, dense) for way, values in seconds.items()}
        columns.append(
            [f"{1000 * statistics.median(dense) / len(trainings.chosen):.1f}", *map(str, ratios.values())]
        )
        verdict.append(f"{ratios['sparse'].median:.3f} at {trainings.feature_size} features")
    names = ("dense, ms a step", "sparse / dense", "dense again / dense", "tanh, torch's LSTM / dense")
    title = f"our steps, {SPARSITY:.0%} sparsity, {_how(config.rounds)}"
    console.print(_table(title, every, names, columns))
    return f"sparse step / dense step: {', '.join(verdict)}"


def _table(title: str, every: list[Trainings], names: tuple[str, ...], columns: list[list[str]]) -> Table:
    table = Table("", *(f"{trainings.feature_size} features" for trainings in every), title=title)
    for row in zip(names, *columns, strict=True):
        table.add_row(*row)
    return table


def report_padding(captions: EncodedCaptions, config: Config, console: Console) -> str:
    """Padding of one epoch in our batches and, for comparison, in random order."""
    positions = [float(words) for words in captions.num_words + 1]  # END counts
    by_length = list(CaptionBatchSampler(captions.num_words, batch_size=config.batch_size, epoch=1))
    order = np.random.default_rng(0).permutation(len(captions)).tolist()
    at_random = [
        order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)
    ]
    ours, random = (padding_share(positions, batches) for batches in (by_length, at_random))
    table = Table("captions a batch", "batches", "padding", "in random order", title="Padding of an epoch")
    table.add_row(str(config.batch_size), str(len(by_length)), f"{ours:.2%}", f"{random:.1%}")
    console.print(table)
    return f"padding: {ours:.2%}"


def _how(rounds: int) -> str:
    return f"{torch.get_num_threads()} thread(s), median of {rounds} (range)"


def set_threads(threads: int) -> None:
    """Give torch and numpy's BLAS as many threads; numpy's are read once, as it is loaded, so this may start anew."""
    if any(os.environ.get(name) != str(threads) for name in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        os.execv(sys.executable, sys.orig_argv)
    torch.set_num_threads(threads)


def main(config: Config) -> None:
    set_threads(config.threads)
    console = Console()
    captions = made_up_captions() if config.data is None else real_captions(config.data)
    encoded = captions.encoded
    source = "made up, with lengths spread like Flickr8k's" if config.data is None else f"of {config.data}"
    console.print(
        f"{len(encoded)} training captions {source}: {encoded.num_words.mean():.1f} words each, "
        f"{captions.vocabulary.vocab_size} different ones with END; {config.hidden_size} units, {config.batch_size} "
        f"captions a batch; {config.threads} thread(s) for torch (set_num_threads) and numpy ({THREAD_VARIABLES[0]})",
        soft_wrap=True,
        highlight=False,
    )
    every = [Trainings(config, captions, size) for size in config.feature_sizes]
    verdict = [compare_with_numpy(every, config, console), compare_our_own(every, config, console)]
    if config.data is None:
        verdict.append("padding: not measured, it needs real captions (--data)")
    else:
        verdict.append(report_padding(encoded, config, console))
    console.print("; ".join(verdict), soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
