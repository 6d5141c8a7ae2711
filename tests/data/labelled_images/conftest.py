import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_images(tmp_path):
    """Write ``SPLIT/CLASS/NUMBER.png`` of noise; returns the folder."""

    def make(splits, *, shape=(6, 6, 3), number=2, folder=tmp_path / "corpus"):
        generator = np.random.default_rng(0)
        for split, classes in splits.items():
            for name in classes:
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                for index in range(number):
                    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
        return folder

    return make


@pytest.fixture
def corpus_folder(make_images):
    """Three classes in each set."""
    classes = ["cat", "Dog", "10"]
    return make_images({"train": classes, "dev": classes, "test": classes})
