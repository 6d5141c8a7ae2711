"""Tasks whose training and evaluation are tried on pretended CUDA tensors (``pretended.py``)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from seqdsd.audio import LogSpectrogram
from seqdsd.data import CaptionCorpus, CaptionedImage, read_corpus
from seqdsd.data.labelled_images import HeldImages, ImageFormat, LabelledImage
from seqdsd.models import DeepSpeech1, DeepSpeech2, NeuralTalk, make_classifier
from seqdsd.tasks import BatchSettings, CaptionTask, DecodingSettings, Recogniser, SpeechTask
from seqdsd.tasks.classification import IMAGENET, ClassificationTask, Labeller
from seqdsd.text import CharacterTokenizer, WordVocabulary
from seqdsd.vision import ImageFeatures

TINY: dict[str, Any] = {"hidden_size": 16}
RECOGNISERS: dict[str, Callable[[], nn.Module]] = {
    "ds1": lambda: DeepSpeech1(**TINY),
    "ds1, batch norm": lambda: DeepSpeech1(**TINY, batch_norm=True),
    "ds1, dropout": lambda: DeepSpeech1(**TINY, batch_norm=True, dropout=0.2),
    "ds1, recomputed": lambda: DeepSpeech1(**TINY, batch_norm=True, recompute_layers=True),
    "ds2": lambda: DeepSpeech2(**TINY, num_recurrent_layers=2),
    "ds2, gru": lambda: DeepSpeech2(**TINY, num_recurrent_layers=2, cell="gru"),
    "ds2, lstm": lambda: DeepSpeech2(**TINY, num_recurrent_layers=2, cell="lstm"),
    "ds2, row convolution": lambda: DeepSpeech2(**TINY, num_recurrent_layers=2, bidirectional=False),
    "ds2, recomputed": lambda: DeepSpeech2(**TINY, num_recurrent_layers=2, recompute_layers=True),
}
WORDS = "a red green blue square circle big small".split()


@pytest.fixture(scope="session")
def speech_corpus(tmp_path_factory, write_tone_corpus) -> Path:
    return write_tone_corpus(tmp_path_factory.mktemp("pretended") / "tones", num_train=12).folder


@pytest.fixture
def make_speech_task(speech_corpus) -> Callable[..., SpeechTask]:
    """A recogniser of ``RECOGNISERS``, always with the same weights, on tones."""

    def make(network: str = "ds1", decoding: DecodingSettings | None = None, **options: Any) -> SpeechTask:
        torch.manual_seed(0)
        model = RECOGNISERS[network]()
        with torch.no_grad():
            for weight in (model.output.weight, *(model.fc1.parameters() if network == "ds1" else ())):
                weight.mul_(10)  # so that it says something
        batches = BatchSettings(max_batch_seconds=2.0, num_workers=0)
        corpus = read_corpus(speech_corpus)
        task = SpeechTask(model, CharacterTokenizer(), corpus, batches_settings=batches, **options)
        if decoding is not None:
            task.recogniser = Recogniser(LogSpectrogram(), task.tokenizer, decoding)
        return task

    return make


@pytest.fixture
def make_caption_task() -> Callable[..., CaptionTask]:
    """A captioner, always with the same weights, on random features of 20 images."""

    def make(*, tanh_output: bool = False, dropout: float = 0.0, **options: Any) -> CaptionTask:
        generator = np.random.default_rng(0)
        images = [
            CaptionedImage(
                id=f"{index}.jpg",
                path=f"/images/{index}.jpg",
                index=index,
                captions=tuple(
                    tuple(generator.choice(WORDS, generator.integers(1, 7)).tolist()) for _ in range(2)
                ),
                split=("train", "train", "dev", "test")[index % 4],
                source=f"dataset_x.json: image {index}",
            )
            for index in range(20)
        ]
        splits = {
            name: tuple(one for one in images if one.split == name) for name in ("train", "dev", "test")
        }
        names = tuple(one.id for one in images)
        corpus = CaptionCorpus(Path("/c.json"), Path("/images"), **splits, all_filenames=names)
        array = generator.standard_normal((20, 6)).astype(np.float16)
        features = ImageFeatures(array, {name: row for row, name in enumerate(names)}, {}, "x.npy", "x")
        vocabulary = WordVocabulary.build([one for image in images for one in image.captions], min_count=1)
        torch.manual_seed(0)
        model = NeuralTalk(
            vocab_size=vocabulary.vocab_size,
            feature_size=6,
            hidden_size=16,
            tanh_output=tanh_output,
            dropout=dropout,
        )
        with torch.no_grad():
            for weight in (model.image.weight, model.lstm.weight, model.output.weight):
                weight.mul_(10)  # so that images make a difference
        return CaptionTask(model, vocabulary, corpus, features, batch_size=8, **options)

    return make


@pytest.fixture
def make_class_task() -> Callable[..., ClassificationTask]:
    """An image classifier, always with the same weights, on 20 images of noise."""

    def make(network: str = "resnet8", *, side: int = 8, **options: Any) -> ClassificationTask:
        generator = np.random.default_rng(0)
        classes, image_format = tuple("abcdefg"), ImageFormat(3, side, side)
        sources = {}
        for split, count in {"train": 20, "dev": 9}.items():
            labels = generator.integers(0, len(classes), count)
            images = [
                LabelledImage(f"{n}.png", Path(f"/{split}/{n}.png"), int(label))
                for n, label in enumerate(labels)
            ]
            pixels = torch.from_numpy(generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
            sources[split] = HeldImages(image_format, images, pixels, torch.from_numpy(labels))
        torch.manual_seed(0)
        model = make_classifier(network, num_classes=len(classes), image_size=side)
        labeller = Labeller(classes, image_format, IMAGENET)
        return ClassificationTask(model, labeller, sources, batch_size=8, **options)

    return make
