"""What commands over images have in common: reading them, a batch after the other, and a line for each.

An image that cannot be read does not stop the others.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seqdsd.images import ImageError
from seqdsd.printable import printable, printable_json

FoundT = TypeVar("FoundT")
Pixels = UInt8[np.ndarray, "channels height width"]

_MOST_READERS = 4


def find_in_batches(
    images: Iterable[Path | Image.Image],
    *,
    prepare: Callable[[Path | Image.Image], Pixels],
    find: Callable[[UInt8[np.ndarray, "images channels height width"]], Iterable[FoundT]],
    batch_size: int,
    after_batch: Callable[[int], None],
) -> Iterator[tuple[Path, FoundT | ImageError]]:
    """What a network finds in images, in their order, a batch at a time; or why one cannot be read.

    Args:
        images: Files, or images that are open; these have no path.
        prepare: Reads one and brings it to what the network takes: small, whatever its size was.
        find: Of the images of a batch that could be read, something each.
        batch_size: Images at once; bounds memory.
        after_batch: Called with the number of images in it.
    """
    remaining = iter(images)
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as readers:
        while batch := list(islice(remaining, batch_size)):
            pixels = list(readers.map(partial(_or_error, prepare), batch))
            readable = [one for one in pixels if not isinstance(one, ImageError)]
            found = iter(find(np.stack(readable)) if readable else ())
            results = [one if isinstance(one, ImageError) else next(found) for one in pixels]
            after_batch(len(batch))
            for one, result in zip(batch, results, strict=True):
                yield one if isinstance(one, Path) else Path("image"), result


def result_line(columns: Sequence[str], value: Mapping[str, Any], *, as_json: bool) -> str:
    """What was found in an image: columns with tabs between them, or JSON; safe to print, whatever it holds."""
    if not as_json:
        return "\t".join(map(printable, columns))
    return printable_json(value)


def _or_error(
    prepare: Callable[[Path | Image.Image], Pixels], image: Path | Image.Image
) -> Pixels | ImageError:
    try:
        return prepare(image)
    except ImageError as error:
        return error
