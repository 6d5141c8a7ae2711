"""Where the pixels of labelled images come from: memory, for whole sets of small images, or files when needed.

torchvision is imported where it is used: that takes a second, which recognisers need not wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seqdsd.data.batch import BadExample
from seqdsd.data.labelled_images.batches import ImageBatch
from seqdsd.data.labelled_images.corpus import ImageSet, LabelledImage
from seqdsd.data.labelled_images.variation import Variations
from seqdsd.data.speech import BadDataError, OnBadData, leave_stopping_to_the_trainer
from seqdsd.data.synthetic.cache import cached_corpus
from seqdsd.data.synthetic.progress import progress_bar
from seqdsd.images import ImageError, read_image

MAX_SIDE = 4096
"""Pixels: an image of such a side takes 50 MB, and a batch has many."""
HELD_BYTES = 2 * 2**30
"""Sets of no more bytes are held in memory, unless parts of random size are to be cut out of their images."""

_STRIP = 16
"""An image that is so many times as long as wide is a strip."""
_MEASURED = 100
_COUNTED = 10_000
_HELD_FILE = "images.safetensors"
_HELD_VERSION = 2  # raise it with any change that changes pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFormat:
    """What all images of a batch are brought to.

    Attributes:
        channels: 1 (grey) or 3 (red, green, blue).
        height: In pixels.
        width: In pixels.
        resize: Images of another size are scaled until their shorter side has so many pixels, and their centre is cut
            out (torchvision's ``Resize`` and ``CenterCrop``: 256 for ImageNet's 224); None: until they just cover.
    """

    channels: int
    height: int
    width: int
    resize: int | None = None

    def __post_init__(self) -> None:
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        sides = (self.height, self.width)
        if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides):
            raise ValueError(f"height and width must be whole numbers in [1, {MAX_SIDE}], got {sides}")
        if self.resize is not None and not (
            isinstance(self.resize, int) and max(sides) <= self.resize <= MAX_SIDE
        ):
            raise ValueError(
                f"resize must be at least {max(sides)}, the larger of height and width, and at most {MAX_SIDE}, "
                f"got {self.resize}"
            )

    @property
    def num_bytes(self) -> int:
        """Of one image."""
        return self.channels * self.height * self.width


@runtime_checkable
class ImageSource(Protocol):
    """Where the pixels of a set of images come from."""

    @property
    def format(self) -> ImageFormat:
        """Of all images that it gives."""

    @property
    def images(self) -> Sequence[LabelledImage]:
        """Those that can be used, in the order of the indices."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Id to the reason of those that could not be read so far."""

    def batches(
        self, plan: Iterable[Sequence[int]], *, variations: Variations | None = None
    ) -> Iterator[ImageBatch]:
        """The images with these indices, batch by batch; ``variations`` are of the whole set."""


