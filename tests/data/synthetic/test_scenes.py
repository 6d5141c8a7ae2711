"""The embedded caption corpus: repeatable, honest splits, and captions that say what the pixels show.

Captions and pictures are judged by this file's own grammar and its own idea of where things are, not by the generator's
tables.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqdsd.data.synthetic import SyntheticScenes, scenes, synthetic_scenes

TINY = SyntheticScenes(train_images=6, dev_images=2, test_images=2)

# As people would name them, far enough apart to be told by the nearest one.
NAMED_COLOURS = {
    "red": (230, 30, 30),
    "green": (60, 190, 60),
    "blue": (30, 40, 200),
    "yellow": (250, 225, 10),
    "black": (15, 15, 15),
    "white": (248, 248, 248),
}
BACKGROUND_COLOURS = {"grey": [(180, 180, 180), (120, 120, 120)], "beige": [(228, 204, 168), (152, 136, 112)]}
NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4}
NAME = re.compile(
    r"\b(a|two|three|four) (?:(large|big|small|little) )?(red|green|blue|yellow|black|white) "
    r"(circle|star|heart|moon|diamond)(s?)\b"
)


@dataclass(frozen=True)
class Claim:
    """What one caption says; figures from top to bottom, side by side in order of name; None: not said."""

    arrangement: str | None
    figures: tuple[tuple[str, str], ...]
    sizes: tuple[str | None, ...]
    count: int
    background: str | None


def parse(caption: str) -> Claim:
    """Read a caption with a grammar of its own."""
    named = list(NAME.finditer(caption))
    count = NUMBERS[named[0][1]]
    assert all((name[5] == "s") == (NUMBERS[name[1]] > 1) for name in named), caption
    things = [((name[3], name[4]), _size(name[2])) for name in named]
    if re.search(r"\b(below|under)\b(?! it)", caption):
        things.reverse()
    arrangement = _arrangement(caption, count)
    if arrangement == "beside":
        things.sort()
    said = re.search(r"on a (grey|beige) background", caption)
    figures, sizes = zip(*things, strict=True)
    return Claim(arrangement, figures, sizes, count, said[1] if said else None)


def _size(word: str | None) -> str | None:
    return {None: None, "big": "large", "little": "small"}.get(word, word)


def _arrangement(caption: str, count: int) -> str | None:
    patterns = {
        "above": r"\b(above|over|below|under)\b",
        "beside": r"\b(next to|beside|side by side)\b",
        "top": r"\bat the top\b",
        "middle": r"\bin the (middle|centre)\b",
        "bottom": r"\bat the bottom\b",
    }
    found = [name for name, pattern in patterns.items() if re.search(pattern, caption)]
    assert len(found) + (count > 1) <= 1, caption
    return "many" if count > 1 else found[0] if found else None


@dataclass(frozen=True)
class Item:
    """An image of the corpus and what is said of it."""

    split: str
    path: Path
    captions: list[str]

    @property
    def claims(self) -> list[Claim]:
        return [parse(caption) for caption in self.captions]

    @property
    def combination(self) -> tuple[Any, ...]:
        """What the splits must not share, from the captions alone."""
        (arrangement,) = {claim.arrangement for claim in self.claims} - {None}
        return arrangement, self.claims[0].count, self.claims[0].figures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = SyntheticScenes(train_images=240, dev_images=60, test_images=60)
    return synthetic_scenes(spec, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def dataset(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset_scenes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def corpus(folder: Path, dataset: dict[str, Any]) -> list[Item]:
    return [
        Item(
            image["split"],
            folder / "images" / image["filename"],
            [sentence["raw"] for sentence in image["sentences"]],
        )
        for image in dataset["images"]
    ]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    one = synthetic_scenes(TINY, tmp_path / "one", workers=1)
    two = synthetic_scenes(TINY, tmp_path / "two", workers=3)
    assert bytes_of(one) == bytes_of(two)
    assert len(bytes_of(one)) == 10 + 1 + 1  # images, captions, marker


def test_another_seed_another_corpus(tmp_path: Path) -> None:
    one, two = (synthetic_scenes(replace(TINY, seed=seed), tmp_path) for seed in (0, 1))
    assert one != two
    for name, content in bytes_of(one).items():
        assert bytes_of(two)[name] != content


def test_a_larger_corpus_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = (synthetic_scenes(replace(TINY, train_images=size), tmp_path) for size in (6, 8))
    for name, content in bytes_of(small).items():
        if name.startswith("images"):
            assert bytes_of(large)[name] == content


def test_the_file_is_karpathys_split_format(dataset: dict[str, Any]) -> None:
    assert dataset["dataset"] == "scenes"
    images = dataset["images"]
    assert Counter(image["split"] for image in images) == {"train": 240, "val": 60, "test": 60}
    assert [image["imgid"] for image in images] == list(range(360))
    sentences = [sentence for image in images for sentence in image["sentences"]]
    assert [sentence["sentid"] for sentence in sentences] == list(range(5 * 360))
    for image in images:
        assert set(image) == {"filename", "imgid", "split", "sentids", "sentences"}
        assert image["sentids"] == [sentence["sentid"] for sentence in image["sentences"]]
        for sentence in image["sentences"]:
            assert set(sentence) == {"tokens", "raw", "imgid", "sentid"}
            assert sentence["imgid"] == image["imgid"]
            assert " ".join(sentence["tokens"]) == sentence["raw"]


def test_images_are_224_rgb_and_no_two_are_equal(corpus: list[Item]) -> None:
    seen = set()
    for item in corpus:
        with Image.open(item.path) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (224, 224), "RGB")
            seen.add(image.tobytes())
    assert len(seen) == len(corpus)


def test_five_different_captions_of_five_to_fourteen_lower_case_words(corpus: list[Item]) -> None:
    for item in corpus:
        assert len(set(item.captions)) == len(item.captions) == 5
        for caption in item.captions:
            assert re.fullmatch(r"[a-z]+( [a-z]+){4,13}", caption)


def test_captions_are_grammatical(corpus: list[Item]) -> None:
    for item in corpus:
        for caption in item.captions:
            assert not re.search(r"\ba [aeiou]|\b(\w+) \1\b", caption), caption
            assert ("there are" in caption) <= (parse(caption).count > 1)
            assert ("there is" in caption) <= (parse(caption).count == 1)


def test_an_images_captions_agree(corpus: list[Item]) -> None:
    for item in corpus:
        claims = item.claims
        assert len({(claim.figures, claim.count) for claim in claims}) == 1
        assert len({claim.arrangement for claim in claims} - {None}) == 1
        assert len({claim.background for claim in claims} - {None}) <= 1
        for figure in range(len(claims[0].figures)):
            assert len({claim.sizes[figure] for claim in claims} - {None}) == 1


def test_words_are_seen_often_enough_to_be_learnt(corpus: list[Item]) -> None:
    def words(split: str) -> Counter[str]:
        captions = (caption for item in corpus if item.split == split for caption in item.captions)
        return Counter(word for caption in captions for word in caption.split())

    assert min(words("train").values()) >= 5
    assert set(words("val")) | set(words("test")) <= set(words("train"))


def test_no_split_shows_what_another_shows(corpus: list[Item]) -> None:
    shown = {
        split: {item.combination for item in corpus if item.split == split}
        for split in ("train", "val", "test")
    }
    assert not shown["train"] & (shown["val"] | shown["test"])
    assert not shown["val"] & shown["test"]
    # Each figure and arrangement by itself is known from training.
    for part in (lambda what: what[:2], lambda what: what[2][0]):
        assert {part(what) for what in shown["test"] | shown["val"]} <= {
            part(what) for what in shown["train"]
        }


# Pixels against words.


@dataclass(frozen=True)
class Blob:
    """A connected area of one named colour; rows and columns in pixels."""

    colour: str
    points: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        return self.points.mean(axis=0)

    @property
    def sides(self) -> np.ndarray:
        """Height and width."""
        return self.points.max(axis=0) - self.points.min(axis=0) + STEP

    @property
    def filled(self) -> float:
        """Share of its bounding box."""
        return float(len(self.points) * STEP**2 / self.sides.prod())


STEP = 2  # only each second row and column is looked at


def blobs_in(path: Path) -> list[Blob]:
    """Where the nearest colour of all named and background ones is a named one, over more than 25 looked-at pixels."""
    palette = [
        *NAMED_COLOURS.values(),
        *(shade for shades in BACKGROUND_COLOURS.values() for shade in shades),
    ]
    pixels = np.asarray(Image.open(path), dtype=np.int16)[::STEP, ::STEP]
    nearest = np.stack(
        [np.abs(pixels - np.array(colour, np.int16)).sum(axis=-1) for colour in palette]
    ).argmin(0)
    return [
        Blob(colour, points * STEP)
        for index, colour in enumerate(NAMED_COLOURS)
        for points in connected(nearest == index)
        if len(points) > 25
    ]


def connected(mask: np.ndarray) -> list[np.ndarray]:
    """The connected areas of a mask, as arrays of (row, column)."""
    left = {(row, column) for row, column in np.argwhere(mask).tolist()}
    found = []
    while left:
        area = [left.pop()]
        for row, column in area:  # grows while it is walked
            for neighbour in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    area.append(neighbour)
        found.append(np.array(area))
    return found


@pytest.fixture(scope="module")
def seen(corpus: list[Item]) -> list[tuple[Item, list[Blob]]]:
    """Each item with its blobs, in the order of the figures that its captions name."""
    pairs = []
    for item in corpus:
        order = [colour for colour, _ in item.claims[0].figures]
        blobs = blobs_in(item.path)
        # The named colours are there, and no others.
        assert {blob.colour for blob in blobs} == set(order), item
        pairs.append((item, sorted(blobs, key=lambda blob: order.index(blob.colour))))
    return pairs


def test_as_many_figures_as_named_and_none_touches_the_edge(seen: list[tuple[Item, list[Blob]]]) -> None:
    for item, blobs in seen:
        claim = item.claims[0]
        assert len(blobs) == (claim.count if claim.count > 1 else len(claim.figures)), item
        for blob in blobs:
            assert blob.points.min() > 0 and blob.points.max() < 224 - STEP, item


def test_figures_are_where_the_captions_say(seen: list[tuple[Item, list[Blob]]]) -> None:
    for item, blobs in seen:
        (row, column), *others = [blob.centre for blob in blobs]
        arrangement = item.combination[0]
        if arrangement == "above":
            assert others[0][0] - row > 80 and abs(others[0][1] - column) < 30
        elif arrangement == "beside":
            assert abs(others[0][1] - column) > 80 and abs(others[0][0] - row) < 30
        elif arrangement != "many":
            low, high = {"top": (30, 80), "middle": (95, 130), "bottom": (145, 195)}[arrangement]
            assert low < row < high and 90 < column < 135


def test_side_by_side_either_may_be_left(seen: list[tuple[Item, list[Blob]]]) -> None:
    pairs = [blobs for item, blobs in seen if item.combination[0] == "beside"]
    first_is_left = [one.centre[1] < other.centre[1] for one, other in pairs]
    assert 0.3 < np.mean(first_is_left) < 0.7


def test_sizes_are_as_the_captions_say(seen: list[tuple[Item, list[Blob]]]) -> None:
    extents: dict[tuple[bool, str], list[int]] = {}
    for item, blobs in seen:
        claims = item.claims
        for index, (colour, _) in enumerate(claims[0].figures):
            (size,) = {claim.sizes[index] for claim in claims} - {None}
            sides = [max(blob.sides) for blob in blobs if blob.colour == colour]
            extents.setdefault((claims[0].count > 1, size), []).extend(sides)
    for many in (False, True):
        assert max(extents[many, "small"]) < 0.8 * min(extents[many, "large"])


def test_shapes_are_as_their_names(seen: list[tuple[Item, list[Blob]]]) -> None:
    """By how much of its bounding box each fills, which geometry knows."""
    filled = {"circle": np.pi / 4, "diamond": 0.5, "star": 0.34, "heart": 0.62, "moon": 0.55}
    measured: dict[str, list[float]] = {shape: [] for shape in filled}
    for item, blobs in seen:
        shapes = dict(item.claims[0].figures)
        for blob in blobs:
            measured[shapes[blob.colour]].append(blob.filled)
    for shape, shares in measured.items():
        assert abs(np.median(shares) - filled[shape]) < 0.05, (shape, np.median(shares))


def test_backgrounds_are_as_the_captions_say(corpus: list[Item]) -> None:
    named = [(item, claim.background) for item in corpus for claim in item.claims if claim.background]
    assert {background for _, background in named} == {"grey", "beige"}
    for item, background in named:
        corners = np.asarray(Image.open(item.path), dtype=int)[[2, 2, -3, -3], [2, -3, 2, -3]]
        assert (corners[:, 0] - corners[:, 2] > 20).all() == (background == "beige")


# Building.


def test_a_cached_corpus_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_scenes(TINY, tmp_path)
    monkeypatch.setattr(scenes, "draw", None)  # calling it would fail
    assert synthetic_scenes(TINY, tmp_path) == folder
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path))
    assert synthetic_scenes(TINY) == folder


@pytest.mark.parametrize(
    ("module", "name", "value"), [("PIL", "__version__", "0"), ("", "GENERATOR_VERSION", 0)]
)
def test_what_changes_the_bytes_changes_the_folder(
    module: str, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = synthetic_scenes(TINY, tmp_path)
    monkeypatch.setattr(getattr(scenes, module) if module else scenes, name, value)
    assert synthetic_scenes(TINY, tmp_path) != before


def test_an_interrupted_build_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = scenes.draw, []

    def interrupted(scene, rng):
        drawn.append(scene)
        if len(drawn) == 8:
            raise KeyboardInterrupt
        return draw(scene, rng)

    monkeypatch.setattr(scenes, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_scenes(TINY, tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (synthetic_scenes(TINY, tmp_path) / "dataset_scenes.json").is_file()


def test_an_unwritable_cache_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="SEQDSD_CACHE"):
        synthetic_scenes(TINY, tmp_path / "file" / "cache")


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**31}, {"train_images": 0}, {"test_images": -3}])
def test_bad_specs_are_refused(wrong: dict[str, int]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"SyntheticScenes\.{name}.*{value}"):
        SyntheticScenes(**wrong)
