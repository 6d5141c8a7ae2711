"""The embedded corpus for classification: repeatable, balanced, and its pictures show what their class says."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqdsd.data.labelled_images import ImageFormat, common_format, read_image_corpus
from seqdsd.data.synthetic import SyntheticShapes, shapes, synthetic_shapes

TINY = SyntheticShapes(train_images=30, dev_images=10, test_images=20)
CORNERS = {"triangle": 3, "square": 4, "diamond": 4, "pentagon": 5, "hexagon": 6, "star": 10, "cross": 12}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_equal_specifications_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (synthetic_shapes(TINY, tmp_path / name) for name in "ab")
    other = synthetic_shapes(replace(TINY, seed=1), tmp_path / "a")
    assert one != two and contents(one) == contents(two) and len(contents(one)) == 60
    assert not set(contents(one).values()) & set(contents(other).values())
    larger = contents(synthetic_shapes(replace(TINY, train_images=40), tmp_path / "a"))
    assert contents(one).items() <= larger.items()  # a picture does not depend on how many there are


def test_the_sets_are_balanced_and_no_picture_is_in_two(tmp_path: Path) -> None:
    corpus = read_image_corpus(synthetic_shapes(TINY, tmp_path))
    assert len(corpus.classes) == 10 and common_format(corpus.train) == ImageFormat(3, 32, 32)
    for split, number in (("train", 3), ("dev", 1), ("test", 2)):
        assert set(Counter(image.label for image in corpus.split(split).images).values()) == {number}
    assert len(set(contents(corpus.folder).values())) == 60


def test_outlines_have_the_corners_that_their_names_promise() -> None:
    for name, corners in CORNERS.items():
        outline = shapes.SHAPES[name]
        before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
        turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        assert len(outline) == corners and (np.abs(turns) > 1e-3).all(), name
        assert np.isclose(np.ptp(outline, axis=0).max(), 1, atol=0.3), name


def test_shapes_are_lighter_than_the_ground_and_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_SCRAPS", 0)
    monkeypatch.setattr(shapes, "_NOISE", 0.0)
    for number in range(20):
        for name in shapes.SHAPES:
            image = shapes.draw_shape(name, np.random.default_rng(number))
            light = np.asarray(image.convert("L")).astype(float)
            border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
            assert light.max() > np.median(border) + 20, (name, number)
            share = (light > (light.max() + np.median(border)) / 2).mean()
            assert 0.03 < share < 0.6, (name, number)
    assert isinstance(image, Image.Image)


@pytest.mark.parametrize(
    ("field", "value"), [("seed", -1), ("seed", 2**31), ("train_images", 9), ("test_images", 0)]
)
def test_specifications_that_cannot_be_made(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"SyntheticShapes.{field} must .* got {value}"):
        SyntheticShapes(**{field: value})
