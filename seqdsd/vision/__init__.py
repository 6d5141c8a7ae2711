"""Pictures in: frozen CNNs that turn each into a vector, and a cache of these vectors.

``ImageFeatures`` is what the rest of the package sees, whether they were computed here or come from a file.
"""

from seqdsd.images import IMAGE_SUFFIXES, ImageError, read_image, to_upright_rgb
from seqdsd.vision.encoders import ENCODERS, ImageEncoder, WeightsError, make_encoder, published_weights
from seqdsd.vision.feature_files import read_feature_file
from seqdsd.vision.features import FeatureError, ImageFeatures, encode_images

__all__ = [
    "ENCODERS",
    "IMAGE_SUFFIXES",
    "FeatureError",
    "ImageEncoder",
    "ImageError",
    "ImageFeatures",
    "WeightsError",
    "encode_images",
    "make_encoder",
    "published_weights",
    "read_feature_file",
    "read_image",
    "to_upright_rgb",
]
