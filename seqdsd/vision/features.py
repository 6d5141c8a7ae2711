"""Images to feature vectors, computed once and kept; what training and captioning read features from.

An image is known by its content: a changed file is computed again, a renamed or copied one is not. Leaves out
features that somebody else computed, see ``feature_files``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from seqdsd.images import ImageError, decoded_image, read_image_bytes
from seqdsd.vision.cache import KEY_BYTES, FeatureCache
from seqdsd.vision.encoders import ImageEncoder

OnBadData = Literal["error", "skip"]

QUIET_UNTIL_SECONDS = 2.0
"""The progress bar appears only after this time."""

_MOST_DECODERS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class FeatureError(ValueError):
    """Features that cannot be had or used; the message names the file or image, what is wrong and the remedy."""


@dataclass(frozen=True)
class ImageFeatures:
    """One vector for each of a number of images, wherever they come from."""

    array: Shaped[np.ndarray, "rows feature_size"]
    """Memory-mapped where possible; any real number type. Rows that no image has may hold anything."""
    rows: Mapping[str, int]
    """Image id to row."""
    skipped: Mapping[str, str]
    """Image id to the reason why it has none; always empty unless asked for ``on_bad_data="skip"``."""
    source: str
    """The encoder's name, or the feature file."""
    fingerprint: str
    """Whether two runs saw the same: digest of ids and the file's numbers; where features are computed, of ids, the
    images' content and the encoder. The last bits of computed features are not covered: they vary with the device and
    with the batch that an image was computed in, which holds what the cache lacked at the time."""

    @property
    def feature_size(self) -> int:
        """Length of a vector."""
        return self.array.shape[1]

    def take(self, ids: Sequence[str]) -> Float[Tensor, "images feature_size"]:
        """Copy the vectors of images into memory, as float32, in the order asked for.

        Raises:
            KeyError: If an image has none.
        """
        rows = [self.rows[id_] for id_ in ids]
        return torch.from_numpy(self.array[rows].astype(np.float32))


def encode_images(
    encoder: ImageEncoder,
    images: Mapping[str, Path],
    *,
    device: torch.device | str,
    cache_dir: Path,
    batch_size: int = 16,
    on_bad_data: OnBadData = "error",
    console: Console | None = None,
) -> ImageFeatures:
    """Compute the features of images, or find them in the cache; a bar with the time left if it takes a while.

    What is computed is kept at once: after an error or a kill, the next call goes on from there.

    Args:
        encoder: It is moved to ``device``.
        images: Id to file. Ids are the caller's names for the images.
        device: Where to compute.
        cache_dir: Features are kept below it, in ``features/FINGERPRINT/``; several processes may share it.
        batch_size: Images computed at once. On a CPU, more than 16 were slower (the layers' outputs outgrow its cache).
        on_bad_data: "error" raises for the first image that cannot be read, "skip" leaves such images out.
        console: Where the bar appears if that is a terminal; by default on stderr.

    Raises:
        ImageError: Naming the file that cannot be read.
        FeatureError: If no image is left, or the encoder gives NaN or infinity.
        OSError: If the cache cannot be written; the message says what to do.
    """
    cache = FeatureCache(cache_dir / "features" / encoder.fingerprint, encoder.feature_size)
    compute = _Computation(encoder.to(device), torch.device(device), cache, batch_size)
    keys: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    found_images = _read_ahead(lambda one: _find(*one, encoder, cache), images.items(), ahead=4 * batch_size)
    with _progress(len(images), console or Console(stderr=True)) as advance, closing(found_images):
        for found in found_images:
            if isinstance(found, _Unreadable):
                if on_bad_data == "error":
                    raise found.error
                skipped[found.id] = str(found.error)
                log.warning("skipped: %s", found.error)
            else:
                keys[found.id] = found.key
                compute.add(found)
            advance()
        compute.finish()
    if not keys:
        raise FeatureError(f"no image is left of {len(images)}{_first_reason(skipped)}")
    log.info(
        "%s: %d images encoded, %d found in the cache", encoder.name, compute.done, len(keys) - compute.done
    )
    return _result(encoder, cache, keys, skipped)


