"""A batch of labelled images, and which images go together: an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Sampler

from seqdsd.data.batch import BadExample
from seqdsd.data.labelled_images.variation import Variations, vary


@dataclass(frozen=True)
class ImageBatch:
    """Images of one format with their labels; ids stay on the CPU.

    Attributes:
        ids: Of the images: ``CLASS/NAME.png``.
        images: 8 bits a channel.
        labels: Positions in the corpus' classes.
        variations: What is to become of each image in training; None in evaluation. ``varied`` does it.
        bad: Images that should have been here.
    """

    ids: tuple[str, ...]
    images: UInt8[Tensor, "batch channels height width"]
    labels: Int[Tensor, "batch"]
    variations: Variations | None = None
    bad: tuple[BadExample, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> ImageBatch:
        """The batch with all but its ids on ``device``."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            variations=self.variations and self.variations.to(device),
        )

    def pin_memory(self) -> ImageBatch:
        """Page-locked images and labels can be copied to a GPU while it computes."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            variations=self.variations and self.variations.pin_memory(),
        )

    def varied(self) -> UInt8[Tensor, "batch channels height width"]:
        """The images, each cropped and mirrored as its variations say; on the device that they lie on."""
        return self.images if self.variations is None else vary(self.images, self.variations)


class ImageBatchSampler(Sampler[list[int]]):
    """Batches of images: an epoch takes each image once.

    An epoch's batches are a function of (seed, epoch) alone, so a run can go on in the middle of one: ``first`` batches
    are left out. Batches differ by one image at most, so that no step is made from a few left over.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        first: int = 0,
        shuffled: bool = True,
    ) -> None:
        """Plan one epoch.

        Args:
            num_images: Of the set.
            batch_size: Images in a batch at most.
            seed: Of the whole run.
            epoch: Counted over the whole run.
            first: Batches already done.
            shuffled: False: in the order of the set (evaluation).

        Raises:
            ValueError: If there is no image, or a number is too low.
        """
        if num_images < 1:
            raise ValueError("no image to make batches of")
        if batch_size < 1 or first < 0:
            raise ValueError(
                f"batch_size must be at least 1 and first at least 0, got {batch_size} and {first}"
            )
        order = np.arange(num_images)
        if shuffled:
            order = np.random.default_rng((seed, epoch)).permutation(num_images)
        batches = np.array_split(order, -(-num_images // batch_size))
        self._batches = [batch.tolist() for batch in batches[first:]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