def common_format(images: ImageSet) -> ImageFormat | None:
    """The format of a set whose images all have the same; None where they differ in size.

    Looks at 100 images at most, spread over the classes: the others will be scaled, or turned grey, if need be. Grey
    are images whose three colours are the same.

    Raises:
        BadDataError: If none of them can be read.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, _MEASURED).round().astype(int))
    found: set[tuple[int, int]] = set()
    is_grey = True
    problem = ""
    for index in chosen:
        try:
            pixels = np.asarray(read_image(images.images[index].path))
        except ImageError as error:
            problem = str(error)
            continue
        found.add(pixels.shape[:2])
        is_grey &= bool((pixels == pixels[..., :1]).all())
    if not found:
        raise BadDataError(f"none of {len(chosen)} images can be read; the last: {problem}")
    if len(found) > 1:
        return None
    height, width = found.pop()
    return ImageFormat(1 if is_grey else 3, height, width)


def channel_statistics(source: ImageSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, where 1 is full brightness.

    Of 10,000 images at most, spread over the classes. A channel of one value has the deviation of one 8-bit step.
    """
    count = len(source.images)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _COUNTED)).round().astype(int))
    total = squares = torch.zeros(source.format.channels, dtype=torch.float64)
    num_pixels = 0
    for batch in source.batches(part.tolist() for part in np.array_split(chosen, -(-len(chosen) // 250))):
        values = batch.images.double() / 255
        total = total + values.sum((0, 2, 3))
        squares = squares + values.square().sum((0, 2, 3))
        num_pixels += values[:, 0].numel()
    mean = total / num_pixels
    deviation = (squares / num_pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(deviation.tolist())


def open_images(
    images: ImageSet,
    image_format: ImageFormat,
    *,
    resized_crop: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    on_bad_data: OnBadData = "error",
    cache_dir: Path | None = None,
) -> ImageSource:
    """Hold a set of images in memory if it is small, or read them as they are needed.

    Args:
        images: Of one split.
        image_format: What they are brought to.
        resized_crop: Whether parts of random size will be cut out of them: then files are needed each time.
        num_workers: Processes that read files ahead.
        pin_memory: Whether batches go to a GPU.
        on_bad_data: "error" raises for images that cannot be read (when a batch needs them, or here where they are
            held), "skip" leaves them out.
        cache_dir: Where sets to be held are kept ready; by default `default_cache_dir`.

    Raises:
        BadDataError: If an image cannot be read and the set is held, or none can.
        OSError: If the cache cannot be written; the message says what to do.
    """
    if not resized_crop and len(images) * image_format.num_bytes <= HELD_BYTES:
        return HeldImages.read(
            images, image_format, on_bad_data=on_bad_data, pin_memory=pin_memory, cache_dir=cache_dir
        )
    return ImageFiles(
        images, image_format, num_workers=num_workers, pin_memory=pin_memory, on_bad_data=on_bad_data
    )


@dataclass(frozen=True)
class HeldImages:
    """A whole set in memory; batches need no worker.

    Attributes:
        format: See ``ImageSource``.
        images: See there; also ``skipped``.
        pixels: Of all images, mapped from a file where they lie ready, which processes of one machine share.
        labels: Of all images.
        pin_memory: Whether batches go to a GPU.
    """

    format: ImageFormat
    images: Sequence[LabelledImage]
    pixels: UInt8[Tensor, "images channels height width"]
    labels: Int[Tensor, "images"]
    skipped: Mapping[str, str] = field(default_factory=dict)
    pin_memory: bool = False

    @classmethod
    def read(
        cls,
        images: ImageSet,
        image_format: ImageFormat,
        *,
        on_bad_data: OnBadData = "error",
        pin_memory: bool = False,
        cache_dir: Path | None = None,
    ) -> HeldImages:
        """Read all files of a set, or what was made of them before, unless one has changed since.

        Raises:
            BadDataError: If one cannot be read, unless it is to be skipped, or none can.
            OSError: If the cache cannot be written; the message says what to do.
        """
        key = {
            "images": _state_of_files(images),
            "format": asdict(image_format),
            "on_bad_data": on_bad_data,
            "pillow": PIL.__version__,  # which decodes and scales
            "version": _HELD_VERSION,
        }

        def build(folder: Path) -> None:
            tensors, metadata = _read_all(images, image_format, on_bad_data)
            save_file(tensors, folder / _HELD_FILE, metadata)

        pixels, kept, skipped = _load_held(lambda: cached_corpus("images", key, build, cache_dir=cache_dir))
        good = [images.images[index] for index in kept]
        labels = torch.tensor([image.label for image in good])
        return cls(image_format, good, pixels, labels, skipped, pin_memory)

    def batches(
        self, plan: Iterable[Sequence[int]], *, variations: Variations | None = None
    ) -> Iterator[ImageBatch]:
        """See ``ImageSource``."""
        for indices in plan:
            chosen = torch.as_tensor(indices, dtype=torch.long)
            batch = ImageBatch(
                ids=tuple(self.images[index].id for index in indices),
                images=self.pixels[chosen],
                labels=self.labels[chosen],
                variations=variations and variations.of(indices),
            )
            yield batch.pin_memory() if self.pin_memory else batch


def _state_of_files(images: ImageSet) -> str:
    """Changes when a file does: the time of a change, unlike that of a modification, cannot be set."""
    digest = hashlib.blake2b(images.fingerprint.encode(), digest_size=16)
    for image in images.images:
        try:
            state = os.stat(image.path)
        except OSError:  # reading it will say what is the matter
            continue
        digest.update(f"{image.id}\n{state.st_size} {state.st_ctime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_all(
    images: ImageSet, image_format: ImageFormat, on_bad_data: OnBadData
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Pixels and indices of those that can be read, and the reasons of the others, as safetensors takes them."""
    shape = (len(images), image_format.channels, image_format.height, image_format.width)
    pixels = torch.empty(shape, dtype=torch.uint8)
    kept: list[int] = []
    skipped: dict[str, str] = {}
    with progress_bar("reading images", len(images)) as advance:
        for index, image in enumerate(images.images):
            try:
                pixels[len(kept)] = torch.from_numpy(read_pixels(image.path, image_format))
                kept.append(index)
            except ImageError as error:
                _skip_or_raise(error, on_bad_data)
                skipped[image.id] = str(error)
            advance()
    if not kept:
        raise BadDataError(
            f"no image is left of {len(images)}. The first was skipped because {next(iter(skipped.values()))}"
        )
    return {"pixels": pixels[: len(kept)], "kept": torch.tensor(kept)}, {"skipped": json.dumps(skipped)}


def _load_held(find: Callable[[], Path]) -> tuple[Tensor, list[int], dict[str, str]]:
    """What ``_read_all`` gave; a damaged file is made again."""
    folder = find()
    try:
        return _load(folder / _HELD_FILE)
    except (SafetensorError, OSError) as error:
        log.warning("%s: damaged (%s), made again", folder, error)
        shutil.rmtree(folder)
        return _load(find() / _HELD_FILE)


def _load(path: Path) -> tuple[Tensor, list[int], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        skipped = json.loads(file.metadata()["skipped"])
        return file.get_tensor("pixels"), file.get_tensor("kept").tolist(), skipped


class ImageFiles:
    """A set whose images are read when a batch needs them, by worker processes."""

    def __init__(
        self,
        images: ImageSet,
        image_format: ImageFormat,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        on_bad_data: OnBadData = "error",
    ) -> None:
        """Hold the list; nothing is read yet."""
        from torchvision.transforms import v2  # noqa: F401  # here once, not in each worker of every epoch

        self.format = image_format
        self.images: Sequence[LabelledImage] = images.images
        self.skipped: dict[str, str] = {}
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._on_bad_data = on_bad_data

    def batches(
        self, plan: Iterable[Sequence[int]], *, variations: Variations | None = None
    ) -> Iterator[ImageBatch]:
        """See ``ImageSource``.

        Raises:
            BadDataError: If an image cannot be read and is not to be skipped.
        """
        indices = [list(batch) for batch in plan]
        loader = DataLoader(
            _Files(self.images, self.format, variations),
            batch_sampler=indices,
            collate_fn=_collate,
            num_workers=min(self._num_workers, len(indices)),
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # of its own: drawing from the global one would change dropout on resume
            worker_init_fn=leave_stopping_to_the_trainer,
        )
        for batch in loader:
            for bad in batch.bad:
                if bad.id not in self.skipped:  # of an epoch before
                    _skip_or_raise(bad.message, self._on_bad_data)
                    self.skipped[bad.id] = bad.message
            yield batch


class _Files(Dataset[ImageBatch]):
    """Batches by their indices, for the data loader.

    Names are kept in arrays: a worker that touches millions of Python objects would copy their memory.
    """

    def __init__(
        self, images: Sequence[LabelledImage], image_format: ImageFormat, variations: Variations | None
    ) -> None:
        self._ids = np.array([os.fsencode(image.id) for image in images])
        self._paths = np.array([os.fsencode(image.path) for image in images])
        self._labels = torch.tensor([image.label for image in images])
        self._format = image_format
        self._variations = variations

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        """Read a batch, whatever of it can be read."""
        crop = self._variations.resized_crop if self._variations else None
        good: list[int] = []
        pixels: list[Tensor] = []
        bad: list[BadExample] = []
        for index in indices:
            path = Path(os.fsdecode(self._paths[index]))
            try:
                one = read_pixels(path, self._format, crop_seed=crop and (*crop, index))
            except ImageError as error:
                bad.append(BadExample(self._id(index), str(error)))
                continue
            good.append(index)
            pixels.append(torch.from_numpy(one))
        shape = (0, self._format.channels, self._format.height, self._format.width)
        return ImageBatch(
            ids=tuple(map(self._id, good)),
            images=torch.stack(pixels) if good else torch.zeros(shape, dtype=torch.uint8),
            labels=self._labels[good],
            variations=self._variations and self._variations.of(good),
            bad=tuple(bad),
        )

    def _id(self, index: int) -> str:
        return os.fsdecode(self._ids[index])


def _collate(batch: Any) -> Any:
    """What the data loader gets from ``__getitems__`` is a batch already."""
    return batch


def read_pixels(
    path: Path, image_format: ImageFormat, *, crop_seed: tuple[int, int, int] | None = None
) -> UInt8[np.ndarray, "channels height width"]:
    """Read an image file and bring it to a format.

    Args:
        path: The file.
        image_format: Its channels and size.
        crop_seed: Cut out a part of random size and proportions, decided by these numbers.

    Raises:
        ImageError: Naming the file, if it cannot be read.
    """
    image = read_image(path)
    if crop_seed is None:
        return fitted_pixels(image, image_format)
    return _pixels(_random_part(image, image_format, crop_seed), image_format)


def fitted_pixels(
    image: Image.Image, image_format: ImageFormat
) -> UInt8[np.ndarray, "channels height width"]:
    """Bring an RGB image to a format, as for evaluation: scaled if need be, and the centre of it."""
    return _pixels(_fitted(image, image_format), image_format)


def _pixels(fitted: Image.Image, image_format: ImageFormat) -> UInt8[np.ndarray, "channels height width"]:
    if image_format.channels == 1:
        return np.array(fitted.convert("L"))[None]
    return np.array(fitted).transpose(2, 0, 1)


def _random_part(
    image: Image.Image, image_format: ImageFormat, crop_seed: tuple[int, int, int]
) -> Image.Image:
    from torchvision.transforms import v2

    size = [image_format.height, image_format.width]
    # torchvision draws from torch's generator of the CPU, on which other things depend: it is put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence(crop_seed).generate_state(1)[0]))
        return v2.RandomResizedCrop(size)(image)


def _fitted(image: Image.Image, image_format: ImageFormat) -> Image.Image:
    size = (image_format.height, image_format.width)
    if image.size == size[::-1]:
        return image
    from torchvision.transforms.v2 import functional

    image = _not_too_long(image, size)
    if image_format.resize is not None:
        scaled = functional.resize(image, image_format.resize)
    else:
        scale = max(size[0] / image.height, size[1] / image.width)
        scaled = functional.resize(
            image, [max(1, round(side * scale)) for side in (image.height, image.width)]
        )
    return functional.center_crop(scaled, list(size))


def _not_too_long(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a strip, with all that is cut out of it in the end: scaled as a whole it could need any memory."""
    from torchvision.transforms.v2 import functional

    longest = math.ceil(_STRIP * min(image.size) * max(size) / min(size))
    if max(image.size) <= longest:
        return image
    return functional.center_crop(image, [min(side, longest) for side in (image.height, image.width)])


def _skip_or_raise(problem: ImageError | str, on_bad_data: OnBadData) -> None:
    """Note that an image is left out, or refuse it."""
    if on_bad_data == "error":
        raise BadDataError(f"{problem} (or --on-bad-data skip)")
    log.warning("skipped: %s", problem)
