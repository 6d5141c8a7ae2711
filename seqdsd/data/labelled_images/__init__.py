"""Images with labels: which there are, their pixels, and batches of them, varied for training."""

from seqdsd.data.labelled_images.batches import ImageBatch, ImageBatchSampler
from seqdsd.data.labelled_images.corpus import (
    ImageCorpus,
    ImageSet,
    LabelledImage,
    read_image_corpus,
    read_image_set,
)
from seqdsd.data.labelled_images.sources import (
    HeldImages,
    ImageFiles,
    ImageFormat,
    ImageSource,
    channel_statistics,
    common_format,
    fitted_pixels,
    open_images,
    read_pixels,
)
from seqdsd.data.labelled_images.variation import Variations, draw_variations, vary

__all__ = [
    "HeldImages",
    "ImageBatch",
    "ImageBatchSampler",
    "ImageCorpus",
    "ImageFiles",
    "ImageFormat",
    "ImageSet",
    "ImageSource",
    "LabelledImage",
    "Variations",
    "channel_statistics",
    "common_format",
    "draw_variations",
    "fitted_pixels",
    "open_images",
    "read_image_corpus",
    "read_image_set",
    "read_pixels",
    "vary",
]
