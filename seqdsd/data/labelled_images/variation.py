"""How training images are varied: each its own way, decided by (seed, epoch, position in the set) alone.

So a resumed run sees the same images, and so does one of several processes, with no generator to keep. torchvision's
transforms draw one crop and one flip for a whole batch, or take images one by one; here the moves of a whole epoch are
drawn at once, and a batch is moved on the device that it lies on, at once as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn


@dataclass(frozen=True)
class Variations:
    """What becomes of each of some images.

    Attributes:
        crop_padding: Black pixels around each image; of the result, a part as large as the image is kept.
        corners: The upper left corner of that part, row and column, each in [0, 2 * crop_padding].
        is_flipped: Whether left and right are exchanged.
        resized_crop: (seed, epoch) where a part of random size and proportions is cut out of each image as its file is
            read, as torchvision's ``RandomResizedCrop`` does; None where it is not.
    """

    crop_padding: int
    corners: Int[Tensor, "images 2"]
    is_flipped: Bool[Tensor, "images"]
    resized_crop: tuple[int, int] | None = None

    def of(self, indices: Sequence[int]) -> Variations:
        """Those of some of the images, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return replace(self, corners=self.corners[chosen], is_flipped=self.is_flipped[chosen])

    def to(self, device: torch.device) -> Variations:
        """The same on ``device``."""
        return replace(
            self,
            corners=self.corners.to(device, non_blocking=True),
            is_flipped=self.is_flipped.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Variations:
        """Page-locked, so that it can be copied to a GPU while that computes."""
        return replace(self, corners=self.corners.pin_memory(), is_flipped=self.is_flipped.pin_memory())


def draw_variations(
    num_images: int,
    *,
    seed: int,
    epoch: int,
    crop_padding: int = 0,
    flip: bool = False,
    resized_crop: bool = False,
) -> Variations:
    """Draw what becomes of each image of a set in one epoch.

    Args:
        num_images: Of the whole set.
        seed: Of the whole run.
        epoch: Counted over the whole run.
        crop_padding: Pixels that each image is moved at most, up or down and left or right; 4 is usual for 32 x 32.
        flip: Whether every other image is mirrored. Not for digits and letters.
        resized_crop: Whether a part of random size is cut out of each, for photographs.
    """
    generator = np.random.default_rng((seed, epoch, 1))  # the sampler's has no third number
    corners = generator.integers(0, 2 * crop_padding + 1, (num_images, 2))
    is_flipped = generator.random(num_images) < 0.5
    return Variations(
        crop_padding=crop_padding,
        corners=torch.from_numpy(corners),
        is_flipped=torch.from_numpy(is_flipped & flip),
        resized_crop=(seed, epoch) if resized_crop else None,
    )


def vary(
    images: UInt8[Tensor, "batch channels height width"], variations: Variations
) -> UInt8[Tensor, "batch channels height width"]:
    """Crop and mirror each image its own way, where they lie; nothing is read back from the device."""
    height, width = images.shape[-2:]
    if padding := variations.crop_padding:
        padded = nn.functional.pad(images, [padding] * 4)
        # Every part as large as the image is a view; one of them is picked for each image.
        parts = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = variations.corners.unbind(1)
        images = parts[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(variations.is_flipped[:, None, None, None], images.flip(-1), images)