@dataclass(frozen=True)
class _Found:
    """An image file's content as a key, and its pixels unless the cache has its features."""

    id: str
    path: Path
    key: bytes
    pixels: UInt8[np.ndarray, "3 side side"] | None


@dataclass(frozen=True)
class _Unreadable:
    id: str
    error: ImageError


def _find(id_: str, path: Path, encoder: ImageEncoder, cache: FeatureCache) -> _Found | _Unreadable:
    try:
        data = read_image_bytes(path)
        key = hashlib.blake2b(data, digest_size=KEY_BYTES).digest()
        if cache.row(key) is not None:
            return _Found(id_, path, key, None)
        with decoded_image(data, path) as image:
            return _Found(id_, path, key, encoder.prepare(image))
    except ImageError as error:
        return _Unreadable(id_, error)


class _Computation:
    """Gathers images that the cache lacks into batches, and sends what the encoder makes of them to the cache."""

    def __init__(
        self, encoder: ImageEncoder, device: torch.device, cache: FeatureCache, batch_size: int
    ) -> None:
        self.done = 0
        self._encoder = encoder
        self._device = device
        self._cache = cache
        self._batch_size = batch_size
        self._waiting: dict[bytes, _Found] = {}

    def add(self, found: _Found) -> None:
        """Take an image; of several with the same content, read before the first was computed, one is enough."""
        if found.pixels is None or self._cache.row(found.key) is not None:
            return
        self._waiting[found.key] = found
        if len(self._waiting) == self._batch_size:
            self.finish()

    def finish(self) -> None:
        """Compute what is waiting."""
        if not self._waiting:
            return
        pixels = np.stack([found.pixels for found in self._waiting.values() if found.pixels is not None])
        features = self._encoder(torch.from_numpy(pixels).to(self._device, non_blocking=True)).cpu().numpy()
        for found, row in zip(self._waiting.values(), features, strict=True):
            if not np.isfinite(row).all():
                raise FeatureError(
                    f"{found.path}: the encoder {self._encoder.name} gives NaN or infinite features. Check its weights"
                )
        self._cache.append(list(self._waiting), features)
        self.done += len(self._waiting)
        self._waiting.clear()


def _result(
    encoder: ImageEncoder, cache: FeatureCache, keys: Mapping[str, bytes], skipped: Mapping[str, str]
) -> ImageFeatures:
    digest = hashlib.blake2b(encoder.fingerprint.encode(), digest_size=16)
    rows: dict[str, int] = {}
    for id_, key in sorted(keys.items()):
        row = cache.row(key)
        assert row is not None, id_
        rows[id_] = row
        digest.update(id_.encode() + b"\n" + key)
    return ImageFeatures(
        array=cache.array, rows=rows, skipped=skipped, source=encoder.name, fingerprint=digest.hexdigest()
    )


def _first_reason(skipped: Mapping[str, str]) -> str:
    return f"; the first was skipped because {next(iter(skipped.values()))}" if skipped else ""


def _read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Generator[Result, None, None]:
    """Map in order, on a few threads (decoding images lets others run) that stay at most ``ahead`` items ahead."""
    pool = ThreadPoolExecutor(min(_MOST_DECODERS, os.cpu_count() or 1), thread_name_prefix="read-images")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[], None]]:
    """A bar of the images done: where the console is a terminal, and if it takes a while."""
    if not console.is_terminal:
        yield lambda: None
        return
    progress = Progress(
        TextColumn("image features"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    bar = progress.add_task("", total=total)
    started = time.monotonic()
    with ExitStack() as shown:

        def advance() -> None:
            progress.advance(bar)
            if not progress.live.is_started and time.monotonic() - started > QUIET_UNTIL_SECONDS:
                shown.enter_context(progress)

        yield advance
