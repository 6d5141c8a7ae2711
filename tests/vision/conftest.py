from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seqdsd.vision import ImageEncoder


@pytest.fixture
def tiny_encoder() -> Callable[..., ImageEncoder]:
    """Makes encoders of 8 x 8 images to 5 features; the seed decides the weights."""

    def make(seed: int = 0) -> ImageEncoder:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return ImageEncoder(network, name="tiny", feature_size=5, image_size=8)

    return make


@pytest.fixture
def make_images(tmp_path) -> Callable[..., dict[str, Path]]:
    """Writes PNG files of noise, by their id; other seeds give other images."""

    def make(count: int, *, seed: int = 0, folder: str = "images") -> dict[str, Path]:
        (tmp_path / folder).mkdir(exist_ok=True)
        generator = np.random.default_rng(seed)
        images = {}
        for number in range(count):
            path = tmp_path / folder / f"{seed}-{number}.png"
            Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
            images[path.name] = path
        return images

    return make
