"""Captions as padded batches of word ids, with the features of their images.

Everything that can be done once is done once: a batch is a few numpy look-ups and needs no worker process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import Sampler

from seqdsd.data.captions import CaptionedImage
from seqdsd.text import WordVocabulary

IGNORE = -100
"""Target of positions that do not count: what ``torch.nn.functional.cross_entropy`` ignores by default."""


@dataclass(frozen=True)
class CaptionBatch:
    """Captions padded to the longest, each with its image's features. Lengths stay on the CPU.

    Attributes:
        ids: Names of the captions, such as ``NAME.jpg#2``.
        image_features: Float32.
        tokens: What the network reads: START and the words, padded with END.
        targets: What it is to say: the words and END, padded with ``IGNORE``.
        num_words: Words of each caption that the vocabulary knows; one position more counts, that of END.
    """

    ids: tuple[str, ...]
    image_features: Float[Tensor, "batch feature_size"]
    tokens: Int[Tensor, "batch words"]
    targets: Int[Tensor, "batch words"]
    num_words: Int[Tensor, "batch"]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> CaptionBatch:
        """The batch with features, tokens and targets on ``device``."""
        return replace(
            self,
            image_features=self.image_features.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )

    def pin_memory(self) -> CaptionBatch:
        """Page-locked features, tokens and targets can be copied to a GPU while it computes."""
        return replace(
            self,
            image_features=self.image_features.pin_memory(),
            tokens=self.tokens.pin_memory(),
            targets=self.targets.pin_memory(),
        )


@dataclass(frozen=True)
class EncodedCaptions:
    """All captions of a split as word ids, in one array.

    Attributes:
        ids: Names of the captions.
        image_rows: Where the features of each caption's image are.
        words: Ids of all captions' words, one caption after the other, without START and END.
        starts: Where in ``words`` each caption starts, and at last where the last one ends.
        start_id: What a network reads first.
        end_id: What it is to say at last.
    """

    ids: tuple[str, ...]
    image_rows: Int[np.ndarray, "captions"]
    words: Int[np.ndarray, "all_words"]
    starts: Int[np.ndarray, "captions_and_one"]
    start_id: int
    end_id: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_words(self) -> Int[np.ndarray, "captions"]:
        """Words of each caption, without START and END."""
        return np.diff(self.starts)


def encode_captions(
    images: Sequence[CaptionedImage], vocabulary: WordVocabulary, *, rows: Sequence[int]
) -> EncodedCaptions:
    """Look every word up once, before training.

    A caption of which the vocabulary drops every word stays, and only END is to be said; ``check_known_words`` keeps
    such captions out of training.

    Args:
        images: Their captions are taken one after the other.
        vocabulary: Turns words into ids.
        rows: The row of each image in the feature array.

    Raises:
        ValueError: If there are not as many rows as images.
    """
    if len(rows) != len(images):
        raise ValueError(f"{len(rows)} feature rows do not fit {len(images)} images")
    encoded = [vocabulary.encode(caption) for image in images for caption in image.captions]
    return EncodedCaptions(
        ids=tuple(id_ for image in images for id_ in image.caption_ids),
        image_rows=np.repeat(np.array(rows, np.int64), [len(image.captions) for image in images]),
        words=np.array([id_ for caption in encoded for id_ in caption], np.int64),
        starts=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        start_id=vocabulary.start_id,
        end_id=vocabulary.end_id,
    )


def make_batch(
    captions: EncodedCaptions, indices: Sequence[int], features: Shaped[np.ndarray, "rows feature_size"]
) -> CaptionBatch:
    """Gather and pad some captions.

    Args:
        captions: Of a whole split.
        indices: Which of them, in this order.
        features: Of all images, of any real type; only the rows needed are read, so it may be memory-mapped.

    Raises:
        IndexError: If the features have too few rows.
    """
    chosen = np.asarray(indices, np.int64)
    starts = captions.starts[chosen]
    num_words = captions.starts[chosen + 1] - starts
    positions = np.arange(num_words.max(initial=0))
    is_word = positions < num_words[:, None]
    words = captions.words[(starts[:, None] + positions)[is_word]]
    shape = len(chosen), len(positions) + 1
    tokens = np.full(shape, captions.end_id, np.int64)
    tokens[:, 0] = captions.start_id
    tokens[:, 1:][is_word] = words
    targets = np.full(shape, IGNORE, np.int64)
    targets[:, :-1][is_word] = words
    targets[np.arange(len(chosen)), num_words] = captions.end_id
    return CaptionBatch(
        ids=tuple(captions.ids[index] for index in indices),
        image_features=_as_float32(features[captions.image_rows[chosen]]),
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        num_words=torch.from_numpy(num_words),
    )


def _as_float32(features: Shaped[np.ndarray, "batch feature_size"]) -> Float[Tensor, "batch feature_size"]:
    """By numpy, as torch knows neither other machines' byte order nor long doubles; it widens halves far faster."""
    if features.dtype == np.float16:
        return torch.from_numpy(features).float()
    return torch.from_numpy(features.astype(np.float32, copy=False))


class CaptionBatchSampler(Sampler[list[int]]):
    """Batches of captions of the same length, or nearly: an epoch takes each caption once.

    An epoch's batches are a function of (seed, epoch) alone, so a run can go on in the middle of one: ``first``
    batches are left out. Captions are shuffled, sorted by length, cut into batches, and the batches are shuffled; so
    other captions of a length meet in each epoch.

    Reference: karpathy/neuraltalk, imagernn/data_provider.py, ``sampleImageSentencePair``. Departure: it draws images
    and captions with replacement and of any length; on Flickr8k half of such a batch would be padding.
    """

    def __init__(
        self,
        num_words: Int[np.ndarray, "captions"],
        *,
        batch_size: int = 100,
        seed: int = 0,
        epoch: int = 0,
        first: int = 0,
        by_length: bool = False,
    ) -> None:
        """Plan one epoch.

        Args:
            num_words: Each caption's length.
            batch_size: Captions in a batch; only that of the longest captions may have fewer.
            seed: Of the whole run.
            epoch: Counted over the whole run.
            first: Batches already done.
            by_length: Shortest first, nothing shuffled (evaluation).

        Raises:
            ValueError: If there is no caption, or a number is too low.
        """
        if len(num_words) == 0:
            raise ValueError("no caption to make batches of")
        if batch_size < 1 or first < 0:
            raise ValueError(
                f"batch_size must be at least 1 and first at least 0, got {batch_size} and {first}"
            )
        generator = np.random.default_rng((seed, epoch))
        shuffled = np.arange(len(num_words)) if by_length else generator.permutation(len(num_words))
        order = shuffled[np.argsort(num_words[shuffled], kind="stable")].tolist()
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if not by_length:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        self._batches = batches[first:]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
