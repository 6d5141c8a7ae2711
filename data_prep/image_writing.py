"""What the scripts for image classification share: from labelled pictures to a folder a class, and a table of them.

The three sets appear in OUT together when all is written, or not at all. Reading a corpus' own layout is each script's
business; a picture's content is written as it comes.
"""

import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from writing import warn

from seqdsd.data.synthetic.progress import progress_bar

SPLITS = ("train", "dev", "test")
_UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image file to be written."""

    class_name: str
    name: str
    """Of the file, with its suffix."""
    content: bytes
    source: str
    """Where it comes from, the start of error messages."""


@dataclass(frozen=True)
class OfficialSet:
    """The training or the test set of a release."""

    classes: Sequence[str]
    """Of each picture."""
    pictures: Iterable[Picture]
    """In the same order; taken once, one at a time."""


def write_image_folders(
    train: OfficialSet,
    test: OfficialSet,
    out: Path,
    *,
    dev_per_class: int,
    seed: int,
    official: Mapping[str, int],
    train_per_class: int | None = None,
) -> None:
    """Hold out a dev set of the training set, write ``OUT/SPLIT/CLASS/NAME`` and print a table.

    Args:
        train: What training and dev pictures are taken from.
        test: Stays whole.
        out: Made where it is missing.
        dev_per_class: Pictures of each class that become the dev set.
        seed: Which these are.
        official: Pictures of "train" and "test" in the official release.
        train_per_class: Pictures of each class that remain to train on; None for all. Dev is the same with any number.

    Raises:
        ValueError: If ``out`` has a train, dev or test already, a name is not a file's or occurs twice, a set is empty
            or too small.
    """
    for split, found in (("train", train), ("test", test)):
        if not found.classes:
            raise ValueError(f"no image for the split '{split}'. Check the corpus folder.")
        if len(found.classes) != official[split]:
            warn(
                f"{split} has {len(found.classes):,} images, the official release {official[split]:,}: scores will not "
                "compare with published ones."
            )
    dev = held_out(train.classes, dev_per_class, seed=seed)
    rest = [index for index in range(len(train.classes)) if index not in dev]
    if train_per_class is not None:
        chosen = _drawn(
            [train.classes[index] for index in rest], train_per_class, seed=seed, flag="--train-per-class"
        )
        rest = [rest[position] for position in chosen]
    split_of = dict.fromkeys(dev, "dev") | dict.fromkeys(rest, "train")
    placed = chain(
        ((split_of[index], picture) for index, picture in enumerate(train.pictures) if index in split_of),
        (("test", picture) for picture in test.pictures),
    )
    _write(placed, out, total=len(split_of) + len(test.classes))
    print(
        f"dev: {dev_per_class} of each class, held out of the training set by seed {seed}; test is the official one"
    )


def held_out(classes: Sequence[object], per_class: int, *, seed: int) -> set[int]:
    """Choose the training pictures that become the dev set, as many of each class.

    Args:
        classes: Of each training picture.
        per_class: How many of each.
        seed: The same seed chooses the same ones.

    Raises:
        ValueError: If that would leave a class without training pictures, or dev without any.
    """
    smallest = min(Counter(classes).values(), default=0)
    if per_class >= smallest:
        raise ValueError(
            f"--dev-per-class is {per_class}, but the smallest class has {smallest} training pictures. Leave some."
        )
    return _drawn(classes, per_class, seed=seed, flag="--dev-per-class")


def _drawn(classes: Sequence[object], per_class: int, *, seed: int, flag: str) -> set[int]:
    """Positions of as many of each class.

    Raises:
        ValueError: Where a class has fewer, or for a number below 1; it names ``flag``.
    """
    positions: dict[object, list[int]] = {}
    for position, class_ in enumerate(classes):
        positions.setdefault(class_, []).append(position)
    smallest = min(map(len, positions.values()), default=0)
    if not 0 < per_class <= smallest:
        raise ValueError(f"{flag} is {per_class}, but the smallest class has {smallest} pictures to take.")
    drawn: set[int] = set()
    for number, class_ in enumerate(sorted(positions, key=str)):
        generator = np.random.default_rng((seed, number))
        drawn.update(generator.choice(positions[class_], per_class, replace=False).tolist())
    return drawn


def png(pixels: np.ndarray) -> bytes:
    """Encode 8-bit pixels, [height, width] or [height, width, 3], without loss and without wasting time."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write(placed: Iterable[tuple[str, Picture]], out: Path, *, total: int) -> None:
    """Write each picture of a split, under a progress bar."""
    for split in SPLITS:
        if (out / split).exists():
            raise ValueError(f"{out / split} is there already. Remove it, or name another folder.")
    counts: Counter[tuple[str, str]] = Counter()
    with _written_aside(out) as unfinished, progress_bar("writing images", total) as advance:
        for split, picture in placed:
            folder = unfinished / split / _plain(picture.class_name, picture)
            if not counts[split, picture.class_name]:
                folder.mkdir(parents=True)
            try:
                with open(folder / _plain(picture.name, picture), "xb") as file:
                    file.write(picture.content)
            except FileExistsError as error:
                name = f"{picture.class_name}/{picture.name}"
                raise ValueError(f"{picture.source}: a second {name}. Fetch it again.") from error
            counts[split, picture.class_name] += 1
            advance()
    _print_summary(counts, out)


@contextmanager
def _written_aside(out: Path) -> Iterator[Path]:
    unfinished = out / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for split in SPLITS:
            (unfinished / split).rename(out / split)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _plain(name: str, picture: Picture) -> str:
    """A name that cannot lead out of its folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(
            f"{picture.source}: {name!r} is not the name of a class or of a file. Fetch it again."
        )
    return name


def _print_summary(counts: Mapping[tuple[str, str], int], out: Path) -> None:
    table = Table("split", title=f"images in {out}")
    for column in ("images", "classes", "smallest class", "largest class"):
        table.add_column(column, justify="right")
    for split in SPLITS:
        sizes = [count for (name, _), count in counts.items() if name == split]
        table.add_row(split, *(f"{number:,}" for number in (sum(sizes), len(sizes), min(sizes), max(sizes))))
    Console().print(table, markup=False)
